# SPDX-License-Identifier: Apache-2.0
"""ebpf/tb_abi.h as Python sees it: the frame, the values of the maps, the names of the reasons.

The one place where the layout is written down a second time: for where the compiled module does
not reach, in the loader and in tools that look at pins. tests/bpf/test_abi.py asks a C compiler
for every size, offset and constant of the header and compares; `engine/types.py` has those numbers
that only the engine needs.
"""

from __future__ import annotations

import ctypes
import hashlib
from enum import IntEnum, IntFlag
from typing import Final

MAGIC: Final = 0x54425431
VERSION: Final = 1
PORT: Final = 3003

LINKS: Final = 8
CPUS: Final = 128
KEYS: Final = 2
VIPS: Final = 16384
SIEVE_BYTES: Final = 8192
SIEVE_FACTOR: Final = 0x9E3779B1
BUCKETS: Final = 32
FRAME_SIZE: Final = 128
MAC_COVERS: Final = 120


class FrameType(IntEnum):
    """enum tb_type."""

    HELLO = 1
    PROBE = 2
    ANSWER = 3
    CONTROL = 4


class Flag(IntFlag):
    """enum tb_flag."""

    OPEN = 1 << 0
    HEARS_YOU = 1 << 1
    YIELD = 1 << 2
    PAUSED = 1 << 3
    RESTART = 1 << 4
    ISOLATED = 1 << 5
    CONTESTED = 1 << 6
    FIT = 1 << 7
    STARTING = 1 << 8
    PREFERRED = 1 << 9
    CLAIMING = 1 << 10
    PAUSE_ACK = 1 << 11
    STRANDED = 1 << 12
    NEVER_CLAIMS = 1 << 13
    KNOWN = 1 << 14
    NEWBORN = 1 << 15
    PROPOSAL = 1 << 16
    REFUSES = 1 << 17
    EVEN_SO = 1 << 18
    NEGOTIATES = 1 << 19


class VridBit(IntFlag):
    """enum tb_vrid_bit: which virtual MACs of a VRID are ours."""

    V4 = 1
    V6 = 2


class Reason(IntEnum):
    """enum tb_reason; the name in lower case is the metric's label."""

    HELLO = 0
    PROBE = 1
    ANSWER = 2
    CONTROL = 3
    LENGTH = 4
    MALFORMED = 5
    VERSION = 6
    PAIR = 7
    TTL = 8
    OWN = 9
    KEY = 10
    AUTH = 11
    REPLAY = 12
    STRANGER = 13
    WINDOW = 14
    LINK = 15
    CHALLENGED = 16
    SNAPSHOT_BUSY = 17
    FENCED = 18
    CONTESTED = 19
    CLEARED = 20
    EXPIRED = 21
    ADOPTED = 22
    BAD_LINK = 23
    BAD_CPU = 24
    IN_OPEN = 25
    IN_VMAC = 26
    IN_VIP = 27
    IN_ARP = 28
    IN_ND = 29
    OUT_OPEN = 30
    OUT_VMAC = 31
    OUT_VIP = 32
    OUT_ARP = 33
    OUT_ND = 34
    OUT_LEAK = 35
    OUT_REWRITTEN = 36

    @property
    def label(self) -> str:
        """The label of this reason in metrics and in `twinbeat stat`."""
        return self.name.lower()


HEARTBEAT_REASONS: Final = tuple(reason for reason in Reason if reason < Reason.BAD_LINK)
"""Those that a heartbeat on a link can meet; the rest is of no link, or the gate's."""
COUNTERS: Final = (LINKS + 1) * len(Reason)
"""Words of map "counters": those of no link first, then those of each link."""


class Frame(ctypes.BigEndianStructure):
    """struct tb_frame: the UDP payload of every heartbeat. `mac` is little-endian, hence bytes."""

    _fields_ = [
        ("magic", ctypes.c_uint32),
        ("version", ctypes.c_uint8),
        ("type", ctypes.c_uint8),
        ("node", ctypes.c_uint8),
        ("link", ctypes.c_uint8),
        ("pair", ctypes.c_uint32),
        ("key_id", ctypes.c_uint8),
        ("keys", ctypes.c_uint8 * KEYS),
        ("layouts", ctypes.c_uint8),
        ("counter", ctypes.c_uint64),
        ("echo", ctypes.c_uint64),
        ("term", ctypes.c_uint64),
        ("claim", ctypes.c_uint64),
        ("fence_below", ctypes.c_uint64),
        ("highest", ctypes.c_uint64),
        ("sent_ns", ctypes.c_uint64),
        ("echo_ns", ctypes.c_uint64),
        ("lease_us", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("role", ctypes.c_uint8),
        ("admin", ctypes.c_uint8),
        ("health", ctypes.c_uint16),
        ("dead_us", ctypes.c_uint32),
        ("lease_full_us", ctypes.c_uint32),
        ("hello_us", ctypes.c_uint32),
        ("verify_us", ctypes.c_uint32),
        ("hold_us", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("digest", ctypes.c_uint32),
        ("mac", ctypes.c_uint8 * 8),
    ]


class Gate(ctypes.LittleEndianStructure):
    """struct tb_gate."""

    _fields_ = [
        ("term", ctypes.c_uint64),
        ("open_until", ctypes.c_uint64),
        ("fence_below", ctypes.c_uint64),
        ("contested", ctypes.c_uint64),
        ("counter", ctypes.c_uint64),
        ("contested_ns", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 2),
    ]

    def is_open(self, now_ns: int) -> bool:
        """R1, for people who look; the programs and the engine evaluate it themselves."""
        return bool(
            self.term != 0
            and self.term >= self.fence_below
            and now_ns < self.open_until
            and self.contested != self.term
        )


class Self(ctypes.LittleEndianStructure):
    """struct tb_self."""

    _fields_ = [
        ("probe_from", ctypes.c_uint64),
        ("fresh_from", ctypes.c_uint64),
        ("highest", ctypes.c_uint64),
        ("claim", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("role", ctypes.c_uint8),
        ("admin", ctypes.c_uint8),
        ("health", ctypes.c_uint16),
        ("dead_us", ctypes.c_uint32),
        ("lease_full_us", ctypes.c_uint32),
        ("hello_us", ctypes.c_uint32),
        ("verify_us", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("digest", ctypes.c_uint32),
    ]


class Key(ctypes.LittleEndianStructure):
    """struct tb_key."""

    _fields_ = [
        ("k0", ctypes.c_uint64),
        ("k1", ctypes.c_uint64),
        ("id", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class Config(ctypes.LittleEndianStructure):
    """struct tb_config."""

    _fields_ = [
        ("pair", ctypes.c_uint32),
        ("node", ctypes.c_uint8),
        ("send_key", ctypes.c_uint8),
        ("port", ctypes.c_uint16),
        ("reserved", ctypes.c_uint32 * 2),
        ("keys", Key * KEYS),
    ]


class Proposal(ctypes.LittleEndianStructure):
    """struct tb_proposal."""

    _fields_ = [
        ("number", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("hello_us", ctypes.c_uint32),
        ("dead_us", ctypes.c_uint32),
        ("verify_us", ctypes.c_uint32),
        ("stall_us", ctypes.c_uint32),
        ("lease_us", ctypes.c_uint32),
        ("every", ctypes.c_uint32),
    ]


class Peer(ctypes.LittleEndianStructure):
    """struct tb_peer."""

    _fields_ = [
        ("seq", ctypes.c_uint64),
        ("epoch", ctypes.c_uint64),
        ("base", ctypes.c_uint64),
        ("known", ctypes.c_uint64),
        ("taught", ctypes.c_uint64),
        ("counter", ctypes.c_uint64),
        ("arrived_ns", ctypes.c_uint64),
        ("echo", ctypes.c_uint64),
        ("term", ctypes.c_uint64),
        ("claim", ctypes.c_uint64),
        ("fence_below", ctypes.c_uint64),
        ("highest", ctypes.c_uint64),
        ("sent_ns", ctypes.c_uint64),
        ("echo_ns", ctypes.c_uint64),
        ("lease_us", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("type", ctypes.c_uint8),
        ("link", ctypes.c_uint8),
        ("role", ctypes.c_uint8),
        ("admin", ctypes.c_uint8),
        ("key_id", ctypes.c_uint8),
        ("layouts", ctypes.c_uint8),
        ("health", ctypes.c_uint16),
        ("dead_us", ctypes.c_uint32),
        ("lease_full_us", ctypes.c_uint32),
        ("hello_us", ctypes.c_uint32),
        ("verify_us", ctypes.c_uint32),
        ("hold_us", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("digest", ctypes.c_uint32),
        ("keys", ctypes.c_uint8 * KEYS),
        ("two_way", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
        ("proposal", Proposal),
    ]


class Link(ctypes.LittleEndianStructure):
    """struct tb_link."""

    _fields_ = [
        ("hello_ns", ctypes.c_uint64),
        ("answer_ns", ctypes.c_uint64),
        ("hello_counter", ctypes.c_uint64),
        ("answer_counter", ctypes.c_uint64),
        ("answer_echo", ctypes.c_uint64),
        ("stranger_ns", ctypes.c_uint64),
        ("mismatch_ns", ctypes.c_uint64),
        ("foreign_ns", ctypes.c_uint64),
        ("challenge_ns", ctypes.c_uint64),
        ("accepted", ctypes.c_uint64),
        ("round_trip_ns", ctypes.c_uint64),
        ("cpu", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("stranger_open_ns", ctypes.c_uint64),
        ("stranger_counter", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 2),
    ]


class Control(ctypes.LittleEndianStructure):
    """struct tb_control."""

    _fields_ = [("seen_ns", ctypes.c_uint64), ("sent_ns", ctypes.c_uint64)]


class PortKey(ctypes.LittleEndianStructure):
    """struct tb_port_key."""

    _fields_ = [("ifindex", ctypes.c_uint32), ("vlan", ctypes.c_uint32)]


class Port(ctypes.LittleEndianStructure):
    """struct tb_port; addresses are in network order, hence bytes."""

    _fields_ = [
        ("link", ctypes.c_uint8),
        ("ttl_min", ctypes.c_uint8),
        ("control", ctypes.c_uint8),
        ("family", ctypes.c_uint8),
        ("local", ctypes.c_uint8 * 16),
        ("peer", ctypes.c_uint8 * 16),
    ]


class Vip(ctypes.LittleEndianStructure):
    """struct tb_vip."""

    _fields_ = [
        ("vrid", ctypes.c_uint8),
        ("vmac", ctypes.c_uint8),
        ("reserved", ctypes.c_uint16),
    ]


STRUCTURES: Final[dict[str, type[ctypes.Structure]]] = {
    "tb_frame": Frame,
    "tb_gate": Gate,
    "tb_self": Self,
    "tb_key": Key,
    "tb_config": Config,
    "tb_proposal": Proposal,
    "tb_peer": Peer,
    "tb_link": Link,
    "tb_control": Control,
    "tb_port_key": PortKey,
    "tb_port": Port,
    "tb_vip": Vip,
}
"""Every structure of the header, by its name there."""


def fingerprint() -> bytes:
    """32 bytes that change whenever a layout, a limit or the numbering of the reasons does."""
    lines = [
        f"{name}.{field[0]} {getattr(kind, field[0]).offset} {getattr(kind, field[0]).size}"
        for name, kind in STRUCTURES.items()
        for field in kind._fields_
    ]
    lines += [f"{reason.name} {reason.value}" for reason in Reason]
    lines += [f"{VERSION} {LINKS} {CPUS} {KEYS} {VIPS} {BUCKETS} {COUNTERS}"]
    lines += [f"{SIEVE_BYTES} {SIEVE_FACTOR}"]
    return hashlib.sha256("\n".join(lines).encode()).digest()
