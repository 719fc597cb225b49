# SPDX-License-Identifier: Apache-2.0
"""What the loop and the executor touch the world with: engine, network, disk.

Each turns refusals of the environment into `EffectError`, and keeps whatever may block out of the
loop that decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from twinbeat.core.effects import ReserveTerms
from twinbeat.core.events import EngineEvent
from twinbeat.core.reasons import Reason
from twinbeat.core.types import Durable, EngineView, Order, PeerView, TermBlock, Timers
from twinbeat.core.witness import Words
from twinbeat.engine.types import Snapshot
from twinbeat.net import sockets
from twinbeat.net.interfaces import Address
from twinbeat.runtime import wiring
from twinbeat.runtime.executor import EffectError
from twinbeat.runtime.guarded import REFUSALS
from twinbeat.runtime.stage import Stage
from twinbeat.runtime.store import Store, StoreError

if TYPE_CHECKING:
    from twinbeat.engine.engine import Engine
    from twinbeat.engine.look import Look
    from twinbeat.runtime.gate import GateWords
    from twinbeat.runtime.routes import RoleRoutes

log = logging.getLogger("twinbeat.engine")

LOOK_S = 0.02
"""How long a look at the engine may take; a busy one is looked at again with the next tick."""
DISK_PATIENCE_S: Final = 5.0
"""A disk that takes a few hundred bytes no sooner hangs, or as good as."""


class EngineHands:
    """The engine, for the executor and as the loop's senses."""

    def __init__(
        self,
        engine: Engine,
        gate: GateWords,
        *,
        lease_ns: Callable[[], int],
        take_timers: Callable[[], None],
    ) -> None:
        """``take_timers`` hands the engine settings with the timers that the core wants now."""
        self._engine = engine
        self._gate = gate
        self._lease_ns = lease_ns
        self._take_timers = take_timers
        self._looked: Look | None = None
        self._views: tuple[EngineView, PeerView | None] | None = None
        self.attested_until_ns = 0

    # -- for the executor ------------------------------------------------------------------------

    def set_order(self, order: Order) -> None:
        self._engine.set_order(wiring.order(order))

    def attest(self, until_ns: int) -> None:
        self.attested_until_ns = until_ns
        self._engine.attest(until_ns)

    def set_witness(self, words: Words) -> None:
        self._engine.set_witness(wiring.witness(words))

    def set_timers(self, timers: Timers) -> None:
        self._take_timers()
        hello_us, dead_us = timers.hello_ns // 1000, timers.dead_ns // 1000
        log.info("hello %d us, dead %d us from now on", hello_us, dead_us)

    def announce(self) -> None:
        self._engine.announce()

    def close_gate(self, reason: Reason) -> None:
        """The order that demands it is out already; an engine that doesn't obey is passed over."""
        term = self._gate.term()
        if term:
            asyncio.get_running_loop().call_later(
                self._lease_ns() / 1e9, self._make_sure, term, reason
            )

    def _make_sure(self, term: int, reason: Reason) -> None:
        if self._gate.term() == term and not self._gate.is_shut():
            log.error("the engine did not shut the gate (%s); it is shut by hand", reason.sentence)
            self._gate.shut()

    # -- for the loop ----------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._engine.fileno()

    def events(self) -> list[EngineEvent]:
        return [wiring.event(event) for event in self._engine.events()]

    def look(self, *, wait: bool) -> tuple[EngineView, PeerView | None]:
        look = self._engine.look(timeout_s=LOOK_S if wait else 0)
        if self._views is None or look is not self._looked:
            self._looked = look
            self._views = wiring.engine_view(look.engine), wiring.peer_view(look.peer)
        return self._views

    def snapshot(self) -> Snapshot:
        return self._engine.snapshot(timeout_s=LOOK_S)


class NetworkHands:
    """Addresses, routes and sockets, for the executor."""

    def __init__(
        self,
        *,
        stage: Stage,
        routes: RoleRoutes,
        vips: Callable[[], list[Address]],
        gate_is_open: Callable[[], bool],
    ) -> None:
        self._stage = stage
        self._routes = routes
        self._vips = vips
        self._gate_is_open = gate_is_open

    async def withdraw_vips(self, interface: str) -> None:
        await _refusable(self._stage.withdraw(interface))

    async def destroy_sockets(self) -> None:
        """End the connections of the reign that is over.

        The lane may have been busy for so long that the node serves again: then they are good, or
        belong to the new reign, and stay.
        """
        if self._gate_is_open():
            log.info("connections stay: the gate is open again")
            return
        await _refusable(asyncio.to_thread(sockets.destroy, self._vips()))

    async def install_routes(self) -> None:
        await self._routes.install()

    async def remove_routes(self) -> None:
        await self._routes.remove()


class DiskHands:
    """The store, off the loop. What the disk doesn't take within a time counts as refused.

    One write is under way at most: while one hangs, others are refused at once, so that nothing
    piles up behind it and nothing overtakes it. What it says in the end counts for nothing: whoever
    asked was told that it failed, and asks anew.
    """

    def __init__(
        self, store: Store, *, now_ns: Callable[[], int], patience_s: float = DISK_PATIENCE_S
    ) -> None:
        self._store = store
        self._now_ns = now_ns
        self._patience_s = patience_s
        self._peer = (0, 0)
        self._epoch = 0
        self._keeper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tb-keeper")
        self._keeping: Future[str] | None = None
        self._judged: Future[str] | None = None
        self._kept_from_ns = 0
        self.not_kept = ""
        """Why the positions aren't on disk, while that lasts; empty = they are."""
        self.keep_failures = 0
        """So often they were refused, or still hung when they were due again."""
        self._hanging = ""
        """What hangs, empty = nothing does."""

    async def save(self, durable: Durable) -> None:
        await self._write("the operator's will", self._store.save, durable, now_ns=self._now_ns())

    async def reserve(self, request: ReserveTerms) -> TermBlock:
        await self._write("terms", self._store.reserve_terms, request.first, request.up_to)
        return TermBlock(first=request.first, last=request.up_to)

    def keep_peer(self, *, epoch: int, counter: int, own_epoch: int) -> None:
        """Persist how far the peer was heard and what epoch is ours, if that is news.

        Called from the loop each second; a write that still runs is not waited for, and nobody is
        woken when it is done.
        """
        keeping = self._keeping
        if keeping is not None and not keeping.done():
            took_ns = self._now_ns() - self._kept_from_ns
            if took_ns > self._patience_s * 1e9:
                self._failed_to_keep(self._hangs("the peer's position"))
            return
        self._judge(keeping)
        if (epoch, counter) == self._peer and own_epoch == self._epoch:
            return
        self._kept_from_ns = self._now_ns()
        self._keeping = self._keeper.submit(self._keep_peer, epoch, counter, own_epoch)

    def _judge(self, keeping: Future[str] | None) -> None:
        """What came of a write that is done, once."""
        if keeping is None or keeping is self._judged:
            return
        self._judged = keeping
        if refusal := keeping.result():
            self._failed_to_keep(refusal)
        elif self.not_kept:
            self.not_kept = ""
            log.warning("%s takes the peer's position again", self._store.directory)

    def _failed_to_keep(self, why: str) -> None:
        """Counted each time; the log has it when it begins or becomes another."""
        self.keep_failures += 1
        if why != self.not_kept:
            self.not_kept = why
            log.error("%s", why)

    def _keep_peer(self, epoch: int, counter: int, own_epoch: int) -> str:
        """In the keeper's thread, one after the other: what the disk refused, or nothing."""
        try:
            if epoch and (epoch, counter) != self._peer:
                self._store.keep_peer(epoch=epoch, counter=counter)
                self._peer = (epoch, counter)
            if own_epoch != self._epoch:
                self._store.keep_epoch(own_epoch)
                self._epoch = own_epoch
        except StoreError as error:
            return str(error)
        return ""

    async def close(self) -> None:
        """Wait for what is being written, as long as that has hope."""
        self._keeper.shutdown(wait=False)
        keeping = self._keeping
        if keeping is not None:
            await asyncio.to_thread(wait, [keeping], self._patience_s)
            if keeping.done():
                self._judge(keeping)
        try:
            await self._write("what was replaced", self._store.settle)
        except EffectError as error:
            log.warning("%s", error)

    async def _write(
        self, what: str, call: Callable[..., object], *args: object, **named: object
    ) -> None:
        if self._hanging:
            raise EffectError(self._hangs(self._hanging))
        writing = asyncio.wrap_future(_in_thread(partial(call, *args, **named)))
        await asyncio.wait([writing], timeout=self._patience_s)
        if not writing.done():
            self._hanging = what
            writing.add_done_callback(self._answered)
            raise EffectError(self._hangs(what))
        try:
            writing.result()
        except StoreError as error:
            raise EffectError(str(error)) from error

    def _answered(self, writing: asyncio.Future[object]) -> None:
        self._hanging = ""
        error = writing.exception()
        log.warning("%s answers again%s", self._store.directory, f": {error}" if error else "")

    def _hangs(self, what: str) -> str:
        return (
            f"{self._store.directory} has not taken {what} within {self._patience_s:g} s: its disk "
            "or file system hangs (see dmesg)"
        )


def _in_thread(call: Callable[[], object]) -> Future[object]:
    """Carry it out in a thread that nobody has to wait for, not even the end of the process."""
    future: Future[object] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            future.set_exception(error)

    Thread(target=work, daemon=True, name="tb-disk").start()
    return future


async def _refusable(doing: Coroutine[Any, Any, object]) -> None:
    try:
        await doing
    except REFUSALS as error:
        raise EffectError(str(error)) from error
