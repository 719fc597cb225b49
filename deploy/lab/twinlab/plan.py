# SPDX-License-Identifier: Apache-2.0
"""The lab's plan: what is called what, who is plugged in where, which address is whose.

Nothing here touches the system.  A reader who wants to know the lab reads this file; everything
else only carries it out.

    tb-client ──── tb-lan (bridge) ──┬── lan0 tb-a wan0 ──┬── tb-wan (bridge) ──┬── tb-s1
                                     └── lan0 tb-b wan0 ──┘                     └── tb-s2
                                          ha0 ── tb-ha ── ha0      (plays a direct cable)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LAB_DIR = Path(__file__).resolve().parent.parent
REPO_DIR = LAB_DIR.parent.parent
BUILD_DIR = REPO_DIR / ".build" / "lab"
OUT_DIR = LAB_DIR / "out"
VENV_DIR = REPO_DIR / ".venv"

RUN_DIR = Path("/run/twinbeat-lab")
"""A tmpfs of the lab's own: state, logs, the nodes' directories, the bpffs with the cut words."""

BPF_DIR = RUN_DIR / "bpf"
NODES_DIR = RUN_DIR / "nodes"
MOUNTS_DIR = RUN_DIR / "mounts"
LOG_DIR = RUN_DIR / "log"
STATE_FILE = RUN_DIR / "state.json"
NETNS_DIR = Path("/run/netns")

MARK = "twinbeat-lab"
"""Alias of `lo` in each namespace that the lab made: what it says is ours, nothing else is."""

NODES = ("a", "b")
SERVERS = ("s1", "s2")
LINKS = ("lan0", "wan0", "ha0")
PROFILES = ("fast", "balanced", "routed", "classic")
BRIDGE = "br0"

CLIENT_NS = "tb-client"
SWITCHES = {"lan0": "tb-lan", "wan0": "tb-wan", "ha0": "tb-ha"}
"""Which switch a node's link is plugged into.  The port at the switch has the node's name."""

WITNESS_NS = "tb-witness"
"""Only there with `--witness`."""

NAMESPACES = ("tb-client", "tb-lan", "tb-a", "tb-b", "tb-ha", "tb-wan", "tb-s1", "tb-s2")

HTTP_PORT = 80
PROBE_PORT = 7777
LINE_PORT = 7778
"""Of the echo of lines over TCP, for connections that last."""
SERVED = (("tcp", HTTP_PORT), ("tcp", LINE_PORT), ("udp", PROBE_PORT))
"""What the servers are reached for through the gateways."""
ENTRIES_MAX = 200_000
"""Clients that are bound by each rule of the gateways."""
HEARTBEAT_PORT = 3003

PAIR_ID = 1
LAN_VRID = 51
WAN_VRID = 52
LAN_VIP = "10.77.0.10"
WAN_VIP = "10.88.0.10"
LAN_VIP6 = "fd77::10"
WAN_VIP6 = "fd88::10"
CROWD_NET = "10.96.0.0/12"
"""A million addresses that are all the client's: as many clients as a test wants."""
MORE_VIPS_NET = "10.78.0.0/16"
VIPS_MAX = 16_384
"""What Twinbeat takes of each address family: VIPS_MAX of twinbeat.config.service."""


def namespace(name: str) -> str:
    """`a` → `tb-a`; a full name stays what it is."""
    return name if name.startswith("tb-") else f"tb-{name}"


def node_index(node: str) -> int:
    return NODES.index(node)


def peer(node: str) -> str:
    return NODES[1 - node_index(node)]


def node_address(node: str, link: str) -> str:
    """A node's own IPv4 address on a link, without prefix length."""
    host = node_index(node) + 1
    return {
        "lan0": f"10.77.0.{host}",
        "wan0": f"10.88.0.{host}",
        "ha0": f"169.254.10.{host}",
    }[link]


def node_address6(node: str, link: str) -> str:
    host = node_index(node) + 1
    return {"lan0": f"fd77::{host}", "wan0": f"fd88::{host}", "ha0": f"fdaa::{host}"}[link]


def prefix_length(link: str) -> int:
    return 30 if link == "ha0" else 24


def node_mac(node: str, link: str) -> str:
    """MACs say who they are, so a capture reads itself: 02:77 lan, 02:88 wan, 02:aa ha."""
    network = {"lan0": "77", "wan0": "88", "ha0": "aa"}[link]
    return f"02:{network}:00:00:00:{node_index(node) + 1:02x}"


CLIENT_ADDRESS = "10.77.0.100"
CLIENT_ADDRESS6 = "fd77::100"
CLIENT_MAC = "02:77:00:00:01:00"


def server_address(server: str) -> str:
    return f"10.88.0.2{SERVERS.index(server) + 1}"


def server_address6(server: str) -> str:
    return f"fd88::2{SERVERS.index(server) + 1}"


def rule_name(port: int) -> str:
    """What the persistence rule for a port is called."""
    return {HTTP_PORT: "http", LINE_PORT: "line", PROBE_PORT: "echo"}[port]


def servers(version: int) -> list[str]:
    """All of them, by their addresses of one family."""
    return [(server_address if version == 4 else server_address6)(each) for each in SERVERS]


def server_mac(server: str) -> str:
    return f"02:88:00:00:02:0{SERVERS.index(server) + 1}"


def vmac(vrid: int, *, version: int = 4) -> str:
    return f"00:00:5e:00:0{1 if version == 4 else 2}:{vrid:02x}"


def more_vips(count: int) -> list[str]:
    """The VIPs beyond the first: 10.78.0.1, 10.78.0.2, … across the /16."""
    return [f"10.78.{number // 250}.{number % 250 + 1}" for number in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `lab up` was asked for; kept in the state file, so that a second `up` can compare."""

    profile: str = "fast"
    vips: int = 1
    vmac: bool = True
    ipv6: bool = False
    agent: bool = True
    settings: tuple[str, ...] = ()
    """Configuration beyond the profile, as `table.key = value` in TOML (`policy.strict = true`)."""
    links: tuple[str, ...] = ("ha0", "lan0")
    """The links that carry heartbeats."""
    witness: bool = False
    """An etcd behind the wan switch decides between nodes that don't hear each other."""
    routed: bool = False
    """Gateways in different subnets, routers with BIRD instead of switches (see `routed`)."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Options:
        tuples = {key: tuple(value) for key, value in raw.items() if isinstance(value, list)}
        return cls(**{**raw, **tuples})

    def vips_max(self) -> int:
        """How many the lan side may have."""
        return VIPS_MAX - (0 if self.routed else 1)

    def lan_vips(self) -> list[str]:
        """All VIPs of the lan side; the first is always there."""
        vips = [LAN_VIP, *more_vips(self.vips - 1)]
        return [*vips, LAN_VIP6] if self.ipv6 else vips

    def served(self, version: int) -> list[str]:
        """What clients ask for: addresses and networks of one family."""
        if version == 6:
            return [LAN_VIP6]
        return [LAN_VIP, MORE_VIPS_NET] if self.vips > 1 else [LAN_VIP]

    def wan_vips(self) -> list[str]:
        if self.routed:
            return []
        return [WAN_VIP, WAN_VIP6] if self.ipv6 else [WAN_VIP]
