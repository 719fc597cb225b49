# SPDX-License-Identifier: Apache-2.0
"""Clients stay with their server: over silent deaths, workers that end, and a peer that stops."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial

import pytest
from twinlab import agents, clients, lab, plan, processes, storm
from twinlab.shell import wait_for

from lab import watching
from lab.test_policy import tell

LAB_OPTIONS = plan.Options(profile="balanced", settings=(*watching.CALM, "keys.send=0"))
CLIENTS = 1000
WINDOW_S = 0.5
"""What is made longer ago than this has to be on both nodes: p99.9 of the window, by the bench."""


@pytest.fixture
def paired(primary: str) -> Iterator[str]:
    """The primary of a pair whose nodes know each other, and are in step."""
    if not storm.in_step():
        storm.pair()
    yield primary
    for node in plan.NODES:
        lab.heal(node)
    agents.wait_fit()


def bound(node: str, rule: str = "http") -> int:
    """Entries in a node's kernel."""
    return len(clients.elements(node, rule))


def serves(node: str) -> bool:
    return watching.serves(node)


def die(primary: str) -> str:
    """The primary dies silently; who serves by now."""
    lab.cut(primary, silent=True)
    other = plan.peer(primary)
    wait_for(lambda: serves(other), f"{other} serves", timeout_s=10, interval_s=0.02)
    return other


def come_back(node: str) -> None:
    lab.heal(node)
    agents.wait_fit()
    wait_for(storm.in_step, "the pair is in step", timeout_s=20)


def is_filled(leader: str) -> bool:
    return bool(clients.seen(leader)["replication"]["state"] == "in-step")


def test_clients_keep_their_server_over_two_deaths_in_a_row(paired: str) -> None:
    before = clients.answers(CLIENTS)
    assert set(before) == set(plan.SERVERS)
    # What is younger than the window may be lost.
    other = plan.peer(paired)
    there = partial(clients.bound_as, other, clients.FIRST, before)
    wait_for(lambda: there() == CLIENTS, "all entries on both", timeout_s=2 * WINDOW_S)
    second = die(paired)
    assert clients.answers(CLIENTS) == before
    come_back(paired)
    wait_for(lambda: is_filled(second), "the node that came back is filled", timeout_s=10)
    assert bound(paired) >= CLIENTS
    third = die(second)
    assert third == paired
    assert clients.answers(CLIENTS) == before
    come_back(second)
    told = clients.seen(third)
    assert told["why"] == ""
    assert {rule["name"]: rule["entries"] for rule in told["rules"]}["http"] >= CLIENTS
    metric = agents.metrics(third)
    assert 'twinbeat_persistence_entries{pair="1",rule="http"}' in metric
    told = tell(third, "show", "persistence", "--client", clients.FIRST, "--rule", "http")
    address = plan.server_address(before[0])
    assert told.startswith(f"http: {clients.FIRST} -> {address}, ")


def test_entries_end_on_both_nodes_and_a_disabled_server_loses_its_clients(paired: str) -> None:
    other = plan.peer(paired)
    tell(paired, "set", "persistence", "http", "timeout=3s")
    first = "10.97.1.1"
    before = clients.answers(200, first)
    wait_for(lambda: clients.bound_as(other, first, before) == 200, "all are on both", timeout_s=5)
    gone = plan.server_address("s1")
    tell(paired, "disable", "server", gone)
    wait_for(lambda: servers_of(other, first) == {plan.server_address("s2")}, "moved", timeout_s=5)
    assert set(clients.answers(200, first)) == {"s2"}
    assert clients.seen(paired)["counts"]["rebound"] >= before.count("s1")
    wait_for(lambda: not servers_of(other, first), "the secondary's end as well", timeout_s=10)
    tell(paired, "enable", "server", gone)
    tell(paired, "set", "persistence", "http", "timeout=30m")
    spread = set(plan.SERVERS)
    wait_for(lambda: set(clients.answers(200, first)) == spread, "new ones spread", timeout_s=15)


def servers_of(node: str, first: str) -> set[str]:
    """Where a node's kernel would send the first two hundred clients."""
    ours = set(clients.addresses(200, first))
    return {server for client, server in clients.elements(node).items() if client in ours}


def test_a_peer_that_stops_slows_nobody_and_is_filled_when_it_goes_on(paired: str) -> None:
    other = plan.peer(paired)
    quick = clients.fetch(300, "10.98.1.1")["took_s"]
    stopped = processes.send_signal(f"worker-{other}", signal.SIGSTOP)
    wait_for(lambda: processes.state_of(stopped) == "T", "the worker stops", timeout_s=5)
    try:
        slow = clients.fetch(300, "10.98.4.1")
        assert "" not in slow["answers"]
        assert slow["took_s"] < 3 * quick + 1
        there = bound(other)
        sent = clients.send(4000, 2000, "10.98.8.1")
        assert sent["sent"] == 4000
        wait_for(lambda: bound(paired, "echo") >= 4000, "the primary binds all", timeout_s=5)
        assert bound(other) == there
    finally:
        processes.send_signal(f"worker-{other}", signal.SIGCONT)
    wait_for(
        lambda: bound(other, "echo") == bound(paired, "echo") and bound(other) == bound(paired),
        "the peer is filled",
        timeout_s=20,
    )


def test_a_worker_that_dies_takes_nothing_with_it(paired: str) -> None:
    before = clients.answers(300, "10.99.1.1")
    processes.send_signal(f"worker-{paired}", signal.SIGKILL)
    wait_for(lambda: processes.pid_of(f"worker-{paired}") is None, "it is gone", timeout_s=5)
    late = clients.answers(300, "10.99.4.1")
    assert clients.answers(300, "10.99.1.1") == before
    agents.start_worker(paired)
    wait_for(storm.in_step, "the pair is in step", timeout_s=20)
    other = plan.peer(paired)
    wait_for(
        lambda: clients.bound_as(other, "10.99.4.1", late) == 300, "told of later", timeout_s=15
    )
    assert clients.bound_as(other, "10.99.1.1", before) == 300
