# SPDX-License-Identifier: Apache-2.0
"""Whom the log server admits: certificates of log clients, kept by their fingerprints.

The shared document says which fingerprints are allowed; a certificate itself comes from its owner
(`weblog.messages`), once, and is kept in a directory of this node's.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from twinbeat.sync.identity import IdentityError, examine
from twinbeat.sync.shown import printable
from twinbeat.weblog.messages import Problem
from twinbeat.weblog.shown import Stranger

log = logging.getLogger("twinbeat.worker")

STRANGERS_MOST: Final = 8
_FILE: Final = re.compile(r"[0-9a-f]{64}\.crt")


class Guests:
    """Calls block for a few milliseconds at most."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.allowed: dict[str, str] = {}
        """Name by fingerprint."""
        self.known: dict[str, bytes] = {}
        """DER by fingerprint, of those that are allowed."""
        self.strangers: dict[str, Stranger] = {}
        self._kept: dict[str, bytes] = {}

    def load(self) -> None:
        """Read what is kept; what isn't whole is passed over. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._directory.iterdir():
            if _FILE.fullmatch(path.name):
                der = path.read_bytes()
                if _fingerprint(der) == path.stem:
                    self._kept[path.stem] = der

    def allow(self, allowed: Mapping[str, str]) -> None:
        """These, and nobody else. The files of others go."""
        self.allowed = dict(allowed)
        self.known = {each: der for each, der in self._kept.items() if each in allowed}
        for fingerprint in self._kept.keys() - allowed.keys():
            del self._kept[fingerprint]
            try:
                (self._directory / f"{fingerprint}.crt").unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s: %s", self._directory, error.strerror)
        self.strangers = {
            each: stranger for each, stranger in self.strangers.items() if each not in allowed
        }

    def introduced(self, der: bytes, address: str) -> Problem | None:
        """Keep a certificate, or say why not."""
        fingerprint = _fingerprint(der)
        try:
            certificate = examine(der)
        except IdentityError as error:
            return Problem(code="not_allowed", sentence=error.sentence)
        name = printable(certificate.name)
        if fingerprint not in self.allowed:
            self.strangers.pop(fingerprint, None)
            self.strangers[fingerprint] = Stranger(
                fingerprint=fingerprint, name=name, address=address, asked_s=time.time()
            )
            while len(self.strangers) > STRANGERS_MOST:
                del self.strangers[next(iter(self.strangers))]
            admits = f"`twinbeat weblog allow {name} {fingerprint}` on either node admits it"
            return Problem(
                code="not_allowed", sentence=f"This client is not allowed here; {admits}."
            )
        if not certificate.is_valid(time.time()):
            sentence = "The certificate is not valid at this time: compare the clocks."
            return Problem(code="expired", sentence=sentence)
        try:
            self._keep(fingerprint, der)
        except OSError as error:
            sentence = f"The certificate can't be kept: {error.strerror}."
            return Problem(code="unavailable", sentence=sentence)
        return None

    def who(self, connection: ssl.SSLObject) -> str | None:
        """Fingerprint of whoever is there; empty without a certificate, None for one that may not
        (any more)."""
        der = connection.getpeercert(binary_form=True)
        if der is None:
            return ""
        fingerprint = _fingerprint(der)
        return fingerprint if fingerprint in self.known else None

    def _keep(self, fingerprint: str, der: bytes) -> None:
        path = self._directory / f"{fingerprint}.crt"
        fresh = path.with_suffix(".new")
        fresh.write_bytes(der)
        with open(fresh, "rb") as file:
            os.fsync(file.fileno())
        fresh.rename(path)
        self._kept[fingerprint] = self.known[fingerprint] = der


def _fingerprint(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()
