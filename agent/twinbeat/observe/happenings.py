# SPDX-License-Identifier: Apache-2.0
"""Metrics of what happened, how often, and how long it took."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import Metric

from twinbeat.api.schema import Counters, Status
from twinbeat.observe.family import Family

KERNEL_EVENTS: Final = (
    "fenced",
    "contested",
    "cleared",
    "expired",
    "adopted",
    "challenged",
    "snapshot_busy",
)
"""What the kernel programs did by themselves."""

HISTOGRAMS: Final = {
    "send_lateness": (
        "twinbeat_heartbeat_send_lateness_seconds",
        "How late own heartbeats were handed to the driver.",
    ),
    "round_trip": (
        "twinbeat_round_trip_seconds",
        "To the peer and back, without the time a frame lay there.",
    ),
    "silence": (
        "twinbeat_silence_seconds",
        "How long the peer had been silent when it was found dead.",
    ),
    "loop_lag": (
        "twinbeat_loop_lag_seconds",
        "How late the deciding loop ran what was due.",
    ),
    "witness_request": (
        "twinbeat_witness_request_duration_seconds",
        "How long the witness took for requests that it answered.",
    ),
}
"""Name in `Counters.histograms` -> metric and help. Others have no metric."""


SUSPICIONS: Final = ("cleared", "dead", "stalled", "withheld")
"""How one may end: each is there from the start, or the first of its kind would be no increase."""


def happenings(status: Status, counters: Counters) -> Iterator[Metric]:
    """What is counted as it happens, as it is over before the next scrape."""
    family = Family(status)
    yield from family.counters(
        "twinbeat_transitions",
        "Changes of role.",
        ["from", "to", "reason"],
        [
            ([entry.from_role.value, entry.to_role.value, entry.reason], entry.count)
            for entry in counters.transitions
        ],
    )
    yield from family.counters(
        "twinbeat_claims_refused",
        "Claims refused or abandoned.",
        ["reason"],
        [([reason], count) for reason, count in sorted(counters.claims_refused.items())],
    )
    yield from family.counters(
        "twinbeat_suspicions",
        "Suspicions by how they ended.",
        ["outcome"],
        [([outcome], counters.suspicions.get(outcome, 0)) for outcome in SUSPICIONS],
    )
    yield from family.counter(
        "twinbeat_dual_primary",
        "How often another open gate was heard while this one was open.",
        counters.dual_primary,
    )
    yield from family.counters(
        "twinbeat_kernel_events",
        "What the kernel programs did by themselves.",
        ["event"],
        [([event], counters.reasons.get(event, 0)) for event in KERNEL_EVENTS],
    )
    yield from family.counters(
        "twinbeat_effect_failures",
        "Effects that the host refused.",
        ["effect"],
        [([effect], count) for effect, count in sorted(counters.effect_failures.items())],
    )
    yield from family.counter(
        "twinbeat_late_ticks", "Rounds of the engine that began late.", counters.late_ticks
    )
    yield from family.counter(
        "twinbeat_events_lost", "Events that found no room.", counters.events_lost
    )
    yield from family.counter(
        "twinbeat_events_held",
        "Events that wake the agent, and waited because too many came.",
        counters.events_held,
    )
    yield from family.counter(
        "twinbeat_log_lines_lost", "Records that the log had no room for.", counters.log_lines_lost
    )
    yield from family.counter(
        "twinbeat_peer_busy",
        "Rounds that went by the last snapshot of the peer, as the new one was being written.",
        counters.peer_busy,
    )


def histograms(status: Status, counters: Counters) -> Iterator[Metric]:
    """How long things took."""
    family = Family(status)
    yield from family.histograms(
        "twinbeat_heartbeat_interarrival_seconds",
        "Time between two heartbeats, stamped by the kernel; the sum is estimated.",
        "link",
        [(link.name, link.gaps) for link in counters.links if link.gaps is not None],
    )
    yield from family.histograms(
        "twinbeat_failover_duration_seconds",
        "Takeovers of this node by phase; total is from the last heartbeat to the announcement.",
        "phase",
        sorted(counters.phases.items()),
    )
    for key, (name, text) in HISTOGRAMS.items():
        histogram = counters.histograms.get(key)
        if histogram is not None:
            yield from family.histograms(name, text, "", [("", histogram)])
