# SPDX-License-Identifier: Apache-2.0
"""One thread beside an event loop: what blocks is done there, one thing after the other.

`asyncio.to_thread` has a pool, of which two threads wake up for each thing to do, and two futures
for each of its results. Where a client waits for six of them one after the other that is a
noticeable part of what it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

log = logging.getLogger("twinbeat")

T = TypeVar("T")


class Aside:
    """Begun with the first thing to do. A process that ends without `close` waits for nothing of
    it: whatever is done here must stand being cut off anywhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def post(self, work: Callable[[], object]) -> None:
        """Do this in its turn; nobody waits for it, and what it raises is logged.

        Raises RuntimeError after `close`.
        """
        if self._closed:
            raise RuntimeError(f"{self._name} was closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._work.put(work)

    def call(self, work: Callable[..., T], /, *arguments: Any) -> asyncio.Future[T]:
        """Do this in its turn; what it returns or raises is for whoever awaits it in this loop.

        Who is cancelled meanwhile doesn't hear of it; it is done nevertheless.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def carried_out() -> None:
            try:
                result = work(*arguments)
            except BaseException as error:  # noqa: BLE001 - it is for the one who waits
                told: tuple[Callable[[Any], None], Any] = future.set_exception, error
            else:
                told = future.set_result, result
            with contextlib.suppress(RuntimeError):  # The loop has ended, and nobody waits.
                loop.call_soon_threadsafe(_tell, future, *told)

        self.post(carried_out)
        return future

    def close(self) -> None:
        """Do what was asked for, and nothing more; returns when it is done. Blocking."""
        if not self._closed:
            self._closed = True
            self._work.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception:
                log.exception("%s: what nobody waits for failed", self._name)
            del work  # Nothing of it is held until the next one comes.


def _tell(future: asyncio.Future[T], say: Callable[[Any], None], what: object) -> None:
    if not future.done():
        say(what)
