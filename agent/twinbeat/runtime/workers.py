# SPDX-License-Identifier: Apache-2.0
"""Where the worker checks in, and where the daemon answers it: /run/twinbeat/worker.sock.

Nothing of the role hangs on it. A worker that is gone is shown as gone; one that talks nonsense,
asks too much at once or takes no answers is hung up on and may come again. There is one: whoever
connects takes the place of the one before, which may hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec

from twinbeat.api.schema import Histogram
from twinbeat.api.worker import (
    LINE_MAX,
    SILENT_S,
    Applied,
    Apply,
    Beat,
    Check,
    Checked,
    FromDaemon,
    FromWorker,
    Report,
    Standing,
    Welcome,
)
from twinbeat.sessions.shown import SessionsStatus
from twinbeat.sync.document import Document, Tables
from twinbeat.sync.operation import Problem

log = logging.getLogger("twinbeat.worker")

QUESTIONS_MAX: Final = 16
"""Questions that wait for the one that is being answered."""
LARGE: Final = 64 << 10
"""Lines beyond that are decoded beside the loop that decides."""

_ENCODER: Final = msgspec.json.Encoder()


class WorkerDesk:
    """Listens for the worker."""

    def __init__(
        self,
        path: Path,
        *,
        welcome: Callable[[], Welcome],
        standing: Callable[[], Standing],
        check: Callable[[Tables], Awaitable[tuple[Problem, ...]]],
        apply: Callable[[Document], Coroutine[Any, Any, tuple[bool, tuple[Problem, ...]]]],
    ) -> None:
        """``check`` and ``apply`` are what a document has to pass. What they raise is a fault of
        ours: it is logged and counted, and the document is refused."""
        self._path = path
        self._welcome = welcome
        self._standing = standing
        self._check = check
        self._apply = apply
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._told: Standing | None = None
        self._last_s = 0.0
        self._report: Report | None = None
        self.counts: Counter[str] = Counter()
        """connected, hung_up, check, apply, refused, failed: all only grow."""
        self._sessions: SessionsStatus | None = None
        self.took: dict[str, Histogram] = {}
        """How long changes waited for what, as the worker says."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def alive(self) -> bool:
        """A worker has said so lately."""
        return bool(self._last_s) and asyncio.get_running_loop().time() - self._last_s < SILENT_S

    @property
    def report(self) -> Report | None:
        """How the worker says that it stands; None while it is away."""
        return self._report if self.alive else None

    @property
    def sessions(self) -> SessionsStatus | None:
        """Persistence, as it was told last; None while the worker is away and nobody keeps it."""
        return self._sessions if self.alive else None

    async def listen(self) -> None:
        """Answer on the socket, for this user and root alone. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._serve, path=str(self._path), limit=LINE_MAX
            )
        finally:
            os.umask(before)

    async def close(self) -> None:
        """Hang up."""
        if self._server is None:
            return
        self._server.close()
        if self._writer is not None:
            self._writer.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def tell(self) -> None:
        """Say how the node stands, if that is news to the worker."""
        if self._writer is not None:
            self._say(self._writer, *self._news())

    def _news(self) -> tuple[Standing, ...]:
        """How the node stands, if the worker that checked in last hasn't heard so yet."""
        if self._told is None:
            return ()
        standing = self._standing()
        if standing == self._told:
            return ()
        self._told = standing
        return (standing,)

    def introduce(self) -> None:
        """The node's file was read again: say everything anew."""
        if self._writer is not None and self._told is not None:
            self._say(self._writer, self._welcome())
            self.tell()

    # -- one worker ------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            self._hang_up(self._writer, "another one has come")
        self._writer, self._told = writer, None
        self.counts["connected"] += 1
        questions: asyncio.Queue[Check | Apply] = asyncio.Queue(QUESTIONS_MAX)
        try:
            async with asyncio.TaskGroup() as tasks:
                answering = tasks.create_task(self._answer(questions, writer))
                try:
                    await self._read(reader, writer, questions)
                finally:
                    answering.cancel()
        except* (ValueError, msgspec.DecodeError, asyncio.QueueFull) as errors:
            why = errors.exceptions[0]
            said = "it asks too much at once" if isinstance(why, asyncio.QueueFull) else f"{why}"
            self._hang_up(writer, said)
        except* OSError:
            log.debug("a worker's connection broke")
        finally:
            writer.close()
            if self._writer is writer:
                self._writer, self._told, self._last_s = None, None, 0.0

    async def _read(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        questions: asyncio.Queue[Check | Apply],
    ) -> None:
        decoder = msgspec.json.Decoder(FromWorker)
        while line := await reader.readline():
            large = len(line) > LARGE
            match await asyncio.to_thread(decoder.decode, line) if large else decoder.decode(line):
                case Beat() as beat:
                    self._beaten(beat, writer)
                case (Check() | Apply()) as question:
                    questions.put_nowait(question)

    def _beaten(self, beat: Beat, writer: asyncio.StreamWriter) -> None:
        if self._writer is not writer:
            return
        if not self.alive:
            log.info("the worker is there, process %d", beat.pid)
        self._last_s = asyncio.get_running_loop().time()
        if beat.report is not None:
            self._report = beat.report
        self.took = beat.took or self.took
        self._sessions = beat.sessions or self._sessions
        if self._told is None:
            welcome = self._welcome()
            self._told = self._standing()
            self._say(writer, welcome, self._told)

    async def _answer(
        self, questions: asyncio.Queue[Check | Apply], writer: asyncio.StreamWriter
    ) -> None:
        """One after the other: what was checked is what is applied."""
        while True:
            match await questions.get():
                case Check(id=number, tables=tables):
                    self.counts["check"] += 1
                    problems = await self._found(tables)
                    self.counts["refused"] += bool(problems)
                    self._say(writer, Checked(id=number, problems=problems))
                case Apply() as question:
                    self.counts["apply"] += 1
                    # Nothing is left half in force because who asked for it is gone.
                    await asyncio.shield(self._begin(self._carry_out(question, writer)))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _carry_out(self, question: Apply, writer: asyncio.StreamWriter) -> None:
        """To its end; it is said in the very moment in which it is in force."""
        try:
            done, problems = await self._apply(question.document)
        except Exception as error:  # noqa: BLE001 - else nobody would hear what became of it
            fault = self._fault("putting a document in force", error)
            done, problems = False, (fault,)
        self.counts["refused"] += not done
        applied = Applied(id=question.id, in_force=done, problems=problems)
        if writer is not self._writer:
            self._say(writer, applied)
            self.tell()
            return
        # At once, and the answer first, as a client waits for that.
        self._say(writer, applied, *self._news())

    async def _found(self, tables: Tables) -> tuple[Problem, ...]:
        try:
            return await self._check(tables)
        except Exception as error:  # noqa: BLE001 - as above
            return (self._fault("examining a document", error),)

    def _fault(self, doing: str, error: Exception) -> Problem:
        self.counts["failed"] += 1
        log.error("%s failed: %s", doing, error, exc_info=error)
        name = type(error).__name__
        return Problem(
            where="the agent", right=f"{doing} failed unexpectedly ({name}); its log has more"
        )

    def _say(self, writer: asyncio.StreamWriter, *messages: FromDaemon) -> None:
        if not messages or writer.is_closing():
            return
        if writer.transport.get_write_buffer_size() > LINE_MAX:
            self._hang_up(writer, "it takes no answers")
            return
        writer.write(b"".join(_ENCODER.encode(each) + b"\n" for each in messages))

    def _hang_up(self, writer: asyncio.StreamWriter, why: str) -> None:
        self.counts["hung_up"] += 1
        log.warning("a worker was hung up on: %s", why)
        writer.transport.abort()
