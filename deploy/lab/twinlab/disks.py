# SPDX-License-Identifier: Apache-2.0
"""Disks of the nodes that lose their power: an ext4 of its own under each node's state.

What wasn't synced is gone when it is mounted again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from twinlab import agents, netns, plan, processes
from twinlab.shell import LabError, run, wait_for

STATE = "/var/lib/twinbeat"
EXT4_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2


class Disk:
    """Where a node keeps everything that has to outlast it."""

    def __init__(self, node: str, root: Path, size: int) -> None:
        self.node = node
        self.image = root / f"{node}.ext4"
        self.looked_at = root / node
        self.looked_at.mkdir()
        with self.image.open("wb") as file:
            file.truncate(size)
        run(["mkfs.ext4", "-q", "-F", str(self.image)])

    def inside(self, *command: str) -> None:
        run([*netns.enter(plan.namespace(self.node)), *command])

    def mount(self) -> None:
        self.inside("mount", "-o", "loop", str(self.image), STATE)

    def umount(self) -> None:
        command = [*netns.enter(plan.namespace(self.node)), "umount", STATE]

        def done() -> bool:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

        # Who was killed lets go of it in his own time.
        wait_for(done, f"the disk of {self.node} to be let go of", timeout_s=10)

    @property
    def path(self) -> Path:
        """Where the host finds it, as long as the node's agent runs."""
        return Path(f"/proc/{agents.pid(self.node)}/root{STATE}")

    def cut(self) -> None:
        """From now on nothing reaches it, nor what is still on its way."""
        cut(self.path)

    @contextlib.contextmanager
    def looked_into(self) -> Iterator[Path]:
        """What is on it, while nobody else has it mounted."""
        run(["mount", "-o", "loop", str(self.image), str(self.looked_at)])
        try:
            yield self.looked_at
        finally:
            run(["umount", str(self.looked_at)])


def cut(path: Path) -> None:
    """Cut the power of the file system that a directory lies on."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(directory, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
    finally:
        os.close(directory)


def fill(directory: Path) -> Path:
    """Take all the room that is left on the file system of a directory: the file that has it."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def lose_power(disks: Sequence[Disk], names: Sequence[str]) -> None:
    """All these processes with their children, and the disks below them, at one moment: in the
    middle of whatever they do."""
    found = [processes.pid_of(name) for name in names]
    pids = [pid for pid in found if pid is not None]
    if len(pids) != len(found):
        raise LabError(f"one of {', '.join(names)} had ended by itself")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    # Who stands still starts no further ones.
    children = [child for pid in pids for child in processes.children_of(pid)]
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    pids += children
    for disk in disks:
        disk.cut()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for name in names:
        wait_for(partial(_is_gone, name), f"{name} to end", timeout_s=5)
    for disk in disks:
        disk.umount()


def _is_gone(name: str) -> bool:
    return processes.pid_of(name) is None
