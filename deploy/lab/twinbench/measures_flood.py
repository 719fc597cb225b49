# SPDX-License-Identifier: Apache-2.0
"""200,000 forged and replayed heartbeats a second at the primary's port: does it believe one, does
it flinch?

Beside it an equal flood of frames that are none of Twinbeat's business, since any flood costs
processor time on a machine this small: what the forgeries cost is the difference.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from twinlab import agents, capture, lab, netns, plan, probe, processes, services
from twinlab.shell import LabError, run, wait_for

from twinbench import figures, forge, ground, judge
from twinbench.effort import Effort
from twinbench.figures import Figure
from twinbench.measures_death import MS

HEARTBEAT_BYTES = 42 + forge.PAYLOAD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Flooded:
    """One flood and what came of it."""

    seconds: float
    sent: int
    arrived: int
    """Sent, less what the network dropped on the way."""
    refused: int
    suspicions: int
    transitions: int
    reasons: dict[str, int]
    """How much each of the victim's counters grew."""


def _capture_heartbeats(sender: str) -> list[bytes]:
    """Heartbeats as a node sends them on the lan side, whole."""
    path = plan.RUN_DIR / "bench-replay.pcapng"
    command = [services.tool("tb-capture"), "--out", str(path), "--label", "lan0"]
    command += ["--port", sender, "--snap", "256"]
    processes.log_file("bench-replay").unlink(missing_ok=True)
    processes.spawn("bench-replay", plan.SWITCHES["lan0"], command)
    try:
        wait_for(
            lambda: len(_heartbeats_in(path)) >= 200,
            f"heartbeats of {sender} on the lan side",
            timeout_s=10,
        )
    finally:
        processes.end("bench-replay")
    return _heartbeats_in(path)


def _heartbeats_in(path: Any) -> list[bytes]:
    if not path.exists():
        return []
    frames = capture.read([path]).frames
    return [frame.data for frame in frames if forge.is_heartbeat(frame.data)]


def _dropped(namespace: str, device: str) -> int:
    """Frames that a device failed to hand to the other end of its cable."""
    shown = run([*netns.enter(namespace), "ip", "-s", "-j", "link", "show", "dev", device])
    return int(json.loads(shown)[0]["stats64"]["tx"]["dropped"])


def _lost_on_the_way(victim: str) -> int:
    client = _dropped(plan.CLIENT_NS, "eth0")
    return client + _dropped(plan.SWITCHES["lan0"], victim)


def _begin(templates: list[forge.Template], rate: int, seconds: int) -> None:
    path = plan.RUN_DIR / "bench-flood.frames"
    path.write_bytes(forge.packed(templates))
    processes.log_file("bench-flood").unlink(missing_ok=True)
    command = [services.tool("tb-flood"), "--interface", "eth0", "--frames", str(path)]
    command += ["--rate", str(rate), "--seconds", str(seconds)]
    processes.spawn("bench-flood", plan.CLIENT_NS, command)


def _end(seconds: int) -> dict[str, Any]:
    """Wait for the flood's end; what it sent."""
    wait_for(
        lambda: processes.pid_of("bench-flood") is None,
        "the end of the flood",
        timeout_s=seconds + 10,
        interval_s=0.05,
    )
    said = processes.log_tail("bench-flood", 1)
    try:
        return dict(json.loads(said))
    except ValueError as error:
        raise LabError(f"tb-flood: {said}") from error


def _flood(victim: str, templates: list[forge.Template], rate: int, seconds: int) -> Flooded:
    before, doubts, lost = ground.counters(), ground.suspicions(), _lost_on_the_way(victim)
    began = agents.boot_ns()
    _begin(templates, rate, seconds)
    done = _end(seconds)
    after, doubts_after = ground.counters(), ground.suspicions()
    elapsed = done["elapsed_ns"] / 1e9
    reasons = judge.grown(before[victim]["reasons"], after[victim]["reasons"])
    moved = sum(
        1
        for transitions in ground.histories().values()
        for transition in transitions
        if transition["at_ns"] >= began
    )
    return Flooded(
        seconds=elapsed,
        sent=done["sent"],
        arrived=done["sent"] - (_lost_on_the_way(victim) - lost),
        refused=judge.refused(reasons),
        suspicions=sum(judge.grown(doubts, doubts_after).values()),
        transitions=moved,
        reasons=reasons,
    )


def _signs_of_belief() -> int:
    """Where a forged term would show if one forged frame had been believed."""
    signs = 0
    for node in plan.NODES:
        said = agents.show(node)
        if said is None:
            raise LabError(f"{node} does not answer after the flood")
        for where, key in (("gate", "fence_below"), ("node", "term_highest"), ("peer", "term")):
            if said[where][key] >= forge.FORGED_TERM:
                signs += 1
    return signs


def flood(effort: Effort) -> list[Figure]:
    """The unrelated flood, the forged one, and real deaths in the midst of it."""
    serving = ground.twinbeat(ground.options())
    peer = plan.peer(serving)
    addresses = {
        "source_mac": plan.CLIENT_MAC,
        "destination_mac": plan.node_mac(serving, "lan0"),
        "source": plan.node_address(peer, "lan0"),
        "destination": plan.node_address(serving, "lan0"),
    }
    ordinary = [forge.unrelated(**{**addresses, "source": plan.CLIENT_ADDRESS})]
    forged = forge.assortment(_capture_heartbeats(peer), **addresses)
    plain = _flood(serving, ordinary, effort.flood_rate, effort.flood_s)
    ground.say(f"  unrelated: {plain.arrived / plain.seconds:.0f}/s, {plain.suspicions} suspicions")
    agents.wait_fit()
    evil = _flood(serving, forged, effort.flood_rate, effort.flood_s)
    ground.say(f"  forged: {evil.arrived / evil.seconds:.0f}/s, {evil.suspicions} suspicions")
    signs = _signs_of_belief()
    missed, outages = _deaths(effort)
    return _figures(plain, evil, signs, missed, outages)


def _deaths(effort: Effort) -> tuple[list[int], list[float]]:
    """The primary dies while forged frames rain on the node that has to notice."""
    missed: list[int] = []
    outages: list[float] = []
    for _ in range(effort.flood_deaths):
        serving = agents.wait_fit()
        watcher = plan.peer(serving)
        forged = forge.assortment(
            _capture_heartbeats(serving),
            source_mac=plan.CLIENT_MAC,
            destination_mac=plan.node_mac(watcher, "lan0"),
            source=plan.node_address(serving, "lan0"),
            destination=plan.node_address(watcher, "lan0"),
        )
        seconds = 4
        with probe.Probe(interval_us=200) as client, ground.GateWatch() as gates:
            client.wait_served()
            _begin(forged, effort.flood_rate, seconds)
            client.wait_for_time(1.0)
            before, _ = ground.cut_silently(serving)
            try:
                gates.wait_open(watcher, before, timeout_s=seconds - 1.5)
                client.wait_served(since_ns=before, timeout_s=seconds - 1.5)
                missed.append(0)
            except LabError:
                missed.append(1)
            _end(seconds)
            record = client.finish()
        outage = record.outage_around(before)
        if outage is not None and outage.duration_ns is not None:
            outages.append(outage.duration_ns / MS)
            ground.say(f"  death in the flood: {outages[-1]:.2f} ms")
        lab.heal(serving)
        agents.wait_fit()
    return missed, outages


def _figures(
    plain: Flooded, evil: Flooded, signs: int, missed: list[int], outages: list[float]
) -> list[Figure]:
    uncounted = max(0, evil.arrived - evil.refused)
    details: dict[str, Any] = {
        "sent": evil.sent,
        "arrived": evil.arrived,
        "refused": evil.refused,
        "reasons": {name: count for name, count in evil.reasons.items() if count},
    }
    seconds = evil.seconds
    return [
        figures.measured(
            "flood_rate",
            [evil.arrived / seconds],
            seconds=seconds,
            details={"unrelated": round(plain.arrived / plain.seconds)},
        ),
        figures.measured("flood_transitions", [evil.transitions], seconds=seconds),
        figures.measured("flood_uncounted", [uncounted], seconds=seconds, details=details),
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
