# SPDX-License-Identifier: Apache-2.0
"""What a node says: reasons in its own words, and the lines of its log.

Every part of the machine that decides something says so through the one `Voice` of its node, so
that all of them call the nodes, the failing checks and the intervals by the same names. It decides
nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twinbeat.core.effects import Level, Log
from twinbeat.core.reasons import Code, Reason, Refusal, because, refuse


class Voice:
    """Reasons and lines of the log, in the words of one node."""

    def __init__(self, names: Callable[[], Mapping[str, object]]) -> None:
        """``names`` gives what sentences may refer to, as it is at that moment."""
        self._names = names
        self._lines: list[Log] = []

    def because(self, code: Code, **facts: object) -> Reason:
        """The reason of a code; ``facts`` go before the names."""
        return because(code, **{**self._names(), **facts})

    def refuse(self, code: Code, **facts: object) -> Refusal:
        """The refusal of a code."""
        return refuse(code, **{**self._names(), **facts})

    def log(self, level: Level, reason: Reason | Refusal) -> None:
        """Write a line."""
        self._lines.append(Log(level=level, reason=reason))

    def say(self, level: Level, code: Code, **facts: object) -> None:
        """Write the line of a code."""
        self.log(level, self.because(code, **facts))

    def take(self) -> tuple[Log, ...]:
        """What was written since the last time."""
        lines, self._lines = tuple(self._lines), []
        return lines
