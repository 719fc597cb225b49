# SPDX-License-Identifier: Apache-2.0
"""What the kernel says about interfaces, and the mark on those that are ours.

An interface made by the agent carries an alias (`ip link show` prints it) that names the pair.
After a crash the mark tells a leftover, which is reused or removed, from somebody else's interface
of the same name, which is refused by name and never touched.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from twinbeat.net import netlink
from twinbeat.net.errors import NetError
from twinbeat.net.netlink import Socket, attributes

IFINFO: Final = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, change."""
IFADDR: Final = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, index."""

IFF_UP: Final = 1 << 0
IFF_RUNNING: Final = 1 << 6
IFF_LOWER_UP: Final = 1 << 16

IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_LINK: Final = 5
IFLA_MASTER: Final = 10
IFLA_LINKINFO: Final = 18
IFLA_IFALIAS: Final = 20
IFLA_XDP: Final = 43
IFLA_INFO_KIND: Final = 1
IFLA_XDP_ATTACHED: Final = 2
IFLA_XDP_PROG_ID: Final = 4

IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_FLAGS: Final = 8
IFA_PROTO: Final = 11

ADDRESS_PROTO: Final = 190
"""IFA_PROTO and route protocol of everything of ours: `ip address show` and `ip route` print it."""

MARK: Final = "twinbeat pair "
"""What the alias of each interface of ours begins with."""

XDP_MODES: Final = {0: "none", 1: "native", 2: "generic", 3: "offload", 4: "multi"}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One interface at one moment."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    """Set up by the operator (IFF_UP)."""
    carrier: bool
    """The kernel sees a carrier (IFF_LOWER_UP); with `up` the interface can send."""
    kind: str
    """macvlan, vlan, veth …; empty for hardware."""
    parent: int
    """Index of the interface below, 0 = none."""
    alias: str
    xdp_mode: str
    """One of XDP_MODES' values."""
    xdp_program: int
    """Id of the attached XDP program, 0 = none."""
    master: int = 0
    """Index of the bridge or bond that it is a port of, 0 = none."""


def mark(pair: int) -> str:
    """The alias of interfaces that belong to a pair."""
    return f"{MARK}{pair}"


def parse_link(payload: bytes | memoryview) -> Interface:
    """An Interface from the body of an RTM_NEWLINK."""
    _family, _type, index, flags, _change = IFINFO.unpack_from(payload)
    found = attributes(payload, IFINFO.size)
    info = attributes(found.get(IFLA_LINKINFO, b""), 0)
    xdp = attributes(found.get(IFLA_XDP, b""), 0)
    return Interface(
        index=index,
        name=_text(found.get(IFLA_IFNAME, b"")),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(found.get(IFLA_MTU, b"")),
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
        kind=_text(info.get(IFLA_INFO_KIND, b"")),
        parent=_number(found.get(IFLA_LINK, b"")),
        alias=_text(found.get(IFLA_IFALIAS, b"")),
        xdp_mode=XDP_MODES.get(_number(xdp.get(IFLA_XDP_ATTACHED, b"")), "unknown"),
        xdp_program=_number(xdp.get(IFLA_XDP_PROG_ID, b"")),
        master=_number(found.get(IFLA_MASTER, b"")),
    )


def interfaces() -> dict[str, Interface]:
    """All interfaces of this namespace by name."""
    with Socket() as sock:
        found = sock.dump(netlink.RTM_GETLINK, IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
    links = [parse_link(body) for kind, body in found if kind == netlink.RTM_NEWLINK]
    return {link.name: link for link in links}


def interface(name: str) -> Interface:
    """The interface of that name.

    Raises NetError if there is none.
    """
    try:
        return interfaces()[name]
    except KeyError:
        raise NetError(
            f"finding interface {name}: it does not exist",
            fix="`ip link` lists those that do",
        ) from None


def lowest_first(names: Collection[str]) -> list[str]:
    """The same names, each after the interface that it lies upon; those that aren't there last.

    Kernels before 6.12 refuse a program on an interface if one above it has one already.
    """
    if len(names) < 2:
        return list(names)
    now = interfaces()
    by_index = {one.index: one for one in now.values()}

    def depth(name: str) -> int:
        one, steps = now.get(name), 0
        while one is not None and one.parent in by_index and steps < len(by_index):
            one, steps = by_index[one.parent], steps + 1
        return steps

    return sorted(names, key=lambda name: (name not in now, depth(name), name))


def receiving(index: int) -> list[int]:
    """The interfaces on which XDP sees what this one receives: itself, and the ports of a bond.

    A program attached to a bond runs natively on each of its ports, and sees their index.
    """
    now = interfaces().values()
    bond = any(one.index == index and one.kind == "bond" for one in now)
    return [index, *(one.index for one in now if bond and one.master == index)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """An address on an interface."""

    interface: int
    address: Address
    prefix: int
    proto: int
    """IFA_PROTO: ADDRESS_PROTO for those we put there, 0 where the kernel knows no such thing."""


def parse_address(payload: bytes | memoryview) -> Assigned | None:
    """From the body of an RTM_NEWADDR or RTM_DELADDR; None for a family that isn't IP."""
    family, prefix, _flags, _scope, index = IFADDR.unpack_from(payload)
    found = attributes(payload, IFADDR.size)
    raw = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
    if raw is None or family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    address: Address = (
        ipaddress.IPv4Address(raw) if family == socket.AF_INET else ipaddress.IPv6Address(raw)
    )
    proto = found.get(IFA_PROTO, b"\0")[0]
    return Assigned(interface=index, address=address, prefix=prefix, proto=proto)


def addresses(interface: int = 0) -> list[Assigned]:
    """Every IP address of this namespace, or those of one interface by its index."""
    with Socket() as sock:
        found = sock.dump(netlink.RTM_GETADDR, IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, interface))
    parsed = [parse_address(body) for kind, body in found if kind == netlink.RTM_NEWADDR]
    return [one for one in parsed if one is not None]


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, sys.byteorder) if len(raw) in {1, 2, 4, 8} else 0
