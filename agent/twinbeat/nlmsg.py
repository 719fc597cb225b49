# SPDX-License-Identifier: Apache-2.0
"""Netlink's language as bytes: messages and attributes, whichever family they are of.

A message is a `struct.pack`, many of them go in one datagram, and of an answer only what is asked
for is looked at: a library that decodes all of it costs half a millisecond for each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400

SO_RCVBUFFORCE: Final = 33
SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_EXT_ACK: Final = 11

HEADER: Final = struct.Struct("=IHHII")
ATTRIBUTE: Final = struct.Struct("=HH")
_NESTED_MASK: Final = 0x3FFF

BATCH_NS: Final = 500_000
"""How long a datagram may take the kernel, which carries it out in one go: where it isn't built to
be preempted, the engine waits for the end of it. The ten thousandth address of an interface alone
takes two or three tenths of a millisecond."""


def align(length: int) -> int:
    return (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, kind) + value + bytes(align(length) - length)


def attributes(payload: bytes | memoryview, offset: int) -> dict[int, bytes]:
    """The attributes from `offset` on; the last of a kind wins, a truncated one ends the list."""
    found: dict[int, bytes] = {}
    end = len(payload)
    while offset + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(payload, offset)
        if length < ATTRIBUTE.size or offset + length > end:
            break
        found[kind & _NESTED_MASK] = bytes(payload[offset + ATTRIBUTE.size : offset + length])
        offset += align(length)
    return found


def messages(data: bytes | memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The messages of one datagram as (kind, sequence, payload)."""
    view = memoryview(data)
    offset = 0
    while offset + HEADER.size <= len(view):
        length, kind, _flags, sequence, _pid = HEADER.unpack_from(view, offset)
        if length < HEADER.size or offset + length > len(view):
            return
        yield kind, sequence, view[offset + HEADER.size : offset + length]
        offset += align(length)


def next_size(size: int, took_ns: int, most: int) -> int:
    """How many messages go into the next datagram, after one of ``size`` that took so long."""
    if took_ns > BATCH_NS:
        return max(1, size // 2)
    if took_ns < BATCH_NS // 4:
        return min(2 * size, most)
    return size


def error_code(body: bytes | memoryview) -> int:
    """The errno in the body of NLMSG_ERROR; 0 = it is an acknowledgement."""
    (code,) = struct.unpack_from("=i", body)
    return -int(code)
