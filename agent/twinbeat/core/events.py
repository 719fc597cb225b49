# SPDX-License-Identifier: Apache-2.0
"""What can happen to the core: the inputs of `Machine.step`.

Events are facts, named by nouns and past participles. Commands of the operator are events as well;
each carries a request id, and every command is answered by `Reply` effects under that id. A command
repeated under the same id is answered again and does nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from twinbeat.core.types import (
    Admin,
    Cause,
    EngineEventKind,
    EngineView,
    PeerView,
    Policy,
    TermBlock,
    Timers,
    TrackedHealth,
)
from twinbeat.core.witness import Answer

INTERVALS: Final = ("hello_us", "dead_us", "verify_us", "stall_us", "lease_us")
"""What `SetTimers` may change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent:
    """One entry of the engine's ring (``struct tb_event``), fed in the order of the ring."""

    kind: EngineEventKind
    at_ns: int
    cause: Cause = Cause.NONE
    a: int = 0
    """Meaning by kind, as ``csrc/engine.h`` tells it."""
    b: int = 0
    link: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSeen:
    """A copy of the engine's state, fed at start, after each batch of events and at least with
    each `Tick`. It is a level: it puts right what lost events left wrong."""

    view: EngineView


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSeen:
    """A copy of the peer's newest frame, fed on PEER_CHANGED and HEARD and with each `Tick`."""

    view: PeerView


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The gates stand and the engine runs: fed once, before everything else but facts.

    The runtime has raised the boot epoch and loaded the durable state before.
    """

    engine: EngineView
    term_floor: int = 0
    """A number that grows with every boot, made from the boot epoch (its seconds, shifted left by
    ten bits). A node that lost its state directory begins its terms above it, so that it doesn't
    use one again that it may have used before; everybody else has small terms."""
    kernel_listened: bool = False
    """`terms.kernel_listened` of the gate that was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """The deadline of `Machine.next_deadline` has come. An early or late tick does no harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsReserved:
    """The block of a `ReserveTerms` is safely on disk."""

    block: TermBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsFailed:
    """The disk refused a `ReserveTerms`."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSaved:
    """The durable state of an `Effects.save` is safely on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLost:
    """A VIP port lost its carrier or vanished."""

    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRestored:
    """A VIP port has its carrier again."""

    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLost:
    """A gate program was removed from an interface, or the interface was replaced, or an address
    behind it can't be put back (R20)."""

    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRestored:
    """Both gate programs stand on the interface again, and the VIPs behind them."""

    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChanged:
    """The monitors say something else."""

    health: TrackedHealth


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationChanged:
    """The reference addresses of the configuration can, or can't, be reached."""

    isolated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFenced:
    """The peer's power was cut since it was last heard."""

    heard: int
    """Counter of the newest frame of it when that was known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessAnswered:
    """What came of an `Effects.ask_witness`, no answer included. Each is answered, unless another
    one was asked meanwhile."""

    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMeasured:
    """How late this host wakes up was measured anew."""

    wake_late_ns: int
    """As in `Policy`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReloaded:
    """A new configuration was checked and is to be taken into effect."""

    policy: Policy
    timers: Timers


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectFailed:
    """The environment refused an effect. ``effect`` is the name of its class or field."""

    effect: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """The agent is told to end. `Effects.stopped` says when it may.

    A stop hands the role over if the peer can take it, and shuts the gate. A planned restart
    leaves the gate open under a longer lease instead, so that the next agent resumes the reign.
    """

    restart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What all commands of the operator have in common."""

    request_id: str
    operator: str = ""
    """Who gave it: name or uid, for the log."""
    reason: str = ""
    """Why, in the operator's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminCommand(Command):
    """``stay primary|secondary|off``, ``enable``, ``disable``."""

    status: Admin
    even_if_unfit: bool = False
    """Leave the role though nobody takes it over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForceFailover(Command):
    """The other node is to be primary; the command may be given on either node."""

    even_if_unfit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ForceYield(Command):
    """This node gives up the role, whether or not the peer takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Command):
    """Nobody claims until the pause ends; gates that are open stay open."""

    for_ns: int
    """0 = until resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(Command):
    """The pause is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimers(Command):
    """Keep other intervals from now on, on both nodes."""

    hello_us: int | None = None
    """None = as they are, or what the others take; so with all of them."""
    dead_us: int | None = None
    verify_us: int | None = None
    stall_us: int | None = None
    lease_us: int | None = None
    unset: bool = False
    """Those of the configuration again."""
    even_so: bool = False
    """Though a host can't hold them."""

    @property
    def given(self) -> dict[str, int]:
        """What is set, by name."""
        values = ((name, getattr(self, name)) for name in INTERVALS)
        return {name: value for name, value in values if value is not None}


Operator = AdminCommand | ForceFailover | ForceYield | Pause | Resume | SetTimers

Event = (
    EngineEvent
    | EngineSeen
    | PeerSeen
    | Started
    | Tick
    | TermsReserved
    | TermsFailed
    | StateSaved
    | PortLost
    | PortRestored
    | GateLost
    | GateRestored
    | HealthChanged
    | IsolationChanged
    | WitnessAnswered
    | PeerFenced
    | ConfigReloaded
    | EffectFailed
    | Stopping
    | AdminCommand
    | ForceFailover
    | ForceYield
    | Pause
    | Resume
    | SetTimers
    | HostMeasured
)
