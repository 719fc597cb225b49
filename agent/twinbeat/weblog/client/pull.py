# SPDX-License-Identifier: Apache-2.0
"""One connection to one node: TLS, who is there, questions and answers.

The node is known by its certificate alone, whose fingerprint stands in `log.conf` (or is that of a
successor, which a node that is known named). OpenSSL makes sure that whoever is there holds the key
of the certificate he shows; which one that is is compared here, before anything is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twinbeat import framing
from twinbeat.framing import FRAME_MAX, WireError
from twinbeat.sync.identity import Certificate, IdentityError, examine
from twinbeat.sync.shown import printable
from twinbeat.weblog import messages
from twinbeat.weblog.messages import (
    Ack,
    Acked,
    Blocks,
    Cursor,
    Hello,
    Introduce,
    Introduced,
    Problem,
    Pull,
    Welcome,
)

CONNECT_S: Final = 10.0
ANSWER_S: Final = 10.0
"""How much later than it was asked to an answer may come; then the node counts as gone."""
WAIT_MS: Final = 1000
"""How long a node is to wait where it has nothing new."""
_CODEC: Final = messages.codec(messages.FromNode)
_NOT_KNOWN: Final = ("UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "CERTIFICATE_REQUIRED", "BAD_CERTIFICATE")


class PullError(Exception):
    """The connection is over. `code` is counted; the message is a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node listens."""

    address: str
    port: int


def context(own: Path | None) -> ssl.SSLContext:
    """TLS 1.3 with the client's own certificate, or without one. Raises PullError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    # There is no authority to ask: the certificate is compared with the fingerprint, as a whole.
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols([messages.PROTOCOL])
    if own is not None:
        try:
            made.load_cert_chain(own)
        except (OSError, ssl.SSLError) as error:
            raise PullError("own", f"{own} can't be used: {error.strerror or error}.") from None
    return made


class Connection:
    """An open connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()

    def shown(self) -> Certificate:
        """The certificate of whoever is there. Raises PullError."""
        connection = self._writer.get_extra_info("ssl_object")
        if connection.selected_alpn_protocol() != messages.PROTOCOL:
            raise PullError("tls", "what answers there is no node of Twinbeat with web logs.")
        try:
            return examine(connection.getpeercert(binary_form=True) or b"")
        except IdentityError as error:
            raise PullError("certificate", error.sentence) from None

    def send(self, message: Any) -> None:
        self._writer.write(framing.framed(_CODEC.encode(message)))

    async def read(self, within_s: float) -> Any:
        """The next message. Raises PullError."""
        try:
            async with asyncio.timeout(within_s):
                await self._writer.drain()
                message = _CODEC.decode(await framing.read_frame(self._reader, FRAME_MAX))
        except WireError as error:
            raise PullError(error.code, error.sentence) from None
        except TimeoutError:
            raise PullError("slow", f"no answer came within {within_s:g} s.") from None
        except OSError as error:
            raise _broken(error) from None
        if isinstance(message, Problem):
            said = printable(message.sentence or message.code)
            raise PullError(printable(message.code), f"the node says: {said}")
        return message


async def opened(place: Place, tls: ssl.SSLContext) -> Connection:
    """A connection after its handshake. Raises PullError."""
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(
                place.address, place.port, ssl=tls, limit=FRAME_MAX, server_hostname=""
            )
    except TimeoutError:
        raise PullError("unreachable", f"nobody answers within {CONNECT_S:g} s.") from None
    except OSError as error:
        raise _broken(error, "unreachable") from None
    return Connection(reader, writer)


def _broken(error: OSError, code: str = "broken") -> PullError:
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "TLS failed"
        if any(each in reason for each in _NOT_KNOWN):
            return PullError("not_known", "the node does not know this client's certificate.")
        return PullError("tls", f"TLS failed: {reason.lower().replace('_', ' ')}.")
    return PullError(code, f"{error.strerror or str(error) or type(error).__name__}.")


async def believed(
    place: Place, tls: ssl.SSLContext, fingerprints: Collection[str]
) -> tuple[Connection, Certificate]:
    """A connection to who is meant, and nobody else. Raises PullError."""
    connection = await opened(place, tls)
    try:
        certificate = connection.shown()
        if certificate.fingerprint not in fingerprints:
            raise PullError(
                "certificate",
                f"it shows another certificate (SHA-256 {certificate.fingerprint}) than log.conf "
                "has. If the node was paired anew, add it again; if not, somebody else answers.",
            )
        if not certificate.is_valid(time.time()):
            raise PullError(
                "expired", "its certificate is not valid at this time: compare the clocks."
            )
    except BaseException:
        await connection.close()
        raise
    return connection, certificate


async def greeted(connection: Connection, name: str) -> Welcome:
    """Say hello. Raises PullError, `not_known` where the node has yet to be shown who this is."""
    connection.send(Hello(versions=messages.VERSIONS, name=name))
    try:
        answer = await connection.read(ANSWER_S)
    except PullError as error:
        # In TLS 1.3 the handshake is over for the client before its certificate is looked at, and
        # not every server's alert gets through before the connection is closed.
        if error.code in {"ended", "broken", "truncated"}:
            raise PullError("not_known", "the node closed the connection.") from None
        raise
    if not isinstance(answer, Welcome):
        raise PullError("malformed", "the node does not answer a greeting as it should.")
    if not messages.VERSIONS[0] <= answer.version <= messages.VERSIONS[1]:
        raise PullError("version", f"the node wants to speak version {answer.version}.")
    return answer


async def introduced(place: Place, fingerprints: Collection[str], own: bytes) -> None:
    """Show the certificate to a node that allows it and doesn't have it. Raises PullError."""
    connection, _ = await believed(place, context(None), fingerprints)
    try:
        connection.send(Introduce(certificate=own))
        answer = await connection.read(ANSWER_S)
        if not isinstance(answer, Introduced):
            raise PullError("malformed", "the node does not answer an introduction as it should.")
    finally:
        await connection.close()


async def pulled(
    connection: Connection, cursors: list[Cursor], acknowledged: list[Cursor], wait_ms: int
) -> Blocks:
    """Acknowledge, if there is something, and ask for what follows. Raises PullError."""
    if acknowledged:
        connection.send(Ack(cursors=tuple(acknowledged)))
    connection.send(Pull(cursors=tuple(cursors), wait_ms=wait_ms))
    if acknowledged and not isinstance(await connection.read(ANSWER_S), Acked):
        raise PullError("malformed", "the node does not answer an acknowledgement as it should.")
    answer = await connection.read(ANSWER_S + wait_ms / 1000)
    if not isinstance(answer, Blocks):
        raise PullError("malformed", "the node does not answer a question as it should.")
    return answer
