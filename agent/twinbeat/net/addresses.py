# SPDX-License-Identifier: Apache-2.0
"""VIPs on an interface, on both nodes alike: in batches, with no route, and never announced.

`noprefixroute` with /32 and /128 keeps the routing table as it is; `nodad` and a preferred lifetime
of zero make an IPv6 VIP usable at once and never the source of the node's own connections.  The
kernel's own gratuitous announcements (arp_notify) stay behind the gate like everything else.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from twinbeat.net import netlink
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import (
    ADDRESS_PROTO,
    IFA_ADDRESS,
    IFA_FLAGS,
    IFA_LOCAL,
    IFA_PROTO,
    IFADDR,
    Address,
    addresses,
)
from twinbeat.net.netlink import Message, Socket, attribute

IFA_CACHEINFO: Final = 6
IFA_F_NODAD: Final = 0x02
IFA_F_NOPREFIXROUTE: Final = 0x200
_FOREVER: Final = 0xFFFFFFFF
_CACHEINFO: Final = struct.Struct("=IIII")
"""struct ifa_cacheinfo: preferred, valid, created, updated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What `assign` did."""

    added: int
    removed: int


def assign(index: int, wanted: Collection[Address], *, name: str, own: bool) -> Change:
    """Make the VIPs of an interface exactly `wanted`.

    With `own` the interface is the agent's and every address on it is a VIP; without, only
    addresses that carry our mark are removed.  Blocking: tens of milliseconds for thousands of
    addresses, so callers in the loop use a thread.

    Raises NetError naming the first address refused; those before it stay, and a second call
    finishes the work.
    """
    present = {
        one.address: one
        for one in addresses(index)
        if one.interface == index and not one.address.is_link_local
    }
    missing = [address for address in wanted if address not in present]
    keep = set(wanted)
    surplus = [
        address
        for address, one in present.items()
        if address not in keep and (own or one.proto == ADDRESS_PROTO)
    ]
    return change(index, missing, surplus, name=name)


def change(
    index: int, missing: Collection[Address], surplus: Collection[Address], *, name: str
) -> Change:
    """Add some VIPs to an interface and remove others from it, without a look at what is there.

    Blocking, and raises, like `assign`.
    """
    added, removed = list(missing), list(surplus)
    with Socket() as sock:
        _run(sock, [adding(index, address) for address in added], added, "adding {} to " + name)
        _run(
            sock,
            [_remove(index, address) for address in removed],
            removed,
            "removing {} from " + name,
        )
    return Change(added=len(added), removed=len(removed))


def by_interface() -> dict[int, set[Address]]:
    """Every address of this namespace, by the index of its interface. Blocking, like `assign`."""
    found: dict[int, set[Address]] = {}
    for one in addresses():
        found.setdefault(one.interface, set()).add(one.address)
    return found


def solicited_groups(vips: Iterable[Address]) -> set[ipaddress.IPv6Address]:
    """The solicited-node multicast groups of the IPv6 VIPs (RFC 4291, 2.7.1)."""
    base = int(ipaddress.IPv6Address("ff02::1:ff00:0"))
    return {
        ipaddress.IPv6Address(base | (int(vip) & 0xFFFFFF))
        for vip in vips
        if isinstance(vip, ipaddress.IPv6Address)
    }


def _run(sock: Socket, batch: list[Message], of: list[Address], what: str) -> None:
    # Somebody may add or remove the same address between our look and our message.
    tolerate = frozenset({errno.EEXIST, errno.EADDRNOTAVAIL})
    for index, code in sock.batch(batch, tolerate=tolerate):
        raise NetError(what.format(of[index]), code=code)


def adding(index: int, address: Address) -> Message:
    """What puts an address on an interface, as one of ours."""
    body = _common(index, address)
    body += attribute(IFA_PROTO, bytes([ADDRESS_PROTO]))
    flags = IFA_F_NOPREFIXROUTE
    if isinstance(address, ipaddress.IPv6Address):
        flags |= IFA_F_NODAD
        body += attribute(IFA_CACHEINFO, _CACHEINFO.pack(0, _FOREVER, 0, 0))
    body += attribute(IFA_FLAGS, struct.pack("=I", flags))
    return Message(netlink.RTM_NEWADDR, netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE, body)


def _remove(index: int, address: Address) -> Message:
    return Message(netlink.RTM_DELADDR, 0, _common(index, address))


def _common(index: int, address: Address) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    raw = address.packed
    return (
        IFADDR.pack(family, len(raw) * 8, 0, 0, index)
        + attribute(IFA_LOCAL, raw)
        + attribute(IFA_ADDRESS, raw)
    )
