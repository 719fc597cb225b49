# SPDX-License-Identifier: Apache-2.0
"""The event stream: one publisher, a bounded number of readers, each with a bounded queue.

Publishing never blocks and never fails. A reader that is too slow loses the oldest events it has
not fetched; how many is counted and told to it in the stream, so a gap is never silent.
"""

import asyncio
from collections import deque
from typing import Final

from twinbeat.api.schema import Dropped, Event

READERS_MAX: Final = 16
QUEUE_MAX: Final = 256
RECENT_MAX: Final = 64


class Subscription:
    """One reader's place in the stream."""

    def __init__(self, hub: "EventHub") -> None:
        self._hub = hub
        self._queue: deque[Event] = deque()
        self._dropped = 0
        self._ready = asyncio.Event()
        self._closed = False

    def offer(self, event: Event) -> bool:
        """Queue an event; False if an older one had to go for it."""
        full = len(self._queue) >= QUEUE_MAX
        if full:
            self._queue.popleft()
            self._dropped += 1
        self._queue.append(event)
        self._ready.set()
        return not full

    async def next(self) -> Event | Dropped | None:
        """The next event, a note of how many were lost before it, or None when the hub closed."""
        while not self._queue and not self._closed:
            self._ready.clear()
            await self._ready.wait()
        if self._dropped:
            count, self._dropped = self._dropped, 0
            return Dropped(count=count)
        return self._queue.popleft() if self._queue else None

    def close(self) -> None:
        """Leave the stream; a waiting `next` returns what is queued, then None."""
        self._closed = True
        self._ready.set()
        self._hub.forget(self)


class EventHub:
    """Keeps the newest events and hands new ones to whoever listens."""

    def __init__(self) -> None:
        self._readers: set[Subscription] = set()
        self._recent: deque[Event] = deque(maxlen=RECENT_MAX)
        self.dropped_total = 0

    def publish(self, event: Event) -> None:
        """Hand an event to every reader. Never blocks."""
        self._recent.append(event)
        for reader in self._readers:
            if not reader.offer(event):
                self.dropped_total += 1

    def recent(self) -> list[Event]:
        """The newest events, oldest first."""
        return list(self._recent)

    def subscribe(self) -> Subscription | None:
        """A place in the stream, or None when all are taken."""
        if len(self._readers) >= READERS_MAX:
            return None
        reader = Subscription(self)
        self._readers.add(reader)
        return reader

    def forget(self, reader: Subscription) -> None:
        """Called by the subscription that closes."""
        self._readers.discard(reader)

    def close(self) -> None:
        """End every stream, for a stopping agent."""
        for reader in list(self._readers):
            reader.close()
