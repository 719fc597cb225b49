# SPDX-License-Identifier: Apache-2.0
"""Two nodes give the records of both: each is taken once, in order, whoever is away or lies."""

from __future__ import annotations

import random

import pytest

from twinbeat.weblog.block import Block
from twinbeat.weblog.client import merge
from twinbeat.weblog.client.merge import Pair, RefusedError, Taken
from twinbeat.weblog.client.writing import Source
from twinbeat.weblog.messages import Cursor, Gap, Stream
from unit.weblog_node import records

SOURCE = Source("web", "nginx", "")


def stream(node: str, epoch: int, end: int, oldest: int = 0) -> Stream:
    return Stream(node=node, epoch=epoch, oldest=oldest, received=end, durable=end, replicated=end)


def some(first: int, count: int, node: str = "a", epoch: int = 1) -> Block:
    return records(node, epoch, first, [b"%d" % number for number in range(first, first + count)])


def pair_of(*streams: Stream, cursors: dict[tuple[str, str, int], int] | None = None) -> Pair:
    """Both nodes are there and have the same."""
    made = Pair("1", cursors or {}, 0.0)
    made.arrive("a", "b", streams, 0.0)
    made.arrive("b", "a", streams, 0.0)
    return made


def take(pair: Pair, node: str, each: Block) -> bytes:
    piece = pair.take(node, each, SOURCE, Taken())
    return b"" if piece is None else piece.payload


def test_each_stream_is_asked_of_its_own_node_and_else_of_the_other() -> None:
    pair = pair_of(stream("a", 1, 5), stream("b", 7, 3), cursors={("1", "a", 1): 2})
    assert pair.wanted("a", 1.0) == [Cursor(node="a", epoch=1, next=2)]
    assert pair.wanted("b", 1.0) == [Cursor(node="b", epoch=7, next=0)]
    pair.leave("a", 1.0)
    assert pair.wanted("b", 1.0) == [
        Cursor(node="a", epoch=1, next=2),
        Cursor(node="b", epoch=7, next=0),
    ]


def test_what_came_before_is_dropped_and_counted() -> None:
    pair = pair_of(stream("a", 1, 10))
    taken = Taken()
    assert take(pair, "a", some(0, 4)) == b"0\n1\n2\n3\n"
    for giver, each in (("b", some(0, 4)), ("a", some(1, 2)), ("b", some(2, 4))):
        pair.take(giver, each, SOURCE, taken)
    assert (taken.new, taken.twice) == (2, 4 + 2 + 2)
    assert pair.places() == {("1", "a", 1): 6}


@pytest.mark.parametrize(
    ("each", "code"),
    [
        (some(1, 2), "hole"),
        (some(0, 2, node="c"), "stream"),
        (some(0, 2, epoch=9), "stream"),
        (some(merge.SEQUENCE_MAX, 1), "sequence"),
    ],
)
def test_what_can_t_be_is_refused_and_changes_nothing(each: Block, code: str) -> None:
    pair = pair_of(stream("a", 1, 10))
    with pytest.raises(RefusedError) as found:
        take(pair, "a", each)
    assert found.value.code == code
    assert pair.places() == {}


def test_two_nodes_with_one_name_are_refused() -> None:
    pair = pair_of()
    with pytest.raises(RefusedError, match="PAIR"):
        pair.arrive("a", "b", (), 1.0)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J"])
def test_names_that_would_spoil_a_log_are_refused(name: str) -> None:
    pair = Pair("1", {}, 0.0)
    with pytest.raises(RefusedError):
        pair.arrive(name, "b", (), 0.0)
    with pytest.raises(RefusedError):
        pair.arrive("a", "b", (stream(name, 1, 3),), 0.0)


def test_an_epoch_waits_for_the_end_of_the_one_before() -> None:
    pair = pair_of(stream("a", 1, 4), stream("a", 2, 2))
    assert [each.epoch for each in pair.wanted("a", 0.0)] == [1]
    take(pair, "a", some(0, 4))
    assert [each.epoch for each in pair.wanted("a", 0.0)] == [2]


def test_what_a_node_s_own_disk_has_forgotten_is_asked_of_the_other() -> None:
    """Else nothing of that node would ever come again: its next epoch waits for the end of this."""
    pair = Pair("1", {("1", "a", 1): 5}, 0.0)
    pair.arrive("a", "b", [stream("a", 1, 5), stream("a", 2, 3)], 0.0)
    pair.arrive("b", "a", [stream("a", 1, 8), stream("a", 2, 3)], 0.0)
    assert pair.wanted("a", 1.0) == []
    assert pair.wanted("b", 1.0) == [Cursor(node="a", epoch=1, next=5)]
    assert take(pair, "b", some(5, 3)) == b"5\n6\n7\n"
    assert pair.wanted("a", 2.0) == [Cursor(node="a", epoch=2, next=0)]


def test_while_its_node_is_away_nobody_knows_an_epoch_s_end() -> None:
    pair = pair_of(stream("a", 1, 4), stream("a", 2, 2))
    pair.leave("a", 100.0)
    take(pair, "b", some(0, 4))
    assert pair.wanted("b", 100.0 + merge.EPOCH_PATIENCE_S - 0.1) == []
    assert [each.epoch for each in pair.wanted("b", 100.0 + merge.EPOCH_PATIENCE_S)] == [2]
    # It comes back, and has more of the old epoch than its peer had.
    pair.arrive("a", "b", [stream("a", 1, 6), stream("a", 2, 2)], 200.0)
    assert [each.epoch for each in pair.wanted("a", 200.0)] == [1]


def gap(first: int, count: int, reason: str = "full") -> Gap:
    return Gap(node="a", epoch=1, first=first, count=count, reason=reason)  # type: ignore[arg-type]


def test_a_gap_of_one_node_is_filled_by_the_other() -> None:
    pair = pair_of(stream("a", 1, 10))
    pair.gap("a", gap(0, 5), 1.0)
    assert take(pair, "a", some(5, 5)) == b""  # it may not overtake what the other one has
    assert pair.wanted("a", 1.0) == []
    assert pair.wanted("b", 1.0) == [Cursor(node="a", epoch=1, next=0)]
    assert take(pair, "b", some(0, 5)) == b"0\n1\n2\n3\n4\n"
    assert pair.wanted("a", 1.0) == [Cursor(node="a", epoch=1, next=5)]
    assert pair.losses == []


def test_a_gap_of_both_is_a_loss_as_far_as_both_say_so() -> None:
    pair = pair_of(stream("a", 1, 10))
    pair.gap("a", gap(0, 5), 1.0)
    pair.gap("b", gap(0, 3), 1.0)
    assert [(each.first, each.count, each.reason) for each in pair.losses] == [(0, 3, "full")]
    assert pair.places() == {("1", "a", 1): 3}
    pair.losses.clear()
    pair.gap("a", gap(0, 5), 1.0)
    assert take(pair, "b", some(3, 7)) == b"".join(b"%d\n" % number for number in range(3, 10))
    assert pair.losses == []


def test_a_gap_is_a_loss_where_the_other_node_does_not_know_the_stream() -> None:
    pair = Pair("1", {}, 0.0)
    pair.arrive("a", "b", [stream("a", 1, 10)], 0.0)
    pair.arrive("b", "a", [], 0.0)
    pair.gap("a", gap(0, 5), 1.0)
    assert [each.count for each in pair.losses] == [5]


def test_who_is_away_may_have_what_is_missing_but_not_for_ever() -> None:
    pair = pair_of(stream("a", 1, 10))
    pair.leave("a", 1.0)
    pair.gap("b", gap(0, 5), 2.0)
    pair.resolve(2.0 + merge.GAP_PATIENCE_S - 0.1)
    assert pair.losses == []
    pair.resolve(2.0 + merge.GAP_PATIENCE_S)
    assert [each.count for each in pair.losses] == [5]
    assert "did not come back" in str(pair.losses[0])


@pytest.mark.parametrize("wrong", [gap(0, 11), gap(0, 1 << 62)])
def test_a_gap_beyond_all_that_there_is_is_refused(wrong: Gap) -> None:
    pair = pair_of(stream("a", 1, 10))
    with pytest.raises(RefusedError):
        pair.gap("a", wrong, 1.0)
    assert pair.places() == {}


def test_what_was_not_written_is_asked_for_again() -> None:
    pair = pair_of(stream("a", 1, 10))
    take(pair, "a", some(0, 4))
    state = pair.places()
    pair.written(state)
    take(pair, "a", some(4, 4))
    pair.gap("a", gap(8, 1), 1.0)
    assert pair.acknowledged("b") == [Cursor(node="a", epoch=1, next=4)]
    pair.fall_back(state)
    assert pair.wanted("a", 1.0) == [Cursor(node="a", epoch=1, next=4)]
    assert take(pair, "a", some(4, 4)) == b"4\n5\n6\n7\n"
    # A commit that failed may be on the disk nevertheless.
    pair.fall_back({("1", "a", 1): 6, ("other", "a", 1): 9})
    assert pair.wanted("a", 1.0) == [Cursor(node="a", epoch=1, next=6)]
    assert pair.acknowledged("a") == [Cursor(node="a", epoch=1, next=6)]


def test_old_epochs_are_forgotten_at_last() -> None:
    count = merge.EPOCHS_MAX + 3
    pair = Pair("1", {("1", "a", epoch): 5 for epoch in range(count)}, 0.0)
    assert pair.over() == [("1", "a", epoch) for epoch in range(3)]
    assert len(pair.places()) == merge.EPOCHS_MAX


def test_any_order_of_answers_takes_each_record_once() -> None:
    """Two nodes that come and go, have different ends and give what they like."""
    for seed in range(200):
        rng = random.Random(seed)
        end = {"a": 30, "b": rng.randrange(5, 31)}
        pair = Pair("1", {}, 0.0)
        here: set[str] = set()
        got: list[bytes] = []
        now_s = 0.0
        for _ in range(60):
            now_s += 1
            node = rng.choice("ab")
            if node not in here:
                pair.arrive(node, "ab"[node == "a"], [stream("a", 1, end[node])], now_s)
                here.add(node)
            elif rng.random() < 0.2:
                pair.leave(node, now_s)
                here.discard(node)
            else:
                for cursor in pair.wanted(node, now_s):
                    first = max(0, cursor.next - rng.randrange(4))
                    count = min(rng.randrange(1, 8), end[node] - first)
                    if count > 0:
                        got += take(pair, node, some(first, count)).split()
        assert got == [b"%d" % number for number in range(len(got))], seed
        if "a" in here and len(got) < 30:
            assert pair.wanted("a", now_s), seed
