# SPDX-License-Identifier: Apache-2.0
"""The loop feeds the core in order, keeps its deadline, and ends when an invariant is broken."""

import asyncio
import os
from collections.abc import Awaitable, Callable

from twinbeat.core.effects import Effects
from twinbeat.core.events import EngineEvent, EngineSeen, Event, PeerSeen, PortLost, Tick
from twinbeat.core.types import EngineEventKind, EngineView, Flag, PeerView, Phase, Watch
from twinbeat.runtime.loop import LOOKS_MAX, Loop

SECOND = 1_000_000_000
QUIET = EngineView(phase=Phase.LISTENING, watch=Watch.ALIVE, term=0, highest=0)
SERVING = EngineView(phase=Phase.SERVING, watch=Watch.ALIVE, term=2, highest=2)
PEER = PeerView(counter=1, arrived_ns=1, flags=Flag.FIT)


def event(kind: EngineEventKind, a: int = 0) -> EngineEvent:
    return EngineEvent(kind=kind, at_ns=1, a=a)


class Rig:
    """A loop between a core that notes what it is fed and an engine that says what it is told."""

    def __init__(self) -> None:
        self.now_ns = SECOND
        self.deadline_ns = 1_000 * SECOND
        self.fed: list[Event] = []
        self.on_step: Callable[[Event], Effects] = lambda _: Effects()
        self.submitted: list[Effects] = []
        self.failures: list[BaseException] = []
        self.says: list[list[EngineEvent]] = []
        self.view = QUIET
        self.peer: PeerView | None = None
        self.rests = False
        self.looks = 0
        self.waits = 0
        self.happened = asyncio.Event()
        self.reading, self.writing = os.pipe()
        self.loop = Loop(
            decider=self,
            submit=self.submitted.append,
            now_ns=lambda: self.now_ns,
            failed=self.fail,
        )

    def fail(self, error: BaseException) -> None:
        self.failures.append(error)
        self.happened.set()

    def step(self, event: Event, now_ns: int) -> Effects:
        self.fed.append(event)
        self.happened.set()
        return self.on_step(event)

    def next_deadline(self) -> int:
        return self.deadline_ns

    def calm(self, now_ns: int) -> bool:
        return self.rests

    def fileno(self) -> int:
        return self.reading

    def events(self) -> list[EngineEvent]:
        return self.says.pop(0) if self.says else []

    def look(self, *, wait: bool) -> tuple[EngineView, PeerView | None]:
        self.looks += 1
        self.waits += wait
        return self.view, self.peer


def run(test: Callable[[Rig], Awaitable[None]]) -> Rig:
    async def inside() -> Rig:
        rig = Rig()
        try:
            rig.loop.start(rig)
            await test(rig)
            rig.loop.stop()
        finally:
            os.close(rig.reading)
            os.close(rig.writing)
        return rig

    return asyncio.run(inside())


async def until(rig: Rig, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            rig.happened.clear()
            await rig.happened.wait()


def test_events_come_before_the_state_they_led_to() -> None:
    async def test(rig: Rig) -> None:
        opened = event(EngineEventKind.OPENED, a=2)
        rig.says, rig.view, rig.peer = [[opened]], SERVING, PEER
        rig.loop.drain()
        assert rig.fed == [PeerSeen(view=PEER), opened, EngineSeen(view=SERVING)]

    run(test)


def test_a_state_newer_than_the_events_is_looked_at_again() -> None:
    async def test(rig: Rig) -> None:
        claim, opened = event(EngineEventKind.CLAIM, a=2), event(EngineEventKind.OPENED, a=2)
        # The gate opens between the first fetch and the look.
        rig.says, rig.view = [[claim], [opened]], SERVING
        rig.loop.drain()
        assert rig.fed == [claim, opened, EngineSeen(view=SERVING)]
        assert rig.looks == 2

    run(test)


def test_an_engine_that_never_rests_is_not_waited_for() -> None:
    async def test(rig: Rig) -> None:
        busy = [[event(EngineEventKind.ORDER, a=n)] for n in range(LOOKS_MAX + 1)]
        rig.says = list(busy)
        rig.loop.drain()
        assert rig.fed == [one[0] for one in busy], "every event, and no state that is too new"

    run(test)


def test_passing_suspicions_come_with_the_timer_and_wake_no_engine() -> None:
    async def test(rig: Rig) -> None:
        rig.loop.drain()  # the engine's state is known from now on
        rig.says = [[event(EngineEventKind.SUSPECT), event(EngineEventKind.CLEARED)]]
        ticked = asyncio.Event()
        rig.loop.on_tick.append(lambda _: ticked.set())
        rig.deadline_ns = rig.now_ns
        rig.on_step = lambda _: later(rig)
        rig.loop.feed(Tick())
        async with asyncio.timeout(60):
            await ticked.wait()
        kinds = [one.kind for one in rig.fed if isinstance(one, EngineEvent)]
        assert kinds == [EngineEventKind.SUSPECT, EngineEventKind.CLEARED]
        assert rig.looks >= 1
        assert rig.waits == 0

    run(test)


def later(rig: Rig) -> Effects:
    """A step after which nothing is due for a long time."""
    rig.deadline_ns = 1_000 * SECOND
    return Effects()


def test_the_engine_is_asked_anew_after_what_decides() -> None:
    async def test(rig: Rig) -> None:
        rig.says = [[event(EngineEventKind.CLEARED), event(EngineEventKind.OPENED)]]
        rig.loop.drain()
        assert rig.waits == 1

    run(test)


def test_a_state_that_says_the_same_is_not_fed_again() -> None:
    async def test(rig: Rig) -> None:
        rig.says = [[event(EngineEventKind.HEARD)], [], [event(EngineEventKind.CLEARED)]]
        rig.loop.drain()
        rig.loop.drain()
        rig.loop.drain()
        assert sum(isinstance(one, EngineSeen) for one in rig.fed) == 1
        rig.says, rig.view = [[event(EngineEventKind.CLEARED)]], SERVING
        rig.loop.drain()
        assert rig.fed[-1] == EngineSeen(view=SERVING)

    run(test)


def test_a_peer_that_says_the_same_is_not_news() -> None:
    async def test(rig: Rig) -> None:
        rig.peer = PEER
        for counter in (1, 2, 3):
            rig.peer = PeerView(counter=counter, arrived_ns=counter, flags=Flag.FIT)
            rig.says = [[event(EngineEventKind.ORDER)]]
            rig.loop.drain()
        rig.peer = PeerView(counter=4, arrived_ns=4, flags=Flag.FIT | Flag.OPEN)
        rig.says = [[event(EngineEventKind.ORDER)]]
        rig.loop.drain()
        seen = [one.view.counter for one in rig.fed if isinstance(one, PeerSeen)]
        assert seen == [1, 4]

    run(test)


def test_what_an_effect_feeds_comes_after_the_step() -> None:
    async def test(rig: Rig) -> None:
        order: list[str] = []
        follow_up = PortLost(interface="lan0")

        def step(one: Event) -> Effects:
            order.append(f"begin {type(one).__name__}")
            if isinstance(one, Tick):
                rig.loop.feed(follow_up)
            order.append(f"end {type(one).__name__}")
            return Effects()

        rig.on_step = step
        rig.loop.feed(Tick())
        assert order == ["begin Tick", "end Tick", "begin PortLost", "end PortLost"]

    run(test)


def test_the_timer_keeps_the_cores_deadline() -> None:
    async def test(rig: Rig) -> None:
        def step(one: Event) -> Effects:
            if isinstance(one, Tick):
                rig.deadline_ns = 1_000 * SECOND
            return Effects()

        rig.on_step = step
        ticks: list[int] = []
        rig.loop.on_tick += [ticks.append, lambda _: rig.happened.set()]
        rig.deadline_ns = rig.now_ns + SECOND // 1000
        rig.loop.feed(PortLost(interface="lan0"))
        await until(rig, lambda: bool(ticks))
        assert sum(isinstance(one, Tick) for one in rig.fed) == 1
        assert sum(rig.loop.lag.counts) == 1

    run(test)


async def turn(rig: Rig) -> None:
    """One turn of the timer, a moment later."""
    turned = asyncio.Event()
    rig.loop.on_tick.append(lambda _: turned.set())
    rig.on_step = lambda one: later(rig) if isinstance(one, Tick) else Effects()
    rig.now_ns += SECOND // 4
    rig.deadline_ns = rig.now_ns
    rig.loop.feed(PortLost(interface="lan0"))
    async with asyncio.timeout(60):
        await turned.wait()
    rig.loop.on_tick.pop()


def test_a_calm_core_is_told_of_nothing_but_the_time() -> None:
    async def test(rig: Rig) -> None:
        await turn(rig)
        looks = rig.looks
        assert looks
        rig.rests, rig.says = True, [[event(EngineEventKind.SUSPECT)]]
        await turn(rig)
        assert rig.looks == looks
        assert rig.says, "suspicions wait in the ring"
        assert rig.fed[-1] == Tick()
        rig.rests = False
        await turn(rig)
        assert rig.looks > looks
        assert event(EngineEventKind.SUSPECT) in rig.fed

    run(test)


def test_duties_come_once_a_second() -> None:
    async def test(rig: Rig) -> None:
        rounds: list[int] = []
        rig.loop.duties.append(rounds.append)
        for _ in range(12):
            await turn(rig)
        assert len(rounds) == 3
        assert rounds[1] - rounds[0] == SECOND

    run(test)


def test_nothing_to_do_is_not_submitted() -> None:
    async def test(rig: Rig) -> None:
        rig.loop.feed(Tick())
        assert rig.submitted == []
        rig.on_step = lambda _: Effects(announce=True)
        rig.loop.feed(Tick())
        assert rig.submitted == [Effects(announce=True)]

    run(test)


def test_a_broken_invariant_ends_the_loop_and_is_handed_on() -> None:
    async def test(rig: Rig) -> None:
        def step(one: Event) -> Effects:
            raise AssertionError("two gates")

        rig.on_step = step
        rig.says = [[event(EngineEventKind.OPENED)]]
        os.write(rig.writing, b"x")
        await until(rig, lambda: bool(rig.failures))
        assert str(rig.failures[0]) == "two gates"
        fed = len(rig.fed)
        rig.loop.feed(Tick())
        assert len(rig.fed) == fed, "nothing is decided after it"

    run(test)


def test_listeners_hear_after_the_core() -> None:
    async def test(rig: Rig) -> None:
        heard: list[int] = []
        rig.loop.listeners.append(lambda one: heard.append(len(rig.fed)))
        rig.says = [[event(EngineEventKind.HEARD)]]
        rig.loop.drain()
        assert heard == [len(rig.fed)]

    run(test)
