# SPDX-License-Identifier: Apache-2.0
"""The store in a thread of its own: one thing after the other, in the order asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, assert_never

from twinbeat.aside import Aside
from twinbeat.sync.document import Document
from twinbeat.sync.effects import (
    StoreAbort,
    StoreAdopt,
    StoreCommit,
    StorePaired,
    StorePrepare,
    StoreRecord,
    Stores,
)
from twinbeat.sync.events import Held, Stored, StoreFailed
from twinbeat.sync.operation import Operation, Outcome
from twinbeat.sync.store import OUTCOMES_MOST, Store, StoreError

NAMED_MOST: Final = 8 * OUTCOMES_MOST
"""Names of requests that are remembered beside the store; with more each is looked up there."""

_T = TypeVar("_T")


class Ledger:
    """Opened by `open`, closed by `close`; all else may be called in between."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = Aside("store")
        self._store: Store | None = None
        self._named: set[str] | None = None
        """At least those requests of which something is kept; None: only the store knows."""

    async def open(self) -> list[str]:
        """Open the file; sentences about what was wrong with it. Raises StoreError."""

        def opened() -> list[str]:
            self._store = Store(self._path)
            self._named = self._store.names()
            return list(self._store.complaints)

        return await self._thread.call(opened)

    def close(self) -> None:
        """After what is under way."""
        if self._store is not None:
            self._thread.post(self._store.close)
        self._thread.close()

    async def ask(self, question: Callable[[Store], _T]) -> _T:
        """Read something, in its turn. Raises StoreError."""
        return await self._thread.call(lambda: question(self._opened))

    async def held(self) -> Held | None:
        """All that survived; None: it waits for a seed."""
        return await self.ask(lambda store: store.held())

    async def seed(self, document: Document, highest: int) -> None:
        """The first document."""
        await self.ask(lambda store: store.seed(document, highest=highest))

    async def outcome(self, request: str) -> Outcome | None:
        """What is kept of a request; nothing where the disk can't be read."""
        if self._named is not None and request not in self._named:
            return None  # As good as always: a request is asked for once.
        try:
            return await self.ask(lambda store: store.outcome(request))
        except StoreError:
            return None

    def do(self, effect: Stores, answer: Callable[[Stored | StoreFailed], None]) -> None:
        """Carry it out in its turn; ``answer`` is called in the loop."""
        loop = asyncio.get_running_loop()
        self._note(effect)

        def work() -> None:
            said: Stored | StoreFailed
            try:
                _carry_out(self._opened, effect)
                said = Stored(token=effect.token)
            except StoreError as error:
                said = StoreFailed(token=effect.token, code=error.code, sentence=error.sentence)
            loop.call_soon_threadsafe(answer, said)
            if isinstance(effect, StorePrepare) and isinstance(said, Stored):
                loop.call_soon_threadsafe(self._foresee, effect.operation)

        self._thread.post(work)

    def _foresee(self, operation: Operation) -> None:
        """Not before what follows from the journaling was begun: it would take turns with that."""
        with contextlib.suppress(RuntimeError):  # The thread was told to end.
            self._thread.post(partial(self._opened.foresee, operation))

    def _note(self, effect: Stores) -> None:
        """Whoever asks from now on is told what comes of this."""
        if self._named is not None and not isinstance(effect, StorePrepare | StorePaired):
            self._named.update(outcome.request for outcome in effect.outcomes)
            if len(self._named) > NAMED_MOST:
                self._named = None

    @property
    def _opened(self) -> Store:
        assert self._store is not None, "opened before it is asked"
        return self._store


def _carry_out(store: Store, effect: Stores) -> None:
    match effect:
        case StorePrepare(operation=operation):
            store.prepare(operation)
        case StoreCommit(request=request, outcomes=outcomes):
            store.commit(request, outcomes)
        case StoreAbort(request=request, outcomes=outcomes):
            store.abort(request, outcomes)
        case StoreAdopt(document=document, outcomes=outcomes, why=why):
            store.adopt(document, outcomes, why)
        case StoreRecord(outcomes=outcomes):
            store.record(outcomes)
        case StorePaired():
            store.set_paired()
        case _:
            assert_never(effect)
