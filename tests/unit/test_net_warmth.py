# SPDX-License-Identifier: Apache-2.0
"""Neighbours that a takeover will need are known before it."""

import asyncio
import ipaddress
import subprocess
from collections.abc import Awaitable, Callable, Iterator

import pytest

from twinbeat.net.interfaces import interface
from twinbeat.net.warmth import KEPT_MAX, Warmth
from unit.namespace import fresh_namespace, ip, veth

pytestmark = pytest.mark.privileged

FAR = "tb-unit-far"
VIP = "10.77.0.10"


def far(command: str) -> None:
    subprocess.run(
        ["ip", "netns", "exec", FAR, *command.split()], check=True, timeout=10, capture_output=True
    )


ASK = """
import socket, struct, sys
sender, target = (socket.inet_aton(text) for text in sys.argv[1:])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("far0", 0x806))
mac = wire.getsockname()[4]
arp = struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + mac + sender + bytes(6) + target
wire.send(bytes([255] * 6) + mac + bytes([8, 6]) + arp)
"""


def ask_from_far(sender: str, target: str) -> None:
    """A broadcast ARP request, as a primary makes it."""
    command = ["ip", "netns", "exec", FAR, "/usr/bin/python3", "-c", ASK, sender, target]
    subprocess.run(command, check=True, timeout=10)


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    """lan0 here; 10.77.0.100 and .101, two hosts in one, at its other end."""
    with fresh_namespace():
        subprocess.run(["ip", "netns", "del", FAR], check=False, capture_output=True)
        ip(f"netns add {FAR}")
        try:
            veth("lan0", "far0")
            ip(f"link set far0 netns {FAR}")
            ip("addr add 10.77.0.1/24 dev lan0")
            for address in ("10.77.0.100/24", "10.77.0.101/24"):
                far(f"ip addr add {address} dev far0")
            far("ip link set far0 up")
            yield
        finally:
            ip(f"netns del {FAR}")


def run(test: Callable[[Warmth], Awaitable[None]]) -> None:
    async def inside() -> None:
        warmth = Warmth(never=[ipaddress.ip_address(VIP)])
        warmth.start([interface("lan0")])
        try:
            await test(warmth)
        finally:
            warmth.stop()

    asyncio.run(inside())


async def until_shown(text: str) -> None:
    async with asyncio.timeout(5):
        while text not in ip("neigh show dev lan0"):  # noqa: ASYNC110 - the kernel sends no event
            await asyncio.sleep(0.01)


def test_whoever_is_asked_for_is_kept_and_who_asks() -> None:
    async def test(warmth: Warmth) -> None:
        assert warmth.kept() == []
        # A third host asks for a second one, by broadcast, as the primary does.
        far("ip neigh flush all")
        await asyncio.to_thread(ask_from_far, "10.77.0.100", "10.77.0.101")
        for address in ("10.77.0.100", "10.77.0.101"):
            await until_shown(f"{address} lladdr")
        assert {str(one) for one in warmth.kept()} == {"10.77.0.100", "10.77.0.101"}

    run(test)
    assert "managed" not in ip("neigh show dev lan0"), "nothing is left behind"


def test_the_next_hop_of_a_route_is_resolved_before_it_is_used() -> None:
    ip("route add 192.0.2.0/24 via 10.77.0.100")

    async def test(warmth: Warmth) -> None:
        await until_shown("10.77.0.100 lladdr")

    run(test)


def test_a_hint_is_heard_by_whoever_listens() -> None:
    ip("neigh add 10.77.0.100 lladdr 02:00:00:00:00:64 nud reachable dev lan0")

    async def test(warmth: Warmth) -> None:
        assert warmth.hint() == 1

    run(test)


def test_what_is_no_neighbour_is_not_kept() -> None:
    async def test(warmth: Warmth) -> None:
        index = interface("lan0").index
        for text in (VIP, "10.77.0.1", "192.0.2.1", "0.0.0.0"):
            assert not warmth._want(index, ipaddress.ip_address(text)), text

    run(test)


def test_a_storm_is_bounded() -> None:
    async def test(warmth: Warmth) -> None:
        index = interface("lan0").index
        ip("addr add 10.99.0.1/16 dev lan0")
        warmth.stop()
        warmth.start([interface("lan0")])
        first = ipaddress.IPv4Address("10.99.1.0")
        for number in range(KEPT_MAX + 100):
            warmth._want(index, first + number)
        assert len(warmth.kept()) == KEPT_MAX
        assert first not in warmth.kept()

    run(test)
