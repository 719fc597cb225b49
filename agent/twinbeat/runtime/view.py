# SPDX-License-Identifier: Apache-2.0
"""The node as the interface shows it: everybody is asked, and nothing is changed.

`twinbeat.runtime.status` makes one `Status` and one `Counters` out of what they say.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from twinbeat.api import schema
from twinbeat.api.events import EventHub
from twinbeat.api.text import realtime_offset_ns
from twinbeat.core.machine import Machine
from twinbeat.engine.engine import Engine
from twinbeat.engine.maps import Maps
from twinbeat.net.warmth import Warmth
from twinbeat.observe.log import lost
from twinbeat.runtime import counting, retold, status, wiring
from twinbeat.runtime.current import Current
from twinbeat.runtime.hands import DiskHands, EngineHands
from twinbeat.runtime.health import Health
from twinbeat.runtime.hooks import Hooks
from twinbeat.runtime.links import Links
from twinbeat.runtime.loop import Loop
from twinbeat.runtime.outside import Outside
from twinbeat.runtime.site import Site
from twinbeat.runtime.teller import Teller
from twinbeat.runtime.watchdog import Watchdog
from twinbeat.runtime.workers import WorkerDesk


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Who is asked."""

    facts: status.Facts
    current: Current
    machine: Machine
    loop: Loop
    engine: Engine
    hands: EngineHands
    disk: DiskHands
    maps: Maps
    links: Links
    site: Site
    warmth: Warmth
    health: Health
    hooks: Hooks
    teller: Teller
    hub: EventHub
    workers: WorkerDesk
    watchdog: Watchdog
    outside: Outside

    def status(self) -> schema.Status:
        """The node as it is now."""
        self.facts.attested_until_ns = self.hands.attested_until_ns
        self.facts.not_kept = self.disk.not_kept
        self.facts.worker = self.workers.alive
        self.facts.sync = retold.sync(self.workers.report)
        self.facts.connections = retold.connections(self.workers.report)
        self.facts.watchdog = self.watchdog.status()
        self.facts.fence = self.outside.fencing.status()
        self.facts.witness = self.outside.witness.status()
        self.facts.isolation = self.outside.isolation.status()
        return status.status(
            config=wiring.with_timers(self.current.config, self.machine.timers),
            core=self.machine.status,
            snapshot=self.hands.snapshot(),
            guarded=self.site.stage.guarded,
            facts=self.facts,
            teller=self.teller,
            neighbours=self.warmth.standing(),
            monitors=self.health.status(realtime_offset_ns()),
            links=self.links,
            rivals=self.outside.rivals,
            routes=self.site.routes.status(),
            hooks=self.hooks.status(),
        )

    def counters(self) -> schema.Counters:
        """Everything that only grows."""
        counted = counting.counters(
            config=self.current.config,
            engine=self.engine,
            maps=self.maps,
            lag=self.loop.lag,
            teller=self.teller,
            keep_failures=self.disk.keep_failures,
            neighbours=self.warmth.tally.counted(),
            monitors=self.health.counters(),
            links=self.links,
            rivals=self.outside.rivals,
            dropped=self.hub.dropped_total,
            log_lines_lost=lost(),
        )
        report = self.workers.report
        logs = report.weblog if report is not None else None
        return replace(
            counted,
            histograms=counted.histograms | counting.witness_histogram(self.outside.witness),
            witness=self.outside.witness.counters(),
            fencings=dict(self.outside.fencing.outcomes),
            watchdog=self.watchdog.counted(),
            route_changes=dict(self.site.routes.changes),
            worker=dict(self.workers.counts),
            sync_requests=dict(report.requests) if report is not None else {},
            sync_connection=dict(report.counts) if report is not None else {},
            sync_phases=dict(self.workers.took),
            sync_failures=dict(report.refusals) if report is not None else {},
            sync_files=dict(report.file_counts) if report is not None else {},
            weblog=dict(logs.counts) if logs is not None else {},
            weblog_replication=schema.Histogram(
                counts=list(logs.replication.delays), sum_ns=logs.replication.delay_ns
            )
            if logs is not None and logs.replication.delays
            else None,
            sessions=retold.persistence(self.workers.sessions),
        )
