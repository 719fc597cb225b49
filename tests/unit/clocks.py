# SPDX-License-Identifier: Apache-2.0
"""Clocks that a test sets: bounds run out when it says so, and at no stall of the machine."""

import asyncio
from types import SimpleNamespace

import pytest


class Loop(asyncio.SelectorEventLoop):
    """One whose clock a test may let jump, so that a bound of many seconds runs out at once."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


def skip(seconds: float) -> None:
    """Let the clock of the running loop jump: what is due by then is late at once."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    loop.ahead_s += seconds


def clients_clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """That of the client of the agent's API: it stands at `now_s`, so that a deadline of moments is
    over while an answer is waited for, and never before the question was put."""
    clock = SimpleNamespace(now_s=0.0)
    time = SimpleNamespace(monotonic=lambda: clock.now_s)
    monkeypatch.setattr("twinbeat.api.client.time", time)
    return clock
