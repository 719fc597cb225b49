# SPDX-License-Identifier: Apache-2.0
"""When a bar holds, when it doesn't, and when nobody may say."""

import json

import pytest

from unit.bench_material import budget, effort, figures, limits, report, run


def spec(**changes: object) -> figures.Spec:
    settings: dict[str, object] = {"name": "x", "what": "a figure", "unit": "ms", **changes}
    return figures.Spec(**settings)  # type: ignore[arg-type]


def figure(values: tuple[float, ...], *, seconds: float = 0.0, **changes: object) -> figures.Figure:
    return figures.Figure(spec=spec(**changes), values=values, seconds=seconds)


def test_a_bar_on_the_median_forgives_an_outlier() -> None:
    seen = figure((1.0, 1.2, 90.0), bar=1.3)
    assert seen.holds is True
    assert (seen.median, seen.max) == (1.2, 90.0)


def test_a_bar_on_the_maximum_forgives_nothing() -> None:
    assert figure((0, 0, 1), bar=0, bar_on=figures.MAXIMUM).holds is False
    assert figure((0, 0, 0), bar=0, bar_on=figures.MAXIMUM).holds is True


def test_a_bar_is_reached_at_its_very_value() -> None:
    assert figure((1.3,), bar=1.3).holds is True
    assert figure((1.30001,), bar=1.3).holds is False


def test_a_lower_bound_is_one() -> None:
    assert figure((19.9,), bar=20, at_least=True).holds is False
    assert figure((20.0,), bar=20, at_least=True).holds is True


def test_too_few_runs_give_no_verdict_either_way() -> None:
    assert figure((9.0,) * 19, bar=1.3, runs_needed=20).holds is None
    assert figure((1.0,) * 19, bar=1.3, runs_needed=20).holds is None
    assert figure((9.0,) * 20, bar=1.3, runs_needed=20).holds is False


def test_too_short_a_watch_gives_no_verdict() -> None:
    assert figure((0,), bar=0, seconds_needed=600, seconds=599.9).holds is None
    assert figure((0,), bar=0, seconds_needed=600, seconds=600).holds is True


def test_no_bar_no_values_or_an_error_give_no_verdict() -> None:
    assert figure((1.0,)).holds is None
    assert figure((), bar=1.0, runs_needed=0).holds is None
    failed = figures.failed("silent_death_outage", "the lab fell over")
    assert failed.holds is None
    assert failed.to_json()["error"] == "the lab fell over"


def test_the_aim_is_judged_under_the_bars_conditions() -> None:
    assert figure((0.9,) * 20, bar=1.3, aim=1.0, runs_needed=20).reaches_aim is True
    assert figure((1.1,) * 20, bar=1.3, aim=1.0, runs_needed=20).reaches_aim is False
    assert figure((0.9,), bar=1.3, aim=1.0, runs_needed=20).reaches_aim is None


def test_a_bar_that_depends_on_the_timers_replaces_the_tables() -> None:
    seen = figures.measured("sigstop_back", [6.9] * 20, bar=7.0)
    assert seen.holds is True
    assert figures.measured("sigstop_back", [7.1] * 20, bar=7.0).holds is False
    assert figures.measured("sigstop_back", [7.1] * 20).holds is None


def test_an_aim_that_depends_on_the_timers_is_judged_like_the_bar() -> None:
    seen = figures.measured("sigstop_back", [2.9] * 20, bar=7.0, aim=3.0)
    assert (seen.holds, seen.reaches_aim, seen.to_json()["aim"]) == (True, True, 3.0)
    assert figures.measured("sigstop_back", [3.1] * 20, bar=7.0, aim=3.0).reaches_aim is False
    assert figures.measured("sigstop_back", [2.9] * 20, bar=7.0).reaches_aim is None


def test_json_has_the_promised_keys_and_survives_a_round_trip() -> None:
    said = json.loads(json.dumps(figures.measured("planned_lost", [1, 2, 3]).to_json()))
    promised = {"name", "median", "max", "runs", "unit", "bar", "aim", "holds"}
    assert promised <= said.keys()
    assert (said["median"], said["max"], said["runs"]) == (2, 3, 3)
    assert said["holds"] is None


def test_a_spec_refuses_a_bar_on_something_else() -> None:
    with pytest.raises(ValueError, match="median or the maximum"):
        spec(bar_on="mean")


def test_every_figure_is_measured_by_exactly_one_group() -> None:
    grouped = [name for group in run.GROUPS for name in group.figures]
    assert sorted(grouped) == sorted(set(figures.SPECS) - {"machine_noise"})


def test_groups_are_chosen_by_their_names_or_their_figures() -> None:
    by_name = {"connections", "sessions", "weblog"}
    assert run.chosen([]) == [group for group in run.GROUPS if group.name not in by_name]
    assert [group.name for group in run.chosen(["connections_pause"])] == ["connections"]
    assert [group.name for group in run.chosen(["flood"])] == ["flood"]
    assert [group.name for group in run.chosen(["hog_outage", "bfd"])] == ["bfd", "hog"]
    with pytest.raises(run.LabError, match="no such figure"):
        run.chosen(["speed"])


def test_a_full_bench_measures_as_much_as_every_bar_asks_for() -> None:
    full, specs = effort.FULL, figures.SPECS
    assert full.deaths >= specs["silent_death_outage"].runs_needed
    assert full.many_vips_blocks * full.many_vips_runs >= specs["many_vips_ratio"].runs_needed
    assert full.switchovers >= specs["planned_lost"].runs_needed
    assert full.stops >= specs["sigstop_overlap"].runs_needed
    assert full.kills >= specs["sigkill_overlap"].runs_needed
    assert full.load_s >= specs["false_failovers_fast"].seconds_needed
    assert full.load_deaths >= specs["undetected_deaths_fast"].runs_needed
    assert full.partitions >= specs["partition_served"].runs_needed
    assert full.reloads >= specs["reload_lost"].runs_needed
    assert full.flood_s >= specs["flood_rate"].seconds_needed
    assert full.cost_s >= specs["agent_cpu_fast"].seconds_needed
    assert full.weblog_failovers >= specs["weblog_lost"].runs_needed
    assert full.weblog_steady_s >= specs["weblog_in_time"].seconds_needed


@pytest.mark.parametrize(
    ("planned", "name"),
    [
        ("deaths", "silent_death_outage"),
        ("switchovers", "planned_lost"),
        ("stops", "sigstop_overlap"),
        ("stops", "sigstop_back"),
        ("kills", "sigkill_overlap"),
        ("kills", "sigkill_back"),
        ("partitions", "partition_served"),
        ("partitions", "partition_overlap"),
        ("reloads", "reload_lost"),
        ("reloads", "reload_suspicions"),
        ("load_deaths", "undetected_deaths_fast"),
        ("flood_deaths", "flood_undetected_deaths"),
    ],
)
def test_one_run_may_fail_without_taking_the_verdict_with_it(planned: str, name: str) -> None:
    assert getattr(effort.FULL, planned) > figures.SPECS[name].runs_needed


def test_a_group_that_fails_loses_its_own_figures_only() -> None:
    def broken(*_: object) -> list[figures.Figure]:
        raise run.LabError("no such namespace")

    def faulty(*_: object) -> list[figures.Figure]:
        raise KeyError("verdict_ns")

    def half(*_: object) -> list[figures.Figure]:
        return [figures.measured("hog_overlap", [0, 0])]

    def seen(measure: object) -> list[figures.Figure]:
        group = run.Group("hog", measure, ("hog_overlap", "hog_outage"), needs_lab=False)  # type: ignore[arg-type]
        return run.measured_or_failed(group, effort.QUICK, budget.Budget.of(1))

    assert [one.error for one in seen(broken)] == ["no such namespace"] * 2
    assert all("verdict_ns" in one.error for one in seen(faulty))
    assert [(one.spec.name, bool(one.error)) for one in seen(half)] == [
        ("hog_overlap", False),
        ("hog_outage", True),
    ]


HOG = {
    "name": "hog",
    "cut_short": ["1 of 4 hogs"],
    "problems": ["hog 2: no\nanswer"],
    "bare_thread_before": {
        "p50_ns": 45_000,
        "p99_ns": 980_000,
        "p999_ns": 2_000_000,
        "max_ns": 9_400_000,
        "above_1ms": 30,
        "seconds": 1.5,
        "wake_ns": 27_000,
        "syscall_ns": 113,
        "programming_ns": 10_500,
    },
    "machine_meanwhile": {
        "stolen_percent": 4.2,
        "interrupts_percent": 3.0,
        "busy_percent": 71.5,
        "interrupts_per_s": 41_000,
        "switches_per_s": 52_000,
    },
}


def result(*found: figures.Figure) -> dict[str, object]:
    return {
        "quick": True,
        "settings": ["timers.accept_host = true"],
        "elapsed_s": 61.0,
        "machine": {
            "processor": "a processor",
            "processors": 2,
            "memory": "4 GiB",
            "kernel": "6.1",
            "virtual": "kvm",
            "rt_throttling": "950000 of 1000000 us",
            "date": "2026-01-02T03:04:05+00:00",
        },
        "versions": {"keepalived": "2.2.7"},
        "figures": limits.explain([{**one.to_json(), "group": "hog"} for one in found], [HOG]),
        "groups": [HOG],
    }


def test_exit_code_tells_a_missed_bar_and_a_missing_figure() -> None:
    good = figures.measured("hog_overlap", [0, 0])
    assert run.exit_code(result(good)) == 0
    assert run.exit_code(result(good, figures.measured("hog_overlap", [0, 3]))) == 1
    assert run.exit_code(result(good, figures.failed("bfd_detection", "no bfdd"))) == 1
    assert run.exit_code(result(figures.measured("hog_overlap", [0]))) == 0


def test_the_report_names_every_figure_with_its_verdict() -> None:
    text = report.markdown(
        result(
            figures.measured("hog_overlap", [0, 3]),
            figures.measured("planned_lost", [1]),
            figures.failed("bfd_detection", "no bfdd"),
        )
    )
    assert "| `hog_overlap` | 1.5 | 3 | frames | 2 | 0 | 0 | **MISSED** |" in text
    assert "| `planned_lost` | 1 | 1 | probes | 1 | ≤ 2 | ≤ 1 | too short |" in text
    assert "**failed**" in text
    assert "no bfdd" in text
    assert "keepalived | 2.2.7" in text


def test_the_report_tells_settings_spent_time_failed_runs_and_the_spread() -> None:
    many = figures.measured("silent_death_outage", [1.0, 1.1, 1.2, 1.2, 5.0])
    text = report.markdown(result(many))
    assert "`timers.accept_host = true`" in text
    assert "Its time was spent after 1 of 4 hogs." in text
    assert "Runs that failed: hog 2: no answer." in text
    assert "| `silent_death_outage` | ms | 1.2 | 5 | 5 | 1 | 5 |" in text


def test_every_judged_figure_is_explained_by_what_was_measured_beside_it() -> None:
    judged = [
        figures.measured(name, [1.0] * 20, seconds=700, bar=spec.bar if spec.bar else 5)
        for name, spec in figures.SPECS.items()
        if spec.bar is not None or spec.name in ("sigstop_back", "partition_overlap")
    ]
    for one in result(*judged)["figures"]:  # type: ignore[attr-defined]
        said = " ".join(one["limited_by"])
        assert "45.0 / 980 / 2,000 us late" in said, one["name"]
        assert "20.0 times a second" in said, one["name"]
        assert "programming the local timer 10.5 us (left to the hypervisor)" in said, one["name"]
        assert "4.2 % of their time was stolen" in said, one["name"]


def test_a_missed_median_says_how_many_runs_missed_it() -> None:
    said = result(figures.measured("silent_death_outage", [1.0, 1.2, 1.4, 9.0]))["figures"]
    assert "2 of 4 runs lay above the bar" in said[0]["limited_by"][0]  # type: ignore[index]


def test_where_the_processors_time_goes_is_told_by_the_loops_beside_it() -> None:
    details = {"engine_thread_percent": [9.0, 9.4]}
    said = result(
        figures.measured("agent_cpu_fast", [11.0, 11.2], seconds=12, details=details),
        figures.measured("bare_sleep_fast", [9.1]),
        figures.measured("bare_armed_fast", [4.0]),
        figures.measured("of_which_sending_fast", [3.5]),
        figures.measured("of_which_lab_fast", [2.5]),
    )["figures"][0]  # type: ignore[index]
    assert said["holds"] is False, "what the loops take is never subtracted"
    assert said["limited_by"][0] == (
        "the engine's thread takes 9.20 % of a core; a bare thread that only wakes as often takes "
        "9.10 %, and 4.00 % sleeping in the engine's way; sending the engine's frames adds 3.50 "
        "points to that, 2.50 of them for the lab's cables, switches and the receiver's program, "
        "which run on the sender's time (where a network card has its driver instead)"
    )


def test_a_figure_of_no_run_says_why() -> None:
    def spent(_: effort.Effort, time: budget.Budget) -> list[figures.Figure]:
        time.cut_short.append("0 of 4 hogs")
        return [figures.measured("hog_overlap", []), figures.measured("hog_outage", [3.0])]

    group = run.Group("hog", spent, ("hog_overlap", "hog_outage"), needs_lab=False)
    found = run.measured_or_failed(group, effort.QUICK, budget.Budget.of(1))
    assert [one.error for one in found] == ["0 of 4 hogs", ""]
