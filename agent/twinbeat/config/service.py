# SPDX-License-Identifier: Apache-2.0
"""Keys of what goes with the role: addresses, routes, rules and hooks."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from twinbeat.config.fields import InterfaceName, key

VIPS_MAX: Final = 16384
"""TB_VIPS of ebpf/tb_abi.h, per address family."""


class VridSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One set of shared addresses on one interface, answered from one virtual MAC."""

    id: Annotated[
        int,
        key(
            "Number of the virtual MAC, unique on its network, VRRP routers included.",
            ge=1,
            le=255,
            example=51,
        ),
    ]
    interface: Annotated[
        InterfaceName,
        key("The port that the addresses are served on.", example="lan0", restart=True),
    ]
    vmac: Annotated[
        bool,
        key(
            "Answer from the virtual MAC. Without it every address is announced on its "
            "own at a takeover, and only traffic to the addresses is gated, not "
            "forwarding.",
            restart=True,
        ),
    ] = True
    vips: Annotated[
        tuple[str, ...],
        key(
            "The shared addresses, IPv4 or IPv6, without a prefix length.",
            example=["192.0.2.10", "2001:db8::10"],
        ),
    ] = ()
    vips_file: Annotated[
        str,
        key(
            "More of them from a file, one per line, '#' begins a comment; a relative "
            "path begins at this file's directory."
        ),
    ] = ""
    inject: Annotated[
        bool,
        key(
            "The addresses are reached through routers and not by neighbours: they are put on lo, "
            "nothing is announced by ARP, there is no virtual MAC, and while this node is primary "
            "a host route for each tells the routing daemon (see [inject]).",
            restart=True,
        ),
    ] = False
    uplinks: Annotated[
        tuple[InterfaceName, ...],
        key(
            "With inject: further interfaces over which traffic to the addresses may arrive. All "
            "of them get a gate.",
            max_length=16,
            restart=True,
        ),
    ] = ()
    monitor: Annotated[
        bool,
        key("Whether the node is fit only while this interface is up and has carrier."),
    ] = True
    neighbours: Annotated[
        tuple[str, ...],
        key(
            "Hosts on this network that a new primary talks to at once, such as servers and "
            "routers, up to 64. Both nodes keep their MACs known; next hops of routes and whoever "
            "is heard asking or being asked for by ARP are kept without being listed.",
            max_length=64,
            example=["192.0.2.21", "192.0.2.22"],
        ),
    ] = ()


class RouteSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route that is installed on becoming primary and taken back with the role.

    Somebody else's route of the same destination, table and metric stays untouched, and is named;
    unless `replace` is set.
    """

    destination: Annotated[str, key("Network with prefix length, or 'default'.", example="default")]
    gateway: Annotated[str, key("Next hop; empty = on the link.")] = ""
    interface: Annotated[
        str,
        key(
            "Outgoing interface; empty = found by the next hop.",
            pattern=r"^[^\s/:]{0,15}$",
            right="the name of a network interface",
        ),
    ] = ""
    table: Annotated[int, key("Routing table.", ge=1, le=0xFFFFFFFF)] = 254
    metric: Annotated[
        int, key("Of routes to the same network the lowest wins.", ge=0, le=0xFFFFFFFF)
    ] = 0
    type: Annotated[
        Literal["unicast", "blackhole", "unreachable", "prohibit"],
        key(
            "blackhole drops, unreachable and prohibit refuse with ICMP; none of the three has a "
            "gateway or an interface."
        ),
    ] = "unicast"
    source: Annotated[
        str, key("Own address that connections of this node along the route come from.")
    ] = ""
    onlink: Annotated[
        bool,
        key("The gateway is on the link, though no address of the interface says so."),
    ] = False
    mtu: Annotated[int, key("MTU along the route, 0 = the interface's.", ge=0, le=65_535)] = 0
    replace: Annotated[
        bool,
        key(
            "Take the place of somebody else's route of the same destination, table and metric. "
            "It is remembered on disk and put back with the role, also after a crash."
        ),
    ] = False


class RuleSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule of policy routing that is installed on becoming primary and taken back with the role.

    Its priority, selector and table identify it.
    """

    priority: Annotated[
        int, key("Rules are asked by growing priority.", ge=1, le=32_765, example=1000)
    ]
    table: Annotated[int, key("Routing table to ask.", ge=1, le=0xFFFFFFFF, example=300)]
    source: Annotated[str, key("Packets from this network; empty = all.")] = ""
    destination: Annotated[str, key("Packets to this network; empty = all.")] = ""
    fwmark: Annotated[
        int, key("Packets with this mark of the firewall, 0 = all.", ge=0, le=0xFFFFFFFF)
    ] = 0
    fwmask: Annotated[int, key("Bits of the mark that count.", ge=1, le=0xFFFFFFFF)] = 0xFFFFFFFF
    interface: Annotated[
        str,
        key(
            "Packets that came in there; empty = all.",
            pattern=r"^[^\s/:]{0,15}$",
            right="the name of a network interface",
        ),
    ] = ""
    family: Annotated[
        Literal["auto", "ipv4", "ipv6", "both"],
        key("auto: that of source and destination; without these, both."),
    ] = "auto"


class InjectSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a routing daemon is told of addresses with `inject = true`: a host route for each.

    The routes are blackholes of protocol 155, which the daemon learns and announces; the addresses
    themselves are local and come first.
    """

    table: Annotated[
        int,
        key(
            "Where they are put. Best one that nothing else uses and no rule asks, which the "
            "routing daemon is told to learn from.",
            ge=1,
            le=0xFFFFFFFF,
        ),
    ] = 155
    metric: Annotated[
        int,
        key(
            "Their metric. 0: lower with each term, so that a daemon that hands it on (as MED, "
            "say) lets the newest primary win over one whose death routers haven't noticed yet.",
            ge=0,
            le=0xFFFFFFFF,
        ),
    ] = 0


HookEvent = Literal["primary", "secondary", "disabled", "fault", "fit", "peer-lost", "peer-found"]


class HookSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program of yours that is told what happened: late, and never waited for.

    What it is told is in TWINBEAT_EVENT, _ROLE, _FROM, _REASON, _SENTENCE, _TERM, _NODE, _PEER,
    _PAIR and _TIME of its environment.
    """

    name: Annotated[
        str,
        key(
            "Name of the hook, unique.",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$",
            right="1 to 32 letters, digits, '-', '_' or '.'",
            example="mail",
        ),
    ]
    exec: Annotated[
        str,
        key(
            "The program. No shell is involved.",
            pattern=r"^/[^\0]*$",
            right="an absolute path",
            example="/usr/local/sbin/tell-everybody",
        ),
    ]
    arguments: Annotated[tuple[str, ...], key("Its arguments.", max_length=64)] = ()
    events: Annotated[
        tuple[HookEvent, ...],
        key(
            "What it is told. fault: this node became unfit; fit: it is fit again; peer-lost, "
            "peer-found: the peer's agent fell silent, or is heard again."
        ),
    ] = ("primary", "secondary", "fault")
    timeout_s: Annotated[
        int,
        key("After that it and all processes of its group are killed.", ge=1, le=3600),
    ] = 30


class AnnounceSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a new primary is made known to switches and neighbours."""

    repeats_ms: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=60_000)], ...],
        key("When the announcement is repeated after a takeover, growing.", max_length=16),
    ] = (2, 5, 20, 100, 1000, 5000)
    refresh_s: Annotated[
        int,
        key(
            "How often it is refreshed, so that a switch never forgets the virtual MAC; "
            "less than a third of the switch's ageing time.",
            ge=1,
            le=3600,
        ),
    ] = 60
    garp_reply: Annotated[bool, key("Send gratuitous ARP in the reply form too.")] = False
    rate_per_s: Annotated[
        int,
        key("Frames a second at most, where one is sent per VIP.", ge=10, le=1_000_000),
    ] = 10_000


def route_destination(route: RouteSection) -> str:
    """What the kernel makes of it: `default` belongs to the family of the gateway."""
    if route.destination == "default":
        return "::/0" if ":" in route.gateway else "0.0.0.0/0"
    return route.destination
