# SPDX-License-Identifier: Apache-2.0
"""What is under way on a node, and how long it may be: values only."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

from twinbeat.sync import events as ev
from twinbeat.sync.document import Document
from twinbeat.sync.events import Mark
from twinbeat.sync.messages import Prepared
from twinbeat.sync.operation import Operation, Outcome, Output, Request

QUEUE_MOST: Final = 64
"""Requests that wait for their turn; the next one is refused as busy."""
FINISHED_MOST: Final = 64
"""Outcomes that are remembered whole, outputs included."""
SECOND_NS: Final = 1_000_000_000
RETRY_NS: Final = SECOND_NS
"""Between two attempts at what the store or the daemon refused and what has to be done."""
TAKE_NS: Final = 60 * SECOND_NS
"""A document that was wanted is wanted again if it isn't here by then."""
REFUSED_NS: Final = 30 * SECOND_NS
"""Between two attempts to take over a document that the daemon refused."""
FORETOLD_NS: Final = SECOND_NS
"""So long what the daemon found of an operation that was foretold counts for preparing it: half of
what the daemon gives it (`config.inforce.FRESH_NS`), so that it still counts when it is applied."""
CONNECT_NS: Final = 2 * SECOND_NS
"""So long after the start no operation is made without the peer, who may well be there."""

SPOILED: Final = frozenset({"invalid", "run_failed"})
"""Codes of votes that say something about the change itself: nobody does it then."""

Result = ev.Checked | ev.Applied | ev.Ran | ev.Stored | ev.StoreFailed
"""What comes of an effect that has a token."""


class Phase(enum.Enum):
    """How far an operation, or a document that is taken over, has come."""

    CHECK = enum.auto()
    """The daemon examines it."""
    PREPARE = enum.auto()
    """The store journals it."""
    PEER = enum.auto()
    """The peer has it, or will have."""
    DOUBT = enum.auto()
    """Whether the peer has committed it is to be asked."""
    APPLY = enum.auto()
    """The daemon puts it in force."""
    RUN = enum.auto()
    """Its command runs."""
    COMMIT = enum.auto()
    """The store commits it."""
    RECORD = enum.auto()
    """The store keeps what its command said."""
    ABORT = enum.auto()
    """The store forgets it."""
    WANT = enum.auto()
    """The peer's document is on its way."""
    ADOPT = enum.auto()
    """The store takes the document over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A request, and who waits for what becomes of it until when."""

    request: Request
    wall_ns: int
    since_ns: int
    here: bool
    """Somebody on this node does."""
    there: bool
    """The peer forwarded it."""

    @property
    def deadline_ns(self) -> int:
        """It is answered by then."""
        return self.since_ns + self.request.timeout_ns

    @property
    def patience_ns(self) -> int:
        """Half of the time is for waiting: for the turn, for the peer to be in step, or for its
        answer."""
        return self.since_ns + self.request.timeout_ns // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """The operation that this node makes."""

    operation: Operation
    before: Document
    """What it is made for."""
    after: Document | None
    """What it makes of it."""
    phase: Phase
    token: int = 0
    """Of the effect that is awaited; 0: none."""
    journal: int = 0
    """Of the journaling that goes on beside the examination; 0: it is over."""
    waiting: Waiting | None = None
    """None: it was found prepared at the start, or nobody waits any more."""
    coming: bool = False
    """The peer has it in force and journaled: it brings it to its end whatever happens."""
    held: bool = False
    """It isn't given to the peer before that has said that it committed the one before."""
    exposed: bool = False
    """It was sent to the peer."""
    stale: bool = False
    """It was sent over a connection that is gone: this node isn't settled until it is over."""
    acked: bool = False
    """The peer has committed it, or is bound to."""
    asked: bool = False
    """The peer was asked about it, over this connection."""
    retry_ns: int = 0
    """When to try again what the store refused; 0: nothing to try."""
    answer: Outcome | None = None
    """What is said when the phase is over."""
    alone: str = "alone_unreachable"
    """Why the peer hasn't it, where it hasn't."""
    why: str = ""
    outputs: tuple[Output, ...] = ()
    undoing: Outcome | None = None
    """This operation takes another one back: what is said of that one then."""
    undone_everywhere: bool = True
    """What it takes back isn't on the peer, unless the peer commits this one."""

    def certain(self) -> Document | None:
        """What will be current, as the peer has it in force; the store here isn't through."""
        committing = self.phase is Phase.COMMIT and (self.acked or self.coming)
        announced = self.phase is Phase.PEER and self.coming
        if not (committing or announced) or self.undoing is not None:
            return None
        return self.after if self.operation.run is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The operation of the peer that this node carries out."""

    operation: Operation
    after: Document
    phase: Phase
    token: int = 0
    live: bool = True
    """The connection over which it came stands: the peer hears what comes of it."""
    asked: bool = False
    """The peer wants to know what became of it."""
    retry_ns: int = 0
    vote: Prepared | None = None
    """What is said when it is aborted."""
    outputs: tuple[Output, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """An operation that the peer is about to send, and that the daemon examines meanwhile."""

    operation: Operation
    before: Document
    """What was current when it was foretold."""
    after: Document
    token: int
    """Of the examination; 0: it is over, and nothing was found wrong."""
    found_ns: int = 0
    """When it was over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """The document of the peer that this node takes over."""

    phase: Phase
    deadline_ns: int
    token: int = 0
    document: Document | None = None
    print: str = ""


def mark(document: Document) -> Mark:
    return Mark(lineage=document.lineage, version=document.version)


def moments_of(waiting: Waiting) -> list[int]:
    return [waiting.patience_ns, waiting.deadline_ns]


def merged(before: Waiting | None, again: Waiting) -> Waiting:
    """Asked once more while it is under way: the newest deadline counts, for all who ask."""
    if before is None:
        return again
    return replace(again, here=before.here or again.here, there=before.there or again.there)
