# SPDX-License-Identifier: Apache-2.0
"""What the kernel program costs for a frame, measured by the kernel itself (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import json
import sys

from twinlab import plan
from twinlab.shell import LabError, run

from twinbench import figures, samples
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure

SCRIPT = plan.LAB_DIR / "xdpcost.py"


def cost(effort: Effort, _: Budget) -> list[Figure]:
    """Nanoseconds for a HELLO, an answered PROBE and an unrelated packet."""
    if not SCRIPT.exists():
        raise LabError(f"{SCRIPT.name} is missing")
    command = [sys.executable, str(SCRIPT), "--json", "--runs", str(effort.xdp_runs)]
    said = json.loads(run(command, timeout_s=300))
    beside = {name: samples.median(values) for name, values in said.items()}
    return [
        figures.measured(f"xdp_{name}", said[name], details={"medians_ns": beside})
        for name in ("hello", "probe", "unrelated")
    ]
