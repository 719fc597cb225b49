# SPDX-License-Identifier: Apache-2.0
"""What interfaces count of their own sending: for telling a transmitter that has stalled."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twinbeat.net import netlink
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import IFINFO, IFLA_IFNAME
from twinbeat.net.netlink import Socket, attributes

_IFLA_STATS64: Final = 23
_STATS: Final = struct.Struct("=8Q")
"""The head of struct rtnl_link_stats64: packets, bytes, errors and dropped, received and sent."""
_CLASS: Final = Path("/sys/class/net")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transmitted:
    """Counters of one interface."""

    packets: int
    dropped: int
    """tx_dropped and tx_errors."""
    timeouts: int
    """How often the kernel's transmit watchdog fired, all queues together; 0 where sysfs shows
    another namespace's interfaces or none."""


def transmitted(names: Collection[str]) -> dict[str, Transmitted]:
    """The counters of those that exist. Blocking.

    Raises NetError.
    """
    try:
        with Socket() as sock:
            found = sock.dump(netlink.RTM_GETLINK, IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
    except OSError as error:
        raise NetError("reading interface counters", code=error.errno or 0) from error
    counters = {}
    for kind, body in found:
        attrs = attributes(body, IFINFO.size) if kind == netlink.RTM_NEWLINK else {}
        name = attrs.get(IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
        raw = attrs.get(_IFLA_STATS64, b"")
        if name in names and len(raw) >= _STATS.size:
            _, packets, _, _, _, errors, _, dropped = _STATS.unpack_from(raw)
            counters[name] = Transmitted(
                packets=packets, dropped=dropped + errors, timeouts=_timeouts(name)
            )
    return counters


def _timeouts(name: str) -> int:
    fired = 0
    for queue in _CLASS.glob(f"{name}/queues/tx-*/tx_timeout"):
        with contextlib.suppress(OSError, ValueError):
            fired += int(queue.read_text())
    return fired
