# SPDX-License-Identifier: Apache-2.0
"""What a node knows: of itself, of its engine, of its peer, of the witness, and over a restart.

Everything that was told is kept here until something else is told, and `facts` gives all of it as
one value. Nothing is decided: what follows is `twinbeat.core.election`'s, `operations`' and
`orders`' to say. What the engine *did* goes through `Machine`, because it turns the role.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, assert_never

from twinbeat.core import election
from twinbeat.core.effects import Draft, Level
from twinbeat.core.events import (
    GateLost,
    GateRestored,
    IsolationChanged,
    PeerFenced,
    PortLost,
    PortRestored,
    StateSaved,
    TermsFailed,
    TermsReserved,
    WitnessAnswered,
)
from twinbeat.core.fitness import Fitness
from twinbeat.core.memory import Memory
from twinbeat.core.office import Office
from twinbeat.core.reasons import Code
from twinbeat.core.terms import Ledger, Past
from twinbeat.core.types import (
    FOREVER,
    Durable,
    EngineView,
    Flag,
    Patience,
    PeerView,
    Policy,
    Role,
    Timers,
    Watch,
)
from twinbeat.core.voice import Voice
from twinbeat.core.witness import Arbitration

Fact = (
    TermsReserved
    | TermsFailed
    | StateSaved
    | PortLost
    | PortRestored
    | GateLost
    | GateRestored
    | IsolationChanged
    | PeerFenced
    | WitnessAnswered
)
"""Events that change what is known, and nothing by themselves."""


PAUSE_TOLERANCE: Final = 16
"""The end of the peer's pause is known to such a part of what is left, and only ever too late:
frames round what is left up, each a bit differently, and each other end is written to disk."""


def unpaused(state: Durable) -> Durable:
    """The same, and no pause."""
    return replace(state, paused_until_ns=0, pause_reason="", pause_since_ns=0)


class Knowledge:
    """Everything one node knows."""

    def __init__(
        self,
        *,
        policy: Policy,
        timers: Timers,
        durable: Durable,
        reserved_last: int,
        patience: Patience,
        office: Office,
        voice: Voice,
        draft: Draft,
    ) -> None:
        self.policy = policy
        self.timers = timers
        """Those wanted, as the engine was told."""
        self.memory = Memory(durable)
        self.fitness = Fitness(policy, voice)
        self.ledger = Ledger(size=policy.terms_per_block, reserved_last=reserved_last)
        self.witness = Arbitration(
            node=policy.node, lease_ns=policy.witness_lease_ns, serve=policy.witness_serve
        )
        self.engine: EngineView | None = None
        self.watch = Watch.UNKNOWN
        self.probes = 0
        """So many were unanswered when the engine last said that the peer is dead."""
        self.peer: PeerView | None = None
        """Its newest frame."""
        self.isolated = False
        self.fenced_after: int | None = None
        """The counter after which nothing was heard of a peer whose power was cut; None = it wasn't
        since it was heard."""
        self.gates_missing: dict[str, None] = {}
        self._ports_lost: dict[str, None] = {}
        self._peer_pause_overridden = False
        self._peer_pause_ended_ns = 0
        """When the pause of a silent peer ended by itself; 0 = it said otherwise since."""
        self._witness_silent = False
        self._patience = patience
        self._office = office
        self._voice = voice
        self._draft = draft

    # -- taking in -----------------------------------------------------------------------------

    def learn(self, fact: Fact, now_ns: int) -> None:
        """Take in a fact, and say it where people would ask."""
        say = self._voice.say
        match fact:
            case TermsReserved(block=block):
                self.ledger.terms = self.ledger.terms.reserved(block)
                say(Level.DEBUG, Code.TERMS_RESERVED, last=block.last)
            case TermsFailed(why=why):
                if not self.ledger.terms.failed:
                    say(Level.ERROR, Code.TERMS_FAILED, why=why)
                retry_ns = now_ns + self._patience.retry_ns
                self.ledger.terms = self.ledger.terms.refused(why, retry_ns)
            case StateSaved():
                self.memory.written()
            case PortLost(interface=interface):
                self._ports_lost[interface] = None
                say(Level.WARNING, Code.PORT_LOST, interface=interface)
            case PortRestored(interface=interface):
                if interface in self._ports_lost:
                    del self._ports_lost[interface]
                    say(Level.INFO, Code.PORT_RESTORED, interface=interface)
                    self._draft.announce = self._office.serving
            case GateLost(interface=interface):
                # R20: without its gate no address may stay.
                self.gates_missing[interface] = None
                reason = self._voice.because(Code.GATE_LOST, interface=interface)
                self._voice.log(Level.ERROR, reason)
                self._draft.close_gate = reason
                self._draft.withdraw_vips = interface
            case GateRestored(interface=interface):
                if interface in self.gates_missing:
                    del self.gates_missing[interface]
                    say(Level.INFO, Code.GATE_RESTORED, interface=interface)
            case IsolationChanged(isolated=isolated):
                if isolated and not self.isolated:
                    say(Level.WARNING, Code.ISOLATED)
                self.isolated = isolated
            case PeerFenced(heard=heard):
                self.fenced_after = heard
                say(Level.WARNING, Code.PEER_FENCED)
            case WitnessAnswered(answer=answer):
                self.witness.answered(answer, now_ns)
                self.ledger.see(answer.kept)
                self.ledger.reigned |= answer.kept > 0
            case _:
                assert_never(fact)

    def start(self, engine: EngineView, term_floor: int) -> None:
        """The engine runs."""
        self.engine, self.watch = engine, engine.watch
        self.ledger.floor = term_floor
        self.ledger.see(engine.highest)
        self.ledger.reigned |= engine.highest > 0
        if engine.highest and self.ledger.past is Past.UNKNOWN:
            self.ledger.begin_above_floor()

    def hear(self, peer: PeerView) -> bool:
        """Take in the peer's newest frame; False if a newer one is known."""
        memory, state = self.memory, self.memory.state
        if self.peer is None and not state.peer_known:
            memory.state = state = replace(state, peer_known=True)
        if self.peer is not None and peer.counter < self.peer.counter:
            return False
        until_ns = self._hear_pause(peer)
        over = state.peer_pause_over and not until_ns and bool(peer.flags & Flag.PAUSED)
        if (until_ns, over) != (state.peer_paused_until_ns, state.peer_pause_over):
            state = replace(state, peer_paused_until_ns=until_ns, peer_pause_over=over)
            memory.state = state
        if peer.serves and not self._office.serving and state.last_primary:
            memory.state = replace(state, last_primary=False)
        self.peer = peer
        self.ledger.reigned |= peer.serves or peer.term > 0
        if self.ledger.past is Past.UNKNOWN:
            if not peer.flags & Flag.NEWBORN:
                self.ledger.begin_above_floor()
            elif peer.two_way:  # Said by its engine, and to this boot of this node.
                self.ledger.past = Past.NONE
        for term in (peer.term, peer.claim, peer.fence_below, peer.highest):
            self.ledger.see(term)
            self.witness.heard(term)
        return True

    def _hear_pause(self, peer: PeerView) -> int:
        """Until when the peer is paused, as far as that frame tells: as `Durable` has it."""
        state, ended_ns = self.memory.state, self._peer_pause_ended_ns
        known_ns = state.peer_paused_until_ns
        if not peer.flags & Flag.PAUSED:
            self._peer_pause_overridden, self._peer_pause_ended_ns = False, 0
            return 0
        told_before = bool(known_ns or ended_ns or state.peer_pause_over)
        if self._peer_pause_overridden or (peer.answered and told_before):
            return known_ns  # A kernel repeats what its agent last said, however long ago.
        left_ns = peer.pause_left_ns
        told_ns = peer.arrived_ns + left_ns if left_ns else FOREVER
        if told_ns <= ended_ns:
            return 0  # The same frame once more.
        self._peer_pause_ended_ns = 0
        same = told_ns <= known_ns <= told_ns + left_ns // PAUSE_TOLERANCE
        return known_ns if same else told_ns

    def resume(self) -> None:
        """The operator ends the pause; that of a peer which isn't heard as well."""
        state = self.memory.state
        if state.peer_paused and not self.peer_heard:
            self._peer_pause_overridden = True
            state = replace(state, peer_paused_until_ns=0, peer_pause_over=True)
        self.memory.state = unpaused(state)

    def configure(self, policy: Policy) -> None:
        """A reload."""
        assert policy.node == self.policy.node, "the index is fixed for a run"
        self.policy = policy
        self.fitness.configure(policy)
        self.ledger.terms = replace(self.ledger.terms, size=policy.terms_per_block)

    # -- settling ------------------------------------------------------------------------------

    def settle_pause(self, now_ns: int) -> None:
        """A pause ends by itself."""
        until_ns = self.memory.state.paused_until_ns
        if until_ns and now_ns >= until_ns:
            self.memory.state = unpaused(self.memory.state)
            self._voice.say(Level.WARNING, Code.PAUSE_EXPIRED)
        until_ns = self.peer_pause_ends_ns
        if until_ns and now_ns >= until_ns:
            self._peer_pause_ended_ns = until_ns
            self.memory.state = replace(
                self.memory.state, peer_paused_until_ns=0, peer_pause_over=True
            )
            self._voice.say(Level.WARNING, Code.PEER_PAUSE_EXPIRED)

    def settle_past(self) -> None:
        """Who may claim though it hears nobody can't wait for the peer's word."""
        may_claim = self.policy.claim_alone or self.memory.state.peer_known
        listened = self._office.role is not Role.INIT
        if self.ledger.past is Past.UNKNOWN and listened and may_claim:
            self.ledger.begin_above_floor()

    def settle_fencing(self) -> None:
        """A peer that speaks isn't fenced any more; nor is one that did and is silent again."""
        newest = self.peer.counter if self.peer is not None else 0
        spoke = self.fenced_after is not None and newest > self.fenced_after
        if spoke or self.watch in (Watch.ALIVE, Watch.STALLED):
            self.fenced_after = None

    def settle_witness(self, now_ns: int) -> None:
        """Say it when the witness falls silent, and when it speaks again."""
        silent = self.witness.is_silent(now_ns)
        if silent is self._witness_silent:
            return
        self._witness_silent = silent
        if not silent:
            self._voice.say(Level.WARNING, Code.WITNESS_BACK)
            return
        self._voice.say(Level.WARNING, Code.WITNESS_LOST, why=self.witness.why)
        if self.policy.witness_serve:
            self._voice.say(Level.ERROR, Code.WITHOUT_WITNESS)

    # -- knowing -------------------------------------------------------------------------------

    @property
    def peer_heard(self) -> bool:
        """Its newest frame is from its running agent."""
        return self.peer is not None and self.watch in (Watch.ALIVE, Watch.SUSPECT)

    @property
    def heard_peer(self) -> PeerView | None:
        """That frame, of a peer that is heard."""
        return self.peer if self.peer_heard else None

    @property
    def peer_pause_ends_ns(self) -> int:
        """When the pause of a peer ends that isn't heard; 0 = there is none. One that is heard says
        itself when it is over."""
        return 0 if self.peer_heard else self.memory.state.peer_paused_until_ns

    @property
    def peer_negotiates(self) -> bool:
        """It understands proposals of other intervals."""
        return self.peer is not None and bool(self.peer.flags & Flag.NEGOTIATES)

    @property
    def peer_knows_of_restart(self) -> bool:
        """R16: so it does once it answered a frame that says so. Nobody waits for the dead."""
        if self.watch in (Watch.DEAD, Watch.UNKNOWN):
            return True
        return self.engine is not None and self.engine.restart_known

    def facts(
        self, now_ns: int, *, stopping: bool, handing_over: bool, abstaining: bool
    ) -> election.Facts:
        """All of it, as the election wants it, with what this node is about to do."""
        state, fitness, ledger = self.memory.state, self.fitness, self.ledger
        starting = self._office.role is Role.INIT
        facts = election.Facts(
            policy=self.policy,
            role=self._office.role,
            admin=state.admin,
            highest=ledger.highest,
            score=fitness.health.score,
            checks=fitness.health.failed,
            gates_missing=tuple(self.gates_missing),
            # Its first terms are on their way: it says of its health what it will be.
            terms_spent="" if starting and not ledger.terms.failed else ledger.why_spent,
            isolated=self.isolated,
            stopping=stopping,
            paused=bool(state.paused_until_ns),
            pause_until_ns=state.paused_until_ns if state.paused_until_ns < FOREVER else 0,
            last_primary=state.last_primary,
            peer_known=state.peer_known,
            peer=self.peer,
            peer_heard=self.peer_heard,
            handing_over=handing_over,
            abstaining=abstaining,
            peer_paused=state.peer_paused,
            peer_pause_saved=self.memory.saved.peer_paused_until_ns >= state.peer_paused_until_ns,
            peer_fenced=self.fenced_after is not None,
            fenced_after=self.fenced_after or 0,
            witness_silent=self._witness_silent and not self.policy.witness_serve,
            witness_keeps_peer=self.witness.holds_back(),
            past=ledger.past,
            sticky=fitness.sticky,
        )
        passing = fitness.passing_until_ns > now_ns and election.better_peer(facts)
        return replace(facts, passing_on=True) if passing else facts
