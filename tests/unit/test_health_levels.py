# SPDX-License-Identifier: Apache-2.0
"""What the kernel knows, against the real kernel: interfaces, routes, and who answers on a link."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from twinbeat.health.answer import AddressProber
from twinbeat.health.board import Finding, Kind, Spec
from twinbeat.net.routetable import Hop, RouteTable
from twinbeat.net.statistics import transmitted
from twinbeat.runtime.levels import STATISTICS_NS, Interfaces, RouteProber, route_finding
from twinbeat.runtime.monitors import Target
from unit.namespace import fresh_namespace, ip, veth
from unit.reach import as_nobody

pytestmark = pytest.mark.privileged

PREFIX = "198.51.100.0/24"
PREFIX6 = "2001:db8:1::/48"


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        veth("lan0", "far0")
        ip("addr add 10.0.0.1/24 dev lan0")
        ip("addr add fd00::1/64 dev lan0 nodad")
        yield


# -- routes ------------------------------------------------------------------------------------


def route(prefix: str = PREFIX, **more: Any) -> Target:
    return Target(
        spec=Spec(name="uplink", kind=Kind.ROUTE), prefix=ipaddress.ip_network(prefix), **more
    )


class Watched:
    """A table that is watched, and what it says of one target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.changed = asyncio.Event()
        self.table = RouteTable(self.changed.set)

    @property
    def finding(self) -> Finding:
        return route_finding(self.target, self.table)

    @property
    def hops(self) -> list[Hop]:
        assert self.target.prefix is not None
        return [hop for one in self.table.routes(self.target.prefix) for hop in one.hops]

    async def until(self, holds: bool) -> Finding:
        await self._until(lambda: self.finding.holds is holds)
        return self.finding

    async def until_hops(self, *alive: bool) -> None:
        await self._until(lambda: tuple(hop.alive for hop in self.hops) == alive)

    async def _until(self, come: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not come():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def watching(target: Target) -> AsyncIterator[Watched]:
    watched = Watched(target)
    assert target.prefix is not None
    await watched.table.watch({target.prefix})
    try:
        yield watched
    finally:
        await watched.table.stop()


def appears_and_goes(target: Target, appear: str, go: Callable[[], object]) -> str:
    """The sentence about a route that came and went, each noticed by itself."""

    async def watch() -> str:
        async with watching(target) as watched:
            assert not watched.finding.holds
            ip(appear)
            await watched.until(holds=True)
            go()
            return (await watched.until(holds=False)).sentence

    return asyncio.run(watch())


@pytest.mark.parametrize(
    ("prefix", "added", "removed"),
    [
        (PREFIX, f"route add {PREFIX} via 10.0.0.9", f"route del {PREFIX}"),
        (PREFIX6, f"route add {PREFIX6} via fd00::9", f"route del {PREFIX6}"),
        ("0.0.0.0/0", "route add default via 10.0.0.9", "route del default"),
        ("::/0", "-6 route add default via fd00::9", "-6 route del default"),
        (
            PREFIX,
            f"route add {PREFIX} nexthop via 10.0.0.8 nexthop via 10.0.0.9",
            f"route del {PREFIX}",
        ),
        (PREFIX, f"route add {PREFIX} via inet6 fd00::9 dev lan0", f"route del {PREFIX}"),
        (PREFIX, f"route add {PREFIX} via 10.0.0.9 table 77", f"route del {PREFIX} table 77"),
    ],
)
def test_a_route_that_comes_and_goes(prefix: str, added: str, removed: str) -> None:
    said = appears_and_goes(route(prefix), added, lambda: ip(removed))
    assert said == f"no route to {prefix} in any table"


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("link set lan0 down", "no route to"),
        ("addr del 10.0.0.1/24 dev lan0", "no route to"),
        ("link del lan0", "no route to"),
        ("link set far0 down", "over an interface without carrier"),
    ],
)
def test_a_route_that_goes_without_a_word(loss: str, said: str) -> None:
    """The kernel tells nobody of a route that falls with its interface or its address."""
    sentence = appears_and_goes(
        route(), f"route add {PREFIX} dev lan0 src 10.0.0.1", lambda: ip(loss)
    )
    assert said in sentence


def test_a_route_that_goes_with_its_next_hop_object() -> None:
    ip("nexthop add id 7 via 10.0.0.9 dev lan0")
    appears_and_goes(route(), f"route add {PREFIX} nhid 7", lambda: ip("nexthop del id 7"))


def finding_of(target: Target) -> Finding:
    async def look() -> Finding:
        async with watching(target) as watched:
            return watched.finding

    return asyncio.run(look())


def test_table_and_protocol_can_be_asked_for() -> None:
    ip(f"route add {PREFIX} via 10.0.0.9 table 77 proto bird")
    assert finding_of(route()).holds
    assert finding_of(route(table=77)).holds
    assert finding_of(route(protocol=12)).holds
    wrong = finding_of(route(table=78))
    assert not wrong.holds
    assert wrong.sentence.endswith("in table 78; there is one in table 77 protocol 12")
    assert not finding_of(route(protocol=4)).holds


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_a_route_that_leads_nowhere_is_none(kind: str) -> None:
    ip(f"route add {kind} {PREFIX}")
    assert not finding_of(route()).holds


def test_only_the_very_prefix_counts() -> None:
    ip("route add 198.51.100.0/25 via 10.0.0.9")
    ip("route add 198.51.0.0/16 via 10.0.0.9")
    assert not finding_of(route()).holds


def test_one_way_of_several_that_carries_is_enough() -> None:
    veth("lan1", "far1")
    ip("addr add 10.0.1.1/24 dev lan1")
    ip(f"route add {PREFIX} nexthop via 10.0.0.9 nexthop via 10.0.1.9")

    async def watch() -> None:
        async with watching(route()) as watched:
            assert [hop.alive for hop in watched.hops] == [True, True]
            ip("link set far0 down")
            await watched.until_hops(False, True)
            assert watched.finding.holds
            ip("link set far1 down")
            await watched.until(holds=False)

    asyncio.run(watch())


def heeded(said: list[str]) -> asyncio.Queue[str]:
    """What the loop's handler is told of, one by one."""
    queue = asyncio.Queue[str]()

    def handle(_: object, context: dict[str, Any]) -> None:
        said.append(context["message"])
        queue.put_nowait(context["message"])

    asyncio.get_running_loop().set_exception_handler(handle)
    return queue


def test_a_look_at_the_routes_that_breaks_is_said_and_made_again() -> None:
    said: list[str] = []
    breaks = [True]

    async def watch() -> None:
        changed = asyncio.Event()

        def broken_once() -> None:
            if breaks.pop() if breaks else False:
                raise ZeroDivisionError
            changed.set()

        told = heeded(said)
        table = RouteTable(broken_once)
        await table.watch({ipaddress.ip_network(PREFIX)})
        ip(f"route add {PREFIX} via 10.0.0.9")
        await asyncio.wait_for(told.get(), 30)
        ip(f"route del {PREFIX}")
        async with asyncio.timeout(30):
            await changed.wait()
        await table.stop()

    asyncio.run(watch())
    assert said == ["looking at the routes broke"]


def test_a_look_at_the_transmitters_that_breaks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("twinbeat.runtime.levels.transmitted", broken)

    async def watch() -> None:
        told = heeded(said)
        interfaces = Interfaces(changed=lambda: None)
        await interfaces.watch({"lan0"})
        interfaces.duty(STATISTICS_NS)
        await asyncio.wait_for(told.get(), 30)
        interfaces.duty(2 * STATISTICS_NS)
        await asyncio.wait_for(told.get(), 30)
        await interfaces.stop()

    asyncio.run(watch())
    assert set(said) == {"looking at the transmitters broke"}


# -- interfaces ----------------------------------------------------------------------------------


def interface_after(*commands: str, until: str, name: str = "lan0") -> None:
    """Commands, and then what is found of an interface, by the kernel's notice alone."""

    async def watch() -> None:
        changed = asyncio.Event()
        interfaces = Interfaces(changed=changed.set)
        await interfaces.watch({name})
        for command in commands:
            ip(command)
        async with asyncio.timeout(30):
            while interfaces.finding(name).sentence != until:
                changed.clear()
                await changed.wait()
        assert interfaces.finding(name).holds is (until == "up, with carrier")
        await interfaces.stop()

    asyncio.run(watch())


def test_an_interface_and_what_can_become_of_it() -> None:
    interface_after(until="up, with carrier")
    interface_after("link set far0 down", until="it has no carrier")
    interface_after("link set far0 up", until="up, with carrier")
    interface_after("link set lan0 down", until="it was set down")
    interface_after("link set lan0 name was0", until="there is no such interface")
    interface_after("link set was0 name lan0", "link set lan0 up", until="up, with carrier")
    interface_after("link del lan0", until="there is no such interface")
    interface_after(
        "link add lan0 type veth peer name far0",
        "link set far0 up",
        "link set lan0 up",
        until="up, with carrier",
    )


def test_counters_of_a_transmitter() -> None:
    before = transmitted({"lan0", "gone0"})
    assert list(before) == ["lan0"]
    subprocess.run(["ping", "-c", "1", "-W", "1", "10.0.0.9"], check=False, capture_output=True)
    assert transmitted({"lan0"})["lan0"].packets > before["lan0"].packets


# -- who answers -------------------------------------------------------------------------------


@contextmanager
def somebody(*addresses: str) -> Iterator[Callable[[str], None]]:
    """A host at the far end; gives a function that runs `ip` there."""
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec sleep 100"], stdout=subprocess.PIPE
    ) as host:
        assert host.stdout is not None
        host.stdout.readline()

        def there(arguments: str) -> None:
            enter = ["nsenter", "-t", str(host.pid), "-n", "ip", *arguments.split()]
            subprocess.run(enter, check=True, timeout=60)

        try:
            ip(f"link set far0 netns {host.pid}")
            there("link set far0 up")
            for address in addresses:
                there(f"addr add {address} dev far0" + (" nodad" if ":" in address else ""))
            yield there
        finally:
            host.kill()


def ask(address: str, probe: str, *, timeout_s: float = 30.0, interface: str = "lan0") -> Finding:
    prober = AddressProber(ipaddress.ip_address(address), probe=probe, interface=interface)
    return asyncio.run(prober.look(timeout_s))


@pytest.mark.parametrize("probe", ["neighbour", "icmp"])
@pytest.mark.parametrize("address", ["10.0.0.9", "fd00::9"])
def test_somebody_answers_and_nobody_does(address: str, probe: str) -> None:
    with somebody("10.0.0.9/24", "fd00::9/64"):
        found = ask(address, probe)
        assert found.holds, found.sentence
        nobody = ask(address.replace("9", "8"), probe, timeout_s=0.3)
    assert not nobody.holds
    assert nobody.timed_out or "unreachable" in nobody.sentence


def test_a_link_local_address_can_be_asked() -> None:
    # The own link-local address is tentative for a while; until then the other one is used.
    with somebody("fe80::9/64", "fd00::9/64"):
        assert ask("fe80::9", "icmp").holds
        assert ask("fe80::9", "neighbour").holds


def test_arp_works_without_an_address_of_ones_own() -> None:
    ip("addr flush dev lan0")
    with somebody("10.0.0.9/24"):
        assert ask("10.0.0.9", "neighbour").holds


def test_an_interface_that_is_down_says_so() -> None:
    ip("link set lan0 down")
    with pytest.raises(OSError, match="Network is down"):
        ask("10.0.0.9", "neighbour", timeout_s=0.3)


@pytest.mark.parametrize("probe", ["neighbour", "icmp"])
def test_a_route_whose_next_hop_must_answer(probe: str) -> None:
    ip(f"route add {PREFIX} nexthop via 10.0.0.8 nexthop via 10.0.0.9")
    target = route(probe=probe)

    async def look(timeout_s: float) -> Finding:
        async with watching(target) as watched:
            return await RouteProber(target, watched.table).look(timeout_s)

    with somebody("10.0.0.9/24") as there:
        found = asyncio.run(look(30.0))
        assert found.holds, found.sentence
        assert "next hop 10.0.0.9 answers" in found.sentence
        there("addr del 10.0.0.9/24 dev far0")
        silent = asyncio.run(look(0.3))
        ip(f"route del {PREFIX}")
        gone = asyncio.run(look(0.3))
    assert not silent.holds
    assert silent.sentence.startswith("next hop")
    assert gone.certain
    assert gone.sentence == f"no route to {PREFIX} in any table"


# -- with what the unit leaves -------------------------------------------------------------------

LOOKS = """
import asyncio, ipaddress, json, sys
from twinbeat.health.answer import AddressProber
from twinbeat.health.script import ScriptProber
from twinbeat.net.routetable import RouteTable
from twinbeat.net.statistics import transmitted

async def look():
    found = {}
    for address in ("10.0.0.9", "fd00::9"):
        for probe in ("neighbour", "icmp"):
            prober = AddressProber(ipaddress.ip_address(address), probe=probe, interface="lan0")
            found[address, probe] = (await prober.look(20)).holds
    found["script"] = (await ScriptProber(("/bin/true",), environment=dict).look(20)).holds
    table = RouteTable(lambda: None)
    prefix = ipaddress.ip_network("198.51.100.0/24")
    await table.watch({prefix})
    found["route"] = bool(table.routes(prefix))
    await table.stop()
    found["counters"] = bool(transmitted({"lan0"}))
    print([what for what, holds in found.items() if not holds])

asyncio.run(look())
"""


def unit_capabilities() -> str:
    """The unit's ambient set, as setpriv writes it."""
    unit = Path(__file__).parents[2] / "deploy" / "systemd" / "twinbeatd.service"
    (line,) = re.findall(r"^AmbientCapabilities=(.*)$", unit.read_text(), re.M)
    return ",".join(["-all", *("+" + name.removeprefix("cap_") for name in line.lower().split())])


def test_what_the_unit_leaves_is_enough() -> None:
    """Not root, with the unit's capabilities and no more."""
    ip(f"route add {PREFIX} via 10.0.0.9")
    capabilities = unit_capabilities()
    sets = [f"--{kind}={capabilities}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    with somebody("10.0.0.9/24", "fd00::9/64"):
        done = subprocess.run(
            [*as_nobody("--no-new-privs", *sets), sys.executable, "-c", LOOKS],
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
