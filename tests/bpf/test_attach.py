# SPDX-License-Identifier: Apache-2.0
"""The two hooks on real interfaces of a throw-away namespace: attach, replace, refuse, detach."""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bpf.packets import (
    IPV4,
    OTHER,
    Heartbeat,
    arp,
    eth,
    frame_in,
    ipv4,
    mac_is_right,
    udp,
    vmac,
)
from bpf.test_heartbeats import PROBE
from bpf.world import VIP, VRID, World
from twinbeat.engine import bpf
from twinbeat.engine import compile as compiler
from twinbeat.engine.abi import Reason
from twinbeat.engine.bpf import ProgramType
from twinbeat.engine.maps import Port
from twinbeat.net import xdp
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import interface, lowest_first
from unit.namespace import fresh_namespace, ip

PASS = bytes.fromhex("b7000000020000009500000000000000")
"""r0 = XDP_PASS; exit."""


@pytest.fixture
def namespace() -> Iterator[None]:
    with fresh_namespace():
        ip("link add port0 type veth peer name far0")
        ip("link set port0 up")
        ip("link set far0 up")
        ip("link add bridge0 type bridge")
        ip("link set bridge0 up")
        yield


def program(world: World, pin: str) -> xdp.Program:
    info = world.maps.program(pin)
    return xdp.Program(fd=world.maps.fd(pin), id=info.id, name=info.name)


def name_of(number: int) -> str:
    info = bpf.program_by_id(number)
    return info.name if info else ""


@pytest.fixture
def older(compiled: compiler.Compiled, world: World) -> Iterator[xdp.Program]:
    """Another program of our name, as an older version would leave."""
    fd = bpf.load_program("tb_link", PASS, kind=ProgramType.XDP, license_name="GPL")
    info = bpf.program_info(fd)
    yield xdp.Program(fd=fd, id=info.id, name=info.name)
    os.close(fd)


@pytest.fixture
def foreign() -> Iterator[xdp.Program]:
    fd = bpf.load_program("firewall", PASS, kind=ProgramType.XDP, license_name="GPL")
    info = bpf.program_info(fd)
    yield xdp.Program(fd=fd, id=info.id, name=info.name)
    os.close(fd)


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize(("name", "mode"), [("port0", "native"), ("bridge0", "generic")])
def test_xdp(world: World, name: str, mode: str) -> None:
    ours = program(world, "prog_link")
    index = interface(name).index
    assert xdp.query_xdp(index) == xdp.Hook(mode="none", program=0)
    assert not xdp.detach_xdp(index, ours, name_of=name_of)
    assert xdp.attach_xdp(index, ours, name_of=name_of) == mode
    assert xdp.attach_xdp(index, ours, name_of=name_of) == mode, "again changes nothing"
    assert xdp.query_xdp(index) == xdp.Hook(mode=mode, program=ours.id)
    assert xdp.detach_xdp(index, ours, name_of=name_of)
    assert xdp.query_xdp(index) == xdp.Hook(mode="none", program=0)


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("name", ["port0", "bridge0"])
def test_an_older_program_of_ours_is_replaced(world: World, older: xdp.Program, name: str) -> None:
    ours = program(world, "prog_link")
    index = interface(name).index
    mode = xdp.attach_xdp(index, older, name_of=name_of)
    assert xdp.attach_xdp(index, ours, name_of=name_of) == mode
    assert xdp.query_xdp(index).program == ours.id
    assert xdp.detach_xdp(index, older, name_of=name_of), "by name: whichever version is there"
    assert xdp.query_xdp(index).program == 0


@pytest.mark.usefixtures("namespace")
def test_a_foreign_program_stays(world: World, foreign: xdp.Program) -> None:
    ours = program(world, "prog_link")
    index = interface("port0").index
    xdp.attach_xdp(index, foreign, name_of=name_of)
    with pytest.raises(NetError, match=rf"program {foreign.id} \(firewall\) is there already"):
        xdp.attach_xdp(index, ours, name_of=name_of)
    assert not xdp.detach_xdp(index, ours, name_of=name_of)
    assert xdp.query_xdp(index).program == foreign.id


@pytest.mark.usefixtures("namespace")
def test_a_missing_interface(world: World) -> None:
    ours = program(world, "prog_link")
    with pytest.raises(NetError):
        xdp.attach_xdp(9999, ours, name_of=name_of)
    assert not xdp.detach_xdp(9999, ours, name_of=name_of)


@pytest.mark.usefixtures("namespace")
def test_egress(world: World, compiled: compiler.Compiled) -> None:
    ours = program(world, "prog_egress")
    index = interface("port0").index
    assert not xdp.detach_egress(index)
    xdp.attach_egress(index, ours)
    xdp.attach_egress(index, ours)
    assert xdp.query_egress(index) == xdp.Hook(mode="clsact", program=ours.id)
    assert xdp.detach_egress(index)
    assert xdp.query_egress(index) == xdp.Hook(mode="none", program=0)
    assert not xdp.detach_egress(index)


@pytest.mark.usefixtures("namespace")
def test_egress_shares_the_hook(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another's filter stays where it is, and keeps the qdisc alive."""
    ours = program(world, "prog_egress")
    fd = bpf.load_program("theirs", PASS, kind=ProgramType.SCHED_CLS, license_name="GPL")
    theirs = xdp.Program(fd=fd, id=bpf.program_info(fd).id, name="theirs")
    index = interface("port0").index
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(xdp, "_PRIORITY", 5)
        elsewhere.setattr(xdp, "_HANDLE", 1)
        xdp.attach_egress(index, theirs)
    os.close(fd)
    assert xdp.query_egress(index).program == 0
    xdp.attach_egress(index, ours)
    assert xdp.query_egress(index).program == ours.id
    assert xdp.detach_egress(index)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(xdp, "_PRIORITY", 5)
        elsewhere.setattr(xdp, "_HANDLE", 1)
        assert xdp.query_egress(index).program == theirs.id


def wait_for(condition: Callable[[], bool]) -> None:
    """veth delivers in a softirq, which may run a moment after the sender has returned."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextmanager
def raw_socket(name: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
        raw.bind((name, 3))
        raw.settimeout(5)
        yield raw


@pytest.mark.usefixtures("namespace")
def test_traffic_meets_the_gate(world: World) -> None:
    """Attached for real: what the far end sends to a VIP is dropped by XDP and counted."""
    index = interface("port0").index
    xdp.attach_xdp(index, program(world, "prog_link"), name_of=name_of)
    packet = eth(ipv4(udp(b"x" * 20, to=7), to=VIP), IPV4, source=OTHER)
    with raw_socket("far0") as far:
        for _ in range(5):
            far.send(packet)
    wait_for(lambda: world.maps.counters()[Reason.IN_VIP] == 5)


def refuse_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a driver without native XDP does."""
    attach = xdp._set_xdp

    def refuse(index: int, fd: int, flags: int, what: str) -> None:
        if flags & xdp._XDP_NATIVE:
            raise NetError(what, code=errno.EOPNOTSUPP)
        attach(index, fd, flags, what)

    monkeypatch.setattr(xdp, "_set_xdp", refuse)


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("mode", [xdp.NATIVE, xdp.GENERIC])
@pytest.mark.parametrize("heartbeat", [PROBE, PROBE.but(vlan=30, link=2)], ids=["plain", "tagged"])
def test_a_probe_is_answered_over_the_wire(
    world: World,
    foreign: xdp.Program,
    heartbeat: Heartbeat,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """XDP_TX over veth: the answer reaches the far end though no process runs here."""
    # Whatever is attached at the far end makes veth take what is sent back.
    xdp.attach_xdp(interface("far0").index, foreign, name_of=name_of)
    index = interface("port0").index
    if mode == xdp.GENERIC:
        refuse_native(monkeypatch)
    assert xdp.attach_xdp(index, program(world, "prog_link"), name_of=name_of) == mode
    port = Port(ifindex=index, vlan=heartbeat.vlan, link=heartbeat.link)
    world.maps.set_ports([port])
    with raw_socket("far0") as far:
        far.send(heartbeat.packet())
        wait_for(lambda: world.maps.counters()[Reason.PROBE] == 1)
        while True:
            frame, address = far.recvfrom(2048)
            if address[2] != socket.PACKET_OUTGOING and frame[-128:-124] == b"TBT1":
                break
    # A packet socket is handed the frame without its tag; the kernel keeps that beside it.
    assert frame[:12] == heartbeat.packet()[6:12] + heartbeat.packet()[:6]
    assert mac_is_right(frame)
    assert frame_in(frame).echo == heartbeat.counter


@pytest.mark.usefixtures("namespace")
def test_a_virtual_mac_is_behind_the_gate(world: World) -> None:
    """What a macvlan sends passes the egress hook of the interface below it."""
    index = interface("port0").index
    xdp.attach_egress(index, program(world, "prog_egress"))
    ip(f"link add vmac0 link port0 address {vmac(VRID).hex(':')} type macvlan mode bridge")
    ip("link set vmac0 up")
    announcement = arp(operation=1, sender=VIP, target=VIP, sender_mac=vmac(VRID))

    def arrived(far: socket.socket) -> bool:
        far.settimeout(0.2)
        try:
            while True:
                if announcement in far.recv(2048):
                    return True
        except TimeoutError:
            return False

    with raw_socket("far0") as far, raw_socket("vmac0") as own:
        dropped = world.maps.counters()[Reason.OUT_VMAC]
        with pytest.raises(OSError, match="No buffer space"):  # what a sender is told of a drop
            own.send(announcement)
        assert world.maps.counters()[Reason.OUT_VMAC] > dropped
        assert not arrived(far)
        world.open_gate()
        own.send(announcement)
        assert arrived(far)


@pytest.fixture
def bridged(namespace: None) -> None:
    """port0 is a port of bridge0, which has a virtual MAC: what a node on a bridge looks like."""
    ip("link set port0 master bridge0")
    ip(f"link add vmac0 link bridge0 address {vmac(VRID).hex(':')} type macvlan mode private")
    ip("link set vmac0 up")


@pytest.mark.usefixtures("bridged")
def test_the_gate_of_a_bridge_stands_on_the_bridge(world: World) -> None:
    """Generic XDP there sees what is for this host, its virtual MACs included."""
    index = interface("bridge0").index
    ours = program(world, "prog_link")
    assert xdp.attach_xdp(index, ours, name_of=name_of) == xdp.GENERIC
    packet = eth(ipv4(udp(b"x" * 20, to=7), to="192.0.2.99"), IPV4, to=vmac(VRID), source=OTHER)

    def passes(own: socket.socket) -> bool:
        own.settimeout(0.2)
        try:
            while packet not in own.recv(2048):
                pass
        except TimeoutError:
            return False
        return True

    with raw_socket("far0") as far, raw_socket("vmac0") as own:
        far.send(packet)
        wait_for(lambda: world.maps.counters()[Reason.IN_VMAC] == 1)
        assert not passes(own)
        world.open_gate()
        far.send(packet)
        assert passes(own)


@pytest.mark.usefixtures("bridged")
def test_a_probe_to_a_bridge_is_answered(world: World) -> None:
    """Generic XDP_TX leaves through the bridge, which finds the port by itself."""
    index = interface("bridge0").index
    xdp.attach_xdp(index, program(world, "prog_link"), name_of=name_of)
    world.maps.set_ports([Port(ifindex=index, link=PROBE.link)])
    own = bytes.fromhex(interface("bridge0").mac.replace(":", ""))
    with raw_socket("far0") as far:
        far.send(own + PROBE.packet()[6:])
        wait_for(lambda: world.maps.counters()[Reason.PROBE] == 1)
        while True:
            frame, address = far.recvfrom(2048)
            if address[2] != socket.PACKET_OUTGOING and frame[-128:-124] == b"TBT1":
                break
    assert frame[6:12] == own


@pytest.mark.usefixtures("namespace")
def test_a_macvlan_s_own_virtual_mac_would_pass_its_gate_by() -> None:
    """Why a macvlan can't be a port with a virtual MAC: the kernel puts that on the card below."""
    ip("link add upper0 link port0 type macvlan mode bridge")
    ip(f"link add vmac0 link upper0 address {vmac(VRID).hex(':')} type macvlan mode private")
    assert interface("upper0").parent == interface("port0").index
    assert interface("vmac0").parent == interface("port0").index


@pytest.mark.usefixtures("namespace")
def test_what_lies_below_gets_its_program_first(world: World) -> None:
    ip("link add upper0 link port0 type macvlan mode bridge")
    names = lowest_first({"upper0", "port0", "gone0"})
    assert names == ["port0", "upper0", "gone0"]
    ours = program(world, "prog_link")
    modes = [xdp.attach_xdp(interface(name).index, ours, name_of=name_of) for name in names[:2]]
    assert modes == [xdp.NATIVE, xdp.GENERIC]
