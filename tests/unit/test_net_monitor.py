# SPDX-License-Identifier: Apache-2.0
"""The kernel's notifications reach the listener, each as what it is."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator

import pytest

from twinbeat.net.interfaces import interface
from twinbeat.net.monitor import (
    AddressGone,
    HookChanged,
    LinkChanged,
    LinkGone,
    Monitor,
    Notice,
)
from unit.namespace import fresh_namespace, ip, veth

pytestmark = pytest.mark.privileged


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        veth("lan0", "far0")
        yield


def notices_of(action: Callable[[], object], until: Callable[[Notice], bool]) -> list[Notice]:
    """All notices from `action` on, up to the one that `until` is true for."""

    async def watch() -> list[Notice]:
        seen: list[Notice] = []
        found = asyncio.Event()

        def listener(notice: Notice) -> None:
            seen.append(notice)
            if until(notice):
                found.set()

        monitor = Monitor(listener)
        monitor.addresses_of.add(interface("lan0").index)
        monitor.start()
        action()
        async with asyncio.timeout(60):
            await found.wait()
        monitor.stop()
        return seen

    return asyncio.run(watch())


def test_carrier_lost_and_admin_down() -> None:
    notices_of(
        lambda: ip("link set far0 down"),
        lambda notice: (
            isinstance(notice, LinkChanged)
            and notice.interface.name == "lan0"
            and notice.interface.up
            and not notice.interface.carrier
        ),
    )
    notices_of(
        lambda: ip("link set lan0 down"),
        lambda notice: (
            isinstance(notice, LinkChanged)
            and notice.interface.name == "lan0"
            and not notice.interface.up
        ),
    )


def test_an_interface_that_is_removed() -> None:
    index = interface("lan0").index
    notices_of(lambda: ip("link del lan0"), lambda notice: notice == LinkGone(index, "lan0"))


def test_a_watched_address_that_is_removed_and_no_other() -> None:
    for name in ("lan0", "far0"):
        ip(f"addr add 10.77.0.{1 if name == 'lan0' else 2}/32 dev {name}")

    def both() -> None:
        ip("addr del 10.77.0.2/32 dev far0")
        ip("addr del 10.77.0.1/32 dev lan0")

    seen = notices_of(both, lambda notice: isinstance(notice, AddressGone))
    gone = [notice.address for notice in seen if isinstance(notice, AddressGone)]
    assert [str(one.address) for one in gone] == ["10.77.0.1"]


def test_a_removed_hook() -> None:
    def tc(arguments: str) -> None:
        subprocess.run(["tc", *arguments.split()], check=True, timeout=60)

    tc("qdisc add dev lan0 clsact")
    index = interface("lan0").index
    notices_of(lambda: tc("qdisc del dev lan0 clsact"), lambda notice: notice == HookChanged(index))
