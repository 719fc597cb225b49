# SPDX-License-Identifier: Apache-2.0
"""Follows a log file as a web server writes it and logrotate moves it. Calls block for as long as a
file system does.

Theory of operation
-------------------
Whole lines are taken; what has no newline yet waits for it. Where the reader stands (`Position`)
goes into the journal with the records themselves, so after a crash nothing is read twice and
nothing is passed over. A position names the file by its inode and, since inodes are used again, by
a checksum of how it begins.

*Renamed*: the path names another file. The old one is read on, for its writer opens the new one a
moment later, until it was quiet for `QUIET_S`; what still comes in it for `LATE_S` is taken, too.
*Renamed while nobody looked*: the file is looked for beside the path, by inode and beginning, and
those that were rotated after it are read before the path is.
*Shortened*: a machine that lost its power may have lost the end of a file after it had been read.
What is left is compared with what the journal has of it, and what differs is new.
*Copied and truncated*: the file is shorter, or begins otherwise. It is read from its beginning;
what was written between the last look and the copying is looked for in the copy only after a start.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twinbeat.places import is_own
from twinbeat.weblog.block import PAYLOAD_MAX, RECORD_MAX, Block, Position

QUIET_S: Final = 0.5
LATE_S: Final = 60.0
LATE_MOST: Final = 4
HEAD_SIZE: Final = 256
"""Bytes that tell two files with the same inode apart; log lines begin with address and time."""
CHECK_S: Final = 1.0
"""How often it is looked whether a file still begins as it did."""
SIBLINGS_MOST: Final = 1000
NEWLINE: Final = ord("\n")
PACKED: Final = (".gz", ".xz", ".zst", ".bz2", ".lz4", ".zip")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole records of a file."""

    payload: bytes
    count: int
    position: Position
    """After them."""


class Opened:
    """A file that is being read."""

    def __init__(self, descriptor: int, offset: int) -> None:
        status = os.fstat(descriptor)
        self.descriptor = descriptor
        self.key = (status.st_dev, status.st_ino)
        self.offset = offset
        self.head = 0
        self.head_size = 0
        self.learn()

    @property
    def position(self) -> Position:
        return Position(self.key[1], self.offset, self.head, self.head_size)

    def learn(self) -> None:
        """How it begins, as far as it was read."""
        size = min(HEAD_SIZE, self.offset)
        if size > self.head_size:
            self.head = beginning(self.descriptor, size)
            self.head_size = size

    @property
    def begins_as_it_did(self) -> bool:
        return beginning(self.descriptor, self.head_size) == self.head

    def take(self) -> tuple[bytes, int, str]:
        """Whole lines that follow, how many they are, and what was unusual: cut, or nothing."""
        data = os.pread(self.descriptor, PAYLOAD_MAX, self.offset)
        end = data.rfind(b"\n") + 1
        if end:
            data = data[:end]
            self.offset += end
            self.learn()
            return data, data.count(b"\n"), ""
        if len(data) >= PAYLOAD_MAX:
            self.offset += RECORD_MAX
            self.learn()
            return data[:RECORD_MAX] + b"\n", 1, "cut"
        return b"", 0, ""

    def rest(self) -> bytes:
        """What has no newline and won't get one any more, with one."""
        data = os.pread(self.descriptor, RECORD_MAX, self.offset)
        self.offset += len(data)
        return data + b"\n" if data else b""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


class Tail:
    """One source that is a file."""

    def __init__(
        self,
        path: str,
        position: Position | None,
        *,
        history: bool = True,
        recorded: Callable[[], Iterable[Block]] = tuple,
    ) -> None:
        """``position``: where the journal says that it stood; None: it was never read. Then what is
        in it already is taken if ``history``. ``recorded``: the last blocks of it in the journal,
        where the file may have lost something since."""
        self.path = Path(path)
        self.counts: Counter[str] = Counter()
        """renamed, truncated, shortened, missing, cut, unfinished, late, unreadable; all of them
        only grow."""
        self.why = ""
        """Why nothing can be read: a sentence."""
        self._position = position
        self._recorded = recorded
        self._skip = position is None and not history and self.path.exists()
        self._file: Opened | None = None
        self._waiting: deque[tuple[Path, int]] = deque()
        """Files that were rotated while nobody looked, and where to begin, the oldest first."""
        self._late: deque[tuple[Opened, float]] = deque()
        self._quiet_since = 0.0
        self._checked = 0.0

    def poll(self, now_s: float) -> Chunk | None:
        """The next records, or nothing. ``now_s`` is of a clock that never goes back."""
        try:
            return self._poll(now_s)
        except OSError as error:
            self._failed(error)
            return None

    @property
    def behind(self) -> int:
        """Bytes that the file has and nobody has taken; a line without its end is none yet."""
        file = self._file
        if file is None:
            return 0
        try:
            left = max(os.fstat(file.descriptor).st_size - file.offset, 0)
            begun = left <= RECORD_MAX and b"\n" not in os.pread(file.descriptor, left, file.offset)
        except OSError:
            return 0
        return 0 if begun else left

    def close(self) -> None:
        for each, _ in self._late:
            each.close()
        self._late.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    # -- one look ----------------------------------------------------------------------------------

    def _poll(self, now_s: float) -> Chunk | None:
        if self._file is None and not self._open():
            return None
        file = self._file
        assert file is not None
        if now_s - self._checked >= CHECK_S:
            self._checked = now_s
            if os.fstat(file.descriptor).st_size < file.offset or not file.begins_as_it_did:
                self._begin_anew(file)
        payload, count, unusual = file.take()
        if unusual:
            self.counts[unusual] += 1
        if payload:
            self._quiet_since = now_s
            return Chunk(payload, count, file.position)
        if os.fstat(file.descriptor).st_size < file.offset:
            self._begin_anew(file)
            return None
        return self._moved(file, now_s) or self._take_late(now_s, file)

    def _begin_anew(self, file: Opened) -> None:
        self.counts["truncated"] += 1
        file.offset = file.head = file.head_size = 0

    def _moved(self, file: Opened, now_s: float) -> Chunk | None:
        """Go on to the next file, if there is one and this one is quiet."""
        if self._waiting:
            return self._leave(file, now_s)
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None  # Renamed, and there is no new one yet.
        if (status.st_dev, status.st_ino) == file.key:
            self._quiet_since = max(self._quiet_since, now_s)
            return None
        if now_s - self._quiet_since < QUIET_S:
            return None
        self.counts["renamed"] += 1
        return self._leave(file, now_s)

    def _leave(self, file: Opened, now_s: float) -> Chunk | None:
        """Done with a file, but for what may come late; its unfinished line is the last."""
        self._late.append((file, now_s + LATE_S))
        if len(self._late) > LATE_MOST:
            self._late.popleft()[0].close()
        self._file = None
        rest = file.rest()
        if not rest:
            return None
        self.counts["unfinished"] += 1
        return Chunk(rest, 1, file.position)

    def _take_late(self, now_s: float, file: Opened) -> Chunk | None:
        """What was written to a file after it had been left."""
        while self._late and now_s >= self._late[0][1]:
            self._late.popleft()[0].close()
        for late, _ in self._late:
            payload, count, _ = late.take()
            if payload:
                self.counts["late"] += count
                return Chunk(payload, count, file.position)
        return None

    # -- opening -----------------------------------------------------------------------------------

    def _open(self) -> bool:
        if self._position is not None:
            self._waiting.extend(self._found(self._position))
            self._position = None
        path, offset = self._waiting.popleft() if self._waiting else (self.path, 0)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            self.why = ""
            self._skip = False
            return False
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                self.why = f"{path} is not a regular file."
                os.close(descriptor)
                return False
            if is_own(os.readlink(f"/proc/self/fd/{descriptor}")):
                self.why = f"{path} is a link to what belongs to the node itself."
                os.close(descriptor)
                return False
            if self._skip:
                offset, self._skip = os.fstat(descriptor).st_size, False
            self._file = Opened(descriptor, offset)
        except OSError:
            os.close(descriptor)
            raise
        self.why = ""
        return True

    def _found(self, position: Position) -> list[tuple[Path, int]]:
        """Where to go on: the file of the position, and those that came after it."""
        offset = _goes_on(self.path, position, inode=True)
        if offset is not None:
            return [(self.path, self._as_recorded(self.path, position, offset))]
        siblings = self._siblings()
        for inode in (True, False):
            for at, path in enumerate(siblings):
                offset = _goes_on(path, position, inode=inode)
                if offset is not None:
                    if inode:
                        offset = self._as_recorded(path, position, offset)
                    rest = [(path, offset), *((each, 0) for each in siblings[at + 1 :])]
                    return [*rest, (self.path, 0)]
        if position.offset:
            self.counts["missing"] += 1
        return [(self.path, 0)]

    def _as_recorded(self, path: Path, position: Position, offset: int) -> int:
        """How far a file is what was recorded of it. A machine that lost its power may have lost
        the end of a file that had been read already; what was written there since is new."""
        spans = self._spans(position.inode)
        with open(path, "rb", buffering=0) as file:
            for block in self._recorded():
                begins, ends = spans.get((block.epoch, block.first), (0, 0))
                found = os.pread(file.fileno(), ends - begins, begins)
                recorded = block.payload[: ends - begins]
                if found != recorded:
                    self.counts["shortened"] += 1
                    return begins + _alike(found, recorded)
        if offset < position.offset:
            self.counts["shortened"] += 1
        return offset

    def _spans(self, inode: int) -> dict[tuple[int, int], tuple[int, int]]:
        """Which bytes of the file the recorded blocks are, by epoch and first record. Where it had
        lost its end before, the later ones count."""
        spans: list[tuple[int, int, tuple[int, int]]] = []
        end = -1
        for block in self._recorded():
            where, size = block.position, len(block.payload)
            if where.inode != inode:
                spans.clear()
                end = -1
                continue
            begins = where.offset - size
            # Neither a line that came late, in another file, nor one that was given its newline.
            if where.offset != end and begins != end - 1 and begins >= 0:
                while spans and spans[-1][0] >= begins:
                    spans.pop()
                if spans and spans[-1][1] > begins:
                    spans[-1] = (spans[-1][0], begins, spans[-1][2])
                spans.append((begins, where.offset, (block.epoch, block.first)))
            end = where.offset
        return {key: (begins, ends) for begins, ends, key in spans}

    def _siblings(self) -> list[Path]:
        """Rotated files, the oldest first."""
        found: list[tuple[int, Path]] = []
        with contextlib.suppress(OSError), os.scandir(self.path.parent) as entries:
            for entry, _ in zip(entries, range(SIBLINGS_MOST), strict=False):
                name = entry.name
                if (
                    name.startswith(self.path.name)
                    and name != self.path.name
                    and not name.endswith(PACKED)
                    and entry.is_file(follow_symlinks=False)
                ):
                    found.append((entry.stat().st_mtime_ns, Path(entry.path)))
        return [path for _, path in sorted(found)]

    def _failed(self, error: OSError) -> None:
        why = f"{self.path} can't be read: {error.strerror}."
        if why != self.why:
            self.why = why
            self.counts["unreadable"] += 1


def beginning(descriptor: int, size: int) -> int:
    """CRC-32 of so many bytes. Raises OSError."""
    return zlib.crc32(os.pread(descriptor, size, 0)) if size else 0


def _alike(left: bytes, right: bytes) -> int:
    """How much of what was recorded (``right``) a file still has (``left``), in bytes.

    Where something else follows, the line in which it begins counts as new: two log lines begin
    alike more often than not. If its beginning was left over, it stands before what was written
    next, as it does in the file.
    """
    for at, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return at if other == NEWLINE else left.rfind(b"\n", 0, at) + 1
    return min(len(left), len(right))


def _goes_on(path: Path, position: Position, *, inode: bool) -> int | None:
    """Where to go on if it is the file of a position, by inode and beginning or, as a copy, by its
    beginning alone; None: it is another one."""
    tells = position.head_size >= HEAD_SIZE // 4
    if not inode and not tells:
        return None  # Two files that begin with so little alike would be no wonder.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or (inode and status.st_ino != position.inode):
            return None
        if beginning(descriptor, position.head_size) != position.head:
            return None
        if status.st_size >= position.offset:
            return position.offset
        # Truncated, it would begin otherwise: it is the same file, and has lost its end.
        return status.st_size if inode and tells else None
    except OSError:
        return None
    finally:
        os.close(descriptor)
