# SPDX-License-Identifier: Apache-2.0
"""How lengths and moments are written, by the agent and by its tools alike."""

import time
from typing import Final

SECOND: Final = 1_000_000_000


def age(ns: int) -> str:
    """A long length in two units: `12d 3h`, `4m 10s`, `7s`."""
    seconds = max(ns, 0) // SECOND
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    for number, (name, size) in enumerate(units):
        if seconds >= size:
            rest = seconds % size
            text = f"{seconds // size}{name}"
            if number + 1 < len(units) and rest // units[number + 1][1]:
                text += f" {rest // units[number + 1][1]}{units[number + 1][0]}"
            return text
    return "0s"


def length(ns: int) -> str:
    """A short length with three digits: `640 ns`, `12.3 µs`, `1.25 ms`, `3.04 s`."""
    for size, unit in ((1, "ns"), (1_000, "µs"), (1_000_000, "ms")):
        value = ns / size
        if abs(value) < 999.5:
            return f"{value:.3g} {unit}"
    return f"{ns / SECOND:.3g} s" if ns < 1000 * SECOND else age(ns)


def moment(realtime_ns: int) -> str:
    """A wall-clock moment in ISO 8601, UTC, to the microsecond."""
    seconds, ns = divmod(realtime_ns, SECOND)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ns // 1000:06d}Z"


def boot_ns() -> int:
    """CLOCK_BOOTTIME, the clock of every stamp."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def realtime_offset_ns() -> int:
    """Wall clock minus boot clock now; the wall clock is read between two readings of the other."""
    before = boot_ns()
    wall = time.time_ns()
    return wall - (before + boot_ns()) // 2
