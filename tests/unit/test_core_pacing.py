# SPDX-License-Identifier: Apache-2.0
"""`set timers`: what one machine makes of it, from the refusal to the answer."""

from dataclasses import replace
from typing import Any

import pytest

from twinbeat.core.effects import Outcome
from twinbeat.core.events import ConfigReloaded, HostMeasured, SetTimers
from twinbeat.core.reasons import Code
from twinbeat.core.types import (
    MILLISECOND,
    SECOND,
    Durable,
    Flag,
    Intervals,
    Proposal,
    Watch,
    Wish,
)
from unit.core_pair import POLICY, TIMERS, WELL, Bench

SLOW = Intervals(hello_us=5_000, dead_us=20_000, verify_us=5_000, stall_us=20_000, lease_us=100_000)
NEGOTIATES = WELL | Flag.OPEN | Flag.NEGOTIATES
ASK = SetTimers(
    request_id="slow",
    hello_us=5_000,
    dead_us=20_000,
    verify_us=5_000,
    stall_us=20_000,
    lease_us=100_000,
)


def says(number: int, intervals: Intervals | None = SLOW, **changes: Any) -> Proposal:
    return Proposal(number=number, intervals=intervals, **changes)


def watching(**changes: Any) -> Bench:
    """A secondary whose peer understands proposals."""
    return Bench(**changes).secondary(flags=NEGOTIATES)


def hear(bench: Bench, proposal: Proposal | None, **changes: Any) -> None:
    bench.hear(flags=NEGOTIATES, term=3, highest=3, proposal=proposal, **changes)


def timers_out(bench: Bench) -> list[int]:
    return [each.timers.hello_ns // 1000 for each in bench.effects if each.timers is not None]


def test_it_is_done_when_both_keep_it() -> None:
    bench = watching()
    bench.feed(ASK)
    assert bench.outcome("slow") is Outcome.ACCEPTED
    assert bench.order.proposal == says(1)
    assert not timers_out(bench), "not before the peer has agreed"
    hear(bench, says(1), hello_us=200, dead_us=20_000)
    assert timers_out(bench) == [5_000]
    assert bench.machine.status.wish.intervals == SLOW
    assert bench.outcome("slow") is Outcome.ACCEPTED, "the peer is still on its way"
    hear(bench, says(1), hello_us=5_000, dead_us=20_000)
    assert bench.outcome("slow") is Outcome.DONE
    assert bench.answer("slow").reason.code is Code.TIMERS_BOTH
    assert "hello 5000 µs" in bench.answer("slow").reason.sentence
    assert bench.order.proposal_every == 64


def test_the_attestation_outlasts_the_new_lease_before_it_is_used() -> None:
    bench = watching()
    bench.feed(replace(ASK, lease_us=1_000_000, even_so=True))
    lease = replace(SLOW, lease_us=1_000_000)
    hear(bench, says(1, lease), hello_us=5_000, dead_us=20_000)
    effects = next(each for each in bench.effects if each.timers is not None)
    assert effects.attest_until_ns is not None
    assert effects.attest_until_ns >= bench.now + SECOND


def test_a_contradiction_is_refused_and_nothing_is_proposed() -> None:
    bench = watching()
    bench.feed(SetTimers(request_id="bad", hello_us=5_000, dead_us=5_000))
    assert bench.outcome("bad") is Outcome.REFUSED
    assert bench.answer("bad").reason.code is Code.TIMERS_CONTRADICT
    assert bench.order.proposal is None


@pytest.mark.parametrize("even_so", [False, True])
def test_a_late_host_refuses_unless_told_to_even_so(even_so: bool) -> None:
    bench = watching()
    bench.feed(HostMeasured(wake_late_ns=6 * MILLISECOND))
    bench.feed(replace(ASK, even_so=even_so))
    if even_so:
        assert bench.outcome("slow") is Outcome.ACCEPTED
        assert bench.order.proposal == says(1, even_so=True)
    else:
        assert bench.answer("slow").reason.code is Code.HOST_LATE
        assert "6 ms late" in bench.answer("slow").reason.sentence


def test_what_the_peer_refuses_is_answered_with_its_reason() -> None:
    bench = watching()
    bench.feed(ASK)
    hear(bench, Proposal(number=1, intervals=None, refuses=True, late_us=7_000))
    assert bench.outcome("slow") is Outcome.REFUSED
    assert bench.answer("slow").reason.code is Code.PEER_LATE
    assert "7 ms" in bench.answer("slow").reason.sentence
    assert not timers_out(bench)


def test_a_peer_that_is_not_heard_is_not_waited_for() -> None:
    bench = watching()
    bench.see_engine(bench.machine.status.engine.phase, Watch.DEAD)  # type: ignore[union-attr]
    bench.feed(ASK)
    assert bench.answer("slow").reason.code is Code.TIMERS_ALONE
    assert timers_out(bench) == [5_000]


def test_a_peer_of_an_older_version_is_sent_nothing() -> None:
    bench = Bench().secondary()
    bench.feed(ASK)
    assert bench.answer("slow").reason.code is Code.TIMERS_ALONE
    assert bench.order.proposal is None


def test_a_peer_that_falls_silent_is_not_waited_for_either() -> None:
    bench = watching()
    bench.feed(ASK)
    bench.see_engine(bench.machine.status.engine.phase, Watch.DEAD)  # type: ignore[union-attr]
    assert bench.answer("slow").reason.code is Code.TIMERS_ALONE


def test_a_peer_that_says_nothing_is_waited_for_so_long() -> None:
    bench = watching()
    bench.feed(ASK)
    bench.wait(4 * SECOND)
    assert bench.outcome("slow") is Outcome.FAILED
    assert bench.answer("slow").reason.code is Code.TIMERS_UNANSWERED
    assert bench.order.proposal is None
    assert not timers_out(bench)


def test_what_the_peer_wants_counts_when_the_own_wish_found_nobody() -> None:
    bench = watching()
    bench.feed(ASK)
    faster = replace(SLOW, hello_us=1_000)
    hear(bench, says(1, faster))  # Of two under one number the slower counts: that of this node.
    assert not timers_out(bench)
    bench.wait(4 * SECOND)
    assert bench.answer("slow").reason.code is Code.TIMERS_UNANSWERED
    assert timers_out(bench) == [1_000]


def test_the_peers_wish_is_kept_and_saved() -> None:
    bench = watching()
    hear(bench, says(4))
    assert timers_out(bench) == [5_000]
    assert any(each.save and each.save.wish.number == 4 for each in bench.effects)
    assert bench.order.proposal == says(4)


def test_the_peers_wish_is_refused_where_the_host_is_late() -> None:
    bench = watching()
    bench.feed(HostMeasured(wake_late_ns=6 * MILLISECOND))
    hear(bench, says(4))
    assert not timers_out(bench)
    assert bench.order.proposal == Proposal(number=4, intervals=None, refuses=True, late_us=6_000)


def test_a_standing_refusal_is_shown() -> None:
    wish = Wish(number=4, intervals=SLOW)
    bench = Bench(durable=Durable(wish=wish)).secondary(flags=NEGOTIATES)
    assert bench.machine.status.timers.hello_ns == 5 * MILLISECOND, "kept over a restart"
    hear(bench, Proposal(number=4, intervals=None, refuses=True, late_us=7_000))
    refused = bench.machine.status.timers_refused
    assert refused is not None
    assert refused.code is Code.PEER_LATE


def test_the_first_of_two_operators_is_told_that_he_was_overtaken() -> None:
    bench = watching()
    bench.feed(replace(ASK, hello_us=200, dead_us=600, verify_us=400))
    hear(bench, says(1))
    assert bench.outcome("slow") is Outcome.FAILED
    assert bench.answer("slow").reason.code is Code.TIMERS_OVERTAKEN


def test_unset_goes_back_to_the_configuration() -> None:
    bench = Bench(durable=Durable(wish=Wish(number=4, intervals=SLOW)))
    bench.secondary(flags=NEGOTIATES)
    bench.feed(SetTimers(request_id="unset", unset=True))
    assert bench.order.proposal == says(5, None)
    hear(bench, says(5, None))
    assert bench.outcome("unset") is Outcome.DONE
    assert timers_out(bench) == [TIMERS.hello_ns // 1_000]


def test_the_same_again_is_nothing_to_change() -> None:
    bench = watching()
    bench.feed(SetTimers(request_id="unset", unset=True))
    assert bench.answer("unset").reason.code is Code.UNCHANGED


def test_a_second_command_waits_for_the_first() -> None:
    bench = watching()
    bench.feed(ASK)
    bench.feed(replace(ASK, request_id="again"))
    assert bench.answer("again").reason.code is Code.BUSY


def test_the_same_request_gets_the_same_answer() -> None:
    bench = watching()
    bench.feed(SetTimers(request_id="bad", hello_us=5_000, dead_us=5_000))
    bench.feed(SetTimers(request_id="bad", hello_us=5_000, dead_us=5_000))
    assert [each.outcome for each in bench.replies] == [Outcome.REFUSED] * 2


def test_a_reload_changes_what_lies_below() -> None:
    bench = Bench(durable=Durable(wish=Wish(number=4, intervals=SLOW)))
    bench.secondary(flags=NEGOTIATES)
    bench.feed(ConfigReloaded(policy=POLICY, timers=replace(TIMERS, boot_wait_ns=9 * SECOND)))
    timers = bench.machine.status.timers
    assert (timers.hello_ns, timers.boot_wait_ns) == (5 * MILLISECOND, 9 * SECOND)
