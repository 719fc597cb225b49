# SPDX-License-Identifier: Apache-2.0
"""A whole bench: the groups of figures in an order that brings the lab up as rarely as possible.

A group that fails loses its own figures only; they are reported as failed, with the reason.
"""

from __future__ import annotations

import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from twinlab import lab, services
from twinlab.shell import LabError, not_after

from twinbench import (
    figures,
    ground,
    limits,
    machine,
    measures_agent,
    measures_connections,
    measures_cost,
    measures_death,
    measures_flood,
    measures_load,
    measures_lone,
    measures_partition,
    measures_reload,
    measures_routed,
    measures_sessions,
    measures_sync,
    measures_weblog,
    measures_xdp,
)
from twinbench.budget import Budget, allowance
from twinbench.effort import Effort
from twinbench.figures import Figure

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that are measured together."""

    name: str
    measure: Callable[[Effort, Budget], list[Figure]]
    figures: tuple[str, ...]
    needs_lab: bool = True
    by_name: bool = False
    """Measured only where it is asked for by its name: a whole bench takes an hour without it."""


def _load_names(profile: str) -> tuple[str, ...]:
    kinds = ("false_failovers", "undetected_deaths", "lapses", "suspicions")
    return tuple(f"{kind}_{profile}" for kind in kinds)


def _bare_names(profile: str) -> tuple[str, ...]:
    kinds = ("bare_sleep", "bare_armed", "of_which_sending", "of_which_lab")
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
    Group(
        "reload",
        measures_reload.reload,
        (
            *("reload_lost", "reload_suspicions", "reload_over_quiet", "reload_over_load"),
            *("reload_suspicion_rate", "beside_load_suspicion_rate", "beside_quiet_suspicion_rate"),
            *("beside_load_lost", "reload_cpu"),
            *("unchanged_reload_lost", "unchanged_reload_suspicions"),
        ),
    ),
    Group("sigstop", measures_agent.stopped, ("sigstop_overlap", "sigstop_back")),
    Group("sigkill", measures_agent.killed, ("sigkill_overlap", "sigkill_back")),
    Group("lone", measures_lone.restart, ("lone_restart",)),
    Group(
        "flood",
        measures_flood.under_flood,
        (
            *("flood_rate", "flood_transitions", "flood_unexplained", "flood_stalls"),
            *("plain_flood_transitions", "flood_uncounted", "flood_accepted"),
            *("flood_suspicions", "plain_flood_suspicions", "flood_undetected_deaths"),
        ),
    ),
    Group("hog", measures_agent.hog, ("hog_overlap", "hog_outage")),
    Group(
        "cost_fast",
        measures_cost.fast,
        ("agent_memory", "agent_cpu_fast", *_bare_names("fast")),
    ),
    Group("load_fast", measures_load.fast, _load_names("fast")),
    Group(
        "many_vips",
        measures_death.many_vips,
        ("many_vips_outage", "one_vip_outage", "many_vips_ratio"),
    ),
    Group(
        "cost_balanced",
        measures_cost.balanced,
        ("agent_cpu_balanced", *_bare_names("balanced")),
    ),
    Group(
        "sync",
        measures_sync.sync,
        (
            *("propagation", "propagation_command", "full_sync", "full_sync_transitions"),
            *("full_sync_missed", "full_sync_suspicions", "full_sync_quiet_suspicions"),
        ),
    ),
    Group(
        "storm",
        measures_sync.deaths,
        ("storm_lost", "storm_twice", "storm_faults", "storm_agree"),
    ),
    Group(
        "connections",
        measures_connections.connections,
        (
            *("connections_download", "connections_conversation"),
            *("connections_pause", "connections_fill"),
        ),
        by_name=True,
    ),
    Group(
        "weblog",
        measures_weblog.records,
        (
            *("weblog_lost", "weblog_twice", "weblog_disorder", "weblog_missing"),
            *("weblog_in_time", "weblog_in_time_failovers", "weblog_rejoined"),
            *("weblog_caught_up", "weblog_throughput", "weblog_cost"),
            *("weblog_outage", "weblog_outage_quiet"),
        ),
        by_name=True,
    ),
    Group(
        "sessions",
        measures_sessions.sessions,
        (
            *("sessions_moved", "sessions_unanswered", "sessions_fill"),
            *("sessions_fill_suspicions", "sessions_window", "sessions_window_late"),
            *("sessions_stream_missing", "sessions_outage", "sessions_outage_quiet"),
            "sessions_outage_added",
        ),
        by_name=True,
    ),
    Group("load_balanced", measures_load.balanced, _load_names("balanced")),
    Group(
        "routed",
        measures_routed.routed_death,
        (
            *("routed_outage", "routed_detection", "routed_act", "routed_daemon"),
            "routed_routes_many",
        ),
    ),
)
"""All groups in the order of a bench.  What shares a lab stands together."""


def chosen(names: Sequence[str]) -> list[Group]:
    """The groups asked for, by their own names or by those of their figures; of none all but those
    that want to be asked for."""
    known = {group.name for group in GROUPS} | set(figures.SPECS)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise LabError(
            f"{', '.join(unknown)}: no such figure (groups are "
            f"{', '.join(group.name for group in GROUPS)})"
        )
    if not names:
        return [group for group in GROUPS if not group.by_name]
    return [group for group in GROUPS if group.name in names or set(group.figures) & set(names)]


TIDYING_S = 10.0
"""Kept back at the end: the lab goes down, the result is written."""

RECOVERY_S = 20.0
"""What a group may take beyond twice its time, while a pair that went wrong becomes whole again."""


def bench(effort: Effort, groups: Iterable[Group]) -> dict[str, Any]:
    """Measure, and return the object that `bench --json` prints."""
    began = time.monotonic()
    lab.need_root()
    services.build_tools()
    noise = machine.Noise()
    found: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    remaining = list(groups)
    try:
        while remaining:
            group = remaining[0]
            ground.say(f"{group.name}: {', '.join(group.figures)}")
            measured, about = _one_group(effort, remaining, noise, began)
            found += [{**figure.to_json(), "group": group.name} for figure in measured]
            told.append(about)
            ground.say(f"  ({about['took_s']:.0f} s of {about['allowed_s']:.0f})")
            remaining = remaining[1:]
    finally:
        lab.down()
    found.append({**noise.figure().to_json(), "group": ""})
    return {
        "schema": SCHEMA,
        "quick": effort.quick,
        "settings": ground.settings_in_force(),
        "effort": asdict(effort),
        "configuration": ground.configuration_in_force(),
        "machine": machine.described(),
        "versions": machine.versions(),
        "elapsed_s": round(time.monotonic() - began, 1),
        "group_s": {about["name"]: about["took_s"] for about in told},
        "groups": told,
        "figures": limits.explain(found, told),
    }


def _one_group(
    effort: Effort, remaining: Sequence[Group], noise: machine.Noise, began: float
) -> tuple[list[Figure], dict[str, Any]]:
    """The next group's figures, and how it went: its time, what it left out, the machine then."""
    group = remaining[0]
    names = [other.name for other in remaining]
    started = time.monotonic()
    left = max(0.0, began + effort.soft_s - started)
    allowed = allowance(group.name, effort.seconds, names, left)
    budget = Budget.of(allowed)
    hard_left = max(0.0, began + effort.hard_s - TIDYING_S - started)
    strain = machine.Strain()
    sampled: dict[str, Any] = {}
    with not_after(started + min(hard_left, 2 * allowed + RECOVERY_S)):
        if hard_left:
            sampled = noise.sample(group.name, effort.noise_s)
            strain = machine.Strain()
            measured = measured_or_failed(group, effort, budget)
        else:
            measured = [figures.failed(name, "the bench's time was up") for name in group.figures]
    for problem in budget.problems:
        ground.say(f"  {problem}")
    return measured, {
        "name": group.name,
        "took_s": round(time.monotonic() - started, 1),
        "allowed_s": round(allowed, 1),
        "cut_short": budget.cut_short,
        "problems": budget.problems,
        "bare_thread_before": sampled,
        "machine_meanwhile": strain.told(),
    }


def measured_or_failed(group: Group, effort: Effort, budget: Budget) -> list[Figure]:
    """A group's figures; those it could not measure say why."""
    try:
        found = group.measure(effort, budget)
    except (LabError, OSError, subprocess.SubprocessError) as error:
        ground.say(f"  failed: {error}")
        found = [figures.failed(name, str(error)) for name in group.figures]
    except Exception as error:  # noqa: BLE001 - a fault in one figure must not lose the others
        ground.say(traceback.format_exc())
        found = [figures.failed(name, repr(error)) for name in group.figures]
    else:
        return _completed(group, found, budget)
    if group.needs_lab:
        _fresh_start()
    return found


def _completed(group: Group, found: list[Figure], budget: Budget) -> list[Figure]:
    """No figure is missing without a word, and none without a value passes for measured."""
    why = "; ".join([*budget.problems, *budget.cut_short])
    by_name = {figure.spec.name: figure for figure in found}
    complete = []
    for name in group.figures:
        figure = by_name.get(name) or figures.failed(name, "was not measured")
        if not figure.values and not figure.error:
            figure = replace(figure, error=why or "no run came to its end")
        complete.append(figure)
    return complete


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
