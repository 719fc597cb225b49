# SPDX-License-Identifier: Apache-2.0
"""Whether a process runs, by its pidfile or its name.

Once found it is held by a pidfd, which the kernel makes readable the moment the process ends: no
polling, and no other process of the same number can be mistaken for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Final

from twinbeat.health.aside import aside
from twinbeat.health.board import Finding

_PROC: Final = Path("/proc")
_PIDFILE_MAX: Final = 64
_COMM_MAX: Final = 15
"""The kernel keeps so much of a name (TASK_COMM_LEN)."""


class ProcessProber:
    """One process. `ended` is called when the one that was found ends."""

    def __init__(self, *, pidfile: str, name: str, ended: Callable[[], None]) -> None:
        self._pidfile = pidfile
        self._name = name
        self._ended = ended
        self._pid = 0
        self._pidfd = -1
        self._finding: asyncio.Future[int | str] | None = None

    async def look(self, timeout_s: float) -> Finding:
        if self._pidfd >= 0 and not _is_over(self._pidfd):
            return Finding(holds=True, sentence=f"runs as pid {self._pid}", certain=True)
        was = self._pid
        self._let_go()
        found = await self._find(timeout_s)
        if found is None:
            what = self._pidfile or "the list of processes"
            return Finding(holds=False, sentence=f"{what} can't be read in time", timed_out=True)
        if isinstance(found, str):
            ended = f"pid {was} ended; " if was else ""
            return Finding(holds=False, sentence=ended + found, certain=True)
        try:
            pidfd = os.pidfd_open(found)
        except ProcessLookupError:
            return Finding(holds=False, sentence=f"pid {found} does not run", certain=True)
        if _is_over(pidfd):
            # A zombie of another user, whose state is hidden from this one.
            os.close(pidfd)
            return Finding(holds=False, sentence=f"pid {found} has ended", certain=True)
        self._pid, self._pidfd = found, pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._on_end)
        return Finding(holds=True, sentence=f"runs as pid {found}", certain=True)

    async def _find(self, timeout_s: float) -> int | str | None:
        """What `find` says; None while it hangs. It isn't asked again before it has answered."""
        if self._finding is None or self._finding.done():
            self._finding = aside(find, self._pidfile, self._name)
        await asyncio.wait([self._finding], timeout=timeout_s)
        return self._finding.result() if self._finding.done() else None

    def close(self) -> None:
        self._let_go()

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._ended()

    def _let_go(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
        self._pid, self._pidfd = 0, -1


def _is_over(pidfd: int) -> bool:
    """A pidfd is readable once the process ended, be it reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def find(pidfile: str, name: str) -> int | str:
    """The pid that a pidfile names or that a process of this name has; or why there is none.

    With both, the process of the pidfile must bear the name. Blocking; the caller bounds it.
    """
    if pidfile:
        pid = _pid_in(pidfile)
        if isinstance(pid, str) or not name:
            return pid
        called = name_of(pid)
        # A process of another user may be hidden from this one; then the pidfile has to do.
        if called is not None and called != name[:_COMM_MAX]:
            return f"{pidfile} names pid {pid}, which is {called}, not {name}"
        return pid
    for entry in sorted(_PROC.iterdir()):
        if entry.name.isdecimal() and name_of(int(entry.name)) == name[:_COMM_MAX]:
            return int(entry.name)
    return f"no process named {name} is seen"


def _pid_in(pidfile: str) -> int | str:
    try:
        with open(pidfile, encoding="ascii", errors="replace") as file:
            text = file.read(_PIDFILE_MAX).strip()
    except OSError as error:
        return f"{pidfile} can't be read: {error.strerror}"
    first = text.partition("\n")[0].strip()
    if not first.isdecimal() or not 0 < int(first) < 1 << 22:
        return f"{pidfile} holds no process number"
    pid = int(first)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return f"pid {pid} of {pidfile} does not run"
    except PermissionError:
        pass  # it is somebody else's, and runs
    return f"pid {pid} of {pidfile} has ended" if _is_zombie(pid) else pid


def name_of(pid: int) -> str | None:
    """What the kernel calls a process that hasn't ended; None if there is none to be seen."""
    with contextlib.suppress(OSError):
        if not _is_zombie(pid):
            return (_PROC / str(pid) / "comm").read_text(errors="replace").rstrip("\n")
    return None


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
        return stat.rpartition(")")[2].split()[:1] in (["Z"], ["X"])
    return False
