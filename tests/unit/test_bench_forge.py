# SPDX-License-Identifier: Apache-2.0
"""Forged frames look like heartbeats in everything but what they cannot have."""

import struct

from unit.bench_material import capture, forge

ADDRESSES = {
    "source_mac": "02:77:00:00:01:00",
    "destination_mac": "02:77:00:00:00:01",
    "source": "10.77.0.2",
    "destination": "10.77.0.1",
}


def heartbeat(counter: int) -> bytes:
    return forge.udp_frame(forge.payload(counter=counter), **ADDRESSES)


def test_the_payload_has_the_size_and_the_places_of_the_contract() -> None:
    body = forge.payload(kind=forge.PROBE, pair=7, node=1, link=2, counter=0x1122)
    assert len(body) == forge.PAYLOAD_BYTES
    assert struct.unpack_from(">IBBBBI", body) == (forge.MAGIC, 1, forge.PROBE, 1, 2, 7)
    assert int.from_bytes(body[16:24], "big") == 0x1122
    assert int.from_bytes(body[32:40], "big") == forge.FORGED_TERM
    assert int.from_bytes(body[40:48], "big") == forge.FORGED_TERM


def test_the_ip_header_is_valid() -> None:
    data = heartbeat(5)
    words = struct.unpack(">10H", data[14:34])
    total = sum(words)
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert capture.Frame(0, "lan0", "client", data).udp_ports() == (40_000, 3003)


def test_a_heartbeat_is_told_from_other_frames() -> None:
    assert forge.is_heartbeat(heartbeat(1))
    assert not forge.is_heartbeat(heartbeat(1)[:-1])
    other = {**ADDRESSES, "port": 3004}
    assert not forge.is_heartbeat(forge.udp_frame(forge.payload(), **other))  # type: ignore[arg-type]
    assert forge.counter_of(heartbeat(99)) == 99


def test_the_assortment_has_every_kind_and_replays_from_the_attackers_mac() -> None:
    captured = [heartbeat(number) for number in range(100, 200)]
    templates = forge.assortment(captured, **ADDRESSES, replays=8)
    kinds = [template.kind for template in templates]
    assert kinds.count("replayed") == 8
    assert {"bad MAC, hello", "bad MAC, probe", "wrong pair", "cut short"} <= set(kinds)
    for template in templates:
        assert template.data[6:12] == bytes.fromhex("027700000100")
        if template.vary_at:
            assert template.vary_at + 8 == len(template.data)
        else:
            assert template.kind in {"replayed", "cut short"}
    forged = next(one for one in templates if one.kind == "bad MAC, hello")
    assert forge.counter_of(forged.data) > 199


def test_the_file_for_the_flood_tool() -> None:
    template = forge.Template(kind="x", data=b"\x01" * 20, vary_at=12)
    assert forge.packed([template, template]) == (b"\x14\x00\x0c\x00" + b"\x01" * 20) * 2
