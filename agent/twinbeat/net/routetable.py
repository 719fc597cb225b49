# SPDX-License-Identifier: Apache-2.0
"""Which routes the kernel has for the prefixes that somebody watches.

The kernel doesn't tell of every route that goes: those that fall with their interface, with an
address or with a next-hop object vanish silently in IPv4. So its notifications are not added up;
they only say when to look, and what counts is what a dump finds. Looking happens in a thread, and
the more it costs (a full internet table takes a second) the seldomer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

from twinbeat.net import netlink
from twinbeat.net.errors import NetError
from twinbeat.net.netlink import EventSocket, Socket, attributes, messages

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

log = logging.getLogger("twinbeat.routes")

RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
_GROUPS: Final = (
    netlink.RTNLGRP_LINK,
    netlink.RTNLGRP_IPV4_IFADDR,
    7,  # RTNLGRP_IPV4_ROUTE
    11,  # RTNLGRP_IPV6_ROUTE
    32,  # RTNLGRP_NEXTHOP
)
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, prefix lengths, tos, table, protocol, scope, type, flags."""
_NEXTHOP: Final = struct.Struct("=HBBi")
"""struct rtnexthop: length, flags, hops, interface."""
_RTN_UNICAST: Final = 1
_RTM_F_CLONED: Final = 0x200
_DEAD: Final = 1
_LINKDOWN: Final = 16
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 9, 15, 18

_PAUSE_MIN_S: Final = 0.02
_PAUSE_COST: Final = 10
"""So many times as long as a look took nobody looks again."""
_PAUSE_BROKEN_S: Final = 2.0
"""After a look that ended in a fault of ours."""
_LOOK_AGAIN_S: Final = 30.0
"""Even when nothing is heard, in case a kernel forgets to say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One way on."""

    interface: int
    gateway: Address | None
    """None: the destination is on the link."""
    alive: bool
    """The interface is up and has carrier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRoute:
    """A route as the kernel has it."""

    destination: Network
    table: int
    protocol: int
    metric: int
    hops: tuple[Hop, ...]
    """None for a route by a next-hop object that has no way on of its own."""


class RouteTable:
    """The routes for some prefixes, kept up to date; `changed` is called after every change."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._watched: dict[tuple[int, int, bytes], Network] = {}
        self._lengths: frozenset[tuple[int, int]] = frozenset()
        """Family and prefix length of those watched: most routes have neither."""
        self._routes: dict[Network, tuple[KernelRoute, ...]] = {}
        self._socket: EventSocket | None = None
        self._stale = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._complained = False

    def routes(self, prefix: Network) -> tuple[KernelRoute, ...]:
        """All unicast routes for exactly this prefix, in any table."""
        return self._routes.get(prefix, ())

    async def watch(self, prefixes: Collection[Network]) -> None:
        """Watch these from now on; when it returns they are known.

        Raises NetError.
        """
        self._watched = {_key(prefix): prefix for prefix in prefixes}
        self._lengths = frozenset((family, length) for family, length, _ in self._watched)
        if not prefixes:
            await self.stop()
            return
        if self._socket is None:
            try:
                self._socket = EventSocket(_GROUPS)
            except OSError as error:
                raise NetError("listening for routes", code=error.errno or 0) from error
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)
            self._begin()
        self._routes = await asyncio.to_thread(self._look)

    async def stop(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    # -- hearing ---------------------------------------------------------------------------------

    def _readable(self) -> None:
        assert self._socket is not None
        if not self._socket.read(self._hear):
            self._stale.set()

    def _hear(self, kind: int, body: memoryview) -> None:
        if kind in {RTM_NEWROUTE, RTM_DELROUTE}:
            if self._watched_of(body) is not None:
                self._stale.set()
        elif kind not in {netlink.RTM_NEWADDR}:
            # An interface, an address or a next hop changed, and routes may have gone with it.
            self._stale.set()

    def _watched_of(self, body: memoryview) -> Network | None:
        """The watched prefix that a route is for. Quick: most routes are for none."""
        family, length = body[0], body[1]
        if (family, length) not in self._lengths:
            return None
        packed = b""
        if length:
            found = attributes(body, _RTMSG.size)
            packed = found.get(_RTA_DST, b"")
        return self._watched.get((family, length, packed))

    # -- looking ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._socket is not None and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Routes that nobody looks at any more must not look like routes that stay: the loop's
        handler says what broke, and after a while they are looked at anew."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "looking at the routes broke", "exception": error})
        if task is self._task:
            self._task = None
            self._stale.set()
            loop.call_later(_PAUSE_BROKEN_S, self._begin)

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await self._stale.wait()
            except TimeoutError:
                pass
            self._stale.clear()
            began = time.monotonic()
            try:
                found = await asyncio.to_thread(self._look)
            except NetError as error:
                if not self._complained:
                    log.warning("%s", error.sentence())
                self._complained = True
                self._stale.set()
            else:
                self._complained = False
                if found != self._routes:
                    self._routes = found
                    self._changed()
            took_s = time.monotonic() - began
            await asyncio.sleep(max(_PAUSE_MIN_S, _PAUSE_COST * took_s))

    def _look(self) -> dict[Network, tuple[KernelRoute, ...]]:
        """Ask the kernel. Blocking.

        Raises NetError.
        """
        found: dict[Network, list[KernelRoute]] = {}
        for family in sorted({family for family, _, _ in self._watched}):
            try:
                with _Dump() as dump:
                    for body in dump.routes(family):
                        prefix = self._watched_of(body)
                        if prefix is not None and (route := parse(body, prefix)) is not None:
                            found.setdefault(prefix, []).append(route)
            except OSError as error:
                raise NetError("reading the routes", code=error.errno or 0) from error
        return {prefix: tuple(routes) for prefix, routes in found.items()}


class _Dump(Socket):
    """Reads a dump as it comes: a whole table is never held in memory."""

    def routes(self, family: int) -> Iterator[memoryview]:
        """The body of each route. Raises NetError."""
        header = netlink.HEADER.pack(
            netlink.HEADER.size + _RTMSG.size,
            RTM_GETROUTE,
            netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP,
            1,
            0,
        )
        self._socket.settimeout(5.0)
        self._socket.send(header + _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        while True:
            for kind, _sequence, body in messages(self._socket.recv(1 << 18)):
                if kind == netlink.NLMSG_DONE:
                    return
                if kind == netlink.NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", body)
                    raise NetError("reading the routes", code=-code)
                yield body


def parse(body: memoryview, prefix: Network) -> KernelRoute | None:
    """A route of the table; None for one that leads nowhere, or was made for one destination."""
    _, _, _, _, table, protocol, _, kind, flags = _RTMSG.unpack_from(body)
    if kind != _RTN_UNICAST or flags & _RTM_F_CLONED:
        return None
    found = attributes(body, _RTMSG.size)
    hops = []
    if _RTA_MULTIPATH in found:
        hops = _multipath(found[_RTA_MULTIPATH])
    elif _RTA_OIF in found:
        (interface,) = struct.unpack("=i", found[_RTA_OIF])
        hops = [_hop(interface, found, flags)]
    return KernelRoute(
        destination=prefix,
        table=_number(found.get(_RTA_TABLE)) or table,
        protocol=protocol,
        metric=_number(found.get(_RTA_PRIORITY)),
        hops=tuple(hops),
    )


def _multipath(raw: bytes) -> list[Hop]:
    hops = []
    offset = 0
    while offset + _NEXTHOP.size <= len(raw):
        length, flags, _, interface = _NEXTHOP.unpack_from(raw, offset)
        if length < _NEXTHOP.size:
            break
        nested = attributes(raw[offset + _NEXTHOP.size : offset + length], 0)
        hops.append(_hop(interface, nested, flags))
        offset += netlink.align(length)
    return hops


def _hop(interface: int, found: dict[int, bytes], flags: int) -> Hop:
    raw = found.get(_RTA_GATEWAY)
    via = found.get(_RTA_VIA)
    if raw is None and via is not None and len(via) > 2:
        raw = via[2:]  # an IPv4 route by an IPv6 router: two bytes of family, then the address
    gateway: Address | None = None
    if raw is not None:
        gateway = ipaddress.IPv4Address(raw) if len(raw) == 4 else ipaddress.IPv6Address(raw)
    return Hop(interface=interface, gateway=gateway, alive=not flags & (_DEAD | _LINKDOWN))


def _number(raw: bytes | None) -> int:
    return struct.unpack("=I", raw)[0] if raw is not None and len(raw) == 4 else 0


def _key(prefix: Network) -> tuple[int, int, bytes]:
    family = socket.AF_INET if prefix.version == 4 else socket.AF_INET6
    packed = prefix.network_address.packed if prefix.prefixlen else b""
    return int(family), prefix.prefixlen, packed
