# SPDX-License-Identifier: Apache-2.0
"""What the kernel program costs for a frame, measured by the kernel itself (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import json
import sys

from twinlab import plan
from twinlab.shell import LabError, run

from twinbench import figures
from twinbench.effort import Effort
from twinbench.figures import Figure

SCRIPT = plan.LAB_DIR / "xdpcost.py"


def cost(effort: Effort) -> list[Figure]:
    """Nanoseconds for a HELLO, an answered PROBE and an unrelated packet."""
    if not SCRIPT.exists():
        raise LabError(f"{SCRIPT.name} is missing")
    said = json.loads(run([sys.executable, str(SCRIPT), "--json"], timeout_s=300))
    return [
        figures.measured(f"xdp_{name}", said[name], details={"empty_ns": said.get("empty")})
        for name in ("hello", "probe", "unrelated")
    ]
