# SPDX-License-Identifier: Apache-2.0
"""What a connection between the two workers is told of its ends, and what there is to see of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from twinbeat.sync.session import Limits
from twinbeat.sync.wire import PORT

HANDSHAKE_S: Final = 5.0
DIAL_ANYWAY_S: Final = 10.0
PAUSE_MAX_S: Final = 5.0
QUEUES: Final = ("send", "bulk", "receive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the peer is, and who this node is."""

    node: int
    """Index of this node."""
    pair: int
    peer: str
    """Address of the other worker. Empty: it is only listened for."""
    port: int = PORT
    """Of this worker; 0 = any that is free."""
    peer_port: int = PORT
    listen: str = ""
    """Own address, to listen at and to dial from. Empty: every one."""
    interface: str = ""
    """Nothing leaves or comes but over this one, so that bulk keeps off the heartbeats' links."""
    limits: Limits = field(default_factory=Limits)
    handshake_s: float = HANDSHAKE_S
    dial_anyway_s: float = DIAL_ANYWAY_S
    pause_max_s: float = PAUSE_MAX_S
    look_s: float = 1.0
    """How often the files of the identity are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatus:
    """How things stand, for `show sync` and the metrics."""

    state: str
    """unpaired, away or connected."""
    why: str
    """Why not connected: a sentence; empty when it is."""
    since_s: float
    """Unix time of the session's beginning, or of the last one's end."""
    port: int
    """That is listened at; 0 = none."""
    peer_name: str = ""
    peer_build: str = ""
    version: int = 0
    """Spoken by both."""
    round_trip_ns: int = 0
    waiting: dict[str, int]
    """Messages in each queue: send, bulk, receive."""
    arriving: tuple[int, int] = (0, 0)
    """Bytes of a large message that have come, and that there will be."""
    own_ends_s: int = 0
    """Unix time at which the certificate in use is over; 0 = there is none."""
    peer_ends_s: int = 0
    renewing: bool = False
    """A successor of this node's certificate waits to be acknowledged."""
    counts: dict[tuple[str, str], int]
    """(what, which): established, refused, left, ended, failed, dropped, waited, skipped, messages,
    bytes. All only grow."""
