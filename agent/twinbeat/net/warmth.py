# SPDX-License-Identifier: Apache-2.0
"""Keeps the neighbours warm that a new primary will want to talk to at once.

A node that takes over without knowing the MACs of clients, servers and routers asks for each, and
its first answers wait for it: a third of a millisecond, as much as it took to find the peer dead.
So both nodes, whatever their role, see to it that the kernel's table has an entry with a MAC for
every neighbour that matters on the ports with virtual addresses.

Who matters: those configured, the next hops of routes, whoever is in the neighbour table already,
and whoever is asked for by ARP on these ports or asks there. The primary's own questions are
broadcasts, so the secondary hears of a client as soon as the primary first talks to it. What was
asked before the secondary was there is asked again for its sake (`hint`). IPv6 asks by multicast
that a secondary doesn't hear, so there those configured, routes and its own table have to do.

`twinbeat.net.acquaintances` has the rules of who is kept, `twinbeat.net.neighbour_table` what the
kernel does. Nothing here decides anything else, and a failure costs a takeover a few hundred
microseconds at most.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from twinbeat.net import neighbour_table
from twinbeat.net.acquaintances import Acquaintances, Tally
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Address, Interface
from twinbeat.net.neighbour_table import Place

log = logging.getLogger("twinbeat.net")

PER_TICK: Final = 32
"""Neighbours of a port that are asked for in one tick."""
LOOK_EVERY: Final = 5
"""Ticks between two looks at the kernel's table."""
ROUTES_EVERY: Final = 60
"""Ticks between two looks at the routes."""
HINTS_MAX: Final = 128
READ_MAX: Final = 64
PAUSE_S: Final = 0.05
"""After READ_MAX frames at once the listener looks away so long: a storm of ARP costs little."""

_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
"""Hardware, protocol, lengths, operation, sender's and target's MAC and address."""
_ARP_HEAD: Final = (1, 0x0800, 6, 4)
_ETHERNET: Final = struct.Struct("!6s6sH")
_ETH_P_ARP: Final = 0x0806
_REQUEST: Final = 1
_OUTGOING: Final = 4
_BROADCAST: Final = b"\xff" * 6
_NOWHERE: Final = Place(networks=(), speaking=(), own=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSetup:
    """A port, and the neighbours that are kept whatever is heard."""

    interface: Interface
    fixed: frozenset[Address] = frozenset()
    """Those of them that aren't in the port's networks don't count."""


@dataclass(slots=True, kw_only=True)
class _Port:
    interface: Interface
    configured: frozenset[Address]
    kept: Acquaintances
    place: Place = _NOWHERE
    hints: list[ipaddress.IPv4Address] = field(default_factory=list)
    """Still to be asked for by broadcast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the kernel says of a port."""

    known: dict[Address, bool | None]
    place: Place | None = None
    """None: not looked at this time; nor are the next hops then."""
    hops: frozenset[Address] = frozenset()


def _look_at(indexes: Iterable[int], *, routes: bool) -> dict[int, _Seen]:
    """By index of the port; blocks. A port may be gone just now: a takeover is slower then, and no
    less safe."""
    found = {}
    for index in indexes:
        try:
            place = neighbour_table.place(index) if routes else None
            hops = neighbour_table.next_hops(index) if routes else set()
            known = neighbour_table.known(index)
        except (NetError, OSError) as error:
            log.debug("neighbours of interface %d: %s", index, error)
        else:
            found[index] = _Seen(known=known, place=place, hops=frozenset(hops))
    return found


def _remind(due: Mapping[int, Collection[Address]]) -> None:
    """Remind the kernel of neighbours, by index of their port; blocks."""
    for index, neighbours in due.items():
        try:
            if neighbours:
                neighbour_table.remind(index, neighbours)
        except (NetError, OSError) as error:
            log.debug("neighbours of interface %d: %s", index, error)


class Warmth:
    """The neighbours of the ports that have virtual addresses."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._never: frozenset[Address] = frozenset()
        self._ports: dict[str, _Port] = {}
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = False
        self._ticks = 0

    # -- life ------------------------------------------------------------------------------------

    def bind(self, ports: Iterable[PortSetup], *, never: Collection[Address]) -> None:
        """Care for these ports, at start and whenever they or the configuration change.

        `never` holds what is no neighbour: virtual addresses, the pinned addresses of the peer.
        """
        self._never = frozenset(never)
        before, self._ports = self._ports, {}
        for setup in ports:
            old = before.get(setup.interface.name)
            self._ports[setup.interface.name] = _Port(
                interface=setup.interface,
                configured=setup.fixed,
                kept=old.kept if old is not None else Acquaintances(self.tally),
            )
        self._ticks = 0

    def start(self) -> None:
        """Listen, and keep what is found. Raises NetError if it may not listen; keeps then too."""
        self._started = True
        self.tick()
        try:
            self._socket = socket.socket(
                socket.AF_PACKET,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                socket.htons(_ETH_P_ARP),
            )
        except OSError as error:
            raise NetError("listening to ARP", code=error.errno or 0) from error
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def stop(self) -> None:
        """Listen no more. What the kernel knows stays, and ages as ever."""
        self._started = False
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def kept(self, name: str) -> Acquaintances:
        """The neighbours of a port."""
        return self._ports[name].kept

    def standing(self) -> dict[str, tuple[int, int]]:
        """By port: how many are kept, and how many of them have a MAC."""
        return {name: (len(port.kept), port.kept.warm) for name, port in self._ports.items()}

    def hint(self) -> None:
        """Ask for the newest neighbours by broadcast, so that a peer that has come learns of them.

        They go out with the next ticks, so many at a time.
        """
        for port in self._ports.values():
            newest = port.kept.newest(HINTS_MAX)
            port.hints = [one for one in newest if isinstance(one, ipaddress.IPv4Address)]

    # -- listening -------------------------------------------------------------------------------

    def _readable(self) -> None:
        assert self._socket is not None
        for _ in range(READ_MAX):
            try:
                frame, (name, _protocol, kind, *_rest) = self._socket.recvfrom(64)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("listening to ARP: %s", error)
                return
            port = self._ports.get(name)
            if port is not None and kind != _OUTGOING:
                self._heard(port, frame)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.call_later(PAUSE_S, self._listen_again)

    def _listen_again(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def _heard(self, port: _Port, frame: bytes) -> None:
        """Both the one who asks and the one asked for may be spoken to soon."""
        if len(frame) < _ETHERNET.size + _ARP.size:
            return
        *head, operation, _mac, sender, _unknown, target = _ARP.unpack_from(frame, _ETHERNET.size)
        if tuple(head) != _ARP_HEAD or operation != _REQUEST:
            return
        now = asyncio.get_running_loop().time()
        for address in (ipaddress.IPv4Address(sender), ipaddress.IPv4Address(target)):
            if self._may_be(port, address):
                port.kept.hear(address, now)

    def _may_be(self, port: _Port, address: Address) -> bool:
        return address not in self._never and port.place.has(address)

    # -- keeping ---------------------------------------------------------------------------------

    def tick(self) -> None:
        """See to what is due. To be called once a second; one that still runs is not waited for."""
        busy = self._task is not None and not self._task.done()
        if not self._started or busy:
            return
        tick, self._ticks = self._ticks, self._ticks + 1
        now = asyncio.get_running_loop().time()
        if tick % LOOK_EVERY and not any(
            port.hints or port.kept.anybody_due(now) for port in self._ports.values()
        ):
            return
        self._task = asyncio.get_running_loop().create_task(self._tend(tick))

    async def _tend(self, tick: int) -> None:
        ports = list(self._ports.values())
        if tick % LOOK_EVERY == 0:
            routes = tick % ROUTES_EVERY == 0
            indexes = [port.interface.index for port in ports]
            found = await asyncio.to_thread(_look_at, indexes, routes=routes)
            for port in ports:
                seen = found.get(port.interface.index)
                if seen is not None:
                    self._learn(port, seen)
        now = asyncio.get_running_loop().time()
        due = {port.interface.index: port.kept.due(now, PER_TICK) for port in ports}
        if any(due.values()):
            await asyncio.to_thread(_remind, due)
        for port in ports:
            self._ask(port)

    def _learn(self, port: _Port, seen: _Seen) -> None:
        now = asyncio.get_running_loop().time()
        if seen.place is not None:
            port.place = seen.place
            near = {address for address in port.configured if self._may_be(port, address)}
            port.kept.fix(near | seen.hops - self._never, now)
        for address, state in seen.known.items():
            if state and self._may_be(port, address):
                port.kept.find(address, now)
        port.kept.look(seen.known, now)

    def _ask(self, port: _Port) -> None:
        """Some of the hints, as the kernel would ask if it did not know."""
        hints, port.hints = port.hints[:PER_TICK], port.hints[PER_TICK:]
        mac = bytes.fromhex(port.interface.mac.replace(":", ""))
        for target in hints:
            own = _speaker(port.place, target)
            if own is None or self._socket is None:
                continue
            frame = _ETHERNET.pack(_BROADCAST, mac, _ETH_P_ARP) + _ARP.pack(
                *_ARP_HEAD, _REQUEST, mac, own.packed, bytes(6), target.packed
            )
            try:
                self._socket.sendto(frame, (port.interface.name, _ETH_P_ARP))
            except OSError as error:
                log.debug("asking for %s: %s", target, error)


def _speaker(place: Place, target: ipaddress.IPv4Address) -> ipaddress.IPv4Address | None:
    """The port's own address in the target's network."""
    for network, own in zip(place.networks, place.speaking, strict=True):
        if target in network and isinstance(own, ipaddress.IPv4Address):
            return own
    return None
