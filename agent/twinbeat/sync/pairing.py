# SPDX-License-Identifier: Apache-2.0
"""`twinbeat pair`: two nodes that know nothing of each other come to believe each other for good.

Theory of operation
-------------------
One node listens, the other dials. The channel is TLS 1.3 with the listener's certificate, which
the dialer can't judge yet; what makes it trustworthy is a code of eight digits that both operators
see and compare:

1. Each side sends its claim: who it is, its certificate, and a commitment (a hash) to a nonce.
2. Once it has the other's claim, each reveals its nonce, which must fit the commitment.
3. The code is drawn from a hash over both claims and both nonces, and the dialer makes sure that
   the claimed certificate is that of the channel's other end.
4. Both operators say whether the codes are alike. Only then each proves by a signature that it
   holds the key of its certificate, one hands the heartbeats' key over, and both write it down.

Somebody in the middle has a channel, and so a certificate or claim of his own, with each side, and
the two codes are independent: he had to commit himself on both sides before he knew either honest
nonce, so there is nothing to try out. His chance is one in a hundred million, once, since a side
that has revealed its nonce never does so again: whatever goes wrong then, the operator has to start
anew. Somebody who connects first, to be taken for the peer, shows a code that nobody else has.

Nothing is written before the end. The listener writes first and takes it back unless it hears that
the dialer has written, too. Every wait has an end, and whoever gives up says so to the other.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from twinbeat.sync.ceremony import Ceremony
from twinbeat.sync.identity import Folder
from twinbeat.sync.parties import Ask, Keyring, Paired, PairingError, Party, Patience, Writing
from twinbeat.sync.sockets import anywhere, bound, hang_up, reached
from twinbeat.sync.wire import PORT

PENDING_MAX: Final = 8
"""Who has connected to a listener and not made a claim yet."""
AGAIN_S: Final = 0.3
"""Between two attempts to reach a listener that isn't there yet."""
NEVER: Final = frozenset({errno.ENODEV, errno.EADDRNOTAVAIL, errno.EPERM, errno.EAFNOSUPPORT})
"""Own addresses and interfaces that aren't there won't be while somebody waits."""


async def pair_listening(
    folder: Folder,
    party: Party,
    ask: Ask,
    keyring: Keyring,
    *,
    address: str = "",
    port: int = PORT,
    interface: str = "",
    only_from: str = "",
    patience: Patience | None = None,
    listening: Callable[[int], None] = lambda _: None,
    turned_away: Callable[[str], None] = lambda _: None,
) -> Paired:
    """Wait for the other node and pair with it. Raises PairingError; then all is as before.

    `only_from` is the peer's address if it is known; nobody else is listened to. `listening` is
    told the port, `turned_away` a sentence about each who came and was not taken.
    """
    patience = patience or Patience()
    with Writing(folder, party, keyring) as writing:
        try:
            with bound(address or anywhere(), port, interface) as listener:
                listener.listen(PENDING_MAX * 2)
                listening(listener.getsockname()[1])
                door = _Door(listener, only_from, writing, patience, turned_away)
                async with asyncio.timeout(patience.meet_s):
                    ceremony = await door.first()
        except TimeoutError:
            raise PairingError("alone", "The other node did not come.") from None
        except OSError as error:
            if error.errno in NEVER:
                raise _nowhere(error, address, interface) from None
            where = f"Port {port} can't be listened at: {error.strerror}."
            raise PairingError("listen", where) from None
        return await ceremony.hold(ask)


async def pair_dialing(
    folder: Folder,
    party: Party,
    ask: Ask,
    keyring: Keyring,
    *,
    peer: str,
    port: int = PORT,
    own: str = "",
    interface: str = "",
    patience: Patience | None = None,
) -> Paired:
    """Reach the other node, which may be late, and pair with it. Raises PairingError likewise.

    `own` and `interface` are where it is reached from, any where they are empty.
    """
    patience = patience or Patience()
    with Writing(folder, party, keyring) as writing:
        try:
            async with asyncio.timeout(patience.meet_s):
                connected = await _met(peer, port, own, interface)
        except TimeoutError:
            raise PairingError("alone", f"Nobody pairs at {peer}, port {port}.") from None
        ceremony = Ceremony(connected, writing, patience, dialed=True)
        return await ceremony.hold(ask)


async def _met(peer: str, port: int, own: str = "", interface: str = "") -> socket.socket:
    """A connection to the listener, as soon as there is one."""
    while True:
        try:
            return await reached(peer, port, own=own, interface=interface)
        except socket.gaierror as error:
            raise PairingError("address", f"{peer}: {error.strerror}.") from None
        except OSError as error:
            if error.errno in NEVER:
                raise _nowhere(error, own, interface) from None
        await asyncio.sleep(AGAIN_S)


def _nowhere(error: OSError, own: str, interface: str) -> PairingError:
    """This node lacks where it was told to speak from."""
    where = " over ".join(filter(None, (own or "any address", interface)))
    return PairingError("address", f"This node can't speak from {where}: {error.strerror}.")


class _Door:
    """Waits for the first who makes a claim; who says nothing keeps nobody else out."""

    def __init__(
        self,
        listener: socket.socket,
        only_from: str,
        writing: Writing,
        patience: Patience,
        turned_away: Callable[[str], None],
    ) -> None:
        self._listener = listener
        self._only_from = only_from
        self._writing = writing
        self._patience = patience
        self._turned_away = turned_away
        self._pending: dict[socket.socket, str] = {}
        """Who has made no claim yet, oldest first, and where he is."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._first: asyncio.Future[Ceremony] = asyncio.get_running_loop().create_future()

    async def first(self) -> Ceremony:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener, self._accept)
        try:
            return await self._first
        finally:
            loop.remove_reader(self._listener)
            for connected in self._pending:
                hang_up(connected)
            await asyncio.gather(*self._tasks)

    def _accept(self) -> None:
        try:
            connected, address = self._listener.accept()
        except OSError:
            return
        where = address[0].removeprefix("::ffff:")
        if (self._only_from and where != self._only_from) or self._first.done():
            connected.close()
            return
        connected.setblocking(False)
        if len(self._pending) >= PENDING_MAX:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            hang_up(oldest)
        self._pending[connected] = where
        task = asyncio.create_task(self._hear(connected, where))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hear(self, connected: socket.socket, where: str) -> None:
        ceremony = Ceremony(connected, self._writing, self._patience, dialed=False)
        try:
            await ceremony.begin()
        except PairingError as error:
            # Whoever it was, no nonce was revealed to him: others may still come.
            self._turned_away(f"Somebody at {where} was turned away: {error.sentence}")
            await ceremony.give_up(error)
            ceremony.drop()
            return
        finally:
            self._pending.pop(connected, None)
        if self._first.done():
            ceremony.drop()
        else:
            self._first.set_result(ceremony)
