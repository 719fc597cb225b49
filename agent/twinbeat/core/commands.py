# SPDX-License-Identifier: Apache-2.0
"""Commands of the operator: why one is refused, and what remains of one that was not.

`refuse_command` is the only place that refuses a command. It is a pure function of the facts, so a
refused command has changed nothing. A command that moves the role leaves an `Operation`, of which
one at most is under way; one that only withdraws or grants something is answered by the `Desk` when
the engine has the order and the disk has the state.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import assert_never

from twinbeat.core.election import Facts, describe, may_take_over, successor
from twinbeat.core.events import (
    AdminCommand,
    ForceFailover,
    ForceYield,
    Operator,
    Pause,
    Resume,
    SetTimers,
)
from twinbeat.core.reasons import Code, Refusal
from twinbeat.core.types import Admin, Role


class Kind(enum.Enum):
    """What an operation is to bring about."""

    HAND_OVER = "hand over"
    """Primary: say YIELD until the peer's claim shuts the gate."""
    TAKE_OVER = "take over"
    """Secondary: claim by receipt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A change of role under way."""

    kind: Kind
    request_id: str
    """Whom to answer; empty = the node's own wish."""
    begun_ns: int
    deadline_ns: int
    then_admin: Admin | None = None
    """Taken on when the role is given up."""
    resigns_with: Code | None = None
    """Shut the gate at the deadline even if nobody took over, for this reason."""
    words: str = ""
    """Why the operator wants it, in his own words."""


def refuse_command(
    command: Operator, facts: Facts, *, started: bool, leaving: bool, busy: bool
) -> Refusal | None:
    """Why a command is refused, or None.

    ``started``: the machine runs; ``leaving``: it is being stopped; ``busy``: an operation is under
    way.
    """
    if not started:
        return describe(Code.NOT_READY, facts)
    if leaving:
        return describe(Code.STOPPING, facts)
    if busy and not isinstance(command, Pause | Resume | SetTimers):
        return describe(Code.BUSY, facts)
    primary = facts.role is Role.PRIMARY
    match command:
        case AdminCommand(status=status, even_if_unfit=insists):
            peer_stays = facts.peer is not None and facts.peer.admin is Admin.STAY_PRIMARY
            if status is Admin.STAY_PRIMARY and peer_stays:
                return describe(Code.BOTH_STAY_PRIMARY, facts)
            if status.never_claims and primary and not insists:
                return successor(facts)
            return None
        case ForceFailover(even_if_unfit=insists):
            if not primary:
                return may_take_over(facts, even_if_unfit=insists)
            if facts.admin is Admin.STAY_PRIMARY and not insists:
                return describe(Code.STAY_PRIMARY, facts)
            return successor(facts, even_if_unfit=insists)
        case ForceYield():
            return None if primary else describe(Code.NOT_PRIMARY, facts)
        case Pause():
            return None
        case Resume():
            if not facts.frozen:
                return describe(Code.NOT_PAUSED, facts)
            if not facts.paused and facts.peer_heard:
                return describe(Code.PEER_PAUSED, facts)
            return None
        case SetTimers():
            return None  # What they are and whom they suit is judged where they are known.
        case _:
            assert_never(command)
