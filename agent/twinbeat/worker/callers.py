# SPDX-License-Identifier: Apache-2.0
"""Who on this node waits for what comes of a request, and how long changes wait for what."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

from twinbeat.observe.histogram import Histogram
from twinbeat.sync.operation import Outcome, Request
from twinbeat.sync.parts import Active, Phase, Serving

WAITING_MOST: Final = 256
"""Callers that wait for an outcome."""
PHASES: Final = {
    Phase.CHECK: "check",
    Phase.PREPARE: "journal",
    Phase.PEER: "peer",
    Phase.APPLY: "apply",
    Phase.RUN: "run",
    Phase.COMMIT: "commit",
}
"""What a change waits for on a node, by the names of the metric; "all" is from the request to its
answer."""


class Callers:
    """Those that wait, and what became of those that did."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[asyncio.Future[Outcome], str]] = {}
        """By request those who wait, with what they asked for."""
        self.ended: Counter[str] = Counter()
        """Requests of this node by the state they ended in."""

    @property
    def waiting(self) -> int:
        """How many wait: of `WAITING_MOST`."""
        return sum(map(len, self._waiting.values()))

    @contextlib.contextmanager
    def joined(self, request: Request) -> Iterator[asyncio.Future[Outcome]]:
        """What somebody waits for while the block lasts."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(request.request, {})
        waiting[answer] = request.asked
        try:
            yield answer
        finally:
            del waiting[answer]
            if not waiting and self._waiting.get(request.request) is waiting:
                del self._waiting[request.request]

    def answer(self, said: Outcome, only: str) -> None:
        """Tell whoever waits for it; ``only`` those who asked for that, if it isn't empty."""
        for answer, asked in self._waiting.get(said.request, {}).items():
            if only in {"", asked} and not answer.done():
                answer.set_result(said)

    def end(self, said: Outcome) -> Outcome:
        """Counted, and given back."""
        self.ended[said.state.value] += 1
        return said


class Stopwatch:
    """How long changes wait on this node."""

    def __init__(self) -> None:
        self.took: dict[str, Histogram] = {}
        """For what: the values of `PHASES`, and "all"."""
        self._at: tuple[str, str] | None = None
        """Request and phase of the operation under way."""
        self._since_ns = 0

    def look(self, under_way: Active | Serving | None, now_ns: int) -> None:
        """What is under way now is in this phase."""
        at = None
        if under_way is not None and under_way.phase in PHASES:
            at = under_way.operation.request, PHASES[under_way.phase]
        if at == self._at:
            return
        if self._at is not None:
            self.add(self._at[1], now_ns - self._since_ns)
        self._at, self._since_ns = at, now_ns

    def add(self, what: str, length_ns: int) -> None:
        """One more change waited so long for this."""
        self.took.setdefault(what, Histogram()).add(length_ns)
