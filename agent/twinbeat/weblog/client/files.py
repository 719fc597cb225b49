# SPDX-License-Identifier: Apache-2.0
"""The files that records are written to, and how they stay exact whatever dies when.

Theory of operation
-------------------
Writing goes in batches. A file is remembered in `state` before the first byte is written to it.
A batch appends to files, syncs them, and only then are their new lengths put into `state`, in one
transaction with the cursors of what is in them. So at every instant a file is at least as long as
`state` says, and what it has beyond that will be pulled once more: `recover` cuts it off, at the
start of the client and after every failure. Nothing is renamed here. When a name would be used
again, the next file has `.0`, `.1`, … behind it.

Somebody else may take a file away (logrotate): a new one is begun under its name with the next
batch. One that was taken away in the very batch that the client died in is looked for in the same
directory, by its inode and the beginning of its name. No other is remembered: file systems give the
inode of a file that is gone to the next one, and cutting that would lose what was acknowledged.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from twinbeat.durable import sync_directory
from twinbeat.weblog.client.state import Kept, State, Stream
from twinbeat.weblog.tail import PACKED

OPEN_MAX: Final = 128
"""Files held open; a record for one more closes the one unused for longest."""
MODE: Final = 0o640
_FLAGS: Final = (
    os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)
_PIECE: Final = 1 << 20


class WriteError(Exception):
    """A file can't be written; nothing of the batch counts. The message is a sentence."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where something is to be written."""

    base: str
    """Path of the file, but for the number behind it."""
    period: str
    """A new file begins with a new one (names.period)."""
    limit: int
    """Bytes after which a new file begins; 0 = none."""
    head: Callable[[], bytes]
    """What a new file begins with."""


@dataclass(slots=True)
class _Open:
    """A file in use."""

    path: str
    descriptor: int
    device: int
    inode: int
    position: int
    """Its length with what is pending."""
    committed: int
    """Its length as `state` has it."""
    pending: list[bytes] = field(default_factory=list)


class Files:
    """All files of a client. Calls block; they raise WriteError or StateError."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._series = state.series()
        self._moved: dict[str, tuple[str, int]] = {}
        """Changes of `_series` that are not in the state yet."""
        self.complaints: list[str] = []
        """What was found wrong; whoever reads them empties the list."""
        self.cut_total = 0
        """Bytes that were cut off by `recover`, as they had not been counted."""
        self.short_total = 0
        """Files that had lost what was on disk already."""

    # -- after a crash ----------------------------------------------------------------------------

    def recover(self) -> None:
        """Every file is again as the state says. To be called first, and after every error."""
        for each in self._open.values():
            with contextlib.suppress(OSError):
                os.close(each.descriptor)
        self._open.clear()
        self._moved.clear()
        self._series = self._state.series()
        files = self._state.files()
        ours = {kept.path for kept in files}
        for kept in files:
            if path := self._where(kept, ours):
                try:
                    self._cut(path, kept)
                except OSError as error:
                    raise _failed(path, error) from None
        if files:
            self._state.forget(ours)

    def _where(self, kept: Kept, ours: set[str]) -> str:
        """The path of a file now; empty = it is not in its directory any more. ``ours``: paths of
        other files of this client's."""
        with contextlib.suppress(OSError):
            found = os.lstat(kept.path)
            if (found.st_dev, found.st_ino) == (kept.device, kept.inode):
                return kept.path
        directory, name = os.path.split(kept.path)
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if entry.inode() != kept.inode or entry.path in ours:
                    continue
                found = entry.stat(follow_symlinks=False)
                same = stat.S_ISREG(found.st_mode) and found.st_dev == kept.device
                if same and entry.name.startswith(name) and not entry.name.endswith(PACKED):
                    return entry.path
        return ""

    def _cut(self, path: str, kept: Kept) -> None:
        length = os.lstat(path).st_size
        if length == kept.length:
            return
        if length < kept.length:
            self.short_total += 1
            self.complaints.append(
                f"{path} has {length} bytes, and {kept.length} had been on the disk: somebody "
                "shortened it, or the disk lost them"
            )
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, kept.length)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.cut_total += length - kept.length

    # -- a batch ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """A batch begins: files that were taken away are left alone from now on."""
        gone = []
        for path, each in list(self._open.items()):
            try:
                found = os.lstat(path)
                same = (found.st_dev, found.st_ino) == (each.device, each.inode)
                if same and found.st_size == each.position:
                    continue
                if same:
                    self.complaints.append(
                        f"{path} has {found.st_size} bytes where {each.position} were written: "
                        "somebody else writes to it or cuts it"
                    )
                    self.short_total += 1
            except OSError:
                pass
            os.close(each.descriptor)
            del self._open[path]
            gone.append(path)
        if gone:
            self._state.forget(gone)

    def append(self, target: Target, chunk: bytes) -> None:
        """Lines for a file, each with its end. They are on the disk after `sync`."""
        while chunk:
            file = self._file(target)
            if not target.limit:
                part, chunk = chunk, b""
            else:
                part, chunk = _fitting(chunk, target.limit - file.position)
                if not part:
                    if file.position > len(target.head()):
                        self._next(target)
                        continue
                    # A line that is larger than a file may be has one for itself.
                    part, _, chunk = chunk.partition(b"\n")
                    part += b"\n"
            file.pending.append(part)
            file.position += len(part)

    def sync(self) -> None:
        """All that was appended is on the disk."""
        for each in self._open.values():
            if each.pending:
                self._flush(each)
        for each in self._open.values():
            if each.position != each.committed:
                try:
                    os.fdatasync(each.descriptor)
                except OSError as error:
                    raise _failed(each.path, error) from None

    def commit(self, cursors: Iterable[tuple[Stream, int]], over: Iterable[Stream] = ()) -> None:
        """What is on the disk counts from now on."""
        changed = [each for each in self._open.values() if each.position != each.committed]
        done = list(self._open)[: max(len(self._open) - OPEN_MAX, 0)]
        self._state.commit(
            cursors,
            [Kept(each.path, each.device, each.inode, each.position) for each in changed],
            [(base, period, number) for base, (period, number) in self._moved.items()],
            over,
            done,
        )
        for each in changed:
            each.committed = each.position
        self._moved.clear()
        for path in done:
            os.close(self._open.pop(path).descriptor)

    def close(self) -> None:
        for each in self._open.values():
            os.close(each.descriptor)
        self._open.clear()

    # -- files ------------------------------------------------------------------------------------

    def _flush(self, each: _Open) -> None:
        data = memoryview(b"".join(each.pending))
        each.pending.clear()
        try:
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                while piece:
                    piece = piece[os.write(each.descriptor, piece) :]
        except OSError as error:
            raise _failed(each.path, error) from None

    def _file(self, target: Target) -> _Open:
        """The open file that a target means now."""
        series = self._series.get(target.base)
        if series is None or target.period > series[0]:
            # What comes late goes on where the newest is.
            began = series is not None and series[0] != ""
            series = (target.period, (series[1] if series else -1) + began)
            self._series[target.base] = self._moved[target.base] = series
        path = _numbered(target.base, series[1])
        found = self._open.get(path)
        if found is None:
            found = self._opened(path)
            if not found.position and (head := target.head()):
                found.pending.append(head)
                found.position += len(head)
        else:
            self._open.move_to_end(path)
        return found

    def _next(self, target: Target) -> None:
        """The file of this target is full."""
        period, number = self._series[target.base]
        self._series[target.base] = self._moved[target.base] = (period, number + 1)

    def _opened(self, path: str) -> _Open:
        """Remembered with the length it has before anything is written to it."""
        directory = os.path.dirname(path)
        try:
            made = _directories(directory)
            descriptor = os.open(path, _FLAGS, MODE)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise WriteError(f"{path} is not a regular file.")
                for each in {directory, *made}:
                    sync_directory(each)
                self._state.begun(Kept(path, found.st_dev, found.st_ino, found.st_size))
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise _failed(path, error) from None
        size = found.st_size
        each_ = _Open(path, descriptor, found.st_dev, found.st_ino, size, size)
        self._open[path] = each_
        return each_


def _fitting(chunk: bytes, room: int) -> tuple[bytes, bytes]:
    """As many whole lines as there is room for, and the rest."""
    if len(chunk) <= room:
        return chunk, b""
    end = chunk.rfind(b"\n", 0, max(room, 0)) + 1
    return chunk[:end], chunk[end:]


def _numbered(base: str, number: int) -> str:
    return base if number < 0 else f"{base}.{number}"


def _directories(path: str) -> list[str]:
    """Make a directory and those above it; what was changed by that."""
    changed = []
    missing = []
    while path and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        os.mkdir(each, 0o750)
        changed.append(os.path.dirname(each))
    return changed


def _failed(path: str, error: OSError) -> WriteError:
    return WriteError(f"{path} can't be written: {error.strerror or error}.")
