# SPDX-License-Identifier: Apache-2.0
"""Neighbours that a takeover will need are known before it."""

import asyncio
import contextlib
import ipaddress
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from twinbeat.net.interfaces import interface
from twinbeat.net.warmth import PortSetup, Warmth
from unit.namespace import fresh_namespace, ip, veth

pytestmark = pytest.mark.privileged

FAR = "tb-unit-far"
VIP = "10.77.0.10"


def far(command: str) -> str:
    command = f"ip netns exec {FAR} {command}"
    done = subprocess.run(command.split(), check=True, timeout=60, capture_output=True, text=True)
    return done.stdout


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
    subprocess.run(command, check=True, timeout=60)


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
            Path("/proc/sys/net/ipv4/conf/lan0/arp_announce").write_text("2")
            for address in ("10.77.0.100/24", "10.77.0.101/24"):
                far(f"ip addr add {address} dev far0")
            far("ip link set far0 up")
            yield
        finally:
            ip(f"netns del {FAR}")


def run(test: Callable[[Warmth], Awaitable[None]], *fixed: str) -> None:
    async def inside() -> None:
        warmth = Warmth()
        setup = PortSetup(
            interface=interface("lan0"), fixed=frozenset(map(ipaddress.ip_address, fixed))
        )
        warmth.bind([setup], never=[ipaddress.ip_address(VIP)])
        warmth.start()
        ticking = asyncio.get_running_loop().create_task(tick(warmth))
        try:
            await test(warmth)
        finally:
            ticking.cancel()
            warmth.stop()

    asyncio.run(inside())


async def tick(warmth: Warmth) -> None:
    """What the loop that decides does."""
    while True:
        await asyncio.sleep(1)
        warmth.tick()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the kernel sends no event
            await asyncio.sleep(0.01)


async def until_shown(text: str) -> None:
    await until(lambda: text in ip("neigh show dev lan0"))


def holds(warmth: Warmth, *texts: str) -> bool:
    return all(ipaddress.ip_address(text) in warmth.kept("lan0") for text in texts)


async def asked_until_kept(warmth: Warmth, sender: str, target: str) -> None:
    """The far end asks until the listener knows its port's networks and hears it."""
    async with asyncio.timeout(60):
        while not holds(warmth, sender):
            await asyncio.to_thread(ask_from_far, sender, target)
            await asyncio.sleep(0.05)


def test_whoever_is_asked_for_is_kept_and_who_asks() -> None:
    async def test(warmth: Warmth) -> None:
        await asked_until_kept(warmth, "10.77.0.100", "10.77.0.101")
        for address in ("10.77.0.100", "10.77.0.101"):
            await until_shown(f"{address} lladdr")
        assert holds(warmth, "10.77.0.100", "10.77.0.101")
        await until(lambda: warmth.standing() == {"lan0": (2, 2)})

    run(test)


def test_a_configured_neighbour_is_known_before_anybody_speaks_of_it() -> None:
    async def test(warmth: Warmth) -> None:
        await until_shown("10.77.0.101 lladdr")

    run(test, "10.77.0.101")


def test_the_next_hop_of_a_route_is_resolved_before_it_is_used() -> None:
    ip("route add 192.0.2.0/24 via 10.77.0.100")

    async def test(warmth: Warmth) -> None:
        await until_shown("10.77.0.100 lladdr")

    run(test)


def test_the_kernel_asks_from_the_port_s_own_address() -> None:
    # A VIP on the port must not become the one who asks: it would teach hosts a wrong MAC.
    ip(f"addr add {VIP}/32 dev lan0")

    async def test(warmth: Warmth) -> None:
        await until_shown("10.77.0.101 lladdr")
        told = far("ip neigh")
        assert "10.77.0.1 " in told
        assert VIP not in told

    run(test, "10.77.0.101")


def test_what_the_node_found_itself_is_kept_and_hinted_at() -> None:
    ip("neigh add 10.77.0.100 lladdr 02:00:00:00:00:64 nud reachable dev lan0")

    async def test(warmth: Warmth) -> None:
        await until(lambda: holds(warmth, "10.77.0.100"))
        with listener() as wire:
            warmth.hint()
            await until(lambda: asks_for(wire, "10.77.0.100"))

    run(test)


def test_a_mac_that_is_wrong_is_found_out() -> None:
    ip("neigh add 10.77.0.100 lladdr 02:00:00:00:00:64 nud stale dev lan0")
    for setting, value in (("delay_first_probe_time", "1"), ("ucast_solicit", "1")):
        Path(f"/proc/sys/net/ipv4/neigh/lan0/{setting}").write_text(value)

    async def test(warmth: Warmth) -> None:
        del warmth
        await until(lambda: "02:00:00:00:00:64" not in ip("neigh show dev lan0"))

    run(test)


def test_what_is_no_neighbour_is_not_kept() -> None:
    ip("addr add 10.99.0.1/32 dev lan0")

    async def test(warmth: Warmth) -> None:
        await asked_until_kept(warmth, "10.77.0.100", VIP)
        for text in ("192.0.2.1", "0.0.0.0", "10.99.0.1"):
            await asyncio.to_thread(ask_from_far, text, "10.77.0.1")
        await asked_until_kept(warmth, "10.77.0.101", VIP)
        assert not holds(warmth, VIP)
        assert len(warmth.kept("lan0")) == 2

    run(test)


def test_stopping_leaves_the_table_as_it_is() -> None:
    async def test(warmth: Warmth) -> None:
        await until_shown("10.77.0.101 lladdr")

    run(test, "10.77.0.101")
    assert "10.77.0.101 lladdr" in ip("neigh show dev lan0")


def listener() -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
    wire.bind(("lan0", 0x0003))
    return wire


def asks_for(wire: socket.socket, target: str) -> bool:
    """Whether a broadcast question for the target has gone out of lan0."""
    raw = socket.inet_aton(target)
    with contextlib.suppress(BlockingIOError):
        while True:
            frame = wire.recv(2048)
            if frame[:6] == b"\xff" * 6 and frame[12:14] == b"\x08\x06" and frame[38:42] == raw:
                return True
    return False
