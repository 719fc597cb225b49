# SPDX-License-Identifier: Apache-2.0
"""Bringing the lab up and down: nothing foreign is touched, nothing of ours is left behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from twinlab import lab, netns, plan, processes
from twinlab.shell import LabError, run

BARE = plan.Options(agent=False)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    lab.down()
    yield
    lab.down()


def traces() -> list[str]:
    """Whatever of a lab can be seen on this machine."""
    found = [name for name in plan.NAMESPACES if netns.exists(name)]
    found += [str(path) for path in (plan.RUN_DIR, netns.ETC_TWINBEAT) if path.exists()]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if plan.MARK in line]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if "tb-echo" in words or f"nginx -p {plan.RUN_DIR}" in words:
                found.append(words)
    return found


def test_down_leaves_nothing_behind_and_may_be_repeated() -> None:
    assert traces() == []
    lab.up(BARE)
    assert traces()
    lab.down()
    assert traces() == []
    lab.down()
    assert traces() == []


def test_up_differently_rebuilds() -> None:
    lab.up(BARE)
    assert lab.up(plan.Options(agent=False, vips=3)) == "up"
    assert lab.status()["vips"]["lan0"] == [plan.LAN_VIP, "10.78.0.1", "10.78.0.2"]
    file = netns.node_dir("a", "/etc/twinbeat") / "vips-lan.txt"
    assert file.read_text().split() == ["10.78.0.1", "10.78.0.2"]


def test_an_interrupted_up_is_repaired_by_the_next() -> None:
    lab.up(BARE)
    plan.STATE_FILE.unlink()
    run(["ip", "netns", "delete", "tb-s2"])
    assert lab.up(BARE) == "up"
    assert len(netns.present()) == len(plan.NAMESPACES)


def test_foreign_namespace_is_refused_and_left_alone() -> None:
    run(["ip", "netns", "add", "tb-s2"])
    try:
        with pytest.raises(LabError, match="tb-s2 exists, but the lab did not make it"):
            lab.up(BARE)
        lab.down()
        assert netns.exists("tb-s2")
        assert not netns.exists("tb-a")
    finally:
        run(["ip", "netns", "delete", "tb-s2"])


def test_many_vips_raise_the_neighbour_limit_only_while_up() -> None:
    limit = Path(lab.GC_THRESH3).read_text()
    lab.up(plan.Options(agent=False, vips=2000))
    assert int(Path(lab.GC_THRESH3).read_text()) >= 4000
    lab.down()
    assert Path(lab.GC_THRESH3).read_text() == limit


def test_ipv6_reaches_the_neighbours() -> None:
    lab.up(plan.Options(agent=False, ipv6=True))
    run([*netns.enter("tb-client"), "ping", "-6", "-c1", "-W2", plan.node_address6("a", "lan0")])
    run([*netns.enter("tb-s1"), "ping", "-6", "-c1", "-W2", plan.node_address6("b", "wan0")])


def test_a_process_is_known_by_more_than_its_number() -> None:
    lab.up(BARE)
    processes.spawn("sleeper", "tb-s1", ["sleep", "60"])
    pid = processes.pid_of("sleeper")
    assert pid is not None
    record = processes.RECORDS_DIR / "sleeper"
    record.write_text(record.read_text().replace('"started": ', '"started": 1'))
    assert processes.pid_of("sleeper") is None, "the number alone is not believed"


def test_command_explains_that_nothing_is_up() -> None:
    command = str(plan.LAB_DIR / "lab")
    for arguments in (["cut", "a"], ["cli", "a", "show"], ["exec", "a", "true"]):
        done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("lab: the lab is not up")
    done = subprocess.run([command, "status", "--json"], capture_output=True, text=True, check=True)
    assert '"namespaces": []' in done.stdout
