# SPDX-License-Identifier: Apache-2.0
"""A node at a glance, and in a line each what the worker keeps alike on both nodes: persistence,
connections, log records.

For the status page and `twinbeat top`. It is made of what the worker told the agent last, so that
nobody who looks waits for a worker; one that is away is said to be. Pure. It has numbers and
states, and none of the sentences that name files or addresses.
"""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from twinbeat.api.schema import Connections, Counters, Role, Sessions, Status, Weblog

IN_ORDER: Final = {
    "sessions": frozenset({"follows", "in-step"}),
    "connections": frozenset({"synced"}),
    "log records": frozenset({"collecting"}),
}
"""States in which a takeover would lose nothing, in the words of `twinbeat show`."""


class Glance(Struct, frozen=True, kw_only=True):
    """What is known of either node, whether it told that itself or was heard."""

    name: str
    role: Role | None
    """None = never heard."""
    admin: str = ""
    fit: bool = False
    health: int | None = None
    term: int = 0
    gate_open: bool = False
    lease_left_ns: int | None = None
    """While its gate is open."""


def this_node(status: Status) -> Glance:
    """The one that tells."""
    node, gate = status.node, status.gate
    return Glance(
        name=node.name,
        role=node.role,
        admin=node.admin.value,
        fit=node.fit,
        health=node.health,
        term=node.term,
        gate_open=gate.open,
        lease_left_ns=max(gate.left_ns, 0) if gate.open else None,
    )


def other_node(status: Status) -> Glance:
    """Its peer, as its newest frame said."""
    peer = status.peer
    return Glance(
        name=peer.name,
        role=peer.role,
        admin=peer.admin.value if peer.admin is not None else "",
        fit=peer.fit,
        health=peer.health,
        term=peer.term,
        gate_open=peer.gate_open,
        lease_left_ns=peer.lease_left_ns if peer.gate_open else None,
    )


class Kept(Struct, frozen=True, kw_only=True):
    """One kind of state that outlasts a takeover."""

    name: str
    """sessions, connections, log records; worker, while there is none to tell of them."""
    state: str
    """As `twinbeat show` has it; `not in the kernel` for sessions that aren't; away (no worker)."""
    good: bool
    words: str
    """How much there is, and how much of it the other node has not got yet."""
    count: int | None = None
    """Entries of persistence, connections in the kernel, or log records that were collected."""
    lag: int = 0
    """Entries, messages or records that the other node has not confirmed."""


def kept(status: Status, counters: Counters) -> list[Kept]:
    """Those that are configured."""
    if status.process.worker:
        return [*_sessions(counters.sessions), *_connections(status.connections), *_logs(status)]
    return [AWAY] if status.configuration.document else []


AWAY: Final = Kept(name="worker", state="away", good=False, words="nothing is kept alike")


def _made(name: str, state: str, parts: list[str], count: int | None, lag: int) -> Kept:
    return Kept(
        name=name,
        state=state,
        good=state in IN_ORDER[name],
        words=", ".join(parts),
        count=count,
        lag=lag,
    )


def _sessions(told: Sessions | None) -> Iterator[Kept]:
    if told is None or not told.rules:
        return
    entries = sum(rule.entries for rule in told.rules)
    lag = told.replication.outstanding + told.replication.waiting
    parts = [_many(entries, "entry", "entries")]
    down = sum(server.state == "down" for server in told.servers)
    if lag:
        parts.append(f"{lag:,} on their way")
    if down:
        parts.append(f"{_many(down, 'server', 'servers')} down")
    state = "not in the kernel" if told.why else told.replication.state
    yield _made("sessions", state, parts, entries, lag)


def _connections(told: Connections | None) -> Iterator[Kept]:
    if told is None or told.state == "off":
        return
    parts = ["not counted" if told.flows is None else _many(told.flows, "flow", "flows")]
    if told.unconfirmed:
        parts.append(f"{_many(told.unconfirmed, 'message', 'messages')} unconfirmed")
    yield _made("connections", told.state, parts, told.flows, told.unconfirmed)


def _logs(status: Status) -> Iterator[Kept]:
    told: Weblog | None = status.sync.weblog if status.sync is not None else None
    if told is None:
        return
    records = sum(source.records for source in told.sources)
    parts = [_many(records, "record", "records")]
    if told.waiting:
        parts.append(f"{told.waiting:,} on this node only")
    behind = sum(source.behind for source in told.sources)
    if behind:
        parts.append(f"{_many(behind, 'byte', 'bytes')} of files not read")
    lags = [client.lag for client in told.clients]
    if any(lags):
        parts.append(f"a client lacks {max(lags):,}")
    if not all(client.connected for client in told.clients):
        away = sum(not client.connected for client in told.clients)
        parts.append(f"{_many(away, 'client', 'clients')} away")
    yield _made("log records", told.state, parts, records, told.waiting)


def _many(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"
