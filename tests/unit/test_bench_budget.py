# SPDX-License-Identifier: Apache-2.0
"""A bench ends in time: what a group may take, and what it leaves out when that is spent."""

import time

import pytest

from unit.bench_material import budget, cpu, effort, run, shell


class Clock:
    """A monotonic clock that goes on only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def made(clock: Clock, runs: budget.Budget, wanted: int, each_s: float, **how: float) -> int:
    count = 0
    for _ in runs.runs(wanted, "runs", **how):
        clock.now += each_s
        count += 1
    return count


def test_all_runs_are_made_while_there_is_time(clock: Clock) -> None:
    allowed = budget.Budget.of(10)
    assert made(clock, allowed, 5, each_s=1.9) == 5
    assert allowed.cut_short == []


def test_no_run_is_begun_that_would_probably_end_too_late(clock: Clock) -> None:
    allowed = budget.Budget.of(10)
    assert made(clock, allowed, 20, each_s=3.0) == 3
    assert allowed.cut_short == ["3 of 20 runs"]


def test_one_run_is_made_even_if_the_time_is_spent_already(clock: Clock) -> None:
    allowed = budget.Budget.of(0)
    assert made(clock, allowed, 20, each_s=3.0) == 1


def test_a_loop_takes_no_more_than_its_share(clock: Clock) -> None:
    allowed = budget.Budget.of(10)
    assert made(clock, allowed, 20, each_s=1.0, share=0.5) == 5
    assert allowed.left() == 5


def test_a_watch_is_shortened_to_what_is_left(clock: Clock) -> None:
    allowed = budget.Budget.of(10)
    assert allowed.seconds(4, "load", share=0.8) == 4
    assert allowed.seconds(12, "load", share=0.8) == 8
    clock.now += 60
    assert allowed.seconds(12, "load") == 1
    assert allowed.cut_short == ["8 of 12 s of load", "1 of 12 s of load"]


def test_a_run_that_fails_is_noted_and_the_others_go_on(clock: Clock) -> None:
    allowed = budget.Budget.of(10)
    good = 0
    for number in allowed.runs(3, "runs"):
        with allowed.attempt(f"run {number}"):
            if number == 1:
                raise shell.LabError("nobody served")
            good += 1
    assert (good, allowed.problems) == (2, ["run 1: nobody served"])


def test_a_fault_of_the_bench_itself_is_no_failed_run() -> None:
    with pytest.raises(KeyError), budget.Budget.of(1).attempt("a run"):
        raise KeyError("verdict_ns")


def test_time_not_used_falls_to_the_later_groups() -> None:
    seconds = {"a": 10.0, "b": 20.0, "c": 70.0}
    assert budget.allowance("a", seconds, ["a", "b", "c"], 200) == 20
    assert budget.allowance("b", seconds, ["b", "c"], 198) == 44
    assert budget.allowance("c", seconds, ["c"], 0) == 0


@pytest.mark.parametrize("wanted", [effort.QUICK, effort.FULL], ids=["quick", "full"])
def test_every_group_has_its_time_and_all_of_them_fit(wanted: effort.Effort) -> None:
    assert set(wanted.seconds) == {group.name for group in run.GROUPS}
    assert sum(wanted.seconds[group.name] for group in run.chosen([])) <= wanted.soft_s
    assert wanted.soft_s < wanted.hard_s


def test_the_hard_ends_leave_room_below_what_is_promised() -> None:
    assert effort.QUICK.hard_s <= 225
    assert effort.FULL.hard_s <= 58 * 60
    assert effort.FULL.seconds["load_fast"] * 0.8 >= 0.8 * effort.FULL.load_s


def test_no_wait_goes_on_after_the_hard_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda seconds: setattr(clock, "now", clock.now + seconds))
    began = clock.now
    with shell.not_after(began + 7), pytest.raises(shell.LabError, match="not within 7 s"):
        shell.wait_for(lambda: False, "a pair that never becomes fit", timeout_s=60, interval_s=0.5)
    assert clock.now - began <= 8
    with pytest.raises(shell.LabError, match="not within 60 s"):
        shell.wait_for(lambda: False, "the same without an end", timeout_s=60, interval_s=0.5)


def test_the_engines_time_is_told_from_that_of_the_other_threads() -> None:
    before = {(1, "twinbeatd"): 100, (2, cpu.ENGINE): 1000}
    after = {(1, "twinbeatd"): 150, (2, cpu.ENGINE): 1900, (3, "executor"): 7}
    assert cpu.used_ns(before, after) == {"engine": 900, "others": 57, "all": 957}
