# SPDX-License-Identifier: Apache-2.0
"""Metrics of persistence: entries, servers, and how entries get to the other node."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import Metric

from twinbeat.api.schema import Counters, Status
from twinbeat.observe.family import Family

STATES: Final = ("alone", "behind", "filling", "follows", "in-step")
"""Of replication, in the words of `twinbeat show sessions`."""
NOUGHTS: Final = {"evicted": 0}
"""Counted from the first on: a series that begins with its first event hides that from alerts."""


def persistence(status: Status, counters: Counters) -> Iterator[Metric]:
    """All of it; nothing where there is no rule."""
    family, told = Family(status), counters.sessions
    if told is None or not told.rules:
        return
    rules, servers = told.rules, told.servers
    for what, text in (
        ("entries", "Entries of a persistence rule on this node."),
        ("limit", "Entries that a persistence rule may have."),
    ):
        yield from family.gauges(
            f"twinbeat_persistence_{what}",
            text,
            "rule",
            [(rule.name, getattr(rule, what)) for rule in rules],
        )
    yield from family.counters(
        "twinbeat_persistence_changes",
        "What became of entries, or why they went, since the worker started.",
        ["rule", "change"],
        [
            ([rule.name, change], count)
            for rule in rules
            for change, count in sorted((NOUGHTS | rule.counts).items())
        ],
    )
    yield from family.table(
        "twinbeat_persistence_server_up",
        "1 while a server of a pool is used.",
        ["pool", "server"],
        [([each.pool, each.address], each.state == "up") for each in servers],
    )
    yield from family.table(
        "twinbeat_persistence_server_entries",
        "Clients that are bound to a server.",
        ["pool", "server"],
        [([each.pool, each.address], each.entries) for each in servers],
    )
    yield from family.gauge(
        "twinbeat_persistence_in_kernel",
        "1 while the kernel's table is as the rules want it.",
        not told.why,
    )
    yield from family.states(
        "twinbeat_persistence_replication_state",
        "How the other node stands as to entries.",
        STATES,
        told.replication.state,
    )
    yield from family.gauge(
        "twinbeat_persistence_outstanding",
        "Entries that were sent to the other node, which hasn't got them yet.",
        told.replication.outstanding + told.replication.waiting,
    )
    yield from family.counters(
        "twinbeat_persistence_replication",
        "What was sent to the other node and got from it, and why it was filled anew.",
        ["event"],
        [([event], count) for event, count in sorted(told.replication.counts.items())],
    )
    yield from family.counters(
        "twinbeat_persistence_events",
        "What the worker did for packets, and what it was refused or missed.",
        ["event"],
        [([event], count) for event, count in sorted(told.counts.items())],
    )
    yield from family.histograms(
        "twinbeat_persistence_window_seconds",
        "From an entry's making until it was in the other node's kernel: a death in between "
        "loses it.",
        "",
        [("", told.window)],
    )
