# SPDX-License-Identifier: Apache-2.0
"""Health sinks at once and rises late, and moves the role only so often."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinbeat.core.damping import Damper, Flips
from twinbeat.core.types import SECOND, Damping, FlipLimit, TrackedHealth

DAMPING = Damping(hold_ns=2 * SECOND, hold_max_ns=16 * SECOND, forget_ns=60 * SECOND)
GOOD = TrackedHealth()
FAIR = TrackedHealth(score=600, failed=("wan0",))
BAD = TrackedHealth(score=0, failed=("wan0", "dns"))


def damper(*seen: TrackedHealth, damping: Damping = DAMPING) -> Damper:
    """One that has seen this, all at the same moment."""
    made = Damper(damping)
    for health in seen:
        made.see(health, 0)
    return made


@pytest.mark.parametrize("first", [GOOD, FAIR, BAD])
def test_the_first_word_counts_at_once(first: TrackedHealth) -> None:
    assert damper(first).health == first


@pytest.mark.parametrize("worse", [FAIR, BAD])
def test_what_is_worse_counts_at_once(worse: TrackedHealth) -> None:
    assert damper(GOOD, worse).health == worse


def test_what_is_better_counts_when_it_has_held() -> None:
    damped = damper(GOOD, BAD, GOOD)
    damped.pass_time(2 * SECOND - 1)
    assert damped.health == BAD
    assert damped.holding_until_ns == 2 * SECOND
    damped.pass_time(2 * SECOND)
    assert damped.health == GOOD
    assert damped.holding_until_ns == 0


def test_each_relapse_doubles_the_wait_up_to_the_longest() -> None:
    damped, now, waits = damper(GOOD), 0, []
    for _ in range(6):
        damped.see(BAD, now)
        damped.see(GOOD, now)
        waits.append((damped.holding_until_ns - now) // SECOND)
        now += SECOND
    assert waits == [2, 4, 8, 16, 16, 16]


def test_a_relapse_while_it_is_held_counts_as_well() -> None:
    damped = damper(GOOD, BAD)
    damped.see(GOOD, SECOND)
    damped.see(BAD, 2 * SECOND)
    damped.see(GOOD, 3 * SECOND)
    assert damped.relapses == 2
    assert damped.holding_until_ns == 3 * SECOND + 4 * SECOND


def test_time_without_a_failure_undoes_a_doubling() -> None:
    damped = damper(GOOD, BAD, GOOD, BAD, GOOD, BAD, GOOD)
    assert damped.relapses == 3
    for minutes, left in ((1, 2), (2, 1), (3, 0), (9, 0)):
        damped.pass_time(minutes * 60 * SECOND)
        assert damped.relapses == left


def test_of_a_rise_the_least_counts_and_then_the_rest() -> None:
    damped = damper(GOOD, BAD)
    damped.see(GOOD, 0)
    damped.see(FAIR, SECOND)
    damped.see(GOOD, SECOND)
    damped.pass_time(2 * SECOND)
    assert damped.health == FAIR
    damped.pass_time(4 * SECOND)
    assert damped.health == GOOD


def test_the_same_score_for_another_reason_is_no_relapse() -> None:
    other = TrackedHealth(score=600, failed=("dns",))
    damped = damper(GOOD, FAIR, other)
    assert (damped.health, damped.relapses) == (other, 1)


def test_without_a_hold_everything_counts_at_once() -> None:
    damped = damper(GOOD, BAD, GOOD, BAD, GOOD, damping=Damping(hold_ns=0))
    assert damped.health == GOOD


@given(st.lists(st.tuples(st.integers(0, 5 * SECOND), st.integers(0, 1000)), min_size=1))
def test_what_counts_is_never_better_than_what_was_seen_all_along(
    seen: list[tuple[int, int]],
) -> None:
    damped, now = Damper(DAMPING), 0
    history: list[tuple[int, int]] = []
    for later_ns, score in seen:
        now += later_ns
        damped.see(TrackedHealth(score=score), now)
        history.append((now, score))
        assert damped.health.score <= score
        held = [each for at, each in history if at >= now - DAMPING.hold_ns]
        before = [each for at, each in history if at < now - DAMPING.hold_ns]
        # What was seen within the shortest hold can't have been forgotten.
        assert damped.health.score <= min(held + before[-1:] if len(history) > 1 else [score])


# -- flips ---------------------------------------------------------------------------------------


def flipped(limit: FlipLimit, *at_s: int) -> Flips:
    flips = Flips(limit)
    for moment in at_s:
        flips.flipped(moment * SECOND)
    return flips


def test_without_a_limit_nothing_sticks() -> None:
    assert not flipped(FlipLimit(), *range(100)).limited


def test_at_the_limit_it_sticks() -> None:
    limit = FlipLimit(flips=3)
    assert not flipped(limit, 1, 2).limited
    assert flipped(limit, 1, 2, 3).limited


def test_flips_leave_the_window_but_not_the_limit() -> None:
    limit = FlipLimit(flips=3, window_ns=60 * SECOND)
    slow = flipped(limit, 1, 2)
    assert (slow.since_ns, slow.window_ends_ns) == (SECOND, 61 * SECOND)
    slow.pass_time(61 * SECOND)
    assert slow.count == 2
    slow.pass_time(61 * SECOND + 1)
    assert (slow.count, slow.since_ns, slow.window_ends_ns) == (1, 2 * SECOND, 62 * SECOND)
    slow.pass_time(63 * SECOND)
    assert (slow.count, slow.since_ns, slow.window_ends_ns) == (0, 0, 0)
    stuck = flipped(limit, 1, 2, 3)
    assert (stuck.since_ns, stuck.window_ends_ns) == (SECOND, 0), "no time ends it"
    stuck.pass_time(9999 * SECOND)
    assert stuck.limited


def test_flips_further_apart_than_the_window_are_not_added_up() -> None:
    """Whether anybody asked in between or not."""
    limit = FlipLimit(flips=3, window_ns=60 * SECOND)
    assert not flipped(limit, 1, 62, 123, 184).limited
    assert flipped(limit, 1, 50, 61).limited


def test_without_a_window_no_time_ends_a_flip() -> None:
    flips = flipped(FlipLimit(flips=3), 1)
    flips.pass_time(9999 * SECOND)
    assert (flips.count, flips.since_ns, flips.window_ends_ns) == (1, SECOND, 0)


def test_a_flip_is_of_the_failure_that_caused_it() -> None:
    """Also where the flip is known first."""
    flips = flipped(FlipLimit(flips=2), 1)
    flips.see(well=True)
    flips.flipped(2 * SECOND)
    flips.see(well=False)
    assert flips.count == 1


def test_the_next_failure_after_all_recovered_begins_a_new_count() -> None:
    flips = flipped(FlipLimit(flips=2), 1, 2)
    flips.see(well=False)
    assert (flips.limited, flips.recovered) == (True, False)
    flips.see(well=True)
    assert (flips.limited, flips.recovered) == (True, True)
    flips.see(well=False)
    assert (flips.limited, flips.recovered, flips.since_ns) == (False, False, 0)
