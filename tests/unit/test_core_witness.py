# SPDX-License-Identifier: Apache-2.0
"""What is asked of a witness and when, and what its answers allow."""

from dataclasses import replace

import pytest

from twinbeat.core.terms import floor_of
from twinbeat.core.witness import (
    LIFE_LEASES,
    LIFELESS_LEASES,
    TERMS_AWAY,
    TERMS_HONEST,
    Answer,
    Arbitration,
    Kind,
    Question,
    Verdict,
)

MS = 1_000_000
LEASE = 500 * MS
WAIT = LEASE + LEASE // 20
NOW = 10_000 * MS


def arbitration(*, node: int = 0, serve: bool = False, lease_ns: int = LEASE) -> Arbitration:
    return Arbitration(node=node, lease_ns=lease_ns, serve=serve)


def asked(desk: Arbitration, now: int, *, peer_heard: bool = False) -> Question:
    question = desk.question(now, peer_heard=peer_heard)
    assert question is not None
    return question


def answer(question: Question, verdict: Verdict, sent: int, done: int = 0, **more: int) -> Answer:
    return Answer(
        question=question, verdict=verdict, sent_ns=sent, done_ns=done or sent + 5 * MS, **more
    )


def granted(desk: Arbitration, now: int, *, done: int = 0, **more: int) -> Question:
    """Ask, and be told yes."""
    question = asked(desk, now)
    told = {"kept": question.term, **more}
    reply = answer(question, Verdict.GRANTED, now, done, **told)
    desk.answered(reply, reply.done_ns)
    return question


def silent(desk: Arbitration, now: int, after: int = 250 * MS) -> None:
    """Ask, and get no answer."""
    question = asked(desk, now)
    desk.answered(answer(question, Verdict.SILENT, now, now + after), now + after)


@pytest.mark.parametrize(
    ("highest", "most"),
    [
        (0, TERMS_HONEST),
        (TERMS_HONEST - TERMS_AWAY, TERMS_HONEST),
        (TERMS_HONEST, TERMS_HONEST + TERMS_AWAY),
        (1 << 50, (1 << 50) + TERMS_AWAY),
    ],
)
def test_no_answer_may_be_further_ahead_than_a_history_gets(highest: int, most: int) -> None:
    question = arbitration().question(NOW, peer_heard=True, highest=highest)
    assert question is not None
    assert question.term_max == most


def test_no_floor_is_as_high_as_what_is_believed() -> None:
    assert 2 * floor_of((1 << 64) - 1) < TERMS_HONEST


def test_without_a_witness_nothing_is_asked() -> None:
    desk = arbitration(lease_ns=0)
    desk.claimed(4)
    assert desk.question(NOW, peer_heard=False) is None
    assert desk.deadline(NOW, peer_heard=False) == 0


def test_a_claim_is_taken_there_at_once_and_opens_a_lease_after_the_answer() -> None:
    desk = arbitration()
    desk.claimed(4)
    question = granted(desk, NOW, done=NOW + 80 * MS)
    assert (question.kind, question.term) == (Kind.CLAIM, 4)
    words = desk.words(NOW + 80 * MS)
    assert (words.term, words.kept) == (4, 4)
    assert words.open_ns == NOW + 80 * MS + WAIT
    assert words.until_ns == NOW + LEASE, "but the word counts from before the question"


def test_while_it_waits_the_claim_is_confirmed_and_the_waiting_not_begun_anew() -> None:
    desk = arbitration()
    desk.claimed(4)
    granted(desk, NOW)
    opens = desk.words(NOW).open_ns
    assert desk.question(NOW + LEASE // 4 - 1, peer_heard=False) is None
    later = NOW + LEASE // 4
    question = granted(desk, later)
    assert (question.kind, question.term) == (Kind.CONFIRM, 4)
    assert desk.words(later).open_ns == opens
    assert desk.words(later).until_ns == later + LEASE


def test_a_primary_asks_four_times_a_lease_whether_or_not_it_hears_the_peer() -> None:
    for heard in (True, False):
        desk = arbitration()
        desk.opened(4)
        granted(desk, NOW)
        assert desk.deadline(NOW + 10 * MS, peer_heard=heard) == NOW + LEASE // 4


def test_signs_of_life_are_left_only_while_the_peer_is_not_heard_and_seldom() -> None:
    desk = arbitration()
    desk.opened(4)
    granted(desk, NOW)
    moments = range(1, 4 * LIFE_LEASES * 2 + 1)
    marks = 0
    for turn in moments:
        marks += granted(desk, NOW + turn * LEASE // 4).mark
    assert marks == 2
    heard = desk.question(NOW + 100 * LEASE, peer_heard=True)
    assert heard is not None
    assert not heard.mark


@pytest.mark.parametrize("verdict", [Verdict.DENIED, Verdict.SILENT])
def test_anything_but_a_yes_gives_no_word(verdict: Verdict) -> None:
    desk = arbitration()
    desk.claimed(4)
    desk.answered(answer(asked(desk, NOW), verdict, NOW, kept=5), NOW + 5 * MS)
    words = desk.words(NOW + 5 * MS)
    assert (words.term, words.until_ns, words.open_ns) == (0, 0, 0)
    assert words.kept == (5 if verdict is Verdict.DENIED else 0)


def test_an_answer_about_another_term_gives_no_word() -> None:
    desk = arbitration()
    desk.claimed(4)
    question = asked(desk, NOW)
    desk.abandoned()
    desk.claimed(6)
    desk.answered(answer(question, Verdict.GRANTED, NOW, kept=4), NOW + 5 * MS)
    assert desk.words(NOW).term == 0
    assert asked(desk, NOW + 5 * MS).term == 6


def test_a_claim_does_not_wait_for_the_answer_to_something_else() -> None:
    desk = arbitration()
    assert asked(desk, NOW).kind is Kind.LOOK
    desk.claimed(4)
    assert asked(desk, NOW + MS).term == 4
    assert desk.question(NOW + 2 * MS, peer_heard=False) is None


def test_what_was_overtaken_is_not_asked_for_again() -> None:
    desk = arbitration()
    desk.opened(4)
    granted(desk, NOW)
    question = asked(desk, NOW + LEASE)
    desk.answered(answer(question, Verdict.DENIED, NOW + LEASE, kept=7), NOW + LEASE + MS)
    assert asked(desk, NOW + 3 * LEASE).kind is Kind.LOOK
    assert desk.words(NOW + 3 * LEASE).until_ns == NOW + LEASE, "an older word stays what it was"


def test_a_witness_that_lost_the_term_is_told_it_again() -> None:
    desk = arbitration()
    desk.opened(4)
    granted(desk, NOW)
    question = asked(desk, NOW + LEASE)
    desk.answered(answer(question, Verdict.DENIED, NOW + LEASE, kept=0), NOW + LEASE + MS)
    assert asked(desk, NOW + 2 * LEASE).kind is Kind.CLAIM


# -- a peer that is alive --------------------------------------------------------------------------


def kept_by_peer(desk: Arbitration, now: int, *, term: int = 7, life: int = 1) -> None:
    question = asked(desk, now)
    reply = answer(question, Verdict.GRANTED, now, kept=term, life=life)
    desk.answered(reply, reply.done_ns)


def test_a_term_of_the_peer_that_it_never_told_of_is_left_alone_while_it_lives() -> None:
    desk = arbitration(node=0)
    now = NOW
    for life in range(3):
        kept_by_peer(desk, now, life=life)
        assert desk.holds_back()
        now += LEASE
    desk.claimed(8)
    question = asked(desk, now)
    assert question.kind is Kind.LOOK, "it isn't claimed from"
    desk.answered(answer(question, Verdict.GRANTED, now, kept=7, life=2), now + MS)
    last = now
    while desk.holds_back():
        now += LEASE
        kept_by_peer(desk, now, life=2)
    assert last + (LIFELESS_LEASES - 1) * LEASE <= now <= last + LIFELESS_LEASES * LEASE
    assert asked(desk, now + LEASE).kind is Kind.CLAIM


def test_time_alone_proves_nobody_dead() -> None:
    """Twelve leases without an answer are no twelve leases without a sign of life."""
    desk = arbitration(node=0)
    kept_by_peer(desk, NOW)
    kept_by_peer(desk, NOW + 100 * LEASE, life=2)
    assert desk.holds_back()


@pytest.mark.parametrize(("node", "term", "told"), [(0, 6, 0), (1, 7, 0), (0, 7, 7), (0, 7, 9)])
def test_own_terms_and_those_it_told_of_hold_nobody_back(node: int, term: int, told: int) -> None:
    desk = arbitration(node=node)
    desk.heard(told)
    kept_by_peer(desk, NOW, term=term)
    assert not desk.holds_back()


# -- silence ---------------------------------------------------------------------------------------


def test_silence_is_told_before_the_last_word_runs_out() -> None:
    desk = arbitration(serve=True)
    desk.opened(4)
    granted(desk, NOW)
    first = NOW + LEASE // 4
    silent(desk, first, after=125 * MS)
    assert not desk.is_silent(first + LEASE // 2 - 1)
    moment = first + LEASE // 2
    assert desk.deadline(first + 126 * MS, peer_heard=False) <= moment
    assert desk.is_silent(moment)
    assert moment < desk.words(moment).until_ns
    assert desk.words(moment).absent


def test_with_stay_a_silent_witness_is_not_left_out() -> None:
    desk = arbitration()
    silent(desk, NOW)
    assert desk.is_silent(NOW + LEASE)
    assert not desk.words(NOW + LEASE).absent


def test_one_answer_ends_the_silence() -> None:
    desk = arbitration(serve=True)
    silent(desk, NOW)
    assert desk.words(NOW + LEASE).absent
    granted(desk, NOW + LEASE)
    assert not desk.words(NOW + 2 * LEASE).absent


def test_a_silent_witness_is_asked_soon_again_and_not_all_the_time() -> None:
    desk = arbitration()
    desk.opened(4)
    silent(desk, NOW, after=1 * MS)
    assert desk.deadline(NOW + MS, peer_heard=True) == NOW + MS + LEASE // 8


def test_a_question_that_is_never_answered_is_asked_anew() -> None:
    desk = arbitration()
    desk.claimed(4)
    question = asked(desk, NOW)
    assert desk.question(NOW + 2 * LEASE - 1, peer_heard=False) is None
    assert asked(desk, NOW + 2 * LEASE) == question


def test_the_term_that_a_claim_took_the_place_of_is_passed_on() -> None:
    desk = arbitration()
    desk.claimed(8)
    granted(desk, NOW, before=4)
    assert desk.words(NOW).before == 4


def test_words_are_values() -> None:
    desk = arbitration()
    assert replace(desk.words(NOW)) == desk.words(NOW + LEASE)
