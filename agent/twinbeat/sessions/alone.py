# SPDX-License-Identifier: Apache-2.0
"""What a node has alone is told to the primary before that one fills it: else it would be lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from twinbeat.sessions.entries import Store, Table
from twinbeat.sessions.plane import now_ns
from twinbeat.sessions.replication import (
    BATCH_MOST,
    MS,
    OPAQUE_MOST,
    SNAPSHOT_TICK,
    Batch,
    Carry,
    Part,
)

PAUSE_S: Final = 0.02
"""After as many as a snapshot sends in a tick: nobody answers these."""


async def tell_alone(store: Store, alone: Callable[[Table], Iterable[bytes]], carry: Carry) -> None:
    """``alone``: keys of a table that the primary may not have. Where there is no room for them the
    end isn't told, and the primary waits for it no longer than it does for anything."""
    told = 0
    for table in list(store.tables.values()):
        for batch in batches(table, alone(table)):
            if not carry(batch):
                return
            told += len(batch.entries)
            if told >= SNAPSHOT_TICK:
                await asyncio.sleep(PAUSE_S)
                told = 0
    carry(Batch(number=0, part=Part.END))


def batches(table: Table, keys: Iterable[bytes]) -> Iterator[Batch]:
    """These entries of a table, as far as they are there, for a primary that answers nothing."""
    left = iter(keys)
    while part := list(itertools.islice(left, BATCH_MOST if table.rule.in_kernel else OPAQUE_MOST)):
        moment = now_ns()
        held = [(key, table.get(key, moment)) for key in part]
        entries = tuple(
            (key, one.server, one.remaining_ns(moment) // MS)
            for key, one in held
            if one is not None
        )
        yield Batch(number=0, rule=table.rule.name, entries=entries)
