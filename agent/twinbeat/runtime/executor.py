# SPDX-License-Identifier: Apache-2.0
"""Carries out what the core wants done, in the order of the fields of `Effects`.

What the engine has to know (the order, the attestation, a shut gate) is handed over within the step
that decided it.  What takes milliseconds follows on one lane, step after step, so that an answer to
the operator comes after what it speaks of.  Routes and the reservation of terms have lanes of their
own, since nobody waits for them and a slow disk must hold up nothing else.

A failure becomes an event; no exception of the environment gets past this module.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

from twinbeat.core.effects import Effects, Log, Notify, Reply, ReserveTerms, Transition
from twinbeat.core.events import EffectFailed, Event, StateSaved, TermsFailed, TermsReserved
from twinbeat.core.reasons import Reason
from twinbeat.core.types import Durable, Order, TermBlock


class EffectError(Exception):
    """The environment refused an effect; its text is a sentence for people."""


class Engine(Protocol):
    """What is done at once, on the engine and on the gate. None of it may block."""

    def set_order(self, order: Order) -> None: ...

    def attest(self, until_ns: int) -> None: ...

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
    ) -> None:
        self._engine = engine
        self._network = network
        self._disk = disk
        self._teller = teller
        self._feed = feed
        self._failed = failed
        self._lane: deque[Effects] = deque()
        self._lane_task: asyncio.Task[None] | None = None
        self._routes: deque[bool] = deque()
        self._routes_task: asyncio.Task[None] | None = None
        self._reserve_task: asyncio.Task[None] | None = None

    def submit(self, effects: Effects) -> None:
        """Take over the effects of one step; those of earlier steps come first."""
        if effects.attest_until_ns is not None:
            # A full lane must not let the attestation lapse: it says that the loop turns, no more.
            self._engine.attest(effects.attest_until_ns)
        if self._lane_task is None and effects.save is None:
            effects = self._at_once(effects)
            if not _waits(effects):
                self._tell(effects)
                return
        self._lane.append(effects)
        if self._lane_task is None:
            self._lane_task = self._start(self._run_lane())

    async def idle(self) -> None:
        """Return when nothing is left to do."""
        while tasks := [
            task
            for task in (self._lane_task, self._routes_task, self._reserve_task)
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

    # -- the lane --------------------------------------------------------------------------------

    async def _run_lane(self) -> None:
        try:
            while self._lane:
                effects = self._lane.popleft()
                if effects.save is not None:
                    await self._save(effects.save)
                    effects = self._at_once(replace(effects, save=None))
                elif effects.order is not None or effects.close_gate is not None:
                    effects = self._at_once(effects)
                interface = effects.withdraw_vips
                if interface is not None:
                    await self._try("withdraw_vips", self._network.withdraw_vips(interface))
                if effects.destroy_vip_sockets:
                    await self._try("destroy_vip_sockets", self._network.destroy_sockets())
                self._tell(effects)
        finally:
            self._lane_task = None

    async def _save(self, durable: Durable) -> None:
        try:
            await self._disk.save(durable)
        except EffectError as error:
            self._teller.effect_failed("save", str(error))
            self._feed(EffectFailed(effect="save", why=str(error)))
        else:
            self._feed(StateSaved())

    def _at_once(self, effects: Effects) -> Effects:
        """Hand over what can't wait; what is left of the effects."""
        if effects.order is not None:
            self._engine.set_order(effects.order)
        if effects.close_gate is not None:
            self._engine.close_gate(effects.close_gate)
        if effects.announce:
            self._engine.announce()
        if effects.remove_routes or effects.install_routes:
            self._routes.extend(
                installing
                for installing, wanted in (
                    (False, effects.remove_routes),
                    (True, effects.install_routes),
                )
                if wanted
            )
            if self._routes_task is None:
                self._routes_task = self._start(self._run_routes())
        if effects.reserve_terms is not None:
            assert self._reserve_task is None, "the core asks for one block at a time"
            self._reserve_task = self._start(self._reserve(effects.reserve_terms))
        return replace(
            effects,
            order=None,
            attest_until_ns=None,
            close_gate=None,
            announce=False,
            remove_routes=False,
            install_routes=False,
            reserve_terms=None,
        )

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

    # -- the other lanes -------------------------------------------------------------------------

    async def _run_routes(self) -> None:
        try:
            while self._routes:
                installing = self._routes.popleft()
                if installing:
                    await self._try("install_routes", self._network.install_routes())
                    self._teller.routes_done()
                else:
                    await self._try("remove_routes", self._network.remove_routes())
        finally:
            self._routes_task = None

    async def _reserve(self, request: ReserveTerms) -> None:
        try:
            block = await self._disk.reserve(request)
        except EffectError as error:
            outcome: Event = TermsFailed(why=str(error))
            self._teller.effect_failed("reserve_terms", str(error))
        else:
            outcome = TermsReserved(block=block)
        self._reserve_task = None
        self._feed(outcome)

    async def _try(self, effect: str, doing: Awaitable[None]) -> None:
        try:
            await doing
        except EffectError as error:
            self._teller.effect_failed(effect, str(error))
            self._feed(EffectFailed(effect=effect, why=str(error)))


def _waits(effects: Effects) -> bool:
    """Whether anything is left that takes time."""
    return effects.withdraw_vips is not None or effects.destroy_vip_sockets
