# SPDX-License-Identifier: Apache-2.0
"""Running commands, waiting for conditions, and the one error the lab raises."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TypeVar

Value = TypeVar("Value")


class LabError(Exception):
    """Something the person at the terminal can do something about; the message says what."""


GRACE_S = 5.0
"""What every wait may take even after the deadline of `not_after`: things are still put away."""

_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))


@contextlib.contextmanager
def not_after(monotonic_s: float) -> Iterator[None]:
    """No wait and no command inside goes on for long after a moment of the monotonic clock."""
    token = _deadline.set(min(monotonic_s, _deadline.get()))
    try:
        yield
    finally:
        _deadline.reset(token)


def _limited(timeout_s: float) -> float:
    return min(timeout_s, max(GRACE_S, _deadline.get() - time.monotonic()))


def run(command: Sequence[str], *, input_text: str | None = None, timeout_s: float = 60.0) -> str:
    """Run a command and return what it wrote; LabError with its own words when it fails."""
    timeout_s = _limited(timeout_s)
    try:
        done = subprocess.run(
            command,
            input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed (`make setup` installs it)") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command)}: no end after {timeout_s:g} s") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise LabError(f"{' '.join(command)}: {words}")
    return done.stdout


def wait_for(
    probe: Callable[[], Value | None],
    what: str,
    *,
    timeout_s: float,
    interval_s: float = 0.02,
) -> Value:
    """Ask `probe` until it answers something true, and return that; LabError at the deadline.

    The condition decides when to go on, never the clock; the deadline only ends a hopeless wait.
    """
    timeout_s = _limited(timeout_s)
    deadline = time.monotonic() + timeout_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise LabError(f"{what}: not within {timeout_s:g} s")
        time.sleep(interval_s)
