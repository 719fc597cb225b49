# SPDX-License-Identifier: Apache-2.0
"""What the agent costs, and what the same machine takes in the same minute for less.

Beside the agents run, in turn: a real-time thread that only wakes as often as the engine does; one
that sleeps in the engine's way; the same one sending the engine's own frames over the same cables;
and the same one sending them into a cable that leads nowhere.  None of it is subtracted from the
agent's figure: the loops say where its time goes.  They share the machine with the agents: in fast
those keep all processors out of deep sleep meanwhile, and the plain loop has its profit from that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from twinlab import agents, capture, flood, netns, plan, processes
from twinlab.shell import LabError, run, wait_for

from twinbench import cpu, figures, ground, machine
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure

FIFO = 60
SENDER = "a"
SINK = "tbsink"
PASSES = 2
KINDS = ("sleep", "armed", "sending", "dropping")


def fast(effort: Effort, budget: Budget) -> list[Figure]:
    """Memory and processor time of the agents in fast, with nothing going on."""
    return _cost(effort, budget, "fast")


def balanced(effort: Effort, budget: Budget) -> list[Figure]:
    """Processor time of the agents in balanced."""
    return _cost(effort, budget, "balanced")


def _cost(effort: Effort, budget: Budget, profile: str) -> list[Figure]:
    ground.twinbeat(ground.options(profile))
    interval_us = _hello_us()
    loops: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    # Before the agents are watched and after: what changes on the machine shows as a difference.
    _pass(loops, effort, budget, profile, interval_us)
    watched_s = budget.seconds(effort.cost_s, "watching the agents", share=0.5)
    memory, used, details = _agents(watched_s)
    for _ in budget.runs(PASSES - 1, "passes of the bare loops"):
        _pass(loops, effort, budget, profile, interval_us)
    details["bare_loops"] = {
        kind: [
            {key: seen[key] for key in ("cpu_percent", "wake_ns", "p50_ns", "p99_ns", "unsent")}
            for seen in runs
        ]
        for kind, runs in loops.items()
    }
    details["woken_each_us"] = interval_us
    found = [
        figures.measured(f"agent_cpu_{profile}", used, seconds=watched_s, details=details),
        figures.measured(f"bare_sleep_{profile}", _percent(loops["sleep"])),
        figures.measured(f"bare_armed_{profile}", _percent(loops["armed"])),
        figures.measured(
            f"of_which_sending_{profile}", _difference(loops["sending"], loops["armed"])
        ),
        figures.measured(
            f"of_which_lab_{profile}", _difference(loops["sending"], loops["dropping"])
        ),
    ]
    if profile == "fast":
        found.insert(0, figures.measured("agent_memory", memory))
    return found


def _hello_us() -> int:
    said = agents.show(SENDER)
    if said is None:
        raise LabError(f"{SENDER} does not say which timers are in force")
    return int(said["timers"]["hello_us"])


def _percent(loops: list[dict[str, Any]]) -> list[float]:
    return [loop["cpu_percent"] for loop in loops]


def _difference(more: list[dict[str, Any]], less: list[dict[str, Any]]) -> list[float]:
    """Pass by pass.  Below zero where the machine's noise is larger than the difference."""
    return [a - b for a, b in zip(_percent(more), _percent(less), strict=False)]


# -------------------------------------------------------------------------- the loops --------


def _pass(
    loops: dict[str, list[dict[str, Any]]],
    effort: Effort,
    budget: Budget,
    profile: str,
    interval_us: int,
) -> None:
    """Each loop once."""
    engines = ["--method", "armed", "--hold-latency", str(int(profile == "fast"))]
    here = plan.namespace(SENDER)

    def loop(kind: str, *arguments: str, namespace: str = here) -> None:
        loops[kind].append(
            machine.late(
                effort.bare_s,
                *arguments,
                interval_us=interval_us,
                fifo=FIFO,
                namespace=namespace,
            )
        )

    loop("sleep", "--method", "sleep")
    loop("armed", *engines)
    with budget.attempt("the loops that send"):
        frames = _own_frames()
        loop("sending", *engines, *_sends(frames.items()))
        with _sink():
            into_it = _sends((SINK, frame) for frame in frames.values())
            loop("dropping", *engines, *into_it, namespace=plan.CLIENT_NS)


def _sends(frames: Iterable[tuple[str, bytes]]) -> list[str]:
    return [
        word for device, frame in frames for word in ("--device", device, "--frame", frame.hex())
    ]


def _own_frames() -> dict[str, bytes]:
    """A heartbeat of the node on each link, as it went out; sent again, the peer refuses it."""
    links = ground.options().links
    with capture.Capture(
        links=links, ports=(SENDER,), heartbeats=True, snap=256, name="bench-own"
    ) as recorder:

        def seen() -> dict[str, bytes] | None:
            recording = capture.read(recorder.paths)
            found = {link: flood.recorded(recording, plan.peer(SENDER), link) for link in links}
            return {link: sent[-1] for link, sent in found.items()} if all(found.values()) else None

        return wait_for(seen, f"heartbeats of {SENDER}", timeout_s=20)


@contextlib.contextmanager
def _sink() -> Iterator[None]:
    """A cable that leads nowhere: the kernel drops what is sent just before it would go out."""
    ip = [*netns.enter(plan.CLIENT_NS), "ip", "link"]
    run([*ip, "add", SINK, "type", "veth", "peer", "name", f"{SINK}-end"])
    try:
        run([*ip, "set", SINK, "up"])
        yield
    finally:
        run([*ip, "delete", SINK])


# ------------------------------------------------------------------------- the agents --------


def _agents(seconds: float) -> tuple[list[float], list[float], dict[str, Any]]:
    """Megabytes and percent of a core for each node's agent, and what else is to be said."""
    names = [f"{part}-{node}" for part in ("agent", "worker") for node in plan.NODES]
    pids = {name: processes.pid_of(name) for name in names}
    running = {name: pid for name, pid in pids.items() if pid is not None}
    ours = [name for name in running if name.startswith("agent-")]
    if len(ours) != len(plan.NODES):
        raise LabError("an agent does not run")
    before = {name: cpu.times(pid) for name, pid in running.items()}
    began = time.monotonic()
    # How long is watched is the measurement itself, not a guess at when something is ready.
    time.sleep(seconds)
    elapsed_ns = 1e9 * (time.monotonic() - began)
    percent = {
        name: {
            part: round(100 * ns / elapsed_ns, 2)
            for part, ns in cpu.used_ns(before[name], cpu.times(pid)).items()
        }
        for name, pid in running.items()
    }
    memory = {name: _resident_mb(pid) for name, pid in running.items()}
    details: dict[str, Any] = {
        "engine_thread_percent": [percent[name]["engine"] for name in ours],
        "other_threads_percent": [percent[name]["others"] for name in ours],
        "worker": {
            name: {"cpu_percent": percent[name]["all"], "memory_mb": round(memory[name], 1)}
            for name in running
            if name not in ours
        },
    }
    return [memory[name] for name in ours], [percent[name]["all"] for name in ours], details


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
