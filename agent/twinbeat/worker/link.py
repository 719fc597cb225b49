# SPDX-License-Identifier: Apache-2.0
"""The worker's end of /run/twinbeat/worker.sock: comes back whenever the daemon does."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Final

import msgspec

from twinbeat import __version__
from twinbeat.api.schema import Histogram
from twinbeat.api.worker import (
    BEAT_S,
    LINE_MAX,
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

RETRY_S: Final = 1.0

_ENCODER: Final = msgspec.json.Encoder()


class Lost(msgspec.Struct, frozen=True):
    """The daemon can't be asked any more, and answers nothing that it was asked."""


Heard = Welcome | Standing | Checked | Applied | Lost


class DaemonLink:
    """Tells the daemon that the worker is there, asks, and hears."""

    def __init__(
        self,
        path: str,
        *,
        hear: Callable[[Heard], None],
        report: Callable[[], Report | None],
        took: Callable[[], dict[str, Histogram]],
        sessions: Callable[[], SessionsStatus | None] = lambda: None,
    ) -> None:
        """``hear`` is called in the loop, in the order of what is heard; ``took`` says how long
        changes waited for what."""
        self._path = path
        self._hear = hear
        self._report = report
        self._took = took
        self._sessions = sessions
        self._writer: asyncio.StreamWriter | None = None
        self._told: Report | None = None

    async def run(self, stopped: asyncio.Event) -> None:
        """Until told to stop; a daemon that is away is waited for."""
        while not stopped.is_set():
            with contextlib.suppress(OSError, ValueError, msgspec.DecodeError):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=LINE_MAX)
                try:
                    self._writer, self._told = writer, None
                    async with asyncio.TaskGroup() as tasks:
                        parts = [
                            tasks.create_task(part)
                            for part in (self._read(reader), self._beat(), stopped.wait())
                        ]
                        await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                        for part in parts:
                            part.cancel()
                except* (OSError, ValueError, msgspec.DecodeError):
                    pass  # As if it had hung up.
                finally:
                    self._writer = None
                    writer.close()
                    self._hear(Lost())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await stopped.wait()

    def ask(self, question: Check | Apply) -> None:
        """Ask. Where the daemon is away nothing is said, as `Lost` said all there is to say."""
        self._say(question)

    def tell(self) -> None:
        """Say how the worker stands, if that is news."""
        report = self._report()
        if self._writer is not None and report != self._told:
            self._told = report
            self._say(Beat(pid=os.getpid(), version=__version__, report=report))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        decoder = msgspec.json.Decoder(FromDaemon)
        while line := await reader.readline():
            self._hear(decoder.decode(line))

    async def _beat(self) -> None:
        while True:
            self._told = self._report()
            beat = Beat(
                pid=os.getpid(),
                version=__version__,
                report=self._told,
                took=self._took(),
                sessions=self._sessions(),
            )
            self._say(beat)
            await asyncio.sleep(BEAT_S)

    def _say(self, message: FromWorker) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(_ENCODER.encode(message) + b"\n")
