# SPDX-License-Identifier: Apache-2.0
"""How long a group of figures may take, so that a bench ends in time on a slow machine as well.

When a group's time is spent, it stops with the runs it has made: its figures appear with what was
measured, and no bar is judged on fewer runs than it asks for.  One run is always tried.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from twinlab.shell import LabError


@dataclass(slots=True)
class Budget:
    """The time of one group, and what became of it."""

    ends: float
    """On the monotonic clock: no run is begun that would probably end later."""
    cut_short: list[str] = field(default_factory=list)
    """Where the time was not enough, in words."""
    problems: list[str] = field(default_factory=list)
    """Runs that failed, and why."""

    @classmethod
    def of(cls, seconds: float) -> Budget:
        """So many seconds from now."""
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds; 0 if the time is spent."""
        return max(0.0, self.ends - time.monotonic())

    def runs(self, wanted: int, what: str, *, share: float = 1.0) -> Iterator[int]:
        """Count runs: as many as wanted, or as fit into a share of the time that is left.

        What the next one takes is guessed from the longest so far.
        """
        ends = time.monotonic() + share * self.left()
        longest = 0.0
        for number in range(wanted):
            began = time.monotonic()
            if number and began + longest > ends:
                self.cut_short.append(f"{number} of {wanted} {what}")
                return
            yield number
            longest = max(longest, time.monotonic() - began)

    def seconds(self, wanted: float, what: str, *, share: float = 1.0) -> float:
        """How long may be watched; a second at least."""
        possible = max(1.0, share * self.left())
        if possible < wanted:
            self.cut_short.append(f"{possible:.0f} of {wanted:.0f} s of {what}")
        return min(wanted, possible)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """One run: if it fails, that is noted, and the others go on."""
        try:
            yield
        except (LabError, OSError, subprocess.SubprocessError) as error:
            self.problems.append(f"{what}: {error}")


def allowance(
    name: str, seconds: Mapping[str, float], remaining: list[str], left_s: float
) -> float:
    """What a group may take of the time that is left: in proportion to what each needs.

    Whatever an earlier group didn't use falls to the later ones, and what it used too much is
    taken from all of them alike.
    """
    total = sum(seconds[other] for other in remaining)
    return left_s * seconds[name] / total if total else 0.0
