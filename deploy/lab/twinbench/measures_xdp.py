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
KINDS = {
    "unrelated": "IPv4 with TCP",
    "unrelated_udp": "IPv4 with UDP",
    "unrelated_ipv6": "IPv6",
    "unrelated_arp": "ARP",
}
"""The script's kinds of unrelated packets."""


def cost(effort: Effort, _: Budget) -> list[Figure]:
    """Nanoseconds for a HELLO, an answered PROBE and an unrelated packet of the dearest kind."""
    if not SCRIPT.exists():
        raise LabError(f"{SCRIPT.name} is missing")
    command = [sys.executable, str(SCRIPT), "--json", "--runs", str(effort.xdp_runs)]
    return judged(json.loads(run(command, timeout_s=300)))


def judged(said: dict[str, list[float]]) -> list[Figure]:
    """The figures of what the script said."""
    beside = {name: samples.median(values) for name, values in said.items()}
    details = {"medians_ns": beside}
    unrelated = {name: beside[name] or 0 for name in said if name.startswith("unrelated")}
    dearest = max(unrelated, key=unrelated.__getitem__)
    return [
        figures.measured("xdp_hello", said["hello"], details=details),
        figures.measured("xdp_probe", said["probe"], details=details),
        figures.measured(
            "xdp_unrelated",
            said[dearest],
            note=f"Of {len(unrelated)} kinds the one with the highest median: {KINDS[dearest]}.",
            details=details,
        ),
    ]
