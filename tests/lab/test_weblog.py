# SPDX-License-Identifier: Apache-2.0
"""Web logs of a real nginx across failovers: what was replicated is written once, the rest later.

One failover of each kind here; the bench does twenty, and measures what it costs. And what goes
wrong with records only costs no role.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twinlab import agents, logwatch, plan, processes, weblog
from twinlab.disks import STATE
from twinlab.shell import LabError, wait_for

from lab import watching
from lab.test_disks import fill
from lab.test_policy import said
from twinbeat.weblog.messages import PORT
from twinbeat.weblog.segment import SUFFIX
from twinbeat.weblog.shown import WeblogView

LAB_OPTIONS = plan.Options(profile="balanced", settings=(*watching.CALM, "keys.send=0"))
STOPPED_S = 1.5
HOSTILE = "hostile"
MEMORY_MOST = 160 << 20
"""Bytes that a worker may ever have had: twice what one takes that collects under load, so that
only what grows with the trouble goes beyond."""


@pytest.fixture(scope="module")
def ground(pair: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[weblog.Ground]:
    with weblog.ground(tmp_path_factory.mktemp("weblog")) as made:
        yield made


def judged(ground: weblog.Ground, watch: logwatch.Watch) -> logwatch.Judged:
    """When all has come to rest."""
    wait_for(lambda: weblog.settled(ground.third), "all records to be written", timeout_s=40)
    held, logs = logwatch.held(), weblog.logs()
    return logwatch.judge(ground.third.lines(), watch.replicated, held, logs)


@pytest.mark.parametrize("kind", weblog.KINDS)
def test_no_record_is_lost_or_written_twice(ground: weblog.Ground, kind: str) -> None:
    before = len(ground.third.lines())
    with logwatch.watched() as watch, weblog.asking():
        wait_for(
            lambda: len(ground.third.lines()) > before + logwatch.RATE // 4, "records", timeout_s=20
        )
        ground.fail(kind, watch=watch, for_s=0.3)
    found = judged(ground, watch)
    assert found.faults == []
    said = weblog.asked()
    assert said["connections"] > 1
    assert found.records > before + logwatch.RATE // 2
    assert sum(watch.replicated.values()) > 0


def test_a_client_that_stands_still_catches_up(ground: weblog.Ground) -> None:
    pid = processes.pid_of(weblog.CLIENT)
    assert pid is not None
    before = len(ground.third.lines())
    with logwatch.watched() as watch, weblog.asking():
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(pid, signal.SIGCONT)
        wait_for(
            lambda: len(ground.third.lines()) > before + logwatch.RATE * STOPPED_S / 2,
            "the client to catch up",
            timeout_s=20,
        )
    assert judged(ground, watch).faults == []


def peak(node: str) -> int:
    """The most memory that the worker ever had, in bytes."""
    pid = processes.pid_of(f"worker-{node}")
    assert pid is not None
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (said,) = (each for each in lines if each.startswith("VmHWM:"))
    return int(said.split()[1]) << 10


def until(node: str, holds: Callable[[WeblogView], bool], what: str) -> WeblogView:
    seen: list[WeblogView] = []

    def held() -> bool:
        said = logwatch.view(node)
        seen[:] = [said] if said is not None else []
        return said is not None and holds(said)

    try:
        wait_for(held, what, timeout_s=20)
    except LabError as error:
        raise AssertionError(f"{error}: {seen}") from None
    return seen[0]


@contextlib.contextmanager
def served_by(primary: str) -> Iterator[None]:
    """Whatever happens meanwhile, this node stays what it is, and neither daemon says otherwise."""
    term, made = said(primary)["node"]["term"], watching.transitions(primary)
    yield
    node = said(primary)["node"]
    assert (node["role"], node["term"]) == ("primary", term)
    assert watching.transitions(primary) == made


def test_a_full_disk_and_a_hostile_client_cost_no_role(ground: weblog.Ground) -> None:
    primary = agents.wait_fit()
    addresses = [plan.node_address(node, "lan0") for node in plan.NODES]
    script = str(plan.LAB_DIR / "twinlab" / "hostile.py")
    own = str(ground.third.folder.own_file)
    command = [str(plan.VENV_DIR / "bin" / "python"), script, own, str(PORT), *addresses]
    before = until(primary, lambda seen: bool(seen.port), "it listens").counts
    with served_by(primary), logwatch.watched() as watch, weblog.asking():
        processes.spawn(HOSTILE, plan.CLIENT_NS, command)
        try:
            for code in ("ended oversized", "ended malformed", "ended not_allowed"):
                until(
                    primary,
                    lambda seen, code=code: seen.counts.get(code, 0) > before.get(code, 0),
                    code,
                )
            free = fill(ground.disks[primary])
            try:
                seen = until(primary, lambda seen: seen.state == "refusing", "it is full")
                assert "full" in seen.why
                assert seen.counts["own-refused full"] > 0
            finally:
                free()
            until(primary, lambda seen: seen.state == "collecting", "it goes on")
        finally:
            processes.end(HOSTILE)
    assert judged(ground, watch).faults == []
    assert max(map(peak, plan.NODES)) < MEMORY_MOST


def test_a_disk_that_refuses_and_a_damaged_end_cost_no_role(ground: weblog.Ground) -> None:
    """The secondary's disk turns read-only; when it is mounted anew the end of the replica on it is
    no records."""
    primary = agents.wait_fit()
    node = plan.peer(primary)
    disk, worker = ground.disks[node], f"worker-{node}"
    with served_by(primary), logwatch.watched() as watch, weblog.asking():
        disk.inside("mount", "-o", "remount,abort", STATE)  # as ext4 does itself
        seen = until(node, lambda seen: seen.counts.get("replica-refused readonly", 0) > 0, "no")
        until(primary, lambda seen: seen.replication.waiting > weblog.RATE, "they wait")
        assert peak(node) < MEMORY_MOST
        for name in (worker, agents.process_name(node), weblog.nginx_name(node)):
            processes.end(name)
        weblog.let_go(node)
        disk.umount()
        with disk.looked_into() as state:
            segments = sorted((state / "worker/weblog/journal" / primary).glob(f"*{SUFFIX}"))
            with segments[-1].open("ab") as file:
                file.write(b"TB" + bytes(1000))
        disk.mount()
        weblog.start_nginx(node)
        agents.start(node)
        agents.start_worker(node)
        seen = until(node, lambda seen: seen.replication.state == "pulling", "it goes on")
        assert seen.counts["replica-cut times"] == 1
        assert seen.counts["replica-cut bytes"] >= 1000
    assert judged(ground, watch).faults == []
    assert max(map(peak, plan.NODES)) < MEMORY_MOST


def test_the_judge_sees_what_is_wrong() -> None:
    line = b'a 1 %d 10.0.0.1 - - [x] "GET /n/%d HTTP/1.1" 200 2'
    fine = [line % (number, number) for number in range(10)]
    key = ("a", 1)
    assert logwatch.judge(fine, {key: 10}, {key: 10}).faults == []
    assert logwatch.judge(fine[:9], {key: 10}, {}).lost
    assert logwatch.judge(fine[:9], {}, {key: 10}).missing
    twice = logwatch.judge([*fine, fine[3]], {}, {})
    assert len(twice.twice) == 2
    assert twice.disorder
    assert logwatch.judge([fine[1], fine[0]], {}, {}).disorder
    log = [each.split(b" ", 3)[3] for each in fine]
    assert logwatch.judge(fine, {}, {}, {"a": log}).faults == []
    assert logwatch.judge(fine[1:], {}, {}, {"a": log}).unwritten
