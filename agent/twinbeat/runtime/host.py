# SPDX-License-Identifier: Apache-2.0
"""What this host can hold: how late a real-time thread wakes up here, and what timers that allows.

A heartbeat is only worth as much as the host's punctuality.  Timers below what was measured would
not make a takeover faster, only suspicion more frequent, so they are raised, with a warning, by a
whole factor that keeps their relations; a host that misses by more than FACTOR_MAX is refused.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from twinbeat.config.model import Config

ROUNDS: Final = 400
PAUSE_NS: Final = 250_000
"""ROUNDS of it take a tenth of a second: short enough for every start."""

FACTOR_MAX: Final = 16
_PRIORITY: Final = 60
"""That of the engine's thread."""


NICE: Final = -15
"""Of the ordinary threads: the loop that attests must get its turn among busy processes. Not lower,
so that an administrator's shell can still be put before it."""


def claim_share(*, autogroup: Path = Path("/proc/self/autogroup")) -> list[str]:
    """Ask for a fair share of the processors under load; returns what was refused, in sentences.

    Where the kernel groups tasks by session, `nice` counts within the session only and the session
    has a value of its own; where it doesn't, that file is absent or says nothing.
    """
    refused: list[str] = []
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError as error:
        refused.append(f"nice {NICE} was refused ({error.strerror}): give the agent CAP_SYS_NICE")
    try:
        # Only of a session of our own: others in it would be lifted with us.
        if os.getsid(0) == os.getpid() and autogroup.exists():
            autogroup.write_text(str(NICE))
    except OSError as error:
        refused.append(f"the session's share of the processors stays as it is ({error.strerror})")
    return refused


LATENCY_DEVICE: Final = Path("/dev/cpu_dma_latency")


def keep_awake(latency_us: int, *, device: Path = LATENCY_DEVICE) -> int | str:
    """Ask the kernel for processors that wake up within `latency_us`.

    Returns the file descriptor that holds the request, which ends when it is closed or the process
    is gone; or, in a sentence, why the request was refused. A processor that leaves a deep sleep,
    or a virtual one that its host has to wake, is tens of microseconds late.
    """
    try:
        held = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        return f"processors may sleep as deeply as they like ({device}: {error.strerror})"
    try:
        os.write(held, struct.pack("=i", latency_us))
    except OSError as error:
        os.close(held)
        return f"processors may sleep as deeply as they like ({device}: {error.strerror})"
    return held


@dataclass(frozen=True, slots=True, kw_only=True)
class Lateness:
    """How late the wake-ups were."""

    median_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int
    realtime: bool
    """Measured under SCHED_FIFO; otherwise the host refused it."""


REMEMBERED_S: Final = 3600
"""So long what was measured is good enough for an agent that crashed: it is to serve again soon."""


def remember(path: Path, lateness: Lateness) -> None:
    """Leave what was measured to a successor; whoever ends in good order forgets it."""
    with contextlib.suppress(OSError):
        path.write_bytes(msgspec.json.encode(lateness))


def remembered(path: Path) -> Lateness | None:
    """What a predecessor measured on this boot and a crash left behind; None = measure anew."""
    try:
        old_s = time.time() - path.stat().st_mtime
        if not 0 <= old_s < REMEMBERED_S:
            return None
        return msgspec.json.decode(path.read_bytes(), type=Lateness)
    except (OSError, msgspec.DecodeError):
        return None


def forget(path: Path) -> None:
    """The next start measures anew."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def measure(*, rounds: int = ROUNDS, pause_ns: int = PAUSE_NS) -> Lateness:
    """Sleep and wake in a thread like the engine's; blocks for `rounds * pause_ns`."""
    late: list[int] = []
    realtime = False

    def sleeper() -> None:
        nonlocal realtime
        try:
            # Zero means this very thread; the rest of the process keeps its ordinary schedule.
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
            realtime = True
        except OSError:
            realtime = False
        for _ in range(rounds):
            due_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + pause_ns
            time.sleep(pause_ns / 1e9)
            late.append(max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - due_ns))

    thread = threading.Thread(target=sleeper, name="tb-lateness")
    thread.start()
    thread.join()
    late.sort()
    return Lateness(
        median_ns=late[len(late) // 2],
        p90_ns=late[len(late) * 90 // 100],
        p99_ns=late[len(late) * 99 // 100],
        max_ns=late[-1],
        realtime=realtime,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """What becomes of a configuration on this host."""

    config: Config
    """With timers that the host can hold."""
    raised: str = ""
    """What was raised and why, as a sentence; empty: nothing."""
    refused: str = ""
    """Why the host can't hold even raised timers; empty: it can."""


def fit(config: Config, lateness: Lateness) -> Fitting:
    """Raise hello, dead, verify, stall and lease together until nine wake-ups of ten come in time.

    In time means within a hello interval: then a dead interval of three has room for a late one.
    """
    if config.timers_set.accept_host:
        return Fitting(config=config)
    timers = config.timers
    hello_ns = timers.ns.hello_ns
    factor = -(-lateness.p90_ns // hello_ns)
    if factor <= 1:
        return Fitting(config=config)
    measured = f"one wake-up in ten comes {lateness.p90_ns // 1000} µs late or later on this host"
    if factor > FACTOR_MAX:
        return Fitting(
            config=config,
            refused=f"timers.profile = {timers.profile}: {measured}, and heartbeats are due every "
            f"{timers.hello_us} µs. Choose a slower profile, free the host, or set "
            "timers.accept_host = true to run all the same",
        )
    raised = {
        key: getattr(timers, key) * factor
        for key in ("hello_us", "dead_us", "verify_us", "stall_us", "lease_us")
    }
    return Fitting(
        config=msgspec.structs.replace(
            config, timers_set=msgspec.structs.replace(config.timers_set, **raised)
        ),
        raised=f"{measured}, so hello, dead, verify, stall and lease are {factor} times what "
        f"profile {timers.profile} says",
    )
