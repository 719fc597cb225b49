# SPDX-License-Identifier: Apache-2.0
"""A journal: all records of one node that are on this one's disk, its own or a replica.

Theory of operation
-------------------
A directory of segments (`segment`), a few per epoch. `append` writes blocks behind each other and
returns when they are durable; what it was given is in the journal wholly or, if it raises, not at
all. `open` reads everything once: what is not in order at a segment's end is cut and set aside
under another name, so that nobody takes it for records and nobody loses it. Whether the cut part
had been durable can't be known, so the node begins a new epoch then, and no number is used twice.

Where the disk, or the room that the journal may take, is full, `append` raises `JournalError`,
``full``; whether the oldest have to go (`drop_oldest`) is the caller's policy. What goes otherwise
than acknowledged leaves a hole with a reason.

`append`, `drop_oldest`, `trim`, `expire` and `begin` are called by one thread; `read`, `marks` and
`holes` by any.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twinbeat.durable import sync_directory
from twinbeat.weblog.block import Block, BlockError, Position
from twinbeat.weblog.block import blocks as all_blocks
from twinbeat.weblog.refusal import JournalError, refused, spare
from twinbeat.weblog.segment import (
    SUFFIX,
    Checkpoint,
    Hole,
    Scanned,
    Segment,
    View,
    begin,
    scan,
)

ASIDE: Final = ".damaged"
ASIDE_MOST: Final = 4
"""Damaged ends that are kept for whoever wants to look at them."""
HOLES_MOST: Final = 64
"""Remembered per journal; of more, neighbours become one."""
EPOCHS_MOST: Final = 28
"""Of a node; the records of older ones go."""
FOR_EVER_NS: Final = 1 << 63
_SEGMENT: Final = re.compile(r"[0-9]{20}-[0-9]{20}" + re.escape(SUFFIX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """How much there is of an epoch."""

    epoch: int
    oldest: int
    durable: int
    """Sequence of what will follow."""


class Journal:
    """Opened by `open`, closed by `close`."""

    def __init__(self, directory: Path, node: str, *, size_max: int, boot: str = "") -> None:
        """``size_max`` bounds all files together, in bytes; ``boot`` names the run of this
        machine's kernel, as what it wrote before it ended can't be relied on."""
        self.node = node
        self.counts: Counter[tuple[str, str]] = Counter()
        """(what, which): dropped, cut, aside, error; records, bytes or times."""
        self.positions: dict[str, Position] = {}
        """Of the files' readers, after the last block of each source."""
        self.placed: dict[int, set[str]] = {}
        """By epoch: the sources that are files and have records in it, as it was opened."""
        self.size_max = size_max
        self._directory = directory
        self._boot = boot
        self._lock = threading.Lock()
        """Of the segments, which readers look at."""
        self._epochs: dict[int, list[Segment]] = {}
        """All segments of each epoch, in order; the last one is being written."""
        self._holes: dict[int, list[Hole]] = {}
        self._ended: dict[int, int] = {}
        """Where epochs ended that are not there any more, those that were told of last."""
        self._files: dict[int, int] = {}
        """Of the segments that are being written, where they were since the start."""

    # -- opening -----------------------------------------------------------------------------------

    def open(self) -> tuple[list[str], bool]:
        """Read what there is: sentences about what was wrong, and whether the newest epoch can be
        continued. Raises JournalError."""
        complaints: list[str] = []
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            scanned = self._scan(complaints)
        except OSError as error:
            raise self._failed(error) from None
        sound = bool(scanned) and not complaints
        latest = scanned[-1].checkpoint if scanned else None
        sound = sound and latest is not None and latest.boot == self._boot
        return complaints, sound

    def _scan(self, complaints: list[str]) -> list[Scanned]:
        names = sorted(each for each in os.listdir(self._directory) if _SEGMENT.fullmatch(each))
        scanned: list[Scanned] = []
        for name in names:
            path = self._directory / name
            found = scan(path, self.node)
            if found.strange or found.checkpoint is None:
                complaints.append(self._set_aside(found))
            if found.checkpoint is None:
                continue
            self._take(found)
            scanned.append(found)
        for segments in self._epochs.values():
            # Who wrote it may have been killed before it was durable, and it is taken to be now.
            with open(segments[-1].path, "rb") as file:
                os.fsync(file.fileno())
        return scanned

    def _take(self, found: Scanned) -> None:
        segment = found.segment
        before = self._epochs.setdefault(segment.epoch, [])
        assert found.checkpoint is not None
        for noted in found.checkpoint.holes:
            self._remember(segment.epoch, Hole(*noted))
        if before and segment.first > before[-1].next:
            missing = segment.first - before[-1].next
            self._remember(segment.epoch, Hole(before[-1].next, missing, "damaged"))
        for hole in segment.holes:
            self._remember(segment.epoch, hole)
        before.append(segment)
        for source, noted_at in found.checkpoint.positions.items():
            where, known = Position(*noted_at), self.positions.get(source)
            # Records that came back from the peer are older than a checkpoint, and know more.
            if known is None or known.inode != where.inode or known.offset < where.offset:
                self.positions[source] = where
        self.positions.update(found.positions)
        if found.positions:
            self.placed.setdefault(segment.epoch, set()).update(found.positions)

    def _set_aside(self, found: Scanned) -> str:
        """Cut what can't be believed, and keep it under another name. Raises OSError."""
        segment = found.segment
        old = sorted(self._directory.glob(f"*{ASIDE}"), key=lambda each: each.stat().st_mtime)
        for each in old[: max(len(old) - ASIDE_MOST + 1, 0)]:
            each.unlink()
        aside = segment.path.with_name(f"{segment.path.name}-{segment.size}{ASIDE}")
        if found.checkpoint is None:
            segment.path.rename(aside)
        else:
            with open(segment.path, "r+b", buffering=0) as file:
                with contextlib.suppress(OSError):  # A full disk is no reason not to begin.
                    aside.write_bytes(os.pread(file.fileno(), found.strange, segment.size))
                file.truncate(segment.size)
                os.fsync(file.fileno())
        sync_directory(self._directory)
        self.counts["cut", "bytes"] += found.strange
        self.counts["cut", "times"] += 1
        return (
            f"{segment.path} had {found.strange} bytes behind byte {segment.size} that are no "
            f"records, as after a power failure: they were cut and are kept in {aside.name}"
        )

    # -- writing -----------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        with self._lock:
            return sum(each.size for epoch in self._epochs.values() for each in epoch)

    @property
    def _segment_max(self) -> int:
        return max(1 << 20, min(16 << 20, self.size_max // 8))

    def append(self, blocks: Sequence[Block], *, now_ns: int) -> None:
        """Make blocks durable. They follow each other in each epoch, or a hole becomes of it.

        Raises JournalError; none of the blocks is in the journal then, but for those of an epoch
        whose turn was over, which may be given again and are passed over.
        """
        size = sum(len(each.raw) for each in blocks)
        if self.size + size > self.size_max:
            raise JournalError(
                "full", f"{self._directory} holds as much as it may: {self.size_max} bytes."
            )
        try:
            spare(self._directory, size)
        except OSError as error:
            raise self._failed(error) from None
        at = 0
        while at < len(blocks):
            end = at + 1
            while end < len(blocks) and blocks[end].epoch == blocks[at].epoch:
                end += 1
            self._append(blocks[at].epoch, blocks[at:end], now_ns)
            at = end

    def _append(self, epoch: int, blocks: Sequence[Block], now_ns: int) -> None:
        tail = self._tail(epoch)
        fresh = [each for each in blocks if tail is None or each.first >= tail.next]
        if not fresh:
            return
        if tail is None or tail.size >= self._segment_max or epoch not in self._files:
            tail = self.begin(epoch, fresh[0].first if tail is None else tail.next, now_ns)
        file = self._files[epoch]
        data = b"".join([each.raw for each in fresh])
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            os.fdatasync(file)
        except OSError as error:
            self._abandon(epoch, tail)
            raise self._failed(error) from None
        with self._lock:
            for block in fresh:
                tail.note(block, tail.size)
                tail.size += len(block.raw)
                if block.position.inode:
                    self.positions[block.source] = block.position

    def _abandon(self, epoch: int, tail: Segment) -> None:
        """A write failed, so the kernel may have lost pages: nothing is appended to this file any
        more, and what may be there of it goes."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._files[epoch], tail.size)
        self._let_go(epoch)

    def begin(self, epoch: int, first: int, now_ns: int) -> Segment:
        """A new segment, also the first one of an epoch. Raises JournalError."""
        tail = self._tail(epoch)
        if tail is not None and tail.first == first:
            return self._resume(epoch, tail)
        with self._lock:
            holes = tuple(
                (each.first, each.count, each.reason) for each in self._holes.get(epoch, ())
            )
        positions = {
            source: (where.inode, where.offset, where.head, where.head_size)
            for source, where in self.positions.items()
        }
        checkpoint = Checkpoint(positions=positions, holes=holes, boot=self._boot)
        try:
            segment = begin(
                self._directory,
                node=self.node,
                epoch=epoch,
                first=first,
                checkpoint=checkpoint,
                now_ns=now_ns,
            )
            self._let_go(epoch)
            self._files[epoch] = os.open(segment.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise self._failed(error) from None
        with self._lock:
            self._epochs.setdefault(epoch, []).append(segment)
        return segment

    def _resume(self, epoch: int, tail: Segment) -> Segment:
        """Go on with a segment that holds nothing yet."""
        try:
            self._let_go(epoch)
            self._files[epoch] = os.open(tail.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            os.ftruncate(self._files[epoch], tail.size)
        except OSError as error:
            self._let_go(epoch)
            raise self._failed(error) from None
        return tail

    def _let_go(self, epoch: int) -> None:
        if epoch in self._files:
            with contextlib.suppress(OSError):
                os.close(self._files.pop(epoch))

    def _tail(self, epoch: int) -> Segment | None:
        segments = self._epochs.get(epoch)
        return segments[-1] if segments else None

    def _failed(self, error: OSError) -> JournalError:
        failed = refused(self._directory, error)
        self.counts["error", failed.code] += 1
        return failed

    # -- making room -------------------------------------------------------------------------------

    def drop_oldest(self, reason: str = "full") -> int:
        """Give up the oldest segment that is not being written; how many records that were, or -1
        where there is none."""
        for epoch in sorted(self._epochs):
            if len(self._epochs[epoch]) > 1 or epoch != max(self._epochs):
                return self._drop(epoch, reason)
        return -1

    def trim(self, epoch: int, below: int, spare_ns: int = FOR_EVER_NS) -> None:
        """Free what was acknowledged: segments of which nothing from ``below`` on is in, nor from
        that Unix time on, unless the journal is half full."""
        while (segments := self._epochs.get(epoch)) and segments[0].next <= below:
            if len(segments) == 1 and epoch == max(self._epochs):
                return
            if segments[0].last_ns >= spare_ns and self.size <= self.size_max // 2:
                return
            self._drop(epoch, "acknowledged")

    def expire(self, before_ns: int) -> None:
        """Give up what arrived before that Unix time."""
        for epoch in sorted(self._epochs):
            while (segments := self._epochs.get(epoch)) and segments[0].last_ns < before_ns:
                if len(segments) == 1 and epoch == max(self._epochs):
                    return
                self._drop(epoch, "age")
        while len(self._epochs) > EPOCHS_MOST:
            self._drop(min(self._epochs), "full")

    def _drop(self, epoch: int, reason: str) -> int:
        segment = self._epochs[epoch][0]
        if len(self._epochs[epoch]) == 1:
            self._let_go(epoch)
        with contextlib.suppress(OSError):
            segment.path.unlink()
        dropped = segment.next - segment.first
        with self._lock:
            del self._epochs[epoch][0]
            if not self._epochs[epoch]:
                del self._epochs[epoch]
                self._ended[epoch] = segment.next
                while len(self._ended) > HOLES_MOST:
                    del self._ended[min(self._ended)]
                self._holes.pop(epoch, None)
            elif dropped:
                self._remember(epoch, Hole(segment.first, dropped, reason))
        if dropped:
            self.counts["dropped", reason] += dropped
        return dropped

    def skip(self, epoch: int, hole: Hole) -> None:
        """The node can't give these any more, and said why."""
        with self._lock:
            self._remember(epoch, hole)

    def ended(self) -> dict[int, int]:
        """Where epochs ended of which nothing is left, those that went last."""
        with self._lock:
            return dict(self._ended)

    def cursor(self, epoch: int) -> int | None:
        """What is to follow in an epoch; None: nothing was ever known of it."""
        with self._lock:
            if segments := self._epochs.get(epoch):
                return segments[-1].next
            return self._ended.get(epoch)

    def _remember(self, epoch: int, hole: Hole) -> None:
        holes = self._holes.setdefault(epoch, [])
        if any(each.first <= hole.first and hole.next <= each.next for each in holes):
            return
        if holes and holes[-1].next == hole.first and holes[-1].reason == hole.reason:
            hole = Hole(holes[-1].first, holes[-1].count + hole.count, hole.reason)
            holes.pop()
        holes.append(hole)
        holes.sort(key=lambda each: each.first)
        del holes[:-HOLES_MOST]

    # -- reading -----------------------------------------------------------------------------------

    def marks(self) -> list[Marks]:
        """Of every epoch, in order."""
        with self._lock:
            return [
                Marks(epoch=epoch, oldest=segments[0].first, durable=segments[-1].next)
                for epoch, segments in sorted(self._epochs.items())
            ]

    def read(self, epoch: int, wanted: int, bytes_max: int) -> tuple[Hole | None, list[Block]]:
        """What there is from a record on: a hole that begins with it, if there is one, and the
        blocks that follow; neither where there is nothing (yet)."""
        hole: Hole | None = None
        with self._lock:
            views = self._views(epoch, wanted, bytes_max)
        if not views:
            return None, []
        if wanted < views[0].first:
            hole = self._hole(epoch, wanted, views[0].first)
            if hole.next < views[0].first:
                return hole, []
            wanted = hole.next
        found: list[Block] = []
        taken = 0
        for view in views:
            try:
                read = view.read(wanted, max(bytes_max - taken, 0))
            except FileNotFoundError:
                # It was freed just now: whoever asks again finds out.
                return hole, found
            except OSError as error:
                if error.errno != errno.EIO:
                    # No descriptor or no memory just now is no word about what is on the disk.
                    self.counts["error", "unread"] += 1
                    return hole, found
                return self._unreadable(view, wanted, hole, found)
            except BlockError:
                return self._unreadable(view, wanted, hole, found)
            if read[0].first > wanted:
                if found or hole is not None:
                    return hole, found
                hole = self._hole(epoch, wanted, read[0].first)
                if hole.next < read[0].first:
                    return hole, []
            for block in read:
                # A segment gives one block at least, and all of an answer go in one frame.
                too_much = taken + len(block.raw) > bytes_max
                if found and (too_much or block.first != found[-1].next):
                    return hole, found
                found.append(block)
                taken += len(block.raw)
            wanted = found[-1].next
            if taken >= bytes_max or wanted < view.next:
                break
        return hole, found

    def _views(self, epoch: int, wanted: int, bytes_max: int) -> list[View]:
        """The segments that so much is read from."""
        views: list[View] = []
        size = 0
        for segment in self._epochs.get(epoch, ()):
            if segment.next > max(wanted, segment.first):
                views.append(view := segment.view(wanted))
                size += view.size - view.offset
                if size > 2 * bytes_max:
                    break
        return views

    def _unreadable(
        self, view: View, wanted: int, hole: Hole | None, found: list[Block]
    ) -> tuple[Hole | None, list[Block]]:
        """A segment gave back something else than was written: its rest is passed over."""
        self.counts["error", "damaged"] += 1
        if found or hole is not None:
            return hole, found
        return Hole(wanted, view.next - wanted, "damaged"), []

    def recent(self, source: str, bytes_max: int) -> Iterator[Block]:
        """The last blocks of a source, in order, as far as they are in so many bytes of segments.

        What can't be read is left out.
        """
        with self._lock:
            segments = [each for _, all_ in sorted(self._epochs.items()) for each in all_]
        size = 0
        for at in range(len(segments) - 1, -1, -1):
            size += segments[at].size
            if size > bytes_max:
                segments = segments[at:]
                break
        for segment in segments:
            try:
                data = segment.path.read_bytes()[: segment.size]
                for _, block in all_blocks(data):
                    if block.source == source and block.count:
                        yield block
            except (OSError, BlockError):
                continue

    def _hole(self, epoch: int, first: int, end: int) -> Hole:
        """Why the records from ``first`` to ``end`` are not here."""
        with self._lock:
            for each in self._holes.get(epoch, ()):
                if each.first <= first < each.next:
                    return Hole(first, min(end, each.next) - first, each.reason)
                if first < each.first < end:
                    end = each.first
        return Hole(first, end - first, "unknown")

    def close(self) -> None:
        """All that was appended is on the disk already."""
        for epoch in list(self._files):
            self._let_go(epoch)


def opened(
    directory: Path, node: str, *, size_max: int, boot: str, now_ns: Callable[[], int]
) -> tuple[Journal, list[str], Marks | None]:
    """A node's own journal, with an epoch to write in; sentences about what was wrong, and where
    the last epoch with records of files ended if that can't be relied on: until another one has
    such, whoever opens the journal anew can't know more. Raises JournalError."""
    journal = Journal(directory, node, size_max=size_max, boot=boot)
    complaints, sound = journal.open()
    marks = {each.epoch: each for each in journal.marks()}
    newest = max(marks, default=0)
    last = max(journal.placed, default=newest)
    if not sound:
        now = now_ns()
        journal.begin(max(newest + 1, now // 1_000_000_000), 0, now)
    elif last == newest:
        return journal, complaints, None
    return journal, complaints, marks.get(last)
