# SPDX-License-Identifier: Apache-2.0
"""The host's watchdog, from Python: csrc/watchdog.c behind a class, refusals as sentences."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any, Final

from twinbeat.engine._engine import ffi, lib

_LEGACY: Final = os.makedev(10, 130)
"""/dev/watchdog itself: another name of the first device."""
_SYSFS: Final = Path("/sys")


class WatchdogError(Exception):
    """The device refuses; the text is a sentence for people."""


class Device:
    """One watchdog device. Armed by `arm`, it resets the machine unless `ping` is called."""

    def __init__(self, path: str, calls: Any = None) -> None:
        """`calls` is a struct tb_watchdog_calls for tests; None is the system."""
        self.path = path
        self._calls = calls
        dog: Any = ffi.new("struct tb_watchdog *")
        if calls is not None:
            dog.calls = calls
        self._dog = dog

    @property
    def armed(self) -> bool:
        return bool(self._dog.armed)

    @property
    def timeout_s(self) -> int:
        """As the driver says, 0 = it doesn't."""
        return int(self._dog.timeout_s)

    @property
    def stoppable(self) -> bool:
        """The driver understands the magic close."""
        return bool(self._dog.stoppable)

    @property
    def identity(self) -> str:
        """What the driver calls itself."""
        name: Any = ffi.string(self._dog.identity)
        return str(name.decode("ascii", "replace"))

    def arm(self, timeout_s: int) -> None:
        """Start it. Raises WatchdogError; then it doesn't run, as far as that can be helped."""
        if self._calls is None:
            self._look()
        error = lib.tb_watchdog_arm(self._dog, self.path.encode(), timeout_s)
        if error:
            raise WatchdogError(f"{self.path}: {_why(-error, timeout_s)}")

    def ping(self) -> None:
        """Raises WatchdogError."""
        error = lib.tb_watchdog_ping(self._dog)
        if error:
            raise WatchdogError(f"{self.path} could not be pinged: {os.strerror(-error)}")

    def disarm(self) -> None:
        """Stop it. Raises WatchdogError if it may run on."""
        error = lib.tb_watchdog_disarm(self._dog)
        if error:
            raise WatchdogError(
                f"{self.path} may go on running and reset the machine: {os.strerror(-error)}"
            )

    def leave(self) -> None:
        """Let go of it while it runs: a successor has to come in time."""
        lib.tb_watchdog_leave(self._dog)

    def nowayout(self) -> bool | None:
        """Whether the driver was told never to stop; None = it doesn't say."""
        try:
            number = os.stat(self.path).st_rdev
        except OSError:
            return None
        name = f"dev/char/{os.major(number)}:{os.minor(number)}"
        if number == _LEGACY:
            name = "class/watchdog/watchdog0"
        try:
            return (_SYSFS / name / "nowayout").read_text(encoding="ascii").strip() == "1"
        except OSError:
            return None

    def _look(self) -> None:
        """Only a character device is opened: to open a pipe could take for ever."""
        try:
            mode = os.stat(self.path).st_mode
        except OSError as error:
            raise WatchdogError(f"{self.path}: {error.strerror}") from error
        if not stat.S_ISCHR(mode):
            raise WatchdogError(f"{self.path} is no device")


def _why(error: int, timeout_s: int) -> str:
    known = {
        errno.ENOTTY: "this is no watchdog",
        errno.EBUSY: "another program holds it (systemd's RuntimeWatchdogSec=, for one)",
        errno.EINVAL: f"the driver refuses a timeout of {timeout_s} s",
    }
    return known.get(error, os.strerror(error))
