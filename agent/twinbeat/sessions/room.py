# SPDX-License-Identifier: Apache-2.0
"""Tables that are full say so in the log, once a minute."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final

from twinbeat.sessions.entries import Reason, Store

WARN_S: Final = 60.0
"""They are warned of no more often than this."""

log = logging.getLogger("twinbeat.worker")


class Room:
    """What was said of them so far."""

    def __init__(self) -> None:
        self._warned_s = -WARN_S
        self._known: Counter[str] = Counter()

    def look(self, store: Store, without: Mapping[str, int], now_s: float) -> list[str]:
        """Warn of the rules whose tables had too little room since the last warning; which ones.

        ``without``: connections that found no room in the kernel's map, by rule, ever. ``now_s``:
        of a clock that only goes on.
        """
        full = Counter(without)
        for name, table in store.tables.items():
            full[name] += table.counts[Reason.EVICTED]
        grown = full - self._known
        if not grown or now_s - self._warned_s < WARN_S:
            return []
        self._warned_s, self._known = now_s, full
        for name, more in grown.items():
            limit = store.tables[name].rule.limit if name in store.tables else 0
            words = "persistence %s is full with %d entries: the oldest make room for %d more"
            log.warning(words, name, limit, more)
        return list(grown)
