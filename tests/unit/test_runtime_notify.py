# SPDX-License-Identifier: Apache-2.0
"""What systemd hears."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinbeat.runtime.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "2000000"})
    yield notifier
    notifier.close()


def test_each_message(manager: socket.socket, notifier: Notifier) -> None:
    notifier.ready("PRIMARY since now")
    assert manager.recv(1000) == b"READY=1\nSTATUS=PRIMARY since now"
    notifier.watchdog()
    assert manager.recv(1000) == b"WATCHDOG=1"
    notifier.reloading()
    reloading, stamp = manager.recv(1000).split(b"\n")
    assert reloading == b"RELOADING=1"
    assert stamp.startswith(b"MONOTONIC_USEC=")
    notifier.stopping("handing over")
    assert manager.recv(1000) == b"STOPPING=1\nSTATUS=handing over"


def test_a_sentence_cannot_smuggle_an_assignment(
    manager: socket.socket, notifier: Notifier
) -> None:
    notifier.status("peer said\nMAINPID=1")
    assert manager.recv(1000) == b"STATUS=peer said MAINPID=1"


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0twinbeat-test-{os.getpid()}")
        sock.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": f"@twinbeat-test-{os.getpid()}"})
        notifier.status("here")
        assert sock.recv(1000) == b"STATUS=here"
        notifier.close()


def test_the_watchdog_is_pinged_only_by_whom_it_is_meant_for() -> None:
    assert Notifier({"WATCHDOG_USEC": "2000000"}).watchdog_ns == 2_000_000_000
    mine = {"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}
    assert Notifier(mine).watchdog_ns == 2_000_000_000
    assert Notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}).watchdog_ns == 0


def test_nobody_listening_is_no_error(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notifier.ready("all the same")
    notifier.close()
    Notifier({}).ready("no systemd at all")
