# SPDX-License-Identifier: Apache-2.0
"""What the worker keeps alike on both nodes: configuration, files, records, state."""

from msgspec import Struct

from twinbeat.api.parts.terms import Histogram


class SyncFailure(Struct, frozen=True, kw_only=True):
    """An item of the shared configuration that could not be carried out, or waits for a restart."""

    where: str
    right: str


class SyncFiles(Struct, frozen=True, kw_only=True):
    """A list of files that are kept alike, in brief: `twinbeat show files` has the rest."""

    name: str
    state: str
    """same; waiting, working; partly, unreadable: something is in the way."""
    sentence: str = ""
    entries: int = 0
    bytes: int = 0
    failed: int = 0
    """Items that can't be kept alike."""
    conflicts: int = 0
    """Paths that both nodes had changed, since the worker started; of the primary."""


class WeblogSource(Struct, frozen=True, kw_only=True):
    """A log source, in brief."""

    name: str
    records: int
    """Collected since the worker started."""
    behind: int = 0
    """Bytes of its file that are not taken yet."""
    why: str = ""
    """Why nothing can be collected: a sentence."""


class WeblogClient(Struct, frozen=True, kw_only=True):
    """A log client that is allowed, in brief."""

    name: str
    connected: bool = False
    lag: int = 0
    """Records on this node that it has not acknowledged."""


class WeblogStream(Struct, frozen=True, kw_only=True):
    """The newest epoch of a node's records, as far as this node has them."""

    node: str
    epoch: int
    oldest: int
    received: int
    durable: int
    replicated: int


class Weblog(Struct, frozen=True, kw_only=True):
    """Log records, in brief: `twinbeat show weblog` has the rest."""

    state: str
    """collecting; refusing: the journal takes nothing; failed: it can't be used."""
    why: str = ""
    listening: bool = False
    """Log clients can reach it."""
    pulling: bool = False
    """The peer's records are being replicated."""
    waiting: int = 0
    """Own records that are on this node only."""
    size: int = 0
    """Bytes of all journals."""
    size_max: int = 0
    """Bytes that each may have."""
    streams: list[WeblogStream] = []
    sources: list[WeblogSource] = []
    clients: list[WeblogClient] = []


class Sync(Struct, frozen=True, kw_only=True):
    """How the worker keeps the shared configuration the same on both nodes."""

    state: str
    """enabled (this node's document rules), success, in-progress, partial-success, failed,
    disabled, lineage-conflict, unreachable, idle (there is no document); away = no worker."""
    sentence: str
    in_step: bool = False
    """Both nodes have the same document, and it is in force on both."""
    connection: str = ""
    """unpaired, away or connected."""
    why: str = ""
    """Why it isn't connected."""
    generation: int = 0
    """Of the document that the worker keeps."""
    peer_generation: int = 0
    waiting: int = 0
    """Requests that wait."""
    arriving: list[int] = []
    """Bytes of the peer's document that have come, and that there will be."""
    failures: list[SyncFailure] = []
    own_ends_s: int = 0
    """Unix time at which this node's certificate is over; 0 = it has none."""
    peer_ends_s: int = 0
    synced_s: int = 0
    """Unix time at which both nodes came to have this document in force; 0 = they never did."""
    files: list[SyncFiles] = []
    """Of many lists first those that aren't alike."""
    weblog: Weblog | None = None
    """None: no log source and no log client is configured."""


class Connections(Struct, frozen=True, kw_only=True):
    """How the state of connections is kept on both nodes."""

    state: str
    """off, alone, starting, unheard, filling, synced, failed; see connections.md."""
    sentence: str = ""
    flows: int | None = None
    """Connections in the kernel's table of this node."""
    flows_max: int | None = None
    """What that table has room for."""
    tracked: int = 0
    """Connections of which this node tells the other."""
    unconfirmed: int = 0
    """What was told and isn't confirmed yet, in messages: the lag."""
    heard_ns: int | None = None
    """Since the peer's conntrackd was heard last; None = never in this run."""
    filled_ns: int | None = None
    """How long it took to take over all of the primary's the last time."""
    synced_s: int = 0
    """Unix time at which both nodes came to know the connections; 0 = never."""
    strays_dropped: bool = False
    """Packets to VIPs and to be forwarded that belong to no known connection are dropped."""
    strays_error: str = ""
    """Why the table of nftables isn't as it should be."""
    counts: dict[str, int] = {}
    """What only grows, since the worker started."""


class PersistenceRule(Struct, frozen=True, kw_only=True):
    """A persistence rule, in brief: `twinbeat show sessions` has the rest."""

    name: str
    entries: int
    limit: int
    counts: dict[str, int] = {}
    """created, refreshed, moved, expired, deleted, evicted, stale, dropped"""


class PersistenceServer(Struct, frozen=True, kw_only=True):
    """A server of a pool."""

    pool: str
    address: str
    state: str
    """up, down or disabled"""
    entries: int = 0


class Replication(Struct, frozen=True, kw_only=True):
    """How entries get to the other node."""

    state: str
    """alone, follows, filling, in-step, behind"""
    outstanding: int = 0
    waiting: int = 0
    counts: dict[str, int] = {}


class Sessions(Struct, frozen=True, kw_only=True):
    """Persistence, as this node's worker told it last."""

    why: str
    """Why the kernel's table isn't as the rules want it; empty: it is."""
    rules: list[PersistenceRule]
    servers: list[PersistenceServer]
    replication: Replication
    counts: dict[str, int]
    window: Histogram
    """From an entry's making until it was in the other node's kernel."""
