# SPDX-License-Identifier: Apache-2.0
"""What the worker answers on /run/twinbeat/sync.sock: the shared configuration, for people.

Bulk goes here and not through the daemon, whose loop decides. Requests to change something are
`twinbeat.sync.operation.Request`, their answers `Outcome`.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from twinbeat.api.worker import Report, SyncSettings
from twinbeat.sync.shown import ListStatus

SOCKET: Final = "/run/twinbeat/sync.sock"
BODY_MAX: Final = 16 << 20
READABLE: Final = (
    "/v1/status",
    "/v1/history",
    "/v1/counters",
    "/v1/sync",
    "/v1/document",
    "/v1/generations",
    "/v1/backups",
    "/v1/files",
    "/v1/weblog",
    "/v1/sessions",
    "/v1/persistence",
)
"""What may be read of the other node: of its daemon the first three, of its worker the rest."""
DAEMONS: Final = READABLE[:3]


class ForceSync(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compare both documents, and take over whatever rules."""

    adopt: bool = False
    """This node is the one that gives up what it has."""


class Said(Struct, frozen=True, kw_only=True):
    """What came of a `ForceSync`."""

    code: str
    """Empty: it has begun."""
    sentence: str


class DocumentView(Struct, frozen=True, kw_only=True):
    """A document without its tables."""

    lineage: str
    term: int
    generation: int
    fingerprint: str = ""
    made_at_ns: int = 0
    """By the wall clock of the node that made it."""
    by: str = ""
    reason: str = ""
    request: str = ""
    current: bool = False
    backup: int = 0
    """Number of the backup that it is; 0 = none."""
    why: str = ""
    """Why it gave way, of a backup."""


class PeerView(Struct, frozen=True, kw_only=True):
    """What the peer's worker said of itself."""

    name: str
    build: str
    primary: bool
    settled: bool
    applied: bool
    document: DocumentView


class SyncView(Struct, frozen=True, kw_only=True):
    """GET /v1/sync."""

    schema: int = 1
    node: str
    report: Report
    settings: SyncSettings | None = None
    document: DocumentView | None = None
    in_force: int = 0
    """Generation that the daemon has in force; 0 = none, the file says everything."""
    daemon: bool = False
    """The daemon can be asked."""
    paired: bool = False
    """It was once in step with a peer; until then it only receives."""
    peer: PeerView | None = None


class Views(Struct, frozen=True, kw_only=True):
    """GET /v1/generations and /v1/backups: the newest first."""

    schema: int = 1
    documents: Annotated[list[DocumentView], Meta(max_length=1000)]


class FilesView(Struct, frozen=True, kw_only=True):
    """GET /v1/files: how the lists of files stand on this node."""

    schema: int = 1
    node: str
    lists: tuple[ListStatus, ...] = ()
    counts: dict[str, int] = {}
    """What happened to them since the worker started."""


class Rotated(Struct, frozen=True, kw_only=True):
    """What came of POST /v1/keys."""

    schema: int = 1
    code: str = ""
    """Why it didn't come to its end; empty: it did."""
    sentence: str
    key: int = 0
    """Id of the key that both nodes send under now."""
