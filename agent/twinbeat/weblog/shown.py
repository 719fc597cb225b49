# SPDX-License-Identifier: Apache-2.0
"""How collecting, replication and log clients stand, for people, status and metrics."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from twinbeat.weblog.messages import Stream


class SourceStatus(Struct, frozen=True, kw_only=True):
    """How a source stands."""

    name: str
    kind: str
    where: str
    records: int
    """Collected since the start of the worker."""
    behind: int
    """Bytes of the file that are not taken yet."""
    why: str
    """Why nothing can be collected: a sentence; empty = it can."""
    counts: dict[str, int]


class Lag(Struct, frozen=True, kw_only=True):
    """How far a client is in a stream."""

    node: str
    epoch: int
    acked: int
    """Sequence of the first record that it hasn't acknowledged."""
    lag: int
    """Records that are durable here and not acknowledged."""


class ClientStatus(Struct, frozen=True, kw_only=True):
    """A log client that is allowed."""

    name: str
    fingerprint: str
    known: bool = False
    """It has introduced itself to this node."""
    connected: int = 0
    address: str = ""
    since_s: float = 0.0
    records: int = 0
    """Given over the connections that stand."""
    lag: int = 0
    """Records that are durable here and not acknowledged since the start of the worker."""
    streams: tuple[Lag, ...] = ()


class Stranger(Struct, frozen=True, kw_only=True):
    """Somebody who asked and is not allowed."""

    fingerprint: str
    name: str
    """By the certificate's own account."""
    address: str
    asked_s: float
    """Unix time of the last time."""


FLUSH_US: Final = "flush_us"
"""Among the counts of a journal: microseconds that its disk took for all flushes."""


class Replication(Struct, frozen=True, kw_only=True):
    """How records get to both nodes."""

    state: str = "away"
    """pulling or away: whether this node pulls from its peer."""
    why: str = ""
    records: int = 0
    """Own records of which it is known since the start that they are on both nodes."""
    in_time: int = 0
    """Of these, those that took at most 100 ms from their arrival to both nodes' disks."""
    waiting: int = 0
    """Own records that are on this node only."""
    delays: tuple[int, ...] = ()
    """Number n: records that took less than 2^n microseconds, and not less than the one before."""
    delay_ns: int = 0
    """Of all of them together."""


class WeblogView(Struct, frozen=True, kw_only=True):
    """GET /v1/weblog: `twinbeat show weblog`."""

    schema: int = 1
    node: str = ""
    peer: str = ""
    state: str = "off"
    """off (nothing is configured), collecting, refusing (the journal takes nothing), failed."""
    why: str = ""
    port: int = 0
    """That clients are waited for at; 0 = none, `listening` says why."""
    listening: str = ""
    fingerprint: str = ""
    """SHA-256 of the certificate that this node shows."""
    epoch: int = 0
    size: int = 0
    """Bytes of all journals on this node's disk."""
    size_max: int = 0
    """Bytes that each may have."""
    streams: tuple[Stream, ...] = ()
    sources: tuple[SourceStatus, ...] = ()
    clients: tuple[ClientStatus, ...] = ()
    strangers: tuple[Stranger, ...] = ()
    replication: Replication = Replication()
    counts: dict[str, int] = {}
    """What happened since the start, by `what which`."""
