# SPDX-License-Identifier: Apache-2.0
"""One layout in C, in BPF and in Python: a C compiler is asked for every number of tb_abi.h."""

import ctypes
import enum
import re
import subprocess
from pathlib import Path

import pytest

from twinbeat.api.schema import REFUSED
from twinbeat.engine import abi
from twinbeat.engine import compile as compiler
from twinbeat.engine.maps import SPECS

pytestmark = pytest.mark.unprivileged

EBPF = compiler.source_directory()
HEADER = (EBPF / "tb_abi.h").read_text(encoding="utf-8")
LIMITS = {
    "TB_MAGIC": abi.MAGIC,
    "TB_VERSION": abi.VERSION,
    "TB_PORT": abi.PORT,
    "TB_LINKS": abi.LINKS,
    "TB_CPUS": abi.CPUS,
    "TB_KEYS": abi.KEYS,
    "TB_VIPS": abi.VIPS,
    "TB_SIEVE_WORDS": abi.SIEVE_BYTES // 8,
    "TB_SIEVE_FACTOR": abi.SIEVE_FACTOR,
    "TB_BUCKETS": abi.BUCKETS,
    "TB_FRAME_SIZE": abi.FRAME_SIZE,
    "TB_MAC_COVERS": abi.MAC_COVERS,
    "TB_REASONS": len(abi.Reason),
}
ENUMS: dict[str, type[enum.IntEnum] | type[enum.IntFlag]] = {
    "TB_R_": abi.Reason,
    "TB_F_": abi.Flag,
    "TB_VRID_": abi.VridBit,
    "TB_": abi.FrameType,
}


def ask(tmp_path: Path, expressions: list[str]) -> dict[str, int]:
    """The values of these constant expressions, according to the C compiler."""
    prints = "\n".join(f'printf("%llu\\n", (unsigned long long)({one}));' for one in expressions)
    source = tmp_path / "ask.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n"
        f'#include "tb_abi.h"\nint main(void)\n{{\n{prints}\nreturn 0;\n}}\n'
    )
    program = tmp_path / "ask"
    subprocess.run(
        ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{EBPF}", source, "-o", program],
        check=True,
        timeout=60,
    )
    said = subprocess.run([program], check=True, capture_output=True, text=True, timeout=10)
    return dict(zip(expressions, map(int, said.stdout.split()), strict=True))


def test_sizes_and_offsets(tmp_path: Path) -> None:
    expected: dict[str, int] = {}
    for name, kind in abi.STRUCTURES.items():
        expected[f"sizeof(struct {name})"] = ctypes.sizeof(kind)
        for field in kind._fields_:
            where = getattr(kind, field[0])
            expected[f"offsetof(struct {name}, {field[0]})"] = where.offset
            expected[f"sizeof(((struct {name} *)0)->{field[0]})"] = where.size
    assert ask(tmp_path, list(expected)) == expected


def test_constants(tmp_path: Path) -> None:
    expected = dict(LIMITS)
    for prefix, names in ENUMS.items():
        expected |= {f"{prefix}{one.name}": int(one) for one in names}
    assert ask(tmp_path, list(expected)) == expected


def test_nothing_of_the_header_is_missing() -> None:
    structures = set(re.findall(r"^struct (tb_\w+) \{", HEADER, re.MULTILINE))
    assert structures == set(abi.STRUCTURES)
    for prefix in ("TB_R_", "TB_F_"):
        listed = set(re.findall(rf"^\t({prefix}\w+)", HEADER, re.MULTILINE))
        assert listed == {f"{prefix}{one.name}" for one in ENUMS[prefix]}
    for name, kind in abi.STRUCTURES.items():
        body = re.search(rf"^struct {name} \{{(.*?)^\}};", HEADER, re.MULTILINE | re.DOTALL)
        assert body
        text = re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL)
        fields = re.findall(r"(\w+)(?:\[\w+\])?\s*[,;]", text)
        assert fields == [field[0] for field in kind._fields_], name


def test_what_refuses_a_heartbeat_is_what_the_header_says_so_of() -> None:
    refused = re.findall(r"^\tTB_R_(\w+),\s*/\* (?:refused:|not counted)", HEADER, re.MULTILINE)
    assert [name.lower() for name in refused] == list(REFUSED)


@pytest.mark.parametrize("name", ["tb_frame", "tb_gate"])
def test_what_never_moves_is_asserted_field_by_field(name: str) -> None:
    """So that neither the engine nor the programs compile against a layout that moved."""
    asserted = re.findall(rf"^TB_ASSERT\(__builtin_offsetof\(struct {name}, (\w+)\)", HEADER, re.M)
    assert asserted == [field[0] for field in abi.STRUCTURES[name]._fields_]


def test_the_compiled_module_agrees() -> None:
    from twinbeat.engine._engine import ffi

    for name, kind in abi.STRUCTURES.items():
        compiled = ffi.typeof(f"struct {name}")
        assert compiled.fields is not None, f"{name} is declared, but not what is in it"
        assert ffi.sizeof(compiled) == ctypes.sizeof(kind), name
        for field, where in compiled.fields:
            assert where.offset == getattr(kind, field).offset, (name, field)


@pytest.mark.privileged
def test_maps_are_declared_alike(compiled: compiler.Compiled) -> None:
    """bcc compiled tb_abi.h with all its static assertions; its maps are those of maps.py."""
    assert {spec.name for spec in SPECS} == set(compiled.maps)
    for spec in SPECS:
        assert spec.fits(compiled.maps[spec.name]), spec.name


def test_fingerprints_notice_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link.c").write_text("int a;")
    before = compiler.fingerprint(tmp_path)
    (tmp_path / "link.c").write_text("int b;")
    assert compiler.fingerprint(tmp_path) != before
    known = abi.fingerprint()
    monkeypatch.setattr(abi, "BUCKETS", 33)
    assert abi.fingerprint() != known
