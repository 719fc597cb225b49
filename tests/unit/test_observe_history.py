# SPDX-License-Identifier: Apache-2.0
"""The history survives restarts, torn lines and a disk that refuses."""

import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from twinbeat.api.schema import PHASES, Timeline, durations
from twinbeat.core.types import Timeline as CoreTimeline
from twinbeat.observe.history import History
from unit.memory_agent import transition


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.jsonl"


def test_what_was_written_is_there_after_a_restart(file: Path) -> None:
    history = History(file)
    first = history.record(transition(number=0))
    second = history.record(transition(number=0, reason="fenced"))
    assert (first.number, second.number) == (1, 2)
    assert history.newest(10) == [first, second]
    history.write()
    again = History(file)
    assert again.newest(10) == [first, second]
    assert again.newest(1) == [second]
    assert again.record(transition()).number == 3


def test_a_timeline_is_completed_later(file: Path) -> None:
    history = History(file)
    entry = history.record(transition())
    history.write()
    amended = history.amend(entry.number, replace(entry.timeline, routes_ns=5_000_002_000_000))
    assert amended is not None
    assert amended.durations_ns["routes"] == 970_000
    history.write()
    assert History(file).newest(10) == [amended]
    assert history.amend(99, entry.timeline) is None


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_torn_last_line_costs_only_itself(file: Path, cut: int) -> None:
    history = History(file)
    kept = history.record(transition())
    history.record(transition())
    history.write()
    file.write_bytes(file.read_bytes()[:-cut])
    again = History(file)
    assert again.newest(10) == [kept]
    added = again.record(transition(reason="fenced"))
    again.write()
    third = History(file)
    assert third.newest(10) == [kept, added]


def test_rubbish_is_passed_over_and_counted(file: Path) -> None:
    history = History(file)
    kept = history.record(transition())
    history.write()
    file.write_bytes(b"\x00\xff\n{}\n" + file.read_bytes())
    again = History(file)
    assert again.newest(10) == [kept]
    assert again.unreadable == 2


def test_it_is_bounded_in_memory_and_on_disk(file: Path) -> None:
    history = History(file, kept=10)
    for _ in range(100):
        history.record(transition())
        history.write()
    assert [entry.number for entry in history.newest(1000)] == list(range(91, 101))
    assert len(file.read_bytes().splitlines()) <= 20
    assert [entry.number for entry in History(file, kept=10).newest(1000)] == list(range(91, 101))


def test_a_disk_that_refuses_loses_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the directory should be")
    history = History(blocked / "history.jsonl")
    entry = history.record(transition())
    with pytest.raises(OSError, match=r"exists|directory"):
        history.write()
    assert history.newest(1) == [entry]
    blocked.unlink()
    history.write()
    assert History(blocked / "history.jsonl").newest(1) == [entry]


def test_recording_does_not_wait_for_the_disk_and_nothing_is_lost(file: Path) -> None:
    history = History(file, kept=5000)
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            history.write()

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(500):
        history.record(transition())
    over.set()
    writer.join()
    history.write()
    assert [entry.number for entry in History(file, kept=5000).newest(5000)] == list(range(1, 501))


def test_phases_are_those_of_the_core() -> None:
    moments = dict.fromkeys(("last_heard", "suspect", "verdict", "claim", "receipt", "gate"))
    names = [*moments, "announced"]
    for mask in range(2 ** len(names)):
        known = {
            name: (number + 1) * 1000 for number, name in enumerate(names) if mask >> number & 1
        }
        ours = durations(Timeline(**{f"{name}_ns": at for name, at in known.items()}))
        renamed = {("suspicion" if name == "suspect" else name): at for name, at in known.items()}
        core = CoreTimeline(**{f"{name}_ns": at for name, at in renamed.items()})
        assert ours == core.phases(), known


def test_every_phase_lies_between_moments_of_the_timeline() -> None:
    for _, begins, ends in PHASES:
        assert set(begins + ends) <= set(Timeline.__struct_fields__)
