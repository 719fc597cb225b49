# SPDX-License-Identifier: Apache-2.0
"""Routes that come and go with the role, a thousand of them in a handful of datagrams.

Ours carry a protocol number of their own, so what stands is read from the kernel rather than
remembered: `settle` compares it with what is wanted and changes the difference.  The same call
installs on becoming primary, takes back on yielding, repairs, follows a reload, and cleans up after
a crashed agent.

A route of the same key (destination, table, metric) that somebody else put there is theirs.  Is it
what is wanted anyway, it is kept and never removed; else it is a conflict, and nothing is changed.
Only where the configuration says so is it replaced, after it was remembered, and put back.

Messages are packed here and not by pyroute2, whose encoder takes about a millisecond for each: a
takeover with 1,000 routes would hold the deciding loop up for a second.
"""

from __future__ import annotations

import enum
import errno
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from twinbeat.net import netlink
from twinbeat.net.errors import HINTS, NetError
from twinbeat.net.interfaces import Address, interfaces
from twinbeat.net.netlink import Message, Socket, attribute, attributes

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Key = tuple[str, int, int]
"""Destination, table, metric: what no two IPv4 routes of a kernel share."""

PROTO: Final = 155
"""Route and rule protocol of ours: `ip route show table all proto 155` lists them."""

RTMSG: Final = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type,
flags."""

RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_PREFSRC: Final = 7
RTA_METRICS: Final = 8
RTA_MULTIPATH: Final = 9
RTA_CACHEINFO: Final = 12
RTA_TABLE: Final = 15
RTA_EXPIRES: Final = 23
RTAX_MTU: Final = 2
RTNH_F_ONLINK: Final = 4
SCOPE_UNIVERSE: Final = 0
SCOPE_LINK: Final = 253
SCOPE_NOWHERE: Final = 255
_IP6_METRIC: Final = 1024
"""What the kernel makes of a metric of 0 for IPv6."""
_NEXT_HOP: Final = struct.Struct("=HBBi")
"""struct rtnexthop: length, flags, hops, interface."""

CHUNK: Final = 128
CHUNK_PAUSE_S: Final = 0.001
"""So many messages, then a pause."""

PROTOCOLS: Final = {
    1: "redirect",
    2: "kernel",
    3: "boot",
    4: "static",
    9: "ra",
    11: "zebra",
    12: "bird",
    16: "dhcp",
    17: "mrouted",
    18: "keepalived",
    186: "bgp",
    187: "isis",
    188: "ospf",
    189: "rip",
    192: "eigrp",
    PROTO: "twinbeat",
}
"""Names as `ip route` prints them."""


class Kind(enum.IntEnum):
    """What a route does; the numbers are RTN_… of linux/rtnetlink.h."""

    UNICAST = 1
    LOCAL = 2
    BROADCAST = 3
    ANYCAST = 4
    MULTICAST = 5
    BLACKHOLE = 6
    UNREACHABLE = 7
    PROHIBIT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route that is wanted."""

    destination: Network
    gateway: Address | None = None
    interface: str | None = None
    table: int = 254
    metric: int = 0
    kind: Kind = Kind.UNICAST
    source: Address | None = None
    """The address that connections of this node along the route come from."""
    onlink: bool = False
    """The gateway is believed to be on the link, though no address of the interface says so."""
    mtu: int = 0
    replace: bool = False
    """Take the place of somebody else's route of the same key, and give it back."""

    @property
    def key(self) -> Key:
        metric = self.metric or (0 if self.destination.version == 4 else _IP6_METRIC)
        return str(self.destination), self.table, metric

    def sentence(self) -> str:
        """As `ip route` has it."""
        return _sentence(
            self.kind, str(self.destination), self.gateway, self.interface, self.table, self.metric
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One route that is in the kernel."""

    destination: str
    table: int
    metric: int
    proto: int
    kind: int
    gateway: Address | None
    index: int
    source: Address | None
    mtu: int
    several: bool
    """It has more than one next hop."""
    body: bytes
    """The kernel's own words, from which it can be put back."""

    @property
    def key(self) -> Key:
        return self.destination, self.table, self.metric

    def is_what(self, wanted: Route, index: int) -> bool:
        """Whether it does what the wanted route would; `index` is 0 where any interface will do."""
        return (
            (self.kind, self.gateway, self.source, self.mtu, self.several)
            == (wanted.kind, wanted.gateway, wanted.source, wanted.mtu, False)
        ) and (not index or index == self.index)

    def sentence(self, names: Mapping[int, str]) -> str:
        """As `ip route` has it, with whose it is."""
        text = _sentence(
            self.kind,
            self.destination,
            self.gateway,
            names.get(self.index),
            self.table,
            self.metric,
        )
        return f"{text} proto {PROTOCOLS.get(self.proto, self.proto)}"


def _sentence(
    kind: int, destination: str, gateway: Address | None, dev: str | None, table: int, metric: int
) -> str:
    try:
        word = "" if kind == Kind.UNICAST else f"{Kind(kind).name.lower()} "
    except ValueError:
        word = f"type {kind} "
    via = f" via {gateway}" if gateway else ""
    out = f" dev {dev}" if dev and (kind == Kind.UNICAST or gateway) else ""
    preference = f" metric {metric}" if metric else ""
    return f"{word}{destination}{via}{out} table {table}{preference}"


class Trouble(enum.Enum):
    """What can be wrong with one route or rule. The value is the metric's label."""

    CONFLICT = "conflict"
    FAILED = "failed"
    NOT_RESTORED = "not_restored"


@dataclass(frozen=True, slots=True)
class Problem:
    """One route or rule that isn't as it should be."""

    trouble: Trouble
    what: str
    """The route or rule."""
    why: str

    def sentence(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(slots=True, kw_only=True)
class Settled:
    """How the kernel stands after a settlement, and what it took."""

    wanted: int = 0
    standing: int = 0
    """Of those wanted: ours, in the kernel."""
    kept: int = 0
    """Of those wanted: somebody else's that does the same."""
    added: int = 0
    removed: int = 0
    restored: int = 0
    """Routes of others that were put back."""
    problems: list[Problem] = field(default_factory=list)
    stood_ns: int = field(default=0, compare=False)
    """When the last of those wanted stood, by the boot-time clock."""


Remember = Callable[[Mapping[Key, bytes]], None]
"""Keeps routes of others on disk, whole. Raises NetError."""


def settle(
    wanted: Collection[Route], *, remembered: dict[Key, bytes], remember: Remember
) -> Settled:
    """Make our routes in the kernel exactly those wanted; what is refused is told, not raised.

    `remembered` holds others' routes that ours have taken the place of; those whose place is no
    longer wanted are put back and leave it.  Blocking: a few milliseconds for 1,000 routes, so
    callers in the loop use a thread.  Raises NetError if the kernel can't be asked at all.
    """
    present = interfaces()
    indexes = {name: one.index for name, one in present.items()}
    names = {index: name for name, index in indexes.items()}
    with Socket() as sock:
        ours = {one.key: one for one in _standing(sock, proto=PROTO)}
        work = _Work(sock, ours, indexes, names, remembered)
        work.install(list(wanted), remember)
        work.take_back({route.key for route in wanted}, remember)
    return work.settled


class _Work:
    """One settlement under way."""

    def __init__(
        self,
        sock: Socket,
        ours: Mapping[Key, Standing],
        indexes: Mapping[str, int],
        names: Mapping[int, str],
        remembered: dict[Key, bytes],
    ) -> None:
        self._sock = sock
        self._ours = ours
        self._indexes = indexes
        self._names = names
        self._remembered = remembered
        self.settled = Settled()

    def install(self, wanted: list[Route], remember: Remember) -> None:
        """Everything new before anything old goes: a changed metric leaves no moment without."""
        settled = self.settled
        settled.wanted = len(wanted)
        new: list[Route] = []
        changed: list[Route] = []
        for route in wanted:
            if route.interface is not None and route.interface not in self._indexes:
                self._problem(Trouble.FAILED, route, f"there is no interface {route.interface}")
                continue
            known = self._ours.get(route.key)
            if known is None:
                new.append(route)
            elif known.is_what(route, self._index(route)):
                settled.standing += 1
            else:
                changed.append(route)
        self._tell(self._send(changed, netlink.NLM_F_REPLACE))
        refused = self._send(new, netlink.NLM_F_EXCL)
        self._tell([(route, code) for route, code in refused if code != errno.EEXIST])
        taken = [route for route, code in refused if code == errno.EEXIST]
        if taken:
            self._contend(taken, remember)
        settled.stood_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def _contend(self, taken: list[Route], remember: Remember) -> None:
        """Somebody else's routes are where these should go."""
        theirs = _find(self._sock, taken)
        replaced: list[Route] = []
        for route in taken:
            other = theirs.get(route.key)
            if other is None:
                self._problem(
                    Trouble.CONFLICT, route, "another route of that destination is there already"
                )
            elif other.is_what(route, self._index(route)):
                self.settled.kept += 1
            elif route.replace:
                replaced.append(route)
            else:
                self._problem(
                    Trouble.CONFLICT,
                    route,
                    f"somebody else's route is there already and stays: "
                    f"{other.sentence(self._names)}; `replace = true` would take its place",
                )
        if not replaced:
            return
        kept = {**self._remembered, **{one.key: theirs[one.key].body for one in replaced}}
        try:
            remember(kept)
        except NetError as error:
            for route in replaced:
                self._problem(
                    Trouble.CONFLICT, route, f"the route that is there can't be remembered: {error}"
                )
            return
        self._remembered.update(kept)
        self._tell(self._send(replaced, netlink.NLM_F_REPLACE))

    def take_back(self, wanted: set[Key], remember: Remember) -> None:
        """What is no longer wanted goes, and what was there before returns."""
        back = {key: body for key, body in self._remembered.items() if key not in wanted}
        gone = self._restore(back)
        surplus = [one for key, one in self._ours.items() if key not in wanted and key not in gone]
        refused = _paced(
            self._sock,
            [_delete(one) for one in surplus],
            tolerate=frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV}),
        )
        for index, code in refused:
            text = surplus[index].sentence(self._names)
            self.settled.problems.append(Problem(Trouble.FAILED, text, f"removing: {_why(code)}"))
        self.settled.removed += len(surplus) - len(refused)
        if back:
            for key in gone:
                del self._remembered[key]
            try:
                remember(self._remembered)
            except NetError as error:
                self.settled.problems.append(
                    Problem(Trouble.NOT_RESTORED, "the list of replaced routes", str(error))
                )

    def _restore(self, back: Mapping[Key, bytes]) -> set[Key]:
        """Put others' routes in the place of ours; the keys that are done with."""
        done: set[Key] = set()
        for present, flag in ((True, netlink.NLM_F_REPLACE), (False, netlink.NLM_F_EXCL)):
            keys = [key for key in back if (key in self._ours) is present]
            batch = [_put_back(back[key], flag) for key in keys]
            # Who put another one there meanwhile knows better than our memory.
            refused = dict(_paced(self._sock, batch, tolerate=frozenset({errno.EEXIST})))
            for number, key in enumerate(keys):
                if number in refused:
                    text = parse(back[key]).sentence(self._names)
                    self.settled.problems.append(
                        Problem(
                            Trouble.NOT_RESTORED,
                            text,
                            f"it was there before and can't be put back: {_why(refused[number])}",
                        )
                    )
                else:
                    done.add(key)
                    self.settled.restored += 1
        return done

    def _send(self, routes: list[Route], how: int) -> list[tuple[Route, int]]:
        """Add routes; those refused, with the errno."""
        flags = netlink.NLM_F_CREATE | how
        batch = [
            Message(netlink.RTM_NEWROUTE, flags, encode(route, self._index(route)))
            for route in routes
        ]
        refused = _paced(self._sock, batch, tolerate=frozenset())
        self.settled.added += len(routes) - len(refused)
        self.settled.standing += len(routes) - len(refused)
        return [(routes[index], code) for index, code in refused]

    def _index(self, route: Route) -> int:
        return self._indexes[route.interface] if route.interface is not None else 0

    def _tell(self, refused: Iterable[tuple[Route, int]]) -> None:
        for route, code in refused:
            self._problem(Trouble.FAILED, route, refusal(route, code))

    def _problem(self, trouble: Trouble, route: Route, why: str) -> None:
        self.settled.problems.append(Problem(trouble, route.sentence(), why))


def _paced(
    sock: Socket, batch: list[Message], *, tolerate: frozenset[int]
) -> list[tuple[int, int]]:
    """Send a batch with moments between, in which routing daemons read what they are told of it.

    Their sockets hold some 270 notifications as the kernel sizes them, and BIRD, having missed
    some, looks at a table again only when its next scan is due. Refusals as of `Socket.batch`.
    """
    refused: list[tuple[int, int]] = []
    for number, chunk in enumerate(netlink.chunks(batch, CHUNK)):
        if number:
            time.sleep(CHUNK_PAUSE_S)
        found = sock.batch(chunk, tolerate=tolerate)
        refused += [(number * CHUNK + index, code) for index, code in found]
    return refused


def refusal(route: Route, code: int) -> str:
    """Why the kernel didn't take a route, in words of the configuration."""
    match code:
        case errno.ENETUNREACH | errno.EHOSTUNREACH if route.gateway is not None:
            return (
                f"the gateway {route.gateway} can't be reached directly: no address of this node "
                "is in its network, or that interface is down; `onlink = true` if it is meant"
            )
        case errno.ENETDOWN | errno.ENETUNREACH if route.interface is not None:
            return f"{route.interface} is down"
        case errno.EINVAL if route.source is not None:
            return f"the kernel refuses it; is {route.source} an address of this node?"
        case _:
            return _why(code)


def _why(code: int) -> str:
    hint = HINTS.get(code, "")
    return os.strerror(code) + (f"; {hint}" if hint else "")


# -- messages ------------------------------------------------------------------------------------


def encode(route: Route, index: int) -> bytes:
    """The body of an RTM_NEWROUTE."""
    ip6 = route.destination.version == 6
    family = socket.AF_INET6 if ip6 else socket.AF_INET
    on_link = route.kind is Kind.UNICAST and route.gateway is None and not ip6
    body = RTMSG.pack(
        family,
        route.destination.prefixlen,
        0,
        0,
        route.table if route.table < 256 else 0,
        PROTO,
        SCOPE_LINK if on_link else SCOPE_UNIVERSE,
        route.kind,
        RTNH_F_ONLINK if route.onlink else 0,
    )
    body += attribute(RTA_DST, route.destination.network_address.packed)
    body += attribute(RTA_TABLE, struct.pack("=I", route.table))
    if route.gateway is not None:
        body += attribute(RTA_GATEWAY, route.gateway.packed)
    if index:
        body += attribute(RTA_OIF, struct.pack("=I", index))
    if route.metric:
        body += attribute(RTA_PRIORITY, struct.pack("=I", route.metric))
    if route.source is not None:
        body += attribute(RTA_PREFSRC, route.source.packed)
    if route.mtu:
        body += attribute(RTA_METRICS, attribute(RTAX_MTU, struct.pack("=I", route.mtu)))
    return body


def _delete(one: Standing) -> Message:
    """By key and protocol, so that nobody else's can be hit."""
    network = ipaddress.ip_network(one.destination)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    table = one.table if one.table < 256 else 0
    body = RTMSG.pack(family, network.prefixlen, 0, 0, table, PROTO, SCOPE_NOWHERE, 0, 0)
    body += attribute(RTA_DST, network.network_address.packed)
    body += attribute(RTA_TABLE, struct.pack("=I", one.table))
    if one.metric:
        body += attribute(RTA_PRIORITY, struct.pack("=I", one.metric))
    return Message(netlink.RTM_DELROUTE, 0, body)


def _put_back(body: bytes, how: int) -> Message:
    """A route as the kernel once told of it, in the form in which it takes it."""
    fields = list(RTMSG.unpack_from(body))
    fields[-1] &= RTNH_F_ONLINK
    packed = RTMSG.pack(*fields)
    for kind, value in attributes(body, RTMSG.size).items():
        if kind == RTA_MULTIPATH:
            packed += attribute(kind, _alive(value))
        elif kind not in {RTA_CACHEINFO, RTA_EXPIRES}:
            packed += attribute(kind, value)
    return Message(netlink.RTM_NEWROUTE, netlink.NLM_F_CREATE | how, packed)


def _alive(next_hops: bytes) -> bytes:
    """Next hops without what the kernel had noted about the state of their links."""
    changed = bytearray(next_hops)
    at = 0
    while at + _NEXT_HOP.size <= len(changed):
        length, flags, _, _ = _NEXT_HOP.unpack_from(changed, at)
        if length < _NEXT_HOP.size:
            break
        changed[at + 2] = flags & RTNH_F_ONLINK
        at += netlink.align(length)
    return bytes(changed)


def parse(body: bytes | memoryview) -> Standing:
    """A route from the body of an RTM_NEWROUTE."""
    family, length, _, _, table, proto, _, kind, _ = RTMSG.unpack_from(body)
    found = attributes(body, RTMSG.size)
    ip6 = family == socket.AF_INET6
    raw = found.get(RTA_DST, bytes(16 if ip6 else 4))
    metrics = attributes(found.get(RTA_METRICS, b""), 0)
    gateway = found.get(RTA_GATEWAY)
    source = found.get(RTA_PREFSRC)
    return Standing(
        destination=f"{ipaddress.ip_address(raw)}/{length}",
        table=_number(found.get(RTA_TABLE)) or table,
        metric=_number(found.get(RTA_PRIORITY)),
        proto=proto,
        kind=kind,
        gateway=ipaddress.ip_address(gateway) if gateway else None,
        index=_number(found.get(RTA_OIF)),
        source=ipaddress.ip_address(source) if source else None,
        mtu=_number(metrics.get(RTAX_MTU)),
        several=RTA_MULTIPATH in found,
        body=bytes(body),
    )


def _number(raw: bytes | None) -> int:
    return int(struct.unpack("=I", raw)[0]) if raw is not None else 0


# -- what stands ---------------------------------------------------------------------------------

_NOTHING_THERE: Final = frozenset({errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
"""No such table, or a kernel without IPv6."""


def _standing(
    sock: Socket,
    *,
    proto: int = 0,
    table: int = 0,
    families: Collection[int] = (socket.AF_INET, socket.AF_INET6),
    wanted: Callable[[memoryview], bool] | None = None,
) -> Iterator[Standing]:
    """Routes in the kernel, sieved by the kernel itself: a router may hold a million others."""
    for family in families:
        request = RTMSG.pack(family, 0, 0, 0, table if table < 256 else 0, proto, 0, 0, 0)
        if table:
            request += attribute(RTA_TABLE, struct.pack("=I", table))
        try:
            found = sock.dump(netlink.RTM_GETROUTE, request, wanted=wanted)
        except NetError as error:
            if error.code not in _NOTHING_THERE:
                raise
            continue
        for kind, body in found:
            if kind == netlink.RTM_NEWROUTE:
                one = parse(body)
                if not proto or one.proto == proto:
                    yield one


def _find(sock: Socket, routes: Collection[Route]) -> dict[Key, Standing]:
    """Whatever stands under the keys of these routes; their tables are read whole for it."""
    found: dict[Key, Standing] = {}
    places = {(route.destination.version, route.table) for route in routes}
    for version, table in places:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        heads = {
            (route.destination.prefixlen, route.destination.network_address.packed)
            for route in routes
            if (route.destination.version, route.table) == (version, table)
        }

        def wanted(
            body: memoryview, heads: set[tuple[int, bytes]] = heads, version: int = version
        ) -> bool:
            raw = attributes(body, RTMSG.size).get(RTA_DST, bytes(4 if version == 4 else 16))
            return (body[1], raw) in heads

        for one in _standing(sock, table=table, families=(family,), wanted=wanted):
            found.setdefault(one.key, one)
    return found
