# SPDX-License-Identifier: Apache-2.0
"""From the configuration to what is watched, and a running set of monitors that is changed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from twinbeat.config.model import Config
from twinbeat.config.nodes import LinkSection, NodeSection, PairSection, PeerSection
from twinbeat.config.service import VridSection
from twinbeat.config.watching import LinksetSection, MonitorSection
from twinbeat.core.events import Event, HealthChanged
from twinbeat.core.types import MILLISECOND, SECOND, NodeState, Role, TrackedHealth
from twinbeat.engine.types import now_ns
from twinbeat.health.board import Kind, When
from twinbeat.observe.log import RepeatFilter
from twinbeat.runtime.health import Health
from twinbeat.runtime.monitors import targets
from unit.namespace import fresh_namespace, ip, veth

CONFIG = Config(
    node=NodeSection(name="a", index=0),
    pair=PairSection(id=1),
    peer=PeerSection(name="b"),
    links=(
        LinkSection(interface="ha0", name="ha0", local="10.1.0.1", peer="10.1.0.2", direct=True),
        LinkSection(interface="mgmt0", name="mgmt0", local="10.2.0.1", peer="10.2.0.2"),
        LinkSection(interface="lan0", name="lan0", local="10.77.0.1", peer="10.77.0.2"),
    ),
    vrids=(VridSection(id=51, interface="lan0", vips=("10.77.0.10",)),),
)


def weights(config: Config) -> dict[str, int]:
    return {name: target.spec.weight for name, target in targets(config)[0].items()}


# -- what is watched ---------------------------------------------------------------------------


def test_ports_and_links_are_watched_but_no_direct_cable() -> None:
    assert weights(CONFIG) == {"lan0": 1000, "mgmt0": 1000}


def test_what_is_switched_off_is_only_shown() -> None:
    ha0, mgmt0, lan0 = CONFIG.links
    links = (replace(ha0, monitor=True), replace(mgmt0, monitor=False), lan0)
    assert weights(replace(CONFIG, links=links)) == {"ha0": 1000, "lan0": 1000, "mgmt0": 0}
    vrids = (replace(CONFIG.vrids[0], monitor=False),)
    config = replace(CONFIG, vrids=vrids)
    assert weights(config)["lan0"] == 1000, "the link on it still asks for it"
    links = (ha0, mgmt0, replace(lan0, monitor=False))
    assert weights(replace(config, links=links))["lan0"] == 0


def test_a_monitor_of_its_own_takes_the_place_of_the_unlisted_one() -> None:
    section = MonitorSection(name="port", kind="interface", interface="lan0", weight=10, fall=3)
    found, _ = targets(replace(CONFIG, monitors=(section,)))
    assert set(found) == {"port", "mgmt0"}
    assert found["port"].interface == "lan0"
    assert (found["port"].spec.fall, found["port"].spec.fall_certain) == (3, 3)


def test_members_of_a_set_are_watched_by_the_names_they_have() -> None:
    section = MonitorSection(name="port", kind="interface", interface="lan0")
    linkset = LinksetSection(name="lan", interfaces=("lan0", "lan1"), weight=7)
    found, (one,) = targets(replace(CONFIG, monitors=(section,), linksets=(linkset,)))
    assert (one.name, one.members, one.weight) == ("lan", ("port", "lan1"), 7)
    assert found["lan1"].spec.kind is Kind.INTERFACE


@pytest.mark.parametrize(
    ("section", "rise", "fall", "certain"),
    [
        (MonitorSection(name="m", kind="route", prefix="10.0.0.0/8"), 1, 1, 1),
        (MonitorSection(name="m", kind="route", prefix="10.0.0.0/8", probe="icmp"), 2, 3, 1),
        (MonitorSection(name="m", kind="route", prefix="10.0.0.0/8", fall=4), 1, 4, 4),
        (MonitorSection(name="m", kind="process", process="bird"), 1, 1, 1),
        (MonitorSection(name="m", kind="address", address="10.0.0.1"), 2, 3, 1),
        (MonitorSection(name="m", kind="script", command=("/bin/true",), rise=5), 5, 3, 1),
    ],
)
def test_rise_and_fall_by_kind(section: MonitorSection, rise: int, fall: int, certain: int) -> None:
    spec = targets(replace(CONFIG, monitors=(section,)))[0]["m"].spec
    assert (spec.rise, spec.fall, spec.fall_certain) == (rise, fall, certain)


def test_every_key_arrives() -> None:
    section = MonitorSection(
        name="m",
        kind="route",
        prefix="2001:db8::/32",
        table=77,
        protocol="bird",
        probe="neighbour",
        interval_ms=200,
        timeout_ms=100,
        start_delay_s=9,
        when="primary",
    )
    target = targets(replace(CONFIG, monitors=(section,)))[0]["m"]
    assert target.sentence == "2001:db8::/32 in table 77 by protocol 12, next hop by neighbour"
    assert (target.interval_ns, target.timeout_ns) == (200 * MILLISECOND, 100 * MILLISECOND)
    assert (target.spec.start_delay_ns, target.spec.when) == (9 * SECOND, When.PRIMARY)


# -- at run time -------------------------------------------------------------------------------


class Node:
    """A node's health, and what the core was told of it."""

    def __init__(self) -> None:
        self.told: list[TrackedHealth] = []
        self.events: list[tuple[str, str]] = []
        self.happened = asyncio.Event()
        self.health = Health(feed=self._feed, publish=self._publish, now_ns=now_ns)

    def _feed(self, event: Event) -> None:
        assert isinstance(event, HealthChanged)
        self.told.append(event.health)
        self.happened.set()

    def _publish(self, event: str, *, reason: str = "", fields: Any = None, **_: Any) -> None:
        assert event == "monitor"
        self.events.append((fields["monitor"], reason))
        self.happened.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait, looking whenever something was told."""
        async with asyncio.timeout(60):
            while not holds():
                self.happened.clear()
                await self.happened.wait()

    def state(self, name: str) -> str:
        return next((one.state for one in self.health.status(0) if one.name == name), "")

    def looks(self, name: str) -> int:
        return next(one.looks for one in self.health.counters() if one.name == name)


@pytest.fixture
def cables() -> Iterator[None]:
    with fresh_namespace():
        veth("lan0", "far0")
        veth("mgmt0", "far1")
        yield


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Node]:
    node = Node()
    await node.health.start(config)
    try:
        yield node
    finally:
        await node.health.stop()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def scripted(directory: Path, text: str, **more: Any) -> MonitorSection:
    path = directory / "check"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    facts: dict[str, Any] = {"interval_ms": 50, "timeout_ms": 5000, "fall": 2} | more
    return MonitorSection(name="check", kind="script", command=(str(path),), **facts)


def wait_for_runs(pids: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not pids.exists() or len(pids.read_text().split()) < count:
        assert time.monotonic() < deadline, f"the script did not begin {count} times"
        time.sleep(0.01)


def wait_for_end(pid: int) -> None:
    """A process that was killed is gone as soon as the kernel comes to it."""
    deadline = time.monotonic() + 60
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, f"process {pid} goes on"
        time.sleep(0.01)


@pytest.mark.privileged
@pytest.mark.usefixtures("cables")
def test_what_the_kernel_knows_is_judged_before_the_start_returns() -> None:
    async def watch() -> None:
        ip("link set far0 down")
        async with running(CONFIG) as node:
            (health,) = node.told
            assert health == TrackedHealth(score=0, failed=("lan0",), state=NodeState.PARTIAL_FAIL)
            ip("link set far0 up")
            await node.until(lambda: node.told[-1].up)
            assert node.events[-1] == ("lan0", "monitor_holds")

    run(watch())


@pytest.mark.privileged
@pytest.mark.usefixtures("cables")
def test_a_level_that_must_be_found_more_than_once_is_looked_at_again() -> None:
    section = MonitorSection(
        name="lan0", kind="interface", interface="lan0", fall=3, rise=3, interval_ms=50
    )

    async def watch() -> None:
        async with running(replace(CONFIG, monitors=(section,))) as node:
            ip("link set far0 down")
            await node.until(lambda: node.state("lan0") == "failed")
            failures = next(one.failures for one in node.health.counters() if one.name == "lan0")
            assert failures >= 3
            ip("link set far0 up")
            await node.until(lambda: node.state("lan0") == "up")

    run(watch())


@pytest.mark.privileged
@pytest.mark.usefixtures("cables")
def test_a_reload_leaves_alone_what_stays_the_same(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    section = scripted(tmp_path, f"echo $$ >> {pids}; exec sleep 1000", timeout_ms=100_000)
    other = MonitorSection(name="gone", kind="script", command=("/bin/false",), interval_ms=50)

    async def watch() -> None:
        before = replace(CONFIG, monitors=(section, other))
        async with running(before) as node:
            await node.until(lambda: node.state("gone") == "failed")
            await asyncio.to_thread(wait_for_runs, pids, 1)
            await node.health.apply(replace(CONFIG, monitors=(replace(section, weight=5),)))
            assert node.told[-1].up
            assert node.state("gone") == ""
            (pid,) = pids.read_text().split()
            os.kill(int(pid), 0)  # still the same run

            changed = replace(section, timeout_ms=50_000)
            await node.health.apply(replace(CONFIG, monitors=(changed,)))
            await asyncio.to_thread(wait_for_runs, pids, 2)
        # The first run was killed by the change, the second by the stop.
        for one in pids.read_text().split():
            await asyncio.to_thread(wait_for_end, int(one))

    run(watch())


@pytest.mark.privileged
@pytest.mark.usefixtures("cables")
def test_a_script_is_told_the_role_and_rests_in_the_other(tmp_path: Path) -> None:
    section = scripted(
        tmp_path, "echo $TWINBEAT_ROLE $TWINBEAT_NODE $TWINBEAT_PEER", when="primary"
    )

    async def watch() -> None:
        async with running(replace(CONFIG, monitors=(section,))) as node:
            assert node.state("check") == "idle"
            assert node.looks("check") == 0
            node.health.became(Role.PRIMARY)
            await node.until(lambda: node.state("check") == "up")
            shown = next(one for one in node.health.status(0) if one.name == "check")
            assert shown.output == "primary a b"
            node.health.became(Role.SECONDARY)
            assert node.state("check") == "idle"
            await node.health.apply(replace(CONFIG, monitors=(section,)))
            assert node.state("check") == "idle"
        assert [told.up for told in node.told] == [True] * len(node.told)

    run(watch())


@pytest.mark.privileged
@pytest.mark.usefixtures("cables")
def test_an_interface_that_is_not_there_and_a_prefix_nobody_knows_are_failures_with_names() -> None:
    monitors = (
        MonitorSection(name="nic", kind="interface", interface="eth9", weight=1),
        MonitorSection(name="net", kind="route", prefix="203.0.113.0/24", weight=1),
    )

    async def watch() -> None:
        async with running(replace(CONFIG, monitors=monitors)) as node:
            shown = {one.name: one for one in node.health.status(0)}
            assert shown["nic"].reason == "there is no such interface"
            assert shown["net"].reason == "no route to 203.0.113.0/24 in any table"
            assert node.told[-1] == TrackedHealth(score=998, lowering=("nic", "net"))

    run(watch())


@pytest.mark.privileged
@pytest.mark.usefixtures("cables")
def test_many_that_fail_at_once_are_all_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log holds back what repeats; ten monitors are no repetition of one."""
    monitors = tuple(
        MonitorSection(name=f"net{number}", kind="route", prefix=f"203.0.{number}.0/24")
        for number in range(10)
    )

    async def watch() -> None:
        async with running(replace(CONFIG, monitors=monitors)):
            pass

    caplog.handler.addFilter(RepeatFilter())
    with caplog.at_level("WARNING", logger="twinbeat.health"):
        run(watch())
    said = [record.getMessage() for record in caplog.records]
    for number in range(10):
        assert (
            f"monitor net{number} (route) failed: no route to 203.0.{number}.0/24 in any table"
            in said
        )
