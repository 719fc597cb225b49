# SPDX-License-Identifier: Apache-2.0
"""Links that lose, delay, double and replay, and that break in one direction only."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

US = 1_000
MS = 1_000_000


@dataclass(slots=True)
class Path:
    """One direction of one link. A frame takes `delay_ns` to `delay_ns + jitter_ns`."""

    up: bool = True
    loss: float = 0.0
    duplicates: float = 0.0
    delay_ns: int = 15 * US
    jitter_ns: int = 10 * US
    unclean_ns: int = -(1 << 62)
    """When this direction last lost or held up anything; it is clean from then on."""
    tape: deque[bytes] = field(default_factory=lambda: deque(maxlen=32))
    """The newest frames, for replays."""

    def arrivals(self, rng: random.Random) -> list[int]:
        """After what delays a frame arrives: empty = lost, two = doubled."""
        if not self.up or (self.loss and rng.random() < self.loss):
            return []
        copies = 2 if self.duplicates and rng.random() < self.duplicates else 1
        return [self.delay_ns + rng.randrange(self.jitter_ns + 1) for _ in range(copies)]

    def spoil(self, now_ns: int) -> None:
        """From now on this direction may not be relied on."""
        self.unclean_ns = now_ns

    @property
    def perfect(self) -> bool:
        """Nothing is lost or held up."""
        return self.up and not self.loss and self.delay_ns <= 20 * US and self.jitter_ns <= 20 * US

    def clean_since(self, now_ns: int) -> int:
        """Since when every frame came through at once; `now_ns` if it isn't so now."""
        if not self.perfect:
            self.unclean_ns = now_ns
        return self.unclean_ns

    def mend(self, now_ns: int) -> None:
        """As on the first day."""
        if not self.perfect:
            self.unclean_ns = now_ns
        self.up, self.loss, self.duplicates = True, 0.0, 0.0
        self.delay_ns, self.jitter_ns = 15 * US, 10 * US


@dataclass(slots=True)
class Link:
    """A link between the two nodes: `path[i]` is the direction in which node i sends."""

    number: int
    direct: bool
    path: tuple[Path, Path] = field(default_factory=lambda: (Path(), Path()))
    plugged: list[bool] = field(default_factory=lambda: [True, True])
    """Whether the port of node i has its cable in."""
