# SPDX-License-Identifier: Apache-2.0
"""Who serves first: the grounds decide, and not who was quicker to start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.network import MS
from sim.node import Setting, SimNode
from sim.world import World
from twinbeat.core.events import HealthChanged
from twinbeat.core.types import Admin, TrackedHealth

SETTING = Setting(boot_wait_ns=20 * MS)
SICK = TrackedHealth(score=0, failed=("wan0",))
SECOND_NS = 3 * SETTING.dead_ns + 3 * SETTING.verify_ns
"""More than whoever isn't preferred waits beside an idle peer."""


def born(*order: int, slow: int, after_ns: int, seed: int = 1) -> tuple[World, list[SimNode]]:
    """Two new nodes. The first of `order` starts at once, the second later; `slow` has a disk on
    which its start takes almost half the boot wait."""
    world = World(seed, SETTING, calm=True)
    world.nodes[slow].disk.latency_ns = 8 * MS
    nodes = [world.nodes[index] for index in order]
    nodes[0].boot()
    world.run(after_ns)
    nodes[1].boot()
    return world, nodes


def serves(world: World) -> bool:
    """Somebody serves at last; the world stands still at that moment."""
    return world.run_until(lambda: world.a.gate_open() or world.b.gate_open(), 30 * MS)


@pytest.mark.parametrize("after_ns", [0, 1 * MS, SETTING.boot_wait_ns // 2])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["a, then b", "b, then a"])
@pytest.mark.parametrize("slow", [0, 1], ids=["a is slow", "b is slow"])
def test_of_two_equal_nodes_the_lower_index_serves_first(
    after_ns: int, order: tuple[int, int], slow: int
) -> None:
    world, _ = born(*order, slow=slow, after_ns=after_ns)
    assert serves(world)
    assert world.a.gate_open()
    world.run(10 * MS)
    assert world.a.gate_open(), "and goes on"


@pytest.mark.parametrize("index", [0, 1], ids="ab")
def test_whoever_is_not_well_does_not_serve_first_however_slow_or_quick(index: int) -> None:
    for slow in range(2):
        world, _ = born(0, 1, slow=slow, after_ns=0)
        sick, well = world.nodes[index], world.nodes[1 - index]
        sick.tell(HealthChanged(health=SICK))
        assert serves(world)
        assert well.gate_open()


def test_whoever_goes_first_does_not_wait_for_the_other_to_start() -> None:
    """A node that is well takes the role beside one that starts and isn't."""
    world, _ = born(0, 1, slow=0, after_ns=0)
    world.a.tell(HealthChanged(health=SICK))
    assert world.run_until(world.b.gate_open, 4 * MS)


def test_who_was_told_to_stay_primary_serves_first_though_it_is_slow() -> None:
    world = World(1, SETTING, calm=True)
    world.b.disk.latency_ns = 8 * MS
    world.b.disk.durable = replace(world.b.disk.durable, admin=Admin.STAY_PRIMARY)
    for node in world.nodes:
        node.boot()
    assert serves(world)
    assert world.b.gate_open()


def test_whoever_goes_first_does_so_though_its_start_stalls() -> None:
    world, _ = born(0, 1, slow=0, after_ns=0)
    world.run(2 * MS)
    world.a.stop()
    world.run(6 * MS)
    assert not world.b.gate_open()
    world.a.cont()
    assert serves(world)
    assert world.a.gate_open()


def test_a_start_that_never_ends_is_not_waited_for_longer_than_starts_last() -> None:
    world, _ = born(1, 0, slow=0, after_ns=SETTING.boot_wait_ns // 2)
    world.a.hang_python()
    assert not world.run_until(world.b.gate_open, SETTING.boot_wait_ns)
    assert world.run_until(world.b.gate_open, SECOND_NS)
