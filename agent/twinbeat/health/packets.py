# SPDX-License-Identifier: Apache-2.0
"""The questions and answers of the address probes: ARP, neighbour discovery, ICMP echo. Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

ETH_P_ARP: Final = 0x0806
BROADCAST: Final = b"\xff" * 6
_ETHERNET: Final = struct.Struct("!6s6sH")
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_ARP_REQUEST, _ARP_REPLY = 1, 2
_ICMP: Final = struct.Struct("!BBHHH")

ECHO_REQUEST, ECHO_REPLY = 8, 0
ECHO_REQUEST6, ECHO_REPLY6 = 128, 129
SOLICITATION, ADVERTISEMENT = 135, 136
_SOURCE_LINK_ADDRESS: Final = b"\x01\x01"
"""Option 1, one unit of eight bytes."""


def arp_request(mac: bytes, own: IPv4Address, wanted: IPv4Address) -> bytes:
    """Who has `wanted`? A whole frame; `own` may be 0.0.0.0 (RFC 5227), which teaches nobody."""
    arp = _ARP.pack(1, 0x0800, 6, 4, _ARP_REQUEST, mac, own.packed, bytes(6), wanted.packed)
    return _ETHERNET.pack(BROADCAST, mac, ETH_P_ARP) + arp


def arp_answer(frame: bytes, wanted: IPv4Address) -> str | None:
    """The MAC that a frame says `wanted` has; None if it doesn't say."""
    if len(frame) < _ETHERNET.size + _ARP.size:
        return None
    _, _, kind = _ETHERNET.unpack_from(frame)
    if kind != ETH_P_ARP:
        return None
    hardware, protocol, _, _, operation, mac, sender, _, _ = _ARP.unpack_from(frame, 14)
    if (hardware, protocol, operation) != (1, 0x0800, _ARP_REPLY) or sender != wanted.packed:
        return None
    return str(bytes(mac).hex(":"))


def solicited_node(wanted: IPv6Address) -> IPv6Address:
    """The group in which a host listens for questions about an address of its own (RFC 4291)."""
    return IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + wanted.packed[13:])


def solicitation(mac: bytes, wanted: IPv6Address) -> bytes:
    """The ICMPv6 message; the kernel fills in the checksum."""
    head = _ICMP.pack(SOLICITATION, 0, 0, 0, 0)
    return head + wanted.packed + _SOURCE_LINK_ADDRESS + mac


def is_advertisement(message: bytes, wanted: IPv6Address) -> bool:
    """Whether an ICMPv6 message is the answer to a solicitation for `wanted`."""
    return len(message) >= 24 and message[0] == ADVERTISEMENT and message[8:24] == wanted.packed


def echo_request(version: int, identifier: int, sequence: int) -> bytes:
    """The ICMP message; in IPv6 the kernel fills in the checksum."""
    kind = ECHO_REQUEST if version == 4 else ECHO_REQUEST6
    message = _ICMP.pack(kind, 0, 0, identifier, sequence) + b"twinbeat"
    if version == 6:
        return message
    return _ICMP.pack(kind, 0, checksum(message), identifier, sequence) + b"twinbeat"


def is_echo_reply(version: int, packet: bytes, identifier: int, sequence: int) -> bool:
    """Whether it answers that request. Raw IPv4 sockets give the IP header too, IPv6 ones don't."""
    if version == 4:
        if not packet:
            return False
        packet = packet[(packet[0] & 0xF) * 4 :]
    if len(packet) < _ICMP.size:
        return False
    kind, code, _, got_identifier, got_sequence = _ICMP.unpack_from(packet)
    expected = ECHO_REPLY if version == 4 else ECHO_REPLY6
    return (kind, code, got_identifier, got_sequence) == (expected, 0, identifier, sequence)


def checksum(message: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    padded = message + b"\0" * (len(message) % 2)
    words: tuple[int, ...] = struct.unpack(f"!{len(padded) // 2}H", padded)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
