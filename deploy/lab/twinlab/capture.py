# SPDX-License-Identifier: Apache-2.0
"""Capturing on the switches, and telling from it who answered for a VIP, and when.

A capture holds what came *into* the ports of the switches (see tools/tb-capture.c).  `overlap` is
computed here and nowhere else: the frames in which the old owner still answered or announced for a
VIP after the new owner's first such frame.
"""

from __future__ import annotations

import functools
import ipaddress
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from twinlab import plan, processes, services
from twinlab.shell import LabError, wait_for

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
OPTION_COMMENT, OPTION_NAME, OPTION_LOST = 1, 2, 5
ETHERTYPE_IP, ETHERTYPE_ARP, ETHERTYPE_VLAN, ETHERTYPE_IP6 = 0x0800, 0x0806, 0x8100, 0x86DD
ICMP6, NEIGHBOUR_ADVERTISEMENT = 58, 136


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame that came into a switch port."""

    at_ns: int
    """CLOCK_BOOTTIME, as all moments of the lab."""
    link: str
    """Which network: lan0, wan0 or ha0."""
    port: str
    """Who is plugged in there: a, b, client, s1, s2."""
    data: bytes
    """The frame from its first byte, as far as it was captured."""

    @property
    def source(self) -> str:
        return self.data[6:12].hex(":")

    @property
    def destination(self) -> str:
        return self.data[0:6].hex(":")

    def _network(self) -> tuple[int, int]:
        """Ether type and offset of what follows it, a VLAN tag skipped."""
        kind = int.from_bytes(self.data[12:14], "big")
        if kind == ETHERTYPE_VLAN:
            return int.from_bytes(self.data[16:18], "big"), 18
        return kind, 14

    def speaks_for(self) -> str | None:
        """The address the frame is sent in the name of: IP source, ARP sender, NA target."""
        kind, at = self._network()
        if kind == ETHERTYPE_ARP and len(self.data) >= at + 28:
            return str(ipaddress.IPv4Address(self.data[at + 14 : at + 18]))
        if kind == ETHERTYPE_IP and len(self.data) >= at + 20:
            return str(ipaddress.IPv4Address(self.data[at + 12 : at + 16]))
        if kind == ETHERTYPE_IP6 and len(self.data) >= at + 40:
            is_na = (
                self.data[at + 6] == ICMP6
                and len(self.data) >= at + 64
                and self.data[at + 40] == NEIGHBOUR_ADVERTISEMENT
            )
            address = self.data[at + 48 : at + 64] if is_na else self.data[at + 8 : at + 24]
            return str(ipaddress.IPv6Address(address))
        return None

    def is_announcement(self) -> bool:
        """Whether it is a gratuitous ARP or an unsolicited neighbour advertisement."""
        kind, at = self._network()
        if kind == ETHERTYPE_ARP and len(self.data) >= at + 28:
            return self.data[at + 14 : at + 18] == self.data[at + 24 : at + 28]
        return (
            kind == ETHERTYPE_IP6
            and self.speaks_for() is not None
            and (
                self.data[at + 6 : at + 7] == bytes([ICMP6])
                and self.data[at + 40 : at + 41] == bytes([NEIGHBOUR_ADVERTISEMENT])
            )
        )

    def udp_ports(self) -> tuple[int, int] | None:
        """Source and destination port of a UDP datagram over IPv4."""
        kind, at = self._network()
        if kind != ETHERTYPE_IP or len(self.data) < at + 28 or self.data[at + 9] != 17:
            return None
        begin = at + 4 * (self.data[at] & 15)
        return struct.unpack_from("!HH", self.data, begin)


@dataclass(frozen=True, slots=True)
class Recording:
    """What was captured, in the order of time."""

    frames: list[Frame]
    lost: int
    """Frames the capture had no room for; that something was *not* seen needs 0 here."""

    def by_owner(self, vips: Iterable[str], vmacs: Iterable[str] = ()) -> list[Frame]:
        """The nodes' frames in the name of a VIP or from a virtual MAC."""
        wanted, macs = set(vips), set(vmacs)
        return [
            frame
            for frame in self.frames
            if frame.port in plan.NODES and (frame.source in macs or frame.speaks_for() in wanted)
        ]

    def overlap(
        self,
        old: str,
        new: str,
        *,
        vips: Iterable[str],
        vmacs: Iterable[str] = (),
        since_ns: int = 0,
        until_ns: int | None = None,
    ) -> list[Frame]:
        """Frames for a VIP from the old owner after the new owner's first one since a moment.

        until_ns: when the old owner rightly became the owner again, if it did.
        """
        owned = [
            frame
            for frame in self.by_owner(vips, vmacs)
            if frame.at_ns >= since_ns and (until_ns is None or frame.at_ns < until_ns)
        ]
        first = next((frame.at_ns for frame in owned if frame.port == new), None)
        if first is None:
            return []
        return [frame for frame in owned if frame.port == old and frame.at_ns > first]


def read(paths: Iterable[Path]) -> Recording:
    """Read captures of several switches into one, ordered by time."""
    frames: list[Frame] = []
    lost = 0
    for path in paths:
        more, missing = _read_one(path)
        frames += more
        lost += missing
    frames.sort(key=lambda frame: frame.at_ns)
    return Recording(frames, lost)


def _blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 12 <= len(data):
        kind, length = struct.unpack_from("=II", data, at)
        if length < 12 or at + length > len(data):
            return  # The last block of a capture that still runs.
        yield kind, data[at + 8 : at + length - 4]
        at += length


def _options(data: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + 4 <= len(data):
        code, length = struct.unpack_from("=HH", data, at)
        if code == 0:
            break
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + (length + 3 & ~3)
    return found


def _read_one(path: Path) -> tuple[list[Frame], int]:
    frames: list[Frame] = []
    ports: list[tuple[str, str]] = []
    offset = lost = 0
    for kind, body in _blocks(path.read_bytes()):
        if kind == PACKET:
            interface, high, low, captured, _original = struct.unpack_from("=IIIII", body)
            link, port = ports[interface]
            data = body[20 : 20 + captured]
            frames.append(Frame((high << 32 | low) - offset, link, port, data))
        elif kind == INTERFACE:
            name = _options(body[8:])[OPTION_NAME].decode()
            link, _, port = name.partition(":")
            ports.append((link, port))
        elif kind == SECTION:
            comment = _options(body[16:])[OPTION_COMMENT].decode()
            offset = int(comment.partition("boottime_offset_ns=")[2])
        elif kind == STATISTICS:
            lost += struct.unpack("=Q", _options(body[12:])[OPTION_LOST])[0]
    return frames, lost


class Capture:
    """A running capture on the switches of some links.  Use as a context."""

    def __init__(
        self,
        *,
        links: Iterable[str] = ("lan0", "wan0"),
        ports: Iterable[str] = plan.NODES,
        heartbeats: bool = False,
        snap: int = 128,
        name: str = "capture",
        directory: Path = plan.RUN_DIR,
    ) -> None:
        self._links = tuple(links)
        unknown = [link for link in self._links if link not in plan.SWITCHES]
        if unknown:
            raise LabError(f"{unknown[0]}: no such link (they are {', '.join(plan.SWITCHES)})")
        self._names = {link: f"{name}-{link}" for link in self._links}
        self.paths = [directory / f"{name}-{link}.pcapng" for link in self._links]
        self._ports = tuple(ports)
        self._heartbeats = heartbeats
        self._snap = snap

    def __enter__(self) -> Capture:
        try:
            for link, path in zip(self._links, self.paths, strict=True):
                command = [services.tool("tb-capture"), "--out", str(path), "--label", link]
                command += ["--snap", str(self._snap)]
                for port in self._ports:
                    command += ["--port", port]
                if not self._heartbeats:
                    command.append("--without-heartbeats")
                processes.log_file(self._names[link]).unlink(missing_ok=True)
                processes.spawn(self._names[link], plan.SWITCHES[link], command)
            for name in self._names.values():
                wait_for(
                    functools.partial(_is_ready, name),
                    "the capture",
                    timeout_s=5,
                    interval_s=0.005,
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names.values():
            processes.end(name)

    def finish(self) -> Recording:
        """End the capture and read it; a second call only reads."""
        self.__exit__()
        return read(self.paths)


def _is_ready(name: str) -> bool:
    if "ready" in processes.log_tail(name):
        return True
    if processes.pid_of(name) is None:
        raise LabError(f"tb-capture ended: {processes.log_tail(name)}")
    return False
