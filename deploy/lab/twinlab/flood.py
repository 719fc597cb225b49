# SPDX-License-Identifier: Apache-2.0
"""Floods of forged, replayed and unrelated frames against a node's link.

A forged heartbeat is right in everything that can be seen from outside (addresses, TTL, magic,
pair, sender, a counter far ahead that grows) and wrong in the one thing that can't be: its MAC.
"""

from __future__ import annotations

import ipaddress
import struct
import subprocess
from collections.abc import Iterable

from twinlab import netns, plan, services
from twinlab.capture import Recording
from twinlab.shell import LabError

FRAME = struct.Struct("!IBBBBIB2sBQQQQQQQQIIBBHIIIIIII8s")
"""`struct tb_frame` of ebpf/tb_abi.h, field by field."""

MAGIC = 0x54425431
VERSION, HELLO = 1, 1
FLAG_OPEN, FLAG_FIT, FLAG_CLAIMING = 1 << 0, 1 << 7, 1 << 10
ROLE_CLAIMING = 2
COUNTER_AT = 14 + 20 + 8 + 16
"""Where the counter lies in the Ethernet frame."""

assert FRAME.size == 128


def udp_frame(node: str, link: str, payload: bytes, *, port: int = plan.HEARTBEAT_PORT) -> bytes:
    """An Ethernet frame to a node on a link that seems to come from its peer."""
    peer = plan.peer(node)
    udp = struct.pack("!HHHH", port, port, 8 + len(payload), 0) + payload
    addresses = (plan.node_address(peer, link), plan.node_address(node, link))
    header = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x45, 0xC0, 20 + len(udp), 0, 0, 255, 17, 0),
        *(ipaddress.IPv4Address(address).packed for address in addresses),
    )
    checksum = sum(struct.unpack("!10H", header))
    checksum = (checksum & 0xFFFF) + (checksum >> 16)
    header = header[:10] + struct.pack("!H", ~(checksum + (checksum >> 16)) & 0xFFFF) + header[12:]
    macs = plan.node_mac(node, link), plan.node_mac(peer, link)
    ethernet = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs) + b"\x08\x00"
    return ethernet + header + udp


def forged(node: str, link: str, *, link_number: int) -> bytes:
    """A heartbeat that claims a term above all others, in the name of the node's peer."""
    term = 1 << 60 | plan.node_index(plan.peer(node))
    payload = FRAME.pack(
        *(MAGIC, VERSION, HELLO, plan.node_index(plan.peer(node)), link_number, plan.PAIR_ID),
        *(1, b"\x01\x00", VERSION),
        *(1, 1, term, term, term, term, 1, 1),
        *(10_000, FLAG_OPEN | FLAG_FIT | FLAG_CLAIMING, ROLE_CLAIMING, 0, 100),
        *(600, 10_000, 200, 400, 0, 0, 0),
        b"no MAC!!",
    )
    return udp_frame(node, link, payload)


def unrelated(node: str, link: str) -> bytes:
    """A datagram of the same size to another port: what an equal flood of anything costs."""
    return udp_frame(node, link, bytes(FRAME.size), port=9)


def recorded(recording: Recording, node: str, link: str) -> list[bytes]:
    """The heartbeats that the node's peer sent on a link, from a capture: to be replayed.

    The capture has to keep heartbeats whole (`heartbeats=True, snap=256`).
    """
    return [
        frame.data
        for frame in recording.frames
        if frame.link == link
        and frame.port == plan.peer(node)
        and (ports := frame.udp_ports()) is not None
        and ports[1] == plan.HEARTBEAT_PORT
        and len(frame.data) == COUNTER_AT - 16 + FRAME.size
    ]


class Flood:
    """A running flood against a node's link.  Use as a context; `finish` says how many went out."""

    def __init__(
        self,
        node: str,
        link: str,
        frames: Iterable[bytes],
        *,
        rate: int = 200_000,
        seconds: int = 10,
        counting_from: int | None = None,
        name: str = "flood",
    ) -> None:
        listed = list(frames)
        if not listed or len({len(frame) for frame in listed}) != 1:
            raise LabError("a flood needs frames, all of one length")
        path = plan.RUN_DIR / f"{name}.frames"
        path.write_bytes(b"".join(listed))
        self._command = [*netns.enter(plan.SWITCHES[link]), services.tool("tb-flood")]
        self._command += ["--device", node, "--frames", str(path), "--length", str(len(listed[0]))]
        self._command += ["--rate", str(rate), "--seconds", str(seconds)]
        if counting_from is not None:
            self._command += ["--count-at", str(COUNTER_AT), "--count-from", str(counting_from)]
        self._process: subprocess.Popen[str] | None = None
        self.sent = 0
        self.refused = 0
        """Frames that the device had no room for, and said so; they are not among those sent."""

    def __enter__(self) -> Flood:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """End a flood that has begun before its time; returns the frames sent."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        return self.finish()

    def finish(self) -> int:
        """Wait for the end of the flood (its time is limited); returns the frames sent."""
        if self._process is not None:
            said, problem = self._process.communicate(timeout=180)
            code = self._process.returncode
            self._process = None
            if code != 0:
                raise LabError(f"tb-flood: {problem.strip()}")
            self.sent, self.refused = map(int, said.split())
        return self.sent
