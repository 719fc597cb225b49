# SPDX-License-Identifier: Apache-2.0
"""What daemon and worker tell each other over /run/twinbeat/worker.sock: one line of JSON each.

The daemon listens and decides; the worker asks. A question is answered once, under its number, or
never where the connection ends before. Neither waits for the other: a worker that is gone, hangs or
talks nonsense changes nothing but what is shown of it.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from twinbeat.api.schema import Histogram
from twinbeat.sessions.connections import ConnectionsBrief, ConnectionSettings
from twinbeat.sessions.shown import SessionsStatus
from twinbeat.sync.document import U64, Document, Lineage, Name, Sentence, Tables, Version
from twinbeat.sync.operation import PROBLEMS_MOST, Problem
from twinbeat.sync.shown import Briefs
from twinbeat.weblog.shown import WeblogView

LINE_MAX: Final = 16 << 20
"""Bytes of a line; a document of ten thousand addresses has a few hundred thousand."""
BEAT_S: Final = 2.0
SILENT_S: Final = 5.0
"""A worker that says nothing for so long doesn't count as alive."""

Problems = Annotated[tuple[Problem, ...], Meta(max_length=PROBLEMS_MOST)]


# -- of the worker -------------------------------------------------------------------------------


class Report(Struct, frozen=True, kw_only=True):
    """How the worker stands, for status, metrics and alerts."""

    state: Name
    """In the words of `twinbeat show sync`: enabled, success, in-progress, …; idle without a
    document."""
    sentence: Sentence
    in_step: bool = False
    """Both nodes have the same document, and it is in force on both."""
    connection: Name = ""
    """unpaired, away or connected."""
    why: Sentence = ""
    """Why it isn't connected."""
    generation: int = 0
    """Of the document that is stored."""
    peer_generation: int = 0
    """Of the peer's, as far as its worker was heard."""
    waiting: int = 0
    """Requests that wait for their turn or their answer."""
    arriving: tuple[int, int] = (0, 0)
    """Bytes of the peer's document that have come, and that there will be."""
    failures: Annotated[tuple[Problem, ...], Meta(max_length=16)] = ()
    """Items that could not be carried out, the first of them."""
    round_trip_ns: int = 0
    own_ends_s: int = 0
    """Unix time at which this node's certificate is over; 0 = it has none."""
    peer_ends_s: int = 0
    requests: dict[str, int] = {}
    """How many ended in which state."""
    counts: dict[str, int] = {}
    """Of the connection, by `what which`."""
    refusals: dict[str, int] = {}
    """Times that the store or the agent refused something that had to be done, by who it was."""
    synced_s: int = 0
    """Unix time at which both nodes came to have this document in force; 0 = they never did."""
    files: Briefs = ()
    """The lists of files."""
    file_counts: dict[str, int] = {}
    """What happened to them."""
    connections: ConnectionsBrief | None = None
    """None: the daemon hasn't been reached yet."""
    weblog: WeblogView | None = None
    """Log records, a moment ago; None: nothing is configured."""


class Beat(Struct, frozen=True, kw_only=True, tag="beat"):
    """A sign of life."""

    pid: int
    version: Name
    report: Report | None = None
    """None: as it was told last."""
    took: dict[Name, Histogram] = {}
    """How long changes waited for what; empty: as it was told last."""
    sessions: SessionsStatus | None = None
    """Persistence; None: as it was told last."""


class Check(Struct, frozen=True, kw_only=True, tag="check"):
    """Could a document of these tables be put in force here? Answered by `Checked`."""

    id: U64
    tables: Tables


class Apply(Struct, frozen=True, kw_only=True, tag="apply"):
    """Put it in force, wholly or not at all; answered by `Applied`."""

    id: U64
    document: Document


FromWorker = Beat | Check | Apply


# -- of the daemon -------------------------------------------------------------------------------


class SyncSettings(Struct, frozen=True, kw_only=True):
    """`[sync]` of this node's file; addresses that follow from others are filled."""

    enabled: bool
    propagation: bool
    strict_status: bool
    peer: str
    listen: str
    port: int
    interface: str
    timeout_s: int
    identity: str
    keys: str = ""
    """Directory of the keys for heartbeats."""
    weblog_listen: tuple[str, ...] = ()
    """Own addresses at which log clients and the peer are waited for; none = all."""


class Mark(Struct, frozen=True, kw_only=True):
    """Which document it is."""

    lineage: Lineage
    version: Version


class Welcome(Struct, frozen=True, kw_only=True, tag="welcome"):
    """First thing on a connection: who this node is and what it has in force."""

    node: Annotated[int, Meta(ge=0, le=1)]
    name: Name
    pair: int
    build: Name
    document: Document | None
    """In force; None: the file says everything."""
    tables: Tables
    """What the file says of shared tables: where there is no document, one begins with it."""


class Standing(Struct, frozen=True, kw_only=True, tag="standing"):
    """How the node stands from now on."""

    primary: bool
    term: U64
    """The highest that it knows of."""
    peer_alive: bool
    """Heartbeats of the peer arrive."""
    in_force: Mark | None
    settings: SyncSettings
    connections: ConnectionSettings = ConnectionSettings()


class Checked(Struct, frozen=True, kw_only=True, tag="checked"):
    """The answer to a `Check`."""

    id: U64
    problems: Problems = ()


class Applied(Struct, frozen=True, kw_only=True, tag="applied"):
    """The answer to an `Apply`."""

    id: U64
    in_force: bool
    problems: Problems = ()
    """Why it isn't; or what of it waits for a restart although it is."""


FromDaemon = Welcome | Standing | Checked | Applied
