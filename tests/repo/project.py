# SPDX-License-Identifier: Apache-2.0
"""The repository as data: its files, and what each module of the package imports.

Knows git and the syntax of Python. It must not import anything of ours, so that a broken module
fails its own tests and not these.
"""

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "agent"
DOCS = ROOT / "deploy" / "docs"


@cache
def files() -> tuple[Path, ...]:
    """Every file of the project: what git tracks and what it would track."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = sorted(set(listing.stdout.split("\0")) - {""})
    return tuple(ROOT / name for name in names if (ROOT / name).is_file())


@cache
def text(path: Path) -> str | None:
    """The content of a text file, None for a binary one."""
    content = path.read_bytes()
    return None if b"\0" in content else content.decode()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One name that a module takes from another."""

    module: str
    """The importing module, `twinbeat.net.vmac`."""
    target: str
    """What it imports, as far down as the statement names it: `twinbeat.net.errors.NetError`."""
    line: int
    deferred: bool
    """Carried out when a function is called, not when the module is."""

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]

    def is_of(self, package: str) -> bool:
        return self.target == package or self.target.startswith(package + ".")


def imports(module: str, source: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import of a module's source, those for type checkers included: they are ties too."""
    package = module if is_package else module.rpartition(".")[0]

    def visit(node: ast.AST, *, deferred: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                above = parents[: len(parents) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            targets = []
        for target in targets:
            yield Import(module=module, target=target, line=node.lineno, deferred=deferred)  # type: ignore[attr-defined]
        inner = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, deferred=inner)

    return visit(ast.parse(source), deferred=False)


@cache
def modules() -> dict[str, Path]:
    """The modules of the package by their dotted names."""
    found = {}
    for path in files():
        if path.suffix == ".py" and path.is_relative_to(AGENT):
            parts = path.relative_to(AGENT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def all_imports() -> Iterator[Import]:
    for module, path in modules().items():
        yield from imports(module, path.read_text(), is_package=path.name == "__init__.py")
