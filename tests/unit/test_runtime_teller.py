# SPDX-License-Identifier: Apache-2.0
"""What is told of a takeover, in whatever order its parts are done."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from twinbeat.api.events import EventHub
from twinbeat.core.effects import Transition
from twinbeat.core.reasons import Code, because
from twinbeat.core.types import Role, Timeline
from twinbeat.observe.history import History
from twinbeat.runtime.notify import Notifier
from twinbeat.runtime.teller import Teller

GATE_NS = 1_000


class Clock:
    now_ns = GATE_NS

    def __call__(self) -> int:
        return self.now_ns


def teller(directory: Path, clock: Clock, hub: EventHub | None = None) -> Teller:
    return Teller(
        history=History(directory / "history.jsonl"),
        hub=hub or EventHub(),
        notifier=Notifier({}),
        node="a",
        peer="b",
        boot="boot",
        now_ns=clock,
        ended=lambda: None,
        history_failed=pytest.fail,
    )


def takeover(code: Code = Code.PEER_DEAD) -> Transition:
    return Transition(
        at_ns=GATE_NS,
        before=Role.CLAIMING,
        after=Role.PRIMARY,
        reason=because(code, node="a", peer="b", probes=9),
        term=4,
        timeline=Timeline(claim_ns=GATE_NS - 10, gate_ns=GATE_NS),
    )


def routes_first(told: Teller, clock: Clock) -> None:
    clock.now_ns = GATE_NS + 500
    told.routes_done()
    clock.now_ns = GATE_NS + 900
    told.record(takeover())


def routes_last(told: Teller, clock: Clock) -> None:
    told.record(takeover())
    clock.now_ns = GATE_NS + 500
    told.routes_done()


@pytest.mark.parametrize("happen", [routes_first, routes_last])
def test_a_takeover_knows_when_its_routes_stood(
    tmp_path: Path, happen: Callable[[Teller, Clock], None]
) -> None:
    async def test() -> None:
        clock = Clock()
        told = teller(tmp_path, clock)
        happen(told, clock)
        assert told.last is not None
        assert told.last.timeline.routes_ns == GATE_NS + 500
        assert told.last.durations_ns["routes"] == 500
        assert sum(told.phases["routes"].counts) == 1
        await told.close()

    asyncio.run(test())


def test_routes_of_an_earlier_reign_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    async def test() -> None:
        clock = Clock()
        told = teller(tmp_path, clock)
        clock.now_ns = GATE_NS - 500
        told.routes_done()
        told.record(takeover())
        assert told.last is not None
        assert told.last.timeline.routes_ns is None
        await told.close()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("code", "failover"),
    [
        (Code.PEER_DEAD, True),
        (Code.PEER_IDLE, True),
        (Code.ORDERED, True),
        (Code.FIRST, False),
        (Code.RESUMED, False),
        (Code.TERM_RENEWED, False),
    ],
)
def test_who_took_the_role_from_nobody_did_not_fail_over(
    tmp_path: Path, code: Code, *, failover: bool
) -> None:
    """Not now, nor for the next run of the agent, which reads what this one wrote."""

    async def test() -> None:
        clock = Clock()
        told = teller(tmp_path, clock)
        told.record(takeover(code))
        clock.now_ns = GATE_NS + 500
        told.routes_done()
        assert told.last is not None
        assert told.last.timeline.routes_ns == GATE_NS + 500, "the history has all of it"
        assert (told.last_failover is not None) is failover
        assert bool(told.phases) is failover, "nor is it a duration of one"
        await told.close()
        assert (teller(tmp_path, clock).last_failover is not None) is failover

    asyncio.run(test())
