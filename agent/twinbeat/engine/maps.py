# SPDX-License-Identifier: Apache-2.0
"""The pinned maps by name: what they must look like, and typed access to them.

Knows names, types and sizes of all maps; knows nothing of who may write what when (that is said in
ebpf/tb_abi.h). The engine mmaps `gate`, `self`, `peer`, `links` and `control` itself: it is handed
their file descriptors. The slow maps (configuration, ports, addresses, counters) are Python's.

Single words of a map may change while they are read here, by XDP or by the engine. Each word is
whole; two words may be from different moments.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

from twinbeat.engine import abi, bpf
from twinbeat.engine.bpf import MapFlag, MapType

PIN_ROOT: Final = Path("/sys/fs/bpf/twinbeat")

_Value = TypeVar("_Value", bound=ctypes.Structure)
_ZERO: Final = bytes(4)
_NO_VRIDS: Final = {vrid.to_bytes(4, "little"): _ZERO for vrid in range(256)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a map must look like."""

    name: str
    kind: MapType
    key_size: int = 4
    value_size: int
    entries: int
    flags: MapFlag = MapFlag.NONE
    pinned: bool = True

    def fits(self, info: bpf.MapInfo) -> bool:
        """Could programs and engine use this map as it is?"""
        return (info.type, info.key_size, info.value_size, info.entries, info.flags) == (
            self.kind,
            self.key_size,
            self.value_size,
            self.entries,
            self.flags,
        )

    def create(self) -> int:
        """A new, empty map of this kind; returns its file descriptor."""
        return bpf.create_map(
            self.name,
            kind=self.kind,
            key_size=self.key_size,
            value_size=self.value_size,
            entries=self.entries,
            flags=self.flags,
        )


def _shared(name: str, value: type[ctypes.Structure], entries: int = 1) -> Spec:
    return Spec(
        name=name,
        kind=MapType.ARRAY,
        value_size=ctypes.sizeof(value),
        entries=entries,
        flags=MapFlag.MMAPABLE,
    )


LAYOUT_SIZE: Final = 64
SPECS: Final = (
    _shared("gate", abi.Gate),
    _shared("self", abi.Self),
    Spec(name="config", kind=MapType.ARRAY, value_size=ctypes.sizeof(abi.Config), entries=1),
    _shared("peer", abi.Peer),
    _shared("links", abi.Link, abi.LINKS),
    _shared("control", abi.Control, abi.CPUS),
    Spec(
        name="ports",
        kind=MapType.HASH,
        key_size=ctypes.sizeof(abi.PortKey),
        value_size=ctypes.sizeof(abi.Port),
        entries=64,
    ),
    Spec(name="vips4", kind=MapType.HASH, value_size=ctypes.sizeof(abi.Vip), entries=abi.VIPS),
    Spec(
        name="vips6",
        kind=MapType.HASH,
        key_size=16,
        value_size=ctypes.sizeof(abi.Vip),
        entries=abi.VIPS,
    ),
    Spec(name="sieve6", kind=MapType.ARRAY, value_size=abi.SIEVE_BYTES, entries=1),
    Spec(name="vrids", kind=MapType.ARRAY, value_size=4, entries=256),
    Spec(name="counters", kind=MapType.PERCPU_ARRAY, value_size=8, entries=abi.COUNTERS),
    Spec(name="gaps", kind=MapType.PERCPU_ARRAY, value_size=8, entries=abi.LINKS * abi.BUCKETS),
    # The programs' own memory of when they last looked; worth nothing to anybody else.
    Spec(name="samples", kind=MapType.PERCPU_ARRAY, value_size=16, entries=64, pinned=False),
)
"""Every map of the programs, as ebpf/maps_kern.h declares them."""

LAYOUT: Final = Spec(name="layout", kind=MapType.ARRAY, value_size=LAYOUT_SIZE, entries=1)
"""What the pins were made from: 32 bytes for the ABI, 32 for the programs. Written last."""

PROGRAMS: Final = ("prog_link", "prog_egress")
REPLACED: Final = "old_"
"""Prefix of the pins of programs that were replaced: until the new ones are attached, those are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A link as XDP knows it: where heartbeats come in, and what they must look like."""

    ifindex: int
    vlan: int = 0
    link: int = 0
    ttl_min: int = 255
    control: bool = False
    """The receiving end of the private pair, which takes control frames only."""
    local: str | None = None
    """Own address on the link: only frames to it are heartbeats. None: to any address."""
    peer: str | None = None
    """The peer's address on the link: where refused frames tell of a mismatch. None: anywhere."""

    def encoded(self) -> tuple[bytes, bytes]:
        value = abi.Port(link=self.link, ttl_min=self.ttl_min, control=int(self.control))
        if self.local is not None:
            address = ipaddress.ip_address(self.local)
            value.family = address.version
            packed = address.packed
            value.local[: len(packed)] = packed
        if self.peer is not None:
            packed = ipaddress.ip_address(self.peer).packed
            value.peer[: len(packed)] = packed
        return bytes(abi.PortKey(self.ifindex, self.vlan)), bytes(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key for heartbeats."""

    id: int
    secret: bytes
    """16 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vip:
    """How the programs treat an address."""

    vrid: int
    vmac: bool


class Maps:
    """The maps of one pair on this node. Close it, or use it as a context manager."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        self._fds = dict(descriptors)
        self._totals: dict[str, bpf.Totals] = {}
        self._written: dict[str, dict[bytes, bytes]] = {}
        """What is in the maps that nobody but us writes, as far as it was written here."""
        self._vips: dict[str, Vip] | None = None
        self._vrids: dict[int, abi.VridBit] | None = None
        """What of them was asked for last, if it is there whole: most is asked for again."""

    @classmethod
    def open(cls, pair: int, *, root: Path = PIN_ROOT) -> Self:
        """The maps pinned for a pair. Raises BpfError, ENOENT among others if none are."""
        return cls.open_directory(root / str(pair))

    @classmethod
    def open_directory(cls, directory: Path) -> Self:
        """The same, by directory."""
        fds: dict[str, int] = {}
        try:
            for spec in (*SPECS, LAYOUT):
                if spec.pinned:
                    fds[spec.name] = bpf.open_pin(directory / spec.name)
            for name in PROGRAMS:
                fds[name] = bpf.open_pin(directory / name)
                if (directory / (REPLACED + name)).exists():
                    fds[REPLACED + name] = bpf.open_pin(directory / (REPLACED + name))
        except BaseException:
            for fd in fds.values():
                os.close(fd)
            raise
        return cls(fds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file descriptors; maps and programs stay pinned."""
        self._totals.clear()
        while self._fds:
            os.close(self._fds.popitem()[1])

    def fd(self, name: str) -> int:
        """File descriptor of a map or program, for the engine, for attaching. It stays ours."""
        return self._fds[name]

    def program(self, name: str) -> bpf.ProgramInfo:
        """Id, tag and name of `prog_link` or `prog_egress`."""
        return bpf.program_info(self._fds[name])

    def program_name(self, number: int) -> str:
        """Name of the program with this id: of ours by their pins, of others where that is allowed.

        Empty if it can't be told. Our own, replaced ones included, are told without CAP_SYS_ADMIN.
        """
        pinned = [f"{prefix}{name}" for prefix in ("", REPLACED) for name in PROGRAMS]
        for fd in (self._fds[name] for name in pinned if name in self._fds):
            info = bpf.program_info(fd)
            if info.id == number:
                return info.name
        other = bpf.program_by_id(number)
        return other.name if other is not None else ""

    # What engine and XDP share -----------------------------------------------------------------

    def _read(self, name: str, kind: type[_Value], index: int = 0) -> _Value:
        key = index.to_bytes(4, "little")
        raw = bpf.lookup(self._fds[name], key, ctypes.sizeof(kind))
        assert raw is not None, f"map {name} has no entry {index}"
        return kind.from_buffer_copy(raw)

    def _write(self, name: str, value: ctypes.Structure, index: int = 0) -> None:
        bpf.update(self._fds[name], index.to_bytes(4, "little"), bytes(value))

    def gate(self) -> abi.Gate:
        """The words of the gate."""
        return self._read("gate", abi.Gate)

    def write_gate(self, value: abi.Gate) -> None:
        """Set all words of the gate at once. Not atomic: for tests and for a node at rest."""
        self._write("gate", value)

    def self_words(self) -> abi.Self:
        """What the engine lets the kernel say."""
        return self._read("self", abi.Self)

    def write_self_words(self, value: abi.Self) -> None:
        """Set them; for tests, the engine writes its own."""
        self._write("self", value)

    def peer(self) -> abi.Peer:
        """The newest frame of the peer, copied while nobody wrote.

        The writer needs well under a microsecond, so a few attempts always suffice; if they do not,
        the last copy is returned with an odd `seq`.
        """
        value = self._read("peer", abi.Peer)
        for _ in range(16):
            if value.seq % 2 == 0 and self._read("peer", abi.Peer).seq == value.seq:
                break
            value = self._read("peer", abi.Peer)
        return value

    def write_peer(self, value: abi.Peer) -> None:
        """Set the snapshot: what is known of the peer from before a boot; for tests."""
        self._write("peer", value)

    def link(self, number: int) -> abi.Link:
        """The kernel's stamps of a link."""
        return self._read("links", abi.Link, number)

    def write_link(self, number: int, value: abi.Link) -> None:
        """Set them; for a slot that gets another link, and for tests."""
        self._write("links", value, number)

    def control(self, cpu: int) -> abi.Control:
        """Newest control frame that this processor received."""
        return self._read("control", abi.Control, cpu)

    # Python's own ------------------------------------------------------------------------------

    def configure(
        self, *, pair: int, node: int, keys: Iterable[Key], send: int, port: int = abi.PORT
    ) -> None:
        """Say who we are and which keys count. `send` is the id of the key to send under."""
        listed = list(keys)
        assert 1 <= len(listed) <= abi.KEYS, "one key, or two while they are rotated"
        slots = [key.id for key in listed]
        config = abi.Config(pair=pair, node=node, send_key=slots.index(send), port=port)
        for slot, key in enumerate(listed):
            assert len(key.secret) == 16, "a key has 16 bytes"
            config.keys[slot] = abi.Key(
                k0=int.from_bytes(key.secret[:8], "little"),
                k1=int.from_bytes(key.secret[8:], "little"),
                id=key.id,
            )
        self._write("config", config)

    def config(self) -> abi.Config:
        """What `configure` wrote."""
        return self._read("config", abi.Config)

    def set_ports(self, ports: Iterable[Port]) -> None:
        """Make the links exactly these. New ones come first, so that none is deaf meanwhile."""
        self._sync("ports", dict(port.encoded() for port in ports))

    def set_vips(self, vips: Mapping[str, Vip]) -> None:
        """Make the addresses behind the gate exactly these; an address that stays is never off."""
        if vips == self._vips:
            return
        self._vips = None
        four: dict[bytes, bytes] = {}
        six: dict[bytes, bytes] = {}
        values = {
            vip: bytes(abi.Vip(vrid=vip.vrid, vmac=int(vip.vmac))) for vip in set(vips.values())
        }
        for text, vip in vips.items():
            if ":" in text:
                six[socket.inet_pton(socket.AF_INET6, text)] = values[vip]
            else:
                four[socket.inet_pton(socket.AF_INET, text)] = values[vip]
        self._sync("vips4", four)
        if six != self._written.get("vips6"):
            # The programs look up only what the sieve lets through: it has to know an address
            # first, and to forget it last.
            wanted = sieve_of(six)
            self._let_through(self._sieve() | wanted)
            self._sync("vips6", six)
            self._let_through(wanted)
        self._vips = dict(vips)

    def _sieve(self) -> int:
        raw = bpf.lookup(self._fds["sieve6"], _ZERO, abi.SIEVE_BYTES)
        assert raw is not None
        return int.from_bytes(raw, "little")

    def _let_through(self, bits: int) -> None:
        # Torn or not: whatever is set before and after is set meanwhile.
        bpf.update(self._fds["sieve6"], _ZERO, bits.to_bytes(abi.SIEVE_BYTES, "little"))

    def set_vrids(self, vrids: Mapping[int, abi.VridBit]) -> None:
        """Say which virtual MACs are ours; the others are not."""
        if vrids == self._vrids:
            return
        self._vrids = None
        ours = {
            vrid.to_bytes(4, "little"): int(bit).to_bytes(4, "little")
            for vrid, bit in vrids.items()
        }
        self._sync("vrids", _NO_VRIDS | ours)
        self._vrids = dict(vrids)

    def vips(self) -> list[str]:
        """The addresses behind the gate, sorted."""
        found = [ipaddress.IPv4Address(key) for key in bpf.keys(self._fds["vips4"], 4)]
        six = [ipaddress.IPv6Address(key) for key in bpf.keys(self._fds["vips6"], 16)]
        return [*map(str, sorted(found)), *map(str, sorted(six))]

    def _sync(self, name: str, wanted: Mapping[bytes, bytes]) -> None:
        spec = _BY_NAME[name]
        fd = self._fds[name]
        if len(wanted) > spec.entries:
            raise ValueError(f"{len(wanted)} entries for {name}, which has room for {spec.entries}")
        # Thousands of addresses are asked for once; whatever is refused half-way is asked for anew.
        known = self._written.pop(name, None)
        present = set(bpf.keys(fd, spec.key_size)) if known is None else known.keys()
        gone = sorted(present - wanted.keys())
        news = wanted.items() if known is None else wanted.items() - known.items()
        if len(present | wanted.keys()) > spec.entries:
            # Old and new do not fit side by side: the room comes first.
            bpf.delete_batch(fd, gone)
            gone = []
        bpf.update_batch(fd, sorted(news))
        if gone:
            bpf.delete_batch(fd, gone)
        self._written[name] = dict(wanted)

    # What the programs count -------------------------------------------------------------------

    def counters(self) -> dict[abi.Reason, int]:
        """Verdicts by reason, over all links and processors, since the maps were made."""
        counted = [self.counters_of(link) for link in (None, *range(abi.LINKS))]
        return {reason: sum(one.get(reason, 0) for one in counted) for reason in abi.Reason}

    def counters_of(
        self, link: int | None, reasons: Iterable[abi.Reason] = ()
    ) -> dict[abi.Reason, int]:
        """Verdicts on the heartbeats of one link; None: all verdicts on what is of no link.

        Each reason that is asked for is a system call; by default it is all there are.
        """
        wanted = tuple(reasons) or (abi.Reason if link is None else abi.HEARTBEAT_REASONS)
        first = 0 if link is None else (link + 1) * len(abi.Reason)
        return {reason: self._total("counters", first + reason) for reason in wanted}

    def gaps(self, link: int) -> list[int]:
        """Histogram of the time between two HELLOs of a link: bucket i is below 2**i µs."""
        first = link * abi.BUCKETS
        return [self._total("gaps", first + bucket) for bucket in range(abi.BUCKETS)]

    def _total(self, name: str, index: int) -> int:
        totals = self._totals.get(name)
        if totals is None:
            totals = self._totals[name] = bpf.Totals(self._fds[name])
        return totals.at(index)

    # Where the pins come from ------------------------------------------------------------------

    def layout(self) -> tuple[bytes, bytes]:
        """Fingerprints of the ABI and of the programs that these pins were made from."""
        raw = bpf.lookup(self._fds["layout"], _ZERO, LAYOUT_SIZE)
        assert raw is not None
        return raw[:32], raw[32:]


def sieve_of(addresses: Iterable[bytes]) -> int:
    """The bits under which the programs look for these IPv6 addresses: tb_passes_sieve()."""
    sieve = bytearray(abi.SIEVE_BYTES)
    for packed in addresses:
        folded = 0
        for at in range(0, len(packed), 4):
            folded ^= int.from_bytes(packed[at : at + 4], "little")
        bit = (folded * abi.SIEVE_FACTOR >> 16) % (8 * abi.SIEVE_BYTES)
        sieve[bit >> 3] |= 1 << (bit & 7)
    return int.from_bytes(sieve, "little")


_BY_NAME: Final = {spec.name: spec for spec in SPECS}
