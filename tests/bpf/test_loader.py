# SPDX-License-Identifier: Apache-2.0
"""The one-shot loader, on a BPF file system of the test's own."""

import asyncio
import ctypes
import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinbeat.engine import abi, bpf, loader
from twinbeat.engine import compile as compiler
from twinbeat.engine.compile import CompileError
from twinbeat.engine.maps import LAYOUT, PROGRAMS, SPECS, Maps, Port, Vip

PAIR = 7
_DETACH = 2


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    loader.mount_bpf_file_system(tmp_path)
    yield tmp_path / "twinbeat"
    assert ctypes.CDLL(None).umount2(os.fsencode(tmp_path), _DETACH) == 0


@pytest.fixture(autouse=True)
def _compile_once(compiled: compiler.Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "compile_programs", lambda _directory: compiled)


def changed_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "fingerprint", lambda _directory: b"p" * 32)


def changed_abi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abi, "fingerprint", lambda: b"a" * 32)


def ids(directory: Path) -> dict[str, int]:
    """Kernel ids of the pinned objects."""
    found = {}
    for path in directory.iterdir():
        fd = bpf.open_pin(path)
        info = bpf.program_info(fd) if path.name in PROGRAMS else bpf.map_info(fd)
        found[path.name] = info.id
        os.close(fd)
    return found


def test_loads_pins_and_reuses(root: Path) -> None:
    report = loader.load(root / "7")
    assert (report.ok, report.status, report.gate) == (True, "loaded", "new")
    directory = root / "7"
    names = {spec.name for spec in SPECS if spec.pinned} | {*PROGRAMS, LAYOUT.name}
    assert {path.name for path in directory.iterdir()} == names
    for path in (root, directory):
        assert path.stat().st_mode & 0o777 == 0o700
    before = ids(directory)
    assert report.programs["prog_link"]["id"] == before["prog_link"]
    assert report.programs["prog_egress"]["name"] == "tb_egress"
    again = loader.load(directory)
    assert (again.status, again.gate, again.layout) == ("reused", "kept", report.layout)
    assert ids(directory) == before


def test_other_sources_wait_for_leave_to_replace(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = root / "7"
    loader.load(directory)
    before = ids(directory)
    with Maps.open_directory(directory) as maps:
        maps.write_gate(abi.Gate(term=100, counter=5))
        maps.set_vips({"10.0.0.1": Vip(vrid=1, vmac=True)})
    changed_sources(monkeypatch)
    report = loader.load(directory)
    assert (report.status, report.abi_fits) == ("outdated", True)
    assert ids(directory) == before
    report = loader.load(directory, replace=True)
    assert (report.status, report.gate) == ("replaced", "kept")
    after = ids(directory)
    assert after["old_prog_link"] == before["prog_link"], "attached until the agent changes it"
    renewed = {name for name in before if after[name] != before[name]}
    assert renewed == {*PROGRAMS, LAYOUT.name}, "the maps fit, and keep what is in them"
    with Maps.open_directory(directory) as maps:
        assert maps.gate().term == 100
        assert maps.vips() == ["10.0.0.1"]
        assert maps.layout()[1] == b"p" * 32
        for name in ("prog_link", "old_prog_link"):
            assert maps.program_name(after[name]) == "tb_link"
        assert maps.program_name(2**31 - 1) == ""


def test_another_abi_keeps_the_gate_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = root / "7"
    loader.load(directory)
    before = ids(directory)
    changed_abi(monkeypatch)
    report = loader.load(directory)
    assert (report.status, report.abi_fits) == ("outdated", False)
    report = loader.load(directory, replace=True)
    assert (report.status, report.gate) == ("replaced", "kept")
    after = ids(directory)
    assert {name for name in before if after[name] == before[name]} == {"gate"}


def test_what_a_dead_loader_left_is_completed(root: Path) -> None:
    directory = root / "7"
    loader.load(directory)
    before = ids(directory)
    (directory / "prog_egress").unlink()
    (directory / LAYOUT.name).rename(directory / "new_layout")
    report = loader.load(directory)
    assert (report.status, report.gate) == ("loaded", "kept")
    after = ids(directory)
    assert after.keys() == before.keys() | {"old_prog_link"}
    assert after["gate"] == before["gate"]


def test_a_map_of_the_wrong_size_is_replaced(root: Path) -> None:
    directory = root / "7"
    loader.load(directory)
    (directory / "gate").unlink()
    fd = bpf.create_map(
        "gate",
        kind=bpf.MapType.ARRAY,
        key_size=4,
        value_size=32,
        entries=1,
        flags=bpf.MapFlag.MMAPABLE,
    )
    bpf.pin(fd, directory / "gate")
    os.close(fd)
    (directory / LAYOUT.name).unlink()
    assert loader.load(directory).gate == "new"
    with Maps.open_directory(directory) as maps:
        assert maps.gate().term == 0


def test_a_refused_program_leaves_the_old_ones(
    root: Path, compiled: compiler.Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = root / "7"
    loader.load(directory)
    before = ids(directory)
    changed_sources(monkeypatch)
    broken = {
        pin: compiler.Program(
            function=program.function,
            kind=program.kind,
            instructions=bytes([0x95, 0, 0, 0, 0, 0, 0, 0]),  # exit, with nothing in r0
            maps={},
        )
        for pin, program in compiled.programs.items()
    }
    monkeypatch.setattr(
        compiler,
        "compile_programs",
        lambda _directory: compiler.Compiled(programs=broken, maps=compiled.maps, took_ns=0),
    )
    with pytest.raises(bpf.BpfError) as raised:
        loader.load(directory, replace=True)
    report = loader.failure(raised.value)
    assert (report.ok, report.code) == (False, "verifier-refused")
    assert "R0" in report.detail
    assert ids(directory) == before


def test_not_on_a_bpf_file_system(tmp_path: Path) -> None:
    with pytest.raises(loader.LoadError) as raised:
        loader.load(tmp_path / "twinbeat" / "7")
    assert raised.value.code == "no-bpf-file-system"
    assert raised.value.fix


def test_no_compiler(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real compile_programs
    monkeypatch.setitem(sys.modules, "bcc", None)
    with pytest.raises(CompileError) as raised:
        compiler.compile_programs(compiler.source_directory())
    report = loader.failure(raised.value)
    assert (report.code, report.ok) == ("no-bcc", False)
    assert "python3-bpfcc" in report.fix


def test_the_lattice_package(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "bcc", type(sys)("bcc"))
    with pytest.raises(CompileError, match="lattices"):
        compiler.compile_programs(compiler.source_directory())


def test_a_broken_source_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name in compiler.SOURCES:
        (tmp_path / name).write_text("int tb_nothing(void) { return undeclared_thing; }\n")
    (tmp_path / "uapi").symlink_to(compiler.source_directory() / "uapi")
    with pytest.raises(CompileError) as raised:
        compiler.compile_programs(tmp_path)
    assert raised.value.code == "compile-failed"
    assert "undeclared_thing" in raised.value.detail
    assert "link.c:1" in raised.value.detail, "errors name the file and line that people edit"


def test_the_command(root: Path) -> None:
    """The real thing, in its own process: one line of JSON, and no bcc in the caller."""
    report = asyncio.run(loader.run(PAIR, root=root))
    assert report.ok, report
    assert report.directory == str(root / "7")
    assert report.compile_ms > 0
    done = subprocess.run(loader.command(PAIR, root=root), capture_output=True, check=True)
    assert json.loads(done.stdout)["status"] == "reused"


def test_what_is_in_place_needs_no_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loader.look(root / "7") is None, "there is nothing yet"
    loaded = loader.load(root / "7")
    monkeypatch.setattr(loader, "command", lambda *_, **__: ["/bin/false"])
    report = asyncio.run(loader.run(PAIR, root=root))
    assert (report.ok, report.status, report.gate) == (True, "reused", "kept")
    assert (report.layout, report.programs) == (loaded.layout, loaded.programs)
    (root / "7" / "prog_egress").unlink()
    assert loader.look(root / "7") is None
    assert not asyncio.run(loader.run(PAIR, root=root)).ok, "a process was needed"


def test_a_loader_that_dies_is_reported() -> None:
    report = loader.parse(b"Traceback ...")
    assert (report.ok, report.code) == (False, "loader-died")
    assert report.fix


def test_without_privilege_it_says_what_to_do(root: Path) -> None:
    """Without capabilities: refused by the first thing that needs one, with advice.

    The user stays root, who can read the sources wherever they lie.
    """
    command = loader.command(PAIR, root=root)
    done = subprocess.run(
        ["setpriv", "--inh-caps=-all", "--bounding-set=-all", *command],
        capture_output=True,
        check=False,
        cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    report = loader.parse(done.stdout)
    assert done.returncode == 1, done
    assert not report.ok
    assert "root" in report.fix


def test_ports_are_replaced_as_a_set(root: Path) -> None:
    loader.load(root / "7")
    with Maps.open_directory(root / "7") as maps:
        maps.set_ports([Port(ifindex=3, local="192.0.2.1"), Port(ifindex=4, vlan=9, link=1)])
        maps.set_ports([Port(ifindex=4, vlan=9, link=1, local="fe80::1", peer="fe80::2")])
        keys = list(bpf.keys(maps.fd("ports"), 8))
        assert keys == [bytes(abi.PortKey(4, 9))]
        raw = bpf.lookup(maps.fd("ports"), keys[0], ctypes.sizeof(abi.Port))
        assert raw is not None
        port = abi.Port.from_buffer_copy(raw)
        assert (port.link, port.family, port.ttl_min) == (1, 6, 255)
        addresses = [ipaddress.ip_address(bytes(each)) for each in (port.local, port.peer)]
        assert addresses == [ipaddress.ip_address("fe80::1"), ipaddress.ip_address("fe80::2")]
        with pytest.raises(ValueError, match="room for 64"):
            maps.set_ports(Port(ifindex=number) for number in range(1, 66))
