# SPDX-License-Identifier: Apache-2.0
"""In which order two nodes that hear each other come to another key for their heartbeats.

Pure: made of what both nodes' frames say now, so that a rotation that broke off anywhere is gone on
with from there. Each step leaves both nodes accepting what the other sends under.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

IDS: Final = 255
HELD_MOST: Final = 2
"""Keys that a node can have at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """The keys of one node, as its frames say."""

    sends: int
    accepts: frozenset[int]


class Step(enum.Enum):
    """What is to be done next."""

    PEER_ACCEPTS = enum.auto()
    ACCEPT = enum.auto()
    PEER_SENDS = enum.auto()
    SEND = enum.auto()
    PEER_ALONE = enum.auto()
    """The peer accepts the new key only."""
    ALONE = enum.auto()
    DONE = enum.auto()


def next_step(own: Ring, peer: Ring, new: int) -> Step:
    """How to go on towards the key ``new``, which this node holds already."""
    if new not in peer.accepts:
        return Step.PEER_ACCEPTS
    if new not in own.accepts:
        return Step.ACCEPT
    if peer.sends != new:
        return Step.PEER_SENDS
    if own.sends != new:
        return Step.SEND
    if peer.accepts != {new}:
        return Step.PEER_ALONE
    if own.accepts != {new}:
        return Step.ALONE
    return Step.DONE


def follows(one: int, other: int) -> bool:
    """Whether a rotation led from the other key to this one: ids go up, and round."""
    return 0 < (one - other) % IDS <= IDS // 2


def new_key(own: Ring, peer: Ring, held: frozenset[int]) -> int:
    """The key to rotate to: that of a rotation that broke off, or one that was made for it and is
    on this node's disk; else the next number that neither node knows."""
    if own.sends != peer.sends:
        return own.sends if follows(own.sends, peer.sends) else peer.sends
    sends, here = own.sends, own.accepts | held
    begun = {key for key in here if follows(key, sends)}
    if begun:
        return min(begun & peer.accepts or begun)
    if any(follows(sends, key) for key in here | peer.accepts):
        return sends
    new = sends % IDS + 1
    while new in peer.accepts:
        new = new % IDS + 1
    return new


def give_way(new: int, held: frozenset[int], own: Ring, peer: Ring) -> frozenset[int]:
    """Keys on the disk of `own` that leave for the new one, if there is no room: of a rotation that
    was never gone on with. Nobody sends under them, and the other node doesn't accept them."""
    if len(held | {new}) <= HELD_MOST:
        return frozenset()
    return held - {new, own.sends, peer.sends} - peer.accepts
