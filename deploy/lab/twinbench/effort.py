# SPDX-License-Identifier: Apache-2.0
"""How thoroughly a bench measures: all of it, or a glance at everything."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Runs and durations of each group of figures.  The defaults are those of a full bench."""

    quick: bool = False
    deaths: int = 24
    """Silent deaths, each beside one of keepalived."""
    bfd: int = 10
    many_vips: int = 10000
    many_vips_blocks: int = 2
    """Times the lab is brought up with one VIP and with many, in turn."""
    many_vips_runs: int = 6
    """Deaths in each block."""
    switchovers: int = 20
    stops: int = 20
    kills: int = 20
    load_s: float = 610.0
    load_deaths: int = 10
    load_processes: int = 64
    partitions: int = 20
    reloads: int = 50
    hogs: int = 4
    hog_s: int = 5
    flood_s: int = 10
    flood_rate: int = 230_000
    """Sent; what reaches the node is measured there and is what counts."""
    flood_deaths: int = 3
    cost_s: float = 12.0
    noise_s: int = 5
    xdp_runs: int = 20

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
            load_deaths=runs,
            partitions=runs,
            reloads=runs,
            hogs=runs,
            flood_deaths=runs,
        )

    def with_load(self, seconds: float) -> Effort:
        """The same with another length of the figures under load."""
        return replace(self, load_s=seconds)


FULL = Effort()

QUICK = Effort(
    quick=True,
    deaths=5,
    bfd=2,
    many_vips_blocks=1,
    many_vips_runs=2,
    switchovers=4,
    stops=3,
    kills=3,
    load_s=12.0,
    load_deaths=1,
    partitions=2,
    reloads=5,
    hogs=1,
    hog_s=2,
    flood_s=2,
    flood_deaths=1,
    cost_s=3.0,
    noise_s=1,
    xdp_runs=5,
)
