# SPDX-License-Identifier: Apache-2.0
"""A new primary speaks at once: it knows whom it has to speak to before there is a takeover."""

from __future__ import annotations

import ipaddress
import json
import subprocess

from twinlab import agents, lab, netns, plan, services
from twinlab.capture import ETHERTYPE_ARP, Frame
from twinlab.shell import wait_for

from lab import watching

WANTED = {
    "lan0": [plan.CLIENT_ADDRESS],
    "wan0": [plan.server_address(server) for server in plan.SERVERS],
}


def known(node: str, link: str) -> dict[str, str]:
    """The node's neighbours on a link that have a MAC: address -> MAC."""
    command = [
        *netns.enter(plan.namespace(node)),
        "ip",
        "-json",
        "-4",
        "neigh",
        "show",
        "dev",
        link,
    ]
    entries = json.loads(subprocess.check_output(command, text=True, timeout=10))
    return {one["dst"]: one["lladdr"] for one in entries if "lladdr" in one}


def is_warm(node: str) -> bool:
    """Whether the node knows the MACs of the client and of both servers."""
    return all(set(wanted) <= known(node, link).keys() for link, wanted in WANTED.items())


def asked_for(frame: Frame) -> str | None:
    """The address that an ARP request asks for; None for other frames and announcements."""
    if int.from_bytes(frame.data[12:14], "big") != ETHERTYPE_ARP or frame.is_announcement():
        return None
    if int.from_bytes(frame.data[20:22], "big") != 1:
        return None
    return str(ipaddress.IPv4Address(frame.data[38:42]))


def test_the_secondary_knows_client_and_servers(primary: str) -> None:
    other = plan.peer(primary)
    assert services.http_get(plan.LAN_VIP) in plan.SERVERS
    wait_for(lambda: is_warm(other), f"{other} knows client and servers", timeout_s=30)
    assert known(other, "lan0")[plan.CLIENT_ADDRESS] == plan.CLIENT_MAC
    for server in plan.SERVERS:
        assert known(other, "wan0")[plan.server_address(server)] == plan.server_mac(server)


def test_a_node_that_comes_later_is_told_of_the_client(primary: str) -> None:
    """The primary asked for the client long ago; it asks again for the newcomer to hear."""
    other = plan.peer(primary)
    assert services.http_get(plan.LAN_VIP) in plan.SERVERS
    wait_for(lambda: is_warm(primary), f"{primary} knows client and servers", timeout_s=30)
    agents.terminate(other)
    for link in WANTED:
        flush = [*netns.enter(plan.namespace(other)), "ip", "neigh", "flush", "dev", link]
        subprocess.run(flush, check=True, capture_output=True, timeout=10)
    assert plan.CLIENT_ADDRESS not in known(other, "lan0")
    agents.start(other)
    agents.wait_fit()
    wait_for(lambda: is_warm(other), f"{other} knows client and servers", timeout_s=30)


def test_a_takeover_asks_nobody_before_it_answers(primary: str) -> None:
    survivor = plan.peer(primary)
    assert services.http_get(plan.LAN_VIP) in plan.SERVERS
    wait_for(lambda: is_warm(survivor), f"{survivor} knows client and servers", timeout_s=30)
    seen = watching.watch(
        lambda: lab.cut(primary, silent=True),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
    )
    assert seen.recording.lost == 0, "a capture with gaps proves nothing"
    assert seen.outage is not None
    answered_ns = seen.outage.first_good_ns
    assert answered_ns is not None
    verdict_ns = watching.takeover(survivor, seen.before_ns)["timeline"]["verdict_ns"]
    wanted = {address for addresses in WANTED.values() for address in addresses}
    asked = [
        asked_for(frame)
        for frame in seen.recording.frames
        if frame.port == survivor and verdict_ns <= frame.at_ns <= answered_ns
    ]
    assert not wanted & set(asked), "what is asked for now should have been known before"
