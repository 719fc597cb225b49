# SPDX-License-Identifier: Apache-2.0
"""The operator's commands carried out, and every planned change of role.

A command is refused at once with code and sentence (`refuse_command`), or accepted and answered
finally, by the `Desk`. At most one that moves the role is under way (`Operation`): a hand-over says
YIELD until the peer's claim shuts this node's gate, a take-over claims by receipt, and each has a
deadline. The node's own wishes are operations that nobody is answered for: to take the role back
after the hold-down of one that was told to stay primary, and to hand it over before it stops.

Who gave up the role by order lets the peer go first for a while (`abstain`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, assert_never

from twinbeat.core import election
from twinbeat.core.commands import Kind, Operation, refuse_command
from twinbeat.core.desk import Desk
from twinbeat.core.effects import Draft, Level, Outcome
from twinbeat.core.election import Facts
from twinbeat.core.events import (
    AdminCommand,
    ForceFailover,
    ForceYield,
    Operator,
    Pause,
    Resume,
    SetTimers,
)
from twinbeat.core.knowledge import Knowledge
from twinbeat.core.office import Office
from twinbeat.core.orders import Orders
from twinbeat.core.pacing import Pacing
from twinbeat.core.reasons import Code, Reason, duration
from twinbeat.core.types import FOREVER, Admin, Patience, Role
from twinbeat.core.voice import Voice

_ADMIN_CODES: Final = {
    Admin.STAY_SECONDARY: Code.STAY_SECONDARY,
    Admin.DISABLED: Code.DISABLED,
}


class Operations:
    """What was asked of one node, or what it wants by itself, until it is done."""

    def __init__(
        self,
        *,
        known: Knowledge,
        office: Office,
        orders: Orders,
        desk: Desk,
        pacing: Pacing,
        voice: Voice,
        draft: Draft,
        patience: Patience,
        gather: Callable[[], Facts],
    ) -> None:
        """``gather`` gives the facts as they are at that moment."""
        self.under_way: Operation | None = None
        self.abstain_until_ns = 0
        """So long the peer may go first; 0 = it need not."""
        self.hold_since_ns = 0
        """Since when this node could take the role back; 0 = it can't, or doesn't want to."""
        self.admin_words = ""
        """The operator's own words for what the node was last told to be."""
        self._abstain_since_ns = 0
        self._known = known
        self._office = office
        self._orders = orders
        self._desk = desk
        self._pacing = pacing
        self._voice = voice
        self._draft = draft
        self._patience = patience
        self._gather = gather

    @property
    def taking_over(self) -> bool:
        """This node is to become primary."""
        return self.under_way is not None and self.under_way.kind is Kind.TAKE_OVER

    @property
    def handing_over(self) -> bool:
        """This node is to be primary no longer."""
        return self.under_way is not None and self.under_way.kind is Kind.HAND_OVER

    @property
    def why(self) -> Reason:
        """For what reason a hand-over is under way."""
        operation = self.under_way
        assert operation is not None
        assert operation.kind is Kind.HAND_OVER
        code = operation.resigns_with or Code.TOLD_TO_HAND_OVER
        if operation.then_admin is not None:
            code = _ADMIN_CODES[operation.then_admin]
        return self._voice.because(code).quoting(operation.words)

    @property
    def words(self) -> str:
        """The operator's own words for what is under way."""
        return self.under_way.words if self.under_way is not None else ""

    @property
    def deadline_ns(self) -> int:
        """When the operation under way can't wait any longer; 0 = there is none."""
        return self.under_way.deadline_ns if self.under_way is not None else 0

    @property
    def patience_ns(self) -> int:
        """How long a planned change of role may take."""
        timers = self._known.timers
        return self._patience.operation_ns + 10 * timers.hello_ns + 4 * timers.verify_ns

    @property
    def hold_until_ns(self) -> int:
        """When this node takes the role back; 0 = it doesn't."""
        return self.hold_since_ns and self.hold_since_ns + self._known.policy.preempt_hold_ns

    # -- commands ------------------------------------------------------------------------------

    def command(self, command: Operator, now_ns: int, *, started: bool, leaving: bool) -> None:
        """Take in a command: refuse it, or begin what it asks for."""
        if self._desk.repeat(command.request_id):
            return
        refusal = refuse_command(
            command,
            self._gather(),
            started=started,
            leaving=leaving,
            busy=self.under_way is not None,
        )
        if refusal is not None:
            self._desk.answer(command.request_id, Outcome.REFUSED, refusal)
            self._voice.log(Level.INFO, refusal)
            return
        memory = self._known.memory
        match command:
            case AdminCommand():
                self._set_admin(command, now_ns)
            case ForceFailover():
                self._accept(command.request_id)
                kind = Kind.HAND_OVER if self._office.serving else Kind.TAKE_OVER
                self.begin(kind, now_ns, request_id=command.request_id, words=command.reason)
            case ForceYield():
                self._accept(command.request_id)
                self.begin(
                    Kind.HAND_OVER,
                    now_ns,
                    request_id=command.request_id,
                    resigns_with=Code.TOLD_TO_YIELD,
                    words=command.reason,
                )
                if election.successor(self._gather(), even_if_unfit=True) is not None:
                    self._give_up_waiting(now_ns)
            case Pause(for_ns=for_ns):
                memory.state = replace(
                    memory.state,
                    paused_until_ns=now_ns + for_ns if for_ns else FOREVER,
                    pause_reason=command.reason,
                    pause_since_ns=now_ns,
                )
                self.expect(command.request_id, Code.PAUSED_BOTH, now_ns, needs_peer=True)
            case Resume():
                self._known.resume()
                self.expect(command.request_id, Code.DONE, now_ns)
            case SetTimers():
                if self._pacing.command(command, self._known.heard_peer, now_ns):
                    self.expect(command.request_id, Code.TIMERS_ALONE, now_ns)
            case _:
                assert_never(command)

    def _set_admin(self, command: AdminCommand, now_ns: int) -> None:
        memory = self._known.memory
        if command.status is memory.state.admin:
            # It may be so in memory only: the disk refused it the last time.
            self.expect(command.request_id, Code.UNCHANGED, now_ns)
            return
        leaving = command.status.never_claims and self._office.serving
        if leaving and not command.even_if_unfit:
            self._accept(command.request_id)
            self.begin(
                Kind.HAND_OVER,
                now_ns,
                request_id=command.request_id,
                then_admin=command.status,
                words=command.reason,
            )
            return
        memory.state = replace(memory.state, admin=command.status)
        self.admin_words = command.reason
        if leaving:
            why = self._voice.because(_ADMIN_CODES[command.status])
            self.resign(why.quoting(command.reason), now_ns)
        self.expect(command.request_id, Code.DONE, now_ns)

    def begin(
        self,
        kind: Kind,
        now_ns: int,
        *,
        request_id: str = "",
        then_admin: Admin | None = None,
        resigns_with: Code | None = None,
        words: str = "",
    ) -> None:
        """Begin a planned change of role; without a request id nobody asked."""
        self.under_way = Operation(
            kind=kind,
            request_id=request_id,
            begun_ns=now_ns,
            deadline_ns=now_ns + self.patience_ns,
            then_admin=then_admin,
            resigns_with=resigns_with,
            words=words,
        )

    def cancel(self, why: Reason) -> None:
        """Whatever is under way is so no longer."""
        if self.under_way is not None:
            self._desk.answer(self.under_way.request_id, Outcome.FAILED, why)
            self.under_way = None

    def resign(self, why: Reason, now_ns: int) -> None:
        """Demand of the engine that it shut the gate at once."""
        self._orders.resign(why, self._office.term)
        self._draft.close_gate = why
        self._abstain(now_ns)

    def expect(
        self, request_id: str, answer: Code, now_ns: int, *, needs_peer: bool = False
    ) -> None:
        """Answer when the order that is about to go out is in effect and the state is saved."""
        self._desk.expect(
            request_id,
            answer,
            now_ns + self._patience.confirm_ns,
            serving=self._office.serving,
            needs_peer=needs_peer,
        )

    def claim_abandoned(self, why: Reason) -> None:
        """A claim was given up: if an operator asked for it, tell him."""
        operation = self.under_way
        if operation is not None and operation.kind is Kind.TAKE_OVER:
            self.under_way = None
            reason = self._voice.because(Code.CLAIM_FAILED, why=why.sentence)
            self._desk.answer(operation.request_id, Outcome.FAILED, reason)

    def _accept(self, request_id: str) -> None:
        self._desk.answer(request_id, Outcome.ACCEPTED, self._voice.because(Code.ACCEPTED))

    def _give_up_waiting(self, now_ns: int) -> None:
        """Nobody is going to take over: the operation under way is due now."""
        assert self.under_way is not None
        self.under_way = replace(self.under_way, deadline_ns=now_ns)

    def _abstain(self, now_ns: int) -> None:
        """Let the peer go first."""
        self._abstain_since_ns = now_ns
        self.abstain_until_ns = now_ns + self._patience.abstain_ns

    # -- settling ------------------------------------------------------------------------------

    def settle_abstention(self, now_ns: int) -> None:
        """The peer went first, or had its time."""
        if self.abstain_until_ns and (now_ns >= self.abstain_until_ns or self._peer_serves()):
            self.abstain_until_ns = 0

    def _peer_serves(self) -> bool:
        """It opened its gate after this node gave up the role."""
        peer = self._known.heard_peer
        return (
            peer is not None
            and peer.serves
            and peer.arrived_ns > self._abstain_since_ns
            and not self._office.serving
        )

    def settle(self, now_ns: int) -> None:
        """What has become of the operation under way."""
        operation = self.under_way
        if operation is None:
            return
        serving = self._office.serving
        match operation.kind:
            case Kind.HAND_OVER if not serving:
                self._handed_over(operation, now_ns)
            case Kind.TAKE_OVER if serving:
                self.under_way = None
                winner = self._known.policy.name
                reason = self._voice.because(Code.SWITCHED_OVER, winner=winner)
                self._desk.answer(operation.request_id, Outcome.DONE, reason)
            case Kind.HAND_OVER | Kind.TAKE_OVER:
                if now_ns >= operation.deadline_ns:
                    self._late(operation, now_ns)
            case _:
                assert_never(operation.kind)

    def _handed_over(self, operation: Operation, now_ns: int) -> None:
        self.under_way = None
        memory, fenced = self._known.memory, self._office.fenced
        if operation.then_admin is not None:
            memory.state = replace(memory.state, admin=operation.then_admin)
            self.admin_words = operation.words
            self.expect(operation.request_id, Code.DONE, now_ns)
        elif fenced:
            winner = self._known.policy.peer_name
            reason = self._voice.because(Code.SWITCHED_OVER, winner=winner)
            self._desk.answer(operation.request_id, Outcome.DONE, reason)
        else:
            self._desk.answer(operation.request_id, Outcome.DONE, self._office.reason)
        if fenced and not self._peer_serves():
            # The peer's claim shut our gate; its opening is on its way.
            self._abstain(now_ns)

    def _late(self, operation: Operation, now_ns: int) -> None:
        resigns_with = operation.resigns_with
        if resigns_with is not None and not self._orders.resigned(self._office.term):
            # Stays under way until the gate is shut.
            self.resign(self.why, now_ns)
            deadline_ns = now_ns + self._patience.confirm_ns
            self.under_way = replace(operation, deadline_ns=deadline_ns)
            return
        self.under_way = None
        if operation.kind is Kind.TAKE_OVER:
            refusals = election.permitted(self._gather())[1]
            why = refusals[0].sentence if refusals else "the engine began no claim"
            reason = self._voice.because(Code.CLAIM_FAILED, why=why)
        else:
            waited = duration(now_ns - operation.begun_ns)
            reason = self._voice.because(Code.PEER_DID_NOT_CLAIM, waited=waited)
        self._desk.answer(operation.request_id, Outcome.FAILED, reason)
        self._voice.log(Level.WARNING, reason)

    def settle_hold(self, now_ns: int) -> None:
        """A fit node that was told to stay primary takes the role back after a hold-down."""
        if not self._wants_back():
            self.hold_since_ns = 0
        elif not self.hold_since_ns:
            self.hold_since_ns = now_ns
        elif now_ns >= self.hold_until_ns:
            self.hold_since_ns = 0
            self._voice.say(Level.WARNING, Code.TAKES_BACK)
            self.begin(Kind.TAKE_OVER, now_ns)

    def _wants_back(self) -> bool:
        told = self._known.memory.state.admin is Admin.STAY_PRIMARY
        if not told or self._office.role is not Role.SECONDARY or self.under_way is not None:
            return False
        facts = self._gather()
        return (
            facts.fit
            and facts.peer is not None
            and facts.peer.serves
            and facts.health >= facts.peer.health
            and election.may_take_over(facts) is None
        )
