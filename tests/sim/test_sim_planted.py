# SPDX-License-Identifier: Apache-2.0
"""Does the simulator find what it is there for? Faults are planted, one at a time.

Each one spoils one thing that the safety of the pair rests on, in the maps, the orders or the
disk of both nodes, and must be found. One that no schedule finds means a rule without teeth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sim import schedule
from sim.node import Agent, SimNode
from twinbeat.core import election
from twinbeat.core.damping import Damper
from twinbeat.core.effects import Effects
from twinbeat.core.follower import Follower
from twinbeat.core.knowledge import Knowledge
from twinbeat.core.types import (
    Flag,
    Order,
    PeerView,
    Permit,
    Policy,
    TermBlock,
    Timers,
    TrackedHealth,
)
from twinbeat.health.board import Board, SetTrack, Spec, Standing, Track
from twinbeat.runtime.watchdog import Watchdog

SCHEDULES = 1000
"""By so many at most each plant has to be found."""

Patch = pytest.MonkeyPatch


def around(patch: Patch, owner: Any, name: str, wrap: Callable[..., Any]) -> None:
    """Replace a method by one that is handed the original first."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: wrap(original, *args, **kwargs))


def no_fence(patch: Patch) -> None:
    """A claim that is heard shuts no gate."""

    def receive(original: Any, node: SimNode, link: int, payload: bytes) -> Any:
        before = node.plain.gate.fence_below if node.powered else 0
        reason = original(node, link, payload)
        if node.powered:
            node.plain.gate.fence_below = before
        return reason

    around(patch, SimNode, "receive", receive)


def no_contest(patch: Patch) -> None:
    """An open peer that is heard doesn't shut the own gate."""

    def receive(original: Any, node: SimNode, link: int, payload: bytes) -> Any:
        reason = original(node, link, payload)
        if node.powered:
            node.plain.gate.contested = 0
        return reason

    around(patch, SimNode, "receive", receive)


def false_receipts(patch: Patch) -> None:
    """Every frame of the peer looks like a receipt."""

    def round_(original: Any, node: SimNode, agent: Agent) -> None:
        if node.powered and agent.engine.claim:
            node.plain.peer.fence_below = agent.engine.claim
        original(node, agent)

    around(patch, SimNode, "_round", round_)


def endless_lease(patch: Patch) -> None:
    """The gate stays open whatever becomes of the engine."""

    def act(original: Any, node: SimNode, agent: Agent) -> None:
        if agent.actions.renew or agent.actions.open:
            agent.actions.open_until += 1 << 40
        original(node, agent)

    around(patch, SimNode, "_act", act)


def endless_attestation(patch: Patch) -> None:
    """Python's attestation is never looked at again."""

    def set_order(original: Any, node: SimNode, agent: Agent, order: Order) -> None:
        original(node, agent, order)
        agent.input.order.attested_until_ns = 1 << 62

    def execute(original: Any, node: SimNode, agent: Agent, effects: Effects) -> None:
        original(node, agent, effects)
        agent.input.order.attested_until_ns = 1 << 62

    around(patch, SimNode, "set_order", set_order)
    around(patch, SimNode, "execute", execute)


def replays_accepted(patch: Patch) -> None:
    """The place of a counter isn't taken: a recording passes for a frame."""

    def receive(original: Any, node: SimNode, link: int, payload: bytes) -> Any:
        if node.powered:
            node.plain.link[link].hello_counter = node.plain.link[link].answer_counter = 0
        return original(node, link, payload)

    around(patch, SimNode, "receive", receive)


def terms_not_on_disk(patch: Patch) -> None:
    """Terms are used before, and though, the disk never heard of them."""

    def reserve(original: Any, node: SimNode, agent: Agent, block: TermBlock) -> None:
        before = node.disk.reserved
        original(node, agent, block)
        node.disk.reserved = before

    around(patch, SimNode, "_reserve", reserve)


def stay_secondary_claims(patch: Patch) -> None:
    """What the operator took away is granted all the same."""

    def permitted(original: Any, facts: election.Facts) -> Any:
        permits, refusals = original(facts)
        if facts.admin.never_claims:
            permits |= Permit.MAY_CLAIM_DEAD | Permit.MAY_CLAIM_IDLE | Permit.MAY_CLAIM_STALLED
        return permits, refusals

    around(patch, election, "permitted", permitted)


def pause_forgotten(patch: Patch) -> None:
    """A paused node claims."""

    def permitted(original: Any, facts: election.Facts) -> Any:
        permits, refusals = original(facts)
        if facts.paused:
            permits = permits & ~Permit.PAUSED | Permit.MAY_CLAIM_DEAD | Permit.MAY_CLAIM_STALLED
        return permits, refusals

    around(patch, election, "permitted", permitted)


def pause_of_the_lost_never_ends(patch: Patch) -> None:
    """Who isn't heard stays paused, though it said for how long."""
    patch.setattr(Knowledge, "peer_pause_ends_ns", 0)


def pause_of_the_lost_is_cut_short(patch: Patch) -> None:
    """Half of what it said."""

    def heard(original: Any, known: Knowledge, peer: PeerView) -> Any:
        return original(known, replace(peer, pause_left_ns=(peer.pause_left_ns + 1) // 2))

    around(patch, Knowledge, "_hear_pause", heard)


def nobody_claims(patch: Patch) -> None:
    """No order permits a claim where the peer is heard."""

    def permitted(original: Any, facts: election.Facts) -> Any:
        permits, refusals = original(facts)
        return permits & ~(Permit.MAY_CLAIM_IDLE | Permit.MAY_CLAIM_STALLED), refusals

    around(patch, election, "permitted", permitted)


def no_proof_needed(patch: Patch) -> None:
    """One late probe is enough for a death."""

    def settings(original: Any, node: SimNode, timers: Timers) -> Any:
        settings = original(node, timers)
        settings.probes = 0
        settings.timers.verify = 20_000
        return settings

    around(patch, SimNode, "c_settings", settings)


def ties_yield(patch: Patch) -> None:
    """A primary yields to a peer that is no better."""

    def better(original: Any, facts: election.Facts) -> bool:
        if original(facts):
            return True
        peer: PeerView | None = facts.peer
        equal = peer is not None and peer.health == facts.health
        return equal and election.successor(facts, even_if_unfit=True) is None

    around(patch, election, "better_peer", better)


def fail_safe_forgotten(patch: Patch) -> None:
    """Whatever is configured, a node that isn't up doesn't serve."""

    def policy(original: Any, node: SimNode) -> Policy:
        return replace(original(node), fail_safe=False)

    around(patch, SimNode, "policy", policy)


def unfit_serves(patch: Patch) -> None:
    """Whatever is configured, a node that isn't up goes on."""

    def policy(original: Any, node: SimNode) -> Policy:
        return replace(original(node), fail_safe=True)

    around(patch, SimNode, "policy", policy)


def isolation_ignored(patch: Patch) -> None:
    """Who reaches none of his references claims all the same."""

    def permitted(original: Any, facts: election.Facts) -> Any:
        return original(replace(facts, isolated=False))

    def set_order(original: Any, node: SimNode, agent: Agent, order: Order) -> None:
        original(node, agent, replace(order, flags=order.flags & ~Flag.ISOLATED))

    around(patch, election, "permitted", permitted)
    around(patch, SimNode, "set_order", set_order)


def fencing_not_waited_for(patch: Patch) -> None:
    """A silent peer is taken over from before its power is cut, whatever is configured."""

    def permitted(original: Any, facts: election.Facts) -> Any:
        permits, refusals = original(replace(facts, peer_fenced=True))
        return permits & ~Permit.UNHEARD, refusals

    around(patch, election, "permitted", permitted)


def recovery_counts_at_once(patch: Patch) -> None:
    """Better health isn't held down."""

    def hold(original: Any, damper: Damper) -> int:
        return original(damper) // 2

    around(patch, Damper, "_hold_ns", hold)


def failure_is_held_down(patch: Patch) -> None:
    """Worse health counts as late as better health does."""

    def see(original: Any, damper: Damper, health: TrackedHealth, now_ns: int) -> None:
        if damper.seen is None or health.score >= damper.health.score:
            original(damper, health, now_ns)

    around(patch, Damper, "see", see)


def routes_left_behind(patch: Patch) -> None:
    """Who isn't primary any more keeps the primary's routes."""

    def turn(original: Any, follower: Follower, *args: Any) -> None:
        original(follower, *args)
        follower._draft.remove_routes = False

    around(patch, Follower, "_turn", turn)


def set_fails_with_one(patch: Patch) -> None:
    """A set of links fails with the first of its members."""

    def judge(original: Any, board: Board, one: SetTrack) -> Standing:
        standings = {board.tracks[name].standing for name in one.spec.members}
        return Standing.FAILED if Standing.FAILED in standings else original(board, one)

    around(patch, Board, "_judge_set", judge)


def lost_route_is_excused(patch: Patch) -> None:
    """A start delay never ends."""

    def fresh(original: Any, board: Board, spec: Spec, now_ns: int) -> Track:
        track = original(board, spec, now_ns)
        if spec.start_delay_ns:
            track.excused_until_ns = 1 << 62
        return track

    around(patch, Board, "_fresh", fresh)


def pinged_by_the_engine(patch: Patch) -> None:
    """The watchdog is pinged though the loop that decides hangs."""

    def act(original: Any, node: SimNode, agent: Agent) -> None:
        if node.ground.dog.armed:
            node.ground.dog.ping()
        original(node, agent)

    around(patch, SimNode, "_act", act)


def pinged_too_late(patch: Patch) -> None:
    """The watchdog's time is over before it is pinged."""

    def ping(original: Any, watchdog: Watchdog, now_ns: int) -> None:
        original(watchdog, now_ns)
        watchdog._due_ns += 1 << 40

    around(patch, Watchdog, "_ping", ping)


PLANTS: list[tuple[Callable[[Patch], None], set[str]]] = [
    (no_fence, {"ONE_OWNER", "SOMEONE"}),
    (no_contest, {"ONE_OWNER"}),
    (false_receipts, {"ONE_OWNER"}),
    (endless_lease, {"LEASE"}),
    (endless_attestation, {"LEASE"}),
    (replays_accepted, {"FORGE"}),
    (terms_not_on_disk, {"TERM"}),
    (stay_secondary_claims, {"NO_SURPRISE", "STATE"}),
    (pause_forgotten, {"NO_SURPRISE"}),
    (pause_of_the_lost_never_ends, {"SOMEONE"}),
    (pause_of_the_lost_is_cut_short, {"NO_SURPRISE"}),
    (nobody_claims, {"SOMEONE", "FAIL_SAFE"}),
    (no_proof_needed, {"ONE_OWNER"}),
    (ties_yield, {"STEADY", "SOMEONE"}),
    (fail_safe_forgotten, {"FAIL_SAFE"}),
    (unfit_serves, {"FAIL_SAFE"}),
    (isolation_ignored, {"ISOLATED"}),
    (fencing_not_waited_for, {"FENCED"}),
    (recovery_counts_at_once, {"DAMPED"}),
    (failure_is_held_down, {"DAMPED", "STEADY", "SOMEONE"}),
    (routes_left_behind, {"ROUTES"}),
    (set_fails_with_one, {"HEALTH"}),
    (lost_route_is_excused, {"HEALTH"}),
    (pinged_by_the_engine, {"WATCHDOG"}),
    (pinged_too_late, {"WATCHDOG"}),
]


@pytest.mark.parametrize(("plant", "rules"), PLANTS, ids=lambda each: getattr(each, "__name__", ""))
def test_a_planted_fault_is_found(
    plant: Callable[[Patch], None],
    rules: set[str],
    monkeypatch: Patch,
    record_property: Callable[[str, object], None],
) -> None:
    plant(monkeypatch)
    for seed in range(SCHEDULES):
        violation = schedule.run(seed).violation
        if violation is not None:
            record_property("figures", f"planted: {plant.__name__} found by schedule {seed}")
            assert violation.split(":")[0] in rules, violation
            return
    pytest.fail(f"{SCHEDULES} schedules did not find it")
