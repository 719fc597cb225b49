# SPDX-License-Identifier: Apache-2.0
"""A pair with a witness, a real etcd: partitions, and what becomes of it without an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twinbench import ground
from twinlab import agents, lab, plan, processes, witness
from twinlab.shell import wait_for

from lab import watching

LAB_OPTIONS = plan.Options(profile="balanced", settings=watching.STEADY, witness=True)
LEASE_NS = 500_000_000
MARGIN_NS = LEASE_NS // 20
NOISE_NS = 400_000_000
"""Detection, requests, and a machine that is busy with other things."""


@pytest.fixture
def mended(primary: str) -> Iterator[str]:
    """The primary of a fit pair with a witness that answers; etcd is mended after the test."""
    wait_for(
        lambda: all(asked(node)["up"] for node in plan.NODES), "both are answered", timeout_s=20
    )
    try:
        yield primary
    finally:
        witness.mend()


def asked(node: str) -> dict[str, Any]:
    """What a node says of its witness."""
    said = agents.show(node)
    assert said is not None, f"the agent of {node} does not answer"
    return dict(said["witness"])


def unanswered(node: str) -> int:
    """How many of a node's requests came to nothing."""
    counted = agents.counters(node)
    assert counted is not None
    return int(counted["witness"]["unanswered"])


def asks_in_vain(node: str, times: int) -> None:
    """Wait until a node asked so many times more without an answer."""
    before = unanswered(node)
    wait_for(
        lambda: unanswered(node) >= before + times,
        f"{node} asks {times} times in vain",
        timeout_s=30,
    )


def cut_from_each_other(node: str) -> None:
    """Both heartbeat links of a node; it still reaches the witness over wan0."""
    for link in ("ha0", "lan0"):
        lab.cut_link(node, link)


def cut_from_everything(node: str) -> None:
    lab.cut(node, silent=True)


@pytest.mark.parametrize("cut", [cut_from_each_other, cut_from_everything])
def test_a_partition_leaves_exactly_one_server(mended: str, cut: Any) -> None:
    other = plan.peer(mended)
    with ground.GateWatch() as gates:
        begin = agents.boot_ns()
        cut(mended)
        opened = gates.wait_open(other, begin)
        # Time enough for the loser to ask again, were it to take the role back.
        marked = asked(other)["kept_term"]
        wait_for(
            lambda: agents.boot_ns() > opened.at_ns + 4 * LEASE_NS,
            "four leases go by",
            timeout_s=30,
        )
        seen = gates.finish()
    shut = [edge for edge in seen.edges if edge.node == mended and not edge.open]
    shut = [edge for edge in shut if edge.at_ns >= begin]
    print(
        f"{cut.__name__}: the old primary fell silent after {(shut[0].at_ns - begin) / 1e6:.1f} "
        f"ms, the new one served after {(opened.at_ns - begin) / 1e6:.1f} ms"
    )
    assert seen.both_open == 0, watching.story(begin)
    assert shut[0].at_ns <= begin + LEASE_NS + NOISE_NS
    assert shut[0].at_ns < opened.at_ns
    assert begin + LEASE_NS + MARGIN_NS <= opened.at_ns <= begin + LEASE_NS + MARGIN_NS + NOISE_NS
    later = [edge for edge in seen.edges if edge.at_ns > opened.at_ns]
    # A machine that stands still for longer than the gate's lease shuts it and opens it anew.
    assert {edge.node for edge in later} <= {other}, "the role stays where it is"
    assert [edge.why for edge in later if not edge.open and edge.why != "lease"] == []
    assert marked == opened.term, "the witness keeps the term of whoever serves"
    reasons = [said["reason"] for said in agents.history(mended) if said["at_ns"] >= begin]
    assert "no_witness" in reasons, watching.story(begin)
    lab.heal(mended)
    assert agents.wait_fit() == other


def test_one_member_less_is_still_a_witness(mended: str) -> None:
    """The leader of three dies: nobody moves, and a partition is decided as with all of them."""
    other = plan.peer(mended)
    dead = witness.leader()
    with ground.GateWatch() as gates:
        witness.kill(dead)
        before = unanswered(other)
        for node in plan.NODES:
            answers_since(node)
        assert [edge.node for edge in gates.now().edges if edge.open] == [mended]
        begin = agents.boot_ns()
        cut_from_each_other(mended)
        opened = gates.wait_open(other, begin)
        seen = gates.finish()
    print(f"{dead.name} died, {unanswered(other) - before} questions in vain")
    assert seen.both_open == 0, watching.story(begin)
    assert begin + LEASE_NS + MARGIN_NS <= opened.at_ns <= begin + LEASE_NS + MARGIN_NS + NOISE_NS
    assert asked(other)["kept_term"] == opened.term


def answers_since(node: str) -> None:
    """Wait until a node is answered by whoever leads now."""
    before = answered(node)
    wait_for(lambda: answered(node) >= before + 2, f"{node} is answered", timeout_s=20)
    wait_for(lambda: asked(node)["up"], f"{node} is answered", timeout_s=20)


def answered(node: str) -> int:
    counted = agents.counters(node)
    assert counted is not None
    return sum(counted["witness"].get(result, 0) for result in ("granted", "looked"))


def test_without_etcd_a_cut_off_primary_falls_silent_and_nobody_claims(mended: str) -> None:
    other = plan.peer(mended)
    witness.stop()
    for node in plan.NODES:
        wait_for(
            lambda node=node: not asked(node)["up"], f"{node} misses the witness", timeout_s=20
        )
    with ground.GateWatch() as gates:
        asks_in_vain(mended, 8)
        assert gates.now().edges[-1].open, "as long as the peer is heard, nothing happens"
        begin = agents.boot_ns()
        cut_from_each_other(mended)
        wait_for(lambda: not watching.serves(mended), "the old primary falls silent", timeout_s=20)
        asks_in_vain(other, 16)
        quiet = [edge for edge in gates.now().edges if edge.at_ns >= begin]
        assert [(edge.node, edge.open) for edge in quiet] == [(mended, False)]
        assert quiet[0].at_ns <= begin + LEASE_NS + NOISE_NS
        told = processes.log_tail(agents.process_name(other), 50)
        assert "without it nobody takes over by silence" in told
        # The first to ask when it is back takes the role; the other one leaves it alone.
        witness.mend()
        wait_for(lambda: any(map(watching.serves, plan.NODES)), "somebody serves", timeout_s=30)
        seen = gates.finish()
    assert seen.both_open == 0, watching.story(begin)


def test_an_etcd_that_hangs_moves_nobody(mended: str) -> None:
    """And is back as soon as it answers."""
    witness.hang()
    with ground.GateWatch() as gates:
        asks_in_vain(mended, 10)
        asks_in_vain(plan.peer(mended), 10)
        before = gates.finish().edges
    assert [edge.node for edge in before if edge.open] == [mended]
    assert not [edge for edge in before if not edge.open and edge.node == mended]
    said = agents.show(mended)
    assert said is not None
    assert any(one["code"] == "witness" for one in said["warnings"])
    witness.unhang()
    wait_for(
        lambda: all(asked(node)["up"] for node in plan.NODES),
        "both are answered again",
        timeout_s=20,
    )
    # Shut for a moment by a machine that stands still, maybe; its peer did not take it over.
    wait_for(lambda: watching.serves(mended), f"{mended} serves", timeout_s=20)


def test_a_survivor_s_hiccup_costs_no_lease(mended: str) -> None:
    """Alone and stalled past its lease: nobody else can serve, so it need not wait."""
    other = plan.peer(mended)
    with ground.GateWatch() as gates:
        agents.kill(other)
        lab.cut(other, silent=True)
        wait_for(
            lambda: (agents.show(mended) or {})["peer"]["watch"] == "dead",
            "the peer is dead",
            timeout_s=20,
        )
        begin = agents.boot_ns()
        agents.stop(mended)
        wait_for(
            lambda: any(
                edge.node == mended and not edge.open and edge.at_ns > begin
                for edge in gates.now().edges
            ),
            "its lease runs out",
            timeout_s=20,
        )
        continued = agents.boot_ns()
        agents.cont(mended)
        opened = gates.wait_open(mended, begin)
    print(f"serving again {(opened.at_ns - continued) / 1e6:.1f} ms after it was continued")
    assert opened.at_ns < continued + LEASE_NS
