# SPDX-License-Identifier: Apache-2.0
"""Asking the agent over its Unix socket, with nothing but the standard library.

One request per connection in HTTP/1.0, whose answer ends with the connection: no chunks, no
keep-alive, no HTTP library to load. It knows bytes and status codes, not what they mean.

What matters most is told apart with care: whether a request was never delivered
(`UnreachableError`, `ForbiddenError`) or may have been carried out though its answer is missing
(`UnknownOutcomeError`).
"""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from twinbeat.api.schema import SOCKET

_ANSWER_MAX: Final = 64 << 20
_HEAD_MAX: Final = 16 << 10
_CHUNK: Final = 64 << 10
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]{1,12})(?:\r\n|$)", re.IGNORECASE)


class ClientError(Exception):
    """There is no answer. The message is a sentence for people."""


class UnreachableError(ClientError):
    """Nobody listens, so nothing was asked."""


class ForbiddenError(ClientError):
    """This user may not use the socket."""


class UnknownOutcomeError(ClientError):
    """The request was sent and its answer did not come in time, or not at all."""


class Response(Struct, frozen=True):
    """What came back."""

    status: int
    body: bytes


class Client:
    """One socket, one deadline per request."""

    def __init__(self, path: str = SOCKET, timeout_s: float = 10.0) -> None:
        self.path = path
        self.timeout_s = timeout_s

    def get(self, target: str) -> Response:
        """Read something. Raises ClientError."""
        return self._exchange("GET", target, b"")

    def post(self, target: str, body: bytes) -> Response:
        """Tell something. Raises ClientError; after UnknownOutcomeError it may have been done."""
        return self._exchange("POST", target, body)

    def lines(self, target: str) -> Iterator[bytes]:
        """The lines of an endless answer, until the agent ends it. Only the head has a deadline.

        Raises ClientError. An answer that isn't 200 raises it with the body as its message.
        """
        deadline = time.monotonic() + self.timeout_s
        with self._connect(deadline) as connection:
            self._send(connection, "GET", target, b"", deadline)
            with self._telling():
                status, data, _ = self._head(connection, deadline)
                connection.settimeout(None)
                if status != 200:
                    said = data + self._rest(connection, deadline)
                    raise ClientError(said.decode(errors="replace"))
            while True:
                *lines, data = data.split(b"\n")
                yield from lines
                try:
                    more = connection.recv(_CHUNK)
                except OSError as error:
                    raise ClientError(f"the connection broke: {error.strerror}") from error
                if not more:
                    return
                data += more

    def _exchange(self, method: str, target: str, body: bytes) -> Response:
        deadline = time.monotonic() + self.timeout_s
        with self._connect(deadline) as connection:
            self._send(connection, method, target, body, deadline)
            with self._telling():
                status, start, size = self._head(connection, deadline)
                missing = None if size is None else size - len(start)
                return Response(status, start + self._rest(connection, deadline, missing))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """What goes wrong while an answer is awaited, as a ClientError."""
        try:
            yield
        except TimeoutError as error:
            raise UnknownOutcomeError(f"no answer within {self.timeout_s:g} s") from error
        except OSError as error:
            raise UnknownOutcomeError(f"the connection broke: {error.strerror}") from error

    def _connect(self, deadline: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_left(deadline))
            connection.connect(self.path)
        except PermissionError as error:
            connection.close()
            raise ForbiddenError(
                f"this user may not use {self.path}: be root or in the group twinbeat"
            ) from error
        except OSError as error:
            connection.close()
            late = isinstance(error, TimeoutError)
            why = "no answer in time" if late else error.strerror or str(error)
            raise UnreachableError(f"no agent at {self.path} ({why})") from error
        return connection

    def _send(
        self, connection: socket.socket, method: str, target: str, body: bytes, deadline: float
    ) -> None:
        head = f"{method} {target} HTTP/1.0\r\nHost: twinbeat\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        try:
            connection.settimeout(_left(deadline))
            connection.sendall(head.encode("ascii") + b"\r\n" + body)
        except OSError as error:
            raise UnknownOutcomeError(f"the agent at {self.path} takes no requests") from error

    def _head(self, connection: socket.socket, deadline: float) -> tuple[int, bytes, int | None]:
        """Status code, what already came of the body, and how long that is to be, if it is said."""
        data = b""
        while b"\r\n\r\n" not in data:
            connection.settimeout(_left(deadline))
            more = connection.recv(_CHUNK)
            if not more or len(data) > _HEAD_MAX:
                raise UnknownOutcomeError("the connection ended before the answer")
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        words = head.split(b" ", 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            raise ClientError(f"what listens at {self.path} is no agent")
        said = _LENGTH.search(head)
        return int(words[1]), body, int(said[1]) if said else None

    def _rest(
        self, connection: socket.socket, deadline: float | None, missing: int | None = None
    ) -> bytes:
        """So many bytes more; None: until the agent ends it."""
        parts: list[bytes] = []
        size = 0
        while size <= _ANSWER_MAX:
            if missing is not None and size >= missing:
                return b"".join(parts)
            connection.settimeout(None if deadline is None else _left(deadline))
            more = connection.recv(_CHUNK)
            if not more and missing is not None:
                raise UnknownOutcomeError("the connection ended before the answer did")
            if not more:
                return b"".join(parts)
            parts.append(more)
            size += len(more)
        raise ClientError("the answer has no end")


def _left(deadline: float) -> float:
    """Seconds left, never so few that the socket would stop to block."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
