# SPDX-License-Identifier: Apache-2.0
"""Health that sinks at once and rises late, and the limit to how often it may move the role.

A monitor that flaps would pass the role to and fro. Detection is never delayed: what is worse
counts from the moment it is seen. What is better counts only after it has held for a while, and the
while doubles with each relapse (RFC 2439 damps routes in the same way, by a penalty that decays).
"""

from __future__ import annotations

from collections import deque

from twinbeat.core.types import Damping, FlipLimit, TrackedHealth

DOUBLINGS_MAX = 16
"""More would overflow nothing, but say nothing either: the longest hold bounds them anyway."""


class Damper:
    """The health that counts, from that which is seen. Knows no clock: it is told the time."""

    def __init__(self, damping: Damping) -> None:
        self.damping = damping
        self._seen: TrackedHealth | None = None
        self._counts = TrackedHealth()
        self._better_since_ns = 0
        """Since when what is seen is better than what counts."""
        self._least: TrackedHealth | None = None
        """The worst that was seen since then: that is what may count next."""
        self._relapses = 0
        self._relapsed_ns = 0

    @property
    def health(self) -> TrackedHealth:
        """What counts now."""
        return self._counts

    @property
    def seen(self) -> TrackedHealth | None:
        """What the monitors say now; None = nothing yet."""
        return self._seen

    @property
    def holding_until_ns(self) -> int:
        """When better health begins to count; 0 if none waits to."""
        if self._least is None:
            return 0
        return self._better_since_ns + self._hold_ns()

    @property
    def relapses(self) -> int:
        """How many failures lengthen the hold."""
        return self._relapses

    def see(self, health: TrackedHealth, now_ns: int) -> None:
        """The monitors say ``health``. The first word of a run counts at once."""
        first, self._seen = self._seen is None, health
        if first or health.score <= self._counts.score:
            # The same points for other reasons are no relapse; people read the present ones.
            if not first and (health.score < self._counts.score or self._least is not None):
                self._relapse(now_ns)
            self._count(health)
        else:
            if self._least is None:
                self._better_since_ns = now_ns
            if self._least is None or health.score <= self._least.score:
                self._least = health
        self.pass_time(now_ns)

    def pass_time(self, now_ns: int) -> None:
        """Let better health count that has held long enough."""
        self._forget(now_ns)
        if self._least is not None and now_ns >= self.holding_until_ns:
            rest = self._seen
            self._count(self._least)
            if rest is not None and rest.score > self._counts.score:
                self._least, self._better_since_ns = rest, now_ns

    def _count(self, health: TrackedHealth) -> None:
        self._counts = health
        self._least = None

    def _hold_ns(self) -> int:
        doublings = min(max(self._relapses - 1, 0), DOUBLINGS_MAX)
        return min(self.damping.hold_ns << doublings, self.damping.hold_max_ns)

    def _relapse(self, now_ns: int) -> None:
        self._forget(now_ns)
        self._relapses += 1
        self._relapsed_ns = now_ns

    def _forget(self, now_ns: int) -> None:
        step = self.damping.forget_ns
        if step <= 0 or not self._relapses:
            return
        undone = min(self._relapses, (now_ns - self._relapsed_ns) // step)
        self._relapses -= undone
        self._relapsed_ns += undone * step


class Flips:
    """Counts changes of role for health's sake; a node at the limit keeps the role (*sticky*).

    Reset as in the reference product: once every monitor holds again, the *next* failure begins a
    new count. On both nodes, that is: whoever took the role over is well by that very fact, and
    would never count further than one.
    """

    def __init__(self, limit: FlipLimit) -> None:
        self.limit = limit
        self._at_ns: deque[int] = deque(maxlen=4096)
        self._recovered = False

    @property
    def count(self) -> int:
        """Flips since the last reset, those that left the window aside."""
        return len(self._at_ns)

    @property
    def since_ns(self) -> int:
        """When the first of them was; 0 = there is none."""
        return self._at_ns[0] if self._at_ns else 0

    @property
    def window_ends_ns(self) -> int:
        """When the first of them counts no more; 0 = no time ends it.

        At the limit it doesn't: only the reset does.
        """
        windowed = self.limit.window_ns and self._at_ns and not self.limited
        return self._at_ns[0] + self.limit.window_ns if windowed else 0

    @property
    def limited(self) -> bool:
        """True if the limit is reached: the role doesn't move for health's sake any more."""
        return 0 < self.limit.flips <= len(self._at_ns)

    @property
    def recovered(self) -> bool:
        """Every check of both nodes has held since: the next failure begins a new count."""
        return self._recovered

    def pass_time(self, now_ns: int) -> None:
        """Let flips leave the window."""
        while self.window_ends_ns and now_ns > self.window_ends_ns:
            self._at_ns.popleft()

    def flipped(self, now_ns: int) -> None:
        """The role moved to or from this node for the sake of health."""
        self.see(well=False)  # Or the failure that moved it would be seen after its flip.
        self.pass_time(now_ns)
        self._at_ns.append(now_ns)

    def see(self, *, well: bool) -> None:
        """Follow whether every check of both nodes holds."""
        if well:
            self._recovered = True
        elif self._recovered:
            self._recovered = False
            self._at_ns.clear()
