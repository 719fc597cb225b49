# SPDX-License-Identifier: Apache-2.0
"""The share of the processors that the agent asks for, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from twinbeat.runtime import host
from unit.reach import as_nobody

ASK = """
import json, os, sys
from pathlib import Path
from twinbeat.runtime.host import claim_share

refused = claim_share(autogroup=Path(sys.argv[1]))
print(json.dumps({"nice": os.getpriority(os.PRIO_PROCESS, 0), "refused": refused}))
"""


def ask(autogroup: Path, *who: str, own_session: bool) -> dict[str, object]:
    done = subprocess.run(
        [*who, sys.executable, "-c", ASK, str(autogroup)],
        capture_output=True,
        text=True,
        check=True,
        start_new_session=own_session,
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.privileged
def test_the_agent_asks_for_its_turn_among_busy_processes(tmp_path: Path) -> None:
    group = tmp_path / "autogroup"
    group.write_text("as it was")
    assert ask(group, own_session=True) == {"nice": -15, "refused": []}
    assert group.read_text() == "-15"


@pytest.mark.privileged
def test_a_session_shared_with_others_is_not_lifted_with_it(tmp_path: Path) -> None:
    group = tmp_path / "autogroup"
    group.write_text("as it was")
    assert ask(group, own_session=False)["nice"] == -15
    assert group.read_text() == "as it was"


@pytest.mark.privileged
def test_a_refusal_is_told_and_harms_nothing() -> None:
    answer = ask(Path("/nonexistent"), *as_nobody(), own_session=True)
    assert answer["nice"] == os.getpriority(os.PRIO_PROCESS, 0)
    assert answer["refused"] == [
        "nice -15 was refused (Permission denied): give the agent CAP_SYS_NICE"
    ]


def test_processors_are_kept_awake_as_long_as_the_request_is_held(tmp_path: Path) -> None:
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    held = host.keep_awake(20, device=device)
    assert isinstance(held, int)
    os.fstat(held)
    os.close(held)
    assert device.read_bytes() == (20).to_bytes(4, sys.byteorder)


def test_a_host_that_refuses_to_stay_awake_is_named(tmp_path: Path) -> None:
    refused = host.keep_awake(0, device=tmp_path / "none" / "cpu_dma_latency")
    assert isinstance(refused, str)
    assert "cpu_dma_latency: No such file or directory" in refused


LATENESS = host.Lateness(median_ns=1, p90_ns=2, p99_ns=3, max_ns=4, realtime=True)


def test_what_was_measured_outlives_a_crash_for_a_while(tmp_path: Path) -> None:
    file = tmp_path / "lateness.json"
    assert host.remembered(file) is None
    host.remember(file, LATENESS)
    assert host.remembered(file) == LATENESS
    old = file.stat().st_mtime - host.REMEMBERED_S - 1
    os.utime(file, (old, old))
    assert host.remembered(file) is None
    host.remember(file, LATENESS)
    host.forget(file)
    assert host.remembered(file) is None
    host.forget(file)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"median_ns": "x"}'])
def test_what_can_t_be_read_is_measured_anew(tmp_path: Path, content: str) -> None:
    file = tmp_path / "lateness.json"
    file.write_text(content)
    assert host.remembered(file) is None
    host.remember(tmp_path / "none" / "lateness.json", LATENESS)  # a disk that refuses is no matter
