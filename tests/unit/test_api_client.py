# SPDX-License-Identifier: Apache-2.0
"""The client tells apart what was never asked from what was asked and never answered."""

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from twinbeat.api.client import (
    Client,
    ClientError,
    ForbiddenError,
    UnknownOutcomeError,
    UnreachableError,
)
from unit.clocks import clients_clock


@contextmanager
def listener(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something that listens and does `answer` with the first connection."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            # A client that has what it wanted hangs up, also in the middle of an answer.
            with connection, suppress(ConnectionError):
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield str(path)
        thread.join(timeout=30)
        assert not thread.is_alive()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return clients_clock(monkeypatch)


def until_closed(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def hang_up(connection: socket.socket) -> None:
    connection.recv(4096)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="No such file"):
        Client(str(tmp_path / "none")).get("/")


def test_nobody_listens_any_more(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(UnreachableError, match="refused"):
        Client(str(tmp_path / "s")).get("/")


@pytest.mark.usefixtures("clock")
def test_a_silent_agent_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    with (
        listener(tmp_path / "s", until_closed) as path,
        pytest.raises(UnknownOutcomeError, match="1 s"),
    ):
        Client(path, timeout_s=1).post("/v1/yield", b"{}")


def test_an_agent_that_dies_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    with listener(tmp_path / "s", hang_up) as path, pytest.raises(UnknownOutcomeError):
        Client(path).post("/v1/yield", b"{}")


@pytest.mark.parametrize("apart", [0, 2, 7])
def test_an_answer_whose_length_is_said_is_not_waited_for(tmp_path: Path, apart: int) -> None:
    """Whoever answered may be busy, and closes the connection later."""

    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        body = b'{"a":1}'
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:apart])
        connection.sendall(body[apart:])
        until_closed(connection)

    with listener(tmp_path / "s", answer) as path:
        assert Client(path, timeout_s=30).get("/").body == b'{"a":1}'


def test_an_answer_that_ends_too_early_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{")

    with (
        listener(tmp_path / "s", answer) as path,
        pytest.raises(UnknownOutcomeError, match="ended before"),
    ):
        Client(path, timeout_s=30).get("/")


def test_drops_do_not_stretch_the_deadline(tmp_path: Path, clock: SimpleNamespace) -> None:
    over = threading.Event()

    def dribble(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        while not over.wait(0.02):
            clock.now_s += 1
            connection.sendall(b"x")

    with listener(tmp_path / "s", dribble) as path:
        with pytest.raises(UnknownOutcomeError):
            Client(path, timeout_s=10).get("/")
        over.set()


@pytest.mark.usefixtures("clock")
def test_lines_whose_head_never_comes_raise_what_is_promised(tmp_path: Path) -> None:
    with (
        listener(tmp_path / "s", until_closed) as path,
        pytest.raises(UnknownOutcomeError, match="1 s"),
    ):
        next(Client(path, timeout_s=1).lines("/v1/events?follow=1"))


def test_lines_whose_connection_breaks_raise_what_is_promised(tmp_path: Path) -> None:
    def break_off(connection: socket.socket) -> None:
        connection.recv(1, socket.MSG_PEEK)
        # What it was asked stays unread, so its end is a reset.
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\none\n")

    got: list[bytes] = []
    with (
        listener(tmp_path / "s", break_off) as path,
        pytest.raises(ClientError, match="broke"),
    ):
        got.extend(Client(path).lines("/"))


def test_what_is_no_agent_is_told(tmp_path: Path) -> None:
    def other(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"SSH-2.0-x\r\n\r\n")

    with (
        listener(tmp_path / "s", other) as path,
        pytest.raises(ClientError, match="is no agent"),
    ):
        Client(path).get("/")


def test_an_answer_comes_whole(tmp_path: Path) -> None:
    body = os.urandom(300_000)

    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 418 teapot\r\nX: y\r\n\r\n" + body)

    with listener(tmp_path / "s", answer) as path:
        response = Client(path).get("/")
    assert (response.status, response.body) == (418, body)


@pytest.mark.privileged
def test_a_user_without_the_right_is_told() -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listening:
        path = f"{directory}/s"
        os.chmod(directory, 0o755)
        listening.bind(path)
        listening.listen()
        os.chmod(path, 0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(ForbiddenError, match="group twinbeat"):
                Client(path).get("/")
        finally:
            os.seteuid(0)
