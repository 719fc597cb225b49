# SPDX-License-Identifier: Apache-2.0
"""Metrics of the shared configuration: whether both nodes have the same, and what it takes."""

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.metrics_core import Metric

from twinbeat.api.schema import Counters, Status, SyncFiles
from twinbeat.observe.family import Family

STATES: Final = (
    "away",
    "disabled",
    "enabled",
    "failed",
    "idle",
    "in-progress",
    "lineage-conflict",
    "partial-success",
    "success",
    "unreachable",
)
"""Of synchronization, in the words of `twinbeat show sync`; away = no worker tells."""
REQUESTS: Final = ("alone", "done", "partly", "refused", "superseded", "undecided")
FILES_STATES: Final = ("partly", "same", "unreadable", "waiting", "working")
"""Of a list of files, in the words of `twinbeat show files`."""
FAILURES: Final = ("agent", "store")
WORKER_EVENTS: Final = ("apply", "check", "connected", "failed", "hung_up", "refused")


def shared_configuration(status: Status, counters: Counters) -> Iterator[Metric]:
    """All of it; little where no document is in force."""
    family, sync = Family(status), status.sync
    yield from family.gauge(
        "twinbeat_config_generation",
        "Generation of the shared document in force, 0 = the file says everything.",
        status.configuration.generation,
    )
    yield from family.gauge("twinbeat_worker_up", "1 while the worker is there.", sync is not None)
    yield from family.states(
        "twinbeat_sync_state",
        "How synchronization of the shared configuration stands.",
        STATES,
        sync.state if sync is not None else "away",
    )
    if sync is not None and sync.state != "idle":
        yield from family.gauge(
            "twinbeat_sync_in_step",
            "1 while both nodes have the same document in force.",
            sync.in_step,
        )
        yield from family.gauge(
            "twinbeat_sync_waiting", "Requests that wait for their outcome.", sync.waiting
        )
        yield from family.gauge(
            "twinbeat_sync_failed_items",
            "Items of the shared configuration that could not be carried out.",
            len(sync.failures),
        )
        yield from family.gauges(
            "twinbeat_sync_certificate_expires_timestamp_seconds",
            "When the certificates of the workers' connection are over.",
            "whose",
            [("own", sync.own_ends_s or None), ("peer", sync.peer_ends_s or None)],
        )
        yield from family.gauge(
            "twinbeat_sync_last_success_timestamp_seconds",
            "When both nodes came to have this document in force.",
            sync.synced_s or None,
        )
        yield from _files(family, sync.files)
    yield from family.counters(
        "twinbeat_files_events",
        "What happened to the lists of files since the worker started.",
        ["event"],
        [([event], count) for event, count in sorted(counters.sync_files.items())],
    )
    yield from family.counters(
        "twinbeat_sync_requests",
        "Requests to change the shared configuration that were made here, by their end.",
        ["state"],
        [([state], counters.sync_requests.get(state, 0)) for state in REQUESTS],
    )
    yield from family.counters(
        "twinbeat_sync_connection",
        "What happened to the connection of the workers.",
        ["event", "reason"],
        [
            ([event, reason], count)
            for name, count in sorted(counters.sync_connection.items())
            for event, _, reason in [name.partition(" ")]
        ],
    )
    yield from family.histograms(
        "twinbeat_sync_phase_seconds",
        "How long changes of the shared configuration waited on this node for what.",
        "phase",
        sorted(counters.sync_phases.items()),
    )
    yield from family.counters(
        "twinbeat_sync_failures",
        "Times that the store or the agent refused what the worker had to do.",
        ["kind"],
        [([kind], counters.sync_failures.get(kind, 0)) for kind in FAILURES],
    )
    yield from family.counters(
        "twinbeat_worker_events",
        "What the agent saw of the worker.",
        ["event"],
        [([event], counters.worker.get(event, 0)) for event in WORKER_EVENTS],
    )


def _files(family: Family, lists: Sequence[SyncFiles]) -> Iterator[Metric]:
    """How each list of files stands, as this node's worker told it last."""
    yield from family.table(
        "twinbeat_files_state",
        "1 for the state that a list of files is in, 0 for the others.",
        ["list", "state"],
        [([each.name, state], state == each.state) for each in lists for state in FILES_STATES],
    )
    for what, text in (
        ("entries", "Files, directories and links of a list on this node."),
        ("bytes", "Bytes of a list on this node."),
        ("failed", "Items of a list that can't be kept alike."),
        ("conflicts", "Paths that both nodes had changed, since the primary's worker started."),
    ):
        yield from family.gauges(
            f"twinbeat_files_{what}",
            text,
            "list",
            [(each.name, getattr(each, what)) for each in lists],
        )
