# SPDX-License-Identifier: Apache-2.0
"""R22: intervals change while two nodes run, each at its own time, and nobody is suspected."""

from dataclasses import replace

import pytest

from twinbeat.engine.types import EventKind, Facts, Flag, Proposal, Settings
from unit.engine_bench import FAST, MS, US, Bench, primary, secondary

SLOW = replace(
    FAST,
    timers=replace(FAST.timers, hello_ns=5 * MS, dead_ns=20 * MS, lease_ns=100 * MS),
)
WISH = Proposal(
    number=3,
    flags=Flag.PROPOSAL,
    hello_us=5_000,
    dead_us=20_000,
    verify_us=700,
    stall_us=2_500,
    lease_us=50_000,
    every=4,
)


HELLO, DEAD = FAST.timers.hello_ns, FAST.timers.dead_ns


def says(bench: Bench, *, hello_us: int = HELLO // US, dead_us: int = DEAD // US) -> None:
    """From now on the peer's frames say this."""
    words = bench.peer.maps.self
    words.hello_us, words.dead_us = hello_us, dead_us


def use(bench: Bench, settings: Settings) -> None:
    """Settings of the node alone: the peer's agent beats as before."""
    bench.node.engine.configure(settings)


def sent(bench: Bench, duration_ns: int) -> int:
    """Rounds with heartbeats within a time."""
    before = len(bench.rounds)
    bench.run(duration_ns)
    return sum(bool(each.frames) for each in bench.rounds[before:])


def test_a_slower_peer_is_tolerated_at_once() -> None:
    bench = secondary()
    says(bench, hello_us=5_000)
    bench.hello()
    bench.agent = False
    bench.run(14 * MS)
    assert not bench.told(EventKind.SUSPECT)
    bench.run(2 * MS)
    assert bench.told(EventKind.SUSPECT), "three of its heartbeats, and no more"


def test_a_node_slows_down_when_the_peer_tolerates_it() -> None:
    bench = secondary()
    says(bench)
    bench.run(MS)
    use(bench, SLOW)
    assert sent(bench, 10 * MS) >= 10 * MS // HELLO - 1
    says(bench, dead_us=6_000)
    bench.run(MS)
    assert sent(bench, 20 * MS) == pytest.approx(10, abs=1)
    says(bench, dead_us=20_000)
    bench.run(5 * MS)
    assert sent(bench, 50 * MS) == pytest.approx(10, abs=1)


def test_a_peer_that_tolerates_little_makes_nobody_faster() -> None:
    bench = secondary()
    use(bench, SLOW)
    says(bench, dead_us=20_000)
    bench.run(10 * MS)
    says(bench, dead_us=600)
    bench.run(10 * MS)
    assert sent(bench, 50 * MS) == pytest.approx(10, abs=1)


def test_a_faster_heartbeat_comes_at_once() -> None:
    bench = secondary()
    use(bench, SLOW)
    says(bench, dead_us=20_000)
    bench.run(11 * MS)
    use(bench, FAST)
    bench.round()  # The thread comes to it with the next one of the old heartbeats at the latest.
    assert sent(bench, 2 * MS) >= 2 * MS // HELLO - 1


def test_a_shorter_dead_interval_is_used_when_the_peer_knows_of_it() -> None:
    bench = secondary()
    use(bench, SLOW)
    says(bench, dead_us=20_000)
    bench.run(5 * MS)
    bench.kernel = False  # It hears nothing any more, and goes on speaking.
    use(bench, FAST)
    bench.run(2 * MS)
    assert bench.node.engine.engine.dead == 20 * MS
    assert bench.node.kernel.maps.self.dead_us == DEAD // US, "it says so all the same"
    bench.kernel = True
    bench.run(2 * MS)
    assert bench.node.engine.engine.dead == max(DEAD, 3 * HELLO)


def test_a_longer_lease_is_no_doubt_of_the_reign() -> None:
    bench = primary()
    use(bench, SLOW)
    bench.run(30 * MS)
    assert bench.gate_open
    assert not bench.told(EventKind.CLAIM), "nothing has to be earned again"
    use(bench, FAST)
    bench.run(30 * MS)
    assert bench.gate_open
    assert not bench.told(EventKind.CLAIM)


def test_one_heartbeat_of_so_many_carries_the_proposal() -> None:
    bench = secondary()
    bench.order_again(facts=Facts(proposal=WISH))
    bench.rounds.clear()
    bench.run(8 * MS)
    words = [frame for told in bench.rounds for _, frame in told.frames]
    carrying = [frame for frame in words if int.from_bytes(frame[84:88]) & Flag.PROPOSAL]
    assert len(carrying) == pytest.approx(len(words) / 4, abs=1)
    peer = bench.peer.maps.peer
    assert peer.proposal.number == 3
    assert peer.proposal.dead_us == 20_000
    assert peer.proposal.stall_us == 2_500
    assert peer.proposal.lease_us == 50_000
    now = FAST.timers
    assert peer.hello_us == now.hello_ns // US
    assert peer.dead_us == now.dead_ns // US
    assert peer.verify_us == now.verify_ns // US
    assert (peer.lease_full_us, peer.generation, peer.digest) == (10_000, 0, 0)
    assert not peer.flags & Flag.PROPOSAL


def test_a_suspicious_node_proposes_nothing() -> None:
    bench = secondary()
    bench.order_again(facts=Facts(proposal=WISH))
    bench.agent = False
    bench.run(5 * MS)
    bench.rounds.clear()
    bench.run(2 * MS)
    words = [frame for told in bench.rounds for _, frame in told.frames]
    assert words
    assert not any(int.from_bytes(frame[84:88]) & Flag.PROPOSAL for frame in words)


def test_a_new_epoch_is_not_adopted_from_a_proposal() -> None:
    """It doesn't say which intervals are kept."""
    bench = secondary()
    assert bench.says & Flag.NEGOTIATES
    bench.peer.gate.counter = 11 << 32
    epoch = bench.node.kernel.peer.epoch
    for proposing, adopted in ((True, epoch), (False, 11)):
        frame = bench.hello_frame(proposing=proposing)
        bench.node.kernel.receive(0, frame, bench.now)
        assert bench.node.kernel.peer.epoch == adopted
