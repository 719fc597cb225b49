# SPDX-License-Identifier: Apache-2.0
"""The standing order, and the attestation without which it is void.

The order is derived anew from the facts in every step, and goes out when it differs from the one
that stands. It gets a new generation, which the engine has to confirm, whenever what it permits
changes; and none when only what the frames say changes. A demand to shut the gate at once
(`resign`) is part of it and names the generation that made it, so that it is obeyed once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from twinbeat.core import election
from twinbeat.core.effects import Level
from twinbeat.core.election import Facts
from twinbeat.core.reasons import Code, Reason, Refusal
from twinbeat.core.terms import Terms
from twinbeat.core.types import (
    FOREVER,
    MILLISECOND,
    NO_FLAGS,
    Admin,
    Flag,
    Order,
    Permit,
    Proposal,
    Role,
    Timers,
)
from twinbeat.core.voice import Voice

RENEWED_WITH_NS: Final = 500 * MILLISECOND
"""An attestation is renewed with no less than this left, for a loop that is late; or when a quarter
of it is used."""


class Attestation:
    """For how long Python vouches for the order. Renewed by each step that finds a part of it
    used, so whoever steps the machine is the loop that decides."""

    def __init__(self) -> None:
        self.until_ns = 0
        self.next_ns = 0
        """When it is to be renewed."""

    def renew(self, timers: Timers, now_ns: int) -> int | None:
        """Renew it if that is due: until when it is good then."""
        if now_ns < self.next_ns:
            return None
        # R6 asks for more than a lease to be left whenever a claim is made, so an attestation is
        # never shorter than what leaves that much of it when it is renewed.
        length = max(timers.attest_ns, timers.lease_ns * 3 // 2)
        self.until_ns = now_ns + length
        # Half of it is used, unless what is left would be little beside a lease or a late loop.
        left = max(length // 2, 2 * timers.lease_ns, RENEWED_WITH_NS)
        self.next_ns = now_ns + max(length // 4, length - left)
        return self.until_ns


class Orders:
    """What the engine may do by itself, from the facts."""

    def __init__(self, facts: Facts, voice: Voice) -> None:
        self.facts = facts
        """What the order is derived from."""
        self.standing = Order(
            generation=0, expires_ns=0, attested_until_ns=0, term_first=1, term_last=0
        )
        self.attestation = Attestation()
        self.yields_for: Reason | None = None
        """Why the peer was asked to take over, until it did or is asked no longer."""
        self._yielding_to_better = False
        """A healthier peer is asked to take over."""
        self.resign_reason = voice.because(Code.RESIGNED)
        """Why the engine was last told to shut the gate."""
        self._resign_of = 0
        self._resigned_reign = 0
        """The term whose gate it was told to shut; 0 = none that still serves."""
        self._permitted: tuple[Facts, Permit] | None = None
        self._voice = voice

    def resign(self, why: Reason, reign: int) -> None:
        """Demand of the engine that it shut the gate at once."""
        self.resign_reason = why
        self._resign_of = (self.standing.generation + 1) & 0xFFFF_FFFF or 1
        self._resigned_reign = reign

    def resigned(self, reign: int) -> bool:
        """It was told to shut the gate of this reign already."""
        return self._resigned_reign == reign

    def must_resign(self, reign: int) -> Refusal | None:
        """Why a node has to be told now to shut its gate; None if it needn't, or was."""
        if self.facts.role is not Role.PRIMARY:
            self._resigned_reign = 0
            return None
        return None if self.resigned(reign) else election.must_resign(self.facts)

    def derive(
        self,
        terms: Terms,
        *,
        taking: bool,
        handing: Reason | None,
        restarting: bool,
        proposal: Proposal | None,
        proposal_every: int,
    ) -> Order | None:
        """The order that follows; None if it is the one that stands.

        ``taking``: this node is to claim now. ``handing``: why the peer is to; None = it
        isn't. ``restarting``: the gate stays open for the next run of this agent.
        """
        facts, block = self.facts, terms.ordered
        permits = self._permits(facts)
        if not taking:
            permits &= ~Permit.CLAIM_NOW
        if self._yields(handing=handing, awaits_terms=terms.awaited):
            permits |= Permit.YIELD
        said = election.flags(facts)
        if restarting:
            said |= Flag.RESTART
        before = self.standing
        order = Order(
            generation=before.generation,
            expires_ns=FOREVER,
            attested_until_ns=before.attested_until_ns,
            term_first=block.first,
            term_last=block.last,
            lease_ns=facts.policy.restart_lease_ns if restarting else 0,
            permits=permits,
            resign_of=self._resign_of,
            heard=facts.fenced_after,
            flags=said,
            role=facts.role,
            admin=facts.admin,
            health=facts.health,
            generation_shared=facts.policy.generation,
            digest=facts.policy.digest,
            pause_until_ns=facts.pause_until_ns,
            proposal=proposal,
            proposal_every=proposal_every,
        )
        if order == before:
            return None
        if _permits_of(order) != _permits_of(before):
            order = replace(order, generation=before.generation + 1)
        self.standing = order
        return order

    def attested(self) -> Order:
        """The standing order with the attestation under which it goes out."""
        self.standing = replace(self.standing, attested_until_ns=self.attestation.until_ns)
        return self.standing

    def _yields(self, *, handing: Reason | None, awaits_terms: bool) -> bool:
        """Is the peer to claim? Why is kept until its claim has ended the reign."""
        facts = self.facts
        serving = facts.role is Role.PRIMARY
        unwanted = serving and facts.admin.never_claims
        unwanted = unwanted and election.successor(facts, even_if_unfit=True) is None
        # A reign isn't passed on for a block that is just being written: the first one after it
        # was resumed, or the next one where the peer's terms turn out to lie above the last.
        judged = replace(facts, terms_spent="") if awaits_terms and facts.terms_spent else facts
        better = serving and handing is None and election.better_peer(judged)
        why = self._why_better() if better else None
        if why is not None and not self._yielding_to_better:
            self._voice.log(Level.WARNING, why)
        self._yielding_to_better = better
        if unwanted:
            code = Code.DISABLED if facts.admin is Admin.DISABLED else Code.STAY_SECONDARY
            why = why or self._voice.because(code)
        why = handing or why
        answers = facts.peer is not None and bool(facts.peer.flags & (Flag.CLAIMING | Flag.OPEN))
        if why is not None or not serving or not answers:
            self.yields_for = why if serving else None
        return serving and why is not None

    def _why_better(self) -> Reason:
        """In what a peer that is asked to take over is better."""
        facts = self.facts
        assert facts.peer is not None
        scores = {"peer_score": facts.peer.health, "score": facts.health}
        why = self._voice.because(Code.PEER_BETTER, **scores)
        faults = (
            (bool(facts.checks), Code.CHECKS_FAIL),
            (facts.isolated, Code.ISOLATED),
            (bool(facts.gates_missing), Code.GATE_MISSING),
            (bool(facts.terms_spent), Code.NO_TERMS),
        )
        for holds, code in faults:
            if holds:
                said = self._voice.because(code, why=facts.terms_spent).sentence
                return Reason(why.code, f"{why.sentence}: {said}")
        return why

    def _permits(self, facts: Facts) -> Permit:
        """What the facts permit; worked out only when they changed."""
        if self._permitted is None or self._permitted[0] != facts:
            self._permitted = facts, election.permitted(facts)[0]
        return self._permitted[1]


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
        pause_until_ns=0,
        proposal=None,
        proposal_every=0,
    )
