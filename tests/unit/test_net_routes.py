# SPDX-License-Identifier: Apache-2.0
"""Routes and rules of the role, in a namespace of the test's own."""

import errno
import ipaddress
import time
from collections.abc import Iterator, Mapping

import pytest

from twinbeat.net import routes, rules
from twinbeat.net.errors import NetError
from twinbeat.net.routes import Key, Kind, Route, Settled, Trouble
from twinbeat.net.rules import Rule
from unit.namespace import fresh_namespace, ip, veth

pytestmark = pytest.mark.privileged

NET = ipaddress.ip_network
ADDRESS = ipaddress.ip_address
GATEWAY = ADDRESS("10.77.0.9")
PLAIN = Route(destination=NET("192.0.2.0/24"), gateway=GATEWAY, interface="lan0")
FOREIGN = "route add 192.0.2.0/24 via 10.77.0.8 proto static"


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        veth("lan0", "far0")
        ip("addr add 10.77.0.1/24 dev lan0")
        ip("addr add fd77::1/64 dev lan0 nodad")
        yield


class Disk:
    """What was remembered, and how often."""

    def __init__(self) -> None:
        self.kept: dict[Key, bytes] = {}
        self.writes = 0
        self.full = False

    def remember(self, routes_of_others: Mapping[Key, bytes]) -> None:
        if self.full:
            raise NetError("writing the list of routes", code=errno.ENOSPC)
        self.kept = dict(routes_of_others)
        self.writes += 1


class World:
    """One node's routes: settles, and keeps what it took the place of."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.remembered: dict[Key, bytes] = {}

    def settle(self, *wanted: Route) -> Settled:
        return routes.settle(wanted, remembered=self.remembered, remember=self.disk.remember)

    def crash(self) -> "World":
        """The agent that comes after one that lost its memory, but not its disk."""
        heir = World()
        heir.disk.kept = self.disk.kept
        heir.remembered = dict(self.disk.kept)
        return heir


def ours(*, version: int = 4) -> list[str]:
    return [line.strip() for line in ip(f"-{version} route show table all proto 155").splitlines()]


class TestRoutes:
    def test_come_and_go_and_doing_it_twice_does_nothing(self) -> None:
        world = World()
        assert world.settle(PLAIN).added == 1
        assert ours() == ["192.0.2.0/24 via 10.77.0.9 dev lan0"]
        again = world.settle(PLAIN)
        assert (again.added, again.removed, again.standing) == (0, 0, 1)
        assert world.settle().removed == 1
        assert world.settle() == Settled()
        assert ours() == []

    @pytest.mark.parametrize(
        ("route", "shown"),
        [
            (
                Route(destination=NET("192.0.2.0/24"), interface="lan0"),
                "192.0.2.0/24 dev lan0 scope link",
            ),
            (
                Route(
                    destination=NET("0.0.0.0/0"),
                    gateway=GATEWAY,
                    metric=7,
                    source=ADDRESS("10.77.0.1"),
                    mtu=1400,
                    table=300,
                ),
                "default via 10.77.0.9 dev lan0 table 300 src 10.77.0.1 metric 7 mtu 1400",
            ),
            (
                Route(
                    destination=NET("192.0.2.0/24"),
                    gateway=ADDRESS("198.51.100.1"),
                    interface="lan0",
                    onlink=True,
                ),
                "192.0.2.0/24 via 198.51.100.1 dev lan0 onlink",
            ),
            (
                Route(destination=NET("192.0.2.0/24"), kind=Kind.BLACKHOLE),
                "blackhole 192.0.2.0/24",
            ),
            (
                Route(destination=NET("192.0.2.0/24"), kind=Kind.UNREACHABLE, table=155),
                "unreachable 192.0.2.0/24 table 155",
            ),
            (Route(destination=NET("192.0.2.0/24"), kind=Kind.PROHIBIT), "prohibit 192.0.2.0/24"),
            (
                Route(destination=NET("2001:db8::/64"), gateway=ADDRESS("fd77::9")),
                "2001:db8::/64 via fd77::9 dev lan0 metric 1024 pref medium",
            ),
            (
                Route(destination=NET("2001:db8::1/128"), kind=Kind.BLACKHOLE, table=155, metric=9),
                "blackhole 2001:db8::1 dev lo table 155 metric 9 pref medium",
            ),
        ],
        ids=lambda value: value.sentence() if isinstance(value, Route) else "",
    )
    def test_of_each_kind_are_what_they_say(self, route: Route, shown: str) -> None:
        world, version = World(), route.destination.version
        assert world.settle(route).problems == []
        assert ours(version=version) == [shown]
        # What the kernel made of it is recognised as what was wanted.
        assert world.settle(route).added == 0
        assert world.settle().removed == 1
        assert ours(version=version) == []

    def test_a_changed_one_is_replaced_in_place(self) -> None:
        world = World()
        world.settle(PLAIN)
        other = Route(destination=PLAIN.destination, gateway=ADDRESS("10.77.0.7"))
        world.settle(other)
        assert ours() == ["192.0.2.0/24 via 10.77.0.7 dev lan0"]

    def test_a_changed_metric_leaves_one(self) -> None:
        world = World()
        for metric in (9, 8):
            world.settle(Route(destination=NET("192.0.2.1/32"), kind=Kind.BLACKHOLE, metric=metric))
        assert ours() == ["blackhole 192.0.2.1 metric 8"]

    def test_of_a_crashed_agent_are_adopted_or_removed(self) -> None:
        World().settle(PLAIN, Route(destination=NET("198.51.100.0/24"), gateway=GATEWAY))
        ip("route add 203.0.113.0/24 via 10.77.0.9 proto static")
        resumed = World().settle(PLAIN)
        assert (resumed.standing, resumed.added, resumed.removed) == (1, 0, 1)
        assert World().settle().removed == 1
        assert "203.0.113.0/24" in ip("route show proto static")

    def test_a_thousand_take_a_blink(self) -> None:
        many = [
            Route(destination=NET(f"198.18.{number // 256}.{number % 256}/32"), gateway=GATEWAY)
            for number in range(1000)
        ]
        world = World()
        begun = time.process_time()
        assert world.settle(*many).added == 1000
        installed = time.process_time()
        assert len(ours()) == 1000
        removing = time.process_time()
        assert world.settle().removed == 1000
        removed = time.process_time()
        # Some 40 ms of a processor, in the kernel and here.
        assert installed - begun < 0.5
        assert removed - removing < 0.5
        assert ours() == []


class TestOthers:
    def test_a_different_one_stays_and_is_named(self) -> None:
        ip(FOREIGN)
        world = World()
        settled = world.settle(PLAIN)
        (problem,) = settled.problems
        assert problem.trouble is Trouble.CONFLICT
        assert problem.what == "192.0.2.0/24 via 10.77.0.9 dev lan0 table 254"
        assert "192.0.2.0/24 via 10.77.0.8 dev lan0 table 254 proto static" in problem.why
        assert ours() == []
        assert world.settle().problems == []
        assert "via 10.77.0.8" in ip("route show 192.0.2.0/24")

    def test_among_many_are_named_rightly(self) -> None:
        many = [
            Route(destination=NET(f"198.18.{number // 256}.{number % 256}/32"), gateway=GATEWAY)
            for number in range(3 * routes.CHUNK)
        ]
        for number in (5, routes.CHUNK, 2 * routes.CHUNK + 7):
            ip(f"route add {many[number].destination} via 10.77.0.8 proto static")
        settled = World().settle(*many)
        assert [problem.what for problem in settled.problems] == [
            many[number].sentence() for number in (5, routes.CHUNK, 2 * routes.CHUNK + 7)
        ]
        assert settled.standing == len(many) - 3 == len(ours())

    def test_one_that_does_the_same_is_kept(self) -> None:
        ip("route add 192.0.2.0/24 via 10.77.0.9 proto static")
        world = World()
        settled = world.settle(PLAIN)
        assert (settled.kept, settled.problems) == (1, [])
        world.settle()
        assert "via 10.77.0.9" in ip("route show 192.0.2.0/24 proto static")

    def test_of_another_metric_is_none_of_our_business(self) -> None:
        ip(FOREIGN + " metric 5")
        assert World().settle(PLAIN).problems == []

    @pytest.mark.parametrize(
        ("foreign", "mine"),
        [
            (FOREIGN, PLAIN),
            ("route add unreachable 192.0.2.0/24 proto 99", PLAIN),
            (
                "route add 192.0.2.0/24 proto static "
                "nexthop via 10.77.0.7 weight 2 nexthop via 10.77.0.8",
                PLAIN,
            ),
            (
                "-6 route add 2001:db8::/64 via fd77::8 mtu 1300 proto ra",
                Route(destination=NET("2001:db8::/64"), gateway=ADDRESS("fd77::9")),
            ),
        ],
    )
    def test_are_put_back_as_they_were(self, foreign: str, mine: Route) -> None:
        ip(foreign)
        version = mine.destination.version
        before = ip(f"-{version} route show")
        taking = Route(
            destination=mine.destination,
            gateway=mine.gateway,
            interface=mine.interface,
            replace=True,
        )
        world = World()
        settled = world.settle(taking)
        assert (settled.added, settled.problems) == (1, [])
        assert len(ours(version=version)) == 1
        # Also when the agent died meanwhile, and its successor isn't primary.
        heir = world.crash()
        assert heir.settle().restored == 1
        assert ip(f"-{version} route show") == before
        assert heir.disk.kept == {}

    def test_is_not_replaced_if_it_cannot_be_remembered(self) -> None:
        ip(FOREIGN)
        world = World()
        world.disk.full = True
        taking = Route(destination=PLAIN.destination, gateway=GATEWAY, replace=True)
        (problem,) = world.settle(taking).problems
        assert "No space left" in problem.sentence()
        assert "via 10.77.0.8" in ip("route show 192.0.2.0/24")

    def test_who_came_back_meanwhile_is_not_overwritten(self) -> None:
        ip(FOREIGN)
        world = World()
        world.settle(Route(destination=PLAIN.destination, gateway=GATEWAY, replace=True))
        ip("route replace 192.0.2.0/24 via 10.77.0.6 proto static")
        settled = world.settle()
        assert settled.problems == []
        assert "via 10.77.0.6" in ip("route show 192.0.2.0/24")

    def test_what_cannot_be_put_back_is_told_and_tried_again(self) -> None:
        ip(FOREIGN)
        world = World()
        world.settle(Route(destination=PLAIN.destination, gateway=GATEWAY, replace=True))
        ip("link set lan0 down")
        (problem,) = world.settle().problems
        assert problem.trouble is Trouble.NOT_RESTORED
        ip("link set lan0 up")
        assert world.settle().restored == 1
        assert "via 10.77.0.8" in ip("route show 192.0.2.0/24")


@pytest.mark.parametrize(
    ("route", "says"),
    [
        (
            Route(destination=NET("192.0.2.0/24"), interface="lan9"),
            "there is no interface lan9",
        ),
        (
            Route(destination=NET("192.0.2.0/24"), gateway=ADDRESS("172.16.0.1")),
            "the gateway 172.16.0.1 can't be reached directly",
        ),
        (
            Route(destination=NET("2001:db8::/64"), gateway=ADDRESS("fd99::1")),
            "the gateway fd99::1 can't be reached directly",
        ),
        (
            Route(destination=NET("192.0.2.0/24"), gateway=GATEWAY, source=ADDRESS("10.1.1.1")),
            "is 10.1.1.1 an address of this node?",
        ),
    ],
)
def test_a_refusal_says_why_and_the_others_are_installed(route: Route, says: str) -> None:
    fine = Route(destination=NET("203.0.113.0/24"), gateway=GATEWAY)
    settled = World().settle(route, fine)
    (problem,) = settled.problems
    assert problem.trouble is Trouble.FAILED
    assert says in problem.sentence()
    assert (settled.wanted, settled.standing) == (2, 1)
    assert "203.0.113.0/24" in ip("route show proto 155")


class TestRules:
    PLAIN = Rule(version=4, priority=100, table=300, source=NET("10.77.0.0/24"))
    FULL = Rule(
        version=4,
        priority=101,
        table=100_000,
        destination=NET("192.0.2.0/24"),
        mark=3,
        mask=0xFF,
        interface="lan0",
    )
    SIX = Rule(version=6, priority=100, table=300, source=NET("fd77::/64"))

    def test_come_and_go_with_the_role(self) -> None:
        every = [self.PLAIN, self.FULL, self.SIX]
        before = [ip(f"-{version} rule") for version in (4, 6)]
        assert rules.settle(every).added == 3
        assert "100:\tfrom 10.77.0.0/24 lookup 300 proto 155" in ip("rule")
        assert (
            "101:\tfrom all to 192.0.2.0/24 fwmark 0x3/0xff iif lan0 lookup 100000 proto 155"
            in ip("rule")
        )
        assert "from fd77::/64 lookup 300" in ip("-6 rule")
        again = rules.settle(every)
        assert (again.standing, again.added) == (3, 0)
        assert rules.settle([self.SIX]).removed == 2
        assert rules.settle([]).removed == 1
        assert [ip(f"-{version} rule") for version in (4, 6)] == before

    def test_one_that_is_there_is_kept(self) -> None:
        ip("rule add from 10.77.0.0/24 priority 100 lookup 300 protocol static")
        assert rules.settle([self.PLAIN]).kept == 1
        assert rules.settle([]).removed == 0
        assert "lookup 300" in ip("rule")

    def test_one_that_would_hide_ours_is_a_conflict(self) -> None:
        ip("rule add from 10.77.0.0/24 priority 100 lookup 200 protocol static")
        (problem,) = rules.settle([self.PLAIN]).problems
        assert problem.trouble is Trouble.CONFLICT
        assert "rule 100: from 10.77.0.0/24 lookup 200 proto static" in problem.sentence()
        assert "lookup 300" not in ip("rule")

    def test_one_that_selects_more_narrowly_is_none(self) -> None:
        ip("rule add from 10.77.0.0/24 priority 100 oif lan0 lookup 200")
        assert rules.settle([self.PLAIN]).problems == []
