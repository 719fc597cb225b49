# SPDX-License-Identifier: Apache-2.0
"""The interface of every witness, and the one that is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from twinbeat.core.witness import Answer, Kind, Question, Verdict

RESULTS: Final = ("granted", "denied", "looked", "unanswered", "refused", "nonsense")
"""What can become of one request: an answer of one of three kinds; no answer in time; an error in
its place; an answer that can't be true."""


class WitnessError(Exception):
    """The witness can't be used as configured; the text is a sentence for people."""


@dataclass(slots=True)
class Tally:
    """What became of the requests so far."""

    results: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESULTS, 0))
    took: Callable[[int], None] = lambda _: None
    """Told of the duration of each answered request, in ns."""

    def count(self, result: str) -> None:
        self.results[result] += 1


class Witness(Protocol):
    """A third party. One question at a time."""

    tally: Tally
    cluster: str
    """What it calls itself; empty = it has not said yet."""

    async def ask(self, question: Question) -> Answer:
        """Ask, and return in bounded time whatever happens."""

    async def close(self) -> None:
        """Give everything back."""


class Null:
    """No witness: it is never there."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self.tally = Tally()
        self.cluster = ""

    async def ask(self, question: Question) -> Answer:
        now = self._now_ns()
        self.tally.count("unanswered")
        return Answer(
            question=question,
            verdict=Verdict.SILENT,
            sent_ns=now,
            done_ns=now,
            why="no witness is configured",
        )

    async def close(self) -> None:
        pass


def result_of(answer: Answer) -> str:
    """The name under which an answer is counted."""
    return "looked" if answer.question.kind is Kind.LOOK else answer.verdict.value
