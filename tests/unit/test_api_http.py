# SPDX-License-Identifier: Apache-2.0
"""The little HTTP server: what it answers, what it refuses, and that nothing holds it up."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinbeat.api import http
from twinbeat.api.http import HttpServer, Request, Response, Stream

Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(request: Request) -> Response:
    text = f"{request.method} {request.path} {sorted(request.query.items())} {request.body!r}"
    return Response(body=text.encode(), content_type="text/plain")


async def defect(_: Request) -> Response:
    raise AssertionError("a broken invariant")


class Endless:
    """A stream that goes on until it is closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.sent = 0

    async def lines(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.sent += 1
                yield b"x" * 1000 + b"\n"
                await asyncio.sleep(0)
        finally:
            self.closed.set()

    async def __call__(self, _: Request) -> Stream:
        return Stream(lines=self.lines(), content_type="text/plain")


def converse(conversation: Conversation, endless: Endless | None = None) -> None:
    """Run a server and one conversation with it over a socket pair of the host."""

    async def main() -> None:
        routes: dict[tuple[str, str], http.Handler] = {
            ("GET", "/echo"): echo,
            ("POST", "/echo"): echo,
            ("GET", "/defect"): defect,
        }
        if endless is not None:
            routes["GET", "/endless"] = endless
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.setblocking(False)
        server = HttpServer(routes)
        await server.listen(listener)
        try:
            async with asyncio.timeout(60):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                await conversation(reader, writer)
                writer.close()
        finally:
            await server.close()

    asyncio.run(main())


def ask(sent: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    got = b""

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        writer.write(sent)
        if writer.can_write_eof():
            writer.write_eof()
        got = await reader.read()

    converse(conversation)
    return got


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 ")
    return int(answer.split(b" ")[1])


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_request_is_taken_apart(version: bytes) -> None:
    answer = ask(
        b"POST /echo?a=1&b&c=%20x HTTP/" + version + b"\r\nContent-Length: 3\r\n\r\nabcEXTRA"
        if version == b"1.0"
        else b"POST /echo?a=1&b&c=%20x HTTP/1.1\r\nConnection: close\r\nCONTENT-LENGTH:3\r\n\r\nabc"
    )
    assert status_of(answer) == 200
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"POST /echo [('a', '1'), ('b', ''), ('c', '%20x')] b'abc'"
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Connection: close" in head


def test_requests_follow_each_other_on_one_connection() -> None:
    answer = ask(b"GET /echo HTTP/1.1\r\n\r\n" * 3)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.count(b"Connection: keep-alive") == 3


@pytest.mark.parametrize("method", [b"HEAD", b"OPTIONS"])
def test_load_balancers_get_the_status_without_a_body(method: bytes) -> None:
    answer = ask(method + b" /echo HTTP/1.0\r\n\r\n")
    assert status_of(answer) == 200
    assert answer.endswith(b"\r\n\r\n")
    assert status_of(ask(method + b" /none HTTP/1.0\r\n\r\n")) == 404
    # A length that no body follows is one that a client waits for, but after HEAD.
    assert (b"Content-Length: 0\r\n" in answer) is (method == b"OPTIONS")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /none HTTP/1.0\r\n\r\n", 404),
        (b"DELETE /echo HTTP/1.0\r\n\r\n", 405),
        (b"POST /defect HTTP/1.0\r\n\r\n", 405),
        (b"GET /echo\r\n\r\n", 400),
        (b"GET /echo HTTP/2.0\r\n\r\n", 400),
        (b"GET  /echo HTTP/1.0\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\r\n\r\n", 400),
        (b"GET /echo HTTP/1.0\r\nbroken\r\n\r\n", 400),
        (b"GET /echo HTTP/1.0\r\n: x\r\n\r\n", 400),
        (b"GET /echo HTTP/1.0\r\nA: x\r\n folded\r\n\r\n", 400),
        (b"GET /echo HTTP/1.0\r\nHost : x\r\n\r\n", 400),
        (b"POST /echo HTTP/1.0\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"POST /echo HTTP/1.0\r\nContent-Length: -3\r\n\r\nabc", 400),
        (b"POST /echo HTTP/1.0\r\nContent-Length: +3\r\n\r\nabc", 400),
        (b"POST /echo HTTP/1.0\r\nContent-Length: 0x3\r\n\r\nabc", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 501),
        (b"POST /echo HTTP/1.0\r\nContent-Length: 16385\r\n\r\n" + b"x" * 16385, 413),
        (b"GET /echo HTTP/1.0\r\n" + b"".join(b"A%d: x\r\n" % n for n in range(65)) + b"\r\n", 431),
        (b"GET /echo HTTP/1.0\r\nA: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"x" * 100_000, 431),
    ],
)
def test_what_is_not_understood_is_refused_with_a_sentence(sent: bytes, status: int) -> None:
    answer = ask(sent)
    assert status_of(answer) == status
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b'"sentence":"' in answer


def test_a_defect_is_logged_and_told_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answer = ask(b"GET /defect HTTP/1.1\r\n\r\nGET /echo HTTP/1.1\r\n\r\n")
    assert [status_of(part) for part in answer.split(b"\nHTTP")[:1]] == [500]
    assert b"HTTP/1.1 200 OK" in answer
    assert b"a broken invariant" not in answer
    assert "AssertionError: a broken invariant" in caplog.text


@pytest.mark.parametrize(
    "sent", [b"", b"GET /echo", b"POST /echo HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"]
)
def test_half_a_request_gets_no_answer(sent: bytes) -> None:
    assert ask(sent) == b""


@given(st.binary(max_size=300))
def test_no_bytes_make_the_server_itself_fail(sent: bytes) -> None:
    answer = ask(sent + b"\r\n\r\n")
    assert answer == b"" or 400 <= status_of(answer) < 502


@pytest.mark.parametrize(
    "sent", [b"", b"GET /ec", b"POST /echo HTTP/1.1\r\nContent-Length: 9\r\n\r\n"]
)
def test_who_says_nothing_more_is_left_after_a_while(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "IDLE_S", 0.05)
    monkeypatch.setattr(http, "REQUEST_S", 0.05)

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        assert await reader.read() == b""

    converse(conversation)


def test_a_stream_ends_when_its_reader_leaves() -> None:
    endless = Endless()

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /endless HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"xxx\n")
        writer.close()
        await endless.closed.wait()

    converse(conversation, endless)


def test_a_reader_that_takes_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "DRAIN_S", 0.1)
    endless = Endless()

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /endless HTTP/1.1\r\n\r\n")
        await endless.closed.wait()
        # What was sent lies in buffers of the host: bounded, whatever the reader does.
        assert endless.sent * 1000 < 64 << 20

    converse(conversation, endless)


def test_closing_the_server_ends_what_is_under_way() -> None:
    endless = Endless()

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /endless HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"xxx\n")

    converse(conversation, endless)
    assert endless.closed.is_set()


def test_a_flood_of_connections_is_cut(tmp_path: Path) -> None:
    async def main() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.setblocking(False)
        server = HttpServer({("GET", "/echo"): echo})
        await server.listen(listener)
        held = [
            await asyncio.open_unix_connection(str(tmp_path / "s"))
            for _ in range(2 * http.CONNECTIONS_MAX + 10)
        ]
        async with asyncio.timeout(60):
            answers = [await reader.read(12) for reader, _ in held[http.CONNECTIONS_MAX :]]
        assert set(answers) <= {b"HTTP/1.1 503", b""}
        assert server.refused_total == http.CONNECTIONS_MAX + 10
        reader, writer = held[0]
        writer.write(b"GET /echo HTTP/1.1\r\n\r\n")
        assert await reader.read(12) == b"HTTP/1.1 200"
        for _, writer in held:
            writer.close()
        await server.close()

    asyncio.run(main())
