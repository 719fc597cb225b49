# SPDX-License-Identifier: Apache-2.0
"""The lab as the bench uses it: one ground, on which Twinbeat and its rivals take turns.

The lab is brought up without agents and the bench starts and ends them, so that two systems can
alternate on the same namespaces, cables and servers.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twinlab import agents, capture, cutter, lab, netns, plan, processes, rivals, services
from twinlab.shell import LabError, run, wait_for

from twinbench import judge

GATES = "bench-gates"
ACTING_PRIORITY = 40
"""Above whatever is not real-time, below the engines."""
GATE_PIN = f"sys/fs/bpf/twinbeat/{plan.PAIR_ID}/gate"


def say(text: str) -> None:
    """A line of progress; standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------- who is on stage ---------

SETTINGS: list[str] = []
"""Configuration beyond the profile, for the whole bench (`--set policy.stall='"wait-lease"'`)."""


AS_CONFIGURED = "timers.accept_host = true"
"""A profile's figures are about that profile: the timers are never raised to suit the host."""


def options(profile: str = "fast", *, vips: int = 1) -> plan.Options:
    """The lab that a figure asks for.  Without agents: the bench starts them."""
    settings = (AS_CONFIGURED, *SETTINGS)
    return plan.Options(agent=False, profile=profile, vips=vips, settings=settings)


def settings_in_force() -> list[str]:
    """All configuration that the bench sets beyond a profile, its own part and that of `--set`."""
    return list(options().settings)


def configuration_in_force() -> str:
    """The whole file of node a in fast, as the bench writes it."""
    return agents.configuration("a", options())


def bare(wanted: plan.Options) -> None:
    """The lab as asked for, without agents; nothing happens if it is up like that."""
    lab.up(wanted)


def twinbeat(wanted: plan.Options) -> str:
    """Twinbeat on both nodes, whole and fit; returns the primary's name."""
    bare(wanted)
    for node in plan.NODES:
        if processes.pid_of(agents.process_name(node)) is None:
            agents.start(node)
    return agents.wait_fit()


def end_twinbeat() -> None:
    """End the agents in good order, so that a rival finds bare ground."""
    if not lab.is_up():
        return
    for node in plan.NODES:
        agents.terminate(node)
        processes.end(f"worker-{node}")
        # What a worker leaves behind goes on binding clients.
        run([*netns.enter(plan.namespace(node)), str(agents.WORKER), "--remove"])
        left = _left_behind(node)
        if left:
            raise LabError(f"the agent of {node} ended and left {', '.join(left)} behind")


def _left_behind(node: str) -> list[str]:
    """What would get into a rival's way: virtual MACs, and programs on the ports."""
    shown = json.loads(run([*netns.enter(plan.namespace(node)), "ip", "-j", "link", "show"]))
    return [
        link["ifname"] if link["ifname"] not in plan.LINKS else f"XDP on {link['ifname']}"
        for link in shown
        if link["ifname"].startswith(("tbv", "tbw"))
        or (link["ifname"] in plan.LINKS and "xdp" in link)
    ]


def mend(*, keep: tuple[str, ...] = ()) -> None:
    """Everything plugged in and running again, after a run that may have gone wrong.

    keep: processes of the bench that still belong to a figure under way.
    """
    for node in plan.NODES:
        with contextlib.suppress(LabError):
            lab.heal(node)
        with contextlib.suppress(LabError):
            agents.cont(node)
    if processes.RECORDS_DIR.exists():
        for record in processes.RECORDS_DIR.iterdir():
            kept = ("agent-", "worker-", "nginx-", "echo-", "lines-", *keep)
            if not record.name.startswith(kept):
                processes.end(record.name)


@contextlib.contextmanager
def keepalived(wanted: plan.Options) -> Iterator[rivals.Keepalived]:
    """keepalived on bare ground, a as master."""
    bare(wanted)
    with rivals.Keepalived() as rival:
        yield rival


# -------------------------------------------------------------------- watching gates ---------


class GateWatch:
    """A running tb-gates.  Use as a context, while both agents run or have run."""

    def __init__(self, *, interval_us: int = 100, fifo: int = 0, name: str = GATES) -> None:
        self._name = name
        self.path = plan.RUN_DIR / f"{name}.txt"
        self._options = ["--interval-us", str(interval_us), "--fifo", str(fifo)]

    def __enter__(self) -> GateWatch:
        command = [services.tool("tb-gates"), "--out", str(self.path), *self._options]
        for node in plan.NODES:
            command += ["--gate", f"{node}={gate_pin(node)}"]
        self.path.unlink(missing_ok=True)
        processes.log_file(self._name).unlink(missing_ok=True)
        processes.spawn(self._name, plan.CLIENT_NS, command)
        wait_for(self._ready, "tb-gates", timeout_s=5, interval_s=0.005)
        return self

    def _ready(self) -> bool:
        if "ready" in processes.log_tail(self._name):
            return True
        if processes.pid_of(self._name) is None:
            raise LabError(f"tb-gates ended: {processes.log_tail(self._name)}")
        return False

    def __exit__(self, *_: object) -> None:
        processes.end(self._name)

    def now(self) -> judge.Watch:
        """What it has seen so far."""
        return judge.read_watch(self.path.read_text() if self.path.exists() else "")

    def wait_open(self, node: str, since_ns: int, *, timeout_s: float = 10.0) -> judge.Edge:
        """Wait until a node's gate opens after a moment; returns that edge."""

        def opened() -> judge.Edge | None:
            for edge in self.now().edges:
                if edge.node == node and edge.open and edge.at_ns >= since_ns:
                    return edge
            return None

        return wait_for(opened, f"{node} opens its gate", timeout_s=timeout_s, interval_s=0.005)

    def finish(self) -> judge.Watch:
        """End it and read it."""
        self.__exit__()
        return self.now()


def gate_pin(node: str) -> Path:
    """The node's pinned gate, as this mount namespace reaches it."""
    pid = processes.pid_of(agents.process_name(node))
    if pid is None:
        raise LabError(f"the agent of {node} does not run, so its pins can't be reached")
    return Path(f"/proc/{pid}/root") / GATE_PIN


# ------------------------------------------------------------------- what is whose -----------


def owned(recording: capture.Recording, wanted: plan.Options) -> list[capture.Frame]:
    """The nodes' frames in the name of a VIP or from a virtual MAC."""
    vips = [*wanted.lan_vips(), *wanted.wan_vips()]
    vmacs = [
        plan.vmac(vrid, version=version)
        for vrid in (plan.LAN_VRID, plan.WAN_VRID)
        for version in (4, 6)
    ]
    return recording.by_owner(vips, vmacs)


def histories() -> dict[str, list[dict[str, Any]]]:
    """Both nodes' transitions; LabError if one doesn't tell: who runs has had at least one."""
    found = {}
    for node in plan.NODES:
        found[node] = wait_for(
            functools.partial(agents.history, node), f"transitions of {node}", timeout_s=60
        )
    return found


def takeover_after(node: str, since_ns: int, *, timeout_s: float = 10.0) -> judge.Takeover:
    """The first takeover by a node after a moment, as soon as its agent tells of it."""

    def told() -> judge.Takeover | None:
        found = judge.takeovers({node: agents.history(node)}, since_ns=since_ns)
        return found[0] if found else None

    return wait_for(told, f"{node} tells of its takeover", timeout_s=timeout_s, interval_s=0.05)


def was_primary(node: str, at_ns: int) -> bool:
    """Whether a node's own account has it as primary at a moment."""
    role = None
    for transition in agents.history(node):
        if transition["at_ns"] <= at_ns:
            role = transition["to_role"]
    return role == "primary"


def lease_ns() -> int:
    """The lease in force; LabError if nobody tells."""
    said = agents.show(plan.NODES[0])
    if said is None:
        raise LabError(f"{plan.NODES[0]} does not say which timers are in force")
    return 1000 * int(said["timers"]["lease_us"])


def counters() -> dict[str, dict[str, Any]]:
    """Both nodes' counters; LabError if one doesn't answer."""
    found = {}
    for node in plan.NODES:
        found[node] = wait_for(
            functools.partial(agents.counters, node), f"counters of {node}", timeout_s=60
        )
    return found


def suspicions() -> dict[str, int]:
    """Both nodes' suspicions by outcome, added up."""
    total: dict[str, int] = {}
    for said in counters().values():
        for outcome, count in said["suspicions"].items():
            total[outcome] = total.get(outcome, 0) + count
    return total


@contextlib.contextmanager
def ahead_of_the_crowd() -> Iterator[None]:
    """The bench itself in front of busy processes, so that it can act while they run.

    Nothing may be started inside but what is meant to run in front as well: priorities are
    inherited.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, -15)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """For the few microseconds of an act whose moment matters: no other process comes between."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(ACTING_PRIORITY))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def engine_priority(node: str) -> int:
    """The highest real-time priority among the threads of the node's agent; 0 = none has one."""
    pid = processes.pid_of(agents.process_name(node))
    highest = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        highest = max(highest, int(fields[37]))
    return highest


def cut_silently(node: str) -> tuple[int, int]:
    """Let a node die silently; the moments just before and just after."""
    return store(node, cutter.ALL_BITS)


def store(node: str, bits: int) -> tuple[int, int]:
    """Set a node's cut word; the moments just before and just after."""
    with cutter.CutWord(node) as word, at_once():
        before = agents.boot_ns()
        word.store(bits)
        return before, agents.boot_ns()
