# SPDX-License-Identifier: Apache-2.0
"""Forged frames look like heartbeats in everything but what they cannot have."""

import struct

from unit.bench_material import capture, flood, forge


def test_the_payload_has_the_size_and_the_places_of_the_contract() -> None:
    body = forge.payload(1, kind=forge.PROBE, pair=7)
    assert len(body) == flood.FRAME.size == 128
    assert struct.unpack_from(">IBBBBI", body) == (flood.MAGIC, 1, forge.PROBE, 1, 0, 7)
    assert int.from_bytes(body[32:40], "big") == forge.FORGED_TERM | 1
    assert int.from_bytes(body[40:48], "big") == forge.FORGED_TERM | 1


def test_forgeries_are_of_one_length_and_all_kinds_and_reach_the_heartbeat_port() -> None:
    frames = forge.forgeries("a", "lan0")
    assert {len(frame) for frame in frames} == {42 + 128}
    assert len(set(frames)) == len(frames) == 7
    for data in frames:
        seen = capture.Frame(0, "lan0", "b", data)
        assert seen.udp_ports() == (3003, 3003)
        assert seen.speaks_for() == "10.77.0.2"
        assert sum(struct.unpack(">10H", data[14:34])) % 0xFFFF == 0
    kinds = [forge.kind(data) for data in frames]
    assert kinds[:3] == [forge.HELLO, forge.PROBE, forge.ANSWER]
    nodes = [data[42 + 6] for data in frames]
    assert nodes == [1, 1, 1, 1, 1, 1, 0]


def test_the_newest_counter_of_recorded_heartbeats() -> None:
    def heartbeat(counter: int) -> bytes:
        frame = bytearray(forge.forgeries("b", "lan0")[0])
        frame[flood.COUNTER_AT : flood.COUNTER_AT + 8] = struct.pack(">Q", counter)
        return bytes(frame)

    assert forge.newest_counter([heartbeat(7), heartbeat(1 << 40), heartbeat(9)]) == 1 << 40
