# SPDX-License-Identifier: Apache-2.0
"""Frames that must not be believed: forged, replayed, mutilated.  Pure; tb-flood sends them.

The layout is that of `struct tb_frame` in ebpf/tb_abi.h.  Whoever forges knows everything but the
key: the pair, the nodes, the newest counters that were seen on the wire.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAGIC = 0x54425431
PAYLOAD_BYTES = 128
MAC_AT = 120
HEARTBEAT_PORT = 3003
HELLO, PROBE, ANSWER = 1, 2, 3
FLAG_OPEN = 1

FORGED_TERM = 0x7EAD_0000_0000_0001
"""No honest node ever comes by such a term: seeing it anywhere means that a forgery was
believed."""

PAYLOAD = struct.Struct(">IBBBBIB2sBQQQQQQQQIIBBHIIIIIIIQ")
"""All fields of struct tb_frame in their order, the MAC last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One frame for the flood."""

    kind: str
    data: bytes
    vary_at: int = 0
    """Where eight bytes differ each time; 0 = sent as it is."""


def payload(
    *,
    kind: int = HELLO,
    pair: int = 1,
    node: int = 0,
    link: int = 1,
    key_id: int = 1,
    counter: int = 0,
    version: int = 1,
) -> bytes:
    """A heartbeat that claims and serves a term beyond all, under a MAC made up."""
    return PAYLOAD.pack(
        *(MAGIC, version, kind, node, link, pair, key_id, bytes((key_id, 0)), 1),
        *(counter, 0, FORGED_TERM, FORGED_TERM, FORGED_TERM, FORGED_TERM, 0, 0),
        *(10_000, FLAG_OPEN, 3, 0, 100, 600, 10_000, 200, 400, 0, 0, 0),
        0x0BAD_0BAD_0BAD_0BAD,
    )


def udp_frame(
    body: bytes,
    *,
    source_mac: str,
    destination_mac: str,
    source: str,
    destination: str,
    port: int = HEARTBEAT_PORT,
    ttl: int = 255,
) -> bytes:
    """An Ethernet frame with an IPv4 UDP datagram; no UDP checksum, as IPv4 allows."""
    address = [bytes(int(part) for part in text.split(".")) for text in (source, destination)]
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0xC0, 28 + len(body), 0, 0x4000, ttl, 17, 0, *address
    )
    header = header[:10] + struct.pack(">H", _checksum(header)) + header[12:]
    udp = struct.pack(">HHHH", 40_000, port, 8 + len(body), 0)
    ethernet = bytes.fromhex(destination_mac.replace(":", "") + source_mac.replace(":", ""))
    return ethernet + b"\x08\x00" + header + udp + body


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def is_heartbeat(frame: bytes) -> bool:
    """Whether a captured frame is a whole untagged heartbeat over IPv4."""
    return (
        len(frame) >= 42 + PAYLOAD_BYTES
        and frame[12:14] == b"\x08\x00"
        and frame[23] == 17
        and frame[36:38] == struct.pack(">H", HEARTBEAT_PORT)
        and frame[42:46] == struct.pack(">I", MAGIC)
    )


def counter_of(frame: bytes) -> int:
    """The counter of a captured heartbeat."""
    return int.from_bytes(frame[42 + 16 : 42 + 24], "big")


def assortment(
    captured: Sequence[bytes],
    *,
    source_mac: str,
    destination_mac: str,
    source: str,
    destination: str,
    replays: int = 64,
) -> list[Template]:
    """The forged frames for one node: made-up MACs, a wrong pair, replays of what was captured.

    captured: heartbeats that were on the wire, in their order.  They are sent again under the
    attacker's own Ethernet source, so that the switch's table stays out of the game.
    """
    newest = max((counter_of(frame) for frame in captured), default=1 << 32)
    vary = 42 + MAC_AT
    found: list[Template] = []

    def add(kind: str, body: bytes, vary_at: int = vary) -> None:
        data = udp_frame(
            body,
            source_mac=source_mac,
            destination_mac=destination_mac,
            source=source,
            destination=destination,
        )
        found.append(Template(kind=kind, data=data, vary_at=vary_at))

    for ahead in (1, 1000, 1 << 33):
        for kind, name in ((HELLO, "hello"), (PROBE, "probe"), (ANSWER, "answer")):
            add(f"bad MAC, {name}", payload(kind=kind, counter=newest + ahead))
    add("wrong pair", payload(pair=4711, counter=newest + 1))
    add("unknown key", payload(key_id=77, counter=newest + 1))
    add("unknown version", payload(version=9, counter=newest + 1))
    add("cut short", payload(counter=newest + 1)[:100], vary_at=0)
    for frame in captured[-replays:]:
        again = bytes.fromhex((destination_mac + source_mac).replace(":", "")) + frame[12:]
        found.append(Template(kind="replayed", data=again[: 42 + PAYLOAD_BYTES]))
    return found


def unrelated(*, source_mac: str, destination_mac: str, source: str, destination: str) -> Template:
    """A frame as large as a heartbeat that is none of Twinbeat's business."""
    body = bytes(PAYLOAD_BYTES)
    frame = udp_frame(
        body,
        source_mac=source_mac,
        destination_mac=destination_mac,
        source=source,
        destination=destination,
        port=HEARTBEAT_PORT + 1,
        ttl=64,
    )
    return Template(kind="unrelated", data=frame, vary_at=42 + MAC_AT)


def packed(templates: Iterable[Template]) -> bytes:
    """The file that tb-flood reads."""
    return b"".join(
        struct.pack("<HH", len(template.data), template.vary_at) + template.data
        for template in templates
    )
