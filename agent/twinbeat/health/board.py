# SPDX-License-Identifier: Apache-2.0
"""What the findings of all monitors amount to: the node's state and its score. Pure.

Theory of operation
-------------------
A monitor stands (`Standing`) where its newest run of equal findings put it: `fall` failures in a
row fail it, `rise` successes in a row bring it back, and the first success of a monitor that
nobody has heard of yet is enough. Until then it holds: an agent that has just started isn't unfit
for lack of answers. A finding that is certain (the kernel says that a route is gone) needs no
repetition unless somebody configured one.

Nothing is damped here. A failure counts at once, and how long a recovery has to last is the core's
to decide, once for all monitors.

The score begins at 1000 and each failed monitor takes its weight from it. **A node is UP while at
least one point is left.** With the default weight, 1000, any failed monitor leaves none; smaller
weights make the node a worse choice without making it unfit, until they add up. The members of a
link set have no weight of their own, the set has.

That every interface fails is told apart (COMPLETE_FAIL) and leaves no point whatever the weights
say: a node that reaches nobody is not a worse choice, it is none.

A monitor that is only for one role is idle in the other, and begins anew with the role.  During its
start delay, after the start and after the node became primary, it doesn't fail: what is learned
from a routing protocol takes its time.  What had failed before stays failed.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from twinbeat.core.reasons import Code, Reason, because
from twinbeat.core.types import FOREVER, SCORE_MAX, NodeState, TrackedHealth


class Kind(enum.Enum):
    """What a monitor watches."""

    INTERFACE = "interface"
    LINKSET = "linkset"
    ROUTE = "route"
    ADDRESS = "address"
    PROCESS = "process"
    SCRIPT = "script"


class When(enum.Enum):
    """In which role a monitor counts."""

    ALWAYS = "always"
    PRIMARY = "primary"
    SECONDARY = "secondary"


class Standing(enum.Enum):
    """What is held of a monitor."""

    PENDING = "pending"
    """Not known yet, or failing within its start delay. Counts as if it held."""
    UP = "up"
    FAILED = "failed"
    IDLE = "idle"
    """Not for this role. Counts as if it held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One monitor, as far as judging it goes."""

    name: str
    kind: Kind
    weight: int = SCORE_MAX
    """What its failure takes from the score; 0 = it is only shown."""
    rise: int = 1
    fall: int = 1
    fall_certain: int = 1
    """So many findings in a row that the kernel vouches for."""
    start_delay_ns: int = 0
    when: When = When.ALWAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSet:
    """Interfaces of which one is enough."""

    name: str
    members: tuple[str, ...]
    weight: int = SCORE_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one look at one thing found."""

    holds: bool
    sentence: str
    """Why, for people: `no carrier`, `exit code 2: disk full`."""
    certain: bool = False
    """No probe that may get lost, but something that the kernel knows."""
    timed_out: bool = False
    output: str = ""
    """What a script had to say, shortened."""
    took_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A monitor stands otherwise than before."""

    name: str
    kind: Kind
    before: Standing
    after: Standing
    at_ns: int
    reason: Reason


@dataclass(slots=True, kw_only=True)
class Track:
    """What is known of one monitor. Only the board writes it."""

    spec: Spec
    standing: Standing = Standing.PENDING
    since_ns: int
    excused_until_ns: int = 0
    """Until then it doesn't fail: its start delay."""
    finding: Finding | None = None
    """The newest."""
    found_ns: int = 0
    streak: int = 0
    """So many findings in a row said what the newest says."""
    looks: int = 0
    failures: int = 0
    """Looks that found a failure, whatever came of it."""
    timeouts: int = 0

    @property
    def unsettled(self) -> bool:
        """The newest finding contradicts the standing: more of them would change it."""
        if self.finding is None or self.standing is Standing.IDLE:
            return False
        return self.finding.holds != (self.standing is Standing.UP)


@dataclass(slots=True, kw_only=True)
class SetTrack:
    """What is known of one link set."""

    spec: LinkSet
    standing: Standing = Standing.PENDING
    since_ns: int
    failures: int = 0


@dataclass(slots=True)
class Board:
    """All monitors of a node. Methods that may change a standing return what changed."""

    tracks: dict[str, Track] = field(default_factory=dict)
    sets: dict[str, SetTrack] = field(default_factory=dict)
    primary: bool = False

    # -- what there is ---------------------------------------------------------------------------

    def replace(
        self,
        specs: Iterable[Spec],
        sets: Iterable[LinkSet],
        now_ns: int,
        *,
        anew: Collection[str] = (),
    ) -> list[Change]:
        """Watch these. Those known already keep what is known of them, unless named in `anew`."""
        before, self.tracks = self.tracks, {}
        for spec in specs:
            known = before.get(spec.name)
            if known is None or spec.name in anew or known.spec.kind is not spec.kind:
                self.tracks[spec.name] = self._fresh(spec, now_ns)
            else:
                known.spec = spec
                self.tracks[spec.name] = known
        known_sets, self.sets = self.sets, {}
        for one in sets:
            missing = [name for name in one.members if name not in self.tracks]
            assert not missing, f"members of {one.name} that nobody watches: {missing}"
            track = known_sets.get(one.name) or SetTrack(spec=one, since_ns=now_ns)
            track.spec = one
            self.sets[one.name] = track
        return self._settle(now_ns, list(self.tracks))

    def _fresh(self, spec: Spec, now_ns: int) -> Track:
        return Track(
            spec=spec,
            since_ns=now_ns,
            standing=Standing.PENDING if self._active(spec) else Standing.IDLE,
            excused_until_ns=now_ns + spec.start_delay_ns,
        )

    def _active(self, spec: Spec) -> bool:
        match spec.when:
            case When.ALWAYS:
                return True
            case When.PRIMARY:
                return self.primary
            case When.SECONDARY:
                return not self.primary

    # -- what happens ----------------------------------------------------------------------------

    def observe(self, name: str, finding: Finding, now_ns: int) -> list[Change]:
        """Somebody looked. A name that is no longer watched is no news."""
        track = self.tracks.get(name)
        if track is None or track.standing is Standing.IDLE:
            return []
        same = track.finding is not None and track.finding.holds == finding.holds
        track.streak = track.streak + 1 if same else 1
        track.finding, track.found_ns = finding, now_ns
        track.looks += 1
        track.failures += not finding.holds
        track.timeouts += finding.timed_out
        return self._settle(now_ns, [name])

    def become(self, *, primary: bool, now_ns: int) -> list[Change]:
        """The node's role is another: monitors of one role begin or end, start delays begin."""
        if primary == self.primary:
            return []
        self.primary = primary
        changes = []
        for track in self.tracks.values():
            active = self._active(track.spec)
            if active != (track.standing is not Standing.IDLE):
                fresh = self._fresh(track.spec, now_ns)
                fresh.looks, fresh.failures = track.looks, track.failures
                fresh.timeouts = track.timeouts
                reason = because(Code.MONITOR_ROLE, monitor=track.spec.name)
                changes.append(_change(track, fresh.standing, now_ns, reason))
                self.tracks[track.spec.name] = fresh
            elif primary:
                track.excused_until_ns = now_ns + track.spec.start_delay_ns
        return changes + self._settle(now_ns, list(self.tracks))

    def advance(self, now_ns: int) -> list[Change]:
        """Start delays may have ended."""
        return self._settle(now_ns, list(self.tracks))

    def next_deadline(self) -> int:
        """When `advance` has something to do."""
        return min(
            (
                track.excused_until_ns
                for track in self.tracks.values()
                if track.standing is not Standing.FAILED and self._fails(track)
            ),
            default=FOREVER,
        )

    # -- judging ---------------------------------------------------------------------------------

    @staticmethod
    def _fails(track: Track) -> bool:
        """Enough failures in a row, start delay or not."""
        finding, spec = track.finding, track.spec
        if track.standing is Standing.IDLE or finding is None or finding.holds:
            return False
        return track.streak >= (spec.fall_certain if finding.certain else spec.fall)

    def _judge(self, track: Track, now_ns: int) -> Standing:
        finding = track.finding
        if track.standing is Standing.IDLE or finding is None:
            return track.standing
        if finding.holds:
            enough = track.streak >= track.spec.rise or track.standing is Standing.PENDING
            return Standing.UP if enough else track.standing
        if not self._fails(track) or track.standing is Standing.FAILED:
            return track.standing
        return Standing.PENDING if now_ns < track.excused_until_ns else Standing.FAILED

    def _settle(self, now_ns: int, names: Iterable[str]) -> list[Change]:
        changes = []
        for name in names:
            track = self.tracks[name]
            standing = self._judge(track, now_ns)
            if standing is not track.standing:
                changes.append(_change(track, standing, now_ns, _why(track, standing)))
                track.standing, track.since_ns = standing, now_ns
        for one in self.sets.values():
            standing = self._judge_set(one)
            if standing is not one.standing:
                members = ", ".join(one.spec.members)
                code = Code.SET_FAILED if standing is Standing.FAILED else Code.SET_HOLDS
                reason = because(code, monitor=one.spec.name, members=members)
                changes.append(_change(one, standing, now_ns, reason))
                one.failures += standing is Standing.FAILED
                one.standing, one.since_ns = standing, now_ns
        return changes

    def _judge_set(self, one: SetTrack) -> Standing:
        standings = {self.tracks[name].standing for name in one.spec.members}
        if standings == {Standing.FAILED}:
            return Standing.FAILED
        return Standing.UP if Standing.UP in standings else Standing.PENDING

    # -- what it amounts to ----------------------------------------------------------------------

    @property
    def in_sets(self) -> dict[str, str]:
        """Name of a member -> name of its set."""
        return {name: one.spec.name for one in self.sets.values() for name in one.spec.members}

    @property
    def health(self) -> TrackedHealth:
        """The node's state and score, and which monitors made it so."""
        members = self.in_sets
        failed: dict[str, tuple[Kind, int]] = {}
        for name, track in self.tracks.items():
            if track.standing is Standing.FAILED and name not in members and track.spec.weight:
                failed[name] = track.spec.kind, track.spec.weight
        for name, one in self.sets.items():
            if one.standing is Standing.FAILED and one.spec.weight:
                failed[name] = Kind.LINKSET, one.spec.weight
        interfaces = [track for track in self.tracks.values() if track.spec.kind is Kind.INTERFACE]
        if interfaces and all(track.standing is Standing.FAILED for track in interfaces):
            dead = [track.spec.name for track in interfaces]
            names = tuple(dict.fromkeys([*dead, *failed]))
            return TrackedHealth(score=0, failed=names, state=NodeState.COMPLETE_FAIL)
        score = max(0, SCORE_MAX - sum(weight for _, weight in failed.values()))
        if score:
            return TrackedHealth(score=score, lowering=tuple(failed), state=NodeState.UP)
        kinds = {kind for kind, _ in failed.values()}
        routes_only = Kind.ROUTE in kinds and not kinds & {Kind.INTERFACE, Kind.LINKSET}
        state = NodeState.ROUTE_MONITOR_FAIL if routes_only else NodeState.PARTIAL_FAIL
        return TrackedHealth(score=0, failed=tuple(failed), state=state)


def _change(track: Track | SetTrack, after: Standing, now_ns: int, reason: Reason) -> Change:
    kind = track.spec.kind if isinstance(track, Track) else Kind.LINKSET
    return Change(
        name=track.spec.name,
        kind=kind,
        before=track.standing,
        after=after,
        at_ns=now_ns,
        reason=reason,
    )


def _why(track: Track, standing: Standing) -> Reason:
    assert track.finding is not None, "only a finding changes a standing"
    facts = {
        "monitor": track.spec.name,
        "kind": track.spec.kind.value,
        "why": track.finding.sentence,
    }
    match standing:
        case Standing.FAILED if track.finding.timed_out:
            return because(Code.MONITOR_HANGS, **facts)
        case Standing.FAILED:
            return because(Code.MONITOR_FAILED, **facts)
        case Standing.PENDING:
            return because(Code.MONITOR_EXCUSED, **facts)
        case _:
            return because(Code.MONITOR_HOLDS, **facts)
