# SPDX-License-Identifier: Apache-2.0
"""What the figures were measured on: the machine, its software, and its own noise."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twinlab import netns, plan, services
from twinlab.shell import LabError, run

from twinbench import figures, judge
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
    if done.returncode != 0:
        return ""
    said = done.stdout.strip() or done.stderr.strip()
    return said.splitlines()[0] if said else ""


class Noise:
    """How late this machine wakes a real-time thread, sampled before each group of figures."""

    def __init__(self) -> None:
        self.samples: list[dict[str, Any]] = []
        self._strain = Strain()

    def sample(self, before: str, seconds: float) -> dict[str, Any]:
        """Watch for some seconds, with whatever the last group left running."""
        seen = late(seconds)
        self.samples.append({"before": before, **seen})
        return seen

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
        return self._strain.told()["stolen_percent"]


def late(
    seconds: float, *arguments: str, interval_us: int = 200, fifo: int = 90, namespace: str = ""
) -> dict[str, Any]:
    """What tb-late says of a bare real-time loop that ran for some seconds."""
    command = [*(netns.enter(namespace) if namespace else ()), services.tool("tb-late")]
    command += ["--ms", str(round(1000 * seconds)), "--interval-us", str(interval_us)]
    command += ["--fifo", str(fifo), *arguments]
    return dict(json.loads(run(command, timeout_s=seconds + 30)))


STALLS_INTERVAL_US = 500


@contextlib.contextmanager
def stalls(above_us: int) -> Iterator[list[judge.Stall]]:
    """A bare real-time thread above the engines on each processor, until the block is left.

    Then the list holds when one of them was not run for longer than that: whoever else had to run
    there was kept waiting as well, by nothing that is part of this project.
    """
    found: list[judge.Stall] = []
    watching: list[subprocess.Popen[str]] = []
    command = [services.tool("tb-late"), "--ms", "600000", "--fifo", "90"]
    command += ["--interval-us", str(STALLS_INTERVAL_US), "--note-above-us", str(above_us)]
    try:
        for processor in sorted(os.sched_getaffinity(0)):
            pinned = [*command, "--cpu", str(processor)]
            watching.append(subprocess.Popen(pinned, stdout=subprocess.PIPE, text=True))
        yield found
    finally:
        for one in watching:
            one.terminate()
        for one in watching:
            said, _ = one.communicate(timeout=30)
            found += judge.stalls_of(json.loads(said or "{}").get("noted", []))


class Strain:
    """What else the processors did while a group was measured: the kernel's own books."""

    def __init__(self) -> None:
        self._before = _books()
        self._began = time.monotonic()

    def told(self) -> dict[str, float]:
        """Shares of all processors' time in percent, interrupts and switches a second."""
        grown = {name: value - self._before[name] for name, value in _books().items()}
        seconds = max(time.monotonic() - self._began, 1e-9)
        ticks = max(grown["total"], 1)
        return {
            "stolen_percent": round(100 * grown["steal"] / ticks, 2),
            "interrupts_percent": round(100 * (grown["irq"] + grown["softirq"]) / ticks, 2),
            "busy_percent": round(100 * (ticks - grown["idle"] - grown["iowait"]) / ticks, 1),
            "interrupts_per_s": round(grown["intr"] / seconds),
            "switches_per_s": round(grown["ctxt"] / seconds),
        }


def _books() -> dict[str, int]:
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    books = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *words = line.split()
        if name == "cpu":
            books = dict(zip(names, map(int, words), strict=False))
            books["total"] = sum(books.values())
        elif name in ("intr", "ctxt"):
            books[name] = int(words[0])
    return books
