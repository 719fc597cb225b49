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
import contextlib
import errno
import hashlib
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Protocol, TypeVar

from msgspec import Meta, Struct

from twinbeat.framing import Codec, WireError, framed, read_frame
from twinbeat.sync.document import U32, Name, Sentence
from twinbeat.sync.identity import Certificate, Folder, Identity, IdentityError, examine
from twinbeat.sync.session import FAREWELL_S, drop
from twinbeat.sync.shown import printable
from twinbeat.sync.sockets import anywhere, bound, hang_up, reached, secured
from twinbeat.sync.wire import PORT

PROTOCOL: Final = "twinbeat-pair/1"
VERSIONS: Final = (1, 1)
FRAME_MAX: Final = 16 << 10
NONCE_BYTES: Final = 32
SECRET_BYTES: Final = 16
DIGITS: Final = 8

PENDING_MAX: Final = 8
"""Who has connected to a listener and not made a claim yet."""
AGAIN_S: Final = 0.3
"""Between two attempts to reach a listener that isn't there yet."""
NEVER: Final = frozenset({errno.ENODEV, errno.EADDRNOTAVAIL, errno.EPERM, errno.EAFNOSUPPORT})
"""Own addresses and interfaces that aren't there won't be while somebody waits."""


class PairingError(Exception):
    """The nodes were not paired, and nothing was changed. The message is a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatKey:
    """A key for the heartbeats, in the form of a key file."""

    id: int
    digits: str = field(repr=False)
    """32 hexadecimal digits, as `config.keys.new_key` makes them."""

    def __post_init__(self) -> None:
        assert 1 <= self.id <= 255
        assert len(bytes.fromhex(self.digits)) == SECRET_BYTES


class Keyring(Protocol):
    """Where heartbeat keys are kept. Both calls may raise OSError."""

    def store(self, key: HeartbeatKey) -> None:
        """Write it down, private and for good. Raises FileExistsError if its id is taken."""

    def remove(self, key: HeartbeatKey) -> None:
        """Take back what `store` has written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """This node, as it goes into a pairing."""

    name: str
    node: int
    """Its index."""
    pair: int
    key: HeartbeatKey | None = None
    """To be given to the peer. If both sides bring one, the listener's counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What an operator is to look at."""

    code: str
    """Two groups of four digits: 1234 5678."""
    peer_name: str
    peer_node: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """What came of it."""

    name: str
    """Of the peer."""
    certificate: Certificate
    """Which is believed from now on."""
    key: HeartbeatKey | None
    """That both nodes have now; None if neither brought one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long what is waited for."""

    meet_s: float = 600.0
    """The other node."""
    step_s: float = 10.0
    """Anything that needs no person."""
    confirm_s: float = 180.0
    """The operators."""


Ask = Callable[[Comparison], Awaitable[bool]]
"""Shows the code and returns whether the operator finds it alike. It is cancelled when the other
side gives up first."""


# -- messages -------------------------------------------------------------------------------------


class Claim(Struct, frozen=True, kw_only=True, tag="claim"):
    """Who the sender says he is, and the commitment to his nonce."""

    versions: tuple[U32, U32]
    name: Name
    node: Annotated[int, Meta(ge=0, le=1)]
    pair: U32
    certificate: Annotated[bytes, Meta(max_length=4096)]
    commitment: Annotated[bytes, Meta(min_length=32, max_length=32)]
    gives: Annotated[int, Meta(ge=0, le=255)] = 0
    """Id of the key for heartbeats that it brings; 0 = none."""


class Reveal(Struct, frozen=True, kw_only=True, tag="reveal"):
    """The nonce that was committed to."""

    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]

    def __repr__(self) -> str:
        return "Reveal()"


class Agree(Struct, frozen=True, kw_only=True, tag="agree"):
    """The operator finds the codes alike."""


class Proof(Struct, frozen=True, kw_only=True, tag="proof"):
    """The sender holds the key of his certificate."""

    signature: Annotated[bytes, Meta(max_length=128)]


class Hand(Struct, frozen=True, kw_only=True, tag="hand"):
    """The key for the heartbeats."""

    id: Annotated[int, Meta(ge=1, le=255)]
    secret: Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]

    def __repr__(self) -> str:
        return f"Hand(id={self.id})"


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """The dialer has all that it needs."""


class Kept(Struct, frozen=True, kw_only=True, tag="kept"):
    """The sender has written it down."""


class Stop(Struct, frozen=True, kw_only=True, tag="stop"):
    """The sender gives up."""

    code: Name
    sentence: Sentence = ""


Message = Claim | Reveal | Agree | Proof | Hand | Ready | Kept | Stop
_CODEC: Final = Codec(Message, VERSIONS, size_max=FRAME_MAX)
M = TypeVar("M", bound=Struct)


# -- for whoever pairs ----------------------------------------------------------------------------


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
    with _Writing(folder, party, keyring) as writing:
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
    with _Writing(folder, party, keyring) as writing:
        try:
            async with asyncio.timeout(patience.meet_s):
                connected = await _met(peer, port, own, interface)
        except TimeoutError:
            raise PairingError("alone", f"Nobody pairs at {peer}, port {port}.") from None
        ceremony = _Ceremony(connected, writing, patience, dialed=True)
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


# -- what is written ------------------------------------------------------------------------------


class _Writing:
    """All that a pairing changes on this node, and how it is taken back."""

    def __init__(self, folder: Folder, party: Party, keyring: Keyring) -> None:
        self.folder = folder
        self.party = party
        self._keyring = keyring
        self._made = False
        self._kept: Paired | None = None
        self._before: tuple[Certificate, ...] = ()
        self._done = False
        self.identity: Identity

    def __enter__(self) -> _Writing:
        try:
            own = self.folder.own()
            if own is None:
                own = self.folder.make_own(self.party.name, time.time())
                self._made = True
            self._before = self.folder.trusted()
        except IdentityError as error:
            self.__exit__()
            raise PairingError(error.code, error.sentence) from None
        self.identity = own
        return self

    def __exit__(self, *_: object) -> None:
        if self._done:
            return
        # There is nothing more to be done about a disk that refuses even this.
        with contextlib.suppress(IdentityError):
            self.take_back()
        with contextlib.suppress(IdentityError):
            if self._made:
                self.folder.remove_own()

    def keep(self, paired: Paired) -> None:
        """Write all of it, or nothing. Raises PairingError."""
        key = paired.key
        try:
            if key is not None:
                self._keyring.store(key)
        except FileExistsError:
            assert key is not None
            sentence = f"There is a key {key.id} already; choose another id for the new one."
            raise PairingError("key_exists", sentence) from None
        except OSError as error:
            sentence = f"The key could not be written down: {error.strerror}."
            raise PairingError("disk", sentence) from None
        try:
            self.folder.trust(paired.certificate)
        except IdentityError as error:
            if key is not None:
                with contextlib.suppress(OSError):
                    self._keyring.remove(key)
            raise PairingError("disk", error.sentence) from None
        self._kept = paired

    def take_back(self) -> None:
        """As it was before `keep`."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        if kept.key is not None:
            with contextlib.suppress(OSError):
                self._keyring.remove(kept.key)
        if not self._before:
            self.folder.distrust()
            return
        self.folder.trust(self._before[0])
        for successor in self._before[1:]:
            self.folder.expect(successor)

    def finish(self) -> None:
        """It stays."""
        self._done = True


# -- the ceremony ---------------------------------------------------------------------------------


class _Door:
    """Waits for the first who makes a claim; who says nothing keeps nobody else out."""

    def __init__(
        self,
        listener: socket.socket,
        only_from: str,
        writing: _Writing,
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
        self._first: asyncio.Future[_Ceremony] = asyncio.get_running_loop().create_future()

    async def first(self) -> _Ceremony:
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
        ceremony = _Ceremony(connected, self._writing, self._patience, dialed=False)
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


class _Ceremony:
    """One connection, from the handshake to the end."""

    def __init__(
        self, connected: socket.socket, writing: _Writing, patience: Patience, *, dialed: bool
    ) -> None:
        self._connected = connected
        self._writing = writing
        self._patience = patience
        self._dialed = dialed
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._claims: tuple[bytes, bytes] | None = None
        """As they were sent: ours, the peer's."""
        self._peer: Claim | None = None
        self._certificate: Certificate | None = None

    def drop(self) -> None:
        if self._streams is not None:
            drop(self._streams[1])
        else:
            self._connected.close()

    async def begin(self) -> None:
        """As far as both claims, which nobody gains anything by. Raises PairingError."""
        async with self._bounded(self._patience.step_s):
            tls = self._context()
            self._streams = await secured(
                self._connected, tls, dialed=self._dialed, within_s=self._patience.step_s
            )
            shown: ssl.SSLObject = self._streams[1].get_extra_info("ssl_object")
            if shown.selected_alpn_protocol() != PROTOCOL:
                raise PairingError("tls", "What answers there is not waiting to be paired.")
            own = self._claim()
            await self._send_raw(own)
            payload = await read_frame(self._streams[0], FRAME_MAX)
            peer = self._decoded(payload, Claim)
            self._check(peer)
            self._claims, self._peer = (own, payload), peer

    async def hold(self, ask: Ask) -> Paired:
        """All of it. Raises PairingError, after it has told the peer."""
        try:
            if self._claims is None:
                await self.begin()
            paired = await self._agreed(ask)
            await self._settled(paired)
        except PairingError as error:
            await self.give_up(error)
            raise
        except asyncio.CancelledError:
            await self.give_up(PairingError("stopped", "The operator has stopped it."))
            raise
        finally:
            self.drop()
        self._writing.finish()
        return paired

    # -- the steps -----------------------------------------------------------------------------

    async def _agreed(self, ask: Ask) -> Paired:
        """The code, both operators, both proofs, and the key."""
        assert self._peer is not None
        assert self._certificate is not None
        async with self._bounded(self._patience.step_s):
            await self._send(Reveal(nonce=self._nonce))
            nonce = (await self._receive(Reveal)).nonce
        if not secrets.compare_digest(
            _commitment(nonce, dialed=not self._dialed), self._peer.commitment
        ):
            raise PairingError("commitment", "The other side does not keep to what it said first.")
        transcript = self._transcript(nonce)
        await self._compared(ask, _code(transcript))
        async with self._bounded(self._patience.step_s):
            proof = self._writing.identity.sign(_signed(transcript, dialed=self._dialed))
            await self._send(Proof(signature=proof))
            shown = (await self._receive(Proof)).signature
            if not self._certificate.verifies(shown, _signed(transcript, dialed=not self._dialed)):
                raise PairingError("proof", "The other side does not hold its certificate's key.")
            key = await self._handed()
        return Paired(name=printable(self._peer.name), certificate=self._certificate, key=key)

    async def _compared(self, ask: Ask, code: str) -> None:
        """Both operators find the codes alike, in whichever order."""
        assert self._peer is not None
        comparison = Comparison(
            code=code, peer_name=printable(self._peer.name), peer_node=self._peer.node
        )
        asking = asyncio.ensure_future(ask(comparison))
        hearing = asyncio.create_task(self._receive(Agree))
        try:
            async with self._bounded(self._patience.confirm_s):
                await asyncio.wait((asking, hearing), return_when=asyncio.FIRST_COMPLETED)
                if hearing.done():
                    hearing.result()
                if not await asking:
                    raise PairingError("refused", "The codes are not alike, the operator says.")
                await self._send(Agree())
                await hearing
        finally:
            for task in (asking, hearing):
                task.cancel()
            await asyncio.gather(asking, hearing, return_exceptions=True)

    async def _handed(self) -> HeartbeatKey | None:
        """The key that both will have. The listener's comes before the dialer's."""
        assert self._peer is not None
        own = self._writing.party.key
        if own is not None and not (self._dialed and self._peer.gives):
            await self._send(Hand(id=own.id, secret=bytes.fromhex(own.digits)))
            return own
        if not self._peer.gives:
            return None
        given = await self._receive(Hand)
        if len(set(given.secret)) < 4:
            raise PairingError("key", "The other side hands over a key that is not random.")
        return HeartbeatKey(id=given.id, digits=given.secret.hex())

    async def _settled(self, paired: Paired) -> None:
        """Both write it down, or neither does."""
        async with self._bounded(self._patience.step_s):
            if self._dialed:
                await self._send(Ready())
                await self._receive(Kept)
                await asyncio.to_thread(self._writing.keep, paired)
                await self._part(Kept())
                return
            await self._receive(Ready)
            await asyncio.to_thread(self._writing.keep, paired)
            await self._send(Kept())
            await self._receive(Kept)

    # -- what is said ----------------------------------------------------------------------------

    def _claim(self) -> bytes:
        party = self._writing.party
        return _CODEC.encode(
            Claim(
                versions=VERSIONS,
                name=party.name,
                node=party.node,
                pair=party.pair,
                certificate=self._writing.identity.certificate.der,
                commitment=_commitment(self._nonce, dialed=self._dialed),
                gives=party.key.id if party.key is not None else 0,
            )
        )

    def _check(self, peer: Claim) -> None:
        """Whether these two can be a pair. Raises PairingError."""
        party = self._writing.party
        if not (peer.versions[0] <= VERSIONS[1] and VERSIONS[0] <= peer.versions[1]):
            raise PairingError("version", "The other node's release is too old or too new.")
        if peer.pair != party.pair:
            raise PairingError(
                "pair", f"This node is of pair {party.pair}, and the other of pair {peer.pair}."
            )
        if peer.node == party.node:
            raise PairingError("node", f"Both nodes have index {party.node} ([node] index).")
        try:
            self._certificate = examine(peer.certificate)
        except IdentityError as error:
            raise PairingError(error.code, error.sentence) from None
        if self._certificate == self._writing.identity.certificate:
            raise PairingError("certificate", "The other side shows this node's certificate.")
        if not self._certificate.is_valid(time.time()):
            raise PairingError(
                "expired", "The other node's certificate is not valid now: compare the clocks."
            )
        if self._dialed:
            assert self._streams is not None
            shown: ssl.SSLObject = self._streams[1].get_extra_info("ssl_object")
            if shown.getpeercert(binary_form=True) != peer.certificate:
                raise PairingError("certificate", "The other side claims somebody's certificate.")

    def _transcript(self, nonce: bytes) -> bytes:
        """A hash over all that both sides have said."""
        assert self._claims is not None
        said = [*self._claims, self._nonce, nonce]
        if not self._dialed:
            said = [said[1], said[0], said[3], said[2]]
        return _hashed("transcript", *said)

    def _context(self) -> ssl.SSLContext:
        protocol = ssl.PROTOCOL_TLS_CLIENT if self._dialed else ssl.PROTOCOL_TLS_SERVER
        made = ssl.SSLContext(protocol)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.check_hostname = False
        # Nobody is known yet: that is what the code is for.
        made.verify_mode = ssl.CERT_NONE
        made.options |= ssl.OP_NO_TICKET
        made.set_alpn_protocols([PROTOCOL])
        if not self._dialed:
            made.num_tickets = 0
            made.load_cert_chain(self._writing.folder.own_file)
        return made

    async def _send(self, message: Struct) -> None:
        await self._send_raw(_CODEC.encode(message))

    async def _send_raw(self, payload: bytes) -> None:
        assert self._streams is not None
        self._streams[1].write(framed(payload))
        await self._streams[1].drain()

    async def _receive(self, kind: type[M]) -> M:
        assert self._streams is not None
        try:
            return self._decoded(await read_frame(self._streams[0], FRAME_MAX), kind)
        except WireError as error:
            raise _lost(error) from None

    def _decoded(self, payload: bytes, kind: type[M]) -> M:
        message: Any = _CODEC.decode(payload)
        if isinstance(message, Stop):
            sentence = printable(message.sentence)
            raise PairingError("given_up", f"The other node has given up: {sentence}")
        if not isinstance(message, kind):
            raise PairingError("order", "The other side says something out of its turn.")
        return message

    @contextlib.asynccontextmanager
    async def _bounded(self, seconds: float) -> AsyncIterator[None]:
        """Whatever goes wrong within becomes a PairingError; so does a wait without end."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise PairingError("slow", f"Nothing came for {seconds:g} s.") from None
        except WireError as error:
            raise _lost(error) from None
        except OSError as error:
            raise PairingError("broken", f"The connection broke: {error.strerror}.") from None

    async def give_up(self, error: PairingError) -> None:
        """Tell the peer, in the hope that it arrives."""
        if error.code != "given_up":
            await self._part(Stop(code=error.code, sentence=error.sentence))

    async def _part(self, last: Stop | Kept) -> None:
        """Say the last thing, and give it a second to leave."""
        if self._streams is None:
            return
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._send(last)
                self._streams[1].close()
                await self._streams[1].wait_closed()


def _lost(error: WireError) -> PairingError:
    if error.code in {"ended", "truncated"}:
        return PairingError("broken", "The other side has closed the connection.")
    return PairingError(error.code, error.sentence)


def _hashed(label: str, *parts: bytes) -> bytes:
    """SHA-256 over parts whose boundaries nobody can shift."""
    made = hashlib.sha256(f"twinbeat pair 1 {label}".encode() + b"\0")
    for part in parts:
        made.update(len(part).to_bytes(8, "big") + part)
    return made.digest()


def _commitment(nonce: bytes, *, dialed: bool) -> bytes:
    """It says which side it is of, so that none can be sent back to whoever made it."""
    return _hashed("commitment", b"dialer" if dialed else b"listener", nonce)


def _signed(transcript: bytes, *, dialed: bool) -> bytes:
    return _hashed("proof", b"dialer" if dialed else b"listener", transcript)


def _code(transcript: bytes) -> str:
    number = int.from_bytes(_hashed("code", transcript), "big") % 10**DIGITS
    digits = f"{number:0{DIGITS}d}"
    return f"{digits[: DIGITS // 2]} {digits[DIGITS // 2 :]}"
