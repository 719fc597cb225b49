# SPDX-License-Identifier: Apache-2.0
"""Persistence: who stays with his server over a silent death, how long a new entry takes to the
other kernel, how fast a node is filled that comes back, and what all that costs the pair."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from twinlab import agents, clients, netns, plan, processes, storm
from twinlab.shell import LabError, run, wait_for

from twinbeat.sessions.shown import quantile_ns
from twinbench import figures, ground, measures_death
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure

WINDOW_S: Final = 0.5
"""What was made longer ago has to outlast a death: the bar of the window's p99.9."""
IN_STEP_S: Final = 60.0
FILL_S: Final = 60.0
BULK_FIRST: Final = "10.97.0.1"
RATE_FIRST: Final = "10.100.0.1"
MS: Final = 1e6


def sessions(effort: Effort, budget: Budget) -> list[Figure]:
    """Deaths under clients that are bound; a node that comes back; a stream of new clients."""
    wanted = ground.options("balanced")
    primary = ground.twinbeat(wanted)
    storm.acquaint()
    wait_for(storm.in_step, "both workers to be in step", timeout_s=IN_STEP_S)
    moved, unanswered = _deaths(effort, budget)
    filled = _fill(effort, budget)
    primary = agents.wait_fit()
    quiet, busy = _outages(effort, budget, wanted)
    window = _stream(effort, primary)
    added = figures.measured(
        "sessions_outage_added",
        [under - without for without, under in zip(quiet, busy, strict=True)],
        details={"new_per_s": effort.sessions_rate},
    )
    return [
        figures.measured(
            "sessions_moved", moved, note=f"of {effort.sessions_clients:,} clients each time"
        ),
        figures.measured("sessions_unanswered", unanswered),
        figures.measured("sessions_fill", filled["took_s"], details=filled),
        figures.measured("sessions_fill_suspicions", filled["suspicions"]),
        figures.measured(
            "sessions_window",
            [window["median_ms"]],
            note=f"the role moved {window['moves']} times" if window["moves"] else "",
            details=window,
        ),
        figures.measured("sessions_window_late", [window["late_ms"]], details=window),
        figures.measured("sessions_stream_missing", [window["missing"]], details=window),
        figures.measured("sessions_outage", busy),
        figures.measured("sessions_outage_quiet", quiet),
        # Noise is what the deaths without new clients differ by.
        replace(added, bar=max(quiet, default=0.0) - min(quiet, default=0.0)),
    ]


def _deaths(effort: Effort, budget: Budget) -> tuple[list[float], list[float]]:
    """Clients that got another server, and clients that got no answer, after each death."""
    before = clients.answers(effort.sessions_clients)
    moved: list[float] = []
    unanswered: list[float] = []
    for number in budget.runs(effort.sessions_deaths, "deaths under clients", share=0.4):
        with budget.attempt(f"death {number + 1} under clients"):
            primary = agents.wait_fit()
            time.sleep(WINDOW_S)
            since_ns, _ = ground.cut_silently(primary)
            ground.takeover_after(plan.peer(primary), since_ns)
            after = [str(each) for each in clients.fetch(len(before))["answers"]]
            pairs = list(zip(before, after, strict=True))
            moved.append(sum(bool(new) and new != old for old, new in pairs))
            unanswered.append(sum(not new for _, new in pairs))
            ground.say(f"  {moved[-1]:g} of {len(before):,} clients got another server")
        ground.mend()
        agents.wait_fit()
        wait_for(_in_step, "the node that came back to be filled", timeout_s=FILL_S)
    return moved, unanswered


def _in_step() -> bool:
    primary = agents.primary()
    if primary is None:
        return False
    try:
        return bool(clients.seen(primary)["replication"]["state"] == "in-step")
    except LabError:
        return False


def _fill(effort: Effort, budget: Budget) -> dict[str, Any]:
    """A secondary's worker and table are gone while many clients come; then it comes back."""
    took, raised = [], []
    for number in budget.runs(effort.sessions_fills, "fills", share=0.2):
        with budget.attempt(f"fill {number + 1}"):
            primary = agents.wait_fit()
            other = plan.peer(primary)
            processes.end(f"worker-{other}")
            run([*netns.enter(plan.namespace(other)), str(agents.WORKER), "--remove"])
            clients.send(effort.sessions_bulk, 10_000, BULK_FIRST)
            wait_for(
                partial(_knows, primary, effort.sessions_bulk),
                "the primary to know all clients",
                timeout_s=30,
            )
            suspicions = sum(ground.suspicions().values())
            agents.start_worker(other)
            wait_for(_in_step, f"{other} to be filled", timeout_s=FILL_S)
            raised.append(float(sum(ground.suspicions().values()) - suspicions))
            took.append(clients.seen(primary)["replication"]["filled_ns"] / 1e9)
            there = len(clients.elements(other, "echo"))
            if there < effort.sessions_bulk:
                raise LabError(f"{other} has {there:,} of {effort.sessions_bulk:,} entries")
            ground.say(f"  {there:,} entries in {took[-1]:.2f} s")
        ground.mend()
    return {"took_s": took, "suspicions": raised, "entries": effort.sessions_bulk}


def _knows(node: str, count: int) -> bool:
    return clients.entries(node, "echo") >= count


def _outages(
    effort: Effort, budget: Budget, wanted: plan.Options
) -> tuple[list[float], list[float]]:
    """Silent deaths without new clients and with them, in turns, in ms of outage."""
    quiet: list[float] = []
    busy: list[float] = []
    for number in budget.runs(effort.sessions_outages, "deaths with new clients", share=0.6):
        with budget.attempt(f"deaths {number + 1} without and with new clients"):
            without = _outage_ms(wanted)
            ground.mend()
            per_s = effort.sessions_rate
            with _streaming(per_s, 4 * per_s, f"10.{103 + number % 9}.0.1") as stream:
                under = _outage_ms(wanted)
                stream.communicate(timeout=30)
            quiet.append(without)
            busy.append(under)
            ground.say(f"  {without:.1f} ms without, {under:.1f} ms with new clients")
        ground.mend()
    return quiet, busy


def _outage_ms(wanted: plan.Options) -> float:
    primary = agents.wait_fit()
    wait_for(_in_step, "the pair to be in step", timeout_s=FILL_S)
    return measures_death.one_death(primary, wanted).outage_ns / MS


def _streaming(per_s: int, count: int, first: str) -> subprocess.Popen[str]:
    asked = clients.command(plan.PROBE_PORT, count, first, "--send", str(per_s))
    return subprocess.Popen(asked, stdout=subprocess.PIPE, text=True)


def _stream(effort: Effort, primary: str) -> dict[str, Any]:
    """New clients for a while; how long each entry took, and which are missing in the end.

    The role may move by itself meanwhile: so both nodes are asked how long it took, and what is
    missing is what the one that serves in the end has alone.
    """
    primary = agents.wait_fit()
    wait_for(_in_step, "the pair to be in step", timeout_s=FILL_S)
    before = {node: clients.seen(node) for node in plan.NODES}
    moves = _moves()
    count = int(effort.sessions_rate * effort.sessions_stream_s)
    with _streaming(effort.sessions_rate, count, RATE_FIRST) as stream:
        said, _ = stream.communicate(timeout=10 * effort.sessions_stream_s + 60)
    sent = json.loads(said)
    wait_for(_all_there, "all entries to be there", timeout_s=FILL_S)
    primary = agents.wait_fit()
    after = {node: clients.seen(node) for node in plan.NODES}
    counts = [0] * len(after[primary]["window"])
    for node in plan.NODES:
        pairs = zip(after[node]["window"], before[node]["window"], strict=True)
        counts = [sum(each) for each in zip(counts, (new - old for new, old in pairs), strict=True)]
    wanted = set(clients.addresses(count, RATE_FIRST))
    there = {node: wanted & clients.elements(node, "echo").keys() for node in plan.NODES}
    return {
        "sent_per_s": sent["sent"] / sent["took_s"],
        "entries": sum(counts),
        "median_ms": quantile_ns(counts, 0.5) / MS,
        "late_ms": quantile_ns(counts, 0.999) / MS,
        "missing": float(len(there[primary] - there[plan.peer(primary)])),
        "bound": len(there[primary]),
        "moves": _moves() - moves,
        "resyncs": _grown(before, after, "resync", of=lambda said: said["replication"]["counts"]),
        "overflows": _grown(before, after, "overflow", of=lambda said: said["counts"]),
    }


def _all_there() -> bool:
    """Whoever leads has everything in the other kernel."""
    leader = agents.primary()
    if leader is None or not _in_step():
        return False
    told = clients.seen(leader)["replication"]
    return not told["outstanding"] and not told["waiting"]


def _moves() -> int:
    """How often the role has moved: the highest term that is known."""
    said = [agents.show(node) for node in plan.NODES]
    return max((one["node"]["term_highest"] for one in said if one is not None), default=0)


def _grown(
    before: dict[str, Any], after: dict[str, Any], what: str, *, of: Callable[[Any], Any]
) -> int:
    """What was counted meanwhile on both nodes, of all whose names begin so."""
    return sum(
        count - of(before[node]).get(name, 0)
        for node in plan.NODES
        for name, count in of(after[node]).items()
        if name.startswith(what)
    )
