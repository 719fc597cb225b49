# SPDX-License-Identifier: Apache-2.0
"""Many clients of the gateways (see `crowd`), and which server the gateways bind them to."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from typing import Any

from twinlab import agents, netns, plan
from twinlab.shell import LabError, run

FIRST = "10.96.1.1"
CROWD = str(plan.LAB_DIR / "twinlab" / "crowd.py")


def command(port: int, count: int, first: str, *what: str) -> list[str]:
    """What lets so many clients ask, the first of them from this address."""
    asked = [sys.executable, "-I", CROWD, plan.LAN_VIP, str(port)]
    return [
        *netns.enter(plan.CLIENT_NS),
        *asked,
        *("--first", first, "--count", str(count)),
        *what,
    ]


def fetch(count: int, first: str = FIRST, *, timeout_s: float = 2.0) -> dict[str, Any]:
    """Which server answered each client, and how long all of them took."""
    asked = command(plan.HTTP_PORT, count, first, "--fetch", "--timeout-s", str(timeout_s))
    return dict(json.loads(run(asked)))


def answers(count: int, first: str = FIRST) -> list[str]:
    """Which server answered each client; LabError where one got no answer."""
    found = [str(each) for each in fetch(count, first, timeout_s=5.0)["answers"]]
    strange = set(found) - set(plan.SERVERS)
    if strange:
        raise LabError(f"{sum(each in strange for each in found)} of {count} got no answer")
    return found


def send(count: int, per_s: int, first: str = FIRST) -> dict[str, Any]:
    """New clients of the echo, so many a second."""
    return dict(json.loads(run(command(plan.PROBE_PORT, count, first, "--send", str(per_s)))))


def addresses(count: int, first: str) -> list[str]:
    """Of so many clients, beginning with this one."""
    base = ipaddress.IPv4Address(first)
    return [str(base + number) for number in range(count)]


def elements(node: str, rule: str = "http") -> dict[str, str]:
    """Client -> server, as the kernel of a node has it."""
    asked = ["nft", "-j", "list", "table", "inet", "twinbeat_sessions"]
    done = subprocess.run(
        [*netns.enter(plan.namespace(node)), *asked], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LabError(f"{node} has no table of persistence: {done.stderr.strip()}")
    maps = [each["map"] for each in json.loads(done.stdout)["nftables"] if "map" in each]
    (one,) = [each for each in maps if each["name"].startswith(f"p_{rule}.")]
    return {client["elem"]["val"]: server for client, server in one.get("elem", ())}


def bound_as(node: str, first: str, wanted: list[str]) -> int:
    """How many of the clients the kernel of a node binds to the servers that answered them."""
    listed = elements(node)
    pairs = zip(addresses(len(wanted), first), wanted, strict=True)
    return sum(listed.get(client) == plan.server_address(server) for client, server in pairs)


def seen(node: str) -> dict[str, Any]:
    """`twinbeat show sessions` of a node."""
    done = agents.cli(node, "show", "sessions", "--json")
    if done.returncode:
        raise LabError(f"show sessions at {node}: {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


def entries(node: str, rule: str) -> int:
    """How many a node's worker knows of."""
    return int({each["name"]: each["entries"] for each in seen(node)["rules"]}.get(rule, 0))
