# SPDX-License-Identifier: Apache-2.0
"""What a machine knows, for people: one value behind the CLI, the local interface and the metrics.

Pure: the machine hands in its facts, and nothing here changes any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from twinbeat.core.effects import Transition
from twinbeat.core.election import Facts, describe
from twinbeat.core.reasons import Code, Reason, Refusal
from twinbeat.core.types import (
    Admin,
    EngineView,
    PeerView,
    Role,
    TermBlock,
    Timers,
    TrackedHealth,
    Wish,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the machine knows, for people: the one source of CLI, API and metrics."""

    role: Role
    since_ns: int
    reason: Reason
    """Of the last change of role."""
    sentence: str
    """What the node does now, and why."""
    admin: Admin
    health: TrackedHealth
    health_seen: TrackedHealth | None
    """What the monitors say now; `health` is what counts. None = nothing yet."""
    health_holds_until_ns: int
    """When better health begins to count, 0 = none waits to."""
    relapses: int
    """How many failures lengthen that wait."""
    flips: int
    """How often the role moved for the sake of health since the last reset."""
    flips_since_ns: int
    """When the first of them was; 0 = there is none."""
    flips_window_ends_ns: int
    """When the first of them counts no more; 0 = time doesn't end it."""
    flips_recovered: bool
    """Every check of both nodes has held since: the next failure begins a new count."""
    sticky: bool
    """It moved as often as it may: this node keeps it, whatever its health."""
    conflict: str
    """Both nodes were told to stay primary: the one that goes first; empty = they weren't."""
    timers: Timers
    """Those wanted; those kept at this moment are the engine's to say."""
    wish: Wish
    """What an operator set of them while the pair ran."""
    timers_refused: Refusal | None
    """Why the peer doesn't keep the same."""
    score: int
    """As the frames carry it: 0 for a node that can't serve."""
    fit: bool
    unfit: tuple[Refusal, ...]
    """Why it isn't fit: every reason."""
    withheld: tuple[Refusal, ...]
    """What the standing order withholds, and why."""
    engine: EngineView | None
    block: TermBlock
    terms_left: int
    peer: PeerView | None
    peer_heard: bool
    isolated: bool
    paused_until_ns: int
    pause_reason: str
    pause_since_ns: int
    """0 = not paused."""
    paused_both: bool
    """The peer has said that it knows."""
    peer_paused: bool
    peer_paused_until_ns: int
    """As far as the peer told; FOREVER = it told no end."""
    waiting: Reason | None
    """What this node waits for before it acts, if anything; counted down by `waiting_until_ns`."""
    waiting_until_ns: int
    contested: bool
    """Another open gate was heard, and the kernel shut this one until that is decided."""
    last: Transition | None
    """Newest record of the history of this run."""


_UNFIT: Final = (
    (Code.NOT_READY, lambda f: f.role is Role.INIT),
    (Code.DISABLED, lambda f: f.admin is Admin.DISABLED),
    (Code.STOPPING, lambda f: f.stopping),
    (Code.GATE_MISSING, lambda f: bool(f.gates_missing)),
    (Code.NO_TERMS, lambda f: bool(f.terms_spent)),
    (Code.CHECKS_FAIL, lambda f: not f.up),
    (Code.ISOLATED, lambda f: f.isolated),
)


def unfit(facts: Facts) -> tuple[Refusal, ...]:
    """Why a node isn't fit: every reason."""
    return tuple(describe(code, facts) for code, holds in _UNFIT if holds(facts))


def sentence(name: str, role: Role, term: int, *, contested: bool, reason: Reason) -> str:
    """What the node does now, and why: one line."""
    match role:
        case Role.PRIMARY if contested:
            doing = f"{name} is primary under term {term}, its gate shut by a contest"
        case Role.PRIMARY:
            doing = f"{name} is primary under term {term}"
        case Role.CLAIMING:
            doing = f"{name} claims term {term}"
        case Role.SECONDARY | Role.INIT | Role.DISABLED:
            doing = f"{name} is {role.name.lower()}"
        case _:
            assert_never(role)
    return f"{doing}: {reason.sentence}"
