# SPDX-License-Identifier: Apache-2.0
"""With a witness two gates are never open at once, however frames and answers are delayed.

Random schedules in which the pair has a witness: slow, lossy, cut off from one node or both, and
total partitions between the nodes. Then the same with faults planted, each of which has to be
found.
"""

from __future__ import annotations

import faulthandler
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from sim import ordeal, schedule
from sim.node import Agent, SimNode
from sim.schedule import Result
from sim.test_sim_planted import around
from twinbeat.core.witness import Answer, Arbitration, Kind, Verdict, Words

SCHEDULES = 400
FIRST = 30_261_000
CHUNK = 20
PLANTED = 1000
"""By so many schedules at most each plant has to be found."""

Patch = pytest.MonkeyPatch


def length_of(seed: int) -> int:
    return 36 if seed % 10 == 0 else 12


def play(seeds: range) -> list[Result]:
    return [schedule.run(seed, length_of(seed), witness=True) for seed in seeds]


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_with_a_witness_no_schedule_opens_two_gates(request: pytest.FixtureRequest) -> None:
    faulthandler.cancel_dump_traceback_later()  # Long by intent; every schedule has its own end.
    one = request.config.getoption("--seed")
    count = 1 if one is not None else SCHEDULES
    first = one if one is not None else FIRST
    begun = time.monotonic()
    chunks = [
        range(seed, min(seed + CHUNK, first + count)) for seed in range(first, first + count, CHUNK)
    ]
    results: list[Result] = []
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for played in pool.map(play, chunks):
            results += played
    covered = Counter(name for result in results for name in result.covered)
    steps = sum(result.steps for result in results)
    print(f"seeds {first} to {first + count - 1}: {steps} steps, {time.monotonic() - begun:.0f} s")
    broken = [result for result in results if result.violation is not None]
    for result in broken[:1]:
        print("\n".join([f"seed {result.seed}: {result.violation}", *result.trace]))
    assert not broken
    if count == SCHEDULES:
        for name in ("opened witnessed", "closed no_witness", "opened receipt"):
            assert covered[name] >= 10, f"{name} came up {covered[name]} times"


# -- planted faults --------------------------------------------------------------------------------


def counted_from_the_answer(patch: Patch) -> None:
    """A confirmation is good for a lease from when it arrived."""

    def granted(original: Any, desk: Arbitration, answer: Answer, term: int) -> None:
        original(desk, replace(answer, sent_ns=answer.done_ns), term)

    around(patch, Arbitration, "_granted", granted)


def waits_for_nothing(patch: Patch) -> None:
    """A claim opens as soon as the witness granted it."""

    def words(original: Any, desk: Arbitration, now_ns: int) -> Words:
        told = original(desk, now_ns)
        return replace(told, open_ns=min(told.open_ns, 1))

    around(patch, Arbitration, "words", words)


def waits_from_the_question(patch: Patch) -> None:
    """The lease is waited out from when the claim was sent, not from when it was answered."""

    def granted(original: Any, desk: Arbitration, answer: Answer, term: int) -> None:
        if answer.question.kind is Kind.CLAIM:
            until_ns = answer.sent_ns + desk._lease_ns
            original(desk, replace(answer, done_ns=answer.sent_ns), term)
            desk._words = replace(desk._words, until_ns=max(desk._words.until_ns, until_ns))
        else:
            original(desk, answer, term)

    around(patch, Arbitration, "_granted", granted)


def a_no_is_a_yes(patch: Patch) -> None:
    """Whatever is answered counts as granted."""

    def answered(original: Any, desk: Arbitration, answer: Answer, now_ns: int) -> None:
        if answer.verdict is Verdict.DENIED:
            answer = replace(answer, verdict=Verdict.GRANTED, kept=answer.question.term)
        original(desk, answer, now_ns)

    around(patch, Arbitration, "answered", answered)


def no_answer_is_a_yes(patch: Patch) -> None:
    """Silence counts as granted."""

    def answered(original: Any, desk: Arbitration, answer: Answer, now_ns: int) -> None:
        if answer.verdict is Verdict.SILENT:
            answer = replace(answer, verdict=Verdict.GRANTED, kept=answer.question.term)
        original(desk, answer, now_ns)

    around(patch, Arbitration, "answered", answered)


def peer_s_word_from_its_arrival(patch: Patch) -> None:
    """A frame of the peer is a word from when it came, however long it was under way."""

    def round_(original: Any, node: SimNode, agent: Agent) -> None:
        if node.powered:
            node.plain.peer.echo_ns = max(0, node.plain.peer.arrived_ns)
        original(node, agent)

    around(patch, SimNode, "_round", round_)


def gate_outlives_the_word(patch: Patch) -> None:
    """The gate is renewed for a whole lease, whatever is left of the word."""

    def act(original: Any, node: SimNode, agent: Agent) -> None:
        if agent.actions.renew:
            agent.actions.open_until = node.clock() + 2 * node.world.setting.lease_ns
        original(node, agent)

    around(patch, SimNode, "_act", act)


PLANTS: list[Callable[[Patch], None]] = [
    counted_from_the_answer,
    waits_for_nothing,
    waits_from_the_question,
    a_no_is_a_yes,
    no_answer_is_a_yes,
    peer_s_word_from_its_arrival,
    gate_outlives_the_word,
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_fault_planted_beside_the_witness_is_found(
    plant: Callable[[Patch], None],
    monkeypatch: Patch,
    record_property: Callable[[str, object], None],
) -> None:
    plant(monkeypatch)
    for seed in range(PLANTED):
        violation = ordeal.run(seed).violation
        if violation is not None and violation.startswith("WITNESS"):
            record_property("figures", f"planted: {plant.__name__} found by ordeal {seed}")
            return
    pytest.fail(f"{PLANTED} schedules did not find it")
