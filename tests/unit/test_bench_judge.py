# SPDX-License-Identifier: Apache-2.0
"""From what was seen to a number: takeovers, overlaps, outages, and what a takeover was."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from twinbeat.core.election import WITHHOLDS
from twinbeat.core.reasons import CAUSES, Code
from twinbeat.core.types import Cause, Permit
from unit.bench_material import (
    MS,
    figures,
    frame,
    judge,
    measures_flood,
    measures_load,
    measures_partition,
    record,
)


def transition(
    to_role: str, at_ns: int, *, gate_ns: int | None = None, reason: str = "peer_dead"
) -> dict[str, object]:
    return {
        "to_role": to_role,
        "from_role": "claiming",
        "at_ns": at_ns,
        "reason": reason,
        "term": 4,
        "timeline": {"gate_ns": gate_ns, "verdict_ns": at_ns - 10},
    }


def test_takeovers_of_both_nodes_come_in_order_and_within_the_time() -> None:
    histories = {
        "a": [transition("primary", 100), transition("secondary", 200)],
        "b": [transition("primary", 250, gate_ns=240), transition("primary", 900)],
    }
    found = judge.takeovers(histories, since_ns=50, until_ns=500)
    assert [(one.node, one.gate_ns, one.verdict_ns) for one in found] == [
        ("a", 100, 90),
        ("b", 240, 240),
    ]


def test_a_transition_without_a_timeline_counts_by_its_own_moment() -> None:
    bare = {**transition("primary", 100), "timeline": None}
    assert judge.takeovers({"a": [bare]})[0].gate_ns == 100


# ------------------------------------------------------------------------- overlap -----------


def reign(node: str, gate_ns: int) -> judge.Takeover:
    return judge.Takeover(node=node, term=2, reason="x", verdict_ns=None, gate_ns=gate_ns)


def test_no_overlap_while_the_old_owner_stops_before_the_new_one_speaks() -> None:
    frames = [frame(10, "a"), frame(20, "a"), frame(30, "b"), frame(40, "b")]
    assert judge.overlap(frames, [reign("b", 15)]) == []


def test_overlap_is_what_the_old_owner_sends_after_the_new_ones_first_frame() -> None:
    frames = [frame(10, "a"), frame(30, "b"), frame(31, "a"), frame(40, "b"), frame(50, "a")]
    assert [one.at_ns for one in judge.overlap(frames, [reign("b", 25)])] == [31, 50]


def test_a_second_takeover_ends_the_first_ones_claim_to_silence() -> None:
    frames = [frame(30, "b"), frame(60, "a"), frame(70, "a"), frame(75, "b")]
    reigns = [reign("b", 25), reign("a", 55)]
    assert [one.at_ns for one in judge.overlap(frames, reigns)] == [75]


def test_a_new_owner_that_never_spoke_overlaps_with_nobody() -> None:
    assert judge.overlap([frame(10, "a"), frame(90, "a")], [reign("b", 50)]) == []


def test_first_frame_of_a_node() -> None:
    frames = [frame(10, "b"), frame(20, "a"), frame(30, "b")]
    assert judge.first_frame_ns(frames, "b", 11) == 30
    assert judge.first_frame_ns(frames, "b", 31) is None


# -------------------------------------------------------------------- gates' edges -----------

WATCHED = """\
100 a open 2 0 10100 -
5000 a shut 2 0 4990 lease
7000 b open 3 0 17000 -
8000 b shut 3 4 18000 fence
8010 a open 4 3 18000 -
9000 a shut 0 4 18000 term
9500 b open 5 4 19000 -
{"samples": 90, "both_open": 1, "both_longest_ns": 7, "pause_longest_ns": 300}
9600 b sh"""


def test_the_watch_is_read_with_its_summary_and_without_a_half_written_line() -> None:
    watch = judge.read_watch(WATCHED)
    assert len(watch.edges) == 7
    assert (watch.samples, watch.both_open, watch.pause_longest_ns) == (90, 1, 300)
    assert watch.edges[1].why == "lease"
    assert judge.read_watch("").edges == ()


def test_what_a_takeover_was_is_told_by_how_the_other_gate_shut() -> None:
    edges = judge.read_watch(WATCHED).edges
    found = judge.unprovoked(edges, [], since_ns=0, until_ns=10_000)
    assert [(moved.taken.node, moved.kind) for moved in found] == [
        ("b", judge.Kind.LAPSE),
        ("a", judge.Kind.FALSE),
        ("b", judge.Kind.RESIGNED),
    ]


def test_provoked_takeovers_and_those_outside_the_time_are_left_out() -> None:
    edges = judge.read_watch(WATCHED).edges
    found = judge.unprovoked(edges, [(6900, 7100)], since_ns=0, until_ns=9000)
    assert [(moved.taken.node, moved.kind) for moved in found] == [("a", judge.Kind.FALSE)]


def test_how_long_both_gates_were_open_when_nobody_had_caused_it() -> None:
    lines = (
        "1 a open 2 0 9 -\n10 b open 3 0 9 -\n15 a shut 2 3 9 fence\n"
        "40 a open 4 0 9 -\n70 b shut 3 4 9 fence\n"
    )
    edges = judge.read_watch(lines).edges
    assert judge.both_open_ns(edges, [], since_ns=0, until_ns=99) == 30
    assert judge.both_open_ns(edges, [(39, 50)], since_ns=0, until_ns=99) == 5
    assert judge.both_open_ns(edges, [], since_ns=80, until_ns=99) == 0


def test_who_owned_the_role_at_a_moment() -> None:
    edges = judge.read_watch(WATCHED).edges
    assert judge.owner_at(edges, 99) is None
    assert judge.owner_at(edges, 100) == "a"
    assert judge.owner_at(edges, 6000) is None
    assert judge.owner_at(edges, 7500) == "b"
    both = judge.read_watch("1 a open 2 0 9 -\n2 b open 3 0 9 -\n").edges
    assert judge.owner_at(both, 5) is None


def test_a_node_that_opens_its_own_gate_again_took_nothing_over() -> None:
    lines = "1 a open 2 0 9 -\n10 a shut 2 0 9 lease\n20 a open 4 3 90 -\n"
    assert judge.unprovoked(judge.read_watch(lines).edges, [], since_ns=0, until_ns=99) == []


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        # Never seen to shut: it was open.
        ("1 a open 2 0 900 -\n50 b open 3 0 900 -\n", judge.Kind.FALSE),
        # Shut in the very sample in which the other opened, noted after it.
        ("1 b open 3 0 900 -\n50 a open 4 3 900 -\n50 b shut 3 4 900 fence\n", judge.Kind.FALSE),
        ("1 b open 3 0 40 -\n50 a open 4 3 900 -\n50 b shut 3 0 40 lease\n", judge.Kind.LAPSE),
        # Read just before the end of its lease, and the other just after.
        ("1 a open 2 0 49 -\n50 b open 3 0 900 -\n60 a shut 2 0 49 lease\n", judge.Kind.LAPSE),
        # Its lease ended later: it was open.
        ("1 a open 2 0 55 -\n50 b open 3 0 900 -\n60 a shut 2 0 55 lease\n", judge.Kind.FALSE),
        ("1 a open 2 0 900 -\n40 a shut 2 0 900 contest\n50 b open 3 0 9 -\n", judge.Kind.FALSE),
    ],
)
def test_edges_in_awkward_orders(lines: str, kind: judge.Kind) -> None:
    edges = judge.read_watch(lines).edges
    (found,) = judge.unprovoked(edges, [], since_ns=2, until_ns=1000)
    assert found.kind is kind


# ------------------------------------------------- what the primary says of its own end ------

# a's gate had a lease until 900; b's opens at 50.  By then a's engine has shut it itself.
SHUT_BY_ITSELF = "1 a open 2 0 900 -\n48 a shut 0 3 0 term\n50 b open 3 0 900 -\n"


def moved(lines: str, *steps: tuple[str, int, str], claim_ns: int | None = None) -> judge.Moved:
    told = [judge.StepDown(node=node, at_ns=at, code=code) for node, at, code in steps]
    edges = judge.read_watch(lines).edges
    claimed = {} if claim_ns is None else {("b", 3): claim_ns}
    (found,) = judge.unprovoked(edges, [], told, claimed, since_ns=2, until_ns=10**10)
    return found


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ([("a", 47, "fenced")], judge.Kind.FALSE),
        ([("a", 47, "contest_lost")], judge.Kind.FALSE),
        ([("a", 47, "lease_expired")], judge.Kind.LAPSE),
        ([("a", 47, "order_void")], judge.Kind.RESIGNED),
        ([], judge.Kind.RESIGNED),
        # The nearest in time is the one.
        ([("a", 20, "order_void"), ("a", 46, "fenced"), ("a", 60, "stopped")], judge.Kind.FALSE),
        ([("a", 20, "fenced"), ("a", 46, "order_void")], judge.Kind.RESIGNED),
        # Another node's, or a step down of another time, says nothing.
        ([("b", 47, "fenced")], judge.Kind.RESIGNED),
        ([("a", 48 + judge.OWN_ACCOUNT_WITHIN_NS + 1, "fenced")], judge.Kind.RESIGNED),
    ],
)
def test_a_gate_shut_by_its_engine_was_open_if_the_engine_says_it_was_fenced(
    steps: list[tuple[str, int, str]], kind: judge.Kind
) -> None:
    assert moved(SHUT_BY_ITSELF, *steps).kind is kind


ENDS = {
    *(CAUSES[cause] for cause in Cause if Cause.FENCED <= cause <= Cause.GATE_LOST),
    CAUSES[Cause.NO_WITNESS],
    # Why a gate was to be shut at once, or the peer asked for its claim.
    *(row.code for row in WITHHOLDS if Permit.MAY_SERVE in row.takes),
    Code.PEER_BETTER,
    Code.TOLD_TO_HAND_OVER,
    Code.TOLD_TO_YIELD,
    Code.STAY_SECONDARY,
    Code.DISABLED,
    Code.STOPPED,
    # Nobody knows any more.
    Code.RESYNCED,
}
"""With what codes a reign ends."""


def test_the_judge_knows_every_code_with_which_a_reign_ends() -> None:
    assert set(judge.END_OF_REIGN) == {code.value for code in ENDS}


FENCED = "1 a open 2 0 900 -\n48 a shut 2 3 900 fence\n50 b open 3 0 900 -\n"
NEVER_SHUT = "1 a open 2 0 900 -\n50 b open 3 0 900 -\n"


@pytest.mark.parametrize("lines", [SHUT_BY_ITSELF, FENCED, NEVER_SHUT])
@pytest.mark.parametrize(
    ("code", "false"),
    [
        *((code, 1) for code in ("fenced", "contest_lost", "a_code_of_tomorrow")),
        *((code, 0) for code in ("peer_better", "told_to_hand_over", "disabled", "stopped")),
    ],
)
def test_who_asked_for_the_claim_that_took_an_open_gate_away_was_no_victim(
    lines: str, code: str, false: int
) -> None:
    found = moved(lines, ("a", 49, code))
    assert found.kind is (judge.Kind.FALSE if false else judge.Kind.HANDED)
    steps = [judge.StepDown(node="a", at_ns=49, code=code)]
    assert judge.false_failovers(0, [found], steps) == false
    assert judge.false_failovers(1, [found], steps) == 1, "a verdict of death is one anyway"


@pytest.mark.parametrize("code", ["lease_expired", "order_void", "gate_lost", "resynced"])
def test_what_else_it_says_takes_no_fence_back(code: str) -> None:
    for lines in (FENCED, NEVER_SHUT):
        assert moved(lines, ("a", 49, code)).kind is judge.Kind.FALSE


def test_a_fence_that_was_looked_at_after_the_end_of_the_lease_is_false_all_the_same() -> None:
    late = "1 a open 2 0 40 -\n49 a shut 2 3 40 lease\n50 b open 3 0 900 -\n"
    assert moved(late).kind is judge.Kind.LAPSE
    assert moved(late, ("a", 45, "lease_expired")).kind is judge.Kind.LAPSE
    assert moved(late, ("a", 39, "fenced")).kind is judge.Kind.FALSE


LATE = "1 a open 2 0 40 -\n49 a shut 2 3 40 lease\n50 b open 3 0 900 -\n"
EARLY = "1 a open 2 0 40 -\n39 a shut 2 3 40 fence\n50 b open 3 0 900 -\n"


@pytest.mark.parametrize(
    ("lines", "said", "claim_ns", "kind"),
    [
        # Who says that it was fenced, or looks like it, had a clock that stood still.
        (LATE, ("a", 39, "fenced"), 40, judge.Kind.LAPSE),
        (EARLY, ("a", 39, "fenced"), 40, judge.Kind.LAPSE),
        (EARLY, ("a", 41, "lease_expired"), 40, judge.Kind.LAPSE),
        # The claim was begun while the lease ran.
        (LATE, ("a", 39, "fenced"), 39, judge.Kind.FALSE),
        (EARLY, ("a", 41, "lease_expired"), 39, judge.Kind.FALSE),
        (EARLY, ("a", 39, "fenced"), None, judge.Kind.FALSE),
        # It speaks of a reign that was earned anew after that lease, and was not looked at.
        (LATE, ("a", 40, "fenced"), 45, judge.Kind.FALSE),
        # A contest is lost by an open gate; a gate never seen to shut was open.
        (LATE, ("a", 39, "contest_lost"), 40, judge.Kind.FALSE),
        (
            "1 a open 2 0 900 -\n40 a shut 2 0 45 contest\n50 b open 3 0 9 -\n",
            None,
            46,
            judge.Kind.FALSE,
        ),
        ("1 a open 2 0 900 -\n50 b open 3 0 900 -\n", None, 901, judge.Kind.FALSE),
        # The lease of a gate that its engine shut isn't known any more.
        (SHUT_BY_ITSELF, ("a", 47, "fenced"), 901, judge.Kind.FALSE),
    ],
)
def test_a_claim_that_was_begun_after_the_end_of_the_lease_fenced_no_open_gate(
    lines: str, said: tuple[str, int, str] | None, claim_ns: int | None, kind: judge.Kind
) -> None:
    found = moved(lines, *([said] if said else []), claim_ns=claim_ns)
    assert found.kind is kind
    steps = [found.said] if found.said else []
    assert judge.false_failovers(0, [found], steps) == (kind is judge.Kind.FALSE)


def test_claims_are_those_of_the_terms_that_opened() -> None:
    def opened(term: int, claim_ns: int | None, to_role: str = "primary") -> dict[str, object]:
        return {"to_role": to_role, "term": term, "timeline": {"claim_ns": claim_ns}}

    told = {
        "a": [opened(2, 10), opened(4, 20, "claiming"), opened(6, None)],
        "b": [opened(3, 30), {"to_role": "primary", "term": 5}],
    }
    assert judge.claims(told) == {("a", 2): 10, ("b", 3): 30}


def test_an_open_gate_is_no_lapse_whatever_its_owner_says() -> None:
    fenced = "1 a open 2 0 900 -\n48 a shut 2 3 900 fence\n50 b open 3 0 900 -\n"
    assert moved(fenced, ("a", 49, "lease_expired")).kind is judge.Kind.FALSE
    never = "1 a open 2 0 900 -\n50 b open 3 0 900 -\n"
    assert moved(never, ("a", 49, "lease_expired")).kind is judge.Kind.FALSE


def test_how_late_the_old_primary_was_is_told_from_its_last_renewal() -> None:
    lapsed = "1 a open 2 0 40 -\n45 a shut 2 0 40 lease\n50 b open 3 0 900 -\n"
    assert moved(lapsed, ("a", 63, "lease_expired")).held_up_ns(10) == 33
    assert moved(lapsed).held_up_ns(10) is None
    assert moved(SHUT_BY_ITSELF, ("a", 47, "lease_expired")).held_up_ns(10) is None


def test_false_failovers_are_as_many_as_the_witness_says_that_saw_most() -> None:
    false, lapse = moved(SHUT_BY_ITSELF, ("a", 47, "fenced")), moved(SHUT_BY_ITSELF)
    fenced = judge.StepDown(node="a", at_ns=47, code="fenced")
    expired = judge.StepDown(node="a", at_ns=99, code="lease_expired")
    assert judge.false_failovers(0, [lapse], [expired]) == 0
    assert judge.false_failovers(0, [false, lapse], []) == 1
    assert judge.false_failovers(0, [], [fenced, expired, fenced]) == 2
    assert judge.false_failovers(3, [false], [fenced]) == 3


def test_steps_down_are_the_ends_of_reigns_that_nobody_provoked() -> None:
    def end(at_ns: int, code: str, from_role: str = "primary") -> dict[str, object]:
        return {"from_role": from_role, "to_role": "secondary", "at_ns": at_ns, "reason": code}

    renewed = {**end(55, "term_renewed"), "to_role": "primary"}
    told = {
        "a": [end(50, "fenced"), renewed, end(10, "fenced"), end(60, "peer_found", "init")],
        "b": [end(20, "lease_expired"), end(35, "fenced"), end(900, "fenced")],
    }
    found = judge.steps_down(told, [(30, 40)], since_ns=15, until_ns=800)
    assert [(step.node, step.at_ns, step.code) for step in found] == [
        ("b", 20, "lease_expired"),
        ("a", 50, "fenced"),
    ]


def test_a_fenced_primary_counts_as_false_in_the_figures_though_its_gate_was_found_shut() -> None:
    told = {"number": 7, "at_ns": 47, "from_role": "primary", "reason": "fenced"}
    told |= {"to_role": "secondary", "term": 0}
    seen = measures_load.Seen(quiet_s=60.0, late_ticks={"a": 2, "b": 1})
    seen.transitions = {"a": {7: told}, "b": {}}
    watch = judge.read_watch(SHUT_BY_ITSELF)
    found = {
        figure.spec.name: figure
        for figure in measures_load.stretch_figures("fast", seen, watch, 2, 99, lease_ns=10)
    }
    assert found["false_failovers_fast"].values == (1,)
    assert found["lapses_fast"].values == (0,)
    details = found["false_failovers_fast"].details
    assert details["primaries_stepped_down"] == {"fenced": 1}
    assert (details["late_ticks"], details["late_ticks_by_node"]) == (3, {"a": 2, "b": 1})
    (takeover,) = details["takeovers"]
    assert (takeover["gate_seen"], takeover["primary_says"]) == ("term", "fenced")


# --------------------------------------------------------------- the client's view -----------


def test_served_after_counts_from_the_moment_to_the_end_of_the_last_interruption() -> None:
    seen = record([True, True, False, False, True, True])
    # Probe 5 is sent at 5 ms and answered 1 us later.
    assert judge.served_after(seen, 3 * MS, within_ns=10 * MS) == (2 * MS + 1000, 2)
    assert judge.served_after(seen, 4 * MS, within_ns=10 * MS) == (MS + 1000, 1)


def test_served_after_ignores_what_was_over_before_and_what_began_long_after() -> None:
    seen = record([False, True, True, True, False, True])
    assert judge.served_after(seen, 2 * MS + 5000, within_ns=MS) == (0, 0)


def test_interruptions_are_those_that_began_between_two_moments() -> None:
    seen = record([False, True, False, False, True, True, False])
    assert judge.interruptions(seen, 2 * MS, 5 * MS) == (interruption(3 * MS, 5 * MS + 1000, 2),)
    assert judge.interruptions(seen, 4 * MS, 6 * MS) == ()
    assert judge.interruptions(seen, 5 * MS, 9 * MS) == (interruption(7 * MS, None, 1),)


def interruption(began_ns: int, ended_ns: int | None, lost: int = 1) -> judge.Interruption:
    return judge.Interruption(began_ns=began_ns, ended_ns=ended_ns, lost=lost)


# The partition heals at 40 ms: b yields, a serves alone.  At 300 ms its lease is at its end, noted
# 0.1 ms later, and b takes over.
LAPSED = """\
1000000 a open 2 0 900000000 -
2000000 b open 3 0 900000000 -
41000000 b shut 3 2 900000000 fence
300100000 a shut 2 0 300000000 lease
304000000 b open 5 0 900000000 -
"""


def lapse_behind(
    began_ms: float, ended_ms: float | None, lines: str = LAPSED, settled_ms: float = 140
) -> str | None:
    ended = None if ended_ms is None else int(ended_ms * MS)
    found = judge.lapse_behind(
        interruption(int(began_ms * MS), ended),
        judge.read_watch(lines).edges,
        settled_ns=int(settled_ms * MS),
        lease_ns=10 * MS,
    )
    return found.node if found else None


def test_a_lapse_of_the_only_owner_explains_what_stopped_at_it() -> None:
    assert lapse_behind(300.0, 305.0) == "a"
    assert lapse_behind(290.0, 305.0) == "a", "the owner was held up from the last renewal on"
    assert lapse_behind(289.5, 305.0) == "a", "probes on their way are lost as well"
    assert lapse_behind(301.0, None) == "a"


def test_what_began_long_before_a_lapse_or_after_it_was_over_is_not_explained_by_it() -> None:
    assert lapse_behind(287.5, 305.0) is None
    assert lapse_behind(298.5, 299.5) is None, "over before the lease was"
    assert lapse_behind(310.0, 312.0) is None, "b was open by then"
    assert lapse_behind(300.0, 305.0, settled_ms=301) is None


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        # Shut by a claim, by a contest, by its engine: no lapse.
        ("300100000 a shut 2 0 300000000 lease", "300100000 a shut 2 3 900000000 fence"),
        ("300100000 a shut 2 0 300000000 lease", "300100000 a shut 2 0 900000000 contest"),
        ("300100000 a shut 2 0 300000000 lease", "300100000 a shut 0 0 0 term"),
        # A contest was still going on, or broke out anew.
        ("41000000 b shut 3 2 900000000 fence", "200000000 b shut 3 2 900000000 fence"),
        ("41000000 b shut 3 2 900000000 fence", "200000000 b shut 3 2 900000000 contest"),
        # Both were open.
        ("41000000 b shut 3 2 900000000 fence", "41000000 b open 3 2 900000000 -"),
        # Nothing is known of the gates at all.
        (LAPSED, ""),
    ],
)
def test_anything_else_at_the_gates_explains_nothing_away(line: str, instead: str) -> None:
    assert line in LAPSED
    assert lapse_behind(300.0, 305.0, LAPSED.replace(line, instead)) is None


SHUT_BY_ENGINE = LAPSED.replace(
    "300100000 a shut 2 0 300000000 lease", "300100000 a shut 0 0 0 term"
)
UNSEEN = LAPSED[: LAPSED.index("300100000")]


@pytest.mark.parametrize("lines", [SHUT_BY_ENGINE, UNSEEN])
@pytest.mark.parametrize(
    ("step", "explained"),
    [
        (("a", 300, "lease_expired"), True),
        (("a", 300, "order_void"), False),
        (("b", 300, "lease_expired"), False),
        (("a", 200, "lease_expired"), False),
    ],
)
def test_a_lapse_that_was_not_seen_is_told_by_the_owner(
    lines: str, step: tuple[str, int, str], explained: bool
) -> None:
    node, at_ms, code = step
    told = judge.StepDown(node=node, at_ns=at_ms * MS, code=code)
    edges = judge.with_lapses(judge.read_watch(lines).edges, [told])
    found = judge.lapse_behind(
        interruption(299 * MS, 305 * MS), edges, settled_ns=140 * MS, lease_ns=10 * MS
    )
    assert (found is not None) is explained


def test_a_lapse_that_was_seen_is_not_told_twice_and_a_fence_stays_one() -> None:
    expired = judge.StepDown(node="a", at_ns=301 * MS, code="lease_expired")
    seen = judge.read_watch(LAPSED).edges
    assert judge.with_lapses(seen, [expired]) == seen
    fenced = judge.read_watch(LAPSED.replace("300000000 lease", "900000000 fence")).edges
    assert judge.with_lapses(fenced, [expired]) == fenced


def test_an_interruption_long_after_the_heal_counts_unless_a_lapse_is_behind_it() -> None:
    # Probes each millisecond; 5 of them are lost from 300 ms on.
    seen = record([not 300 <= number + 1 < 305 for number in range(400)])
    (lapse,) = measures_partition.later_interruptions(
        seen, judge.read_watch(LAPSED).edges, 40 * MS, lease_ns=0
    )
    assert (lapse.counts, lapse.lapsed, lapse.lost) == (False, "a", 5)
    assert "left out" in lapse.told()
    assert measures_partition.with_later(3 * MS, 1, [lapse]) == (3 * MS, 1)

    (blind,) = measures_partition.later_interruptions(seen, (), 40 * MS, lease_ns=0)
    assert blind.counts
    assert "counts" in blind.told()
    assert measures_partition.with_later(3 * MS, 1, [lapse, blind]) == (265 * MS + 1000, 6)
    assert measures_partition.with_later(None, 1, [blind]) == (None, 6)


def test_a_later_interruption_that_never_ended_means_never_served() -> None:
    seen = record([number + 1 < 300 for number in range(400)])
    later = measures_partition.later_interruptions(seen, (), 40 * MS, lease_ns=0)
    assert measures_partition.with_later(3 * MS, 0, later) == (None, 101)


def test_served_after_says_if_service_never_came_back() -> None:
    assert judge.served_after(record([True, False, False]), MS, within_ns=9 * MS) == (None, 2)


HEALED = judge.read_watch(
    # Both open at 40; b hears a and shuts at 50; a is fenced at 80; b opens again at 90.
    "1 a open 2 0 999 -\n2 b open 3 0 999 -\n50 b shut 3 0 999 contest\n"
    "80 a shut 2 3 999 fence\n90 b open 3 0 999 -\n"
).edges


def overlap_after_heal(*frames: object, tolerance_ns: int = 0) -> int:
    return judge.overlap_after_heal_ns(frames, HEALED, 40, tolerance_ns=tolerance_ns)  # type: ignore[arg-type]


def test_a_contest_that_hands_over_cleanly_overlaps_no_longer_than_both_gates_were_open() -> None:
    assert overlap_after_heal(frame(60, "a"), frame(79, "a"), frame(91, "b")) == 0
    assert overlap_after_heal(frame(45, "a"), frame(48, "b"), frame(60, "a")) == 8


def test_a_frame_from_behind_a_shut_gate_is_overlap() -> None:
    assert overlap_after_heal(frame(85, "a"), frame(95, "b")) == 45
    assert overlap_after_heal(frame(60, "b")) == 20


def test_an_opening_may_be_noted_a_little_late() -> None:
    assert overlap_after_heal(frame(88, "b")) == 48
    assert overlap_after_heal(frame(88, "b"), tolerance_ns=5) == 0


def test_the_loser_of_a_contest_is_whose_gate_shuts_first() -> None:
    lines = "1 a open 2 0 9 -\n2 b open 3 0 9 -\n50 a shut 2 3 9 fence\n60 a open 4 3 9 -\n"
    seen = judge.contest(judge.read_watch(lines).edges, 40)
    assert (seen.loser, seen.shut_after_ns) == ("a", 10)


def test_two_gates_that_stay_open_are_no_happy_end() -> None:
    edges = judge.read_watch("1 a open 2 0 9 -\n2 b open 3 0 9 -\n").edges
    assert judge.contest(edges, 40).shut_after_ns is None
    assert judge.contest(edges[:1], 40) == judge.Contest(loser=None, shut_after_ns=0)


# ----------------------------------------------------------------- partition, flood ----------


def through(frames: Sequence[object], before_ns: int, after_ns: int) -> int | None:
    return measures_partition.first_through_ns(frames, "a", before_ns, after_ns)  # type: ignore[arg-type]


def test_the_first_frame_through_is_of_the_healed_node_or_to_it() -> None:
    hello = frame(50, "b", source="10.77.0.2", dport=3003)
    assert through([frame(40, "b"), hello, frame(60, "a")], 0, 10) == 50
    assert through([frame(40, "b"), frame(60, "a")], 0, 10) == 60
    assert through([frame(40, "a"), hello], 45, 46) == 50
    assert through([frame(40, "b")], 0, 10) is None


def test_what_the_other_node_sends_counts_only_once_the_cut_is_surely_lifted() -> None:
    hello = frame(50, "b", source="10.77.0.2", dport=3003)
    assert through([hello, frame(55, "a")], 30, 60) == 55
    assert through([hello, frame(65, "b", source="10.77.0.2", dport=3003)], 30, 60) == 65


def test_adverts_and_heartbeats_are_no_service() -> None:
    assert measures_partition.is_between_nodes(frame(1, "a", protocol=112))
    assert measures_partition.is_between_nodes(frame(1, "a", dport=3003))
    assert not measures_partition.is_between_nodes(frame(1, "a"))


def test_counters_grow_from_what_they_were() -> None:
    assert judge.grown({"auth": 3}, {"auth": 10, "pair": 2}) == {"auth": 7, "pair": 2}
    assert judge.refused({"auth": 7, "pair": 2, "hello": 100}) == 9
    assert judge.refused({"window": 7, "own": 2, "link": 3, "ttl": 1}) == 0, "no forger's doing"
    assert judge.per_minute(3, 10) == 18
    assert judge.per_minute(3, 0) == 0


# ---------------------------------------------------------------- figures from what was seen --


def healed(overlap_ns: int | None, *, both_served: bool = True) -> measures_partition.Healed:
    return measures_partition.Healed(
        cut="a",
        both_served=both_served,
        served_ns=MS,
        lost=0,
        later=(),
        overlap_ns=overlap_ns,
        gates_ns=0,
        loser="a" if both_served else None,
        capture_lost=0,
    )


def partition_figure(name: str, runs: list[measures_partition.Healed]) -> figures.Figure:
    found = measures_partition.figures_of(runs, [], 300.0)
    return next(figure for figure in found if figure.spec.name == name)


def test_overlap_is_judged_on_every_partition_an_uncontested_one_included() -> None:
    runs = [healed(200_000)] * 19 + [healed(0, both_served=False)]
    seen = partition_figure("partition_overlap", runs)
    assert (len(seen.values), seen.values[-1], seen.holds) == (20, 0, True)
    assert "19 of 20" in seen.note
    assert partition_figure("partition_overlap", [*runs, healed(None)]).holds is False


def flooded(arrived: int, **reasons: int) -> measures_flood.Flooded:
    return measures_flood.Flooded(
        seconds=10.0,
        sent=arrived,
        arrived=arrived,
        refused=judge.refused(reasons),
        suspicions=0,
        moved=(),
        reasons=reasons,
    )


def uncounted(evil: measures_flood.Flooded) -> figures.Figure:
    found = measures_flood.figures_of(flooded(90, auth=1), evil, 0, [0, 0, 0], [])
    return next(figure for figure in found if figure.spec.name == "flood_uncounted")


def test_a_forged_frame_is_counted_only_as_what_a_forgery_is_refused_for() -> None:
    assert uncounted(flooded(100, auth=60, replay=38, key=2)).values == (0,)
    late = uncounted(flooded(100, auth=60, replay=38, window=2))
    assert (late.values, late.holds) == ((2,), False)


def test_what_a_port_drops_is_subtracted_once() -> None:
    assert measures_flood.arrived(100, 0, 0) == 100
    assert measures_flood.arrived(100, 0, 7) == 93, "a port that drops in silence"
    assert measures_flood.arrived(100, 7, 9) == 100, "one that says so: two were the pair's own"


def test_more_counted_than_arrived_is_shown_and_not_hidden() -> None:
    seen = uncounted(flooded(100, auth=60, replay=43))
    assert seen.values == (-3,)
    assert "3 more were counted than arrived" in seen.note
    assert seen.details["refused_under_the_unrelated_flood"] == 1


def stalled(*stalls: tuple[int, int], moved: tuple[int, ...]) -> measures_flood.Flooded:
    found = tuple(judge.Stall(began_ns=began, ended_ns=ended) for began, ended in stalls)
    return replace(flooded(100, auth=100), moved=moved, stalls=found)


def test_every_change_of_role_in_a_flood_counts_and_a_stall_beside_it_is_told() -> None:
    evil = stalled((5 * MS, 16 * MS), moved=(16 * MS, 17 * MS, 400 * MS))
    found = measures_flood.figures_of(flooded(90), evil, 0, [0, 0, 0], [])
    named = {figure.spec.name: figure for figure in found}
    assert (named["flood_transitions"].values, named["flood_transitions"].holds) == ((3,), False)
    assert named["flood_unexplained"].values == (1,)
    assert named["flood_stalls"].values == (1,)
    assert named["flood_transitions"].note.startswith("3, 2 of them beside a stall of the machine")
    assert "11.0 ms at most" in named["flood_transitions"].note


def test_a_stall_explains_what_follows_it_soon_and_nothing_before() -> None:
    stalls = judge.stalls_of([[20 * MS, 11 * MS]])
    assert stalls == [judge.Stall(began_ns=9 * MS, ended_ns=20 * MS)]
    beside = [judge.beside_stalls([at * MS], stalls, within_ns=5 * MS) for at in (8, 9, 25, 26)]
    assert beside == [0, 1, 1, 0]


def test_an_excess_is_told_with_its_chance() -> None:
    assert judge.excess([0, 0], [0, 0]) == (0, 1.0)
    assert judge.excess([1, 1, 2], [0, 0, 0]) == (3, 1 / 8)
    assert judge.excess([5, 0, 1], [1, 1, 0]) == (0, 3 / 4), "a pair with both says nothing"
