# SPDX-License-Identifier: Apache-2.0
"""Carries out what the core wants done, in the order of the fields of `Effects`.

What the engine has to know (the order, the attestation, a shut gate) is handed over within the step
that decided it.  What takes milliseconds follows on one lane, step after step, so that an answer to
the operator comes after what it speaks of.  The disk and the routes have lanes of their own, since
nobody waits for them here and a slow disk must hold up nothing.

Every lane is bounded.  Of routes and of each kind of write only the newest waits: it says all that
those before it did.  A lane of steps that is full tells people the newest out of turn, and keeps of
it only what isn't waiting there already.

A failure becomes an event; no exception of the environment gets past this module.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

from twinbeat.core.effects import Effects, Log, Notify, Reply, ReserveTerms, Transition
from twinbeat.core.events import EffectFailed, Event, StateSaved, TermsFailed, TermsReserved
from twinbeat.core.reasons import Reason
from twinbeat.core.types import Durable, Order, TermBlock, Timers
from twinbeat.core.witness import Question, Words

LANE_MAX: Final = 256
"""Steps that wait for addresses and connections; with those done in milliseconds there are few."""


class EffectError(Exception):
    """The environment refused an effect; its text is a sentence for people."""


class Engine(Protocol):
    """What is done at once, on the engine and on the gate. None of it may block."""

    def set_order(self, order: Order) -> None: ...

    def attest(self, until_ns: int) -> None: ...

    def set_witness(self, words: Words) -> None: ...

    def set_timers(self, timers: Timers) -> None: ...

    def announce(self) -> None: ...

    def close_gate(self, reason: Reason) -> None:
        """See to it that the gate is shut, though the engine may hang."""


class Network(Protocol):
    """What takes netlink. Raises EffectError."""

    async def withdraw_vips(self, interface: str) -> None: ...

    async def destroy_sockets(self) -> None: ...

    async def install_routes(self) -> None: ...

    async def remove_routes(self) -> None: ...


class Disk(Protocol):
    """What has to be on disk when it returns. Raises EffectError."""

    async def save(self, durable: Durable) -> None: ...

    async def reserve(self, request: ReserveTerms) -> TermBlock: ...


class Teller(Protocol):
    """What is told to people and to systemd. Never fails."""

    def record(self, transition: Transition) -> None: ...

    def log(self, line: Log) -> None: ...

    def notify(self, notify: Notify) -> None: ...

    def reply(self, reply: Reply) -> None: ...

    def effect_failed(self, effect: str, why: str) -> None: ...

    def routes_done(self) -> None:
        """The slow path of a takeover is over."""

    def stopped(self) -> None: ...


class Executor:
    """Carries out the effects of one core."""

    def __init__(
        self,
        *,
        engine: Engine,
        network: Network,
        disk: Disk,
        teller: Teller,
        feed: Callable[[Event], None],
        failed: Callable[[BaseException], None],
        ask_witness: Callable[[Question], None] = lambda _: None,
    ) -> None:
        """`ask_witness` returns at once; the answer comes as an event."""
        self._ask_witness = ask_witness
        self._engine = engine
        self._network = network
        self._disk = disk
        self._teller = teller
        self._feed = feed
        self._failed = failed
        self._lane: deque[Effects] = deque()
        self._lane_task: asyncio.Task[None] | None = None
        self._routes: bool | None = None
        """Whether they are to stand, None = nothing waits."""
        self._routes_task: asyncio.Task[None] | None = None
        self._writes: dict[type, Durable | ReserveTerms] = {}
        """By kind; the one that waits longest comes first."""
        self._disk_task: asyncio.Task[None] | None = None

    def submit(self, effects: Effects) -> None:
        """Take over the effects of one step; those of earlier steps come first."""
        self._at_once(effects)
        if self._lane_task is None and not _waits(effects):
            self._tell(effects)
            return
        if len(self._lane) >= LANE_MAX:
            self._overflow(effects)
        else:
            self._lane.append(effects)
        if self._lane_task is None:
            self._lane_task = self._start(self._run_lane())

    def _overflow(self, effects: Effects) -> None:
        """What is told is told at once; an address is withdrawn once, however often it was said."""
        self._teller.effect_failed(
            "order", f"{LANE_MAX} steps wait for addresses to go; newer ones are told before them"
        )
        self._tell(effects)
        rest = Effects(
            withdraw_vips=effects.withdraw_vips, destroy_vip_sockets=effects.destroy_vip_sockets
        )
        if _waits(rest) and rest not in self._lane:
            self._lane.append(rest)

    async def idle(self) -> None:
        """Return when nothing is left to do."""
        while tasks := [
            task
            for task in (self._lane_task, self._routes_task, self._disk_task)
            if task is not None
        ]:
            await asyncio.wait(tasks)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _at_once(self, effects: Effects) -> None:
        """Hand over to the engine, and to the lanes that nobody waits for."""
        if effects.save is not None:
            self._write(effects.save)
        if effects.attest_until_ns is not None:
            self._engine.attest(effects.attest_until_ns)
        if effects.order is not None:
            self._engine.set_order(effects.order)
        if effects.timers is not None:
            self._engine.set_timers(effects.timers)
        if effects.witness is not None:
            self._engine.set_witness(effects.witness)
        if effects.ask_witness is not None:
            self._ask_witness(effects.ask_witness)
        if effects.close_gate is not None:
            self._engine.close_gate(effects.close_gate)
        if effects.announce:
            self._engine.announce()
        if effects.remove_routes:
            self._routes = False
        if effects.install_routes:
            self._routes = True
        if self._routes is not None and self._routes_task is None:
            self._routes_task = self._start(self._run_routes())
        if effects.reserve_terms is not None:
            self._write(effects.reserve_terms)

    # -- the lanes -------------------------------------------------------------------------------

    async def _run_lane(self) -> None:
        try:
            while self._lane:
                effects = self._lane.popleft()
                interface = effects.withdraw_vips
                if interface is not None:
                    await self._try("withdraw_vips", self._network.withdraw_vips(interface))
                if effects.destroy_vip_sockets:
                    await self._try("destroy_vip_sockets", self._network.destroy_sockets())
                self._tell(effects)
        finally:
            self._lane_task = None

    def _tell(self, effects: Effects) -> None:
        for transition in effects.records:
            self._teller.record(transition)
        for line in effects.logs:
            self._teller.log(line)
        if effects.notify is not None:
            self._teller.notify(effects.notify)
        for reply in effects.replies:
            self._teller.reply(reply)
        if effects.stopped:
            self._teller.stopped()

    async def _run_routes(self) -> None:
        try:
            while self._routes is not None:
                wanted, self._routes = self._routes, None
                if wanted:
                    await self._try("install_routes", self._network.install_routes())
                    self._teller.routes_done()
                else:
                    await self._try("remove_routes", self._network.remove_routes())
        finally:
            self._routes_task = None

    def _write(self, what: Durable | ReserveTerms) -> None:
        self._writes[type(what)] = what
        if self._disk_task is None:
            self._disk_task = self._start(self._run_disk())

    async def _run_disk(self) -> None:
        try:
            while self._writes:
                what = self._writes.pop(next(iter(self._writes)))
                outcome = await (
                    self._reserve(what) if isinstance(what, ReserveTerms) else self._save(what)
                )
                self._feed(outcome)
        finally:
            self._disk_task = None

    async def _save(self, durable: Durable) -> Event:
        try:
            await self._disk.save(durable)
        except EffectError as error:
            self._teller.effect_failed("save", str(error))
            return EffectFailed(effect="save", why=str(error))
        return StateSaved()

    async def _reserve(self, request: ReserveTerms) -> Event:
        try:
            return TermsReserved(block=await self._disk.reserve(request))
        except EffectError as error:
            self._teller.effect_failed("reserve_terms", str(error))
            return TermsFailed(why=str(error))

    async def _try(self, effect: str, doing: Awaitable[None]) -> None:
        try:
            await doing
        except EffectError as error:
            self._teller.effect_failed(effect, str(error))
            self._feed(EffectFailed(effect=effect, why=str(error)))


def _waits(effects: Effects) -> bool:
    """Whether anything is left that takes time."""
    return effects.withdraw_vips is not None or effects.destroy_vip_sockets
