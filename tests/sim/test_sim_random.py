# SPDX-License-Identifier: Apache-2.0
"""Random schedules by the thousand, each from its own seed, under the safety rules.

    pytest tests/sim                                  three million steps
    pytest tests/sim --seed 1320 -s                   one of them again, told as it happens
    pytest tests/sim --fresh --schedules 200000       through a night, others than every day

What is printed for a broken rule is all that is needed to have it again: the seed and the commit.
"""

from __future__ import annotations

import faulthandler
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import pytest

from sim import coverage, schedule
from sim.figures import processor_s
from sim.schedule import Result
from twinbeat.core.table import TRANSITIONS

SCHEDULES = 900
"""Of twelve faults each, by default."""
STEPS_MIN = 3_000_000
"""What they come to: everything that happens to a node, a wire, a thread or a disk is a step."""
WITHIN_S = 240
"""And how long that may take, on one processor that does nothing else."""
EACH_STEPS_MIN, EACH_KINDS_MIN = 200, 3
"""A schedule has at least so many steps, and so many kinds of fault."""
FIRST = 20_261_000
LONG_EVERY = 10
"""Every so manieth schedule has four times the faults."""
CHUNK = 25
BROKEN_MAX = 20
"""So many broken ones are told."""


def length_of(seed: int) -> int:
    return 48 if seed % LONG_EVERY == 0 else 12


def play(seeds: range) -> list[Result]:
    return [schedule.run(seed, length_of(seed)) for seed in seeds]


def told(result: Result) -> str:
    lines = [f"seed {result.seed}: {result.violation}", *result.trace]
    return "\n".join([*lines, f"again: pytest tests/sim --seed {result.seed} -s"])


def in_short(result: Result) -> str:
    return f"seed {result.seed}: {result.violation}"


@dataclass(slots=True)
class Total:
    """What schedules came to, however many they are: of a night's each can't be kept."""

    steps: int = 0
    faults: int = 0
    overlaps: int = 0
    steps_least: int = 1 << 62
    kinds_least: int = 1 << 62
    covered: Counter[str] = field(default_factory=Counter)
    """By how many schedules."""
    broken: list[Result] = field(default_factory=list)
    """The first of those that broke a rule."""

    def add(self, result: Result) -> None:
        self.steps += result.steps
        self.faults += result.faults
        self.overlaps += result.overlaps
        self.steps_least = min(self.steps_least, result.steps)
        self.kinds_least = min(self.kinds_least, result.kinds)
        self.covered.update(result.covered)
        if result.violation is not None and len(self.broken) < BROKEN_MAX:
            self.broken.append(result)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_no_schedule_breaks_a_rule(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    faulthandler.cancel_dump_traceback_later()  # Long by intent; every schedule has its own end.
    one = request.config.getoption("--seed")
    if one is not None:
        result = schedule.run(one, length_of(one))
        print(told(result))
        assert result.violation is None, told(result)
        return
    count = request.config.getoption("--schedules") or SCHEDULES
    # The same schedules each time, so that a red run is the change's; `--fresh` tries others.
    fresh = request.config.getoption("--fresh")
    first = int.from_bytes(os.urandom(3), "big") * 1000 if fresh else FIRST
    begun, used = time.monotonic(), processor_s()
    chunks = [
        range(seed, min(seed + CHUNK, first + count)) for seed in range(first, first + count, CHUNK)
    ]
    print(f"seeds {first} to {first + count - 1}", flush=True)
    total = Total()
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for played in pool.map(play, chunks):
            for result in played:
                total.add(result)
    covered, steps, took_s = total.covered, total.steps, time.monotonic() - begun
    used_s = processor_s() - used
    figures = [
        f"simulator, seeds {first} to {first + count - 1}: {steps} steps in {took_s:.0f} s, "
        f"{used_s:.0f} s of processors' time ({steps / used_s:.0f} steps a second of it), "
        f"{total.faults} faults, {total.overlaps} overlaps; each of at least {total.steps_least} "
        f"steps and {total.kinds_least} kinds of fault; so many schedules had:",
        *(f"{times:6}  {name}" for name, times in sorted(covered.items())),
    ]
    record_property("figures", "\n".join(figures))
    assert not total.broken, "\n".join([told(total.broken[0]), *map(in_short, total.broken[1:])])
    assert total.steps_least >= EACH_STEPS_MIN
    assert total.kinds_least >= EACH_KINDS_MIN
    if count >= SCHEDULES:
        assert steps >= STEPS_MIN
        assert steps * WITHIN_S >= STEPS_MIN * used_s, "they take one processor longer than that"
        assert_all_was_tried(covered)


def assert_all_was_tried(covered: Counter[str]) -> None:
    """A simulation that never fails over proves nothing: every turn of the table, every verdict,
    every way to open and to end came up."""
    for what in (
        *(coverage.named(role, by) for role, by in TRANSITIONS),
        "suspect none",
        "cleared none",
        "stalled none",
        "dead none",
        "opened receipt",
        "opened silence",
        "opened lease_ran_out",
        "opened resumed",
        "closed fenced",
        "closed expired",
        "closed contest_lost",
        "closed resigned",
        "abandoned no_receipt",
        "abandoned overtaken",
        "withheld block_spent",
        "withheld isolated",
        "withheld mismatch",
        "withheld no_control",
        "withheld not_permitted",
        "withheld order_void",
        "withheld peer_lease",
        "withheld peer_serves",
        "withheld peer_starts",
        "withheld unproven",
        "contested none",
        "reopened receipt",
        "claim dead",
        "claim stalled",
        "claim idle",
        "claim yielded",
        "claim cold",
        "claim despite_mismatch",
        "claim ordered",
        "claim renew",
        "INIT -> SECONDARY",
        "INIT -> PRIMARY",
        "SECONDARY -> DISABLED",
        "CLAIMING -> SECONDARY",
        "DISABLED -> SECONDARY",
        "done switched_over",
        "done done_after_claim",
        "done paused_both",
        "failed peer_did_not_claim",
        "failed disk_refuses",
        "done timers_both",
        "done timers_alone",
        "refused host_late",
        "both not up, fail-safe on",
        "both not up, fail-safe off",
        "a set of links failed",
        "a set of links was held by one of them",
        "a link was taken out",
        "reset by the watchdog",
    ):
        assert covered[what], f"no schedule had: {what}"


def test_a_seed_is_one_history() -> None:
    """The same seed twice is the same history to the last step."""
    first, second = schedule.run(7), schedule.run(7)
    assert first == second
    assert first.trace
