# SPDX-License-Identifier: Apache-2.0
"""Entries that the other node sends, on their way into the store and the kernel: one batch after
the other, and in pieces between which other work is done, as there may be a million to drop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from twinbeat.sessions.entries import Store
from twinbeat.sessions.plane import now_ns
from twinbeat.sessions.replication import OUTSTANDING_MOST, Batch, Follower, Part
from twinbeat.sync.session import Session
from twinbeat.sync.wire import SessionAsk, SessionBatch

ARRIVED_MOST: Final = 2 * OUTSTANDING_MOST
"""Batches that wait: twice what the other node sends without an answer."""


class Following:
    """Runs beside whoever hears the other node."""

    def __init__(
        self,
        store: Store,
        *,
        leading: Callable[[], bool],
        flush: Callable[[], bool],
        taken: Callable[[Session, Batch], None],
    ) -> None:
        """``leading``: this node does by now. ``flush`` writes some of what has changed to the
        kernel, and says whether there is more. ``taken`` is told of each batch when all of it is
        there."""
        self.follower = Follower(store)
        self._leading = leading
        self._flush = flush
        self._taken = taken
        self._arrived: asyncio.Queue[tuple[Session, SessionBatch | None]] = asyncio.Queue()
        """Where each came from; None = nothing more comes from there."""

    def note(self, session: Session, message: SessionBatch) -> None:
        """A batch was got. Where too many wait it is left out, and everything asked for anew."""
        if self._arrived.qsize() >= ARRIVED_MOST:
            self.follower.counts["crowded"] += len(message.entries) + len(message.gone)
            session.offer(SessionAsk())
            return
        self._arrived.put_nowait((session, message))

    def lost(self, session: Session) -> None:
        """Nothing more comes from there: what was got is taken in still."""
        self._arrived.put_nowait((session, None))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            session, message = await self._arrived.get()
            if message is None:
                self.follower.lost()
                continue
            batch = Batch(
                number=message.number,
                part=Part(message.part),
                rule=message.rule,
                entries=message.entries,
                gone=message.gone,
            )
            self.follower.take(batch, now_ns(), leading=self._leading())
            more = self._more()
            while more:
                await asyncio.sleep(0)
                more = self._more()
            self._taken(session, batch)

    def _more(self) -> bool:
        dropping = self.follower.drop(now_ns(), leading=self._leading())
        return self._flush() or dropping
