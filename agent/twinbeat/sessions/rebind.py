# SPDX-License-Identifier: Apache-2.0
"""Clients of a server that is gone get another one, by their key, so that any node would choose
alike."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from typing import Final

from twinbeat.sessions.entries import Store
from twinbeat.sessions.plane import now_ns

REBIND_MOST: Final = 2000
"""Entries that are looked at before other work gets its turn."""


async def rebind(store: Store, rule: str, servers: Sequence[str]) -> int:
    """Bind whoever is bound to none of these to one of them, for what is left; how many."""
    table, use = store.tables.get(rule), frozenset(servers)
    if not servers or table is None or use.issuperset(table.servers):
        return 0
    moment, rebound = now_ns(), 0
    for number, key in enumerate(table.keys(), 1):
        entry = table.get(key, moment)
        if entry is not None and entry.server not in use:
            server = servers[zlib.crc32(key) % len(servers)]
            table.put(key, server, moment, lifetime_ns=entry.remaining_ns(moment))
            rebound += 1
        if number % REBIND_MOST == 0:
            await asyncio.sleep(0)
            moment = now_ns()
            if store.tables.get(rule) is not table:
                break
    return rebound
