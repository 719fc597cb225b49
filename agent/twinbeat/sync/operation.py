# SPDX-License-Identifier: Apache-2.0
"""One change on its way: what was asked for, what both nodes carry out, what came of it.

A `Request` is what somebody wants; it may have to wait. An `Operation` is made of it when its turn
comes, by the node that is primary, and says exactly which document becomes which. An `Outcome` is
what both nodes keep of it, so that a request given twice is answered twice and carried out once.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from twinbeat.sync.document import (
    ASKED_SIZE,
    RECENT,
    ROWS_MOST,
    U64,
    Asked,
    Change,
    ChangeRefused,
    Document,
    Done,
    Fingerprint,
    Lineage,
    Name,
    RequestId,
    Run,
    Sentence,
    Tables,
    Version,
    applied,
    fingerprint,
)

OUTPUT_MOST: Final = 64 * 1024
"""Characters of a command's output that are kept and reported, per node."""
PROBLEMS_MOST: Final = 1024


class Policy(enum.StrEnum):
    """What is to become of a change that can't reach both nodes."""

    STRICT = "strict"
    """Both or none."""
    AVAILABLE = "available"
    """The primary alone, then; the pair counts as out of sync until the other has it, too."""


class Problem(Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a document, or that could not be put in force."""

    where: Sentence
    """The item: section, row and key."""
    value: Annotated[str, Meta(max_length=4096)] = ""
    right: Annotated[str, Meta(max_length=4096)] = ""
    """What would be right, or what went wrong."""


class Output(Struct, frozen=True, kw_only=True):
    """What a command said on one node."""

    node: Name
    status: int
    """Exit status; negative for the signal that ended it."""
    text: Annotated[str, Meta(max_length=OUTPUT_MOST)] = ""


# -- what somebody wants -------------------------------------------------------------------------


class Edit(Struct, frozen=True, kw_only=True, tag="edit"):
    """These rows are to change."""

    changes: Annotated[tuple[Change, ...], Meta(max_length=ROWS_MOST)]


class Replace(Struct, frozen=True, kw_only=True, tag="replace"):
    """The tables are to be these: of a file that was applied, or of an earlier generation."""

    tables: Tables


Wish = Edit | Replace | Run


class Request(Struct, frozen=True, kw_only=True):
    """What somebody wants done, once, however often it is asked for."""

    request: RequestId
    """Chosen by whoever asks."""
    wish: Wish
    policy: Policy = Policy.AVAILABLE
    timeout_ns: U64 = 10_000_000_000
    """It is answered by then, if only by `State.UNDECIDED`."""
    base: Version | None = None
    """The wish was made for this document; if another is in force when its turn comes, it is
    refused."""
    asked: Asked = ""
    """Fingerprint of what is asked for, by which the same command is known when it is given again
    under its id, though the wish that it makes of another document is another one; empty: that of
    the wish counts (`Request.meant`)."""
    by: Name = ""
    reason: Sentence = ""
    local: bool = False
    """Refuse it rather than forward it to the primary."""

    def meant(self) -> Request:
        """The same request, which says in any case what it asks for."""
        if self.asked:
            return self
        return msgspec.structs.replace(self, asked=print_of(self.wish))


def print_of(asked: object) -> str:
    """The fingerprint of what somebody asks for."""
    encoded = msgspec.json.encode(asked, order="deterministic")
    return hashlib.blake2s(encoded, digest_size=ASKED_SIZE).hexdigest()


# -- what both nodes carry out -------------------------------------------------------------------


class Operation(Struct, frozen=True, kw_only=True):
    """Makes of the document ``base`` the one of ``version``."""

    request: RequestId
    node: Annotated[int, Meta(ge=0, le=1)]
    """Index of the node that made it: its primary then."""
    lineage: Lineage
    base: Version
    version: Version
    changes: Annotated[tuple[Change, ...], Meta(max_length=ROWS_MOST)]
    fingerprint: Fingerprint
    """Of the tables afterwards, so that nodes that differ unseen are found out."""
    policy: Policy
    run: Run | None = None
    undoes: Annotated[str, Meta(max_length=64)] = ""
    """The request that this one takes back."""
    asked: Asked = ""
    """What was asked for (`Request`)."""
    by: Name = ""
    reason: Sentence = ""
    made_at_ns: U64 = 0

    def onto(self, base: Document) -> Document:
        """The document afterwards. Raises `ChangeRefused` where ``base`` isn't the right one."""
        if base.lineage != self.lineage or base.version != self.base:
            raise ChangeRefused(
                "out_of_step", f"{self.request} changes {self.base}, and {base.version} is here"
            )
        tables = applied(base.tables, self.changes) if self.changes else base.tables
        if fingerprint(tables) != self.fingerprint:
            raise ChangeRefused(
                "content_differs",
                f"{self.base} isn't the same on both nodes; `twinbeat force sync` repairs it",
            )
        return self.document(base, tables)

    def document(self, base: Document, tables: Tables) -> Document:
        """The document afterwards, of tables that were made by the changes already."""
        done = Done(self.request, self.version, self.run, self.undoes, self.asked)
        kept = [past for past in base.recent if past.request != self.undoes]
        return Document(
            lineage=self.lineage,
            version=self.version,
            tables=tables,
            recent=(*kept, done)[-RECENT:],
            made_at_ns=self.made_at_ns,
            by=self.by,
            reason=self.reason,
            request=self.request,
        )


# -- what came of it -----------------------------------------------------------------------------


class State(enum.StrEnum):
    """How a request ended."""

    DONE = "done"
    """On both nodes."""
    ALONE = "alone"
    """On the primary; the other gets it as soon as it is back."""
    REFUSED = "refused"
    """On neither."""
    UNDECIDED = "undecided"
    """On both or on neither as soon as the nodes are in step again; ask again then."""
    PARTLY = "partly"
    """A command that was run on both and failed on one; the outputs tell."""
    SUPERSEDED = "superseded"
    """It was done by one node alone, and the other, who was primary later, went on without it. The
    node that gave way keeps a copy of what it had."""


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of a request: kept by the store, sent to the peer, shown to whoever asked."""

    request: RequestId
    state: State
    code: Name
    """Stable; the metric's label."""
    sentence: Sentence
    version: Version = Version()
    """Of the document that contains it."""
    problems: Annotated[tuple[Problem, ...], Meta(max_length=PROBLEMS_MOST)] = ()
    outputs: Annotated[tuple[Output, ...], Meta(max_length=4)] = ()
    asked: Asked = ""
    """What was asked for (`Request`), where the store knows it."""
