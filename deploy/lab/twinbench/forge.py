# SPDX-License-Identifier: Apache-2.0
"""Frames that must not be believed, for the flood of `twinlab.flood`.  Pure.

Whoever forges knows everything but the key: the pair, the nodes, their addresses and their MACs.
"""

from __future__ import annotations

import struct

from twinlab import plan
from twinlab.flood import COUNTER_AT, FRAME, MAGIC, udp_frame

HELLO, PROBE, ANSWER = 1, 2, 3
KIND_AT = 14 + 20 + 8 + 5
"""Where the kind lies in the Ethernet frame."""
PRIMARY = 3
FLAG_OPEN = 1

FORGED_TERM = 0x7EAD_0000_0000_0000
"""No honest node ever comes by such a term: seeing it means that a forgery was believed."""

AHEAD = 1 << 33
"""How far ahead of the newest counter on the wire a forger counts."""


def payload(
    sender: int, *, kind: int = HELLO, pair: int = plan.PAIR_ID, key_id: int = 1, version: int = 1
) -> bytes:
    """A heartbeat that claims and serves a term beyond all others, under a MAC made up."""
    term = FORGED_TERM | sender
    return FRAME.pack(
        *(MAGIC, version, kind, sender, 0, pair, key_id, bytes((key_id, 0)), 1),
        *(0, 0, term, term, term, term, 0, 0),
        *(10_000, FLAG_OPEN, PRIMARY, 0, 100, 600, 10_000, 200, 400, 0, 0, 0),
        bytes(8),
    )


def forgeries(node: str, link: str) -> list[bytes]:
    """Frames to a node in its peer's name: MACs made up, a wrong pair, key, version, index."""
    sender = plan.node_index(plan.peer(node))
    bodies = [payload(sender, kind=kind) for kind in (HELLO, PROBE, ANSWER)]
    bodies.append(payload(sender, pair=4711))
    bodies.append(payload(sender, key_id=77))
    bodies.append(payload(sender, version=9))
    bodies.append(payload(plan.node_index(node)))  # its own index: a reflected frame
    return [udp_frame(node, link, body) for body in bodies]


def kind(frame: bytes) -> int:
    """HELLO, PROBE or ANSWER of a whole heartbeat."""
    return frame[KIND_AT]


def newest_counter(frames: list[bytes]) -> int:
    """The highest counter in recorded heartbeats."""
    return max(int(struct.unpack_from("!Q", frame, COUNTER_AT)[0]) for frame in frames)
