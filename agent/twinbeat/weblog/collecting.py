# SPDX-License-Identifier: Apache-2.0
"""Collecting: looks at every source a few times in a tenth of a second, and gives the store what
has come.

A look at a file that has nothing new costs two system calls, so nobody has to be woken by the
kernel for it: 20 of them are about half a percent of a processor (deploy/docs/weblog.md).
While the store has no room files wait where they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Final

from twinbeat.weblog.block import NOWHERE
from twinbeat.weblog.receiver import Receiver
from twinbeat.weblog.shown import SourceStatus
from twinbeat.weblog.sources import LogSource
from twinbeat.weblog.store import Store
from twinbeat.weblog.tail import Tail

log = logging.getLogger(__name__)

POLL_S: Final = 0.02
TURN_CHUNKS: Final = 8
"""Blocks of one file before others have their turn."""
LOOK_S: Final = 1.0


class Collector:
    """Runs in the store's loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sources: dict[str, LogSource] = {}
        self._tails: dict[str, Tail] = {}
        self._receivers: dict[str, Receiver] = {}
        self._said: dict[str, str] = {}
        self._over: Counter[tuple[str, str]] = Counter()
        """Counts of sources that are read anew."""

    def configure(self, sources: Iterable[LogSource]) -> None:
        """These, and no others. One that stays as it was isn't disturbed."""
        wanted = {each.name: each for each in sources}
        for name in [each for each, row in self._sources.items() if wanted.get(each) != row]:
            self._end(name)
        for name, row in wanted.items():
            if name in self._sources:
                continue
            self._sources[name] = row
            if row.path:
                position = self._store.position(name)
                recorded = partial(self._store.recorded, name)
                self._tails[name] = Tail(row.path, position, history=row.history, recorded=recorded)
            else:
                self._receivers[name] = Receiver(row, lambda: self._store.has_room)

    def close(self) -> None:
        """What came by datagrams is given to the store."""
        for name in list(self._sources):
            self._end(name)

    def _end(self, name: str) -> None:
        if receiver := self._receivers.pop(name, None):
            receiver.close()
            self._gather(name, receiver)
        if tail := self._tails.pop(name, None):
            tail.close()
        del self._sources[name]

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        looked = 0.0
        while True:
            now = loop.time()
            if now - looked >= LOOK_S:
                looked = now
                self._look()
            more = False
            for name, tail in self._tails.items():
                more |= self._follow(name, tail, now)
            for name, receiver in self._receivers.items():
                self._gather(name, receiver)
            await asyncio.sleep(0 if more and self._store.has_room else POLL_S)

    def _follow(self, name: str, tail: Tail, now: float) -> bool:
        """Take what a file has. Whether there may be more at once."""
        for _ in range(TURN_CHUNKS):
            if not self._store.has_room:
                return False
            chunk = tail.poll(now)
            if chunk is None:
                return False
            self._store.take(name, chunk.payload, chunk.count, chunk.position)
        return True

    def _gather(self, name: str, receiver: Receiver) -> None:
        while (found := receiver.gathered()) is not None:
            self._store.take(name, *found, NOWHERE)

    def _look(self) -> None:
        """What needs to be seen to now and then."""
        for receiver in self._receivers.values():
            receiver.open()
            receiver.look()
        for each in self.status():
            if each.why != self._said.get(each.name, ""):
                self._said[each.name] = each.why
                if each.why:
                    log.warning("log source %s: %s", each.name, each.why)

    def status(self) -> list[SourceStatus]:
        """Of all sources, by name."""
        found = []
        for name, row in sorted(self._sources.items()):
            tail, receiver = self._tails.get(name), self._receivers.get(name)
            part = tail or receiver
            assert part is not None
            found.append(
                SourceStatus(
                    name=name,
                    kind=row.kind,
                    where=row.path or row.socket or row.listen,
                    records=self._store.records[name],
                    behind=tail.behind if tail is not None else 0,
                    why=part.why,
                    counts=dict(part.counts),
                )
            )
        return found
