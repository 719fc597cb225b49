# SPDX-License-Identifier: Apache-2.0
"""A reload that is measured changes something, and counts only if the agent says that it did."""

import itertools
import tomllib
from typing import Any

from unit.bench_material import agents, measures_reload, plan

WANTED = plan.Options(settings=("timers.accept_host = true", 'policy.stall = "wait-lease"'))


def variant(number: int) -> measures_reload.Variant:
    return measures_reload.Variant.of(number)


def written(options: plan.Options) -> dict[str, Any]:
    return tomllib.loads(agents.configuration("a", options))


def test_each_reload_changes_keys_and_each_tenth_a_vip() -> None:
    for before, after in itertools.pairwise(variant(number) for number in range(40)):
        assert before.refresh_s != after.refresh_s
        assert before.preempt_hold_s != after.preempt_hold_s
    changes = [n for n in range(1, 40) if variant(n).vips != variant(n - 1).vips]
    assert changes == [2, 12, 22, 32]


def test_the_first_reload_differs_from_the_file_of_the_lab() -> None:
    before, after = written(WANTED), written(variant(0).options(WANTED))
    assert before != after
    assert after["announce"]["refresh_s"] == 61
    assert after["policy"] == {"preempt_hold_s": 11, "stall": "wait-lease"}
    assert after["timers"] == before["timers"]
    assert after["vrid"] == before["vrid"]


def test_a_vip_more_comes_from_the_list_of_vips() -> None:
    lan = written(variant(2).options(WANTED))["vrid"][0]
    assert lan["vips_file"] == "/etc/twinbeat/vips-lan.txt"
    assert variant(2).options(WANTED).lan_vips() == ["10.77.0.10", "10.78.0.1"]


def status(**changes: Any) -> dict[str, Any]:
    settings = {"hold": 11, "vips": 1, "needs_restart": [], **changes}
    return {
        "policy": {"preempt_hold_s": settings["hold"]},
        "vrids": [{"id": 52, "vips_total": 7}, {"id": 51, "vips_total": settings["vips"]}],
        "configuration": {"needs_restart": settings["needs_restart"]},
    }


def test_what_is_in_force_is_what_the_agent_shows() -> None:
    assert variant(0).is_in_force(status())
    assert not variant(0).is_in_force(status(hold=10)), "the old value"
    assert not variant(0).is_in_force(status(vips=2))
    assert not variant(0).is_in_force(status(needs_restart=["announce.refresh_s"]))
    assert variant(2).is_in_force(status(vips=2))
