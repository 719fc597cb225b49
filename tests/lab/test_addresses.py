# SPDX-License-Identifier: Apache-2.0
"""Shared addresses among others: several VRIDs on a port, a thousand plain ones, and rivals."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.l2 import ARP, Ether
from twinlab import agents, capture, lab, netns, plan, processes
from twinlab.shell import run, wait_for

from lab import watching

MORE = (61, 62)
"""VRIDs that share lan0 with the first."""

EXTRA = """
[[vrid]]
id = {vrid}
interface = "lan0"
vips = ["10.77.0.{vrid}"]
"""

VRRP = 112

CALM = plan.Options(profile="balanced", settings=watching.CALM)


LAB_OPTIONS = replace(CALM, ipv6=True)


@pytest.fixture
def bare() -> Iterator[None]:
    """No lab, for a test that brings up one of its own."""
    lab.down()
    yield
    lab.down()


def inside(name: str, *command: str) -> str:
    return run([*netns.enter(name), *command])


def rivals(node: str, kind: str) -> list[dict[str, Any]]:
    said = agents.show(node)
    return [one for one in said["rivals"] if one["kind"] == kind] if said else []


def test_several_vrids_share_a_port(bare: None) -> None:
    """Each has its MAC, and all of them move with one takeover."""
    lab.up(replace(CALM, agent=False))
    for node in plan.NODES:
        file = agents.file_of(node)
        more = "".join(EXTRA.format(vrid=vrid) for vrid in MORE)
        file.write_text(file.read_text() + more)
        agents.start(node)
    dead = agents.wait_fit()
    survivor = plan.peer(dead)
    watching.watch(
        lambda: lab.cut(dead, silent=True),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
    )
    for vrid, address in ((plan.LAN_VRID, plan.LAN_VIP), *((n, f"10.77.0.{n}") for n in MORE)):
        assert answers(address), address
        assert plan.vmac(vrid) in inside(plan.CLIENT_NS, "ip", "neighbour", "show", address)
        assert lab.learned_port("lan0", plan.vmac(vrid)) == survivor


def answers(address: str) -> bool:
    command = ["ping", "-q", "-c1", "-W1", address]
    return wait_for(
        lambda: "1 received" in inside(plan.CLIENT_NS, "sh", "-c", " ".join(command) + ";:"),
        f"{address} answers",
        timeout_s=20,
    )


def test_a_thousand_plain_addresses_are_announced_at_the_rate_asked_for(bare: None) -> None:
    """Without a virtual MAC each is announced, no more of them a second than was asked for."""
    rate = 2000
    options = replace(
        CALM,
        vips=1000,
        vmac=False,
        settings=(*watching.CALM, f"announce.rate_per_s={rate}", "announce.garp_reply=true"),
    )
    lab.up(options)
    dead = agents.wait_fit()
    survivor = plan.peer(dead)
    seen = watching.watch(
        lambda: lab.cut(dead, silent=True),
        lambda: watching.serves(survivor) and announced(survivor) >= 2 * 2001,
        "two rounds of announcements",
        timeout_s=30,
    )
    assert seen.recording.lost == 0
    frames = [
        frame
        for frame in seen.recording.frames
        if frame.port == survivor and frame.link == "lan0" and frame.is_announcement()
    ]
    assert {frame.speaks_for() for frame in frames} == set(options.lan_vips())
    forms = {frame.data[20:22] for frame in frames}
    assert forms == {b"\x00\x01", b"\x00\x02"}, "in the request form and in the reply form"
    moments = sorted(frame.at_ns for frame in frames)
    tenth_ns = 100_000_000
    busiest = max(bisect.bisect(moments, at + tenth_ns) - i for i, at in enumerate(moments))
    assert busiest <= 0.1 * rate * 1.5, f"{busiest} frames in a tenth of a second"
    for address in options.lan_vips()[::200]:
        known = inside(plan.CLIENT_NS, "ip", "neighbour", "show", address)
        assert not known or plan.node_mac(survivor, "lan0") in known


def announced(node: str) -> int:
    counted = agents.counters(node)
    return int(counted["announcements"]["ipv4"]) if counted else 0


def test_the_pair_is_no_rival_of_itself(primary: str) -> None:
    """A takeover with all its announcements leaves nobody suspected of having our addresses."""
    done = agents.cli(primary, "force", "failover", "--yes", "--reason", "test")
    assert done.returncode == 0, done.stderr
    other = plan.peer(primary)
    wait_for(lambda: watching.serves(other), f"{other} serves", timeout_s=30)
    first = announced(other)
    wait_for(lambda: announced(other) > first, "announcements go on", timeout_s=30)
    for node in plan.NODES:
        said = agents.show(node)
        assert said is not None
        assert said["rivals"] == []


def test_a_host_with_our_address_is_found_and_named(primary: str) -> None:
    """It keeps quiet until somebody asks; the node that serves asks."""
    mac = plan.CLIENT_MAC
    before = {node: watching.transitions(node) for node in plan.NODES}
    address = ["ip", "address", "add", f"{plan.LAN_VIP}/32", "dev", "eth0"]
    inside(plan.CLIENT_NS, *address)
    try:
        found = wait_for(lambda: rivals(primary, "address"), "the rival is named", timeout_s=30)
        # It announces itself as well: then the secondary, which asks nobody, hears of it too.
        with netns.packet_socket(plan.CLIENT_NS, "eth0") as own:
            own.send(gratuitous(mac, plan.LAN_VIP))
        other = plan.peer(primary)
        wait_for(lambda: rivals(other, "address"), "the secondary hears of it", timeout_s=20)
    finally:
        inside(plan.CLIENT_NS, *("del" if word == "add" else word for word in address))
    assert [(one["interface"], one["what"], one["who"]) for one in found] == [
        ("lan0", plan.LAN_VIP, mac)
    ]
    said = agents.show(primary)
    assert said is not None
    assert any(one["code"].startswith("duplicate_address") for one in said["warnings"])
    log = processes.log_tail(agents.process_name(primary), 30)
    assert f"{mac} on lan0 speaks for our address {plan.LAN_VIP}" in log
    assert 'twinbeat_rivals{interface="lan0",kind="address",pair="1"} 1.0' in agents.metrics(
        primary
    )
    assert mac in agents.cli(primary, "show", "vips").stdout
    assert {node: watching.transitions(node) for node in plan.NODES} == before


def test_a_host_with_our_ipv6_address_is_found_and_named(primary: str) -> None:
    """By a solicitation as duplicate address detection sends it."""
    before = {node: watching.transitions(node) for node in plan.NODES}
    address = ["ip", "address", "add", f"{plan.LAN_VIP6}/128", "dev", "eth0", "nodad"]

    def found() -> list[dict[str, Any]]:
        return [one for one in rivals(primary, "address") if one["what"] == plan.LAN_VIP6]

    inside(plan.CLIENT_NS, *address)
    try:
        (rival,) = wait_for(found, "the rival is named", timeout_s=20)
    finally:
        inside(plan.CLIENT_NS, "ip", "address", "del", *address[3:6])
    assert (rival["interface"], rival["who"]) == ("lan0", plan.CLIENT_MAC)
    told = f"{plan.CLIENT_MAC} on lan0 speaks for our address {plan.LAN_VIP6}"
    assert told in processes.log_tail(agents.process_name(primary), 30)
    assert told in agents.cli(primary, "show").stdout
    assert {node: watching.transitions(node) for node in plan.NODES} == before


def gratuitous(mac: str, address: str) -> bytes:
    """What a host sends that has just been given an address."""
    said = ARP(op=1, hwsrc=mac, psrc=address, pdst=address)
    return bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / said)


@contextlib.contextmanager
def keepalived(*vrids: int) -> Iterator[None]:
    """A VRRP router in the client's namespace, with these numbers and addresses of its own."""
    directory = plan.RUN_DIR / "rival"
    directory.mkdir(exist_ok=True)
    text = "global_defs {\n  vrrp_version 3\n}\n"
    for vrid in vrids:
        text += (
            f"vrrp_instance RIVAL{vrid} {{\n  state MASTER\n  interface eth0\n"
            f"  virtual_router_id {vrid}\n  priority 200\n  advert_int 0.1\n"
            f"  virtual_ipaddress {{\n    10.77.1.{vrid}/32\n  }}\n}}\n"
        )
    (directory / "keepalived.conf").write_text(text)
    command = ["keepalived", "-n", "-l", "-G", "-P", "-f", str(directory / "keepalived.conf")]
    command += ["-p", str(directory / "pid"), "-r", str(directory / "vrrp.pid")]
    processes.spawn("rival", plan.CLIENT_NS, command)
    try:
        yield
    finally:
        processes.end("rival")


def test_a_router_with_our_number_is_named(primary: str) -> None:
    """And one with another number is none of our business."""
    before = {node: watching.transitions(node) for node in plan.NODES}
    with keepalived(plan.LAN_VRID, 200):
        for node in plan.NODES:
            (found,) = wait_for(
                lambda node=node: rivals(node, "vrrp"), f"{node} names the router", timeout_s=20
            )
            assert (found["interface"], found["what"]) == ("lan0", f"VRID {plan.LAN_VRID}")
            assert found["who"] == plan.CLIENT_ADDRESS
            assert 'twinbeat_rivals{interface="lan0",kind="vrrp",pair="1"} 1.0' in agents.metrics(
                node
            )
        wait_for(lambda: spoken() == {plan.LAN_VRID, 200}, "it speaks for both", timeout_s=20)
        for node in plan.NODES:
            assert [one["what"] for one in rivals(node, "vrrp")] == [f"VRID {plan.LAN_VRID}"]
    log = processes.log_tail(agents.process_name(primary), 40)
    assert "give one of them another number" in log
    assert {node: watching.transitions(node) for node in plan.NODES} == before


def spoken() -> set[int]:
    """The numbers under which VRRP was heard on the client's cable in a moment."""
    with capture.Capture(links=("lan0",), ports=("client",)) as recorder:
        wait_for(lambda: recorder.paths[0].stat().st_size > 4096, "some frames", timeout_s=30)
    frames = recorder.finish().frames
    return {frame.data[35] for frame in frames if frame.data[23] == VRRP}


def texts() -> dict[str, str]:
    """The files of both nodes as they are."""
    return {node: agents.file_of(node).read_text() for node in plan.NODES}


def test_an_address_comes_and_goes_while_the_pair_serves(primary: str) -> None:
    """By reloads alone, and whoever uses the others notices nothing."""
    new, before = "10.77.0.12", texts()
    reign = watching.term(primary)
    recorded = [watching.transitions(node) for node in plan.NODES]

    def come_and_go() -> None:
        for node, text in before.items():
            more = text.replace(f'vips = ["{plan.LAN_VIP}"', f'vips = ["{new}", "{plan.LAN_VIP}"')
            assert "was reloaded" in agents.reconfigure(node, more)
        assert answers(new)
        known = inside(plan.CLIENT_NS, "ip", "neighbour", "show", new)
        assert plan.vmac(plan.LAN_VRID) in known
        for node, text in before.items():
            assert "was reloaded" in agents.reconfigure(node, text)

    seen = watching.watch(come_and_go, lambda: True, "the reloads")
    for node in plan.NODES:
        assert new not in inside(plan.namespace(node), "ip", "-o", "address")
    assert seen.outage is None
    assert watching.term(primary) == reign
    assert [watching.transitions(node) for node in plan.NODES] == recorded


MORE_PORTS = (("lan0", "10.77.0.61"), ("ha0", "10.99.0.62"))
"""A port that serves already, and one that carried only heartbeats."""


def wider() -> dict[str, str]:
    """The files with two VRIDs more."""
    extra = "".join(
        EXTRA.format(vrid=vrid).replace("lan0", port).replace(f"10.77.0.{vrid}", address)
        for vrid, (port, address) in zip(MORE, MORE_PORTS, strict=True)
    )
    return {node: text + extra for node, text in texts().items()}


def reload(files: dict[str, str]) -> None:
    """Both nodes, one after the other; nothing is left for a restart."""
    for node, text in files.items():
        said = agents.reconfigure(node, text)
        assert "was reloaded" in said
        assert "restart" not in said


def test_numbers_come_and_go_while_the_pair_serves(primary: str) -> None:
    """By reloads alone, and whoever uses the others notices nothing."""
    narrow = texts()
    reign = watching.term(primary)
    recorded = [watching.transitions(node) for node in plan.NODES]

    def come_and_go() -> None:
        reload(wider())
        assert answers("10.77.0.61")
        mac = plan.vmac(61)
        assert mac in inside(plan.CLIENT_NS, "ip", "neighbour", "show", "10.77.0.61")
        assert lab.learned_port("lan0", mac) == primary
        for node in plan.NODES:
            said = agents.show(node)
            assert said is not None
            assert {vrid["id"] for vrid in said["vrids"]} == {plan.LAN_VRID, plan.WAN_VRID, *MORE}
            assert "10.99.0.62/32" in inside(plan.namespace(node), "ip", "-o", "address")
        reload(narrow)

    seen = watching.watch(come_and_go, lambda: True, "the reloads")
    for node in plan.NODES:
        left = inside(plan.namespace(node), "ip", "-o", "address")
        assert not [address for _, address in MORE_PORTS if address in left]
        links = inside(plan.namespace(node), "ip", "link")
        assert not [vrid for vrid in MORE if f"tbv{vrid}" in links]
    assert seen.outage is None
    assert watching.term(primary) == reign
    assert [watching.transitions(node) for node in plan.NODES] == recorded


def test_a_number_that_came_moves_with_the_role(primary: str) -> None:
    narrow, survivor = texts(), plan.peer(primary)
    reload(wider())
    assert answers("10.77.0.61")
    seen = watching.watch(
        lambda: lab.cut(primary, silent=True),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
    )
    seen.never_both(primary, survivor)
    assert answers("10.77.0.61")
    assert lab.learned_port("lan0", plan.vmac(61)) == survivor
    lab.heal(primary)
    agents.wait_fit()
    reload(narrow)
