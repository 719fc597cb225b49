# SPDX-License-Identifier: Apache-2.0
"""Packets for the tables: built with struct alone, so that they share no code with the product.

The MAC is computed here a second time, from the paper's description of SipHash-2-4: a frame that
the programs accept proves both implementations.
"""

import ipaddress
import struct
from dataclasses import dataclass, field, replace

from twinbeat.engine import abi

US = bytes.fromhex("020000000001")
PEER = bytes.fromhex("020000000002")
OTHER = bytes.fromhex("020000000003")
BROADCAST = b"\xff" * 6

IPV4, ARP, VLAN, IPV6, QINQ = 0x0800, 0x0806, 0x8100, 0x86DD, 0x88A8
UDP, TCP, ICMPV6, FRAGMENT = 17, 6, 58, 44

OUR_IPV4, PEER_IPV4 = "169.254.10.1", "169.254.10.2"
OUR_IPV6, PEER_IPV6 = "fe80::1", "fe80::2"
KEYS = {1: bytes(range(16)), 2: bytes(range(100, 116))}
PAIR = 7

_MASK = (1 << 64) - 1


def siphash24(key: bytes, data: bytes) -> bytes:
    k0, k1 = struct.unpack("<QQ", key)
    v = [
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    ]

    def rotate(word: int, bits: int) -> int:
        return (word << bits | word >> 64 - bits) & _MASK

    def sip_round() -> None:
        v[0] = (v[0] + v[1]) & _MASK
        v[2] = (v[2] + v[3]) & _MASK
        v[1] = rotate(v[1], 13) ^ v[0]
        v[3] = rotate(v[3], 16) ^ v[2]
        v[0] = rotate(v[0], 32)
        v[2] = (v[2] + v[1]) & _MASK
        v[0] = (v[0] + v[3]) & _MASK
        v[1] = rotate(v[1], 17) ^ v[2]
        v[3] = rotate(v[3], 21) ^ v[0]
        v[2] = rotate(v[2], 32)

    tail = data[len(data) // 8 * 8 :]
    words = [*struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])]
    words.append(int.from_bytes(tail, "little") | (len(data) & 0xFF) << 56)
    for word in words:
        v[3] ^= word
        sip_round()
        sip_round()
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(4):
        sip_round()
    return (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def vmac(vrid: int, family: int = 4) -> bytes:
    return bytes([0, 0, 0x5E, 0, 1 if family == 4 else 2, vrid])


def eth(payload: bytes, kind: int, *, to: bytes = US, source: bytes = PEER, vlan: int = 0) -> bytes:
    tag = struct.pack("!HH", VLAN, vlan) if vlan else b""
    return to + source + tag + struct.pack("!H", kind) + payload


def ipv4(
    payload: bytes,
    *,
    to: str = OUR_IPV4,
    source: str = PEER_IPV4,
    protocol: int = UDP,
    ttl: int = 255,
    fragment: int = 0,
    options: bytes = b"",
    tos: int = 0xC0,
) -> bytes:
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | words,
        tos,
        words * 4 + len(payload),
        0x1234,
        fragment,
        ttl,
        protocol,
        0,
        packed(source),
        packed(to),
    )
    head += options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(
    payload: bytes,
    *,
    to: str = OUR_IPV6,
    source: str = PEER_IPV6,
    following: int = UDP,
    hop_limit: int = 255,
) -> bytes:
    head = struct.pack("!IHBB", 0x6C000000, len(payload), following, hop_limit)
    return head + packed(source) + packed(to) + payload


def udp(
    payload: bytes,
    *,
    to: int = abi.PORT,
    source: int = 50000,
    addresses: tuple[str, str] | None = None,
) -> bytes:
    """With addresses (IPv6) the checksum is right, without it is absent."""
    head = struct.pack("!HHHH", source, to, 8 + len(payload), 0)
    if addresses is None:
        return head + payload
    return head[:6] + struct.pack("!H", udp_checksum(*addresses, head + payload)) + payload


def udp_checksum(source: str, to: str, datagram: bytes) -> int:
    """Over IPv6; the checksum's own field is taken as zero."""
    pseudo = packed(source) + packed(to) + struct.pack("!II", len(datagram), UDP)
    return checksum(pseudo + datagram[:6] + b"\0\0" + datagram[8:]) or 0xFFFF


def arp(
    *,
    operation: int,
    sender: str,
    target: str,
    sender_mac: bytes = PEER,
    target_mac: bytes = bytes(6),
    to: bytes = BROADCAST,
    source: bytes | None = None,
    vlan: int = 0,
) -> bytes:
    body = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    body += sender_mac + packed(sender) + target_mac + packed(target)
    return eth(body, ARP, to=to, source=source or sender_mac, vlan=vlan)


def discovery(
    kind: int,
    *,
    target: str,
    source: str,
    to: str = "ff02::1:ff00:10",
    mac: bytes = PEER,
    mac_to: bytes = bytes.fromhex("3333ff000010"),
    vlan: int = 0,
) -> bytes:
    """A neighbour solicitation (135) or advertisement (136) with the sender's MAC as option."""
    option = bytes([1 if kind == 135 else 2, 1]) + mac
    body = struct.pack("!BBHI", kind, 0, 0, 0x20000000) + packed(target) + option
    pseudo = packed(source) + packed(to) + struct.pack("!II", len(body), ICMPV6)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    network = ipv6(body, source=source, to=to, following=ICMPV6)
    return eth(network, IPV6, to=mac_to, source=mac, vlan=vlan)


TOLD = {
    "role": 1,
    "health": 100,
    "dead_us": 600,
    "lease_full_us": 10_000,
    "hello_us": 200,
    "verify_us": 400,
}
"""What the peer says of itself in every frame."""


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """A heartbeat from the peer, valid unless something is changed."""

    type: int = abi.FrameType.HELLO
    counter: int = 0
    node: int = 1
    link: int = 0
    pair: int = PAIR
    key: int = 1
    version: int = abi.VERSION
    fields: dict[str, int] = field(default_factory=dict)
    """Further fields of the frame."""
    secret: bytes | None = None
    """Sign with this in place of the key that `key` names."""
    family: int = 4
    vlan: int = 0
    ttl: int = 255
    to: bytes = US
    source: bytes = PEER
    address: str | None = None
    """Destination in place of our own."""
    source_port: int = 50000
    port: int = abi.PORT

    def but(self, **changes: object) -> "Heartbeat":
        return replace(self, **changes)  # type: ignore[arg-type]

    def payload(self) -> bytes:
        frame = abi.Frame(
            magic=abi.MAGIC,
            version=self.version,
            type=self.type,
            node=self.node,
            link=self.link,
            pair=self.pair,
            key_id=self.key,
            layouts=abi.VERSION,
            counter=self.counter,
            **(TOLD | self.fields),
        )
        frame.keys[0] = 1
        covered = bytes(frame)[: abi.MAC_COVERS]
        return covered + siphash24(self.secret or KEYS[self.key], covered)

    def wrap(self, payload: bytes, **network: object) -> bytes:
        """Any payload in the headers of this heartbeat."""
        if self.family == 4:
            datagram = udp(payload, source=self.source_port, to=self.port)
            inner = ipv4(datagram, ttl=self.ttl, to=self.address or OUR_IPV4, **network)  # type: ignore[arg-type]
            return eth(inner, IPV4, to=self.to, source=self.source, vlan=self.vlan)
        to = self.address or OUR_IPV6
        datagram = udp(payload, source=self.source_port, to=self.port, addresses=(PEER_IPV6, to))
        inner = ipv6(datagram, hop_limit=self.ttl, to=to, **network)  # type: ignore[arg-type]
        return eth(inner, IPV6, to=self.to, source=self.source, vlan=self.vlan)

    def packet(self) -> bytes:
        return self.wrap(self.payload())


def frame_in(packet: bytes) -> abi.Frame:
    """The frame at the end of a heartbeat."""
    return abi.Frame.from_buffer_copy(packet[-abi.FRAME_SIZE :])


def mac_is_right(packet: bytes) -> bool:
    payload = packet[-abi.FRAME_SIZE :]
    key = KEYS[frame_in(packet).key_id]
    return siphash24(key, payload[: abi.MAC_COVERS]) == payload[abi.MAC_COVERS :]
