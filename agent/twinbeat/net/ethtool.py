# SPDX-License-Identifier: Apache-2.0
"""The few facts about a network card that only the old ethtool calls give; changes nothing."""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from typing import Final

_SIOCETHTOOL: Final = 0x8946
_GET_FLAGS: Final = 0x25
_GET_DRIVER: Final = 0x03
_GET_COALESCE: Final = 0x0E
_GET_FLOW_HASH: Final = 0x29
_FLAG_RX_VLAN: Final = 1 << 8
_UDP_V4_FLOW: Final = 2
_UDP_V6_FLOW: Final = 6
_HASH_PORTS: Final = 1 << 6 | 1 << 7
"""RXH_L4_B_0_1 and RXH_L4_B_2_3: source and destination port."""

_UNKNOWN: Final = frozenset({errno.EOPNOTSUPP, errno.ENODEV, errno.EPERM, errno.EINVAL})


def strips_vlan_tags(name: str) -> bool | None:
    """Whether the card takes VLAN tags off received frames, so that XDP can't see them."""
    answer = _ask(name, struct.pack("=II", _GET_FLAGS, 0))
    return None if answer is None else bool(struct.unpack_from("=I", answer, 4)[0] & _FLAG_RX_VLAN)


def driver(name: str) -> str:
    """The driver's name, empty if it has none to tell."""
    answer = _ask(name, struct.pack("=I", _GET_DRIVER) + bytes(192))
    return "" if answer is None else answer[4:36].split(b"\0", 1)[0].decode("ascii", "replace")


def coalescing(name: str) -> tuple[int, bool] | None:
    """How long received frames are held back (µs), and whether the card changes that by itself;
    None where the driver has no such thing.
    """
    # struct ethtool_coalesce: 23 words; the second is rx_coalesce_usecs, the eleventh
    # use_adaptive_rx_coalesce (linux/ethtool.h).
    answer = _ask(name, struct.pack("=I", _GET_COALESCE) + bytes(88))
    if answer is None:
        return None
    words = struct.unpack_from("=23I", answer)
    return words[1], bool(words[10])


def hashes_udp_ports(name: str, version: int) -> bool | None:
    """Whether UDP ports help to choose the receive queue; None if the card doesn't say."""
    flow = _UDP_V4_FLOW if version == 4 else _UDP_V6_FLOW
    answer = _ask(name, struct.pack("=IIQ", _GET_FLOW_HASH, flow, 0) + bytes(176))
    if answer is None:
        return None
    return bool(struct.unpack_from("=Q", answer, 8)[0] & _HASH_PORTS == _HASH_PORTS)


def _ask(name: str, request: bytes) -> bytes | None:
    buffer = array.array("B", request)
    address, _ = buffer.buffer_info()
    # struct ifreq: the name and a pointer.
    ifreq = struct.pack("16sP16x", name.encode()[:15], address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            fcntl.ioctl(sock.fileno(), _SIOCETHTOOL, ifreq)
        except OSError as error:
            if error.errno in _UNKNOWN:
                return None
            raise
    return buffer.tobytes()
