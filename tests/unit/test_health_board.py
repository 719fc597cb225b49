# SPDX-License-Identifier: Apache-2.0
"""The board: what findings amount to. Node states and scores as tables, counts as they are met."""

from __future__ import annotations

import pytest

from twinbeat.core.reasons import Code
from twinbeat.core.types import FOREVER, SECOND, NodeState, TrackedHealth
from twinbeat.health.board import (
    Board,
    Change,
    Finding,
    Kind,
    LinkSet,
    Spec,
    Standing,
    When,
)

GOOD = Finding(holds=True, sentence="fine")
BAD = Finding(holds=False, sentence="broken")
GONE = Finding(holds=False, sentence="gone", certain=True)
HUNG = Finding(holds=False, sentence="hung", timed_out=True)

INTERFACES = ("lan0", "wan0")


def board(*specs: Spec, sets: tuple[LinkSet, ...] = ()) -> Board:
    made = Board()
    made.replace(specs, sets, 0)
    return made


def interface(name: str, **more: object) -> Spec:
    return Spec(name=name, kind=Kind.INTERFACE, **more)  # type: ignore[arg-type]


def whole(**weights: int) -> Board:
    """Two interfaces, a route and a script, all of which hold."""
    made = board(
        *(interface(name, weight=weights.get(name, 1000)) for name in INTERFACES),
        Spec(name="uplink", kind=Kind.ROUTE, weight=weights.get("uplink", 1000)),
        Spec(name="check", kind=Kind.SCRIPT, weight=weights.get("check", 1000)),
    )
    for name in made.tracks:
        made.observe(name, GOOD, 1)
    return made


@pytest.mark.parametrize(
    ("failing", "state", "failed"),
    [
        ((), NodeState.UP, ()),
        (("lan0",), NodeState.PARTIAL_FAIL, ("lan0",)),
        (("lan0", "wan0"), NodeState.COMPLETE_FAIL, ("lan0", "wan0")),
        (("uplink",), NodeState.ROUTE_MONITOR_FAIL, ("uplink",)),
        (("uplink", "lan0"), NodeState.PARTIAL_FAIL, ("lan0", "uplink")),
        (("check",), NodeState.PARTIAL_FAIL, ("check",)),
        (("check", "uplink"), NodeState.ROUTE_MONITOR_FAIL, ("uplink", "check")),
        (("lan0", "wan0", "uplink"), NodeState.COMPLETE_FAIL, ("lan0", "wan0", "uplink")),
    ],
)
def test_node_states_with_default_weights(
    failing: tuple[str, ...], state: NodeState, failed: tuple[str, ...]
) -> None:
    one = whole()
    for name in failing:
        one.observe(name, BAD, 2)
    score = 0 if failing else 1000
    assert one.health == TrackedHealth(score=score, failed=failed, state=state)
    assert one.health.up is not bool(failing)
    for name in failing:
        one.observe(name, GOOD, 3)
    assert one.health == TrackedHealth()


def test_a_smaller_weight_lowers_the_score_of_a_node_that_stays_up() -> None:
    one = whole(check=300, uplink=699)
    one.observe("check", BAD, 2)
    assert one.health == TrackedHealth(score=700, lowering=("check",))
    assert one.health.up
    one.observe("uplink", BAD, 3)
    assert one.health.score == 1, "one point left is UP"
    assert one.health.up


def test_weights_that_add_up_leave_the_node_not_up() -> None:
    one = whole(check=300, uplink=700)
    one.observe("check", BAD, 2)
    one.observe("uplink", BAD, 2)
    assert one.health.score == 0
    assert one.health.failed == ("uplink", "check")
    assert one.health.state is NodeState.ROUTE_MONITOR_FAIL


def test_a_monitor_without_weight_is_only_shown() -> None:
    one = whole(lan0=0)
    one.observe("lan0", BAD, 2)
    assert one.tracks["lan0"].standing is Standing.FAILED
    assert one.health == TrackedHealth()


def test_all_interfaces_failing_counts_whatever_they_weigh() -> None:
    one = whole(lan0=0, wan0=0)
    for name in INTERFACES:
        one.observe(name, BAD, 2)
    assert one.health.state is NodeState.COMPLETE_FAIL
    assert one.health.score == 0
    assert not one.health.up


def test_a_set_fails_only_when_all_its_members_do() -> None:
    lan = LinkSet(name="lan", members=("lan0", "lan1"))
    one = board(interface("lan0"), interface("lan1"), interface("ha0"), sets=(lan,))
    for name in one.tracks:
        one.observe(name, GOOD, 1)
    assert one.observe("lan0", GONE, 2)[0].after is Standing.FAILED
    assert one.health == TrackedHealth(), "a member isn't critical by itself"
    changes = one.observe("lan1", GONE, 3)
    assert [(change.name, change.kind, change.reason.code) for change in changes] == [
        ("lan1", Kind.INTERFACE, Code.MONITOR_FAILED),
        ("lan", Kind.LINKSET, Code.SET_FAILED),
    ]
    assert one.health.state is NodeState.PARTIAL_FAIL
    assert one.health.failed == ("lan",)
    assert one.sets["lan"].failures == 1
    changes = one.observe("lan0", GOOD, 4)
    assert changes[-1].reason.code is Code.SET_HOLDS
    assert one.health == TrackedHealth()


def test_a_set_with_a_small_weight_takes_only_that() -> None:
    lan = LinkSet(name="lan", members=("lan0",), weight=400)
    one = board(interface("lan0"), interface("ha0"), sets=(lan,))
    one.observe("ha0", GOOD, 1)
    one.observe("lan0", GONE, 1)
    assert one.health == TrackedHealth(score=600, lowering=("lan",))


# -- counting ----------------------------------------------------------------------------------


def standings(one: Board, name: str, *findings: Finding) -> list[Standing]:
    seen = []
    for at, finding in enumerate(findings, 10):
        one.observe(name, finding, at)
        seen.append(one.tracks[name].standing)
    return seen


def test_fall_and_rise_are_findings_in_a_row() -> None:
    pending, up, failed = Standing.PENDING, Standing.UP, Standing.FAILED
    one = board(Spec(name="check", kind=Kind.SCRIPT, rise=2, fall=3))
    assert standings(one, "check", GOOD) == [up], "the first success is enough"
    assert standings(one, "check", BAD, BAD, GOOD, BAD, BAD, BAD) == [up] * 5 + [failed]
    assert standings(one, "check", GOOD, BAD, GOOD, GOOD) == [failed] * 3 + [up]
    another = board(Spec(name="check", kind=Kind.SCRIPT, rise=2, fall=3))
    assert standings(another, "check", BAD, BAD, BAD) == [pending, pending, failed]


def test_what_nobody_has_looked_at_yet_holds() -> None:
    one = board(Spec(name="check", kind=Kind.SCRIPT))
    assert one.health == TrackedHealth()


def test_a_certain_finding_needs_no_repetition() -> None:
    one = board(Spec(name="uplink", kind=Kind.ROUTE, rise=2, fall=3))
    one.observe("uplink", GOOD, 1)
    assert standings(one, "uplink", GONE) == [Standing.FAILED]


def test_unless_somebody_configured_one() -> None:
    one = board(interface("lan0", fall=2, fall_certain=2))
    one.observe("lan0", GOOD, 1)
    assert standings(one, "lan0", GONE) == [Standing.UP]
    assert one.tracks["lan0"].unsettled
    assert standings(one, "lan0", GONE) == [Standing.FAILED]
    assert not one.tracks["lan0"].unsettled


def test_failures_and_timeouts_are_counted_whatever_comes_of_them() -> None:
    one = board(Spec(name="check", kind=Kind.SCRIPT, fall=5))
    for finding in (GOOD, BAD, HUNG, GOOD):
        one.observe("check", finding, 1)
    track = one.tracks["check"]
    assert (track.looks, track.failures, track.timeouts) == (4, 2, 1)


def test_a_change_says_why() -> None:
    one = board(Spec(name="check", kind=Kind.SCRIPT))
    one.observe("check", GOOD, 1)
    (change,) = one.observe("check", HUNG, 7)
    assert change == Change(
        name="check",
        kind=Kind.SCRIPT,
        before=Standing.UP,
        after=Standing.FAILED,
        at_ns=7,
        reason=change.reason,
    )
    assert change.reason.code is Code.MONITOR_HANGS
    assert change.reason.sentence == "monitor check (script) got no answer in time: hung"
    assert one.tracks["check"].since_ns == 7
    assert one.observe("check", BAD, 8) == [], "still failed is no news"


def test_a_name_that_is_not_watched_is_no_news() -> None:
    assert board().observe("gone", BAD, 1) == []


# -- start delay and roles -----------------------------------------------------------------------


def delayed(delay_s: int = 5) -> Board:
    return board(Spec(name="uplink", kind=Kind.ROUTE, start_delay_ns=delay_s * SECOND))


def test_within_its_start_delay_a_monitor_does_not_fail() -> None:
    one = delayed()
    assert one.observe("uplink", GONE, SECOND) == [], "it was pending and stays so"
    assert one.health.up
    assert one.next_deadline() == 5 * SECOND
    assert one.advance(5 * SECOND - 1) == []
    (change,) = one.advance(5 * SECOND)
    assert change.after is Standing.FAILED
    assert one.next_deadline() == FOREVER


def test_becoming_primary_begins_the_start_delay_again() -> None:
    one = delayed()
    one.observe("uplink", GOOD, 9 * SECOND)
    assert one.become(primary=True, now_ns=10 * SECOND) == []
    (change,) = one.observe("uplink", GONE, 11 * SECOND)
    assert (change.after, change.reason.code) == (Standing.PENDING, Code.MONITOR_EXCUSED)
    assert one.next_deadline() == 15 * SECOND
    assert one.advance(15 * SECOND)[0].after is Standing.FAILED


def test_what_had_failed_before_stays_failed() -> None:
    one = delayed()
    one.observe("uplink", GONE, 6 * SECOND)
    one.become(primary=True, now_ns=7 * SECOND)
    assert one.tracks["uplink"].standing is Standing.FAILED
    assert not one.health.up


def test_becoming_secondary_excuses_nothing() -> None:
    one = delayed()
    one.become(primary=True, now_ns=7 * SECOND)
    one.observe("uplink", GOOD, 8 * SECOND)
    one.become(primary=False, now_ns=20 * SECOND)
    assert one.observe("uplink", GONE, 21 * SECOND)[0].after is Standing.FAILED


@pytest.mark.parametrize(("when", "while_primary"), [(When.PRIMARY, True), (When.SECONDARY, False)])
def test_a_monitor_of_one_role_is_idle_in_the_other(when: When, while_primary: bool) -> None:
    one = Board(primary=not while_primary)
    one.replace([Spec(name="check", kind=Kind.SCRIPT, when=when)], (), 0)
    assert one.tracks["check"].standing is Standing.IDLE
    assert one.observe("check", BAD, 1) == []
    (change,) = one.become(primary=while_primary, now_ns=2)
    assert (change.after, change.reason.code) == (Standing.PENDING, Code.MONITOR_ROLE)
    one.observe("check", BAD, 3)
    assert not one.health.up
    (change,) = one.become(primary=not while_primary, now_ns=4)
    assert change.after is Standing.IDLE
    assert one.health.up, "what it found in the other role counts no longer"
    assert one.tracks["check"].failures == 1, "but it was counted"


# -- another configuration -------------------------------------------------------------------------


def test_a_reload_keeps_what_is_known_of_those_that_stay() -> None:
    one = board(interface("lan0"), interface("wan0"))
    one.observe("lan0", GONE, 1)
    one.observe("wan0", GONE, 1)
    one.replace([interface("lan0", weight=10), interface("wan0")], (), 5, anew={"wan0"})
    assert one.tracks["lan0"].standing is Standing.FAILED
    assert one.tracks["lan0"].since_ns == 1
    assert one.tracks["wan0"].standing is Standing.PENDING
    assert one.health == TrackedHealth(score=990, lowering=("lan0",))
    one.replace([interface("wan0")], (), 6)
    assert list(one.tracks) == ["wan0"]


def test_an_interface_that_joins_a_set_is_no_longer_critical_and_back() -> None:
    one = board(interface("lan0"), interface("lan1"))
    one.observe("lan0", GONE, 1)
    one.observe("lan1", GOOD, 1)
    assert not one.health.up
    one.replace(
        [interface("lan0"), interface("lan1")], [LinkSet(name="lan", members=("lan0", "lan1"))], 2
    )
    assert one.health.up
    one.replace([interface("lan0"), interface("lan1")], (), 3)
    assert not one.health.up
