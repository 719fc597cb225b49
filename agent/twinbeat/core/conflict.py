# SPDX-License-Identifier: Apache-2.0
"""Two nodes that were both told to stay primary: who goes first, said once and alike on both.

Who goes first is `election.conflict`'s to say, by what both nodes say of themselves. While they
find out who serves, they don't say the same: after a partition both serve, or the newest frame of
the peer is from before it. So a winner is named when it has stayed the same for as long as a
contest may take, and a silence may last unnoticed. Nothing is moved by it.
"""

from __future__ import annotations

from twinbeat.core import election
from twinbeat.core.effects import Level
from twinbeat.core.election import Facts
from twinbeat.core.reasons import Code
from twinbeat.core.types import Flag, Role, Timers
from twinbeat.core.voice import Voice


class Conflict:
    """What is known and said of it."""

    def __init__(self, voice: Voice) -> None:
        self.winner = ""
        """Who goes first, as it was said; empty = there is no conflict, or it isn't decided."""
        self.deadline_ns = 0
        """When a winner has been the same for long enough; 0 = nothing waits for that."""
        self._coming = ""
        self._voice = voice

    def settle(self, facts: Facts, timers: Timers, *, contested: bool, now_ns: int) -> None:
        """Say it when it is decided, and when it is over."""
        coming = election.conflict(facts)
        if coming and (contested or _undecided(facts)):
            self._coming, self.deadline_ns = "", 0
            return
        if coming != self._coming:
            self._coming = coming
            # A contest is over after `verify`, and twice as long as frames may be missing.
            self.deadline_ns = now_ns + 2 * timers.dead_ns + timers.verify_ns if coming else 0
        if self.deadline_ns > now_ns:
            return
        self.deadline_ns = 0
        if bool(coming) is not bool(self.winner):
            code = Code.CONFLICT if coming else Code.CONFLICT_OVER
            self._voice.say(Level.WARNING if coming else Level.INFO, code, winner=coming)
        self.winner = coming


def _undecided(facts: Facts) -> bool:
    """Whether it is just being found out who serves."""
    peer = facts.peer
    assert peer is not None
    both = facts.role is Role.PRIMARY and peer.serves
    claiming = facts.role is Role.CLAIMING or bool(peer.flags & Flag.CLAIMING)
    return both or claiming or bool(peer.flags & Flag.CONTESTED)
