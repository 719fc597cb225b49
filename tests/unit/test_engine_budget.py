# SPDX-License-Identifier: Apache-2.0
"""What a network or a host that fails may cost: neither the engine nor Python is kept busy by it.

The real engine with a fake clock: answers that never come, heartbeats that always come late.
"""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from twinbeat.engine.step import Round
from twinbeat.engine.types import Cause, EventKind, Permit, Phase, Timers, Watch
from unit.engine_bench import FAST, MS, ORDER, US, Bench, secondary

SECOND = 1000 * MS
BURST = 16
"""Wake-ups at once; then ten a second."""
RATIONED = {EventKind.HEARD, EventKind.STALLED, EventKind.DEAD, EventKind.WITHHELD}
MAY_NOT = replace(ORDER, permits=Permit.MAY_SERVE)
"""Nothing may be claimed, so every verdict is withheld."""


def wakes(rounds: Iterable[Round]) -> int:
    return sum(one.wakes_python for one in rounds)


def verdicts(rounds: Iterable[Round]) -> list[Round]:
    return [one for one in rounds if any(each.kind is EventKind.DEAD for each in one.events)]


def storm(bench: Bench, for_ns: int) -> list[Round]:
    """A heartbeat each 2 ms, and no answer ever; the rounds meanwhile."""
    bench.agent = bench.kernel = False
    first, end = len(bench.rounds), bench.now + for_ns
    while bench.now < end:
        bench.run(2 * MS)
        bench.hello()
    return bench.rounds[first:]


def test_verdicts_that_come_and_go_wake_python_ten_times_a_second_and_not_more() -> None:
    bench = secondary(order=MAY_NOT)
    bench.run(2 * SECOND)
    rounds = storm(bench, 3 * SECOND)
    assert len(verdicts(rounds)) > 1000, "every heartbeat's delay was taken for a death"
    assert BURST <= wakes(rounds) <= BURST + 3 * 10 + 1
    events = [each for one in rounds for each in one.events]
    held = sum(one.waiting for one in rounds)
    assert held > 2000
    assert held < sum(each.kind in RATIONED for each in events)


def test_the_first_verdicts_wake_python_in_their_own_round() -> None:
    bench = secondary(order=MAY_NOT)
    bench.run(2 * SECOND)
    first = verdicts(storm(bench, 20 * MS))
    assert len(first) >= 5
    assert all(one.wakes_python for one in first[:5])
    assert not any(one.waiting for one in first[:5])


def test_what_waits_is_told_though_nothing_comes_after_it() -> None:
    bench = secondary(order=MAY_NOT)
    storm(bench, SECOND)
    for _ in range(100):
        if bench.node.engine.engine.unheeded:
            break
        storm(bench, 2 * MS)
    assert bench.node.engine.engine.unheeded
    bench.agent = bench.kernel = True
    quiet = len(bench.rounds)
    bench.run(200 * MS)
    assert bench.watch is Watch.ALIVE
    assert wakes(bench.rounds[quiet:]) == 1


def test_a_takeover_waits_for_no_budget() -> None:
    bench = secondary(order=MAY_NOT)
    storm(bench, SECOND)
    bench.order_again(permits=ORDER.permits)
    first = len(bench.rounds)
    bench.run(FAST.timers.lease_ns * 2)
    assert bench.phase is Phase.SERVING
    told = [one for one in bench.rounds[first:] if one.opened]
    assert [each.kind for each in told[0].events][-1] is EventKind.OPENED
    assert told[0].waiting == 0


@pytest.mark.parametrize("why", ["no control", "isolated", "the host sends nothing"])
def test_a_verdict_that_can_not_be_given_is_not_hurried_for_long(why: str) -> None:
    bench = secondary()
    bench.agent = bench.kernel = False
    bench.node.control_works = why != "no control"
    if why == "isolated":
        bench.node.link_carrier = 0
    bench.node.sends = why != "the host sends nothing"
    first = len(bench.rounds)
    bench.run(SECOND)
    assert bench.watch is Watch.SUSPECT
    beats = SECOND // FAST.timers.hello_ns
    assert len(bench.rounds) - first < 2 * beats + 600, "else eight times each verify"
    # And when it can be given, it is.
    bench.node.control_works = bench.node.sends = True
    bench.node.link_carrier = FAST.links
    first_ns = bench.now
    bench.run(4 * MS)
    assert bench.last(EventKind.DEAD).at_ns - first_ns < 3 * MS


def test_a_claim_that_waits_for_a_lease_does_not_look_for_a_receipt_all_the_time() -> None:
    timers = Timers(
        hello_ns=20 * MS, dead_ns=60 * MS, verify_ns=100 * MS, stall_ns=60 * MS, lease_ns=SECOND
    )
    settings = replace(FAST, timers=timers, strict=True, late_ns=50 * MS)
    bench = Bench(settings=settings, lease_ns=2 * SECOND)
    bench.peer_serves(501)
    bench.run(SECOND)
    bench.agent = bench.kernel = False
    bench.order_again(permits=ORDER.permits | Permit.CLAIM_NOW)
    first = len(bench.rounds)
    bench.run(2 * SECOND)
    assert bench.last(EventKind.CLAIM).cause is Cause.ORDERED
    assert bench.phase is Phase.CLAIMING
    assert len(bench.rounds) - first < 2 * 100 * MS // (50 * US) + 500
    bench.run(SECOND)
    assert bench.phase is Phase.SERVING
