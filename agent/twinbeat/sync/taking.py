# SPDX-License-Identifier: Apache-2.0
"""Carries out the orders for one list on this node, item by item: what fails is named, and the rest
goes on.

Things go first what makes room: deletions, the deepest first; then directories from the top, files,
links, and at last owners and modes of directories, from below, since a directory that nobody may
write into must be full by then. What was renamed is durable when `carry_out` returns.

Contents are asked for in ranges, by a few couriers at a time, so what is on its way is bounded
whatever the peer sends and however slow the disk is.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from twinbeat.sync.beneath import Trouble
from twinbeat.sync.manifest import Kind, Order, What
from twinbeat.sync.placing import Incoming, Place
from twinbeat.sync.wire import FILE_PIECE_MAX, FilePiece, FileWant

COURIERS: Final = 8
RANGE: Final = 8 * FILE_PIECE_MAX
"""Bytes that are asked for at once."""
IDLE_S: Final = 60.0
"""A range of which nothing comes for so long is given up."""

T = TypeVar("T")
Want = Callable[[FileWant], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far it is, for a bar."""

    items: int = 0
    items_done: int = 0
    bytes: int = 0
    bytes_done: int = 0


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of it."""

    changed: int = 0
    failures: list[Trouble] = field(default_factory=list)


class Taking:
    """One set of orders, once."""

    def __init__(
        self, place: Place, orders: list[Order], *, want: Want, executor: Executor
    ) -> None:
        self._place = place
        self._want = want
        self._executor = executor
        self._awaited: dict[tuple[str, str], asyncio.Queue[FilePiece]] = {}
        self._got: Counter[str] = Counter()
        """Path -> bytes that came."""
        self._now_ns = time.time_ns()
        self._orders = sorted(orders, key=lambda order: order.entry.path)
        self.result = Result()
        self.progress = Progress(items=len(orders), bytes=sum(_content(order) for order in orders))

    def piece(self, piece: FilePiece) -> bool:
        """A piece came. False = nobody waits for it, and it is dropped."""
        queue = self._awaited.get((piece.path, piece.content))
        if queue is None or queue.full():
            return False
        queue.put_nowait(piece)
        return True

    async def carry_out(self) -> Result:
        """All of it. Once cancelled, what came of a content stays for the next time."""
        place, now_ns = self._place, self._now_ns
        for order in reversed(list(self._of(What.DELETE))):
            await self._do(order, functools.partial(place.delete, order))
        directories = list(self._of(What.TAKE, Kind.DIRECTORY))
        made = [
            order
            for order in directories
            if await self._try(order, functools.partial(place.make_directory, order, now_ns))
        ]
        await self._files(list(self._of(What.TAKE, Kind.FILE)))
        for order in self._of(What.TAKE, Kind.LINK):
            await self._do(order, functools.partial(place.make_link, order, now_ns))
        for order in reversed(made):
            await self._do(order, functools.partial(place.finish_directory, order.entry))
        return self.result

    # -- one by one ------------------------------------------------------------------------------

    def _of(self, what: What, kind: Kind | None = None) -> Iterator[Order]:
        for order in self._orders:
            if order.what is what and (kind is None or order.entry.kind is kind):
                yield order

    async def _do(self, order: Order, action: Callable[[], None]) -> None:
        if await self._try(order, action):
            self.result.changed += 1
            self.progress.items_done += 1

    async def _try(self, order: Order, action: Callable[[], None]) -> bool:
        try:
            await self._thread(action)
        except Trouble as trouble:
            self._failed(order, trouble)
            return False
        return True

    def _failed(self, order: Order, trouble: Trouble) -> None:
        self.result.failures.append(trouble)
        self.progress.items_done += 1
        self.progress.bytes -= _content(order)

    def _advance(self, order: Order, size: int) -> None:
        self._got[order.entry.path] += size
        self.progress.bytes_done += size

    async def _thread(self, action: Callable[[], T]) -> T:
        return await in_thread(self._executor, action)

    # -- contents --------------------------------------------------------------------------------

    async def _files(self, orders: list[Order]) -> None:
        waiting = iter(orders)

        async def courier() -> None:
            for order in waiting:
                await self._file(order)

        async with asyncio.TaskGroup() as couriers:
            for _ in range(min(COURIERS, len(orders))):
                couriers.create_task(courier())

    async def _file(self, order: Order) -> None:
        entry = order.entry
        try:
            now = await self._thread(functools.partial(self._place.expect, order))
            if now.kind is Kind.FILE and now.content == entry.content:
                # What is there only wears the wrong clothes.
                await self._thread(functools.partial(self._place.copy_own, order, self._now_ns))
                self._advance(order, entry.size)
            elif entry.size <= FILE_PIECE_MAX:
                await self._small(order)
            else:
                await self._large(order)
        except Trouble as trouble:
            self.progress.bytes_done -= self._got.pop(entry.path, 0)
            self._failed(order, trouble)
            return
        self.result.changed += 1
        self.progress.items_done += 1

    async def _small(self, order: Order) -> None:
        """All of it in one piece, and in one go through a thread."""
        pieces = [piece async for piece in self._range(order, 0, order.entry.size)]

        def place() -> None:
            with Incoming(self._place, order, resume=False) as incoming:
                for piece in pieces:
                    incoming.write(piece.offset, piece.data)
                incoming.put(self._now_ns)

        await self._thread(place)

    async def _large(self, order: Order) -> None:
        incoming = await self._thread(functools.partial(Incoming, self._place, order))
        self._advance(order, incoming.size)
        try:
            while incoming.size < order.entry.size:
                size = min(RANGE, order.entry.size - incoming.size)
                async for piece in self._range(order, incoming.size, size):
                    await self._thread(functools.partial(incoming.write, piece.offset, piece.data))
            await self._thread(functools.partial(incoming.put, self._now_ns))
        except Trouble:
            await self._thread(incoming.drop)
            raise
        finally:
            incoming.pause()

    async def _range(self, order: Order, offset: int, size: int) -> AsyncIterator[FilePiece]:
        """Ask for a range, and yield its pieces as they come. Raises Trouble."""
        if not size:
            return
        entry = order.entry
        key = entry.path, entry.content
        queue: asyncio.Queue[FilePiece] = asyncio.Queue(RANGE // FILE_PIECE_MAX + 1)
        self._awaited[key] = queue
        try:
            await self._want(
                FileWant(
                    list=self._place.files.name,
                    path=entry.path,
                    content=entry.content,
                    offset=offset,
                    size=size,
                )
            )
            end = offset + size
            while offset < end:
                try:
                    async with asyncio.timeout(IDLE_S):
                        piece = await queue.get()
                except TimeoutError:
                    raise Trouble("lost", entry.path) from None
                if piece.code:
                    raise Trouble("changed", entry.path, f"On the other node: {piece.sentence}")
                if piece.offset != offset or not piece.data or offset + len(piece.data) > end:
                    raise Trouble("changed", entry.path)
                yield piece
                offset += len(piece.data)
                self._advance(order, len(piece.data))
        finally:
            with contextlib.suppress(KeyError):
                del self._awaited[key]


def _content(order: Order) -> int:
    is_file = order.what is What.TAKE and order.entry.kind is Kind.FILE
    return order.entry.size if is_file else 0


async def in_thread(executor: Executor, action: Callable[[], T]) -> T:
    """Let a thread do it. Whoever is cancelled waits for it first: it may hold a descriptor."""
    future = asyncio.get_running_loop().run_in_executor(executor, action)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait((future,))
        if not future.cancelled():
            future.exception()
        raise
