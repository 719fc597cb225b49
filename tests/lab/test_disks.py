# SPDX-License-Identifier: Apache-2.0
"""Disks of a real pair: their power is cut in a stream of commands, they are full, they refuse.

Each node's state lies on an ext4 of its own. What wasn't synced is gone when it is mounted again.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from twinlab import agents, netns, plan, processes, storm
from twinlab import disks as power
from twinlab.disks import STATE, Disk
from twinlab.shell import wait_for

from lab import watching
from lab.test_policy import said, tell, transitions
from twinbeat.runtime.store import Store as AgentStore
from twinbeat.sync.document import Document
from twinbeat.sync.operation import State
from twinbeat.sync.store import Store

LAB_OPTIONS = plan.Options(profile="balanced", settings=(*watching.CALM, "keys.send=0"))
SIZE = 32 << 20
BETWEEN = 8
"""Commands that are answered before a cut."""
SEED = 20261124
VIP = "10.77.0.114"


Disks = dict[str, Disk]


def names(nodes: Sequence[str]) -> list[str]:
    """Their processes, as the lab calls them."""
    return [name for node in nodes for name in (f"worker-{node}", agents.process_name(node))]


def end(nodes: Sequence[str]) -> None:
    for name in names(nodes):
        processes.end(name)


@pytest.fixture(scope="module")
def disks(pair: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    """A pair that is in step, on disks of its own."""
    root = tmp_path_factory.mktemp("disks")
    made = {node: Disk(node, root, SIZE) for node in plan.NODES}
    end(plan.NODES)
    for node, disk in made.items():
        disk.mount()
        agents.start(node)
    agents.wait_fit()
    storm.pair()
    yield made
    end(plan.NODES)
    for disk in made.values():
        disk.umount()


def lose_power(disks: Disks, nodes: Sequence[str]) -> None:
    """All of them at one moment, in the middle of whatever they do."""
    power.lose_power([disks[node] for node in nodes], names(nodes))


def missing(state: Path, answers: dict[str, State]) -> list[str]:
    """What a disk lacks of what was answered as done on both nodes."""
    store = Store(state / "worker" / "shared.db")
    try:
        assert store.complaints == []
        held = store.held()
    finally:
        store.close()
    assert held is not None
    agent = AgentStore(state)
    copy = agent.document()
    assert agent.complaints == []
    assert copy is not None
    kept, journaled = held.current, held.prepared
    if journaled is not None and journaled.version == copy.version:
        kept = journaled.onto(kept)  # In force: it will be committed, whatever happens.

    def lacks(document: Document) -> set[str]:
        rows = document.tables.get(storm.SECTION, {})
        return {name for name, answer in answers.items() if answer is State.DONE} - rows.keys()

    return [f"the store lacks {name}" for name in sorted(lacks(kept))] + [
        f"the agent's copy lacks {name}" for name in sorted(lacks(copy))
    ]


@pytest.mark.parametrize("who", ["primary", "secondary", "both"])
def test_what_was_acknowledged_outlasts_a_loss_of_power(disks: Disks, who: str) -> None:
    primary = agents.wait_fit()
    wait_for(storm.in_step, "both workers to be in step", timeout_s=20)
    nodes = {"primary": [primary], "secondary": [plan.peer(primary)], "both": list(plan.NODES)}[who]
    made = storm.Storm(seed=SEED + len(who))
    streaming = threading.Thread(target=made.stream)
    streaming.start()
    try:
        wait_for(lambda: len(made.answers) >= BETWEEN, "commands to be answered", timeout_s=30)
        term = said(primary)["node"]["term"]
        before = agents.boot_ns()
        lose_power(disks, nodes)
        if nodes == [primary]:
            # It could go on with its term as long as its lease runs.
            survivor = plan.peer(primary)
            wait_for(lambda: watching.serves(survivor), f"{survivor} takes over", timeout_s=30)
    finally:
        made.over.set()
        streaming.join()
    answers = {name: answer.state for name, answer in made.answers.items()}
    assert State.DONE in answers.values(), answers
    for node in nodes:
        with disks[node].looked_into() as state:
            assert missing(state, answers) == []
            if node == primary:
                assert AgentStore(state).terms_reserved_to() >= term
        disks[node].mount()
        agents.start(node)
    serving = agents.wait_fit()
    made.settle()
    assert made.faults() == []
    now = said(serving)["node"]["term"]
    if who == "secondary":
        assert serving == primary
        assert now >= term, "a higher one is seen once the other one starts from what it reserved"
    elif who == "primary":
        assert serving != primary
        assert now > term
    else:
        assert now > term or "gate was still open" in watching.story(before)


def fill(disk: Disk) -> Callable[[], None]:
    """Until not a byte fits."""
    power.fill(disk.path)

    def free() -> None:
        (disk.path / "filler").unlink()

    return free


def write_protect(disk: Disk) -> Callable[[], None]:
    """With the worker away, as nothing may be open for writing meanwhile."""
    worker = f"worker-{disk.node}"

    def remount(how: str) -> None:
        disk.inside("mount", "-o", f"remount,{how}", STATE)

    processes.end(worker)
    wait_for(lambda: protected(disk), "the disk to be protected", timeout_s=30)
    agents.start_worker(disk.node)
    return lambda: remount("rw")


def protected(disk: Disk) -> bool:
    """Whether it is: for a moment the agent itself may have a file open."""
    command = [*netns.enter(plan.namespace(disk.node)), "mount", "-o", "remount,ro", STATE]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def errors(node: str) -> int:
    counted = agents.counters(node)
    assert counted is not None
    return int(counted["sync_failures"].get("store", 0))


@pytest.mark.parametrize("how", [fill, write_protect])
@pytest.mark.parametrize("who", ["primary", "secondary"])
def test_a_disk_that_refuses_costs_a_command_and_no_role(
    disks: Disks, how: Callable[[Disk], Callable[[], None]], who: str
) -> None:
    primary = agents.wait_fit()
    wait_for(storm.in_step, "both workers to be in step", timeout_s=20)
    node = primary if who == "primary" else plan.peer(primary)
    before, counted = transitions(), errors(node)
    add = ("add", "vip", VIP, "vrid", str(plan.LAN_VRID), "--strict")
    free = how(disks[node])
    try:
        refused = agents.cli(primary, *add, timeout_s=40)
        assert refused.returncode != 0, refused.stdout
        told = refused.stdout + refused.stderr
        if how is fill:
            assert "full" in told or "No space" in told, told
            wait_for(lambda: errors(node) > counted, "it to be counted", timeout_s=30)
        else:
            wait_for(lambda: errors(node) > 0, "it to be counted", timeout_s=30)
            shown = said(node)["sync"]
            assert shown["state"] == "failed", shown
            assert re.search("read.only|written", shown["sentence"]), shown
    finally:
        free()
        # It may have ended over it; the unit would start it anew.
        agents.start_worker(node)
    wait_for(storm.in_step, "both workers to be in step", timeout_s=40)
    tables = [storm.document(each).tables for each in plan.NODES]
    assert tables[0] == tables[1]
    assert VIP not in tables[0]["vrid"][str(plan.LAN_VRID)]["vips"], told
    assert "done on both nodes" in tell(primary, *add)
    tell(primary, "rm", "vip", VIP)
    assert transitions() == before


def test_a_cut_loses_what_was_only_written(disks: Disks) -> None:
    """Else these tests would prove nothing."""
    node = plan.peer(agents.wait_fit())
    (disks[node].path / "unsynced").write_bytes(b"lost")
    lose_power(disks, [node])
    with disks[node].looked_into() as state:
        unsynced = state / "unsynced"
        assert not unsynced.exists() or unsynced.read_bytes() == b""
    disks[node].mount()
    agents.start(node)
    agents.wait_fit()
