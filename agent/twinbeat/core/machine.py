# SPDX-License-Identifier: Apache-2.0
"""The pure state machine of one node: events in, effects out.

Theory of operation
-------------------
`Machine.step` takes in one event and then *settles*: whatever follows from all that is now known is
worked out anew, from levels and never from edges. So a lost or doubled event costs time, not
correctness.

    event -> facts change -> settle: deadlines, commands under way, terms, standing order -> effects

* The role follows the engine, by the rows of `twinbeat.core.table`.
* The standing order follows the facts, by the rows of `twinbeat.core.election`; it gets a new
  generation whenever what it permits changes, and none when only what the frames say changes.
* A command is refused at once with code and sentence, or accepted; at most one that moves the role
  is under way (`Operation`), and every command is answered finally after the engine confirmed the
  generation that carries it out. Withdrawals say whether a claim came first.
* The attestation is renewed by every step that finds a quarter of it used: whoever calls `step` is
  the loop that decides, so if it hangs, the gate shuts one attestation and one lease later.
* A tick that finds nothing to do leaves the machine *calm*: until something happens or a deadline
  comes, further ticks would find nothing either, so they renew the attestation and settle nothing.
  Once a second one of them settles everything all the same.

It reads no clock and does no I/O, and doesn't know how its effects are carried out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, assert_never

from twinbeat.core import election, table
from twinbeat.core.commands import Kind, Operation, refuse_command
from twinbeat.core.damping import Damper, Flips
from twinbeat.core.desk import Desk, Held
from twinbeat.core.effects import (
    Effects,
    Level,
    Log,
    Notify,
    Outcome,
    Transition,
)
from twinbeat.core.events import (
    AdminCommand,
    ConfigReloaded,
    EffectFailed,
    EngineEvent,
    EngineSeen,
    Event,
    ForceFailover,
    ForceYield,
    GateLost,
    GateRestored,
    HealthChanged,
    HostMeasured,
    IsolationChanged,
    Operator,
    Pause,
    PeerFenced,
    PeerSeen,
    PortLost,
    PortRestored,
    Resume,
    SetTimers,
    Started,
    StateSaved,
    Stopping,
    TermsFailed,
    TermsReserved,
    Tick,
    WitnessAnswered,
)
from twinbeat.core.pacing import Pacing
from twinbeat.core.reasons import CAUSES, Code, Reason, Refusal, because, duration, refuse
from twinbeat.core.status import Status, sentence, unfit
from twinbeat.core.table import Turn
from twinbeat.core.terms import Past, Terms, floor_of
from twinbeat.core.timeline import follow
from twinbeat.core.types import (
    DEFAULT_PATIENCE,
    FOREVER,
    NO_FLAGS,
    Admin,
    Cause,
    Durable,
    EngineEventKind,
    EngineView,
    Flag,
    Order,
    Patience,
    PeerView,
    Permit,
    Phase,
    Policy,
    Proposal,
    Role,
    Timeline,
    Timers,
    TrackedHealth,
    Watch,
)
from twinbeat.core.witness import Arbitration, Words

__all__ = ["Machine", "Status"]


class _Draft:
    """The effects of the step under way."""

    def __init__(self) -> None:
        self.close_gate: Reason | None = None
        self.withdraw_vips: str | None = None
        self.announce = False
        self.destroy_vip_sockets = False
        self.remove_routes = False
        self.install_routes = False
        self.records: list[Transition] = []
        self.logs: list[Log] = []
        self.status_changed = False
        self.timers: Timers | None = None


class Machine:
    """The state machine of one node."""

    def __init__(
        self,
        *,
        policy: Policy,
        timers: Timers,
        durable: Durable,
        reserved_last: int,
        now_ns: int,
        patience: Patience = DEFAULT_PATIENCE,
    ) -> None:
        """Begin in INIT. ``reserved_last`` is the last term that any run ever reserved on disk.

        Health and missing gates may be told before `Started`; nothing is ordered before it.
        """
        self._policy = policy
        self._patience = patience
        self._durable = durable
        self._desk = Desk(self._because)
        self._pacing = Pacing(
            wish=durable.wish,
            configured=timers,
            wake_late_ns=policy.wake_late_ns,
            patience=patience,
            desk=self._desk,
            because=self._because,
            log=self._log,
        )
        self._timers = self._pacing.timers
        self._saved = durable
        self._saving: Durable | None = None
        self._save_failed = ""
        self._save_retry_ns = 0
        self._now = now_ns
        self._started_ns = 0
        self._term_floor = 0
        self._kernel_listened = False
        self._probes = 0
        self._role = Role.INIT
        self._since_ns = now_ns
        self._health = TrackedHealth()
        self._damper = Damper(policy.damping)
        self._flips = Flips(policy.flip_limit)
        self._sticky = False
        self._conflict = ""
        self._passing_until_ns = 0
        self._gates_missing: dict[str, None] = {}
        self._reason = self._because(Code.STARTED)
        self._ports_lost: dict[str, None] = {}
        self._isolated = False
        self._witness = Arbitration(
            node=policy.node, lease_ns=policy.witness_lease_ns, serve=policy.witness_serve
        )
        self._witness_words = Words()
        self._witness_silent = False
        self._peer_fenced = False
        self._stopping = False
        self._restarting = False
        self._stopped = False
        self._stop_from_ns = 0
        self._stop_at_ns = 0
        self._engine: EngineView | None = None
        self._watch = Watch.UNKNOWN
        self._highest = reserved_last
        self._peer: PeerView | None = None
        self._peer_pause_overridden = False
        self._contested = False
        self._term = 0
        self._terms = Terms(size=policy.terms_per_block, reserved_last=reserved_last)
        self._past = Past.SETTLED if reserved_last else Past.UNKNOWN
        self._order = Order(
            generation=0, expires_ns=0, attested_until_ns=0, term_first=1, term_last=0
        )
        self._resign_of = 0
        self._resign_reason = self._because(Code.RESIGNED)
        self._resigned_reign = 0
        self._attested_until_ns = 0
        self._attest_next_ns = 0
        self._operation: Operation | None = None
        self._abstain_since_ns = 0
        self._abstain_until_ns = 0
        self._hold_since_ns = 0
        self._line = Timeline()
        self._claim_cause = Cause.NONE
        self._pending: Transition | None = None
        self._pending_until_ns = 0
        self._last: Transition | None = None
        self._late_logged_ns = 0
        self._ahead_since_ns = 0
        self._yielding_to_better = False
        self._permitted: tuple[election.Facts, Permit] | None = None
        self._calm_until_ns = 0
        self._facts = self._gather()
        self._out = _Draft()

    # -- the face ------------------------------------------------------------------------------

    def step(self, event: Event, now_ns: int) -> Effects:
        """Take in one event. ``now_ns`` never goes backwards.

        Raises `StateError`, and changes nothing, if the event can't be: a broken invariant, after
        which the agent has to step down.
        """
        assert now_ns >= self._now, "the clock of a machine never goes backwards"
        if isinstance(event, Tick) and self.calm(now_ns):
            self._now = now_ns
            return Effects(attest_until_ns=self._settle_attestation(order_out=False))
        self._check(event)
        self._now = now_ns
        self._out = _Draft()
        self._take_in(event)
        effects = self._settle()
        idle = isinstance(event, Tick) and not self._awaits_somebody()
        idle = idle and effects == Effects(attest_until_ns=effects.attest_until_ns)
        settled_until = min(self._next_change(), now_ns + self._patience.calm_ns)
        self._calm_until_ns = settled_until if idle else 0
        return effects

    def calm(self, now_ns: int) -> bool:
        """Whether a `Tick` would do nothing now but renew the attestation."""
        return now_ns < self._calm_until_ns

    def next_deadline(self) -> int:
        """When a `Tick` is wanted at the latest."""
        if not self._started_ns:
            return FOREVER
        # Calm ends by itself after a while, for which nobody has to be woken.
        change = FOREVER if self.calm(self._attest_next_ns) else self._next_change()
        return min(self._attest_next_ns or self._now, change)

    def _awaits_somebody(self) -> bool:
        """Whether something is under way that engine, peer or disk will move on."""
        return (
            not self._started_ns
            or self._role in (Role.INIT, Role.CLAIMING)
            or self._operation is not None
            or self._pending is not None
            or self._stopping
            or self._restarting
            or bool(self._desk.deadlines())
            or bool(self._pacing.deadline_ns)
        )

    def _next_change(self) -> int:
        """When time alone changes something next."""
        wanted = [FOREVER]
        if self._role is Role.INIT and self._durable.admin is not Admin.DISABLED:
            wanted.append(self._listens_until())
        if self._operation is not None:
            wanted.append(self._operation.deadline_ns)
        wanted += self._desk.deadlines()
        for moment in (
            self._durable.paused_until_ns,
            self._pending_until_ns,
            self._terms.retry_ns,
            self._save_retry_ns,
            self._stop_at_ns,
            self._stop_from_ns if self._restarting and not self._stopped else 0,
            self._abstain_until_ns,
            self._witness.deadline(self._now, peer_heard=self._peer_heard()),
            self._hold_since_ns and self._hold_since_ns + self._policy.preempt_hold_ns,
            self._pacing.deadline_ns,
            self._damper.holding_until_ns,
            self._passing_until_ns if self._passing_until_ns > self._now else 0,
            self._ahead_since_ns and self._ahead_since_ns + self._patience.resync_ns,
        ):
            if moment:
                wanted.append(moment)
        return min(wanted)

    @property
    def order(self) -> Order:
        """The standing order as last given."""
        return self._order

    @property
    def role(self) -> Role:
        """The role."""
        return self._role

    @property
    def timers(self) -> Timers:
        """Those wanted now: the configuration's, or what an operator set over them."""
        return self._timers

    @property
    def facts(self) -> election.Facts:
        """What the standing order was computed from."""
        return self._facts

    @property
    def arbitration(self) -> Arbitration:
        """What is known of the witness, for people."""
        return self._witness

    @property
    def waits_for_fencing(self) -> bool:
        """True while the role could be taken over if only the peer were fenced."""
        silent = self._watch in (Watch.DEAD, Watch.UNKNOWN)
        following = self._role in (Role.SECONDARY, Role.CLAIMING)
        return silent and following and election.waits_for_fencing(self._facts)

    @property
    def status(self) -> Status:
        """What the machine knows, for people."""
        facts = self._facts
        waiting, until = self._waiting()
        return Status(
            role=self._role,
            since_ns=self._since_ns,
            reason=self._reason,
            sentence=self._sentence(),
            admin=self._durable.admin,
            health=self._health,
            health_seen=self._damper.seen,
            health_holds_until_ns=self._damper.holding_until_ns,
            relapses=self._damper.relapses,
            flips=self._flips.count,
            sticky=self._sticky,
            conflict=self._conflict,
            timers=self._timers,
            wish=self._durable.wish,
            timers_refused=self._pacing.standing_refusal,
            score=facts.health,
            fit=facts.fit,
            unfit=unfit(facts),
            withheld=election.permitted(facts)[1],
            engine=self._engine,
            block=self._terms.block,
            terms_left=self._terms.block.left_above(self._highest),
            peer=self._peer,
            peer_heard=facts.peer_heard,
            isolated=self._isolated,
            paused_until_ns=self._durable.paused_until_ns,
            paused_both=bool(
                self._durable.paused_until_ns
                and self._peer is not None
                and self._peer.flags & Flag.PAUSE_ACK
            ),
            peer_paused=facts.peer_paused,
            waiting=waiting,
            waiting_until_ns=until,
            contested=self._contested,
            last=self._pending or self._last,
        )

    # -- taking in -----------------------------------------------------------------------------

    def _check(self, event: Event) -> None:
        """Refuse what can't be before anything is touched."""
        if isinstance(event, EngineEvent):
            by = _TURNS.get(event.kind)
            if by is not None:
                table.turn(Role.PRIMARY if self._resumed_unheard(event) else self._role, by)
        elif isinstance(event, Started) and self._started_ns:
            raise table.StateError("a machine starts once")

    def _resumed_unheard(self, event: EngineEvent) -> bool:
        """A node that has just started claims only for a reign that it resumed: if that is news,
        the event that told of it was lost."""
        kind = EngineEventKind
        renews = event.kind is kind.CLAIM and event.cause is Cause.RENEW
        return self._role is Role.INIT and (renews or event.kind is kind.ABANDONED)

    def _take_in(self, event: Event) -> None:
        match event:
            case EngineEvent():
                self._on_engine_event(event)
            case EngineSeen(view=engine):
                self._on_engine(engine)
            case PeerSeen(view=peer):
                self._on_peer(peer)
            case Started(engine=engine, term_floor=term_floor, kernel_listened=kernel_listened):
                self._started_ns = self._now
                self._kernel_listened = kernel_listened
                self._term_floor = term_floor
                self._log(Level.INFO, self._because(Code.STARTED))
                self._engine, self._watch = engine, engine.watch
                self._see_term(engine.highest)
                if engine.highest and self._past is Past.UNKNOWN:
                    self._begin_above_floor()
            case Tick():
                if self._ahead_since_ns and self._engine is not None:
                    # A state that stays the same is told once: time alone makes it a lasting one.
                    self._on_engine(self._engine)
            case TermsReserved(block=block):
                self._terms = self._terms.reserved(block)
                self._log(Level.DEBUG, self._because(Code.TERMS_RESERVED, last=block.last))
            case TermsFailed(why=why):
                if not self._terms.failed:
                    self._log(Level.ERROR, self._because(Code.TERMS_FAILED, why=why))
                self._terms = self._terms.refused(why, self._now + self._patience.retry_ns)
            case StateSaved():
                if self._saving is not None:
                    self._saved, self._saving = self._saving, None
                self._save_failed = ""
            case PortLost(interface=interface):
                self._ports_lost[interface] = None
                self._log(Level.WARNING, self._because(Code.PORT_LOST, interface=interface))
            case PortRestored(interface=interface):
                if interface in self._ports_lost:
                    del self._ports_lost[interface]
                    self._log(Level.INFO, self._because(Code.PORT_RESTORED, interface=interface))
                    self._out.announce = self._role is Role.PRIMARY
            case GateLost(interface=interface):
                self._on_gate_lost(interface)
            case GateRestored(interface=interface):
                if interface in self._gates_missing:
                    del self._gates_missing[interface]
                    self._log(Level.INFO, self._because(Code.GATE_RESTORED, interface=interface))
            case HealthChanged(health=health):
                self._on_health(health)
            case IsolationChanged(isolated=isolated):
                if isolated and not self._isolated:
                    self._log(Level.WARNING, self._because(Code.ISOLATED))
                self._isolated = isolated
            case PeerFenced():
                self._peer_fenced = True
                self._log(Level.WARNING, self._because(Code.PEER_FENCED))
            case WitnessAnswered(answer=answer):
                self._witness.answered(answer, self._now)
                self._see_term(answer.kept)
            case ConfigReloaded(policy=policy, timers=timers):
                assert policy.node == self._policy.node, "the index is fixed for a run"
                self._policy = policy
                self._damper.damping = policy.damping
                self._flips.limit = policy.flip_limit
                self._pacing.configure(timers, policy.wake_late_ns)
                self._terms = replace(self._terms, size=policy.terms_per_block)
                self._log(Level.INFO, self._because(Code.RELOADED))
            case HostMeasured(wake_late_ns=late_ns):
                self._pacing.wake_late_ns = late_ns
            case EffectFailed(effect=effect, why=why):
                self._on_effect_failed(effect, why)
            case Stopping(restart=restart):
                self._on_stopping(restart)
            case AdminCommand() | ForceFailover() | ForceYield() | Pause() | Resume() | SetTimers():
                self._on_command(event)
            case _:
                assert_never(event)

    def _on_engine_event(self, event: EngineEvent) -> None:
        kind = EngineEventKind
        if self._resumed_unheard(event):
            term = self._engine.term if self._engine is not None else event.a
            self._turn(Turn.OPENED, self._because(Code.RESYNCED), self._moment(term))
        self._line = follow(self._line, event)
        _tell_arbitration(self._witness, event)
        match event.kind:
            case kind.CLAIM:
                self._claim_cause = event.cause
                self._see_term(event.a)
                if self._role is not Role.PRIMARY:
                    self._term = event.a
                self._turn(Turn.CLAIMED, self._because(CAUSES[event.cause]), event)
            case kind.OPENED:
                cause = Cause(event.b) if event.b else self._claim_cause
                self._see_term(event.a)
                self._turn(Turn.OPENED, self._because(CAUSES[cause]), event)
            case kind.ABANDONED:
                self._turn(Turn.ABANDONED, self._because(CAUSES[event.cause]), event)
            case kind.CLOSED:
                self._see_term(event.b)
                self._turn(Turn.CLOSED, self._ended_by(event.cause), event)
            case kind.ANNOUNCED:
                if self._pending is not None:
                    self._pending = replace(
                        self._pending,
                        timeline=replace(self._pending.timeline, announced_ns=event.at_ns),
                    )
                    self._flush()
            case kind.ORDER:
                self._desk.confirm(event.a, claim_came_first=bool(event.b))
            case kind.WITHHELD:
                self._log(Level.INFO, self._withheld_by(event.cause))
            case kind.CONTESTED | kind.REOPENED:
                self._contested = event.kind is kind.CONTESTED
            case kind.DEAD:
                self._probes = event.b
            case kind.HEARD | kind.CLEARED | kind.SUSPECT | kind.STALLED:
                pass  # Watched and told below.
            case kind.COUNTER_JUMP:
                # Only a lost disk or a clock set back can make a counter too low.
                self._term_floor = floor_of(event.a)
                self._begin_above_floor()
            case kind.LINK_SILENT | kind.LINK_HEARD | kind.LATE:
                pass  # Told below.
            case kind.RECEIPT | kind.TERM_LOW | kind.PEER_CHANGED:
                pass
            case _:
                assert_never(event.kind)
        self._watch = _WATCH.get(event.kind, self._watch)
        if event.kind in _TOLD and not (event.kind is kind.LATE and self._told_late(event.at_ns)):
            level, code = _TOLD[event.kind]
            told = self._because(code, silence=duration(event.a), link=event.link)
            self._log(level, told)

    def _told_late(self, at_ns: int) -> bool:
        """A host that is often late says so now and then."""
        quiet_until = self._late_logged_ns + self._patience.late_log_ns
        if self._late_logged_ns and at_ns < quiet_until:
            return True
        self._late_logged_ns = at_ns
        return False

    def _on_engine(self, view: EngineView) -> None:
        """The engine's state itself: puts right what lost events left wrong.

        The copy may be newer than the events that were read with it, so only what stays wrong for a
        while is put right.
        """
        self._engine = view
        self._watch = view.watch
        self._see_term(view.highest)
        if view.phase is Phase.LISTENING:
            self._witness.closed()
        by = self._missed(view)
        if by is None and view.order_generation <= self._desk.confirmed:
            self._ahead_since_ns = 0
            return
        if not self._ahead_since_ns:
            self._ahead_since_ns = self._now
        if self._now < self._ahead_since_ns + self._patience.resync_ns:
            return
        self._ahead_since_ns = 0
        self._desk.confirm(view.order_generation, claim_came_first=False)
        if by is not None:
            self._turn(by, self._because(Code.RESYNCED), self._moment(view.term or self._term))

    def _missed(self, view: EngineView) -> Turn | None:
        """The turn that would bring the role to what the engine is doing."""
        match view.phase, self._role:
            case Phase.SERVING, Role.INIT | Role.SECONDARY | Role.CLAIMING:
                return Turn.OPENED
            case Phase.LISTENING | Phase.CLAIMING, Role.PRIMARY:
                return Turn.CLOSED
            case Phase.LISTENING, Role.CLAIMING:
                return Turn.ABANDONED
            case Phase.CLAIMING, Role.SECONDARY:
                return Turn.CLAIMED
            case _:
                return None

    def _moment(self, term: int = 0) -> EngineEvent:
        """Stands for an event of the engine where the core turns the role by itself."""
        return EngineEvent(kind=EngineEventKind.ORDER, at_ns=self._now, a=term)

    def _on_peer(self, view: PeerView) -> None:
        if self._peer is None and not self._durable.peer_known:
            self._durable = replace(self._durable, peer_known=True)
        if self._peer is not None and view.counter < self._peer.counter:
            return
        paused = bool(view.flags & Flag.PAUSED)
        if paused is not self._durable.peer_paused and not (paused and self._peer_pause_overridden):
            self._durable = replace(self._durable, peer_paused=paused)
        self._peer_pause_overridden = paused and self._peer_pause_overridden
        if view.serves and self._role is not Role.PRIMARY and self._durable.last_primary:
            self._durable = replace(self._durable, last_primary=False)
        self._peer = view
        if self._past is Past.UNKNOWN:
            if not view.flags & Flag.NEWBORN:
                self._begin_above_floor()
            elif view.two_way:  # Said by its engine, and to this boot of this node.
                self._past = Past.NONE
        for term in (view.term, view.claim, view.fence_below, view.highest):
            self._see_term(term)
            self._witness.heard(term)
        self._pacing.hear(view)

    def _on_gate_lost(self, interface: str) -> None:
        """R20: without its gate no address may stay."""
        self._gates_missing[interface] = None
        reason = self._because(Code.GATE_LOST, interface=interface)
        self._log(Level.ERROR, reason)
        self._out.close_gate = reason
        self._out.withdraw_vips = interface

    def _on_health(self, health: TrackedHealth) -> None:
        seen = self._damper.seen
        if health == seen:
            return
        self._damper.see(health, self._now)
        counts = self._damper.health
        if counts != self._health:
            level = Level.INFO if health.up else Level.WARNING
            self._health = counts
            self._log(level, self._because(Code.HEALTH_CHANGED, score=counts.score))
            self._flips.see(counts)
            kept = self._role is Role.PRIMARY and not counts.up and self._policy.fail_safe
            if kept and not election.better_peer(self._gather()):
                self._log(Level.WARNING, self._because(Code.FAIL_SAFE))
        elif health.score > counts.score:
            hold = duration(self._damper.holding_until_ns - self._now)
            self._log(Level.INFO, self._because(Code.HEALTH_HELD, score=health.score, hold=hold))

    def _settle_health(self) -> None:
        """Better health begins to count when it has held; a limit of flips makes a node sticky."""
        self._damper.pass_time(self._now)
        if self._damper.health != self._health:
            self._health = self._damper.health
            self._flips.see(self._health)
            self._log(Level.INFO, self._because(Code.HEALTH_COUNTS, score=self._health.score))
        serving = self._role is Role.PRIMARY
        sticky = serving and not self._health.up and self._flips.sticky(self._now)
        if sticky is not self._sticky:
            self._sticky = sticky
            flips = self._flips.count
            code = Code.STICKY_PRIMARY if sticky else Code.STICKY_OVER
            self._log(Level.WARNING, self._because(code, flips=flips))
        if not serving or self._health.up or self._policy.fail_safe or sticky:
            self._passing_until_ns = 0
        elif not self._passing_until_ns:
            # A better peer takes over with no gap, if it does so soon.
            self._passing_until_ns = self._now + self._operation_patience_ns()

    def _settle_conflict(self) -> None:
        """Two nodes that are both told to stay primary: said once, and moves nothing."""
        winner = election.conflict(self._facts)
        if bool(winner) is not bool(self._conflict):
            code = Code.CONFLICT if winner else Code.CONFLICT_OVER
            level = Level.WARNING if winner else Level.INFO
            self._log(level, self._because(code, winner=winner))
        self._conflict = winner

    def _for_health(self, by: Turn, before: Role, cause: Cause) -> bool:
        """Does the role move for the sake of health?"""
        if by is Turn.CLOSED and before is Role.PRIMARY:
            told = self._operation is not None
            return not told and (
                (self._yielding_to_better and cause is Cause.FENCED)
                or (cause is Cause.RESIGNED and self._resign_reason.code is Code.UNHEALTHY)
            )
        peer = self._peer
        taken = by is Turn.OPENED and before is not Role.PRIMARY
        return (
            taken
            and self._operation is None
            and peer is not None
            and self._claim_cause in (Cause.YIELDED, Cause.IDLE)
            and peer.health < self._facts.health
            and not peer.flags & Flag.NEVER_CLAIMS
        )

    def _settle_timers(self) -> None:
        peer = self._peer if self._peer_heard() else None
        answer = self._pacing.settle(peer, self._engine, self._now)
        if self._pacing.agreement.kept != self._durable.wish:
            self._durable = replace(self._durable, wish=self._pacing.agreement.kept)
        if self._pacing.timers != self._timers:
            self._timers = self._out.timers = self._pacing.timers
            self._attest_next_ns = self._now  # For as long as the new lease asks.
        if answer is not None:
            self._expect(*answer)

    def _on_effect_failed(self, effect: str, why: str) -> None:
        self._log(Level.ERROR, self._because(Code.EFFECT_FAILED, effect=effect, why=why))
        if effect == "save":
            self._saving = None
            self._save_failed = why or "unknown"
            self._save_retry_ns = self._now + self._patience.retry_ns

    def _on_stopping(self, restart: bool) -> None:
        if self._stopping or self._restarting:
            return
        if restart and self._role is Role.PRIMARY:
            self._restarting = True
            self._stop_from_ns = self._now + 2 * self._timers.hello_ns
            # The peer has to hear of it and to answer, each at its next heartbeat at the latest.
            self._stop_at_ns = self._now + self._patience.stop_ns + 3 * self._timers.hello_ns
            return
        reachable = election.successor(self._gather(), even_if_unfit=True) is None
        self._stopping = True
        if self._operation is not None:
            self._desk.answer(
                self._operation.request_id, Outcome.FAILED, self._because(Code.STOPPING)
            )
            self._operation = None
        if self._role is not Role.PRIMARY:
            self._stop_at_ns = self._now + self._patience.stop_ns
        elif reachable:
            self._begin(Kind.HAND_OVER, "", resign_at_last=True)
        else:
            self._resign(self._because(Code.STOPPED))

    # -- turning -------------------------------------------------------------------------------

    def _turn(self, by: Turn, reason: Reason, event: EngineEvent) -> None:
        """Turn the role by the table, record it, and ask for what follows on the slow path."""
        before = self._role
        after = table.turn(before, by)
        if by is Turn.OPENED:
            self._term = event.a
            self._contested = False
            if not self._durable.last_primary:
                self._durable = replace(self._durable, last_primary=True)
        if by is Turn.ABANDONED:
            self._log(Level.WARNING, reason)
            self._operation_failed(reason)
        if before is not after or by is Turn.OPENED:
            self._become(after, reason, event.at_ns or self._now)
        if self._for_health(by, before, event.cause):
            self._flips.flipped(self._now)
        if by is Turn.OPENED:
            self._out.install_routes = before is not Role.PRIMARY
        if by is Turn.CLOSED and before is Role.PRIMARY:
            self._term = 0
            self._contested = False
            self._out.destroy_vip_sockets = True
            self._out.remove_routes = True
        if by is Turn.CLOSED and before is not Role.PRIMARY:
            self._term = 0

    def _become(self, role: Role, reason: Reason, at_ns: int) -> None:
        """Take on a role: every field that goes with it, one record, one line of the log."""
        self._flush()
        ended = self._role is Role.PRIMARY and role is not Role.PRIMARY
        record = Transition(
            at_ns=at_ns,
            before=self._role,
            after=role,
            reason=reason,
            term=self._term,
            timeline=self._line,
        )
        if self._role is not role:
            self._since_ns = at_ns
        self._role = role
        self._reason = reason
        self._out.status_changed = True
        if role is Role.PRIMARY:
            self._pending = record
            self._pending_until_ns = self._now + self._patience.announced_ns
            self._line = Timeline()
        else:
            self._last = record
            self._out.records.append(record)
            if ended or role is Role.DISABLED:
                self._line = Timeline()
        self._log(Level.WARNING if ended or role is Role.PRIMARY else Level.INFO, reason)

    def _flush(self) -> None:
        """The takeover is complete: record it."""
        if self._pending is not None:
            self._out.records.append(self._pending)
            self._last = self._pending
        self._pending = None
        self._pending_until_ns = 0

    def _ended_by(self, cause: Cause) -> Reason:
        """Why a reign ended; what the engine can't know is why it was told to resign."""
        if self._gates_missing and cause not in (Cause.FENCED, Cause.CONTEST_LOST):
            return self._because(Code.GATE_LOST, interface=", ".join(self._gates_missing))
        if cause is Cause.RESIGNED:
            return self._resign_reason
        return self._because(CAUSES[cause])

    def _withheld_by(self, cause: Cause) -> Refusal:
        """Why the engine claims nothing; where the standing order forbids it, why that is so."""
        if cause in (Cause.NOT_PERMITTED, Cause.ORDER_VOID):
            refusals = election.permitted(self._facts)[1]
            if refusals:
                return refusals[0]
        return refuse(CAUSES[cause], **self._names())

    def _begin_above_floor(self) -> None:
        """Terms were used of which the disk doesn't know: all of them lie below."""
        self._past = Past.SETTLED
        self._see_term(self._term_floor)

    def _see_term(self, term: int) -> None:
        self._highest = max(self._highest, term)

    # -- commands ------------------------------------------------------------------------------

    def _on_command(self, command: Operator) -> None:
        if self._desk.repeat(command.request_id):
            return
        refusal = refuse_command(
            command,
            self._gather(),
            started=bool(self._started_ns),
            leaving=self._stopping or self._restarting,
            busy=self._operation is not None,
        )
        if refusal is not None:
            self._desk.answer(command.request_id, Outcome.REFUSED, refusal)
            self._log(Level.INFO, refusal)
            return
        match command:
            case AdminCommand():
                self._set_admin(command)
            case ForceFailover():
                self._accept(command.request_id)
                serving = self._role is Role.PRIMARY
                self._begin(Kind.HAND_OVER if serving else Kind.TAKE_OVER, command.request_id)
            case ForceYield():
                self._accept(command.request_id)
                self._begin(Kind.HAND_OVER, command.request_id, resign_at_last=True)
                if election.successor(self._gather(), even_if_unfit=True) is not None:
                    self._give_up_waiting()
            case Pause(for_ns=for_ns):
                until = self._now + for_ns if for_ns else FOREVER
                self._durable = replace(self._durable, paused_until_ns=until)
                self._expect(command.request_id, Code.PAUSED_BOTH, needs_peer=True)
            case Resume():
                if self._facts.peer_paused and not self._facts.peer_heard:
                    self._peer_pause_overridden = True
                    self._durable = replace(self._durable, peer_paused=False)
                self._durable = replace(self._durable, paused_until_ns=0)
                self._expect(command.request_id, Code.DONE)
            case SetTimers():
                heard = self._peer if self._peer_heard() else None
                if self._pacing.command(command, heard, self._now):
                    self._expect(command.request_id, Code.TIMERS_ALONE)
            case _:
                assert_never(command)

    def _set_admin(self, command: AdminCommand) -> None:
        if command.status is self._durable.admin:
            # It may be so in memory only: the disk refused it the last time.
            self._expect(command.request_id, Code.UNCHANGED)
            return
        leaving = command.status.never_claims and self._role is Role.PRIMARY
        if leaving and not command.even_if_unfit:
            self._accept(command.request_id)
            self._begin(Kind.HAND_OVER, command.request_id, then_admin=command.status)
            return
        self._durable = replace(self._durable, admin=command.status)
        if leaving:
            self._resign(self._because(_ADMIN_CODES[command.status]))
        self._expect(command.request_id, Code.DONE)

    def _begin(
        self,
        kind: Kind,
        request_id: str,
        *,
        then_admin: Admin | None = None,
        resign_at_last: bool = False,
    ) -> None:
        patience = self._operation_patience_ns()
        self._operation = Operation(
            kind=kind,
            request_id=request_id,
            begun_ns=self._now,
            deadline_ns=self._now + patience,
            then_admin=then_admin,
            resign_at_last=resign_at_last,
        )

    def _operation_patience_ns(self) -> int:
        timers = self._timers
        return self._patience.operation_ns + 10 * timers.hello_ns + 4 * timers.verify_ns

    def _give_up_waiting(self) -> None:
        """Nobody is going to take over: the operation under way is due now."""
        assert self._operation is not None
        self._operation = replace(self._operation, deadline_ns=self._now)

    def _resign(self, why: Reason) -> None:
        """Demand of the engine that it shut the gate at once."""
        self._resign_reason = why
        self._resign_of = (self._order.generation + 1) & 0xFFFF_FFFF or 1
        self._resigned_reign = self._term
        self._out.close_gate = why
        self._abstain()

    def _abstain(self) -> None:
        """Let the peer go first."""
        self._abstain_since_ns = self._now
        self._abstain_until_ns = self._now + self._patience.abstain_ns

    def _accept(self, request_id: str) -> None:
        self._desk.answer(request_id, Outcome.ACCEPTED, self._because(Code.ACCEPTED))

    def _expect(self, request_id: str, answer: Code, *, needs_peer: bool = False) -> None:
        """Answer when the order that is about to go out is in effect and the state is saved."""
        deadline = self._now + self._patience.confirm_ns
        serving = self._role is Role.PRIMARY
        self._desk.expect(request_id, answer, deadline, serving=serving, needs_peer=needs_peer)

    def _operation_failed(self, why: Reason) -> None:
        """A claim was given up: if an operator asked for it, tell him."""
        operation = self._operation
        if operation is None or operation.kind is not Kind.TAKE_OVER:
            return
        self._operation = None
        reason = self._because(Code.CLAIM_FAILED, why=why.sentence)
        self._desk.answer(operation.request_id, Outcome.FAILED, reason)

    # -- settling ------------------------------------------------------------------------------

    def _settle(self) -> Effects:
        """Everything that follows from what is now known."""
        if self._pending is not None and self._now >= self._pending_until_ns:
            self._flush()
        if not self._started_ns:
            return self._effects(order=None, attest=None)
        self._settle_health()
        self._settle_timers()
        self._settle_pause()
        self._settle_listening()
        self._settle_past()
        self._settle_operation()
        self._settle_admin()
        self._settle_hold()
        if self._restarting and self._role is not Role.PRIMARY:
            # The reign that was to be kept open is over: this is a plain stop now.
            self._restarting, self._stopping = False, True
        if self._watch in (Watch.ALIVE, Watch.STALLED):
            self._peer_fenced = False
        self._settle_witness()
        self._facts = self._gather()
        self._settle_conflict()
        order = self._settle_order()
        attest = self._settle_attestation(order is not None)
        if order is not None:
            order = self._order = replace(order, attested_until_ns=self._attested_until_ns)
        self._settle_desk()
        self._settle_stop()
        return self._effects(order=order, attest=attest)

    def _settle_pause(self) -> None:
        until = self._durable.paused_until_ns
        if until and self._now >= until:
            self._durable = replace(self._durable, paused_until_ns=0)
            self._log(Level.WARNING, self._because(Code.PAUSE_EXPIRED))
        if self._abstain_until_ns and (self._now >= self._abstain_until_ns or self._peer_serves()):
            self._abstain_until_ns = 0

    def _peer_serves(self) -> bool:
        return (
            self._peer is not None
            and self._peer.serves
            and self._peer.arrived_ns > self._abstain_since_ns
            and self._peer_heard()
            and self._role is not Role.PRIMARY
        )

    def _listens_until(self) -> int:
        """When INIT ends at the latest.

        A node that boots waits for a peer that may be booting beside it. One whose agent alone was
        gone doesn't: its kernel took in no claim meanwhile, so what R10 asks for is enough, the end
        of any reign that could have begun unheard.
        """
        timers = self._timers
        wait_ns = timers.boot_wait_ns
        if self._kernel_listened:
            wait_ns = min(wait_ns, timers.lease_ns + timers.dead_ns + timers.verify_ns)
        return self._started_ns + wait_ns

    def _settle_listening(self) -> None:
        """INIT ends when the peer was found, or when listening was long enough."""
        if self._role is not Role.INIT:
            return
        peer = self._peer
        moment = self._moment()
        if self._durable.admin is Admin.DISABLED:
            return
        if (
            peer is not None
            and self._peer_heard()
            and peer.two_way
            and not self._terms.spent(self._highest)
        ):
            said = "serving" if peer.serves else "not serving"
            self._turn(Turn.LISTENED, self._because(Code.PEER_FOUND, peer_role=said), moment)
        elif self._now >= self._listens_until():
            waited = duration(self._now - self._started_ns)
            self._turn(Turn.LISTENED, self._because(Code.LISTENED, waited=waited), moment)

    def _settle_past(self) -> None:
        """Who may claim though it hears nobody can't wait for the peer's word."""
        may_claim = self._policy.claim_alone or self._durable.peer_known
        if self._past is Past.UNKNOWN and self._role is not Role.INIT and may_claim:
            self._begin_above_floor()

    def _settle_operation(self) -> None:
        operation = self._operation
        if operation is None:
            return
        serving = self._role is Role.PRIMARY
        winner = self._policy.name if serving else self._policy.peer_name
        match operation.kind:
            case Kind.HAND_OVER if not serving:
                self._operation = None
                if operation.then_admin is not None:
                    self._durable = replace(self._durable, admin=operation.then_admin)
                    self._expect(operation.request_id, Code.DONE)
                elif self._reason.code is Code.FENCED:
                    reason = self._because(Code.SWITCHED_OVER, winner=winner)
                    self._desk.answer(operation.request_id, Outcome.DONE, reason)
                else:
                    self._desk.answer(operation.request_id, Outcome.DONE, self._reason)
                if not self._peer_serves() and self._reason.code is Code.FENCED:
                    # The peer's claim shut our gate; its opening is on its way.
                    self._abstain()
            case Kind.TAKE_OVER if serving:
                self._operation = None
                reason = self._because(Code.SWITCHED_OVER, winner=winner)
                self._desk.answer(operation.request_id, Outcome.DONE, reason)
            case Kind.HAND_OVER | Kind.TAKE_OVER:
                if self._now >= operation.deadline_ns:
                    self._operation_late(operation)
            case _:
                assert_never(operation.kind)

    def _operation_late(self, operation: Operation) -> None:
        waited = duration(self._now - operation.begun_ns)
        late = self._because(Code.PEER_DID_NOT_CLAIM, waited=waited)
        if operation.resign_at_last and self._resigned_reign != self._term:
            # Stays under way until the gate is shut.
            self._resign(self._because(Code.STOPPED if self._stopping else Code.TOLD_TO_YIELD))
            self._operation = replace(operation, deadline_ns=self._now + self._patience.confirm_ns)
            return
        self._operation = None
        if operation.kind is Kind.TAKE_OVER:
            self._operation_expired(operation)
        else:
            self._desk.answer(operation.request_id, Outcome.FAILED, late)
            self._log(Level.WARNING, late)

    def _operation_expired(self, operation: Operation) -> None:
        refusals = election.permitted(self._gather())[1]
        why = refusals[0].sentence if refusals else "the engine began no claim"
        reason = self._because(Code.CLAIM_FAILED, why=why)
        self._desk.answer(operation.request_id, Outcome.FAILED, reason)
        self._log(Level.WARNING, reason)

    def _settle_admin(self) -> None:
        """DISABLED is a role as well: taken on once the engine confirmed that it claims nothing."""
        disabled = self._durable.admin is Admin.DISABLED
        moment = self._moment()
        if self._role is Role.DISABLED and not disabled:
            self._turn(Turn.ADMITTED, self._because(Code.ENABLED), moment)
        elif (
            disabled
            and self._role in (Role.INIT, Role.SECONDARY)
            and self._order.admin is Admin.DISABLED
            and self._desk.confirmed >= self._order.generation > 0
            and not (self._engine is not None and self._engine.phase is not Phase.LISTENING)
        ):
            self._turn(Turn.WITHDRAWN, self._because(Code.DISABLED), moment)

    def _settle_hold(self) -> None:
        """A fit node that was told to stay primary takes the role back after a hold-down."""
        facts = self._gather()
        wants = (
            self._durable.admin is Admin.STAY_PRIMARY
            and self._role is Role.SECONDARY
            and self._operation is None
            and facts.fit
            and facts.peer is not None
            and facts.peer.serves
            and facts.health >= facts.peer.health
            and election.may_take_over(facts) is None
        )
        if not wants:
            self._hold_since_ns = 0
        elif not self._hold_since_ns:
            self._hold_since_ns = self._now
        elif self._now >= self._hold_since_ns + self._policy.preempt_hold_ns:
            self._hold_since_ns = 0
            self._log(Level.WARNING, self._because(Code.TAKES_BACK))
            self._begin(Kind.TAKE_OVER, "")

    def _settle_witness(self) -> None:
        """Say it when the witness falls silent, and when it speaks again."""
        silent = self._witness.is_silent(self._now)
        if silent is self._witness_silent:
            return
        self._witness_silent = silent
        if not silent:
            self._log(Level.WARNING, self._because(Code.WITNESS_BACK))
            return
        self._log(Level.WARNING, self._because(Code.WITNESS_LOST, why=self._witness.why))
        if self._policy.witness_serve:
            self._log(Level.ERROR, self._because(Code.WITHOUT_WITNESS))

    def _settle_order(self) -> Order | None:
        """The standing order that follows from the facts; None if it is the one that stands."""
        facts = self._facts
        permits = self._permits(facts)
        serving = self._role is Role.PRIMARY
        if not serving:
            self._resigned_reign = 0
        elif (must := election.must_resign(facts)) and self._resigned_reign != self._term:
            self._resign(must.reason())
            facts = self._facts = self._gather()
            permits = self._permits(facts)
        operation = self._operation
        taking = operation is not None and operation.kind is Kind.TAKE_OVER
        handing = operation is not None and operation.kind is Kind.HAND_OVER
        if not taking:
            permits &= ~Permit.CLAIM_NOW
        unwanted = serving and facts.admin.never_claims
        unwanted = unwanted and election.successor(facts, even_if_unfit=True) is None
        # A resumed reign isn't passed on for a first block that is just being written.
        better = serving and not handing and not self._terms.awaited and election.better_peer(facts)
        if better and not self._yielding_to_better:
            assert facts.peer is not None
            self._log(
                Level.WARNING,
                self._because(Code.PEER_BETTER, peer_score=facts.peer.health, score=facts.health),
            )
        self._yielding_to_better = better
        if serving and (handing or better or unwanted):
            permits |= Permit.YIELD
        said = election.flags(facts)
        if self._restarting:
            said |= Flag.RESTART
        block = self._terms.ordered
        order = Order(
            generation=self._order.generation,
            expires_ns=FOREVER,
            attested_until_ns=self._order.attested_until_ns,
            term_first=block.first,
            term_last=block.last,
            lease_ns=self._policy.restart_lease_ns if self._restarting else 0,
            permits=permits,
            resign_of=self._resign_of,
            flags=said,
            role=self._role,
            admin=self._durable.admin,
            health=facts.health,
            generation_shared=self._policy.generation,
            digest=self._policy.digest,
            proposal=self._proposal(),
            proposal_every=self._pacing.agreement.every,
        )
        if order == self._order:
            return None
        if _permits_of(order) != _permits_of(self._order):
            order = replace(order, generation=self._order.generation + 1)
        self._order = order
        return order

    def _proposal(self) -> Proposal | None:
        """Only what the peer can understand is said to it."""
        understood = self._peer is not None and self._peer.flags & Flag.NEGOTIATES
        return self._pacing.agreement.saying if understood else None

    def _permits(self, facts: election.Facts) -> Permit:
        """What the facts permit; worked out only when they changed."""
        if self._permitted is None or self._permitted[0] != facts:
            self._permitted = facts, election.permitted(facts)[0]
        return self._permitted[1]

    def _settle_attestation(self, order_out: bool) -> int | None:
        if self._now < self._attest_next_ns and not order_out:
            return None
        # R6 asks for more than a lease to be left whenever a claim is made, so an attestation is
        # never shorter than what leaves that much of it when it is renewed.
        length = max(self._timers.attest_ns, self._timers.lease_ns * 3 // 2)
        if self._now >= self._attest_next_ns:
            self._attested_until_ns = self._now + length
            self._attest_next_ns = self._now + length // 4
        return self._attested_until_ns

    def _settle_desk(self) -> None:
        peer = self._peer
        self._desk.settle(
            Held(
                generation=self._order.generation,
                saved=self._durable == self._saved,
                save_failed=self._save_failed,
                peer_heard=self._peer_heard(),
                peer_knows=peer is not None and bool(peer.flags & Flag.PAUSE_ACK),
            ),
            self._now,
        )

    def _settle_stop(self) -> None:
        if self._stopped:
            return
        confirmed = self._desk.confirmed >= self._order.generation
        if self._restarting:
            due = self._now >= self._stop_from_ns
            done = confirmed and due and self._peer_knows_of_restart()
            if due:  # If that isn't so yet, it is looked at again.
                self._stop_from_ns = self._now + 2 * self._timers.hello_ns
        elif self._stopping:
            done = confirmed and self._role is not Role.PRIMARY
            if self._role is not Role.PRIMARY and not self._stop_at_ns:
                self._stop_at_ns = self._now + self._patience.stop_ns
        else:
            return
        if done or (self._stop_at_ns and self._now >= self._stop_at_ns):
            if self._restarting and not done:
                self._log(Level.WARNING, self._because(Code.RESTART_UNCONFIRMED))
            self._stopped = True
            self._stop_at_ns = FOREVER

    def _peer_knows_of_restart(self) -> bool:
        """R16: so it does once it answered a frame that says so. Nobody waits for the dead."""
        if self._watch in (Watch.DEAD, Watch.UNKNOWN):
            return True
        return self._engine is not None and self._engine.restart_known

    def _effects(self, *, order: Order | None, attest: int | None) -> Effects:
        out = self._out
        save = None
        if (
            self._durable != self._saved
            and self._saving is None
            and self._started_ns
            and self._now >= self._save_retry_ns
        ):
            self._save_retry_ns = 0
            self._saving = save = self._durable
        reserve = None
        if self._started_ns and self._past is not Past.UNKNOWN:
            reserve = self._terms.wanted(self._highest, self._now)
        if reserve is not None:
            self._terms = self._terms.asking(reserve)
        words = self._witness.words(self._now)
        news = words != self._witness_words
        self._witness_words = words
        ask = None
        if self._started_ns:
            ask = self._witness.question(self._now, peer_heard=self._peer_heard())
        notify = None
        if out.status_changed:
            notify = Notify(status=self._sentence(), ready=self._role is not Role.INIT)
        return Effects(
            save=save,
            order=order,
            attest_until_ns=attest,
            witness=words if news else None,
            timers=out.timers,
            close_gate=out.close_gate,
            withdraw_vips=out.withdraw_vips,
            announce=out.announce,
            destroy_vip_sockets=out.destroy_vip_sockets,
            remove_routes=out.remove_routes,
            install_routes=out.install_routes,
            ask_witness=ask,
            reserve_terms=reserve,
            records=tuple(out.records),
            logs=tuple(out.logs),
            notify=notify,
            replies=self._desk.take(),
            stopped=self._stopped,
        )

    # -- knowing -------------------------------------------------------------------------------

    def _peer_heard(self) -> bool:
        return self._peer is not None and self._watch in (Watch.ALIVE, Watch.SUSPECT)

    def _gather(self) -> election.Facts:
        operation = self._operation
        spent = ""
        if self._past is not Past.UNKNOWN and self._terms.spent(self._highest):
            spent = self._terms.failed or "none are reserved yet"
        facts = election.Facts(
            policy=self._policy,
            role=self._role,
            admin=self._durable.admin,
            highest=self._highest,
            score=self._health.score,
            checks=self._health.failed,
            gates_missing=tuple(self._gates_missing),
            terms_spent=spent,
            isolated=self._isolated,
            stopping=self._stopping,
            paused=bool(self._durable.paused_until_ns),
            last_primary=self._durable.last_primary,
            peer_known=self._durable.peer_known,
            peer=self._peer,
            peer_heard=self._peer_heard(),
            handing_over=operation is not None and operation.kind is Kind.HAND_OVER,
            abstaining=bool(self._abstain_until_ns),
            peer_paused=self._durable.peer_paused,
            peer_pause_saved=self._saved.peer_paused,
            peer_fenced=self._peer_fenced,
            witness_silent=self._witness_silent and not self._policy.witness_serve,
            witness_keeps_peer=self._witness.holds_back(),
            past=self._past,
            sticky=self._sticky,
        )
        passing = self._passing_until_ns > self._now and election.better_peer(facts)
        return replace(facts, passing_on=True) if passing else facts

    def _waiting(self) -> tuple[Reason | None, int]:
        """What the node waits for, and until when."""
        if self._role is Role.INIT and self._started_ns and self._peer is None:
            return self._because(Code.STARTING), self._listens_until()
        if self._hold_since_ns:
            return (
                self._because(Code.TAKES_BACK),
                self._hold_since_ns + self._policy.preempt_hold_ns,
            )
        if self._abstain_until_ns:
            return self._because(Code.ABSTAINING), self._abstain_until_ns
        return None, 0

    def _names(self) -> dict[str, object]:
        return {
            "node": self._policy.name,
            "peer": self._policy.peer_name,
            "probes": self._probes or "the",
            "interface": ", ".join(self._gates_missing),
            "checks": ", ".join(self._health.failed),
            "lease": duration(self._timers.lease_ns),
            "timers": self._pacing.kept,
        }

    def _because(self, code: Code, **facts: object) -> Reason:
        return because(code, **{**self._names(), **facts})

    def _log(self, level: Level, reason: Reason | Refusal) -> None:
        self._out.logs.append(Log(level=level, reason=reason))

    def _sentence(self) -> str:
        return sentence(
            self._policy.name,
            self._role,
            self._term,
            contested=self._contested,
            reason=self._reason,
        )


def _tell_arbitration(witness: Arbitration, event: EngineEvent) -> None:
    match event.kind:
        case EngineEventKind.CLAIM:
            witness.claimed(event.a)
        case EngineEventKind.OPENED:
            witness.opened(event.a)
        case EngineEventKind.ABANDONED:
            witness.abandoned()
        case EngineEventKind.CLOSED:
            witness.closed()
        case _:
            pass


_TURNS: Final = {
    EngineEventKind.CLAIM: Turn.CLAIMED,
    EngineEventKind.OPENED: Turn.OPENED,
    EngineEventKind.ABANDONED: Turn.ABANDONED,
    EngineEventKind.CLOSED: Turn.CLOSED,
}

_WATCH: Final = {
    EngineEventKind.HEARD: Watch.ALIVE,
    EngineEventKind.CLEARED: Watch.ALIVE,
    EngineEventKind.SUSPECT: Watch.SUSPECT,
    EngineEventKind.STALLED: Watch.STALLED,
    EngineEventKind.DEAD: Watch.DEAD,
}
"""What an event says of the peer's agent."""

_TOLD: Final = {
    EngineEventKind.HEARD: (Level.INFO, Code.PEER_WAS_HEARD),
    EngineEventKind.CLEARED: (Level.DEBUG, Code.PEER_CLEARED),
    EngineEventKind.SUSPECT: (Level.DEBUG, Code.PEER_SUSPECTED),
    EngineEventKind.STALLED: (Level.WARNING, Code.PEER_STALLED),
    EngineEventKind.DEAD: (Level.WARNING, Code.PEER_DEAD),
    EngineEventKind.CONTESTED: (Level.WARNING, Code.CONTESTED),
    EngineEventKind.REOPENED: (Level.WARNING, Code.REOPENED),
    EngineEventKind.LINK_SILENT: (Level.WARNING, Code.LINK_SILENT),
    EngineEventKind.LINK_HEARD: (Level.INFO, Code.LINK_HEARD),
    EngineEventKind.LATE: (Level.WARNING, Code.LATE),
    EngineEventKind.COUNTER_JUMP: (Level.WARNING, Code.COUNTER_JUMP),
}
"""What of the engine's events is a line of the log, how loud, and in which words."""

_ADMIN_CODES: Final = {
    Admin.STAY_SECONDARY: Code.STAY_SECONDARY,
    Admin.DISABLED: Code.DISABLED,
}


def _permits_of(order: Order) -> Order:
    """The part of an order that the engine has to confirm: all but what the frames say."""
    return replace(
        order,
        generation=0,
        attested_until_ns=0,
        flags=NO_FLAGS,
        role=Role.INIT,
        admin=Admin.ENABLED,
        health=0,
        generation_shared=0,
        digest=0,
        proposal=None,
        proposal_every=0,
    )
