# SPDX-License-Identifier: Apache-2.0
"""Writes the C source of the module twinbeat.engine._engine (cffi, API mode, stable ABI), or its
stub.

    build_engine.py --source FILE    the C source, for CMake
    build_engine.py --stub FILE      the type stub; kept in the repository, compared by a test

What Python sees is cut out of the headers themselves, so that no number, size or field is typed
twice; cffi compares every layout with the C compiler's when the module is imported.
"""

from __future__ import annotations

import argparse
import builtins
import re
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
EBPF = HERE.parent / "ebpf"

WHOLE = (EBPF / "tb_abi.h", HERE / "engine.h")
"""Headers taken as they are."""

PARTS = (
    (HERE / "hist.h", ("struct tb_histogram", "enum tb_histograms")),
    (HERE / "frames.h", ("struct tb_path",)),
    (
        HERE / "sender.h",
        (
            "enum tb_mode",
            "enum tb_sender_limits",
            "struct tb_link_setup",
            "struct tb_link_counters",
        ),
    ),
    (HERE / "maps.h", ("struct tb_map_fds",)),
    (
        HERE / "announce.h",
        ("enum tb_announce_limits", "struct tb_announcement", "struct tb_schedule"),
    ),
)
"""Headers of which Python sees only these."""

TAIL = (HERE / "thread.h", HERE / "plain.h", HERE / "watchdog.h")
"""Headers taken as they are, after the parts they need."""

LINE = 100
"""Columns of a line of Python here."""

MODULE = "twinbeat.engine._engine"

PREAMBLE = """
#include "plain.h"
#include "thread.h"
#include "watchdog.h"
"""

STUB_HEAD = '''# SPDX-License-Identifier: Apache-2.0
"""The compiled engine. Written by csrc/build_engine.py --stub out of the C headers; don't edit."""

from typing import Any

from cffi import FFI

class _Lib:
'''


def strip(text: str) -> str:
    """Leave declarations only: no comments, no directives, no assertions, no inline functions."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r"//[^\n]*", " ", text)
    lines: list[str] = []
    taken = [True]
    for line in text.replace("\\\n", " ").splitlines():
        directive = line.split()[0] if line.strip().startswith("#") else ""
        match directive:
            case "#ifdef":  # nothing that the headers ask for is defined here
                taken.append(False)
            case "#ifndef":
                taken.append(taken[-1])
            case "#else":
                taken[-1] = taken[-2] and not taken[-1]
            case "#endif":
                taken.pop()
            case "#define" if taken[-1] and re.fullmatch(
                r"#define\s+TB_\w+\s+(0x)?[0-9a-f]+u?", line.strip()
            ):
                lines.append(f"#define {line.split()[1]} ...")
            case "" if taken[-1]:
                lines.append(line)
    text = "\n".join(lines)
    text = re.sub(r"\b(TB_ASSERT|_Static_assert)\([^;]*\);", "", text)
    return re.sub(r"^static inline[^{]*\{.*?^\}", "", text, flags=re.DOTALL | re.MULTILINE)


def part(text: str, name: str) -> str:
    """The definition of one structure or enumeration."""
    found = re.search(rf"^{name} \{{[^}}]*\}};", text, flags=re.MULTILINE)
    if not found:
        raise SystemExit(f"build_engine.py: no definition of {name}")
    return found.group()


def declarations() -> str:
    """Everything that Python sees, in C."""
    pieces = [strip(path.read_text()) for path in WHOLE]
    for path, names in PARTS:
        text = strip(path.read_text())
        pieces.extend(part(text, name) for name in names)
    pieces.extend(strip(path.read_text()) for path in TAIL)
    return "\n".join(pieces)


def builder() -> FFI:
    """The cffi builder of the module."""
    ffi = FFI()
    ffi.cdef(declarations())
    ffi.set_source(MODULE, PREAMBLE, py_limited_api=True)
    return ffi


def wrapped(head: str, arguments: list[str], tail: str) -> str:
    """One declaration, broken the way ruff breaks it."""
    inner = ", ".join(arguments)
    if len(head + inner + tail) <= LINE:
        return f"{head}{inner}{tail}\n"
    if len(inner) + 8 <= LINE:
        return f"{head}\n        {inner}\n    {tail}\n"
    inner = "".join(f"        {argument},\n" for argument in arguments)
    return f"{head}\n{inner}    {tail}\n"


def stub() -> str:
    """The type stub: constants and functions; structures are attributes of Any."""
    text = declarations()
    constants = re.findall(r"^#define (\w+)", text, flags=re.MULTILINE)
    for body in re.findall(r"enum\s*\w*\s*\{([^}]*)\}", text):
        constants.extend(re.findall(r"\b(TB_\w+)\s*(?==|,|$)", re.sub(r"=[^,]*", "", body)))
    lines = [f"    {name}: int\n" for name in dict.fromkeys(constants)]
    kinds = {"void": "None", "bool": "bool", "const char *": "Any"}
    for kind, name, arguments in re.findall(
        r"^((?:const )?\w+ \*?)(tb_\w+)\(([^;{]*?)\);", text, flags=re.DOTALL | re.MULTILINE
    ):
        names = [re.sub(r"\[.*\]", "", a).split()[-1].lstrip("*") for a in arguments.split(",")]
        # A trailing underscore keeps a parameter from shadowing a builtin.
        names = [f"{name}_: Any" if hasattr(builtins, name) else f"{name}: Any" for name in names]
        result = kinds.get(kind.strip(), "Any" if kind.endswith("*") else "int")
        lines.append(wrapped(f"    def {name}(", ["self", *names], f") -> {result}: ..."))
    return STUB_HEAD + "".join(lines) + "\nffi: FFI\nlib: _Lib\n"


def main() -> int:
    """Write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--source", metavar="FILE", type=Path)
    what.add_argument("--stub", metavar="FILE", type=Path)
    options = parser.parse_args()
    if options.source:
        builder().emit_c_code(str(options.source))
    else:
        options.stub.write_text(stub())
    return 0


if __name__ == "__main__":
    sys.exit(main())
