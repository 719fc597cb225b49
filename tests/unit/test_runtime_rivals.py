# SPDX-License-Identifier: Apache-2.0
"""Who is a rival for an address or a VRID, and who is the pair itself."""

import asyncio
import socket
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from twinbeat.config.model import Config
from twinbeat.config.nodes import NodeSection, PairSection, PeerSection
from twinbeat.config.service import VridSection
from twinbeat.net.interfaces import Interface
from twinbeat.net.rivals import Router, Speaker
from twinbeat.runtime import rivals
from twinbeat.runtime.rivals import Rivals

SECOND = 1_000_000_000
OWN, OTHER = "02:77:00:00:00:01", "02:66:00:00:00:66"
VMAC4, VMAC6 = "00:00:5e:00:01:33", "00:00:5e:00:02:33"


def port(name: str, index: int) -> Interface:
    return Interface(
        index=index,
        name=name,
        mac=OWN,
        mtu=1500,
        up=True,
        carrier=True,
        kind="",
        parent=0,
        alias="",
        xdp_mode="native",
        xdp_program=1,
    )


PORTS = {"lan0": port("lan0", 3), "wan0": port("wan0", 4)}


def config(*, vmac: bool = True) -> Config:
    return Config(
        node=NodeSection(name="a", index=0),
        pair=PairSection(id=1),
        peer=PeerSection(name="b"),
        links=(),
        vrids=(
            VridSection(id=51, interface="lan0", vmac=vmac, vips=("10.0.0.10", "fd00::10")),
            VridSection(id=52, interface="wan0", vmac=vmac, vips=("10.8.0.10",)),
        ),
    )


class Scene:
    """Rivals with a clock and a gate that the test turns."""

    def __init__(self, *, vmac: bool = True) -> None:
        self.now = 100 * SECOND
        self.ports = dict(PORTS)
        self.open = False
        self.published: list[str] = []
        self.rivals = Rivals(
            config=config(vmac=vmac),
            ports=lambda: self.ports,
            indexes=lambda: {port.index for port in self.ports.values()},
            serving=lambda: self.open,
            publish=self.publish,
            clock=lambda: self.now,
        )
        self.rivals._ports = {one.index: one for one in PORTS.values()}

    def publish(self, event: str, **told: Any) -> None:
        assert event == "rival"
        self.published.append(told["reason"])

    def serve(self, seconds: int = 5) -> None:
        self.open = True
        self.rivals.tick()
        self.now += seconds * SECOND

    def speaks(self, mac: str, address: str = "10.0.0.10", index: int = 3) -> None:
        self.rivals.hear(Speaker(index, ip_address(address), mac))

    @property
    def sockets(self) -> list[socket.socket]:
        """The very ones: their numbers are used again."""
        return list(self.rivals._ears._sockets)

    @property
    def known(self) -> list[tuple[str, str, str]]:
        return [(one.kind, one.what, one.who) for one in self.rivals.status(0)]


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize("serving", [False, True])
def test_any_other_mac_for_an_address_with_a_virtual_one(scene: Scene, *, serving: bool) -> None:
    if serving:
        scene.serve()
    scene.speaks(OTHER)
    scene.speaks(OTHER, "fd00::10")
    assert scene.known == [("address", "10.0.0.10", OTHER), ("address", "fd00::10", OTHER)]
    assert "02:66:00:00:00:66 on lan0 speaks for our address" in (
        scene.rivals.status(0)[0].sentence
    )


def test_the_primary_is_no_rival_of_the_secondary(scene: Scene) -> None:
    scene.speaks(VMAC4)
    scene.speaks(VMAC6, "fd00::10")
    assert scene.known == []


def test_the_virtual_mac_elsewhere_while_this_node_serves(scene: Scene) -> None:
    scene.serve(seconds=1)
    scene.speaks(VMAC4)
    assert scene.known == [], "the node that served before may still have been on its way"
    scene.serve()
    scene.speaks(VMAC4)
    assert "(the same virtual MAC)" in scene.rivals.status(0)[0].sentence


def test_without_a_virtual_mac_only_who_serves_can_judge() -> None:
    scene = Scene(vmac=False)
    scene.speaks(OTHER)
    assert scene.known == []
    scene.serve()
    scene.speaks(OTHER)
    assert scene.known == [("address", "10.0.0.10", OTHER)]


def test_other_addresses_and_ports_are_nobody_s_business(scene: Scene) -> None:
    scene.serve()
    scene.speaks(OTHER, "10.0.0.7")
    scene.speaks(OTHER, index=4)
    scene.speaks(OTHER, index=9)
    scene.speaks("")
    assert scene.known == []


def test_a_router_with_our_number(scene: Scene) -> None:
    scene.rivals.hear(Router(3, 51, ip_address("10.0.0.66")))
    scene.rivals.hear(Router(3, 52, ip_address("10.0.0.66")))  # That one is on the other port.
    scene.rivals.hear(Router(3, 77, ip_address("10.0.0.66")))
    assert scene.known == [("vrrp", "VRID 51", "10.0.0.66")]
    assert "give one of them another number" in scene.rivals.status(0)[0].sentence


def test_without_our_virtual_mac_a_number_is_free() -> None:
    scene = Scene(vmac=False)
    scene.rivals.hear(Router(3, 51, ip_address("10.0.0.66")))
    assert scene.known == []


def test_told_once_counted_always_forgotten_in_the_end(scene: Scene) -> None:
    for _ in range(5):
        scene.speaks(OTHER)
    assert scene.published == ["duplicate_address"]
    assert [one.frames for one in scene.rivals.counted()] == [5]
    scene.now += rivals.FORGOTTEN_NS + 1
    scene.rivals.tick()
    assert scene.known == []
    scene.speaks(OTHER)
    assert scene.published == ["duplicate_address"] * 2


def test_a_flood_of_rivals_is_bounded(scene: Scene) -> None:
    for number in range(1000):
        scene.speaks(f"02:66:00:00:{number >> 8:02x}:{number & 255:02x}")
    assert len(scene.known) == rivals.RIVALS_MAX
    assert [one.frames for one in scene.rivals.counted()] == [1000]


@pytest.mark.privileged
def test_other_keys_of_the_file_leave_the_sockets_alone_and_other_ports_do_not() -> None:
    async def listen() -> list[list[socket.socket]]:
        scene = Scene()
        scene.ports = {"lo": replace(PORTS["lan0"], name="lo", index=1)}
        scene.rivals.start()
        seen = [scene.sockets]
        for ports in (scene.ports, {}):
            scene.ports = ports
            scene.rivals.apply(config(vmac=False))
            seen.append(scene.sockets)
        scene.rivals.stop()
        return [*seen, scene.sockets]

    opened, same, others, closed = asyncio.run(listen())
    assert opened
    assert same == opened
    assert others
    assert not set(others) & set(opened)
    assert closed == []
