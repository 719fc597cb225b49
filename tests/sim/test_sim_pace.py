# SPDX-License-Identifier: Apache-2.0
"""Intervals change on a pair that runs: both nodes come to the same, and nobody is suspected."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sim import faults
from sim.network import MS
from sim.node import Agent, SimNode
from sim.world import World
from twinbeat.core.events import SetTimers
from twinbeat.core.types import Intervals

CHANGES = 20


def interval(rng: random.Random) -> SetTimers:
    """Heartbeats from 200 µs to 5 ms, and the shortest dead interval that they allow."""
    hello_us = int(200 * 25 ** rng.random())
    dead_us = 3 * hello_us
    return SetTimers(
        request_id=f"t{rng.random()}",
        hello_us=hello_us,
        dead_us=dead_us,
        verify_us=max(300, hello_us // 4),
        lease_us=3 * dead_us,
        stall_us=dead_us,
    )


def changed(seed: int, *, loss: float = 0.0) -> World:
    """A pair after twenty changes, from both nodes, up and down, some before the last was over."""
    rng = random.Random(seed)
    world = World(seed, calm=True)
    world.a.boot()
    world.b.boot()
    world.run(10 * MS)
    assert world.a.gate_open()
    world.checks.covered.clear()
    world.checks.transitions.clear()
    for _ in range(CHANGES):
        for link in world.links:
            for path in link.path:
                path.loss = loss
        wanted = interval(rng)
        world.slowest = faults.slower(world.slowest, Intervals(**wanted.given))
        rng.choice(world.nodes).tell(wanted)
        world.run(rng.choice((1, 10, 60)) * MS)
    for link in world.links:
        for path in link.path:
            path.loss = 0.0
    world.run(400 * MS)
    return world


def kept(node: SimNode) -> Intervals | None:
    assert node.agent is not None
    return node.agent.machine.status.wish.intervals


@pytest.mark.parametrize("seed", range(12))
def test_nobody_is_suspected_and_nothing_moves(seed: int) -> None:
    world = changed(seed)
    assert not [what for what in world.checks.covered if what.startswith("suspect")]
    assert not world.checks.transitions
    assert world.a.gate_open()
    assert kept(world.a) is not None
    assert kept(world.a) == kept(world.b)
    for node in world.nodes:
        assert node.agent is not None
        engine, wanted = node.agent.engine, node.agent.timers
        assert (engine.hello, engine.dead) == (wanted.hello_ns, wanted.dead_ns)
        assert node.disk.durable.wish == node.agent.machine.status.wish
    assert "done timers_both" in world.checks.covered


@pytest.mark.parametrize("seed", range(6))
def test_lost_frames_delay_the_agreement_and_no_more(seed: int) -> None:
    """One frame in twenty is lost on each link: three in a row on both are not."""
    world = changed(seed, loss=0.05)
    assert not world.checks.transitions
    assert kept(world.a) == kept(world.b)


def test_without_the_rules_somebody_would_be_suspected(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SimNode._round

    def at_once(node: SimNode, agent: Agent) -> Any:
        wanted = agent.timers
        agent.engine.hello, agent.engine.dead = wanted.hello_ns, wanted.dead_ns
        agent.engine.settings.timers.hello = wanted.hello_ns
        node.plain.peer.hello_us = 0
        node.plain.peer.dead_us = 0
        return original(node, agent)

    monkeypatch.setattr(SimNode, "_round", at_once)
    world = changed(1)
    assert [what for what in world.checks.covered if what.startswith("suspect")]


def test_a_rebooted_node_takes_over_what_was_set_meanwhile() -> None:
    world = changed(3)
    world.b.power_off()
    world.run(100 * MS)
    wanted = SetTimers(request_id="alone", hello_us=300, dead_us=1_000, even_so=True)
    world.a.tell(wanted)
    world.run(20 * MS)
    assert "done timers_alone" in world.checks.covered
    world.b.boot()
    world.run(300 * MS)
    found = kept(world.b)
    assert found is not None
    assert (found.hello_us, found.dead_us) == (300, 1_000)
    assert found == kept(world.a)
