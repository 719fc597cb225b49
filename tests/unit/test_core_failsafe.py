# SPDX-License-Identifier: Apache-2.0
"""The fail-safe truth table of the reference product, played by two real nodes, row by row.

The nodes are those of the simulator: the real machine, the real engine, the real rules of the
kernel, in a world where nothing is late. NOT_UP is what a monitor of default weight makes of a
node: a score of 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from sim.network import MS, US
from sim.node import Setting, SimNode
from sim.world import World
from twinbeat.core.effects import Effects
from twinbeat.core.events import AdminCommand, EngineEvent, HealthChanged
from twinbeat.core.reasons import Code
from twinbeat.core.types import Admin, Damping, FlipLimit, Role, TrackedHealth

UP = TrackedHealth()
NOT_UP = TrackedHealth(score=0, failed=("wan0",))
FAIR = TrackedHealth(score=600, failed=("dns",))
LOWERED = TrackedHealth(score=600, lowering=("dns",))


def pair(*, fail_safe: bool = True, **changes: object) -> World:
    """a serves, b watches; both UP. What is better counts at once, unless a test says so."""
    setting = replace(Setting(), damping=Damping(hold_ns=0), fail_safe=fail_safe)
    world = World(1, replace(setting, **changes), calm=True)  # type: ignore[arg-type]
    world.a.boot()
    world.b.boot()
    world.run(10 * MS)
    assert roles(world) == "PS"
    return world


def roles(world: World) -> str:
    """P or S for each node, by its gate; its role says the same."""
    said = ""
    for node in world.nodes:
        assert node.agent is not None
        assert node.gate_open() is (node.agent.machine.role is Role.PRIMARY)
        said += "P" if node.gate_open() else "S"
    return said


def becomes(node: SimNode, health: TrackedHealth) -> None:
    """Its monitors say so, and there is time to act upon it."""
    node.tell(HealthChanged(health=health))
    node.world.run(15 * MS)


def stay(node: SimNode, status: Admin) -> None:
    node.tell(AdminCommand(request_id=f"{node.name}-{status.name}", status=status))
    node.world.run(10 * MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table: what fails in which order, and who serves at the end."""

    name: str
    fails: str
    stays_secondary: bool = False
    without: str
    with_it: str


TABLE = (
    Row(name="a failed last", fails="ba", without="SS", with_it="PS"),
    Row(name="a failed first", fails="ab", without="SS", with_it="SP"),
    Row(name="both up", fails="", without="PS", with_it="PS"),
    Row(name="b not up", fails="b", without="PS", with_it="PS"),
    Row(name="a not up", fails="a", without="SP", with_it="SP"),
    Row(
        name="a not up, b stays secondary",
        fails="a",
        stays_secondary=True,
        without="SS",
        with_it="PS",
    ),
)


@pytest.mark.parametrize("fail_safe", [False, True], ids=["off", "on"])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_truth_table(row: Row, fail_safe: bool) -> None:
    world = pair(fail_safe=fail_safe)
    if row.stays_secondary:
        stay(world.b, Admin.STAY_SECONDARY)
    for name in row.fails:
        becomes({"a": world.a, "b": world.b}[name], NOT_UP)
    assert roles(world) == (row.with_it if fail_safe else row.without)


def test_the_setting_is_each_nodes_own() -> None:
    """a may serve unfit, b may not: both fail, and the last primary was b."""
    world = pair()
    assert world.b.agent is not None
    b = world.b.agent.machine
    b._known.policy = replace(b._known.policy, fail_safe=False)
    becomes(world.a, NOT_UP)
    assert roles(world) == "SP"
    becomes(world.b, NOT_UP)
    assert roles(world) == "PS", "b has to give it up, a may take it"


def test_an_unfit_primary_passes_the_role_on_in_a_round_trip() -> None:
    """Fail-safe off: it yields, and shuts its gate only where nobody takes over."""
    world = pair(fail_safe=False)
    world.a.tell(HealthChanged(health=NOT_UP))
    nobody_ns = 0
    for _ in range(1000):
        world.run(10 * US)
        nobody_ns += 10 * US * (not any(node.gate_open() for node in world.nodes))
    assert roles(world) == "SP"
    assert nobody_ns <= 100 * US


def test_an_unfit_primary_whose_peer_does_not_come_shuts_its_gate_in_time() -> None:
    world = pair(fail_safe=False)
    world.b.hang_python()  # Its order permits the claim, but its attestation runs out.
    world.run(20 * MS)
    world.a.tell(HealthChanged(health=NOT_UP))
    world.run(20 * MS)
    assert not world.a.gate_open()


@pytest.mark.parametrize("fail_safe", [False, True], ids=["off", "on"])
def test_only_a_better_peer_is_yielded_to(fail_safe: bool) -> None:
    """Both are NOT_UP in part: ties keep the primary, points move it."""
    world = pair(fail_safe=fail_safe)
    becomes(world.b, FAIR)
    becomes(world.a, FAIR)
    assert roles(world) == ("PS" if fail_safe else "SS")
    becomes(world.a, NOT_UP)
    assert roles(world) == ("SP" if fail_safe else "SS")


def test_a_recovery_moves_nothing_by_itself() -> None:
    world = pair()
    becomes(world.a, NOT_UP)
    becomes(world.a, UP)
    assert roles(world) == "SP"


# -- damping -------------------------------------------------------------------------------------


def test_recovery_counts_when_it_has_held() -> None:
    world = pair(damping=Damping(hold_ns=20 * MS, hold_max_ns=80 * MS, forget_ns=0))
    becomes(world.b, NOT_UP)
    world.b.tell(HealthChanged(health=UP))
    world.run(MS)
    becomes(world.a, NOT_UP)
    assert roles(world) == "PS", "b is up again, and that doesn't count yet"
    world.run(20 * MS)
    assert roles(world) == "SP"


def test_detection_is_never_damped() -> None:
    world = pair(damping=Damping(hold_ns=20 * MS, hold_max_ns=80 * MS, forget_ns=0))
    becomes(world.b, UP)
    for _ in range(3):
        world.b.tell(HealthChanged(health=NOT_UP))
        world.run(MS)
        assert world.b.agent is not None
        assert world.b.agent.machine.facts.health == 0
        world.b.tell(HealthChanged(health=UP))
        world.run(MS)
    assert world.b.agent.machine.status.relapses == 3


# -- flips ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "good"), [(NOT_UP, UP), (NOT_UP, LOWERED), (LOWERED, UP)])
def test_a_primary_that_flipped_often_enough_is_sticky(
    bad: TrackedHealth, good: TrackedHealth
) -> None:
    """Each node is well in its turn, but never both: no new count begins."""
    world = pair(flip_limit=FlipLimit(flips=2))
    becomes(world.a, bad)  # First flip, on both nodes.
    becomes(world.b, bad)
    becomes(world.a, good)  # Second.
    assert roles(world) == "PS"
    becomes(world.a, bad)
    becomes(world.b, good)
    assert roles(world) == "PS"
    assert world.a.agent is not None
    assert world.a.agent.machine.status.sticky
    assert world.a.agent.machine.status.flips == 2


def test_sticky_ends_with_the_failure_after_all_recovered() -> None:
    world = pair(flip_limit=FlipLimit(flips=2))
    for node, health in ((world.a, NOT_UP), (world.b, NOT_UP), (world.a, FAIR), (world.b, UP)):
        becomes(node, health)
    assert roles(world) == "PS"
    assert world.a.agent is not None
    assert world.a.agent.machine.status.sticky
    becomes(world.a, UP)
    assert not world.a.agent.machine.status.sticky
    becomes(world.a, NOT_UP)
    assert roles(world) == "SP"
    for node in world.nodes:
        assert node.agent is not None
        assert node.agent.machine.status.flips == 1, "a new count on both"


def test_without_fail_safe_a_sticky_primary_serves_unfit() -> None:
    world = pair(fail_safe=False, flip_limit=FlipLimit(flips=1))
    becomes(world.a, NOT_UP)
    assert roles(world) == "SP"
    becomes(world.b, NOT_UP)
    assert roles(world) == "SP", "its one flip is used up"


def test_a_commanded_change_is_no_flip() -> None:
    world = pair(flip_limit=FlipLimit(flips=2))
    stay(world.b, Admin.STAY_PRIMARY)
    world.run(30 * MS)
    assert roles(world) == "SP"
    for node in world.nodes:
        assert node.agent is not None
        assert node.agent.machine.status.flips == 0


# -- two nodes told to stay primary --------------------------------------------------------------


def test_both_told_to_stay_primary_is_refused_or_named() -> None:
    world = pair()
    stay(world.a, Admin.STAY_PRIMARY)
    stay(world.b, Admin.STAY_PRIMARY)
    assert "refused both_stay_primary" in world.checks.covered
    for link in (0, 1):
        for end in (0, 1):
            world.cut(link, end)
    world.run(30 * MS)
    assert world.b.agent is not None
    # The peer is known, so even now it is refused; only a node that never heard it can't know.
    stay(world.b, Admin.STAY_PRIMARY)
    assert world.b.agent.machine.facts.admin is Admin.ENABLED
    memory = world.b.agent.machine._known.memory
    memory.state = replace(memory.state, admin=Admin.STAY_PRIMARY)
    world.heal_wires()
    world.run(40 * MS)
    winner = "a" if world.a.gate_open() else "b"
    for node in world.nodes:
        assert node.agent is not None
        assert node.agent.machine.status.conflict == winner
    before = roles(world)
    world.run(60 * MS)
    assert roles(world) == before, "a conflict moves nothing"
    stay(world.b, Admin.ENABLED)
    assert not world.a.agent.machine.status.conflict


class Ear:
    """Notes what both nodes say of a conflict."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def engine(self, node: SimNode, event: EngineEvent) -> None:
        """Only Python says it."""

    def core(self, node: SimNode, effects: Effects) -> None:
        for line in effects.logs:
            if line.reason.code is Code.CONFLICT:
                self.said.append((node.name, line.reason.sentence.partition(": ")[2]))


@pytest.mark.parametrize("first", [None, 0, 1])
def test_after_a_partition_both_name_the_same_one_once(first: int | None) -> None:
    world = pair()
    ear = world.narrator = Ear()
    for link in (0, 1):
        for end in (0, 1):
            world.cut(link, end)
    world.run(10 * MS)
    assert world.a.gate_open()
    assert world.b.gate_open()
    stay(world.a, Admin.STAY_PRIMARY)
    stay(world.b, Admin.STAY_PRIMARY)
    assert not ear.said
    if first is not None:  # One direction heals before the other: that decides who goes on.
        for link in world.links:
            link.path[first].mend(world.now_ns)
        world.run(5 * MS)
    world.heal_wires()
    world.run(40 * MS)
    winner = "a" if world.a.gate_open() else "b"
    assert sorted(ear.said) == [(name, f"{winner} goes first") for name in "ab"]


def test_every_row_has_a_reason() -> None:
    """Why nobody serves is said by both nodes."""
    world = pair(fail_safe=False)
    becomes(world.b, NOT_UP)
    becomes(world.a, NOT_UP)
    for node in world.nodes:
        assert node.agent is not None
        assert Code.UNHEALTHY in {each.code for each in node.agent.machine.status.withheld}
