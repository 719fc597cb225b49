# SPDX-License-Identifier: Apache-2.0
"""Entries on their way to the other node: all arrive, nobody waits, and who falls behind is
filled anew."""

from __future__ import annotations

from collections import deque

import pytest
from msgspec.structs import replace

from twinbeat.sessions.entries import Origin, Reason, Store
from twinbeat.sessions.replication import (
    BATCH_MOST,
    DROP_MOST,
    GIVE_UP_NS,
    OUTSTANDING_MOST,
    RETRY_NS,
    SNAPSHOT_TICK,
    Batch,
    Follower,
    Leader,
    Part,
    State,
)
from twinbeat.sessions.rules import Persistence

MS = 1_000_000
S = 1000 * MS
TICK_NS = 20 * MS
WEB = Persistence(name="web", vips=("192.0.2.10",), port=80, pool="web", timeout_s=60)
PROXY = Persistence(name="proxy", kind="opaque", timeout_s=60)
SERVERS = ("10.0.0.1", "10.0.0.2")


def key(number: int) -> bytes:
    return number.to_bytes(4)


class Pair:
    """Two nodes, of which one leads, and a line between them that may be slow or full."""

    def __init__(self, *rules: Persistence) -> None:
        self.now_ns = 1000 * S
        self.mine, self.other = Store(), Store()
        for store in (self.mine, self.other):
            store.configure(rules or (WEB, PROXY))
        self.windows: list[tuple[int, int]] = []
        self.leader = Leader(
            self.mine, lambda length, count: self.windows.append((length, count)), self._clock
        )
        self.follower = Follower(self.other)
        self.line: deque[Batch] = deque()
        self.room = 1_000_000
        self.stopped = False
        """The other node takes nothing."""

    def _clock(self) -> int:
        return self.now_ns

    def connect(self) -> None:
        self.leader.follow(self._carry, self.now_ns)

    def _carry(self, batch: Batch) -> bool:
        if len(self.line) >= self.room:
            return False
        self.line.append(batch)
        return True

    def bind(self, number: int, server: int = 0, origin: Origin = Origin.KERNEL) -> None:
        self.mine.table("web").put(key(number), SERVERS[server], self.now_ns, origin=origin)

    def run(self, ticks: int = 1) -> None:
        for _ in range(ticks):
            self.now_ns += TICK_NS
            self.leader.tick(self.now_ns)
            while self.line and not self.stopped:
                batch = self.line.popleft()
                self.follower.take(batch, self.now_ns, leading=False)
                while self.follower.drop(self.now_ns, leading=False):
                    pass
                self.leader.answered(batch.number, self.now_ns)

    @property
    def alike(self) -> bool:
        return all(
            self._held(self.mine, rule) == self._held(self.other, rule) for rule in self.mine.tables
        )

    def _held(self, store: Store, rule: str) -> dict[bytes, tuple[str, int]]:
        """Server, and the end to a millisecond: that is what is told of it."""
        return {
            name: (entry.server, entry.expires_ns // MS)
            for name, entry in store.table(rule).items(self.now_ns)
        }


def connected() -> Pair:
    pair = Pair()
    pair.connect()
    pair.run()
    assert pair.leader.state is State.IN_STEP
    return pair


def test_what_is_made_is_there_with_what_remains_of_it() -> None:
    pair = connected()
    pair.bind(1)
    pair.run()
    (held,) = pair.other.table("web").keys()
    entry = pair.other.get("web", held, pair.now_ns)
    assert entry is not None
    assert entry.server == SERVERS[0]
    assert entry.remaining_ns(pair.now_ns) == 60 * S - TICK_NS


def test_the_window_is_from_the_making_to_the_answer() -> None:
    pair = connected()
    pair.leader.made_ns = pair.now_ns - 5 * MS
    pair.bind(1)
    pair.bind(2)
    pair.leader.made_ns = None
    pair.run()
    assert pair.windows == [(25 * MS, 2)]
    assert pair.leader.outstanding == 0


def test_a_prolongation_is_told_once_a_second() -> None:
    pair = connected()
    pair.bind(1)
    pair.run()
    sent = pair.leader.counts["sent"]
    for _ in range(100):
        pair.bind(1)
        pair.run()
    assert pair.leader.counts["sent"] - sent in {2, 3}
    mine = pair.mine.get("web", key(1), pair.now_ns)
    other = pair.other.get("web", key(1), pair.now_ns)
    assert mine is not None
    assert other is not None
    assert 0 <= mine.expires_ns - other.expires_ns <= S


def test_another_server_and_an_end_are_told_at_once() -> None:
    pair = connected()
    for number in range(4):
        pair.bind(number)
    pair.run()
    pair.bind(1, server=1)
    pair.mine.delete("web", key(2), pair.now_ns)
    pair.run()
    assert pair.alike
    assert pair.other.table("web").servers == {SERVERS[0]: 2, SERVERS[1]: 1}


def test_whoever_comes_back_is_filled_and_what_it_had_too_much_goes() -> None:
    pair = Pair()
    count = 5 * SNAPSHOT_TICK + 7
    for number in range(count):
        pair.bind(number)
    pair.mine.put("proxy", b"cookie", "app1", pair.now_ns)
    pair.other.table("web").put(key(count + 1), SERVERS[1], pair.now_ns, origin=Origin.PEER)
    pair.other.table("web").put(key(1), SERVERS[1], pair.now_ns, origin=Origin.PEER)
    pair.connect()
    pair.run()
    assert pair.leader.state is State.FILLING, "it is paced"
    pair.run(8)
    assert pair.leader.state is State.IN_STEP
    assert len(pair.other.table("web")) == count
    assert pair.other.table("web").counts[Reason.STALE] == 1
    assert pair.windows == [], "what a snapshot repeats says nothing of the window"
    assert pair.leader.filled == (count + 1, count + 1)


def superfluous(pair: Pair) -> int:
    """The other node has more than a snapshot of nothing names; how many too many."""
    count = 3 * DROP_MOST + 5
    table = pair.other.table("web")
    for number in range(count):
        table.put(key(number), SERVERS[0], pair.now_ns, origin=Origin.PEER)
    for number, part in enumerate((Part.BEGIN, Part.END), 1):
        pair.follower.take(Batch(number=number, part=part), pair.now_ns, leading=False)
    return count


def test_what_is_too_much_goes_a_bounded_number_at_a_time() -> None:
    pair = Pair()
    left, table = superfluous(pair), pair.other.table("web")
    more = True
    while more:
        before, more = left, pair.follower.drop(pair.now_ns, leading=False)
        left = len(table)
        assert before - left <= DROP_MOST
        assert bool(left) == more
    assert table.counts[Reason.STALE] == 3 * DROP_MOST + 5
    assert not pair.follower.drop(pair.now_ns, leading=False)


def test_who_leads_by_now_or_lost_the_other_drops_no_more() -> None:
    for lost in (False, True):
        pair = Pair()
        count = superfluous(pair)
        assert pair.follower.drop(pair.now_ns, leading=False)
        if lost:
            pair.follower.lost()
        assert not pair.follower.drop(pair.now_ns, leading=not lost)
        assert not pair.follower.drop(pair.now_ns, leading=False)
        assert len(pair.other.table("web")) == count - DROP_MOST


def test_what_changes_while_it_is_filled_is_right_in_the_end() -> None:
    pair = Pair()
    for number in range(4 * BATCH_MOST):
        pair.bind(number)
    pair.connect()
    for turn in range(8):
        pair.bind(4 * BATCH_MOST - 1 - turn, server=1)
        pair.bind(10_000 + turn)
        pair.mine.delete("web", key(turn), pair.now_ns)
        pair.mine.delete("web", key(3 * BATCH_MOST + turn), pair.now_ns)
        pair.run()
    pair.run(3)
    assert pair.leader.state is State.IN_STEP
    assert pair.mine.table("web").servers == pair.other.table("web").servers
    assert set(pair.mine.table("web").keys()) == set(pair.other.table("web").keys())


def test_a_node_that_stops_taking_is_left_behind_and_caught_up_with() -> None:
    pair = connected()
    pair.stopped = True
    for number in range(2 * OUTSTANDING_MOST):
        pair.bind(number)
        pair.run()
    assert pair.leader.state is State.BEHIND
    assert pair.leader.counts["resync slow"] == 1
    assert len(pair.line) == OUTSTANDING_MOST
    assert pair.leader.waiting == 0
    pair.stopped = False
    pair.run(RETRY_NS // TICK_NS + 10)
    assert pair.leader.state is State.IN_STEP
    assert pair.alike


@pytest.mark.parametrize("how", ["slow", "unanswered", "crowded"])
def test_the_window_has_what_was_made_while_the_other_node_was_behind(how: str) -> None:
    """All of it as old as the first of it, until the snapshot is there."""
    pair, patience_ns = connected(), RETRY_NS
    if how == "crowded":
        pair.room = 0
    else:
        pair.stopped = True
    for number in range(OUTSTANDING_MOST + 1):
        pair.bind(number)
        if pair.stopped:
            pair.run()
    pair.run()
    assert pair.leader.state is State.BEHIND
    if how == "unanswered":
        pair.line.clear()
        patience_ns += GIVE_UP_NS
    pair.bind(1, server=1)
    pair.bind(900)
    pair.mine.delete("web", key(2), pair.now_ns)
    pair.stopped, pair.room = False, 1_000_000
    pair.run(patience_ns // TICK_NS + 10)
    assert pair.leader.state is State.IN_STEP
    assert sum(count for _, count in pair.windows) == OUTSTANDING_MOST + 3
    late = sum(count for length, count in pair.windows if length >= patience_ns)
    # The slow one answers what it was sent, and of that only the first was so long ago.
    assert late >= 3 if how == "slow" else late == OUTSTANDING_MOST + 3
    before = len(pair.windows)
    pair.bind(901)
    pair.run()
    assert pair.windows[before:] == [(TICK_NS, 1)], "and no more"


def test_a_line_without_room_is_not_waited_for() -> None:
    pair = connected()
    pair.room = 0
    pair.bind(1)
    pair.run()
    assert pair.leader.state is State.BEHIND
    pair.run(20)
    assert pair.leader.counts["resync crowded"] == 1, "not with every tick"
    pair.room = 100
    pair.run(RETRY_NS // TICK_NS + 5)
    assert pair.leader.state is State.IN_STEP
    assert pair.alike


def test_what_came_from_the_other_node_is_not_sent_back() -> None:
    pair = connected()
    batches = pair.leader.counts["batches"]
    pair.bind(1, origin=Origin.PEER)
    pair.run()
    assert pair.leader.counts["batches"] == batches


def test_who_leads_by_now_takes_only_what_it_doesn_t_know() -> None:
    pair = Pair()
    pair.other.table("web").put(key(1), SERVERS[1], pair.now_ns, origin=Origin.KERNEL)
    last = Batch(
        number=9,
        rule="web",
        entries=((key(1), SERVERS[0], 50_000), (key(2), SERVERS[0], 50_000)),
        gone=(key(1),),
    )
    assert pair.follower.take(last, pair.now_ns, leading=True)
    assert pair.other.table("web").servers == {SERVERS[0]: 1, SERVERS[1]: 1}
    pair.follower.take(Batch(number=10, part=Part.BEGIN), pair.now_ns, leading=True)
    pair.follower.take(Batch(number=11, part=Part.END), pair.now_ns, leading=True)
    assert len(pair.other.table("web")) == 2


def test_nonsense_and_rules_that_aren_t_there_are_counted() -> None:
    pair = Pair()
    good = (key(1), SERVERS[0], 1000)
    odd = Batch(number=1, rule="web", entries=(good, (b"long key", SERVERS[0], 1), (key(2), "", 1)))
    assert pair.follower.take(odd, pair.now_ns, leading=False)
    assert not pair.follower.take(
        Batch(number=2, rule="strange", entries=(good,)), pair.now_ns, leading=False
    )
    assert pair.follower.counts == {"received": 1, "malformed": 2, "unknown_rule": 1}
    assert pair.other.table("web").keys() == [key(1)]


def test_what_the_other_node_may_not_have_is_known() -> None:
    pair = connected()
    assert pair.leader.untold() == {}
    pair.bind(1)
    assert pair.leader.untold() == {"web": {key(1)}}
    pair.stopped = True
    pair.run()
    pair.bind(2)
    pair.mine.put("proxy", b"cookie", "app1", pair.now_ns)
    assert pair.leader.untold() == {"web": {key(1), key(2)}, "proxy": {b"cookie"}}
    pair.stopped = False
    pair.run()
    assert pair.leader.untold() == {}
    pair.bind(3)
    pair.leader.follow(None, pair.now_ns)
    pair.bind(4)
    pair.bind(5, origin=Origin.PEER)
    assert pair.leader.untold() == {"web": {key(3), key(4)}}, "it leads no longer"
    pair.leader.follow(None, pair.now_ns, lost=True)
    pair.bind(6)
    assert pair.leader.untold() is None, "it may lack anything"
    pair.connect()
    assert pair.leader.untold() is None


def test_the_window_has_what_was_made_before_there_was_anything_to_be_sent() -> None:
    pair = Pair()
    pair.bind(1)
    pair.leader.expect(pair.now_ns)
    pair.run()
    pair.bind(2)
    pair.run()
    pair.connect()
    pair.run(2)
    assert pair.leader.state is State.IN_STEP
    assert pair.windows == [(3 * TICK_NS, 1)]


def test_what_is_left_stays_so_where_the_timeout_is_a_shorter_one_by_now() -> None:
    pair = Pair(WEB)
    pair.mine.table("web").put(key(1), SERVERS[0], pair.now_ns, origin=Origin.KERNEL)
    for store in (pair.mine, pair.other):
        store.configure([replace(WEB, timeout_s=3)])
    pair.connect()
    pair.run(10)
    pair.now_ns += 20 * S
    held = pair.other.table("web").get(key(1), pair.now_ns)
    assert held is not None
    assert 39 * S <= held.remaining_ns(pair.now_ns) <= 40 * S


def test_a_full_table_has_the_same_entries_on_both_nodes() -> None:
    """The order of use is not: that an entry was used again is told only now and then."""
    pair = Pair(replace(WEB, limit=16))
    pair.connect()
    for number in range(16):
        pair.bind(number)
    pair.run()
    for number in range(16, 200):
        # The oldest is used again, and the one behind it goes.
        oldest = pair.mine.table("web").keys()[0]
        pair.mine.table("web").put(oldest, SERVERS[0], pair.now_ns, origin=Origin.KERNEL)
        pair.bind(number)
        pair.run()
        assert set(pair.other.table("web").keys()) == set(pair.mine.table("web").keys())
    assert pair.other.table("web").counts[Reason.EVICTED] == 0


def test_who_asks_for_everything_gets_it_at_once_but_not_again_and_again() -> None:
    pair = connected()
    pair.run(RETRY_NS // TICK_NS)
    for number in range(10):
        pair.bind(number)
    pair.leader.asked()
    pair.run(3)
    assert pair.leader.state is State.IN_STEP
    assert pair.alike
    assert pair.leader.counts["snapshots"] == 2
    for _ in range(RETRY_NS // TICK_NS - 5):
        pair.leader.asked()
        pair.run()
    assert pair.leader.counts["snapshots"] == 2
    pair.run(10)
    assert pair.leader.counts["snapshots"] == 3
    assert pair.leader.state is State.IN_STEP


def test_an_answer_that_never_comes_holds_up_nothing_for_ever() -> None:
    pair = connected()
    pair.stopped = True
    pair.bind(1)
    pair.run()
    pair.line.clear()  # Neither it nor an answer to it arrives.
    pair.leader.asked()
    pair.stopped = False
    pair.run(RETRY_NS // TICK_NS + 2)
    assert pair.leader.state is State.BEHIND
    pair.run(GIVE_UP_NS // TICK_NS)
    assert pair.leader.state is State.IN_STEP
    assert pair.alike
