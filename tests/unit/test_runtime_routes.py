# SPDX-License-Identifier: Apache-2.0
"""Routes with the role: installed, taken back, repaired and inherited, in a real kernel."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from twinbeat.api import schema
from twinbeat.config.model import Config
from twinbeat.config.nodes import NodeSection, PairSection, PeerSection
from twinbeat.config.service import InjectSection, RouteSection, RuleSection, VridSection
from twinbeat.runtime.executor import EffectError
from twinbeat.runtime.routes import RoleRoutes, injected
from unit.namespace import fresh_namespace, ip, veth
from unit.test_runtime_hooks import transition, until

pytestmark = pytest.mark.privileged

PLAIN = RouteSection(destination="192.0.2.0/24", gateway="10.77.0.9")
HOLE = RouteSection(destination="198.51.100.0/24", type="blackhole", table=300)
RULE = RuleSection(priority=100, table=300, source="10.77.0.0/24")


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        veth("lan0", "far0")
        ip("addr add 10.77.0.1/24 dev lan0")
        yield


def config(
    *routes: RouteSection, rules: tuple[RuleSection, ...] = (), vips: tuple[str, ...] = ()
) -> Config:
    return Config(
        node=NodeSection(name="a", index=0),
        pair=PairSection(id=7),
        peer=PeerSection(name="b"),
        links=(),
        vrids=(VridSection(id=51, interface="lan0", vmac=False, inject=True, vips=vips),),
        routes=routes,
        rules=rules,
    )


def ours() -> str:
    return ip("route show table all proto 155") + ip("-6 route show table all proto 155")


def run(test: Callable[[], Awaitable[None]]) -> None:
    # Threads that asked in this namespace must end with the test: the namespace is theirs.
    asyncio.run(test())


def agent(directory: Path, wanted: Config, term: int = 4) -> RoleRoutes:
    return RoleRoutes(config=wanted, directory=directory, term=lambda: term)


def test_come_and_go_with_the_role(tmp_path: Path) -> None:
    wanted = config(PLAIN, HOLE, rules=(RULE,), vips=("10.99.0.1", "fd99::1"))

    async def test() -> None:
        routes = agent(tmp_path, wanted)
        await routes.start(resumed=False)
        assert ours() == ""
        await routes.install()
        assert "192.0.2.0/24 via 10.77.0.9 dev lan0" in ours()
        assert "blackhole 198.51.100.0/24 table 300" in ours()
        assert "blackhole 10.99.0.1 table 155" in ours()
        assert "blackhole fd99::1 dev lo table 155" in ours()
        assert "lookup 300 proto 155" in ip("rule")
        status = routes.status()
        assert (status.wanted, status.standing, status.injected) == (4, 4, 2)
        assert (status.rules_wanted, status.rules_standing) == (1, 1)
        await routes.remove()
        assert ours() == ""
        assert "155" not in ip("rule")
        routes.leave()

    run(test)


def test_an_heir_that_resumes_adopts_and_another_cleans_up(tmp_path: Path) -> None:
    async def test() -> None:
        first = agent(tmp_path, config(PLAIN, HOLE))
        await first.start(resumed=False)
        await first.install()
        first.leave()
        before = ours()
        heir = agent(tmp_path, config(PLAIN, HOLE))
        await heir.start(resumed=True)
        assert ours() == before
        assert heir.changes["added"] == heir.changes["removed"] == 0
        heir.leave()
        other = agent(tmp_path, config(PLAIN))
        await other.start(resumed=True)
        assert "198.51.100.0" not in ours()
        other.leave()
        last = agent(tmp_path, config(PLAIN))
        await last.start(resumed=False)
        assert ours() == ""
        last.leave()

    run(test)


def test_a_reign_that_was_not_resumed_leaves_none(tmp_path: Path) -> None:
    async def test() -> None:
        first = agent(tmp_path, config(PLAIN))
        await first.start(resumed=False)
        await first.install()
        first.leave()
        heir = agent(tmp_path, config(PLAIN))
        await heir.start(resumed=True)
        assert "192.0.2.0" in ours()
        heir.transition(transition("secondary", before="init"))
        await until(lambda: ours() == "")
        heir.leave()

    run(test)


def test_what_was_replaced_outlives_a_crash(tmp_path: Path) -> None:
    ip("route add 192.0.2.0/24 via 10.77.0.8 proto static")
    before = ip("route show")
    taking = RouteSection(destination="192.0.2.0/24", gateway="10.77.0.9", replace=True)

    async def test() -> None:
        first = agent(tmp_path, config(taking))
        await first.start(resumed=False)
        await first.install()
        assert first.status().replaced == 1
        first.leave()
        heir = agent(tmp_path, config(taking))
        await heir.start(resumed=False)
        assert ip("route show") == before
        assert heir.changes["restored"] == 1
        heir.leave()

    run(test)


def test_a_broken_list_of_replaced_routes_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "routes.json").write_text('{"schema": 1, "routes": [["x", 1, 2, "zz"]]}')

    async def test() -> None:
        routes = agent(tmp_path, config(PLAIN))
        await routes.start(resumed=False)
        await routes.install()
        routes.leave()

    run(test)
    assert "was set aside" in caplog.text
    assert (tmp_path / "routes.json.broken").exists()


def test_a_refusal_is_told_shown_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("twinbeat.runtime.routes.LINK_PAUSE_S", 0.01)
    late = RouteSection(destination="203.0.113.0/24", interface="late0")

    async def test() -> None:
        routes = agent(tmp_path, config(PLAIN, late))
        await routes.start(resumed=False)
        with pytest.raises(EffectError, match="there is no interface late0"):
            await routes.install()
        (problem,) = routes.status().problems
        assert problem.trouble == "failed"
        assert "192.0.2.0/24" in ours(), "the others stand"
        # A tunnel that comes later brings its route with it.
        veth("late0", "late1")
        await until(lambda: "203.0.113.0/24 dev late0" in ours())
        await until(lambda: not routes.status().problems)
        routes.leave()

    run(test)
    assert caplog.text.count("there is no interface late0") == 1


def test_a_route_lost_with_its_interface_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("twinbeat.runtime.routes.LINK_PAUSE_S", 0.01)

    async def test() -> None:
        routes = agent(tmp_path, config(PLAIN))
        await routes.start(resumed=False)
        await routes.install()
        ip("route del 192.0.2.0/24")
        assert ours() == ""
        ip("link set lan0 mtu 1400")
        await until(lambda: "192.0.2.0/24" in ours())
        await until(lambda: routes.changes["repaired"] == 1)
        routes.leave()

    run(test)
    assert "have been put back" in caplog.text


def test_a_reload_makes_the_difference(tmp_path: Path) -> None:
    async def test() -> None:
        routes = agent(tmp_path, config(PLAIN))
        await routes.start(resumed=False)
        await routes.apply(config(HOLE))
        assert ours() == "", "a secondary has none"
        await routes.install()
        await routes.apply(config(PLAIN, rules=(RULE,)))
        assert "blackhole" not in ours()
        assert "192.0.2.0/24" in ours()
        assert "proto 155" in ip("rule")
        await routes.remove_all()
        assert ours() == ""
        routes.leave()

    run(test)


def test_a_thousand_do_not_hold_the_loop_up(tmp_path: Path) -> None:
    many = [
        RouteSection(destination=f"198.18.{number // 256}.{number % 256}/32", gateway="10.77.0.9")
        for number in range(1000)
    ]

    async def test() -> None:
        routes = agent(tmp_path, config(*many))
        await routes.start(resumed=False)
        installing = asyncio.create_task(routes.install())
        late = 0.0
        while not installing.done():
            before = time.thread_time()
            await asyncio.sleep(0.001)
            # Of the processor: for how long others have it is not asked here.
            late = max(late, time.thread_time() - before)
        await installing
        assert routes.status().standing == 1000
        # The attestation of `fast` is renewed every 100 ms or so and lasts half a second.
        assert late < 0.2
        await routes.remove()
        routes.leave()

    run(test)


def test_the_newest_reign_has_the_lowest_metric() -> None:
    wanted = config(vips=("10.99.0.1",))
    metrics = [injected(wanted, term)[0].metric for term in (2, 4, 1 << 40, (1 << 40) + 2)]
    assert metrics[0] > metrics[1]
    assert metrics[2] > metrics[3]
    assert all(0 < metric < 1 << 24 for metric in metrics), "OSPF's have 24 bits"
    fixed = Config(
        node=wanted.node,
        pair=wanted.pair,
        peer=wanted.peer,
        links=(),
        vrids=wanted.vrids,
        inject=InjectSection(metric=7, table=200),
    )
    (route,) = injected(fixed, 4)
    assert (route.metric, route.table) == (7, 200)


def test_the_schema_of_a_node_without_routes_is_empty(tmp_path: Path) -> None:
    plain = Config(
        node=NodeSection(name="a", index=0),
        pair=PairSection(id=7),
        peer=PeerSection(name="b"),
        links=(),
        vrids=(),
    )
    status = agent(tmp_path, plain).status()
    assert status == schema.Routes(settled_in_ns=0)
