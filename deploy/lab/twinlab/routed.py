# SPDX-License-Identifier: Apache-2.0
"""The lab with its gateways in different subnets (`lab up --routed`): routers instead of switches.

What is a switch elsewhere routes here: `tb-lan` and `tb-wan` give each gateway a network of its
own, and heartbeats go through both.  On `tb-lan` and beside each agent runs BIRD.  A gateway's BIRD
learns the host routes that its agent puts into table 155 and announces them by BGP, their metric
as MED; the router prefers the lowest.  The client knows the shared address only through its router.

    tb-client ─ 10.70.0 ─ tb-lan ─┬─ 10.71.0 ─ lan0 tb-a wan0 ─ 10.81.0 ─┬─ tb-wan ─┬─ tb-s1
                          (BIRD)  └─ 10.72.0 ─ lan0 tb-b wan0 ─ 10.82.0 ─┘  10.88.0 └─ tb-s2
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

from twinlab import netns, plan, processes
from twinlab.shell import LabError, run, wait_for

LINKS = ("lan0", "wan0")
"""The links that carry heartbeats; `ha0`, the cable, leads nowhere here."""

ROUTER = "tb-lan"
ROUTER_AS = 65000
GATEWAY_AS = 65010
"""Of both gateways: a router compares the MED of routes that come from one neighbouring AS."""

TABLE = 155
CLIENT_ADDRESS = "10.70.0.100"
CLIENT_GATEWAY = "10.70.0.254"
SERVERS_GATEWAY = "10.88.0.254"
CLIENT_ADDRESS6 = "fd70::100"
CLIENT_GATEWAY6 = "fd70::254"

TTL_MIN = 254
"""One router lies between: who sends with 255 is heard with 254."""

_FIRST = {"lan0": 71, "wan0": 81}


def network(node: str, link: str) -> str:
    return f"10.{_FIRST[link] + plan.node_index(node)}.0"


def node_address(node: str, link: str) -> str:
    return f"{network(node, link)}.1"


def router_address(node: str, link: str) -> str:
    return f"{network(node, link)}.254"


def node_address6(node: str) -> str:
    """A gateway's own IPv6 address towards its router; heartbeats are IPv4 here."""
    return f"fd{_FIRST['lan0'] + plan.node_index(node)}::1"


def router_address6(node: str) -> str:
    return f"fd{_FIRST['lan0'] + plan.node_index(node)}::254"


# -------------------------------------------------------------------------- network ----------


def router_lines(link: str, *, ipv6: bool) -> list[str]:
    """What makes a router of a namespace that would be a switch, once its cables are plugged."""
    lines = [f"addr add {router_address(node, link)}/24 dev {node}" for node in plan.NODES]
    if link == "lan0":
        lines.append(f"addr add {CLIENT_GATEWAY}/24 dev client")
        if ipv6:
            lines.append(f"addr add {CLIENT_GATEWAY6}/64 dev client nodad")
            lines += [
                f"addr add {router_address6(node)}/64 dev {node} nodad" for node in plan.NODES
            ]
    else:
        lines.append(f"addr add {SERVERS_GATEWAY}/24 dev {plan.BRIDGE}")
    return lines


def gateway_lines(node: str, *, ipv6: bool) -> list[str]:
    """Addresses and routes of a gateway's own."""
    other = plan.peer(node)
    lines = []
    for link in LINKS:
        lines += [f"link set {link} up", f"addr add {node_address(node, link)}/24 dev {link}"]
    if ipv6:
        lines.append(f"addr add {node_address6(node)}/64 dev lan0 nodad")
        lines.append(f"route add default via {router_address6(node)}")
    return [
        *lines,
        f"route add default via {router_address(node, 'lan0')}",
        f"route add {network(other, 'wan0')}.0/24 via {router_address(node, 'wan0')}",
        f"route add 10.88.0.0/24 via {router_address(node, 'wan0')}",
    ]


# ------------------------------------------------------------------- configuration -----------


def sections(node: str, options: plan.Options) -> str:
    """Links and addresses for the node's twinbeat.toml."""
    peer = plan.peer(node)
    text = ""
    for link in options.links:
        text += (
            f'[[link]]\nname = "{link}"\ninterface = "{link}"\nmode = "udp"\n'
            f"ttl_min = {TTL_MIN}\n"
            f'local = "{node_address(node, link)}"\npeer = "{node_address(peer, link)}"\n\n'
        )
    vips = [plan.LAN_VIP, plan.LAN_VIP6] if options.ipv6 else [plan.LAN_VIP]
    vips_file = 'vips_file = "/etc/twinbeat/vips-lan.txt"\n' if options.vips > 1 else ""
    return (
        f'{text}[[vrid]]\nid = {plan.LAN_VRID}\ninterface = "lan0"\ninject = true\n'
        f'uplinks = ["wan0"]\nvips = {json.dumps(vips)}\n{vips_file}'
    )


def _session(name: str, local: str, local_as: int, neighbour: str, far_as: int) -> str:
    """What all BGP sessions of the lab have in common; the channel follows."""
    return f"""
protocol bgp {name} {{
    local {local} as {local_as};
    neighbor {neighbour} as {far_as};
    connect delay time 1;
    connect retry time 2;
    error wait time 1, 2;
    hold time 9;"""


def gateway_bird(node: str, *, ipv6: bool) -> str:
    """BIRD beside an agent: what it finds in the agent's table it announces, and nothing else."""
    text = f"""
log stderr all;
router id {node_address(node, "lan0")};
timeformat protocol iso long ms;
protocol device {{ }}
"""
    for version in (4, 6) if ipv6 else (4,):
        local = node_address6(node) if version == 6 else node_address(node, "lan0")
        neighbour = router_address6(node) if version == 6 else router_address(node, "lan0")
        text += f"""
ipv{version} table vips{version};
protocol kernel injected{version} {{
    kernel table {TABLE};
    learn;
    scan time 10;
    netlink rx buffer 4194304;
    ipv{version} {{ table vips{version}; import all; export none; }};
}}
{_session(f"upstream{version}", local, GATEWAY_AS, neighbour, ROUTER_AS)}
    ipv{version} {{
        table vips{version};
        import none;
        export filter {{ bgp_med = krt_metric; accept; }};
    }};
}}
"""
    return text


def router_bird(*, ipv6: bool) -> str:
    """BIRD on the router: host routes of the shared addresses' networks, from both gateways."""
    text = f"""
log stderr all;
router id {CLIENT_GATEWAY};
timeformat protocol iso long ms;
protocol device {{ }}
"""
    wanted = {
        4: f"net.len = 32 && net ~ [ 10.77.0.0/16+, {plan.MORE_VIPS_NET}+ ]",
        6: "net.len = 128 && net ~ [ fd77::/64+ ]",
    }
    for version in (4, 6) if ipv6 else (4,):
        text += f"""
protocol kernel learned{version} {{
    ipv{version} {{ import none; export where source = RTS_BGP; }};
}}
"""
        for node in plan.NODES:
            local = router_address6(node) if version == 6 else router_address(node, "lan0")
            neighbour = node_address6(node) if version == 6 else node_address(node, "lan0")
            text += f"""
{_session(f"{node}{version}", local, ROUTER_AS, neighbour, GATEWAY_AS)}
    ipv{version} {{ import where {wanted[version]}; export none; }};
}}
"""
    return text


# ----------------------------------------------------------------------- processes -----------


def start(*, ipv6: bool) -> None:
    """Start BIRD on the router and beside both agents, and wait for their sessions."""
    _start(ROUTER, router_bird(ipv6=ipv6))
    for node in plan.NODES:
        _start(plan.namespace(node), gateway_bird(node, ipv6=ipv6))
    for node in plan.NODES:
        wait_for(
            functools.partial(_sessions_stand, plan.namespace(node), 2 if ipv6 else 1),
            f"the BGP sessions of {node}",
            timeout_s=20,
        )


def _sessions_stand(namespace: str, wanted: int) -> bool:
    return birdc(namespace, "show protocols").count("Established") == wanted


def _start(namespace: str, configuration: str) -> None:
    # A node has its own /run, and what is in it lies elsewhere for us.
    inside = Path("/run") if _is_node(namespace) else plan.RUN_DIR / f"bird-{namespace}"
    outside = _directory(namespace)
    outside.mkdir(exist_ok=True)
    (outside / "bird.conf").write_text(configuration)
    command = ["bird", "-f", "-c", f"{inside}/bird.conf", "-s", f"{inside}/bird.ctl"]
    processes.spawn(f"bird-{namespace}", namespace, command)


def _is_node(namespace: str) -> bool:
    return namespace.removeprefix("tb-") in plan.NODES


def _directory(namespace: str) -> Path:
    if _is_node(namespace):
        return netns.node_dir(namespace.removeprefix("tb-"), "/run")
    return plan.RUN_DIR / f"bird-{namespace}"


def birdc(namespace: str, command: str) -> str:
    """What BIRD in a namespace answers; empty while it doesn't."""
    try:
        return run(["birdc", "-r", "-s", str(_directory(namespace) / "bird.ctl"), *command.split()])
    except LabError:
        return ""


def next_hop(vip: str) -> str | None:
    """Where the router sends packets for an address: the node's name, None = nowhere."""
    ipv6 = ":" in vip
    shown = run(
        [*netns.enter(ROUTER), "ip", "-j", "-6" if ipv6 else "-4", "route", "show", "exact", vip]
    )
    for route in json.loads(shown):
        for node in plan.NODES:
            own = node_address6(node) if ipv6 else node_address(node, "lan0")
            if route.get("gateway") == own:
                return node
    return None


def injected(node: str) -> list[str]:
    """The destinations in the agent's table of a node, as its kernel has them: IPv4, then IPv6."""
    ip = [*netns.enter(plan.namespace(node)), "ip", "-j"]
    # A table that nothing was ever put into does not exist, so none is named here.
    ours = ["route", "show", "table", "all", "proto", str(TABLE)]
    shown = [*json.loads(run([*ip, "-4", *ours])), *json.loads(run([*ip, "-6", *ours]))]
    return [route["dst"] for route in shown if route.get("table") == str(TABLE)]
