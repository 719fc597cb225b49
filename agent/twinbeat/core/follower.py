# SPDX-License-Identifier: Apache-2.0
"""How the role follows: the engine first of all, then what listening showed and the operator wants.

Each event of the engine is taken in here, and turns the role by `twinbeat.core.table`. The engine's
state itself (`see`) puts right what lost events left wrong. What an event means is in
`twinbeat.core.news`; why a reign ended is said here, because the engine can't know why it was told
to resign.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from twinbeat.core import election, news, table
from twinbeat.core.desk import Desk
from twinbeat.core.effects import Draft, Level
from twinbeat.core.events import EngineEvent
from twinbeat.core.knowledge import Knowledge
from twinbeat.core.office import Office
from twinbeat.core.operations import Operations
from twinbeat.core.orders import Orders
from twinbeat.core.reasons import CAUSES, Code, Reason, Refusal, duration
from twinbeat.core.table import Turn
from twinbeat.core.terms import floor_of
from twinbeat.core.types import (
    Admin,
    Cause,
    EngineView,
    Flag,
    Patience,
    Phase,
    Role,
)
from twinbeat.core.types import EngineEventKind as Kind
from twinbeat.core.voice import Voice


class Follower:
    """Turns the role of one node."""

    def __init__(
        self,
        *,
        known: Knowledge,
        office: Office,
        orders: Orders,
        operations: Operations,
        desk: Desk,
        voice: Voice,
        draft: Draft,
        patience: Patience,
    ) -> None:
        self._known = known
        self._office = office
        self._orders = orders
        self._operations = operations
        self._desk = desk
        self._voice = voice
        self._draft = draft
        self._patience = patience
        self._started_ns = 0
        self._kernel_listened = False
        self._claim_cause = Cause.NONE
        self._claim_overtaken = False
        """The newest claim was begun as a higher term than the one served was seen."""
        self._late_logged_ns = 0
        self._ahead_since_ns = 0
        """Since when the engine's state is ahead of its events; 0 = it isn't."""

    def start(self, now_ns: int, *, kernel_listened: bool) -> None:
        """The engine runs, and listening begins."""
        self._started_ns = now_ns
        self._kernel_listened = kernel_listened

    # -- the engine's events -------------------------------------------------------------------

    def check(self, event: EngineEvent) -> None:
        """Raise `StateError` if the event can't be; nothing is touched."""
        by = news.TURNS.get(event.kind)
        if by is not None:
            table.turn(Role.PRIMARY if self._resumed_unheard(event) else self._office.role, by)

    def _resumed_unheard(self, event: EngineEvent) -> bool:
        """A node that has just started claims only for a reign that it resumed: if that is news,
        the event that told of it was lost."""
        renews = event.kind is Kind.CLAIM and event.cause is Cause.RENEW
        return self._office.role is Role.INIT and (renews or event.kind is Kind.ABANDONED)

    def follow(self, event: EngineEvent, now_ns: int) -> None:
        """Take in what the engine did or holds of the peer."""
        known, office, because = self._known, self._office, self._voice.because
        if self._resumed_unheard(event):
            term = known.engine.term if known.engine is not None else event.a
            self._turn_by_itself(Turn.OPENED, because(Code.RESYNCED), now_ns, term)
        office.follow(event)
        match event.kind:
            case Kind.CLAIM:
                known.witness.claimed(event.a)
                known.ledger.see(event.a)
                self._claim_cause = event.cause
                self._claim_overtaken = event.b == 1
                if not office.serving:
                    office.term = event.a
                self._turn(Turn.CLAIMED, self._claimed_for(event.cause), event, now_ns)
            case Kind.OPENED:
                known.witness.opened(event.a)
                known.ledger.see(event.a)
                cause = Cause(event.b) if event.b else self._claim_cause
                first = cause in news.FREE and not known.ledger.reigned
                known.ledger.reigned = True
                why = because(Code.FIRST) if first else self._claimed_for(cause)
                self._turn(Turn.OPENED, why, event, now_ns)
            case Kind.ABANDONED:
                known.witness.abandoned()
                self._turn(Turn.ABANDONED, because(CAUSES[event.cause]), event, now_ns)
            case Kind.CLOSED:
                known.witness.closed()
                known.ledger.see(event.b)
                self._turn(Turn.CLOSED, self._ended_by(event.cause), event, now_ns)
            case Kind.ANNOUNCED:
                office.announced(event.at_ns)
            case Kind.ORDER:
                if event.b and office.role is Role.SECONDARY:
                    # The event of that claim was lost; how it ended is still to be told.
                    self._turn_by_itself(Turn.CLAIMED, because(Code.RESYNCED), now_ns)
                self._desk.confirm(event.a, claim_came_first=bool(event.b))
            case Kind.WITHHELD:
                self._voice.log(Level.INFO, self._withheld_by(event.cause))
            case Kind.CONTESTED | Kind.REOPENED:
                office.contested = event.kind is Kind.CONTESTED
            case Kind.DEAD:
                known.probes = event.b
            case Kind.COUNTER_JUMP:
                # Only a lost disk or a clock set back can make a counter too low.
                known.ledger.floor = floor_of(event.a)
                known.ledger.reigned = True
                known.ledger.begin_above_floor()
            case Kind.HEARD | Kind.CLEARED | Kind.SUSPECT | Kind.STALLED:
                pass  # Watched and told below.
            case Kind.LINK_SILENT | Kind.LINK_HEARD | Kind.LATE:
                pass  # Told below.
            case Kind.RECEIPT | Kind.TERM_LOW | Kind.PEER_CHANGED:
                pass
            case _:
                assert_never(event.kind)
        known.watch = news.WATCH.get(event.kind, known.watch)
        if event.kind in news.TOLD and not self._told_late(event):
            level, code = news.TOLD[event.kind]
            self._voice.say(level, code, silence=duration(event.a), link=event.link)

    def _told_late(self, event: EngineEvent) -> bool:
        """A host that is often late says so now and then."""
        if event.kind is not Kind.LATE:
            return False
        quiet_until_ns = self._late_logged_ns + self._patience.late_log_ns
        if self._late_logged_ns and event.at_ns < quiet_until_ns:
            return True
        self._late_logged_ns = event.at_ns
        return False

    def _claimed_for(self, cause: Cause) -> Reason:
        """Why a claim was begun, with what is known of it beyond the engine's word."""
        why = self._voice.because(CAUSES[cause])
        peer, health = self._known.peer, self._orders.facts.health
        if cause is Cause.RENEW:
            seen = "a higher one was seen" if self._claim_overtaken else "its lease was half over"
            return why.then(seen)
        if cause is Cause.ORDERED:
            return why.quoting(self._operations.words)
        if cause is Cause.YIELDED and peer is not None:
            if peer.flags & Flag.ISOLATED:
                return why.then(f"{self._known.policy.peer_name} is cut off from the network")
            if peer.health < health:
                return why.then(f"its health is {peer.health} against {health}")
        return why

    def _ended_by(self, cause: Cause) -> Reason:
        """Why a reign ended; what the engine can't know is why it was told to resign, or why the
        peer was asked for the claim that ended it."""
        gates = self._known.gates_missing
        if gates and cause not in (Cause.FENCED, Cause.CONTEST_LOST):
            return self._voice.because(Code.GATE_LOST, interface=", ".join(gates))
        if cause is Cause.RESIGNED:
            return self._orders.resign_reason
        asked_for = self._orders.yields_for
        if cause is Cause.FENCED and asked_for is not None:
            return asked_for.then(f"{self._known.policy.peer_name} took over")
        return self._voice.because(CAUSES[cause])

    def _withheld_by(self, cause: Cause) -> Refusal:
        """Why the engine claims nothing; where the standing order forbids it, why that is so."""
        if cause in (Cause.NOT_PERMITTED, Cause.ORDER_VOID):
            refusals = election.permitted(self._orders.facts)[1]
            if refusals:
                return refusals[0]
        return self._voice.refuse(CAUSES[cause])

    # -- the engine's state --------------------------------------------------------------------

    def see(self, view: EngineView, now_ns: int) -> None:
        """Take in the engine's state: it puts right what lost events left wrong.

        The copy may be newer than the events that were read with it, so only what stays wrong for a
        while is put right.
        """
        known = self._known
        known.engine, known.watch = view, view.watch
        known.ledger.see(view.highest)
        if view.phase is Phase.LISTENING:
            known.witness.closed()
        by = news.missed(view.phase, self._office.role)
        if by is None and view.order_generation <= self._desk.confirmed:
            self._ahead_since_ns = 0
            return
        if not self._ahead_since_ns:
            self._ahead_since_ns = now_ns
        if now_ns < self.resync_ns:
            return
        self._ahead_since_ns = 0
        self._desk.confirm(view.order_generation, claim_came_first=False)
        if by is not None:
            reason, term = self._voice.because(Code.RESYNCED), view.term or self._office.term
            self._turn_by_itself(by, reason, now_ns, term)

    def look_again(self, now_ns: int) -> None:
        """A state that stays the same is told once: time alone makes it a lasting one."""
        if self._ahead_since_ns and self._known.engine is not None:
            self.see(self._known.engine, now_ns)

    @property
    def resync_ns(self) -> int:
        """When events that the engine's state is ahead of count as lost; 0 = it isn't ahead."""
        return self._ahead_since_ns and self._ahead_since_ns + self._patience.resync_ns

    # -- turning -------------------------------------------------------------------------------

    def _turn(self, by: Turn, reason: Reason, event: EngineEvent, now_ns: int) -> None:
        """Turn the role by the table, record it, and ask for what follows on the slow path."""
        office, draft, memory = self._office, self._draft, self._known.memory
        before = office.role
        after = table.turn(before, by)
        if by is Turn.OPENED:
            office.term = event.a
            office.contested = False
            if not memory.state.last_primary:
                memory.state = replace(memory.state, last_primary=True)
        if by is Turn.ABANDONED:
            self._voice.log(Level.WARNING, reason)
            self._operations.claim_abandoned(reason)
        if before is not after or by is Turn.OPENED:
            office.become(after, reason, event.at_ns or now_ns, now_ns)
        if self._for_health(by, before, event.cause):
            self._known.fitness.flips.flipped(now_ns)
        if by is Turn.OPENED:
            draft.install_routes = before is not Role.PRIMARY
        if by is Turn.CLOSED:
            office.term = 0
            office.fenced = event.cause is Cause.FENCED
            if before is Role.PRIMARY:
                office.contested = False
                draft.destroy_vip_sockets = draft.remove_routes = True

    def _turn_by_itself(self, by: Turn, reason: Reason, now_ns: int, term: int = 0) -> None:
        """Turn the role though the engine told of no event."""
        self._turn(by, reason, EngineEvent(kind=Kind.ORDER, at_ns=now_ns, a=term), now_ns)

    def _for_health(self, by: Turn, before: Role, cause: Cause) -> bool:
        """Does the role move for the sake of health?"""
        if self._operations.under_way is not None:
            return False
        orders, peer = self._orders, self._known.peer
        if by is Turn.CLOSED and before is Role.PRIMARY:
            # Not whether it yields now: of a peer that claims already nothing is asked any more.
            facts = orders.facts
            to_better = peer is not None and peer.health > facts.health and not facts.sticky
            return (to_better and cause is Cause.FENCED) or (
                cause is Cause.RESIGNED and orders.resign_reason.code is Code.UNHEALTHY
            )
        return (
            by is Turn.OPENED
            and before is not Role.PRIMARY
            and peer is not None
            and self._claim_cause in (Cause.YIELDED, Cause.IDLE)
            and peer.health < orders.facts.health
            and not peer.flags & Flag.NEVER_CLAIMS
        )

    # -- listening and taking part -------------------------------------------------------------

    @property
    def listens_until_ns(self) -> int:
        """When INIT ends at the latest; 0 = it is over, or doesn't end by itself."""
        if self._office.role is not Role.INIT:
            return 0
        disabled = self._known.memory.state.admin is Admin.DISABLED
        return 0 if disabled else self.listening_ends_ns

    @property
    def listening_ends_ns(self) -> int:
        """When nobody is waited for any longer after a start.

        A node that boots waits for a peer that may be booting beside it. One whose agent alone was
        gone doesn't: its kernel took in no claim meanwhile, so what R10 asks for is enough, the end
        of any reign that could have begun unheard.
        """
        timers = self._known.timers
        wait_ns = timers.boot_wait_ns
        if self._kernel_listened:
            wait_ns = min(wait_ns, timers.lease_ns + timers.dead_ns + timers.verify_ns)
        return self._started_ns + wait_ns

    def settle_listening(self, now_ns: int) -> None:
        """INIT ends when the peer was found, or when listening was long enough."""
        until_ns = self.listens_until_ns
        if not until_ns:
            return
        peer, because = self._known.heard_peer, self._voice.because
        if peer is not None and peer.two_way and not self._known.ledger.spent:
            said = "serving" if peer.serves else "not serving"
            reason = because(Code.PEER_FOUND, peer_role=said)
            self._turn_by_itself(Turn.LISTENED, reason, now_ns)
        elif now_ns >= until_ns:
            reason = because(Code.LISTENED, waited=duration(now_ns - self._started_ns))
            self._turn_by_itself(Turn.LISTENED, reason, now_ns)

    def settle_admin(self, now_ns: int) -> None:
        """DISABLED is a role as well: taken on once the engine confirmed that it claims nothing."""
        role, engine, standing = self._office.role, self._known.engine, self._orders.standing
        disabled = self._known.memory.state.admin is Admin.DISABLED
        if role is Role.DISABLED and not disabled:
            why = self._voice.because(Code.ENABLED).quoting(self._operations.admin_words)
            self._turn_by_itself(Turn.ADMITTED, why, now_ns)
        elif (
            disabled
            and role in (Role.INIT, Role.SECONDARY)
            and standing.admin is Admin.DISABLED
            and self._desk.confirmed >= standing.generation > 0
            and (engine is None or engine.phase is Phase.LISTENING)
        ):
            why = self._voice.because(Code.DISABLED).quoting(self._operations.admin_words)
            self._turn_by_itself(Turn.WITHDRAWN, why, now_ns)
