# SPDX-License-Identifier: Apache-2.0
"""A private instance of the programs, with its maps in a known state, attached to nothing.

BPF_PROG_TEST_RUN says that packets come from `lo`, so the links of the tables lie there: 0 untagged
over IPv4, 1 on VLAN 20 over IPv6, 2 on VLAN 30 to any address; VLAN 9 is the private pair's end.
"""

import ctypes
import time
from collections.abc import Iterable
from dataclasses import dataclass

from bpf import packets
from twinbeat.engine import abi, bpf
from twinbeat.engine.abi import Reason
from twinbeat.engine.maps import SPECS, Key, Maps, Port, Spec, Vip

LOOPBACK = 1
EPOCH = 40
"""The peer's epoch, adopted."""
COUNTER = EPOCH << 32 | 1000
"""Counter of its newest frame."""
OWN_COUNTER = 30 << 32 | 500
"""Newest counter of our own."""
FRESH_FROM = OWN_COUNTER - 10
PROBE_FROM = OWN_COUNTER - 4
TERM = 100
"""Our term when the gate is open; even, since we are node 0."""
HOUR_NS = 3600 * 10**9

VIP, VIP_PLAIN = "10.77.0.10", "10.77.0.11"
VIP6, VIP6_PLAIN = "fd77::10", "fd77::11"
VRID = 51
OTHER_VRID = 99
"""A virtual MAC that is somebody else's."""

PASS, DROP, TX, ABORTED = 2, 1, 3, 0
OUT_PASS, OUT_DROP = 0xFFFFFFFF, 2


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a packet met."""

    verdict: int
    packet: bytes
    counts: dict[Reason, int]


class World:
    """One node's kernel side."""

    def __init__(self, descriptors: dict[str, int], specs: Iterable[Spec] = SPECS) -> None:
        self._fds = descriptors
        self._specs = tuple(specs)
        self.reset()

    def reset(self) -> None:
        """Node 0 of the pair, gate closed, peer known and heard a moment ago."""
        # Emptied behind their back: they know what they have written.
        self.maps = Maps(self._fds)
        for spec in self._specs:
            if spec.kind == bpf.MapType.HASH:
                for key in list(bpf.keys(self._fds[spec.name], spec.key_size)):
                    bpf.delete(self._fds[spec.name], key)
                continue
            size = spec.value_size
            if spec.kind == bpf.MapType.PERCPU_ARRAY:
                size = (size + 7) // 8 * 8 * bpf.possible_cpus()
            for index in range(spec.entries):
                bpf.update(self._fds[spec.name], index.to_bytes(4, "little"), bytes(size))
        keys = [Key(id=number, secret=secret) for number, secret in packets.KEYS.items()]
        self.maps.configure(pair=packets.PAIR, node=0, keys=keys, send=1)
        self.maps.set_ports(
            [
                Port(ifindex=LOOPBACK, link=0, local=packets.OUR_IPV4, peer=packets.PEER_IPV4),
                Port(
                    ifindex=LOOPBACK,
                    vlan=20,
                    link=1,
                    local=packets.OUR_IPV6,
                    peer=packets.PEER_IPV6,
                ),
                Port(ifindex=LOOPBACK, vlan=30, link=2, ttl_min=64),
                Port(ifindex=LOOPBACK, vlan=9, control=True),
            ]
        )
        self.maps.set_vips(
            {
                VIP: Vip(vrid=VRID, vmac=True),
                VIP6: Vip(vrid=VRID, vmac=True),
                VIP_PLAIN: Vip(vrid=VRID, vmac=False),
                VIP6_PLAIN: Vip(vrid=VRID, vmac=False),
            }
        )
        self.maps.set_vrids({VRID: abi.VridBit.V4 | abi.VridBit.V6})
        self.maps.write_gate(abi.Gate(counter=OWN_COUNTER))
        self.maps.write_self_words(
            abi.Self(
                probe_from=PROBE_FROM,
                fresh_from=FRESH_FROM,
                highest=TERM,
                flags=int(abi.Flag.FIT),
                role=2,
                health=90,
                dead_us=600,
                lease_full_us=10_000,
                hello_us=200,
                verify_us=400,
                generation=3,
                digest=0xD1CE57,
            )
        )
        self.maps.write_peer(
            abi.Peer(epoch=EPOCH, base=EPOCH << 32, known=COUNTER, counter=COUNTER)
        )

    def open_gate(self, **words: int) -> None:
        """Serve under TERM for an hour, unless the words say otherwise."""
        values = {
            "term": TERM,
            "open_until": boot_ns() + HOUR_NS,
            "fence_below": TERM,
            "counter": OWN_COUNTER,
        }
        self.maps.write_gate(abi.Gate(**(values | words)))

    def change(self, kind: str, **words: int) -> None:
        """Set single words of `self`, `peer` or `gate`."""
        read = {"self": self.maps.self_words, "peer": self.maps.peer, "gate": self.maps.gate}
        write = {
            "self": self.maps.write_self_words,
            "peer": self.maps.write_peer,
            "gate": self.maps.write_gate,
        }
        value: ctypes.Structure = read[kind]()
        for name, word in words.items():
            assert hasattr(value, name), name
            setattr(value, name, word)
        write[kind](value)  # type: ignore[arg-type]

    def _run(self, program: str, packet: bytes) -> Outcome:
        before = self.maps.counters()
        run = bpf.run_program(self._fds[program], packet)
        after = self.maps.counters()
        counts = {
            reason: after[reason] - before[reason]
            for reason in Reason
            if after[reason] != before[reason]
        }
        return Outcome(verdict=run.verdict, packet=run.packet, counts=counts)

    def receive(self, packet: bytes) -> Outcome:
        """The packet comes in."""
        return self._run("prog_link", packet)

    def send(self, packet: bytes) -> Outcome:
        """The packet goes out."""
        return self._run("prog_egress", packet)
