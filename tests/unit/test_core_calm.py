# SPDX-License-Identifier: Apache-2.0
"""A calm machine does what one does that settles everything with every tick, only cheaper."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from twinbeat.core.effects import Effects
from twinbeat.core.events import (
    Event,
    ForceFailover,
    ForceYield,
    GateLost,
    GateRestored,
    HealthChanged,
    Pause,
    PeerSeen,
    Resume,
    Stopping,
    Tick,
)
from twinbeat.core.machine import Machine
from twinbeat.core.types import DEFAULT_PATIENCE, MILLISECOND, SECOND, Flag, TrackedHealth
from twinbeat.core.types import EngineEventKind as Kind
from unit.core_pair import WELL, Bench, peer

RENEWAL_NS = 125 * MILLISECOND
"""A quarter of the attestation of `core_pair`."""


class Restless(Machine):
    """Settles everything with every tick."""

    def calm(self, now_ns: int) -> bool:
        return False

    def _is_only_told(self, event: Event) -> bool:
        return False


class Counting(Machine):
    """Counts how often everything is settled."""

    settled = 0

    def _settle(self) -> Effects:
        self.settled += 1
        return super()._settle()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("unit.core_pair.Machine", Counting)
    return Bench()


def settled(bench: Bench) -> int:
    assert isinstance(bench.machine, Counting)
    return bench.machine.settled


def rest(bench: Bench) -> int:
    """Tick as wanted for ten seconds; how often everything was settled."""
    before = settled(bench)
    bench.wait(10 * SECOND)
    return settled(bench) - before


def test_a_machine_with_nothing_to_do_only_renews_its_attestation(bench: Bench) -> None:
    bench.primary()
    bench.wait(2 * SECOND)
    begun, renewed = bench.now, len(bench.effects)
    assert rest(bench) <= 6, "every other second, and not with each of the eighty ticks"
    renewals = [one.attest_until_ns for one in bench.effects[renewed:]]
    attested = [until for until in renewals if until is not None]
    assert len(attested) >= 79
    gaps = [late - early for early, late in pairwise(attested)]
    assert max(gaps) <= RENEWAL_NS + 2000
    assert attested[0] > begun + RENEWAL_NS


@pytest.mark.parametrize(
    "happens",
    [
        lambda: PeerSeen(view=peer(counter=99, flags=WELL | Flag.PAUSED)),
        lambda: HealthChanged(health=TrackedHealth(score=500, failed=("wan0",))),
        lambda: GateLost(interface="lan0"),
        lambda: Pause(for_ns=SECOND, request_id="p"),
        Stopping,
    ],
)
def test_whatever_happens_ends_the_calm(bench: Bench, happens: Callable[[], Event]) -> None:
    bench.primary()
    bench.wait(2 * SECOND + RENEWAL_NS)
    assert bench.machine.calm(bench.now + 1), "nothing has happened for long"
    bench.feed(happens())
    assert not bench.machine.calm(bench.now + 1)


def test_a_node_that_waits_for_an_answer_is_not_calm(bench: Bench) -> None:
    bench.primary()
    bench.wait(2 * SECOND)
    bench.feed(ForceFailover(request_id="f"))
    for _ in range(3):
        bench.feed(Tick())
        assert not bench.machine.calm(bench.now + 1)


def test_what_is_only_told_settles_nothing(bench: Bench) -> None:
    bench.primary()
    bench.feed(Tick(), Tick())
    before = settled(bench)
    effects = bench.engine(Kind.LINK_SILENT, a=MILLISECOND)
    assert effects.logs
    assert settled(bench) == before
    assert bench.machine.calm(bench.now + 1)


def test_calm_ends_with_a_deadline(bench: Bench) -> None:
    bench.primary()
    bench.feed(Pause(for_ns=400 * MILLISECOND, request_id="p"))
    bench.confirm()
    bench.hear(flags=WELL | Flag.PAUSE_ACK)
    end = bench.now + 400 * MILLISECOND
    bench.feed(Tick(), Tick())
    assert bench.machine.calm(bench.now)
    assert not bench.machine.calm(end + 1)
    bench.wait(SECOND)
    assert bench.machine.status.paused_until_ns == 0


def test_calm_ends_by_itself(bench: Bench) -> None:
    bench.primary()
    bench.feed(Tick(), Tick())
    assert not bench.machine.calm(bench.now + DEFAULT_PATIENCE.calm_ns)


SCORES = (0, 400, 1000)


def play(bench: Bench, seed: int) -> list[tuple[int, Effects]]:
    """A long story of a pair: what happens is chosen by the seed alone."""
    chance = random.Random(seed)
    told: list[tuple[int, Effects]] = []
    story: list[Callable[[], object]] = [
        lambda: bench.feed(
            Pause(for_ns=chance.randrange(1, 3) * SECOND, request_id=f"{bench.now}")
        ),
        lambda: bench.feed(Resume(request_id=f"{bench.now}")),
        lambda: bench.feed(ForceYield(request_id=f"{bench.now}")),
        lambda: bench.feed(ForceFailover(request_id=f"{bench.now}")),
        lambda: bench.feed(
            HealthChanged(health=TrackedHealth(score=chance.choice([0, 400, 1000])))
        ),
        lambda: bench.feed(HealthChanged(health=TrackedHealth())),
        lambda: bench.feed(GateLost(interface="lan0")),
        lambda: bench.feed(GateRestored(interface="lan0")),
        lambda: bench.engine(Kind.SUSPECT),
        lambda: bench.engine(Kind.CLEARED),
        lambda: bench.engine(Kind.DEAD),
        lambda: told.append((bench.now, bench.engine(Kind.LATE, a=5 * MILLISECOND))),
        lambda: told.append((bench.now, bench.engine(Kind.LINK_SILENT, a=MILLISECOND))),
        lambda: told.append((bench.now, bench.engine(Kind.LINK_HEARD))),
        lambda: bench.engine(Kind.HEARD),
        lambda: bench.hear(flags=chance.choice([WELL, Flag.HEARS_YOU, WELL | Flag.PAUSE_ACK])),
        lambda: bench.hear(health=chance.choice(SCORES)),
        bench.confirm,
    ]
    bench.primary()
    for _ in range(60):
        chance.choice(story)()
        until = bench.now + chance.randrange(1, 30) * 100 * MILLISECOND
        while bench.now < until:
            bench.feed(Tick(), after_ns=chance.choice([1000, 20 * MILLISECOND, 125 * MILLISECOND]))
            told.append((bench.now, bench.effects[-1]))
    return told


@pytest.mark.parametrize("seed", range(8))
def test_a_calm_machine_misses_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = Bench()
    monkeypatch.setattr("unit.core_pair.Machine", Restless)
    restless = Bench()
    said, expected = play(calm, seed), play(restless, seed)
    assert said == expected
    assert calm.machine.status == restless.machine.status
    assert calm.replies == restless.replies
    assert any(one.logs for _, one in expected), "the story has something to tell"
