# SPDX-License-Identifier: Apache-2.0
"""Facts, peers and machines for the tests of the core: all is well, unless a test says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twinbeat.config.timers import PROFILES
from twinbeat.core.effects import Effects, Outcome, Reply
from twinbeat.core.election import Facts
from twinbeat.core.events import (
    EngineEvent,
    EngineSeen,
    Event,
    PeerSeen,
    Started,
    StateSaved,
    TermsReserved,
    Tick,
)
from twinbeat.core.machine import Machine
from twinbeat.core.types import (
    SECOND,
    Cause,
    Durable,
    EngineEventKind,
    EngineView,
    Flag,
    Order,
    PeerView,
    Phase,
    Policy,
    Role,
    TermBlock,
    Timers,
    Watch,
)

POLICY = Policy(node=0, name="a", peer_name="b", terms_per_block=64)
_FAST = PROFILES["fast"].ns
TIMERS = Timers(
    hello_ns=_FAST.hello_ns,
    dead_ns=_FAST.dead_ns,
    verify_ns=_FAST.verify_ns,
    stall_ns=_FAST.stall_ns,
    lease_ns=_FAST.lease_ns,
    attest_ns=_FAST.attest_ns,
    boot_wait_ns=_FAST.boot_wait_ns,
)
WELL = Flag.FIT | Flag.HEARS_YOU


def peer(**changes: Any) -> PeerView:
    """A fit secondary that hears us."""
    view = PeerView(
        counter=1, arrived_ns=1, flags=WELL, role=Role.SECONDARY, health=1000, two_way=True
    )
    return replace(view, **changes)


def facts(**changes: Any) -> Facts:
    """A fit secondary beside a fit peer."""
    base = Facts(
        policy=POLICY,
        role=Role.SECONDARY,
        admin=Durable().admin,
        highest=0,
        score=1000,
        peer_known=True,
        peer=peer(),
        peer_heard=True,
    )
    return replace(base, **changes)


class Bench:
    """A machine with a clock, a disk that always answers and an engine that does as it is told."""

    def __init__(
        self, policy: Policy = POLICY, durable: Durable | None = None, *, reserved_last: int = 0
    ) -> None:
        self.now = SECOND
        self.machine = Machine(
            policy=policy,
            timers=TIMERS,
            durable=durable or Durable(),
            reserved_last=reserved_last,
            now_ns=self.now,
        )
        self.effects: list[Effects] = []
        self.replies: list[Reply] = []
        self.disk_works = True
        self.counter = 0

    # -- what happens ----------------------------------------------------------------------------

    def feed(self, *events: Event, after_ns: int = 1000) -> Effects:
        """One event after the other, and what the disk says; the effects of the last."""
        effects = Effects()
        for event in events:
            self.now += after_ns
            effects = self.machine.step(event, self.now)
            self._carry_out(effects)
        return effects

    def _carry_out(self, effects: Effects) -> None:
        self.effects.append(effects)
        self.replies.extend(effects.replies)
        if not self.disk_works:
            return
        if effects.reserve_terms is not None:
            request = effects.reserve_terms
            self.feed(TermsReserved(block=TermBlock(first=request.first, last=request.up_to)))
        if effects.save is not None:
            self.feed(StateSaved())

    def wait(self, for_ns: int) -> None:
        """Let time pass, ticking at every deadline."""
        until = self.now + for_ns
        while (deadline := self.machine.next_deadline()) <= until:
            self.now = max(self.now, deadline - 1000)
            self.feed(Tick())
        self.now = until

    def engine(
        self, kind: EngineEventKind, cause: Cause = Cause.NONE, a: int = 0, b: int = 0
    ) -> Effects:
        """The engine reports something."""
        return self.feed(EngineEvent(kind=kind, at_ns=self.now, cause=cause, a=a, b=b))

    def confirm(self, *, claim_came_first: bool = False) -> Effects:
        """The engine takes the newest order into effect."""
        return self.engine(EngineEventKind.ORDER, a=self.order.generation, b=int(claim_came_first))

    def hear(self, **changes: Any) -> Effects:
        """The peer says something new."""
        self.counter += 1
        return self.feed(
            PeerSeen(view=peer(counter=self.counter, arrived_ns=self.now + 500, **changes))
        )

    def see_engine(
        self,
        phase: Phase,
        watch: Watch = Watch.ALIVE,
        term: int = 0,
        *,
        restart_known: bool = False,
    ) -> Effects:
        """A copy of the engine's state."""
        view = EngineView(
            phase=phase,
            watch=watch,
            term=term,
            highest=term,
            order_generation=self.order.generation,
            restart_known=restart_known,
        )
        return self.feed(EngineSeen(view=view))

    # -- where a test begins ---------------------------------------------------------------------

    def start(self) -> None:
        """The gates stand, the engine runs, nobody was heard."""
        self.feed(
            Started(
                engine=EngineView(phase=Phase.LISTENING, watch=Watch.UNKNOWN, term=0, highest=0)
            )
        )
        self.confirm()

    def secondary(self, **changes: Any) -> Bench:
        """A secondary that hears its peer, which serves unless told otherwise."""
        self.start()
        self.engine(EngineEventKind.HEARD)
        self.hear(**{"flags": WELL | Flag.OPEN, "term": 3, "highest": 3, **changes})
        self.confirm()
        assert self.machine.role is Role.SECONDARY
        return self

    def primary(self, term: int = 2) -> Bench:
        """A primary with a fit peer."""
        self.secondary(flags=WELL, term=0, highest=0)
        self.engine(EngineEventKind.CLAIM, Cause.IDLE, term)
        self.engine(EngineEventKind.RECEIPT, a=term)
        self.engine(EngineEventKind.OPENED, Cause.RECEIPT, term, Cause.IDLE)
        self.engine(EngineEventKind.ANNOUNCED, a=1)
        self.confirm()
        assert self.machine.role is Role.PRIMARY
        return self

    # -- what came of it -------------------------------------------------------------------------

    @property
    def order(self) -> Order:
        return self.machine.order

    def answer(self, request_id: str) -> Reply:
        """The newest answer to a command."""
        return [each for each in self.replies if each.request_id == request_id][-1]

    def outcome(self, request_id: str) -> Outcome:
        return self.answer(request_id).outcome
