# SPDX-License-Identifier: Apache-2.0
"""tb_engine_step() rule by rule, under a clock of the test's own; no root, no thread, no socket.

The names R1 to R18 are those of deploy/docs/protocol.md.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twinbeat.engine._engine import lib
from twinbeat.engine.types import (
    NO_FLAGS,
    Cause,
    EventKind,
    Flag,
    FrameType,
    Permit,
    Phase,
    Role,
    Watch,
    WireConfig,
)
from unit.engine_bench import (
    ALL,
    FAST,
    FOREVER,
    KEYS,
    MS,
    ORDER,
    START,
    US,
    Bench,
    primary,
    secondary,
)

LEASE = FAST.timers.lease_ns
VERIFY = FAST.timers.verify_ns
DEAD = FAST.timers.dead_ns


def die(bench: Bench) -> None:
    """The peer loses its power."""
    bench.agent = False
    bench.kernel = False


def hang(bench: Bench) -> None:
    """The peer's agent hangs; its kernel answers."""
    bench.agent = False


# -- suspicion and verdict (design, section 6) ---------------------------------------------------


def test_nothing_happens_while_the_peer_speaks() -> None:
    bench = secondary()
    bench.events.clear()
    assert bench.run(50 * MS) == []


def test_death_is_a_suspicion_then_a_verdict_then_a_claim_then_an_opening() -> None:
    bench = secondary()
    die(bench)
    died = bench.now
    bench.run(5 * MS)
    kinds = [EventKind.SUSPECT, EventKind.DEAD, EventKind.CLAIM, EventKind.OPENED]
    times = [bench.last(kind).at_ns for kind in kinds]
    assert times == sorted(times)
    assert DEAD - FAST.timers.hello_ns <= times[0] - died <= DEAD + US
    asked = times[1] - VERIFY
    assert 2 * FAST.timers.hello_ns <= asked - died + FAST.timers.hello_ns, "two are missing"
    assert VERIFY // 3 <= times[1] - times[0] <= VERIFY // 2 + 2 * US, "asked before the suspicion"
    assert times[3] - times[1] <= 2 * US, "from the verdict to the opening nothing is waited for"
    assert bench.last(EventKind.OPENED).cause is Cause.SILENCE
    assert bench.gate_open
    assert bench.announced == 1
    assert bench.role is Role.PRIMARY


def test_claim_is_on_the_wire_before_the_gate_opens() -> None:
    bench = secondary()
    die(bench)
    while not bench.gate_open:
        bench.run(US)
    opening = next(i for i, told in enumerate(bench.rounds) if told.opened)
    _, frame = bench.rounds[opening - 1].frames[-1]
    assert int.from_bytes(frame[40:48]) == bench.last(EventKind.OPENED).a
    assert int.from_bytes(frame[32:40]) == 0, "and it serves nothing yet"


def test_a_doubt_that_passes_is_asked_about_and_not_told() -> None:
    bench = secondary()
    bench.run(MS)
    bench.events.clear()
    bench.rounds.clear()
    bench.hello()
    hang(bench)
    bench.run(DEAD - 50 * US)
    probes = [
        frame for told in bench.rounds for _, frame in told.frames if frame[5] == lib.TB_PROBE
    ]
    assert len(probes) >= FAST.probes
    bench.agent = True
    bench.run(5 * MS)
    assert bench.events == []
    assert bench.watch is Watch.ALIVE


def test_a_kernel_that_answered_within_the_window_is_not_dead_when_it_ends() -> None:
    """A window that began before the suspicion starts anew with each answer."""
    bench = secondary()
    bench.run(MS)
    hang(bench)
    bench.run(DEAD - 50 * US)
    answered = bench.now
    bench.kernel = False
    bench.run(5 * MS)
    dead = bench.last(EventKind.DEAD)
    assert dead.at_ns >= answered + VERIFY - 100 * US
    assert dead.at_ns - bench.last(EventKind.SUSPECT).at_ns > VERIFY // 2


def test_a_stall_within_the_doubt_begins_the_window_anew() -> None:
    """R11: what was asked before the stall, and answered during it, counts for no verdict."""
    bench = secondary()
    bench.peer_serves(2)
    bench.run(MS)
    hang(bench)
    while not bench.node.engine.engine.doubt_ns:
        bench.run(10 * US)
    bench.kernel = False  # the probe under way is answered, and nothing after it
    bench.now += DEAD  # nobody looks meanwhile
    woke = bench.now
    bench.run(5 * MS)
    assert bench.last(EventKind.DEAD).at_ns >= woke + VERIFY


def test_one_hello_ends_the_suspicion() -> None:
    bench = secondary()
    die(bench)
    while bench.watch is not Watch.SUSPECT:
        bench.run(US)
    bench.hello()
    bench.run(DEAD // 2)
    assert bench.watch is Watch.ALIVE
    assert bench.told(EventKind.CLEARED)
    assert not bench.told(EventKind.DEAD)


def test_answering_kernel_means_stalled_not_dead() -> None:
    bench = secondary()
    hang(bench)
    bench.run(1500 * US)
    assert bench.watch is Watch.STALLED
    assert not bench.told(EventKind.DEAD)
    assert not bench.gate_open


def test_kernel_that_falls_silent_later_is_dead_after_all() -> None:
    bench = secondary()
    hang(bench)
    bench.run(1 * MS)
    bench.kernel = False
    bench.run(30 * MS)
    assert bench.told(EventKind.STALLED)
    assert bench.told(EventKind.DEAD)


def test_probes_go_out_every_eighth_of_verify_while_suspicious() -> None:
    bench = secondary()
    die(bench)
    bench.rounds.clear()
    while not bench.told(EventKind.DEAD):
        bench.run(US)
    probes = [f for told in bench.rounds for _, f in told.frames if f[5] == lib.TB_PROBE]
    assert 8 <= len(probes) <= 10


def test_one_silent_link_of_two_raises_no_suspicion() -> None:
    bench = secondary(settings=replace(FAST, links=3))
    bench.run(10 * MS)
    assert not bench.told(EventKind.SUSPECT)
    assert bench.watch is Watch.ALIVE


# -- R2: terms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("node", [0, 1])
def test_r2_term_is_the_smallest_of_our_parity_above_everything_seen(node: int) -> None:
    bench = secondary(
        settings=replace(FAST, node=node), order=replace(ORDER, term_first=2, term_last=5000)
    )
    bench.peer.maps.self.highest = 1200
    bench.run(1 * MS)
    die(bench)
    bench.run(5 * MS)
    assert bench.last(EventKind.OPENED).a == 1202 - node


def test_r2_spent_block_claims_nothing() -> None:
    bench = secondary(order=replace(ORDER, term_first=10, term_last=400))
    die(bench)
    bench.run(20 * MS)
    assert Cause.BLOCK_SPENT in bench.withheld()
    assert not bench.told(EventKind.CLAIM)
    assert not bench.gate_open


def test_r2_number_is_never_used_twice() -> None:
    bench = secondary()
    bench.kernel = False  # the claims don't reach the peer, so no receipt comes
    claims = []
    for _ in range(4):
        bench.order_again(permits=ALL | Permit.CLAIM_NOW)
        bench.run(6 * MS)
        claims.append(bench.last(EventKind.CLAIM).a)
    assert claims == sorted(set(claims))


def test_r2_python_hears_of_a_block_that_runs_out() -> None:
    bench = secondary(order=replace(ORDER, term_last=1020))
    die(bench)
    bench.run(5 * MS)
    assert bench.last(EventKind.TERM_LOW).a == 1020 - bench.last(EventKind.OPENED).a


# -- R3, R4: renewal and expiry ------------------------------------------------------------------


def test_r3_lease_is_renewed_from_the_clock_read_before_the_checks() -> None:
    bench = primary()
    bench.run(20 * MS + 50 * US)
    assert bench.gate_open
    until = bench.node.kernel.gate.open_until
    decided = bench.now
    bench.node.look(decided)
    bench.node.act(decided + 3 * MS)  # stalled between the decision and the store
    assert bench.node.kernel.gate.open_until == decided + LEASE > until


def test_r3_without_attestation_the_lease_runs_out_and_stays_so() -> None:
    bench = primary()
    until = bench.now + 2 * MS
    bench.give(bench.order, attested_until_ns=until)
    bench.run(LEASE + 3 * MS)
    closing = bench.last(EventKind.CLOSED)
    assert closing.cause is Cause.EXPIRED
    assert until + LEASE - FAST.timers.hello_ns <= closing.at_ns <= until + LEASE + MS
    assert bench.node.kernel.gate.term == 0


def test_r3_late_renewal_is_earned_again_by_receipt() -> None:
    bench = primary()
    term = bench.node.kernel.gate.term
    # Stalled for more than half a lease, the peer's agent as well: nobody claimed meanwhile.
    bench.now += LEASE * 6 // 10
    bench._wake_ns = bench._hello_ns = bench.now
    bench.run(2 * MS)
    claim = bench.last(EventKind.CLAIM)
    assert (claim.cause, claim.b) == (Cause.RENEW, 0)
    assert bench.last(EventKind.OPENED).cause is Cause.RECEIPT
    assert bench.node.kernel.gate.term > term
    assert not bench.told(EventKind.CLOSED)


def test_r4_expired_lease_is_over() -> None:
    bench = primary()
    term = bench.node.kernel.gate.term
    bench.now += LEASE + US
    bench._wake_ns = bench._hello_ns = bench.now
    bench.agent = False
    told = bench.round()
    assert told.closed
    assert bench.last(EventKind.CLOSED).cause is Cause.EXPIRED
    assert bench.node.kernel.gate.term == 0
    assert bench.phase is not Phase.SERVING
    assert bench.node.engine.engine.last_term >= term


@pytest.mark.parametrize(
    ("looked_ns", "cause"),
    [(0, Cause.FENCED), (-US, Cause.FENCED), (1, Cause.EXPIRED), (300 * US, Cause.EXPIRED)],
)
def test_r4_a_fence_that_was_read_after_the_end_of_the_lease_took_nothing_away(
    looked_ns: int, cause: Cause
) -> None:
    """Held up between the clock and the gate's words; the claim may have come after the lease."""
    bench = primary()
    gate = bench.node.kernel.gate
    gate.fence_below = gate.term + 1
    bench.now = bench._wake_ns = gate.open_until - 100 * US
    bench.node.engine.input.looked_ns = looked_ns and gate.open_until - 1 + looked_ns
    bench.round()
    assert bench.last(EventKind.CLOSED).cause is cause


# -- R5: contest ---------------------------------------------------------------------------------


def healed_partition(*, hears_us: bool) -> Bench:
    """Both are open: we took over by silence, and now the peer of the lower term is heard again."""
    bench = secondary()
    die(bench)
    bench.run(5 * MS)
    assert bench.gate_open
    bench.events.clear()
    bench.announced = 0
    bench.peer_serves(501)
    bench.agent = True
    bench.kernel = hears_us
    return bench


def test_r5_contested_gate_is_shut_and_reopens_on_the_receipt() -> None:
    bench = healed_partition(hears_us=True)
    bench.hello()
    assert not bench.gate_open, "in the kernel, before the engine knows"
    bench.run(400 * US)
    assert bench.gate_open
    assert not bench.peer.gate_open(bench.now)
    assert bench.announced == 1, "the winner announces again"


def test_r5_contest_that_lasts_is_lost() -> None:
    bench = healed_partition(hears_us=False)
    bench.run(2 * MS)
    closing = bench.last(EventKind.CLOSED)
    assert closing.cause is Cause.CONTEST_LOST
    assert closing.at_ns - bench.last(EventKind.CONTESTED).at_ns <= VERIFY + 200 * US
    assert bench.node.kernel.gate.term == 0


def test_r5_higher_term_fences() -> None:
    bench = primary()
    bench.peer_serves(1501)
    bench.run(400 * US)
    assert bench.last(EventKind.CLOSED).cause is Cause.FENCED
    assert bench.last(EventKind.CLOSED).b == 1501


def test_what_was_found_out_of_a_silent_peer_is_over_when_it_is_heard() -> None:
    """Python hangs: it can't take back what it allowed when the peer's power was cut."""
    bench = Bench(order=replace(ORDER, permits=ALL | Permit.UNHEARD))
    bench.run(2 * MS)
    assert bench.watch is Watch.ALIVE
    die(bench)
    bench.run(5 * MS)
    assert bench.watch is Watch.DEAD
    assert bench.withheld() == {Cause.NOT_PERMITTED}
    newest = bench.node.kernel.maps.peer.counter
    # Decided before the last frames of the peer, though it comes after its death.
    bench.order_again(heard=newest - 1)
    bench.run(5 * MS)
    assert not bench.told(EventKind.OPENED)
    bench.order_again(heard=newest)
    bench.run(5 * MS)
    assert bench.last(EventKind.OPENED).cause is Cause.SILENCE


# -- R6: claims ----------------------------------------------------------------------------------


def test_r6_receipt_opens() -> None:
    bench = secondary()
    bench.order_again(permits=ALL | Permit.CLAIM_NOW)
    bench.run(400 * US)
    assert bench.last(EventKind.CLAIM).cause is Cause.ORDERED
    assert bench.last(EventKind.OPENED).cause is Cause.RECEIPT
    assert bench.peer.gate.fence_below >= bench.last(EventKind.OPENED).a
    assert not bench.peer.gate_open(bench.now), "never two"


def test_r6_receipt_grows_stale_in_a_stall() -> None:
    """Whoever gave it may have taken us for dead meanwhile, and serve: it is asked again."""
    bench = secondary()
    bench.order_again(permits=ALL | Permit.CLAIM_NOW)
    while not bench.told(EventKind.CLAIM):
        bench.round()
    claim = bench.last(EventKind.CLAIM)
    assert bench.peer.gate.fence_below >= claim.a, "the receipt lies there"
    bench.kernel = False
    bench.now = claim.at_ns + DEAD
    bench.round()
    assert not bench.told(EventKind.OPENED)
    bench.kernel = True
    bench.run(DEAD + 10 * VERIFY)
    assert bench.last(EventKind.OPENED).cause is Cause.RECEIPT


@pytest.mark.parametrize("echo", [(6 << 32) + 5, (7 << 32) + 1])
def test_r6_echo_with_the_time_of_another_clock_is_no_receipt(echo: int) -> None:
    """A node booted, and its peer echoes a frame of the boot before: never as old as it seems."""
    bench = secondary()
    bench.order_again(permits=ALL | Permit.CLAIM_NOW)
    while not bench.told(EventKind.CLAIM):
        bench.round()
    bench.kernel = False
    bench._echo = (echo, bench.now + 3600 * 1000 * MS, bench.now)
    bench.hello()
    assert bench.peer.gate.fence_below >= bench.last(EventKind.CLAIM).a, "it looks like a receipt"
    bench.now += 10 * US
    bench.round()
    assert not bench.told(EventKind.OPENED)
    bench.kernel = True
    bench.run(DEAD + 10 * VERIFY)
    assert bench.last(EventKind.OPENED).cause is Cause.RECEIPT


def test_r6_claim_without_receipt_is_abandoned() -> None:
    bench = secondary()
    bench.kernel = False
    bench.order_again(permits=ALL | Permit.CLAIM_NOW)
    bench.run(3 * MS)
    abandoned = bench.last(EventKind.ABANDONED)
    assert abandoned.cause is Cause.NO_RECEIPT
    waited = abandoned.at_ns - bench.last(EventKind.CLAIM).at_ns
    assert 2 * VERIFY < waited <= 2 * VERIFY + FAST.timers.hello_ns
    assert not bench.told(EventKind.OPENED)
    assert bench.phase is Phase.LISTENING


def test_r6_fruitless_claims_come_ever_more_seldom() -> None:
    bench = Bench()
    bench.run(1 * MS)
    bench.kernel = False
    bench.run(1000 * MS)
    fruitless = [e.at_ns for e in bench.told(EventKind.ABANDONED) if e.cause is Cause.NO_RECEIPT]
    pauses = [after - before for before, after in pairwise(fruitless)]
    assert len(pauses) >= 14
    assert max(pauses[:8]) < 2 * min(pauses[:8]), "a few in a row may be an unlucky host's"
    assert all(later > 1.4 * sooner for sooner, later in pairwise(pauses[9:14]))
    assert max(pauses) < 300 * MS, "and yet it never gives up"


def test_r6_overtaken_claim_is_abandoned() -> None:
    bench = secondary()
    bench.kernel = False
    bench.order_again(permits=ALL | Permit.CLAIM_NOW)
    bench.run(300 * US)
    assert bench.phase is Phase.CLAIMING
    bench.peer_serves(1801)
    bench.run(FAST.timers.hello_ns + 50 * US)
    assert bench.last(EventKind.ABANDONED).cause is Cause.OVERTAKEN


def test_r6_order_that_goes_void_under_way_ends_the_claim() -> None:
    bench = secondary()
    bench.kernel = False
    bench.order_again(permits=ALL | Permit.CLAIM_NOW)
    bench.run(300 * US)
    bench.order_again(expires_ns=bench.now)
    bench.run(100 * US)
    assert bench.last(EventKind.ABANDONED).cause is Cause.ORDER_VOID


def test_r6_attestation_must_outlast_the_lease() -> None:
    bench = secondary()
    bench.give(bench.order, attested_until_ns=bench.now + LEASE)
    die(bench)
    bench.run(5 * MS)
    assert not bench.told(EventKind.CLAIM)
    assert Cause.ORDER_VOID in bench.withheld()


def test_r6_claim_is_repeated_until_there_is_a_receipt() -> None:
    bench = secondary()
    die(bench)
    bench.run(5 * MS)
    assert bench.gate_open
    assert bench.claims == bench.last(EventKind.OPENED).a
    assert bench.says & Flag.STRANDED
    bench.run(20 * MS)
    assert bench.claims
    bench.kernel = True
    bench.run(2 * MS)
    assert bench.told(EventKind.RECEIPT)
    assert bench.claims == 0
    assert not bench.says & Flag.STRANDED


# -- R7: silence ---------------------------------------------------------------------------------


def opened_after(bench: Bench) -> int:
    """How long after the peer's death the gate opened, in ns."""
    died = bench.now
    die(bench)
    bench.run(40 * MS)
    return bench.last(EventKind.OPENED).at_ns - died


def test_r7_proven_both_ways_opens_at_once() -> None:
    assert opened_after(secondary()) <= DEAD + VERIFY + 2 * US


def test_r7_deaf_peer_may_hold_its_lease() -> None:
    bench = secondary(hears=False)
    waited = opened_after(bench)
    assert Cause.PEER_LEASE in bench.withheld()
    assert bench.last(EventKind.OPENED).cause is Cause.LEASE_RAN_OUT
    assert LEASE + LEASE // 2 - FAST.timers.hello_ns <= waited <= LEASE + LEASE // 2 + MS


def test_r7_strict_always_waits_for_the_lease() -> None:
    bench = secondary(settings=replace(FAST, strict=True))
    assert LEASE + LEASE // 2 - FAST.timers.hello_ns <= opened_after(bench)


def test_r7_kernel_that_said_open_is_believed_until_its_lease_ends() -> None:
    bench = secondary(order=replace(ORDER, permits=ALL & ~Permit.MAY_CLAIM_STALLED))
    hang(bench)
    bench.run(1 * MS)
    lease_end = bench.peer.gate.open_until
    assert bench.watch is Watch.STALLED
    die(bench)
    bench.run(40 * MS)
    assert bench.last(EventKind.OPENED).at_ns >= lease_end


@pytest.mark.parametrize("allowed", [True, False])
def test_r7_silence_opens_only_where_the_order_allows_a_claim_on_it(allowed: bool) -> None:
    # Whatever the claim was begun for: its peer may have to be fenced first.
    silence = Permit(0) if allowed else Permit.MAY_CLAIM_DEAD | Permit.MAY_CLAIM_COLD
    # The verdict comes before the claim is given up for want of a receipt.
    settings = replace(FAST, timers=replace(FAST.timers, verify_ns=DEAD))
    bench = Bench(settings=settings, order=replace(ORDER, permits=ALL & ~silence))
    bench.run(1 * MS)
    bench.kernel = False  # nobody receipts
    while not bench.told(EventKind.CLAIM):
        bench.run(100 * US)
    assert bench.last(EventKind.CLAIM).cause is Cause.IDLE
    die(bench)
    bench.run(5 * MS)
    assert bench.watch is Watch.DEAD
    assert bench.gate_open is allowed
    if not allowed:
        assert bench.last(EventKind.ABANDONED).cause is Cause.NOT_PERMITTED
        assert Cause.NOT_PERMITTED in bench.withheld()
        bench.order_again(permits=ALL)
        bench.run(5 * MS)
        assert bench.gate_open


def test_r7_a_verdict_that_lay_is_made_anew_before_a_claim() -> None:
    bench = secondary(order=replace(ORDER, permits=Permit(0)))
    die(bench)
    bench.run(20 * MS)
    assert bench.watch is Watch.DEAD
    allowed_ns = bench.now
    bench.order_again(permits=ALL)
    bench.run(2 * MS)
    claim = bench.last(EventKind.CLAIM)
    assert claim.cause is Cause.DEAD
    assert claim.at_ns >= allowed_ns + VERIFY
    assert bench.last(EventKind.DEAD).at_ns == claim.at_ns


def test_r7_planned_restart_is_no_death() -> None:
    bench = secondary(flags=Flag.RESTART, lease_ns=30 * MS)
    assert opened_after(bench) >= 30 * MS


# -- R8, R9: a peer that doesn't serve -----------------------------------------------------------


@pytest.mark.parametrize(
    ("permits", "wait"),
    [(ALL | Permit.PREFERRED, FAST.idle_claim_ns), (ALL, 2 * FAST.idle_claim_ns + VERIFY)],
    ids=["preferred", "other"],
)
def test_r8_idle_peer_is_replaced_by_receipt(permits: Permit, wait: int) -> None:
    bench = Bench(order=replace(ORDER, permits=permits))
    bench.run(10 * MS)
    claim = bench.last(EventKind.CLAIM)
    heard = bench.last(EventKind.HEARD).at_ns
    assert claim.cause is Cause.IDLE
    assert wait <= claim.at_ns - heard <= wait + 500 * US
    assert bench.last(EventKind.OPENED).cause is Cause.RECEIPT


IDLE_SECOND = 2 * FAST.idle_claim_ns + VERIFY
"""How long who isn't preferred waits beside an idle peer."""


def starting(**changes: object) -> Bench:
    """A node that hears a peer which starts, as it did itself."""
    settings = replace(FAST, boot_wait_ns=100 * MS)
    return Bench(settings=settings, flags=Flag.STARTING, **changes)  # type: ignore[arg-type]


def test_r8_whoever_goes_first_does_so_though_it_is_slow_to_start() -> None:
    bench = starting()
    bench.run(50 * MS)
    assert not bench.told(EventKind.CLAIM)
    assert bench.withheld() == {Cause.PEER_STARTS}
    bench.flags = NO_FLAGS
    started = bench.now
    bench.run(10 * MS)
    waited = bench.last(EventKind.CLAIM).at_ns - started
    assert IDLE_SECOND <= waited <= IDLE_SECOND + 500 * US, "it had its turn"


def test_r8_who_goes_first_itself_waits_for_no_starter() -> None:
    bench = starting(order=replace(ORDER, permits=ALL | Permit.PREFERRED))
    bench.run(10 * MS)
    waited = bench.last(EventKind.CLAIM).at_ns - bench.last(EventKind.HEARD).at_ns
    assert waited <= FAST.idle_claim_ns + 500 * US
    assert not bench.withheld()


def test_r8_a_start_that_never_ends_is_waited_for_as_long_as_starts_last() -> None:
    """Counted from when the peer was met, however late that was."""
    bench = starting(agent=False, kernel=False)
    bench.run(300 * MS)
    bench.agent = bench.kernel = True
    bench.run(150 * MS)
    waited = bench.last(EventKind.CLAIM).at_ns - bench.last(EventKind.HEARD).at_ns
    assert abs(waited - (100 * MS + IDLE_SECOND)) <= 500 * US


def test_r8_a_start_that_begins_again_and_again_is_waited_for_once() -> None:
    bench = starting()
    for _ in range(6):
        bench.run(20 * MS)
        bench.flags = NO_FLAGS
        bench.run(1 * MS)
        bench.flags = Flag.STARTING
    assert bench.told(EventKind.CLAIM)
    waited = bench.told(EventKind.CLAIM)[0].at_ns - bench.told(EventKind.HEARD)[0].at_ns
    assert 100 * MS <= waited <= 130 * MS


def test_r9_a_start_that_stalls_keeps_its_turn_for_as_long_as_starts_last() -> None:
    bench = starting()
    bench.run(5 * MS)
    hang(bench)
    bench.run(60 * MS)
    assert bench.watch is Watch.STALLED
    assert not bench.told(EventKind.CLAIM)
    bench.run(60 * MS)
    claim = bench.last(EventKind.CLAIM)
    assert claim.cause is Cause.STALLED
    waited = claim.at_ns - bench.last(EventKind.HEARD).at_ns
    assert 0 <= waited - 100 * MS <= 500 * US


def test_r9_a_start_that_stalls_beside_who_goes_first_is_not_waited_for() -> None:
    bench = starting(
        order=replace(ORDER, permits=(ALL | Permit.PREFERRED) & ~Permit.MAY_CLAIM_IDLE)
    )
    bench.run(5 * MS)
    hang(bench)
    bench.run(5 * MS)
    assert bench.last(EventKind.CLAIM).cause is Cause.STALLED


def test_r8_after_a_reign_nobody_waits_for_a_start() -> None:
    """An agent that is started again had its turn: the other node takes over at once."""
    bench = secondary(settings=replace(FAST, boot_wait_ns=100 * MS))
    bench.peer.gate.term = 0
    bench.flags = Flag.STARTING
    fell = bench.now
    bench.run(10 * MS)
    assert bench.last(EventKind.CLAIM).cause is Cause.IDLE
    assert bench.last(EventKind.CLAIM).at_ns - fell <= IDLE_SECOND + 500 * US


def test_r8_a_starter_that_does_not_hear_us_is_not_waited_for() -> None:
    """It gets no further: nobody leaves the start without having heard its peer."""
    bench = starting(hears=False)
    bench.run(10 * MS)
    waited = bench.told(EventKind.CLAIM)[0].at_ns - bench.last(EventKind.HEARD).at_ns
    assert waited <= IDLE_SECOND + 500 * US
    assert Cause.PEER_STARTS not in bench.withheld()


def test_r8_role_does_not_make_a_server() -> None:
    bench = Bench()
    bench.peer.maps.self.role = Role.PRIMARY
    bench.run(10 * MS)
    assert bench.last(EventKind.CLAIM).cause is Cause.IDLE


def test_r9_stalled_agent_behind_a_shut_gate_is_replaced_at_once() -> None:
    bench = secondary()
    hang(bench)
    bench.peer.gate.open_until = bench.now
    died = bench.now
    bench.run(2 * MS)
    assert bench.last(EventKind.CLAIM).cause is Cause.STALLED
    assert bench.last(EventKind.OPENED).cause is Cause.RECEIPT
    assert bench.last(EventKind.OPENED).at_ns - died < DEAD + 200 * US


def test_r9_stalled_agent_behind_an_open_gate_is_waited_for() -> None:
    bench = secondary()
    hang(bench)
    bench.run(8 * MS)
    claim, suspect = bench.last(EventKind.CLAIM), bench.last(EventKind.SUSPECT)
    assert claim.cause is Cause.STALLED
    assert claim.at_ns - suspect.at_ns == FAST.timers.stall_ns
    assert bench.last(EventKind.OPENED).cause is Cause.RECEIPT
    assert not bench.peer.gate_open(bench.now)


def test_r9_policy_may_wait_for_the_lease() -> None:
    bench = secondary(settings=replace(FAST, wait_lease=True))
    hang(bench)
    lease_end = bench.peer.gate.open_until
    bench.run(20 * MS)
    assert lease_end - MS <= bench.last(EventKind.CLAIM).at_ns <= lease_end + MS


def test_r9_deaf_and_idle_peer_is_replaced_without_receipt_after_a_lease() -> None:
    bench = Bench()
    bench.run(1 * MS)
    deaf = bench.now
    bench.hears = bench.kernel = False
    bench.run(60 * MS)
    opening = bench.last(EventKind.OPENED)
    assert opening.b == Cause.DEAF
    assert opening.at_ns - deaf >= LEASE + 3 * VERIFY


# -- R10: cold start -----------------------------------------------------------------------------


def test_r10_alone_claims_only_after_listening_and_asking() -> None:
    bench = Bench(settings=replace(FAST, claim_alone=True), agent=False, kernel=False)
    bench.run(30 * MS)
    claim, opening = bench.last(EventKind.CLAIM), bench.last(EventKind.OPENED)
    assert claim.cause is Cause.COLD
    assert claim.at_ns - START >= FAST.listen_ns
    assert opening.at_ns - claim.at_ns >= VERIFY


def test_r10_unproven_link_claims_nothing() -> None:
    bench = Bench(agent=False, kernel=False)
    bench.run(60 * MS)
    assert bench.withheld() == {Cause.UNPROVEN}
    assert not bench.told(EventKind.CLAIM)
    bench.node.kernel.maps.link[0].foreign_ns = bench.now
    bench.run(2 * MS)
    assert bench.last(EventKind.OPENED).b == Cause.COLD


def test_r10_peer_that_turns_up_while_listening_is_not_overrun() -> None:
    bench = Bench(settings=replace(FAST, claim_alone=True), agent=False, kernel=False)
    bench.run(FAST.listen_ns - MS)
    bench.agent = bench.kernel = True
    bench.peer_serves(501)
    bench.run(30 * MS)
    assert not bench.told(EventKind.CLAIM)


# -- R11: am I the one who is deaf, or cut off? --------------------------------------------------


def test_r11_no_control_no_verdict() -> None:
    bench = secondary()
    bench.node.control_works = False
    die(bench)
    bench.run(20 * MS)
    assert bench.withheld() == {Cause.NO_CONTROL}
    assert not bench.told(EventKind.DEAD)
    bench.node.control_works = True
    bench.run(1 * MS)
    assert bench.told(EventKind.DEAD)


def test_r11_late_rounds_restart_the_window_but_not_for_ever() -> None:
    bench = secondary()
    bench.late_ns = FAST.late_ns + 20 * US
    die(bench)
    bench.run(VERIFY + DEAD + 300 * US)
    assert not bench.told(EventKind.DEAD), "on time it would be dead by now"
    assert bench.node.engine.engine.window_restarts > 0
    bench.run(20 * MS)
    assert bench.told(EventKind.DEAD), "constant lateness can't forbid a verdict"
    assert bench.told(EventKind.LATE)


def test_r11_isolated_node_claims_nothing() -> None:
    bench = secondary(settings=replace(FAST, links=1, ports=1))
    die(bench)
    bench.node.link_carrier = bench.node.port_carrier = 0
    bench.run(20 * MS)
    assert bench.withheld() == {Cause.ISOLATED}
    assert not bench.told(EventKind.CLAIM)


def test_r11_probes_without_carrier_are_no_proof() -> None:
    bench = secondary()
    die(bench)
    bench.node.link_carrier = bench.node.port_carrier = 0
    bench.run(20 * MS)
    assert bench.watch is Watch.SUSPECT
    plugged_ns = bench.now
    bench.node.link_carrier, bench.node.port_carrier = bench.settings.links, 1
    bench.run(2 * MS)
    # The window begins with the newest probe that had no carrier.
    assert bench.last(EventKind.DEAD).at_ns >= plugged_ns + VERIFY - VERIFY // 8


def test_r11_probes_that_never_left_are_no_proof() -> None:
    bench = secondary()
    die(bench)
    bench.node.sends = False
    bench.run(20 * MS)
    assert bench.watch is Watch.SUSPECT
    assert not bench.told(EventKind.DEAD)
    bench.node.sends = True
    leaves_ns = bench.now
    bench.run(2 * MS)
    verdict = bench.last(EventKind.DEAD)
    assert verdict.at_ns >= leaves_ns + VERIFY - FAST.timers.verify_ns // 8, "the whole window"
    assert verdict.b >= FAST.probes


@pytest.mark.parametrize(("direct", "claims"), [(0, False), (1, True)])
def test_r11_carrier_of_a_direct_cable_counts_for_nothing(direct: int, claims: bool) -> None:
    # Link 0 falls with the peer's power; link 1 goes to a switch.
    bench = secondary(settings=replace(FAST, links=1 | direct << 1, direct=direct))
    die(bench)
    bench.node.link_carrier = 2
    bench.run(20 * MS)
    assert bool(bench.told(EventKind.OPENED)) is claims


@pytest.mark.parametrize("told_after_ms", [5, 1100])
def test_r11_opening_that_turns_out_to_be_isolation_is_taken_back(told_after_ms: int) -> None:
    """The kernel tells of a lost carrier up to a second after it fell, and that may be later."""
    bench = secondary(settings=replace(FAST, ports=1))
    die(bench)
    bench.run(told_after_ms * MS)
    assert bench.gate_open
    bench.node.link_carrier = bench.node.port_carrier = 0
    bench.run(1 * MS)
    assert bench.last(EventKind.CLOSED).cause is Cause.STRANDED_ISOLATED
    assert not bench.gate_open


def test_r11_python_may_know_of_isolation() -> None:
    bench = secondary()
    bench.order_again(facts=replace(bench.order.facts, flags=Flag.ISOLATED))
    die(bench)
    bench.run(20 * MS)
    assert bench.withheld() == {Cause.ISOLATED}


# -- R14, R16: what the peer says beside its heartbeats -------------------------------------------


def test_r14_an_answer_says_nothing_of_the_key_that_the_peer_sends_under() -> None:
    bench = primary()
    keys = (*KEYS, (2, bytes(16)))
    bench.peer.set_config(WireConfig(pair=1, node=1, keys=keys))
    bench.node.kernel.set_config(WireConfig(pair=1, node=0, keys=keys, send_key=1))
    bench.run(MS)
    bench.agent = False
    bench.run(MS)
    assert bench.watch is Watch.STALLED
    words = bench.node.kernel.peer
    assert words.type == FrameType.ANSWER, "under the key of the probe, which is 2"
    assert (words.key_id, list(words.keys)) == (1, [1, 2])


def test_r16_the_peer_knows_of_a_restart_once_it_echoed_a_frame_that_says_so() -> None:
    bench = primary()
    bench.kernel = False  # Its agent speaks, and hears nothing new.
    bench.order_again(facts=replace(bench.order.facts, flags=Flag.RESTART))
    bench.run(10 * FAST.timers.hello_ns)
    assert bench.says & Flag.RESTART
    assert not bench.node.engine.engine.restart_known
    bench.kernel = True
    bench.run(3 * FAST.timers.hello_ns)
    assert bench.node.engine.engine.restart_known
    bench.order_again(facts=replace(bench.order.facts, flags=Flag(0)))
    bench.run(2 * FAST.timers.hello_ns)
    assert not bench.node.engine.engine.restart_known


# -- R2: what is told of terms -------------------------------------------------------------------


def test_r2_newborn_is_said_to_the_first_boot_of_a_peer_alone() -> None:
    bench = secondary()
    bench.order_again(facts=replace(bench.order.facts, flags=Flag.NEWBORN))
    bench.run(1 * MS)
    assert bench.node.kernel.maps.self.flags & Flag.NEWBORN
    bench.peer.gate.counter = 10 << 32
    bench.run(2 * MS)
    assert bench.node.kernel.peer.epoch == 10
    assert not bench.node.kernel.maps.self.flags & Flag.NEWBORN


@pytest.mark.parametrize(
    ("said", "serving", "told"),
    [(Flag.STARTING, False, 699), (Flag.FIT, False, 0), (Flag.STARTING, True, 501)],
    ids=["starting", "started", "resuming its reign"],
)
def test_r2_a_starting_peer_is_told_what_the_disk_knows(
    said: Flag, serving: bool, told: int
) -> None:
    order = replace(ORDER, permits=Permit(0), term_first=700, term_last=900)
    bench = Bench(flags=said, order=order)
    if serving:
        bench.peer_serves(501)
    bench.run(2 * MS)
    assert bench.node.kernel.maps.self.highest == told


# -- R13, R14: replay and keys -------------------------------------------------------------------


def test_r13_node_that_lost_its_count_jumps_above_what_the_peer_knows() -> None:
    bench = secondary()
    bench.node.kernel.peer.taught = 12 << 32 | 5
    bench.run(1 * MS)
    assert bench.last(EventKind.COUNTER_JUMP).a == 13 << 32
    assert bench.node.kernel.gate.counter >= 13 << 32


def test_r14_unknown_key_is_not_death() -> None:
    settings = replace(FAST, claim_alone=True, mismatch_wait_ns=100 * MS)
    bench = Bench(settings=settings, agent=False, kernel=False)
    for _ in range(60):
        bench.node.kernel.maps.link[0].mismatch_ns = bench.now
        bench.run(MS)
    assert bench.withheld() == {Cause.MISMATCH}
    assert not bench.told(EventKind.CLAIM)


def test_r14_unknown_key_delays_a_cold_claim_and_does_not_forbid_it() -> None:
    settings = replace(FAST, claim_alone=True, mismatch_wait_ns=50 * MS)
    bench = Bench(settings=settings, agent=False, kernel=False)
    begun = bench.now
    for _ in range(100):
        bench.node.kernel.maps.link[0].mismatch_ns = bench.now
        bench.run(MS)
    claim = bench.last(EventKind.CLAIM)
    assert claim.cause is Cause.DESPITE_MISMATCH
    assert claim.at_ns - begun >= settings.listen_ns + 50 * MS
    assert bench.last(EventKind.OPENED).cause is Cause.SILENCE
    assert bench.phase is Phase.SERVING


def test_r14_unknown_key_does_not_delay_a_takeover() -> None:
    quiet, forged = secondary(), secondary()
    for bench in (quiet, forged):
        bench.agent = bench.kernel = False
        for _ in range(200):
            if bench is forged:
                bench.node.kernel.maps.link[0].mismatch_ns = bench.now
            bench.run(100_000)
    took = [bench.last(EventKind.OPENED).at_ns for bench in (quiet, forged)]
    assert took[0] == took[1]


# -- R16: restart --------------------------------------------------------------------------------


def restarted(bench: Bench, permits: Permit) -> Bench:
    bench.node.restart_agent(bench.settings, bench.now)
    bench.order_again(permits=permits)
    bench.events.clear()
    bench.run(2 * MS)
    return bench


def test_r16_open_gate_is_resumed() -> None:
    bench = primary()
    term = bench.node.kernel.gate.term
    restarted(bench, ALL | Permit.RESUME)
    assert bench.last(EventKind.OPENED).cause is Cause.RESUMED
    assert bench.node.kernel.gate.term == term
    assert bench.phase is Phase.SERVING


def test_r16_without_leave_it_is_shut() -> None:
    bench = primary()
    restarted(bench, ALL & ~Permit.MAY_CLAIM_IDLE)
    assert bench.told(EventKind.CLOSED)
    assert bench.node.kernel.gate.term == 0


def test_r16_lapsed_gate_is_not_resumed() -> None:
    bench = primary()
    bench.now += LEASE + US
    bench._wake_ns = bench._hello_ns = bench.now
    restarted(bench, ALL & ~Permit.MAY_CLAIM_IDLE | Permit.RESUME)
    assert not bench.told(EventKind.OPENED)
    assert bench.node.kernel.gate.term == 0


def test_r16_longer_lease_is_announced_and_kept() -> None:
    bench = primary()
    bench.order_again(lease_ns=50 * MS)
    bench.run(1 * MS)
    assert bench.node.kernel.gate.open_until >= bench.now + 49 * MS
    assert bench.node.kernel.maps.self.lease_full_us == 50_000


# -- R17, R18 and NO-SURPRISE --------------------------------------------------------------------


def test_r17_order_says_whether_a_claim_came_first() -> None:
    bench = secondary()
    bench.order_again()
    bench.run(300 * US)
    assert bench.last(EventKind.ORDER).b == 0
    serving = primary()
    serving.order_again()
    serving.run(300 * US)
    assert serving.last(EventKind.ORDER).b == 1


def test_r17_claim_now_is_good_for_one_claim_of_its_generation() -> None:
    bench = secondary()
    bench.kernel = False
    bench.order_again(permits=Permit.MAY_SERVE | Permit.CLAIM_NOW)
    bench.run(30 * MS)
    assert len(bench.told(EventKind.CLAIM)) == 1


def test_r17_yield_is_a_level() -> None:
    bench = primary()
    bench.order_again(permits=ALL | Permit.YIELD)
    bench.run(5 * MS)
    assert bench.says & Flag.YIELD
    assert bench.gate_open, "until the peer claims"
    bench.order_again(permits=ALL)
    bench.run(1 * MS)
    assert not bench.says & Flag.YIELD


def test_r17_yielding_peer_is_relieved_in_one_round_trip() -> None:
    bench = secondary()
    bench.flags = Flag.YIELD
    asked = bench.now
    bench.run(1 * MS)
    assert bench.last(EventKind.CLAIM).cause is Cause.YIELDED
    opening = bench.last(EventKind.OPENED)
    assert opening.cause is Cause.RECEIPT
    assert opening.at_ns - asked < 2 * FAST.timers.hello_ns + 100 * US


def test_r17_resignation_shuts_at_once_and_only_once() -> None:
    bench = primary()
    bench.order_again(resign_of=5, permits=ALL)
    told = bench.round()
    assert told.closed
    assert bench.last(EventKind.CLOSED).cause is Cause.RESIGNED
    bench.order_again(permits=ALL | Permit.CLAIM_NOW)
    bench.run(3 * MS)
    assert bench.gate_open
    bench.order_again(permits=ALL)
    bench.run(3 * MS)
    assert bench.gate_open, "the same number again is no new demand"


def test_r18_primary_below_the_highest_term_claims_anew_with_its_gate_open() -> None:
    bench = primary()
    term = bench.node.kernel.gate.term
    bench.peer.maps.self.highest = term + 101
    bench.run(2 * MS)
    claim = bench.last(EventKind.CLAIM)
    assert (claim.cause, claim.b) == (Cause.RENEW, 1)
    assert bench.node.kernel.gate.term > term + 101
    assert not bench.told(EventKind.CLOSED)


def test_paused_claims_nothing_and_goes_on_serving() -> None:
    bench = secondary(order=replace(ORDER, permits=ALL | Permit.PAUSED))
    die(bench)
    bench.run(40 * MS)
    assert not bench.told(EventKind.CLAIM)
    serving = primary()
    serving.order_again(permits=ALL | Permit.PAUSED)
    serving.run(40 * MS)
    assert serving.gate_open


PAUSED = replace(ORDER.facts, flags=ORDER.facts.flags | Flag.PAUSED)


def said_of_pause(bench: Bench) -> tuple[bool, int]:
    """What its frames say: that it is paused, and for how long."""
    bench.round()
    flags = bench.node.engine.actions.self.flags
    return bool(flags & lib.TB_F_PAUSED), lib.tb_pause_left_ns(flags)


def test_frames_say_how_much_of_a_pause_is_left_and_end_it_though_python_hangs() -> None:
    bench = secondary()
    bench.order_again(facts=replace(PAUSED, pause_until_ns=bench.now + 40 * MS))
    assert said_of_pause(bench) == (True, 40 * MS)
    bench.run(30 * MS)
    paused, left_ns = said_of_pause(bench)
    assert paused
    assert 9 * MS < left_ns <= 11 * MS
    bench.run(12 * MS)
    assert said_of_pause(bench) == (False, 0)


def test_a_pause_without_an_end_says_none() -> None:
    bench = secondary()
    bench.order_again(facts=PAUSED)
    assert said_of_pause(bench) == (True, 0)


@given(st.integers(1, 1 << 63))
@example(1)
@example(MS)
@example(63 * MS)
@example(64 * MS)
@example(127 * MS + 1)
@example((63 << 30) * MS)
def test_what_is_left_of_a_pause_is_rounded_up(left_ns: int) -> None:
    said = lib.tb_pause_said(left_ns)
    assert said & ~lib.TB_PAUSE_LEFT == 0
    told_ns = lib.tb_pause_left_ns(said | lib.TB_F_PAUSED)
    longest_ns = (63 << 30) * MS
    if left_ns <= longest_ns:
        assert left_ns <= told_ns <= left_ns + left_ns // 32 + MS + MS // 32
    else:
        assert told_ns == longest_ns


@pytest.mark.parametrize(
    ("missing", "happens"),
    [(Permit.MAY_CLAIM_DEAD, die), (Permit.MAY_CLAIM_STALLED, hang)],
    ids=["dead", "stalled"],
)
def test_what_is_not_permitted_is_not_claimed(missing: Permit, happens: object) -> None:
    bench = secondary(order=replace(ORDER, permits=ALL & ~missing))
    happens(bench)  # type: ignore[operator]
    bench.run(8 * MS)
    assert Cause.NOT_PERMITTED in bench.withheld()
    assert not bench.told(EventKind.CLAIM)


def test_no_order_no_claim() -> None:
    bench = secondary(order=replace(ORDER, generation=0))
    die(bench)
    bench.run(40 * MS)
    assert not bench.told(EventKind.CLAIM)
    assert not bench.gate_open


def test_expired_order_claims_nothing() -> None:
    bench = secondary(order=replace(ORDER, expires_ns=START + 2 * MS))
    die(bench)
    bench.run(40 * MS)
    assert Cause.ORDER_VOID in bench.withheld()
    assert not bench.told(EventKind.CLAIM)


# -- words for the kernel and the agent ----------------------------------------------------------


def test_self_words_say_what_the_frames_say() -> None:
    bench = secondary()
    words = bench.node.kernel.maps.self
    assert words.hello_us == FAST.timers.hello_ns // US
    assert words.dead_us == DEAD // US
    assert words.verify_us == VERIFY // US
    assert words.lease_full_us == LEASE // US
    assert words.highest == 501
    assert bench.says & Flag.HEARS_YOU
    die(bench)
    bench.run(DEAD + US)
    assert not bench.says & Flag.HEARS_YOU


def test_new_timers_take_effect_without_a_suspicion() -> None:
    bench = secondary()
    for _ in range(20):
        longer = replace(FAST.timers, dead_ns=bench.settings.timers.dead_ns + US)
        bench.configure(timers=longer)
        bench.run(1 * MS)
    assert not bench.told(EventKind.SUSPECT)
    assert bench.watch is Watch.ALIVE


@pytest.mark.parametrize("what", ["health", "digest", "generation"])
def test_peer_changes_are_told_once(what: str) -> None:
    """What is decided on is known at once, and not with the next look of the core."""
    bench = secondary()
    bench.events.clear()
    setattr(bench.peer.maps.self, what, 77)
    bench.run(5 * MS)
    assert len(bench.told(EventKind.PEER_CHANGED)) == 1


def test_attestation_forever_is_no_overflow() -> None:
    bench = primary()
    bench.give(bench.order, attested_until_ns=(1 << 64) - 1)
    bench.run(30 * MS)
    assert bench.gate_open
    assert bench.now < FOREVER
