# SPDX-License-Identifier: Apache-2.0
"""All there is to say about a node at one moment."""

from msgspec import Struct

from twinbeat.api.parts.guards import Fence, Hook, Isolation, Monitor, Watchdog, Witness
from twinbeat.api.parts.happened import Transition
from twinbeat.api.parts.network import Neighbours, Rival, Routes, Vrid
from twinbeat.api.parts.pair import Gate, Link, Node, Peer
from twinbeat.api.parts.settings import Configuration, Pause, Policy, Process, Timers, Waiting
from twinbeat.api.parts.terms import SCHEMA, Warn
from twinbeat.api.parts.worker import Connections, Sync


class Status(Struct, frozen=True, kw_only=True):
    """All there is to say about a node at one moment."""

    schema: int = SCHEMA
    sentence: str = ""
    """The whole state in one line; filled by `twinbeat.observe.status.finish`."""
    time: str
    now_ns: int
    realtime_offset_ns: int
    boot: str = ""
    """Boot id: what happened under another one is not on this clock."""
    pair: int
    node: Node
    gate: Gate
    peer: Peer
    links: list[Link]
    vrids: list[Vrid]
    neighbours: list[Neighbours] = []
    rivals: list[Rival] = []
    monitors: list[Monitor] = []
    routes: Routes = Routes()
    hooks: list[Hook] = []
    timers: Timers
    policy: Policy | None = None
    configuration: Configuration
    process: Process
    waiting: Waiting | None = None
    pause: Pause | None = None
    watchdog: Watchdog | None = None
    fence: Fence = Fence()
    witness: Witness | None = None
    isolation: Isolation | None = None
    sync: Sync | None = None
    connections: Connections | None = None
    """None: no worker tells."""
    warnings: list[Warn] = []
    last_transition: Transition | None = None
    last_failover: Transition | None = None
    """The newest transition to primary on this node, or away from it to the peer. The first reign
    of a pair is none, nor is one that goes on after a restart (resumed) or under a newer term."""
