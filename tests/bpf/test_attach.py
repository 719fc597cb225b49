# SPDX-License-Identifier: Apache-2.0
"""The two hooks on real interfaces of a throw-away namespace: attach, replace, refuse, detach."""

import os
import socket
import time
from collections.abc import Iterator

import pytest

from bpf.packets import IPV4, OTHER, eth, ipv4, udp
from bpf.world import VIP, World
from twinbeat.engine import bpf
from twinbeat.engine import compile as compiler
from twinbeat.engine.abi import Reason
from twinbeat.engine.bpf import ProgramType
from twinbeat.net import xdp
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import interface
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


@pytest.mark.usefixtures("namespace")
def test_traffic_meets_the_gate(world: World) -> None:
    """Attached for real: what the far end sends to a VIP is dropped by XDP and counted."""
    index = interface("port0").index
    ours = program(world, "prog_link")
    xdp.attach_xdp(index, ours, name_of=name_of)
    packet = eth(ipv4(udp(b"x" * 20, to=7), to=VIP), IPV4, source=OTHER)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as far:
        far.bind(("far0", 0))
        for _ in range(5):
            far.send(packet)
    # veth runs the receiver's softirq before send returns, or on the next tick of this processor.
    deadline = time.monotonic() + 5
    while world.maps.counters()[Reason.IN_VIP] < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert world.maps.counters()[Reason.IN_VIP] == 5
    xdp.detach_xdp(index, ours, name_of=name_of)
