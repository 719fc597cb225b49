# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus at a real pair: faults fire alerts.

Alerts don't wait here before they fire (`for: 0s` instead of minutes); what makes them pending is
the rule's own expression, and the fault is a real one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
from twinlab import agents, flood, lab, netns, plan, processes, prometheus, storm, topology
from twinlab.shell import run, wait_for

from lab import watching

LAB_OPTIONS = plan.Options(
    profile="balanced",
    settings=(
        *watching.STEADY,
        f'metrics.listen = "0.0.0.0:{prometheus.METRICS_PORT}"',
        'watchdog.mode = "auto"',
        'watchdog.device = "/dev/twinbeat-none"',
        'fence.agent = "/bin/false"',
        "policy.recovery_hold_ms = 0",
    ),
)
FIRES_S = 60.0
"""Other tests run beside this one."""


@pytest.fixture(scope="module")
def watched(pair: None) -> Iterator[None]:
    storm.acquaint()
    prometheus.start(waits="0s")
    yield
    prometheus.stop()


def tell(node: str, *words: str) -> str:
    done = agents.cli(node, *words)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def fires(*names: str, within_s: float = FIRES_S) -> None:
    """All of these fire, at some time from now on."""
    missing = set(names)
    deadline = time.monotonic() + within_s
    while missing:
        assert time.monotonic() < deadline, f"never fired: {missing}"
        missing -= prometheus.firing()
        time.sleep(0.2)


def send(node: str, link: str, *frames: bytes) -> None:
    """Put frames on a link of a node as they are."""
    program = (
        "import socket, sys\n"
        "out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n"
        f"out.bind(({link!r}, 0))\n"
        "for line in sys.stdin:\n    out.send(bytes.fromhex(line))\n"
    )
    text = "".join(f"{frame.hex()}\n" for frame in frames)
    run([*netns.enter(plan.namespace(node)), sys.executable, "-I", "-c", program], input_text=text)


def serving() -> list[str]:
    said = [agents.show(node) for node in plan.NODES]
    return [one["node"]["name"] for one in said if one is not None and one["gate"]["open"]]


def test_a_change_of_role_fires(watched: None) -> None:
    """One is enough, though it begins its series."""
    old = agents.wait_fit()
    tell(old, "force", "failover", "--yes", "--reason", "a change of role to look at")
    wait_for(lambda: serving() == [plan.peer(old)], "the other one serves", timeout_s=30)
    fires("TwinbeatFailedOver")


def test_faults_that_move_nobody_fire(watched: None) -> None:
    """All at once: what is configured and can't be done, frames of strangers, a pause, a cut."""
    primary = agents.wait_fit()
    other = plan.peer(primary)
    hangs = ("command=/bin/sleep,60", "interval_ms=200", "timeout_ms=100", "weight=0")
    watching.ordered("add", "monitor", "hangs", "kind=script", *hangs)
    watching.ordered("add", "route", "198.51.100.0/24", "gateway=203.0.113.9", "table=300")
    tell(primary, "pause", "--reason", "a test", "--for", "5m")
    lab.cut_link(primary, "ha0", one_way="in")
    forged = flood.forged(primary, "lan0", link_number=1)
    payload = bytearray(forged[42:])
    payload[8:12] = (4711).to_bytes(4, "big")
    send(other, "lan0", forged, flood.udp_frame(primary, "lan0", bytes(payload)))
    fires(
        "TwinbeatWatchdogNotArmed",
        "TwinbeatFenceNotReady",
        "TwinbeatScriptHangs",
        "TwinbeatRoutesMissing",
        "TwinbeatForgedFrames",
        "TwinbeatForeignFrames",
        "TwinbeatPausedTooLong",
        "TwinbeatLinkSilent",
    )
    lab.heal(primary)
    tell(primary, "resume")


def test_a_node_that_lags_behind_fires(watched: None) -> None:
    primary = agents.wait_fit()
    other = plan.peer(primary)
    processes.end(f"worker-{other}")
    try:
        done = agents.cli(primary, "add", "vip", "10.77.0.99", "vrid", str(plan.LAN_VRID))
        assert done.returncode in {0, 5}, done.stderr
        fires("TwinbeatConfigMismatch", "TwinbeatOutOfSync", "TwinbeatWorkerAway")
    finally:
        agents.start_worker(other)
    wait_for(
        lambda: not (agents.show(primary) or {})["configuration"]["mismatch"],
        "both have the same again",
        timeout_s=30,
    )


def test_ports_without_carrier_fire(watched: None) -> None:
    agents.wait_fit()
    for node in plan.NODES:
        topology.set_port(node, "lan0", up=False)
    fires("TwinbeatUnhealthy", "TwinbeatNobodyUp")
    for node in plan.NODES:
        lab.heal(node)


def test_a_partition_fires(watched: None) -> None:
    primary = agents.wait_fit()
    for link in LAB_OPTIONS.links:
        lab.cut_link(primary, link)
    fires("TwinbeatTwoPrimaries", "TwinbeatPeerLost", "TwinbeatFencingFailed", "TwinbeatLinkDown")
    lab.heal(primary)
    agents.wait_fit()


def test_nobody_who_serves_fires(watched: None) -> None:
    agents.wait_fit()
    for node in plan.NODES:
        agents.cli(node, "disable", "--yes", "--even-if-unfit")
    fires("TwinbeatNoPrimary")
    for node in plan.NODES:
        tell(node, "enable")
    agents.wait_fit()


def test_agents_that_are_gone_fire(watched: None) -> None:
    for node in plan.NODES:
        agents.kill(node)
    fires("TwinbeatUnseen")
