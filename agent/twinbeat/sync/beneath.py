# SPDX-License-Identifier: Apache-2.0
"""The way to a file of a list: from `/`, name by name, and through no symbolic link.

Whoever holds a descriptor of a directory holds that directory, whatever becomes of its name; so a
directory that is swapped for a symbolic link meanwhile leads nowhere else. There is one way to a
path, `Tree.parent`, and it asks the list first.

`Trouble` is what goes wrong with one path: a code that is counted, and a sentence.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from twinbeat.sync.lists import FileList, components
from twinbeat.sync.shown import printable

SENTENCE_MAX: Final = 1024
"""Characters; the end of a sentence says what is wrong with a long path."""
DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

CODES: Final = {
    "busy": "it changed while it was read",
    "changed": "it was changed meanwhile",
    "escape": "its path isn't one of the list, or leads over a symbolic link",
    "full": "the disk is full",
    "io": "the disk failed",
    "kind": "it is no file, directory or symbolic link",
    "limit": "it is too large, or there are too many",
    "lost": "the connection was lost",
    "missing": "a directory on its way isn't there",
    "name": "its name or owner can't be written down, or is too long",
    "not_empty": "the directory has files that aren't in the list",
    "other": "the system refused for another reason",
    "permission": "the worker may not do that",
    "read_only": "the file system is read-only",
}
"""What can be wrong with a path."""

_BY_NUMBER: Final = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read_only",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.ELOOP: "escape",
    errno.ENOTDIR: "escape",
    errno.EISDIR: "changed",
    errno.ENOENT: "missing",
    errno.ENOTEMPTY: "not_empty",
    errno.EEXIST: "not_empty",
    errno.ENAMETOOLONG: "name",
    errno.EILSEQ: "name",
    errno.EIO: "io",
    errno.EFBIG: "limit",
}


class Trouble(Exception):  # noqa: N818 - it is one path's, and the others go on
    """Nothing can be done about this path now."""

    def __init__(self, code: str, path: str, sentence: str = "") -> None:
        assert code in CODES
        self.code = code
        self.path = path
        self.sentence = (sentence or f"{printable(path)}: {CODES[code]}.")[-SENTENCE_MAX:]
        super().__init__(self.sentence)

    @classmethod
    def of(cls, error: OSError, path: str) -> Trouble:
        """What the system said about a path."""
        code = _BY_NUMBER.get(error.errno or 0, "other")
        said = os.strerror(error.errno) if error.errno else "no reason given"
        what = CODES[code] if code != "other" else "the system refused"
        return cls(code, path, f"{printable(path)}: {what} ({said}).")


@contextlib.contextmanager
def troubles(path: str) -> Iterator[None]:
    """What the system refuses in here is this path's trouble; so is what it can't even be told."""
    try:
        yield
    except OSError as error:
        raise Trouble.of(error, path) from None
    except (OverflowError, ValueError):
        raise Trouble("name", path) from None


class Tree:
    """Where paths begin: `/`, or the directory that stands for it."""

    def __init__(self, top: str = "/") -> None:
        self._top = top

    @contextlib.contextmanager
    def directory(self, parts: Sequence[str]) -> Iterator[int]:
        """A descriptor of a directory, good for reaching what is in it. Raises OSError."""
        descriptor = os.open(self._top, DIRECTORY)
        try:
            for part in parts:
                following = os.open(part, DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = following
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def parent(self, files: FileList, path: str) -> Iterator[tuple[int, str]]:
        """The directory that a path of the list lies in, and its name there. Raises Trouble."""
        parts = components(path)
        if parts is None or not files.covers(path):
            sentence = f"{printable(path)} isn't a path of the list {files.name!r}."
            raise Trouble("escape", path, sentence)
        with troubles(path), self.directory(parts[:-1]) as descriptor:
            yield descriptor, parts[-1]


class Tally:
    """Counts what happens in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, what: str, by: int = 1) -> None:
        """So often more."""
        with self._lock:
            self._counts[what] += by

    def drain(self) -> Counter[str]:
        """What was counted since the last time."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return counts
