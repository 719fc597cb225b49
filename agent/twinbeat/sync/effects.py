# SPDX-License-Identifier: Apache-2.0
"""What `Propagation` wants done, to be begun in the order given.

Effects that have a token are answered by an event with that token (`events`); the store's are
carried out one after another, the daemon's as well, and neither waits for the other.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from twinbeat.sync.document import Document, Run, Tables
from twinbeat.sync.messages import Message
from twinbeat.sync.operation import Operation, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Let the daemon examine these tables (and the worker this command); answer `Checked`."""

    token: int
    tables: Tables
    run: Run | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Let the daemon put the document in force, wholly or not at all; answer `Applied`. What is in
    force already is applied again without harm."""

    token: int
    document: Document


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """Run the command on this node, once; answer `Ran`."""

    token: int
    request: str
    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePrepare:
    """Keep the operation as the one prepared; its generation is never used again."""

    token: int
    operation: Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCommit:
    """The operation prepared makes the document current; keep the outcomes."""

    token: int
    request: str
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAbort:
    """Forget the operation prepared, but not its generation; keep the outcomes."""

    token: int
    request: str
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAdopt:
    """Keep a copy of the current document, make this one current, count as paired."""

    token: int
    document: Document
    outcomes: tuple[Outcome, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRecord:
    """Keep the outcomes, in place of those that were kept of the same requests."""

    token: int
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePaired:
    """This node was in step with a peer."""

    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send to the peer, over the connection that stands. If it breaks, the message is lost."""

    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a request, for everybody on this node who asked for it."""

    outcome: Outcome
    only: str = ""
    """Of those who asked only them whose request says this (`Request.asked`); empty: all."""


class Level(enum.Enum):
    """How much a line of the log matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A line of the log; edges only."""

    level: Level
    code: str
    sentence: str


Stores = StorePrepare | StoreCommit | StoreAbort | StoreAdopt | StoreRecord | StorePaired
Effect = Check | Apply | RunCommand | Stores | Send | Answer | Note
