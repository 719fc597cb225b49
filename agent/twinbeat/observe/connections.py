# SPDX-License-Identifier: Apache-2.0
"""Metrics of the state of connections: whether both nodes have it, and what was lost."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import Metric

from twinbeat.api.schema import Status
from twinbeat.observe.family import Family

STATES: Final = ("alone", "failed", "filling", "off", "starting", "synced", "unheard", "untold")
"""In the words of `twinbeat show connections`; untold = no worker tells."""


def connections(status: Status) -> Iterator[Metric]:
    """All of it; the state alone where connections aren't kept."""
    family, kept = Family(status), status.connections
    state = kept.state if kept is not None else "untold"
    yield from family.states(
        "twinbeat_connections_state",
        "How the state of connections is kept on both nodes.",
        STATES,
        state,
    )
    if kept is None or kept.state == "off":
        return
    yield from family.gauge(
        "twinbeat_connections_synced",
        "1 while both nodes know the connections, so that they would outlast a takeover.",
        kept.state == "synced",
    )
    for name, text, value in (
        ("flows", "Connections in this node's kernel.", kept.flows),
        ("flows_limit", "Connections that this node's kernel has room for.", kept.flows_max),
        ("tracked", "Connections of which this node tells the other.", kept.tracked),
        ("unconfirmed", "Messages that the peer hasn't confirmed: the lag.", kept.unconfirmed),
    ):
        yield from family.gauge(f"twinbeat_connections_{name}", text, value)
    yield from family.gauge(
        "twinbeat_connections_heard_age_seconds",
        "Since the peer's conntrackd was heard last.",
        None if kept.heard_ns is None else kept.heard_ns / 1e9,
    )
    yield from family.gauge(
        "twinbeat_connections_fill_seconds",
        "How long it took to take over all of the primary's connections the last time.",
        None if kept.filled_ns is None else kept.filled_ns / 1e9,
    )
    yield from family.gauge(
        "twinbeat_connections_last_synced_timestamp_seconds",
        "When both nodes came to know the connections.",
        kept.synced_s or None,
    )
    yield from family.gauge(
        "twinbeat_connections_strays_dropped",
        "1 while packets of unknown connections are dropped and not answered.",
        kept.strays_dropped,
    )
    yield from family.counters(
        "twinbeat_connections_events",
        "What happened to the state of connections since the worker started.",
        ["event"],
        [([event], count) for event, count in sorted(kept.counts.items())],
    )
