# SPDX-License-Identifier: Apache-2.0
"""Effects are carried out in the order of their fields, and failures come back as events."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from twinbeat.core.effects import (
    Effects,
    Level,
    Log,
    Notify,
    Outcome,
    Reply,
    ReserveTerms,
    Transition,
)
from twinbeat.core.events import EffectFailed, Event, StateSaved, TermsFailed, TermsReserved
from twinbeat.core.reasons import Code, Reason, because
from twinbeat.core.types import Durable, Order, Role, TermBlock
from twinbeat.runtime.executor import LANE_MAX, EffectError, Executor

WHY = because(Code.STOPPED, node="a")
ORDER = Order(generation=3, expires_ns=9, attested_until_ns=8, term_first=1, term_last=0)
REPLY = Reply(request_id="request-1", outcome=Outcome.DONE, reason=WHY)
TRANSITION = Transition(at_ns=1, before=Role.PRIMARY, after=Role.SECONDARY, reason=WHY, term=2)


class World:
    """Everything an executor touches, noting who was called when."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.fed: list[Event] = []
        self.errors: list[BaseException] = []
        self.refuses: set[str] = set()
        self.hold: asyncio.Event | None = None
        self.executor = Executor(
            engine=self,
            network=self,
            disk=self,
            teller=self,
            feed=self.fed.append,
            failed=self.errors.append,
        )

    async def _slow(self, name: str) -> None:
        if self.hold is not None:
            await self.hold.wait()
        await asyncio.sleep(0)
        if name in self.refuses:
            raise EffectError(f"{name} is refused")
        self.did.append(name)

    def set_order(self, order: Order) -> None:
        self.did.append(f"order {order.generation}")

    def attest(self, until_ns: int) -> None:
        self.did.append(f"attest {until_ns}")

    def announce(self) -> None:
        self.did.append("announce")

    def close_gate(self, reason: Reason) -> None:
        self.did.append(f"close {reason.code.value}")

    async def withdraw_vips(self, interface: str) -> None:
        await self._slow(f"withdraw {interface}")

    async def destroy_sockets(self) -> None:
        await self._slow("sockets")

    async def install_routes(self) -> None:
        await self._slow("install")

    async def remove_routes(self) -> None:
        await self._slow("remove")

    async def save(self, durable: Durable) -> None:
        await self._slow("save")

    async def reserve(self, request: ReserveTerms) -> TermBlock:
        await self._slow("reserve")
        return TermBlock(first=request.first, last=request.up_to)

    def record(self, transition: Transition) -> None:
        self.did.append("record")

    def log(self, line: Log) -> None:
        self.did.append("log")

    def notify(self, notify: Notify) -> None:
        self.did.append("notify")

    def reply(self, reply: Reply) -> None:
        self.did.append("reply")

    def effect_failed(self, effect: str, why: str) -> None:
        self.did.append(f"failed {effect}")

    def routes_done(self) -> None:
        self.did.append("routes done")

    def stopped(self) -> None:
        self.did.append("stopped")


def run(test: Callable[[World], Awaitable[None]]) -> World:
    async def inside() -> World:
        world = World()
        await test(world)
        await world.executor.idle()
        assert not world.errors
        return world

    return asyncio.run(inside())


def test_everything_in_the_order_of_the_fields() -> None:
    async def test(world: World) -> None:
        world.executor.submit(
            Effects(
                save=Durable(),
                order=ORDER,
                attest_until_ns=8,
                close_gate=WHY,
                withdraw_vips="lan0",
                announce=True,
                destroy_vip_sockets=True,
                records=(TRANSITION,),
                logs=(Log(level=Level.INFO, reason=WHY),),
                notify=Notify(status="here"),
                replies=(REPLY,),
                stopped=True,
            )
        )

    world = run(test)
    assert world.did == [
        "attest 8",
        "order 3",
        "close stopped",
        "announce",
        "save",
        "withdraw lan0",
        "sockets",
        "record",
        "log",
        "notify",
        "reply",
        "stopped",
    ]
    assert world.fed == [StateSaved()]


def test_an_order_without_a_save_goes_out_within_the_step() -> None:
    async def test(world: World) -> None:
        world.executor.submit(Effects(order=ORDER, attest_until_ns=8, replies=(REPLY,)))
        assert world.did == ["attest 8", "order 3", "reply"]

    run(test)


def test_a_slow_disk_holds_up_neither_orders_nor_the_attestation() -> None:
    async def test(world: World) -> None:
        world.hold = asyncio.Event()
        world.executor.submit(Effects(save=Durable(), order=ORDER))
        world.executor.submit(Effects(attest_until_ns=9, replies=(REPLY,)))
        await asyncio.sleep(0)
        assert world.did == ["order 3", "attest 9", "reply"]
        world.hold.set()

    assert run(test).did == ["order 3", "attest 9", "reply", "save"]


def test_a_save_that_failed_is_told() -> None:
    async def test(world: World) -> None:
        world.refuses.add("save")
        world.executor.submit(Effects(save=Durable(), order=ORDER))

    world = run(test)
    assert world.did == ["order 3", "failed save"]
    assert world.fed == [EffectFailed(effect="save", why="save is refused")]


@pytest.mark.parametrize(
    ("effects", "name", "effect"),
    [
        (Effects(withdraw_vips="lan0"), "withdraw lan0", "withdraw_vips"),
        (Effects(destroy_vip_sockets=True), "sockets", "destroy_vip_sockets"),
        (Effects(install_routes=True), "install", "install_routes"),
        (Effects(remove_routes=True), "remove", "remove_routes"),
    ],
)
def test_a_refusal_of_the_environment_becomes_an_event(
    effects: Effects, name: str, effect: str
) -> None:
    async def test(world: World) -> None:
        world.refuses.add(name)
        world.executor.submit(effects)

    world = run(test)
    assert world.fed == [EffectFailed(effect=effect, why=f"{name} is refused")]
    assert f"failed {effect}" in world.did


def test_an_answer_waits_for_what_it_speaks_of() -> None:
    async def test(world: World) -> None:
        world.executor.submit(Effects(withdraw_vips="lan0"))
        world.executor.submit(Effects(replies=(REPLY,)))

    assert run(test).did == ["withdraw lan0", "reply"]


def test_routes_keep_their_order_and_nobody_waits_for_them() -> None:
    async def test(world: World) -> None:
        world.hold = asyncio.Event()
        world.executor.submit(Effects(install_routes=True))
        await asyncio.sleep(0)
        world.executor.submit(Effects(remove_routes=True, replies=(REPLY,)))
        await asyncio.sleep(0)
        assert world.did == ["reply"]
        world.hold.set()

    assert run(test).did == ["reply", "install", "routes done", "remove"]


def test_of_routes_only_the_newest_wish_waits() -> None:
    async def test(world: World) -> None:
        world.hold = asyncio.Event()
        for _ in range(50):
            world.executor.submit(Effects(install_routes=True))
            await asyncio.sleep(0)
            world.executor.submit(Effects(remove_routes=True))
        world.hold.set()

    assert run(test).did == ["install", "routes done", "remove"]


def test_of_each_kind_of_write_only_the_newest_waits() -> None:
    async def test(world: World) -> None:
        world.hold = asyncio.Event()
        for _ in range(50):
            world.executor.submit(Effects(save=Durable(), reserve_terms=TestReservation.REQUEST))
            await asyncio.sleep(0)
        world.hold.set()

    assert run(test).did == ["save", "reserve", "save"]


def test_a_lane_that_is_full_tells_at_once_and_loses_nothing() -> None:
    async def test(world: World) -> None:
        world.hold = asyncio.Event()
        for _ in range(2 * LANE_MAX):
            world.executor.submit(Effects(withdraw_vips="lan0", replies=(REPLY,)))
        told_at_once = world.did.count("reply")
        assert LANE_MAX - 2 <= told_at_once == world.did.count("failed order")
        world.executor.submit(Effects(withdraw_vips="wan0"))
        world.hold.set()

    did = run(test).did
    assert did.count("reply") == 2 * LANE_MAX
    assert did.count("withdraw lan0") <= LANE_MAX + 2
    assert did[-1] == "withdraw wan0"


class TestReservation:
    REQUEST = ReserveTerms(first=5, up_to=20)

    def test_is_confirmed(self) -> None:
        async def test(world: World) -> None:
            world.executor.submit(Effects(reserve_terms=self.REQUEST))

        assert run(test).fed == [TermsReserved(block=TermBlock(first=5, last=20))]

    def test_is_refused(self) -> None:
        async def test(world: World) -> None:
            world.refuses.add("reserve")
            world.executor.submit(Effects(reserve_terms=self.REQUEST))

        assert run(test).fed == [TermsFailed(why="reserve is refused")]

    def test_a_slow_one_holds_up_nothing(self) -> None:
        async def test(world: World) -> None:
            world.hold = asyncio.Event()
            world.executor.submit(Effects(reserve_terms=self.REQUEST))
            world.executor.submit(Effects(order=ORDER))
            assert world.did == ["order 3"]
            world.hold.set()

        run(test)


def test_a_bug_in_a_hand_reaches_the_supervisor() -> None:
    async def inside() -> list[BaseException]:
        world = World()

        async def broken(interface: str) -> None:
            raise AssertionError(interface)

        world.withdraw_vips = broken  # type: ignore[method-assign]
        world.executor.submit(Effects(withdraw_vips="lan0"))
        await world.executor.idle()
        await asyncio.sleep(0)
        return world.errors

    errors = asyncio.run(inside())
    assert [str(error) for error in errors] == ["lan0"]
