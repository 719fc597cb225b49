# SPDX-License-Identifier: Apache-2.0
"""How two nodes come to want the same intervals, whatever is lost on the way."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from twinbeat.config.load import examine
from twinbeat.core import pace
from twinbeat.core.pace import Agreement
from twinbeat.core.reasons import Code, Refusal
from twinbeat.core.types import MILLISECOND, SECOND, Intervals, Proposal, Timers, Wish

FAST = Intervals(hello_us=200, dead_us=600, verify_us=300, stall_us=2_000, lease_us=10_000)
SLOW = Intervals(hello_us=5_000, dead_us=20_000, verify_us=5_000, stall_us=20_000, lease_us=100_000)
TIMERS = Timers(
    hello_ns=200_000,
    dead_ns=600_000,
    verify_ns=300_000,
    stall_ns=2 * MILLISECOND,
    lease_ns=10 * MILLISECOND,
    attest_ns=500 * MILLISECOND,
    boot_wait_ns=2 * SECOND,
)
NO = Refusal(Code.HOST_LATE, "too late")


def holds(_: Wish) -> Refusal | None:
    return None


def refuses(_: Wish) -> Refusal | None:
    return NO


# -- what is wanted ------------------------------------------------------------------------------


def test_intervals_go_over_timers_and_back() -> None:
    assert pace.intervals_of(pace.over(TIMERS, SLOW)) == SLOW
    assert pace.over(TIMERS, None) == TIMERS


def test_the_other_timers_grow_with_the_lease() -> None:
    long = replace(SLOW, lease_us=3_000_000)
    timers = pace.over(TIMERS, long)
    assert 2 * timers.attest_ns >= 3 * timers.lease_ns
    assert timers.boot_wait_ns >= timers.lease_ns + timers.dead_ns + timers.verify_ns


def test_what_is_not_given_follows_only_where_it_would_contradict() -> None:
    wanted = pace.completed(FAST, {"hello_us": 5_000, "dead_us": 15_000})
    assert pace.flaw(wanted) == ""
    assert wanted == Intervals(
        hello_us=5_000, dead_us=15_000, verify_us=625, stall_us=2_000, lease_us=31_250
    )
    assert pace.completed(SLOW, {"hello_us": 200, "dead_us": 600}) == replace(
        SLOW, hello_us=200, dead_us=600
    )


def test_what_is_given_is_never_changed() -> None:
    wanted = pace.completed(FAST, {"hello_us": 5_000, "dead_us": 15_000, "lease_us": 10_000})
    assert "lease_us" in pace.flaw(wanted)


@pytest.mark.parametrize(
    ("changes", "blamed"),
    [
        ({"hello_us": 99}, "hello_us"),
        ({"hello_us": 201}, "dead_us"),
        ({"dead_us": 599}, "dead_us"),
        ({"verify_us": 99}, "verify_us"),
        ({"hello_us": 3_000, "dead_us": 9_000}, "verify_us"),
        ({"lease_us": 900}, "lease_us"),
        ({"dead_us": 9_700}, "lease_us"),
        ({"stall_us": 10_001}, "stall_us"),
        ({"dead_us": 60_000_001}, "dead_us"),
    ],
)
def test_contradictions_are_named(changes: dict[str, int], blamed: str) -> None:
    assert pace.flaw(replace(FAST, **changes)).startswith(blamed)


def test_the_configuration_has_the_same_relations(tmp_path: Path) -> None:
    """Whatever the one refuses the other one refuses, too."""
    rng = random.Random(3)
    for _ in range(300):
        wanted = Intervals(
            hello_us=rng.randrange(50, 1_000),
            dead_us=rng.randrange(250, 3_000),
            verify_us=rng.randrange(50, 400),
            stall_us=rng.randrange(50, 6_000),
            lease_us=rng.randrange(900, 5_000),
        )
        values = "".join(f"{key} = {getattr(wanted, key)}\n" for key in wanted.__slots__)
        file = tmp_path / "twinbeat.toml"
        file.write_text(f"[timers]\nprofile = 'fast'\n{values}")
        problems = examine(file, offline=True)[1]
        blamed = [each for each in problems if each.key.startswith("timers.")]
        assert bool(blamed) is bool(pace.flaw(wanted)), (wanted, blamed)


# -- agreement -----------------------------------------------------------------------------------


def node() -> Agreement:
    return Agreement(Wish())


def propose(at: Agreement, intervals: Intervals | None) -> Wish:
    at.proposed = at.next(intervals, even_so=False)
    return at.proposed


def test_nothing_wanted_nothing_said() -> None:
    assert node().saying is None
    assert node().agreed


def test_who_asked_adopts_when_the_other_one_has() -> None:
    a, b = node(), node()
    wish = propose(a, SLOW)
    assert b.hear(a.saying, holds).adopted == wish
    assert a.kept.number == 0
    assert a.hear(b.saying, holds).adopted == wish
    assert a.kept == b.kept == wish
    b.hear(a.saying, holds)
    assert a.agreed
    assert b.agreed
    assert a.every == pace.EVERY_AGREED


def test_what_the_other_one_refuses_is_kept_nowhere() -> None:
    a, b = node(), node()
    wish = propose(a, FAST)
    assert b.hear(a.saying, refuses).refused == NO
    b.refuse(wish.number, late_us=450)
    news = a.hear(b.saying, holds)
    assert news.peer_refuses == Proposal(number=1, intervals=None, refuses=True, late_us=450)
    assert (a.kept.number, b.kept.number, a.proposed) == (0, 0, None)
    assert propose(a, SLOW).number == 2, "a refused number is never used again"
    assert b.hear(a.saying, holds).adopted is not None
    assert b.refused is None


def test_a_lost_node_comes_to_the_higher_number() -> None:
    a, b = node(), node()
    for intervals in (SLOW, FAST, SLOW):
        a.adopt(a.next(intervals, even_so=False))
    assert b.hear(a.saying, holds).adopted == a.kept
    assert b.kept.number == 3


def test_an_older_number_changes_nothing() -> None:
    a, b = node(), node()
    a.adopt(a.next(SLOW, even_so=False))
    b.adopt(Wish(number=7, intervals=FAST))
    assert b.hear(a.saying, holds).adopted is None
    assert a.hear(b.saying, holds).adopted == b.kept


def test_two_operators_at_once_come_to_the_slower_one() -> None:
    a, b = node(), node()
    propose(a, FAST)
    propose(b, SLOW)
    said = a.saying
    assert a.hear(b.saying, holds).overtaken
    assert not b.hear(said, holds).overtaken
    assert b.hear(a.saying, holds).adopted is not None
    assert a.kept == b.kept
    assert a.kept.intervals == SLOW


def test_back_to_the_configuration_is_a_wish_as_well() -> None:
    a, b = node(), node()
    b.hear(propose_and_say(a, SLOW), holds)
    a.hear(b.saying, holds)
    b.hear(propose_and_say(a, None), holds)
    a.hear(b.saying, holds)
    assert a.kept == b.kept == Wish(number=2)


def propose_and_say(at: Agreement, intervals: Intervals | None) -> Proposal | None:
    propose(at, intervals)
    return at.saying


def test_a_standing_refusal_is_known() -> None:
    a, b = node(), node()
    a.adopt(a.next(FAST, even_so=False))
    b.hear(a.saying, refuses)
    b.refuse(1, late_us=9)
    a.hear(b.saying, holds)
    assert a.peer_refuses is not None
    assert not a.agreed


def test_who_refuses_may_propose_something_else() -> None:
    a, b = node(), node()
    a.adopt(a.next(FAST, even_so=False))
    b.hear(a.saying, refuses)
    b.refuse(1, late_us=9)
    wish = propose(b, SLOW)
    assert a.hear(b.saying, holds).adopted == wish
    assert b.hear(a.saying, holds).adopted == wish
    assert b.refused is None
    assert a.agreed


def test_any_loss_ends_in_agreement() -> None:
    """Proposals get through now and then, in any order of operators and refusals."""
    for seed in range(200):
        rng = random.Random(seed)
        pair = node(), node()
        late = rng.random() < 0.3
        for _ in range(60):
            one, other = rng.sample(pair, 2)
            if rng.random() < 0.1 and one.proposed is None:
                propose(one, rng.choice((FAST, SLOW, None)))
            if rng.random() < 0.5:
                judge = refuses if late and rng.random() < 0.5 else holds
                said = other.saying
                if one.hear(said, judge).refused is not None:
                    assert said is not None
                    one.refuse(said.number, late_us=1)
        for _ in range(4):
            for one, other in (pair, pair[::-1]):
                one.hear(other.saying, holds)
        kept = {each.kept.number for each in pair}
        refused = any(each.refused is not None for each in pair)
        assert len(kept) == 1 or refused, (seed, [vars(each) for each in pair])
