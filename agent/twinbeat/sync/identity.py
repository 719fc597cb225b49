# SPDX-License-Identifier: Apache-2.0
"""Who a node is to its peer: a key of its own, a certificate of it, and the peer's certificate.

Theory of operation
-------------------
There is no authority. Each node signs its own certificate, and trusts exactly one other, byte for
byte, which `pairing` has brought it. A certificate is renewed while the old one is still good: the
successor waits beside it until the peer has stored it too, and the peer accepts both until it has
seen the new one used. At every instant, whatever is killed, what one node uses the other accepts:

    own.pem        private key and certificate in use, in one file so that one rename replaces both
    next.pem       their successor, not yet known to be with the peer
    peer.crt       the peer's certificate
    peer-next.crt  its successor, not yet seen in use

Private keys are in files of mode 0600 only and in no repr, message or exception. This module is the
only one that uses the `cryptography` library, and neither the daemon nor a bare command loads it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from twinbeat.durable import sync_directory

LIFE_DAYS: Final = 1095
"""Three years. It is renewed when a third of that is left, so a pair has a year for it."""
BACKDATED_DAYS: Final = 30
"""The peer's clock may be behind; a certificate that isn't valid yet would cut the pair."""
CERTIFICATE_MAX: Final = 4096
"""Bytes of DER; ours have less than 500."""
FILE_MAX: Final = 16 * 1024

OWN: Final = "own.pem"
NEXT: Final = "next.pem"
PEER: Final = "peer.crt"
PEER_NEXT: Final = "peer-next.crt"

_NAME_MAX: Final = 63
_UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm)
"""What the library raises for bytes that are no key or certificate it knows."""
_SIGNED_WITH: Final = ec.ECDSA(hashes.SHA256())


class IdentityError(Exception):
    """An identity or a certificate can't be used. The message is a sentence; `code` is counted."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate that `examine` has found in order. Public."""

    der: bytes = field(repr=False)
    name: str
    """Of the node that it speaks for, by its own account."""
    begins_s: int
    ends_s: int
    """Unix seconds."""
    fingerprint: str
    """SHA-256 over the DER, in hexadecimal."""

    @property
    def pem(self) -> bytes:
        return x509.load_der_x509_certificate(self.der).public_bytes(Encoding.PEM)

    def is_due(self, now_s: float) -> bool:
        """Whether it is time for a successor: a third of its life is left, or less."""
        return now_s >= self.ends_s - (self.ends_s - self.begins_s) // 3

    def is_valid(self, now_s: float) -> bool:
        return self.begins_s <= now_s <= self.ends_s

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether the holder of its private key signed exactly this."""
        key = x509.load_der_x509_certificate(self.der).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        try:
            key.verify(signature, data, _SIGNED_WITH)
        except InvalidSignature:
            return False
        return True


class Identity:
    """A private key and the certificate of it. Neither repr nor exception shows the key."""

    __slots__ = ("_key", "certificate")

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: Certificate) -> None:
        self._key = key
        self.certificate = certificate

    def __repr__(self) -> str:
        return f"Identity({self.certificate!r})"

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data, _SIGNED_WITH)

    def _pem(self) -> bytes:
        private = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return private + self.certificate.pem


def generate(name: str, now_s: float, *, life_days: float = LIFE_DAYS) -> Identity:
    """A new key on P-256 and its certificate, for the node of that name."""
    assert 1 <= len(name) <= _NAME_MAX
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.fromtimestamp(int(now_s), UTC)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Twinbeat"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=BACKDATED_DAYS))
        .not_valid_after(now + timedelta(days=life_days))
        # No authority: whatever this key may sign, no other certificate is believed for it.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Identity(key, examine(certificate.public_bytes(Encoding.DER)))


def examine(der: bytes) -> Certificate:
    """What a certificate says, if it is like those that nodes make: P-256, signed by itself.

    Whether it is valid now is not asked. Raises IdentityError, `certificate`.
    """
    if len(der) > CERTIFICATE_MAX:
        raise _unusable(f"it has {len(der)} bytes, and {CERTIFICATE_MAX} are the most")
    try:
        found = x509.load_der_x509_certificate(der)
        if found.public_bytes(Encoding.DER) != der:
            raise _unusable("something follows it")
        key = found.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise _unusable("its key is not on the curve P-256")
        found.verify_directly_issued_by(found)
        if not isinstance(found.signature_hash_algorithm, hashes.SHA256):
            raise _unusable("it is not signed with SHA-256")
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints)
        if constraints.value.ca:
            raise _unusable("it is that of an authority, not of a node")
        common = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except InvalidSignature:
        raise _unusable("its signature is not its own") from None
    # What the library says of bytes from elsewhere names parts of them: it goes no further.
    except (*_UNREADABLE, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise _unusable("it can't be read") from None
    name = common[0].value if len(common) == 1 else ""
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= _NAME_MAX:
        raise _unusable("it names no node")
    return Certificate(
        der=der,
        name=name,
        begins_s=int(found.not_valid_before_utc.timestamp()),
        ends_s=int(found.not_valid_after_utc.timestamp()),
        fingerprint=found.fingerprint(hashes.SHA256()).hex(),
    )


def _unusable(why: str) -> IdentityError:
    return IdentityError("certificate", f"The certificate can't be used: {why}.")


class Folder:
    """The directory with the files named above. Calls block for a few milliseconds at most.

    All raise IdentityError: `file` when one can't be read or written, `exposed` when others could
    have read it, `certificate` when it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def own_file(self) -> Path:
        """Private key and certificate in use, for the TLS library."""
        return self.path / OWN

    def own(self) -> Identity | None:
        """What this node shows to its peer; None = `make_own` has not been called yet."""
        return self._identity(OWN)

    def make_own(self, name: str, now_s: float) -> Identity:
        """A first identity. Never replaces one: that is what a successor is for."""
        if (self.path / OWN).exists():
            raise IdentityError("file", f"{self.path / OWN} is there already.")
        identity = generate(name, now_s)
        self._write(OWN, identity._pem())
        return identity

    def remove_own(self) -> None:
        """Take back what `make_own` made, when nobody has come to know it."""
        self._remove(NEXT)
        self._remove(OWN)

    def successor(self) -> Identity | None:
        """What will be shown next, if a renewal is under way."""
        return self._identity(NEXT)

    @property
    def is_renewing(self) -> bool:
        """Whether a successor waits for the peer to store it."""
        return (self.path / NEXT).exists()

    def make_successor(self, now_s: float) -> Identity:
        """Begin a renewal, or find the one that has begun: it may be with the peer already."""
        own, waiting = self.own(), self.successor()
        if own is None:
            raise IdentityError("file", f"There is no {self.path / OWN} to renew.")
        if waiting is not None and waiting.certificate.is_valid(now_s):
            return waiting
        identity = generate(own.certificate.name, now_s)
        self._write(NEXT, identity._pem())
        return identity

    def take_successor(self, fingerprint: str) -> bool:
        """The peer has stored that successor: from now on it is shown. False = there is no such."""
        waiting = self.successor()
        if waiting is None or waiting.certificate.fingerprint != fingerprint:
            return False
        self._rename(NEXT, OWN)
        return True

    def trusted(self) -> tuple[Certificate, ...]:
        """Whom this node believes: the peer's certificate, then its announced successor."""
        found = (self._certificate(PEER), self._certificate(PEER_NEXT))
        return tuple(certificate for certificate in found if certificate is not None)

    def trust(self, certificate: Certificate) -> None:
        """Believe this one from now on, and no other."""
        # A successor of somebody else's must not outlive the change.
        self._write(PEER, certificate.pem, ends=PEER_NEXT)

    def distrust(self) -> None:
        """Believe nobody."""
        self._remove(PEER_NEXT)
        self._remove(PEER)

    def expect(self, certificate: Certificate) -> None:
        """The peer will use this one soon, and says so under the one that is believed."""
        self._write(PEER_NEXT, certificate.pem)

    def was_used(self, fingerprint: str) -> bool:
        """The peer has shown this one. Whether that ended a renewal: the older one is over then."""
        waiting = self._certificate(PEER_NEXT)
        if waiting is None or waiting.fingerprint != fingerprint:
            return False
        self._rename(PEER_NEXT, PEER)
        return True

    def state(self) -> tuple[object, ...]:
        """Changes whenever a file was replaced, by whomever."""
        found: list[object] = []
        for name in (OWN, PEER, PEER_NEXT):
            try:
                status = (self.path / name).stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(found)

    def _identity(self, name: str) -> Identity | None:
        content = self._read(name, private=True)
        if content is None:
            return None
        try:
            key = load_pem_private_key(content, None)
            certificate = x509.load_pem_x509_certificate(content)
        # Neither may the library's words go further: here they are about a secret.
        except _UNREADABLE:
            raise self._broken(name, "holds no private key and certificate") from None
        found = examine(certificate.public_bytes(Encoding.DER))
        if (
            not isinstance(key, ec.EllipticCurvePrivateKey)
            or key.public_key() != certificate.public_key()
        ):
            raise self._broken(name, "holds a private key that is not that of its certificate")
        return Identity(key, found)

    def _certificate(self, name: str) -> Certificate | None:
        content = self._read(name, private=False)
        if content is None:
            return None
        try:
            certificate = x509.load_pem_x509_certificate(content)
        except _UNREADABLE:
            raise self._broken(name, "holds no certificate") from None
        return examine(certificate.public_bytes(Encoding.DER))

    def _broken(self, name: str, how: str) -> IdentityError:
        sentence = f"{self.path / name} {how}. Pair the nodes again with `twinbeat pair`."
        return IdentityError("file", sentence)

    def _read(self, name: str, *, private: bool) -> bytes | None:
        """The content of a file, None if there is none. Nobody else may be able to change it."""
        file = self.path / name
        try:
            # Should it be a pipe, nobody is waited for.
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as stream:
                status = os.fstat(descriptor)
                content = stream.read(FILE_MAX) if stat.S_ISREG(status.st_mode) else None
            keeper = self.path.stat().st_uid
        except FileNotFoundError:
            return None
        except OSError as error:
            sentence = f"{file} can't be read: {error.strerror}."
            raise IdentityError("file", sentence) from None
        if content is None:
            raise IdentityError("file", f"{file} is not a regular file.")
        if status.st_mode & (0o077 if private else 0o022):
            raise IdentityError(
                "exposed",
                f"Others can read or change {file} (mode {stat.S_IMODE(status.st_mode):04o}). "
                "If anybody else could log in here, remove it and pair the nodes again with "
                f"`twinbeat pair`; else make it private (chmod 0600 {file}).",
            )
        if status.st_uid not in {0, os.geteuid(), keeper}:
            raise IdentityError("exposed", f"{file} belongs to user {status.st_uid}.")
        return content

    def _write(self, name: str, content: bytes, *, ends: str = "") -> None:
        """All of it or nothing, private from its first instant, and there after a power cut.

        It belongs to the owner of the directory, so that the worker can read what root made.
        `ends` is a file that goes just before this one comes, when nothing can fail any more.
        """
        fresh = self.path / f".{name}.new"
        try:
            self._make_directory()
            keeper = self.path.stat()
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(fresh, flags, 0o600), "wb") as stream:
                if os.geteuid() == 0 and keeper.st_uid != 0:
                    os.fchown(stream.fileno(), keeper.st_uid, keeper.st_gid)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            if ends:
                (self.path / ends).unlink(missing_ok=True)
            fresh.rename(self.path / name)
            sync_directory(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            sentence = f"{self.path / name} can't be written: {error.strerror}."
            raise IdentityError("file", sentence) from None

    def _make_directory(self) -> None:
        """Private, and owned like the directory above: what root makes, the worker uses."""
        missing = [each for each in (self.path, *self.path.parents) if not each.exists()]
        for directory in reversed(missing):
            directory.mkdir(mode=0o700, exist_ok=True)
            above = directory.parent.stat()
            if os.geteuid() == 0 and above.st_uid != 0:
                os.chown(directory, above.st_uid, above.st_gid, follow_symlinks=False)

    def _rename(self, name: str, to: str) -> None:
        try:
            (self.path / name).rename(self.path / to)
            sync_directory(self.path)
        except OSError as error:
            sentence = f"{self.path / name} can't become {to}: {error.strerror}."
            raise IdentityError("file", sentence) from None

    def _remove(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
            if self.path.exists():
                sync_directory(self.path)
        except OSError as error:
            sentence = f"{self.path / name} can't be removed: {error.strerror}."
            raise IdentityError("file", sentence) from None
