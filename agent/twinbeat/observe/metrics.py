# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics: one collector that reads `Status` and `Counters` when it is scraped.

A scrape costs the fast path nothing. What stands is a gauge; what happens is a counter, a moment or
a histogram, as a failover is over long before the next scrape. Every metric has the label `pair`.

NetScaler users: hacurmasterstate is twinbeat_state, hacurstate is twinbeat_health and
twinbeat_peer_state, hatotpktrx and hatotpkttx are twinbeat_heartbeats_received_total and
_sent_total, haErrMasterDispute is twinbeat_dual_primary_total.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.metrics_core import Metric

from twinbeat.api.schema import Counters, Status
from twinbeat.observe import exposition as written
from twinbeat.observe import happenings, network, node, others
from twinbeat.observe.connections import connections
from twinbeat.observe.persistence import persistence
from twinbeat.observe.sync import shared_configuration
from twinbeat.observe.weblog import log_records


class TwinbeatCollector:
    """Reads the agent when it is asked, and keeps nothing."""

    def __init__(self, status: Callable[[], Status], counters: Callable[[], Counters]) -> None:
        self._status = status
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """Every family, whole, from one status and one set of counters."""
        status, counters = self._status(), self._counters()
        yield from node.node(status)
        yield from node.peer(status)
        yield from network.links(status, counters)
        yield from network.addresses(status, counters)
        yield from node.monitors(status, counters)
        yield from others.last_resorts(status, counters)
        yield from others.third_parties(status, counters)
        yield from network.routes(status, counters)
        yield from others.hooks(status)
        yield from shared_configuration(status, counters)
        yield from connections(status)
        yield from log_records(status, counters)
        yield from persistence(status, counters)
        yield from happenings.happenings(status, counters)
        yield from happenings.histograms(status, counters)

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance, so that registering reads no status."""
        return []


def exposition(
    status: Callable[[], Status], counters: Callable[[], Counters]
) -> Callable[[], bytes]:
    """A function that gives the exposition text."""
    collector = TwinbeatCollector(status, counters)
    return lambda: written.text(collector.collect())


METRIC_NAMES: Final = frozenset(
    {
        "twinbeat_admin",
        "twinbeat_announcements_sent_total",
        "twinbeat_announcements_unsent_total",
        "twinbeat_build_info",
        "twinbeat_claims_refused_total",
        "twinbeat_config_generation",
        "twinbeat_config_mismatch",
        "twinbeat_connections_events_total",
        "twinbeat_connections_fill_seconds",
        "twinbeat_connections_flows",
        "twinbeat_connections_flows_limit",
        "twinbeat_connections_heard_age_seconds",
        "twinbeat_connections_last_synced_timestamp_seconds",
        "twinbeat_connections_state",
        "twinbeat_connections_strays_dropped",
        "twinbeat_connections_synced",
        "twinbeat_connections_tracked",
        "twinbeat_connections_unconfirmed",
        "twinbeat_control_frames_total",
        "twinbeat_dual_primary_total",
        "twinbeat_effect_failures_total",
        "twinbeat_events_held_total",
        "twinbeat_events_lost_total",
        "twinbeat_failover_duration_seconds",
        "twinbeat_fence_ready",
        "twinbeat_fencings_total",
        "twinbeat_files_bytes",
        "twinbeat_files_conflicts",
        "twinbeat_files_entries",
        "twinbeat_files_events_total",
        "twinbeat_files_failed",
        "twinbeat_files_state",
        "twinbeat_fit",
        "twinbeat_flip_window_ends_timestamp_seconds",
        "twinbeat_flips",
        "twinbeat_flips_end_with_next_failure",
        "twinbeat_flips_since_timestamp_seconds",
        "twinbeat_gate_open",
        "twinbeat_gate_packets_total",
        "twinbeat_health",
        "twinbeat_health_relapses",
        "twinbeat_health_score",
        "twinbeat_heartbeat_age_seconds",
        "twinbeat_heartbeat_interarrival_seconds",
        "twinbeat_heartbeat_send_lateness_seconds",
        "twinbeat_heartbeats_missed_total",
        "twinbeat_heartbeats_received_total",
        "twinbeat_heartbeats_rejected_total",
        "twinbeat_heartbeats_sent_total",
        "twinbeat_hook_last_duration_seconds",
        "twinbeat_hook_last_exit_code",
        "twinbeat_hook_runs_total",
        "twinbeat_hook_skipped_total",
        "twinbeat_isolated",
        "twinbeat_kernel_events_total",
        "twinbeat_last_fencing_duration_seconds",
        "twinbeat_last_fencing_timestamp_seconds",
        "twinbeat_last_transition_timestamp_seconds",
        "twinbeat_late_ticks_total",
        "twinbeat_link_alarms_total",
        "twinbeat_link_loss_ratio",
        "twinbeat_link_silent",
        "twinbeat_link_up",
        "twinbeat_log_lines_lost_total",
        "twinbeat_loop_lag_seconds",
        "twinbeat_monitor_failures_total",
        "twinbeat_monitor_timeouts_total",
        "twinbeat_monitor_up",
        "twinbeat_neighbour_changes_total",
        "twinbeat_neighbours",
        "twinbeat_node_info",
        "twinbeat_node_state",
        "twinbeat_pause_expires_timestamp_seconds",
        "twinbeat_paused",
        "twinbeat_peer_busy_total",
        "twinbeat_peer_fenced",
        "twinbeat_peer_fit",
        "twinbeat_peer_health_score",
        "twinbeat_peer_state",
        "twinbeat_persistence_changes_total",
        "twinbeat_persistence_entries",
        "twinbeat_persistence_events_total",
        "twinbeat_persistence_in_kernel",
        "twinbeat_persistence_limit",
        "twinbeat_persistence_outstanding",
        "twinbeat_persistence_replication_state",
        "twinbeat_persistence_replication_total",
        "twinbeat_persistence_server_entries",
        "twinbeat_persistence_server_up",
        "twinbeat_persistence_window_seconds",
        "twinbeat_primary",
        "twinbeat_resident_memory_bytes",
        "twinbeat_rival_frames_total",
        "twinbeat_rivals",
        "twinbeat_round_trip_seconds",
        "twinbeat_route_changes_total",
        "twinbeat_route_problems",
        "twinbeat_routes",
        "twinbeat_routes_replaced",
        "twinbeat_send_errors_total",
        "twinbeat_silence_seconds",
        "twinbeat_state",
        "twinbeat_stay_primary_conflict",
        "twinbeat_sticky_primary",
        "twinbeat_suspicions_total",
        "twinbeat_sync_certificate_expires_timestamp_seconds",
        "twinbeat_sync_connection_total",
        "twinbeat_sync_failed_items",
        "twinbeat_sync_failures_total",
        "twinbeat_sync_in_step",
        "twinbeat_sync_last_success_timestamp_seconds",
        "twinbeat_sync_phase_seconds",
        "twinbeat_sync_requests_total",
        "twinbeat_sync_state",
        "twinbeat_sync_waiting",
        "twinbeat_term",
        "twinbeat_timer_kept_seconds",
        "twinbeat_timer_seconds",
        "twinbeat_timers_override",
        "twinbeat_timers_refused",
        "twinbeat_transitions_total",
        "twinbeat_vips",
        "twinbeat_watchdog_armed",
        "twinbeat_watchdog_ping_failures_total",
        "twinbeat_watchdog_timeout_seconds",
        "twinbeat_weblog_client_connected",
        "twinbeat_weblog_client_lag_records",
        "twinbeat_weblog_epoch",
        "twinbeat_weblog_events_total",
        "twinbeat_weblog_flush_seconds_total",
        "twinbeat_weblog_journal_bytes",
        "twinbeat_weblog_journal_max_bytes",
        "twinbeat_weblog_listening",
        "twinbeat_weblog_replicating",
        "twinbeat_weblog_replication_seconds",
        "twinbeat_weblog_sequence",
        "twinbeat_weblog_source_behind_bytes",
        "twinbeat_weblog_source_records",
        "twinbeat_weblog_source_up",
        "twinbeat_weblog_state",
        "twinbeat_weblog_unreplicated_records",
        "twinbeat_witness_absent",
        "twinbeat_witness_confirmed_age_seconds",
        "twinbeat_witness_errors_total",
        "twinbeat_witness_request_duration_seconds",
        "twinbeat_witness_requests_total",
        "twinbeat_witness_up",
        "twinbeat_worker_events_total",
        "twinbeat_worker_up",
    }
)
"""Every name that can be exposed, for dashboards, alert rules and their test. Histograms appear by
their base name; their series end in _bucket, _sum and _count."""
