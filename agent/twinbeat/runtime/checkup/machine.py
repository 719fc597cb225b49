# SPDX-License-Identifier: Apache-2.0
"""What `doctor` finds out about cards, processors and the other node's version.

Coalescing, NAPI threads, interrupts, sleep states: it looks at files below /sys and /proc, at
whatever root it is given, and asks drivers; it changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from twinbeat import __version__
from twinbeat.api.client import Client, ClientError
from twinbeat.api.schema import SOCKET, Check, Problem, Status
from twinbeat.config.model import Config
from twinbeat.net import ethtool
from twinbeat.runtime.checkup.checks import ROOT, WARNING, check, read

ANSWER_S: Final = 3.0
THREADS_MAX: Final = 65_536
"""Processes that are looked through for NAPI threads."""

PART: Final = 4
"""What a card or a sleeping processor adds is small if it is below a heartbeat interval / 4."""


def line(name: str, holds: bool, finding: str, fix: str = "") -> Check:
    """A warning with what mends it, or that all is well."""
    return check(name, holds, finding, fix=fix, level=WARNING)


def cards(config: Config, root: Path = ROOT) -> Iterator[Check]:
    """Every interface that carries heartbeats."""
    hello_us = config.timers.hello_us
    for name in sorted({section.interface for section in config.links if section.heartbeat}):
        if not (root / "sys/class/net" / name).exists():
            continue  # told among the interfaces
        found = coalescing(name, ethtool.coalescing(name), hello_us)
        if found is not None:
            yield found
        yield napi(name, root)
        interrupts_of = interrupts(name, config.engine.cpu, root)
        if interrupts_of is not None:
            yield interrupts_of


def coalescing(name: str, told: tuple[int, bool] | None, hello_us: int) -> Check | None:
    """How long a card waits before it says that a frame has come; None where it has no such."""
    if told is None:
        return None
    wait_us, adaptive = told
    most_us = hello_us // PART
    waits = f"the card holds received frames back for up to {wait_us} µs"
    adapts = ", and for as long as it pleases (adaptive)" if adaptive else ""
    return line(
        name,
        wait_us <= most_us and not adaptive,
        f"{waits}{adapts}; a heartbeat interval is {hello_us} µs",
        f"ethtool -C {name} adaptive-rx off rx-usecs 0",
    )


def napi(name: str, root: Path = ROOT) -> Check:
    """Who takes frames in: a softirq, or a thread that others can hold up."""
    if read(root / "sys/class/net" / name / "threaded") != "1":
        return line(name, True, "frames are taken in by the interrupt itself (no NAPI threads)")
    threads = _threads(f"napi/{name}-", root)
    slow = [pid for pid in threads if _policy(pid) not in {os.SCHED_FIFO, os.SCHED_RR}]
    if not slow:
        return line(name, True, f"frames are taken in by {len(threads)} real-time NAPI threads")
    pids = " ".join(map(str, slow[:8]))
    return line(
        name,
        False,
        f"frames are taken in by NAPI threads without real-time priority (pid {pids}), which any "
        "busy process holds up",
        f"chrt -f -p 50 {slow[0]} (each of them), or echo 0 > /sys/class/net/{name}/threaded",
    )


def interrupts(name: str, cpu: int | None, root: Path = ROOT) -> Check | None:
    """Whether the card's interrupts land on the engine's processor; None where it has none."""
    directory = root / "sys/class/net" / name / "device/msi_irqs"
    try:
        numbers = sorted(int(file.name) for file in directory.iterdir() if file.name.isdigit())
    except OSError:
        return None
    where = {number: _processors(root, number) for number in numbers}
    there = sorted(set().union(*where.values())) if where else []
    told = f"its interrupts go to processor {_list(there)}"
    if cpu is None:
        return line(name, True, f"{told}; the engine is pinned to none (engine.cpu)")
    hit = [number for number, found in where.items() if cpu in found]
    if not hit:
        return line(name, True, f"{told}, and the engine has {cpu}")
    return line(
        name,
        False,
        f"{told}, that of the engine ({cpu}) among them: each frame interrupts its rounds",
        f"echo OTHER-PROCESSORS > /proc/irq/{hit[0]}/smp_affinity_list, and keep irqbalance off it",
    )


def sleep(config: Config, root: Path = ROOT) -> Check:
    """How deep processors may sleep, and so how late they wake up."""
    states = root / "sys/devices/system/cpu/cpu0/cpuidle"
    latencies = {}
    for state in sorted(states.glob("state*")):
        latency, off = read(state / "latency"), read(state / "disable")
        if latency is not None and latency.isdigit() and off != "1":
            latencies[read(state / "name") or state.name] = int(latency)
    if not latencies:
        return line("c_states", True, "no sleep states here: whoever runs this machine decides")
    deepest = max(latencies, key=lambda name: latencies[name])
    told = f"processors sleep as deep as {deepest}, and wake up within {latencies[deepest]} µs"
    asked = config.idle_latency_us
    if asked is not None:
        awake = f"; twinbeatd asks for {asked} µs at most while it runs"
        return line("c_states", True, told + awake)
    return line(
        "c_states",
        latencies[deepest] <= config.timers.hello_us // PART,
        f"{told}; a heartbeat interval is {config.timers.hello_us} µs",
        "engine.idle_latency_us = 0 keeps them awake while the agent runs, and takes power",
    )


def versions(socket: str = SOCKET) -> Check:
    """Whether the other node runs the same version, asked through this node's worker."""
    worker = Client(str(Path(socket).with_name("sync.sock")), ANSWER_S)
    here = f"{__version__} here"
    try:
        answer = worker.get("/v1/peer?what=/v1/status")
        if answer.status != 200:
            why = msgspec.json.decode(answer.body, type=Problem).sentence
            return line("version", False, f"{here}; {why}", "`twinbeat show sync` says more")
        other = msgspec.json.decode(answer.body, type=Status).process.version
    except (ClientError, msgspec.DecodeError) as error:
        asked = f"{here}; the other node can't be asked: {error}"
        return line("version", False, asked, "start twinbeatd and twinbeat-worker, then look again")
    told = f"{here}, {other} on the other node"
    fix = "upgrade the other one as well: deploy/docs/operations.md, Upgrading"
    return line("version", other == __version__, told, fix)


def _threads(prefix: str, root: Path) -> list[int]:
    found = []
    for number, directory in enumerate((root / "proc").glob("[0-9]*")):
        if number >= THREADS_MAX:
            break
        if (read(directory / "comm") or "").startswith(prefix[:15]):
            found.append(int(directory.name))
    return sorted(found)


def _policy(pid: int) -> int | None:
    try:
        return os.sched_getscheduler(pid)
    except OSError:
        return None


def _processors(root: Path, interrupt: int) -> set[int]:
    """Where an interrupt goes: what the kernel chose of what it may."""
    directory = root / "proc/irq" / str(interrupt)
    text = read(directory / "effective_affinity_list") or read(directory / "smp_affinity_list")
    found: set[int] = set()
    for part in (text or "").split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            found.update(range(int(first), int(last or first) + 1))
    return found


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:16])) or "none"
