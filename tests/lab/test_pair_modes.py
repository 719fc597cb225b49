# SPDX-License-Identifier: Apache-2.0
"""The same failover in other ways to set up a pair: IPv6, no virtual MAC, many addresses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from twinlab import agents, lab, netns, plan
from twinlab.shell import run, wait_for

from lab import watching

STEADY = plan.Options(profile="balanced", settings=watching.STEADY)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    lab.down()
    yield
    lab.down()


def lose_the_primary(options: plan.Options) -> tuple[str, str]:
    """Bring a pair up, let its primary die; returns the dead node and the survivor."""
    lab.up(options)
    dead = agents.wait_fit()
    survivor = plan.peer(dead)
    watching.watch(
        lambda: lab.cut(dead, silent=True),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
    )
    return dead, survivor


def answers(address: str) -> bool:
    """Whether the client reaches an address, within a few tries."""

    def once() -> bool:
        sent = ["ping", "-q", "-c1", "-W1", address]
        return "1 received" in run(
            [*netns.enter(plan.CLIENT_NS), "sh", "-c", " ".join(sent) + ";:"]
        )

    return wait_for(once, f"{address} answers", timeout_s=20)


def neighbour(address: str) -> str:
    """The MAC under which the client knows an address."""
    shown = run([*netns.enter(plan.CLIENT_NS), "ip", "-j", "neighbour", "show", address])
    return str(json.loads(shown)[0]["lladdr"])


def test_ipv6_moves_too() -> None:
    _, survivor = lose_the_primary(replace(STEADY, ipv6=True))
    assert answers(plan.LAN_VIP6)
    assert neighbour(plan.LAN_VIP6) == plan.vmac(plan.LAN_VRID, version=6)
    assert lab.learned_port("lan0", plan.vmac(plan.LAN_VRID, version=6)) == survivor


def test_without_virtual_mac_the_neighbours_are_told() -> None:
    _, survivor = lose_the_primary(replace(STEADY, vmac=False))
    assert answers(plan.LAN_VIP)
    assert neighbour(plan.LAN_VIP) == plan.node_mac(survivor, "lan0")


def test_every_one_of_many_addresses_moves() -> None:
    options = replace(STEADY, vips=300)
    _, survivor = lose_the_primary(options)
    said = agents.show(survivor)
    assert said is not None
    assert [vrid["vips_total"] for vrid in said["vrids"]] == [300, 1]
    for address in options.lan_vips()[::50]:
        assert answers(address)
        assert neighbour(address) == plan.vmac(plan.LAN_VRID)
