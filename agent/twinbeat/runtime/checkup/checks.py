# SPDX-License-Identifier: Apache-2.0
"""One line of the doctor's report, and the little files that it is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from twinbeat.api.schema import Check

OK: Final = "ok"
WARNING: Final = "warning"
ERROR: Final = "error"
ROOT: Final = Path("/")
"""Below which /proc and /sys are looked for."""


def check(
    name: str, holds: bool | None, finding: str, *, fix: str = "", level: str = ERROR
) -> Check:
    """A line: `level` where the finding is bad, a warning where it can't be made out (None)."""
    if holds is None:
        return Check(name=name, level=WARNING, finding=finding, fix=fix)
    return Check(name=name, level=OK if holds else level, finding=finding, fix="" if holds else fix)


def read(path: Path) -> str | None:
    """What a small file says, stripped; None if it can't be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def sysctl(key: str, root: Path = ROOT) -> str | None:
    """A setting of the kernel by its path below /proc/sys; None where there is none."""
    return read(root / "proc/sys" / key)


def effective() -> int:
    """The capabilities that this process has, as a set of bits (capabilities(7))."""
    for line in (read(Path("/proc/self/status")) or "").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split(":", 1)[1], 16)
    return 0
