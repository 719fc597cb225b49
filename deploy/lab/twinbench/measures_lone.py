# SPDX-License-Identifier: Apache-2.0
"""The agent of a lone primary crashes, its peer off: how long until it serves again.

Nobody is there to take over, so what counts is how soon a new agent stands.  Started at once, as a
supervisor without a pause would; systemd waits for its RestartSec= besides.
"""

from __future__ import annotations

from dataclasses import dataclass

from twinlab import agents, lab, plan, probe
from twinlab.shell import LabError, wait_for

from twinbench import figures, ground
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure
from twinbench.measures_death import MS

RESTARTS_MAX_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """One crash. All but the outage are counted from the moment at which the old agent was gone."""

    outage_ns: int
    loaded_ns: int
    """Until the new agent's own code began: the interpreter, and all its modules."""
    listening_ns: int
    """Until it began to listen: programs and addresses were found in place."""
    open_ns: int
    """Until its gate was open."""


def restart(effort: Effort, budget: Budget) -> list[Figure]:
    """SIGKILL, start, and wait for the client to be served, again and again."""
    serving = ground.twinbeat(ground.options())
    other = plan.peer(serving)
    seen: list[Restart] = []
    try:
        agents.kill(other)
        lab.cut(other, silent=True)
        wait_for(lambda: _is_alone(serving), f"{serving} is alone", timeout_s=10)
        for number in budget.runs(effort.lone, "crashes of a lone agent"):
            with budget.attempt(f"crash {number + 1}"):
                seen.append(_one(serving))
                ground.say(f"  outage {seen[-1].outage_ns / MS:.0f} ms")
    finally:
        ground.mend()
        ground.twinbeat(ground.options())
    details = {
        f"{name}_ms": [round(getattr(one, f"{name}_ns") / MS, 1) for one in seen]
        for name in ("loaded", "listening", "open")
    }
    outages = [one.outage_ns / MS for one in seen]
    return [figures.measured("lone_restart", outages, details=details)]


def _is_alone(node: str) -> bool:
    said = agents.show(node)
    return bool(said and said["peer"]["watch"] == "dead" and said["gate"]["open"])


def _one(node: str) -> Restart:
    with probe.Probe(interval_us=200) as running:
        running.wait_served(run=100)
        before = agents.boot_ns()
        agents.kill(node)
        gone = agents.boot_ns()
        agents.start(node)
        # Until its lease is over the old gate serves; what is waited for is the new one.
        opened = ground.takeover_after(node, gone, timeout_s=RESTARTS_MAX_S).gate_ns
        running.wait_served(since_ns=opened)
        record = running.finish()
    outage = record.outage_around(before)
    if outage is None or outage.duration_ns is None:
        raise LabError("the client noticed nothing of the crash, or was never served again")
    said = agents.show(node)
    if said is None:
        raise LabError(f"the agent of {node} doesn't answer")
    listened = next(
        one["at_ns"]
        for one in agents.history(node)
        if one["at_ns"] >= gone and one["from_role"] == "init"
    )
    timers = said["timers"]
    listen_ns = 1000 * (timers["lease_us"] + timers["dead_us"] + timers["verify_us"])
    return Restart(
        outage_ns=outage.duration_ns,
        loaded_ns=said["process"]["started_ns"] - gone,
        listening_ns=listened - listen_ns - gone,
        open_ns=opened - gone,
    )
