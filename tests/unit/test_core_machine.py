# SPDX-License-Identifier: Apache-2.0
"""The machine of one node: what it orders, answers and records for what it is told."""

from dataclasses import replace
from typing import Any

import pytest

from twinbeat.core.effects import Level, Outcome
from twinbeat.core.election import CLAIMS
from twinbeat.core.events import (
    AdminCommand,
    ConfigReloaded,
    EffectFailed,
    EngineEvent,
    ForceFailover,
    ForceYield,
    GateLost,
    GateRestored,
    HealthChanged,
    Pause,
    PeerFenced,
    PeerSeen,
    PortLost,
    PortRestored,
    Resume,
    Started,
    StateSaved,
    Stopping,
    TermsFailed,
    Tick,
)
from twinbeat.core.orders import Attestation
from twinbeat.core.reasons import CAUSES, Code
from twinbeat.core.table import StateError
from twinbeat.core.types import (
    FOREVER,
    MILLISECOND,
    SECOND,
    Admin,
    Cause,
    Durable,
    EngineView,
    Flag,
    Permit,
    Phase,
    Policy,
    Role,
    TrackedHealth,
    Watch,
)
from twinbeat.core.types import EngineEventKind as Kind
from twinbeat.core.witness import TERMS_AWAY
from unit.core_pair import POLICY, TIMERS, WELL, Bench

SICK = HealthChanged(health=TrackedHealth(score=500, failed=("wan0",)))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def logged(bench: Bench) -> list[Code]:
    return [line.reason.code for effects in bench.effects for line in effects.logs]


# -- start ---------------------------------------------------------------------------------------


def test_nothing_is_ordered_before_the_start(bench: Bench) -> None:
    assert bench.feed(Tick()).order is None
    assert bench.machine.next_deadline() == FOREVER


def test_a_starting_node_may_resume_and_nothing_else(bench: Bench) -> None:
    bench.start()
    assert bench.order.permits & Permit.RESUME
    assert not bench.order.permits & CLAIMS
    assert bench.order.flags == Flag.STARTING | Flag.NEWBORN


def test_terms_are_reserved_before_any_are_ordered(bench: Bench) -> None:
    bench.disk_works = False
    bench.start()
    bench.engine(Kind.HEARD)
    bench.hear(flags=WELL)
    assert bench.effects[-1].reserve_terms is not None
    assert bench.order.term_first > bench.order.term_last
    bench.wait(3 * SECOND)
    assert not bench.order.permits & CLAIMS, "without terms nothing may be claimed"


def test_alone_at_boot_claims_after_boot_wait_counted_down() -> None:
    bench = Bench(durable=Durable(peer_known=True))
    bench.start()
    status = bench.machine.status
    assert status.waiting is not None
    assert status.waiting.code is Code.STARTING
    left = status.waiting_until_ns - bench.now
    assert 0 < left <= TIMERS.boot_wait_ns
    bench.wait(left - 10_000)
    assert not bench.order.permits & CLAIMS
    bench.wait(20_000)
    assert bench.machine.role is Role.SECONDARY
    assert bench.order.permits & Permit.MAY_CLAIM_COLD


def test_an_agent_whose_kernel_listened_meanwhile_waits_for_no_peer_that_boots() -> None:
    bench = Bench(durable=Durable(peer_known=True, last_primary=True))
    engine = EngineView(phase=Phase.LISTENING, watch=Watch.UNKNOWN, term=0, highest=4)
    bench.feed(Started(engine=engine, kernel_listened=True))
    wait_ns = TIMERS.lease_ns + TIMERS.dead_ns + TIMERS.verify_ns
    left_ns = bench.machine.status.waiting_until_ns - bench.now
    assert wait_ns - 10_000 < left_ns <= wait_ns
    bench.wait(left_ns - 10_000)
    assert not bench.order.permits & CLAIMS, "a reign that is younger may still run"
    bench.wait(20_000)
    assert bench.order.permits & Permit.MAY_CLAIM_COLD
    assert bench.order.term_first > 4


def test_a_node_that_never_heard_its_peer_does_not_claim_alone(bench: Bench) -> None:
    bench.start()
    bench.wait(3 * SECOND)
    assert bench.machine.role is Role.SECONDARY
    assert not bench.order.permits & Permit.MAY_CLAIM_COLD
    assert Code.NEVER_PAIRED in {each.code for each in bench.machine.status.withheld}


def newborn(policy: Policy = POLICY, highest: int = 0, **durable: Any) -> Bench:
    """A node whose disk knows of no term, in a year in which terms begin above 2 to the 40th."""
    bench = Bench(policy=policy, durable=Durable(**durable))
    engine = EngineView(phase=Phase.LISTENING, watch=Watch.UNKNOWN, term=0, highest=highest)
    bench.feed(Started(engine=engine, term_floor=FLOOR))
    return bench


FLOOR = 1 << 40


def test_a_node_that_knows_of_no_term_and_hears_nobody_reserves_none() -> None:
    bench = newborn()
    bench.wait(3 * SECOND)
    assert bench.order.term_first > bench.order.term_last
    assert not bench.order.permits & CLAIMS
    assert bench.machine.status.fit, "nothing is wrong with it"


@pytest.mark.parametrize(
    "bench",
    [newborn(peer_known=True), newborn(replace(POLICY, claim_alone=True))],
    ids=["peer known", "claims alone"],
)
def test_a_node_that_may_claim_alone_uses_no_term_from_before_its_disk_was_lost(
    bench: Bench,
) -> None:
    bench.wait(3 * SECOND)
    assert bench.order.term_first > FLOOR
    assert bench.order.permits & Permit.MAY_CLAIM_COLD
    assert not bench.order.flags & Flag.NEWBORN


def test_a_lost_disk_is_told_by_a_peer_that_is_not_newborn() -> None:
    bench = newborn()
    bench.engine(Kind.HEARD)
    bench.hear(flags=WELL, highest=3)
    assert bench.order.term_first > FLOOR
    assert not bench.order.flags & Flag.NEWBORN


def test_a_pair_that_is_new_has_small_terms() -> None:
    bench = newborn()
    bench.engine(Kind.HEARD)
    bench.hear(flags=WELL | Flag.NEWBORN, term=0, highest=0, two_way=False)
    assert bench.order.term_first > bench.order.term_last, "that may be said to an earlier boot"
    bench.hear(flags=WELL | Flag.NEWBORN, term=0, highest=0)
    assert bench.order.term_first == 1
    bench.hear(flags=WELL, term=0, highest=0)
    assert bench.order.term_first == 1
    assert bench.order.flags & Flag.NEWBORN, "the peer may not have heard it yet"


def test_a_kernel_that_remembers_a_term_tells_of_a_lost_disk() -> None:
    assert newborn(highest=7).order.term_first > FLOOR


def test_a_counter_that_was_too_low_tells_of_a_lost_disk(bench: Bench) -> None:
    bench.secondary()
    bench.engine(Kind.COUNTER_JUMP, a=(1 << 31) << 32)
    bench.confirm()
    assert bench.order.term_first > 1 << 41


def test_hearing_the_peer_ends_the_listening(bench: Bench) -> None:
    bench.secondary()
    assert bench.machine.status.reason.code is Code.PEER_FOUND
    assert bench.order.permits & CLAIMS == CLAIMS & ~Permit.CLAIM_NOW


def test_the_peer_is_remembered(bench: Bench) -> None:
    bench.secondary()
    assert any(each.save is not None and each.save.peer_known for each in bench.effects)


def test_preferred_where_nobody_serves(bench: Bench) -> None:
    bench.secondary(flags=WELL, term=0, highest=0)
    assert bench.order.permits & Permit.PREFERRED
    bench.hear(highest=3)
    assert not bench.order.permits & Permit.PREFERRED, "the owner of the highest term goes first"


def test_a_resumed_reign_makes_a_primary(bench: Bench) -> None:
    bench.start()
    bench.engine(Kind.OPENED, Cause.RESUMED, 4, Cause.RESUMED)
    assert bench.machine.role is Role.PRIMARY
    assert bench.machine.status.reason.code is Code.RESUMED


def test_a_resumed_reign_is_not_passed_on_while_its_first_block_is_written() -> None:
    bench = Bench(durable=Durable(peer_known=True))
    bench.disk_works = False
    bench.start()
    bench.engine(Kind.OPENED, Cause.RESUMED, 4, Cause.RESUMED)
    bench.engine(Kind.HEARD)
    bench.hear(flags=WELL, highest=4)
    assert not bench.order.permits & Permit.YIELD
    bench.feed(TermsFailed(why="no space left"))
    assert bench.order.permits & Permit.YIELD, "now it is a fault, and the peer is better"


def test_a_reign_is_not_passed_on_because_the_peer_s_terms_lie_above_all_of_its_own(
    bench: Bench,
) -> None:
    bench.primary()
    bench.disk_works = False
    bench.hear(flags=WELL, highest=1_000_001)
    assert bench.machine.facts.terms_spent
    assert not bench.order.permits & Permit.YIELD, "the next block is on its way"
    bench.feed(HealthChanged(health=TrackedHealth(score=0, failed=("wan0",))))
    assert bench.order.permits & Permit.YIELD, "this is a fault, whatever the disk does"


# -- takeover ------------------------------------------------------------------------------------


def test_the_timeline_of_a_takeover(bench: Bench) -> None:
    bench.secondary()
    start = bench.now
    bench.feed(EngineEvent(kind=Kind.SUSPECT, at_ns=start + 600, a=600))
    bench.feed(EngineEvent(kind=Kind.DEAD, at_ns=start + 1000, a=1000, b=8))
    bench.feed(EngineEvent(kind=Kind.CLAIM, at_ns=start + 1001, cause=Cause.DEAD, a=4))
    opened = bench.feed(
        EngineEvent(kind=Kind.OPENED, at_ns=start + 1003, cause=Cause.SILENCE, a=4, b=Cause.DEAD)
    )
    assert opened.install_routes
    assert not opened.records, "recorded when it was announced"
    done = bench.feed(EngineEvent(kind=Kind.ANNOUNCED, at_ns=start + 1010, a=2))
    (record,) = done.records
    assert (record.before, record.after, record.term) == (Role.CLAIMING, Role.PRIMARY, 4)
    assert record.reason.code is Code.PEER_DEAD
    assert "8 probes" in record.reason.sentence
    assert record.at_ns == start + 1003
    assert record.timeline.phases() == {
        "suspect": 600,
        "verify": 400,
        "claim": 1,
        "gate": 2,
        "announce": 7,
        "total": 1010,
    }


def test_a_takeover_by_receipt_has_its_reason_in_the_log_once(bench: Bench) -> None:
    bench.secondary()
    bench.effects.clear()
    bench.engine(Kind.CLAIM, Cause.YIELDED, 4)
    bench.engine(Kind.OPENED, Cause.RECEIPT, 4, Cause.YIELDED)
    lines = [line for effects in bench.effects for line in effects.logs]
    told = [line.reason.code for line in lines if line.level is not Level.DEBUG]
    assert told == [Code.PEER_YIELDED]


def test_a_takeover_without_announcement_is_recorded_all_the_same(bench: Bench) -> None:
    bench.secondary()
    bench.engine(Kind.CLAIM, Cause.DEAD, 4)
    bench.engine(Kind.OPENED, Cause.SILENCE, 4, Cause.DEAD)
    bench.wait(30 * MILLISECOND)
    assert any(record.after is Role.PRIMARY for each in bench.effects for record in each.records)


def test_a_cleared_suspicion_leaves_nothing_in_the_next_timeline(bench: Bench) -> None:
    bench.secondary()
    bench.engine(Kind.SUSPECT, a=600)
    bench.engine(Kind.CLEARED, a=100)
    bench.engine(Kind.CLAIM, Cause.YIELDED, 4)
    bench.engine(Kind.OPENED, Cause.RECEIPT, 4, Cause.YIELDED)
    record = bench.engine(Kind.ANNOUNCED).records[0]
    assert record.timeline.suspicion_ns == 0


def test_a_flip_counts_though_the_claim_is_heard_of_before_the_end(bench: Bench) -> None:
    bench.primary()
    bench.hear()
    bench.feed(HealthChanged(health=TrackedHealth(score=0, failed=("wan0",))))
    bench.hear(flags=WELL | Flag.CLAIMING, claim=3)
    bench.engine(Kind.CLOSED, Cause.FENCED, 2, 3)
    assert bench.machine.status.flips == 1


def test_being_fenced_ends_the_role(bench: Bench) -> None:
    bench.primary()
    effects = bench.engine(Kind.CLOSED, Cause.FENCED, 2, 3)
    assert bench.machine.role is Role.SECONDARY
    assert effects.destroy_vip_sockets
    assert effects.remove_routes
    assert effects.records[-1].reason.code is Code.FENCED
    assert bench.machine.status.engine is None or bench.order.term_first <= 4


@pytest.mark.parametrize(
    ("overtaken", "why"), [(0, "its lease was half over"), (1, "a higher one was seen")]
)
def test_a_newer_term_keeps_the_primary(bench: Bench, overtaken: int, why: str) -> None:
    bench.primary()
    bench.engine(Kind.CLAIM, Cause.RENEW, 6, overtaken)
    assert bench.machine.role is Role.PRIMARY
    bench.engine(Kind.OPENED, Cause.RECEIPT, 6, Cause.RENEW)
    record = bench.engine(Kind.ANNOUNCED).records[0]
    assert (record.before, record.after, record.term) == (Role.PRIMARY, Role.PRIMARY, 6)
    assert record.reason.code is Code.TERM_RENEWED
    assert record.reason.sentence.endswith(why)


def test_an_abandoned_claim_is_told_with_its_reason(bench: Bench) -> None:
    bench.secondary()
    bench.engine(Kind.CLAIM, Cause.IDLE, 4)
    effects = bench.engine(Kind.ABANDONED, Cause.NO_RECEIPT, 4)
    assert bench.machine.role is Role.SECONDARY
    assert effects.records[0].reason.code is Code.NO_RECEIPT


def test_lost_events_are_made_up_for_by_the_state_of_the_engine(bench: Bench) -> None:
    bench.secondary()
    bench.see_engine(Phase.SERVING, term=4)
    assert bench.machine.role is Role.SECONDARY, "its event may still be on its way"
    bench.wait(60 * MILLISECOND)
    bench.see_engine(Phase.SERVING, term=4)
    assert bench.machine.role is Role.PRIMARY
    assert bench.machine.status.reason.code is Code.RESYNCED


def test_what_cannot_be_changes_nothing(bench: Bench) -> None:
    bench.start()
    before = bench.machine.status, bench.order
    with pytest.raises(StateError):
        bench.machine.step(EngineEvent(kind=Kind.CLAIM, at_ns=1, a=2), bench.now + 5)
    assert (bench.machine.status, bench.order) == before


# -- attestation and orders ----------------------------------------------------------------------


def test_the_attestation_is_renewed_by_the_steps(bench: Bench) -> None:
    bench.secondary()
    for _ in range(20):
        bench.wait(100 * MILLISECOND)
        bench.feed(Tick())
        assert bench.order.attested_until_ns <= bench.now + TIMERS.attest_ns
    newest = [each.attest_until_ns for each in bench.effects if each.attest_until_ns][-1]
    assert newest >= bench.now + TIMERS.attest_ns // 2


def test_an_attestation_always_outlasts_a_lease() -> None:
    bench = Bench()
    bench.feed(ConfigReloaded(policy=POLICY, timers=replace(TIMERS, lease_ns=10 * SECOND)))
    bench.start()
    for _ in range(50):
        bench.wait(SECOND)
        newest = [each.attest_until_ns for each in bench.effects if each.attest_until_ns][-1]
        assert newest - bench.now > 10 * SECOND, "else no claim would ever be made"


@pytest.mark.parametrize(
    ("attest_ms", "lease_ms", "after_ms"),
    [
        pytest.param(1_000, 100, 500, id="balanced: half of it"),
        pytest.param(500, 10, 125, id="fast: half of it would be little for a late loop"),
        pytest.param(3_000, 2_000, 750, id="routed: a lease has to be left, and more"),
        pytest.param(20_000, 10_000, 5_000, id="classic: the same"),
        pytest.param(20_000, 100, 10_000, id="never later than half"),
    ],
)
def test_an_attestation_is_renewed_no_oftener_than_it_must(
    attest_ms: int, lease_ms: int, after_ms: int
) -> None:
    timers = replace(TIMERS, attest_ns=attest_ms * MILLISECOND, lease_ns=lease_ms * MILLISECOND)
    attestation = Attestation()
    assert attestation.renew(timers, SECOND) == SECOND + timers.attest_ns
    assert attestation.renew(timers, SECOND + after_ms * MILLISECOND - 1) is None
    assert attestation.renew(timers, SECOND + after_ms * MILLISECOND)


def test_facts_alone_make_no_new_generation(bench: Bench) -> None:
    bench.secondary()
    generation = bench.order.generation
    effects = bench.feed(SICK)
    assert effects.order is not None
    assert effects.order.generation == generation
    assert effects.order.health == 500
    bench.feed(Pause(request_id="p", for_ns=SECOND))
    assert bench.order.generation > generation


def test_an_order_carries_the_newest_attestation(bench: Bench) -> None:
    bench.secondary()
    for each in bench.effects:
        if each.order is not None:
            assert each.order.attested_until_ns == each.attest_until_ns


# -- planned switch-over -------------------------------------------------------------------------


def test_switch_over_on_the_primary(bench: Bench) -> None:
    bench.primary()
    effects = bench.feed(ForceFailover(request_id="f"))
    assert bench.outcome("f") is Outcome.ACCEPTED
    assert effects.order is not None
    assert effects.order.permits & Permit.YIELD
    assert not effects.order.permits & CLAIMS
    bench.engine(Kind.CLOSED, Cause.FENCED, 2, 3)
    assert bench.outcome("f") is Outcome.DONE
    assert bench.answer("f").reason.sentence == "b is primary"
    assert not bench.order.permits & Permit.YIELD
    bench.hear(flags=WELL | Flag.OPEN, term=3)
    assert bench.order.permits & Permit.MAY_CLAIM_DEAD, "the next failure is covered again"


def test_a_yield_for_health_is_the_reason_on_the_node_that_gives_the_role_up(bench: Bench) -> None:
    bench.primary()
    bench.hear()
    bench.feed(HealthChanged(health=TrackedHealth(score=0, failed=("wan0",))))
    bench.hear(flags=WELL | Flag.CLAIMING, claim=3)
    record = bench.engine(Kind.CLOSED, Cause.FENCED, 2, 3).records[-1]
    assert record.reason.code is Code.PEER_BETTER
    assert record.reason.sentence == (
        "b is healthier (1000 against 0): checks of a fail: wan0; b took over"
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (ForceFailover(request_id="f", reason="new kernel"), Code.TOLD_TO_HAND_OVER),
        (ForceYield(request_id="f", reason="new kernel"), Code.TOLD_TO_YIELD),
        (
            AdminCommand(request_id="f", status=Admin.STAY_SECONDARY, reason="new kernel"),
            Code.STAY_SECONDARY,
        ),
    ],
)
def test_an_order_is_the_reason_on_the_node_that_gives_the_role_up(
    bench: Bench, command: ForceFailover | ForceYield | AdminCommand, code: Code
) -> None:
    bench.primary()
    bench.feed(command)
    bench.hear(flags=WELL | Flag.CLAIMING, claim=3)
    record = bench.engine(Kind.CLOSED, Cause.FENCED, 2, 3).records[-1]
    assert record.reason.code is code
    assert record.reason.sentence.endswith('("new kernel"); b took over')
    assert bench.outcome("f") in {Outcome.DONE, Outcome.ACCEPTED}


def test_a_claim_that_nobody_here_asked_for_is_the_reason_itself(bench: Bench) -> None:
    bench.primary()
    bench.feed(ForceFailover(request_id="f"))
    bench.wait(SECOND)
    assert bench.outcome("f") is Outcome.FAILED
    record = bench.engine(Kind.CLOSED, Cause.FENCED, 2, 3).records[-1]
    assert record.reason.code is Code.FENCED, "the order was withdrawn long before"


def test_the_operators_words_are_kept_where_the_gate_is_shut_by_order(bench: Bench) -> None:
    bench.primary()
    bench.feed(ForceYield(request_id="y", reason="new\x1b[31m\nkernel " + "x" * 600))
    bench.wait(SECOND)
    sentence = bench.engine(Kind.CLOSED, Cause.RESIGNED, 2).records[-1].reason.sentence
    assert '("new [31m kernel xxx' in sentence, "what isn't printable isn't there"
    assert len(sentence) < 300


def test_the_operators_words_are_kept_where_the_role_is_taken_by_order(bench: Bench) -> None:
    bench.secondary()
    bench.feed(ForceFailover(request_id="f", reason="new kernel"))
    bench.engine(Kind.CLAIM, Cause.ORDERED, 4)
    bench.engine(Kind.OPENED, Cause.RECEIPT, 4, Cause.ORDERED)
    record = bench.engine(Kind.ANNOUNCED).records[-1]
    assert record.reason.sentence == 'the operator ordered a to take over ("new kernel")'


def test_who_was_asked_to_take_over_says_what_it_knows_of_the_other(bench: Bench) -> None:
    bench.secondary(flags=Flag.HEARS_YOU | Flag.OPEN, health=0)
    bench.engine(Kind.CLAIM, Cause.YIELDED, 4)
    bench.engine(Kind.OPENED, Cause.RECEIPT, 4, Cause.YIELDED)
    record = bench.engine(Kind.ANNOUNCED).records[-1]
    assert record.reason.code is Code.PEER_YIELDED
    assert record.reason.sentence == "b asked a to take over; its health is 0 against 1000"


def test_a_pause_has_its_reason_as_long_as_it_lasts(bench: Bench) -> None:
    bench.secondary()
    began_ns = bench.now + 1000
    bench.feed(Pause(request_id="p", for_ns=5 * SECOND, reason="new switch"), after_ns=1000)
    saved = [effects.save for effects in bench.effects if effects.save is not None][-1]
    assert saved.pause_reason == "new switch"
    again = Bench(durable=saved).machine.status
    assert (again.pause_reason, again.pause_since_ns) == ("new switch", began_ns)
    bench.wait(6 * SECOND)
    over = bench.machine.status
    assert (over.paused_until_ns, over.pause_reason, over.pause_since_ns) == (0, "", 0)


def test_switch_over_that_nobody_takes_up(bench: Bench) -> None:
    bench.primary()
    bench.feed(ForceFailover(request_id="f"))
    bench.wait(SECOND)
    assert bench.outcome("f") is Outcome.FAILED
    assert bench.answer("f").reason.code is Code.PEER_DID_NOT_CLAIM
    assert not bench.order.permits & Permit.YIELD
    assert bench.machine.role is Role.PRIMARY


def test_switch_over_on_the_secondary(bench: Bench) -> None:
    bench.secondary()
    bench.feed(ForceFailover(request_id="f"))
    assert bench.order.permits & Permit.CLAIM_NOW
    bench.engine(Kind.CLAIM, Cause.ORDERED, 4)
    bench.engine(Kind.OPENED, Cause.RECEIPT, 4, Cause.ORDERED)
    assert bench.outcome("f") is Outcome.DONE
    assert not bench.order.permits & Permit.CLAIM_NOW


def test_a_forced_claim_that_fails_says_why(bench: Bench) -> None:
    bench.secondary()
    bench.feed(ForceFailover(request_id="f"))
    bench.engine(Kind.CLAIM, Cause.ORDERED, 4)
    bench.engine(Kind.ABANDONED, Cause.NO_RECEIPT, 4)
    assert bench.outcome("f") is Outcome.FAILED
    assert "no receipt" in bench.answer("f").reason.sentence


def test_a_command_is_carried_out_once(bench: Bench) -> None:
    bench.primary()
    bench.feed(ForceFailover(request_id="f"))
    generation = bench.order.generation
    effects = bench.feed(ForceFailover(request_id="f"))
    assert bench.order.generation == generation
    assert effects.replies[0].outcome is Outcome.ACCEPTED
    bench.engine(Kind.CLOSED, Cause.FENCED, 2, 3)
    bench.feed(ForceFailover(request_id="f"))
    assert bench.outcome("f") is Outcome.DONE


def test_a_command_that_is_waited_for_is_carried_out_once(bench: Bench) -> None:
    bench.secondary()
    bench.feed(AdminCommand(request_id="d", status=Admin.DISABLED))
    generation = bench.order.generation
    bench.feed(AdminCommand(request_id="d", status=Admin.ENABLED))
    assert bench.order.generation == generation
    assert bench.order.admin is Admin.DISABLED
    seen = len(bench.effects)
    bench.confirm()
    bench.feed(Tick())
    replies = [reply for each in bench.effects[seen:] for reply in each.replies]
    assert [(reply.request_id, reply.outcome) for reply in replies] == [("d", Outcome.DONE)]


def test_one_command_at_a_time(bench: Bench) -> None:
    bench.primary()
    bench.feed(ForceFailover(request_id="f"), ForceFailover(request_id="g"))
    assert bench.outcome("g") is Outcome.REFUSED
    assert bench.answer("g").reason.code is Code.BUSY


def test_switch_over_is_refused_with_code_and_sentence(bench: Bench) -> None:
    bench.primary()
    bench.hear(flags=Flag.HEARS_YOU)
    generation = bench.order.generation
    bench.feed(ForceFailover(request_id="f"))
    assert bench.outcome("f") is Outcome.REFUSED
    assert bench.answer("f").reason.code is Code.PEER_UNFIT
    assert bench.order.generation == generation
    bench.feed(ForceFailover(request_id="g", even_if_unfit=True))
    assert bench.outcome("g") is Outcome.ACCEPTED


def test_a_primary_told_to_stay_primary_refuses(bench: Bench) -> None:
    bench.primary()
    bench.feed(AdminCommand(request_id="s", status=Admin.STAY_PRIMARY))
    bench.feed(ForceFailover(request_id="f"))
    assert bench.answer("f").reason.code is Code.STAY_PRIMARY


def test_force_yield_leaves_the_role_though_nobody_takes_it(bench: Bench) -> None:
    bench.primary()
    bench.hear(flags=WELL | Flag.NEVER_CLAIMS)
    effects = bench.feed(ForceYield(request_id="y"))
    assert effects.close_gate is not None
    assert bench.order.resign_of == bench.order.generation
    bench.engine(Kind.CLOSED, Cause.RESIGNED, 2)
    assert bench.outcome("y") is Outcome.DONE
    assert not bench.order.permits & CLAIMS, "it doesn't take back at once what it gave up"
    bench.wait(6 * SECOND)
    assert bench.order.permits & Permit.MAY_CLAIM_IDLE


def test_force_yield_is_for_primaries(bench: Bench) -> None:
    bench.secondary()
    bench.feed(ForceYield(request_id="y"))
    assert bench.answer("y").reason.code is Code.NOT_PRIMARY


# -- admin status --------------------------------------------------------------------------------


def test_stay_secondary_is_answered_when_it_is_in_effect_and_saved(bench: Bench) -> None:
    bench.secondary()
    bench.disk_works = False
    bench.feed(AdminCommand(request_id="s", status=Admin.STAY_SECONDARY))
    assert not bench.order.permits & CLAIMS
    assert not bench.replies
    bench.confirm()
    assert not bench.replies, "a power cut would take it back"
    bench.feed(StateSaved())
    assert bench.outcome("s") is Outcome.DONE


def test_a_claim_that_came_before_the_withdrawal_is_told(bench: Bench) -> None:
    bench.secondary()
    bench.feed(AdminCommand(request_id="s", status=Admin.STAY_SECONDARY))
    bench.confirm(claim_came_first=True)
    assert bench.answer("s").reason.code is Code.DONE_AFTER_CLAIM


def test_that_a_primary_claimed_once_is_no_news(bench: Bench) -> None:
    """The engine of a node that serves says of every order that a claim came before it."""
    bench.primary()
    bench.feed(Pause(request_id="p", for_ns=60 * SECOND))
    bench.confirm(claim_came_first=True)
    bench.hear(flags=WELL | Flag.PAUSE_ACK)
    assert bench.answer("p").reason.code is Code.PAUSED_BOTH


def test_a_disk_that_refuses_is_told(bench: Bench) -> None:
    bench.secondary()
    bench.disk_works = False
    bench.feed(AdminCommand(request_id="s", status=Admin.STAY_SECONDARY))
    bench.confirm()
    bench.feed(EffectFailed(effect="save", why="no space left"))
    assert bench.outcome("s") is Outcome.FAILED
    assert "no space left" in bench.answer("s").reason.sentence
    seen = len(bench.effects)
    bench.wait(2 * SECOND)
    assert any(each.save for each in bench.effects[seen:]), "it is tried again"


def test_an_engine_that_never_confirms_is_told(bench: Bench) -> None:
    bench.secondary()
    bench.feed(AdminCommand(request_id="s", status=Admin.STAY_SECONDARY))
    bench.wait(3 * SECOND)
    assert bench.outcome("s") is Outcome.FAILED
    assert bench.answer("s").reason.code is Code.UNCONFIRMED


def test_a_primary_that_is_disabled_hands_over_first(bench: Bench) -> None:
    bench.primary()
    bench.feed(AdminCommand(request_id="d", status=Admin.DISABLED))
    assert bench.order.permits & Permit.YIELD
    assert bench.order.admin is Admin.ENABLED
    bench.engine(Kind.CLOSED, Cause.FENCED, 2, 3)
    assert bench.order.admin is Admin.DISABLED
    assert not bench.order.permits & CLAIMS
    bench.confirm()
    bench.feed(Tick())
    assert bench.machine.role is Role.DISABLED
    assert bench.outcome("d") is Outcome.DONE


def test_a_primary_is_not_disabled_where_nobody_takes_over(bench: Bench) -> None:
    bench.primary()
    bench.hear(flags=WELL | Flag.NEVER_CLAIMS)
    bench.feed(AdminCommand(request_id="d", status=Admin.DISABLED))
    assert bench.answer("d").reason.code is Code.PEER_NEVER_CLAIMS
    assert bench.machine.status.admin is Admin.ENABLED


def test_an_operator_may_insist(bench: Bench) -> None:
    bench.primary()
    bench.hear(flags=WELL | Flag.NEVER_CLAIMS)
    bench.feed(AdminCommand(request_id="d", status=Admin.DISABLED, even_if_unfit=True))
    assert bench.order.resign_of
    bench.engine(Kind.CLOSED, Cause.RESIGNED, 2)
    bench.confirm()
    bench.feed(Tick())
    assert bench.machine.role is Role.DISABLED


def test_a_disabled_node_is_enabled_again(bench: Bench) -> None:
    bench.secondary()
    bench.feed(AdminCommand(request_id="d", status=Admin.DISABLED))
    bench.confirm()
    bench.feed(Tick())
    assert bench.machine.role is Role.DISABLED
    bench.feed(AdminCommand(request_id="e", status=Admin.ENABLED))
    assert bench.machine.role is Role.SECONDARY
    assert bench.order.permits & CLAIMS


def test_a_claim_that_nobody_told_of_ends_before_the_node_is_disabled(bench: Bench) -> None:
    bench.secondary()
    bench.feed(AdminCommand(request_id="d", status=Admin.DISABLED))
    bench.confirm(claim_came_first=True)
    bench.feed(Tick())
    assert bench.machine.role is Role.CLAIMING
    bench.engine(Kind.ABANDONED, Cause.ORDER_VOID, 2)
    bench.feed(Tick())
    assert bench.machine.role is Role.DISABLED


def test_two_nodes_can_not_both_stay_primary(bench: Bench) -> None:
    bench.secondary(admin=Admin.STAY_PRIMARY)
    bench.feed(AdminCommand(request_id="s", status=Admin.STAY_PRIMARY))
    assert bench.answer("s").reason.code is Code.BOTH_STAY_PRIMARY


def test_a_fit_node_that_stays_primary_takes_the_role_back_after_a_hold_down(bench: Bench) -> None:
    bench.secondary()
    bench.feed(AdminCommand(request_id="s", status=Admin.STAY_PRIMARY))
    bench.confirm()
    bench.wait(POLICY.preempt_hold_ns - SECOND)
    assert not bench.order.permits & Permit.CLAIM_NOW
    seen = len(bench.effects)
    bench.wait(2 * SECOND)
    orders = [each.order for each in bench.effects[seen:] if each.order is not None]
    assert any(order.permits & Permit.CLAIM_NOW for order in orders)


# -- pause ---------------------------------------------------------------------------------------


def test_a_pause_is_both_sided_when_the_peer_says_so(bench: Bench) -> None:
    bench.primary()
    bench.feed(Pause(request_id="p", for_ns=60 * SECOND))
    assert bench.order.flags & Flag.PAUSED
    assert bench.order.permits & Permit.MAY_SERVE, "renewal goes on"
    bench.confirm()
    assert not [each for each in bench.replies if each.request_id == "p"]
    bench.hear(flags=WELL | Flag.PAUSE_ACK)
    assert bench.answer("p").reason.code is Code.PAUSED_BOTH


def test_a_pause_of_which_the_peer_does_not_know_is_named_one_sided(bench: Bench) -> None:
    bench.secondary()
    bench.feed(Pause(request_id="p", for_ns=60 * SECOND))
    bench.confirm()
    bench.wait(3 * SECOND)
    assert bench.outcome("p") is Outcome.DONE
    assert bench.answer("p").reason.code is Code.PAUSED_ONE_SIDED


def test_a_pause_ends_by_itself_or_by_command(bench: Bench) -> None:
    bench.secondary()
    bench.feed(Pause(request_id="p", for_ns=5 * SECOND))
    assert bench.order.permits & CLAIMS == Permit(0)
    bench.wait(6 * SECOND)
    assert bench.order.permits & CLAIMS
    bench.feed(Pause(request_id="q", for_ns=0))
    bench.wait(60 * SECOND)
    assert bench.order.permits & CLAIMS == Permit(0)
    bench.feed(Resume(request_id="r"))
    bench.confirm()
    assert bench.order.permits & CLAIMS
    assert bench.outcome("r") is Outcome.DONE


def test_resume_without_pause_is_refused(bench: Bench) -> None:
    bench.secondary()
    bench.feed(Resume(request_id="r"))
    assert bench.answer("r").reason.code is Code.NOT_PAUSED


def test_a_pause_of_the_peer_is_ended_there(bench: Bench) -> None:
    bench.secondary(flags=WELL | Flag.OPEN | Flag.PAUSED)
    bench.feed(Resume(request_id="r"))
    assert bench.answer("r").reason.code is Code.PEER_PAUSED
    bench.engine(Kind.DEAD, a=1)
    bench.feed(Resume(request_id="s"))
    bench.confirm()
    assert bench.outcome("s") is Outcome.DONE
    assert bench.order.permits & Permit.MAY_CLAIM_DEAD


def test_a_reboot_does_not_end_a_pause_of_the_pair() -> None:
    bench = Bench(durable=Durable(peer_known=True, peer_paused_until_ns=FOREVER))
    bench.start()
    bench.wait(3 * SECOND)
    assert bench.machine.role is Role.SECONDARY
    assert not bench.order.permits & CLAIMS
    bench.engine(Kind.HEARD)
    bench.hear(flags=WELL)
    assert bench.order.permits & CLAIMS, "the peer says that it is over"


def paused_peer(bench: Bench, left_ns: int, **changes: Any) -> None:
    bench.hear(flags=WELL | Flag.OPEN | Flag.PAUSED, pause_left_ns=left_ns, **changes)


def test_the_pause_of_a_lost_peer_ends_when_that_said_it_would(bench: Bench) -> None:
    bench.secondary()
    told_ns = bench.now
    paused_peer(bench, 60 * SECOND)
    bench.engine(Kind.DEAD, a=1)
    bench.wait(59 * SECOND)
    assert not bench.order.permits & CLAIMS
    assert bench.machine.status.peer_paused_until_ns >= told_ns + 60 * SECOND
    bench.wait(SECOND + 10 * MILLISECOND)
    assert bench.order.permits & Permit.MAY_CLAIM_DEAD
    assert logged(bench).count(Code.PEER_PAUSE_EXPIRED) == 1
    newest = bench.machine.status.peer
    assert newest is not None
    bench.feed(PeerSeen(view=replace(newest, highest=newest.highest + 2)))
    assert bench.order.permits & Permit.MAY_CLAIM_DEAD, "the same frame ends no later"
    assert logged(bench).count(Code.PEER_PAUSE_EXPIRED) == 1
    paused_peer(bench, 60 * SECOND, answered=True)
    assert bench.order.permits & Permit.MAY_CLAIM_DEAD, "its kernel repeats what its agent said"
    paused_peer(bench, 60 * SECOND)
    assert not bench.order.permits & CLAIMS, "its agent says it anew"


def test_the_pause_of_a_peer_that_speaks_ends_when_that_says_so(bench: Bench) -> None:
    bench.secondary()
    paused_peer(bench, SECOND)
    bench.wait(2 * SECOND)
    assert not bench.order.permits & CLAIMS
    bench.hear(flags=WELL | Flag.OPEN)
    assert bench.order.permits & CLAIMS


def test_a_kernel_that_answers_for_a_hung_agent_doesn_t_lengthen_its_pause(bench: Bench) -> None:
    bench.secondary()
    paused_peer(bench, 10 * SECOND)
    bench.engine(Kind.STALLED)
    for _ in range(11):
        paused_peer(bench, 10 * SECOND, answered=True)
        bench.wait(SECOND)
    assert bench.order.permits & Permit.MAY_CLAIM_STALLED


@pytest.mark.parametrize("resumed", [True, False])
def test_a_pause_that_is_over_stays_so_over_a_restart(bench: Bench, resumed: bool) -> None:
    bench.secondary()
    paused_peer(bench, 0 if resumed else SECOND)
    bench.engine(Kind.DEAD, a=1)
    if resumed:
        bench.feed(Resume(request_id="r"))
    bench.wait(2 * SECOND)
    assert not bench.machine.status.peer_paused
    kept = [effects.save for effects in bench.effects if effects.save is not None][-1]
    again = Bench(durable=kept)
    again.start()
    again.wait(3 * SECOND)
    paused_peer(again, 3600 * SECOND, answered=True)
    assert again.machine.status.peer_paused_until_ns == 0, "its kernel repeats what is over"
    paused_peer(again, 3600 * SECOND)
    assert again.machine.status.peer_paused_until_ns > again.now, "its agent says it anew"
    again.hear(flags=WELL)
    paused_peer(again, 3600 * SECOND, answered=True)
    assert again.machine.status.peer_paused_until_ns > again.now, "another pause"


def test_a_pause_without_an_end_outlasts_its_node(bench: Bench) -> None:
    bench.secondary()
    paused_peer(bench, 5 * SECOND)
    paused_peer(bench, 0)
    bench.engine(Kind.DEAD, a=1)
    bench.wait(3600 * SECOND)
    assert not bench.order.permits & CLAIMS
    assert bench.machine.status.peer_paused_until_ns == FOREVER


def test_the_end_of_a_peer_s_pause_is_never_too_early_and_seldom_written(bench: Bench) -> None:
    """What is left is rounded up anew in each frame, as the engine does it."""
    bench.secondary()
    ends_ns = bench.now + 1000 * SECOND
    written = 0
    while (left_ns := ends_ns - bench.now) > SECOND:
        bench.effects.clear()
        paused_peer(bench, left_ns + left_ns // 32)
        until_ns = bench.machine.status.peer_paused_until_ns
        assert ends_ns <= until_ns <= ends_ns + left_ns // 10 + 1000
        written += sum(effects.save is not None for effects in bench.effects)
        bench.wait(100 * MILLISECOND)
    assert written < 100
    longer_ns = bench.now + 2000 * SECOND
    paused_peer(bench, 2000 * SECOND)
    assert bench.machine.status.peer_paused_until_ns >= longer_ns


def test_a_witness_is_asked_by_what_is_known_of_the_terms() -> None:
    bench = Bench(policy=replace(POLICY, witness_lease_ns=SECOND // 2))
    bench.secondary(highest=1 << 50)
    bench.effects.clear()
    bench.wait(2 * SECOND)
    asked = [each.ask_witness for each in bench.effects if each.ask_witness is not None]
    assert asked
    assert {question.term_max for question in asked} == {(1 << 50) + TERMS_AWAY}


def test_frames_say_when_a_pause_ends(bench: Bench) -> None:
    bench.secondary()
    bench.feed(Pause(request_id="p", for_ns=5 * SECOND))
    assert bench.order.flags & Flag.PAUSED
    assert bench.now <= bench.order.pause_until_ns <= bench.now + 5 * SECOND
    bench.feed(Pause(request_id="q", for_ns=0))
    assert bench.order.flags & Flag.PAUSED
    assert bench.order.pause_until_ns == 0


# -- what fails ----------------------------------------------------------------------------------


def begins(bench: Bench, term: int, cause: Cause) -> Code:
    """A reign begins; why, as the history has it."""
    bench.engine(Kind.CLAIM, cause, term)
    bench.engine(Kind.OPENED, Cause.RECEIPT, term, cause)
    bench.engine(Kind.ANNOUNCED, a=1)
    bench.confirm()
    assert bench.machine.role is Role.PRIMARY
    return bench.machine.status.reason.code


def ends(bench: Bench, term: int) -> None:
    bench.engine(Kind.CLOSED, Cause.EXPIRED, term)
    assert bench.machine.role is Role.SECONDARY


NEWBORN = {"flags": WELL | Flag.NEWBORN, "term": 0, "highest": 0}
"""What a new node says."""


def test_the_first_reign_of_a_pair_is_called_so_and_no_later_one(bench: Bench) -> None:
    bench.secondary(**NEWBORN)
    bench.engine(Kind.CLAIM, Cause.IDLE, 2)
    bench.engine(Kind.ABANDONED, Cause.NO_RECEIPT, 2)
    assert begins(bench, 4, Cause.IDLE) is Code.FIRST, "a claim in vain was no reign"
    ends(bench, 4)
    assert begins(bench, 6, Cause.IDLE) is Code.PEER_IDLE


OF_THE_PEER = {
    Cause.IDLE: Code.PEER_IDLE,
    Cause.STALLED: Code.PEER_STALLED,
    Cause.DEAD: Code.PEER_DEAD,
    Cause.DEAF: CAUSES[Cause.DEAF],
}
"""Claims for what the peer does or doesn't do."""


@pytest.mark.parametrize("cause", OF_THE_PEER)
def test_whatever_becomes_of_a_peer_that_never_served_the_reign_is_the_first(
    bench: Bench, cause: Cause
) -> None:
    bench.secondary(**NEWBORN)
    assert begins(bench, 2, cause) is Code.FIRST
    ends(bench, 2)
    assert begins(bench, 4, cause) is OF_THE_PEER[cause]


@pytest.mark.parametrize("cause", OF_THE_PEER)
def test_who_takes_over_from_a_peer_that_served_is_not_the_first(
    bench: Bench, cause: Cause
) -> None:
    bench.secondary(**NEWBORN)
    bench.hear(flags=WELL | Flag.OPEN, term=3, highest=3, role=Role.PRIMARY)
    bench.hear(flags=WELL, term=0, highest=3)
    assert begins(bench, 4, cause) is OF_THE_PEER[cause]


def test_what_the_disk_knows_of_may_have_been_a_reign() -> None:
    bench = Bench(reserved_last=64)
    bench.secondary(flags=WELL, term=0, highest=0)
    assert begins(bench, 66, Cause.IDLE) is Code.PEER_IDLE


def test_who_takes_a_free_role_by_order_or_after_a_death_says_that(bench: Bench) -> None:
    bench.secondary(**NEWBORN)
    assert begins(bench, 2, Cause.ORDERED) is Code.ORDERED


def test_who_starts_says_of_its_health_what_it_will_be_until_the_disk_refuses(bench: Bench) -> None:
    """Or the peer would take it for the worse node while its first terms are being written."""
    bench.disk_works = False
    bench.start()
    bench.engine(Kind.HEARD)
    bench.hear(flags=WELL)
    assert bench.machine.role is Role.INIT
    assert (bench.order.health, bench.order.permits & CLAIMS) == (1000, Permit(0))
    bench.feed(TermsFailed(why="no space left"))
    assert bench.order.health == 0


def test_a_lost_gate_shuts_at_once_and_takes_the_addresses_off(bench: Bench) -> None:
    bench.primary()
    effects = bench.feed(GateLost(interface="lan0"))
    assert effects.close_gate is not None
    assert effects.withdraw_vips == "lan0"
    assert effects.order is not None
    assert effects.order.resign_of
    assert not effects.order.permits & Permit.MAY_SERVE
    assert effects.order.health == 0
    bench.engine(Kind.CLOSED, Cause.RESIGNED, 2)
    assert bench.machine.status.reason.code is Code.GATE_LOST
    assert not bench.order.permits & CLAIMS
    bench.feed(GateRestored(interface="lan0"))
    bench.wait(6 * SECOND)
    assert bench.order.permits & CLAIMS


def test_a_better_peer_is_yielded_to_and_an_equal_one_is_not(bench: Bench) -> None:
    bench.primary()
    bench.feed(SICK)
    assert bench.order.permits & Permit.YIELD
    bench.hear(flags=Flag.HEARS_YOU, health=500)
    assert not bench.order.permits & Permit.YIELD


def test_without_fail_safe_a_sick_primary_always_leaves() -> None:
    bench = Bench(policy=replace(POLICY, fail_safe=False)).primary()
    bench.hear(flags=Flag.HEARS_YOU, health=300)
    effects = bench.feed(SICK)
    assert effects.close_gate is not None
    bench.engine(Kind.CLOSED, Cause.RESIGNED, 2)
    assert not bench.order.permits & Permit.MAY_CLAIM_IDLE


def test_a_disk_that_reserves_no_terms_makes_unfit_in_time(bench: Bench) -> None:
    bench.secondary()
    bench.disk_works = False
    bench.hear(flags=WELL | Flag.OPEN, term=61, highest=61)
    assert bench.effects[-1].reserve_terms is not None
    bench.feed(TermsFailed(why="no space left"))
    assert bench.order.term_last > 61, "there still is one to use"
    assert not bench.machine.status.fit
    assert Code.NO_TERMS in {each.code for each in bench.machine.status.unfit}


def test_a_port_that_is_back_is_announced_on(bench: Bench) -> None:
    bench.primary()
    bench.feed(PortLost(interface="lan0"))
    assert bench.feed(PortRestored(interface="lan0")).announce


# -- the end -------------------------------------------------------------------------------------


def test_a_stop_hands_over_and_shuts_the_gate(bench: Bench) -> None:
    bench.primary()
    effects = bench.feed(Stopping())
    assert not effects.stopped
    assert bench.order.permits & Permit.YIELD
    assert bench.order.flags & Flag.NEVER_CLAIMS
    bench.engine(Kind.CLOSED, Cause.FENCED, 2, 3)
    assert bench.confirm().stopped


def test_a_stop_without_successor_shuts_the_gate_all_the_same(bench: Bench) -> None:
    bench.primary()
    bench.hear(flags=WELL | Flag.NEVER_CLAIMS)
    assert bench.feed(Stopping()).close_gate is not None
    bench.engine(Kind.CLOSED, Cause.RESIGNED, 2)
    assert bench.machine.status.reason.code is Code.STOPPED
    assert bench.confirm().stopped


def test_a_stop_waits_for_nobody_for_ever(bench: Bench) -> None:
    bench.primary()
    bench.feed(Stopping())
    bench.wait(SECOND)
    assert bench.order.resign_of, "nobody took over"
    bench.engine(Kind.CLOSED, Cause.RESIGNED, 2)
    bench.wait(SECOND)
    assert bench.effects[-1].stopped or any(each.stopped for each in bench.effects)


def test_a_planned_restart_leaves_the_gate_open_under_a_longer_lease(bench: Bench) -> None:
    bench.primary()
    effects = bench.feed(Stopping(restart=True))
    assert effects.order is not None
    assert effects.order.lease_ns == POLICY.restart_lease_ns
    assert effects.order.flags & Flag.RESTART
    assert effects.close_gate is None
    bench.confirm()
    bench.see_engine(Phase.SERVING, term=2, restart_known=True)
    bench.wait(4 * TIMERS.hello_ns)
    assert bench.effects[-1].stopped
    assert not any(each.close_gate for each in bench.effects)
    assert Code.RESTART_UNCONFIRMED not in logged(bench)


def test_a_planned_restart_waits_until_the_peer_knows_but_not_for_ever(bench: Bench) -> None:
    """R16: a peer that doesn't know may take over."""
    bench.primary()
    bench.feed(Stopping(restart=True))
    bench.confirm()
    bench.see_engine(Phase.SERVING, term=2)
    bench.wait(SECOND // 10)
    assert not any(each.stopped for each in bench.effects)
    bench.wait(SECOND // 5)
    assert bench.effects[-1].stopped
    assert logged(bench).count(Code.RESTART_UNCONFIRMED) == 1
    assert not any(each.close_gate for each in bench.effects)


def test_a_planned_restart_waits_for_no_peer_that_is_dead(bench: Bench) -> None:
    bench.primary()
    bench.engine(Kind.DEAD)
    bench.feed(Stopping(restart=True))
    bench.confirm()
    bench.wait(4 * TIMERS.hello_ns)
    assert bench.effects[-1].stopped
    assert Code.RESTART_UNCONFIRMED not in logged(bench)


def test_nothing_is_begun_while_stopping(bench: Bench) -> None:
    bench.secondary()
    bench.feed(Stopping())
    bench.feed(AdminCommand(request_id="s", status=Admin.STAY_PRIMARY))
    assert bench.answer("s").reason.code is Code.STOPPING


def test_fence_first_withholds_the_claim_until_the_peer_is_fenced() -> None:
    bench = Bench(policy=replace(POLICY, fence_first=True)).secondary()
    silence = Permit.MAY_CLAIM_DEAD | Permit.MAY_CLAIM_COLD
    assert not bench.order.permits & silence
    assert bench.order.permits & Permit.MAY_CLAIM_STALLED  # its kernel answers: by receipt
    assert not bench.machine.waits_for_fencing
    bench.engine(Kind.SUSPECT)
    assert not bench.machine.waits_for_fencing
    bench.engine(Kind.DEAD)
    assert bench.machine.waits_for_fencing
    bench.feed(PeerFenced(heard=bench.counter))
    assert bench.order.permits & silence == silence
    assert not bench.machine.waits_for_fencing
    # Whoever speaks again isn't fenced any more.
    bench.engine(Kind.HEARD)
    assert not bench.order.permits & silence


def test_what_a_fenced_peer_allows_rests_on_its_last_frame() -> None:
    """The order names it; and a newer one takes it back, though the event of it was lost."""
    bench = Bench(policy=replace(POLICY, fence_first=True)).secondary()
    silence = Permit.MAY_CLAIM_DEAD | Permit.MAY_CLAIM_COLD
    bench.engine(Kind.DEAD)
    newest = bench.counter
    bench.feed(PeerFenced(heard=newest))
    assert bench.order.permits & silence == silence
    assert bench.order.heard == newest
    bench.hear()
    assert not bench.order.permits & silence
    assert bench.machine.waits_for_fencing, "once more"
    # An attempt that began before that frame.
    bench.feed(PeerFenced(heard=newest))
    assert not bench.order.permits & silence
