# SPDX-License-Identifier: Apache-2.0
"""What the simulator once found, told again in as few words as possible.

A seed is a history only as long as nothing about the simulator changes; these stay what they are.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from sim import faults
from sim.network import MS, US
from sim.node import Disk, Setting, SimNode
from sim.world import World
from twinbeat.core.effects import Effects
from twinbeat.core.events import (
    AdminCommand,
    EngineEvent,
    ForceFailover,
    ForceYield,
    IsolationChanged,
    Pause,
)
from twinbeat.core.types import Admin, EngineEventKind, Flag, Intervals, Role


def pair(setting: Setting | None = None, seed: int = 1) -> World:
    """a serves, b watches, nothing is late."""
    world = World(seed, setting or Setting(), calm=True)
    world.a.boot()
    world.b.boot()
    world.run(20 * MS)
    assert world.a.gate_open()
    return world


def role(node: SimNode) -> Role:
    assert node.agent is not None
    return node.agent.machine.role


@pytest.mark.parametrize(
    "lost",
    [
        {EngineEventKind.OPENED},
        {EngineEventKind.CLAIM, EngineEventKind.OPENED},
        {EngineEventKind.CLOSED},
        {EngineEventKind.ABANDONED},
    ],
    ids=lambda lost: "+".join(sorted(kind.name for kind in lost)),
)
def test_lost_events_are_put_right_though_nothing_else_happens(lost: set[EngineEventKind]) -> None:
    """The loop tells of the engine's state once, when it changes: that it stays so, time tells."""
    world = pair()
    for node in world.nodes:
        node.events_to_lose = set(lost)
    world.b.tell(ForceFailover(request_id="f", even_if_unfit=True))
    world.run(20 * MS)
    assert world.b.gate_open()
    assert (role(world.a), role(world.b)) == (Role.SECONDARY, Role.PRIMARY)


def test_recordings_of_an_unheard_peer_hold_a_booting_node_up_once() -> None:
    """Somebody who recorded what a node never heard may delay it, and not forbid it to serve."""
    world = pair(Setting(claim_alone=True))
    world.b.power_off()
    path = world.links[1].path[world.a.index]
    path.tape = deque(maxlen=64)
    world.run(6 * MS)
    tape = list(path.tape)
    assert len(tape) > 20
    assert world.a.gate_open()
    world.a.power_off()
    world.b.boot()

    def again(at: int) -> None:
        world.deliver(world.b.index, 1, tape[at % len(tape)], False)
        world.at(world.now_ns + 300 * US, again, at + 1)

    again(0)
    assert not world.run_until(world.b.gate_open, 10 * MS), "they do count, for once"
    assert world.run_until(world.b.gate_open, 60 * MS)


def test_a_success_of_fencing_that_comes_late_is_of_the_boot_before() -> None:
    """The peer was fenced, came back, was heard and fell silent again before the device said so."""
    world = pair(Setting(fence="before"))
    world.fence.slow_ns = 2
    world.fence.says_after_ns = 30 * MS
    silent(world)
    assert world.run_until(lambda: not world.a.powered, 10 * MS), "it is fenced"
    world.fence.works = False
    world.heal_wires()
    assert world.run_until(world.b.gate_open, 10 * MS), "it answers while it boots"
    world.run(5 * MS)
    world.a.tell(ForceFailover(request_id="f", even_if_unfit=True))
    assert world.run_until(world.a.gate_open, 5 * MS)
    silent(world)
    world.run(40 * MS)
    assert world.a.gate_open()
    assert not world.b.gate_open()


def test_who_is_heard_by_frames_further_apart_than_the_own_dead_interval_is_yielded_to() -> None:
    """b was given longer intervals alone, and hears nobody: a, whom it doesn't hear, yields."""
    world = pair()
    slow = Intervals(hello_us=1000, dead_us=3000, verify_us=600, stall_us=3000, lease_us=8000)
    for node in world.nodes:
        node.power_off()
    durable = world.b.disk.durable
    world.b.disk.durable = replace(durable, wish=replace(durable.wish, intervals=slow))
    world.slowest = faults.slower(world.setting, slow)
    for link in world.links:
        link.path[world.a.index].loss = 1.0
    world.a.boot()
    assert world.run_until(world.a.gate_open, 40 * MS)
    world.b.boot()
    assert world.run_until(world.b.gate_open, 60 * MS)
    assert world.run_until(lambda: not world.a.gate_open(), 3 * MS)
    world.run(20 * MS)
    assert not world.a.gate_open()
    assert world.b.gate_open()


def silent(world: World) -> None:
    for link in world.links:
        for end in range(2):
            world.cut(link.number, end)


def test_who_is_heard_after_an_opening_was_decided_is_heard_too_late_for_it() -> None:
    """b's round is held up with an opening in it; meanwhile a, which was fenced, boots."""
    world = pair(Setting(fence="before"))
    world.fence.slow_ns = 2
    b = world.b

    class HoldsUp:
        """The round after that of the claim."""

        def engine(self, node: SimNode, event: EngineEvent) -> None:
            if node is b and event.kind is EngineEventKind.CLAIM:
                world.heal_wires()
                world.a.power_on()
                node.pause_in_round_ns = 2 * MS

        def core(self, node: SimNode, effects: Effects) -> None:
            """No matter."""

    world.narrator = HoldsUp()
    silent(world)
    assert world.run_until(lambda: world.fence.fenced_ns[0] >= 0, 10 * MS)
    heard_ns = world.checks.heard_ns[b.index]
    assert world.run_until(lambda: b.agent is not None and b.agent.engine.claim != 0, 5 * MS)
    assert world.run_until(b.gate_open, 5 * MS)
    assert world.checks.heard_ns[b.index] > heard_ns
    world.run(20 * MS)
    assert world.a.gate_open() + b.gate_open() == 1


def test_what_fencing_allowed_is_over_when_the_peer_is_heard_though_python_hangs() -> None:
    """The peer comes back and takes the role, and nobody is there to take the order back."""
    world = pair(Setting(fence="before"))
    for _ in range(2):  # Its block of terms is to be beyond that of a.
        world.b.power_off()
        world.b.boot()
        world.run(20 * MS)
    world.fence.slow_ns = 2
    silent(world)
    assert world.run_until(world.b.gate_open, 10 * MS), "a is fenced"
    world.run(1 * MS)
    world.b.hang_python()
    world.fence.works = False
    world.heal_wires()
    if not world.a.powered:
        world.a.boot()
    assert world.run_until(lambda: role(world.a) is Role.SECONDARY, 4 * MS)
    world.a.tell(ForceFailover(request_id="f", even_if_unfit=True))
    assert world.run_until(world.a.gate_open, 2 * MS)
    silent(world)
    world.run(20 * MS)
    assert not world.b.gate_open()


def test_a_peer_that_was_heard_untold_is_fenced_again() -> None:
    """Its fencing is over once it is heard, though the events of that find no room in the ring."""
    world = pair(Setting(fence="before"))
    silent(world)
    assert world.run_until(world.b.gate_open, 20 * MS), "a is fenced"
    kinds = EngineEventKind
    world.b.events_to_lose = {kinds.HEARD, kinds.CLEARED, kinds.STALLED}
    world.heal_wires()
    assert world.run_until(lambda: role(world.a) is Role.SECONDARY, 20 * MS)
    world.run(4 * MS)
    world.a.tell(ForceFailover(request_id="f", even_if_unfit=True))
    assert world.run_until(world.a.gate_open, 2 * MS)
    silent(world)
    assert world.run_until(world.b.gate_open, 40 * MS), "a is fenced again"


def test_answers_that_count_from_below_what_is_known_are_recordings_to_who_claims() -> None:
    """b lost its disk and its clock was set back, it serves unheard, and its agent is held up."""
    world = pair(Setting(claim_alone=True))
    silent(world)
    for node in world.nodes:
        node.power_off()
    world.b.disk, world.b.wall_clock = Disk(), 1
    world.checks.wiped(world.b)
    world.b.boot()
    assert world.run_until(world.b.gate_open, 40 * MS)
    world.a.boot()
    assert world.run_until(lambda: role(world.a) is Role.SECONDARY, 20 * MS)
    world.b.stop()
    world.heal_wires()
    assert world.run_until(world.a.gate_open, 2 * MS)
    assert world.b.gate_open(), "nothing that a accepts could have said so"
    assert world.b.plain.gate.counter <= world.a.plain.peer.known
    world.run(20 * MS)
    world.b.cont()
    world.run(20 * MS)
    assert [node.gate_open() for node in world.nodes] == [True, False]


def test_a_claim_that_was_decided_before_the_order_that_forbids_it_came_first() -> None:
    """b's round is held up with a claim in it, and meanwhile b reaches none of its references."""
    world = pair()
    world.a.tell(ForceYield(request_id="y"))
    assert world.run_until(lambda: bool(world.b.plain.peer.flags & Flag.YIELD), 2 * MS)
    world.b.pause_in_round_ns = 400 * US
    agent = world.b.agent
    assert agent is not None
    assert world.run_until(lambda: agent.engine.claim != 0, 1 * MS)
    world.b.tell(IsolationChanged(isolated=True))
    world.run(200 * US)
    assert agent.machine.facts.isolated
    assert "claim yielded" not in world.checks.covered, "it isn't carried out yet"
    world.run(20 * MS)
    assert "claim yielded" in world.checks.covered
    assert not world.b.gate_open(), "it is carried no further"


def test_the_operator_repeats_what_a_power_cut_may_have_lost() -> None:
    """b is cut off its power after it was enabled, and before that was on its disk."""
    world = pair()
    world.b.tell(AdminCommand(request_id="d", status=Admin.DISABLED))
    world.run(5 * MS)
    assert role(world.b) is Role.DISABLED
    faults.mend(world)
    assert world.run_until(lambda: role(world.b) is Role.SECONDARY, 1 * MS)
    assert world.b.disk.durable.admin is Admin.DISABLED
    world.b.power_off()
    world.b.boot()
    assert world.run_until(lambda: role(world.b) is Role.DISABLED, 5 * MS)
    assert world.run_until(lambda: role(world.b) is Role.SECONDARY, 20 * MS)


def test_a_claim_that_was_decided_while_its_order_stood_came_before_that_ran_out() -> None:
    """b is stopped with a claim in its round, for longer than its order is attested."""
    world = pair()
    world.a.tell(ForceYield(request_id="y"))
    assert world.run_until(lambda: bool(world.b.plain.peer.flags & Flag.YIELD), 2 * MS)
    world.b.pause_in_round_ns = 400 * US
    agent = world.b.agent
    assert agent is not None
    assert world.run_until(lambda: agent.engine.claim != 0, 1 * MS)
    world.b.stop()
    world.run(world.setting.attest_ns + 1 * MS)
    assert world.b.clock() > agent.input.order.attested_until_ns
    assert "claim yielded" not in world.checks.covered
    world.b.cont()
    world.run(20 * MS)
    assert "claim yielded" in world.checks.covered
    assert world.a.gate_open() + world.b.gate_open() == 1


def test_a_verdict_is_by_what_had_been_heard_when_its_round_was_decided() -> None:
    """b's round is held up with a verdict in it, and meanwhile a boots; its agent is killed."""
    world = pair()
    world.a.power_off()
    while "dead none" not in world.checks.covered:
        world.run(1 * US)
    said_ns = world.now_ns
    world = pair()  # The same again.
    world.a.power_off()
    world.run(said_ns - 3 * US - world.now_ns)
    world.b.pause_in_round_ns = 2 * MS
    world.run(5 * US)
    assert not world.b.pause_in_round_ns
    world.a.boot()
    world.a.kill()
    world.run(1 * MS)
    assert "dead none" not in world.checks.covered, "it isn't carried out yet"
    world.run(20 * MS)
    assert "dead none" in world.checks.covered
    assert world.b.gate_open()


def test_a_command_under_the_id_of_one_that_is_waited_for_is_that_command() -> None:
    """It was carried out as another one, and both were answered under one id."""
    world = pair()
    world.b.disk.latency_ns = 3 * MS
    for status in (Admin.DISABLED, Admin.ENABLED):
        world.b.tell(AdminCommand(request_id="r", status=status))
        world.run(1 * MS)
        assert world.checks.bound[1] is None, "it isn't answered yet"
    world.run(5 * MS)
    assert world.checks.bound[1] is Admin.DISABLED
    assert role(world.b) is Role.DISABLED


def paused(node: SimNode) -> bool:
    """It heeds a pause of its peer's."""
    assert node.agent is not None
    return node.agent.machine.facts.peer_paused


def cut_off(world: World) -> None:
    for link in range(len(world.links)):
        for end in range(2):
            world.cut(link, end)


def test_the_pause_of_a_lost_peer_lasts_as_long_as_it_said_over_a_reboot() -> None:
    world = pair()
    world.b.tell(Pause(request_id="p", for_ns=30 * MS))
    world.run(6 * MS)
    world.a.power_off()
    cut_off(world)
    world.a.boot()
    world.run(2 * MS)
    assert paused(world.a)
    world.run(18 * MS)
    assert paused(world.a)
    world.run(8 * MS)
    assert not paused(world.a)


def test_a_pause_that_only_a_lost_disk_knew_is_forgotten_until_the_next_one_knows_it() -> None:
    """Its node hears of it again, and loses its power before that is written."""
    world = pair(replace(Setting(), claim_alone=True))
    world.b.tell(Pause(request_id="p", for_ns=60 * MS))
    world.run(6 * MS)
    world.a.power_off()
    world.a.wipe()
    world.a.boot()
    while not paused(world.a):
        world.run(10 * US)
    assert not world.a.disk.durable.peer_paused
    world.a.power_off()
    cut_off(world)
    world.a.boot()
    world.run(20 * MS)
    assert world.a.gate_open(), "it may serve: nobody told it of a pause that it could know"
