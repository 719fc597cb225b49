# SPDX-License-Identifier: Apache-2.0
"""What the kernel knows and tells of: interfaces and routes, as findings for the monitors."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from twinbeat.health.answer import ask
from twinbeat.health.board import Finding
from twinbeat.health.stall import Sent, StallWatch
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Interface, interfaces
from twinbeat.net.monitor import LINKS_ONLY, LinkChanged, LinkGone, Missed, Monitor, Notice
from twinbeat.net.routetable import KernelRoute, RouteTable
from twinbeat.net.statistics import Transmitted, transmitted

if TYPE_CHECKING:
    from twinbeat.runtime.monitors import Target

log = logging.getLogger("twinbeat.health")

STATISTICS_NS: Final = 2_000_000_000
"""Between two looks at the counters of transmitters."""
WAYS_MAX: Final = 16
"""Next hops of one route that are asked."""


class Interfaces:
    """State of interfaces by name: told by the kernel, and their transmitters looked at."""

    def __init__(self, *, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._watched: frozenset[str] = frozenset()
        self._now: dict[str, Interface] = {}
        self._stalls: dict[str, StallWatch] = {}
        self._stalled: dict[str, str] = {}
        self._monitor = Monitor(self._on_notice, groups=LINKS_ONLY)
        self._task: asyncio.Task[None] | None = None
        self._looked_ns = 0
        self._complained = False

    async def watch(self, names: set[str]) -> None:
        """Watch these from now on."""
        self._watched = frozenset(names)
        self._stalls = {name: self._stalls.get(name) or StallWatch() for name in names}
        self._stalled = {name: why for name, why in self._stalled.items() if name in names}
        self._monitor.start()
        self._look()

    async def stop(self) -> None:
        self._monitor.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def finding(self, name: str) -> Finding:
        """How the interface is."""
        now = self._now.get(name)
        if now is None:
            why = "there is no such interface"
        elif not now.up:
            why = "it was set down"
        elif not now.carrier:
            why = "it has no carrier"
        else:
            why = self._stalled.get(name, "")
        return Finding(holds=not why, sentence=why or "up, with carrier", certain=True)

    def _look(self) -> None:
        found = interfaces()
        self._now = {name: found[name] for name in self._watched if name in found}

    def _on_notice(self, notice: Notice) -> None:
        match notice:
            case LinkChanged(interface=now):
                renamed = [
                    name
                    for name, known in self._now.items()
                    if known.index == now.index and name != now.name
                ]
                for name in renamed:
                    del self._now[name]
                if now.name in self._watched:
                    self._now[now.name] = now
                elif not renamed:
                    return
            case LinkGone(index=index):
                gone = [name for name, known in self._now.items() if known.index == index]
                if not gone:
                    return
                del self._now[gone[0]]
            case Missed():
                self._look()
            case _:
                return
        self._changed()

    def duty(self, at_ns: int) -> None:
        """A duty of the loop that decides; a look that still runs is not waited for."""
        busy = self._task is not None and not self._task.done()
        if self._watched and not busy and at_ns - self._looked_ns >= STATISTICS_NS:
            self._looked_ns = at_ns
            self._task = asyncio.get_running_loop().create_task(self._look_at_transmitters())
            self._task.add_done_callback(_ended)

    async def _look_at_transmitters(self) -> None:
        try:
            counters = await asyncio.to_thread(transmitted, self._watched)
        except NetError as error:
            if not self._complained:
                log.warning("transmit stalls can't be seen: %s", error.sentence())
            self._complained = True
            return
        self._complained = False
        self._see(counters)

    def _see(self, counters: dict[str, Transmitted]) -> None:
        stalled = {}
        for name, watch in self._stalls.items():
            one = counters.get(name)
            sent = None
            if one is not None:
                sent = Sent(packets=one.packets, dropped=one.dropped, timeouts=one.timeouts)
            if why := watch.see(sent):
                stalled[name] = why
        if stalled.keys() != self._stalled.keys():
            self._stalled = stalled
            self._changed()


def _ended(task: asyncio.Task[None]) -> None:
    """A look that broke is said at once, by the loop's handler; the next one is on its way."""
    if not task.cancelled() and (error := task.exception()) is not None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "looking at the transmitters broke", "exception": error}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A next hop to ask, and through which interface."""

    gateway: ipaddress.IPv4Address | ipaddress.IPv6Address
    interface: str


def matching(target: Target, table: RouteTable) -> list[KernelRoute]:
    """The kernel's routes that satisfy a route monitor, dead ones included."""
    assert target.prefix is not None
    return [
        route
        for route in table.routes(target.prefix)
        if (not target.table or route.table == target.table)
        and (not target.protocol or route.protocol == target.protocol)
    ]


def route_finding(target: Target, table: RouteTable) -> Finding:
    """Whether the route is in the kernel's table, and leads over an interface that carries."""
    assert target.prefix is not None
    found, others = matching(target, table), table.routes(target.prefix)
    alive = [route for route in found if not route.hops or any(hop.alive for hop in route.hops)]
    if alive:
        return Finding(holds=True, sentence=f"in table {alive[0].table}", certain=True)
    if found:
        why = f"the route to {target.prefix} is over an interface without carrier"
    elif others:
        seen = ", ".join(f"table {one.table} protocol {one.protocol}" for one in others[:4])
        why = f"no route to {target.sentence}; there is one in {seen}"
    else:
        where = f"table {target.table}" if target.table else "any table"
        why = f"no route to {target.prefix} in {where}"
    return Finding(holds=False, sentence=why, certain=True)


class RouteProber:
    """A route whose next hop has to answer as well. One of several ways on is enough."""

    def __init__(self, target: Target, table: RouteTable) -> None:
        self._target = target
        self._table = table

    async def look(self, timeout_s: float) -> Finding:
        there = route_finding(self._target, self._table)
        if not there.holds:
            return there
        ways = self._ways()
        if not ways:
            return replace(there, sentence=f"{there.sentence}, on the link")
        asking = {
            asyncio.ensure_future(
                ask(
                    way.gateway,
                    probe=self._target.probe,
                    interface=way.interface,
                    timeout_s=timeout_s,
                )
            )
            for way in ways
        }
        try:
            return await self._first(asking, there)
        finally:
            for task in asking:
                task.cancel()

    @staticmethod
    async def _first(asking: set[asyncio.Task[Finding]], there: Finding) -> Finding:
        """The first answer, or the last excuse."""
        failed: Finding | None = None
        for waiting in asyncio.as_completed(asking):
            try:
                answer = await waiting
            except OSError as error:
                failed = Finding(holds=False, sentence=f"next hop: {error.strerror}")
                continue
            if answer.holds:
                return Finding(holds=True, sentence=f"{there.sentence}, next hop {answer.sentence}")
            failed = replace(answer, sentence=f"next hop {answer.sentence}")
        assert failed is not None, "somebody was asked"
        return failed

    def close(self) -> None:
        """Nothing is kept between looks."""

    def _ways(self) -> list[Way]:
        ways: dict[Way, None] = {}
        for route in matching(self._target, self._table):
            for hop in route.hops:
                if hop.gateway is not None and hop.alive:
                    with contextlib.suppress(OSError):
                        name = socket.if_indextoname(hop.interface)
                        ways[Way(gateway=hop.gateway, interface=name)] = None
        return list(ways)[:WAYS_MAX]
