# SPDX-License-Identifier: Apache-2.0
"""Clients stay with their server: over silent deaths, workers that end, and a peer that stops."""

from __future__ import annotations

import itertools
import signal
import subprocess

import pytest
from twinlab import agents, clients, lab, netns, plan, processes, storm
from twinlab.shell import run, wait_for

from lab import watching
from lab.test_policy import tell
from lab.watching import Reign, ordered, steadily

LAB_OPTIONS = plan.Options(profile="balanced", settings=(*watching.PATIENT, "keys.send=0"))
CLIENTS = 1000
SOON_S = 20.0
"""What comes by itself comes within this; how soon it comes is the bench's to judge."""

_networks = itertools.count(1)


@pytest.fixture(autouse=True)
def acquainted(primary: str) -> None:
    """Both nodes know each other, and are in step."""
    if not storm.in_step():
        storm.pair()


def fresh() -> str:
    """The first address of clients that nobody was before."""
    network = next(_networks)
    return f"10.{96 + network // 8}.{32 * (network % 8)}.1"


def bound(node: str, rule: str = "http") -> int:
    """Entries in a node's kernel."""
    return len(clients.elements(node, rule))


def wait_bound_as(node: str, first: str, wanted: list[str]) -> None:
    """Until a node's kernel binds these clients as they were answered."""
    wait_for(
        lambda: clients.bound_as(node, first, wanted) == len(wanted),
        f"all entries at {node}",
        timeout_s=SOON_S,
        interval_s=0.1,
    )


def come_back(node: str) -> None:
    """A node that was cut off is a secondary again, and filled."""
    lab.heal(node)
    agents.wait_fit()
    wait_for(storm.in_step, "the pair is in step", timeout_s=SOON_S)
    leader = plan.peer(node)
    wait_for(lambda: is_filled(leader), f"{leader} has filled {node}", timeout_s=SOON_S)


def is_filled(leader: str) -> bool:
    return bool(clients.seen(leader)["replication"]["state"] == "in-step")


def test_clients_keep_their_server_over_two_deaths_in_a_row() -> None:
    steadily(two_deaths)


def two_deaths(reign: Reign) -> None:
    primary, other, first = reign.primary, plan.peer(reign.primary), fresh()
    before = clients.answers(CLIENTS, first)
    assert set(before) == set(plan.SERVERS)
    wait_bound_as(other, first, before)
    assert reign.die() == other
    assert clients.answers(CLIENTS, first) == before
    come_back(primary)
    assert bound(primary) >= CLIENTS
    assert reign.die() == primary
    assert clients.answers(CLIENTS, first) == before
    come_back(other)
    told = clients.seen(primary)
    assert told["why"] == ""
    assert {rule["name"]: rule["entries"] for rule in told["rules"]}["http"] >= CLIENTS
    assert 'twinbeat_persistence_entries{pair="1",rule="http"}' in agents.metrics(primary)
    told = tell(primary, "show", "persistence", "--client", first, "--rule", "http")
    assert told.startswith(f"http: {first} -> {plan.server_address(before[0])}, ")


def test_a_role_that_moves_under_new_clients_leaves_no_entry_on_one_node_alone() -> None:
    steadily(moved)


def moved(reign: Reign) -> None:
    """Packets make entries until the gate is shut, and nobody has heard of the last ones then."""
    primary, other = reign.primary, plan.peer(reign.primary)
    before = bound(other, "echo")
    stream = subprocess.Popen(clients.command(plan.PROBE_PORT, 8000, fresh(), "--send", "2000"))
    try:
        wait_for(lambda: bound(other, "echo") > before, "the first of them", timeout_s=SOON_S)
        assert reign.hand_over() == other
        assert stream.wait(timeout=60) == 0
    finally:
        stream.kill()
        stream.wait()
    wait_for(lambda: is_filled(other), f"{other} has filled {primary}", timeout_s=SOON_S)
    wait_for(
        lambda: clients.elements(primary, "echo") == clients.elements(other, "echo"),
        "both to have the same",
        timeout_s=SOON_S,
    )


def ruled(node: str, text: str) -> bool:
    """Whether a node's kernel has a rule with this text."""
    shown = ["nft", "-t", "list", "table", "inet", "twinbeat_sessions"]
    return text in run([*netns.enter(plan.namespace(node)), *shown])


def test_a_disabled_server_loses_its_clients_on_both_nodes() -> None:
    steadily(disabled)


def disabled(reign: Reign) -> None:
    primary, other, first = reign.primary, plan.peer(reign.primary), fresh()
    before = clients.answers(200, first)
    wait_bound_as(other, first, before)
    gone = plan.server_address("s1")
    ordered("disable", "server", gone)
    try:
        wait_bound_as(other, first, ["s2"] * 200)
        assert set(clients.answers(200, first)) == {"s2"}
        assert clients.seen(primary)["counts"]["rebound"] >= before.count("s1")
    finally:
        ordered("enable", "server", gone)
    wait_for(lambda: ruled(primary, gone), "new clients may get it", timeout_s=SOON_S)
    assert set(clients.answers(200, fresh())) == set(plan.SERVERS)


def test_expired_entries_lead_nobody_to_a_server_after_a_takeover() -> None:
    steadily(expired)


def expired(reign: Reign) -> None:
    """All are bound to one server: whoever gets the other one later follows no entry."""
    primary, other, first, kept = reign.primary, plan.peer(reign.primary), fresh(), fresh()
    clients.answers(100, kept)
    away, one = plan.server_address("s2"), ["s1"] * 100
    ordered("disable", "server", away)
    try:
        wait_bound_as(other, kept, one)
        ordered("set", "persistence", "http", "timeout=3s")
        wait_for(lambda: ruled(primary, "timeout 3s"), "a short time", timeout_s=SOON_S)
        # Asked again, as a machine that stalls may need longer than they have.
        wait_for(
            lambda: (
                clients.answers(100, first) == one and clients.bound_as(other, first, one) == 100
            ),
            "all entries on both",
            timeout_s=SOON_S,
        )
        wait_for(lambda: not known(other, first), "their end there", timeout_s=SOON_S)
    finally:
        ordered("set", "persistence", "http", "timeout=30m")
        ordered("enable", "server", away)
    wait_for(lambda: ruled(other, away), "new clients may get it", timeout_s=SOON_S)
    assert reign.die() == other
    assert not known(other, first)
    assert set(clients.answers(100, first)) == set(plan.SERVERS)
    assert clients.answers(100, kept) == one
    come_back(primary)


def known(node: str, first: str) -> int:
    """How many of a hundred clients a node's kernel has an entry for."""
    return len(set(clients.addresses(100, first)) & set(clients.elements(node)))


def test_a_peer_that_stops_slows_nobody_and_is_filled_when_it_goes_on() -> None:
    steadily(halted)


def halted(reign: Reign) -> None:
    primary, other = reign.primary, plan.peer(reign.primary)
    quick = clients.fetch(300, fresh())["took_s"]
    stopped = processes.send_signal(f"worker-{other}", signal.SIGSTOP)
    try:
        wait_for(lambda: processes.state_of(stopped) == "T", "the worker stops", timeout_s=SOON_S)
        there = bound(other)
        # The best of three: a machine that stalls slows one of them.
        fetched = [clients.fetch(300, fresh()) for _ in range(3)]
        assert all("" not in each["answers"] for each in fetched)
        assert min(each["took_s"] for each in fetched) < 3 * quick + 1
        before = bound(primary, "echo")
        assert clients.send(4000, 2000, fresh())["sent"] == 4000
        wait_for(lambda: bound(primary, "echo") >= before + 3000, "new ones", timeout_s=SOON_S)
        assert bound(other) == there
    finally:
        processes.send_signal(f"worker-{other}", signal.SIGCONT)
    wait_for(
        lambda: bound(other, "echo") == bound(primary, "echo") and bound(other) == bound(primary),
        "the peer is filled",
        timeout_s=SOON_S,
    )


def test_a_worker_that_dies_takes_nothing_with_it() -> None:
    steadily(without_a_worker)


def without_a_worker(reign: Reign) -> None:
    primary, other, first, second = reign.primary, plan.peer(reign.primary), fresh(), fresh()
    before = clients.answers(300, first)
    wait_bound_as(other, first, before)
    processes.send_signal(f"worker-{primary}", signal.SIGKILL)
    wait_for(lambda: processes.pid_of(f"worker-{primary}") is None, "it is gone", timeout_s=SOON_S)
    late = clients.answers(300, second)
    assert clients.answers(300, first) == before
    agents.start_worker(primary)
    wait_for(storm.in_step, "the pair is in step", timeout_s=SOON_S)
    wait_bound_as(other, second, late)
    assert clients.bound_as(other, first, before) == 300


def test_a_table_that_somebody_takes_away_is_made_again() -> None:
    steadily(emptied)


def emptied(reign: Reign) -> None:
    """As all tables are wherever Debian's nftables.service is restarted."""
    other, first = plan.peer(reign.primary), fresh()
    before = clients.answers(100, first)
    wait_bound_as(other, first, before)
    missed = clients.seen(other)["counts"].get("remade", 0)
    inside = netns.enter(plan.namespace(other))
    run([*inside, "nft", "delete", "table", "inet", "twinbeat_sessions"])
    wait_for(
        lambda: clients.seen(other)["counts"].get("remade", 0) > missed,
        "it is missed",
        timeout_s=SOON_S,
    )
    wait_for(
        lambda: "twinbeat_sessions" in run([*inside, "nft", "list", "tables"]),
        "it is made again",
        timeout_s=SOON_S,
    )
    wait_bound_as(other, first, before)
