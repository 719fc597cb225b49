# SPDX-License-Identifier: Apache-2.0
"""The direct cable is the only heartbeat link, and the node at its other end loses its power."""

from __future__ import annotations

from twinlab import agents, cutter, lab, plan
from twinlab.shell import wait_for

from lab import watching

LAB_OPTIONS = plan.Options(profile="balanced", settings=watching.STEADY, links=("ha0",))


def test_powered_off_peer_on_the_only_cable(primary: str) -> None:
    """Our end of the cable goes dark with it: that is no sign that we are the one cut off."""
    survivor = plan.peer(primary)
    seen = watching.watch(
        lambda: lab.cut(primary, silent=False),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
    )
    assert watching.takeover(survivor, seen.before_ns)["reason"] == "peer_dead"
    seen.never_both(primary, survivor)


def test_one_way_cable_still_carries_the_fence(primary: str) -> None:
    """Nothing is heard from the primary, which still serves its clients: it has to be fenced."""
    survivor = plan.peer(primary)
    seen = watching.watch(
        lambda: lab.cut_link(primary, "ha0", one_way=cutter.OUT),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
    )
    wait_for(lambda: not watching.serves(primary), "the unheard primary steps down", timeout_s=30)
    # The claim is in flight when the survivor opens, by silence: what the old owner sent until it
    # arrived may still come, later than that nothing.
    late = [
        frame
        for frame in seen.overlap(primary, survivor)
        if frame.at_ns
        > watching.takeover(survivor, seen.before_ns)["timeline"]["gate_ns"] + 500_000
    ]
    assert late == []


def test_a_deaf_primary_keeps_its_role(primary: str) -> None:
    """It hears nothing at all, but is heard: nobody has a reason to take over."""
    survivor = plan.peer(primary)
    before = {name: watching.transitions(name) for name in plan.NODES}

    def lost_thousand() -> bool:
        # Many times the dead interval, and longer than a lease and three times `verify`.
        with cutter.CutWord(primary) as word:
            return word.dropped()["ha0"]["in"] > 1000

    def deafen() -> None:
        lab.heal(primary)
        agents.wait_fit()
        lab.cut_link(primary, "ha0", one_way=cutter.IN)

    watching.unnoticed(
        deafen,
        lost_thousand,
        "a thousand heartbeats are lost",
        owner=primary,
    )
    said = agents.show(primary)
    assert said is not None
    assert said["peer"]["watch"] != "alive", "it is really deaf"
    assert watching.serves(primary)
    assert not watching.serves(survivor)
    lab.heal(primary)
    assert agents.wait_fit() == primary
    assert {name: watching.transitions(name) for name in plan.NODES} == before
