# SPDX-License-Identifier: Apache-2.0
"""What the kernel programs cost for a packet, measured by the kernel itself (BPF_PROG_TEST_RUN).

    xdpcost.py [--json] [--runs N]

Nanoseconds, an empty program measured in the same way subtracted.

Heartbeats: every frame is run exactly once, authentic and with a fresh counter, so each goes the
whole way: MAC, replay position, fence, snapshot. The kernel's own timing of a single run is used;
the empty program pays for the same reading of the clock. Frames are therefore judged with caches
and branch predictors as a system call leaves them, as an interrupt would. The counters prove that
each one was accepted.

Other traffic changes nothing, so the same packet is run 100,000 times and the mean taken.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from twinbeat.engine import abi, bpf
from twinbeat.engine import compile as compiler
from twinbeat.engine.abi import Reason
from twinbeat.engine.maps import SPECS, Key, Maps, Port, Vip
from twinbeat.engine.step import Kernel
from twinbeat.engine.types import FrameType, WireConfig

FRAMES = 500
"""Heartbeats in one run of a measurement."""
REPEAT = 100_000
"""Repetitions of an unrelated packet in one run."""
PAIR, KEY_ID, SECRET = 7, 1, bytes(range(16))
LOOPBACK = 1
"""Test runs say that packets come from `lo`."""
VIPS = 10_000

US, PEER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
OURS, THEIRS = "169.254.10.1", "169.254.10.2"
EMPTY_XDP = bytes.fromhex("b7000000020000009500000000000000")
EMPTY_TC = bytes.fromhex("b7000000ffffffff9500000000000000")


def ethernet(payload: bytes, kind: int) -> bytes:
    return US + PEER + struct.pack("!H", kind) + payload


def ipv4(payload: bytes, protocol: int, source: str, to: str) -> bytes:
    """Without a checksum: the programs leave that to the stack."""
    head = struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + len(payload), 0, 0, 255, protocol, 0)
    return head + socket.inet_aton(source) + socket.inet_aton(to) + payload


def udp(payload: bytes, port: int) -> bytes:
    return struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload


def heartbeat(payload: bytes) -> bytes:
    return ethernet(ipv4(udp(payload, abi.PORT), 17, THEIRS, OURS), 0x0800)


def other_packets() -> dict[str, bytes]:
    """What has nothing to do with Twinbeat."""
    v6 = struct.pack("!IHBB", 6 << 28, 40, 6, 64)
    v6 += socket.inet_pton(socket.AF_INET6, "fd88::21")
    v6 += socket.inet_pton(socket.AF_INET6, "fd88::22") + bytes(40)
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + PEER + socket.inet_aton("10.88.0.21")
    arp += bytes(6) + socket.inet_aton("10.88.0.22")
    return {
        "unrelated": ethernet(ipv4(bytes(40), 6, "10.88.0.21", "10.88.0.22"), 0x0800),
        "unrelated_udp": ethernet(ipv4(udp(bytes(32), 53), 17, "10.88.0.21", "10.88.0.22"), 0x0800),
        "unrelated_ipv6": ethernet(v6, 0x86DD),
        "unrelated_arp": ethernet(arp, 0x0806),
    }


@dataclass
class Instance:
    """The programs with maps of their own, attached to nothing."""

    maps: Maps
    empty_xdp: int
    empty_tc: int


@contextmanager
def instance() -> Iterator[Instance]:
    """Compile, load and configure; everything is gone afterwards."""
    compiled = compiler.compile_programs(compiler.source_directory())
    fds = {spec.name: spec.create() for spec in SPECS}
    for name, program in compiled.programs.items():
        fds[name] = program.load(fds)
    xdp, tc = bpf.ProgramType.XDP, bpf.ProgramType.SCHED_CLS
    empty = [
        bpf.load_program("empty", EMPTY_XDP, kind=xdp, license_name="GPL"),
        bpf.load_program("empty", EMPTY_TC, kind=tc, license_name="GPL"),
    ]
    maps = Maps(fds)
    maps.configure(
        pair=PAIR, node=0, keys=[Key(id=KEY_ID, secret=SECRET)], send=KEY_ID, port=abi.PORT
    )
    maps.set_ports([Port(ifindex=LOOPBACK, local=OURS)])
    maps.set_vips({f"10.78.{n >> 8}.{n & 255}": Vip(vrid=51, vmac=True) for n in range(VIPS)})
    maps.set_vrids({51: abi.VridBit.V4 | abi.VridBit.V6})
    try:
        yield Instance(maps=maps, empty_xdp=empty[0], empty_tc=empty[1])
    finally:
        maps.close()
        for fd in empty:
            os.close(fd)


class Sender:
    """The peer: makes authentic frames with the product's own code, each with a new counter."""

    EPOCH = 5

    def __init__(self, maps: Maps) -> None:
        config = WireConfig(pair=PAIR, node=1, keys=((KEY_ID, SECRET),), send_key=0, port=abi.PORT)
        self._kernel = Kernel(config)
        self._kernel.gate.counter = self.EPOCH << 32
        maps.write_gate(abi.Gate(counter=1000))
        maps.write_self_words(abi.Self(fresh_from=1, probe_from=1))
        maps.write_peer(abi.Peer(epoch=self.EPOCH, base=self.EPOCH << 32))

    def frames(self, kind: FrameType, count: int) -> list[bytes]:
        return [heartbeat(self._kernel.frame(kind, 0, 1, echo=900)) for _ in range(count)]


def _once_each(program: int, packets: Sequence[bytes]) -> float:
    return statistics.median(bpf.run_program(program, one).duration_ns for one in packets)


def measure(runs: int) -> dict[str, list[float]]:
    """Name → one figure for each run, in ns."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(round(value, 1))

    with instance() as under_test:
        maps = under_test.maps
        link, egress = maps.fd("prog_link"), maps.fd("prog_egress")
        sender = Sender(maps)
        packets = other_packets()

        def accepted(reason: Reason, work: Callable[[], float]) -> float:
            before = maps.counters()[reason]
            figure = work()
            count = maps.counters()[reason] - before
            assert count == FRAMES, f"{count} of {FRAMES} frames were counted as {reason.label}"
            return figure

        for _ in range(runs):
            for name, kind, reason in (
                ("hello", FrameType.HELLO, Reason.HELLO),
                ("probe", FrameType.PROBE, Reason.PROBE),
            ):
                frames = sender.frames(kind, FRAMES)
                empty = _once_each(under_test.empty_xdp, frames)
                cost = accepted(reason, lambda frames=frames: _once_each(link, frames))
                note(name, cost - empty)
                note("empty", empty)
            replayed = sender.frames(FrameType.HELLO, 1)[0]
            forged = replayed[:-1] + bytes([replayed[-1] ^ 1])
            for name, packet in (packets | {"forged": forged}).items():
                empty = bpf.run_program(under_test.empty_xdp, packet, repeat=REPEAT).duration_ns
                cost = bpf.run_program(link, packet, repeat=REPEAT).duration_ns
                note(name, cost - empty)
            packet = packets["unrelated"]
            empty = bpf.run_program(under_test.empty_tc, packet, repeat=REPEAT).duration_ns
            note("egress", bpf.run_program(egress, packet, repeat=REPEAT).duration_ns - empty)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what the kernel programs cost.")
    parser.add_argument("--json", action="store_true", help="one object: name → figures in ns")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    found = measure(options.runs)
    if options.json:
        print(json.dumps(found))
        return 0
    for name, values in found.items():
        median, least, most = statistics.median(values), min(values), max(values)
        print(f"{name:15} {median:6.0f} ns   ({least:.0f} to {most:.0f} in {len(values)} runs)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
