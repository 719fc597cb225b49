# SPDX-License-Identifier: Apache-2.0
"""The gate, in and out: the same packets at a shut gate and at an open one, and those of others."""

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from bpf import test_heartbeats
from bpf.cases import Case, reasons
from bpf.packets import (
    ARP,
    BROADCAST,
    FRAGMENT,
    ICMPV6,
    IPV4,
    IPV6,
    OTHER,
    OUR_IPV4,
    PEER,
    PEER_IPV4,
    QINQ,
    TCP,
    UDP,
    US,
    VLAN,
    arp,
    discovery,
    eth,
    ipv4,
    ipv6,
    udp,
    vmac,
)
from bpf.world import (
    DROP,
    OTHER_VRID,
    OUT_DROP,
    OUT_PASS,
    PASS,
    TERM,
    VIP,
    VIP6,
    VIP6_PLAIN,
    VIP_PLAIN,
    VRID,
    World,
    boot_ns,
)
from twinbeat.engine import abi, bpf
from twinbeat.engine.abi import Reason
from twinbeat.engine.maps import Vip

CLIENT, CLIENT6 = "10.77.0.100", "fd77::100"
SERVER, SERVER6 = "10.88.0.21", "fd88::21"
MAC4, MAC6 = vmac(VRID), vmac(VRID, 6)
DATA = udp(b"x" * 30, to=7777)
SYN = bytes.fromhex("c350005000000001000000005002fa0000000000")


def to4(address: str, **link: object) -> bytes:
    return eth(ipv4(DATA, to=address, source=CLIENT), IPV4, **link)  # type: ignore[arg-type]


def to6(address: str, **link: object) -> bytes:
    return eth(ipv6(DATA, to=address, source=CLIENT6), IPV6, **link)  # type: ignore[arg-type]


def from4(address: str, **link: object) -> bytes:
    return eth(ipv4(DATA, source=address, to=CLIENT), IPV4, **link)  # type: ignore[arg-type]


def from6(address: str, **link: object) -> bytes:
    return eth(ipv6(DATA, source=address, to=CLIENT6), IPV6, **link)  # type: ignore[arg-type]


def who_has(target: str, **values: object) -> bytes:
    return arp(operation=1, sender=CLIENT, target=target, **values)  # type: ignore[arg-type]


def solicit(target: str, **values: object) -> bytes:
    return discovery(135, source=CLIENT6, target=target, **values)  # type: ignore[arg-type]


def said_by(sender: str, mac: bytes, operation: int = 1, **values: object) -> bytes:
    return arp(operation=operation, sender=sender, target=CLIENT, sender_mac=mac, **values)  # type: ignore[arg-type]


def advert(target: str, mac: bytes, **values: object) -> bytes:
    return discovery(
        136, source=target, target=target, to="ff02::1", mac=mac, mac_to=BROADCAST, **values
    )  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A packet behind the gate: dropped and counted while it is shut, let through while open."""

    description: str
    packet: bytes
    reason: Reason
    """Why it is dropped."""

    def __str__(self) -> str:
        return self.description


IN = [
    Gated(description="IPv4 to a VIP, by our own MAC", packet=to4(VIP), reason=Reason.IN_VIP),
    Gated(
        description="IPv4 to a VIP by broadcast",
        packet=to4(VIP, to=BROADCAST),
        reason=Reason.IN_VIP,
    ),
    Gated(
        description="IPv4 to a VIP without virtual MAC", packet=to4(VIP_PLAIN), reason=Reason.IN_VIP
    ),
    Gated(description="IPv4 to a VIP, tagged", packet=to4(VIP, vlan=44), reason=Reason.IN_VIP),
    Gated(
        description="TCP to a VIP",
        packet=eth(ipv4(SYN, to=VIP, source=CLIENT, protocol=TCP, ttl=64), IPV4),
        reason=Reason.IN_VIP,
    ),
    Gated(
        description="a later fragment to a VIP",
        packet=eth(ipv4(DATA, to=VIP, source=CLIENT, fragment=0x0064), IPV4),
        reason=Reason.IN_VIP,
    ),
    Gated(
        description="IPv4 with options to a VIP",
        packet=eth(ipv4(DATA, to=VIP, source=CLIENT, options=bytes([1, 1, 1, 0])), IPV4),
        reason=Reason.IN_VIP,
    ),
    Gated(
        description="UDP to the heartbeats' port of a VIP",
        packet=eth(ipv4(udp(b"hello", to=3003), to=VIP, source=CLIENT), IPV4),
        reason=Reason.IN_VIP,
    ),
    Gated(description="IPv4 to our virtual MAC", packet=to4(VIP, to=MAC4), reason=Reason.IN_VMAC),
    Gated(
        description="transit by our virtual MAC", packet=to4(SERVER, to=MAC4), reason=Reason.IN_VMAC
    ),
    Gated(
        description="transit by our virtual MAC, tagged",
        packet=to4(SERVER, to=MAC4, vlan=44),
        reason=Reason.IN_VMAC,
    ),
    Gated(
        description="transit by our virtual MAC, two tags",
        packet=MAC4 + PEER + QINQ.to_bytes(2, "big") + to4(SERVER, vlan=44)[14:],
        reason=Reason.IN_VMAC,
    ),
    Gated(
        description="IPv6 to our virtual MAC", packet=to6(SERVER6, to=MAC6), reason=Reason.IN_VMAC
    ),
    Gated(
        description="unicast ARP to our virtual MAC",
        packet=who_has(VIP, to=MAC4),
        reason=Reason.IN_VMAC,
    ),
    Gated(
        description="an unknown protocol to our virtual MAC",
        packet=eth(b"?" * 50, 0x88B5, to=MAC4),
        reason=Reason.IN_VMAC,
    ),
    Gated(description="ARP request for a VIP", packet=who_has(VIP), reason=Reason.IN_ARP),
    Gated(description="ARP request, tagged", packet=who_has(VIP, vlan=44), reason=Reason.IN_ARP),
    Gated(
        description="ARP probe for a VIP (address conflict detection)",
        packet=arp(operation=1, sender="0.0.0.0", target=VIP),
        reason=Reason.IN_ARP,
    ),
    Gated(description="IPv6 to a VIP", packet=to6(VIP6), reason=Reason.IN_VIP),
    Gated(
        description="IPv6 to a VIP, tagged", packet=to6(VIP6_PLAIN, vlan=44), reason=Reason.IN_VIP
    ),
    Gated(
        description="IPv6 fragment to a VIP",
        packet=eth(
            ipv6(bytes([UDP, 0, 1, 0, 0, 0, 0, 9]) + DATA, to=VIP6, following=FRAGMENT), IPV6
        ),
        reason=Reason.IN_VIP,
    ),
    Gated(
        description="neighbour solicitation for a VIP", packet=solicit(VIP6), reason=Reason.IN_ND
    ),
    Gated(
        description="neighbour solicitation, tagged",
        packet=solicit(VIP6, vlan=44),
        reason=Reason.IN_ND,
    ),
    Gated(
        description="unicast solicitation to the VIP itself",
        packet=solicit(VIP6, to=VIP6, mac_to=US),
        reason=Reason.IN_ND,
    ),
]

OUT = [
    Gated(
        description="IPv4 in the name of a VIP, from the virtual MAC",
        packet=from4(VIP, source=MAC4),
        reason=Reason.OUT_VMAC,
    ),
    Gated(
        description="transit from the virtual MAC",
        packet=from4(SERVER, source=MAC4),
        reason=Reason.OUT_VMAC,
    ),
    Gated(
        description="transit from the virtual MAC, tagged",
        packet=from4(SERVER, source=MAC4, vlan=44),
        reason=Reason.OUT_VMAC,
    ),
    Gated(
        description="IPv6 from the virtual MAC",
        packet=from6(VIP6, source=MAC6),
        reason=Reason.OUT_VMAC,
    ),
    Gated(
        description="the announcement by ARP",
        packet=arp(operation=1, sender=VIP, target=VIP, sender_mac=MAC4),
        reason=Reason.OUT_VMAC,
    ),
    Gated(
        description="the announcement by neighbour advertisement",
        packet=advert(VIP6, MAC6),
        reason=Reason.OUT_VMAC,
    ),
    Gated(
        description="an unknown protocol from the virtual MAC",
        packet=eth(b"?" * 50, 0x88B5, source=MAC4),
        reason=Reason.OUT_VMAC,
    ),
    Gated(
        description="IPv4 in the name of a VIP without virtual MAC",
        packet=from4(VIP_PLAIN, source=US),
        reason=Reason.OUT_VIP,
    ),
    Gated(
        description="the same, tagged",
        packet=from4(VIP_PLAIN, source=US, vlan=44),
        reason=Reason.OUT_VIP,
    ),
    Gated(
        description="IPv6 in the name of a VIP without virtual MAC",
        packet=from6(VIP6_PLAIN, source=US),
        reason=Reason.OUT_VIP,
    ),
    Gated(
        description="ARP in the name of a VIP without virtual MAC",
        packet=said_by(VIP_PLAIN, US),
        reason=Reason.OUT_ARP,
    ),
    Gated(
        description="ARP reply, tagged",
        packet=said_by(VIP_PLAIN, US, operation=2, vlan=44),
        reason=Reason.OUT_ARP,
    ),
    Gated(
        description="advertisement of a VIP without virtual MAC",
        packet=advert(VIP6_PLAIN, US),
        reason=Reason.OUT_ND,
    ),
    Gated(
        description="advertisement of a VIP from another source address",
        packet=discovery(
            136, source="fe80::1", target=VIP6_PLAIN, to=CLIENT6, mac=US, mac_to=OTHER
        ),
        reason=Reason.OUT_ND,
    ),
]

MISNAMED = [
    Gated(
        description="IPv4 in the name of a VIP, from the port's MAC",
        packet=from4(VIP, source=US),
        reason=Reason.OUT_VIP,
    ),
    Gated(
        description="IPv4, tagged",
        packet=from4(VIP, source=US, vlan=44),
        reason=Reason.OUT_VIP,
    ),
    Gated(description="IPv6", packet=from6(VIP6, source=US), reason=Reason.OUT_VIP),
    Gated(description="ARP request", packet=said_by(VIP, US), reason=Reason.OUT_ARP),
    Gated(
        description="ARP reply, tagged",
        packet=said_by(VIP, US, operation=2, vlan=44),
        reason=Reason.OUT_ARP,
    ),
]
"""In the name of a VIP that has a virtual MAC, from another: R19 sets it right."""

LEAKS = [
    Gated(
        description="advertisement from the port's MAC",
        packet=advert(VIP6, US),
        reason=Reason.OUT_ND,
    ),
    Gated(
        description="solicitation in the name of a VIP, from the port's MAC",
        packet=discovery(135, source=VIP6, target=CLIENT6, mac=US),
        reason=Reason.OUT_VIP,
    ),
]
"""Their options tell the wrong MAC, and a checksum covers them: they never leave."""


def rewritten(packet: bytes) -> bytes:
    """With the virtual MAC as sender, in ARP's own field as well."""
    at = 16 if packet[12:14] == VLAN.to_bytes(2, "big") else 12
    kind = int.from_bytes(packet[at : at + 2], "big")
    mac = MAC6 if kind == IPV6 else MAC4
    changed = bytearray(packet)
    changed[6:12] = mac
    if kind == ARP:
        changed[at + 10 : at + 16] = mac
    return bytes(changed)


def shut(row: Gated, verdict: int) -> Case:
    return Case(
        description=f"shut: {row}", packet=row.packet, verdict=verdict, counts={row.reason: 1}
    )


def opened(row: Gated, verdict: int, counts: dict[Reason, int], **rest: object) -> Case:
    return Case(
        description=f"open: {row}",
        packet=row.packet,
        before=lambda world: world.open_gate(),
        verdict=verdict,
        counts=counts,
        **rest,  # type: ignore[arg-type]
    )


GATE_IN = [shut(row, DROP) for row in IN] + [opened(row, PASS, {Reason.IN_OPEN: 1}) for row in IN]
GATE_OUT = [
    *(shut(row, OUT_DROP) for row in OUT + MISNAMED + LEAKS),
    *(opened(row, OUT_PASS, {Reason.OUT_OPEN: 1}) for row in OUT),
    *(
        opened(
            row,
            OUT_PASS,
            {Reason.OUT_OPEN: 1, Reason.OUT_REWRITTEN: 1},
            output=rewritten(row.packet),
        )
        for row in MISNAMED
    ),
    *(opened(row, OUT_DROP, {Reason.OUT_OPEN: 1, Reason.OUT_LEAK: 1}) for row in LEAKS),
]

# INERT: what is nobody's business of ours, in either direction, whatever the gate says.
UNRELATED = {
    "IPv4 to another address": to4(SERVER),
    "IPv4 tagged": to4(SERVER, vlan=44),
    "IPv4 multicast": to4("224.0.0.18", to=bytes.fromhex("01005e000012")),
    "TCP": eth(ipv4(SYN, to=SERVER, source=CLIENT, protocol=TCP, ttl=64), IPV4),
    "ICMP": eth(ipv4(bytes([8, 0, 0, 0]) * 5, to=SERVER, source=CLIENT, protocol=1), IPV4),
    "VRRP of somebody else": eth(
        ipv4(bytes(20), to="224.0.0.18", source=CLIENT, protocol=112),
        IPV4,
        source=vmac(OTHER_VRID),
    ),
    "to a virtual MAC of somebody else": to4(SERVER, to=vmac(OTHER_VRID)),
    "from a virtual MAC of somebody else": to4(SERVER, source=vmac(OTHER_VRID)),
    "to a MAC that only begins like a virtual one": to4(SERVER, to=bytes([0, 0, 0x5E, 0, 3, VRID])),
    "IPv6 to another address": to6(SERVER6),
    "IPv6 with a hop-by-hop header": eth(
        ipv6(bytes([UDP, 0, 5, 2, 0, 0, 1, 0]) + DATA, to=SERVER6, following=0), IPV6
    ),
    "ARP for another address": who_has(SERVER),
    "ARP reply to us": arp(operation=2, sender=CLIENT, target=OUR_IPV4, target_mac=US, to=US),
    "neighbour solicitation for another address": solicit(SERVER6),
    "neighbour advertisement of another address": advert(SERVER6, OTHER),
    "router advertisement": discovery(134, source="fe80::9", target=SERVER6),
    "MPLS": eth(b"m" * 60, 0x8847),
    "LLDP": eth(b"l" * 60, 0x88CC, to=bytes.fromhex("0180c200000e")),
    "a spanning-tree frame (length in place of a type)": eth(
        b"s" * 60, 38, to=bytes.fromhex("0180c2000000")
    ),
    "two tags": eth(to4(SERVER, vlan=44)[12:], QINQ),
    "UDP to our port number, for somebody else": eth(
        ipv4(udp(b"TBT1" + bytes(124), to=3003), to=SERVER, source=CLIENT), IPV4
    ),
    "UDP from our port number": eth(
        ipv4(udp(b"x" * 40, to=9999, source=3003), to=SERVER, source=CLIENT), IPV4
    ),
    "an empty frame": eth(b"", 0x88B5),
    "ARP cut short": who_has(VIP)[:40],
    "a tag and nothing behind it": eth(b"\0", VLAN),
    "IPv4 with an impossible header length": eth(b"\x41" + ipv4(DATA, to=SERVER)[1:], IPV4),
}
PASSING_IN = {
    "IPv4 cut short": to4(VIP)[:30],
    "IPv6 cut short": to6(VIP6)[:50],
    "the announcement of the other owner": arp(
        operation=1, sender=VIP, target=VIP, sender_mac=MAC4
    ),
    "the announcement of the other owner, as a reply": arp(
        operation=2, sender=VIP, target=VIP, sender_mac=MAC4
    ),
    "the advertisement of the other owner": advert(VIP6, MAC6),
    "traffic from a VIP of the other owner": from4(VIP, source=MAC4),
}
PASSING_OUT = {
    "our own traffic to the VIP that the other owns": to4(VIP, source=US),
    "our own request for a VIP": arp(operation=1, sender=OUR_IPV4, target=VIP, sender_mac=US),
    "a heartbeat through a socket": eth(
        ipv4(udp(b"TBT1" + bytes(124), to=3003), source=OUR_IPV4, to=PEER_IPV4),
        IPV4,
        to=PEER,
        source=US,
    ),
    "an echo request over IPv6 to a VIP": eth(
        ipv6(bytes([128, 0, 0, 0]) * 4, source=CLIENT6, to=VIP6, following=ICMPV6), IPV6
    ),
}


@pytest.mark.parametrize("case", GATE_IN, ids=str)
def test_in(world: World, case: Case) -> None:
    case.check(world, world.receive)


@pytest.mark.parametrize("case", GATE_OUT, ids=str)
def test_out(world: World, case: Case) -> None:
    case.check(world, world.send)


def _open(world: World) -> None:
    world.open_gate()


@pytest.mark.parametrize("gate", [lambda _: None, _open], ids=["shut", "open"])
@pytest.mark.parametrize("name", UNRELATED)
def test_unrelated_traffic_is_left_alone(
    world: World, name: str, gate: Callable[[World], None]
) -> None:
    packet = UNRELATED[name]
    for direction, verdict in ((world.receive, PASS), (world.send, OUT_PASS)):
        case = Case(description=name, packet=packet, before=gate, verdict=verdict)
        case.check(world, direction)


@pytest.mark.parametrize("name", PASSING_IN)
def test_in_passes_at_a_shut_gate(world: World, name: str) -> None:
    Case(description=name, packet=PASSING_IN[name], verdict=PASS).check(world, world.receive)


@pytest.mark.parametrize("name", PASSING_OUT)
def test_out_passes_at_a_shut_gate(world: World, name: str) -> None:
    Case(description=name, packet=PASSING_OUT[name], verdict=OUT_PASS).check(world, world.send)


SHUT_BY = {
    "no term": {"term": 0, "fence_below": 0},
    "a fence above the term": {"fence_below": TERM + 1},
    "the end of the lease": {"open_until": 1},
    "a contest": {"contested": TERM},
}


@pytest.mark.parametrize("words", SHUT_BY.values(), ids=SHUT_BY.keys())
def test_each_word_shuts_the_gate(world: World, words: dict[str, int]) -> None:
    """R1, one word at a time: a packet goes through until exactly that word changes."""
    world.open_gate()
    assert world.receive(to4(VIP)).counts == {Reason.IN_OPEN: 1}
    world.open_gate(**words)
    assert not world.maps.gate().is_open(boot_ns())
    assert world.receive(to4(VIP)).counts == {Reason.IN_VIP: 1}
    assert world.send(from4(VIP, source=MAC4)).counts == {Reason.OUT_VMAC: 1}


def test_what_is_behind_the_gate_can_change(world: World) -> None:
    assert world.receive(to4(VIP)).verdict == DROP
    world.maps.set_vips({})
    assert world.receive(to4(VIP)).verdict == PASS
    world.maps.set_vrids({VRID: abi.VridBit.V6})
    assert world.receive(to4(SERVER, to=MAC4)).verdict == PASS
    assert world.receive(to6(SERVER6, to=MAC6)).verdict == DROP


def test_an_address_can_go_to_another_number(world: World) -> None:
    for vrid, own in ((VRID, True), (VRID + 1, True), (VRID + 1, False)):
        world.maps.set_vips({VIP: Vip(vrid=vrid, vmac=own)})
        kept = bpf.lookup(world.maps.fd("vips4"), ip_address(VIP).packed, ctypes.sizeof(abi.Vip))
        assert kept == bytes(abi.Vip(vrid=vrid, vmac=int(own)))


def test_what_is_refused_leaves_what_was_there(world: World) -> None:
    many = {f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}": Vip(vrid=VRID, vmac=True) for n in range(9)}
    world.maps.set_vips(many)
    too_many = {f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}": many["10.0.0.1"] for n in range(20_000)}
    with pytest.raises(ValueError, match="room for"):
        world.maps.set_vips(too_many)
    assert len(world.maps.vips()) == 9
    world.maps.set_vips({"10.0.0.3": many["10.0.0.3"]})
    assert world.maps.vips() == ["10.0.0.3"]


def test_ten_thousand_addresses(world: World) -> None:
    many = {f"10.78.{n >> 8}.{n & 255}": Vip(vrid=VRID, vmac=True) for n in range(10_000)}
    world.maps.set_vips(many)
    assert len(world.maps.vips()) == 10_000
    for address in ("10.78.0.0", "10.78.20.20", "10.78.39.15"):
        assert world.receive(to4(address)).counts == {Reason.IN_VIP: 1}
    assert world.receive(to4("10.78.39.16")).counts == {}


def test_ten_thousand_ipv6_addresses(world: World) -> None:
    """What the sieve lets through is looked up; what it doesn't is none of them."""
    many = {f"fd00:{n % 89:x}::{n:x}": Vip(vrid=VRID, vmac=True) for n in range(1, 10_001)}
    world.maps.set_vips(many)
    for address in list(many)[::97]:
        assert world.receive(to6(address)).counts == {Reason.IN_VIP: 1}, address
    # The same words in another order have the same bit.
    assert world.receive(to6("0:1:fd00:1::")).counts == {}
    kept = dict(list(many.items())[:5_000])
    world.maps.set_vips(kept)
    for address in list(many)[::97]:
        counts = {Reason.IN_VIP: 1} if address in kept else {}
        assert world.receive(to6(address)).counts == counts, address


def test_an_address_that_stays_is_behind_the_gate_meanwhile(world: World) -> None:
    stays = {VIP6: Vip(vrid=VRID, vmac=True)}
    others = {f"fd00::{n:x}": Vip(vrid=VRID, vmac=True) for n in range(1, 500)}
    looks, changes = 200, 50
    changed = 0
    seen_enough = threading.Event()

    def change() -> None:
        nonlocal changed
        while changed < changes or not seen_enough.is_set():
            world.maps.set_vips(stays | others)
            world.maps.set_vips(stays)
            changed += 1

    changing = threading.Thread(target=change)
    changing.start()
    seen = 0
    try:
        while seen < looks or changed < changes:
            assert world.receive(to6(VIP6)).verdict == DROP
            seen += 1
    finally:
        seen_enough.set()
        changing.join()


def test_every_reason_has_a_row() -> None:
    tables = test_heartbeats
    rows = tables.ACCEPTED + tables.REFUSED + tables.NOT_OURS + tables.EPOCHS + tables.FENCE
    in_stories = {Reason.PROBE, Reason.CHALLENGED, Reason.EXPIRED}
    in_stories |= {Reason.BAD_LINK, Reason.BAD_CPU}
    assert reasons(rows, GATE_IN, GATE_OUT) | in_stories == set(Reason)
