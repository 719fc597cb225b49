# SPDX-License-Identifier: Apache-2.0
"""The interface over HTTP: everything on the Unix socket, health and metrics on the TCP listener.

It knows the schema and the `Agent` Protocol, and decides nothing. It runs in the loop that decides,
so every handler is short: requests are small, readers of events are few and their queues bounded,
and at most `REQUESTS_MAX` are answered at once.

A command is carried out once per `request_id` however often it is sent, and to its end even when
the caller hangs up. Every command is logged with who sent it, as the kernel says (SO_PEERCRED).
"""

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import struct
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from twinbeat.api.agent import Agent
from twinbeat.api.schema import (
    COMMANDS,
    SCHEMA,
    Answer,
    Caller,
    Command,
    Counters,
    Doctor,
    Event,
    History,
    Outcome,
    OutcomeState,
    Problem,
    Refusal,
    Role,
    Status,
)

GROUP: Final = "twinbeat"
BODY_MAX: Final = 16 << 10
REQUESTS_MAX: Final = 64
HISTORY_MAX: Final = 1000
REMEMBERED_MAX: Final = 256
SHUTDOWN_S: Final = 1.0

_UCRED: Final = struct.Struct("3i")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

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
        self._in_flight = 0
        self._runners: list[web.AppRunner] = []
        self._path = ""
        self.tcp_port = 0
        """The port of the TCP listener, where the host chose it."""
        self.busy_total = 0
        """Requests turned away because too many were under way."""

    # ------------------------------------------------------------------------ listening ----------

    async def listen_unix(self, path: str) -> None:
        """Answer on a Unix socket, mode 0660, group twinbeat where it exists.

        Raises AlreadyRunningError when another agent answers there, OSError when the host refuses.
        """
        listener = _unix_socket(path)
        runner = await self._runner(self._application(full=True))
        await web.SockSite(runner, listener, backlog=32).start()
        self._path = path

    async def listen_tcp(self, host: str, port: int) -> None:
        """Answer health checks and scrapes, and nothing else. Raises OSError."""
        runner = await self._runner(self._application(full=False))
        await web.TCPSite(runner, host, port, backlog=32).start()
        self.tcp_port = int(runner.addresses[0][1])

    async def close(self) -> None:
        """Stop answering. Commands under way go on."""
        self._agent.events.close()
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    async def _runner(self, application: web.Application) -> web.AppRunner:
        runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            keepalive_timeout=15.0,
            shutdown_timeout=SHUTDOWN_S,
        )
        await runner.setup()
        self._runners.append(runner)
        return runner

    def _application(self, *, full: bool) -> web.Application:
        application = web.Application(client_max_size=BODY_MAX, middlewares=[self._frame])
        reads: dict[str, _Handler] = {
            "/metrics": self._get_metrics,
            "/primary": self._get_primary,
            "/secondary": self._get_secondary,
            "/health": self._get_health,
            "/live": self._get_live,
            "/ready": self._get_ready,
        }
        if full:
            reads |= {
                "/v1/status": self._get_status,
                "/v1/history": self._get_history,
                "/v1/counters": self._get_counters,
                "/v1/events": self._get_events,
                "/v1/openapi.json": self._get_openapi,
            }
        for path, handler in reads.items():
            application.router.add_get(path, handler)
        if full:
            for name, kind in COMMANDS.items():
                application.router.add_post(f"/v1/{name}", self._poster(kind))
        return application

    @web.middleware
    async def _frame(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Bound what is under way, and answer errors in the schema."""
        if self._in_flight >= REQUESTS_MAX:
            self.busy_total += 1
            return _problem(503, "busy", "too many requests are under way; try again")
        self._in_flight += 1
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return _problem(413, "too_large", f"a request has {BODY_MAX} bytes at most")
        except web.HTTPException as error:
            return _problem(error.status, error.reason.lower().replace(" ", "_"), error.reason)
        finally:
            self._in_flight -= 1

    # -------------------------------------------------------------------------- reading ----------

    async def _get_status(self, _: web.Request) -> web.Response:
        return _json(self._agent.status())

    async def _get_counters(self, _: web.Request) -> web.Response:
        return _json(self._agent.counters())

    async def _get_history(self, request: web.Request) -> web.Response:
        text = request.query.get("limit", str(HISTORY_MAX))
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= HISTORY_MAX):
            return _problem(400, "bad_request", f"limit is a number from 1 to {HISTORY_MAX}")
        return _json(History(transitions=self._agent.history(int(text))))

    async def _get_events(self, request: web.Request) -> web.StreamResponse:
        """The newest events; with `follow=1` whatever comes after them, as it comes."""
        recent = self._agent.events.recent()
        follow = request.query.get("follow", "0") == "1"
        reader = self._agent.events.subscribe() if follow else None
        if follow and reader is None:
            return _problem(503, "busy", "all places of the event stream are taken")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        try:
            await response.prepare(request)
            for event in recent:
                await response.write(msgspec.json.encode(event) + b"\n")
            while reader is not None and (item := await reader.next()) is not None:
                await response.write(msgspec.json.encode(item) + b"\n")
            await response.write_eof()
        except (ConnectionError, RuntimeError) as error:
            # A reader that went away. aiohttp says it by either, and nobody is left to be told.
            log.debug("a reader of events left: %s", error)
        finally:
            if reader is not None:
                reader.close()
        return response

    async def _get_openapi(self, _: web.Request) -> web.Response:
        return _json(openapi())

    async def _get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    # --------------------------------------------------------------------------- health ----------

    async def _get_primary(self, _: web.Request) -> web.Response:
        """200 while this node serves: the role is not enough, the gate has to be open."""
        status = self._agent.status()
        return _verdict(status, status.node.role is Role.PRIMARY and status.gate.open)

    async def _get_secondary(self, _: web.Request) -> web.Response:
        """200 while this node stands by."""
        status = self._agent.status()
        return _verdict(status, status.node.role is Role.SECONDARY)

    async def _get_health(self, _: web.Request) -> web.Response:
        """200 while this node could serve."""
        status = self._agent.status()
        return _verdict(status, status.node.fit)

    async def _get_live(self, _: web.Request) -> web.Response:
        """200 while the deciding loop turns: its attestation is fresh."""
        status = self._agent.status()
        return _verdict(status, status.gate.attested_left_ns > 0)

    async def _get_ready(self, _: web.Request) -> web.Response:
        """200 once the kernel path stands and the first listening period is over."""
        status = self._agent.status()
        ready = status.gate.attached and not status.node.starting
        return _verdict(status, ready and status.node.role is not Role.INIT)

    # ------------------------------------------------------------------------- commands ----------

    def _poster(self, kind: type[Any]) -> _Handler:
        decoder = msgspec.json.Decoder(kind)

        async def post(request: web.Request) -> web.StreamResponse:
            try:
                command: Command = decoder.decode(await request.read())
            except msgspec.DecodeError as error:
                return _problem(400, "bad_request", f"{error}")
            return await self._carry_out(command, _caller(request))

        return post

    async def _carry_out(self, command: Command, caller: Caller) -> web.Response:
        known = self._answers.get(command.request_id)
        if known is not None and known[0] != command:
            return _problem(
                409, "request_id_reused", "this request_id was used for another command"
            )
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
        }
        why = f" ({command.reason})" if command.reason else ""
        kind = "refused" if isinstance(result, Refusal) else result.state.value
        log.info(
            "%s by uid %d%s: %s, %s",
            name,
            caller.uid,
            why,
            kind,
            result.sentence,
            extra={"fields": fields},
        )
        return result

    def _remember(self, command: Command, task: asyncio.Task[Outcome | Refusal]) -> None:
        """Keep the answer for repetitions. The oldest that is decided goes when there are many."""
        self._answers[command.request_id] = (command, task)
        while len(self._answers) > REMEMBERED_MAX:
            decided = next((id_ for id_, (_, old) in self._answers.items() if old.done()), None)
            if decided is None:
                return  # all under way; REQUESTS_MAX bounds how many that can be
            del self._answers[decided]


def _code(result: Outcome | Refusal) -> int:
    if isinstance(result, Refusal):
        return 409
    return {OutcomeState.DONE: 200, OutcomeState.ACCEPTED: 202, OutcomeState.FAILED: 500}[
        result.state
    ]


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )


def _problem(status: int, code: str, sentence: str) -> web.Response:
    return _json(Problem(code=code, sentence=sentence), status)


def _verdict(status: Status, holds: bool) -> web.Response:
    body = {"schema": SCHEMA, "role": status.node.role, "sentence": status.sentence}
    return _json(body, 200 if holds else 503)


def _caller(request: web.Request) -> Caller:
    """Who is at the other end of the Unix socket, as the kernel noted when it connected."""
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None or connection.family != socket.AF_UNIX:
        return Caller(pid=0, uid=-1, gid=-1)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(credentials)
    return Caller(pid=pid, uid=uid, gid=gid)


def _unix_socket(path: str) -> socket.socket:
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
            os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
        os.chmod(path, 0o660)
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


# ------------------------------------------------------------------------------- openapi ---------


def openapi() -> dict[str, Any]:
    """The interface described, from the types that answer it."""
    answers: dict[str, Any] = {"status": Status, "history": History, "counters": Counters}
    bodies = list(COMMANDS.values())
    types = [*answers.values(), Event, Answer, Problem, Doctor, *bodies]
    refs, schemas = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(types, refs, strict=True))
    paths: dict[str, Any] = {}
    for name, type_ in answers.items():
        paths[f"/v1/{name}"] = {"get": {"responses": {"200": _content(by_type[type_])}}}
    paths["/v1/events"] = {
        "get": {"responses": {"200": _content(by_type[Event], "application/x-ndjson")}}
    }
    for name, type_ in COMMANDS.items():
        responses = {
            "200": _content(by_type[Answer], description="Done."),
            "202": _content(by_type[Answer], description="Under way."),
            "409": _content(by_type[Answer], description="Refused; nothing has changed."),
            "400": _content(by_type[Problem], description="The request is wrong."),
        }
        body = {"required": True, "content": {"application/json": {"schema": by_type[type_]}}}
        paths[f"/v1/{name}"] = {
            "post": {"summary": type_.__doc__, "requestBody": body, "responses": responses}
        }
    for name in ("primary", "secondary", "health", "live", "ready"):
        verdicts = {"200": {"description": "Yes."}, "503": {"description": "No."}}
        paths[f"/{name}"] = {"get": {"responses": verdicts}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Twinbeat", "version": str(SCHEMA)},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _content(
    schema: dict[str, Any], kind: str = "application/json", description: str = "The answer."
) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": schema}}}
