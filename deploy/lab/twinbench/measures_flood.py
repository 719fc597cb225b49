# SPDX-License-Identifier: Apache-2.0
"""200,000 forged and replayed heartbeats a second at a node's port: does it believe one, does it
flinch?

Half are forged with counters that look fresh, half were on the wire before.  Beside it an equal
flood of frames that are none of Twinbeat's business, since any flood costs processor time on a
machine this small: what the forgeries cost is the difference.

And beside both, on each processor, a bare real-time thread above the engines: where the hypervisor
stops a processor for longer than a lease, a primary that ran there lets its lease lapse, flood or
not.  All changes of role count; how many of them were beside such a stall is told.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from twinlab import agents, capture, flood, netns, plan, probe
from twinlab.shell import LabError, run, wait_for

from twinbench import figures, forge, ground, judge, machine
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure
from twinbench.measures_death import MS

LINK = "lan0"
REPLAYS = 256
DEATH_FLOOD_S = 4

SETTLED_NS = 100_000_000
"""How long after a stall a change of role may still be its doing: the peer takes over, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flooded:
    """One flood and what came of it."""

    seconds: float
    sent: int
    """All that were handed to the switch's port, also those that it refused at once."""
    arrived: int
    """Less what the port had no room for."""
    refused: int
    suspicions: int
    moved: tuple[int, ...]
    """When roles changed."""
    reasons: dict[str, int]
    """How much each of the victim's counters grew."""
    stalls: tuple[judge.Stall, ...] = ()
    """When the machine kept a bare real-time thread waiting for about a lease, or longer."""

    @property
    def beside_stalls(self) -> int:
        """How many of the changes of role a stall of the machine may be behind."""
        return judge.beside_stalls(self.moved, self.stalls, within_ns=SETTLED_NS)

    def told(self) -> str:
        """Its changes of role, and what the machine did meanwhile."""
        longest = max((stall.lasted_ns for stall in self.stalls), default=0)
        stalled = f", {longest / MS:.1f} ms at most" if self.stalls else ""
        return (
            f"{len(self.moved)}, {self.beside_stalls} of them beside a stall of the machine (a "
            f"bare real-time thread waited a lease or longer {len(self.stalls)} times{stalled})"
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Frames of a flood, and whether they are given fresh counters."""

    frames: list[bytes]
    counting_from: int | None = None


def _recorded(victim: str, *, answers: bool) -> list[bytes]:
    """Whole heartbeats of the victim's peer, as they are on the wire; its ANSWERs if asked for."""
    with capture.Capture(
        links=(LINK,), ports=(plan.peer(victim),), heartbeats=True, snap=256, name="bench-replay"
    ) as recorder:

        def enough() -> list[bytes]:
            frames = flood.recorded(capture.read(recorder.paths), victim, LINK)
            found = [frame for frame in frames if answers or forge.kind(frame) != forge.ANSWER]
            return found if len(found) >= REPLAYS else []

        return wait_for(enough, f"heartbeats to {victim}", timeout_s=30)[-REPLAYS:]


def _evil(victim: str, *, answers: bool) -> list[Part]:
    replays = _recorded(victim, answers=answers)
    ahead = forge.newest_counter(replays) + forge.AHEAD
    return [Part(forge.forgeries(victim, LINK), ahead), Part(replays)]


@contextmanager
def _running(
    victim: str, parts: list[Part], rate: int, seconds: int
) -> Iterator[list[flood.Flood]]:
    """All parts at once, sharing the rate.  On leaving the floods are over."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                flood.Flood(
                    victim,
                    LINK,
                    part.frames,
                    rate=rate // len(parts),
                    seconds=seconds,
                    counting_from=part.counting_from,
                    name=f"bench-flood-{number}",
                )
            )
            for number, part in enumerate(parts)
        ]


def _dropped(victim: str) -> int:
    """Frames that the switch's port failed to hand to the node's end of the cable."""
    port = ["ip", "-s", "-j", "link", "show", "dev", victim]
    shown = run([*netns.enter(plan.SWITCHES[LINK]), *port])
    return int(json.loads(shown)[0]["stats64"]["tx"]["dropped"])


def arrived(taken: int, refused: int, dropped: int) -> int:
    """How many of the flood's frames reached the node.  Pure.

    taken, refused: as the port said to the sender.  A port that says when it has no room says it of
    each frame, and what else it drops are the pair's own; one that never says so drops in silence,
    and everything that it drops is taken for the flood's.
    """
    return taken if refused else taken - dropped


def _flood(victim: str, parts: list[Part], rate: int, seconds: int) -> Flooded:
    before, doubts, lost = ground.counters(), ground.suspicions(), _dropped(victim)
    began = agents.boot_ns()
    with (
        machine.stalls(_stall_us(victim)) as stalls,
        _running(victim, parts, rate, seconds) as floods,
    ):
        taken = sum(one.finish() for one in floods)
        refused = sum(one.refused for one in floods)
    ended = agents.boot_ns()
    after, doubts_after = ground.counters(), ground.suspicions()
    reasons = judge.grown(before[victim]["reasons"], after[victim]["reasons"])
    moved = tuple(
        transition["at_ns"]
        for transitions in ground.histories().values()
        for transition in transitions
        if transition["at_ns"] >= began and transition["from_role"] != transition["to_role"]
    )
    return Flooded(
        # The start of the tools is part of the time, so the rate is rather too low than too high.
        seconds=(ended - began) / 1e9,
        sent=taken + refused,
        arrived=arrived(taken, refused, _dropped(victim) - lost),
        refused=judge.refused(reasons),
        suspicions=sum(judge.grown(doubts, doubts_after).values()),
        moved=moved,
        reasons=reasons,
        stalls=tuple(stalls),
    )


def _stall_us(node: str) -> int:
    """From how long a stall on the lease may have run out: it was renewed up to a round before."""
    said = wait_for(functools.partial(agents.show, node), f"an answer of {node}", timeout_s=20)
    timers = said["timers"]
    return int(timers["lease_us"] - timers["hello_us"] - machine.STALLS_INTERVAL_US)


def _signs_of_belief() -> int:
    """Where a forged term would show if one forged frame had been believed."""
    signs = 0
    for node in plan.NODES:
        said = wait_for(functools.partial(agents.show, node), f"an answer of {node}", timeout_s=20)
        for where, key in (("gate", "fence_below"), ("node", "term_highest"), ("peer", "term")):
            if said[where][key] >= forge.FORGED_TERM:
                signs += 1
    return signs


def under_flood(effort: Effort, budget: Budget) -> list[Figure]:
    """The unrelated flood, the forged one, and real deaths in the midst of it."""
    serving = ground.twinbeat(ground.options())
    ordinary = [Part([flood.unrelated(serving, LINK)]) for _ in range(2)]
    plain = _flood(serving, ordinary, effort.flood_rate, effort.flood_s)
    ground.say(f"  unrelated: {plain.arrived / plain.seconds:.0f}/s, {plain.suspicions} suspicions")
    serving = agents.wait_fit()
    # A replayed ANSWER is refused for the same reason as an honest one that comes too late: nobody
    # could tell how many of the flood's were counted. Those rain in the deaths below.
    parts = _evil(serving, answers=False)
    evil = _flood(serving, parts, effort.flood_rate, effort.flood_s)
    ground.say(
        f"  forged: {evil.arrived / evil.seconds:.0f}/s, {evil.suspicions} suspicions, "
        f"{evil.arrived - evil.refused} not counted"
    )
    signs = _signs_of_belief()
    missed, outages = _deaths(effort, budget)
    return figures_of(plain, evil, signs, missed, outages)


def _deaths(effort: Effort, budget: Budget) -> tuple[list[int], list[float]]:
    """The primary dies while forged frames rain on the node that has to notice."""
    missed: list[int] = []
    outages: list[float] = []
    for number in budget.runs(effort.flood_deaths, "deaths in the flood"):
        with budget.attempt(f"death {number + 1} in the flood"):
            noticed, outage = _one_death(agents.wait_fit(), effort.flood_rate)
            missed.append(0 if noticed else 1)
            if outage is not None:
                outages.append(outage)
                ground.say(f"  death in the flood: {outage:.2f} ms")
        ground.mend()
    agents.wait_fit()
    return missed, outages


def _one_death(serving: str, rate: int) -> tuple[bool, float | None]:
    """Whether it was noticed, and the outage in ms where it ended."""
    watcher = plan.peer(serving)
    parts = _evil(watcher, answers=True)
    with probe.Probe(interval_us=200) as client, ground.GateWatch() as gates:
        client.wait_served()
        with _running(watcher, parts, rate, DEATH_FLOOD_S):
            client.wait_for_time(1.0)
            before, _ = ground.cut_silently(serving)
            try:
                gates.wait_open(watcher, before, timeout_s=DEATH_FLOOD_S - 1.5)
                client.wait_served(since_ns=before, timeout_s=DEATH_FLOOD_S - 1.5)
                noticed = True
            except LabError:
                noticed = False
        record = client.finish()
    outage = record.outage_around(before)
    if outage is None or outage.duration_ns is None:
        return noticed, None
    return noticed, outage.duration_ns / MS


def figures_of(
    plain: Flooded, evil: Flooded, signs: int, missed: list[int], outages: list[float]
) -> list[Figure]:
    """All figures of the floods.  Pure."""
    uncounted = evil.arrived - evil.refused
    details: dict[str, Any] = {
        "sent": evil.sent,
        "arrived": evil.arrived,
        "refused": evil.refused,
        "reasons": {name: count for name, count in evil.reasons.items() if count},
        "refused_under_the_unrelated_flood": plain.refused,
    }
    more = (
        f"{-uncounted} more were counted than arrived; under the unrelated flood, with nothing to "
        f"refuse, {plain.refused} were counted"
        if uncounted < 0
        else ""
    )
    seconds = evil.seconds
    unrelated = round(plain.arrived / plain.seconds)
    return [
        figures.measured(
            "flood_rate",
            [evil.arrived / seconds],
            seconds=seconds,
            note=f"the unrelated flood: {unrelated} a second",
        ),
        figures.measured(
            "flood_transitions",
            [len(evil.moved)],
            seconds=seconds,
            note=f"{evil.told()}; under the unrelated flood: {plain.told()}",
            details={
                name: {
                    "transitions_ns": kind.moved,
                    "stalls_ns": [[stall.began_ns, stall.ended_ns] for stall in kind.stalls],
                }
                for name, kind in (("forged", evil), ("unrelated", plain))
            },
        ),
        figures.measured(
            "flood_unexplained", [len(evil.moved) - evil.beside_stalls], seconds=seconds
        ),
        figures.measured("flood_stalls", [len(evil.stalls)], seconds=seconds),
        figures.measured("plain_flood_transitions", [len(plain.moved)], seconds=plain.seconds),
        figures.measured(
            "flood_uncounted", [uncounted], seconds=seconds, note=more, details=details
        ),
        figures.measured("flood_accepted", [signs], seconds=seconds),
        figures.measured(
            "flood_suspicions", [judge.per_minute(evil.suspicions, seconds)], seconds=seconds
        ),
        figures.measured(
            "plain_flood_suspicions",
            [judge.per_minute(plain.suspicions, plain.seconds)],
            seconds=plain.seconds,
        ),
        figures.measured(
            "flood_undetected_deaths",
            missed,
            details={"outage_ms": [round(outage, 2) for outage in outages]},
        ),
    ]
