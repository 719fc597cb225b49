# SPDX-License-Identifier: Apache-2.0
"""A journal and the thread that writes it: what is put in becomes durable a few milliseconds later.

While one group of blocks is being written and flushed, the next one gathers: under load a flush
carries more, and nobody waits for a timer. What the disk refuses stays in memory, up to `QUEUE_MAX`
bytes, and is tried again; beyond that `has_room` is false, and collecting has to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from twinbeat.weblog.block import Block
from twinbeat.weblog.journal import Journal
from twinbeat.weblog.refusal import JournalError

log = logging.getLogger(__name__)

QUEUE_MAX = 8 << 20
"""Bytes of blocks that wait to be written."""
GROUP_MAX = 4 << 20
"""Bytes that are flushed together."""
RETRY_S = 0.5


class Keeper:
    """Owns a journal that is open. All but the thread's own part is for one event loop."""

    def __init__(
        self,
        journal: Journal,
        *,
        changed: Callable[[], None],
        drops_oldest: Callable[[], bool],
    ) -> None:
        """``changed`` is called in the running loop whenever something became durable or went;
        ``drops_oldest`` says, in any thread, whether the oldest make room."""
        self.journal = journal
        self._changed = changed
        self._drops_oldest = drops_oldest
        self._loop = asyncio.get_running_loop()
        self._condition = threading.Condition()
        self._queue: deque[Block] = deque()
        self._jobs: deque[Callable[[], None]] = deque()
        self._bytes = 0
        self._ending = False
        self.error: JournalError | None = None
        """Why nothing can be written at the moment."""
        self.flushes = 0
        self.flushed_ns = 0
        """Nanoseconds that all of them took."""
        self._thread = threading.Thread(target=self._live, name="weblog-journal", daemon=True)
        self._thread.start()

    @property
    def has_room(self) -> bool:
        """Whether more may be put in."""
        return self._bytes < QUEUE_MAX

    @property
    def waiting(self) -> int:
        """Bytes that are not durable yet."""
        return self._bytes

    def put(self, block: Block) -> None:
        """To be written after all that was put in before."""
        with self._condition:
            self._queue.append(block)
            self._bytes += len(block.raw)
            self._condition.notify()

    def do(self, job: Callable[[], None]) -> None:
        """Something that only the writing thread may do with the journal: `trim` and the like."""
        with self._condition:
            if len(self._jobs) < 64:
                self._jobs.append(job)
                self._condition.notify()

    def close(self) -> None:
        """Write what waits, if the disk takes it. Blocks."""
        with self._condition:
            self._ending = True
            self._condition.notify()
        self._thread.join()
        self.journal.close()

    # -- the thread --------------------------------------------------------------------------------

    def _live(self) -> None:
        while True:
            try:
                self._run()
            except Exception:  # this thread's supervisor
                log.exception("the journal of %s could not be written", self.journal.node)
                self._refused(JournalError("defect", "A defect: the worker's log says which."))
                if not self._paused():
                    return
            else:
                return

    def _paused(self) -> bool:
        """Wait before another attempt; what is put in meanwhile doesn't shorten it. False: there is
        to be none."""
        until = time.monotonic() + RETRY_S
        with self._condition:
            while not self._ending and (left := until - time.monotonic()) > 0:
                self._condition.wait(left)
            return not self._ending

    def _run(self) -> None:
        """Until there is nothing left to do."""
        while True:
            with self._condition:
                while not (self._queue or self._jobs or self._ending):
                    self._condition.wait()
                jobs, self._jobs = list(self._jobs), deque()
                group = self._group()
                if self._ending and not group and not jobs:
                    return
            for job in jobs:
                job()
            if group and not self._write(group):
                if not self._paused():
                    return
            else:
                self._tell()

    def _group(self) -> list[Block]:
        group: list[Block] = []
        size = 0
        for block in self._queue:
            if group and size + len(block.raw) > GROUP_MAX:
                break
            group.append(block)
            size += len(block.raw)
        return group

    def _write(self, group: list[Block]) -> bool:
        begun = time.monotonic_ns()
        while True:
            try:
                self.journal.append(group, now_ns=time.time_ns())
                break
            except JournalError as error:
                makes_room = error.code == "full" and self._drops_oldest()
                if makes_room and self.journal.drop_oldest() >= 0:
                    continue
                self._refused(error)
                return False
        self.flushes += 1
        self.flushed_ns += time.monotonic_ns() - begun
        if self.error is not None:
            log.info("%s can be written again", self.journal.node)
            self.error = None
        with self._condition:
            for block in group:
                self._queue.popleft()
                self._bytes -= len(block.raw)
        return True

    def _refused(self, error: JournalError) -> None:
        if self.error is None or self.error.code != error.code:
            log.error(
                "log records wait: %s",
                error.sentence,
                extra={"fields": {"event": "weblog_refused", "reason": error.code}},
            )
        self.error = error
        self.journal.counts["refused", error.code] += 1
        self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is gone already.
            self._loop.call_soon_threadsafe(self._changed)
