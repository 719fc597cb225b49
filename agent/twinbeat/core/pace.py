# SPDX-License-Identifier: Apache-2.0
"""How two nodes come to agree on other intervals while they run.

Theory of operation
-------------------
Two matters are kept apart. *Which intervals are kept at this moment* is the engine's: each frame
says what its sender keeps, and by two rules any change is safe whatever the other node wants (a
node tolerates at once what the other one sends; it slows down only as far as the other one has said
to tolerate; see `pace` in csrc/engine.c). *What both want* is this module's: an operator's `Wish`.

A wish has a number above every other one that either node knows. It travels in the frames as a
proposal. The other node holds it against its host and adopts it (and says so by proposing the very
same), or refuses it by its number. The node that was asked adopts it when it hears that the other
one did, so that a refused wish was never in force anywhere; only where nobody can be asked it
adopts at once. Whoever hears a higher number later adopts that, so nodes that were apart come to
the same end; of two wishes with one number the slower one counts.

Pure: it is told what was heard, and knows no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from twinbeat.core.reasons import Refusal
from twinbeat.core.types import Intervals, Proposal, Timers, Wish

HELLOS_PER_DEAD: Final = 3
"""Two of them may be lost."""
HELLOS_PER_VERIFY: Final = 8
"""A verification window may be as short as this part of a heartbeat interval."""
EVERY_OPEN: Final = 4
"""So many heartbeats carry one proposal while the nodes don't agree."""
EVERY_AGREED: Final = 64
"""And so many afterwards, for a peer that lost what it knew."""
US: Final = 1000


def intervals_of(timers: Timers) -> Intervals:
    """Those of the timers that can be changed."""
    return Intervals(
        hello_us=timers.hello_ns // US,
        dead_us=timers.dead_ns // US,
        verify_us=timers.verify_ns // US,
        stall_us=timers.stall_ns // US,
        lease_us=timers.lease_ns // US,
    )


def over(timers: Timers, intervals: Intervals | None) -> Timers:
    """``timers`` with ``intervals`` in place of theirs, the other ones long enough for them."""
    if intervals is None:
        return timers
    lease_ns = intervals.lease_us * US
    longest_ns = lease_ns + (intervals.dead_us + intervals.verify_us) * US
    return replace(
        timers,
        hello_ns=intervals.hello_us * US,
        dead_ns=intervals.dead_us * US,
        verify_ns=intervals.verify_us * US,
        stall_ns=intervals.stall_us * US,
        lease_ns=lease_ns,
        attest_ns=max(timers.attest_ns, lease_ns * 3 // 2),
        boot_wait_ns=max(timers.boot_wait_ns, longest_ns),
    )


def completed(base: Intervals, given: Mapping[str, int]) -> Intervals:
    """``base`` with what is given; what isn't follows where it would contradict that."""
    wanted = replace(base, **given)
    verify, lease, stall = wanted.verify_us, wanted.lease_us, wanted.stall_us
    if "verify_us" not in given:
        verify = max(verify, -(-wanted.hello_us // HELLOS_PER_VERIFY))
    if "lease_us" not in given and lease <= wanted.dead_us + verify:
        lease = 2 * (wanted.dead_us + verify)
    if "stall_us" not in given:
        stall = min(stall, lease)
    return replace(wanted, verify_us=verify, lease_us=lease, stall_us=stall)


LEAST_US: Final = Intervals(hello_us=100, dead_us=300, verify_us=100, stall_us=100, lease_us=1_000)
MOST_US: Final = Intervals(
    hello_us=10_000_000,
    dead_us=60_000_000,
    verify_us=10_000_000,
    stall_us=60_000_000,
    lease_us=60_000_000,
)
"""As in the configuration."""


def flaw(wanted: Intervals) -> str:
    """How intervals contradict themselves, as half a sentence; empty if they don't."""
    for name in wanted.__slots__:
        value, least, most = (getattr(each, name) for each in (wanted, LEAST_US, MOST_US))
        if not least <= value <= most:
            return f"{name} = {value} isn't between {least} and {most}"
    if wanted.dead_us < HELLOS_PER_DEAD * wanted.hello_us:
        return f"dead_us = {wanted.dead_us} is less than three times hello_us = {wanted.hello_us}"
    if HELLOS_PER_VERIFY * wanted.verify_us < wanted.hello_us:
        return (
            f"verify_us = {wanted.verify_us} is less than an eighth of hello_us = {wanted.hello_us}"
        )
    if wanted.lease_us <= wanted.dead_us + wanted.verify_us:
        return (
            f"lease_us = {wanted.lease_us} isn't longer than dead_us + verify_us = "
            f"{wanted.dead_us + wanted.verify_us}"
        )
    if wanted.stall_us > wanted.lease_us:
        return f"stall_us = {wanted.stall_us} is longer than lease_us = {wanted.lease_us}"
    return ""


def told(intervals: Intervals | None) -> str:
    """Intervals for people."""
    if intervals is None:
        return "the intervals of the configuration"
    values = ((name, getattr(intervals, name)) for name in intervals.__slots__)
    return ", ".join(f"{name.removesuffix('_us')} {value} µs" for name, value in values)


def newer(one: Wish, other: Wish) -> Wish:
    """The one that counts: the higher number, and of two with the same the slower one."""
    if one.number != other.number:
        return max(one, other, key=lambda wish: wish.number)
    return max(one, other, key=_slowness)


def _slowness(wish: Wish) -> tuple[int, ...]:
    kept = wish.intervals
    if kept is None:
        return (0,)
    return (kept.dead_us, kept.hello_us, kept.lease_us, kept.verify_us, kept.stall_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What came of something heard."""

    adopted: Wish | None = None
    """From now on this is kept."""
    overtaken: bool = False
    """What this node proposed is void: the peer's operator was first."""
    refused: Refusal | None = None
    """Why this node doesn't keep what the peer wants."""
    peer_refuses: Proposal | None = None
    """The peer's answer to what this node proposed."""


NOTHING: Final = News()


class Agreement:
    """What this node keeps, proposes and refuses."""

    def __init__(self, kept: Wish) -> None:
        self.kept = kept
        """Number 0 = the configuration's."""
        self.proposed: Wish | None = None
        self.refused: Proposal | None = None
        """The peer's wish that this node doesn't keep, as its frames say it."""
        self._heard: Proposal | None = None
        self._highest = kept.number

    def next(self, intervals: Intervals | None, *, even_so: bool) -> Wish:
        """The operator's wish, under a number of its own."""
        self._highest += 1
        return Wish(number=self._highest, intervals=intervals, even_so=even_so)

    def adopt(self, wish: Wish) -> None:
        """Keep it, whoever else does."""
        self.kept, self.proposed, self.refused = wish, None, None

    def drop(self) -> None:
        """Nobody took over what this node proposed: what the peer said meanwhile counts again."""
        self.proposed = self._heard = None

    @property
    def saying(self) -> Proposal | None:
        """What the frames say of it; None = nothing."""
        if self.refused is not None and self.proposed is None:
            return self.refused
        wish = self.proposed or self.kept
        if not wish.number:
            return None
        return Proposal(number=wish.number, intervals=wish.intervals, even_so=wish.even_so)

    @property
    def every(self) -> int:
        """One frame of so many says it."""
        return EVERY_AGREED if self.agreed else EVERY_OPEN

    @property
    def agreed(self) -> bool:
        """The peer wants the same, as far as it was heard."""
        return self.refused is None and self.proposed is None and self._same(self.kept)

    @property
    def peer_refuses(self) -> Proposal | None:
        """The peer doesn't keep what this node keeps."""
        heard = self._heard
        refuses = heard is not None and heard.refuses and heard.number == self.kept.number
        return heard if refuses else None

    def _same(self, wish: Wish) -> bool:
        heard = self._heard
        if heard is None:
            return not wish.number
        said = heard.number, heard.intervals
        return not heard.refuses and said == (wish.number, wish.intervals)

    def hear(self, said: Proposal | None, judge: Callable[[Wish], Refusal | None]) -> News:
        """Take in what the peer's newest proposal says; ``judge`` says why this node can't keep
        something."""
        if said is None or said == self._heard:
            return NOTHING
        self._heard = said
        self._highest = max(self._highest, said.number)
        if said.refuses:
            return self._hear_refusal(said)
        if self.refused is not None and self.refused.number == said.number:
            return NOTHING
        self.refused = None
        theirs = Wish(number=said.number, intervals=said.intervals, even_so=said.even_so)
        own = self.proposed or self.kept
        if self._same(own):
            adopted, self.proposed = self.proposed, None
            self.kept = own
            return News(adopted=adopted)
        if newer(own, theirs) is own:
            return NOTHING
        overtaken, self.proposed = self.proposed is not None, None
        refusal = judge(theirs)
        if refusal is not None:
            return News(refused=refusal, overtaken=overtaken)
        self.kept = theirs
        return News(adopted=theirs, overtaken=overtaken)

    def _hear_refusal(self, said: Proposal) -> News:
        if self.proposed is None or said.number != self.proposed.number:
            return NOTHING
        self.proposed = None
        return News(peer_refuses=said)

    def refuse(self, number: int, *, late_us: int) -> None:
        """Have the frames say that the peer's wish isn't kept here, and how late this host is."""
        self.refused = Proposal(number=number, intervals=None, refuses=True, late_us=late_us)
