# SPDX-License-Identifier: Apache-2.0
"""Metrics: what a scrape shows of a status and of counters, and that no name is unknown."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from twinbeat.api import schema
from twinbeat.observe.exposition import text
from twinbeat.observe.family import bucket_bounds, cumulative
from twinbeat.observe.happenings import KERNEL_EVENTS
from twinbeat.observe.metrics import METRIC_NAMES, TwinbeatCollector, exposition
from twinbeat.observe.network import GATE_VERDICTS
from twinbeat.observe.others import WITNESS_ERRORS
from twinbeat.observe.sync import FILES_STATES
from unit.memory_agent import (
    counters,
    failing_files,
    fence,
    fencing,
    full,
    full_counters,
    gate_of,
    histogram,
    isolation,
    node,
    peer,
    status,
    syncing,
    watchdog,
    witness,
)

ROOT = Path(__file__).parents[2]


def scrape(
    state: schema.Status | None = None, counted: schema.Counters | None = None
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels, the pair's label left out."""
    shown = exposition(lambda: state or full(), lambda: counted or counters())().decode()
    samples = {}
    for family in text_string_to_metric_families(shown):
        for sample in family.samples:
            assert sample.labels["pair"] == "7"
            labels = frozenset(item for item in sample.labels.items() if item[0] != "pair")
            assert (sample.name, labels) not in samples
            samples[sample.name, labels] = sample.value
    return samples


def value(samples: dict[Any, float], name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_log_records_are_shown_with_their_marks_and_losses() -> None:
    samples = scrape()
    stages = {"oldest": 1, "received": 20, "durable": 19, "replicated": 17}
    for stage, mark in stages.items():
        assert value(samples, "twinbeat_weblog_sequence", node="b", stage=stage) == mark
    dropped = {"event": "own-dropped", "reason": "full"}
    assert value(samples, "twinbeat_weblog_events_total", **dropped) == 4
    assert value(samples, "twinbeat_weblog_flush_seconds_total", journal="own") == 2.5
    named = {label for name, labels in samples if "weblog_events" in name for label in labels}
    assert ("reason", "flush_us") not in named
    # What an alert asks for is there before it happens.
    missed = {"event": "source", "reason": "missed"}
    assert value(samples, "twinbeat_weblog_events_total", **missed) == 0
    evicted = {"rule": "http", "change": "evicted"}
    assert value(samples, "twinbeat_persistence_changes_total", **evicted) == 0
    assert value(samples, "twinbeat_weblog_replication_seconds_count") == 17
    assert value(samples, "twinbeat_weblog_client_lag_records", client="logs1") == 5
    assert value(samples, "twinbeat_weblog_source_up", source="web") == 1
    off = scrape(status(sync=syncing()))
    state = {"twinbeat_weblog_state": "off"}
    assert value(off, "twinbeat_weblog_state", **state) == 1
    assert not [name for name, _ in off if name.startswith("twinbeat_weblog_source")]


def base(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


def test_every_name_is_declared_and_every_declared_one_is_exposed() -> None:
    assert {base(name) for name, _ in scrape(counted=full_counters())} == METRIC_NAMES


def test_the_format_is_that_of_the_reference_client() -> None:
    class Source(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from TwinbeatCollector(full, counters).collect()
            odd = GaugeMetricFamily("odd", 'a \\ and\na "line"', labels=["b", "a"])
            odd.add_metric(['"\\\n', ""], float("inf"))
            yield odd

    assert text(Source().collect()) == generate_latest(Source())


def test_monitors_that_hold_that_failed_and_that_rest() -> None:
    samples = scrape(status(node=node(state=schema.NodeState.PARTIAL_FAIL)))
    assert value(samples, "twinbeat_monitor_up", monitor="lan0", kind="interface") == 1
    assert value(samples, "twinbeat_monitor_up", monitor="disk", kind="script") == 0
    assert not [key for key in samples if ("monitor", "uplink") in key[1]], "idle is no failure"
    labels = {"monitor": "disk", "kind": "script"}
    assert value(samples, "twinbeat_monitor_failures_total", **labels) == 4
    assert value(samples, "twinbeat_monitor_timeouts_total", **labels) == 1
    states = {
        next(iter(labels))[1]: sample
        for (name, labels), sample in samples.items()
        if name == "twinbeat_node_state"
    }
    assert [state for state, holds in states.items() if holds] == ["partial_fail"]
    assert len(states) == len(schema.NodeState)


def test_what_decides_between_the_nodes_is_told_of_both() -> None:
    weak = node(health=900, components=[schema.Component(name="disk", healthy=False)])
    samples = scrape(status(node=weak, peer=peer(health=600)))
    assert value(samples, "twinbeat_health_score") == 900
    assert value(samples, "twinbeat_peer_health_score") == 600
    samples = scrape(status(peer=peer(watch=schema.Watch.DEAD, health=600)))
    assert not [name for name, _ in samples if name == "twinbeat_peer_health_score"]


def test_names_follow_the_conventions() -> None:
    for name in METRIC_NAMES:
        assert name.startswith("twinbeat_")
        assert not re.search(r"_(ms|us|ns|millis|micros)(_|$)", name)


def test_reasons_are_those_of_the_kernel() -> None:
    header = (ROOT / "ebpf/tb_abi.h").read_text()
    enum = header[header.index("enum tb_reason {") :].partition("};")[0]
    known = {name.lower() for name in re.findall(r"\bTB_R_([A-Z_0-9]+)", enum)}
    used = {
        *schema.REFUSED,
        *KERNEL_EVENTS,
        *(name for names in GATE_VERDICTS.values() for name in names),
    }
    accepted = {"hello", "probe", "answer", "control", "out_rewritten"}
    assert known
    assert used | accepted == known


@pytest.mark.parametrize(
    ("state", "primary"),
    [
        (status(), 1),
        (status(gate=gate_of(open=False)), 0),
        (status(node=node(role=schema.Role.SECONDARY)), 0),
    ],
)
def test_primary_means_serving(state: schema.Status, primary: int) -> None:
    assert value(scrape(state), "twinbeat_primary") == primary


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (peer(), "secondary"),
        (peer(watch=schema.Watch.SUSPECT), "secondary"),
        (peer(watch=schema.Watch.DEAD), "dead"),
        (peer(watch=schema.Watch.STALLED), "stalled"),
        (peer(watch=schema.Watch.UNKNOWN, role=None, age_ns=None), "unknown"),
    ],
)
def test_exactly_one_state_of_the_peer_holds(seen: schema.Peer, state: str) -> None:
    samples = scrape(status(peer=seen))
    holding = {
        dict(labels)["twinbeat_peer_state"]
        for (name, labels), number in samples.items()
        if name == "twinbeat_peer_state" and number == 1
    }
    assert holding == {state}


@pytest.mark.parametrize(
    ("state", "paused"),
    [
        (status(), 0),
        (status(pause=schema.Pause(reason="x", since_ns=0)), 1),
        (status(peer=peer(paused=True)), 1),
    ],
)
def test_paused_whichever_node_was_told(state: schema.Status, paused: int) -> None:
    assert value(scrape(state), "twinbeat_paused") == paused


def test_values_are_in_base_units() -> None:
    samples = scrape()
    assert value(samples, "twinbeat_timer_seconds", timer="dead") == 0.0006
    assert value(samples, "twinbeat_timer_seconds", timer="attest") == 0.5
    assert value(samples, "twinbeat_heartbeat_age_seconds", link="ha0") == 0.0001
    assert value(samples, "twinbeat_pause_expires_timestamp_seconds") == 1_701_000_060
    assert value(samples, "twinbeat_last_transition_timestamp_seconds") == pytest.approx(
        1_700_005_000.00105
    )
    assert value(samples, "twinbeat_silence_seconds_sum") == 0.000025


def test_when_flips_are_forgotten() -> None:
    since, ends = (
        "twinbeat_flips_since_timestamp_seconds",
        "twinbeat_flip_window_ends_timestamp_seconds",
    )
    reset = "twinbeat_flips_end_with_next_failure"
    state = status()
    boot_s = (state.now_ns + state.realtime_offset_ns) / 1e9
    samples = scrape(
        status(
            node=node(
                flips=1,
                flips_since_ns=state.now_ns - 2_000_000_000,
                flips_window_left_ns=3_000_000_000,
                flips_reset=schema.FlipsReset.RECOVERY,
            )
        )
    )
    assert value(samples, since) == pytest.approx(boot_s - 2)
    assert value(samples, ends) == pytest.approx(boot_s + 3)
    assert value(samples, reset) == 0
    held = scrape(status(node=node(flips=3, flips_reset=schema.FlipsReset.NEXT_FAILURE)))
    assert value(held, reset) == 1
    assert not {since, ends} & {name for name, _ in held}


def test_counters_carry_their_labels() -> None:
    samples = scrape()
    rejected = "twinbeat_heartbeats_rejected_total"
    assert value(samples, rejected, link="ha0", reason="auth") == 2
    assert value(samples, rejected, link="lan0", reason="auth") == 0
    assert value(samples, rejected, link="", reason="auth") == 1, "what came where no link is"
    assert value(samples, "twinbeat_heartbeats_received_total", link="ha0") == 99
    assert value(samples, "twinbeat_heartbeats_missed_total", link="ha0") == 0
    assert value(samples, "twinbeat_gate_packets_total", direction="in", verdict="vip") == 2
    assert value(samples, "twinbeat_send_errors_total", link="ha0", errno="ENETDOWN") == 4
    assert value(samples, "twinbeat_announcements_unsent_total", reason="blocked") == 2
    assert value(samples, "twinbeat_announcements_unsent_total", reason="refused") == 6
    assert value(samples, "twinbeat_control_frames_total", result="sent") == 90
    assert value(samples, "twinbeat_control_frames_total", result="failed") == 8
    assert value(samples, "twinbeat_peer_busy_total") == 11
    assert value(samples, "twinbeat_log_lines_lost_total") == 12
    assert value(samples, "twinbeat_neighbours", interface="lan0", state="warm") == 2
    assert value(samples, "twinbeat_neighbours", interface="lan0", state="cold") == 1
    assert value(samples, "twinbeat_neighbour_changes_total", change="given_up") == 2
    assert (
        value(
            samples,
            "twinbeat_transitions_total",
            **{"from": "secondary", "to": "primary", "reason": "peer_dead"},
        )
        == 1
    )
    assert value(samples, "twinbeat_failover_duration_seconds_count", phase="total") == 1


def test_each_list_of_files_is_in_one_state() -> None:
    samples = scrape(status(sync=syncing(failing_files())))
    state = {
        state: value(samples, "twinbeat_files_state", list="certs", state=state)
        for state in FILES_STATES
    }
    assert state == {
        "partly": 1,
        "same": 0,
        "unreadable": 0,
        "waiting": 0,
        "working": 0,
    }
    figures = {"entries": 12, "bytes": 34567, "failed": 2, "conflicts": 1}
    for what, number in figures.items():
        assert value(samples, f"twinbeat_files_{what}", list="certs") == number
    assert value(samples, "twinbeat_files_events_total", event="failed_full") == 2
    assert not [name for name, _ in scrape(status(sync=None)) if name == "twinbeat_files_state"]


def test_when_both_came_to_have_the_document_is_told_and_what_was_refused() -> None:
    refused = replace(counters(), sync_failures={"store": 2})
    samples = scrape(status(sync=syncing()), refused)
    assert value(samples, "twinbeat_sync_last_success_timestamp_seconds") == 1_700_000_000
    assert value(samples, "twinbeat_sync_failures_total", kind="store") == 2
    assert value(samples, "twinbeat_sync_failures_total", kind="agent") == 0
    never = scrape(status(sync=replace(syncing(), synced_s=0)))
    assert not [name for name, _ in never if "last_success" in name]


def test_what_is_not_known_is_not_shown() -> None:
    names = {name for name, _ in scrape(status())}
    assert "twinbeat_last_transition_timestamp_seconds" not in names
    assert "twinbeat_pause_expires_timestamp_seconds" not in names


def test_buckets_reach_from_a_microsecond_beyond_ten_seconds() -> None:
    bounds = bucket_bounds()
    assert bounds[0] == 1e-6
    assert 10 < bounds[-1] < 20


@settings(deadline=None)  # the machine is shared
@given(st.lists(st.integers(0, 1000), min_size=32, max_size=32))
def test_buckets_add_up_and_never_fall(counts: list[int]) -> None:
    buckets, _ = cumulative(schema.Histogram(counts=counts, sum_ns=0))
    values = [number for _, number in buckets]
    assert values == sorted(values)
    assert buckets[-1] == ("+Inf", sum(counts))
    assert values[0] == counts[0]


def test_a_length_lands_in_the_bucket_above_it() -> None:
    # 200 µs: the engine counts it in bucket 8, below 256 µs.
    buckets = dict(cumulative(histogram({(200).bit_length(): 1}))[0])
    assert buckets["0.000256"] == 1
    assert buckets["0.000128"] == 0


def test_a_sum_that_was_not_kept_is_estimated_within_its_bucket() -> None:
    _, seconds = cumulative(histogram({8: 10}))
    assert 10 * 128e-6 <= seconds <= 10 * 256e-6


def test_watchdog_and_fencing_are_shown_where_they_are_configured() -> None:
    quiet = {name for name, _ in scrape(status())}
    assert not any("watchdog" in name or "fenc" in name for name in quiet)
    state = status(
        watchdog=watchdog(armed=False, timeout_s=0),
        fence=fence(last=fencing(), fenced=True, check=fencing(outcome="failed")),
    )
    counted = counters(fencings={"succeeded": 1, "failed": 2}, watchdog={"failures": 3})
    samples = scrape(state, counted)
    assert value(samples, "twinbeat_watchdog_armed") == 0
    assert value(samples, "twinbeat_watchdog_ping_failures_total") == 3
    assert value(samples, "twinbeat_fencings_total", outcome="failed") == 2
    assert value(samples, "twinbeat_fencings_total", outcome="timed_out") == 0
    assert value(samples, "twinbeat_peer_fenced") == 1
    assert value(samples, "twinbeat_fence_ready") == 0
    assert value(samples, "twinbeat_last_fencing_duration_seconds") == 2.5
    assert value(samples, "twinbeat_last_fencing_timestamp_seconds") == 1_700_999_990


def test_witness_and_references_are_told_where_they_are_configured() -> None:
    none = scrape(status())
    assert not [name for name, _ in none if "witness" in name or "isolated" in name]
    state = status(
        witness=witness(up=False, absent=True, confirmed_age_ns=None),
        isolation=isolation(isolated=True, answering=""),
    )
    samples = scrape(state, replace(counters(), witness={"denied": 2, "unanswered": 3}))
    assert value(samples, "twinbeat_witness_up") == 0
    assert value(samples, "twinbeat_witness_absent") == 1
    assert value(samples, "twinbeat_isolated") == 1
    assert value(samples, "twinbeat_witness_requests_total", result="denied") == 2
    errors = {
        reason: value(samples, "twinbeat_witness_errors_total", reason=reason)
        for reason in WITNESS_ERRORS
    }
    assert errors == {"nonsense": 0, "refused": 0, "unanswered": 3}
    assert not [name for name, _ in samples if "confirmed_age" in name]
    assert value(scrape(), "twinbeat_witness_confirmed_age_seconds") == 0.063
