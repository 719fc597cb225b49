# SPDX-License-Identifier: Apache-2.0
"""What the core wants done: the output of `Machine.step`.

One step gives one `Effects`, and the runtime carries out its fields **in the order in which they
are declared**; the comment of a field says what must have happened before it and who may wait for
it. A failure never raises into the core: it comes back as an event (`TermsFailed`, `EffectFailed`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from twinbeat.core.reasons import Reason, Refusal
from twinbeat.core.types import Durable, Order, Role, Timeline, Timers
from twinbeat.core.witness import Question, Words


class Level(enum.Enum):
    """How much a line of the log matters."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Outcome(enum.Enum):
    """How a command stands."""

    ACCEPTED = "accepted"
    """Under way; another reply follows."""
    DONE = "done"
    REFUSED = "refused"
    """Nothing was changed."""
    FAILED = "failed"
    """It was tried; the reason says what is the case now."""

    @property
    def final(self) -> bool:
        """True if no other reply follows."""
        return self is not Outcome.ACCEPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer to the operator's command ``request_id``."""

    request_id: str
    outcome: Outcome
    reason: Reason | Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A change of role: what the history keeps and the metrics count."""

    at_ns: int
    """When it took effect (boot-time clock): for a takeover, when the gate opened."""
    before: Role
    after: Role
    reason: Reason
    term: int
    """The term served or claimed, or the one that ended."""
    timeline: Timeline = field(default_factory=Timeline)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A line of the log; edges only, and already rate-limited."""

    level: Level
    reason: Reason | Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """The sentence for systemd (``STATUS=``): what the node is doing and why."""

    status: str
    ready: bool = False
    """The first listening period is over: ``READY=1``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveTerms:
    """Write ``up_to`` to disk as the last reserved term, synced; answer `TermsReserved` with the
    block ``first``..``up_to``, or `TermsFailed`. At most one is under way."""

    first: int
    up_to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """All outstanding work of one step, to be carried out in the order of the fields."""

    save: Durable | None = None
    """Write to disk, synced, off the deciding loop; answer `StateSaved` or
    ``EffectFailed(effect="save")``. Whoever asked for it is answered only after that, so ``order``
    needn't wait."""

    order: Order | None = None
    """Set with the engine, whole. The engine confirms a new generation with an ORDER event; where
    only facts for the frames changed, the generation is the same."""

    attest_until_ns: int | None = None
    """Renew the attestation (and only that) with the engine. Where ``order`` is set as well, it
    carries the same value. Never from another thread than the one that called `Machine.step`."""

    witness: Words | None = None
    """Tell the engine what the witness said. AFTER ``order``; the engine waits for neither."""

    timers: Timers | None = None
    """Set with the engine: these are wanted from now on. AFTER ``attest_until_ns``, which is long
    enough for their lease. The engine approaches them as the peer's allow."""

    close_gate: Reason | None = None
    """Shut the gate. ``order`` demands the same of the engine; if the engine doesn't confirm it
    within a lease, write the gate's ``open_until`` to 0. AFTER ``order``, so that the engine
    doesn't renew."""

    withdraw_vips: str | None = None
    """R20: take VMACs and VIPs off this interface. AFTER ``close_gate``."""

    announce: bool = False
    """Announce all VIPs again, at once. Only while the gate is open; the egress gate judges."""

    destroy_vip_sockets: bool = False
    """AFTER the gate is shut: end connections of the VIPs (SOCK_DESTROY), or they would send
    ghosts when this node is primary again."""

    remove_routes: bool = False
    """Take back the routes and rules of the primary. May take milliseconds; nobody waits."""

    install_routes: bool = False
    """Install the routes and rules of the primary. AFTER the gate is open; nobody waits."""

    ask_witness: Question | None = None
    """Ask, off the deciding loop; answer `WitnessAnswered` in bounded time. A question that
    waits for its turn gives it up to a newer one."""

    reserve_terms: ReserveTerms | None = None
    """Off the deciding loop (a slow disk must not hold up the attestation)."""

    records: tuple[Transition, ...] = ()
    """Append to the history; count in the metrics."""

    logs: tuple[Log, ...] = ()
    """Write to the log, in this order."""

    notify: Notify | None = None
    """Tell systemd."""

    replies: tuple[Reply, ...] = ()
    """Answer the operator. LAST: what is answered as done is done."""

    stopped: bool = False
    """The agent may end now."""

    def __bool__(self) -> bool:
        """True if there is anything to do."""
        # Most steps renew the attestation and do nothing else: the answer is quick for those.
        return self.attest_until_ns is not None or self != _NOTHING


_NOTHING = Effects()


class Draft:
    """Effects of the step under way that don't follow from what is known at its end."""

    def __init__(self) -> None:
        self.close_gate: Reason | None = None
        self.withdraw_vips: str | None = None
        self.announce = False
        self.destroy_vip_sockets = False
        self.remove_routes = False
        self.install_routes = False
        self.records: list[Transition] = []
        self.status_changed = False

    def begin(self) -> None:
        """A step begins."""
        self.close_gate = self.withdraw_vips = None
        self.announce = self.destroy_vip_sockets = False
        self.remove_routes = self.install_routes = False
        self.records = []
        self.status_changed = False
