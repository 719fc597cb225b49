# SPDX-License-Identifier: Apache-2.0
"""What a running client says of itself: the status for `show`, and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)

from twinbeat import __version__

PREFIX: Final = "twinbeat_weblog_client"


class StreamStatus(Struct, frozen=True, kw_only=True):
    """How far one stream has been written."""

    node: str
    epoch: int
    giver: str
    """The node that it is pulled from; empty = from nobody at the moment."""
    written: int
    """Records: the sequence that comes next."""
    lag: int
    """Records that nodes have and that are not written."""


class NodeStatus(Struct, frozen=True, kw_only=True):
    """One entry of log.conf."""

    address: str
    node: str = ""
    """Its name; empty = it has never answered."""
    pair: str = ""
    connected: bool = False
    since_s: float = 0.0
    """Seconds in this state."""
    sentence: str = ""
    """Why it isn't connected."""
    records: int = 0
    """Taken from this connection and those before it, without those that had come before."""
    lag: int = 0
    """Of the records that it collected: those that nodes have and that are not written."""
    lag_s: float = 0.0
    """Age of the newest record written, where there is a lag."""
    streams: tuple[StreamStatus, ...] = ()


class ClientStatus(Struct, frozen=True, kw_only=True):
    """The whole client."""

    schema: int = 1
    version: str = __version__
    running_s: float = 0.0
    sentence: str = ""
    trouble: str = ""
    """Why nothing can be written; empty = it can."""
    nodes: tuple[NodeStatus, ...] = ()
    written: dict[str, int] = {}
    """Records by filter, since the start."""
    off: dict[str, int] = {}
    excluded: dict[str, int] = {}
    unmatched: int = 0
    unread: int = 0
    bytes: int = 0
    duplicates: int = 0
    lost: dict[str, int] = {}
    """Records that can't be had any more, by reason; `acknowledged` are those that were given to
    all clients before this one came."""
    refused: dict[str, int] = {}
    """Answers of nodes that were not as they may be, by reason."""
    failures: dict[str, int] = {}
    """Connections that failed or ended, by reason."""
    commits: int = 0
    commit_failures: int = 0
    commit_s: float = 0.0
    """Time that writing took, all commits together."""
    pending_bytes: int = 0
    cut_bytes: int = 0
    """Cut off files, as they were written and had not been counted."""
    short_files: int = 0
    """Files that had lost what had been on the disk."""
    crowded: int = 0
    """Records whose file would have been one too many."""


def families(status: ClientStatus) -> Iterator[Metric]:
    """What Prometheus is told."""
    info = InfoMetricFamily(PREFIX, "Version of the log client.", labels=())
    info.add_metric([], {"version": status.version})
    yield info
    named = [each for each in status.nodes if each.node]
    labels = ["pair", "node", "address"]
    yield _gauges(
        "node_connected",
        "1 while a node can be pulled from.",
        labels,
        (((each.pair, each.node, each.address), each.connected) for each in status.nodes),
    )
    yield _gauges(
        "lag_records",
        "Records that this node collected, that nodes have, and that are not written.",
        labels,
        (((each.pair, each.node, each.address), each.lag) for each in named),
    )
    yield _gauges(
        "lag_seconds",
        "Age of the newest record of this node that was written, 0 without a lag.",
        labels,
        (((each.pair, each.node, each.address), each.lag_s) for each in named),
    )
    yield _counters(
        "records",
        "Records taken from this node, each counted once.",
        labels,
        (((each.pair, each.node, each.address), each.records) for each in named),
    )
    for name, text, label, values in (
        ("written", "Records written.", "filter", status.written),
        ("off", "Records taken by a filter that is OFF.", "filter", status.off),
        ("excluded", "Records left out by logExclude.", "filter", status.excluded),
        ("lost", "Records that no node can give any more.", "reason", status.lost),
        ("refused", "Answers of nodes that were not as they may be.", "reason", status.refused),
        ("failures", "Connections that failed or ended.", "reason", status.failures),
    ):
        told = (((key,), value) for key, value in sorted(values.items()))
        yield _counters(name, text, [label], told)
    for name, text, value in (
        ("unmatched", "Records that no filter took.", status.unmatched),
        (
            "unread",
            "Records that could not be read, written as they came.",
            status.unread,
        ),
        ("written_bytes", "Bytes written to files.", status.bytes),
        ("duplicates", "Records that came once more, and were dropped.", status.duplicates),
        ("commits", "Times that files and cursors were made durable.", status.commits),
        (
            "commit_failures",
            "Times that this failed.",
            status.commit_failures,
        ),
        ("commit_seconds", "Time that writing took.", status.commit_s),
        ("cut_bytes", "Bytes cut off files, as they had not been counted.", status.cut_bytes),
        ("short_files", "Files that had lost what had been on the disk.", status.short_files),
        ("crowded", "Records whose file would have been one too many.", status.crowded),
    ):
        yield _counters(name, text, [], [((), value)])
    for name, text, value in (
        ("trouble", "1 while nothing can be written.", bool(status.trouble)),
        ("pending_bytes", "Bytes pulled and not written yet.", status.pending_bytes),
    ):
        yield _gauges(name, text, [], [((), value)])


Values = Iterable[tuple[tuple[str, ...], float]]


def _gauges(name: str, text: str, labels: list[str], values: Values) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for keys, value in values:
        family.add_metric(keys, value)
    return family


def _counters(name: str, text: str, labels: list[str], values: Values) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for keys, value in values:
        family.add_metric(keys, value)
    return family
