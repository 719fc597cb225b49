# SPDX-License-Identifier: Apache-2.0
"""The roles of a node and every change between them, as one table.

Theory of operation
-------------------
Two machines make up a node. The *engine* (csrc/engine.c) lives in microseconds: it watches the
peer, claims terms, opens and shuts the gate. It asks nobody, but it may only do what its standing
order permits. The *role* is the other one: it is what people, routes, hooks and metrics see, it
lives in Python, and it **follows**. No role is ever left or entered because Python wished it: it
writes an order, the engine acts on it or doesn't, and the role turns when the engine says what
happened. So the two can't disagree for longer than an event takes, and after lost events the
engine's state itself (`EngineSeen`) turns the role by the very same rows.

There are three kinds of turn:

* what the engine did: CLAIMED, OPENED, ABANDONED, CLOSED;
* what listening showed: LISTENED, the first listening is over, with or without a peer;
* what the operator wants, *after* the engine confirmed the order that carries it out: WITHDRAWN
  (the node takes no part any more), ADMITTED (it takes part again).

A primary that asks for a newer term keeps its gate open meanwhile (rule R18 of the protocol), so
CLAIMED, ABANDONED and OPENED leave it primary. A primary whose gate the kernel shut because it
heard another one (R5) stays primary in name until the contest is decided: the gate, not the role,
is what serves.

Rule 1: everything that changes a role is in this file.
Rule 2: this file doesn't know why. Reasons are `twinbeat.core.reasons`, permits are
`twinbeat.core.election`.

A pair that isn't in the table is a broken invariant: `turn` raises and nothing has changed. The
diagram in deploy/docs/states.md is drawn from the table; a test compares them.
"""

from __future__ import annotations

import enum
from typing import Final

from twinbeat.core.types import Role


class Turn(enum.Enum):
    """What turns a role. The value is the label in the diagram."""

    LISTENED = "listened"
    """The peer was found, or the time of listening is over."""
    CLAIMED = "claimed"
    """The engine asked for a term."""
    OPENED = "opened"
    """The engine opened the gate, or resumed a reign that was open."""
    ABANDONED = "abandoned"
    """The engine gave up its claim."""
    CLOSED = "closed"
    """The gate is shut, or shut for good: the reign is over."""
    WITHDRAWN = "withdrawn"
    """The engine confirmed that it claims and serves nothing any more."""
    ADMITTED = "admitted"
    """The operator lets the node take part again."""


TRANSITIONS: Final[dict[tuple[Role, Turn], Role]] = {
    # A node that has just started may resume an open reign, but claims nothing.
    (Role.INIT, Turn.LISTENED): Role.SECONDARY,
    (Role.INIT, Turn.OPENED): Role.PRIMARY,
    (Role.INIT, Turn.CLOSED): Role.INIT,
    (Role.INIT, Turn.WITHDRAWN): Role.DISABLED,
    # The usual life of the one that watches. OPENED without CLAIMED: the claim's event was lost.
    (Role.SECONDARY, Turn.CLAIMED): Role.CLAIMING,
    (Role.SECONDARY, Turn.OPENED): Role.PRIMARY,
    (Role.SECONDARY, Turn.ABANDONED): Role.SECONDARY,
    (Role.SECONDARY, Turn.CLOSED): Role.SECONDARY,
    (Role.SECONDARY, Turn.WITHDRAWN): Role.DISABLED,
    # Asking. It ends in one of two ways, and may begin anew with a higher term.
    (Role.CLAIMING, Turn.CLAIMED): Role.CLAIMING,
    (Role.CLAIMING, Turn.OPENED): Role.PRIMARY,
    (Role.CLAIMING, Turn.ABANDONED): Role.SECONDARY,
    (Role.CLAIMING, Turn.CLOSED): Role.SECONDARY,
    # Serving. A newer term may be asked for with the gate open.
    (Role.PRIMARY, Turn.CLAIMED): Role.PRIMARY,
    (Role.PRIMARY, Turn.OPENED): Role.PRIMARY,
    (Role.PRIMARY, Turn.ABANDONED): Role.PRIMARY,
    (Role.PRIMARY, Turn.CLOSED): Role.SECONDARY,
    # Out of it, until told otherwise.
    (Role.DISABLED, Turn.ADMITTED): Role.SECONDARY,
    (Role.DISABLED, Turn.CLOSED): Role.DISABLED,
}


class StateError(Exception):
    """The core was told something that can't be: a broken invariant, not bad input."""


def turn(role: Role, by: Turn) -> Role:
    """The role after ``by``. Raises `StateError` for a pair that the table doesn't have."""
    try:
        return TRANSITIONS[role, by]
    except KeyError:
        raise StateError(f"a node that is {role.name} can't be told {by.name}") from None


def diagram() -> str:
    """The table as a Mermaid state diagram; turns that change nothing are left out."""
    lines = ["stateDiagram-v2", "    [*] --> INIT"]
    lines += [
        f"    {before.name} --> {after.name}: {by.value}"
        for (before, by), after in TRANSITIONS.items()
        if before is not after
    ]
    return "\n".join(lines)
