# SPDX-License-Identifier: Apache-2.0
"""Hears who else uses the addresses and numbers of a port, and asks whether somebody does.

Three sorts of frames tell: an ARP reply or announcement, a neighbour advertisement, an
advertisement of VRRP. Each comes through a socket that gets nothing else, so other traffic costs
nothing: ARP through a filter on a socket for that protocol alone, the others through raw IP
sockets in the groups that routers speak to. A host that answers only when asked is found by
asking: an ARP probe (RFC 5227) or a solicitation as duplicate address detection sends it (RFC
4862), neither of which changes any host's table. The closed gate of the peer answers neither.

Whose addresses they are, and whether what was heard is a rival, is not known here.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Address, Interface

log = logging.getLogger("twinbeat.net")

READ_MAX: Final = 64
PAUSE_S: Final = 0.05
"""After READ_MAX frames at once a socket is left alone so long: a storm costs little."""

VRRP: Final = 112
VRRP_GROUP4: Final = ipaddress.IPv4Address("224.0.0.18")
VRRP_GROUP6: Final = ipaddress.IPv6Address("ff02::12")

_ETH_P_ARP: Final = 0x0806
_ETH_P_IPV6: Final = 0x86DD
_ETHERNET: Final = struct.Struct("!6s6sH")
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_ARP_HEAD: Final = (1, 0x0800, 6, 4)
_REQUEST: Final = 1
_OUTGOING: Final = 4
_BROADCAST: Final = b"\xff" * 6
_ND_SOLICITATION: Final = 135
_ND_ADVERTISEMENT: Final = 136
_ND: Final = struct.Struct("!BBHI16s")
"""Type, code, checksum, flags, target."""
_OPTION_TARGET_MAC: Final = 2
_SO_ATTACH_FILTER: Final = 26
_ICMP6_FILTER: Final = 1
_IPV6_RECVPKTINFO: Final = 49
_IP_PKTINFO: Final = 8
_WITHOUT_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENODEV})
"""What a kernel or an interface without IPv6 says."""

# Linux's classic BPF: an ARP packet passes if it is a reply (operation 2) or if sender and target
# address are the same (an announcement). Offsets are those of an Ethernet frame.
_ARP_FILTER: Final = (
    (0x28, 0, 0, 20),  # ldh [20]: operation
    (0x15, 4, 0, 2),  # jeq #2: pass
    (0x20, 0, 0, 28),  # ld [28]: sender's address
    (0x07, 0, 0, 0),  # tax
    (0x20, 0, 0, 38),  # ld [38]: target's address
    (0x1D, 0, 1, 0),  # jeq x
    (0x06, 0, 0, 64),  # ret #64
    (0x06, 0, 0, 0),  # ret #0
)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Somebody speaks for an address."""

    index: int
    """Interface it was heard on."""
    address: Address
    mac: str
    """Empty where the frame didn't say."""


@dataclass(frozen=True, slots=True)
class Router:
    """Somebody speaks VRRP."""

    index: int
    vrid: int
    source: Address


Heard = Speaker | Router


class Ears:
    """The sockets for some ports."""

    def __init__(self, listener: Callable[[Heard], None]) -> None:
        self._listener = listener
        self._sockets: list[socket.socket] = []
        self._arp: socket.socket | None = None

    def open(self, ports: Iterable[Interface]) -> list[NetError]:
        """Listen on these ports, and no longer on others; what the host refused.

        What could be opened listens all the same.
        """
        self.close()
        refused: list[NetError] = []
        indexes = [port.index for port in ports]
        for what, make, tolerated in (
            ("listening to ARP", _arp_socket, frozenset[int]()),
            ("listening to VRRP", lambda: _vrrp_socket(4, indexes), frozenset[int]()),
            ("listening to neighbour advertisements", _nd_socket, _WITHOUT_IPV6),
            ("listening to VRRP over IPv6", lambda: _vrrp_socket(6, indexes), _WITHOUT_IPV6),
        ):
            try:
                opened = make()
            except OSError as error:
                if error.errno not in tolerated:
                    refused.append(NetError(what, code=error.errno or 0))
                continue
            self._sockets.append(opened)
            asyncio.get_running_loop().add_reader(opened.fileno(), self._readable, opened)
            if opened.family == socket.AF_PACKET:
                self._arp = opened
        return refused

    def close(self) -> None:
        for one in self._sockets:
            asyncio.get_running_loop().remove_reader(one.fileno())
            one.close()
        self._sockets.clear()
        self._arp = None

    def ask(self, port: Interface, address: Address) -> None:
        """Ask whether somebody has an address, in nobody's name. Errors are nobody's business."""
        if self._arp is None:
            return
        mac = bytes.fromhex(port.mac.replace(":", ""))
        frame = arp_probe(mac, address) if address.version == 4 else nd_probe(mac, address)
        protocol = _ETH_P_ARP if address.version == 4 else _ETH_P_IPV6
        try:
            self._arp.sendto(frame, (port.name, protocol))
        except OSError as error:
            log.debug("asking for %s on %s: %s", address, port.name, error)

    # -- listening -------------------------------------------------------------------------------

    def _readable(self, one: socket.socket) -> None:
        for _ in range(READ_MAX):
            try:
                heard = _hear(one)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("listening to neighbours: %s", error)
                return
            if heard is not None:
                self._listener(heard)
        loop = asyncio.get_running_loop()
        loop.remove_reader(one.fileno())
        loop.call_later(PAUSE_S, self._listen_again, one)

    def _listen_again(self, one: socket.socket) -> None:
        if one in self._sockets:
            asyncio.get_running_loop().add_reader(one.fileno(), self._readable, one)


# -- sockets --------------------------------------------------------------------------------------


def _arp_socket() -> socket.socket:
    opened = socket.socket(
        socket.AF_PACKET,
        socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
        socket.htons(_ETH_P_ARP),
    )
    try:
        program = b"".join(struct.pack("=HBBI", *line) for line in _ARP_FILTER)
        # struct sock_fprog points to it; the kernel makes a copy.
        buffer = ctypes.create_string_buffer(program, len(program))
        fprog = struct.pack("@HP", len(_ARP_FILTER), ctypes.addressof(buffer))
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
    except OSError:
        opened.close()
        raise
    return opened


def _raw(family: int, protocol: int) -> socket.socket:
    return socket.socket(
        family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol
    )


def _nd_socket() -> socket.socket:
    opened = _raw(socket.AF_INET6, socket.IPPROTO_ICMPV6)
    blocked = [0xFFFFFFFF] * 8
    blocked[_ND_ADVERTISEMENT >> 5] &= ~(1 << (_ND_ADVERTISEMENT & 31))
    opened.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))
    opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    return opened


def _vrrp_socket(version: int, indexes: list[int]) -> socket.socket:
    opened = _raw(socket.AF_INET if version == 4 else socket.AF_INET6, VRRP)
    try:
        for index in indexes:
            if version == 4:
                request = struct.pack("=4s4si", VRRP_GROUP4.packed, bytes(4), index)
                opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            else:
                request = VRRP_GROUP6.packed + struct.pack("=I", index)
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        if version == 4:
            opened.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    except OSError:
        opened.close()
        raise
    return opened


# -- frames ---------------------------------------------------------------------------------------


def _hear(one: socket.socket) -> Heard | None:
    data, messages, _flags, sender = one.recvmsg(256, 128)
    if one.family == socket.AF_PACKET:
        name, _protocol, kind, *_rest = sender
        try:
            return None if kind == _OUTGOING else speaker4(data, socket.if_nametoindex(name))
        except OSError:
            return None  # the interface is gone already
    index = _arrived_on(messages)
    if one.family == socket.AF_INET:
        return router4(data, index)
    source = ipaddress.IPv6Address(sender[0].partition("%")[0])
    if one.proto == VRRP:
        return router6(data, index, source)
    return speaker6(data, index)


def _arrived_on(messages: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in messages:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            return int(struct.unpack_from("=i", data)[0])
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return int(struct.unpack_from("=I", data, 16)[0])
    return 0


def speaker4(frame: bytes, index: int) -> Speaker | None:
    """From an Ethernet frame with ARP in it."""
    if len(frame) < _ETHERNET.size + _ARP.size:
        return None
    *head, _operation, mac, sender, _, _target = _ARP.unpack_from(frame, _ETHERNET.size)
    if tuple(head) != _ARP_HEAD or sender == bytes(4):
        return None
    return Speaker(index, ipaddress.IPv4Address(sender), mac.hex(":"))


def speaker6(message: bytes, index: int) -> Speaker | None:
    """From the ICMPv6 message of a neighbour advertisement."""
    if len(message) < _ND.size:
        return None
    kind, _code, _sum, _flags, target = _ND.unpack_from(message)
    if kind != _ND_ADVERTISEMENT:
        return None
    mac = ""
    at = _ND.size
    while at + 8 <= len(message):
        option, length = message[at], message[at + 1] * 8
        if length == 0:
            break
        if option == _OPTION_TARGET_MAC:
            mac = message[at + 2 : at + 8].hex(":")
        at += length
    return Speaker(index, ipaddress.IPv6Address(target), mac)


def router4(packet: bytes, index: int) -> Router | None:
    """From an IPv4 packet with its header."""
    if len(packet) < 20:
        return None
    header = (packet[0] & 15) * 4
    if len(packet) < header + 8 or packet[header] & 15 != 1:
        return None  # only advertisements exist (type 1)
    return Router(index, packet[header + 1], ipaddress.IPv4Address(packet[12:16]))


def router6(payload: bytes, index: int, source: ipaddress.IPv6Address) -> Router | None:
    """From the payload of an IPv6 packet."""
    if len(payload) < 8 or payload[0] & 15 != 1:
        return None
    return Router(index, payload[1], source)


def arp_probe(mac: bytes, address: Address) -> bytes:
    """A request from nobody: 0.0.0.0 asks, so no table learns anything."""
    return _ETHERNET.pack(_BROADCAST, mac, _ETH_P_ARP) + _ARP.pack(
        *_ARP_HEAD, _REQUEST, mac, bytes(4), bytes(6), address.packed
    )


def nd_probe(mac: bytes, address: Address) -> bytes:
    """A solicitation from the unspecified address: whoever has it must tell all nodes."""
    group = bytes.fromhex("ff0200000000000000000001ff") + address.packed[13:]
    message = _ND.pack(_ND_SOLICITATION, 0, 0, 0, address.packed)
    pseudo = bytes(16) + group + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
    total = sum(struct.unpack(f"!{(len(pseudo) + len(message)) // 2}H", pseudo + message))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    message = message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]
    ip = struct.pack("!IHBB", 6 << 28, len(message), socket.IPPROTO_ICMPV6, 255)
    ethernet = _ETHERNET.pack(b"\x33\x33" + group[12:], mac, _ETH_P_IPV6)
    return ethernet + ip + bytes(16) + group + message
