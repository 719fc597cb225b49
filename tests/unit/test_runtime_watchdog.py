# SPDX-License-Identifier: Apache-2.0
"""The watchdog as the deciding loop holds it: real C, a recorder for the device."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from twinbeat.config.arbiters import WatchdogSection
from twinbeat.engine._engine import ffi
from twinbeat.engine.watchdog import Device, WatchdogError
from twinbeat.runtime.watchdog import Watchdog

SECOND = 1_000_000_000
REQUESTS = {0x80285700: "support", 0xC0045706: "set", 0x80045707: "get", 0x80045705: "ping"}
"""WDIOC_GETSUPPORT, _SETTIMEOUT, _GETTIMEOUT, _KEEPALIVE of linux/watchdog.h."""
CALLS = ("open", "control", "write", "close")
SETTIMEOUT, KEEPALIVEPING, MAGICCLOSE = 0x80, 0x8000, 0x100


class Kernel:
    """A device that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.timeout_s = 60
        self.options = SETTIMEOUT | KEEPALIVEPING | MAGICCLOSE
        self.fails: dict[str, int] = {}
        """What fails -> errno."""
        self.calls = ffi.new("struct tb_watchdog_calls *")
        self._kept = [self.answer_with(name, getattr(self, f"_{name}")) for name in CALLS]

    def answer_with(self, name: str, answer: Callable[..., int]) -> object:
        """Put a function in place of one of the system's."""
        kinds = dict(ffi.typeof("struct tb_watchdog_calls").fields)
        callback = ffi.callback(kinds[name].type, answer)
        setattr(self.calls, name, callback)
        return callback

    def _note(self, word: str, key: str = "") -> int:
        self.told.append(word)
        ffi.errno = self.fails.get(key or word, 0)
        return -1 if ffi.errno else 0

    def _open(self, path: object) -> int:
        return self._note("open") or 7

    def _control(self, fd: int, request: int, argument: object) -> int:
        word = REQUESTS[request]
        if word == "support":
            info = ffi.cast("uint32_t *", argument)
            info[0] = self.options
            ffi.memmove(ffi.cast("char *", argument) + 8, b"recorder", 9)
        if word == "set":
            self.timeout_s = ffi.cast("int *", argument)[0]
            return self._note(f"set {self.timeout_s}", "set")
        if word == "get":
            ffi.cast("int *", argument)[0] = self.timeout_s
        return self._note(word)

    def _write(self, fd: int, content: object, size: int) -> int:
        return self._note(ffi.buffer(content, size)[:].decode()) or size

    def _close(self, fd: int) -> int:
        return self._note("close")


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def watchdog(kernel: Kernel, mode: str = "auto", timeout_s: int = 8) -> Watchdog:
    section = WatchdogSection(mode=mode, timeout_s=timeout_s)
    return Watchdog(section, Device(section.device, kernel.calls))


ARMED = ["open", "support", "set 8", "get", "ping"]


def test_it_is_pinged_four_times_within_its_time_by_the_loop_alone(kernel: Kernel) -> None:
    dog = watchdog(kernel)
    dog.start(0)
    assert kernel.told == ARMED
    for half in range(1, 17):  # the loop's timer fires twice a second
        dog.tick(half * SECOND // 2, paused=False)
    assert kernel.told == [*ARMED, *["ping"] * 4]
    status = dog.status()
    assert (status.armed, status.identity, status.timeout_s) == (True, "recorder", 8)
    assert dog.counted() == {"pings": 4, "failures": 0}


def test_a_timeout_that_the_driver_rounds_is_what_counts(kernel: Kernel) -> None:
    dog = watchdog(kernel)
    kernel.fails["set"] = 95  # EOPNOTSUPP: it has a timeout of its own
    kernel.timeout_s = 16

    def fixed(fd: int, request: int, argument: object) -> int:
        if REQUESTS[request] == "set":
            return kernel._note("set")
        return kernel._control(fd, request, argument)

    kept = kernel.answer_with("control", fixed)
    dog.start(0)
    assert kept
    dog.tick(2 * SECOND, paused=False)
    assert kernel.told.count("ping") == 1
    dog.tick(4 * SECOND, paused=False)
    assert kernel.told.count("ping") == 2
    assert dog.status().timeout_s == 16


def test_only_a_stop_on_purpose_says_v(kernel: Kernel) -> None:
    dog = watchdog(kernel)
    dog.start(0)
    dog.stop(disarm=True)
    assert kernel.told == [*ARMED, "V", "close"]
    kernel.told.clear()
    dog = watchdog(kernel)
    dog.start(0)
    dog.stop(disarm=False)
    assert kernel.told == [*ARMED, "close"]


def test_off_touches_nothing(kernel: Kernel) -> None:
    dog = watchdog(kernel, mode="off")
    dog.start(0)
    dog.tick(SECOND, paused=False)
    dog.stop(disarm=True)
    assert kernel.told == []


@pytest.mark.parametrize("fails", ["open", "support", "set", "ping"])
def test_without_a_device_only_required_refuses(kernel: Kernel, fails: str) -> None:
    kernel.fails[fails] = 22
    dog = watchdog(kernel)
    dog.start(0)
    assert not dog.status().armed
    assert dog.status().sentence
    dog.tick(9 * SECOND, paused=False)
    with pytest.raises(WatchdogError, match="/dev/watchdog"):
        watchdog(kernel, mode="required").start(0)


def test_a_refused_ping_is_told_and_tried_again(kernel: Kernel) -> None:
    dog = watchdog(kernel)
    dog.start(0)
    kernel.fails["ping"] = 5
    dog.tick(2 * SECOND, paused=False)
    assert dog.counted() == {"pings": 0, "failures": 1}
    assert "could not be pinged" in dog.status().sentence
    kernel.fails.clear()
    dog.tick(4 * SECOND, paused=False)
    assert dog.counted() == {"pings": 1, "failures": 1}
    assert dog.status().sentence == ""


def test_it_rests_during_a_pause(kernel: Kernel) -> None:
    dog = watchdog(kernel)
    dog.start(0)
    for at in (1, 2, 60):
        dog.tick(at * SECOND, paused=True)
    assert kernel.told == [*ARMED, "V", "close"]
    assert dog.status().resting
    kernel.fails["open"] = 16
    dog.tick(61 * SECOND, paused=False)
    assert not dog.status().armed
    kernel.fails.clear()
    dog.tick(62 * SECOND, paused=False)  # not at once again
    assert not dog.status().armed
    dog.tick(71 * SECOND, paused=False)
    assert dog.status().armed
    assert not dog.status().resting


def test_what_can_t_be_stopped_is_pinged_during_a_pause(kernel: Kernel) -> None:
    kernel.options = SETTIMEOUT
    dog = watchdog(kernel)
    dog.start(0)
    dog.tick(2 * SECOND, paused=True)
    assert kernel.told == [*ARMED, "ping"]


def test_a_file_a_pipe_and_another_device_are_no_watchdogs(tmp_path: Path) -> None:
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    file.write_text("precious")
    for path in (pipe, file, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(WatchdogError, match=str(path)):
            Device(str(path)).arm(10)
    assert file.read_text() == "precious"
    assert Device("/dev/null").nowayout() is None
