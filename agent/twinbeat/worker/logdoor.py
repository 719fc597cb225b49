# SPDX-License-Identifier: Apache-2.0
"""Where log clients and the peer come in: TCP 3011, TLS with certificates that are known.

Who has not shown yet who he is waits in a queue that is bounded, and whoever is known in one of his
own: none can keep the others out.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from twinbeat.framing import WireError
from twinbeat.sync.identity import IdentityError
from twinbeat.sync.sockets import anywhere, bound, hang_up, secured
from twinbeat.sync.tls import Cabinet, Credentials
from twinbeat.weblog.messages import Problem
from twinbeat.weblog.refusal import JournalError
from twinbeat.weblog.serving import Server, Serving
from twinbeat.weblog.store import PEER
from twinbeat.worker.guests import Guests

log = logging.getLogger("twinbeat.worker")

HANDSHAKE_S: Final = 5.0
PENDING_MAX: Final = 8
"""Who has not shown yet who he is; one more, and the oldest has to go. And as many of those that
show no certificate, and may only introduce themselves."""
CONNECTIONS_MAX: Final = 32
"""Of all clients together that are known; one of the peer's always has room."""
PER_CLIENT_MAX: Final = 4


class LogDoor:
    """Runs in the site's loop."""

    def __init__(
        self,
        cabinet: Cabinet,
        guests: Guests,
        *,
        counts: Counter[tuple[str, str]],
        peer_came: Callable[[], None],
    ) -> None:
        """``peer_came`` is called when the peer has connected by itself."""
        self.port = 0
        """That is listened at; 0: none."""
        self.listening = "It has just started."
        """Why nobody can come in; empty = he can."""
        self.writers: weakref.WeakSet[asyncio.StreamWriter] = weakref.WeakSet()
        """All connections of the site that may still be open."""
        self._cabinet = cabinet
        self._guests = guests
        self._counts = counts
        self._peer_came = peer_came
        self._pending: dict[socket.socket, None] = {}

    def credentials(self) -> Credentials | None:
        """Of this node and its peer, as they are now; None: it has none."""
        try:
            return self._cabinet.credentials()
        except IdentityError as error:
            self.listening = error.sentence
            return None

    async def listen(self, server: Server, addresses: tuple[str, ...], port: int) -> None:
        """Until cancelled; what can't be listened at is told and tried again."""
        async with asyncio.TaskGroup() as tasks:
            for address in addresses or ("",):
                tasks.create_task(self._listen_at(server, address, port))

    async def _listen_at(self, server: Server, address: str, port: int) -> None:
        while True:
            if self.credentials() is None:
                self.listening = "This node is not paired yet: run `twinbeat pair` on both nodes."
                await asyncio.sleep(1.0)
                continue
            try:
                with bound(address or anywhere(), port) as made:
                    made.listen(PENDING_MAX * 2)
                    self.port, self.listening = made.getsockname()[1], ""
                    await self._admit_all(server, made)
            except OSError as error:
                where = address or "any address"
                self.listening = f"Port {port} of {where} can't be listened at: {error.strerror}."
                log.warning("log clients can't be served: %s", self.listening)
                self._counts["listen", "failed"] += 1
            finally:
                self.port = 0
            await asyncio.sleep(1.0)

    async def _admit_all(self, server: Server, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as admissions:
            while True:
                accepted, address = await loop.sock_accept(listener)
                if len(self._pending) >= PENDING_MAX:
                    oldest = next(iter(self._pending))
                    del self._pending[oldest]
                    hang_up(oldest)
                    self._counts["refused", "crowded"] += 1
                self._pending[accepted] = None
                where = str(address[0]).removeprefix("::ffff:")
                admitting = admissions.create_task(self._admit(server, accepted, where))
                admitting.add_done_callback(partial(self._never_begun, accepted))

    def _never_begun(self, accepted: socket.socket, _: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step has closed nothing."""
        if accepted in self._pending:
            del self._pending[accepted]
            accepted.close()

    async def _admit(self, server: Server, accepted: socket.socket, address: str) -> None:
        """One connection, from its beginning to its end."""
        credentials = self.credentials()
        try:
            if credentials is None:
                accepted.close()
                return
            async with asyncio.timeout(HANDSHAKE_S):
                reader, writer = await secured(
                    accepted, credentials.server, dialed=False, within_s=HANDSHAKE_S
                )
        except (WireError, TimeoutError) as error:
            code = error.code if isinstance(error, WireError) else "slow"
            self._counts["refused", code] += 1
            log.info("a log client at %s was refused: %s", address, reason(error))
            return
        finally:
            self._pending.pop(accepted, None)
        self.writers.add(writer)
        try:
            await self._serve(server, credentials, reader, writer, address)
        except OSError:
            self._counts["refused", "broken"] += 1
        except Exception:  # a defect in one conversation ends no other
            log.exception("the conversation with a log client at %s failed", address)
            self._counts["refused", "defect"] += 1
        finally:
            writer.close()

    async def _serve(
        self,
        server: Server,
        credentials: Credentials,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        address: str,
    ) -> None:
        connection = writer.get_extra_info("ssl_object")
        try:
            credentials.speaks(connection)
        except WireError as error:
            self._counts["refused", error.code] += 1
            return
        shown = connection.getpeercert(binary_form=True)
        is_peer = shown is not None and any(each.der == shown for each in credentials.trusted)
        who = PEER if is_peer else self._guests.who(connection)
        serving = Serving(who=who or "", address=address, since_s=time.time())
        same = [each for each in server.connections if each.who == serving.who]
        if who is None:
            serving.end("denied", "This client is no longer allowed here.")
        elif is_peer:
            self._peer_came()
            for each in same:
                each.end("replaced", "There is a newer connection.")
        elif _crowded(server, who, len(same)):
            serving.end("crowded", "There are too many connections already.")

        async def introduce(der: bytes) -> Problem | None:
            refusal = await asyncio.to_thread(self._guests.introduced, der, address)
            if refusal is None:
                self._cabinet.invited = frozenset(self._guests.known.values())
                log.info("a log client at %s has introduced itself", address)
            self._counts["introduced", refusal.code if refusal is not None else "allowed"] += 1
            return refusal

        await server.serve(serving, reader, writer, introduce=introduce)


def _crowded(server: Server, who: str, same: int) -> bool:
    """Whether there is no room for another connection of a client that has ``same`` already; those
    without a certificate are one client, which is in nobody's way."""
    if not who:
        return same >= PENDING_MAX
    known = sum(bool(each.who) for each in server.connections)
    return same >= PER_CLIENT_MAX or known >= CONNECTIONS_MAX


def reason(error: BaseException) -> str:
    """In words, why a conversation could not begin or is over."""
    match error:
        case WireError() | JournalError():
            return error.sentence
        case TimeoutError():
            return "It did not answer in time."
        case OSError(strerror=str() as words):
            return f"{words}."
        case _:
            return "The connection broke."
