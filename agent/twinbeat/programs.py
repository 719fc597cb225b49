# SPDX-License-Identifier: Apache-2.0
"""A foreign program, run so that it can do the agent no harm.

It is started from a thread and without a shell, in a session and a process group of its own, with
an environment made for it, nothing on its standard input, and the agent's priority and protection
from the OOM killer laid down.  Its time and its output have bounds.

The agent's own exec is of `choom` and `nice`, which lie on the root file system, and they exec the
program: one on a network file system that hangs then hangs by itself, and not with the agent, whose
threads wait together until an exec is through.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OUTPUT_KEPT: Final = 4096
"""Bytes of a program's output that go to the log."""
OUTPUT_MAX: Final = 1 << 16
"""Who writes more is not listened to any longer: its next write fails."""
LAST_READS: Final = 64
"""Pieces of output that are still taken when it has ended: more than a pipe holds."""
GRACE_S: Final = 1.0
"""Between SIGTERM and SIGKILL."""
GIVE_UP_S: Final = 5.0
"""A killed process may hang in the kernel; nobody waits for it longer than that."""

CHOOM: Final = Path("/usr/bin/choom")
NICE: Final = Path("/usr/bin/nice")
_SCORE: Final = Path("/proc/self/oom_score_adj")

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
"""Exit codes of `choom` and `nice` where the program itself can't be started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a program ended."""

    code: int | None
    """Exit code; minus the signal that killed it; None = it could not be started, or hangs."""
    output: str
    """The beginning of what it wrote to standard output and standard error."""
    length_ns: int
    timed_out: bool = False
    flooded: bool = False
    """It wrote more than OUTPUT_MAX."""
    refused: str = ""
    """Why it could not be started."""

    @property
    def good(self) -> bool:
        return self.code == 0 and not self.timed_out

    def sentence(self) -> str:
        """What became of it, as the end of a sentence."""
        if self.refused:
            return f"could not be started: {self.refused}"
        if self.timed_out:
            return "took too long and was killed" + (", yet hangs" if self.code is None else "")
        if self.code is not None and self.code < 0:
            return f"was killed by {signal.Signals(-self.code).name}"
        return f"ended with {self.code}"


class Program:
    """One run."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        kept: int = OUTPUT_KEPT,
        patient: bool = False,
    ) -> None:
        """``kept``: bytes of its output; ``patient``: who writes too much may, and isn't heard."""
        self._command = command
        self._environment = environment
        self._kept = kept
        self._patient = patient
        self._reading = -1
        self._output = bytearray()
        self._written = 0

    async def run(self, *, timeout_s: float) -> Finished:
        """Start it and wait for its end, or for the end of its time.

        A cancelled caller takes the process group with it.
        """
        begun_ns = time.monotonic_ns()
        self._reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, True)
        starting = asyncio.ensure_future(asyncio.to_thread(self._start, writing))
        try:
            process = await asyncio.shield(starting)
        except OSError as error:
            return Finished(
                code=None,
                output="",
                length_ns=time.monotonic_ns() - begun_ns,
                refused=f"{self._command[0]}: {error.strerror}",
            )
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await self._watch(await starting, timeout_s=0)
            raise
        finally:
            if starting.cancelled() or not starting.done() or starting.exception() is not None:
                self._deafen()
        timed_out = await self._watch(process, timeout_s=timeout_s)
        code = process.poll()
        refused = ""
        if code in {NOT_EXECUTABLE, NOT_FOUND} and not os.access(self._command[0], os.X_OK):
            refused = f"{self._command[0]} is not there or not executable"
        return Finished(
            code=code,
            output=bytes(self._output).decode("utf-8", "replace"),
            length_ns=time.monotonic_ns() - begun_ns,
            timed_out=timed_out,
            flooded=self._written > OUTPUT_MAX,
            refused=refused,
        )

    def _start(self, writing: int) -> subprocess.Popen[bytes]:
        """In a thread, whose priority is the agent's."""
        try:
            return subprocess.Popen(
                [*_humbly(), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=dict(self._environment),
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(writing)

    async def _watch(self, process: subprocess.Popen[bytes], *, timeout_s: float) -> bool:
        """Until it has ended; True if it had to be killed for its time."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        descriptor = os.pidfd_open(process.pid)

        def end() -> None:
            loop.remove_reader(descriptor)
            ended.set_result(None)

        loop.add_reader(descriptor, end)
        loop.add_reader(self._reading, self._read)
        timed_out = False
        try:
            await asyncio.wait([ended], timeout=timeout_s)
            for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GIVE_UP_S)):
                if not ended.done():
                    timed_out = True
                    self._signal(process, number)
                    await asyncio.wait([ended], timeout=patience_s)
            if timed_out and ended.done():
                # Its leader obeyed SIGTERM; that says nothing of the rest of the group.
                self._signal(process, signal.SIGKILL)
        except asyncio.CancelledError:
            self._signal(process, signal.SIGKILL)
            await asyncio.wait([ended], timeout=GIVE_UP_S)
            raise
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            process.poll()
            # What it wrote last; whoever has inherited the pipe may go on writing.
            for _ in range(LAST_READS):
                if not self._read():
                    break
            self._deafen()
        return timed_out

    def _read(self) -> bool:
        """Take in a piece of output; False if there is none, or none is wanted any more."""
        if self._reading < 0:
            return False
        try:
            piece = os.read(self._reading, 4096)
        except BlockingIOError:
            return False
        self._written += len(piece)
        self._output += piece[: self._kept - len(self._output)]
        if not piece or (self._written > OUTPUT_MAX and not self._patient):
            self._deafen()
        return self._reading >= 0

    def _deafen(self) -> None:
        """Close the reading end: who writes more gets an error."""
        if self._reading >= 0:
            asyncio.get_running_loop().remove_reader(self._reading)
            os.close(self._reading)
            self._reading = -1

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        # Its number is its group's, and nobody else's before `poll` has buried it.
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)


def _humbly() -> list[str]:
    """The beginning of a command that lays down what the agent claims for itself.

    The worker claims nothing: it is the first to go, and may not make others more precious.
    """
    command: list[str] = []
    if CHOOM.exists() and int(_SCORE.read_text()) < 0:
        command += [str(CHOOM), "-n", "0", "--"]
    claimed = os.getpriority(os.PRIO_PROCESS, 0)
    if NICE.exists() and claimed < 0:
        command += [str(NICE), "-n", str(-claimed), "--"]
    return command
