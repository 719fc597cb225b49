# SPDX-License-Identifier: Apache-2.0
"""What `doctor` says of time: how late this host wakes up, and what may hold a thread up."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from twinbeat.api.schema import Check
from twinbeat.config.model import Config
from twinbeat.runtime import host
from twinbeat.runtime.checkup.checks import ERROR, ROOT, WARNING, check, effective, read, sysctl

_GOOD_CLOCKS: Final = frozenset(
    {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"}
)
_IPC_LOCK: Final = 14
"""CAP_IPC_LOCK, whose owner needs no limit."""


def realtime(config: Config | None) -> Iterator[Check]:
    latency_us = config.idle_latency_us if config else None
    held = host.keep_awake(latency_us) if latency_us is not None else None
    lateness = host.measure()
    if isinstance(held, int):
        os.close(held)
    if held is not None:
        yield check(
            "idle_latency",
            isinstance(held, int),
            held
            if isinstance(held, str)
            else f"processors can be kept awake: they wake up within {latency_us} µs while the "
            "agent runs",
            fix=f"let the agent write to {host.LATENCY_DEVICE} (deploy/systemd/tmpfiles.conf and "
            "DeviceAllow= do), or set engine.idle_latency_us = -1",
            level=WARNING,
        )
    yield check(
        "realtime",
        lateness.realtime,
        "the engine's thread gets real-time priority"
        if lateness.realtime
        else "SCHED_FIFO is refused",
        fix="grant CAP_SYS_NICE or LimitRTPRIO=; under cgroup v1 with CONFIG_RT_GROUP_SCHED give "
        "the group a cpu.rt_runtime_us",
    )
    text = (
        f"wake-ups are late by {lateness.median_ns // 1000} µs in the median, "
        f"{lateness.p99_ns // 1000} µs at one in a hundred, {lateness.max_ns // 1000} µs at most"
    )
    if config is None:
        yield check("lateness", None, text, fix="fix the configuration to compare it with timers")
    else:
        forgiving = msgspec.structs.replace(config.timers_set, accept_host=False)
        fitting = host.fit(msgspec.structs.replace(config, timers_set=forgiving), lateness)
        wrong = fitting.refused or fitting.raised
        yield check(
            "lateness",
            not wrong,
            wrong or text,
            fix="isolate a processor (isolcpus=), stop what else runs, or choose a slower profile",
            level=ERROR if fitting.refused and not config.timers_set.accept_host else WARNING,
        )
    yield from throttling()
    yield clock()
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    free = locked == resource.RLIM_INFINITY or bool(effective() >> _IPC_LOCK & 1)
    yield check(
        "memlock",
        free,
        "memory can be locked" if free else f"only {locked >> 10} KiB of memory can be locked",
        fix="LimitMEMLOCK=infinity",
        level=WARNING,
    )


def throttling(root: Path = ROOT) -> Iterator[Check]:
    runtime, period = (sysctl(f"kernel/sched_rt_{name}_us", root) for name in ("runtime", "period"))
    if runtime is None or period is None:
        return
    off = runtime == "-1"
    pause_ms = 0 if off else max(0, int(period) - int(runtime)) // 1000
    yield check(
        "rt_throttling",
        off,
        "real-time threads are never stopped"
        if off
        else f"a real-time thread that hogs a processor stops all of them for {pause_ms} ms in "
        "each second; the engine sleeps between rounds, others may not",
        fix="keep other real-time threads off the engine's processor, or sysctl -w "
        "kernel.sched_rt_runtime_us=-1",
        level=WARNING,
    )


def clock(root: Path = ROOT) -> Check:
    source = read(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    return check(
        "clock",
        None if source is None else source in _GOOD_CLOCKS,
        f"clock source {source or 'unknown'}"
        + ("" if source in _GOOD_CLOCKS else ": reading it may cost microseconds"),
        fix="cat /sys/devices/system/clocksource/clocksource0/available_clocksource; prefer tsc",
        level=WARNING,
    )
