# SPDX-License-Identifier: Apache-2.0
"""The lab as fixtures: one bring-up shared by the tests of a module, taken down after the last."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LAB_DIR = Path(__file__).resolve().parents[2] / "deploy" / "lab"
sys.path.insert(0, str(LAB_DIR))

from twinlab import agents, lab, netns, plan, processes, services  # noqa: E402
from twinlab.shell import run  # noqa: E402

from lab import watching  # noqa: E402


@pytest.fixture(scope="module")
def ground() -> Iterator[None]:
    """The lab without agents, with the VIPs put on node a by hand."""
    lab.down()
    lab.up(plan.Options(agent=False))
    hold("a")
    assert services.http_get(plan.LAN_VIP) in plan.SERVERS
    yield
    lab.down()


def hold(node: str) -> None:
    """Give a node both VIPs on both VMACs, as whoever keeps a pair would, and announce them."""
    name = plan.namespace(node)
    for link, vrid, vip in (
        ("lan0", plan.LAN_VRID, plan.LAN_VIP),
        ("wan0", plan.WAN_VRID, plan.WAN_VIP),
    ):
        device = f"tbv{vrid}"
        commands = (
            f"link add {device} link {link} address {plan.vmac(vrid)} type macvlan mode private",
            f"address add {vip}/32 dev {device}",
            f"link set {device} up",
        )
        run([*netns.enter(name), "ip", "-batch", "-"], input_text="\n".join(commands) + "\n")


PAIR_OPTIONS = plan.Options(profile="balanced", settings=watching.STEADY)


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest) -> Iterator[None]:
    """The whole lab with a fit pair; the tests of a module share it.

    With steady timers and both heartbeat links, unless the module says otherwise in LAB_OPTIONS.
    """
    lab.down()
    lab.up(getattr(request.module, "LAB_OPTIONS", PAIR_OPTIONS))
    agents.wait_fit()
    yield
    lab.down()


@pytest.fixture
def primary(pair: None) -> Iterator[str]:
    """The primary of a fit pair; whatever the test broke is mended after it."""
    yield agents.wait_fit()
    for node in plan.NODES:
        lab.heal(node)
        pid = processes.pid_of(agents.process_name(node))
        if pid is None:
            agents.start(node)
        elif processes.state_of(pid) == "T":
            agents.cont(node)
