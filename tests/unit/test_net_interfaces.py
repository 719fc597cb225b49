# SPDX-License-Identifier: Apache-2.0
"""VMACs, VIPs, neighbours and sockets in a namespace of the test's own."""

import asyncio
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from pyroute2 import AsyncIPRoute

from twinbeat.net import addresses, control, groups, neighbours, netlink, sockets, vmac
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import addresses as assigned
from twinbeat.net.interfaces import interface, interfaces, mark
from unit.namespace import fresh_namespace, ip, veth

pytestmark = pytest.mark.privileged

PAIR = 7
VRID = 51


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        veth("lan0", "far0")
        yield


def run(test: Callable[[AsyncIPRoute], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with AsyncIPRoute() as ipr:
            await test(ipr)

    asyncio.run(inside())


def vips(*texts: str) -> list[addresses.Address]:
    return [ipaddress.ip_address(text) for text in texts]


def on(name: str) -> set[str]:
    index = interface(name).index
    return {str(one.address) for one in assigned() if one.interface == index}


class TestVmac:
    def test_has_the_virtual_address_and_says_nothing_by_itself(self) -> None:
        async def test(ipr: AsyncIPRoute) -> None:
            made, _ = await vmac.ensure_vmac(
                ipr, vrid=VRID, version=4, port=interface("lan0"), pair=PAIR
            )
            assert (made.name, made.mac, made.up) == ("tbv51", "00:00:5e:00:01:33", True)
            assert made.parent == interface("lan0").index
            assert on("tbv51") == set(), "the kernel gave it an address of its own"

        run(test)
        assert "MULTICAST" not in ip("link show tbv51")

    def test_version_6_has_its_own(self) -> None:
        async def test(ipr: AsyncIPRoute) -> None:
            made, _ = await vmac.ensure_vmac(
                ipr, vrid=VRID, version=6, port=interface("lan0"), pair=PAIR
            )
            assert (made.name, made.mac) == ("tbw51", "00:00:5e:00:02:33")
            addresses.assign(made.index, vips("fd77::10"), name=made.name, own=True)

        run(test)
        shown = ip("-6 addr show tbw51")
        assert "fd77::10/128" in shown
        assert "preferred_lft 0sec" in shown
        assert "tentative" not in shown
        assert "fe80" not in shown

    def test_a_leftover_is_reused_and_keeps_its_addresses(self) -> None:
        async def test(ipr: AsyncIPRoute) -> None:
            port = interface("lan0")
            first, _ = await vmac.ensure_vmac(ipr, vrid=VRID, version=4, port=port, pair=PAIR)
            addresses.assign(first.index, vips("10.77.0.10"), name="tbv51", own=True)
            again, _ = await vmac.ensure_vmac(ipr, vrid=VRID, version=4, port=port, pair=PAIR)
            assert again.index == first.index
            assert on("tbv51") == {"10.77.0.10"}

        run(test)

    def test_a_leftover_on_another_port_is_replaced(self) -> None:
        veth("wan0", "far1")

        async def test(ipr: AsyncIPRoute) -> None:
            old, _ = await vmac.ensure_vmac(
                ipr, vrid=VRID, version=4, port=interface("lan0"), pair=PAIR
            )
            new, _ = await vmac.ensure_vmac(
                ipr, vrid=VRID, version=4, port=interface("wan0"), pair=PAIR
            )
            assert new.index != old.index
            assert new.parent == interface("wan0").index

        run(test)

    def test_a_strangers_interface_is_refused_and_left_alone(self) -> None:
        ip("link add tbv51 link lan0 type macvlan")

        async def test(ipr: AsyncIPRoute) -> None:
            before = interface("tbv51")
            with pytest.raises(NetError, match="isn't this pair's"):
                await vmac.ensure_vmac(ipr, vrid=VRID, version=4, port=interface("lan0"), pair=PAIR)
            assert interface("tbv51") == before

        run(test)

    def test_only_own_interfaces_are_stale(self) -> None:
        ip("link add mine0 link lan0 type macvlan")

        async def test(ipr: AsyncIPRoute) -> None:
            port = interface("lan0")
            for vrid in (51, 52):
                await vmac.ensure_vmac(ipr, vrid=vrid, version=4, port=port, pair=PAIR)
            assert await vmac.remove_stale(ipr, pair=PAIR, keep={"tbv52"}) == ["tbv51"]
            assert {"mine0", "tbv52"} <= set(interfaces())

        run(test)


class TestAddresses:
    def test_become_exactly_what_is_wanted(self) -> None:
        ip("addr add 10.77.0.1/24 dev lan0")
        index = interface("lan0").index
        done = addresses.assign(index, vips("10.77.0.10", "10.77.0.11"), name="lan0", own=False)
        assert (done.added, done.removed) == (2, 0)
        done = addresses.assign(index, vips("10.77.0.11", "10.77.0.12"), name="lan0", own=False)
        assert (done.added, done.removed) == (1, 1)
        # The node's own address isn't ours to remove.
        assert on("lan0") - {"10.77.0.1", "10.77.0.11", "10.77.0.12"} == {
            address for address in on("lan0") if address.startswith("fe80")
        }

    def test_bring_no_route(self) -> None:
        before = ip("route show table main")
        addresses.assign(interface("lan0").index, vips("10.77.0.10"), name="lan0", own=False)
        assert ip("route show table main") == before

    def test_ten_thousand_in_a_moment(self) -> None:
        wanted = [ipaddress.IPv4Address("10.78.0.1") + n for n in range(10_000)]
        began = time.process_time()
        done = addresses.assign(interface("lan0").index, wanted, name="lan0", own=False)
        took = time.process_time() - began
        assert done.added == 10_000
        assert took < 20, f"{took:.1f} s"
        assert addresses.assign(
            interface("lan0").index, wanted, name="lan0", own=False
        ) == addresses.Change(added=0, removed=0)

    def test_a_datagram_holds_the_kernel_up_for_a_moment_only(self) -> None:
        """The engine waits for the end of it where the kernel can't be preempted."""
        late_ns, early_ns = netlink.BATCH_NS + 1, netlink.BATCH_NS // 8
        sizes = [8]
        for took_ns in (early_ns, late_ns, late_ns, late_ns, late_ns, late_ns):
            sizes.append(netlink.next_size(sizes[-1], took_ns, netlink.BATCH_MAX))
        assert sizes == [8, 16, 8, 4, 2, 1, 1]
        assert netlink.next_size(8, netlink.BATCH_NS // 2, netlink.BATCH_MAX) == 8
        assert (
            netlink.next_size(netlink.BATCH_MAX, early_ns, netlink.BATCH_MAX) == netlink.BATCH_MAX
        )

    def test_what_is_refused_is_named_by_its_place_in_all_datagrams(self) -> None:
        index, of = interface("lan0").index, vips(*(f"10.1.0.{n}" for n in range(1, 101)))
        wrong = {13, 97}
        batch = [addresses.adding(0 if n in wrong else index, one) for n, one in enumerate(of)]
        with netlink.Socket() as sock:
            refused = sock.batch(batch, tolerate=frozenset())
        assert [place for place, _ in refused] == sorted(wrong)
        assert len([one for one in on("lan0") if one.startswith("10.1.0.")]) == 98

    def test_a_refusal_names_the_address(self) -> None:
        index = interface("lan0").index
        ip("link del lan0")
        with pytest.raises(NetError, match=r"adding 10\.77\.0\.10 to lan0 failed: No such device"):
            addresses.assign(index, vips("10.77.0.10"), name="lan0", own=False)


def test_the_control_pair_is_made_once_and_silent() -> None:
    async def test(ipr: AsyncIPRoute) -> None:
        first = await control.ensure_control(ipr, pair=PAIR)
        again = await control.ensure_control(ipr, pair=PAIR)
        assert [one.index for one in first] == [one.index for one in again]
        assert all(one.up and one.alias == mark(PAIR) for one in again)
        assert on("tbctl0") == on("tbctl1") == set()
        await control.remove_control(ipr)
        await control.remove_control(ipr)
        assert "tbctl0" not in interfaces()

    run(test)


class TestNeighbours:
    def test_a_pinned_peer_never_ages(self) -> None:
        async def test(ipr: AsyncIPRoute) -> None:
            port = interface("lan0")
            peer = ipaddress.ip_address("10.77.0.2")
            await neighbours.pin(ipr, port, peer, "02:00:00:00:00:02")
            assert await neighbours.find(ipr, port, peer) == "02:00:00:00:00:02"
            assert "PERMANENT" in ip("neigh show dev lan0")
            await neighbours.unpin(ipr, port, peer)
            await neighbours.unpin(ipr, port, peer)
            assert await neighbours.find(ipr, port, peer) is None

        run(test)

    def test_nobody_answering_is_no_error(self) -> None:
        ip("addr add 10.77.0.1/24 dev lan0")

        async def test(ipr: AsyncIPRoute) -> None:
            peer = ipaddress.ip_address("10.77.0.2")
            assert await neighbours.resolve(ipr, interface("lan0"), peer, timeout_s=0.05) is None

        run(test)


def test_carrier_is_the_kernels_word() -> None:
    assert interface("lan0").carrier
    ip("link set far0 down")
    assert not interface("lan0").carrier


def test_solicited_groups_are_joined_by_the_port() -> None:
    held = groups.Groups()
    index = interface("lan0").index
    held.hold(index, vips("fd77::12:3456", "10.77.0.10"))
    assert "ff02::1:ff12:3456" in ip("-6 maddr show dev lan0")
    held.hold(index, vips("fd77::12:9999"))
    shown = ip("-6 maddr show dev lan0")
    assert "ff02::1:ff12:3456" not in shown
    assert "ff02::1:ff12:9999" in shown
    held.close()
    assert "ff02::1:ff12:9999" not in ip("-6 maddr show dev lan0")


@pytest.mark.parametrize("family", ["10.77.0.10", "fd77::10"])
def test_connections_of_a_vip_are_ended_and_others_live(family: str) -> None:
    for address in ("10.77.0.10/32", "10.77.0.1/32", "fd77::10/128", "fd77::1/128"):
        ip(f"addr add {address} dev lo nodad" if ":" in address else f"addr add {address} dev lo")
    vip = ipaddress.ip_address(family)
    own = "fd77::1" if vip.version == 6 else "10.77.0.1"
    connections = []
    for address in (str(vip), own):
        kind = socket.AF_INET6 if vip.version == 6 else socket.AF_INET
        listener = socket.socket(kind, socket.SOCK_STREAM)
        listener.bind((address, 0))
        listener.listen()
        # The kernel makes the route to an IPv6 address in a work of its own, a moment later.
        deadline = time.monotonic() + 60
        while f"local {address} " not in ip(f"-{vip.version} route show table local"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        client = socket.create_connection(listener.getsockname()[:2], timeout=60)
        server, _ = listener.accept()
        connections.append((listener, client, server))
    assert sockets.destroy([vip]) == 2, "both ends are on this node and have the address"
    (_, gone, dead), (_, kept, living) = connections
    with pytest.raises(ConnectionError):
        dead.send(b"ghost")
    living.send(b"alive")
    assert kept.recv(5) == b"alive"
    for one in (*connections[0], *connections[1], gone, kept):
        one.close()
