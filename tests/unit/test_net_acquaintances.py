# SPDX-License-Identifier: Apache-2.0
"""Who is kept warm, who makes room, who is given up: the rules alone, with a clock by hand."""

import ipaddress

from twinbeat.net.acquaintances import (
    FORGOTTEN_S,
    KEPT_MAX,
    NEWCOMERS_PER_S,
    PATIENCE,
    REFRESH_S,
    Acquaintances,
    Tally,
)

FIRST = ipaddress.IPv4Address("10.99.0.0")
GATEWAY = ipaddress.IPv4Address("10.77.0.254")
CLIENT = ipaddress.IPv4Address("10.77.0.100")


def fresh() -> tuple[Acquaintances, Tally]:
    tally = Tally()
    return Acquaintances(tally), tally


def crowd(kept: Acquaintances, count: int, *, since: float = 0.0) -> float:
    """So many are heard of, as fast as they may come in; the time after the last."""
    now = since
    for number in range(count):
        if number % NEWCOMERS_PER_S == 0:
            now += 1.0
        kept.hear(FIRST + number, now)
    return now


def test_a_neighbour_is_reminded_of_once_a_round() -> None:
    kept, _ = fresh()
    kept.hear(CLIENT, 5.0)
    assert kept.due(5.0, 32) == [CLIENT]
    assert kept.due(5.0 + REFRESH_S / 2, 32) == []
    assert kept.due(5.0 + REFRESH_S, 32) == [CLIENT]


def test_reminders_are_paced() -> None:
    kept, _ = fresh()
    now = crowd(kept, 100)
    batches = [kept.due(now, 32) for _ in range(4)]
    assert [len(batch) for batch in batches] == [32, 32, 32, 4]
    assert len({address for batch in batches for address in batch}) == 100


def test_newcomers_are_let_in_at_a_bounded_rate() -> None:
    kept, tally = fresh()
    for number in range(1000):
        kept.hear(FIRST + number, 7.0)
    assert len(kept) == NEWCOMERS_PER_S
    assert (tally.learned, tally.turned_away) == (NEWCOMERS_PER_S, 1000 - NEWCOMERS_PER_S)


def test_a_scan_pushes_out_nobody_who_answered() -> None:
    kept, tally = fresh()
    kept.hear(CLIENT, 0.0)
    kept.look({CLIENT: True}, 0.0)
    crowd(kept, 4 * KEPT_MAX)
    assert len(kept) == KEPT_MAX
    assert CLIENT in kept
    assert tally.given_up == 3 * KEPT_MAX + 1


def test_a_full_set_turns_newcomers_away_until_somebody_is_forgotten() -> None:
    kept, tally = fresh()
    now = crowd(kept, KEPT_MAX)
    kept.look({FIRST + number: True for number in range(KEPT_MAX)}, 0.0)
    kept.hear(CLIENT, now + 1)
    assert CLIENT not in kept
    assert tally.turned_away == 1
    kept.hear(FIRST, now + 2)
    kept.hear(CLIENT, now + FORGOTTEN_S + 1)
    assert CLIENT in kept
    assert FIRST in kept, "it was heard of in between"
    assert FIRST + 1 not in kept


def test_the_kernel_s_finds_come_in_only_while_there_is_room() -> None:
    kept, tally = fresh()
    for number in range(KEPT_MAX + 50):
        kept.find(FIRST + number, 0.0)
    assert len(kept) == KEPT_MAX
    assert (tally.given_up, tally.turned_away) == (0, 0)


def test_fixed_neighbours_are_beyond_the_limit_and_never_given_up() -> None:
    kept, _ = fresh()
    kept.fix({GATEWAY}, 0.0)
    now = crowd(kept, 2 * KEPT_MAX)
    assert len(kept) == KEPT_MAX + 1
    for _ in range(10):
        now += REFRESH_S
        assert GATEWAY in kept.due(now, 10_000)
        kept.look({GATEWAY: False}, 0.0)
    assert GATEWAY in kept
    kept.fix((), now)
    kept.due(now + REFRESH_S, 10_000)
    kept.look({GATEWAY: False}, 0.0)
    assert GATEWAY not in kept, "no longer fixed, it is like any other"


def test_who_never_answered_is_given_up_at_once() -> None:
    kept, tally = fresh()
    kept.hear(CLIENT, 0.0)
    kept.look({CLIENT: False}, 0.0)
    assert CLIENT in kept, "an old failure: it was not asked for yet"
    kept.due(0.0, 32)
    kept.look({CLIENT: None}, 0.0)
    assert CLIENT in kept
    kept.look({CLIENT: False}, 0.0)
    assert CLIENT not in kept
    assert tally.given_up == 1


def test_who_answered_once_is_given_up_after_some_rounds() -> None:
    kept, _ = fresh()
    kept.hear(CLIENT, 0.0)
    kept.look({CLIENT: True}, 0.0)
    assert kept.warm == 1
    for number in range(PATIENCE):
        assert CLIENT in kept
        kept.due(number * REFRESH_S, 32)
        for _ in range(4):
            kept.look({CLIENT: False}, 0.0)
        assert kept.warm == 0
    assert CLIENT not in kept


def test_a_flushed_table_says_nothing_of_the_neighbours() -> None:
    kept, _ = fresh()
    kept.hear(CLIENT, 0.0)
    kept.look({CLIENT: True}, 0.0)
    for number in range(10):
        kept.due(number * REFRESH_S, 32)
        kept.look({}, 0.0)
    assert CLIENT in kept


def test_who_lost_its_mac_is_asked_for_after_each_look_until_it_has_one() -> None:
    kept, _ = fresh()
    kept.hear(CLIENT, 0.0)
    kept.look({CLIENT: True}, 0.0)
    assert kept.due(0.0, 32) == [CLIENT]
    for now, known in ((5.0, {}), (10.0, {CLIENT: None}), (15.0, {CLIENT: False})):
        kept.look(known, now)
        assert kept.due(now, 32) == [CLIENT]
    kept.look({CLIENT: True}, 20.0)
    assert kept.due(20.0, 32) == []


def test_who_was_flushed_before_it_was_seen_is_asked_for_again() -> None:
    kept, _ = fresh()
    kept.hear(CLIENT, 0.0)
    assert kept.due(0.0, 32) == [CLIENT]
    kept.look({}, 5.0)
    assert kept.due(5.0, 32) == [CLIENT]
    kept.look({CLIENT: None}, 10.0)
    assert kept.due(10.0, 32) == [], "it is being asked for"


def test_the_newest_are_those_heard_of_last() -> None:
    kept, _ = fresh()
    for number in range(3):
        kept.hear(FIRST + number, float(number))
    kept.hear(FIRST, 9.0)
    assert kept.newest(2) == [FIRST, FIRST + 2]
