# SPDX-License-Identifier: Apache-2.0
"""What can happen to `Propagation`: facts, fed in the order in which they come to be known.

Whatever an effect with a token asked for is answered by one event with that token, or never, if the
process ends or the daemon's connection is lost (`DaemonLost` answers for all that it was asked).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from twinbeat.sync.document import Document, Version
from twinbeat.sync.messages import Message, Summary
from twinbeat.sync.operation import Operation, Outcome, Output, Problem, Request

LOST_NUMBERS: Final = 1000
"""A store that was lost may have used so many generations beyond the one in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Which document it is."""

    lineage: str
    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """All that the store knows: nothing else survives the process."""

    current: Document
    """A store that has none is seeded first: with what the daemon has in force, or else with the
    shared tables of the file."""
    prepared: Operation | None = None
    highest: int = 0
    """No generation up to this one is used again: it was in a document here or in an operation
    that was prepared here. A store that was lost and is seeded with what the daemon has in force
    doesn't know, and begins well above that document's generation (`LOST_NUMBERS`)."""
    paired: bool = False
    in_doubt: tuple[Outcome, ...] = ()
    """All outcomes kept whose state is `State.UNDECIDED`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The store is open. Fed once, before everything else."""

    held: Held


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleChanged:
    """The daemon says what this node is."""

    primary: bool
    term: int
    """Of the reign, or the highest that the node knows of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsChanged:
    """Synchronization or propagation was switched on or off."""

    sync: bool
    propagation: bool
    strict_status: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonFound:
    """The daemon can be asked."""

    in_force: Mark | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonLost:
    """The daemon can't be asked any more, and answers nothing that it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFound:
    """A connection to the peer stands, and it said who it is. The one before, if there was one,
    is lost (`PeerLost`), and nothing of it comes any more."""

    summary: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLost:
    """The connection is gone. What was sent last may or may not have arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A message of the peer, over the connection that stands."""

    message: Message
    wall_ns: int = 0
    known: Outcome | None = None
    """For a `Query` and a `Forward`: what the store keeps of that request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """Somebody on this node wants something."""

    request: Request
    wall_ns: int = 0
    known: Outcome | None = None
    """What the store keeps of that request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncForced:
    """The operator wants the documents compared and taken over again (`twinbeat force sync`)."""

    adopt: bool = False
    """This node is the one that gives up what it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The daemon examined a document, and a command's name and arguments."""

    token: int
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The daemon was given a document to put in force."""

    token: int
    in_force: bool
    """It is. If not, all is as it was before."""
    problems: tuple[Problem, ...] = ()
    """Why it isn't; or what of it couldn't be carried out although it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A command came to its end."""

    token: int
    output: Output
    undo: bool = False
    """The configuration says how to take it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The store did it, and it survives a loss of power."""

    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFailed:
    """The store refused, and all is as it was before."""

    token: int
    code: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """The deadline of `Propagation.next_deadline` has come. Early or late ones do no harm."""


Event = (
    Started
    | RoleChanged
    | SettingsChanged
    | DaemonFound
    | DaemonLost
    | PeerFound
    | PeerLost
    | Heard
    | Requested
    | SyncForced
    | Checked
    | Applied
    | Ran
    | Stored
    | StoreFailed
    | Tick
)
