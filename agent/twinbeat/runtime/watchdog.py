# SPDX-License-Identifier: Apache-2.0
"""The host's watchdog, held by the loop that decides.

A loop that hangs loses its attestation and so its gate within fractions of a second, whatever the
watchdog does: it isn't what keeps two nodes from serving.  What it does is bring a machine back
that hangs for good, so that the pair has two halves again.

It is pinged where systemd's is, stopped only by a stop on purpose once the gate is shut, and let go
of while it runs in every other end: a successor has to come before its time is over.  While the
pair is paused it rests, as nobody is to be reset under the hands of whoever works on it.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from twinbeat.api import schema
from twinbeat.config.arbiters import WatchdogSection
from twinbeat.core.types import SECOND
from twinbeat.engine.watchdog import WatchdogError

log = logging.getLogger("twinbeat.watchdog")

PINGS: Final = 4
"""So often within its time; the loop's timer fires twice a second at least."""
RETRY_NS: Final = 10 * SECOND
"""Before a device that could not be armed again after a pause is tried once more."""


class Device(Protocol):
    """`twinbeat.engine.watchdog.Device`, as it is needed here."""

    path: str

    @property
    def armed(self) -> bool: ...

    @property
    def timeout_s(self) -> int: ...

    @property
    def stoppable(self) -> bool: ...

    @property
    def identity(self) -> str: ...

    def arm(self, timeout_s: int) -> None: ...

    def ping(self) -> None: ...

    def disarm(self) -> None: ...

    def leave(self) -> None: ...

    def nowayout(self) -> bool | None: ...


class Watchdog:
    """One watchdog for one run of the agent. Its calls to the device take microseconds."""

    def __init__(self, section: WatchdogSection, device: Device) -> None:
        self._section = section
        self._device = device
        self._due_ns = 0
        self._resting = False
        self._nowayout: bool | None = None
        self._wrong = ""
        self.pings = 0
        self.failures = 0
        """Pings that the device refused."""

    def start(self, now_ns: int) -> None:
        """Arm it. Raises WatchdogError if it is required and can't be had."""
        if self._section.mode == "off":
            return
        try:
            self._arm(now_ns)
        except WatchdogError as error:
            self._wrong = str(error)
            if self._section.mode == "required":
                raise
            log.warning("no watchdog: %s", error)

    def tick(self, now_ns: int, *, paused: bool) -> None:
        """Called by the deciding loop, and by nobody else."""
        if self._resting:
            if not paused and now_ns >= self._due_ns:
                self._wake(now_ns)
        elif not self._device.armed:
            return
        elif paused and self._device.stoppable and not self._nowayout:
            self._rest(now_ns)
        elif now_ns >= self._due_ns:
            self._ping(now_ns)

    def stop(self, *, disarm: bool) -> None:
        """The end of the run. `disarm` only once the gate is shut on purpose."""
        if not disarm:
            self._device.leave()
            return
        try:
            self._device.disarm()
        except WatchdogError as error:
            log.error("%s", error)

    def status(self) -> schema.Watchdog:
        """As it is now."""
        device = self._device
        return schema.Watchdog(
            mode=self._section.mode,
            device=device.path,
            armed=device.armed,
            resting=self._resting,
            identity=device.identity,
            timeout_s=device.timeout_s,
            nowayout=self._nowayout,
            sentence=self._wrong,
        )

    def counted(self) -> dict[str, int]:
        """Pings, and those of them that the device refused."""
        return {"pings": self.pings, "failures": self.failures}

    def _arm(self, now_ns: int) -> None:
        device, section = self._device, self._section
        device.arm(section.timeout_s)
        self._wrong = ""
        self._nowayout = device.nowayout()
        length_s = device.timeout_s or section.timeout_s
        self._due_ns = now_ns + length_s * SECOND // PINGS
        log.info("%s is armed (%s), %d s", device.path, device.identity, length_s)
        if device.timeout_s not in {0, section.timeout_s}:
            log.warning(
                "%s has %d s in place of %d", device.path, device.timeout_s, section.timeout_s
            )
        if self._nowayout or not device.stoppable:
            log.warning(
                "%s never stops once it is armed: a stop of the agent is a reset", device.path
            )

    def _ping(self, now_ns: int) -> None:
        length_s = self._device.timeout_s or self._section.timeout_s
        self._due_ns = now_ns + length_s * SECOND // PINGS
        try:
            self._device.ping()
        except WatchdogError as error:
            self.failures += 1
            self._wrong = str(error)
            log.error("%s", error)
        else:
            self.pings += 1
            self._wrong = ""

    def _rest(self, now_ns: int) -> None:
        self._resting, self._due_ns = True, now_ns
        try:
            self._device.disarm()
        except WatchdogError as error:
            log.error("%s", error)
        else:
            log.info("%s rests during the pause", self._device.path)

    def _wake(self, now_ns: int) -> None:
        try:
            self._arm(now_ns)
        except WatchdogError as error:
            self._wrong = str(error)
            self._due_ns = now_ns + RETRY_NS
            log.error("the watchdog could not be armed after the pause: %s", error)
        else:
            self._resting = False
