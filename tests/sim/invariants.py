# SPDX-License-Identifier: Apache-2.0
"""The safety rules of the design, each a function that raises `Violation` with its name.

Who is open is judged by the rule of the gate on each node's maps, as packets would see it: after
everything that happens, for both nodes. A lease that runs out is seen with the next thing that
happens, which is never later than the next round of a living engine.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.network import MS, US
from twinbeat.core.effects import Effects, Outcome, Transition
from twinbeat.core.events import (
    AdminCommand,
    Command,
    EngineEvent,
    Event,
    HealthChanged,
    Pause,
    Resume,
    Tick,
)
from twinbeat.core.reasons import Code, Reason, Refusal
from twinbeat.core.types import FOREVER, Admin, Cause, EngineEventKind, Flag, Role, TrackedHealth
from twinbeat.engine._engine import ffi, lib

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import World

ACCEPTED = (lib.TB_R_HELLO, lib.TB_R_PROBE, lib.TB_R_ANSWER)

FORGE_MAY_TOUCH = frozenset({"mismatch_ns", "stranger_ns", "challenge_ns"})
"""Stamps of refusals: they say that something was refused, and decide nothing else."""


TERM_FIELDS = (ffi.offsetof("struct tb_frame", "term"), ffi.offsetof("struct tb_frame", "claim"))
FLAGS_AT = ffi.offsetof("struct tb_frame", "flags")
SMALL_TERMS = 1 << 20
"""Above it are the terms of nodes that begin them above their boot epoch."""


FLIGHT_NS = 1_000 * US
"""A frame is under way no longer."""
LATE_TURN_NS = 12_000 * US
"""A loop that nothing holds up turns at least twice as often."""
DRIFT = 50
"""A clock may be wrong by less than one part in so many."""


def flags_of(payload: bytes) -> int:
    """What a frame says in flags."""
    return int.from_bytes(payload[FLAGS_AT : FLAGS_AT + 4], "big")


PAUSE_LATE_NS = 2 * MS
"""A frame waits so long at most to be looked at, beside what rounding adds to what it says."""


def stretched(length_ns: int) -> int:
    """How long a time of a node may be by the world's clock."""
    return length_ns + length_ns // DRIFT


class Violation(AssertionError):  # noqa: N818 -- what is broken is a rule, not the program
    """A safety rule was broken."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(f"{rule}: {what}")
        self.rule = rule


@dataclass(slots=True)
class Overlap:
    """Both gates are open."""

    since_ns: int
    opener: int
    """The node that opened last."""
    cause: str


@dataclass(slots=True)
class Seen:
    """What the monitors of a node said in this run of its agent."""

    words: list[tuple[int, int]]
    """Times and scores, the newest last."""
    counts: int
    """The score that counted after the last step."""


class Checks:
    """The rules, and what they have to remember."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.overlap: Overlap | None = None
        self.overlaps = 0
        self.opened_by: list[str] = ["", ""]
        """By node: what its newest opening rested on."""
        self.opened_ns = [0, 0]
        self.was_open = [False, False]
        self.forgotten: tuple[set[int], set[int]] = (set(), set())
        """By node: terms that it used before and may use again, since nobody remembers them."""
        self.terms_used: dict[int, tuple[int, int]] = {}
        """Which node used a term, and when."""
        self.bound: list[Admin | None] = [None, None]
        """By node: a status that never claims and that the operator was told is in effect."""
        self.paused_until_ns = [0, 0]
        """By node: until when it is paused, as the operator was told."""
        self.paused_by = [0, 1]
        """By node: the node that was told so, and whose disk knows it."""
        self.forgot_pause = [False, False]
        """By node: its disk was lost, and doesn't know again yet that its peer is paused."""
        self.peer_pause_over_ns = [0, 0]
        """By node: when a pause is over of which its peer told, whatever happens to that one."""
        self.newest = ["", ""]
        """By node: the newest request that set its status."""
        self.requests: dict[tuple[int, str], Event] = {}
        self.resumed_ns = -1
        self.requested_ns: dict[tuple[int, str], int] = {}
        self.told: tuple[set[int], set[int]] = (set(), set())
        """By node: the terms that its peer told it of, as long as it can remember them."""
        self.wiped_ns = [-1, -1]
        """By node: when its disk was lost last."""
        self.powered_ns = [0, 0]
        self.jumped_ns = [0, 0]
        self.accepted: dict[tuple[int, int], deque[bytes]] = {
            (node, link): deque(maxlen=16) for node in range(2) for link in range(2)
        }
        """By node and link: the newest frames that were accepted."""
        self.heard_ns = [-1, -1]
        """By node: when it last accepted a frame."""
        self.seen_health: list[Seen | None] = [None, None]
        self.routes: list[bool | None] = [None, None]
        """By node: whether its agent was told last to install the primary's routes; None = it has
        just started."""
        self.transitions: list[tuple[int, Transition]] = []
        self.covered: set[str] = set()
        """Turns, causes and refusals that came up: what a run really tried."""

    # -- what happened ---------------------------------------------------------------------------

    def agent_started(self, node: SimNode) -> None:
        """The kernel may just have been switched on as well."""
        if node.plain.gate.counter == node.disk.epoch << 32:
            self.powered_ns[node.index] = self.world.now_ns
            if node.disk.reserved == 0:
                self.told[node.index].clear()
        self.seen_health[node.index] = None
        self.routes[node.index] = None
        # An agent remembers requests by id for as long as it lives: the next may use one anew.
        for asked in (self.requests, self.requested_ns):
            for key in [key for key in asked if key[0] == node.index]:
                del asked[key]

    def engine_event(self, node: SimNode, event: EngineEvent) -> None:
        """The engine did something; the gate is already as the event says."""
        i, kind = node.index, event.kind
        self.covered.add(f"{kind.name.lower()} {event.cause.name.lower()}")
        if kind is EngineEventKind.CLAIM:
            check_term(self, node, event)
            check_no_surprise(self, node, event)
        elif kind is EngineEventKind.OPENED:
            self.opened_by[i] = event.cause.name
            self.opened_ns[i] = self.world.now_ns
            check_fenced(self, node, event)
        elif kind is EngineEventKind.COUNTER_JUMP:
            self.jumped_ns[i] = self.world.now_ns
        elif kind is EngineEventKind.DEAD:
            check_no_false_death(self, node)

    def effects(self, node: SimNode, event: Event, effects: Effects) -> None:
        """The core wants something."""
        if isinstance(event, Command):
            self.requests.setdefault((node.index, event.request_id), event)
            self.requested_ns.setdefault((node.index, event.request_id), self.world.now_ns)
            if self.requests[node.index, event.request_id] is event:
                self._unbind(node.index, event)
        check_reason(effects)
        check_damped(self, node, event)
        check_routes(self, node, effects)
        if isinstance(event, Tick):
            check_pause_ends(self, node)
        if effects.reserve_terms is not None and node.disk.reserved == 0:
            check_first_terms(self, node, effects.reserve_terms.first)
        for record in effects.records:
            self.transitions.append((node.index, record))
            self.covered.add(f"{record.before.name} -> {record.after.name}")
        for reply in effects.replies:
            self.covered.add(f"{reply.outcome.value} {reply.reason.code.value}")
            if reply.outcome is Outcome.DONE:
                self._bind(node.index, reply.request_id, reply.reason.code)

    def _unbind(self, index: int, event: Event) -> None:
        """A new command: what was promised before holds no longer."""
        match event:
            case AdminCommand(request_id=request_id):
                self.bound[index] = None
                self.newest[index] = request_id
            case Resume():
                self.paused_until_ns[:] = [0, 0]
                self.resumed_ns = self.world.now_ns
            case Pause(for_ns=for_ns):
                # It may be in effect without being answered: a node can lose its power in between.
                until = self.world.now_ns + for_ns
                self.paused_until_ns[:] = [min(until, each) for each in self.paused_until_ns]
            case _:
                pass

    def _bind(self, index: int, request_id: str, code: Code) -> None:
        """The operator was told that it is so."""
        if code is Code.DONE_AFTER_CLAIM:
            return
        match self.requests.get((index, request_id)):
            case AdminCommand(status=status) if status.never_claims:
                if self.newest[index] == request_id:
                    self.bound[index] = status
            case Pause() if self.requested_ns[index, request_id] <= self.resumed_ns:
                pass  # Resumed since.
            case Pause(for_ns=for_ns):
                until = self.requested_ns[index, request_id] + for_ns - for_ns // DRIFT
                for paused in (0, 1) if code is Code.PAUSED_BOTH else (index,):
                    self.paused_until_ns[paused] = until
                    self.forgot_pause[paused] = False
                    self.paused_by[paused] = index
            case _:
                pass

    def wiped(self, node: SimNode) -> None:
        """What the operator said is lost with the disk."""
        self.wiped_ns[node.index] = self.world.now_ns
        if min(self.wiped_ns) >= 0:
            # Nobody is left who knows which counters were used: recordings of then are like new.
            for recordings in self.accepted.values():
                recordings.clear()
        self.bound[node.index] = None
        self.forgot_pause[node.index] = True
        for index in range(2):
            if self.paused_by[index] == node.index:
                self.paused_until_ns[index] = 0

    def reset(self, node: SimNode) -> None:
        """The watchdog of a machine has run out."""
        self.covered.add("reset by the watchdog")
        check_reset(self.world, node)

    def turns(self, node: SimNode) -> None:
        """The loop that decides does."""
        check_watchdog(self.world, node)

    def announced(self, node: SimNode) -> None:
        """A node wants to announce: only one that serves may (its egress gate sees to it)."""
        if not node.gate_open():
            self.covered.add("announcement dropped by the gate")

    def received(self, node: SimNode, link: int, payload: bytes, reason: int) -> None:
        """A frame came off the wire."""
        if reason in ACCEPTED:
            self.accepted[node.index, link].append(payload)
            self.heard_ns[node.index] = self.world.now_ns
            if flags_of(payload) & Flag.PAUSED:
                # What the disk doesn't know yet is lost with the power.
                if node.disk.durable.peer_paused:
                    self.forgot_pause[node.index] = False
                left_ns = lib.tb_pause_left_ns(flags_of(payload))
                over_ns = self.world.now_ns + stretched(left_ns) + left_ns // 8 + PAUSE_LATE_NS
                kept = self.peer_pause_over_ns
                kept[node.index] = max(kept[node.index], over_ns if left_ns else FOREVER)
            for at in TERM_FIELDS:
                self.told[node.index].add(int.from_bytes(payload[at : at + 8], "big"))
            check_one_owner_on_acceptance(self, node, payload)

    def after(self) -> None:
        """Something happened: look at both gates."""
        now_open = [node.gate_open() for node in self.world.nodes]
        check_one_owner(self, now_open)
        check_lease(self, now_open)


# -- ONE_OWNER -----------------------------------------------------------------------------------


def check_one_owner_on_acceptance(checks: Checks, node: SimNode, payload: bytes) -> None:
    """From the moment a frame from an open node is accepted at most one gate is open."""
    if not flags_of(payload) & Flag.OPEN:
        return
    world = checks.world
    if world.a.gate_open() and world.b.gate_open():
        raise Violation(
            "ONE_OWNER",
            f"{node.name} accepted a frame of its open peer, and both gates are open "
            f"(terms {world.a.plain.gate.term}, {world.b.plain.gate.term})",
        )


def check_one_owner(checks: Checks, now_open: list[bool]) -> None:
    """Two gates open at once only by silence, and only where nothing could get through."""
    world = checks.world
    both = now_open[0] and now_open[1]
    if both and world.setting.witness_ns and not world.setting.witness_serve:
        raise Violation(
            "WITNESS",
            f"both gates are open (terms {world.a.plain.gate.term} and "
            f"{world.b.plain.gate.term}), and the witness keeps {world.witness.kept}",
        )
    if both and checks.overlap is None:
        opener = 1 if not checks.was_open[1] else 0
        cause = checks.opened_by[opener]
        checks.overlap = Overlap(world.now_ns, opener, cause)
        checks.overlaps += 1
        checks.covered.add(f"overlap {cause.lower()}")
        if checks.opened_ns[opener] != world.now_ns:
            # A renewal that was held up may come after its lease, if nobody was told (R4).
            cause = checks.overlap.cause = "RENEWAL"
            if world.nodes[opener].last_act_ns != world.now_ns:
                raise Violation("ONE_OWNER", f"the kernel of {'ab'[opener]} reopened its gate")
        if cause == Cause.RECEIPT.name:
            raise Violation("ONE_OWNER", f"{'ab'[opener]} opened by receipt beside an open gate")
        check_silence_was_real(checks, opener)
    elif not both:
        checks.overlap = None
    if checks.overlap is not None:
        check_overlap_ends(checks, checks.overlap)
    checks.was_open = now_open


def check_silence_was_real(checks: Checks, opener: int) -> None:
    """Who opens beside an open gate must not have been able to hear of it."""
    world = checks.world
    since = world.now_ns - stretched(world.nodes[opener].timers.verify_ns)
    if could_be_answered(checks, opener, since) and world.clean_loop(since):
        raise Violation("ONE_OWNER", f"{'ab'[opener]} opened though its probes were answerable")


def check_pause_ends(checks: Checks, node: SimNode) -> None:
    """The pause of a peer that isn't heard is over when that said that it would be."""
    assert node.agent is not None
    facts = node.agent.machine.facts
    if not facts.peer_paused or facts.peer_heard:
        return
    if checks.world.now_ns > checks.peer_pause_over_ns[node.index]:
        raise Violation("SOMEONE", f"{node.name} outlasts the pause of a peer that isn't heard")


def could_be_answered(checks: Checks, asker: int, since_ns: int) -> bool:
    """Can answers to a node's probes have been told from recordings since a moment?

    They can't where the other one counts from below what is known of it, since its disk was lost
    and its clock set back, and not before its engine was told and jumped above that.
    """
    other = checks.world.nodes[1 - asker]
    return (
        other.powered
        and other.plain.gate.counter >= checks.world.nodes[asker].plain.peer.known
        and checks.jumped_ns[other.index] < since_ns
    )


def check_overlap_ends(checks: Checks, overlap: Overlap) -> None:
    """An overlap ends when a frame of an open node gets through: where one can, soon."""
    world, setting = checks.world, checks.world.slowest
    # A peer whose epoch can't be adopted is heard, not judged: who hears him yields after that.
    patience = stretched(3 * setting.hello_ns + 2 * setting.verify_ns) + 600 * US
    if world.now_ns - overlap.since_ns <= patience:
        return
    for sender in world.nodes:
        speaks = (
            sender.agent is not None
            and sender.fluent_since_ns < world.now_ns - patience
            and world.now_ns - sender.last_act_ns <= sender.timers.hello_ns
        )
        # Only a recording could have so low a counter: a disk was lost and a clock set back, and
        # the node hears nobody who could tell it. No frame of it may move anything (FORGE).
        listener = world.nodes[1 - sender.index]
        speaks = speaks and sender.plain.gate.counter >= listener.plain.peer.known
        if listener.plain.peer.epoch != sender.plain.gate.counter >> 32:
            # Heard, but not to be told from a recording: its engine yields, its kernel can't.
            speaks = (
                speaks
                and listener.agent is not None
                and listener.fluent_since_ns < world.now_ns - patience
                and world.now_ns - listener.last_act_ns <= listener.timers.hello_ns
            )
        if speaks and world.clean_path(sender.index, world.now_ns - patience):
            raise Violation(
                "ONE_OWNER",
                f"both gates open for {(world.now_ns - overlap.since_ns) // US} us though frames "
                f"of {sender.name} get through",
            )


def check_no_false_death(checks: Checks, node: SimNode) -> None:
    """DEAD is said of no node whose kernel answers: neither a busy nor a stalled agent is dead.

    It is said by what had been heard when the round was decided, however late it is carried out.
    """
    world = checks.world
    other = world.nodes[1 - node.index]
    assert node.agent is not None
    since = node.agent.decided_ns - stretched(node.timers.verify_ns)
    if (
        could_be_answered(checks, node.index, since)
        and checks.powered_ns[other.index] < since
        and world.clean_loop(since - stretched(node.timers.dead_ns))
    ):
        raise Violation("ONE_OWNER", f"{node.name} says dead of a node whose kernel could answer")


# -- LEASE ---------------------------------------------------------------------------------------


def check_lease(checks: Checks, now_open: list[bool]) -> None:
    """An engine that is held up serves no longer than its lease; Python no longer than both."""
    world, setting = checks.world, checks.world.slowest
    for node in world.nodes:
        if not now_open[node.index]:
            continue
        agent, lease = node.agent, node.lease_ns
        if world.now_ns - node.last_act_ns > stretched(lease):
            raise Violation("LEASE", f"{node.name} serves without its engine")
        if agent is None:
            continue
        attested = max(setting.attest_ns, setting.lease_ns * 3 // 2)
        if node.clock() - agent.attested_at_ns > attested + lease:
            raise Violation("LEASE", f"{node.name} serves without its Python")


# -- TERM ----------------------------------------------------------------------------------------


def check_term(checks: Checks, node: SimNode, event: EngineEvent) -> None:
    """Terms are used once, by one node, after they were reserved on disk; and they grow."""
    term = event.a
    used_by, used_ns = checks.terms_used.get(term, (None, 0))
    peer = checks.world.nodes[1 - node.index]
    # Without its clock it can know only from its peer, and that one only while it runs.
    unknowable = node.clock_behind and (peer.agent is None or peer.agent.engine.highest < term)
    unknowable = unknowable and checks.wiped_ns[node.index] >= used_ns
    if used_by is not None and not unknowable and term not in checks.forgotten[node.index]:
        raise Violation("TERM", f"{node.name} claims {term}, which {'ab'[used_by]} used before")
    checks.forgotten[node.index].discard(term)
    checks.terms_used[term] = node.index, checks.world.now_ns
    if term & 1 != node.index:
        raise Violation("TERM", f"{node.name} claims {term}, a number of its peer")
    if term > node.disk.reserved:
        raise Violation("TERM", f"{node.name} claims {term}, which its disk has not reserved")
    assert node.agent is not None
    if term < node.agent.input.gate.fence_below:
        raise Violation("TERM", f"{node.name} claims {term}, which is fenced")


def check_first_terms(checks: Checks, node: SimNode, first: int) -> None:
    """Small terms are for a new pair: two nodes whose disks know of none, or lost what they knew.

    Then the old terms may come again, but for those that the peer was told of and remembers.
    """
    if first >= SMALL_TERMS:
        return
    used = {term for term, (index, _) in checks.terms_used.items() if index == node.index}
    checks.forgotten[node.index].update(used - checks.told[1 - node.index])


# -- NO_SURPRISE ---------------------------------------------------------------------------------


def check_no_surprise(checks: Checks, node: SimNode, event: EngineEvent) -> None:
    """What the operator was told is in effect is kept; nothing is claimed without a valid order."""
    agent = node.agent
    assert agent is not None
    if not agent.decided_ordered:
        raise Violation("NO_SURPRISE", f"{node.name} claims without a valid order")
    if event.cause is Cause.RENEW:
        return  # A reign that goes on isn't a takeover.
    if agent.decided_isolated:
        raise Violation("ISOLATED", f"{node.name} claims though it reaches none of its references")
    bound = checks.bound[node.index]
    if bound is not None:
        raise Violation("NO_SURPRISE", f"{node.name} claims though it was told {bound.name}")
    # R17: the last primary alone may claim again, where it hears that nobody serves.
    again = event.cause in (Cause.IDLE, Cause.DEAF) and agent.machine.facts.last_primary
    told = checks.world.now_ns < checks.paused_until_ns[node.index]
    if told and not again and not checks.forgot_pause[node.index]:
        raise Violation("NO_SURPRISE", f"{node.name} claims while paused ({event.cause.name})")


# -- REASON --------------------------------------------------------------------------------------


def check_reason(effects: Effects) -> None:
    """Nothing changes and nothing is refused without a code and a whole sentence."""
    reasons: list[Reason | Refusal] = [each.reason for each in effects.records]
    reasons += [each.reason for each in effects.logs]
    reasons += [each.reason for each in effects.replies]
    for reason in reasons:
        if not reason.sentence or "?" in reason.sentence or "{" in reason.sentence:
            raise Violation("REASON", f"{reason.code.value}: {reason.sentence!r}")


# -- SOMEONE -------------------------------------------------------------------------------------


def check_someone(world: World, within_ns: int, steady_ns: int) -> None:
    """Once all is well again exactly one node serves within the bound, and goes on doing so."""

    def one() -> bool:
        return world.a.gate_open() + world.b.gate_open() == 1

    world.run(3 * world.slowest.lease_ns)  # Who is still held up finds out what he missed.
    if not world.run_until(one, within_ns):
        raise Violation("SOMEONE", f"nobody serves {within_ns // 1_000_000} ms after healing")
    # Who is first may still be settled by a command under way or a better node; then it's quiet.
    world.run(steady_ns)
    if not one():
        raise Violation("SOMEONE", "nobody serves though nothing is wrong any more")
    serving = world.a.gate_open()
    roles = [node.agent.machine.role if node.agent else None for node in world.nodes]
    if (roles[0] is Role.PRIMARY) is not serving or (roles[1] is Role.PRIMARY) is serving:
        raise Violation("SOMEONE", f"the roles {roles} don't say who serves")


def check_steady(world: World, for_ns: int) -> None:
    """Where nothing is wrong the role stays where it is."""
    before = len(world.checks.transitions)
    world.run(for_ns)
    moved = [record for _, record in world.checks.transitions[before:]]
    if moved:
        raise Violation("STEADY", f"nothing is wrong, and yet: {moved[0].reason.sentence}")


# -- FAIL_SAFE -----------------------------------------------------------------------------------


def check_fail_safe(world: World, fails: tuple[SimNode, SimNode], wait_ns: int) -> None:
    """Both nodes fail their checks, one after the other: with fail-safe on the last primary serves
    on, with it off nobody does. A sticky primary is beside the table."""
    not_up = TrackedHealth(score=0, failed=("wan0",))
    for node in fails:
        if world.setting.ground:
            node.ground.lose("wan0", "wan1")
        else:
            node.tell(HealthChanged(health=not_up))
        world.run(wait_ns)
    agents = [node.agent for node in fails]
    if any(agent is None or agent.machine.status.sticky for agent in agents):
        return
    is_open = [node.gate_open() for node in fails]
    safe = world.setting.fail_safe
    world.checks.covered.add(f"both not up, fail-safe {'on' if safe else 'off'}")
    if is_open != [False, safe]:
        raise Violation(
            "FAIL_SAFE",
            f"{fails[0].name} failed, then {fails[1].name}; fail-safe is "
            f"{'on' if safe else 'off'}, and the gates are {is_open}",
        )


def check_health_decides(world: World, within_ns: int) -> None:
    """The truth table, whatever the nodes went through: all is mended, and only their health is as
    the schedule left it.

    With fail-safe on exactly one serves, the fitter one; with it off only a node that is up does.
    """
    world.run(3 * world.slowest.lease_ns)
    world.run_until(lambda: not _against_health(world), within_ns)
    world.run(2 * world.slowest.lease_ns)
    # Better health may have begun to count meanwhile.
    if not world.run_until(lambda: not _against_health(world), within_ns):
        raise Violation("FAIL_SAFE", _against_health(world))


def _against_health(world: World) -> str:
    """What of the gates the truth table forbids; empty = nothing. A sticky primary is beside it."""
    agents = [node.agent for node in world.nodes]
    if any(agent is None or agent.machine.status.sticky for agent in agents):
        return ""
    up = [agent is not None and agent.machine.facts.up for agent in agents]
    is_open = [node.gate_open() for node in world.nodes]
    safe = "on" if world.setting.fail_safe else "off"
    world.checks.covered.add(f"{sum(up)} up in the end, fail-safe {safe}")
    told = f"the nodes are up: {up}, fail-safe is {safe}, the gates are {is_open}"
    if sum(is_open) != (world.setting.fail_safe or any(up)):
        return told
    unfit_serves = any(is_open) and any(up) and not up[is_open.index(True)]
    return f"{told}: the fitter one doesn't serve" if unfit_serves else ""


# -- ROUTES --------------------------------------------------------------------------------------


def check_routes(checks: Checks, node: SimNode, effects: Effects) -> None:
    """Routes and rules come and go with the role, in the step that turns it."""
    if effects.install_routes or effects.remove_routes:
        checks.routes[node.index] = effects.install_routes
    assert node.agent is not None
    primary, wanted = node.agent.machine.role is Role.PRIMARY, checks.routes[node.index]
    if primary is not bool(wanted):
        raise Violation("ROUTES", f"{node.name} is primary: {primary}; told of routes: {wanted}")


# -- HEALTH, WATCHDOG ------------------------------------------------------------------------------


def check_monitors(world: World, within_ns: int) -> None:
    """Each core is told what its monitors have to make of what they look at."""

    def lie() -> str:
        for node in world.nodes:
            if node.agent is None:
                continue
            seen, left = node.agent.machine.status.health_seen, node.ground.score
            said = 1000 if seen is None else seen.score
            if said != left:
                lost = ", ".join(sorted(node.ground.lost))
                return f"{node.name} has lost {lost or 'nothing'}: its monitors say {said}"
        return ""

    if world.setting.ground and not world.run_until(lambda: not lie(), within_ns):
        raise Violation("HEALTH", lie())


def check_reset(world: World, node: SimNode) -> None:
    """A machine whose loop decides isn't reset: it was pinged since."""
    length_ns = node.ground.dog.length_ns
    # It is pinged a quarter of its time after the last ping, with the next turn of the timer.
    unpinged_ns = length_ns - length_ns // 4 - max(world.slowest.attest_ns, LATE_TURN_NS) // 2
    if node.agent is not None and world.now_ns - node.turned_ns < unpinged_ns:
        raise Violation("WATCHDOG", f"{node.name} is reset though its loop decides")


def check_watchdog(world: World, node: SimNode) -> None:
    """A machine whose loop hangs for the whole time of its watchdog is reset."""
    dog = node.ground.dog
    hung_ns = world.now_ns - node.turned_ns
    if dog.armed and hung_ns > dog.length_ns:
        raise Violation("WATCHDOG", f"{node.name} wasn't reset, and hung for {hung_ns // US} us")


# -- DAMPED --------------------------------------------------------------------------------------


def check_damped(checks: Checks, node: SimNode, event: Event) -> None:
    """What is worse counts at once; what is better only after it has held for the whole hold."""
    agent = node.agent
    assert agent is not None
    seen, now_ns = checks.seen_health[node.index], node.clock()
    if isinstance(event, HealthChanged):
        if seen is None:
            seen = checks.seen_health[node.index] = Seen([], event.health.score)
        seen.words.append((now_ns, event.health.score))
    if seen is None:
        return
    counts, last = agent.machine.facts.score, seen.words[-1][1]
    if counts > last:
        raise Violation("DAMPED", f"the monitors of {node.name} say {last}, and {counts} counts")
    if counts > seen.counts:
        checks.covered.add("better health counts")
        held_since_ns = seen.words[-1][0]
        for at_ns, score in reversed(seen.words):
            if score < counts:
                break
            held_since_ns = at_ns
        if now_ns - held_since_ns < checks.world.setting.damping.hold_ns:
            raise Violation("DAMPED", f"{counts} counts for {node.name} before it has held")
    seen.counts = counts


# -- FENCED --------------------------------------------------------------------------------------


def check_fenced(checks: Checks, node: SimNode, event: EngineEvent) -> None:
    """Where a silent peer is to be fenced first, nobody opens in silence before it was."""
    world = checks.world
    in_silence = event.cause in (Cause.SILENCE, Cause.LEASE_RAN_OUT, Cause.WITNESSED)
    begun = event.b in (Cause.DEAD, Cause.COLD, Cause.DESPITE_MISMATCH)
    if world.setting.fence != "before" or not (in_silence and begun):
        return
    checks.covered.add("opened after fencing")
    assert node.agent is not None
    fenced_ns, heard_ns = world.fence.fenced_ns[1 - node.index], node.agent.decided_heard_ns
    # A frame that was under way when the power was cut is heard after that.
    if fenced_ns < 0 or fenced_ns < heard_ns - FLIGHT_NS:
        raise Violation(
            "FENCED",
            f"{node.name} opens in silence; it heard its peer at {heard_ns // US} us, whose power "
            f"was cut at {fenced_ns // US} us",
        )


# -- FORGE ---------------------------------------------------------------------------------------


def check_forge(world: World, index: int, link: int, payload: bytes) -> None:
    """A frame that is forged or replayed changes nothing but counters and stamps of refusal."""
    node = world.nodes[index]
    if not node.powered:
        return
    before = _words(node)
    reason = node.receive(link, payload)
    changed = {
        name for name, value in _words(node).items() if value != before[name]
    } - FORGE_MAY_TOUCH
    gate = node.plain.gate
    if gate.term and gate.fence_below == gate.term + 1 and node.clock() >= gate.open_until:
        changed.discard(
            "fence_below"
        )  # Its own lease had run out: that is final (R4), asked or not.
    if changed:
        raise Violation("FORGE", f"a forged frame (reason {reason}) changed {sorted(changed)}")


def _words(node: SimNode) -> dict[str, bytes | int]:
    """All that a frame could change, but the counters of refusals and the count of frames drawn."""
    plain = node.plain
    words: dict[str, bytes | int] = {
        "term": plain.gate.term,
        "open_until": plain.gate.open_until,
        "fence_below": plain.gate.fence_below,
        "contested": plain.gate.contested,
        "peer": bytes(ffi.buffer(ffi.addressof(plain.peer))),
        "self": bytes(ffi.buffer(ffi.addressof(plain.self))),
    }
    for i in range(2):
        link = plain.link[i]
        for field in ("hello_ns", "answer_ns", "hello_counter", "answer_counter", "answer_echo"):
            words[f"link{i}.{field}"] = getattr(link, field)
        words[f"link{i}.accepted"] = link.accepted
    for field in ("mismatch_ns", "stranger_ns", "challenge_ns"):
        words[field] = max(getattr(plain.link[i], field) for i in range(2))
    return words
