# SPDX-License-Identifier: Apache-2.0
"""Persistence as the daemon tells of it: the worker keeps it, this only puts it in other words."""

from __future__ import annotations

from twinbeat.api import schema
from twinbeat.sessions.shown import SessionsStatus


def persistence(told: SessionsStatus | None) -> schema.Sessions | None:
    """What the worker told of persistence, for counters and metrics."""
    if told is None:
        return None
    return schema.Sessions(
        why=told.why,
        rules=[
            schema.PersistenceRule(
                name=each.name, entries=each.entries, limit=each.limit, counts=each.counts
            )
            for each in told.rules
        ],
        servers=[
            schema.PersistenceServer(
                pool=each.pool, address=each.address, state=each.state, entries=each.entries
            )
            for each in told.servers
        ],
        replication=schema.Replication(
            state=told.replication.state,
            outstanding=told.replication.outstanding,
            waiting=told.replication.waiting,
            counts=told.replication.counts,
        ),
        counts=told.counts,
        window=schema.Histogram(counts=told.window, sum_ns=told.window_sum_ns),
    )
