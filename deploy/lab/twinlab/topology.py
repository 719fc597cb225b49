# SPDX-License-Identifier: Apache-2.0
"""Building the network of `plan`: switches, cables, addresses, sysctls, NAT.

The gateways' kernel settings are those of the shipped deploy/sysctl file; the switches are
plain Linux bridges that learn, age and flood like switches do, except `tb-ha`, which plays a cable
and therefore forgets at once.
"""

from __future__ import annotations

import json
from pathlib import Path

from twinlab import cutter, netns, plan, routed, witness
from twinlab.shell import run, wait_for

SERVERS_NET = "10.88.0.0/24"
SHIPPED_SYSCTLS = plan.REPO_DIR / "deploy" / "sysctl" / "90-twinbeat.conf"


def gateway_sysctls(*, ipv6: bool) -> dict[str, str]:
    """What the shipped file tells operators to set, as far as a network namespace has its own.

    A `*` stands for every interface there is: in a namespace still without any, `all` and, in a
    line of its own, `default`.
    """
    settings = {}
    for line in SHIPPED_SYSCTLS.read_text().splitlines():
        key, equals, value = line.removeprefix("-").partition("=")
        if not equals or line.startswith("#") or key.startswith("net.core."):
            continue
        if ipv6 or not key.startswith("net.ipv6."):
            settings[key.strip().replace("*", "all")] = value.strip()
    return settings


def _in(name: str, *command: str, input_text: str | None = None) -> str:
    return run([*netns.enter(name), *command], input_text=input_text)


def _ip(name: str, lines: list[str]) -> None:
    """Several `ip` commands at once: one process instead of one for each."""
    _in(name, "ip", "-batch", "-", input_text="\n".join(lines) + "\n")


def _sysctl(name: str, settings: dict[str, str]) -> None:
    _in(name, "sysctl", "-q", "-w", *[f"{key}={value}" for key, value in settings.items()])


def build(options: plan.Options) -> None:
    """Make every namespace and what is in it, up to the point where agents can be started."""
    netns.make_run_dir()
    for name in plan.NAMESPACES:
        netns.create(name)
        if not options.ipv6:
            # Router solicitations and MLD reports would only be noise in captures.
            _sysctl(
                name,
                {
                    "net.ipv6.conf.all.disable_ipv6": "1",
                    "net.ipv6.conf.default.disable_ipv6": "1",
                },
            )
    for link, switch in plan.SWITCHES.items():
        _build_switch(link, switch)
        if options.routed:
            _sysctl(switch, {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"})
    for node in plan.NODES:
        _build_gateway(node, options)
        netns.create_mounts(node)
        cutter.install(node)
    _build_client(options)
    for server in plan.SERVERS:
        _build_server(server, options)
    if options.witness:
        _build_witness()
    if options.routed:
        for link in routed.LINKS:
            _ip(plan.SWITCHES[link], routed.router_lines(link, ipv6=options.ipv6))


def _build_switch(link: str, switch: str) -> None:
    ageing = "0" if link == "ha0" else "30000"
    _ip(
        switch,
        [
            f"link add {plan.BRIDGE} type bridge stp_state 0 forward_delay 0 "
            f"mcast_snooping 0 ageing_time {ageing}",
            f"link set {plan.BRIDGE} up",
        ],
    )
    if Path("/proc/sys/net/bridge").is_dir():
        # A switch doesn't filter: bridge netfilter would put its hooks into every frame's path.
        kinds = ("iptables", "ip6tables", "arptables")
        _sysctl(switch, {f"net.bridge.bridge-nf-call-{kind}": "0" for kind in kinds})


def _plug(
    switch: str, port: str, name: str, device: str, mac: str, *, bridged: bool = True
) -> None:
    """A cable from a switch port to a device in another namespace; not bridged: a router's port."""
    lines = [f"link add name {port} type veth peer name {device} address {mac} netns {name}"]
    if bridged:
        lines.append(f"link set dev {port} master {plan.BRIDGE}")
    _ip(switch, [*lines, f"link set dev {port} up"])


def _build_gateway(node: str, options: plan.Options) -> None:
    name = plan.namespace(node)
    # Before the interfaces: they take the values of `default` when they appear.
    _sysctl(name, gateway_sysctls(ipv6=options.ipv6))
    for link, switch in plan.SWITCHES.items():
        bridged = not (options.routed and link in routed.LINKS)
        _plug(switch, node, name, link, plan.node_mac(node, link), bridged=bridged)
    lines = routed.gateway_lines(node, ipv6=options.ipv6) if options.routed else []
    crowd = [] if options.routed else [f"route add {plan.CROWD_NET} via {plan.CLIENT_ADDRESS}"]
    for link in () if options.routed else plan.LINKS:
        address = f"{plan.node_address(node, link)}/{plan.prefix_length(link)}"
        lines += [f"link set {link} up", f"addr add {address} dev {link}"]
        if options.ipv6:
            lines.append(f"addr add {plan.node_address6(node, link)}/64 dev {link} nodad")
    _ip(name, lines + crowd)
    _in(name, "nft", "-f", "-", input_text=nat_rules(options))


def nat_rules(options: plan.Options) -> str:
    """The gateways' rule set, the same on both: forward, NAT, and without agents the balance.

    With agents Twinbeat balances (`agents.sessions`), before any other rule.  No rule names the
    interface a packet came in by: to a virtual MAC it comes in by that MAC's own interface.
    """
    translate = f"oifname lan0 ip saddr {SERVERS_NET} snat ip to {plan.LAN_VIP}"
    if options.routed:
        # The servers' router knows nothing of clients, and must answer the gateway that asked.
        translate = "oifname wan0 masquerade"
    return f"""
table inet gateway {{
    chain balance {{
        type nat hook prerouting priority dstnat; policy accept;
        {"" if options.agent else _balance(options)}
    }}
    chain translate {{
        type nat hook postrouting priority srcnat; policy accept;
        # What the servers begin themselves leaves under the shared address, on either gateway.
        {translate}
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        ct state invalid counter drop
        # A server's answer to what the other gateway let in: no state here, so the client would
        # get it under the server's address.  It asks again through the new owner instead.
        ip saddr {SERVERS_NET} ct state new udp sport {plan.PROBE_PORT} counter drop
        ip saddr {SERVERS_NET} ct state new tcp sport {plan.HTTP_PORT} counter drop
        ip saddr {SERVERS_NET} ct state new tcp sport {plan.LINE_PORT} counter drop
    }}
    chain heartbeats {{
        # Heartbeats need no connection state, and must not depend on room for it.
        type filter hook prerouting priority raw; policy accept;
        udp dport {plan.HEARTBEAT_PORT} notrack
    }}
}}
"""


def _balance(options: plan.Options) -> str:
    """For whoever keeps a pair without balancing: by the client's address and port, so that both
    gateways pick the same server for a flow."""
    rules = []
    for version in (4, 6) if options.ipv6 else (4,):
        ip = "ip" if version == 4 else "ip6"
        numbered = enumerate(plan.servers(version))
        servers = ", ".join(f"{number} : {address}" for number, address in numbered)
        rules += [
            f"{ip} daddr {{ {', '.join(options.served(version))} }} {protocol} dport {port} "
            f"dnat {ip} to jhash {ip} saddr . {protocol} sport mod 2 seed 0x7b map {{ {servers} }}"
            for protocol, port in plan.SERVED
        ]
    return "\n        ".join(rules)


def _build_client(options: plan.Options) -> None:
    switch = plan.SWITCHES["lan0"]
    bridged = not options.routed
    _plug(switch, "client", plan.CLIENT_NS, "eth0", plan.CLIENT_MAC, bridged=bridged)
    address = routed.CLIENT_ADDRESS if options.routed else plan.CLIENT_ADDRESS
    lines = ["link set eth0 up", f"addr add {address}/24 dev eth0"]
    lines.append(f"route add local {plan.CROWD_NET} dev lo")
    if options.routed:
        lines.append(f"route add default via {routed.CLIENT_GATEWAY}")
    elif options.vips > 1:
        lines.append(f"route add {plan.MORE_VIPS_NET} dev eth0 src {plan.CLIENT_ADDRESS}")
    if options.ipv6 and options.routed:
        lines.append(f"addr add {routed.CLIENT_ADDRESS6}/64 dev eth0 nodad")
        lines.append(f"route add default via {routed.CLIENT_GATEWAY6}")
    elif options.ipv6:
        lines.append(f"addr add {plan.CLIENT_ADDRESS6}/64 dev eth0 nodad")
        lines.append(f"route add fd88::/64 via {plan.LAN_VIP6}")
    _ip(plan.CLIENT_NS, lines)


def _build_server(server: str, options: plan.Options) -> None:
    name = plan.namespace(server)
    _plug(plan.SWITCHES["wan0"], server, name, "eth0", plan.server_mac(server))
    lines = [
        "link set eth0 up",
        f"addr add {plan.server_address(server)}/24 dev eth0",
        f"route add default via {routed.SERVERS_GATEWAY if options.routed else plan.WAN_VIP}",
    ]
    if options.ipv6:
        lines.append(f"addr add {plan.server_address6(server)}/64 dev eth0 nodad")
        lines.append(f"route add default via {plan.WAN_VIP6}")
    _ip(name, lines)


def _build_witness() -> None:
    netns.create(witness.NAMESPACE)
    _plug(plan.SWITCHES["wan0"], witness.HOST_NAME, witness.NAMESPACE, "eth0", witness.MAC)
    addresses = [f"addr add {member.address}/24 dev eth0" for member in witness.MEMBERS]
    _ip(witness.NAMESPACE, ["link set lo up", "link set eth0 up", *addresses])


def set_port(node: str, link: str, *, up: bool) -> None:
    """Raise or drop the carrier of a node's link, at both ends of its cable.

    A direct cable has the other node at its far end, so both ports of `tb-ha` move together; a
    port of a switch falls alone.
    """
    ports = plan.NODES if link == "ha0" else (node,)
    state = "up" if up else "down"
    _ip(plan.SWITCHES[link], [f"link set dev {port} {state}" for port in ports])
    if up:
        # The kernel tells the bridge of a carrier up to a second late, as a real link trains.
        wait_for(
            lambda: all(_forwards(port, link) for port in ports),
            f"the ports {', '.join(ports)} of {plan.SWITCHES[link]} to forward",
            timeout_s=10,
        )


def _forwards(port: str, link: str) -> bool:
    """Whether the bridge sends frames through a port, or the router has carrier on it."""
    shown = json.loads(_in(plan.SWITCHES[link], "bridge", "-j", "link", "show", "dev", port))
    if shown:
        return bool(shown[0].get("state") == "forwarding")
    (device,) = json.loads(_in(plan.SWITCHES[link], "ip", "-j", "link", "show", "dev", port))
    return "master" not in device and "LOWER_UP" in device["flags"]


def port_is_up(node: str, link: str) -> bool:
    """Whether the switch port is set up (not: whether the cable carries anything)."""
    shown = _in(plan.SWITCHES[link], "ip", "-o", "link", "show", "dev", node)
    flags = shown.partition("<")[2].partition(">")[0].split(",")
    return "UP" in flags
