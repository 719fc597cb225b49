# SPDX-License-Identifier: Apache-2.0
"""R21: the gate is never open beyond a word, and a claim waits for the words that others have."""

from dataclasses import replace
from typing import Any

import pytest

from twinbeat.engine.types import Cause, EventKind, Settings
from unit.engine_bench import FAST, MS, US, Bench, primary, secondary

WORD = 50 * MS
WITNESSED = replace(FAST, witness_ns=WORD)


def words(bench: Bench, **told: int) -> None:
    """What Python tells the engine of the witness; the rest is 0."""
    raw: Any = bench.node.engine.input.witness
    for name in ("term", "until_ns", "open_ns", "before", "kept", "absent"):
        setattr(raw, name, told.get(name, 0))


def term_of(bench: Bench) -> int:
    return int(bench.node.engine.engine.term)


def claim_of(bench: Bench) -> int:
    return int(bench.node.engine.engine.claim)


def cut(bench: Bench) -> None:
    """Nothing gets through any more."""
    bench.agent = bench.kernel = False


def shut_at(bench: Bench, within_ns: int) -> int:
    """When the gate shuts, to the microsecond."""
    end = bench.now + within_ns
    while bench.gate_open and bench.now < end:
        bench.run(10 * US)
    assert not bench.gate_open
    return bench.now


def test_while_the_peer_speaks_its_word_is_enough() -> None:
    bench = primary(settings=WITNESSED)
    bench.run(4 * WORD)
    assert bench.gate_open
    assert bench.events == []


def test_an_answering_kernel_gives_its_word_too() -> None:
    """Its agent hangs; it knows of no higher term, and would say so."""
    bench = primary(settings=WITNESSED)
    bench.agent = False
    bench.run(4 * WORD)
    assert bench.gate_open


def test_a_primary_that_is_cut_off_shuts_one_lease_after_the_last_frame_that_was_echoed() -> None:
    bench = primary(settings=WITNESSED)
    cut(bench)
    begun = bench.now
    hello = FAST.timers.hello_ns
    assert begun + WORD - 2 * hello <= shut_at(bench, 2 * WORD) <= begun + WORD + 20 * US
    bench.run(1 * MS)
    assert bench.last(EventKind.CLOSED).cause is Cause.NO_WITNESS


def test_without_a_witness_it_goes_on() -> None:
    bench = primary()
    cut(bench)
    bench.run(4 * WORD)
    assert bench.gate_open


def test_the_witness_word_holds_the_gate_open_to_its_end_and_no_longer() -> None:
    bench = primary(settings=WITNESSED)
    cut(bench)
    until = bench.now + 3 * WORD
    words(bench, term=term_of(bench), until_ns=until, kept=term_of(bench))
    assert until - 20 * US <= shut_at(bench, 5 * WORD) <= until + 20 * US


def test_a_word_for_another_term_holds_nothing() -> None:
    bench = primary(settings=WITNESSED)
    cut(bench)
    begun = bench.now
    words(bench, term=term_of(bench) + 2, until_ns=begun + 9 * WORD)
    assert shut_at(bench, 2 * WORD) <= begun + WORD + 20 * US


def test_an_absent_witness_is_none() -> None:
    bench = primary(settings=WITNESSED)
    cut(bench)
    words(bench, absent=1)
    bench.run(4 * WORD)
    assert bench.gate_open


def test_a_peer_that_claimed_gives_no_word() -> None:
    """Its frames know of a higher term: from then on they vouch for nobody below it."""
    bench = primary(settings=WITNESSED)
    bench.kernel = False
    begun = bench.now
    bench.peer.maps.self.highest = term_of(bench) + 1
    bench.order_again(permits=bench.order.permits)
    bench.run(1 * MS)
    assert bench.node.engine.engine.peer_word_ns <= begun


def claimant(settings: Settings = WITNESSED) -> Bench:
    """A node that claims, its peer being gone without a trace."""
    bench = secondary(settings=settings)
    cut(bench)
    bench.run(5 * MS)
    return bench


def test_silence_opens_nothing_without_a_grant() -> None:
    bench = claimant()
    assert claim_of(bench)
    bench.run(10 * WORD)
    assert not bench.gate_open
    assert claim_of(bench), "it goes on claiming"


def test_a_granted_claim_opens_when_the_older_words_have_run_out() -> None:
    bench = claimant()
    term, opens = claim_of(bench), bench.now + WORD
    words(bench, term=term, until_ns=opens + WORD, open_ns=opens, kept=term)
    bench.run(WORD - 1 * US)
    assert not bench.gate_open
    bench.run(2 * FAST.timers.hello_ns)
    assert bench.gate_open
    opened = bench.last(EventKind.OPENED)
    assert (opened.a, opened.cause) == (term, Cause.WITNESSED)
    assert opened.at_ns - opens <= 2 * US, "and not a round later"


@pytest.mark.parametrize(
    "told",
    [
        {"term": 2, "until_ns": 1 << 62, "open_ns": 1},
        {"term": 0, "until_ns": 1 << 62},
        {"term": 0, "open_ns": 1},
    ],
    ids=["of another term", "no grant", "no word"],
)
def test_a_grant_is_of_that_very_term_and_has_a_word_left(told: dict[str, int]) -> None:
    bench = claimant()
    words(bench, **{**told, "term": claim_of(bench) + told["term"]})
    bench.run(2 * WORD)
    assert not bench.gate_open


def test_the_gate_opens_no_further_than_the_word() -> None:
    bench = claimant()
    bench.run(WORD)  # The peer's own has run out.
    term, until = claim_of(bench), bench.now + 2 * MS
    words(bench, term=term, until_ns=until, open_ns=1, kept=term)
    bench.run(1 * MS)
    assert bench.gate_open
    assert bench.node.kernel.gate.open_until == until


def test_a_receipt_needs_no_witness() -> None:
    bench = secondary(settings=WITNESSED)
    bench.agent = False
    bench.peer.gate.term = 0
    bench.run(5 * MS)
    assert bench.gate_open
    assert bench.last(EventKind.OPENED).cause is Cause.RECEIPT


def test_a_higher_term_at_the_witness_overtakes_a_claim() -> None:
    bench = claimant()
    first = claim_of(bench)
    words(bench, kept=first + 7)
    bench.run(5 * MS)
    assert bench.last(EventKind.ABANDONED).cause is Cause.OVERTAKEN
    assert claim_of(bench) > first + 7


def lapsed() -> Bench:
    """A node that was alone, and was held up for longer than its lease."""
    bench = primary(settings=WITNESSED)
    cut(bench)
    served = term_of(bench)
    words(bench, term=served, until_ns=1 << 62, kept=served)
    bench.run(2 * WORD)
    assert bench.gate_open
    bench.now += 2 * FAST.timers.lease_ns
    bench.run(5 * MS)
    assert not bench.gate_open
    assert bench.last(EventKind.CLOSED).cause is Cause.EXPIRED
    assert claim_of(bench)
    return bench


def test_whoever_was_alone_waits_for_nobody() -> None:
    bench = lapsed()
    served, term = bench.last(EventKind.CLOSED).a, claim_of(bench)
    words(bench, term=term, until_ns=1 << 62, open_ns=1 << 61, before=served, kept=term)
    bench.run(1 * MS)
    assert bench.gate_open


@pytest.mark.parametrize("receipted", [False, True])
def test_but_for_whoever_may_have_served_since(receipted: bool) -> None:
    """Another term was kept in between, or this node's kernel gave a receipt for one."""
    bench = lapsed()
    served, term = bench.last(EventKind.CLOSED).a, claim_of(bench)
    if receipted:
        bench.node.kernel.gate.fence_below = served + 1
    before = served if receipted else served + 1
    words(bench, term=term, until_ns=1 << 62, open_ns=1 << 61, before=before, kept=term)
    bench.run(1 * MS)
    assert not bench.gate_open


def test_waiting_for_the_witness_hurries_nobody() -> None:
    """A claim asks for its receipt in a hurry at first, then at the pace of heartbeats."""
    bench = claimant()
    bench.run(5 * MS)
    before = len(bench.rounds)
    bench.run(20 * MS)
    assert len(bench.rounds) - before <= 2 * 20 * MS // FAST.timers.hello_ns
