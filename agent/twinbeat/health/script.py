# SPDX-License-Identifier: Apache-2.0
"""Runs an operator's script and judges it by its exit code.

The script is executed, never handed to a shell, in a session of its own: when its time is up, and
when it ends, whatever is left of its process group is killed. What it prints is read as it comes;
a little is kept for people, and a script that floods its output is killed for it.

`nice` stands between the agent and the script: it is in the page cache after the first run, so that
a script on a disk or file server that hangs, hangs in its own process and not within the agent's
call that starts it. It also gives the script less of the processor than the agent asks for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from typing import Final

from twinbeat.health.aside import aside
from twinbeat.health.board import Finding

NICE: Final = ("/usr/bin/nice", "-n", "20", "--")
CANNOT_RUN, NOT_FOUND = 126, 127
"""Exit codes of `nice` for a command it can't execute."""

OUTPUT_KEPT: Final = 2048
OUTPUT_MAX: Final = 64 << 10
"""Bytes; a script that prints more floods its output."""
_READ_MAX: Final = 16 << 10
_KILL_S: Final = 1.0
"""How long a killed script is waited for; one in an uninterruptible call doesn't end."""


class Run:
    """One run of a command, from the loop's thread."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._pipe = process.stdout
        self._pidfd = os.pidfd_open(process.pid)
        self.ended = asyncio.Event()
        self.flooded = False
        self._size = 0
        self._kept = bytearray()
        os.set_blocking(self._pipe.fileno(), False)
        self._loop.add_reader(self._pipe.fileno(), self._on_output)
        self._loop.add_reader(self._pidfd, self._on_end)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int:
        """The exit code, negative for a signal."""
        return self._process.returncode if self._process.returncode is not None else 0

    @property
    def output(self) -> str:
        """What was kept, readable on a terminal."""
        text = bytes(self._kept).decode("utf-8", "replace")
        shown = "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in text)
        more = f" … ({self._size} bytes)" if self._size > len(self._kept) else ""
        return shown.strip() + more

    def kill(self) -> None:
        """End the script and all it started in its group. It isn't reaped, so its id is its own."""
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of a script that has ended, or that can't be ended."""
        self._stop_reading()
        if self._pidfd >= 0 and self.ended.is_set():
            self._close_pidfd()

    def _on_output(self) -> None:
        try:
            data = os.read(self._pipe.fileno(), _READ_MAX)
        except BlockingIOError:
            return
        if not data:
            self._stop_reading()
            return
        self._size += len(data)
        self._kept += data[: max(0, OUTPUT_KEPT - len(self._kept))]
        if self._size > OUTPUT_MAX:
            self.flooded = True
            self._stop_reading()
            self.kill()

    def _on_end(self) -> None:
        """It is a zombie now: the group is killed before the id can belong to anybody else."""
        self._loop.remove_reader(self._pidfd)
        if not self._pipe.closed:
            self._on_output()
        self.kill()
        self._process.wait()
        self._close_pidfd()
        self.ended.set()

    def _close_pidfd(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _stop_reading(self) -> None:
        if not self._pipe.closed:
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()


class ScriptProber:
    """One script: exit code 0 holds, everything else is a failure with its reason."""

    def __init__(
        self, command: tuple[str, ...], *, environment: Callable[[], Mapping[str, str]]
    ) -> None:
        self._command = command
        self._environment = environment
        self._run: Run | None = None

    async def look(self, timeout_s: float) -> Finding:
        left = self._run
        if left is not None and not left.ended.is_set():
            sentence = f"an earlier run (pid {left.pid}) can't be killed; it isn't started again"
            return Finding(holds=False, sentence=sentence, timed_out=True)
        starting = aside(start, self._command, dict(self._environment()))
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_discard)
            raise
        run = self._run = Run(process)
        hung = False
        try:
            async with asyncio.timeout(timeout_s):
                await run.ended.wait()
        except TimeoutError:
            hung = not run.flooded
        finally:
            run.kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KILL_S):
                    await run.ended.wait()
            run.close()
        return self._judge(run, hung, timeout_s)

    def close(self) -> None:
        if self._run is not None:
            self._run.kill()

    def _judge(self, run: Run, hung: bool, timeout_s: float) -> Finding:
        if run.flooded:
            sentence = f"it floods its output (more than {OUTPUT_MAX >> 10} KiB) and was killed"
        elif hung:
            sentence = f"it hung for {timeout_s:g} s and was killed with all it had started"
        elif run.code == 0:
            return Finding(holds=True, sentence="exit code 0", output=run.output)
        else:
            sentence = self._why(run)
        return Finding(holds=False, sentence=sentence, timed_out=hung, output=run.output)

    def _why(self, run: Run) -> str:
        said = run.output.partition("\n")[0][:120]
        if run.code in {CANNOT_RUN, NOT_FOUND} and said.startswith(NICE[0]):
            return f"{self._command[0]} can't be executed: {said.rpartition(': ')[2]}"
        if run.code < 0:
            return f"it was ended by {signal.Signals(-run.code).name}"
        return f"exit code {run.code}" + (f": {said}" if said else "")


def start(command: tuple[str, ...], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own. Blocking for as long as starting `nice` takes."""
    process = subprocess.Popen(
        [*NICE, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=environment,
        start_new_session=True,
    )
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/oom_score_adj", "w") as file:
        # The agent may be spared by the kernel when memory runs out; its scripts aren't.
        file.write("0")
    return process


def _discard(starting: asyncio.Future[subprocess.Popen[bytes]]) -> None:
    """A script that was being started when nobody wanted it any more."""
    if not starting.cancelled() and starting.exception() is None:
        run = Run(starting.result())
        run.kill()
