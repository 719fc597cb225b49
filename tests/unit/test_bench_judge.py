# SPDX-License-Identifier: Apache-2.0
"""From what was seen to a number: takeovers, overlaps, outages, and what a takeover was."""

from collections.abc import Sequence

import pytest

from unit.bench_material import MS, frame, judge, measures_partition, record


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


def test_owner_changes() -> None:
    frames = [frame(10, "a"), frame(20, "a"), frame(30, "b"), frame(40, "a")]
    assert judge.owner_changes(frames) == [(10, "a"), (30, "b"), (40, "a")]


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
    assert [(edge.node, kind) for edge, kind in found] == [
        ("b", judge.Kind.LAPSE),
        ("a", judge.Kind.FALSE),
        ("b", judge.Kind.RESIGNED),
    ]


def test_provoked_takeovers_and_those_outside_the_time_are_left_out() -> None:
    edges = judge.read_watch(WATCHED).edges
    found = judge.unprovoked(edges, [(6900, 7100)], since_ns=0, until_ns=9000)
    assert [(edge.node, kind) for edge, kind in found] == [("a", judge.Kind.FALSE)]


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
    assert found[1] is kind


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
    assert judge.interruptions(seen, 2 * MS, 5 * MS) == (2 * MS + 1000,)
    assert judge.interruptions(seen, 4 * MS, 6 * MS) == ()
    assert judge.interruptions(seen, 5 * MS, 9 * MS) == (2 * MS,), "to the end, as it lasted"


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
    assert judge.per_minute(3, 10) == 18
    assert judge.per_minute(3, 0) == 0
