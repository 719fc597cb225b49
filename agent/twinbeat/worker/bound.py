# SPDX-License-Identifier: Apache-2.0
"""What there is to see of persistence: of a `Sessions`, in the words of `sessions.shown`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from twinbeat.sessions.entries import Entry, Table
from twinbeat.sessions.keys import key_of, shown
from twinbeat.sessions.plane import now_ns
from twinbeat.sessions.shown import (
    RULES_MOST,
    Entries,
    EntryView,
    Replication,
    RuleStatus,
    ServerStatus,
    SessionsStatus,
)
from twinbeat.worker.sessions import Sessions

MS = 1_000_000


def status(of: Sessions) -> SessionsStatus:
    """How all of it stands."""
    bound: Counter[tuple[str, str]] = Counter()
    for rule in of.rules.values():
        table = of.store.tables.get(rule.name)
        if table is not None and rule.in_kernel:
            bound.update({(rule.pool, one): count for one, count in table.servers.items()})
    counts = Counter(of.counts)
    if of.plane is not None:
        counts += of.plane.counts + of.plane.kernel_counts
    follows = "follows" if of.connected and not of.primary else "alone"
    leader = of.leader
    return SessionsStatus(
        why=of.why[:1024],
        primary=of.primary,
        rules=tuple(map(_rule, of.store.tables.values()))[:RULES_MOST],
        servers=tuple(_servers(of, bound))[:RULES_MOST],
        replication=Replication(
            state=leader.state.value if of.leading else follows,
            outstanding=leader.outstanding,
            waiting=leader.waiting,
            filled=leader.filled,
            filled_ns=leader.filled_ns,
            counts={
                **leader.counts,
                **{f"got {what}": count for what, count in of.follower.counts.items()},
            },
        ),
        counts=dict(counts),
        window=list(of.window.counts),
        window_sum_ns=of.window.sum_ns,
    )


def _rule(table: Table) -> RuleStatus:
    rule = table.rule
    return RuleStatus(
        name=rule.name,
        kind=rule.kind,
        pool=rule.pool,
        timeout_s=rule.timeout_s,
        entries=len(table),
        limit=rule.limit,
        high=table.high,
        counts={str(what): count for what, count in table.counts.items()},
    )


def _servers(of: Sessions, bound: Counter[tuple[str, str]]) -> Iterator[ServerStatus]:
    for name, servers in of.servers.all().items():
        for server in servers.values():
            enabled = of.pools[name].is_enabled(server.address)
            yield ServerStatus(
                pool=name,
                address=server.address,
                state=("down" if server.failed else "up") if enabled else "disabled",
                sentence=server.sentence[:1024],
                entries=bound[name, server.address],
                failures=server.failures,
            )


def entries(of: Sessions, rule: str, client: str, most: int) -> Entries:
    """Entries of a rule, or of all; of a client, or the first ones. Raises Refused."""
    moment = now_ns()
    found: list[EntryView] = []
    for table in [of.store.table(rule)] if rule else list(of.store.tables.values()):
        for key, entry in _of(table, client, moment):
            if len(found) >= most:
                return Entries(entries=tuple(found), more=True)
            found.append(
                EntryView(
                    rule=table.rule.name,
                    client=shown(table.rule, key),
                    server=entry.server,
                    remaining_ms=entry.remaining_ns(moment) // MS,
                )
            )
    return Entries(entries=tuple(found))


def _of(table: Table, client: str, moment: int) -> Iterator[tuple[bytes, Entry]]:
    """All entries of a table, or those of a client."""
    key = key_of(table.rule, client)
    if not client:
        yield from table.items(moment)
    elif key is not None and table.rule.kind == "source-destination":
        yield from (each for each in table.items(moment) if each[0].startswith(key))
    elif key is not None and (entry := table.get(key, moment)) is not None:
        yield key, entry
