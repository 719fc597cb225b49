# SPDX-License-Identifier: Apache-2.0
"""conntrackd's configuration, made from ours, and what it says of itself (conntrackd 1.4.7)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from twinbeat.sessions.connections import ConnectionSettings

PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS: Final = {
    "conntrackd": "conntrackd",
    "conntrack": "conntrack",
    "nft": "nftables",
    "setpriv": "util-linux",
}
"""What is run, and the packages that it is in."""
NAMES: Final = {
    "tcp": "TCP",
    "udp": "UDP",
    "icmp": "ICMP",
    "icmp6": "IPv6-ICMP",
    "sctp": "SCTP",
    "dccp": "DCCP",
}
ALWAYS_IGNORED: Final = ("127.0.0.1", "::1")
ACK_WINDOW: Final = 300
"""conntrackd's own default: messages that are confirmed at once."""
PATH_MOST: Final = 107
"""Bytes of the path of a unix socket (unix(7))."""


def configuration(settings: ConnectionSettings, directory: Path) -> str:
    """The file for `conntrackd -C`; lock and socket lie in the directory."""
    ends = [ipaddress.ip_address(each) for each in (settings.local, settings.peer)]
    local, peer = (f"IPv{ends[0].version}_{word}" for word in ("address", "Destination_Address"))
    size = settings.buffer_kib * 1024
    lines = [
        "# Made by twinbeat-worker from [connections]; changes here are lost.",
        "Sync {",
        "\tMode FTFW {",
        f"\t\tResendQueueSize {settings.resend_max}",
        f"\t\tACKWindowSize {ACK_WINDOW}",
        "\t\tDisableExternalCache yes",
        "\t\tStartupResync no",
        "\t}",
        "\tUDP {",
        f"\t\t{local} {ends[0]}",
        f"\t\t{peer} {ends[1]}",
        f"\t\tPort {settings.port}",
        f"\t\tInterface {settings.interface}",
        f"\t\tSndSocketBuffer {size}",
        f"\t\tRcvSocketBuffer {size}",
        "\t\tChecksum yes",
        "\t}",
        "\tOptions {",
        # Windows aren't told, so the kernel is to take such connections as they come.
        "\t\tTCPWindowTracking no",
        "\t}",
        "}",
        "General {",
        "\tSystemd no",
        f"\tHashSize {buckets(settings.flows_max)}",
        f"\tHashLimit {settings.flows_max}",
        "\tLogFile no",
        "\tSyslog no",
        f"\tLockFile {directory / 'conntrackd.lock'}",
        "\tUNIX {",
        f"\t\tPath {directory / 'conntrackd.ctl'}",
        "\t}",
        f"\tNetlinkBufferSize {min(size, 2 << 20)}",
        f"\tNetlinkBufferSizeMaxGrowth {size}",
        "\tNetlinkOverrunResync yes",
        "\tNetlinkEventsReliable no",
        "\tEventIterationLimit 100",
        # By itself it would run before everything else (round robin, 99), the engine included. No
        # real-time priority is 0, so this is refused and it stays an ordinary process.
        "\tScheduler {",
        "\t\tType RR",
        "\t\tPriority 0",
        "\t}",
        "\tFilter From Userspace {",
        "\t\tProtocol Accept {",
        *(f"\t\t\t{NAMES[protocol]}" for protocol in settings.protocols),
        "\t\t}",
        "\t\tAddress Ignore {",
        *(f"\t\t\t{line}" for line in _ignored(settings)),
        "\t\t}",
        "\t\tState Accept {",
        "\t\t\tESTABLISHED CLOSED TIME_WAIT CLOSE_WAIT for TCP",
        "\t\t}",
        "\t}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _ignored(settings: ConnectionSettings) -> Iterator[str]:
    for text in dict.fromkeys((*ALWAYS_IGNORED, *settings.ignore)):
        network = ipaddress.ip_network(text)
        alone = network.num_addresses == 1
        yield f"IPv{network.version}_address {network.network_address if alone else network}"


def buckets(flows_max: int) -> int:
    """A power of two, a quarter of what it is for: the proportion of conntrackd's examples."""
    return max(1 << (flows_max // 4 - 1).bit_length(), 1024)


# -- what it says --------------------------------------------------------------------------------

_TRAFFIC: Final = re.compile(r"(\d+) (Bytes|Pckts|Error) (sent|send|recv)")
_TRAFFIC_NAMES: Final = {
    ("Bytes", "sent"): "sent_bytes",
    ("Bytes", "recv"): "received_bytes",
    ("Pckts", "sent"): "sent_packets",
    ("Pckts", "recv"): "received_packets",
    ("Error", "send"): "send_errors",
    ("Error", "recv"): "receive_errors",
}
_CHANGES: Final = re.compile(
    r"connections (?:created|updated|destroyed):\s+(\d+)\s+failed:\s+(\d+)"
)
_COUNT: Final = re.compile(r"current active connections:\s+(\d+)")
_MESSAGES: Final = re.compile(r"(\d+) (Malformed|Lost) msgs")
_OVERRUN: Final = re.compile(r"netlink overrun:\s+(\d+)")
_QUEUE: Final = re.compile(
    r"queue rsqueue:\s+current elements:\s+(\d+)\s+maximum elements:\s+\d+\s+"
    r"not enough space errors:\s+(\d+)"
)
_CPU: Final = re.compile(r"(early_drop|insert_failed|drop)=(\d+)")


def general(text: str) -> tuple[int | None, dict[str, int]]:
    """What `conntrackd -s` prints: connections in its own cache, None where it doesn't say, and the
    counts of this run. What it doesn't print isn't there."""
    counts: dict[str, int] = {}
    tracked = None
    for part in text.split("\n\n"):
        head = part.lstrip().partition("\n")[0]
        if head.startswith("cache internal") and (found := _COUNT.search(part)):
            tracked = int(found[1])
        elif head.startswith("external inject"):
            changes = _CHANGES.findall(part)
            counts["installed"] = sum(int(done) for done, _ in changes)
            counts["install_failed"] = sum(int(failed) for _, failed in changes)
        elif head.startswith("UDP traffic"):
            for number, what, way in _TRAFFIC.findall(part):
                if name := _TRAFFIC_NAMES.get((what, way)):
                    counts[name] = int(number)
        elif head.startswith("message tracking"):
            counts |= {what.lower(): int(number) for number, what in _MESSAGES.findall(part)}
    return tracked, counts


def runtime(text: str) -> dict[str, int]:
    """Of `conntrackd -s runtime`: how often the kernel had more news than room for them."""
    found = _OVERRUN.search(text)
    return {"overruns": int(found[1])} if found else {}


def queue(text: str) -> tuple[int, dict[str, int]]:
    """Of `conntrackd -s queue`: messages that the peer hasn't confirmed, and how often there was no
    room for another."""
    found = _QUEUE.search(text)
    return (int(found[1]), {"resent_full": int(found[2])}) if found else (0, {})


def kernel(text: str) -> dict[str, int]:
    """Of `conntrack -S`, one line for each processor: connections that the kernel threw out early
    to make room for others, and those that found none."""
    sums: dict[str, int] = {}
    for name, number in _CPU.findall(text):
        sums[name] = sums.get(name, 0) + int(number)
    if not sums:
        return {}
    return {"early_dropped": sums.get("early_drop", 0), "table_full": sums.get("drop", 0)}
