# SPDX-License-Identifier: Apache-2.0
"""Writes what was pulled: gathers it, has files and cursors made durable, falls back when it fails.

The blocking part runs in a thread, one batch at a time; meanwhile pulling goes on into the next
batch, as far as there is room. When a batch can't be written, nothing of it counts: it is dropped,
the streams are asked for again from where they were last written, and the files are put back to
that place before anything else. A node is told of nothing but what was written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from twinbeat.weblog.client.files import Files, WriteError
from twinbeat.weblog.client.merge import Loss, Pair
from twinbeat.weblog.client.model import Conf
from twinbeat.weblog.client.state import State, StateError
from twinbeat.weblog.client.state import Stream as Key
from twinbeat.weblog.client.writing import Counts, Piece, Writer

PENDING_MAX: Final = 16 << 20
"""Bytes pulled and not written; then pulling waits. What is being written may be as much again."""
GATHER_S: Final = 0.1
"""A batch is what comes in this time: a sync of the disk costs more than a record."""
GATHER_BYTES: Final = 4 << 20
"""Or so much."""
RETRY_S: Final = (1.0, 2.0, 5.0, 10.0)
"""Between attempts to write, growing."""

log = logging.getLogger("twinbeat.weblog.client")


class Keeper:
    """What is on the way to the disk."""

    def __init__(self, conf: Conf, state: Path) -> None:
        self.conf = conf
        self._state_path = state
        self._state: State | None = None
        self._files: Files | None = None
        self._writer: Writer | None = None
        self._pairs: dict[str, Pair] = {}
        self._cursors: dict[Key, int] = {}
        """As the state had them; of pairs that are not in `_pairs` they are so still."""
        self._pending: list[Piece] = []
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._stopping = False
        self.generation = 0
        """Grows with every fall back: answers to older questions are no good any more."""
        self.counts = Counts()
        self.pending_bytes = 0
        self.trouble = ""
        """Why nothing can be written, until something was: an attempt that is only begun says
        nothing of a disk that is full."""
        self._wrote = True
        """What failed last, if anything, was not the writing itself."""
        self.commits = 0
        self.failures = 0
        self.took_s = 0.0
        self.lost: dict[str, int] = {}
        self.newest_ns: dict[tuple[str, str], int] = {}
        """By pair and node, when the newest record that was written had been received."""
        self.cut_bytes = 0
        self.short_files = 0
        self.written: Callable[[], None] = lambda: None
        """Called after each commit."""

    # -- for whoever pulls -------------------------------------------------------------------------

    async def ready(self) -> None:
        """There is room, and writing works."""
        await self._room.wait()

    def pair(self, name: str) -> Pair:
        """The streams of a pair. The state has been read: `ready` has returned once."""
        found = self._pairs.get(name)
        if found is None:
            found = self._pairs[name] = Pair(name, self._cursors, time.monotonic())
        return found

    @property
    def pairs(self) -> dict[str, Pair]:
        return self._pairs

    def put(self, pieces: list[Piece]) -> None:
        """Have these written."""
        self._pending += pieces
        self.pending_bytes += sum(len(each.payload) for each in pieces)
        self._work.set()
        if self.pending_bytes >= PENDING_MAX:
            self._room.clear()

    def wake(self) -> None:
        """There may be something to write, if only that something was lost."""
        self._work.set()

    @property
    def crowded(self) -> int:
        return self._writer.crowded_total if self._writer else 0

    # -- writing -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`; what was pulled before is written first. Raises only what is a defect."""
        attempt = 0
        while True:
            try:
                await self._in_order()
                while True:
                    is_last = await self._once()
                    if not self.trouble:
                        attempt = 0
                    if is_last:
                        return
            except (WriteError, StateError) as error:
                self._fail(str(error))
                if self._stopping:
                    return
            await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1

    def stop(self) -> None:
        self._stopping = True
        self._work.set()

    def close(self) -> None:
        if self._files is not None:
            self._files.close()
        if self._state is not None:
            self._state.close()

    def use(self, conf: Conf) -> None:
        """From the next batch on, these filters."""
        self.conf = conf
        self._writer = None

    async def _in_order(self) -> None:
        """State and files are as they were when something was last written."""
        await asyncio.to_thread(self._recover)
        # What failed may have come onto the disk all the same: the state knows, and nobody else.
        for pair in self._pairs.values():
            pair.fall_back(self._cursors)
        if self._wrote:
            self._works()
        self._room.set()

    def _works(self) -> None:
        if self.trouble:
            log.warning("writing works again", extra={"fields": {"event": "weblog-writing"}})
        self.trouble, self._wrote = "", True

    def _recover(self) -> None:
        if self._state is None:
            self._state = State(self._state_path)
        if self._files is None:
            self._files = Files(self._state)
        self._files.recover()
        self._cursors = self._state.cursors()

    async def _once(self) -> bool:
        """One batch. Whether that was the last."""
        await self._work.wait()
        if self.pending_bytes < GATHER_BYTES and not self._stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.sleep(GATHER_S)
        self._work.clear()
        batch, self._pending = self._pending, []
        size, self.pending_bytes = self.pending_bytes, 0
        self._room.set()
        places: dict[Key, int] = {}
        losses: list[Loss] = []
        over: list[Key] = []
        for pair in self._pairs.values():
            over += pair.over()
            places |= pair.places()
            losses += pair.losses
            pair.losses.clear()
        if batch or losses or over:
            began = time.monotonic()
            self._wrote = False
            counts = await asyncio.to_thread(self._write, batch, places, over)
            self._works()
            self.took_s += time.monotonic() - began
            self._count(batch, losses, counts, places)
            log.debug("%d bytes written", size)
        return self._stopping and not self._pending

    def _write(self, batch: list[Piece], places: dict[Key, int], over: list[Key]) -> Counts:
        assert self._files is not None
        if self._writer is None:
            self._writer = Writer(self.conf, self._files)
        counts = Counts()
        self._files.begin()
        for piece in batch:
            self._writer.put(piece, counts)
        self._files.sync()
        self._files.commit(places.items(), over)
        return counts

    def _count(
        self, batch: list[Piece], losses: list[Loss], counts: Counts, places: dict[Key, int]
    ) -> None:
        """It is durable, and not before that is anybody told."""
        self.commits += 1
        self.counts.add(counts)
        for pair in self._pairs.values():
            pair.written(places)
        for piece in batch:
            key = (piece.pair, piece.node)
            self.newest_ns[key] = max(self.newest_ns.get(key, 0), piece.received_ns)
        for loss in losses:
            kind = loss.reason.partition(",")[0]
            self.lost[kind] = self.lost.get(kind, 0) + loss.count
            level = logging.INFO if kind == "acknowledged" else logging.ERROR
            log.log(
                level, "%s", loss,
                extra={"fields": {"event": "weblog-lost", "node": loss.node, "reason": kind}},
            )  # fmt: skip
        self._complain()
        self.written()

    def _complain(self) -> None:
        assert self._files is not None
        for sentence in self._files.complaints:
            log.error("%s", sentence, extra={"fields": {"event": "weblog-file"}})
        self._files.complaints.clear()
        self.cut_bytes, self.short_files = self._files.cut_total, self._files.short_total

    def _fail(self, sentence: str) -> None:
        """Nothing since the last commit counts."""
        self.failures += 1
        if sentence != self.trouble:
            log.error(
                "%s Nothing is acknowledged; it is tried again.", sentence,
                extra={"fields": {"event": "weblog-writing"}},
            )  # fmt: skip
        self.trouble = sentence
        self.generation += 1
        self._pending.clear()
        self.pending_bytes = 0
        self._work.clear()
        self._room.clear()
