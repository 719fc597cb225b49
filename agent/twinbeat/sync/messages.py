# SPDX-License-Identifier: Apache-2.0
"""What two workers tell each other about the document: meaning only, no framing.

A connection keeps their order and loses none while it stands. Nothing of an old connection may be
delivered once a new one is told of (`events.PeerFound`): whoever asks anew what became of an
operation relies on that.
"""

from __future__ import annotations

import enum
from typing import Annotated

from msgspec import Meta, Struct

from twinbeat.sync.document import (
    U64,
    Document,
    Fingerprint,
    Lineage,
    Name,
    RequestId,
    Sentence,
    Version,
)
from twinbeat.sync.operation import PROBLEMS_MOST, Operation, Outcome, Output, Problem, Request


class Summary(Struct, frozen=True, kw_only=True):
    """How a node stands. Told when a connection begins and whenever it changes."""

    node: Annotated[int, Meta(ge=0, le=1)]
    lineage: Lineage
    version: Version
    fingerprint: Fingerprint
    """Of the tables of that version."""
    paired: bool
    """It was once in step with a peer. A node that never was only receives."""
    settled: bool
    """No operation is prepared here, and no other document is being taken over."""
    applied: bool
    """The document is what the daemon has in force."""
    failed: bool = False
    """It can't take over the peer's document; the log and `show sync` of that node say why."""
    primary: bool = False
    term: U64 = 0
    """The highest that the node knows of."""
    sync: bool = True
    """Synchronization is enabled."""
    propagation: bool = True
    """Propagation is enabled."""


class Status(Struct, frozen=True, kw_only=True, tag="status"):
    """The sender stands so from now on."""

    summary: Summary


class Foretold(Struct, frozen=True, kw_only=True, tag="foretold"):
    """This is going to be prepared unless something is wrong with it: examine it meanwhile.

    Nothing hangs on it and nothing answers it. Who doesn't know it examines when asked to prepare.
    """

    operation: Operation


class Prepare(Struct, frozen=True, kw_only=True, tag="prepare"):
    """Check this, carry it out and keep it; answer `Prepared`."""

    operation: Operation


class Ahead(Struct, frozen=True, kw_only=True, tag="ahead"):
    """What you asked to prepare is journaled and in force here, so it will be committed whatever
    happens: do so as well.

    `Prepared` follows when it is committed, and no other `Prepare` is to come before. Who doesn't
    know it waits for that.
    """

    request: RequestId


class Prepared(Struct, frozen=True, kw_only=True, tag="prepared"):
    """What came of a `Prepare`: done and durable, or nothing of it."""

    request: RequestId
    code: Name = ""
    """Why not; empty: done."""
    sentence: Sentence = ""
    problems: Annotated[tuple[Problem, ...], Meta(max_length=PROBLEMS_MOST)] = ()
    outputs: Annotated[tuple[Output, ...], Meta(max_length=4)] = ()


class Query(Struct, frozen=True, kw_only=True, tag="query"):
    """Have you got this operation? Asked under a new connection about one sent under an old."""

    request: RequestId


class Verdict(enum.StrEnum):
    """What became of an operation."""

    COMMITTED = "committed"
    UNKNOWN = "unknown"
    """It isn't here and won't be."""
    INTERRUPTED = "interrupted"
    """A command was begun, and nobody knows whether it came to its end."""


class Answered(Struct, frozen=True, kw_only=True, tag="answered"):
    """The answer to a `Query`; it waits until nothing is under way any more."""

    request: RequestId
    verdict: Verdict


class Want(Struct, frozen=True, kw_only=True, tag="want"):
    """Send the document that you have."""


class Given(Struct, frozen=True, kw_only=True, tag="given"):
    """The document that was wanted. It is as large as it is: the connection sends it in pieces."""

    document: Document


class Pull(Struct, frozen=True, kw_only=True, tag="pull"):
    """Take my document over again, even if you have that version."""


class Forward(Struct, frozen=True, kw_only=True, tag="forward"):
    """This was asked of me, and you are primary."""

    request: Request


class Forwarded(Struct, frozen=True, kw_only=True, tag="forwarded"):
    """What came of a `Forward`."""

    outcome: Outcome


Message = (
    Status
    | Foretold
    | Prepare
    | Ahead
    | Prepared
    | Query
    | Answered
    | Want
    | Given
    | Pull
    | Forward
    | Forwarded
)
