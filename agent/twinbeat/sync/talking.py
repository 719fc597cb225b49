# SPDX-License-Identifier: Apache-2.0
"""Keeps the lists of files alike, together with the peer, over one session.

Theory of operation
-------------------
The primary leads, for all lists; the other follows. Who follows tells what it has: all of it once,
then what became different (`Manifest`). Who leads compares that with its own (`manifest.plan`),
sends the other its orders (`FileOrders`) and carries out its own. Each asks the other for the
contents it lacks (`FileWant`, `FilePiece`). Who follows tells what it has then, and that it is
through (`FileDone`). Who leads compares again: what is alike now is common, which both remember
(`FileCommon`). A round that leaves nothing to do was the last.

Nothing of this has to be durable: an order says what it expects to find, so a round that was cut
off at any point is compared anew, and no change that happened meanwhile is lost. With no leader, or
two, nothing is done but telling.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Final

from twinbeat.sync.beneath import Trouble
from twinbeat.sync.filing import SHOWN, Filing
from twinbeat.sync.manifest import (
    Order,
    Plan,
    agreed,
    changed,
    plan,
)
from twinbeat.sync.serving import SERVERS, Serving
from twinbeat.sync.session import Session, SessionOverError
from twinbeat.sync.shown import FileFailure, printable
from twinbeat.sync.sides import ASK_S, Side
from twinbeat.sync.taking import IDLE_S, Progress, Result, Taking, in_thread
from twinbeat.sync.wire import (
    FileAsk,
    FileCommon,
    FileDone,
    FileOrders,
    FilePiece,
    FileWant,
    Manifest,
    chunks,
)
from twinbeat.sync.wire import (
    Filing as Message,
)

log = logging.getLogger("twinbeat.files")

RETRY_S: Final = (1.0, 60.0)
"""What failed is tried again after so long, doubled each time, up to the second."""
BREATH_S: Final = 0.5
"""Between two rounds of which the first left something undone."""


class Talk:
    """One session's worth of it."""

    def __init__(self, filing: Filing, session: Session, leading: bool | None) -> None:
        self._filing = filing
        self._session = session
        self._leading = leading
        self._sides: dict[str, Side] = {}
        self._serving = Serving(filing, session, self._sent)
        self._work = asyncio.Event()

    async def run(self) -> None:
        """Until the session is over, or this is cancelled."""
        self._filing.waiting.append(self._work)
        self._work.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._rounds())
                for _ in range(SERVERS):
                    group.create_task(self._serving.run())
        except* SessionOverError:
            pass
        finally:
            self._filing.waiting.remove(self._work)
            for listed in self._filing.lists.values():
                listed.stand("waiting", "The other node isn't connected.")

    def lead(self, leading: bool | None) -> None:
        """It leads from now on, follows, or neither."""
        if leading is not self._leading:
            self._leading = leading
            for listed in self._filing.lists.values():
                listed.fail(())  # Who leads now finds out what is in the way.
            self._work.set()

    # -- what comes --------------------------------------------------------------------------------

    def take(self, message: Message) -> None:
        """A message of the peer. Never waits; what is too much is dropped and counted."""
        if isinstance(message, FileWant):
            self._serving.take(message)
            if (known := self._sides.get(message.list)) is not None:
                known.active_at = _now()
            return
        side = self._side(message.list)
        if side is None:
            # Its configuration may be ahead of ours; who leads asks again.
            self._filing.count("unknown_list")
            return
        side.active_at = _now()
        match message:
            case FilePiece():
                if side.taking is None or not side.taking.piece(message):
                    self._filing.count("unwanted")
            case Manifest():
                if side.manifest(message):
                    self._work.set()
            case FileAsk():
                side.told = None
                self._work.set()
            case FileOrders():
                if side.orders(message):
                    self._work.set()
            case FileDone():
                if side.done is not None and message.round == side.round:
                    if not side.done.done():
                        side.done.set_result(message)
                else:
                    self._filing.count("unwanted")
            case FileCommon():
                if self._leading:
                    self._filing.count("refused", len(message.stamps))
                elif side.common(message):
                    self._filing.moved()

    def _sent(self, piece: FilePiece) -> None:
        """Who leads sees by what it sends how far the other is."""
        side = self._sides.get(piece.list)
        if side is None or not self._leading:
            return
        served, scan = side.listed.served, side.listed.scan
        served.bytes_done += len(piece.data)
        entry = scan.entries.get(piece.path) if scan is not None else None
        if entry is not None and piece.offset + len(piece.data) >= entry.size:
            # A guess, made good when the other says that it is through.
            served.items_done = min(served.items_done + 1, served.items)

    def _side(self, name: str) -> Side | None:
        """Of a list that there is; what was known of one by that name that was changed is gone."""
        listed = self._filing.lists.get(name)
        if listed is None:
            self._sides.pop(name, None)
            return None
        side = self._sides.get(name)
        if side is None or side.listed is not listed:
            side = self._sides[name] = Side(listed, self._filing.count)
        return side

    # -- what goes ---------------------------------------------------------------------------------

    async def _want(self, want: FileWant) -> None:
        try:
            await self._session.send(want)
        except SessionOverError as error:
            raise Trouble("lost", want.path, error.sentence) from None

    async def _tell(self, side: Side) -> None:
        """Say what is here, if the peer doesn't know yet."""
        listed = side.listed
        entries = await listed.entries()
        if entries is None:
            return
        told = side.told
        compare = functools.partial(changed, told or {}, entries)
        news = await in_thread(self._filing.executor, compare)
        whole = side.told is None
        if whole and told is not None:
            # It was asked for meanwhile.
            news = tuple(entries.values())
        side.told = entries
        if not news and not whole:
            return
        for chunk, last in chunks(news):
            await self._session.send(
                Manifest(
                    list=listed.name,
                    definition=listed.files.digest,
                    whole=whole,
                    entries=chunk,
                    last=last,
                )
            )

    # -- rounds ------------------------------------------------------------------------------------

    async def _rounds(self) -> None:
        """Do what there is to do, list by list."""
        for listed in list(self._filing.lists.values()):
            # What a session before this one was cut off from is seen, and durable, first.
            listed.fail(())
            await listed.look()
        while True:
            try:
                async with asyncio.timeout(BREATH_S if self._waits() else None):
                    await self._work.wait()
            except TimeoutError:
                pass
            self._work.clear()
            for name in list(self._filing.lists):
                side = self._side(name)
                if side is None:
                    continue
                await side.listed.save()
                if side.listed.scan is None:
                    continue
                if side.order is not None:
                    await self._follow(side)
                elif self._leading:
                    await self._lead(side)
                else:
                    await self._tell(side)
                    await self._assess(side)

    def _waits(self) -> bool:
        """Whether something is due by the clock alone."""
        return bool(self._leading) and any(
            side.failing or side.theirs is None for side in self._sides.values()
        )

    async def _assess(self, side: Side) -> None:
        """How a list stands on the node that follows."""
        listed = side.listed
        if listed.failures:
            listed.stand("partly", listed.failures[0].sentence)
        elif await listed.agreed():
            listed.stand("same", "Both nodes have it alike.")
        elif self._leading is None:
            listed.stand("waiting", "Neither node is primary, or both are, or sync is off.")
        else:
            listed.stand(
                "waiting", "The primary has yet to compare it, or says what is in the way."
            )

    async def _follow(self, side: Side) -> None:
        """Carry out what the primary ordered."""
        listed, order, orders = side.listed, side.order, side.ordered
        assert order is not None
        side.order, side.ordered = None, []
        code = ""
        if self._leading:
            code, sentence = "not_following", "This node is primary itself."
        elif order.definition != listed.files.digest:
            code, sentence = "definition", "This node means another list by that name."
        if code:
            self._filing.count("refused", len(orders))
            done = FileDone(list=listed.name, round=order.round, code=code, sentence=sentence)
            await self._session.send(done)
            return
        if orders:
            listed.stand("working", f"{len(orders)} to be done here.")
        listed.served = Progress()
        result = await self._take(side, orders)
        failures = _failures(result)
        listed.fail([failure for failure in failures if failure.code != "changed"])
        await listed.look()
        listed.remembered.ordered = {}
        await self._tell(side)
        await self._session.send(
            FileDone(
                list=listed.name,
                round=order.round,
                changed=result.changed,
                failed=len(result.failures),
                failures=tuple(failures[:SHOWN]),
            )
        )
        await self._assess(side)

    async def _take(self, side: Side, orders: list[Order]) -> Result:
        """Carry out orders here."""
        listed = side.listed
        await listed.expect(orders)
        taking = Taking(listed.place, orders, want=self._want, executor=self._filing.executor)
        side.taking, listed.progress = taking, taking.progress
        try:
            return await taking.carry_out()
        finally:
            side.taking = None
            for trouble in taking.result.failures:
                self._filing.count(f"failed_{trouble.code}")
            if taking.result.changed:
                listed.changed(taking.result.changed)

    async def _lead(self, side: Side) -> None:
        """Compare, and bring both together."""
        listed = side.listed
        if side.theirs is None:
            if _now() - side.asked_at >= ASK_S:
                side.asked_at = _now()
                await self._session.send(FileAsk(list=listed.name))
            listed.stand("waiting", "The other node has yet to say what it has.")
            return
        if side.definition != listed.files.digest:
            listed.stand("waiting", "The other node means another list by that name.")
            return
        inputs = listed.version, side.version
        if _now() < (side.retry_at if inputs == side.planned else side.not_before):
            return
        entries = await listed.entries()
        if entries is None:
            return
        compare = functools.partial(plan, entries, side.theirs, delete=listed.files.delete)
        made = await in_thread(self._filing.executor, compare)
        side.planned, side.retry_at = inputs, float("inf")
        await self._settle(side, made)
        await listed.save()
        blocked = [
            FileFailure(
                path=path, code=why, sentence=f"{printable(path)} can't be read on the other node."
            )
            for path, why in made.blocked.items()
            if path in side.theirs and side.theirs[path].why
        ]
        if made.empty and not side.failed_there:
            side.failing = 0
            listed.fail(blocked)
            if blocked:
                listed.stand("partly", blocked[0].sentence)
            else:
                listed.stand("same", "Both nodes have it alike.")
            await listed.sweep()
            return
        await self._round(side, made, blocked)

    async def _settle(self, side: Side, made: Plan) -> None:
        """What is alike is common, and both nodes remember that."""
        if not made.common:
            return
        listed = side.listed
        listed.agree(made.common.items())
        assert side.theirs is not None
        side.theirs = agreed(side.theirs, made.common.items())
        for chunk, _ in chunks(tuple(made.common.items())):
            await self._session.send(
                FileCommon(list=listed.name, definition=listed.files.digest, stamps=chunk)
            )
        listed.unsaved = True
        self._filing.moved()

    async def _round(self, side: Side, made: Plan, blocked: list[FileFailure]) -> None:
        """Let both nodes do what they have to."""
        listed = side.listed
        self._filing.count("rounds")
        if not side.failing:
            listed.conflicts += len(made.conflicts)
            self._filing.count("conflicts", len(made.conflicts))
            self._filing.count("revived", len(made.revived))
        if not made.empty:
            listed.stand(
                "working",
                f"{len(made.here)} to be done here, {len(made.there)} on the other node.",
            )
        # Orders of nothing tell it that nothing is in its way any more.
        orders = bool(made.there) or side.failed_there
        side.round += 1
        listed.served = _progress(made.there)
        done = side.done = asyncio.get_running_loop().create_future()
        try:
            for chunk, last in chunks(tuple(made.there)) if orders else ():
                await self._session.send(
                    FileOrders(
                        list=listed.name,
                        definition=listed.files.digest,
                        round=side.round,
                        orders=chunk,
                        last=last,
                    )
                )
            result = await self._take(side, made.here)
            told = await self._through(side, done) if orders else FileDone(list=listed.name)
        finally:
            side.done = None
        if made.here:
            await listed.look()
            listed.remembered.ordered = {}
        failures = [*_failures(result), *told.failures, *blocked]
        if told.code:
            failures.append(FileFailure(path="", code=told.code, sentence=told.sentence))
        side.failed_there = bool(told.failed or told.code)
        undone = len(result.failures) + told.failed + bool(told.code)
        listed.served.items_done = max(0, len(made.there) - told.failed)
        listed.fail(failures, undone + len(blocked))
        if undone or not (made.empty or result.changed or told.changed):
            side.failing += 1
            first, most = RETRY_S
            side.retry_at = _now() + min(most, first * 2 ** min(side.failing - 1, 10))
            side.not_before = _now() + BREATH_S
            lasting = [failure for failure in failures if failure.code != "changed"]
            if lasting:
                listed.stand("partly", lasting[0].sentence)
            else:
                listed.stand("working", "It was changed meanwhile, and is compared again.")
        else:
            side.failing = 0
            side.planned = None
        self._work.set()

    async def _through(self, side: Side, done: asyncio.Future[FileDone]) -> FileDone:
        """Wait for the peer to be through, as long as it does something."""
        side.active_at = _now()
        while not done.done():
            left = side.active_at + IDLE_S - _now()
            if left <= 0:
                sentence = f"Nothing was heard from the other node for {IDLE_S:.0f} s."
                return FileDone(list=side.listed.name, code="lost", sentence=sentence)
            await asyncio.wait((done,), timeout=left)
        return done.result()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _progress(orders: list[Order]) -> Progress:
    return Progress(items=len(orders), bytes=sum(order.entry.size for order in orders))


def _failures(result: Result) -> list[FileFailure]:
    return [
        FileFailure(path=trouble.path, code=trouble.code, sentence=trouble.sentence)
        for trouble in result.failures
    ]
