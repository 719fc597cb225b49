# SPDX-License-Identifier: Apache-2.0
"""What a node remembers of a list of files: what was common, and what contents were hashed.

One file for each list, replaced whole. If it is lost, or can't be read, the node begins as if it
had never been in step: nothing is deleted then, and where the nodes differ the primary's rules and
a copy of the other is kept. So it may always be lost, and is set aside rather than believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from twinbeat.durable import replace_file
from twinbeat.sync.beneath import troubles
from twinbeat.sync.files import Known
from twinbeat.sync.manifest import ENTRIES_MAX

SCHEMA: Final = 1
FILE_MAX: Final = 64 << 20


class Remembered(Struct, kw_only=True):
    """Of one list."""

    name: str = ""
    schema: int = SCHEMA
    common: Annotated[dict[str, str], Meta(max_length=2 * ENTRIES_MAX)] = {}
    """Path -> stamp of what both nodes had there the last time that they were alike."""
    ordered: Annotated[dict[str, str], Meta(max_length=2 * ENTRIES_MAX)] = {}
    """Path -> stamp of what is to be there by the last orders; empty = nothing. Noted before
    they are carried out: whoever is killed in the middle knows by it that what it has is the
    other's as well, and not a change of its own."""
    roots: dict[str, int] = {}
    """Directories that the list begins with -> inode."""
    known: Annotated[dict[str, Known], Meta(max_length=ENTRIES_MAX)] = {}

    def recall(self, present: dict[str, str]) -> None:
        """What was ordered and is there is common: the other had it when the order was given."""
        for path, stamp in list(self.ordered.items()):
            if present.get(path, "") == stamp:
                del self.ordered[path]
                if stamp:
                    self.common[path] = stamp
                else:
                    self.common.pop(path, None)

    def beginning(self, roots: dict[str, int]) -> int:
        """Forget what was common below directories that are others now; returns how many paths.

        An empty directory in place of a full one is a disk that isn't mounted, or a new one, and
        nobody deleted anything. So it is with a directory of the list that isn't there at all.
        """
        lost = {root for root, inode in self.roots.items() if roots.get(root) != inode}
        self.roots = dict(roots)
        forgotten = [
            path
            for path in self.common
            if any(path == root or path.startswith(root + "/") for root in lost)
        ]
        for path in forgotten:
            del self.common[path]
        return len(forgotten)


class Memory:
    """The directory that these files lie in. Everything here blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.set_aside: list[Path] = []
        """What couldn't be read."""

    def load(self, name: str) -> Remembered:
        """What is remembered of a list; nothing if it can't be read."""
        path = self._path(name)
        try:
            if path.stat().st_size <= FILE_MAX:
                found = msgspec.msgpack.decode(path.read_bytes(), type=Remembered)
                if found.schema == SCHEMA and found.name == name:
                    return found
        except FileNotFoundError:
            return Remembered(name=name)
        except (OSError, ValueError, RecursionError):
            pass
        aside = path.with_suffix(f".broken-{time.time_ns()}")
        with contextlib.suppress(OSError):
            path.rename(aside)
            self.set_aside.append(aside)
        return Remembered(name=name)

    def save(self, remembered: Remembered) -> None:
        """Replace the file. Raises Trouble, and the old one stays."""
        path = self._path(remembered.name)
        with troubles(str(path)):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, msgspec.msgpack.encode(remembered))

    def _path(self, name: str) -> Path:
        # A list's name is for people, and may be anything.
        digest = hashlib.blake2s(name.encode(), digest_size=12).hexdigest()
        return self._directory / f"{digest}.files"
