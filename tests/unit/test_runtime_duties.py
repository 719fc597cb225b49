# SPDX-License-Identifier: Apache-2.0
"""What is done once a second: the position kept by a thread of its own, and how often rivals are
asked for.
"""

import asyncio
import logging
from ipaddress import ip_address
from pathlib import Path

import pytest

from twinbeat.config.model import Config
from twinbeat.config.nodes import NodeSection, PairSection, PeerSection
from twinbeat.config.service import VridSection
from twinbeat.net.interfaces import Address, Interface
from twinbeat.runtime.hands import DiskHands
from twinbeat.runtime.rivals import ASKED_PER_S, ROUND_S, TICK_NS, Rivals
from twinbeat.runtime.store import PeerFile, Store

SECOND = 1_000_000_000
LAN = Interface(
    index=3,
    name="lan0",
    mac="02:77:00:00:00:01",
    mtu=1500,
    up=True,
    carrier=True,
    kind="",
    parent=0,
    alias="",
    xdp_mode="native",
    xdp_program=1,
)


def kept(directory: Path, *counters: int) -> PeerFile | None:
    """What the disk holds after these positions were told, one after the other."""
    store = Store(directory)

    async def inside() -> None:
        hands = DiskHands(store, now_ns=lambda: SECOND)
        for counter in counters:
            hands.keep_peer(epoch=7, counter=counter, own_epoch=5)
            busy = hands._keeping
            assert busy is not None
            await asyncio.wrap_future(busy)
        await hands.close()

    asyncio.run(inside())
    return store.peer()


def test_the_newest_position_is_kept(tmp_path: Path) -> None:
    assert kept(tmp_path, 8, 9) == PeerFile(epoch=7, counter=9)
    assert '"epoch":5' in (tmp_path / "epoch.json").read_text()


def test_the_end_waits_for_what_is_being_written(tmp_path: Path) -> None:
    store = Store(tmp_path)

    async def inside() -> None:
        hands = DiskHands(store, now_ns=lambda: SECOND)
        hands.keep_peer(epoch=7, counter=8, own_epoch=5)
        await hands.close()

    asyncio.run(inside())
    assert store.peer() == PeerFile(epoch=7, counter=8)


def test_a_position_that_is_no_news_is_not_written(tmp_path: Path) -> None:
    async def inside() -> None:
        hands = DiskHands(Store(tmp_path), now_ns=lambda: SECOND)
        hands.keep_peer(epoch=7, counter=8, own_epoch=5)
        first = hands._keeping
        assert first is not None
        await asyncio.wrap_future(first)
        hands.keep_peer(epoch=7, counter=8, own_epoch=5)
        assert hands._keeping is first
        await hands.close()

    asyncio.run(inside())


def test_a_disk_that_refuses_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="twinbeat"):
        kept(tmp_path / "gone", 8)
    assert "peer.json" in caplog.text


class Asked:
    """The ears of a node that serves; they note who was asked for."""

    def __init__(self, addresses: int) -> None:
        self.now = 100 * SECOND
        self.who: list[Address] = []
        vips = tuple(f"10.0.{number // 200}.{number % 200 + 1}" for number in range(addresses))
        self.wanted = {ip_address(vip) for vip in vips}
        self.rivals = Rivals(
            config=Config(
                node=NodeSection(name="a", index=0),
                pair=PairSection(id=1),
                peer=PeerSection(name="b"),
                links=(),
                vrids=(VridSection(id=51, interface="lan0", vips=vips),),
            ),
            ports=lambda: {"lan0": LAN},
            indexes=lambda: {LAN.index},
            serving=lambda: True,
            publish=lambda *_, **__: None,
            clock=lambda: self.now,
        )
        self.rivals._ports = {LAN.index: LAN}
        self.rivals._ears.ask = self.ask  # type: ignore[method-assign]
        self.rivals._serves(self.now)

    def ask(self, _port: Interface, address: Address) -> None:
        self.who.append(address)

    def serve(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += SECOND
            self.rivals.duty(self.now)


@pytest.mark.parametrize("addresses", [1, 4, 50])
def test_each_address_is_asked_for_within_a_round(addresses: int) -> None:
    asked = Asked(addresses)
    asked.serve(3)  # Its own frames are the only ones from here on.
    asked.who.clear()
    asked.serve(ROUND_S + TICK_NS // SECOND)
    assert set(asked.who) == asked.wanted


def test_many_addresses_are_asked_for_in_turn() -> None:
    asked = Asked(1000)
    asked.serve(3)
    asked.who.clear()
    asked.serve(20)
    assert len(asked.who) == 20 * ASKED_PER_S
    assert len(set(asked.who)) == len(asked.who)
