# SPDX-License-Identifier: Apache-2.0
"""Who may claim, and when: the policy behind the standing order, as pure functions of facts.

Theory of operation
-------------------
A standing order starts from what a node may do that nothing speaks against (`GRANTED`), and each
row of `WITHHOLDS` whose fact holds takes permits away. Nothing adds permits to that, except a
forced takeover. So the question "why doesn't this node claim?" has a list of rows as its answer,
each with a code and a sentence, and the NO-SURPRISE rule can be read off the table: in the rows of
a disabled node, of one that stays secondary, and of a pause, every way to claim is taken away.

Which of two nodes goes first at the first start is decided by `prefers`, which compares the same
facts on both nodes, so that both come to opposite answers: told to stay primary (and fit), then
healthier, then owner of the highest term, then the lower index. It decides only who waits longer;
the receipt decides who serves.

`successor` says whether the peer could take the role over at all, and is what every planned change
of role asks before it yields: its answer is a refusal or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from twinbeat.core.reasons import Code, Refusal, refuse
from twinbeat.core.terms import Past
from twinbeat.core.types import Admin, Flag, PeerView, Permit, Policy, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything an order is computed from. A value: the same facts give the same order."""

    policy: Policy
    role: Role
    admin: Admin
    highest: int
    """The highest term this node ever saw."""
    score: int
    """0 to 1000, what the monitors say."""
    checks: tuple[str, ...] = ()
    """Names of the failing checks."""
    gates_missing: tuple[str, ...] = ()
    """Interfaces without both gate programs."""
    terms_spent: str = ""
    """Why no terms are left; empty = there are."""
    isolated: bool = False
    stopping: bool = False
    paused: bool = False
    pause_until_ns: int = 0
    """When that ends; 0 = it has no end."""
    last_primary: bool = False
    peer_known: bool = False
    """The peer was heard at least once under this state directory."""
    peer: PeerView | None = None
    """Its newest frame."""
    peer_heard: bool = False
    """That frame is from its running agent."""
    handing_over: bool = False
    """A planned change of role is under way: this node is to be primary no longer."""
    abstaining: bool = False
    """It gave up the role by order, a moment ago."""
    peer_paused: bool = False
    """The peer last said that nobody claims."""
    peer_pause_saved: bool = False
    """And this node would know it after a reboot."""
    peer_fenced: bool = False
    """Its power was cut, and it wasn't heard since."""
    fenced_after: int = 0
    """Counter of its newest frame then."""
    witness_silent: bool = False
    """There is a witness, it doesn't answer, and that is to stop whoever is cut off."""
    witness_keeps_peer: bool = False
    """The witness keeps a term of the peer's, which is alive though it isn't heard."""
    sticky: bool = False
    """The role moved for the sake of health as often as it may: it stays where it is."""
    passing_on: bool = False
    """Unfit, and for a moment still serving: a better peer is being asked to take over."""
    past: Past = Past.SETTLED
    """Whether terms may have been used that it doesn't know of."""

    @property
    def able(self) -> bool:
        """Could serve at all, however badly."""
        return not self.gates_missing and not self.terms_spent and not self.stopping

    @property
    def up(self) -> bool:
        """Every check holds."""
        return not self.checks

    @property
    def fit(self) -> bool:
        """Healthy, enabled, reachable, with its gate in place (``TB_F_FIT``)."""
        return (
            self.able
            and self.up
            and not self.isolated
            and self.admin is not Admin.DISABLED
            and self.role is not Role.INIT
        )

    @property
    def health(self) -> int:
        """The score as the frames carry it: 0 for a node that can't serve at all."""
        return self.score if self.able and not self.isolated else 0

    @property
    def frozen(self) -> bool:
        """Paused by either node."""
        return self.paused or self.peer_paused


GRANTED: Final = (
    Permit.MAY_SERVE
    | Permit.RESUME
    | Permit.MAY_CLAIM_DEAD
    | Permit.MAY_CLAIM_STALLED
    | Permit.MAY_CLAIM_IDLE
    | Permit.MAY_CLAIM_YIELD
    | Permit.MAY_CLAIM_COLD
)
"""What a node may do that nothing speaks against."""

CLAIMS: Final = Permit.CLAIMS
ALL: Final = GRANTED | Permit.CLAIM_NOW
BY_SILENCE: Final = Permit.MAY_CLAIM_DEAD | Permit.MAY_CLAIM_COLD
"""Claims that open though nobody answers."""


@dataclass(frozen=True, slots=True)
class Row:
    """While ``holds``, ``takes`` is withheld, because of ``code``."""

    code: Code
    holds: Callable[[Facts], bool]
    takes: Permit


WITHHOLDS: Final[tuple[Row, ...]] = (
    # The operator's word. A node told to leave keeps serving until somebody took over: what it
    # may not do is claim, or resume a reign after a restart. Shutting its gate is a demand of its
    # own (`Order.resign_of`).
    Row(Code.DISABLED, lambda f: f.admin is Admin.DISABLED, CLAIMS | Permit.RESUME),
    Row(Code.STAY_SECONDARY, lambda f: f.admin is Admin.STAY_SECONDARY, CLAIMS),
    Row(Code.STOPPING, lambda f: f.stopping, CLAIMS),
    Row(Code.YIELDING, lambda f: f.handing_over, CLAIMS),
    Row(Code.ABSTAINING, lambda f: f.abstaining, CLAIMS),
    # While paused nobody claims, but for the last primary, whose gate fell shut meanwhile and that
    # finds nobody serving: by receipt.
    Row(Code.PAUSED, lambda f: f.paused and not f.last_primary, CLAIMS),
    Row(Code.PAUSED, lambda f: f.paused and f.last_primary, CLAIMS & ~Permit.MAY_CLAIM_IDLE),
    Row(Code.PEER_PAUSED, lambda f: f.peer_paused and not f.last_primary, CLAIMS),
    Row(
        Code.PEER_PAUSED,
        lambda f: f.peer_paused and f.last_primary,
        CLAIMS & ~Permit.MAY_CLAIM_IDLE,
    ),
    # What it can't do.
    Row(Code.GATE_MISSING, lambda f: bool(f.gates_missing), ALL),
    Row(Code.NO_TERMS, lambda f: bool(f.terms_spent), CLAIMS),
    Row(Code.STARTING, lambda f: f.role is Role.INIT, CLAIMS),
    Row(Code.ISOLATED, lambda f: f.isolated, CLAIMS),
    # What the witness doesn't let it do. By receipt it may all the same.
    Row(
        Code.WITNESS_SILENT,
        lambda f: f.witness_silent,
        Permit.MAY_CLAIM_DEAD | Permit.MAY_CLAIM_COLD,
    ),
    Row(
        Code.WITNESS_KEEPS_PEER,
        lambda f: f.witness_keeps_peer,
        Permit.MAY_CLAIM_DEAD | Permit.MAY_CLAIM_COLD,
    ),
    # What it had better not do. A forced takeover may override health alone.
    Row(
        Code.UNHEALTHY,
        lambda f: not f.up and not f.policy.fail_safe and not (f.sticky or f.passing_on),
        (CLAIMS & ~Permit.CLAIM_NOW) | Permit.MAY_SERVE | Permit.RESUME,
    ),
    Row(
        Code.NEVER_PAIRED,
        lambda f: not f.peer_known and not f.policy.claim_alone,
        CLAIMS & ~Permit.CLAIM_NOW,
    ),
    Row(Code.NOT_FENCED, lambda f: f.policy.fence_first and not f.peer_fenced, BY_SILENCE),
)
"""The table of permits: what is the case, and what may then not be done."""


def describe(code: Code, facts: Facts) -> Refusal:
    """The refusal ``code`` with the names and facts of this pair."""
    return refuse(
        code,
        node=facts.policy.name,
        peer=facts.policy.peer_name,
        interface=", ".join(facts.gates_missing),
        checks=", ".join(facts.checks),
        why=facts.terms_spent or ", ".join(facts.checks),
    )


def permitted(facts: Facts) -> tuple[Permit, tuple[Refusal, ...]]:
    """What the facts allow the engine to do, and why not more."""
    permits = ALL
    refusals: dict[Code, Refusal] = {}
    for row in WITHHOLDS:
        if row.holds(facts):
            permits &= ~row.takes
            refusals.setdefault(row.code, describe(row.code, facts))
    if facts.frozen and not facts.last_primary:
        permits |= Permit.PAUSED
    if facts.policy.fence_first:
        permits |= Permit.UNHEARD
    if facts.peer is not None and prefers(facts, facts.peer):
        permits |= Permit.PREFERRED
    return permits, tuple(refusals.values())


def waits_for_fencing(facts: Facts) -> bool:
    """True if all that keeps a node from claiming in silence is that its peer isn't fenced."""
    return bool(
        facts.policy.fence_first
        and not facts.peer_fenced
        and permitted(replace(facts, peer_fenced=True))[0] & BY_SILENCE
    )


def flags(facts: Facts) -> Flag:
    """What the frames say of this node, as far as Python knows it."""
    said = (
        (Flag.FIT, facts.fit),
        (Flag.STARTING, facts.role is Role.INIT),
        (Flag.NEWBORN, facts.past is not Past.SETTLED),
        (Flag.PAUSED, facts.paused),
        (Flag.PAUSE_ACK, facts.peer_paused and facts.peer_pause_saved),
        (Flag.ISOLATED, facts.isolated),
        (Flag.PREFERRED, facts.admin is Admin.STAY_PRIMARY or facts.policy.preferred),
        (Flag.NEVER_CLAIMS, facts.admin.never_claims or facts.stopping),
    )
    out = Flag(0)
    for flag, holds in said:
        if holds:
            out |= flag
    return out


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """The grounds on which a node is preferred, the weightiest first; the greater goes first.

    Every ground is something both nodes know of both: what a node says of itself in its frames.
    """

    willing: bool
    stays_primary: bool
    """Told to stay primary, and fit to."""
    health: int
    preferred: bool
    """So configured."""
    owns_highest: bool
    """The highest term that either saw is one of its own: it served last."""
    lower_index: bool


def claim_of(*, index: int, admin: Admin, said: Flag, health: int, highest: int) -> Claim:
    """The grounds of node ``index``, given the highest term that either node saw.

    A node that starts counts as what it will be, or its start would decide instead of the grounds.
    """
    fit = bool(said & Flag.FIT) or (bool(said & Flag.STARTING) and health > 0)
    return Claim(
        willing=not said & Flag.NEVER_CLAIMS,
        stays_primary=admin is Admin.STAY_PRIMARY and fit,
        health=health,
        preferred=bool(said & Flag.PREFERRED),
        owns_highest=highest > 0 and highest & 1 == index,
        lower_index=index == 0,
    )


def prefers(facts: Facts, peer: PeerView) -> bool:
    """True if this node goes first where nobody serves. The peer comes to the opposite."""
    highest = max(facts.highest, peer.highest)
    own = claim_of(
        index=facts.policy.node,
        admin=facts.admin,
        said=flags(facts),
        health=facts.health,
        highest=highest,
    )
    other = claim_of(
        index=1 - facts.policy.node,
        admin=peer.admin,
        said=peer.flags,
        health=peer.health,
        highest=highest,
    )
    assert own != other, "the index tells two nodes apart"
    return own > other


SUCCESSOR: Final[tuple[tuple[Code, Callable[[Facts, PeerView], bool]], ...]] = (
    (Code.PEER_NEVER_CLAIMS, lambda f, p: bool(p.flags & Flag.NEVER_CLAIMS)),
    (Code.PAUSED, lambda f, p: f.paused),
    (Code.PEER_PAUSED, lambda f, p: f.peer_paused),
    (Code.PEER_STARTING, lambda f, p: bool(p.flags & Flag.STARTING)),
    (Code.PEER_DEAF, lambda f, p: not p.flags & Flag.HEARS_YOU),
    (Code.CLAIM_UNDER_WAY, lambda f, p: bool(p.flags & Flag.CLAIMING)),
)
"""What keeps a peer that is heard from taking over, whatever its health."""

UNFIT: Final[tuple[tuple[Code, Callable[[Facts, PeerView], bool]], ...]] = (
    (Code.PEER_UNFIT, lambda f, p: not p.flags & Flag.FIT),
    (Code.DIGEST_DIFFERS, lambda f, p: p.digest != f.policy.digest),
)
"""What speaks against a peer that could take over; an operator may insist."""


def successor(facts: Facts, *, even_if_unfit: bool = False) -> Refusal | None:
    """Why the peer can't take the role over from this node now; None if it can."""
    if facts.peer is None or not facts.peer_heard:
        return describe(Code.PEER_UNKNOWN, facts)
    for code, holds in SUCCESSOR + (() if even_if_unfit else UNFIT):
        if holds(facts, facts.peer):
            return describe(code, facts)
    return None


def may_take_over(facts: Facts, *, even_if_unfit: bool = False) -> Refusal | None:
    """Why this node can't take the role from its peer by order now; None if it can."""
    if facts.role is Role.PRIMARY:
        return describe(Code.ALREADY_PRIMARY, facts)
    for row in WITHHOLDS:
        if row.takes & Permit.CLAIM_NOW and row.holds(facts):
            return describe(row.code, facts)
    peer = facts.peer
    if peer is None or not facts.peer_heard:
        return describe(Code.PEER_UNKNOWN, facts)
    if peer.flags & Flag.CLAIMING or facts.role is Role.CLAIMING:
        return describe(Code.CLAIM_UNDER_WAY, facts)
    if even_if_unfit:
        return None
    if not facts.fit:
        return describe(Code.SELF_UNFIT, facts)
    if peer.admin is Admin.STAY_PRIMARY and peer.serves:
        return describe(Code.PEER_STAYS_PRIMARY, facts)
    if peer.digest != facts.policy.digest:
        return describe(Code.DIGEST_DIFFERS, facts)
    return None


def conflict(facts: Facts) -> str:
    """Who goes first of two nodes that were both told to stay primary; empty if they weren't.

    Whoever serves keeps the role, so that the conflict moves nothing; else `prefers` decides.
    """
    peer = facts.peer
    if peer is None or not facts.peer_heard or facts.admin is not Admin.STAY_PRIMARY:
        return ""
    if peer.admin is not Admin.STAY_PRIMARY:
        return ""
    own = facts.role is Role.PRIMARY or (not peer.serves and prefers(facts, peer))
    return facts.policy.name if own else facts.policy.peer_name


def must_resign(facts: Facts) -> Refusal | None:
    """Why a node that serves has to shut its gate at once, whoever takes over; None if it needn't.

    A disabled node waits for a peer that can take over: it was told to leave, not to fail.
    """
    for row in WITHHOLDS:
        if row.takes & Permit.MAY_SERVE and row.holds(facts):
            return describe(row.code, facts)
    if facts.admin is Admin.DISABLED and successor(facts, even_if_unfit=True) is not None:
        return describe(Code.DISABLED, facts)
    return None


def better_peer(facts: Facts) -> bool:
    """True if the peer serves better: then, and only then, a node yields for its health's sake.

    Ties keep the primary, so that two nodes with the same fault don't pass the role to and fro. A
    sticky primary yields to nobody.
    """
    return (
        facts.peer is not None
        and not facts.sticky
        and facts.peer.health > facts.health
        and not facts.peer.flags & Flag.ISOLATED
        and successor(facts, even_if_unfit=True) is None
    )
