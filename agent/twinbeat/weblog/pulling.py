# SPDX-License-Identifier: Apache-2.0
"""Replication: this node pulls what its peer collects, and keeps a replica of it.

The next question is on its way while the last answer is being written, so that a flush costs no
round trip. An acknowledgement says what is on this node's disk; the peer then knows that a record
is on both.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from msgspec import Struct

from twinbeat.framing import Unknown, WireError, framed, read_frame
from twinbeat.weblog.block import Block, BlockError, received
from twinbeat.weblog.keeper import Keeper
from twinbeat.weblog.messages import (
    STREAMS_MAX,
    VERSIONS,
    Ack,
    Acked,
    Blocks,
    Cursor,
    FromNode,
    Hello,
    Problem,
    Pull,
    Stream,
    Welcome,
    codec,
)
from twinbeat.weblog.segment import Hole
from twinbeat.weblog.store import Store

CODEC: Final = codec(FromNode)
WAIT_MS: Final = 2000
SILENT_S: Final = 10.0
"""A peer that doesn't answer for so long is gone."""


class Replicator:
    """Holds one conversation after the other with the peer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.counts: Counter[str] = Counter()
        """records, bytes and blocks that came; gaps that were told of."""
        self.streams: tuple[Stream, ...] = ()
        """Of the peer, as it said last."""
        self._next: dict[int, int] = {}
        """What to ask for, by epoch; what was asked for may not be durable yet."""
        self._acked: dict[int, int] = {}

    async def replicate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One conversation, until it ends. Raises WireError, JournalError, OSError or TimeoutError;
        all say that there has to be another one, after a while."""
        store = self._store
        await _send(writer, Hello(versions=VERSIONS, name=store.node))
        welcome = await _heard(reader)
        if not isinstance(welcome, Welcome):
            raise _unexpected(welcome)
        if welcome.node == store.node:
            raise WireError("node", "Both nodes have the same name: replicas would mix them up.")
        store.peer = welcome.node
        keeper = store.keepers.get(welcome.node)
        if keeper is None:
            try:
                keeper = store.keep(await asyncio.to_thread(store.load, welcome.node))
            except ValueError:
                raise WireError("node", "The peer has a name that none may have.") from None
        await self._restore(welcome, reader, writer)
        self._next, self._acked, self.streams = {}, {}, welcome.streams
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._acknowledge(keeper, writer))
            tasks.create_task(self._pull(keeper, reader, writer))

    async def _restore(
        self, welcome: Welcome, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Take back what this node had given away and its own disk has forgotten, so that nothing
        of it is read from a file once more."""
        store, doubtful = self._store, self._store.doubtful
        if doubtful is None:
            return
        node, epoch, following = store.node, doubtful.epoch, doubtful.durable
        known = {(each.node, each.epoch): each.durable for each in welcome.streams}
        while known.get((node, epoch), 0) > following:
            while not store.has_room:
                await store.wait(0.5)
            await _send(writer, Pull(cursors=(Cursor(node, epoch, following),), wait_ms=0))
            answer = await _heard(reader)
            if not isinstance(answer, Blocks):
                raise _unexpected(answer)
            if answer.gaps or not answer.blocks:
                break  # Neither has it any more.
            for raw in answer.blocks:
                block = _checked(raw)
                if (block.node, block.epoch, block.first) != (node, epoch, following):
                    raise WireError("malformed", "The peer sent a block that was not its turn.")
                following = block.next
                store.restore(block)
                self.counts["restored"] += block.count
        while (store.own.journal.cursor(epoch) or 0) < following:
            await store.wait(0.5)
        store.doubtful = None

    async def _pull(
        self, keeper: Keeper, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            while not keeper.has_room:
                await self._store.wait(0.5)
            await _send(writer, Pull(cursors=self._cursors(keeper), wait_ms=WAIT_MS))
            answer = await _heard(reader)
            while isinstance(answer, Acked | Unknown):
                answer = await _heard(reader)
            if not isinstance(answer, Blocks):
                raise _unexpected(answer)
            self.streams = answer.streams
            self._take(keeper, answer)

    def _cursors(self, keeper: Keeper) -> tuple[Cursor, ...]:
        cursors = []
        for stream in self.streams:
            if stream.node != self._store.peer:
                continue
            following = self._next.get(stream.epoch)
            if following is None:
                following = keeper.journal.cursor(stream.epoch)
            if following is None:
                # Nothing is known of it yet: what was freed before is nobody's loss.
                following = stream.oldest
            self._next[stream.epoch] = following
            cursors.append(Cursor(stream.node, stream.epoch, following))
        return tuple(cursors)

    def _take(self, keeper: Keeper, answer: Blocks) -> None:
        """What has come goes to the disk; what doesn't follow is a fault of the peer."""
        node = self._store.peer
        for gap in answer.gaps:
            if gap.node != node or gap.first != self._next.get(gap.epoch):
                raise WireError("malformed", "The peer told of a gap that is none.")
            keeper.journal.skip(gap.epoch, Hole(gap.first, gap.count, gap.reason))
            self._next[gap.epoch] = gap.first + gap.count
            self.counts["gaps"] += gap.count
        for raw in answer.blocks:
            block = _checked(raw)
            if block.node != node or block.first != self._next.get(block.epoch):
                raise WireError("malformed", "The peer sent a block that was not its turn.")
            self._next[block.epoch] = block.next
            self._store.arriving(node, block.epoch, block.next)
            keeper.put(block)
            self.counts["records"] += block.count
            self.counts["blocks"] += 1
            self.counts["bytes"] += len(raw)

    async def _acknowledge(self, keeper: Keeper, writer: asyncio.StreamWriter) -> None:
        while True:
            # Also what all clients have had since, and was freed: its node may still keep it.
            ends = keeper.journal.ended()
            ends |= {marks.epoch: marks.durable for marks in keeper.journal.marks()}
            fresh = [
                Cursor(keeper.journal.node, epoch, end)
                for epoch, end in sorted(ends.items())
                if self._acked.get(epoch) != end
            ]
            if fresh:
                await _send(writer, Ack(cursors=tuple(fresh[-STREAMS_MAX:])))
                self._acked |= {each.epoch: each.next for each in fresh}
            await self._store.wait(1.0)


def _checked(raw: bytes) -> Block:
    try:
        return received(raw)
    except BlockError as error:
        raise WireError("malformed", f"The peer sent a block that is none: {error}.") from None


async def _heard(reader: asyncio.StreamReader) -> Struct:
    async with asyncio.timeout(SILENT_S):
        said = CODEC.decode(await read_frame(reader))
    assert isinstance(said, Struct)
    return said


def _unexpected(message: Struct) -> WireError:
    if isinstance(message, Problem):
        return WireError("refused", f"The peer said: {message.sentence[:500]}")
    return WireError("malformed", "The peer said what was not its turn.")


async def _send(writer: asyncio.StreamWriter, message: Struct) -> None:
    writer.write(framed(CODEC.encode(message)))
    await writer.drain()
