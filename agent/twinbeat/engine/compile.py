# SPDX-License-Identifier: Apache-2.0
"""From ebpf/*.c to instructions, with bcc.

Runs in a process of its own (loader.py), in tests and in benches, never in the agent: LLVM costs
130 MB and a second of a processor.

bcc is used as a compiler alone. It makes maps of its own while it compiles; the instructions that
come out name them by file descriptor. We note which map each of those instructions means, so that
the very same instructions can be loaded with any maps of the same kinds, pinned ones included.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twinbeat.engine import bpf
from twinbeat.engine.bpf import ProgramType

SOURCES: Final = ("link.c", "egress.c")
FUNCTIONS: Final = {
    "prog_link": ("tb_link", ProgramType.XDP),
    "prog_egress": ("tb_egress", ProgramType.SCHED_CLS),
}
"""Pin → function and type."""

_INCLUDE: Final = re.compile(r'#include "(?P<name>[^"]+)"')
_CFLAGS: Final = ("-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function")
_INSTRUCTION: Final = struct.Struct("<BBhi")
_LOAD_IMMEDIATE_64: Final = 0x18
_PSEUDO_MAP_FD: Final = 1
_XDP_HAS_FRAGMENTS: Final = 1 << 5
"""BPF_F_XDP_HAS_FRAGS: drivers with large MTUs ask for it. Headers lie in the first fragment."""
_ATTACH_TYPE_XDP: Final = 37


class CompileError(Exception):
    """The programs could not be made; `code` names the cause, `detail` is what the tool said."""

    def __init__(self, code: str, sentence: str, *, fix: str = "", detail: str = "") -> None:
        super().__init__(f"{sentence}\n{detail}" if detail else sentence)
        self.code = code
        self.sentence = sentence
        self.fix = fix
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Instructions, and where they name which map."""

    function: str
    kind: ProgramType
    instructions: bytes
    maps: Mapping[int, str]
    """Index of an instruction → name of the map whose file descriptor belongs there."""

    def load(self, descriptors: Mapping[str, int]) -> int:
        """Load with these maps; returns the program's file descriptor. Raises BpfError."""
        code = bytearray(self.instructions)
        for index, name in self.maps.items():
            struct.pack_into("<i", code, index * 8 + 4, descriptors[name])
        if self.kind is not ProgramType.XDP:
            return bpf.load_program(self.function, bytes(code), kind=self.kind, license_name="GPL")
        return bpf.load_program(
            self.function,
            bytes(code),
            kind=self.kind,
            license_name="GPL",
            flags=_XDP_HAS_FRAGMENTS,
            attach_type=_ATTACH_TYPE_XDP,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """All programs, and the maps that they were compiled for."""

    programs: Mapping[str, Program]
    """By pin."""
    maps: Mapping[str, bpf.MapInfo]
    took_ns: int


def source_directory() -> Path:
    """Where the eBPF sources are: in the installed package, or beside agent/ in the repository."""
    here = Path(__file__).resolve()
    for directory in (here.parents[1] / "ebpf", here.parents[3] / "ebpf"):
        if (directory / "link.c").is_file():
            return directory
    raise CompileError(
        "no-sources",
        "the eBPF sources (link.c and its headers) are not where they were installed",
        fix="install the package again",
    )


def fingerprint(directory: Path) -> bytes:
    """32 bytes that change whenever the sources or the way they are compiled do."""
    digest = hashlib.sha256(" ".join(_CFLAGS).encode())
    for path in sorted([*directory.glob("*.[ch]"), *directory.glob("uapi/**/*.h")]):
        digest.update(f"{path.relative_to(directory)}\0".encode())
        digest.update(path.read_bytes())
    return digest.digest()


def source_text(directory: Path) -> str:
    """All programs as one text: bcc rewrites map accesses in the main file, never in headers."""
    seen: set[str] = set()

    def expand(name: str) -> Iterator[str]:
        if name in seen:
            return
        seen.add(name)
        yield f'#line 1 "{name}"\n'
        lines = (directory / name).read_text(encoding="utf-8").splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            if include := _INCLUDE.match(line):
                yield from expand(include["name"])
                yield f'#line {number + 1} "{name}"\n'
            else:
                yield line

    return "#define TB_BPF 1\n" + "".join(part for name in SOURCES for part in expand(name))


@contextmanager
def _captured_stderr(into: list[str]) -> Iterator[None]:
    """What a library writes to file descriptor 2 while this lasts."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            into.append(file.read().decode(errors="replace"))


def compile_programs(directory: Path) -> Compiled:
    """Compile with bcc. Raises CompileError."""
    started = time.monotonic_ns()
    # bcc looks here for the running kernel's headers; ours ask for nothing of a particular kernel.
    os.environ["BCC_KERNEL_SOURCE"] = str(directory / "uapi")
    try:
        import bcc
    except ImportError as error:
        raise CompileError(
            "no-bcc",
            f"the eBPF compiler cannot be imported: {error}",
            fix="install python3-bpfcc from Debian, and use /usr/bin/python3 or a virtual "
            "environment of it with system site packages (never `bcc` from PyPI)",
        ) from error
    if not hasattr(bcc, "BPF"):
        raise CompileError(
            "wrong-bcc",
            "the module called bcc is not the eBPF compiler, but PyPI's package about lattices",
            fix="remove it (pip uninstall bcc) and install python3-bpfcc from Debian",
        )
    said: list[str] = []
    try:
        with _captured_stderr(said):
            module = bcc.BPF(text=source_text(directory).encode(), cflags=list(_CFLAGS))
    except Exception as error:
        detail = "".join(said).strip()
        code, sentence, fix = _explain(detail, error)
        raise CompileError(code, sentence, fix=fix, detail=detail) from error
    maps = dict(_tables(module))
    by_fd = {fd: name for name, fd in maps.items()}
    programs = {}
    for pin, (function, kind) in FUNCTIONS.items():
        code = module.dump_func(function.encode())
        programs[pin] = Program(
            function=function, kind=kind, instructions=code, maps=_map_references(code, by_fd)
        )
    infos = {name: bpf.map_info(fd) for name, fd in maps.items()}
    return Compiled(programs=programs, maps=infos, took_ns=time.monotonic_ns() - started)


NOT_PERMITTED: Final = (
    "run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; in a container, bpf(2) must "
    "be allowed as well"
)


def _explain(detail: str, error: Exception) -> tuple[str, str, str]:
    """Code, sentence and fix."""
    if "Operation not permitted" in detail or "Operation not permitted" in str(error):
        return "not-permitted", "the kernel did not allow bcc to create maps", NOT_PERMITTED
    return "compile-failed", "bcc could not compile the eBPF programs", ""


def _tables(module: object) -> Iterator[tuple[str, int]]:
    """Names and file descriptors of the maps that bcc made."""
    from bcc.libbcc import lib

    handle = module.module  # type: ignore[attr-defined]
    for number in range(lib.bpf_num_tables(handle)):
        name = ctypes.cast(lib.bpf_table_name(handle, number), ctypes.c_char_p).value
        assert name is not None
        yield name.decode(), int(lib.bpf_table_fd_id(handle, number))


def _map_references(code: bytes, by_fd: Mapping[int, str]) -> dict[int, str]:
    found: dict[int, str] = {}
    index = 0
    while index < len(code) // 8:
        operation, registers, _offset, immediate = _INSTRUCTION.unpack_from(code, index * 8)
        if operation == _LOAD_IMMEDIATE_64:
            if registers >> 4 == _PSEUDO_MAP_FD:
                found[index] = by_fd[immediate]
            index += 1  # the upper half of the constant is an instruction of its own
        index += 1
    return found
