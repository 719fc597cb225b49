# SPDX-License-Identifier: Apache-2.0
"""Links that fail in part, and pairs that both went on alone."""

from __future__ import annotations

import pytest
from twinlab import agents, capture, cutter, lab, plan, probe
from twinlab.shell import wait_for

from lab import watching

NOISE_NS = 200_000_000
HEARTBEAT_LINKS = ("ha0", "lan0")


def both_serve() -> bool:
    return all(watching.serves(node) for node in plan.NODES)


def test_healed_partition_leaves_the_higher_term(primary: str) -> None:
    """Nobody can tell death from partition: both serve, until the first frame gets through."""
    begin = agents.boot_ns()
    lab.cut(primary, silent=True)
    wait_for(both_serve, "both nodes serve alone", timeout_s=20)
    terms = {node: watching.term(node) for node in plan.NODES}
    assert len(set(terms.values())) == 2, "two nodes never share a term"
    winner = max(plan.NODES, key=terms.__getitem__)
    loser = plan.peer(winner)
    with capture.Capture() as recorder, probe.Probe() as running:
        running.wait_served()
        lab.heal(primary)
        healed = agents.boot_ns()
        wait_for(agents.pair_is_fit, "the pair is whole again", timeout_s=60)
        running.wait_served(since_ns=agents.boot_ns())
        record = running.finish()
    recording = recorder.finish()
    assert recording.lost == 0
    assert agents.roles() == {loser: "secondary", winner: "primary"}, watching.story(begin)
    late = [
        frame
        for frame in recording.by_owner(watching.VIPS, watching.VMACS)
        if frame.port == loser and frame.at_ns > healed + NOISE_NS
    ]
    assert late == [], "the loser was silent after the first frame got through"
    outage = record.outage_around(healed - NOISE_NS)
    assert outage is None or (outage.duration_ns or NOISE_NS) < NOISE_NS


@pytest.mark.parametrize("link", HEARTBEAT_LINKS)
def test_one_lost_link_moves_nobody(primary: str, link: str) -> None:
    node = plan.peer(primary)
    before = {name: watching.transitions(name) for name in plan.NODES}
    lab.cut_link(node, link)
    wait_for(
        lambda: all(
            not next(
                found for found in (agents.show(name) or {})["links"] if found["name"] == link
            )["up"]
            for name in plan.NODES
        ),
        f"both nodes miss {link}",
        timeout_s=30,
    )
    assert {name: watching.transitions(name) for name in plan.NODES} == before
    assert watching.serves(primary)


def test_a_primary_that_is_not_heard_is_fenced(primary: str) -> None:
    """Its heartbeats are lost on both links, the other way still works: the claim gets through."""
    survivor = plan.peer(primary)

    def deafen() -> None:
        bits = sum(1 << cutter.bit_of(link, cutter.OUT) for link in HEARTBEAT_LINKS)
        cutter.set_bits(primary, bits, value=True)

    seen = watching.watch(deafen, lambda: watching.serves(survivor), f"{survivor} takes over")
    wait_for(lambda: not watching.serves(primary), "the unheard primary steps down", timeout_s=30)
    seen.never_both(primary, survivor)
    assert watching.serves(survivor)
