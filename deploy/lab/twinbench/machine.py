# SPDX-License-Identifier: Apache-2.0
"""What the figures were measured on: the machine, its software, and its own noise."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from twinlab import plan, services
from twinlab.shell import LabError, run

from twinbench import figures
from twinbench.figures import Figure


def described() -> dict[str, Any]:
    """Processor, memory, kernel and whether it is a virtual machine."""
    cpu = memory = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            memory = f"{int(line.split()[1]) / 1048576:.1f} GiB"
    return {
        "processor": cpu or platform.machine(),
        "processors": os.cpu_count(),
        "memory": memory,
        "kernel": platform.release(),
        "virtual": _first_line(["systemd-detect-virt"]) or "unknown",
        "rt_throttling": _rt_throttling(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _rt_throttling() -> str:
    names = ("sched_rt_runtime_us", "sched_rt_period_us")
    values = []
    for name in names:
        path = Path("/proc/sys/kernel") / name
        values.append(path.read_text().strip() if path.exists() else "?")
    return " of ".join(values) + " us"


def versions() -> dict[str, str]:
    """What took part in the run."""
    python = plan.VENV_DIR / "bin" / "python"
    return {
        "twinbeat": _first_line(
            ["git", "-C", str(plan.REPO_DIR), "describe", "--always", "--dirty"]
        ),
        "python": _first_line([str(python), "--version"]),
        "keepalived": _first_line(["keepalived", "--version"]),
        "frr": _first_line(["/usr/lib/frr/bfdd", "--version"]),
        "nginx": _first_line(["nginx", "-v"]),
        "compiler": _first_line(["cc", "--version"]),
        "bcc": _first_line(
            ["/usr/bin/dpkg-query", "--show", "--showformat=${Version}", "python3-bpfcc"]
        ),
    }


def _first_line(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    said = done.stdout.strip() or done.stderr.strip()
    return said.splitlines()[0] if said else ""


class Noise:
    """How late this machine wakes a real-time thread, sampled before each group of figures."""

    def __init__(self) -> None:
        self.samples: list[dict[str, Any]] = []
        self._stolen = _steal()

    def sample(self, before: str, seconds: int) -> None:
        """Watch for some seconds, with whatever the last group left running."""
        said = run([services.tool("tb-late"), "--seconds", str(seconds)], timeout_s=seconds + 30)
        self.samples.append({"before": before, "seconds": seconds, **json.loads(said)})

    def figure(self) -> Figure:
        """All samples as one figure of 99.9 % quantiles."""
        if not self.samples:
            raise LabError("the machine's noise was not sampled")
        above = sum(sample["above_1ms"] for sample in self.samples)
        seconds = sum(sample["seconds"] for sample in self.samples)
        worst = max(sample["max_ns"] for sample in self.samples) / 1e6
        note = (
            f"{above / seconds:.1f} wake-ups a second more than 1 ms late, the worst "
            f"{worst:.1f} ms; {self.stolen_percent():.1f} % of processor time stolen"
        )
        return figures.measured(
            "machine_noise",
            [sample["p999_ns"] / 1e3 for sample in self.samples],
            seconds=seconds,
            note=note,
            details={"samples": self.samples},
        )

    def stolen_percent(self) -> float:
        """The share of processor time that the hypervisor kept for itself during the bench."""
        steal, total = _steal()
        before_steal, before_total = self._stolen
        passed = total - before_total
        return 100 * (steal - before_steal) / passed if passed else 0.0


def _steal() -> tuple[int, int]:
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (fields[7] if len(fields) > 7 else 0), sum(fields[:8])
