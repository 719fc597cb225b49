# SPDX-License-Identifier: Apache-2.0
"""Schedules about nothing but the witness: partitions while frames and answers take their time.

The random schedules of `sim.schedule` break everything now and then; whether a word was counted
from the right moment shows only where a cut, a slow answer and a claim meet. Here they always do.
"""

from __future__ import annotations

from dataclasses import replace

from sim import faults
from sim.invariants import Violation, check_someone
from sim.network import MS, US
from sim.node import SimNode
from sim.schedule import Result, bound_ns, setting_of
from sim.world import World
from twinbeat.core.table import StateError

PARTITIONS = 3


def run(seed: int) -> Result:
    """Play the ordeal of `seed`. A broken rule is told, not raised."""
    world = World(seed)
    rng = world.rng
    world.setting = replace(setting_of(rng), witness_ns=rng.choice((6, 12, 24)) * MS)
    trace: list[str] = []

    def say(what: str) -> None:
        trace.append(f"{world.now_ns / 1e6:9.3f}  {what}")

    violation = None
    try:
        for node in world.nodes:
            node.boot()
        for _ in range(PARTITIONS):
            faults.make_well(world)
            check_someone(world, bound_ns(world), steady_ns=world.setting.witness_ns)
            serving = next(node for node in world.nodes if node.gate_open())
            say(f"{serving.name} serves")
            for what in _partition(world, serving):
                say(what)
        faults.make_well(world)
        check_someone(world, bound_ns(world), steady_ns=4 * world.setting.lease_ns)
    except Violation as broken:
        violation = str(broken)
    except (StateError, AssertionError) as broken:
        violation = f"STATE: {broken}"
    if violation is not None:
        say(violation)
    return Result(
        seed=seed,
        steps=world.steps,
        faults=PARTITIONS,
        overlaps=world.checks.overlaps,
        covered=frozenset(world.checks.covered),
        violation=violation,
        trace=tuple(trace),
    )


def _partition(world: World, serving: SimNode) -> list[str]:
    """Everything slow in its own way, then the cut, and time for old words to run out."""
    rng, lease_ns = world.rng, world.setting.witness_ns
    other = world.nodes[1 - serving.index]
    told = []
    for node in world.nodes:
        way = world.witness.ways[node.index]
        way.there_ns, way.back_ns = (
            rng.choice((100 * US, rng.randrange(lease_ns // 2))) for _ in range(2)
        )
        way.jitter_ns = rng.choice((50 * US, lease_ns // 4))
        told.append(
            f"{node.name} to the witness: there {way.there_ns // US} us, back "
            f"{way.back_ns // US} us, varying by {way.jitter_ns // US} us"
        )
    world.run(rng.randrange(lease_ns))
    # Frames that were sent before the cut are under way for long, and arrive after it.
    held_ns = rng.choice((0, rng.randrange(lease_ns), rng.randrange(2 * lease_ns)))
    for link in world.links:
        link.path[other.index].delay_ns += held_ns
    told.append(f"frames of {other.name} take {held_ns // US} us longer")
    world.run(rng.randrange(2 * MS))
    order = [(link, index) for link in range(2) for index in range(2)]
    rng.shuffle(order)
    for link, index in order:
        world.cut(link, index)
        world.run(rng.choice((0, rng.randrange(300 * US))))
    told.append("all links are silent")
    for node in world.nodes:
        length = rng.randrange(2 * lease_ns)
        what = rng.randrange(5)
        if what == 0:
            node.stop()
            world.at(world.now_ns + length, node.cont)
            told.append(f"{node.name} is stopped for {length // US} us")
        elif what == 1:
            node.pause_in_round_ns = length
            told.append(f"{node.name} is held up in its round for {length // US} us")
    world.run(2 * lease_ns + rng.randrange(2 * lease_ns))
    return told
