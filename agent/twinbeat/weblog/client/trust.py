# SPDX-License-Identifier: Apache-2.0
"""Which certificates a node may show: that of `log.conf`, and those that it announced under it.

A node's certificate is renewed after some years. Whoever is known names its successor beforehand;
its fingerprint is kept here, in one small file for each entry of log.conf.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from twinbeat.durable import replace_file

SUCCESSORS_MAX: Final = 4
"""Of one entry; the oldest goes first."""
_LINE: Final = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger("twinbeat.weblog.client")


class Trust:
    """A directory with the successors of each entry's certificate."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def of(self, fingerprint: str) -> set[str]:
        """The fingerprints that are good for an entry."""
        return {fingerprint, *self._successors(fingerprint)}

    def learn(self, fingerprint: str, certificates: Iterable[bytes]) -> None:
        """A node that is believed names those that it shows, or will show."""
        known = self._successors(fingerprint)
        fresh = [hashlib.sha256(der).hexdigest() for der in certificates]
        new = [each for each in fresh if each != fingerprint and each not in known]
        if not new:
            return
        kept = [*known, *new][-SUCCESSORS_MAX:]
        file = self._directory / fingerprint
        try:
            self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            replace_file(file, "".join(f"{each}\n" for each in kept).encode())
        except OSError as error:
            # It is named again with the next greeting.
            log.warning("%s can't be written: %s", file, error.strerror)

    def _successors(self, fingerprint: str) -> list[str]:
        with contextlib.suppress(OSError):
            lines = (self._directory / fingerprint).read_text().split()
            return [line for line in lines if _LINE.fullmatch(line)]
        return []
