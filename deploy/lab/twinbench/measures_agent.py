# SPDX-License-Identifier: Apache-2.0
"""What becomes of the service when something happens to the primary's agent: a planned switch-over,
a hang, a kill, a reload, a real-time hog; and what the agent costs."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinlab import agents, capture, plan, probe, processes, services
from twinlab.shell import LabError, run, wait_for

from twinbench import figures, ground, judge, samples
from twinbench.effort import Effort
from twinbench.figures import Figure
from twinbench.measures_death import MS

HIGHEST_FIFO = 98
ATTEMPTS = 5
"""How often a run begins anew because the primary changed by itself just before its cue."""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


# ------------------------------------------------------------------------ switch-over --------


def planned(effort: Effort) -> list[Figure]:
    """The operator asks for it: `twinbeat force failover --yes` on the primary."""
    serving = ground.twinbeat(ground.options())
    lost: list[int] = []
    outages: list[float] = []
    for _ in range(effort.switchovers):
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
        lost.append(record.lost())
        outages.append((outage.duration_ns or 0) / MS if outage else 0.0)
        ground.say(f"  lost {lost[-1]}, outage {outages[-1]:.2f} ms")
        serving = agents.wait_fit()
    details = {"outage_ms": [round(outage, 3) for outage in outages]}
    return [figures.measured("planned_lost", lost, details=details)]


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
    both_open_ns: int
    kind: judge.Kind
    capture_lost: int


def _replaced(number: signal.Signals) -> Replaced:
    """Signal the agent of whoever serves at that moment, and watch the other node take over."""
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
            record = running.finish()
            watch = gates.finish()
            recording = recorder.finish()
        return _judged(serving, before, opened, record, watch, recording)
    raise LabError(f"the primary changed just before the signal, {ATTEMPTS} times in a row")


def _judged(
    serving: str,
    before: int,
    opened: judge.Edge,
    record: probe.Record,
    watch: judge.Watch,
    recording: capture.Recording,
) -> Replaced:
    taker = plan.peer(serving)
    takeover = ground.takeover_after(taker, before)
    frames = ground.owned(recording, ground.options())
    first = judge.first_frame_ns(frames, taker, takeover.gate_ns)
    if first is None:
        raise LabError(f"{taker} took over and was not seen on a switch")
    whole, lost = judge.served_after(record, before, within_ns=1_000_000_000)
    if whole is None:
        raise LabError("the client was not served again")
    outage = record.outage_around(before)
    return Replaced(
        serving=serving,
        overlap=len(judge.overlap(frames, [takeover])),
        back_ns=max(whole, first - before),
        outage_ns=(outage.duration_ns or 0) if outage else 0,
        lost=lost,
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
    name: str, number: signal.Signals, runs: int, bring_back: Callable[[str], object]
) -> list[Figure]:
    ground.twinbeat(ground.options())
    bound, promised = _service_bound_ms()
    seen: list[Replaced] = []
    for _ in range(runs):
        seen.append(_replaced(number))
        ground.say(
            f"  back after {seen[-1].back_ns / MS:.2f} ms, outage "
            f"{seen[-1].outage_ns / MS:.2f} ms, overlap {seen[-1].overlap}"
        )
        bring_back(seen[-1].serving)
    agents.wait_fit()
    details = {
        "outage_ms": [round(run.outage_ns / MS, 3) for run in seen],
        "lost": [run.lost for run in seen],
        "gates_both_open_ns": [run.both_open_ns for run in seen],
        "old_gate_shut_by": [run.kind.value for run in seen],
        "frames_lost_by_capture": sum(run.capture_lost for run in seen),
    }
    note = f"{promised} is {bound:g} ms; outage median {_median(details['outage_ms'])} ms"
    return [
        figures.measured(f"{name}_overlap", [run.overlap for run in seen], details=details),
        figures.measured(
            f"{name}_back", [run.back_ns / MS for run in seen], bar=bound + 5, note=note
        ),
    ]


def _median(values: Any) -> str:
    middle = samples.median(values)
    return "-" if middle is None else f"{middle:.2f}"


def stopped(effort: Effort) -> list[Figure]:
    """SIGSTOP: the process is there and does nothing; its kernel goes on answering."""
    return _signalled("sigstop", signal.SIGSTOP, effort.stops, agents.cont)


def killed(effort: Effort) -> list[Figure]:
    """SIGKILL: the process is gone; programs, maps and gate stay behind in the kernel."""
    return _signalled("sigkill", signal.SIGKILL, effort.kills, agents.start)


# ----------------------------------------------------------------------------- reload --------


def reload(effort: Effort) -> list[Figure]:
    """SIGHUP, as `systemctl reload` sends it, on both nodes in turn, while probes run."""
    ground.twinbeat(ground.options())
    marks: list[tuple[int, int]] = []
    doubted: list[int] = []
    with probe.Probe(interval_us=200) as running:
        running.wait_served(run=200)
        before, began = _raised(), agents.boot_ns()
        running.wait_for_time(effort.noise_s)
        quiet = judge.per_minute(_raised() - before, (agents.boot_ns() - began) / 1e9)
        for _, node in zip(range(effort.reloads), itertools.cycle(plan.NODES), strict=False):
            before = _raised()
            loaded = _loaded(node)
            begin = agents.boot_ns()
            agents.reload(node)
            wait_for(
                lambda node=node, loaded=loaded: _loaded(node) not in (loaded, None),
                f"{node} has read its configuration again",
                timeout_s=10,
            )
            running.wait_for_time(0.1)
            marks.append((begin, agents.boot_ns()))
            doubted.append(_raised() - before)
        record = running.finish()
    lost = [_lost_between(record, begin, end) for begin, end in marks]
    elsewhere = record.lost() - sum(lost)
    watched = judge.per_minute(sum(doubted), sum(end - begin for begin, end in marks) / 1e9)
    note = f"{elsewhere} further probes lost between the reloads" if elsewhere else ""
    return [
        figures.measured("reload_lost", lost, note=note),
        figures.measured(
            "reload_suspicions",
            doubted,
            note=f"{watched:.0f} a minute then; {quiet:.0f} a minute just before, without a reload",
        ),
    ]


def _loaded(node: str) -> str | None:
    said = agents.show(node)
    return said["configuration"]["loaded"] if said else None


def _raised() -> int:
    """Suspicions so far, whatever came of them."""
    return sum(ground.suspicions().values())


def _lost_between(record: probe.Record, begin_ns: int, end_ns: int) -> int:
    judged = record.judged()
    return sum(
        1
        for sent, answered in zip(record.sent_ns[:judged], record.answered_ns[:judged], strict=True)
        if begin_ns <= sent <= end_ns and not answered
    )


# -------------------------------------------------------------------------------- hog --------


def hog(effort: Effort) -> list[Figure]:
    """A real-time thread above the engine takes one processor, each of them in turn."""
    ground.twinbeat(ground.options())
    priority = max(ground.engine_priority(node) for node in plan.NODES)
    if priority >= HIGHEST_FIFO:
        raise LabError(f"the engine runs at {priority}: nothing can run above it")
    overlaps: list[int] = []
    outages: list[float] = []
    notes: list[dict[str, Any]] = []
    for number in range(effort.hogs):
        cpu = number % (os.cpu_count() or 1)
        seen = _one_hog(cpu, HIGHEST_FIFO, effort.hog_s)
        overlaps.append(seen["overlap"])
        outages.append(seen["outage_ms"])
        notes.append({"cpu": cpu, **seen})
        ground.say(f"  cpu {cpu}: overlap {seen['overlap']}, longest outage {outages[-1]:.1f} ms")
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


# ------------------------------------------------------------------------------- cost --------


def cost_fast(effort: Effort) -> list[Figure]:
    """Memory and processor time of the agents in fast, with nothing going on."""
    ground.twinbeat(ground.options())
    memory, cpu, worker = _cost(effort.cost_s)
    note = _bare_loop(200)
    return [
        figures.measured("agent_memory", memory, details={"worker": worker}),
        figures.measured(
            "agent_cpu_fast", cpu, seconds=effort.cost_s, note=note, details={"worker": worker}
        ),
    ]


def cost_balanced(effort: Effort) -> list[Figure]:
    """Processor time of the agents in balanced."""
    ground.twinbeat(ground.options("balanced"))
    _, cpu, worker = _cost(effort.cost_s)
    note = _bare_loop(5000)
    return [
        figures.measured(
            "agent_cpu_balanced", cpu, seconds=effort.cost_s, note=note, details={"worker": worker}
        )
    ]


def _bare_loop(interval_us: int) -> str:
    """What this machine takes for nothing but waking a real-time thread that often."""
    command = [services.tool("tb-late"), "--seconds", "3", "--interval-us", str(interval_us)]
    said = json.loads(run([*command, "--fifo", "60"], timeout_s=30))
    return (
        f"a real-time thread that only sleeps, each {interval_us} us, takes "
        f"{said['cpu_percent']} % on this machine"
    )


def _cost(seconds: float) -> tuple[list[float], list[float], dict[str, Any]]:
    """Megabytes and percent of a core for each node's agent, and the same of the workers."""
    names = [f"{part}-{node}" for part in ("agent", "worker") for node in plan.NODES]
    pids = {name: processes.pid_of(name) for name in names}
    running = {name: pid for name, pid in pids.items() if pid is not None}
    before = {name: _cpu_s(pid) for name, pid in running.items()}
    began = time.monotonic()
    # How long is watched is the measurement itself, not a guess at when something is ready.
    time.sleep(seconds)
    elapsed = time.monotonic() - began
    cpu = {name: 100 * (_cpu_s(pid) - before[name]) / elapsed for name, pid in running.items()}
    memory = {name: _resident_mb(pid) for name, pid in running.items()}
    ours = [name for name in running if name.startswith("agent-")]
    if len(ours) != len(plan.NODES):
        raise LabError("an agent does not run")
    worker: dict[str, Any] = {
        name: {"cpu_percent": round(cpu[name], 2), "memory_mb": round(memory[name], 1)}
        for name in running
        if name not in ours
    }
    return [memory[name] for name in ours], [cpu[name] for name in ours], worker


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
