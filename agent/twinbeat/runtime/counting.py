# SPDX-License-Identifier: Apache-2.0
"""One `Counters` out of what engine, kernel and teller each count. Reads, and changes nothing."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import TYPE_CHECKING

from twinbeat.api import schema
from twinbeat.api.text import moment, realtime_offset_ns
from twinbeat.config.nodes import link_number
from twinbeat.engine.types import Histogram as EngineHistogram
from twinbeat.engine.types import now_ns as clock_ns
from twinbeat.observe.histogram import Histogram
from twinbeat.runtime.teller import Teller

if TYPE_CHECKING:
    from twinbeat.config.model import Config
    from twinbeat.engine.engine import Engine
    from twinbeat.engine.maps import Maps
    from twinbeat.runtime.links import Links
    from twinbeat.runtime.rivals import Rivals
    from twinbeat.runtime.witness import WitnessDesk


def counters(
    *,
    config: Config,
    engine: Engine,
    maps: Maps,
    lag: Histogram,
    teller: Teller,
    keep_failures: int,
    neighbours: Mapping[str, int],
    monitors: list[schema.MonitorCounters],
    links: Links,
    rivals: Rivals,
    dropped: int,
    log_lines_lost: int,
) -> schema.Counters:
    """Everything that only grows."""
    counted = engine.counters()
    by_link = {link.number: maps.counters_of(link.number) for link in config.heartbeat_links}
    rest = maps.counters_of(None)
    reasons = {
        reason.label: rest[reason] + sum(one.get(reason, 0) for one in by_link.values())
        for reason in rest
    }
    now_ns = clock_ns()
    histograms = {
        name: _engine_histogram(histogram)
        for name, histogram in engine.histograms().items()
        if name in {"send_lateness", "round_trip", "silence"}
    }
    histograms["loop_lag"] = _histogram(lag)
    return schema.Counters(
        time=moment(now_ns + realtime_offset_ns()),
        now_ns=now_ns,
        reasons=reasons,
        links=[
            schema.LinkCounters(
                name=section.name,
                sent=sum(counted.links[number].sent.values()),
                received=maps.link(number).accepted,
                reasons={reason.label: count for reason, count in by_link[number].items()},
                lost=links.lost(number),
                alarms=links.alarms(number),
                send_errors=send_errors(counted.links[number].errors),
                gaps=schema.Histogram(counts=maps.gaps(number)),
            )
            for section in config.heartbeat_links
            if (number := link_number(section)) in counted.links
        ],
        suspicions=dict(teller.suspicions),
        announcements={"ipv4": counted.announcements_ipv4, "ipv6": counted.announcements_ipv6},
        announcements_unsent={
            "blocked": counted.announcements_blocked,
            "refused": counted.announcements_refused,
        },
        control_frames={"sent": counted.control_sent, "failed": counted.control_errors},
        peer_busy=counted.peer_busy,
        transitions=[
            schema.TransitionCount(
                from_role=schema.Role(before),
                to_role=schema.Role(after),
                reason=reason,
                count=count,
            )
            for (before, after, reason), count in sorted(teller.transitions.items())
        ],
        claims_refused=dict(teller.claims_refused),
        effect_failures=teller.effect_failures
        | ({"keep_peer": keep_failures} if keep_failures else {}),
        neighbours=dict(neighbours),
        rivals=rivals.counted(),
        monitors=monitors,
        dual_primary=reasons.get("contested", 0),
        late_ticks=counted.late,
        events_lost=counted.events_lost + dropped,
        events_held=counted.events_held,
        log_lines_lost=log_lines_lost,
        histograms=histograms,
        phases={phase: _histogram(histogram) for phase, histogram in teller.phases.items()},
    )


def send_errors(counted: Mapping[int, int]) -> dict[str, int]:
    """By name instead of number; the engine counts rare ones together under 0."""
    return {errno.errorcode.get(number, "other"): count for number, count in counted.items()}


def witness_histogram(desk: WitnessDesk) -> dict[str, schema.Histogram]:
    """Empty where no witness is configured."""
    return {"witness_request": _histogram(desk.took())} if desk.counters() else {}


def _histogram(histogram: Histogram) -> schema.Histogram:
    return schema.Histogram(counts=list(histogram.counts), sum_ns=histogram.sum_ns)


def _engine_histogram(histogram: EngineHistogram) -> schema.Histogram:
    return schema.Histogram(counts=list(histogram.buckets), sum_ns=histogram.sum_ns)
