# SPDX-License-Identifier: Apache-2.0
"""The time of day is set under a living pair: nobody moves, and nothing that is said gets wrong.

A namespace has no time of day of its own, and the machine's is not ours to set. So the time of day
that the C library tells the agents goes by a file of their node (clock.c); every other clock is the
kernel's.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from twinlab import agents, netns, plan, processes
from twinlab.shell import run, wait_for

from lab import watching

LAB_OPTIONS = plan.Options(profile="balanced", settings=watching.CALM)

HOUR_S = 3600
LIBRARY = "/etc/twinbeat/clock.so"
UPON_A_FILE = {"LD_PRELOAD": LIBRARY, "CLOCK_FILE": "/etc/twinbeat/clock"}
LATE = "the engine woke up"
"""What a machine that is busy elsewhere makes an agent say."""
HEARTBEATS = 200
"""Far more than a lease lasts."""


def clock_of(node: str) -> Path:
    return netns.node_dir(node, "/etc/twinbeat") / "clock"


def step(node: str, seconds: int) -> None:
    """Set the node's time of day so much apart from the machine's."""
    with clock_of(node).open("r+b") as file:
        file.write(struct.pack("=q", seconds))
    wait_for(partial(is_apart, node, seconds), f"{node} sees it", timeout_s=20)


def is_apart(node: str, seconds: int) -> bool:
    said = agents.show(node)
    machine_ns = time.time_ns() - agents.boot_ns()
    apart_ns = said["realtime_offset_ns"] - machine_ns if said else 0
    return said is not None and abs(apart_ns - seconds * 10**9) < 10**9


@pytest.fixture(scope="module")
def upon_files(pair: None) -> None:
    """Both agents tell the time of day by a file from now on."""
    source = Path(__file__).with_name("clock.c")
    for node in plan.NODES:
        clock_of(node).write_bytes(bytes(8))
        made = clock_of(node).with_suffix(".so")
        run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(made), str(source)])
        agents.restart(node, UPON_A_FILE)
        agents.wait_fit()
        assert LIBRARY in Path(f"/proc/{agents.pid(node)}/maps").read_text()


@pytest.fixture
def serving(upon_files: None, primary: str) -> Iterator[str]:
    """The primary of a pair whose clocks can be set; they are right again after the test."""
    yield primary
    for node in plan.NODES:
        step(node, 0)


def hear_more(node: str) -> None:
    """Wait until many more heartbeats came in at the node."""
    until = watching.received(node, "ha0") + HEARTBEATS
    wait_for(lambda: watching.received(node, "ha0") >= until, f"{node} hears", timeout_s=20)


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
@pytest.mark.parametrize("role", ["primary", "secondary"])
def test_a_step_moves_nobody(serving: str, role: str, seconds: int) -> None:
    node = serving if role == "primary" else plan.peer(serving)
    reign = watching.term(serving)
    recorded = [watching.transitions(each) for each in plan.NODES]
    log = processes.log_file(agents.process_name(node))
    before = len(log.read_text())

    def there_and_back() -> None:
        for apart_s in (seconds, 0):
            step(node, apart_s)
            for each in plan.NODES:
                hear_more(each)

    seen = watching.watch(there_and_back, lambda: True, "the steps", interval_us=1000)
    assert seen.outage is None
    assert watching.term(serving) == reign
    assert [watching.transitions(each) for each in plan.NODES] == recorded
    said = [line for line in log.read_text()[before:].splitlines() if LATE not in line]
    assert said == [], "there is nothing to say about it"


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
def test_a_takeover_is_dated_by_the_clock_and_aged_without_it(serving: str, seconds: int) -> None:
    other = plan.peer(serving)
    begun_ns = agents.boot_ns()
    step(other, seconds)
    told = agents.cli(other, "force", "failover", "--yes", "--reason", "a test")
    assert told.returncode == 0, told.stderr
    wait_for(partial(watching.serves, other), f"{other} takes over", timeout_s=20)
    took = watching.takeover(other, begun_ns)
    machine_ns = time.time_ns() - agents.boot_ns()
    assert abs(took["realtime_offset_ns"] - machine_ns - seconds * 10**9) < 10**9
    for apart_s in (seconds, 0, -seconds):
        step(other, apart_s)
        shown = agents.cli(other, "show").stdout
        assert re.search(r"last failover [0-9]{1,2}s ago", shown), shown
