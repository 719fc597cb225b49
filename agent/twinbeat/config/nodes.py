# SPDX-License-Identifier: Apache-2.0
"""Keys of the two nodes themselves: names, keys, links, engine, metrics and log."""

from typing import Annotated, Final, Literal

from msgspec import Struct, field

from twinbeat.config.fields import ANY_NAME, InterfaceName, NodeName, key

KEYS_DIRECTORY: Final = "/etc/twinbeat/keys"

LINKS_MAX: Final = 8
"""TB_LINKS of ebpf/tb_abi.h."""
KEYS_MAX: Final = 2
"""TB_KEYS of ebpf/tb_abi.h."""


class NodeSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This node."""

    name: Annotated[
        NodeName,
        key("Name of this node.", example="a", restart=True),
    ]
    index: Annotated[
        int,
        key(
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
        key(
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
        key("Name of the other node.", example="b", restart=True),
    ]


class InterfacesSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names that both nodes use, and what they are called here: `lan = "eth3"`.

    Sections that both nodes share may name interfaces so. Whatever isn't listed is a device's own
    name.
    """

    device_of: Annotated[
        dict[InterfaceName, InterfaceName],
        key(
            "Any name, and the device of this node that it stands for.",
            right="the name of a network interface",
        ),
    ] = field(default_factory=dict, name=ANY_NAME)


class KeysSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys that authenticate heartbeats. They live in files of their own, never in this one."""

    directory: Annotated[
        str,
        key(
            "Where <id>.key files are: mode 0600, one line of 32 hexadecimal digits. "
            "Two at most, the second for rotation; all of them are accepted.",
            pattern="^/",
            right="an absolute path",
        ),
    ] = KEYS_DIRECTORY
    send: Annotated[
        int,
        key(
            "Id of the key that own frames are sent under; 0 = the one that `twinbeat keys rotate` "
            "chose last, or 1.",
            ge=0,
            le=255,
        ),
    ] = 0


class LinkSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One local interface over which heartbeats travel. Two or more, on different hardware."""

    interface: Annotated[
        InterfaceName,
        key("The local interface.", example="ha0"),
    ]
    local: Annotated[
        str,
        key("Own address on that link, IPv4 or IPv6.", example="169.254.10.1"),
    ]
    peer: Annotated[
        str,
        key("The peer's address on that link.", example="169.254.10.2"),
    ]
    name: Annotated[
        str,
        key(
            "Name of the link; empty = the interface's.",
            pattern=r"^[A-Za-z0-9_.-]{0,32}$",
            right="up to 32 letters, digits, '-', '_' or '.'",
        ),
    ] = ""
    number: (
        Annotated[
            int,
            key(
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
        key(
            "Carry heartbeats. false: nothing is sent on this link and nothing expected, and it "
            "is no reason for an alarm; say so on both nodes."
        ),
    ] = True
    vlan: Annotated[
        int,
        key(
            "VLAN id of the heartbeats, 0 = untagged. No VLAN device is needed.",
            ge=0,
            le=4094,
        ),
    ] = 0
    direct: Annotated[
        bool,
        key(
            "A cable between the nodes, no switch: its carrier falls with the peer's "
            "power, so it says nothing about being cut off.",
        ),
    ] = False
    mode: Annotated[
        Literal["ethernet", "udp"],
        key("ethernet: same subnet, frames bypass the queues. udp: through a router."),
    ] = "ethernet"
    ttl_min: (
        Annotated[
            int,
            key(
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
            key(
                "Whether the node is fit only while this interface is up and has carrier. Not set: "
                "true, but false on a direct link, whose carrier falls with the peer's power."
            ),
        ]
        | None
    ) = None


class EngineSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The real-time thread that sends heartbeats and gives verdicts, and what it asks of the
    host."""

    cpu: (
        Annotated[
            int,
            key(
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
        key("Its SCHED_FIFO priority.", ge=1, le=98, restart=True),
    ] = 60
    idle_latency_us: (
        Annotated[
            int,
            key(
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


class MetricsSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prometheus metrics and health endpoints over HTTP, read-only."""

    listen: Annotated[
        str,
        key(
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
        key(
            "auto: journald when started by systemd, else lines on standard error. "
            "json: one object per line on standard error."
        ),
    ] = "auto"


def link_number(link: LinkSection) -> int:
    """Of a link of a checked configuration, where it is always filled."""
    assert link.number is not None, "filled when the file was read"
    return link.number
