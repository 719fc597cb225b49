# SPDX-License-Identifier: Apache-2.0
"""Health as it counts: what the monitors say, damped, and how often it may still move the role.

Worse health counts at once, better health when it has held (`Damper`). A primary that is not well
and may not serve in that state passes the role on to a better peer, and is given a moment for it
(`passing_until_ns`); one that moved the role as often as it may keeps it (`sticky`). Who is better
is the election's to say: this part only wants to know whether the peer is well.
"""

from __future__ import annotations

from twinbeat.core.damping import Damper, Flips
from twinbeat.core.effects import Level
from twinbeat.core.reasons import Code, duration
from twinbeat.core.types import SCORE_MAX, Policy, TrackedHealth
from twinbeat.core.voice import Voice


class Fitness:
    """The health of one node, from the monitors' word to what it means for the role."""

    def __init__(self, policy: Policy, voice: Voice) -> None:
        self.health = TrackedHealth()
        """What counts."""
        self.damper = Damper(policy.damping)
        self.flips = Flips(policy.flip_limit)
        self.sticky = False
        """The role moved for the sake of health as often as it may: it stays where it is."""
        self.passing_until_ns = 0
        """So long an unfit primary may go on serving, for a better peer to take over; 0 = it needs
        no such moment."""
        self._voice = voice

    def configure(self, policy: Policy) -> None:
        """A reload."""
        self.damper.damping = policy.damping
        self.flips.limit = policy.flip_limit

    def see(self, health: TrackedHealth, now_ns: int) -> bool:
        """The monitors say ``health``; True if something else counts now."""
        if health == self.damper.seen:
            return False
        self.damper.see(health, now_ns)
        counts = self.damper.health
        if counts != self.health:
            level = Level.INFO if health.up else Level.WARNING
            self.health = counts
            self._voice.say(level, Code.HEALTH_CHANGED, score=counts.score)
            return True
        if health.score > counts.score:
            hold = duration(self.damper.holding_until_ns - now_ns)
            self._voice.say(Level.INFO, Code.HEALTH_HELD, score=health.score, hold=hold)
        return False

    def settle(
        self,
        now_ns: int,
        *,
        serving: bool,
        peer_score: int | None,
        fail_safe: bool,
        patience_ns: int,
    ) -> None:
        """Better health begins to count when it has held; a limit of flips makes a node sticky.

        ``peer_score``: None = the peer isn't heard. ``patience_ns``: how long a change of role may
        take.
        """
        self.damper.pass_time(now_ns)
        if self.damper.health != self.health:
            self.health = self.damper.health
            self._voice.say(Level.INFO, Code.HEALTH_COUNTS, score=self.health.score)
        self.flips.pass_time(now_ns)
        well = self.health.score == SCORE_MAX
        if not well or peer_score is not None:
            self.flips.see(well=well and peer_score == SCORE_MAX)
        sticky = serving and not well and self.flips.limited
        if sticky is not self.sticky:
            self.sticky = sticky
            code = Code.STICKY_PRIMARY if sticky else Code.STICKY_OVER
            self._voice.say(Level.WARNING, code, flips=self.flips.count)
        if not serving or self.health.up or fail_safe or sticky:
            self.passing_until_ns = 0
        elif not self.passing_until_ns:
            # A better peer takes over with no gap, if it does so soon.
            self.passing_until_ns = now_ns + patience_ns
