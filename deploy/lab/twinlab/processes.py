# SPDX-License-Identifier: Apache-2.0
"""The lab's long-running processes: started here, found again by the next `lab` command.

Each has a name and a record in the lab's directory: its pid and the kernel's start time of that
pid, so a number that was reused by a stranger is never taken for ours, let alone signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal as signals
import subprocess
from collections.abc import Sequence
from pathlib import Path

from twinlab import netns, plan
from twinlab.shell import LabError, wait_for

RECORDS_DIR = plan.RUN_DIR / "processes"


def log_file(name: str) -> Path:
    return plan.LOG_DIR / f"{name}.log"


def log_tail(name: str, lines: int = 15) -> str:
    """The end of a process's log, to go with an error about it."""
    try:
        text = log_file(name).read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def spawn(name: str, namespace: str, command: Sequence[str]) -> int:
    """Start a command in a namespace, with its output in its log; returns its pid."""
    if running := pid_of(name):
        raise LabError(f"{name} runs already (pid {running})")
    RECORDS_DIR.mkdir(exist_ok=True)
    with log_file(name).open("ab") as log:
        # nsenter replaces itself by the command, so this pid is the command's own.
        child = subprocess.Popen(
            [*netns.enter(namespace), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    record = {"pid": child.pid, "started": _start_time(child.pid)}
    (RECORDS_DIR / name).write_text(json.dumps(record))
    # Whoever outlives us is reaped by init; whoever doesn't, by `pid_of`.
    child.returncode = 0
    return child.pid


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _start_time(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def state_of(pid: int) -> str:
    """The kernel's letter for the process's state: T = stopped; empty = there is none."""
    fields = _stat(pid)
    return fields[0] if fields else ""


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def pid_of(name: str) -> int | None:
    """The pid of a process of ours if it still runs (a stopped one does)."""
    try:
        record = json.loads((RECORDS_DIR / name).read_text())
    except (OSError, ValueError):
        return None
    pid: int = record["pid"]
    if _start_time(pid) != record["started"]:
        return None
    with contextlib.suppress(ChildProcessError):
        # If it is our own child and has ended, this is where it is buried.
        os.waitpid(pid, os.WNOHANG)
    return pid if state_of(pid) not in ("", "Z", "X") else None


def send_signal(name: str, number: signals.Signals) -> int:
    """Signal a process of ours; LabError if it doesn't run.  Returns its pid."""
    pid = pid_of(name)
    if pid is None:
        raise LabError(f"{name} does not run")
    os.kill(pid, number)
    return pid


def end_all() -> None:
    """End every process that has a record, whatever became of the namespace it was started in."""
    if RECORDS_DIR.exists():
        for record in RECORDS_DIR.iterdir():
            end(record.name)


def end(name: str, *, timeout_s: float = 5.0) -> None:
    """End a process in good order and wait until it is gone; killed after the timeout."""
    pid = pid_of(name)
    if pid is None:
        return
    os.kill(pid, signals.SIGTERM)
    os.kill(pid, signals.SIGCONT)
    try:
        wait_for(lambda: pid_of(name) is None, f"the end of {name}", timeout_s=timeout_s)
    except LabError:
        os.kill(pid, signals.SIGKILL)
        wait_for(lambda: pid_of(name) is None, f"the end of {name}", timeout_s=timeout_s)
