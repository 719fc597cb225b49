# SPDX-License-Identifier: Apache-2.0
"""sd_notify: what systemd is told, over the datagram socket it names.

Without systemd (no NOTIFY_SOCKET) every call does nothing.  Never raises: a service manager that
doesn't listen is no reason to stop serving.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """One connection to the service manager."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if self._address.startswith(("/", "@")):
            self._socket = socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )
        watchdog = environment.get("WATCHDOG_USEC", "")
        owner = environment.get("WATCHDOG_PID", "")
        mine = not owner or owner == str(os.getpid())
        self.watchdog_ns = int(watchdog) * 1000 if watchdog.isdigit() and mine else 0
        """How often systemd wants to be pinged at the least, 0 = not at all."""

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, sentence: str) -> None:
        self._send(f"STATUS={_line(sentence)}")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={_line(status)}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            self._socket.sendto(message.encode(), address)
        except OSError:
            return


def _line(sentence: str) -> str:
    return " ".join(sentence.split())
