# SPDX-License-Identifier: Apache-2.0
"""How persistence stands, for people and metrics. Knows nothing of how it is kept."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

RULES_MOST: Final = 64
"""Rules, and servers of pools, that the agent hears of."""
ENTRIES_MOST: Final = 1000
"""Entries in one answer."""

Name = Annotated[str, Meta(max_length=64)]
Sentence = Annotated[str, Meta(max_length=1024)]


class RuleStatus(Struct, frozen=True, kw_only=True):
    """One persistence rule and its entries."""

    name: Name
    kind: Name
    pool: Name = ""
    timeout_s: int = 0
    entries: int = 0
    limit: int = 0
    high: int = 0
    """Most entries at a time since the worker started."""
    counts: dict[str, int] = {}
    """created, refreshed, moved; and why entries went: expired, deleted, evicted, stale, dropped"""


class ServerStatus(Struct, frozen=True, kw_only=True):
    """One server of a pool."""

    pool: Name
    address: Name
    state: Name
    """up, down, or disabled"""
    sentence: Sentence = ""
    entries: int = 0
    """Clients that are bound to it."""
    failures: int = 0


class Replication(Struct, frozen=True, kw_only=True):
    """How entries get to the other node, or from it."""

    state: Name = "alone"
    """alone (nobody to send to), follows (the other node sends), filling, in-step, behind"""
    outstanding: int = 0
    """Entries that were sent, and of which the other node has said nothing yet."""
    waiting: int = 0
    filled: tuple[int, int] = (0, 0)
    """Entries of the snapshot under way that were sent, and that there were."""
    filled_ns: int = 0
    """How long the last snapshot took."""
    counts: dict[str, int] = {}
    """What was sent and received since the worker started."""


class SessionsStatus(Struct, frozen=True, kw_only=True):
    """All of it."""

    schema: int = 1
    why: Sentence = ""
    """Why the kernel's table isn't as it should be."""
    primary: bool = False
    rules: Annotated[tuple[RuleStatus, ...], Meta(max_length=RULES_MOST)] = ()
    servers: Annotated[tuple[ServerStatus, ...], Meta(max_length=RULES_MOST)] = ()
    replication: Replication = Replication()
    counts: dict[str, int] = {}
    """Of the packet path: learned, foreign, overflow, repaired, restored, written, removed,
    refused, retried, rebound, remade, full, failed"""
    window: list[int] = []
    """How long entries took into the other kernel, by powers of two of a microsecond."""
    window_sum_ns: int = 0


class EntryView(Struct, frozen=True, kw_only=True):
    """One entry."""

    rule: str
    client: str
    server: str
    remaining_ms: int


class Entries(Struct, frozen=True, kw_only=True):
    """Entries, of one client or the first of all."""

    schema: int = 1
    entries: tuple[EntryView, ...] = ()
    more: bool = False
    """There are others."""


def quantile_ns(counts: list[int], share: float) -> int:
    """Below which length this share of what was counted lies, evenly spread within a bucket as
    Prometheus takes it to be; 0 where nothing was counted."""
    wanted, sofar = share * sum(counts), 0
    for bucket, count in enumerate(counts):
        if count and sofar + count >= wanted:
            upper = 1000 << bucket
            lower = upper // 2 if bucket else 0
            return lower + round((upper - lower) * (wanted - sofar) / count)
        sofar += count
    return 0
