# SPDX-License-Identifier: Apache-2.0
"""The peer's MAC on links within one subnet: asked for once, then pinned.

The engine builds its frames in advance and never asks anybody, so the entry must not age: it is
made permanent for as long as the agent runs.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from typing import TYPE_CHECKING, Final

from pyroute2.netlink.exceptions import NetlinkError

from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Address, Interface

if TYPE_CHECKING:
    from twinbeat.net import AsyncIPRoute

NUD_REACHABLE: Final = 0x02
NUD_STALE: Final = 0x04
NUD_DELAY: Final = 0x08
NUD_PROBE: Final = 0x10
NUD_PERMANENT: Final = 0x80
_USABLE: Final = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT
_DISCARD_PORT: Final = 9


async def find(ipr: AsyncIPRoute, port: Interface, address: Address) -> str | None:
    """The MAC the neighbour table knows for an address; None if it knows none."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    async for entry in await ipr.neigh("dump", family=family, ifindex=port.index):
        if entry["ifindex"] != port.index or not entry["state"] & _USABLE:
            continue
        known = entry.get_attr("NDA_DST")
        mac = entry.get_attr("NDA_LLADDR")
        if known is not None and mac and ipaddress.ip_address(known) == address:
            return str(mac)
    return None


async def resolve(
    ipr: AsyncIPRoute, port: Interface, address: Address, *, timeout_s: float
) -> str | None:
    """Have the kernel ask for an address and wait for the answer; None if none comes in time."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    pause_s = 0.005
    while True:
        mac = await find(ipr, port, address)
        if mac is not None:
            return mac
        if asyncio.get_running_loop().time() >= deadline:
            return None
        _provoke(port, address)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.5)


async def pin(ipr: AsyncIPRoute, port: Interface, address: Address, mac: str) -> None:
    """Make the entry permanent.

    Raises NetError if the kernel refuses.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        await ipr.neigh(
            "replace",
            dst=str(address),
            lladdr=mac,
            ifindex=port.index,
            state="permanent",
            family=family,
        )
    except NetlinkError as error:
        raise NetError(f"pinning {address} to {mac} on {port.name}", code=error.code) from error


async def unpin(ipr: AsyncIPRoute, port: Interface, address: Address) -> None:
    """Remove the entry, so that the kernel learns it afresh; one that is gone already is fine."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        await ipr.neigh("del", dst=str(address), ifindex=port.index, family=family)
    except NetlinkError as error:
        if error.code not in {errno.ENOENT, errno.ENODEV}:
            raise NetError(f"unpinning {address} on {port.name}", code=error.code) from error


def _provoke(port: Interface, address: Address) -> None:
    """An empty datagram to the discard port: it makes the kernel resolve the address."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    where: tuple[object, ...] = (str(address), _DISCARD_PORT)
    if family == socket.AF_INET6:
        where = (str(address), _DISCARD_PORT, 0, port.index if address.is_link_local else 0)
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, port.name.encode())
            sock.sendto(b"", where)
        except OSError:
            # No route or no carrier now; the caller tries again until its time is up.
            return
