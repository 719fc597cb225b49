# SPDX-License-Identifier: Apache-2.0
"""What the agent can be told, and what it answers."""

import enum
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from twinbeat.api.parts.terms import SCHEMA, Admin


class Refusal(Struct, frozen=True, kw_only=True, tag="refusal", tag_field="kind"):
    """A command was not carried out, and nothing has changed."""

    code: str
    sentence: str
    override: str | None = None
    """Option of the command that would carry it out all the same, if there is one."""


class OutcomeState(enum.StrEnum):
    """How far a command came."""

    DONE = "done"
    ACCEPTED = "accepted"
    """Under way: `status` and the event stream tell how it ends."""
    FAILED = "failed"
    """It was tried; the sentence says what is the case now."""


class Outcome(Struct, frozen=True, kw_only=True, tag="outcome", tag_field="kind"):
    """A command was carried out, is under way, or was tried in vain."""

    operation: str
    """The request's `request_id`: the same request again gets the same answer."""
    state: OutcomeState
    code: str
    sentence: str
    term: int | None = None


POLICY_REFUSALS: Final = frozenset(
    {
        "both_stay_primary",
        "digest_differs",
        "host_late",
        "not_permitted",
        "paused",
        "peer_contradicts",
        "peer_late",
        "peer_never_claims",
        "peer_paused",
        "peer_stays_primary",
        "peer_unfit",
        "self_unfit",
        "stay_primary",
        "stay_secondary",
        "timers_contradict",
        "unhealthy",
    }
)
"""Refusals by a rule that somebody set, or by unfitness; the others are the state of the moment."""

RequestId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{8,64}$")]

Why = Annotated[str, Meta(max_length=500)]


class _Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common to all: the same `request_id` again gets the first answer, not a second act."""

    request_id: RequestId
    reason: Why = ""


class Failover(_Command, frozen=True, kw_only=True, tag="failover"):
    """Planned switch-over: the primary gives the role to its peer, the secondary takes it."""

    even_if_unfit: bool = False
    """Also when the taker is not fit."""


class Yield(_Command, frozen=True, kw_only=True, tag="yield"):
    """Give up the role if primary, even if nobody takes it."""


class PauseFor(_Command, frozen=True, kw_only=True, tag="pause"):
    """Nobody claims until resumed or until the time is over."""

    for_s: Annotated[int, Meta(ge=1, le=7 * 86400)] | None = None
    """None = until resumed."""


class Resume(_Command, frozen=True, kw_only=True, tag="resume"):
    """End a pause."""


class SetAdmin(_Command, frozen=True, kw_only=True, tag="admin"):
    """Set what the operator wants of this node."""

    admin: Admin
    even_if_unfit: bool = False
    """Leave the role though nobody takes it over."""


_Interval = Annotated[int, Meta(ge=1, le=60_000_000)]


class SetTimers(_Command, frozen=True, kw_only=True, tag="timers"):
    """Other intervals from now on, on both nodes: refused where one of them can't hold them."""

    hello_us: _Interval | None = None
    """None = as it is, or as the others ask for; so with all of them."""
    dead_us: _Interval | None = None
    verify_us: _Interval | None = None
    stall_us: _Interval | None = None
    lease_us: _Interval | None = None
    unset: bool = False
    """Those of each node's configuration again."""
    even_so: bool = False
    """Also where a host wakes up too late to hold them."""


class Reload(_Command, frozen=True, kw_only=True, tag="reload"):
    """Read the configuration again: all of it or nothing."""


Command = Failover | Yield | PauseFor | Resume | SetAdmin | SetTimers | Reload

COMMANDS: Final[dict[str, type[Any]]] = {
    "failover": Failover,
    "yield": Yield,
    "pause": PauseFor,
    "resume": Resume,
    "admin": SetAdmin,
    "timers": SetTimers,
    "reload": Reload,
}
"""POST /v1/<name> takes the struct as its body."""


class Caller(Struct, frozen=True, kw_only=True):
    """Who sent a command, as the kernel says (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Problem(Struct, frozen=True, kw_only=True):
    """The request itself was wrong (status 4xx) or the agent could not answer (5xx)."""

    schema: int = SCHEMA
    code: str
    sentence: str


class Answer(Struct, frozen=True, kw_only=True):
    """What a command came to."""

    schema: int = SCHEMA
    result: Outcome | Refusal


class Check(Struct, frozen=True, kw_only=True):
    """One line of `doctor`: plain data from `python -m twinbeat.runtime.doctor --json`."""

    name: str
    level: str
    """ok | warning | error"""
    finding: str
    fix: str = ""


class Doctor(Struct, frozen=True, kw_only=True):
    """The whole report."""

    schema: int = SCHEMA
    checks: list[Check]
