# SPDX-License-Identifier: Apache-2.0
"""What a run stands on: that it is alone, and what the kernel's gate tells its core."""

import os
from pathlib import Path

import pytest

from twinbeat.core.types import Phase, Watch
from twinbeat.engine.abi import Gate
from twinbeat.runtime.ground import StartError, be_alone, found

EPOCH = 1_700_000_000


def gate(*, term: int = 0, fence_below: int = 0) -> Gate:
    words = Gate()
    words.counter = EPOCH << 32 | 77
    words.term = term
    words.fence_below = fence_below
    return words


def test_the_second_agent_never_begins(tmp_path: Path) -> None:
    lock = be_alone(tmp_path / "run")
    with pytest.raises(StartError, match="another twinbeatd runs"):
        be_alone(tmp_path / "run")
    os.close(lock)
    os.close(be_alone(tmp_path / "run"))


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(StartError, match=r"locking .*twinbeatd\.lock"):
        be_alone(tmp_path / "run")


def test_terms_of_a_lost_disk_begin_above_the_boot_epoch() -> None:
    assert found(gate()).term_floor == EPOCH * 1024


@pytest.mark.parametrize(("term", "fence_below"), [(6, 4), (4, 9)])
def test_the_core_begins_above_what_the_kernel_saw(term: int, fence_below: int) -> None:
    engine = found(gate(term=term, fence_below=fence_below)).engine
    assert engine.highest == max(term, fence_below)
    assert (engine.phase, engine.watch, engine.term) == (Phase.LISTENING, Watch.UNKNOWN, 0)


def test_a_gate_with_a_reign_that_nobody_ended_has_listened() -> None:
    assert found(gate(term=6, fence_below=4)).kernel_listened
    assert not found(gate()).kernel_listened
