# SPDX-License-Identifier: Apache-2.0
"""Metrics of log records: collected, kept, replicated, fetched, and what was lost of them."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import Metric

from twinbeat.api.schema import Counters, Status
from twinbeat.observe.family import Family

STATES: Final = ("collecting", "failed", "off", "refusing")
NOUGHTS: Final = {
    **{f"own-dropped {reason}": 0 for reason in ("full", "age")},
    **{f"source {reason}": 0 for reason in ("refused", "missed", "missing", "cut")},
}
"""Losses, from before the first: a series that begins with it hides it from alerts."""
FLUSH_US: Final = "flush_us"
"""`twinbeat.weblog.shown` has it, too."""
STAGES: Final = ("oldest", "received", "durable", "replicated")


def log_records(status: Status, counters: Counters) -> Iterator[Metric]:
    """All of it; little where nothing is configured."""
    family = Family(status)
    logs = status.sync.weblog if status.sync is not None else None
    yield from family.states(
        "twinbeat_weblog_state",
        "How collecting of log records stands.",
        STATES,
        logs.state if logs is not None else "off",
    )
    yield from family.counters(
        "twinbeat_weblog_events",
        "What happened to log records since the worker started.",
        ["event", "reason"],
        [
            ([event, reason], count)
            for name, count in sorted(((NOUGHTS if logs else {}) | counters.weblog).items())
            for event, _, reason in [name.partition(" ")]
            if reason != FLUSH_US
        ],
    )
    yield from family.counters(
        "twinbeat_weblog_flush_seconds",
        "Time that flushes of log records took, by journal (own or replica): each record waits for "
        "one of each node's disk.",
        ["journal"],
        [
            ([journal], count / 1e6)
            for name, count in sorted(counters.weblog.items())
            for journal, _, what in [name.partition(" ")]
            if what == FLUSH_US
        ],
    )
    delays = counters.weblog_replication
    yield from family.histograms(
        "twinbeat_weblog_replication_seconds",
        "From the arrival of this node's log records to both nodes' disks.",
        "",
        [("", delays)] if delays is not None else [],
    )
    if logs is None:
        return
    for name, text, value in (
        ("listening", "1 while log clients can reach this node.", logs.listening),
        ("replicating", "1 while the peer's log records are being replicated.", logs.pulling),
        ("unreplicated_records", "Log records that are on this node only.", logs.waiting),
        ("journal_bytes", "Bytes of log records on this node's disk.", logs.size),
        ("journal_max_bytes", "Bytes that the own journal and a replica may have.", logs.size_max),
    ):
        yield from family.gauge(f"twinbeat_weblog_{name}", text, value)
    yield from family.table(
        "twinbeat_weblog_sequence",
        "Watermarks of the newest epoch of each node's records: the sequence that follows.",
        ["node", "stage"],
        [([each.node, stage], getattr(each, stage)) for each in logs.streams for stage in STAGES],
    )
    yield from family.gauges(
        "twinbeat_weblog_epoch",
        "The newest epoch of each node's records.",
        "node",
        [(each.node, each.epoch) for each in logs.streams],
    )
    for name, text in (
        ("records", "Log records of a source that were collected since the worker started."),
        ("behind", "Bytes of a source's file that are not taken yet."),
    ):
        yield from family.gauges(
            f"twinbeat_weblog_source_{name}" + ("_bytes" if name == "behind" else ""),
            text,
            "source",
            [(each.name, getattr(each, name)) for each in logs.sources],
        )
    yield from family.gauges(
        "twinbeat_weblog_source_up",
        "1 while records of a source can be collected.",
        "source",
        [(each.name, not each.why) for each in logs.sources],
    )
    yield from family.gauges(
        "twinbeat_weblog_client_connected",
        "1 while a log client is connected.",
        "client",
        [(each.name, each.connected) for each in logs.clients],
    )
    yield from family.gauges(
        "twinbeat_weblog_client_lag_records",
        "Log records on this node that a client has not acknowledged.",
        "client",
        [(each.name, each.lag) for each in logs.clients],
    )
