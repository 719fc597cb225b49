# SPDX-License-Identifier: Apache-2.0
"""Does a busy machine make the pair lie?  Failovers nobody caused, while 64 processes burn
processor time.

False is a verdict of DEAD on a peer whose kernel ran, or a takeover while the primary's gate was
open.  Whether it was is asked of two witnesses: of the gates, looked at from outside, and of the
primary itself, since its engine shuts the gate within a tick of a claim's fence, and whoever looks
after that finds it shut by its owner.  Both are held up by the very stalls that the load consists
of; where the taker's claim was begun after the end of the primary's lease, it fenced no open gate,
whatever they took it for.  A takeover after the primary's lease had really run out is
none: such lapses are counted apart, and the primary's own lateness is their witness.  In between
the primary really dies a few times, at random moments: a detector that never cries wolf has to bite
all the same.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from twinlab import agents, lab, plan, probe, processes, services
from twinlab.shell import LabError

from twinbench import figures, ground, judge
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure
from twinbench.measures_death import MS

DETECTED_WITHIN_S = 10.0
ANSWERS_WITHIN_S = 30.0
FIT_AFTER_DEATH_S = 120.0


@dataclass(slots=True, kw_only=True)
class Seen:
    """What happened in one stretch of load."""

    quiet_s: float = 0.0
    """Time in which nobody was dead."""
    verdicts_dead: int = 0
    """Of them in that time."""
    suspicions: dict[str, int] = field(default_factory=dict)
    """In that time, by outcome."""
    late_ticks: dict[str, int] = field(default_factory=dict)
    """In that time, by node: how often its engine ran late."""
    transitions: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    """All that the nodes told of, by node and number: an agent keeps only the newest thousand."""
    undetected: list[int] = field(default_factory=list)
    outages_ms: list[float] = field(default_factory=list)
    provoked: list[tuple[int, int]] = field(default_factory=list)


def fast(effort: Effort, budget: Budget) -> list[Figure]:
    """Ten minutes in fast."""
    return _under_load(effort, budget, ground.options())


def balanced(effort: Effort, budget: Budget) -> list[Figure]:
    """Ten minutes in balanced."""
    return _under_load(effort, budget, ground.options("balanced"))


def _under_load(effort: Effort, budget: Budget, options: plan.Options) -> list[Figure]:
    ground.twinbeat(options)
    seconds = int(effort.load_s)
    names = [f"bench-busy-{number}" for number in range(effort.load_processes)]
    command = [services.tool("tb-hog"), "--seconds", str(min(3600, 4 * seconds + 600))]
    try:
        for name in names:
            processes.spawn(name, plan.CLIENT_NS, command)
        with (
            ground.GateWatch(fifo=5) as gates,
            probe.Probe(interval_us=500, fifo=20) as client,
            ground.ahead_of_the_crowd(),
            agents.patient(ANSWERS_WITHIN_S),
        ):
            client.wait_served()
            began = agents.boot_ns()
            seen = _watch(effort, budget, gates, client)
            ended = agents.boot_ns()
            _ask_history(seen)
            busy = sum(1 for name in names if processes.pid_of(name) is not None)
            watch = gates.finish()
    finally:
        for name in names:
            processes.end(name)
    if busy < len(names):
        raise LabError(f"only {busy} of {len(names)} busy processes ran to the end")
    agents.wait_fit(timeout_s=FIT_AFTER_DEATH_S)
    lease_ns = ground.lease_ns()
    return stretch_figures(options.profile, seen, watch, began, ended, lease_ns=lease_ns)


def _ask_history(seen: Seen) -> None:
    for node, transitions in ground.histories().items():
        known = seen.transitions.setdefault(node, {})
        known.update({transition["number"]: transition for transition in transitions})


def _watch(effort: Effort, budget: Budget, gates: ground.GateWatch, client: probe.Probe) -> Seen:
    """Stretches of quiet, each ended by a death at a random moment, and a quiet one at the end."""
    seen = Seen()
    wanted_s = budget.seconds(effort.load_s, "load", share=0.8)
    share = wanted_s / (effort.load_deaths + 1)
    for _ in budget.runs(effort.load_deaths, "deaths under load"):
        _quiet(seen, client, share * random.uniform(0.3, 1.0))
        _death(seen, gates, client)
    # The deaths' own time doesn't count: quiet is watched for as long as the bar asks for.
    _quiet(seen, client, max(1.0, wanted_s - seen.quiet_s))
    return seen


def _quiet(seen: Seen, client: probe.Probe, seconds: float) -> None:
    before, started = ground.counters(), agents.boot_ns()
    client.wait_for_time(seconds)
    ended = agents.boot_ns()
    after = ground.counters()
    _ask_history(seen)
    seen.quiet_s += (ended - started) / 1e9
    for node in plan.NODES:
        grown = judge.grown(before[node]["suspicions"], after[node]["suspicions"])
        for outcome, count in grown.items():
            seen.suspicions[outcome] = seen.suspicions.get(outcome, 0) + count
        late = after[node]["late_ticks"] - before[node]["late_ticks"]
        seen.late_ticks[node] = seen.late_ticks.get(node, 0) + late
        seen.verdicts_dead += grown.get("dead", 0)


def _death(seen: Seen, gates: ground.GateWatch, client: probe.Probe) -> None:
    """The primary dies; noticed if the other node's gate opens and the client is served."""
    serving = agents.wait_fit(timeout_s=FIT_AFTER_DEATH_S)
    before, _ = ground.cut_silently(serving)
    try:
        gates.wait_open(plan.peer(serving), before, timeout_s=DETECTED_WITHIN_S)
        client.wait_served(since_ns=before, timeout_s=DETECTED_WITHIN_S)
        seen.undetected.append(0)
    except LabError:
        seen.undetected.append(1)
    outage = client.record().outage_around(before)
    if outage is not None and outage.duration_ns is not None:
        seen.outages_ms.append(outage.duration_ns / MS)
    lab.heal(serving)
    agents.wait_fit(timeout_s=FIT_AFTER_DEATH_S)
    seen.provoked.append((before, agents.boot_ns()))
    ground.say(
        f"  death of {serving}: "
        + (f"{seen.outages_ms[-1]:.1f} ms" if not seen.undetected[-1] else "not noticed")
    )


def stretch_figures(
    profile: str, seen: Seen, watch: judge.Watch, began: int, ended: int, *, lease_ns: int
) -> list[Figure]:
    """All figures of one stretch of load.  Pure."""
    told = {node: list(transitions.values()) for node, transitions in seen.transitions.items()}
    steps = judge.steps_down(told, seen.provoked, since_ns=began, until_ns=ended)
    moved = judge.unprovoked(
        watch.edges, seen.provoked, steps, judge.claims(told), since_ns=began, until_ns=ended
    )
    kinds = [takeover.kind for takeover in moved]
    false = judge.false_failovers(seen.verdicts_dead, moved, steps)
    raised = sum(seen.suspicions.values())
    by_kernel = seen.suspicions.get("stalled", 0)
    reasons = dict(Counter(step.code for step in steps))
    details: dict[str, Any] = {
        "suspicions": seen.suspicions,
        "cleared_by_the_peers_kernel": by_kernel,
        "verdicts_dead": seen.verdicts_dead,
        "takeovers_by_kind": {kind.value: kinds.count(kind) for kind in judge.Kind},
        "takeovers": _witnesses(moved, began, lease_ns),
        "late_ticks": sum(seen.late_ticks.values()),
        "late_ticks_by_node": seen.late_ticks,
        "primaries_stepped_down": reasons,
        "gates_both_open_ns": judge.both_open_ns(
            watch.edges, seen.provoked, since_ns=began, until_ns=ended
        ),
        "gates_unwatched_ns": watch.pause_longest_ns,
        "outages_of_real_deaths_ms": [round(outage, 2) for outage in seen.outages_ms],
    }
    note = f"{raised} suspicions, {by_kernel} of them cleared by the peer's kernel"
    minutes = seen.quiet_s / 60
    resigned, handed = (kinds.count(kind) for kind in (judge.Kind.RESIGNED, judge.Kind.HANDED))
    return [
        figures.measured(
            f"false_failovers_{profile}", [false], seconds=seen.quiet_s, note=note, details=details
        ),
        figures.measured(f"undetected_deaths_{profile}", seen.undetected),
        figures.measured(
            f"lapses_{profile}",
            [kinds.count(judge.Kind.LAPSE)],
            seconds=seen.quiet_s,
            note=f"{resigned} more after the primary had shut its gate itself, {handed} that it "
            f"had asked for; primaries that stepped down, as they say: {reasons or 'none'}",
        ),
        figures.measured(
            f"suspicions_{profile}",
            [raised / minutes if minutes else 0.0],
            seconds=seen.quiet_s,
            note=note,
        ),
    ]


def _witnesses(moved: Sequence[judge.Moved], began: int, lease_ns: int) -> list[dict[str, Any]]:
    """Each takeover that nobody caused, with what was seen of the old primary and what it says."""
    return [
        {
            "after_s": round((takeover.taken.at_ns - began) / 1e9, 3),
            "taken_by": takeover.taken.node,
            "kind": takeover.kind.value,
            "gate_seen": None if takeover.shut is None else takeover.shut.why,
            "primary_says": None if takeover.said is None else takeover.said.code,
            "primary_was_late_ms": _ms(takeover.held_up_ns(lease_ns)),
            "claimed_after_lease_ms": _ms(takeover.claimed_late_ns()),
        }
        for takeover in moved
    ]


def _ms(ns: int | None) -> float | None:
    return None if ns is None else round(ns / MS, 3)
