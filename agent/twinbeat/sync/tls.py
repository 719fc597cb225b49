# SPDX-License-Identifier: Apache-2.0
"""TLS as the two workers use it: 1.3 and nothing else, both sides known, byte for byte.

The trust anchor is the peer's certificate itself. OpenSSL verifies that it is in date and that the
peer holds its key; `Credentials.peer_of` then compares the very bytes, so that not even something
that this certificate had signed would do. There are no tickets: every connection is verified.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

from twinbeat.framing import WireError
from twinbeat.sync.identity import Certificate, Folder, IdentityError

PROTOCOL: Final = "twinbeat/1"
"""ALPN, so that nothing else that speaks TLS is taken for a peer."""

_DATES: Final = {9, 10}
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What this node shows, and whom it believes, as the files said at one time."""

    own: Certificate
    trusted: tuple[Certificate, ...]
    server: ssl.SSLContext
    client: ssl.SSLContext
    protocol: str = PROTOCOL

    def peer_of(self, connection: ssl.SSLObject) -> Certificate:
        """Who is at the other end. Raises WireError, `certificate` or `tls`."""
        shown = connection.getpeercert(binary_form=True)
        for certificate in self.trusted:
            if certificate.der == shown:
                break
        else:
            raise WireError("certificate", "The peer shows another certificate than that paired.")
        self.speaks(connection)
        return certificate

    def speaks(self, connection: ssl.SSLObject) -> None:
        """That it is our protocol. Raises WireError, `tls`."""
        spoken = connection.version(), connection.selected_alpn_protocol()
        if spoken != ("TLSv1.3", self.protocol):
            raise WireError("tls", "What answers there is no worker of Twinbeat.")


class Cabinet:
    """The credentials of a folder, read again when a file has changed."""

    def __init__(self, folder: Folder, *, protocol: str = PROTOCOL, guests: bool = False) -> None:
        """With ``guests`` the server also admits who holds one of the certificates `invited`, and
        whoever shows none: what they may do is for the caller to say."""
        self.folder = folder
        self.invited: frozenset[bytes] = frozenset()
        """DER of certificates."""
        self._protocol = protocol
        self._guests = guests
        self._state: tuple[object, ...] | None = None
        self._held: Credentials | None = None

    def credentials(self) -> Credentials | None:
        """None: the node isn't paired. Raises IdentityError when a file can't be used."""
        state = (self.folder.state(), self.invited)
        if state != self._state:
            self._held = self._read()
            self._state = state
        return self._held

    def _read(self) -> Credentials | None:
        own, trusted = self.folder.own(), self.folder.trusted()
        if own is None or not trusted:
            return None
        try:
            return Credentials(
                own=own.certificate,
                trusted=trusted,
                server=self._context(ssl.PROTOCOL_TLS_SERVER, trusted),
                client=self._context(ssl.PROTOCOL_TLS_CLIENT, trusted),
                protocol=self._protocol,
            )
        except (ssl.SSLError, OSError):
            sentence = f"{self.folder.own_file} can't be used for TLS."
            raise IdentityError("file", sentence) from None

    def _context(self, protocol: int, trusted: tuple[Certificate, ...]) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # There is no name to check: the certificate is known as a whole.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.options |= ssl.OP_NO_TICKET
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0
        believed = {each.der for each in trusted}
        if protocol == ssl.PROTOCOL_TLS_SERVER and self._guests:
            context.verify_mode = ssl.CERT_OPTIONAL
            believed |= self.invited
        context.set_alpn_protocols([self._protocol])
        context.load_cert_chain(self.folder.own_file)
        context.load_verify_locations(cadata=b"".join(sorted(believed)))
        return context


def failure(error: OSError | TimeoutError | EOFError) -> WireError:
    """What a handshake that failed means: a code to count and a sentence for people."""
    match error:
        case ssl.SSLCertVerificationError(verify_code=code) if code in _DATES:
            return WireError(
                "expired",
                "The peer's certificate is not valid at this time: compare the clocks of the "
                "nodes; if they are right, pair the nodes again with `twinbeat pair`.",
            )
        case ssl.SSLCertVerificationError():
            return WireError(
                "certificate", "Whoever is there shows another certificate than that paired."
            )
        case ssl.SSLError(reason="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            return WireError("no_certificate", "Whoever is there shows no certificate.")
        case ssl.SSLError(reason=reason) if reason and "CERTIFICATE" in reason:
            return WireError(
                "disbelieved",
                "The peer does not believe this node's certificate: was it paired with another, "
                "or is its clock wrong? `twinbeat pair` on both nodes pairs them anew.",
            )
        case ssl.SSLError():
            return WireError("tls", "Whoever is there does not speak TLS 1.3 as a worker does.")
        case TimeoutError():
            return WireError("slow", "The handshake was not over in time.")
        case OSError(strerror=str() as words) if words:
            return WireError("broken", f"The connection broke: {words}.")
        case _:
            return WireError(
                "broken",
                "The connection was closed during the handshake: if that goes on, the peer may "
                "not believe this node's certificate.",
            )
