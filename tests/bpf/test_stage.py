# SPDX-License-Identifier: Apache-2.0
"""GATE-FIRST, by the kernel's own account: what it says of interfaces, programs and addresses, in
the order in which it happened, while the real stage goes up, is disturbed, and comes down."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from bpf.packets import PAIR
from bpf.world import VIP, VIP6, VIP_PLAIN, VRID, World
from twinbeat.config.model import Config
from twinbeat.config.nodes import LinkSection, NodeSection, PairSection, PeerSection
from twinbeat.config.service import VridSection
from twinbeat.net import AsyncIPRoute, addresses, netlink, xdp
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import interface, interfaces, parse_address, parse_link
from twinbeat.net.netlink import EventSocket
from twinbeat.runtime import stage as staging
from twinbeat.runtime.guarded import Watchers
from twinbeat.runtime.stage import Stage
from unit.namespace import fresh_namespace, ip, veth

VMAC4, VMAC6 = f"tbv{VRID}", f"tbw{VRID}"
VMACS = {VMAC4: "00:00:5e:00:01:33", VMAC6: "00:00:5e:00:02:33"}
PLAIN_VRID = 60
OURS = {VIP, VIP6, VIP_PLAIN}
NEW_VMACS = {"tbv61", "tbv62", "tbw62", "tbv63"}
NEW = {"10.77.0.61", "10.62.0.1", "fd62::1", "10.63.0.1"}

CONFIG = Config(
    node=NodeSection(name="a", index=0),
    pair=PairSection(id=PAIR),
    peer=PeerSection(name="b"),
    links=(LinkSection(interface="ha0", number=0, local="169.254.10.1", peer="169.254.10.2"),),
    vrids=(
        VridSection(id=VRID, interface="lan0", vips=(VIP, VIP6)),
        VridSection(id=PLAIN_VRID, interface="wan0", vmac=False, vips=(VIP_PLAIN,)),
    ),
)

WIDER = replace(
    CONFIG,
    vrids=(
        *CONFIG.vrids,
        VridSection(id=61, interface="lan0", vips=("10.77.0.61",)),
        VridSection(id=62, interface="ha0", vips=("10.62.0.1", "fd62::1")),
        VridSection(id=63, interface="spare0", vips=("10.63.0.1",)),
    ),
)
"""Upon a port that serves, upon one that carried only heartbeats, and upon one of nobody's."""

_TCMSG = struct.Struct("=BxxxiIII")


def _is_vmac(name: str) -> bool:
    return name in VMACS or name in NEW_VMACS


@dataclass
class Account:
    """What the kernel said so far, and what was wrong with it."""

    names: dict[int, str] = field(default_factory=dict)
    below: dict[int, int] = field(default_factory=dict)
    """By index of a virtual MAC's interface: the port under it."""
    xdp: set[int] = field(default_factory=set)
    egress: set[int] = field(default_factory=set)
    addresses: set[tuple[int, str]] = field(default_factory=set)
    log: list[str] = field(default_factory=list)
    naked: list[str] = field(default_factory=list)
    """Moments at which something of ours stood where a gate program was missing."""

    @classmethod
    def begin(cls) -> Account:
        """With what is there already."""
        now = {one.index: one for one in interfaces().values()}
        return cls(
            names={index: one.name for index, one in now.items()},
            below={index: one.parent for index, one in now.items() if _is_vmac(one.name)},
            xdp={index for index, one in now.items() if one.xdp_program},
            egress={index for index in now if xdp.query_egress(index).program},
            addresses={
                (index, str(address))
                for index, found in addresses.by_interface().items()
                for address in found
                if str(address) in OURS | NEW
            },
        )

    def hear(self, kind: int, body: memoryview) -> None:
        match kind:
            case netlink.RTM_NEWLINK if not body[0]:
                found = parse_link(body)
                self.names[found.index] = found.name
                self._set(self.xdp, found.index, "XDP on", bool(found.xdp_program))
                if _is_vmac(found.name) and found.index not in self.below:
                    self.below[found.index] = found.parent
                    self.log.append(f"{found.name} made")
            case netlink.RTM_DELLINK if not body[0]:
                index = parse_link(body).index
                self.xdp.discard(index)
                self.egress.discard(index)
                if self.below.pop(index, 0):
                    self.log.append(f"{self.names[index]} removed")
            case netlink.RTM_NEWTFILTER | netlink.RTM_DELTFILTER:
                _family, index, handle, parent, _info = _TCMSG.unpack_from(body)
                if (handle, parent) == (xdp._HANDLE, xdp._EGRESS_PARENT):
                    there = kind == netlink.RTM_NEWTFILTER
                    self._set(self.egress, index, "egress on", there)
            case netlink.RTM_NEWADDR | netlink.RTM_DELADDR:
                found_address = parse_address(body)
                if found_address is None or str(found_address.address) not in OURS | NEW:
                    return
                key = found_address.interface, str(found_address.address)
                there = kind == netlink.RTM_NEWADDR
                self._set(self.addresses, key, f"{key[1]} on", there)
        self._judge()

    def _set(self, where: set, what: object, name: str, there: bool) -> None:
        if there is (what in where):
            return
        (where.add if there else where.discard)(what)
        index = what[0] if isinstance(what, tuple) else what
        self.log.append(f"{name} {self.names.get(index, index)}{'' if there else ' gone'}")

    def _judge(self) -> None:
        served = {self.below.get(index, index) for index, _ in self.addresses}
        for port in served | set(self.below.values()):
            if port not in self.xdp or port not in self.egress:
                self.naked.append(f"after {self.log[-1]!r}: {self.names[port]} lacks a gate")

    def at(self, what: str) -> int:
        return self.log.index(what)


@dataclass
class Node:
    """A stage under watch, and what it told."""

    stage: Stage
    account: Account
    socket: EventSocket
    told: list[str]

    def read(self) -> Account:
        """All that the kernel has said up to now."""
        assert self.socket.read(self.account.hear, datagrams_max=100_000), "an account with gaps"
        return self.account


@pytest.fixture(autouse=True)
def namespace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(staging, "RESTORE_FIRST_S", 0.05)
    with fresh_namespace():
        for name in ("lan0", "wan0", "ha0"):
            veth(name, f"far-{name}")
        yield


@contextlib.asynccontextmanager
async def node(world: World) -> AsyncIterator[Node]:
    told: list[str] = []
    withdrawals: set[asyncio.Task[None]] = set()

    def gate_lost(name: str, _what: str) -> None:
        """As the core does."""
        told.append(f"{name} lost")
        withdrawals.add(asyncio.create_task(stage.withdraw(name)))

    watchers = Watchers(
        gate_lost=gate_lost,
        gate_restored=lambda name: told.append(f"{name} restored"),
        link_restored=lambda name: told.append(f"link {name} restored"),
        port_lost=lambda name: told.append(f"port {name} lost"),
        port_restored=lambda name: told.append(f"port {name} restored"),
        failed=lambda what, why: told.append(f"failed {what}: {why}"),
    )
    with EventSocket(
        (
            netlink.RTNLGRP_LINK,
            netlink.RTNLGRP_TC,
            netlink.RTNLGRP_IPV4_IFADDR,
            netlink.RTNLGRP_IPV6_IFADDR,
        )
    ) as socket:
        account = Account.begin()
        async with AsyncIPRoute() as ipr:
            stage = Stage(config=CONFIG, ipr=ipr, maps=world.maps, watchers=watchers)
            try:
                yield Node(stage=stage, account=account, socket=socket, told=told)
            finally:
                stage.leave()
                await asyncio.gather(*withdrawals)


def run(world: World, test: Callable[[Node], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with node(world) as up, asyncio.timeout(20):
            await up.stage.raise_gates()
            await up.stage.raise_addresses()
            await test(up)

    asyncio.run(inside())


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 -- it is the kernel's, and tells nobody
        await asyncio.sleep(0.005)


def whole() -> bool:
    """Everything that the stage is for is there."""
    now = interfaces()
    shown = ip("-o address")
    return (
        all(name in now and now[name].up and now[name].mac == mac for name, mac in VMACS.items())
        and all(f" {vip}/" in shown for vip in OURS)
        and all(now[name].xdp_program for name in ("lan0", "wan0"))
    )


def test_nothing_stands_where_no_gate_stands_from_up_to_down(world: World) -> None:
    async def test(up: Node) -> None:
        assert whole()
        account = up.read()
        for port, first in (("lan0", f"{VMAC4} made"), ("wan0", f"{VIP_PLAIN} on wan0")):
            assert account.at(f"XDP on {port}") < account.at(first)
            assert account.at(f"egress on {port}") < account.at(first)
        assert account.at(f"{VMAC4} made") < account.at(f"{VIP} on {VMAC4}")
        assert account.at(f"{VMAC6} made") < account.at(f"{VIP6} on {VMAC6}")
        await up.stage.strike()
        account = up.read()
        for port, last in (("lan0", f"{VMAC6} removed"), ("wan0", f"{VIP_PLAIN} on wan0 gone")):
            assert account.at(last) < account.at(f"XDP on {port} gone")
            assert account.at(last) < account.at(f"egress on {port} gone")
        assert account.naked == []
        assert (account.below, account.addresses, account.xdp, account.egress) == (
            {},
            set(),
            set(),
            set(),
        )

    run(world, test)


def test_vrids_come_and_go_behind_their_gates(world: World) -> None:
    """And what was served before is not touched."""

    veth("spare0", "far-spare0")
    ip("link set far-spare0 down")

    async def test(up: Node) -> None:
        before = len(up.read().log)
        await up.stage.change_addresses(WIDER)
        # IPv6 addresses are told of by work of the kernel's own, which may still be under way.
        await until(lambda: {str(address) for _, address in up.read().addresses} == OURS | NEW)
        account = up.read()
        for port, first in (("ha0", "tbv62 made"), ("spare0", "tbv63 made")):
            assert account.at(f"XDP on {port}") < account.at(first)
            assert account.at(f"egress on {port}") < account.at(first)
        assert set(world.maps.vips()) == OURS | NEW
        assert up.told == ["port spare0 lost"]
        assert set(up.stage.ports()) == {"lan0", "wan0", "ha0", "spare0"}
        await up.stage.change_addresses(CONFIG)
        account = up.read()
        assert account.at("tbv63 removed") < account.at("XDP on spare0 gone")
        assert {account.names[index] for index in account.xdp} >= {"lan0", "wan0", "ha0"}
        assert {str(address) for _, address in account.addresses} == OURS
        assert set(world.maps.vips()) == OURS
        assert set(up.stage.ports()) == {"lan0", "wan0"}
        assert set(up.stage.guarded) == {"lan0", "wan0", "ha0"}
        assert up.told == ["port spare0 lost", "port spare0 restored"]
        assert account.naked == []
        mine = [line for line in account.log[before:] if {*line.split()} & {*VMACS, *OURS}]
        assert mine == []
        assert whole()

    run(world, test)


def test_ports_are_known_as_they_are_now(world: World) -> None:
    """Though they are looked at only when the kernel told that a link is another."""

    async def test(up: Node) -> None:
        before = up.stage.ports()
        assert before == {name: interfaces()[name] for name in ("lan0", "wan0")}
        assert up.stage.ports() == before
        ip("link set wan0 address 02:00:00:00:77:01")
        await until(lambda: up.stage.ports()["wan0"].mac == "02:00:00:00:77:01")
        ip("link del wan0")
        await until(lambda: list(up.stage.ports()) == ["lan0"])

    run(world, test)


def test_vrids_that_are_refused_leave_no_trace(world: World) -> None:
    async def test(up: Node) -> None:
        with pytest.raises(NetError, match="spare0"):
            await up.stage.change_addresses(WIDER)
        veth("spare0", "far-spare0")
        veth("tbv63", "far63")
        with pytest.raises(NetError, match="tbv63: an interface of that name exists"):
            await up.stage.change_addresses(WIDER)
        account = up.read()
        assert {str(address) for _, address in account.addresses} == OURS
        assert set(world.maps.vips()) == OURS
        assert set(up.stage.guarded) == {"lan0", "wan0", "ha0"}
        assert not interface("spare0").xdp_program
        assert [line for line in account.naked if "far63" not in line] == []
        assert whole()

    run(world, test)


def test_a_start_after_a_crash_takes_over_what_is_there(world: World) -> None:
    async def test(up: Node) -> None:
        up.stage.leave()
        async with node(world) as successor:
            await successor.stage.raise_gates()
            await successor.stage.raise_addresses()
            account = successor.read()
            assert [line for line in account.log if "made" in line or "gone" in line] == []
            await successor.stage.strike()
        assert up.read().naked == []

    run(world, test)


@pytest.mark.parametrize("hook", ["xdp", "clsact"])
def test_a_lost_gate_comes_back_before_its_addresses(world: World, hook: str) -> None:
    async def test(up: Node) -> None:
        up.read()
        if hook == "xdp":
            ip("link set dev lan0 xdp off")
        else:
            await asyncio.to_thread(xdp.detach_egress, interface("lan0").index)
        await until(lambda: "lan0 restored" in up.told)
        account = up.read()
        assert up.told[:2] == ["lan0 lost", "lan0 restored"]
        assert account.naked != [], "somebody took the gate away under the addresses"
        # From the withdrawal on nothing stands there until both programs do.
        made = len(account.log) - 1 - account.log[::-1].index(f"{VMAC4} made")
        assert account.at(f"{VMAC4} removed") < made
        naked = [line for line in account.naked if f"{VMAC4} made" in line or f"{VIP} on" in line]
        assert [line for line in naked if "gone" not in line] == []
        assert whole()

    run(world, test)


@pytest.mark.parametrize(
    "by_hand",
    [
        f"link set {VMAC4} down",
        f"link set {VMAC6} down",
        f"link del {VMAC4}",
        f"link set {VMAC4} address 02:00:00:00:00:99",
        f"address del {VIP}/32 dev {VMAC4}",
        f"address flush dev {VMAC6}",
        f"address del {VIP_PLAIN}/32 dev wan0",
    ],
)
def test_what_is_taken_away_by_hand_is_put_back(world: World, by_hand: str) -> None:
    """Without a word to the core: the gate stands, and the node goes on serving."""

    async def test(up: Node) -> None:
        up.read()
        ip(by_hand)
        assert not whole()
        await until(whole)
        await until(lambda: not up.stage._restoring)
        port = "wan0" if "wan0" in by_hand else "lan0"
        assert up.told == [f"{port} restored"]
        assert up.read().naked == []

    run(world, test)


def test_taken_away_again_and_again(world: World) -> None:
    """While it is put back somebody takes more: all of it comes back."""

    async def test(up: Node) -> None:
        for _ in range(5):
            ip(f"address del {VIP}/32 dev {VMAC4}")
            ip(f"link set {VMAC6} down")
            await until(lambda: f" {VIP}/" in ip("-o address"))
        await until(whole)
        await until(lambda: not up.stage._restoring)
        assert whole()
        assert not [word for word in up.told if "lost" in word]

    run(world, test)


def test_what_cannot_be_put_back_is_a_lost_gate(world: World) -> None:
    """The core has to know, or the node stays primary without the address it serves."""

    async def test(up: Node) -> None:
        refuses = Path(f"/proc/sys/net/ipv6/conf/{VMAC6}/disable_ipv6")
        await asyncio.to_thread(refuses.write_text, "1")
        await until(lambda: "lan0 restored" in up.told)
        failed, *rest = up.told
        assert failed.startswith("failed restoring the gate of lan0: adding fd77::10 to tbw51")
        assert rest == ["lan0 lost", "lan0 restored"]
        assert whole(), "the interface that refused was made anew"
        assert up.read().naked == []

    run(world, test)
