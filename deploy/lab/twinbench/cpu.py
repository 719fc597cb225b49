# SPDX-License-Identifier: Apache-2.0
"""Processor time of a running process, thread by thread, as exactly as the kernel counts it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ENGINE = "tb-engine"
"""The name of the agent's real-time thread."""

Times = Mapping[tuple[int, str], int]
"""Nanoseconds by thread id and name."""


def times(pid: int) -> Times:
    """What each thread of a process has used so far; threads that end meanwhile are left out."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            found[int(task.name), name] = int((task / "schedstat").read_text().split()[0])
        except (OSError, ValueError):
            continue
    return found


def used_ns(before: Times, after: Times) -> dict[str, int]:
    """What was used in between: by the engine's thread, by all others, and in all."""
    engine = others = 0
    for thread, ns in after.items():
        grown = ns - before.get(thread, 0)
        if thread[1] == ENGINE:
            engine += grown
        else:
            others += grown
    return {"engine": engine, "others": others, "all": engine + others}
