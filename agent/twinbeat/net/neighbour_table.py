# SPDX-License-Identifier: Apache-2.0
"""The kernel's neighbour table and next hops, read and refreshed in bulk.

No MAC is ever written here: the kernel is only reminded of an address (NTF_USE), and then asks and
verifies by itself, unicast where it has a MAC already, from the port's own address. What it learned
that way ages and is verified as ever, so nothing wrong can last and nothing is left behind.

All functions block on netlink for as long as the table is large; callers in the loop use a thread.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from twinbeat.net import netlink
from twinbeat.net.interfaces import IFADDR, Address, parse_address
from twinbeat.net.netlink import Message, Socket, attribute, attributes

RTM_GETROUTE: Final = 26
RTM_NEWNEIGH: Final = 28
RTM_GETNEIGH: Final = 30
NDA_DST: Final = 1
NDA_LLADDR: Final = 2
NDA_IFINDEX: Final = 8
NTF_USE: Final = 1 << 0
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5

NUD_FAILED: Final = 0x20
_NUD_USABLE: Final = 0x02 | 0x04 | 0x08 | 0x10
"""Reachable, stale, delay, probe: frames go out at once. Pinned entries aren't ours to refresh."""
_NUD_OTHER: Final = 0x40 | 0x80
"""No ARP needed, permanent: nothing to keep warm."""

ROUTES_MAX: Final = 4096
"""Routes of a port that are looked at for next hops: full tables repeat theirs early."""

_NDMSG: Final = struct.Struct("=BxxxiHBB")
"""struct ndmsg: family, interface, state, flags, type."""
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, lengths, tos, table, protocol, scope, type, flags."""
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a port's own addresses say."""

    networks: tuple[Network, ...]
    """The networks it is in; virtual addresses, alone in theirs, make none."""
    speaking: tuple[Address, ...]
    """Its own address in each of them."""
    own: frozenset[Address]
    """All of its addresses."""

    def has(self, address: Address) -> bool:
        """Whether this could be a neighbour: on the link, and not the node itself."""
        return address not in self.own and any(address in network for network in self.networks)


def place(index: int) -> Place:
    """Where the port is. Raises NetError."""
    networks: list[Network] = []
    speaking: list[Address] = []
    own: set[Address] = set()
    with Socket() as sock:
        for family in _FAMILIES:
            request = IFADDR.pack(family, 0, 0, 0, index)
            for kind, body in sock.dump(netlink.RTM_GETADDR, request):
                one = parse_address(body) if kind == netlink.RTM_NEWADDR else None
                if one is None or one.interface != index:
                    continue
                own.add(one.address)
                if one.prefix < one.address.max_prefixlen:
                    networks.append(ipaddress.ip_network((one.address, one.prefix), strict=False))
                    speaking.append(one.address)
    return Place(networks=tuple(networks), speaking=tuple(speaking), own=frozenset(own))


def known(index: int) -> dict[Address, bool | None]:
    """The port's neighbours: True = has a MAC, False = nobody answered, None = being asked for.

    Raises NetError.
    """
    found: dict[Address, bool | None] = {}
    with Socket() as sock:
        for family in _FAMILIES:
            request = _NDMSG.pack(family, 0, 0, 0, 0)
            request += attribute(NDA_IFINDEX, struct.pack("=I", index))
            for kind, body in sock.dump(RTM_GETNEIGH, request):
                if kind != RTM_NEWNEIGH:
                    continue
                _family, at, state, _flags, _type = _NDMSG.unpack_from(body)
                values = attributes(body, _NDMSG.size)
                raw = values.get(NDA_DST, b"")
                if at != index or state & _NUD_OTHER or len(raw) not in {4, 16}:
                    continue
                if state & _NUD_USABLE and values.get(NDA_LLADDR):
                    found[ipaddress.ip_address(raw)] = True
                else:
                    found[ipaddress.ip_address(raw)] = False if state & NUD_FAILED else None
    return found


def next_hops(index: int) -> set[Address]:
    """Gateways of the routes out of the port. Raises NetError."""
    found: set[Address] = set()
    for family in _FAMILIES:
        request = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        request += attribute(RTA_OIF, struct.pack("=I", index))
        with Socket() as sock:
            for _kind, body in sock.dump(RTM_GETROUTE, request, at_most=ROUTES_MAX):
                values = attributes(body, _RTMSG.size)
                raw = values.get(RTA_GATEWAY, b"")
                at = int.from_bytes(values.get(RTA_OIF, b""), sys.byteorder)
                if at == index and len(raw) in {4, 16}:
                    found.add(ipaddress.ip_address(raw))
    return found


def remind(index: int, neighbours: Collection[Address]) -> int:
    """Have the kernel find or verify these; how many it refused. Raises NetError."""
    batch = [
        Message(RTM_NEWNEIGH, netlink.NLM_F_CREATE, _entry(index, address))
        for address in neighbours
    ]
    with Socket() as sock:
        return len(sock.batch(batch, tolerate=frozenset({errno.ENODEV})))


def _entry(index: int, address: Address) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return _NDMSG.pack(family, index, 0, NTF_USE, 0) + attribute(NDA_DST, address.packed)
