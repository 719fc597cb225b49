# SPDX-License-Identifier: Apache-2.0
"""The package's next version."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import twinbeat

NEXT = "99.0.0"
"""The version that the package is upgraded to."""


def newer(deb: Path, work: Path, to: Path) -> None:
    """The next version: another number, and kernel programs from other sources."""
    subprocess.run(["dpkg-deb", "--raw-extract", deb, work], check=True)
    control = work / "DEBIAN" / "control"
    control.write_text(
        re.sub(r"^Version: .*$", f"Version: {NEXT}", control.read_text(), flags=re.M)
    )
    (module,) = work.glob("usr/lib/twinbeat/lib/python3*/site-packages/twinbeat")
    init = module / "__init__.py"
    init.write_text(init.read_text().replace(twinbeat.__version__, NEXT))
    with (module / "ebpf" / "egress.c").open("a") as source:
        source.write("/* Another version. */\n")
    subprocess.run(["dpkg-deb", "-Znone", "--build", work, to], check=True, capture_output=True)
