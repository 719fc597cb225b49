# SPDX-License-Identifier: Apache-2.0
"""Every link cut for two seconds, then healed: who serves, how soon, and do two ever serve at once?

With all links cut nobody can tell death from partition, so both nodes open their gates.  What
counts is the end of it: from the first frame that gets through, how long until the client is
served, and how long does the loser go on.  The primary and the secondary are cut off in turn, since
the two heal differently: the client is with the node that was not cut off, and that one stays in
one case and has to yield in the other.

Service may also stop later on, long after a contest.  Whatever does counts as part of the heal,
unless the gates show that it was no part of it: that the lease of the only owner ran out, with no
contest and no fence since all was settled.  A machine that is held up serves nobody from then on,
not from the end of its lease on: such an interruption may begin up to a lease before the lapse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twinlab import agents, capture, lab, plan, probe
from twinlab.shell import LabError

from twinbench import figures, ground, judge
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure
from twinbench.measures_death import MS, US

CUT_S = 2.0
WATCHED_S = 1.5
"""After the heal.  Whoever is not served by then is counted with this time."""

CONTEST_NS = 100_000_000
"""A contest is long over by then; what comes later may have another cause."""
NOTED_LATE_NS = 300_000
"""tb-gates looks each 50 us, and is itself kept waiting now and then."""

HEARTBEATS = {plan.HEARTBEAT_PORT}
VRRP_PROTOCOL = 112


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """An interruption that began when the contest should have been long over."""

    after_ns: int
    """When it began, from the first frame that got through."""
    ended_ns: int | None
    """When it ended, from there; None = never."""
    lost: int
    lapsed: str | None
    """Whose lease had run out, if the gates show that this is why; then it doesn't count."""

    @property
    def counts(self) -> bool:
        return self.lapsed is None

    def told(self) -> str:
        """In words."""
        lasted = "did not end" if self.ended_ns is None else _ms(self.ended_ns - self.after_ns)
        why = "counts" if self.lapsed is None else f"lease of {self.lapsed} ran out, left out"
        return f"{_ms(self.after_ns)} later: {lasted} ({why})"


def _ms(ns: int) -> str:
    return f"{ns / MS:.2f} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """One partition and its end."""

    cut: str
    both_served: bool
    """Whether both nodes thought of themselves as primary when the cut was lifted."""
    served_ns: int | None
    """From the first frame that got through to the end of the last interruption that counts."""
    lost: int
    later: tuple[Later, ...]
    overlap_ns: int | None
    """Until the last frame for a VIP that a sole owner would not have sent; None = unknown."""
    gates_ns: int | None
    """Until the first of the two open gates shut; None = neither did."""
    loser: str | None
    capture_lost: int


def _one(node: str, *, gates: ground.GateWatch | None) -> Healed:
    """Cut a node off, heal it after a while, and look at what follows."""
    with probe.Probe(interval_us=200) as running:
        running.wait_served()
        running.wait_for_time(0.2)
        ground.cut_silently(node)
        running.wait_for_time(CUT_S)
        with capture.Capture(links=("lan0", "ha0"), heartbeats=True) as recorder:
            before, after = ground.store(node, 0)
            running.wait_for_time(WATCHED_S)
            recording = recorder.finish()
        record = running.finish()
    through = first_through_ns(recording.frames, node, before, after)
    if through is None:
        raise LabError(f"nothing came from {node} after it was healed")
    served, lost = judge.served_after(record, through, within_ns=CONTEST_NS)
    edges = gates.now().edges if gates else ()
    later = later_interruptions(
        record, _with_lapses(edges, through), through, lease_ns=ground.lease_ns() if gates else 0
    )
    served, lost = with_later(served, lost, later)
    seen = judge.contest(edges, before)
    return Healed(
        cut=node,
        both_served=seen.loser is not None or seen.shut_after_ns is None,
        served_ns=served,
        lost=lost,
        later=later,
        overlap_ns=_overlap_ns(recording, edges, through),
        gates_ns=None if seen.shut_after_ns is None else seen.shut_after_ns - (through - before),
        loser=seen.loser,
        capture_lost=recording.lost,
    )


def _with_lapses(edges: Sequence[judge.Edge], through: int) -> Sequence[judge.Edge]:
    if not edges:
        return edges
    ended = edges[-1].at_ns + int(WATCHED_S * 1e9)
    steps = judge.steps_down(ground.histories(), since_ns=through, until_ns=ended)
    return judge.with_lapses(edges, steps)


def later_interruptions(
    record: probe.Record, edges: Sequence[judge.Edge], through: int, *, lease_ns: int
) -> tuple[Later, ...]:
    """What stopped the service later on, and whether that was a lapse and nothing else."""
    settled = through + CONTEST_NS
    found = []
    for one in judge.interruptions(record, settled, through + int(WATCHED_S * 1e9)):
        lapse = judge.lapse_behind(one, edges, settled_ns=settled, lease_ns=lease_ns)
        found.append(
            Later(
                after_ns=one.began_ns - through,
                ended_ns=None if one.ended_ns is None else one.ended_ns - through,
                lost=one.lost,
                lapsed=None if lapse is None else lapse.node,
            )
        )
    return tuple(found)


def with_later(served_ns: int | None, lost: int, later: Sequence[Later]) -> tuple[int | None, int]:
    """When all was served, and probes lost, with those of the later interruptions that count."""
    for one in later:
        if not one.counts:
            continue
        lost += one.lost
        if served_ns is not None:
            served_ns = None if one.ended_ns is None else max(served_ns, one.ended_ns)
    return served_ns, lost


def _overlap_ns(
    recording: capture.Recording, edges: Sequence[judge.Edge], through: int
) -> int | None:
    """Until the last frame for a VIP that a sole owner would not have sent."""
    if not edges:
        return None
    spoken = ground.owned(recording, ground.options())
    frames = [
        frame
        for frame in spoken
        if not is_between_nodes(frame) and frame.at_ns < through + CONTEST_NS
    ]
    near = [edge for edge in edges if edge.at_ns < through + 2 * CONTEST_NS][-50:]
    return judge.overlap_after_heal_ns(frames, near, through, tolerance_ns=NOTED_LATE_NS)


def is_between_nodes(frame: capture.Frame) -> bool:
    """Whether a frame is the protocol's own (VRRP bears the virtual MAC and is no service)."""
    data = frame.data
    return data[12:14] == b"\x08\x00" and (
        data[23] == VRRP_PROTOCOL
        or (data[23] == 17 and int.from_bytes(data[36:38], "big") in HEARTBEATS)
    )


def first_through_ns(
    frames: Sequence[capture.Frame], healed: str, before_ns: int, after_ns: int
) -> int | None:
    """When the first frame got through after a heal, from the healed node or to it.

    The cut was lifted somewhere between the two moments.  What comes from the healed node has got
    through for certain; what the other node sends to it has from the second moment on.
    """
    return next(
        (
            frame.at_ns
            for frame in frames
            if (frame.port == healed and frame.at_ns >= before_ns)
            or (is_between_nodes(frame) and frame.at_ns >= after_ns)
        ),
        None,
    )


def partition(effort: Effort, budget: Budget) -> list[Figure]:
    """Twinbeat, then keepalived, each cut in two as often."""
    serving = ground.twinbeat(ground.options())
    ours: list[Healed] = []
    bound_us = _overlap_bound_us(serving)
    with ground.GateWatch(interval_us=50, fifo=70) as gates:
        for number in budget.runs(effort.partitions, "partitions", share=0.5):
            node = serving if number % 2 == 0 else plan.peer(serving)
            kind = "primary" if node == serving else "secondary"
            with budget.attempt(f"partition {number + 1}"):
                ours.append(_one(node, gates=gates))
                ground.say(f"  {kind} {node} cut: {_told(ours[-1])}")
            ground.mend(keep=(ground.GATES,))
            serving = agents.wait_fit()
    theirs: list[Healed] = []
    ground.end_twinbeat()
    with budget.attempt("keepalived"), ground.keepalived(ground.options()) as rival:
        for number in budget.runs(effort.partitions, "partitions of keepalived"):
            theirs.append(_one(plan.NODES[number % 2], gates=None))
            ground.say(f"  keepalived: {_told(theirs[-1])}")
            lab.heal(theirs[-1].cut)
            rival.wait_master("a")
    return figures_of(ours, theirs, bound_us)


def _told(healed: Healed) -> str:
    served = "never" if healed.served_ns is None else f"after {healed.served_ns / MS:.2f} ms"
    text = f"served {served}, lost {healed.lost}"
    if healed.overlap_ns is not None and healed.gates_ns is not None:
        text += f", overlap {healed.overlap_ns / US:.0f} us, gates {healed.gates_ns / US:.0f} us"
    return ", ".join([text, *(one.told() for one in healed.later)])


def _overlap_bound_us(node: str) -> float:
    """One hello and one round trip."""
    said = agents.show(node)
    if said is None:
        raise LabError(f"{node} does not say which timers are in force")
    return float(said["timers"]["hello_us"]) + (said["peer"]["round_trip_ns"] or 0) / US


def _served_ms(healed: Healed) -> float:
    return WATCHED_S * 1e3 if healed.served_ns is None else healed.served_ns / MS


def figures_of(ours: list[Healed], theirs: list[Healed], bound_us: float) -> list[Figure]:
    """All figures of the runs.  Pure."""
    contested = [run for run in ours if run.both_served]
    # One that nobody contested counts as well, with what was seen: nothing, if all is right.
    overlaps = [
        run.overlap_ns / US if run.overlap_ns is not None else WATCHED_S * 1e6 for run in ours
    ]
    later = [one for run in ours for one in run.later]
    counted = sum(1 for one in later if one.counts)
    details: dict[str, Any] = {
        "cut": [run.cut for run in ours],
        "first_gate_shut": [run.loser for run in ours],
        "interruptions_from_100_ms_on": [
            {"partition": number + 1, "cut": run.cut, "what": one.told(), "counts": one.counts}
            for number, run in enumerate(ours)
            for one in run.later
        ],
        "frames_lost_by_capture": sum(run.capture_lost for run in ours),
        "first_gate_shut_after_us": [
            None if run.gates_ns is None else round(run.gates_ns / US, 1) for run in contested
        ],
    }
    rival_note = f"{sum(1 for healed in theirs if healed.served_ns is None)} of {len(theirs)} "
    rival_note += f"runs not served again within {WATCHED_S} s; without gates to ask, all "
    rival_note += "interruptions that began later count"
    return [
        figures.measured(
            "partition_served",
            [_served_ms(run) for run in ours],
            details=details,
            note=f"{len(later)} interruptions began more than 100 ms later: {counted} of them "
            f"count, {len(later) - counted} are left out, as the gates show that the only owner's "
            "lease had run out, with no contest about it",
        ),
        figures.measured("partition_lost", [run.lost for run in ours]),
        figures.measured(
            "partition_overlap",
            overlaps,
            bar=round(bound_us, 1),
            note=f"both gates were open at the heal in {len(contested)} of {len(ours)} runs",
        ),
        figures.measured(
            "keepalived_partition_served",
            [_served_ms(run) for run in theirs],
            note=rival_note,
        ),
    ]
