# SPDX-License-Identifier: Apache-2.0
"""What the sockets for rivals hear on a real interface, and what they ask."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vrrp import VRRPv3

from twinbeat.net.interfaces import interface
from twinbeat.net.rivals import (
    Ears,
    Heard,
    Router,
    Speaker,
    nd_probe,
    router4,
    router6,
    speaker4,
    speaker6,
)
from unit.namespace import fresh_namespace, ip, veth

MAC = "02:00:00:00:00:99"
VIP4, VIP6 = ip_address("10.0.0.10"), ip_address("fd00::10")


@pytest.fixture
def namespace() -> Iterator[None]:
    with fresh_namespace():
        veth("lan0", "far0")
        ip("addr add 10.0.0.1/24 dev lan0")
        yield


def hearing(action: Callable[[Ears], Awaitable[None]]) -> list[Heard]:
    """What is heard on lan0 up to the frame of VRID 255 that ends it."""

    async def listen() -> list[Heard]:
        heard: list[Heard] = []
        over = asyncio.Event()

        def listener(what: Heard) -> None:
            heard.append(what)
            if isinstance(what, Router) and what.vrid == 255:
                over.set()

        ears = Ears(listener)
        assert ears.open([interface("lan0")]) == []
        await action(ears)
        send(vrrp(255))
        async with asyncio.timeout(60):
            await over.wait()
        ears.close()
        return heard[:-1]

    return asyncio.run(listen())


def send(frame: bytes, where: str = "far0") -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((where, 0))
        sock.send(frame)


def vrrp(vrid: int, source: str = "10.0.0.66") -> bytes:
    frame = Ether(src=MAC, dst="01:00:5e:00:00:12") / IP(src=source, dst="224.0.0.18", ttl=255)
    return bytes(frame / VRRPv3(vrid=vrid, addrlist=["10.0.0.10"]))


def arp(**fields: object) -> bytes:
    return bytes(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=MAC, **fields))


def advertisement() -> bytes:
    return bytes(
        Ether(src=MAC, dst="33:33:00:00:00:01")
        / IPv6(src="fe80::99", dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=str(VIP6), R=0, S=0)
        / ICMPv6NDOptDstLLAddr(lladdr=MAC)
    )


@pytest.mark.privileged
def test_who_speaks_for_an_address_is_heard(namespace: None) -> None:
    async def speak(_: Ears) -> None:
        send(arp(op=1, psrc=str(VIP4), pdst=str(VIP4)))
        send(arp(op=2, psrc=str(VIP4), pdst="10.0.0.7"))
        send(arp(op=1, psrc="10.0.0.7", pdst=str(VIP4)))  # Asks for it: that is anybody's right.
        send(advertisement())
        send(vrrp(51))

    index = interface_index("lan0")
    with_mac = Speaker(index, VIP4, MAC)
    assert sorted(hearing(speak), key=repr) == sorted(
        [
            with_mac,
            with_mac,
            Speaker(index, VIP6, MAC),
            Router(index, 51, ip_address("10.0.0.66")),
        ],
        key=repr,
    )


def interface_index(name: str) -> int:
    return socket.if_nametoindex(name)


@pytest.mark.privileged
def test_what_this_node_says_itself_is_not_heard(namespace: None) -> None:
    async def speak(_: Ears) -> None:
        send(arp(op=1, psrc=str(VIP4), pdst=str(VIP4)), "lan0")

    own = interface_index("lan0")
    # The far end of the cable is in this namespace too, and hears it of course.
    assert [one for one in hearing(speak) if one.index == own] == []


@pytest.mark.privileged
@pytest.mark.parametrize("address", [VIP4, VIP6], ids=["ipv4", "ipv6"])
def test_a_host_that_has_the_address_is_found_by_asking(namespace: None, address: object) -> None:
    """The other end of the cable is a kernel of its own, which answers as any host would."""
    ip("netns add tbr-far")
    try:
        ip("link set far0 netns tbr-far")
        for command in (
            "link set far0 up",
            "addr add 10.0.0.10/24 dev far0",
            "addr add fd00::10/64 dev far0 nodad",
        ):
            ip(f"-n tbr-far {command}")
        mac = ip("-n tbr-far -br link show far0").split()[2]
        found = asyncio.run(ask(address))
        assert found == Speaker(interface_index("lan0"), address, mac)
    finally:
        ip("netns del tbr-far")


async def ask(address: object) -> Heard:
    heard: asyncio.Queue[Heard] = asyncio.Queue()
    ears = Ears(heard.put_nowait)
    port = interface("lan0")
    assert ears.open([port]) == []
    try:
        async with asyncio.timeout(60):
            while True:
                ears.ask(port, address)  # type: ignore[arg-type]
                try:
                    return await asyncio.wait_for(heard.get(), 0.2)
                except TimeoutError:
                    continue
    finally:
        ears.close()


def test_a_solicitation_is_what_scapy_makes_of_it() -> None:
    frame = nd_probe(bytes.fromhex(MAC.replace(":", "")), VIP6)
    parsed = Ether(frame)
    assert parsed.dst == "33:33:ff:00:00:10"
    assert (parsed[IPv6].src, parsed[IPv6].hlim, parsed[IPv6].payload.tgt) == ("::", 255, str(VIP6))
    given = parsed[IPv6].payload.cksum
    del parsed[IPv6].payload.cksum
    assert Ether(bytes(parsed))[IPv6].payload.cksum == given


@pytest.mark.parametrize("size", [0, 1, 7, 13, 19, 23, 27, 41])
def test_short_frames_say_nothing(size: int) -> None:
    junk = bytes([0x4F]) * size
    assert speaker4(junk, 1) is None
    assert speaker6(junk[:20], 1) is None
    assert router4(junk, 1) is None or size >= 60
    assert router6(junk[:7], 1, VIP6) is None  # type: ignore[arg-type]


def test_an_option_of_no_length_ends_the_options() -> None:
    message = struct.pack("!BBHI16sBB6s", 136, 0, 0, 0, VIP6.packed, 1, 0, bytes(6))
    assert speaker6(message, 3) == Speaker(3, VIP6, "")
