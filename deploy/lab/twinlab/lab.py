# SPDX-License-Identifier: Apache-2.0
"""The lab's verbs: up, down, status, and the ways to break and mend a pair.

What the commands of `deploy/lab/lab`, the demo, the tests and the bench have in common.
"""

from __future__ import annotations

import json
import os
from typing import Any

from twinlab import agents, cutter, netns, plan, processes, routed, services, topology, witness
from twinlab.shell import LabError, run

GC_THRESH3 = "/proc/sys/net/ipv4/neigh/default/gc_thresh3"
NEIGHBOURS_SAVED = "gc_thresh3"


# -------------------------------------------------------------------- up and down ------------


def need_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and BPF programs: run it as root")


def is_up() -> bool:
    return plan.STATE_FILE.exists()


def options() -> plan.Options:
    """What the running lab was brought up with; LabError if there is none."""
    try:
        return plan.Options.from_json(json.loads(plan.STATE_FILE.read_text()))
    except OSError as error:
        raise LabError("the lab is not up (start it with `lab up`)") from error


def up(wanted: plan.Options) -> str:
    """Bring the lab up as wanted; returns one sentence on what was done.

    A lab that is up like that already stays as it is, its cables mended; one that is up
    differently, or was left half made by an interrupted command, is taken down first.
    """
    need_root()
    if not 1 <= wanted.vips <= wanted.vips_max():
        raise LabError(
            f"--vips {wanted.vips}: from 1 to {wanted.vips_max()}; Twinbeat takes {plan.VIPS_MAX} "
            "addresses of a family, those of the wan side among them"
        )
    if wanted.agent and not agents.installed():
        raise LabError(
            f"{agents.DAEMON} is missing: run `make setup`, "
            "or `lab up --no-agent` for the bare ground"
        )
    netns.refuse_foreign()
    if is_up() and options() == wanted:
        for node in plan.NODES:
            heal(node)
        missing = [node for node in plan.NODES if wanted.agent and not _agent_pid(node)]
        for node in missing:
            agents.start(node)
        return f"started the agents of {', '.join(missing)}" if missing else "already up"
    down()
    services.build_tools()
    try:
        topology.build(wanted)
        _allow_neighbours(wanted.vips)
        services.start(wanted)
        if wanted.routed:
            routed.start(ipv6=wanted.ipv6)
        if wanted.witness:
            witness.start()
        agents.configure(wanted)
        if wanted.agent:
            for node in plan.NODES:
                agents.start(node)
            agents.wait_bound()
    except BaseException:
        down()
        raise
    # Last: only a whole lab is one that `up` may find and leave alone.
    plan.STATE_FILE.write_text(json.dumps(wanted.to_json()))
    return "up"


def down() -> None:
    """Take away everything that is ours: processes, namespaces, mounts, pins, directories."""
    need_root()
    _restore_neighbours()
    processes.end_all()
    netns.remove()


def _allow_neighbours(vips: int) -> None:
    """Let the client know as many neighbours as there are VIPs.

    The kernel has one table, and one limit, for all namespaces; `down` puts the old limit back.
    """
    with open(GC_THRESH3) as file:
        limit = int(file.read())
    if vips + 512 > limit:
        (plan.RUN_DIR / NEIGHBOURS_SAVED).write_text(str(limit))
        with open(GC_THRESH3, "w") as file:
            file.write(str(2 * vips + 1024))


def _restore_neighbours() -> None:
    saved = plan.RUN_DIR / NEIGHBOURS_SAVED
    if saved.exists():
        with open(GC_THRESH3, "w") as file:
            file.write(saved.read_text())


def _agent_pid(node: str) -> int | None:
    return processes.pid_of(agents.process_name(node))


# ------------------------------------------------------------------------- status ------------


def status() -> dict[str, Any]:
    """The whole lab as one object; empty where there is no lab.

    `primaries` are the nodes that say they serve. `primary` is the one of them that can: a node
    that the lab has cut off from everything (`cut_off`) may well think itself primary. It is null
    if there is none, or more than one.
    """
    present = netns.present()
    state: dict[str, Any] = {
        "up": is_up(),
        "namespaces": present,
        "profile": None,
        "vips": {},
        "vmacs": {},
        "links": {},
        "primary": None,
        "primaries": [],
        "nodes": {},
    }
    if not is_up():
        return state
    current = options()
    state["profile"] = current.profile
    state["vips"] = {"lan0": current.lan_vips(), "wan0": current.wan_vips()}
    if current.vmac and not current.routed:
        state["vmacs"] = {"lan0": plan.vmac(plan.LAN_VRID), "wan0": plan.vmac(plan.WAN_VRID)}
    for node in plan.NODES:
        state["links"][node] = _links(node, current)
        state["nodes"][node] = {**_node(node), "cut_off": _cut_off(state["links"][node])}
        if state["nodes"][node]["role"] == "primary" and state["nodes"][node]["gate_open"]:
            state["primaries"].append(node)
    serving = [node for node in state["primaries"] if not state["nodes"][node]["cut_off"]]
    if len(serving) == 1:
        state["primary"] = serving[0]
    return state


def _cut_off(links: dict[str, Any]) -> bool:
    """Whether every link of a node is cut, both ways."""
    return all(set(words["cut"]) == set(cutter.DIRECTIONS) for words in links.values())


def _links(node: str, current: plan.Options) -> dict[str, Any]:
    with cutter.CutWord(node) as word:
        bits, dropped = word.bits, word.dropped()
    links = {}
    for link in plan.LINKS:
        cut = [way for way in cutter.DIRECTIONS if bits & 1 << cutter.bit_of(link, way)]
        links[link] = {
            "address": _address(node, link, current),
            "mac": plan.node_mac(node, link),
            "switch": plan.SWITCHES[link],
            "carrier": topology.port_is_up(node, link),
            "cut": cut,
            "dropped": dropped[link],
        }
    return links


def _address(node: str, link: str, current: plan.Options) -> str:
    if not current.routed:
        return plan.node_address(node, link)
    return routed.node_address(node, link) if link in routed.LINKS else ""


def _node(node: str) -> dict[str, Any]:
    said = agents.show(node)
    pid = _agent_pid(node)
    return {
        "namespace": plan.namespace(node),
        "socket": agents.socket_path(node),
        "pid": pid,
        "stopped": bool(pid and processes.state_of(pid) == "T"),
        "role": said["node"]["role"] if said else None,
        "term": said["node"]["term"] if said else None,
        "gate_open": said["gate"]["open"] if said else None,
        "sentence": said["sentence"] if said else None,
        "log": str(processes.log_file(agents.process_name(node))),
    }


# ---------------------------------------------------------------- breaking, mending ----------


def check_node(node: str) -> str:
    if node not in plan.NODES:
        raise LabError(f"{node}: no such node (they are {', '.join(plan.NODES)})")
    return node


def cut(node: str, *, silent: bool) -> None:
    """Cut a node off, all links and both directions between two packets.

    Silently: as if it had died, nothing else changes.  Otherwise the carrier falls as well, at both
    ends of its cables, as when it loses its power.
    """
    check_node(node)
    cutter.set_bits(node, cutter.ALL_BITS, value=True)
    if not silent:
        for link in plan.LINKS:
            topology.set_port(node, link, up=False)


def cut_link(node: str, link: str, *, one_way: str | None = None, silent: bool = True) -> None:
    """Cut one link, or one direction of it: `in` is what the node hears, `out` what it says."""
    check_node(node)
    if link not in plan.LINKS:
        raise LabError(f"{link}: no such link (they are {', '.join(plan.LINKS)})")
    ways = cutter.DIRECTIONS if one_way is None else (one_way,)
    bits = sum(1 << cutter.bit_of(link, way) for way in ways)
    cutter.set_bits(node, bits, value=True)
    if not silent:
        topology.set_port(node, link, up=False)


def heal(node: str) -> None:
    """Mend everything about a node's cables: carriers first, then all traffic at one blow."""
    check_node(node)
    other = plan.peer(node)
    for link in plan.LINKS:
        # The direct cable's far end is the other node's: it stays dark while that one is cut.
        with cutter.CutWord(other) as word:
            other_is_off = word.bits == cutter.ALL_BITS and not topology.port_is_up(other, "lan0")
        if not topology.port_is_up(node, link) and not (link == "ha0" and other_is_off):
            topology.set_port(node, link, up=True)
    with cutter.CutWord(node) as word:
        word.store(0)


def execute(name: str, command: list[str]) -> int:
    """Run a command in a namespace, with our own terminal; returns its exit code."""
    import subprocess

    options()
    full = plan.namespace(name)
    if full not in netns.OURS:
        raise LabError(f"{name}: no such namespace (they are {', '.join(plan.NAMESPACES)})")
    return subprocess.run([*netns.enter(full), *command], check=False).returncode


def learned_port(link: str, mac: str) -> str | None:
    """Behind which port a switch believes a MAC to be."""
    shown = run(
        [*netns.enter(plan.SWITCHES[link]), "bridge", "-j", "fdb", "show", "br", plan.BRIDGE]
    )
    for entry in json.loads(shown):
        if entry["mac"] == mac and "permanent" not in entry.get("state", ""):
            return str(entry["ifname"])
    return None
