# SPDX-License-Identifier: Apache-2.0
"""Keys about the state of connections on both nodes, and what has to be right about them."""

from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct

from twinbeat.config.alike import SyncSection
from twinbeat.config.fields import key
from twinbeat.config.nodes import LinkSection
from twinbeat.config.problems import Findings
from twinbeat.config.system import System, parse_address
from twinbeat.sessions.rules import network

HEARTBEAT_PORT: Final = 3003
IGNORED_MOST: Final = 256
"""Of `connections.ignore`; the node adds its own addresses."""

Protocol = Annotated[
    str,
    Meta(
        pattern="^(tcp|udp|icmp|icmp6|sctp|dccp)$",
        extra={"right": "tcp, udp, icmp, icmp6, sctp or dccp"},
    ),
]


class ConnectionsSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state of connections through the gateways, kept on both nodes by conntrackd, so that they
    outlast a takeover. Where conntrackd speaks to the peer's is each node's own."""

    enabled: Annotated[
        bool,
        key("Keep it on both. false: connections through the pair end with a takeover."),
    ] = False
    protocols: Annotated[
        tuple[Protocol, ...],
        key("Which connections are kept on both nodes.", max_length=6),
    ] = ("tcp", "udp")
    ignore: Annotated[
        tuple[str, ...],
        key(
            "Addresses and networks whose connections are left out, beside those of the links, "
            "which always are.",
            max_length=IGNORED_MOST,
        ),
    ] = ()
    drop_strays: Annotated[
        bool,
        key(
            "Packets to a VIP or to be forwarded that belong to no known connection and begin none "
            "are dropped, so that no client is reset while the state of its connection isn't there."
        ),
    ] = True
    refresh_s: Annotated[
        int,
        key(
            "The primary tells all connections anew each so many seconds, so that long ones that "
            "change no state don't run out on the secondary; 0 = never.",
            ge=0,
            le=3600,
        ),
    ] = 60
    flows_max: Annotated[
        int,
        key(
            "Connections that conntrackd keeps; twice nf_conntrack_max is enough.",
            ge=1024,
            le=8_388_608,
        ),
    ] = 262_144
    resend_max: Annotated[
        int,
        key(
            "Messages kept until the peer has confirmed them; beyond that it is filled in bulk.",
            ge=1024,
            le=8_388_608,
        ),
    ] = 131_072
    buffer_kib: Annotated[
        int,
        key(
            "Up to so much of the kernel's news waits for conntrackd, and of the peer's.",
            ge=256,
            le=262_144,
        ),
    ] = 8192
    port: Annotated[int, key("UDP port, the same on both nodes.", ge=1, le=65_535)] = 3780
    interface: Annotated[
        str,
        key(
            "Over which interface the nodes tell each other; empty = that of `sync.interface`, or "
            "else the first direct link.",
            pattern=r"^[^\s/:]{0,15}$",
            right="the name of a network interface",
        ),
    ] = ""
    local: Annotated[str, key("Own address there; empty = that of the link over it.")] = ""
    peer: Annotated[str, key("The peer's address there; empty = that of the link over it.")] = ""


class Ends(NamedTuple):
    """Between which addresses the nodes tell each other of connections."""

    interface: str
    local: str
    peer: str


def ends(
    section: ConnectionsSection, links: Sequence[LinkSection], sync: SyncSection
) -> Ends | None:
    """None where nothing says it. The tag of a link is that of its heartbeats alone: conntrackd
    would speak without it, or needs the VLAN's own device, which only its interface can name."""
    over = section.interface or sync.interface
    plain = [link for link in links if not link.vlan]
    fitting = [link for link in plain if link.interface == over] if over else []
    if not over:
        fitting = [link for link in plain if link.direct]
    link = fitting[0] if fitting else None
    if section.local and section.peer and (over or link is not None):
        assert over or link is not None
        return Ends(over or (link.interface if link else ""), section.local, section.peer)
    if link is None:
        return None
    return Ends(link.interface, section.local or link.local, section.peer or link.peer)


def check_connections(
    section: ConnectionsSection,
    links: tuple[LinkSection, ...],
    sync: SyncSection,
    findings: Findings,
) -> None:
    """Addresses are addresses, and there is a way to the peer."""
    for name in ("local", "peer"):
        text = getattr(section, name)
        if text and parse_address(text) is None:
            findings.add(f"connections.{name}", text, "should be an IPv4 or IPv6 address.")
    for number, text in enumerate(section.ignore):
        if network(text) is None:
            wrong = "should be an address, or a network such as 192.0.2.0/24."
            findings.add(f"connections.ignore[{number}]", text, wrong)
    if not section.protocols:
        findings.add("connections.protocols", "[]", "should name one at least.")
    if section.port == HEARTBEAT_PORT:
        findings.add("connections.port", section.port, "is the port of the heartbeats.")
    if not section.enabled:
        return
    way = ends(section, links, sync)
    if way is None:
        findings.add(
            "connections.interface",
            section.interface,
            "nothing says how the nodes tell each other: mark a link without a VLAN as direct, or "
            "set interface, local and peer here. What conntrackd tells isn't authenticated, so it "
            "needs a network of the two nodes' own.",
        )
        return
    local, peer = parse_address(way.local), parse_address(way.peer)
    if local is None or peer is None:
        return  # Told above, or by the link.
    if local == peer:
        findings.add("connections.peer", way.peer, "is this node's own address.")
    elif local.version != peer.version:
        findings.add("connections.peer", way.peer, f"should be of the family of {way.local}.")
    direct = {link.interface for link in links if link.direct}
    if way.interface not in direct:
        findings.warn(
            "connections.interface",
            way.interface,
            "is no direct link, and what conntrackd tells isn't authenticated: whoever reaches "
            f"UDP {section.port} there can forge connections.",
        )


def check_connections_here(section: ConnectionsSection, findings: Findings, system: System) -> None:
    """The interface that they are told over."""
    if section.interface and section.interface not in system.interfaces():
        wrong = "there is no such interface here."
        findings.add("connections.interface", section.interface, wrong)
