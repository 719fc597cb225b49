# SPDX-License-Identifier: Apache-2.0
"""The alerts whose faults take long to cause: `make alerts` fires them all, `make test` doesn't.

As in test_prometheus.py the rules are the shipped ones, but for what they wait for (`for: 0s`);
each fault is a real one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from twinlab import (
    agents,
    lab,
    netns,
    plan,
    processes,
    prometheus,
    storm,
)
from twinlab.shell import run, wait_for

from lab import watching
from lab.test_addresses import gratuitous, keepalived
from lab.test_prometheus import fires, tell
from lab.watching import ordered
from twinbeat.sync.identity import LIFE_DAYS, Folder

LAB_OPTIONS = plan.Options(
    profile="balanced",
    settings=(
        *watching.STEADY,
        "keys.send=0",
        f'metrics.listen = "0.0.0.0:{prometheus.METRICS_PORT}"',
        "policy.recovery_hold_ms=100",
        "policy.recovery_hold_max_s=1",
        "policy.max_flips=1",
        "policy.flip_window_s=600",
    ),
)
SCRIPT = "#!/bin/sh\n[ ! -e /etc/twinbeat/bad ]\n"
PREFIX = "198.51.100.0/24"
DAY_S = 86400.0


@pytest.fixture(scope="module")
def watched(pair: None) -> Iterator[None]:
    storm.pair()
    for node in plan.NODES:
        script = netns.node_dir(node, "/etc/twinbeat") / "check.sh"
        script.write_text(SCRIPT)
        script.chmod(0o755)
    prometheus.start(waits="0s")
    yield
    prometheus.stop()


@pytest.fixture
def primary(watched: None) -> Iterator[str]:
    """Of a pair that is fit and in step; mended after the test."""
    wait_for(storm.agree, "both nodes have the same", timeout_s=60)
    yield agents.wait_fit()
    for node in plan.NODES:
        lab.heal(node)
        agents.start_worker(node)


def inside(name: str, *command: str) -> str:
    return run([*netns.enter(name), *command])


@contextlib.contextmanager
def again_and_again(what: Callable[[], object]) -> Iterator[None]:
    """In a thread of its own while the block lasts."""
    over = threading.Event()

    def loop() -> None:
        while not over.is_set():
            what()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def stopped_for(node: str, stopped_s: float, between_s: float) -> None:
    """The agent stands still for a moment, as on a machine that was taken its processor."""
    processes.send_signal(agents.process_name(node), signal.SIGSTOP)
    time.sleep(stopped_s)
    processes.send_signal(agents.process_name(node), signal.SIGCONT)
    time.sleep(between_s)


def failover() -> None:
    agents.wait_fit()
    ordered("force", "failover", "--yes", "--reason", "a test")


# First of all: what was measured since Prometheus began is a part of what it judges.


def test_a_loop_that_lags(primary: str) -> None:
    with again_and_again(partial(stopped_for, plan.peer(primary), 1.4, 0.02)):
        fires("TwinbeatLoopLag", within_s=60)


def test_heartbeats_that_are_sent_late(primary: str) -> None:
    with again_and_again(partial(stopped_for, plan.peer(primary), 0.02, 0.01)):
        fires("TwinbeatSendLate", within_s=60)


def test_heartbeats_that_come_in_bursts(primary: str) -> None:
    """On one of two links, so that nobody is missed."""

    def shake() -> None:
        lab.cut_link(primary, "ha0", one_way="in")
        time.sleep(0.07)
        lab.heal(primary)
        time.sleep(0.02)

    with again_and_again(shake):
        fires("TwinbeatHeartbeatJitter", within_s=60)


def test_a_role_that_moves_too_often(primary: str) -> None:
    for _ in range(8):
        failover()
    fires("TwinbeatFlapping")


def test_a_route_that_cannot_be_put_back_and_a_hook_that_fails(primary: str) -> None:
    lines = (
        "link add red0 type veth peer name far-red0",
        "link set far-red0 up",
        "address add 10.66.0.1/24 dev red0",
        "link set red0 up",
        f"route add {PREFIX} via 10.66.0.2",
    )
    for line in lines:
        inside(plan.namespace(primary), "ip", *line.split())
    ordered("add", "hook", "bad", "exec=/bin/false", "events=secondary")
    ordered("add", "route", PREFIX, "gateway=10.88.0.21", "replace=true")
    try:
        wait_for(
            lambda: "10.88.0.21" in inside(plan.namespace(primary), "ip", "route"),
            "the route stands",
            timeout_s=20,
        )
        inside(plan.namespace(primary), "ip", "link", "set", "red0", "down")
        failover()
        fires("TwinbeatRoutesNotRestored", "TwinbeatHookFailed")
    finally:
        inside(plan.namespace(primary), "ip", "link", "set", "red0", "up")
    ordered("rm", "hook", "bad")
    ordered("rm", "route", PREFIX)


def test_others_with_our_address_and_our_number(primary: str) -> None:
    address = ["ip", "address", "add", f"{plan.LAN_VIP}/32", "dev", "eth0"]
    inside(plan.CLIENT_NS, *address)
    try:
        with netns.packet_socket(plan.CLIENT_NS, "eth0") as own:
            own.send(gratuitous(plan.CLIENT_MAC, plan.LAN_VIP))
        fires("TwinbeatDuplicateAddress")
    finally:
        inside(plan.CLIENT_NS, *("del" if word == "add" else word for word in address))
    with keepalived(plan.LAN_VRID, 200):
        fires("TwinbeatForeignVrrp")


def test_two_that_are_told_to_stay_primary_apart(primary: str) -> None:
    other = plan.peer(primary)
    lab.cut(other, silent=True)
    wait_for(lambda: said(primary)["peer"]["watch"] == "dead", f"{other} isn't heard", timeout_s=20)
    for node in plan.NODES:
        tell(node, "stay", "primary")
    lab.heal(other)
    try:
        fires("TwinbeatStayPrimaryConflict")
    finally:
        for node in plan.NODES:
            agents.cli(node, "stay", "off")


def said(node: str) -> dict[str, Any]:
    return wait_for(partial(agents.show, node), f"{node} answers", timeout_s=20)


def test_a_disk_that_takes_nothing(primary: str) -> None:
    state = "/var/lib/twinbeat"
    inside(plan.namespace(primary), "mount", "--bind", "-o", "ro", state, state)
    # Later than the agent's directory was opened: it looks up the path each time.
    try:
        agents.cli(primary, "pause", "--reason", "a test", "--for", "1m")
        fires("TwinbeatEffectFailures")
    finally:
        inside(plan.namespace(primary), "umount", state)
        agents.cli(primary, "resume")


def test_files_of_which_one_cannot_be_kept_alike(primary: str) -> None:
    for node in plan.NODES:
        (netns.node_dir(node, "/run") / "lists").mkdir()
    os.mkfifo(netns.node_dir(primary, "/run") / "lists" / "pipe")
    ordered("add", "file", "odd", "paths=/run/lists")
    fires("TwinbeatFilesDiffer")
    ordered("rm", "file", "odd")


def test_a_primary_that_flipped_often_enough(primary: str) -> None:
    """Once, as is configured here."""
    other = plan.peer(primary)
    ordered(
        *("add", "monitor", "ill", "kind=script", "command=/etc/twinbeat/check.sh"),
        *("interval_ms=100", "timeout_ms=5000", "weight=1000"),
    )

    def ill(node: str, *, is_ill: bool) -> None:
        switch = netns.node_dir(node, "/etc/twinbeat") / "bad"
        switch.touch() if is_ill else switch.unlink()
        wait_for(
            lambda: (said(plan.peer(node))["peer"]["health"] == 1000) is not is_ill,
            f"{node} is {'ill' if is_ill else 'well'}",
            timeout_s=20,
        )

    ill(primary, is_ill=True)
    wait_for(partial(watching.serves, other), f"{other} serves", timeout_s=20)
    ill(other, is_ill=True)
    ill(primary, is_ill=False)
    fires("TwinbeatStickyPrimary")
    ill(other, is_ill=False)
    ordered("rm", "monitor", "ill")


def test_a_certificate_that_is_nearly_over(primary: str) -> None:
    """A week is left, and no connection over which a new one could be announced."""
    other = plan.peer(primary)
    for node in plan.NODES:
        processes.end(f"worker-{node}")
    folder = Folder(netns.node_dir(other, "/var/lib") / "twinbeat" / "worker" / "identity")
    kept = shutil.copytree(folder.path, plan.RUN_DIR / "identity")
    folder.remove_own()
    folder.make_own(other, time.time() - (LIFE_DAYS - 7) * DAY_S)
    agents.start_worker(other)
    try:
        fires("TwinbeatCertificateExpires")
    finally:
        processes.end(f"worker-{other}")
        shutil.rmtree(folder.path)
        shutil.copytree(kept, folder.path)
