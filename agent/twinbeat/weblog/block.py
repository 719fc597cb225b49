# SPDX-License-Identifier: Apache-2.0
"""Blocks: the unit in which log records are kept, replicated and pulled. Pure.

A block holds records of one source that arrived together. It is made once, at collection, and its
bytes never change: journals, replicas and messages carry it as it is, so that nothing is done per
record on the way. On disk as on the wire it is

    head      `HEAD`: magic, CRC-32 of all that follows it, version, kind, lengths, numbers
    node      name of the node that collected it, UTF-8
    source    name of the source there, UTF-8
    payload   `count` records, each ended by one newline

Integers are big endian. A record never contains a newline (one that came within a syslog message
is written as backslash and n); any other byte may occur, and no encoding is promised. A record is
known everywhere by (node, epoch, sequence); that of record i of a block is ``first + i``. Sequences
begin with 0 and have no holes within an epoch. A node begins a new, higher epoch when its journal
starts anew or was damaged; so no number ever means two records.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAGIC: Final = b"TBL\x01"
"""Also what a reader looks for behind a damaged place."""
VERSION: Final = 1
HEAD: Final = struct.Struct(">4sIBBBBQQIIQQQII")
"""magic, crc, version, kind, bytes of node and source, epoch, first, count, bytes of payload,
received, and where the source's reader stands after it: inode, offset, CRC-32 of the beginning of
the file, and how many bytes that is of."""
CHECKED: Final = 8
"""Offset at which what the CRC is of begins."""
NAME_MAX: Final = 63
"""Bytes of a node's or a source's name."""
PAYLOAD_MAX: Final = 256 << 10
"""Bytes of records in one block."""
RECORD_MAX: Final = PAYLOAD_MAX - 1
"""Bytes of a record without its newline. A longer one is cut into several, and that is counted."""
COUNT_MAX: Final = PAYLOAD_MAX
BLOCK_MAX: Final = HEAD.size + 2 * NAME_MAX + PAYLOAD_MAX

RECORDS: Final = 0
CHECKPOINT: Final = 1
"""No records: what a journal notes for itself. It is in no message."""


class BlockError(Exception):
    """These bytes are no block. ``code``: short, alien, oversized, crc or shape."""

    def __init__(self, code: str) -> None:
        super().__init__(f"no block: {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Position:
    """Where a file's reader stands; all 0 for what is no file."""

    inode: int = 0
    offset: int = 0
    """Bytes of it that were taken."""
    head: int = 0
    """CRC-32 of its first `head_size` bytes, as another file may get the inode."""
    head_size: int = 0


NOWHERE: Final = Position()


@dataclass(frozen=True, slots=True)
class Block:
    """A block and its bytes."""

    node: str
    epoch: int
    first: int
    """Sequence of its first record."""
    count: int
    source: str
    received_ns: int
    """Unix time of its arrival on the node that collected it."""
    position: Position
    kind: int
    raw: bytes
    """All of it, as it is on disk and on the wire."""
    start: int
    """Of the payload, in `raw`."""

    @property
    def next(self) -> int:
        """Sequence of what follows it."""
        return self.first + self.count

    @property
    def payload(self) -> bytes:
        """The records, each with its newline."""
        return self.raw[self.start :]

    def records(self) -> list[bytes]:
        """The records without their newlines."""
        return self.payload[:-1].split(b"\n") if self.count else []


def make(
    *,
    node: str,
    epoch: int,
    first: int,
    source: str,
    payload: bytes,
    received_ns: int,
    position: Position = NOWHERE,
    count: int = -1,
    kind: int = RECORDS,
) -> Block:
    """A new block. ``payload`` ends with a newline; ``count`` spares counting them once more."""
    name, origin = node.encode(), source.encode()
    assert len(name) <= NAME_MAX
    assert len(origin) <= NAME_MAX
    assert len(payload) <= PAYLOAD_MAX
    if count < 0:
        count = payload.count(b"\n")
    head = HEAD.pack(
        MAGIC,
        0,
        VERSION,
        kind,
        len(name),
        len(origin),
        epoch,
        first,
        count,
        len(payload),
        received_ns,
        position.inode,
        position.offset,
        position.head,
        position.head_size,
    )
    body = b"".join((head[CHECKED:], name, origin, payload))
    raw = b"".join((MAGIC, zlib.crc32(body).to_bytes(4, "big"), body))
    start = HEAD.size + len(name) + len(origin)
    return Block(node, epoch, first, count, source, received_ns, position, kind, raw, start)


def size_at(data: bytes | bytearray | memoryview, offset: int = 0) -> int:
    """Bytes of the block that begins there, by its head alone.

    Raises BlockError: ``short`` where the head isn't whole, ``alien`` where none begins, and
    ``oversized``, ``shape`` where the head says what none may.
    """
    if len(data) - offset < HEAD.size:
        raise BlockError("short")
    magic, _, version, _, node, source, _, _, count, length, *_ = HEAD.unpack_from(data, offset)
    if magic != MAGIC or version != VERSION:
        raise BlockError("alien")
    if node > NAME_MAX or source > NAME_MAX or length > PAYLOAD_MAX or count > COUNT_MAX:
        raise BlockError("oversized")
    if not node:
        raise BlockError("shape")
    return HEAD.size + int(node) + int(source) + int(length)


def parse(data: bytes, offset: int = 0) -> Block:
    """The block that begins there, verified. Raises BlockError."""
    size = size_at(data, offset)
    if len(data) - offset < size:
        raise BlockError("short")
    raw = data if not offset and len(data) == size else bytes(data[offset : offset + size])
    _, crc, _, kind, node, source, epoch, first, count, _, received, *where = HEAD.unpack_from(raw)
    if zlib.crc32(memoryview(raw)[CHECKED:]) != crc:
        raise BlockError("crc")
    origin = HEAD.size + node
    start = origin + source
    try:
        name = raw[HEAD.size : origin].decode()
        from_ = raw[origin:start].decode()
    except UnicodeDecodeError:
        raise BlockError("shape") from None
    if count and not raw.endswith(b"\n"):
        raise BlockError("shape")
    return Block(name, epoch, first, count, from_, received, Position(*where), kind, raw, start)


def received(data: bytes) -> Block:
    """A block that somebody else sent: as `parse`, and exactly what its head says.

    Raises BlockError; ``shape`` too where it doesn't hold as many records as it says, is followed
    by something, or is no block of records.
    """
    block = parse(data)
    if block.kind != RECORDS or not block.count or len(block.raw) != len(data):
        raise BlockError("shape")
    if block.payload.count(b"\n") != block.count:
        raise BlockError("shape")
    return block


def blocks(data: bytes) -> Iterator[tuple[int, Block]]:
    """All blocks that follow each other, each with its offset. Raises BlockError."""
    offset = 0
    while offset < len(data):
        block = parse(data, offset)
        yield offset, block
        offset += len(block.raw)
