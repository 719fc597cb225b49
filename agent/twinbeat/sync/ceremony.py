# SPDX-License-Identifier: Apache-2.0
"""One connection between two nodes that are to be paired, from the handshake to the end.

Its steps, and why nobody in the middle gains anything, are told in `pairing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from msgspec import Struct

from twinbeat.framing import WireError, framed, read_frame
from twinbeat.sync.claims import (
    CODEC,
    FRAME_MAX,
    NONCE_BYTES,
    PROTOCOL,
    VERSIONS,
    Agree,
    Claim,
    Hand,
    Kept,
    Proof,
    Ready,
    Reveal,
    Stop,
    code_of,
    commitment,
    hashed,
    signed,
)
from twinbeat.sync.identity import Certificate, IdentityError, examine
from twinbeat.sync.parties import (
    Ask,
    Comparison,
    HeartbeatKey,
    Paired,
    PairingError,
    Patience,
    Writing,
)
from twinbeat.sync.session import FAREWELL_S, drop
from twinbeat.sync.shown import printable
from twinbeat.sync.sockets import secured

M = TypeVar("M", bound=Struct)


class Ceremony:
    """One connection, from the handshake to the end."""

    def __init__(
        self, connected: socket.socket, writing: Writing, patience: Patience, *, dialed: bool
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
            commitment(nonce, dialed=not self._dialed), self._peer.commitment
        ):
            raise PairingError("commitment", "The other side does not keep to what it said first.")
        transcript = self._transcript(nonce)
        await self._compared(ask, code_of(transcript))
        async with self._bounded(self._patience.step_s):
            proof = self._writing.identity.sign(signed(transcript, dialed=self._dialed))
            await self._send(Proof(signature=proof))
            shown = (await self._receive(Proof)).signature
            if not self._certificate.verifies(shown, signed(transcript, dialed=not self._dialed)):
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
        return CODEC.encode(
            Claim(
                versions=VERSIONS,
                name=party.name,
                node=party.node,
                pair=party.pair,
                certificate=self._writing.identity.certificate.der,
                commitment=commitment(self._nonce, dialed=self._dialed),
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
        return hashed("transcript", *said)

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
        await self._send_raw(CODEC.encode(message))

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
        message: Any = CODEC.decode(payload)
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
