# SPDX-License-Identifier: Apache-2.0
"""Which of the engine's passing events the core has to see.

Where the host is late, suspicions come and go by the hundred a minute, and the engine clears each
before anybody could act on it.  To the core the second of two such pairs says nothing that the
first did not: the peer is alive and no story is under way.  So it is shown one, and then no more
until something else happens.  Counters and the event stream get them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from twinbeat.core.events import EngineEvent
from twinbeat.core.types import EngineEventKind

PASSING: Final = frozenset(
    {
        EngineEventKind.SUSPECT,
        EngineEventKind.CLEARED,
        EngineEventKind.LATE,
        EngineEventKind.LINK_SILENT,
        EngineEventKind.LINK_HEARD,
    }
)
"""Events after which roles, terms and orders are what they were: the engine wakes nobody for them
(`tb_ring_push`)."""


class Suspicions:
    """Remembers whether the core has seen a pair since anything else happened."""

    def __init__(self) -> None:
        self._seen = False

    def thin(self, events: Iterable[EngineEvent]) -> list[EngineEvent]:
        """The events of one turn without those that would tell the core nothing new."""
        kept: list[EngineEvent] = []
        begun: int | None = None
        late = False
        for event in events:
            match event.kind:
                case EngineEventKind.SUSPECT:
                    self._seen = self._seen and begun is None
                    begun = len(kept)
                case EngineEventKind.CLEARED:
                    before = begun
                    begun = None
                    if before is not None and self._seen:
                        del kept[before]
                        continue
                    self._seen = before is not None
                case EngineEventKind.LATE:
                    # The core tells of one in a while; how many there were is counted elsewhere.
                    if late:
                        continue
                    late = True
                case EngineEventKind.LINK_SILENT | EngineEventKind.LINK_HEARD:
                    pass
                case _:
                    begun, self._seen = None, False
            kept.append(event)
        if begun is not None:
            self._seen = False
        return kept
