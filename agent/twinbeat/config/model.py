# SPDX-License-Identifier: Apache-2.0
"""The configuration: every key with its type, range, default and meaning.

The file's reference, `twinbeat config generate`, the error messages and the manual page are all
made from the types in this module, so none of them can tell another story. It must not read files,
look at this machine or know who uses a value.

Durations are integers with the unit in the key; nobody but `Durations` turns them into nanoseconds.
A key whose `_key` says `restart` takes effect only when the agent is started again.
"""

from functools import cache
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field
from msgspec.structs import FieldInfo, fields

CONFIG_PATH: Final = "/etc/twinbeat/twinbeat.toml"
KEYS_DIRECTORY: Final = "/etc/twinbeat/keys"

LINKS_MAX: Final = 8
"""TB_LINKS of ebpf/tb_abi.h."""
KEYS_MAX: Final = 2
"""TB_KEYS of ebpf/tb_abi.h."""
VIPS_MAX: Final = 16384
"""TB_VIPS of ebpf/tb_abi.h, per address family."""

ANY_NAME: Final = "NAME"
"""Stands for whatever a key is called, in a section whose keys are names that the user chooses."""

NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000


def _key(
    description: str,
    *,
    ge: int | None = None,
    le: int | None = None,
    pattern: str | None = None,
    max_length: int | None = None,
    example: Any = None,
    right: str | None = None,
    restart: bool = False,
) -> Meta:
    """What there is to say about a key. `right` describes what a pattern allows."""
    limits = {"ge": ge, "le": le, "pattern": pattern, "max_length": max_length}
    arguments: dict[str, Any] = {name: limit for name, limit in limits.items() if limit is not None}
    return Meta(
        description=description,
        examples=None if example is None else [example],
        extra={"restart": restart} | ({"right": right} if right else {}),
        **arguments,
    )


NodeName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
        extra={"right": "1 to 63 letters, digits, '-', '_' or '.'"},
    ),
]
InterfaceName = Annotated[
    str,
    Meta(pattern=r"^[^\s/:]{1,15}$", extra={"right": "the name of a network interface"}),
]


class NodeSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This node."""

    name: Annotated[
        NodeName,
        _key("Name of this node.", example="a", restart=True),
    ]
    index: Annotated[
        int,
        _key(
            "0 on one node, 1 on the other; the lower one wins where all else is equal.",
            ge=0,
            le=1,
            example=0,
            restart=True,
        ),
    ]


class PairSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The pair."""

    id: Annotated[
        int,
        _key(
            "Number of the pair, the same on both nodes and used by no other pair.",
            ge=1,
            le=0xFFFFFFFF,
            example=1,
            restart=True,
        ),
    ]


class PeerSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The other node."""

    name: Annotated[
        NodeName,
        _key("Name of the other node.", example="b", restart=True),
    ]


class InterfacesSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names that both nodes use, and what they are called here: `lan = "eth3"`.

    Sections that both nodes share may name interfaces so. Whatever isn't listed is a device's own
    name.
    """

    device_of: Annotated[
        dict[InterfaceName, InterfaceName],
        _key(
            "Any name, and the device of this node that it stands for.",
            right="the name of a network interface",
        ),
    ] = field(default_factory=dict, name=ANY_NAME)


class SyncSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the worker of this node keeps the shared configuration the same on both nodes."""

    enabled: Annotated[
        bool, _key("Take over what the peer has, and let it take over what is here.")
    ] = True
    propagation: Annotated[
        bool,
        _key("Carry out commands on both nodes at once; false: on this node, synchronized later."),
    ] = True
    peer: Annotated[
        str,
        _key("Address of the peer's worker; empty = the peer's on the first link."),
    ] = ""
    listen: Annotated[str, _key("Own address to be reached at; empty = any.")] = ""
    port: Annotated[int, _key("TCP port, the same on both nodes.", ge=1, le=65_535)] = 3008
    interface: Annotated[
        str,
        _key(
            "Nothing goes out or comes in but over this one, so that bulk data stays off the "
            "heartbeat links; empty = any.",
            pattern=r"^[^\s/:]{0,15}$",
            right="the name of a network interface",
        ),
    ] = ""
    strict_status: Annotated[
        bool,
        _key("A synchronization of which one item failed counts as failed, not as partial."),
    ] = False
    timeout_s: Annotated[
        int, _key("A command is answered by then, if only by `undecided`.", ge=1, le=600)
    ] = 10
    identity: Annotated[
        str,
        _key(
            "Directory of this node's certificate and the peer's, which pairing fills.",
            pattern="^/",
            right="an absolute path",
        ),
    ] = "/var/lib/twinbeat/worker/identity"


class KeysSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys that authenticate heartbeats. They live in files of their own, never in this one."""

    directory: Annotated[
        str,
        _key(
            "Where <id>.key files are: mode 0600, one line of 32 hexadecimal digits. "
            "Two at most, the second for rotation; all of them are accepted.",
            pattern="^/",
            right="an absolute path",
        ),
    ] = KEYS_DIRECTORY
    send: Annotated[
        int,
        _key(
            "Id of the key that own frames are sent under; 0 = the one that `twinbeat keys rotate` "
            "chose last, or 1.",
            ge=0,
            le=255,
        ),
    ] = 0


class TimersSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast a death is noticed. A profile gives all values; single ones can be set over it."""

    profile: Annotated[
        Literal["fast", "balanced", "routed", "classic"],
        _key(
            "fast: dedicated links, isolated processor. balanced: any LAN. routed: "
            "nodes in different subnets. classic: seconds, as older products have it."
        ),
    ] = "balanced"
    hello_us: Annotated[int, _key("Time between two heartbeats.", ge=100, le=10_000_000)] | None = (
        None
    )
    dead_us: (
        Annotated[
            int,
            _key(
                "Silence that raises suspicion; at least three times hello_us.",
                ge=300,
                le=60_000_000,
            ),
        ]
        | None
    ) = None
    verify_us: (
        Annotated[
            int,
            _key(
                "Window in which a suspicion is checked by probing the peer's kernel.",
                ge=100,
                le=10_000_000,
            ),
        ]
        | None
    ) = None
    stall_us: (
        Annotated[
            int,
            _key(
                "How long an agent that hangs behind an open gate is waited for.",
                ge=100,
                le=60_000_000,
            ),
        ]
        | None
    ) = None
    lease_us: (
        Annotated[
            int,
            _key(
                "How long the gate stays open without renewal: the longest time that a hung "
                "engine goes on serving.",
                ge=1_000,
                le=60_000_000,
            ),
        ]
        | None
    ) = None
    attest_ms: (
        Annotated[
            int,
            _key(
                "How long the engine acts on its own when the deciding loop hangs; at least one "
                "and a half times lease_us, or no claim could begin.",
                ge=50,
                le=90_000,
            ),
        ]
        | None
    ) = None
    boot_wait_ms: (
        Annotated[
            int,
            _key(
                "How long a starting node listens for the peer before it may claim alone, and "
                "leaves a role that nobody had yet to a preferred peer that starts as well.",
                ge=100,
                le=600_000,
            ),
        ]
        | None
    ) = None
    accept_host: Annotated[
        bool,
        _key(
            "Keep timers that this host was measured to wake up too late for, instead of "
            "raising them or refusing to start. For laboratories.",
            restart=True,
        ),
    ] = False


class LinkSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One local interface over which heartbeats travel. Two or more, on different hardware."""

    interface: Annotated[
        InterfaceName,
        _key("The local interface.", example="ha0"),
    ]
    local: Annotated[
        str,
        _key("Own address on that link, IPv4 or IPv6.", example="169.254.10.1"),
    ]
    peer: Annotated[
        str,
        _key("The peer's address on that link.", example="169.254.10.2"),
    ]
    name: Annotated[
        str,
        _key(
            "Name of the link; empty = the interface's.",
            pattern=r"^[A-Za-z0-9_.-]{0,32}$",
            right="up to 32 letters, digits, '-', '_' or '.'",
        ),
    ] = ""
    number: (
        Annotated[
            int,
            _key(
                "Number of the link on the wire, the same on both nodes; not set = its place in "
                "the file. Set it before links are taken out from between others.",
                ge=0,
                le=LINKS_MAX - 1,
            ),
        ]
        | None
    ) = None
    heartbeat: Annotated[
        bool,
        _key(
            "Carry heartbeats. false: nothing is sent on this link and nothing expected, and it "
            "is no reason for an alarm; say so on both nodes."
        ),
    ] = True
    vlan: Annotated[
        int,
        _key(
            "VLAN id of the heartbeats, 0 = untagged. No VLAN device is needed.",
            ge=0,
            le=4094,
        ),
    ] = 0
    direct: Annotated[
        bool,
        _key(
            "A cable between the nodes, no switch: its carrier falls with the peer's "
            "power, so it says nothing about being cut off.",
        ),
    ] = False
    mode: Annotated[
        Literal["ethernet", "udp"],
        _key("ethernet: same subnet, frames bypass the queues. udp: through a router."),
    ] = "ethernet"
    ttl_min: (
        Annotated[
            int,
            _key(
                "Heartbeats with a lower TTL or hop limit are refused; 255 for ethernet and "
                "1 for udp when not set.",
                ge=1,
                le=255,
            ),
        ]
        | None
    ) = None
    monitor: (
        Annotated[
            bool,
            _key(
                "Whether the node is fit only while this interface is up and has carrier. Not set: "
                "true, but false on a direct link, whose carrier falls with the peer's power."
            ),
        ]
        | None
    ) = None


class VridSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One set of shared addresses on one interface, answered from one virtual MAC."""

    id: Annotated[
        int,
        _key(
            "Number of the virtual MAC, unique on its network, VRRP routers included.",
            ge=1,
            le=255,
            example=51,
        ),
    ]
    interface: Annotated[
        InterfaceName,
        _key("The port that the addresses are served on.", example="lan0", restart=True),
    ]
    vmac: Annotated[
        bool,
        _key(
            "Answer from the virtual MAC. Without it every address is announced on its "
            "own at a takeover, and only traffic to the addresses is gated, not "
            "forwarding.",
            restart=True,
        ),
    ] = True
    vips: Annotated[
        tuple[str, ...],
        _key(
            "The shared addresses, IPv4 or IPv6, without a prefix length.",
            example=["192.0.2.10", "2001:db8::10"],
        ),
    ] = ()
    vips_file: Annotated[
        str,
        _key(
            "More of them from a file, one per line, '#' begins a comment; a relative "
            "path begins at this file's directory."
        ),
    ] = ""
    inject: Annotated[
        bool,
        _key(
            "The addresses are reached through routers and not by neighbours: they are put on lo, "
            "nothing is announced by ARP, there is no virtual MAC, and while this node is primary "
            "a host route for each tells the routing daemon (see [inject]).",
            restart=True,
        ),
    ] = False
    uplinks: Annotated[
        tuple[InterfaceName, ...],
        _key(
            "With inject: further interfaces over which traffic to the addresses may arrive. All "
            "of them get a gate.",
            max_length=16,
            restart=True,
        ),
    ] = ()
    monitor: Annotated[
        bool,
        _key("Whether the node is fit only while this interface is up and has carrier."),
    ] = True
    neighbours: Annotated[
        tuple[str, ...],
        _key(
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

    destination: Annotated[
        str, _key("Network with prefix length, or 'default'.", example="default")
    ]
    gateway: Annotated[str, _key("Next hop; empty = on the link.")] = ""
    interface: Annotated[
        str,
        _key(
            "Outgoing interface; empty = found by the next hop.",
            pattern=r"^[^\s/:]{0,15}$",
            right="the name of a network interface",
        ),
    ] = ""
    table: Annotated[int, _key("Routing table.", ge=1, le=0xFFFFFFFF)] = 254
    metric: Annotated[
        int, _key("Of routes to the same network the lowest wins.", ge=0, le=0xFFFFFFFF)
    ] = 0
    type: Annotated[
        Literal["unicast", "blackhole", "unreachable", "prohibit"],
        _key(
            "blackhole drops, unreachable and prohibit refuse with ICMP; none of the three has a "
            "gateway or an interface."
        ),
    ] = "unicast"
    source: Annotated[
        str, _key("Own address that connections of this node along the route come from.")
    ] = ""
    onlink: Annotated[
        bool,
        _key("The gateway is on the link, though no address of the interface says so."),
    ] = False
    mtu: Annotated[int, _key("MTU along the route, 0 = the interface's.", ge=0, le=65_535)] = 0
    replace: Annotated[
        bool,
        _key(
            "Take the place of somebody else's route of the same destination, table and metric. "
            "It is remembered on disk and put back with the role, also after a crash."
        ),
    ] = False


class RuleSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule of policy routing that is installed on becoming primary and taken back with the role.

    Its priority, selector and table identify it.
    """

    priority: Annotated[
        int, _key("Rules are asked by growing priority.", ge=1, le=32_765, example=1000)
    ]
    table: Annotated[int, _key("Routing table to ask.", ge=1, le=0xFFFFFFFF, example=300)]
    source: Annotated[str, _key("Packets from this network; empty = all.")] = ""
    destination: Annotated[str, _key("Packets to this network; empty = all.")] = ""
    fwmark: Annotated[
        int, _key("Packets with this mark of the firewall, 0 = all.", ge=0, le=0xFFFFFFFF)
    ] = 0
    fwmask: Annotated[int, _key("Bits of the mark that count.", ge=1, le=0xFFFFFFFF)] = 0xFFFFFFFF
    interface: Annotated[
        str,
        _key(
            "Packets that came in there; empty = all.",
            pattern=r"^[^\s/:]{0,15}$",
            right="the name of a network interface",
        ),
    ] = ""
    family: Annotated[
        Literal["auto", "ipv4", "ipv6", "both"],
        _key("auto: that of source and destination; without these, both."),
    ] = "auto"


class InjectSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a routing daemon is told of addresses with `inject = true`: a host route for each.

    The routes are blackholes of protocol 155, which the daemon learns and announces; the addresses
    themselves are local and come first.
    """

    table: Annotated[
        int,
        _key(
            "Where they are put. Best one that nothing else uses and no rule asks, which the "
            "routing daemon is told to learn from.",
            ge=1,
            le=0xFFFFFFFF,
        ),
    ] = 155
    metric: Annotated[
        int,
        _key(
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
        _key(
            "Name of the hook, unique.",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$",
            right="1 to 32 letters, digits, '-', '_' or '.'",
            example="mail",
        ),
    ]
    exec: Annotated[
        str,
        _key(
            "The program. No shell is involved.",
            pattern=r"^/[^\0]*$",
            right="an absolute path",
            example="/usr/local/sbin/tell-everybody",
        ),
    ]
    arguments: Annotated[tuple[str, ...], _key("Its arguments.", max_length=64)] = ()
    events: Annotated[
        tuple[HookEvent, ...],
        _key(
            "What it is told. fault: this node became unfit; fit: it is fit again; peer-lost, "
            "peer-found: the peer's agent fell silent, or is heard again."
        ),
    ] = ("primary", "secondary", "fault")
    timeout_s: Annotated[
        int,
        _key("After that it and all processes of its group are killed.", ge=1, le=3600),
    ] = 30


MonitorName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,62}$",
        extra={"right": "1 to 63 letters, digits, '-', '_', '.', ':' or '@'"},
    ),
]


class LinksetSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Interfaces of which one is enough: only when all of them fail, the set does."""

    name: Annotated[MonitorName, _key("Name of the set.", example="lan")]
    interfaces: Annotated[
        tuple[InterfaceName, ...],
        _key(
            "Its members. None of them is critical by itself any more.",
            max_length=32,
            example=["lan0", "lan1"],
        ),
    ]
    weight: Annotated[int, _key("As in [[monitor]].", ge=0, le=1000)] = 1000


class MonitorSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that has to hold for this node to be fit. Interfaces of links and VRIDs are
    monitored without being listed.
    """

    name: Annotated[MonitorName, _key("Name of the monitor.", example="uplink")]
    kind: Annotated[
        Literal["interface", "route", "address", "process", "script"],
        _key("What is watched; decides which of the following keys are needed.", example="route"),
    ]
    interface: Annotated[
        str,
        _key(
            "interface: the one that must be up and have carrier. address: the one to ask through, "
            "needed for probe neighbour.",
            pattern=r"^[^\s/:]{0,15}$",
            right="the name of a network interface",
        ),
    ] = ""
    prefix: Annotated[
        str,
        _key("route: the network that must have a route, exactly so; 0.0.0.0/0 is the default."),
    ] = ""
    table: Annotated[int, _key("route: the table it must be in, 0 = any.", ge=0, le=0xFFFFFFFF)] = 0
    protocol: Annotated[
        str,
        _key(
            "route: who must have put it there: static, kernel, dhcp, bird, zebra, bgp, ospf, … or "
            "a number; empty = anybody."
        ),
    ] = ""
    address: Annotated[str, _key("address: the host that must answer.")] = ""
    probe: Annotated[
        Literal["", "neighbour", "icmp", "tcp"],
        _key(
            "How a host is asked. neighbour: ARP or neighbour discovery. route: its next hop is "
            "asked, or nobody where this is empty; never by tcp. address: empty is icmp."
        ),
    ] = ""
    port: Annotated[int, _key("address: the port that must take connections.", ge=0, le=65_535)] = 0
    pidfile: Annotated[
        str, _key("process: a file with its number.", pattern="^(/.*)?$", right="an absolute path")
    ] = ""
    process: Annotated[
        str,
        _key(
            "process: its name as `ps -o comm` has it; with a pidfile, what that process must be "
            "called."
        ),
    ] = ""
    command: Annotated[
        tuple[str, ...],
        _key(
            "script: program, as an absolute path, and arguments. It is not given to a shell. Exit "
            "code 0 = all is well.",
            max_length=64,
        ),
    ] = ()
    interval_ms: Annotated[
        int, _key("Time between two looks; events are taken in at once.", ge=50, le=3_600_000)
    ] = 1000
    timeout_ms: Annotated[
        int,
        _key("How long an answer, or the end of a script, is waited for.", ge=10, le=600_000),
    ] = 1000
    rise: (
        Annotated[int, _key("So many successes in a row end a failure.", ge=1, le=1000)] | None
    ) = None
    fall: (
        Annotated[
            int,
            _key(
                "So many failures in a row are one. Not set: 1 for what the kernel knows (carrier, "
                "route, process), 3 for what is asked for.",
                ge=1,
                le=1000,
            ),
        ]
        | None
    ) = None
    weight: Annotated[
        int,
        _key(
            "What its failure takes from the node's score of 1000. The node is up while a point "
            "is left, so with 1000 any failure makes it unfit; a smaller weight makes it the worse "
            "choice. 0 = only shown.",
            ge=0,
            le=1000,
        ),
    ] = 1000
    start_delay_s: Annotated[
        int,
        _key(
            "After the start, and after becoming primary, it doesn't fail for so long.",
            ge=0,
            le=3600,
        ),
    ] = 0
    when: Annotated[
        Literal["always", "primary", "secondary"], _key("In which role it is looked at.")
    ] = "always"


_ListName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$",
        extra={"right": "1 to 32 letters, digits, '-', '_' or '.'"},
    ),
]


class FileSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files and directories that are kept alike on both nodes."""

    name: Annotated[_ListName, _key("Name of the list, unique.", example="certificates")]
    paths: Annotated[
        tuple[Annotated[str, Meta(pattern="^/", extra={"right": "an absolute path"})], ...],
        _key(
            "Files, and directories with all that is in them; a name may be a pattern. Nothing "
            "else can be read or written, not through symbolic links either.",
            max_length=256,
            example=["/etc/haproxy"],
        ),
    ]
    exclude: Annotated[
        tuple[str, ...],
        _key(
            "What is left out: names at any depth, or with a slash whole paths; both may have "
            "patterns (*, ?, [...]).",
            max_length=256,
            example=["*.swp"],
        ),
    ] = ()
    delete: Annotated[
        bool,
        _key("What is deleted on one node is deleted on the other; otherwise it comes back."),
    ] = True
    owner: Annotated[bool, _key("Owner and group, by number, belong to what is kept alike.")] = True
    command: Annotated[
        tuple[str, ...],
        _key(
            "Run on a node after files of the list have changed there: program, as an absolute "
            "path, and arguments. No shell is involved.",
            max_length=64,
        ),
    ] = ()
    timeout_s: Annotated[
        int, _key("After that the command and its group are killed.", ge=1, le=3600)
    ] = 30


class CommandSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command of yours that is run on both nodes by its name, on the secondary first."""

    name: Annotated[_ListName, _key("Name of the command, unique.", example="nft")]
    argv: Annotated[
        tuple[str, ...],
        _key(
            "Program, as an absolute path, and arguments. {1} to {9} are the arguments "
            "given, {file} the first of them, which has to be a path of a [[file]] list. No shell "
            "is involved.",
            max_length=64,
            example=["/usr/sbin/nft", "-f", "{file}"],
        ),
    ]
    undo: Annotated[
        tuple[str, ...],
        _key(
            "What takes it back on the secondary when it fails on the primary; empty = nothing "
            "does.",
            max_length=64,
        ),
    ] = ()
    timeout_s: Annotated[
        int, _key("After that it and its group are killed, and it has failed.", ge=1, le=3600)
    ] = 30


class EngineSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The real-time thread that sends heartbeats and gives verdicts, and what it asks of the
    host."""

    cpu: (
        Annotated[
            int,
            _key(
                "Processor to pin the thread to, best one that is isolated.",
                ge=0,
                le=1023,
                restart=True,
            ),
        ]
        | None
    ) = None
    priority: Annotated[
        int,
        _key("Its SCHED_FIFO priority.", ge=1, le=98, restart=True),
    ] = 60
    idle_latency_us: (
        Annotated[
            int,
            _key(
                "How long processors may take to wake up while the agent runs: 0 keeps all of them "
                "from sleeping and costs power, -1 asks for nothing. "
                "Unset: 0 with the profile fast, -1 with the others.",
                ge=-1,
                le=10_000,
                restart=True,
            ),
        ]
        | None
    ) = None


class PolicySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is allowed when."""

    strict: Annotated[
        bool,
        _key(
            "A takeover by silence waits for the end of the peer's last known lease. "
            "Slower, and never two owners even where only one direction of a link "
            "works."
        ),
    ] = False
    fail_safe: Annotated[bool, _key("Two unhealthy nodes still have one primary.")] = True
    stall: Annotated[
        Literal["wait-stall", "wait-lease"],
        _key(
            "How long an agent that hangs behind an open gate is waited for: stall_us, "
            "or until its lease ends."
        ),
    ] = "wait-lease"
    claim_alone: Annotated[
        bool,
        _key(
            "A starting node that never hears its peer claims though no link has proven "
            "that it forwards anything."
        ),
    ] = False
    preferred: Annotated[bool, _key("Of two equal nodes this one takes a free role first.")] = False
    preempt_hold_s: Annotated[
        int,
        _key(
            "How long a node told to stay primary must be fit before it takes the role back.",
            ge=0,
            le=86_400,
        ),
    ] = 10
    recovery_hold_ms: Annotated[
        int,
        _key(
            "How long better health has to hold before it counts; doubled with each relapse. Worse "
            "health counts at once, always.",
            ge=0,
            le=3_600_000,
        ),
    ] = 2_000
    recovery_hold_max_s: Annotated[
        int, _key("However often it relapsed, no longer than this.", ge=0, le=86_400)
    ] = 60
    recovery_forget_s: Annotated[
        int,
        _key(
            "Each such time without a failure undoes one doubling; 0 = none does.", ge=0, le=86_400
        ),
    ] = 60
    max_flips: Annotated[
        int,
        _key(
            "How often the role may move for the sake of health; then the primary keeps it, "
            "sticky, until the next failure after all has recovered. 0 = any number.",
            ge=0,
            le=1_000,
        ),
    ] = 0
    flip_window_s: Annotated[
        int,
        _key(
            "Within this time; 0 = since the last reset.",
            ge=0,
            le=86_400,
        ),
    ] = 0
    accept_single_link: Annotated[
        bool,
        _key("One link is enough. Its failure then looks like the peer's death."),
    ] = False


class WatchdogSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The host's watchdog, a device that resets the machine when the deciding loop hangs."""

    mode: Annotated[
        Literal["off", "auto", "required"],
        _key(
            "auto: used where there is one. required: without it the agent doesn't start.",
            restart=True,
        ),
    ] = "off"
    device: Annotated[
        str,
        _key("Its device.", pattern="^/dev/", right="a path below /dev", restart=True),
    ] = "/dev/watchdog"
    timeout_s: Annotated[
        int,
        _key(
            "Without a ping for so long it resets the machine. Longer than the agent takes to be "
            "started anew, and than attest_ms and lease_us together.",
            ge=2,
            le=600,
            restart=True,
        ),
    ] = 10


class FenceSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cutting the power of a peer that was found dead, by a fence agent (ClusterLabs)."""

    agent: Annotated[
        str,
        _key(
            "The program; empty = none.",
            pattern="^(/.*)?$",
            right="an absolute path",
        ),
    ] = ""
    options: Annotated[
        tuple[str, ...],
        _key(
            "What it gets on its standard input, key=value each. Nothing secret.",
            max_length=64,
            example=["ip=192.0.2.12", "username=fence"],
        ),
    ] = ()
    secrets_file: Annotated[
        str,
        _key(
            "More of them, one per line, from a file of mode 0600; they are never logged or shown.",
            pattern="^(/.*)?$",
            right="an absolute path",
        ),
    ] = ""
    action: Annotated[
        Literal["off", "reboot", "status"],
        _key("What it is to do. status only asks, for trying the settings: nothing is fenced."),
    ] = "off"
    policy: Annotated[
        Literal["after", "before"],
        _key(
            "after: the role is taken over at once, and the peer fenced beside it. before: a "
            "silent peer is fenced first, and the role taken only when that has succeeded."
        ),
    ] = "after"
    timeout_s: Annotated[
        int,
        _key("An agent that isn't done by then is stopped and has failed.", ge=1, le=600),
    ] = 60
    check_s: Annotated[
        int,
        _key(
            "How often the program is asked whether it could (monitor); 0 = never.",
            ge=0,
            le=86_400,
        ),
    ] = 3600


class WitnessSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A third party that decides between nodes that don't hear each other. The same on both."""

    kind: Annotated[
        Literal["none", "etcd"],
        _key("etcd: a cluster of etcd 3.4 or newer, through its JSON gateway.", restart=True),
    ] = "none"
    endpoints: Annotated[
        tuple[str, ...],
        _key(
            "The members of the cluster, at addresses of which none is shared by this pair; who "
            "answered last is asked first.",
            max_length=9,
            example=["https://192.0.2.31:2379", "https://192.0.2.32:2379"],
            restart=True,
        ),
    ] = ()
    ca_file: Annotated[
        str,
        _key(
            "The authority that signed the members' certificates; no other is trusted.",
            example="/etc/twinbeat/witness-ca.crt",
            restart=True,
        ),
    ] = ""
    cert_file: Annotated[
        str,
        _key("Certificate of this node, where the members ask for one.", restart=True),
    ] = ""
    key_file: Annotated[
        str,
        _key("Its private key, readable by the agent alone.", restart=True),
    ] = ""
    prefix: Annotated[
        str,
        _key(
            "Begin of the keys in etcd; the pair's number follows, so pairs may share it.",
            pattern="^/[A-Za-z0-9_.@/-]*/$",
            right="letters, digits and '_.@-' between slashes, such as /twinbeat/",
            restart=True,
        ),
    ] = "/twinbeat/"
    lease_ms: Annotated[
        int,
        _key(
            "How long a confirmation is good for, counted from before it was asked for. A primary "
            "without the peer's word and without the witness' shuts its gate after so long; a "
            "takeover by silence takes as much longer.",
            ge=100,
            le=60_000,
            restart=True,
        ),
    ] = 500
    without: Annotated[
        Literal["stay", "serve"],
        _key(
            "While the witness doesn't answer. stay: a primary that is cut off shuts its gate, and "
            "nobody takes over by silence. serve: as if there were no witness, with an alarm.",
            restart=True,
        ),
    ] = "stay"


class IsolationSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a node finds out that it is itself cut off from the network: then it claims nothing."""

    references: Annotated[
        tuple[str, ...],
        _key(
            "Addresses of which at least one answers as long as this node is connected: routers "
            "and other hosts, but no shared ones and not the peer's.",
            max_length=16,
            example=["192.0.2.1", "192.0.2.2"],
        ),
    ] = ()
    interval_ms: Annotated[
        int,
        _key(
            "How often they are asked, by ARP or neighbour discovery and by ICMP echo.",
            ge=100,
            le=60_000,
        ),
    ] = 1000


class AnnounceSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a new primary is made known to switches and neighbours."""

    repeats_ms: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=60_000)], ...],
        _key("When the announcement is repeated after a takeover, growing.", max_length=16),
    ] = (2, 5, 20, 100, 1000, 5000)
    refresh_s: Annotated[
        int,
        _key(
            "How often it is refreshed, so that a switch never forgets the virtual MAC; "
            "less than a third of the switch's ageing time.",
            ge=1,
            le=3600,
        ),
    ] = 60
    garp_reply: Annotated[bool, _key("Send gratuitous ARP in the reply form too.")] = False
    rate_per_s: Annotated[
        int,
        _key("Frames a second at most, where one is sent per VIP.", ge=10, le=1_000_000),
    ] = 10_000


class MetricsSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prometheus metrics and health endpoints over HTTP, read-only."""

    listen: Annotated[
        str,
        _key(
            "Address and port, IPv6 in brackets; empty = none. Anything but a loopback "
            "address shows the pair's state to that network.",
            right="ADDRESS:PORT, for example 127.0.0.1:9703",
            restart=True,
        ),
    ] = "127.0.0.1:9703"


class LogSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where log records go and how they look."""

    format: Annotated[
        Literal["auto", "json", "journald"],
        _key(
            "auto: journald when started by systemd, else lines on standard error. "
            "json: one object per line on standard error."
        ),
    ] = "auto"


class Durations(Struct, frozen=True, kw_only=True):
    """Every timer in nanoseconds, those that follow from others included."""

    hello_ns: int
    dead_ns: int
    verify_ns: int
    stall_ns: int
    lease_ns: int
    attest_ns: int
    boot_wait_ns: int
    late_ns: int
    """A tick that comes later than this is late and restarts the verify window: verify / 2."""
    listen_ns: int
    """What a node without a living reign listens at least (rule R10): lease + dead + verify."""
    idle_claim_ns: int
    """How long a peer may be heard without serving (rule R8): dead + verify."""


class Timers(Struct, frozen=True, kw_only=True):
    """The timers in force: the profile's values with the overrides on top."""

    profile: str
    hello_us: int
    dead_us: int
    verify_us: int
    stall_us: int
    lease_us: int
    attest_ms: int
    boot_wait_ms: int

    @property
    def ns(self) -> Durations:
        """The one place where configured units become nanoseconds."""
        dead, verify = self.dead_us * NS_PER_US, self.verify_us * NS_PER_US
        lease = self.lease_us * NS_PER_US
        return Durations(
            hello_ns=self.hello_us * NS_PER_US,
            dead_ns=dead,
            verify_ns=verify,
            stall_ns=self.stall_us * NS_PER_US,
            lease_ns=lease,
            attest_ns=self.attest_ms * NS_PER_MS,
            boot_wait_ns=self.boot_wait_ms * NS_PER_MS,
            late_ns=verify // 2,
            listen_ns=lease + dead + verify,
            idle_claim_ns=dead + verify,
        )


def _profile(
    name: str, hello: int, dead: int, verify: int, stall: int, lease: int, attest: int, boot: int
) -> Timers:
    return Timers(
        profile=name,
        hello_us=hello,
        dead_us=dead,
        verify_us=verify,
        stall_us=stall,
        lease_us=lease,
        attest_ms=attest,
        boot_wait_ms=boot,
    )


# The attestation of `classic` exceeds its lease: the engine begins a claim only while a whole lease
# of it is left (rule R6), so with the five seconds of the first draft it could never claim.
PROFILES: Final[dict[str, Timers]] = {
    timers.profile: timers
    for timers in (
        #                     hello     dead   verify      stall       lease attest    boot
        #                        µs       µs       µs         µs          µs     ms      ms
        _profile("fast", 200, 600, 300, 2_000, 10_000, 500, 2_000),
        _profile("balanced", 6_000, 20_000, 5_000, 20_000, 100_000, 1_000, 3_000),
        _profile("routed", 100_000, 500_000, 200_000, 500_000, 2_000_000, 3_000, 10_000),
        _profile("classic", 200_000, 3_000_000, 200_000, 1_000_000, 10_000_000, 20_000, 20_000),
    )
}

TIMER_KEYS: Final = tuple(name for name in Timers.__struct_fields__ if name != "profile")


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole configuration that was checked. It holds no secret: keys stay in their files."""

    node: NodeSection
    pair: PairSection
    peer: PeerSection
    links: tuple[LinkSection, ...]
    """In the file's order. `name`, `number` and `ttl_min` are always filled."""
    vrids: tuple[VridSection, ...]
    """`vips` holds the addresses of `vips_file` as well, in canonical form."""
    keys: KeysSection = KeysSection()
    timers_set: TimersSection = TimersSection()
    """As written; `timers` is what is in force."""
    routes: tuple[RouteSection, ...] = ()
    rules: tuple[RuleSection, ...] = ()
    inject: InjectSection = InjectSection()
    hooks: tuple[HookSection, ...] = ()
    engine: EngineSection = EngineSection()
    policy: PolicySection = PolicySection()
    watchdog: WatchdogSection = WatchdogSection()
    fence: FenceSection = FenceSection()
    witness: WitnessSection = WitnessSection()
    isolation: IsolationSection = IsolationSection()
    announce: AnnounceSection = AnnounceSection()
    monitors: tuple[MonitorSection, ...] = ()
    linksets: tuple[LinksetSection, ...] = ()
    interfaces: InterfacesSection = InterfacesSection()
    """In force already: every other section holds names of devices."""
    sync: SyncSection = SyncSection()
    files: tuple[FileSection, ...] = ()
    commands: tuple[CommandSection, ...] = ()
    metrics: MetricsSection = MetricsSection()
    log: LogSection = LogSection()
    path: str = CONFIG_PATH
    """Where it was read from."""

    @property
    def heartbeat_links(self) -> tuple[LinkSection, ...]:
        """The links that carry heartbeats, by number."""
        return tuple(sorted((link for link in self.links if link.heartbeat), key=link_number))

    @property
    def timers(self) -> Timers:
        """The timers in force."""
        return resolve_timers(self.timers_set)

    @property
    def idle_latency_us(self) -> int | None:
        """What is asked of the host's processors; None: nothing."""
        asked = self.engine.idle_latency_us
        if asked is None:
            return 0 if self.timers_set.profile == "fast" else None
        return None if asked < 0 else asked


def link_number(link: LinkSection) -> int:
    """Of a link of a checked configuration, where it is always filled."""
    assert link.number is not None, "filled when the file was read"
    return link.number


def route_destination(route: RouteSection) -> str:
    """What the kernel makes of it: `default` belongs to the family of the gateway."""
    if route.destination == "default":
        return "::/0" if ":" in route.gateway else "0.0.0.0/0"
    return route.destination


@cache
def fields_of(section: type[Struct]) -> tuple[FieldInfo, ...]:
    """The keys of a section. msgspec evaluates every annotation anew each time it is asked."""
    return fields(section)


def free_key(section: type[Struct]) -> bool:
    """Whether the keys of this section are names that the user chooses."""
    return any(known.encode_name == ANY_NAME for known in fields_of(section))


def resolve_timers(section: TimersSection) -> Timers:
    """The profile's values with those set singly on top."""
    profile = PROFILES[section.profile]
    values = {}
    for key in TIMER_KEYS:
        override = getattr(section, key)
        values[key] = getattr(profile, key) if override is None else override
    return Timers(profile=section.profile, **values)


SECTIONS: Final[dict[str, tuple[str, type[Struct], bool]]] = {
    "node": ("node", NodeSection, False),
    "pair": ("pair", PairSection, False),
    "peer": ("peer", PeerSection, False),
    "keys": ("keys", KeysSection, False),
    "interfaces": ("interfaces", InterfacesSection, False),
    "sync": ("sync", SyncSection, False),
    "timers": ("timers_set", TimersSection, False),
    "link": ("links", LinkSection, True),
    "vrid": ("vrids", VridSection, True),
    "route": ("routes", RouteSection, True),
    "rule": ("rules", RuleSection, True),
    "inject": ("inject", InjectSection, False),
    "hook": ("hooks", HookSection, True),
    "engine": ("engine", EngineSection, False),
    "policy": ("policy", PolicySection, False),
    "watchdog": ("watchdog", WatchdogSection, False),
    "fence": ("fence", FenceSection, False),
    "witness": ("witness", WitnessSection, False),
    "isolation": ("isolation", IsolationSection, False),
    "announce": ("announce", AnnounceSection, False),
    "monitor": ("monitors", MonitorSection, True),
    "linkset": ("linksets", LinksetSection, True),
    "file": ("files", FileSection, True),
    "command": ("commands", CommandSection, True),
    "metrics": ("metrics", MetricsSection, False),
    "log": ("log", LogSection, False),
}
"""Table of the file -> (attribute of Config, its struct, whether it is an array of tables)."""
