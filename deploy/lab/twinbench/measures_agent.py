# SPDX-License-Identifier: Apache-2.0
"""What becomes of the service when something happens to the primary's agent: a planned switch-over,
a hang, a kill, a real-time hog."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

from twinlab import agents, capture, plan, probe, processes, services
from twinlab.shell import LabError, wait_for

from twinbench import figures, ground, judge, samples
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure
from twinbench.measures_death import MS

HIGHEST_FIFO = 98
ATTEMPTS = 5
"""How often a run begins anew because the primary changed by itself just before its cue."""

AWAKE_S = 0.2
"""How long a hung agent that runs again is watched: would it go on where it stopped?"""
ANSWERS_AGAIN_S = 10.0


# ------------------------------------------------------------------------ switch-over --------


def planned(effort: Effort, budget: Budget) -> list[Figure]:
    """The operator asks for it: `twinbeat force failover --yes` on the primary."""
    lost: list[int] = []
    outages: list[float] = []
    for number in budget.runs(effort.switchovers, "switch-overs"):
        with budget.attempt(f"switch-over {number + 1}"):
            seen, outage_ms = _one_switchover(ground.twinbeat(ground.options()))
            lost.append(seen)
            outages.append(outage_ms)
            ground.say(f"  lost {seen}, outage {outage_ms:.2f} ms")
    details = {"outage_ms": [round(outage, 3) for outage in outages]}
    return [figures.measured("planned_lost", lost, details=details)]


def _one_switchover(serving: str) -> tuple[int, float]:
    """Probes lost, and the outage in ms."""
    taker = plan.peer(serving)
    with probe.Probe(interval_us=200) as running:
        running.wait_served(run=100)
        before = agents.boot_ns()
        done = agents.cli(serving, "force", "failover", "--yes", "--reason", "bench")
        if done.returncode != 0:
            raise LabError(f"force failover on {serving}: {done.stderr or done.stdout}")
        ground.takeover_after(taker, before)
        running.wait_for_time(0.2)
        record = running.finish()
    outage = record.outage_around(before)
    return record.lost(), (outage.duration_ns or 0) / MS if outage else 0.0


# ------------------------------------------------------------------- a hung, a dead agent ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """The primary's agent went away and the other node took over."""

    serving: str
    overlap: int
    back_ns: int
    """From the signal until the client was served by the new primary."""
    outage_ns: int
    lost: int
    later: int
    """Interruptions after that, while a hung agent woke up."""
    both_open_ns: int
    kind: judge.Kind
    capture_lost: int


def _replaced(number: signal.Signals) -> Replaced:
    """Signal the agent of whoever serves at that moment, and watch the other node take over.

    A stopped agent is continued while everything still watches: it is in waking up that it could
    speak for a VIP that is another's by now.
    """
    for _ in range(ATTEMPTS):
        serving = agents.wait_fit()
        pid = processes.pid_of(agents.process_name(serving))
        taker = plan.peer(serving)
        with (
            capture.Capture() as recorder,
            ground.GateWatch() as gates,
            probe.Probe(interval_us=100) as running,
        ):
            running.wait_served()
            running.wait_for_time(0.2)
            if pid is None or judge.owner_at(gates.now().edges, agents.boot_ns()) != serving:
                continue
            with ground.at_once():
                before = agents.boot_ns()
                os.kill(pid, number)
            opened = gates.wait_open(taker, before)
            running.wait_served(since_ns=opened.at_ns)
            running.wait_for_time(0.1)
            served_until = agents.boot_ns()
            if number is signal.SIGSTOP:
                agents.cont(serving)
                _wait_awake(serving)
                running.wait_for_time(AWAKE_S)
            record = running.finish()
            watch = gates.finish()
            recording = recorder.finish()
        return _judged(serving, (before, served_until), opened, record, watch, recording)
    raise LabError(f"the primary changed just before the signal, {ATTEMPTS} times in a row")


def _wait_awake(node: str) -> None:
    wait_for(
        lambda: agents.show(node) is not None,
        f"the agent of {node} answers again",
        timeout_s=ANSWERS_AGAIN_S,
        interval_s=0.01,
    )


def _judged(
    serving: str,
    absent: tuple[int, int],
    opened: judge.Edge,
    record: probe.Record,
    watch: judge.Watch,
    recording: capture.Recording,
) -> Replaced:
    """absent: from the signal to the moment at which the new primary had served for a while."""
    before, until = absent
    if recording.lost:
        raise LabError(f"the capture lost {recording.lost} frames: overlap can't be excluded")
    taker = plan.peer(serving)
    takeover = ground.takeover_after(taker, before)
    frames = ground.owned(recording, ground.options())
    # What the old primary sends is overlap, unless it has taken the role again since.
    told = {node: agents.history(node) for node in plan.NODES}
    reigns = judge.takeovers(told, since_ns=takeover.gate_ns)
    first = judge.first_frame_ns(frames, taker, takeover.gate_ns)
    if first is None:
        raise LabError(f"{taker} took over and was not seen on a switch")
    whole, lost = judge.served_after(record, before, within_ns=until - before)
    if whole is None:
        raise LabError("the client was not served again")
    outage = record.outage_around(before)
    return Replaced(
        serving=serving,
        overlap=len(judge.overlap(frames, reigns)),
        back_ns=max(whole, first - before),
        outage_ns=(outage.duration_ns or 0) if outage else 0,
        lost=lost,
        later=len(judge.interruptions(record, until, record.sent_ns[-1])),
        both_open_ns=watch.both_longest_ns,
        kind=judge.kind_of(opened.at_ns, taker, watch.edges),
        capture_lost=recording.lost,
    )


def _service_bound_ms() -> tuple[float, str]:
    """What the policy in force promises for a stalled agent, in ms, and its name."""
    said = agents.show("a")
    if said is None:
        raise LabError("a does not say which timers are in force")
    effective = agents.cli("a", "config", "show", "--effective").stdout
    name = "lease" if "wait-lease" in effective else "stall"
    return said["timers"][f"{name}_us"] / 1e3, name


def _signalled(
    name: str, number: signal.Signals, wanted: int, what: str, budget: Budget
) -> list[Figure]:
    ground.twinbeat(ground.options())
    bound, promised = _service_bound_ms()
    seen: list[Replaced] = []
    for attempt in budget.runs(wanted, what):
        with budget.attempt(f"{name} {attempt + 1}"):
            seen.append(_replaced(number))
            ground.say(
                f"  back after {seen[-1].back_ns / MS:.2f} ms, outage "
                f"{seen[-1].outage_ns / MS:.2f} ms, overlap {seen[-1].overlap}"
            )
        ground.mend()
        ground.twinbeat(ground.options())
    details = {
        "outage_ms": [round(run.outage_ns / MS, 3) for run in seen],
        "lost": [run.lost for run in seen],
        "interruptions_while_it_woke": [run.later for run in seen],
        "gates_both_open_ns": [run.both_open_ns for run in seen],
        "old_gate_shut_by": [run.kind.value for run in seen],
        "frames_lost_by_capture": sum(run.capture_lost for run in seen),
    }
    note = f"{promised} is {bound:g} ms; outage median {_median(details['outage_ms'])} ms"
    return [
        figures.measured(f"{name}_overlap", [run.overlap for run in seen], details=details),
        figures.measured(
            f"{name}_back",
            [run.back_ns / MS for run in seen],
            bar=bound + 5,
            aim=bound + 1,
            note=note,
        ),
    ]


def _median(values: Any) -> str:
    middle = samples.median(values)
    return "-" if middle is None else f"{middle:.2f}"


def stopped(effort: Effort, budget: Budget) -> list[Figure]:
    """SIGSTOP: the process is there and does nothing; its kernel goes on answering."""
    return _signalled("sigstop", signal.SIGSTOP, effort.stops, "hung agents", budget)


def killed(effort: Effort, budget: Budget) -> list[Figure]:
    """SIGKILL: the process is gone; programs, maps and gate stay behind in the kernel."""
    return _signalled("sigkill", signal.SIGKILL, effort.kills, "killed agents", budget)


# -------------------------------------------------------------------------------- hog --------


def hog(effort: Effort, budget: Budget) -> list[Figure]:
    """A real-time thread above the engine takes one processor, each of them in turn."""
    ground.twinbeat(ground.options())
    priority = max(ground.engine_priority(node) for node in plan.NODES)
    if priority >= HIGHEST_FIFO:
        raise LabError(f"the engine runs at {priority}: nothing can run above it")
    overlaps: list[int] = []
    outages: list[float] = []
    notes: list[dict[str, Any]] = []
    for number in budget.runs(effort.hogs, "hogs"):
        cpu = number % (os.cpu_count() or 1)
        with budget.attempt(f"hog {number + 1}"):
            seen = _one_hog(cpu, HIGHEST_FIFO, effort.hog_s)
            overlaps.append(seen["overlap"])
            outages.append(seen["outage_ms"])
            notes.append({"cpu": cpu, **seen})
            ground.say(f"  cpu {cpu}: overlap {seen['overlap']}, outage {outages[-1]:.1f} ms")
        ground.mend()
        agents.wait_fit()
    details = {"engine_priority": priority, "hog_priority": HIGHEST_FIFO, "runs": notes}
    return [
        figures.measured("hog_overlap", overlaps, details=details),
        figures.measured("hog_outage", outages, bar=None, note=f"the hog ran {effort.hog_s} s"),
    ]


def _one_hog(cpu: int, priority: int, seconds: int) -> dict[str, Any]:
    command = [services.tool("tb-hog"), "--seconds", str(seconds)]
    command += ["--fifo", str(priority), "--cpu", str(cpu)]
    with (
        capture.Capture() as recorder,
        ground.GateWatch() as gates,
        probe.Probe(interval_us=200, fifo=0) as running,
    ):
        running.wait_served()
        before = agents.boot_ns()
        processes.spawn("bench-hog", plan.CLIENT_NS, command)
        wait_for(
            lambda: processes.pid_of("bench-hog") is None,
            "the end of the hog",
            timeout_s=seconds + 10,
            interval_s=0.1,
        )
        after = agents.boot_ns()
        running.wait_served(since_ns=after, timeout_s=30)
        record = running.finish()
        watch = gates.finish()
        recording = recorder.finish()
    reigns = judge.takeovers(ground.histories(), since_ns=before)
    outage = record.longest_outage(join_ns=1_000_000)
    return {
        "overlap": len(judge.overlap(ground.owned(recording, ground.options()), reigns)),
        "outage_ms": (outage.duration_ns or 0) / MS if outage else 0.0,
        "client_paused_ms": round(outage.sender_gap_ns / MS, 1) if outage else 0.0,
        "takeovers": len(reigns),
        "lost": record.lost(),
        "gates_both_open_ns": watch.both_longest_ns,
        "frames_lost_by_capture": recording.lost,
    }
