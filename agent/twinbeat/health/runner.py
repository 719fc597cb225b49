# SPDX-License-Identifier: Apache-2.0
"""Looks again and again: one task per monitor, one look at a time, each within its time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from twinbeat.health.board import Finding

GRACE_S: Final = 2.0
"""What a look may take beyond its timeout, to end what it began; then it is given up."""
PAUSE_MIN_S: Final = 0.02
"""Between two looks."""


class Prober(Protocol):
    """Finds one thing out."""

    async def look(self, timeout_s: float) -> Finding:
        """Look once, for `timeout_s` at most. OSError stands for a failure that says its reason."""

    def close(self) -> None:
        """Nobody will ask again."""


class Runner:
    """Runs one prober at its interval, and at once when it is woken."""

    def __init__(
        self,
        prober: Prober,
        *,
        interval_s: float,
        timeout_s: float,
        report: Callable[[Finding], None],
    ) -> None:
        self._prober = prober
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._report = report
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._ended)

    def wake(self) -> None:
        """Something happened: look now."""
        self._woken.set()

    async def stop(self) -> None:
        """End, and what was begun with it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._prober.close()

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            began = time.monotonic_ns()
            finding = await self._look()
            took_ns = time.monotonic_ns() - began
            self._report(replace(finding, took_ns=took_ns))
            # Not even what wakes it without end may keep it busy.
            await asyncio.sleep(PAUSE_MIN_S)
            pause_s = max(0.0, self._interval_s - PAUSE_MIN_S - took_ns / 1e9)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()

    async def _look(self) -> Finding:
        try:
            async with asyncio.timeout(self._timeout_s + GRACE_S):
                return await self._prober.look(self._timeout_s)
        except TimeoutError:
            return Finding(holds=False, sentence="the check itself hangs", timed_out=True)
        except OSError as error:
            return Finding(holds=False, sentence=error.strerror or str(error))

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A broken check must not look like one that holds; the loop's handler logs the rest."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._report(Finding(holds=False, sentence=f"the check broke: {error!r}", certain=True))
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a monitor broke", "exception": error}
            )
