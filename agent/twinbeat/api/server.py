# SPDX-License-Identifier: Apache-2.0
"""The interface over HTTP: everything on the Unix socket, health and metrics on the TCP listener.

It knows the schema and the `Agent` Protocol, and decides nothing. It runs in the loop that decides,
so every handler is short; `http` bounds what may be under way at once.

A command is carried out once per `request_id` however often it is sent, and to its end even when
the caller hangs up. Every command is logged with who sent it, as the kernel says (SO_PEERCRED).
"""

import asyncio
import contextlib
import errno
import grp
import ipaddress
import logging
import os
import socket
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from twinbeat.api import openapi, page
from twinbeat.api.agent import Agent
from twinbeat.api.events import Subscription
from twinbeat.api.http import (
    Handler,
    HttpServer,
    Request,
    Response,
    Routes,
    Stream,
    number,
    problem,
)
from twinbeat.api.schema import (
    COMMANDS,
    Answer,
    Caller,
    Command,
    History,
    Outcome,
    OutcomeState,
    Refusal,
    Role,
    Status,
)
from twinbeat.api.told import told

GROUP: Final = "twinbeat"
HISTORY_MAX: Final = 1000
REMEMBERED_MAX: Final = 256

EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"

log = logging.getLogger("twinbeat.api")


class AlreadyRunningError(OSError):
    """Another agent answers on the socket."""


class Server:
    """Both listeners of one agent."""

    def __init__(self, agent: Agent, metrics: Callable[[], bytes]) -> None:
        """`metrics` gives the exposition text; it is called once per scrape."""
        self._agent = agent
        self._metrics = metrics
        self._answers: OrderedDict[str, tuple[Command, asyncio.Task[Outcome | Refusal]]] = (
            OrderedDict()
        )
        # Read now: whoever looks at the page must not have the deciding loop wait for a disk.
        self._page, self._page_headers = page.file()
        self._page_json = (-page.FRESH_NS, b"")
        self._listening: list[HttpServer] = []
        self._path = ""
        self.tcp_port = 0
        """The port of the TCP listener, where the host chose it."""

    # ------------------------------------------------------------------------ listening ----------

    async def listen_unix(self, path: str) -> None:
        """Answer on a Unix socket, mode 0660, group twinbeat where it exists.

        Raises AlreadyRunningError when another agent answers there, OSError when the host refuses.
        """
        await self._listen(unix_socket(path), self._public() | self._private())
        self._path = path

    async def listen_tcp(self, host: str, port: int) -> None:
        """Answer health checks, scrapes and the status page, and nothing else. Raises OSError."""
        server = await self._listen(_tcp_socket(host, port), self._public())
        self.tcp_port = server.port

    async def close(self) -> None:
        """Stop answering. Commands under way go on."""
        self._agent.events.close()
        for server in self._listening:
            await server.close()
        self._listening.clear()
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    async def _listen(self, listener: socket.socket, routes: Routes) -> HttpServer:
        server = HttpServer(routes)
        await server.listen(listener)
        self._listening.append(server)
        return server

    def _public(self) -> dict[tuple[str, str], Handler]:
        """What everybody on the host may ask."""
        return {
            ("GET", "/"): self._get_page,
            ("GET", "/page.json"): self._get_page_json,
            ("GET", "/metrics"): self._get_metrics,
            ("GET", "/primary"): self._get_primary,
            ("GET", "/secondary"): self._get_secondary,
            ("GET", "/health"): self._get_health,
            ("GET", "/live"): self._get_live,
            ("GET", "/ready"): self._get_ready,
        }

    def _private(self) -> dict[tuple[str, str], Handler]:
        """What the socket's permissions guard."""
        return {
            ("GET", "/v1/status"): self._get_status,
            ("GET", "/v1/history"): self._get_history,
            ("GET", "/v1/counters"): self._get_counters,
            ("GET", "/v1/events"): self._get_events,
            ("GET", "/v1/openapi.json"): self._get_openapi,
        } | {("POST", f"/v1/{name}"): self._poster(kind) for name, kind in COMMANDS.items()}

    # -------------------------------------------------------------------------- reading ----------

    async def _get_status(self, _: Request) -> Response:
        return _json(self._agent.status())

    async def _get_counters(self, _: Request) -> Response:
        return _json(self._agent.counters())

    async def _get_history(self, request: Request) -> Response:
        limit = number(request.query.get("limit", str(HISTORY_MAX)), 1, HISTORY_MAX)
        if limit is None:
            return problem(400, "bad_request", f"limit is a number from 1 to {HISTORY_MAX}")
        return _json(History(transitions=self._agent.history(limit)))

    async def _get_events(self, request: Request) -> Response | Stream:
        """The newest events; with `follow=1` whatever comes after them, as it comes."""
        recent = b"".join(
            msgspec.json.encode(event) + b"\n" for event in self._agent.events.recent()
        )
        if request.query.get("follow", "0") != "1":
            return Response(body=recent, content_type=openapi.LINES)
        reader = self._agent.events.subscribe()
        if reader is None:
            return problem(503, "busy", "all places of the event stream are taken")
        return Stream(lines=_follow(recent, reader), content_type=openapi.LINES)

    async def _get_openapi(self, _: Request) -> Response:
        return _json(openapi.described())

    async def _get_metrics(self, _: Request) -> Response:
        return Response(body=self._metrics(), content_type=EXPOSITION)

    async def _get_page(self, _: Request) -> Response:
        return Response(body=self._page, content_type=HTML, headers=self._page_headers)

    async def _get_page_json(self, _: Request) -> Response:
        """The pair at a glance; made anew only when the last one is older than FRESH_NS."""
        made_ns, body = self._page_json
        now_ns = time.monotonic_ns()
        if now_ns - made_ns >= page.FRESH_NS:
            agent = self._agent
            told = page.page(agent.status(), agent.counters(), agent.history(page.TRANSITIONS))
            body = msgspec.json.encode(told)
            self._page_json = now_ns, body
        return Response(body=body, headers=self._page_headers)

    # --------------------------------------------------------------------------- health ----------

    async def _get_primary(self, _: Request) -> Response:
        """200 while this node serves: the role is not enough, the gate has to be open."""
        status = self._agent.status()
        return _verdict(status, status.node.role is Role.PRIMARY and status.gate.open)

    async def _get_secondary(self, _: Request) -> Response:
        """200 while this node stands by."""
        status = self._agent.status()
        return _verdict(status, status.node.role is Role.SECONDARY)

    async def _get_health(self, _: Request) -> Response:
        """200 while this node could serve."""
        status = self._agent.status()
        return _verdict(status, status.node.fit)

    async def _get_live(self, _: Request) -> Response:
        """200 while the deciding loop turns: its attestation is fresh."""
        status = self._agent.status()
        return _verdict(status, status.gate.attested_left_ns > 0)

    async def _get_ready(self, _: Request) -> Response:
        """200 once the kernel path stands and the first listening period is over."""
        status = self._agent.status()
        ready = status.gate.attached and not status.node.starting
        return _verdict(status, ready and status.node.role is not Role.INIT)

    # ------------------------------------------------------------------------- commands ----------

    def _poster(self, kind: type[Any]) -> Handler:
        decoder = msgspec.json.Decoder(kind)

        async def post(request: Request) -> Response:
            try:
                command: Command = decoder.decode(request.body)
            except msgspec.DecodeError as error:
                return problem(400, "bad_request", f"{error}")
            return await self._carry_out(command, request.caller)

        return post

    async def _carry_out(self, command: Command, caller: Caller) -> Response:
        known = self._answers.get(command.request_id)
        if known is not None and known[0] != command:
            return problem(409, "request_id_reused", "this request_id was used for another command")
        if known is None:
            task = asyncio.create_task(self._logged(command, caller))
            self._remember(command, task)
        else:
            task = known[1]
        # Shielded: a caller that hangs up does not take a half-done command with it.
        result = await asyncio.shield(task)
        return _json(Answer(result=result), _code(result))

    async def _logged(self, command: Command, caller: Caller) -> Outcome | Refusal:
        name = next(name for name, kind in COMMANDS.items() if isinstance(command, kind))
        result = await self._agent.command(command, caller)
        fields = {
            "event": "command",
            "command": name,
            "request_id": command.request_id,
            "uid": caller.uid,
            "pid": caller.pid,
            "reason": result.code,
            "why": command.reason,
        }
        log.info("%s", told(command, caller, result), extra={"fields": fields})
        return result

    def _remember(self, command: Command, task: asyncio.Task[Outcome | Refusal]) -> None:
        """Keep the answer for repetitions. The oldest that is decided goes when there are many."""
        self._answers[command.request_id] = (command, task)
        while len(self._answers) > REMEMBERED_MAX:
            decided = next((id_ for id_, (_, old) in self._answers.items() if old.done()), None)
            if decided is None:
                return  # all under way; the number of connections bounds how many that can be
            del self._answers[decided]


def _code(result: Outcome | Refusal) -> int:
    if isinstance(result, Refusal):
        return 409
    return {OutcomeState.DONE: 200, OutcomeState.ACCEPTED: 202, OutcomeState.FAILED: 500}[
        result.state
    ]


async def _follow(recent: bytes, reader: Subscription) -> AsyncIterator[bytes]:
    """The newest events at once, then each as it comes; the place is given back at the end."""
    try:
        yield recent
        while (item := await reader.next()) is not None:
            yield msgspec.json.encode(item) + b"\n"
    finally:
        reader.close()


def _json(value: Any, status: int = 200) -> Response:
    return Response(body=msgspec.json.encode(value), status=status)


def _verdict(status: Status, holds: bool) -> Response:
    verdict = openapi.Verdict(role=status.node.role, sentence=status.sentence)
    return _json(verdict, 200 if holds else 503)


def unix_socket(path: str, *, group: str = GROUP) -> socket.socket:
    """A listening socket at `path`, private until its group is set."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        try:
            _bind(listener, path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if _answers(path):
                raise AlreadyRunningError(
                    errno.EADDRINUSE, "another agent answers", path
                ) from error
            os.unlink(path)
            _bind(listener, path)
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        os.chmod(path, 0o660)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _tcp_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _bind(listener: socket.socket, path: str) -> None:
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True
