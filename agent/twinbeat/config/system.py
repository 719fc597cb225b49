# SPDX-License-Identifier: Apache-2.0
"""What the checks need to know of this machine: its interfaces and its addresses. Reads only.

A plain netlink dump with the standard library, so that checking a file costs no netlink library.
"""

import fcntl
import ipaddress
import os
import socket
import struct
from functools import lru_cache
from typing import Final, Protocol

from msgspec import Struct

OWN_INTERFACES: Final = ("tbv", "tbw", "tbctl")
"""Beginnings of the names of interfaces that the agent itself makes."""

_RTM_GETADDR: Final = 22
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_SIOCGIFHWADDR: Final = 0x8927
_ETHERNETS: Final = frozenset({1, 772})
"""ARPHRD_ETHER and ARPHRD_LOOPBACK, whose address is all zeros."""


IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")


@lru_cache(maxsize=1024)
def parse_address(text: str) -> IpAddress | None:
    """An address without prefix or zone, or None."""
    if "%" in text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


@lru_cache(maxsize=1024)
def useless(address: IpAddress) -> str:
    """Why nobody could be reached at it, or an empty string."""
    kinds = (
        (address.is_unspecified, "the unspecified address"),
        (address.is_loopback, "a loopback address"),
        (address.is_multicast, "a multicast address"),
        (address == _BROADCAST, "the broadcast address"),
    )
    return next((name for applies, name in kinds if applies), "")


class Address(Struct, frozen=True, kw_only=True):
    """One address that is assigned here."""

    interface: str
    address: str
    prefix: int


class Device(Struct, frozen=True, kw_only=True):
    """What sort of interface one is."""

    kind: str = ""
    """vlan, bridge, bond, macvlan …; empty for hardware and whatever doesn't say."""
    master: str = ""
    """The bridge or bond that it is a port of."""


class System(Protocol):
    """The machine that a configuration is checked against."""

    def interfaces(self) -> dict[str, str]:
        """Name and MAC address of every interface."""

    def device(self, name: str) -> Device:
        """What sort of interface this is; nothing is known of one that isn't there."""

    def addresses(self) -> list[Address]:
        """Every address assigned."""


class Host:
    """This machine, asked once for each thing: made anew for each configuration it is to check."""

    def __init__(self) -> None:
        self._names: list[tuple[int, str]] | None = None
        self._interfaces: dict[str, str] | None = None
        self._devices: dict[str, Device] = {}

    def interfaces(self) -> dict[str, str]:
        """Name and MAC address of every interface; no MAC is an empty string."""
        if self._interfaces is None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asked:
                self._interfaces = {name: _mac(name, asked) for _, name in self._named()}
        return self._interfaces

    def _named(self) -> list[tuple[int, str]]:
        if self._names is None:
            self._names = socket.if_nameindex()
        return self._names

    def device(self, name: str) -> Device:
        """From /sys: what sort of interface this is."""
        if name not in self._devices:
            self._devices[name] = self._look_at(name)
        return self._devices[name]

    def _look_at(self, name: str) -> Device:
        try:
            told = _read(f"/sys/class/net/{name}/uevent")
        except OSError:
            return Device()
        kinds = [line[8:] for line in told.splitlines() if line.startswith("DEVTYPE=")]
        try:
            master = os.path.basename(os.readlink(f"/sys/class/net/{name}/master"))
        except OSError:
            master = ""
        return Device(kind=kinds[0] if kinds else "", master=master)

    def addresses(self) -> list[Address]:
        """Every address assigned, or none where netlink can't be asked."""
        names: dict[int, str] = {}
        found = []
        try:
            for index, prefix, packed in _dump_addresses():
                if index not in names:
                    names[index] = _name(index)
                address = str(ipaddress.ip_address(packed))
                found.append(Address(interface=names[index], address=address, prefix=prefix))
        except OSError:
            return []
        return found


def _name(index: int) -> str:
    """Empty if it has gone. To list all names takes longer, and holds up all other threads."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def _mac(name: str, asked: socket.socket) -> str:
    """Of Ethernet and what looks like it; ``asked`` is any socket. To read it from /sys takes six
    times as long, and a change waits for it."""
    request = struct.pack("=16sH22x", name.encode(), 0)
    try:
        told = fcntl.ioctl(asked, _SIOCGIFHWADDR, request)
    except OSError:
        return ""
    return told[18:24].hex(":") if struct.unpack_from("=H", told, 16)[0] in _ETHERNETS else ""


def _read(path: str) -> str:
    """A file of a few lines, without what a stream costs: there are two for each interface."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode("ascii", "replace")
    finally:
        os.close(descriptor)


def _dump_addresses() -> list[tuple[int, int, bytes]]:
    """Interface index, prefix length and packed address of each address."""
    found = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(2)
        netlink.bind((0, 0))
        body = struct.pack("=BBBBi", socket.AF_UNSPEC, 0, 0, 0, 0)
        header = struct.pack("=IHHII", 16 + len(body), _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0)
        netlink.send(header + body)
        done = False
        while not done:
            data = netlink.recv(1 << 16)
            while len(data) >= 16:
                length, kind = struct.unpack_from("=IH", data)
                if kind in {_NLMSG_DONE, _NLMSG_ERROR} or length < 16:
                    done = True
                    break
                entry = _address(data[16:length])
                if entry is not None:
                    found.append(entry)
                data = data[(length + 3) & ~3 :]
    return found


def _address(message: bytes) -> tuple[int, int, bytes] | None:
    """One RTM_NEWADDR. IFA_LOCAL is the own address; of a tunnel IFA_ADDRESS is the far end."""
    _, prefix, _, _, index = struct.unpack_from("=BBBBi", message)
    attributes: dict[int, bytes] = {}
    rest = message[8:]
    while len(rest) >= 4:
        length, kind = struct.unpack_from("=HH", rest)
        if length < 4:
            break
        attributes[kind] = rest[4:length]
        rest = rest[(length + 3) & ~3 :]
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    return None if packed is None else (index, prefix, packed)
