# SPDX-License-Identifier: Apache-2.0
"""The machine (interface; the rules follow)."""

from __future__ import annotations

from dataclasses import dataclass

from twinbeat.core.effects import Effects, Transition
from twinbeat.core.events import Event
from twinbeat.core.reasons import Reason, Refusal
from twinbeat.core.types import (
    Admin,
    Durable,
    EngineView,
    Order,
    PeerView,
    Policy,
    Role,
    TermBlock,
    Timers,
    TrackedHealth,
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
    able: bool
    """Could serve: gates stand, terms reserved, not stopping."""
    engine: EngineView | None
    peer: PeerView | None
    peer_heard: bool
    isolated: bool
    paused_until_ns: int
    peer_paused: bool
    claims_at_ns: int
    """Alone at boot: when this node claims; 0 = no countdown."""
    withheld: tuple[Refusal, ...]
    """Why the standing order permits no claim."""
    last: Transition | None
    """Newest record of the history of this run."""


class Machine:
    """The pure state machine of one node."""

    def __init__(
        self, *, policy: Policy, timers: Timers, durable: Durable, block: TermBlock, now_ns: int
    ) -> None:
        """Begin in INIT. ``block`` is empty or was reserved for this run; nothing is sent before
        `Started`."""
        raise NotImplementedError

    def step(self, event: Event, now_ns: int) -> Effects:
        """Take in one event. ``now_ns`` never goes backwards."""
        raise NotImplementedError

    def next_deadline(self) -> int:
        """When a `Tick` is wanted at the latest."""
        raise NotImplementedError

    @property
    def status(self) -> Status:
        """What the machine knows, for people."""
        raise NotImplementedError

    @property
    def order(self) -> Order:
        """The standing order as last given."""
        raise NotImplementedError
