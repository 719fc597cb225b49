# SPDX-License-Identifier: Apache-2.0
"""A real pseudo-terminal with a program in it, and what a person would see on its screen (pyte)."""

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from typing import Any, Self

import pyte


class Terminal:
    """Use as a context: the program is killed at its end if it still runs."""

    def __init__(self, command: list[str], *, columns: int = 100, rows: int = 40) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        """All that was written."""
        self._leader, self._follower = pty.openpty()
        self.before = termios.tcgetattr(self._follower)
        self.resize(columns, rows)
        environment = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],  # without it no new size would be told
            stdin=self._follower,
            stdout=self._follower,
            stderr=self._follower,
            env=environment | {"TERM": "xterm-256color", "LANG": "C.UTF-8"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self._leader)
        os.close(self._follower)

    def resize(self, columns: int, rows: int) -> None:
        """Another size of the window; its program is told as by a terminal emulator."""
        self.screen.resize(rows, columns)
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._leader, keys.encode())

    @property
    def text(self) -> str:
        """The screen's lines."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def until(self, seen: Callable[[str], bool], timeout_s: float = 60.0) -> str:
        """The screen, as soon as something is seen on it."""
        deadline = time.monotonic() + timeout_s
        while not seen(self.text):
            left = deadline - time.monotonic()
            assert left > 0, f"not seen within {timeout_s} s:\n{self.text}"
            self._read(left)
        return self.text

    def end(self, timeout_s: float = 60.0) -> int:
        """Wait for the program; its exit code."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
            self._read(0.05)
        self._read(0)
        return self.process.returncode

    @property
    def as_before(self) -> bool:
        """Whether echo and line editing are as they were before the program."""
        return termios.tcgetattr(self._follower) == self.before

    def _read(self, timeout_s: float) -> None:
        ready, _, _ = select.select([self._leader], [], [], timeout_s)
        if ready:
            data = os.read(self._leader, 65536)
            self.raw += data
            self._stream.feed(data)
