# SPDX-License-Identifier: Apache-2.0
"""Keeps the neighbours warm that a new primary will want to talk to at once.

A node that takes over without knowing the MACs of clients, servers and routers asks for each, and
its first answers wait for it: a third of a millisecond, as much as it took to find the peer dead.
So both nodes keep an entry for every neighbour that matters on the ports with virtual addresses,
and have the kernel refresh it (NTF_EXT_MANAGED, Linux 5.16; older kernels are reminded).

Who matters: the next hops of routes, whoever is in the neighbour table already, and whoever is
asked for by ARP on these ports, for the primary's own questions are broadcasts that the secondary
hears.  What was asked before the secondary was there is asked again for its sake (`hint`).  IPv6
asks by multicast that a secondary doesn't hear, so there only routes and its own table count.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import struct
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from twinbeat.net import netlink
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Address, Assigned, Interface, addresses
from twinbeat.net.netlink import Message, Socket, attribute, attributes

log = logging.getLogger("twinbeat.net")

KEPT_MAX: Final = 512
"""Neighbours of one port; whoever was wanted longest ago goes first."""
HINTS_MAX: Final = 128
READ_MAX: Final = 64
PAUSE_S: Final = 0.05
"""After READ_MAX frames at once the listener looks away so long: a storm of ARP costs little."""
REMIND_S: Final = 20.0

RTM_NEWNEIGH: Final = 28
RTM_DELNEIGH: Final = 29
RTM_GETNEIGH: Final = 30
RTM_GETROUTE: Final = 26
NDA_DST: Final = 1
NDA_LLADDR: Final = 2
NDA_FLAGS_EXT: Final = 15
NTF_USE: Final = 1 << 0
NTF_EXT_MANAGED: Final = 1 << 0
NUD_FAILED: Final = 0x20
NUD_NOARP: Final = 0x40
NUD_PERMANENT: Final = 0x80
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5

_NDMSG: Final = struct.Struct("=BxxxiHBB")
"""struct ndmsg: family, interface, state, flags, type."""
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
"""Hardware, protocol, lengths, operation, sender's and target's MAC and address."""
_ETHERNET: Final = struct.Struct("!6s6sH")
_ETH_P_ARP: Final = 0x0806
_REQUEST: Final = 1
_OUTGOING: Final = 4
_BROADCAST: Final = b"\xff" * 6

_UNMANAGEABLE: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP})


@dataclass(slots=True)
class _Port:
    interface: Interface
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]
    own: ipaddress.IPv4Address | None
    kept: OrderedDict[Address, None] = field(default_factory=OrderedDict)


class Warmth:
    """The neighbours of the ports that have virtual addresses."""

    def __init__(self, *, never: Iterable[Address]) -> None:
        self._never = frozenset(never)
        """Virtual addresses and the pinned addresses of the peer."""
        self._ports: dict[int, _Port] = {}
        self._socket: socket.socket | None = None
        self._managed = True
        self._timer: asyncio.TimerHandle | None = None

    # -- life ------------------------------------------------------------------------------------

    def start(self, ports: Iterable[Interface]) -> None:
        """Take in what is known, and listen. Raises NetError."""
        assigned = addresses()
        for port in ports:
            self._ports[port.index] = _Port(port, *_networks(port, assigned))
        self._take_in()
        self._open()
        self._remind()

    def stop(self) -> None:
        """Listen no more, and let the kernel forget what it was told to keep."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        gone = frozenset({errno.ENOENT, errno.ENODEV})
        forget = [
            Message(RTM_DELNEIGH, 0, _entry(index, address, 0))
            for index, port in self._ports.items()
            for address in port.kept
        ]
        with Socket() as sock:
            sock.batch(forget, tolerate=gone)
        self._ports.clear()

    def kept(self) -> list[Address]:
        """Whom this node keeps warm."""
        return [address for port in self._ports.values() for address in port.kept]

    def hint(self) -> int:
        """Ask for the newest neighbours by broadcast, so that a peer that has come learns of them.

        Returns how many were asked for.
        """
        self._take_in()
        asked = 0
        for port in self._ports.values():
            if port.own is None:
                continue
            mac = bytes.fromhex(port.interface.mac.replace(":", ""))
            for address in list(reversed(port.kept))[:HINTS_MAX]:
                if isinstance(address, ipaddress.IPv4Address):
                    asked += self._ask(port, mac, port.own, address)
        return asked

    # -- listening -------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_PACKET,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                socket.htons(_ETH_P_ARP),
            )
        except OSError as error:
            raise NetError("listening to ARP", code=error.errno or 0) from error
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        assert self._socket is not None
        for _ in range(READ_MAX):
            try:
                frame, (_name, _protocol, kind, *_rest) = self._socket.recvfrom(64)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("listening to ARP: %s", error)
                return
            if kind != _OUTGOING:
                self._heard(frame, _name)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.call_later(PAUSE_S, self._listen_again)

    def _listen_again(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def _heard(self, frame: bytes, name: str) -> None:
        """Both the one who asks and the one asked for may be spoken to soon."""
        if len(frame) < _ETHERNET.size + _ARP.size:
            return
        hardware, protocol, mac_length, length, operation, *rest = _ARP.unpack_from(
            frame, _ETHERNET.size
        )
        if (hardware, protocol, mac_length, length, operation) != (1, 0x0800, 6, 4, _REQUEST):
            return
        index = next(
            (index for index, port in self._ports.items() if port.interface.name == name), 0
        )
        for raw in (rest[1], rest[3]):
            if index and self._want(index, ipaddress.IPv4Address(raw)):
                self._keep(index, [ipaddress.IPv4Address(raw)])

    # -- keeping ---------------------------------------------------------------------------------

    def _want(self, index: int, address: Address) -> bool:
        """Note a neighbour; True if it is a new one."""
        port = self._ports.get(index)
        if port is None or address in self._never or address == port.own:
            return False
        if not any(address in network for network in port.networks):
            return False
        new = address not in port.kept
        port.kept[address] = None
        port.kept.move_to_end(address)
        if len(port.kept) > KEPT_MAX:
            old, _ = port.kept.popitem(last=False)
            with Socket() as sock:
                tolerate = frozenset({errno.ENOENT, errno.ENODEV})
                sock.batch([Message(RTM_DELNEIGH, 0, _entry(index, old, 0))], tolerate=tolerate)
        return new

    def _keep(self, index: int, wanted: list[Address]) -> None:
        create = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
        with Socket() as sock:
            if self._managed:
                flags = attribute(NDA_FLAGS_EXT, struct.pack("=I", NTF_EXT_MANAGED))
                batch = [
                    Message(RTM_NEWNEIGH, create, _entry(index, one, 0) + flags) for one in wanted
                ]
                refused = sock.batch(batch, tolerate=frozenset({errno.ENODEV}))
                self._managed = not any(code in _UNMANAGEABLE for _, code in refused)
            if not self._managed:
                batch = [
                    Message(RTM_NEWNEIGH, create, _entry(index, one, NTF_USE)) for one in wanted
                ]
                sock.batch(batch, tolerate=frozenset({errno.ENODEV}))

    def _take_in(self) -> None:
        """Whom the kernel has found or routes through."""
        for index, address in [*_table(), *_next_hops()]:
            self._want(index, address)

    def _remind(self) -> None:
        """Keep all; forget those that nobody answers for."""
        self._take_in()
        failed = _failed()
        for index, port in self._ports.items():
            for address in [one for one in port.kept if (index, one) in failed]:
                del port.kept[address]
            self._keep(index, list(port.kept))
        with Socket() as sock:
            tolerate = frozenset({errno.ENOENT, errno.ENODEV})
            sock.batch(
                [
                    Message(RTM_DELNEIGH, 0, _entry(index, address, 0))
                    for index, address in failed
                    if index in self._ports
                ],
                tolerate=tolerate,
            )
        self._timer = asyncio.get_running_loop().call_later(REMIND_S, self._remind)

    def _ask(
        self, port: _Port, mac: bytes, own: ipaddress.IPv4Address, target: ipaddress.IPv4Address
    ) -> int:
        assert self._socket is not None
        frame = _ETHERNET.pack(_BROADCAST, mac, _ETH_P_ARP) + _ARP.pack(
            1, 0x0800, 6, 4, _REQUEST, mac, own.packed, bytes(6), target.packed
        )
        try:
            self._socket.sendto(frame, (port.interface.name, _ETH_P_ARP))
        except OSError as error:
            log.debug("asking for %s: %s", target, error)
            return 0
        return 1


# -- what the kernel knows ------------------------------------------------------------------------


def _networks(
    port: Interface, assigned: list[Assigned]
) -> tuple[list[ipaddress.IPv4Network | ipaddress.IPv6Network], ipaddress.IPv4Address | None]:
    """The networks a port is in by addresses of its own, and the first of these."""
    networks = []
    own = None
    for one in assigned:
        if one.interface != port.index or one.prefix == one.address.max_prefixlen:
            continue
        networks.append(ipaddress.ip_network((one.address, one.prefix), strict=False))
        if own is None and isinstance(one.address, ipaddress.IPv4Address):
            own = one.address
    return networks, own


def _entries() -> list[tuple[int, int, Address, int]]:
    """(interface, state, address, length of the MAC) of every neighbour."""
    with Socket() as sock:
        dump = sock.dump(RTM_GETNEIGH, _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
    found: list[tuple[int, int, Address, int]] = []
    for kind, body in dump:
        if kind != RTM_NEWNEIGH:
            continue
        family, index, state, _flags, _type = _NDMSG.unpack_from(body)
        known = attributes(body, _NDMSG.size)
        raw = known.get(NDA_DST, b"")
        if family in {socket.AF_INET, socket.AF_INET6} and len(raw) in {4, 16}:
            mac = known.get(NDA_LLADDR, b"")
            found.append((index, state, ipaddress.ip_address(raw), len(mac)))
    return found


def _table() -> list[tuple[int, Address]]:
    """Neighbours that have a MAC by the kernel's own finding."""
    skip = NUD_FAILED | NUD_NOARP | NUD_PERMANENT
    return [
        (index, address) for index, state, address, mac in _entries() if mac and not state & skip
    ]


def _failed() -> set[tuple[int, Address]]:
    return {(index, address) for index, state, address, _ in _entries() if state & NUD_FAILED}


def _next_hops() -> list[tuple[int, Address]]:
    """Gateways of the routes, by the interface they lie behind."""
    found: list[tuple[int, Address]] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        with Socket() as sock:
            dump = sock.dump(RTM_GETROUTE, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        for _kind, body in dump:
            known = attributes(body, _RTMSG.size)
            index = int.from_bytes(known.get(RTA_OIF, b""), "little")
            gateway = known.get(RTA_GATEWAY, b"")
            if index and len(gateway) in {4, 16}:
                found.append((index, ipaddress.ip_address(gateway)))
    return found


def _entry(index: int, address: Address, flags: int) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return _NDMSG.pack(family, index, 0, flags, 0) + attribute(NDA_DST, address.packed)
