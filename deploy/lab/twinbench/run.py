# SPDX-License-Identifier: Apache-2.0
"""A whole bench: the groups of figures in an order that brings the lab up as rarely as possible.

A group that fails loses its own figures only; they are reported as failed, with the reason.
"""

from __future__ import annotations

import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from twinlab import lab, services
from twinlab.shell import LabError

from twinbench import (
    figures,
    ground,
    machine,
    measures_agent,
    measures_death,
    measures_flood,
    measures_load,
    measures_partition,
    measures_xdp,
)
from twinbench.effort import Effort
from twinbench.figures import Figure

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that are measured together."""

    name: str
    measure: Callable[[Effort], list[Figure]]
    figures: tuple[str, ...]
    needs_lab: bool = True


def _load_names(profile: str) -> tuple[str, ...]:
    kinds = ("false_failovers", "undetected_deaths", "lapses", "suspicions")
    return tuple(f"{kind}_{profile}" for kind in kinds)


GROUPS = (
    Group("xdp", measures_xdp.cost, ("xdp_hello", "xdp_probe", "xdp_unrelated"), needs_lab=False),
    Group(
        "death",
        measures_death.silent_death,
        (
            *("silent_death_outage", "keepalived_outage", "silent_death_ratio"),
            *("verdict_to_first_frame", "verdict_to_first_answer"),
        ),
    ),
    Group("bfd", measures_death.bfd, ("bfd_detection",)),
    Group(
        "partition",
        measures_partition.partition,
        (
            *("partition_served", "partition_lost", "partition_overlap"),
            "keepalived_partition_served",
        ),
    ),
    Group("planned", measures_agent.planned, ("planned_lost",)),
    Group("reload", measures_agent.reload, ("reload_lost", "reload_suspicions")),
    Group("sigstop", measures_agent.stopped, ("sigstop_overlap", "sigstop_back")),
    Group("sigkill", measures_agent.killed, ("sigkill_overlap", "sigkill_back")),
    Group(
        "flood",
        measures_flood.under_flood,
        (
            *("flood_rate", "flood_transitions", "flood_uncounted", "flood_accepted"),
            *("flood_suspicions", "plain_flood_suspicions", "flood_undetected_deaths"),
        ),
    ),
    Group("hog", measures_agent.hog, ("hog_overlap", "hog_outage")),
    Group("cost_fast", measures_agent.cost_fast, ("agent_memory", "agent_cpu_fast")),
    Group("load_fast", measures_load.fast, _load_names("fast")),
    Group(
        "many_vips",
        measures_death.many_vips,
        ("many_vips_outage", "one_vip_outage", "many_vips_ratio"),
    ),
    Group("cost_balanced", measures_agent.cost_balanced, ("agent_cpu_balanced",)),
    Group("load_balanced", measures_load.balanced, _load_names("balanced")),
)
"""All groups in the order of a bench.  What shares a lab stands together."""


def chosen(names: Sequence[str]) -> list[Group]:
    """The groups asked for, by their own names or by those of their figures; all of none."""
    known = {group.name for group in GROUPS} | set(figures.SPECS)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise LabError(
            f"{', '.join(unknown)}: no such figure (groups are "
            f"{', '.join(group.name for group in GROUPS)})"
        )
    if not names:
        return list(GROUPS)
    return [group for group in GROUPS if group.name in names or set(group.figures) & set(names)]


def bench(effort: Effort, groups: Iterable[Group]) -> dict[str, Any]:
    """Measure, and return the object that `bench --json` prints."""
    began = time.monotonic()
    lab.need_root()
    services.build_tools()
    noise = machine.Noise()
    found: list[Figure] = []
    took: dict[str, float] = {}
    try:
        for group in groups:
            ground.say(f"{group.name}: {', '.join(group.figures)}")
            noise.sample(group.name, effort.noise_s)
            started = time.monotonic()
            found += measured_or_failed(group, effort)
            took[group.name] = round(time.monotonic() - started, 1)
            ground.say(f"  ({took[group.name]:.0f} s)")
    finally:
        lab.down()
    found.append(noise.figure())
    return {
        "schema": SCHEMA,
        "quick": effort.quick,
        "settings": list(ground.SETTINGS),
        "machine": machine.described(),
        "versions": machine.versions(),
        "elapsed_s": round(time.monotonic() - began, 1),
        "group_s": took,
        "figures": [figure.to_json() for figure in found],
    }


def measured_or_failed(group: Group, effort: Effort) -> list[Figure]:
    """A group's figures; those it could not measure say why."""
    try:
        found = group.measure(effort)
    except (LabError, OSError, subprocess.SubprocessError) as error:
        ground.say(f"  failed: {error}")
        found = [figures.failed(name, str(error)) for name in group.figures]
    except Exception as error:  # noqa: BLE001 - a fault in one figure must not lose the others
        ground.say(traceback.format_exc())
        found = [figures.failed(name, repr(error)) for name in group.figures]
    else:
        measured = {figure.spec.name for figure in found}
        found += [
            figures.failed(name, "was not measured")
            for name in group.figures
            if name not in measured
        ]
        return found
    if group.needs_lab:
        _fresh_start()
    return found


def _fresh_start() -> None:
    """After a failure nothing of the old lab is trusted."""
    try:
        lab.down()
    except LabError as error:
        ground.say(f"  the lab does not go down: {error}")


def exit_code(result: dict[str, Any]) -> int:
    """1 if a figure is missing or misses its bar, else 0."""
    missing = any(figure["error"] for figure in result["figures"])
    missed = any(figure["holds"] is False for figure in result["figures"])
    return 1 if missing or missed else 0
