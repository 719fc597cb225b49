# SPDX-License-Identifier: Apache-2.0
"""The pure state machine of one node: events in, effects out.

Theory of operation
-------------------
`Machine.step` takes in one event and then *settles*: whatever follows from all that is now known is
worked out anew, from levels and never from edges. So a lost or doubled event costs time, not
correctness.

    event -> facts change -> settle: deadlines, commands under way, terms, standing order -> effects

* The role follows the engine, by the rows of `twinbeat.core.table`; `Office` takes it on.
* What is known is `Knowledge`, what health means for the role `Fitness`.
* The standing order follows the facts, by the rows of `twinbeat.core.election`; `Orders` gives it a
  new generation whenever what it permits changes, and none when only what the frames say changes.
* A command is refused at once with code and sentence, or accepted; at most one that moves the role
  is under way (`Operations`), and every command is answered finally after the engine confirmed the
  generation that carries it out (`Desk`). Withdrawals say whether a claim came first.
* The attestation is renewed by every step that finds part of it used, half at most: whoever calls
  `step` is the loop that decides, so if it hangs, the gate shuts an attestation and a lease later.
* A tick that finds nothing to do leaves the machine *calm* (`Calm`): until something happens or a
  deadline comes, further ticks only renew the attestation. Every other second one of them settles
  everything all the same. What only says something to people settles nothing and keeps the calm.

This module says which part takes in what, and in which order they settle. It reads no clock and
does no I/O, and doesn't know how its effects are carried out.
"""

from __future__ import annotations

from dataclasses import replace

from twinbeat.core import election
from twinbeat.core.calm import Calm
from twinbeat.core.conflict import Conflict
from twinbeat.core.desk import Desk, Held
from twinbeat.core.effects import Draft, Effects, Level, Notify
from twinbeat.core.events import (
    Command,
    ConfigReloaded,
    EffectFailed,
    EngineEvent,
    EngineSeen,
    Event,
    HealthChanged,
    HostMeasured,
    PeerSeen,
    Started,
    Stopping,
    Tick,
)
from twinbeat.core.follower import Follower
from twinbeat.core.knowledge import Knowledge
from twinbeat.core.leaving import Leaving
from twinbeat.core.news import ONLY_TOLD
from twinbeat.core.office import Office
from twinbeat.core.operations import Operations
from twinbeat.core.orders import Orders
from twinbeat.core.pacing import Pacing
from twinbeat.core.reasons import Code, Reason, because, duration
from twinbeat.core.status import Status, unfit
from twinbeat.core.table import StateError
from twinbeat.core.types import (
    DEFAULT_PATIENCE,
    FOREVER,
    Durable,
    EngineView,
    Flag,
    Order,
    Patience,
    Policy,
    Role,
    Timers,
    TrackedHealth,
    Watch,
)
from twinbeat.core.voice import Voice
from twinbeat.core.witness import Arbitration, Words

__all__ = ["Machine", "Status"]


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
        self._patience = patience
        self._now = now_ns
        self._started = False
        self._witness_words = Words()
        self._voice = voice = Voice(self._names)
        self._conflict = Conflict(voice)
        self._draft = draft = Draft()
        self._office = office = Office(
            because(Code.STARTED, node=policy.name, peer=policy.peer_name),
            now_ns=now_ns,
            patience=patience,
            voice=voice,
            draft=draft,
        )
        self._desk = Desk(voice.because)
        self._pacing = Pacing(
            wish=durable.wish,
            configured=timers,
            wake_late_ns=policy.wake_late_ns,
            patience=patience,
            desk=self._desk,
            because=voice.because,
            log=voice.log,
        )
        self._known = known = Knowledge(
            policy=policy,
            timers=self._pacing.timers,
            durable=durable,
            reserved_last=reserved_last,
            patience=patience,
            office=office,
            voice=voice,
            draft=draft,
        )
        nothing_done = known.facts(now_ns, stopping=False, handing_over=False, abstaining=False)
        self._orders = orders = Orders(nothing_done, voice)
        self._operations = Operations(
            known=known,
            office=office,
            orders=orders,
            desk=self._desk,
            pacing=self._pacing,
            voice=voice,
            draft=draft,
            patience=patience,
            gather=self._gather,
        )
        self._leaving = Leaving(
            known=known,
            office=office,
            operations=self._operations,
            voice=voice,
            patience=patience,
        )
        self._follower = Follower(
            known=known,
            office=office,
            orders=orders,
            operations=self._operations,
            desk=self._desk,
            voice=voice,
            draft=draft,
            patience=patience,
        )
        self._calm = Calm(
            known=known,
            office=office,
            orders=orders,
            operations=self._operations,
            leaving=self._leaving,
            follower=self._follower,
            desk=self._desk,
            pacing=self._pacing,
            conflict=self._conflict,
            patience=patience,
        )

    # -- the face ------------------------------------------------------------------------------

    def step(self, event: Event, now_ns: int) -> Effects:
        """Take in one event. ``now_ns`` never goes backwards.

        Raises `StateError`, and changes nothing, if the event can't be: a broken invariant, after
        which the agent has to step down.
        """
        assert now_ns >= self._now, "the clock of a machine never goes backwards"
        if isinstance(event, Tick) and self.calm(now_ns):
            self._now = now_ns
            return Effects(attest_until_ns=self._orders.attestation.renew(self.timers, now_ns))
        self._check(event)
        self._now = now_ns
        self._draft.begin()
        self._take_in(event)
        if self._is_only_told(event):
            attested_ns = self._orders.attestation.renew(self.timers, now_ns)
            return Effects(attest_until_ns=attested_ns, logs=self._voice.take())
        effects = self._settle()
        self._calm.end()
        nothing = Effects(attest_until_ns=effects.attest_until_ns)
        if self._started and isinstance(event, Tick) and effects == nothing:
            self._calm.begin(now_ns)
        return effects

    def _is_only_told(self, event: Event) -> bool:
        """Whether nothing follows from it but a line of the log."""
        return self._started and isinstance(event, EngineEvent) and event.kind in ONLY_TOLD

    def calm(self, now_ns: int) -> bool:
        """Whether a `Tick` would do nothing now but renew the attestation."""
        return self._calm.holds(now_ns)

    def next_deadline(self) -> int:
        """When a `Tick` is wanted at the latest."""
        return self._calm.next_deadline(self._now) if self._started else FOREVER

    @property
    def order(self) -> Order:
        """The standing order as last given."""
        return self._orders.standing

    @property
    def role(self) -> Role:
        """The role."""
        return self._office.role

    @property
    def engine(self) -> EngineView | None:
        """The engine as last seen."""
        return self._known.engine

    @property
    def timers(self) -> Timers:
        """Those wanted now: the configuration's, or what an operator set over them."""
        return self._known.timers

    @property
    def facts(self) -> election.Facts:
        """What the standing order was computed from."""
        return self._orders.facts

    @property
    def arbitration(self) -> Arbitration:
        """What is known of the witness, for people."""
        return self._known.witness

    @property
    def waits_for_fencing(self) -> bool:
        """True while the role could be taken over if only the peer were fenced."""
        silent = self._known.watch in (Watch.DEAD, Watch.UNKNOWN)
        following = self._office.role in (Role.SECONDARY, Role.CLAIMING)
        return silent and following and election.waits_for_fencing(self._orders.facts)

    @property
    def status(self) -> Status:
        """What the machine knows, for people."""
        facts, known, office = self._orders.facts, self._known, self._office
        state, fitness, peer = known.memory.state, known.fitness, known.peer
        waiting, until_ns = self._waiting()
        return Status(
            role=office.role,
            since_ns=office.since_ns,
            reason=office.reason,
            sentence=office.sentence(known.policy.name),
            admin=state.admin,
            health=fitness.health,
            health_seen=fitness.damper.seen,
            health_holds_until_ns=fitness.damper.holding_until_ns,
            relapses=fitness.damper.relapses,
            flips=fitness.flips.count,
            flips_since_ns=fitness.flips.since_ns,
            flips_window_ends_ns=fitness.flips.window_ends_ns,
            flips_recovered=fitness.flips.recovered,
            sticky=fitness.sticky,
            conflict=self._conflict.winner,
            timers=known.timers,
            wish=state.wish,
            timers_refused=self._pacing.standing_refusal,
            score=facts.health,
            fit=facts.fit,
            unfit=unfit(facts),
            withheld=election.permitted(facts)[1],
            engine=known.engine,
            block=known.ledger.terms.block,
            terms_left=known.ledger.terms.block.left_above(known.ledger.highest),
            peer=peer,
            peer_heard=facts.peer_heard,
            isolated=known.isolated,
            paused_until_ns=state.paused_until_ns,
            pause_reason=state.pause_reason,
            pause_since_ns=state.pause_since_ns,
            paused_both=bool(state.paused_until_ns and peer and peer.flags & Flag.PAUSE_ACK),
            peer_paused=facts.peer_paused,
            peer_paused_until_ns=state.peer_paused_until_ns,
            waiting=waiting,
            waiting_until_ns=until_ns,
            contested=office.contested,
            last=office.last,
        )

    def _waiting(self) -> tuple[Reason | None, int]:
        """What the node waits for, and until when."""
        operations, because = self._operations, self._voice.because
        if self._office.role is Role.INIT and self._started and self._known.peer is None:
            return because(Code.STARTING), self._follower.listening_ends_ns
        if operations.hold_until_ns:
            return because(Code.TAKES_BACK), operations.hold_until_ns
        if operations.abstain_until_ns:
            return because(Code.ABSTAINING), operations.abstain_until_ns
        return None, 0

    # -- taking in -----------------------------------------------------------------------------

    def _check(self, event: Event) -> None:
        """Refuse what can't be before anything is touched."""
        if isinstance(event, EngineEvent):
            self._follower.check(event)
        elif isinstance(event, Started) and self._started:
            raise StateError("a machine starts once")

    def _take_in(self, event: Event) -> None:
        known, follower, now = self._known, self._follower, self._now
        match event:
            case EngineEvent():
                follower.follow(event, now)
            case EngineSeen(view=engine):
                follower.see(engine, now)
            case PeerSeen(view=peer):
                if known.hear(peer):
                    self._pacing.hear(peer)
            case Tick():
                follower.look_again(now)
            case Started():
                self._started = True
                self._voice.say(Level.INFO, Code.STARTED)
                known.start(event.engine, event.term_floor)
                follower.start(now, kernel_listened=event.kernel_listened)
            case HealthChanged(health=health):
                self._on_health(health)
            case ConfigReloaded(policy=policy, timers=timers):
                known.configure(policy)
                self._pacing.configure(timers, policy.wake_late_ns)
                self._voice.say(Level.INFO, Code.RELOADED)
            case HostMeasured(wake_late_ns=late_ns):
                self._pacing.wake_late_ns = late_ns
            case EffectFailed(effect=effect, why=why):
                self._voice.say(Level.ERROR, Code.EFFECT_FAILED, effect=effect, why=why)
                if effect == "save":
                    known.memory.failed(why, now + self._patience.retry_ns)
            case Stopping(restart=restart):
                self._leaving.begin(self._gather(), now, restart=restart)
            case Command():
                leaving = self._leaving.begun
                self._operations.command(event, now, started=self._started, leaving=leaving)
            case _:
                known.learn(event, now)

    def _on_health(self, health: TrackedHealth) -> None:
        known = self._known
        if not known.fitness.see(health, self._now):
            return
        kept = self._office.serving and not known.fitness.health.up and known.policy.fail_safe
        if kept and not election.better_peer(self._gather()):
            self._voice.say(Level.WARNING, Code.FAIL_SAFE)

    # -- settling ------------------------------------------------------------------------------

    def _settle(self) -> Effects:
        """Everything that follows from what is now known."""
        known, operations, now = self._known, self._operations, self._now
        self._office.settle(now)
        if not self._started:
            return self._effects(order=None, attest=None)
        known.fitness.settle(
            now,
            serving=self._office.serving,
            peer_score=known.heard_peer.health if known.heard_peer is not None else None,
            fail_safe=known.policy.fail_safe,
            patience_ns=operations.patience_ns,
        )
        timers = self._settle_timers()
        known.settle_pause(now)
        operations.settle_abstention(now)
        self._follower.settle_listening(now)
        known.settle_past()
        operations.settle(now)
        self._follower.settle_admin(now)
        operations.settle_hold(now)
        self._leaving.settle_reign()
        known.settle_fencing()
        known.settle_witness(now)
        self._orders.facts = self._gather()
        contested = self._office.contested
        self._conflict.settle(self._orders.facts, known.timers, contested=contested, now_ns=now)
        order = self._settle_order()
        attest = self._orders.attestation.renew(known.timers, now)
        if order is not None:
            order = self._orders.attested()
            attest = order.attested_until_ns
        self._settle_desk()
        confirmed = self._desk.confirmed >= self._orders.standing.generation
        self._leaving.settle(now, confirmed=confirmed)
        return self._effects(order=order, attest=attest, timers=timers)

    def _settle_timers(self) -> Timers | None:
        """Other intervals that are wanted from now on; None if they are the same."""
        known, memory = self._known, self._known.memory
        answer = self._pacing.settle(known.heard_peer, known.engine, self._now)
        kept = self._pacing.agreement.kept
        if kept is not memory.state.wish and kept != memory.state.wish:
            memory.state = replace(memory.state, wish=kept)
        wanted, news = self._pacing.timers, None
        if wanted is not known.timers and wanted != known.timers:
            known.timers = news = wanted
            self._orders.attestation.next_ns = self._now  # For as long as the new lease asks.
        if answer is not None:
            self._operations.expect(*answer, self._now)
        return news

    def _settle_order(self) -> Order | None:
        """The standing order that follows from the facts; None if it is the one that stands."""
        orders, operations = self._orders, self._operations
        must = orders.must_resign(self._office.term)
        if must is not None:
            operations.resign(must.reason(), self._now)
            orders.facts = self._gather()
        agreement = self._pacing.agreement
        return orders.derive(
            self._known.ledger.terms,
            taking=operations.taking_over,
            handing=operations.why if operations.handing_over else None,
            restarting=self._leaving.restarting,
            # Only what the peer can understand is said to it.
            proposal=agreement.saying if self._known.peer_negotiates else None,
            proposal_every=agreement.every,
        )

    def _settle_desk(self) -> None:
        known, peer = self._known, self._known.peer
        self._desk.settle(
            Held(
                generation=self._orders.standing.generation,
                saved=known.memory.settled,
                save_failed=known.memory.refused,
                peer_heard=known.peer_heard,
                peer_knows=peer is not None and bool(peer.flags & Flag.PAUSE_ACK),
                pause_ends=known.memory.state.paused_until_ns < FOREVER,
            ),
            self._now,
        )

    def _effects(
        self, *, order: Order | None, attest: int | None, timers: Timers | None = None
    ) -> Effects:
        """The draft, and what is due of all that is written, reserved, asked and answered."""
        draft, known, now = self._draft, self._known, self._now
        started = self._started
        save = known.memory.wanted(now) if started else None
        reserve = known.ledger.wanted(now) if started else None
        words = known.witness.words(now)
        news = words != self._witness_words
        self._witness_words = words
        ask = None
        if started:
            ask = known.witness.question(
                now, peer_heard=known.peer_heard, highest=known.ledger.highest
            )
        notify = None
        if draft.status_changed:
            told = self._office.sentence(known.policy.name)
            notify = Notify(status=told, ready=self._office.role is not Role.INIT)
        return Effects(
            save=save,
            order=order,
            attest_until_ns=attest,
            witness=words if news else None,
            timers=timers,
            close_gate=draft.close_gate,
            withdraw_vips=draft.withdraw_vips,
            announce=draft.announce,
            destroy_vip_sockets=draft.destroy_vip_sockets,
            remove_routes=draft.remove_routes,
            install_routes=draft.install_routes,
            ask_witness=ask,
            reserve_terms=reserve,
            records=tuple(draft.records),
            logs=self._voice.take(),
            notify=notify,
            replies=self._desk.take(),
            stopped=self._leaving.stopped,
        )

    # -- knowing -------------------------------------------------------------------------------

    def _gather(self) -> election.Facts:
        return self._known.facts(
            self._now,
            stopping=self._leaving.stopping,
            handing_over=self._operations.handing_over,
            abstaining=bool(self._operations.abstain_until_ns),
        )

    def _names(self) -> dict[str, object]:
        """What the sentences of this node may refer to."""
        known = self._known
        return {
            "node": known.policy.name,
            "peer": known.policy.peer_name,
            "probes": known.probes or "the",
            "interface": ", ".join(known.gates_missing),
            "checks": ", ".join(known.fitness.health.failed),
            "lease": duration(known.timers.lease_ns),
            "timers": self._pacing.kept,
        }
