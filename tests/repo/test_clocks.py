# SPDX-License-Identifier: Apache-2.0
"""Nothing that decides asks a clock that somebody can set: when it is stepped, nobody moves."""

import re

import pytest

from repo import project

SETTABLE = re.compile(
    r"\b(?:time\.time(?:_ns)?\b|datetime\.(?:now|utcnow|today)\b|CLOCK_REALTIME\b|gettimeofday\b"
    r"|time\s*\(\s*NULL\s*\))"
)
DECIDING = ("core", "engine", "health", "net", "runtime", "witness")
EXCUSED = {
    "agent/twinbeat/runtime/host.py": "the age of a file; one from the future counts as none",
    "agent/twinbeat/runtime/store.py": "a new boot epoch, and only above what the disk knows",
    "csrc/thread.c": "how long a stop waits for a thread that hangs; leases end by another clock",
}
"""Who may, and what for."""


def asks() -> dict[str, list[int]]:
    """The lines of each file that ask such a clock."""
    deciding = tuple(f"agent/twinbeat/{package}/" for package in DECIDING)
    found = {}
    for path in project.files():
        name = path.relative_to(project.ROOT).as_posix()
        if not name.startswith((*deciding, "csrc/", "ebpf/")) or "/uapi/" in name:
            continue
        lines = (project.text(path) or "").splitlines()
        numbers = [number for number, line in enumerate(lines, 1) if SETTABLE.search(line)]
        if numbers:
            found[name] = numbers
    return found


def test_who_decides_asks_no_clock_that_can_be_set() -> None:
    assert {name: lines for name, lines in asks().items() if name not in EXCUSED} == {}


@pytest.mark.parametrize("name", EXCUSED)
def test_an_excuse_is_for_one_line(name: str) -> None:
    assert len(asks().get(name, [])) == 1
