# SPDX-License-Identifier: Apache-2.0
"""As much of HTTP/1.1 as a node-local interface needs, on asyncio alone.

It knows requests, answers and streams of lines; what they mean is `server`'s. aiohttp would do the
same and more, at fourteen of the sixty megabytes that the agent may have and a tenth of a second
of its start; deploy/docs/interface.md has the figures.

It runs in the loop that decides, so everything has a bound: connections, the head, the body, the
time each of them may take, and what waits for a slow reader. A request that isn't understood is
answered and its connection closed; nothing is guessed.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from twinbeat.api.schema import Caller, Problem

CONNECTIONS_MAX: Final = 64
HEAD_MAX: Final = 8 << 10
BODY_MAX: Final = 16 << 10
HEADERS_MAX: Final = 64
REQUEST_S: Final = 5.0
"""How long a request may take to arrive."""
IDLE_S: Final = 15.0
"""How long a connection may wait for its next request."""
NUMBER_DIGITS: Final = 20
"""Of a number in a query, leading zeros included."""
LINGER_S: Final = 0.5
LINGER_READS: Final = 16
"""How much of a refused request is still read, and for how long."""
DRAIN_S: Final = 10.0
"""How long a reader may take nothing of what was sent to it."""

JSON: Final = "application/json"
_UCRED: Final = struct.Struct("3i")

log = logging.getLogger("twinbeat.api")


class Request(Struct, frozen=True, kw_only=True):
    """What was asked, and by whom."""

    method: str
    path: str
    query: dict[str, str]
    """Raw: nothing here needs escapes."""
    body: bytes
    caller: Caller


class Response(Struct, frozen=True, kw_only=True):
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    """Further ones; ASCII, and none that `_send` writes."""


class Stream(Struct, frozen=True, kw_only=True):
    """An answer that goes on until its lines end or its reader leaves."""

    lines: AsyncIterator[bytes]
    content_type: str


Handler = Callable[[Request], Awaitable[Response | Stream]]
Routes = Mapping[tuple[str, str], Handler]
"""(method, path) -> who answers."""


def problem(status: int, code: str, sentence: str) -> Response:
    """An answer that says what was wrong."""
    return Response(status=status, body=msgspec.json.encode(Problem(code=code, sentence=sentence)))


def number(text: str, first: int, last: int) -> int | None:
    """The number from first to last that a query gives; None if it gives none.

    Its length is looked at before its value: thousands of digits are no number for `int`.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= NUMBER_DIGITS):
        return None
    value = int(text)
    return value if first <= value <= last else None


class _RefusedError(Exception):
    """The request can't be answered; its connection ends after the answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.answer = problem(status, _code(status), sentence)


def _code(status: int) -> str:
    return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")


class HttpServer:
    """Listens on one socket and answers by a table of routes."""

    def __init__(self, routes: Routes, *, body_max: int = BODY_MAX) -> None:
        self._routes = routes
        self._body_max = body_max
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.refused_total = 0
        """Connections turned away because there were too many."""

    async def listen(self, listener: socket.socket) -> None:
        """Answer on a socket that is bound. Raises OSError."""
        # The limit of the reader is that of the head; bodies are read by their length.
        self._server = await asyncio.start_server(
            self._accept, sock=listener, limit=HEAD_MAX, backlog=32
        )

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            if len(self._connections) > 2 * CONNECTIONS_MAX:
                self.refused_total += 1
                writer.transport.abort()
            elif len(self._connections) > CONNECTIONS_MAX:
                self.refused_total += 1
                busy = problem(503, "busy", "too many requests are under way; try again")
                await _refuse(reader, writer, busy, empty=False)
            else:
                await self._converse(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError) as error:
            # Whoever asked is gone or asleep, and nobody is left to be told.
            log.debug("a connection ended: %s", error)
        except asyncio.CancelledError:
            pass  # close(): the task ends here, so nobody waits for it in vain
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests one after the other, until one of the two has enough."""
        caller = _caller(writer)
        while True:
            empty = False
            try:
                head = await _read_head(reader)
                if head is None:
                    return
                method, target, last, size = _parse(head, self._body_max)
                empty = method == "HEAD"
                async with asyncio.timeout(REQUEST_S):
                    body = await reader.readexactly(size)
                path, _, query = target.partition("?")
                request = Request(
                    method=method, path=path, query=_query(query), body=body, caller=caller
                )
                answer = await self._answer(request)
                if method == "OPTIONS" and isinstance(answer, Response):
                    # Unlike after HEAD, what its length announces is waited for.
                    answer = replace(answer, body=b"")
            except _RefusedError as error:
                await _refuse(reader, writer, error.answer, empty=empty)
                return
            if isinstance(answer, Stream):
                await _stream(reader, writer, answer)
                return
            await _send(writer, answer, last=last, empty=empty)
            if last:
                return

    async def _answer(self, request: Request) -> Response | Stream:
        # Load balancers ask by HEAD or OPTIONS, and want the same status without a body.
        method = "GET" if request.method in {"HEAD", "OPTIONS"} else request.method
        handler = self._routes.get((method, request.path))
        if handler is None:
            known = any(path == request.path for _, path in self._routes)
            status = 405 if known else 404
            return problem(status, _code(status), f"{request.path[:200]}: {_code(status)}")
        try:
            return await handler(request)
        except Exception:  # a defect in an answer must not end the agent
            log.exception("%s %s could not be answered", request.method, request.path)
            return problem(500, "defect", "the agent could not answer; its log says why")


async def _read_head(reader: asyncio.StreamReader) -> bytes | None:
    """The head of the next request, or None when the other side has no more to ask."""
    try:
        async with asyncio.timeout(IDLE_S):
            return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    except asyncio.LimitOverrunError as error:
        raise _RefusedError(431, f"a head has {HEAD_MAX} bytes at most") from error


def _parse(head: bytes, body_max: int) -> tuple[str, str, bool, int]:
    """Method, target, whether it is the last request, and the size of its body."""
    first, *lines = head[:-4].split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or words[2] not in {b"HTTP/1.0", b"HTTP/1.1"}:
        raise _RefusedError(400, "this is no request of HTTP/1")
    if len(lines) > HEADERS_MAX:
        raise _RefusedError(431, f"a request has {HEADERS_MAX} headers at most")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip() or name.lower() in headers:
            # A repeated header is legal for some and dangerous for others: none of ours needs it.
            raise _RefusedError(400, "a header is malformed or repeated")
        headers[name.lower()] = value.strip()
    if b"transfer-encoding" in headers:
        raise _RefusedError(501, "a body needs a Content-Length")
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 12:
        raise _RefusedError(400, "Content-Length is no number")
    if int(length) > body_max:
        raise _RefusedError(413, f"a body has {body_max} bytes at most")
    connection = headers.get(b"connection", b"").lower()
    last = words[2] == b"HTTP/1.0" or connection == b"close"
    try:
        return words[0].decode("ascii"), words[1].decode("ascii"), last, int(length)
    except UnicodeDecodeError as error:
        raise _RefusedError(400, "this is no request of HTTP/1") from error


def _query(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split("&") if part)
    return {name: value for name, _, value in pairs}


async def _send(writer: asyncio.StreamWriter, answer: Response, *, last: bool, empty: bool) -> None:
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        f"Connection: {'close' if last else 'keep-alive'}",
        *(f"{name}: {value}" for name, value in answer.headers),
    ]
    writer.write("\r\n".join(lines).encode("ascii") + b"\r\n\r\n")
    if not empty:
        writer.write(answer.body)
    async with asyncio.timeout(DRAIN_S):
        await writer.drain()


async def _refuse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Response, *, empty: bool
) -> None:
    """Answer without having read everything, and wait a little for the rest of the request.

    A connection that is closed while input waits is reset, and the answer lost with it.
    """
    await _send(writer, answer, last=True, empty=empty)
    writer.write_eof()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            for _ in range(LINGER_READS):
                if not await reader.read(HEAD_MAX):
                    break


async def _stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Stream
) -> None:
    """Send lines as they come. The end of the connection is the end of the answer."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {answer.content_type}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode("ascii"))
    gone = asyncio.ensure_future(reader.read(1))
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(answer.lines))
            await asyncio.wait({gone, coming}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                return
            try:
                writer.write(coming.result())
            except StopAsyncIteration:
                return
            async with asyncio.timeout(DRAIN_S):
                await writer.drain()
    finally:
        for future in (gone, coming):
            if future is not None:
                future.cancel()
                with contextlib.suppress(
                    asyncio.CancelledError, StopAsyncIteration, ConnectionError
                ):
                    await future
        close = getattr(answer.lines, "aclose", None)
        if close is not None:
            await close()


def _caller(writer: asyncio.StreamWriter) -> Caller:
    """Who is at the other end of a Unix socket, as the kernel noted when it connected."""
    connection = writer.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return Caller(pid=0, uid=-1, gid=-1)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(credentials)
    return Caller(pid=pid, uid=uid, gid=gid)
