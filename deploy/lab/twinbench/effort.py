# SPDX-License-Identifier: Apache-2.0
"""How thoroughly a bench measures: all of it, or a glance at everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

FULL_SECONDS = {
    "xdp": 15.0,
    "death": 220.0,
    "bfd": 20.0,
    "partition": 300.0,
    "planned": 46.0,
    "reload": 75.0,
    "sigstop": 85.0,
    "sigkill": 105.0,
    "lone": 40.0,
    "flood": 70.0,
    "hog": 60.0,
    "cost_fast": 45.0,
    "load_fast": 700.0,
    "many_vips": 130.0,
    "routed": 120.0,
    "cost_balanced": 45.0,
    "sync": 60.0,
    "storm": 400.0,
    "connections": 330.0,
    "weblog": 560.0,
    "sessions": 400.0,
    "load_balanced": 700.0,
}
QUICK_SECONDS = {
    "xdp": 4.0,
    "death": 25.0,
    "bfd": 4.0,
    "partition": 25.0,
    "planned": 6.0,
    "reload": 6.0,
    "sigstop": 7.0,
    "sigkill": 9.0,
    "lone": 5.0,
    "flood": 9.0,
    "hog": 4.0,
    "cost_fast": 10.0,
    "load_fast": 16.0,
    "many_vips": 25.0,
    "routed": 15.0,
    "cost_balanced": 12.0,
    "sync": 9.0,
    "storm": 6.0,
    "connections": 20.0,
    "weblog": 55.0,
    "sessions": 60.0,
    "load_balanced": 16.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Runs and durations of each group of figures.  The defaults are those of a full bench.

    A few more runs than a bar asks for: one that fails must not leave it without a verdict.
    """

    quick: bool = False
    deaths: int = 24
    """Silent deaths, each beside one of keepalived."""
    bfd: int = 10
    many_vips: int = 10000
    many_vips_blocks: int = 2
    """Times the lab is brought up with one VIP and with many, in turn."""
    many_vips_runs: int = 6
    """Deaths in each block."""
    switchovers: int = 23
    stops: int = 23
    kills: int = 23
    lone: int = 10
    """Crashes of an agent without a peer."""
    routed: int = 12
    """Silent deaths between gateways in different subnets."""
    routed_many: int = 5
    """The same with a thousand routes of the role."""
    load_s: float = 610.0
    load_deaths: int = 11
    load_processes: int = 64
    partitions: int = 23
    reloads: int = 53
    hogs: int = 4
    hog_s: int = 5
    flood_s: int = 10
    flood_rate: int = 230_000
    """Sent; what reaches the node is measured there and is what counts."""
    flood_deaths: int = 4
    changes: int = 60
    """Of the shared configuration, one after the other."""
    commands: int = 12
    full_syncs: int = 2
    storm_deaths: int = 200
    weblog_failovers: int = 20
    """Of five kinds, in turn."""
    weblog_steady_s: float = 20.0
    weblog_stop_s: float = 60.0
    """So long a log client stands still."""
    weblog_outages: int = 10
    """Deaths with and without logging."""
    weblog_lines: int = 1_000_000
    """Fed at once, to see how many a second get through."""
    storm_pause_s: float = 0.6
    """The longest pause between two commands of the stream."""
    connections: int = 21
    """Silent deaths under a download and a conversation."""
    sessions_clients: int = 10_000
    """That are bound when the primary dies."""
    sessions_deaths: int = 4
    sessions_bulk: int = 50_000
    """Entries that a node gets that comes back."""
    sessions_fills: int = 3
    sessions_rate: int = 5_000
    """New clients a second, under which deaths and the window are looked at."""
    sessions_stream_s: float = 30.0
    sessions_outages: int = 10
    """Deaths with and without them."""
    cost_s: float = 12.0
    bare_s: float = 4.0
    """Of each of the bare loops beside the agents' cost."""
    noise_s: float = 5.0
    xdp_runs: int = 20
    seconds: Mapping[str, float] = field(default_factory=lambda: FULL_SECONDS)
    """What each group may be expected to take; the time is shared in these proportions."""
    soft_s: float = 54 * 60
    """No run is begun that would probably end after this."""
    hard_s: float = 58 * 60
    """No wait goes on for long after this."""

    def with_runs(self, runs: int) -> Effort:
        """The same with one number of runs wherever there are runs."""
        return replace(
            self,
            deaths=runs,
            bfd=runs,
            many_vips_runs=runs,
            switchovers=runs,
            stops=runs,
            kills=runs,
            lone=runs,
            routed=runs,
            routed_many=runs,
            load_deaths=runs,
            partitions=runs,
            reloads=runs,
            hogs=runs,
            flood_deaths=runs,
            changes=runs,
            commands=runs,
            full_syncs=runs,
            storm_deaths=runs,
            weblog_failovers=runs,
            weblog_outages=runs,
            connections=runs,
            sessions_deaths=runs,
            sessions_fills=runs,
            sessions_outages=runs,
        )

    def with_load(self, seconds: float) -> Effort:
        """The same with another length of the figures under load."""
        return replace(self, load_s=seconds)


FULL = Effort()

QUICK = Effort(
    quick=True,
    seconds=QUICK_SECONDS,
    soft_s=213.0,
    hard_s=225.0,
    deaths=4,
    bfd=2,
    many_vips_blocks=1,
    many_vips_runs=2,
    switchovers=4,
    stops=3,
    kills=3,
    lone=1,
    routed=1,
    routed_many=1,
    load_s=8.0,
    load_deaths=1,
    partitions=2,
    reloads=5,
    hogs=1,
    hog_s=2,
    flood_s=2,
    flood_deaths=1,
    changes=10,
    commands=2,
    full_syncs=1,
    storm_deaths=2,
    storm_pause_s=0.15,
    weblog_failovers=5,
    weblog_steady_s=2.0,
    weblog_stop_s=1.0,
    weblog_outages=1,
    weblog_lines=200_000,
    connections=1,
    sessions_clients=2_000,
    sessions_deaths=1,
    sessions_bulk=10_000,
    sessions_fills=1,
    sessions_stream_s=3.0,
    sessions_outages=1,
    cost_s=2.5,
    bare_s=0.6,
    noise_s=0.4,
    xdp_runs=5,
)
