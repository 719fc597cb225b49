# SPDX-License-Identifier: Apache-2.0
"""How good each link is, from what the kernel counts: loss by gaps in the sequence, and jitter.

Pure: who samples says when. The peer numbers all its frames in one row, whatever link they go out
on, so a gap on one link alone says nothing. But it sends on each of its links alike: what its
counter advanced by, without the answers it gave, divided by the number of links, is what should
have come on each. The two readings behind that are microseconds apart, so single heartbeats are
noise here; the ratio is over ten seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

WINDOW: Final = 11
"""Samples that a ratio is taken over: with one a second, ten seconds."""
NOISE: Final = 16
"""So many heartbeats two readings may differ by without anything being lost."""
FEWEST: Final = 20
"""Fewer heartbeats than that give no ratio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the kernel had counted at one moment."""

    at_ns: int
    counter: int
    """Newest counter accepted from the peer on any link."""
    heard: Mapping[int, int]
    """HELLOs and PROBEs that came in on each link, by its number."""
    answers: int
    """ANSWERs that came in on all links: the peer's kernel numbers them in the same row."""
    steady: bool
    """Both nodes hear each other, so nothing but heartbeats and answers is numbered."""


class LossMeter:
    """Heartbeats that the peer sent and this node never saw, by link."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=WINDOW)
        self._balance: dict[int, float] = {}
        self.lost: dict[int, int] = {}
        """By number of the link; only grows as long as the link is there."""

    def add(self, sample: Sample) -> None:
        """Take a sample; one that doesn't follow from the one before begins a new window."""
        before = self._samples[-1] if self._samples else None
        if before is not None and _rounds(before, sample) is None:
            self._samples.clear()
            before = None
        self._samples.append(sample)
        for number in set(self.lost) - set(sample.heard):
            del self.lost[number], self._balance[number]
        for number in sample.heard:
            self.lost.setdefault(number, 0)
            self._balance.setdefault(number, 0.0)
        rounds = _rounds(before, sample) if before is not None else None
        if before is None or rounds is None:
            return
        for number, heard in sample.heard.items():
            missing = self._balance[number] + rounds - (heard - before.heard[number])
            # What came late makes up for what was missing, but only so much of it.
            self._balance[number] = max(missing, self.lost[number] - NOISE)
            self.lost[number] = max(self.lost[number], int(self._balance[number]) - NOISE)

    def ratio(self, number: int) -> float | None:
        """Of the heartbeats of the window the part that was lost; None = not known."""
        expected, heard = 0.0, 0
        for before, after in pairwise(self._samples):
            rounds = _rounds(before, after)
            if rounds is None or number not in before.heard or number not in after.heard:
                continue
            expected += rounds
            heard += after.heard[number] - before.heard[number]
        if expected < FEWEST:
            return None
        # Less than the noise of the two readings at the ends is nothing.
        missing = expected - heard
        return 0.0 if missing < 2 else min(1.0, missing / expected)


def _rounds(before: Sample, after: Sample) -> float | None:
    """How often the peer sent on each link between two samples; None where that can't be told."""
    same = before.heard.keys() == after.heard.keys() and before.steady and after.steady
    if not same or not after.heard or before.counter >> 32 != after.counter >> 32:
        return None
    advanced = after.counter - before.counter - (after.answers - before.answers)
    return advanced / len(after.heard) if advanced >= 0 else None
