# SPDX-License-Identifier: Apache-2.0
"""A segment: one file of a journal, which holds blocks of one epoch in order and only ever grows.

It begins with a checkpoint, a block without records that says what would otherwise have been in the
segments before it. Where a file ends within a block, or holds something else from some place on,
what is behind that place can't be believed: `scan` says where it begins. Calls block.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from twinbeat.durable import sync_directory
from twinbeat.weblog.block import (
    BLOCK_MAX,
    CHECKPOINT,
    HEAD,
    NOWHERE,
    Block,
    BlockError,
    Position,
    blocks,
    make,
    parse,
    size_at,
)

SUFFIX: Final = ".blocks"
STEP: Final = 64 << 10
"""One block in so many bytes is found without looking for it."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Records of an epoch that are gone."""

    first: int
    count: int
    reason: str
    """One of `messages.GapReason`."""

    @property
    def next(self) -> int:
        return self.first + self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a segment says of all before it."""

    positions: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    """Where each file's reader stood, by the name of its source."""
    holes: tuple[tuple[int, int, str], ...] = ()
    boot: str = ""
    """The boot of the machine in which the segment was begun."""


@dataclass(slots=True)
class Segment:
    """One file."""

    path: Path
    epoch: int
    first: int
    next: int
    """Sequence of what will follow."""
    size: int
    """Bytes that are known to be good."""
    last_ns: int = 0
    """Unix time at which the newest of its records arrived."""
    index: list[tuple[int, int]] = field(default_factory=list)
    """Sequence and offset of some blocks, growing."""
    holes: list[Hole] = field(default_factory=list)
    """Within it: of a replica, whose node could not give them."""

    def note(self, block: Block, offset: int) -> None:
        """A block was found or is about to be written there."""
        if block.kind == CHECKPOINT:
            return
        if block.first > self.next:
            self.holes.append(Hole(self.next, block.first - self.next, "unknown"))
        if not self.index or offset - self.index[-1][1] >= STEP:
            self.index.append((block.first, offset))
        self.next = block.next
        self.last_ns = max(self.last_ns, block.received_ns)

    def view(self, wanted: int) -> View:
        """What is known of it now, for a reader that looks for that record."""
        at = bisect_right(self.index, (wanted, 1 << 63)) - 1
        offset = self.index[at][1] if at >= 0 else 0
        return View(self.path, self.first, self.next, offset, self.size)


@dataclass(frozen=True, slots=True)
class View:
    """A segment as it was at one time, for a reader beside the writer."""

    path: Path
    first: int
    next: int
    offset: int
    """Where to begin to look."""
    size: int

    def read(self, wanted: int, bytes_max: int) -> list[Block]:
        """Blocks from that which holds the record ``wanted`` or follows it, at least one.

        Raises OSError, and BlockError where the file holds something else.
        """
        most = STEP + 3 * BLOCK_MAX + bytes_max
        with open(self.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), min(self.size - self.offset, most), self.offset)
        found: list[Block] = []
        here = taken = 0
        try:
            while len(data) - here >= HEAD.size:
                size = size_at(data, here)
                if here + size > len(data):
                    break
                if _is_wanted(data, here, wanted):
                    if found and taken + size > bytes_max:
                        break
                    found.append(parse(data, here))
                    taken += size
                here += size
        except BlockError:
            # What comes before it is in order; who asks for it hears of it.
            if not found:
                raise
        if not found:
            raise BlockError("short")
        return found


def _is_wanted(data: bytes, at: int, wanted: int) -> bool:
    _, _, _, kind, _, _, _, first, count, *_ = HEAD.unpack_from(data, at)
    return bool(kind != CHECKPOINT and first + count > wanted)


def name_of(epoch: int, first: int) -> str:
    """What a segment's file is called."""
    return f"{epoch:020d}-{first:020d}{SUFFIX}"


def begin(
    directory: Path, *, node: str, epoch: int, first: int, checkpoint: Checkpoint, now_ns: int
) -> Segment:
    """A new segment, durable with its checkpoint. Raises OSError; then there is no such file."""
    path = directory / name_of(epoch, first)
    said = msgspec.json.encode(checkpoint) + b"\n"
    block = make(
        node=node,
        epoch=epoch,
        first=first,
        source="",
        payload=said,
        received_ns=now_ns,
        count=0,
        kind=CHECKPOINT,
    )
    try:
        with open(path, "xb", buffering=0) as file:
            file.write(block.raw)
            os.fsync(file.fileno())
        sync_directory(directory)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return Segment(path, epoch, first, first, len(block.raw), now_ns)


@dataclass(slots=True)
class Scanned:
    """What a file holds."""

    segment: Segment
    positions: dict[str, Position]
    """After the last block of each source in it."""
    checkpoint: Checkpoint | None
    """None: it holds none, so it is no segment."""
    strange: int
    """Bytes behind what can be believed; 0: all of it can."""


def scan(path: Path, node: str) -> Scanned:
    """Read a whole file and believe what is in order. Raises OSError."""
    epoch, _, first = path.name.removesuffix(SUFFIX).partition("-")
    segment = Segment(path, int(epoch), int(first), int(first), 0)
    found = Scanned(segment, {}, None, 0)
    data = path.read_bytes()
    try:
        for offset, block in blocks(data):
            if block.node != node or block.epoch != segment.epoch or block.first < segment.next:
                break
            if (offset == 0) != (block.kind == CHECKPOINT):
                break
            if block.kind == CHECKPOINT:
                found.checkpoint = msgspec.json.decode(block.payload, type=Checkpoint)
                segment.last_ns = block.received_ns
            segment.note(block, offset)
            if block.position != NOWHERE:
                found.positions[block.source] = block.position
            segment.size = offset + len(block.raw)
    except (BlockError, msgspec.DecodeError):
        pass  # What comes from here on is told by `strange`.
    found.strange = len(data) - segment.size
    return found
