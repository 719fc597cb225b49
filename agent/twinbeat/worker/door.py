# SPDX-License-Identifier: Apache-2.0
"""Where the command line asks for the shared configuration: /run/twinbeat/sync.sock.

The same bounds as the daemon's interface, but for the size of what is given. Whoever may use the
daemon's socket may use this one; who asked is noted as the kernel says it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import urllib.parse
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from twinbeat.api.client import Client, ClientError
from twinbeat.api.http import Handler, HttpServer, Request, Response, number, problem
from twinbeat.api.schema import Caller
from twinbeat.api.server import unix_socket
from twinbeat.api.sync import (
    BODY_MAX,
    DAEMONS,
    READABLE,
    DocumentView,
    FilesView,
    ForceSync,
    PeerView,
    Said,
    SyncView,
    Views,
)
from twinbeat.api.worker import Report
from twinbeat.sessions.connections import ConnectionsBrief
from twinbeat.sessions.entries import Refused
from twinbeat.sessions.shown import ENTRIES_MOST
from twinbeat.sync import operation
from twinbeat.sync.document import Document, Version, fingerprint
from twinbeat.sync.shown import FilesStatus, briefs
from twinbeat.sync.store import Backup, Entry, Store, StoreError
from twinbeat.sync.wire import TARGET_MAX
from twinbeat.worker import bound, openapi
from twinbeat.worker.driver import Driver
from twinbeat.worker.line import Line
from twinbeat.worker.sessions import Sessions
from twinbeat.worker.weblog import Weblog

log = logging.getLogger("twinbeat.worker")

Kept = TypeVar("Kept")

_TARGET: Final = re.compile("/[!-~]*")
NOBODY: Final = Caller(pid=0, uid=-1, gid=-1)


class Door:
    """Listens for the command line."""

    def __init__(self, driver: Driver, *, control: str) -> None:
        """``control`` is the daemon's own socket, which the peer's operators read through here."""
        self._driver = driver
        self._control = control
        self.line: Line | None = None
        self.files: Callable[[], FilesStatus] = FilesStatus
        """How the lists of files stand."""
        self.connections: Callable[[], ConnectionsBrief | None] = lambda: None
        """How the state of connections stands."""
        self.weblog: Weblog | None = None
        self.sessions: Sessions | None = None
        """Persistence; before it listens."""
        self.routes: dict[tuple[str, str], Handler] = {}
        """Of others, to be answered as well; before it listens."""
        self._server: HttpServer | None = None
        self._reads = {
            "/v1/sync": self._get_sync,
            "/v1/document": self._get_document,
            "/v1/generations": self._get_generations,
            "/v1/backups": self._get_backups,
            "/v1/files": self._get_files,
            "/v1/weblog": self._get_weblog,
            "/v1/sessions": self._get_sessions,
            "/v1/persistence": self._get_persistence,
        }

    async def listen(self, path: str) -> None:
        """Answer there. Raises OSError."""
        routes: dict[tuple[str, str], Handler] = {
            ("GET", what): reader for what, reader in self._reads.items()
        }
        routes |= {
            ("GET", "/v1/peer"): self._get_peer,
            ("GET", "/v1/openapi.json"): self._get_openapi,
            ("POST", "/v1/change"): self._post_change,
            ("POST", "/v1/sync"): self._post_sync,
        }
        self._server = HttpServer(routes | self.routes, body_max=BODY_MAX)
        await self._server.listen(unix_socket(path))

    async def close(self) -> None:
        """Hang up on everybody."""
        if self._server is not None:
            await self._server.close()

    async def read(self, target: str) -> tuple[int, bytes]:
        """For the operator on the other node: a target of this node's daemon or worker."""
        try:
            said = await self._read(target)
        except Exception:  # as in HttpServer: a defect in an answer is told, and ends nothing
            log.exception("%r could not be read for the other node", target)
            said = problem(500, "defect", "the worker could not answer; its log says why")
        return said.status, said.body

    async def _read(self, target: str) -> Response:
        if not _TARGET.fullmatch(target):
            # A blank or a line's end in it would be another request to the daemon, or a command.
            return problem(400, "bad_request", "this is no target")
        path, _, query = target.partition("?")
        if path in DAEMONS:
            try:
                answer = await asyncio.to_thread(Client(self._control, 3.0).get, target)
            except ClientError as error:
                return problem(503, "away", str(error))
            return Response(status=answer.status, body=answer.body)
        reader = self._reads.get(path)
        if reader is None:
            return problem(404, "not_found", f"{path[:200]} can't be read from the other node")
        return await reader(
            Request(
                method="GET",
                path=path,
                query=dict(urllib.parse.parse_qsl(query)),
                body=b"",
                caller=NOBODY,
            )
        )

    def report(self) -> Report:
        """How the worker stands, its connection included."""
        files = self.files()
        report = replace(
            self._driver.report(),
            files=briefs(files.lists),
            file_counts=files.counts,
            connections=self.connections(),
            weblog=self.weblog.brief() if self.weblog is not None else None,
        )
        status = self.line.status() if self.line is not None else None
        if status is None:
            return report
        return replace(
            report,
            connection=status.state,
            why=status.why[:1024],
            arriving=status.arriving,
            # In steps, as every change of a report is told.
            round_trip_ns=status.round_trip_ns // 100_000 * 100_000,
            own_ends_s=status.own_ends_s,
            peer_ends_s=status.peer_ends_s,
            counts={f"{what} {which}".rstrip(): n for (what, which), n in status.counts.items()},
        )

    # -- reading -----------------------------------------------------------------------------------

    async def _get_sync(self, _: Request) -> Response:
        driver, machine = self._driver, self._driver.machine
        current = machine.decided if machine is not None else None
        peer = machine.peer if machine is not None else None
        line = self.line.status() if self.line is not None else None
        standing = driver.standing
        return _json(
            SyncView(
                node=driver.welcome.name if driver.welcome is not None else "",
                report=self.report(),
                settings=standing.settings if standing is not None else None,
                document=_view(current, current=True) if current is not None else None,
                in_force=standing.in_force.version.generation
                if standing is not None and standing.in_force is not None
                else 0,
                daemon=machine.daemon if machine is not None else standing is not None,
                paired=machine.paired if machine is not None else False,
                peer=PeerView(
                    name=line.peer_name if line is not None else "",
                    build=line.peer_build if line is not None else "",
                    primary=peer.primary,
                    settled=peer.settled,
                    applied=peer.applied,
                    document=DocumentView(
                        lineage=peer.lineage,
                        term=peer.version.term,
                        generation=peer.version.generation,
                        fingerprint=peer.fingerprint,
                    ),
                )
                if peer is not None
                else None,
            )
        )

    async def _get_document(self, request: Request) -> Response:
        """The current one, that of `generation=`, or the backup of that number. Before there is
        one, what would become the first: with version (0, 0)."""
        machine = self._driver.machine
        decided = machine.decided if machine is not None else None
        if decided is None:
            welcome = self._driver.welcome
            if welcome is None:
                return problem(503, "daemon_away", "the agent has not been reached yet")
            first = Document(
                lineage="0" * 32,
                version=Version(),
                tables=welcome.tables if welcome.document is None else welcome.document.tables,
                by=welcome.name,
                reason="what the file says",
            )
            return _json(first)
        kind = next((name for name in ("generation", "backup") if name in request.query), "")
        if not kind:
            return _json(decided)
        wanted = number(request.query[kind], 0, openapi.NUMBER_MOST)
        if wanted is None:
            right = f"a number from 0 to {openapi.NUMBER_MOST}"
            return problem(400, "bad_request", f"{kind} is {right}")
        try:
            found: Document | None = await self._driver.ledger.ask(
                lambda store: store.at(wanted) if kind == "generation" else store.backup(wanted)
            )
        except StoreError as error:
            return problem(503, "store", error.sentence)
        if found is None:
            return problem(404, "not_found", f"there is no {kind} {wanted} on this node")
        return _json(found)

    async def _get_generations(self, request: Request) -> Response:
        limit = number(request.query.get("limit", "50"), 1, openapi.HISTORY_MOST)
        if limit is None:
            right = f"a number from 1 to {openapi.HISTORY_MOST}"
            return problem(400, "bad_request", f"limit is {right}")
        return await self._views(lambda store: store.history(limit), _listed)

    async def _get_backups(self, _: Request) -> Response:
        return await self._views(lambda store: store.backups(), _backed_up)

    async def _views(
        self, ask: Callable[[Store], Iterable[Kept]], view: Callable[[Kept], DocumentView]
    ) -> Response:
        """Documents that the store keeps."""
        if self._driver.machine is None:
            return _json(Views(documents=[]))
        try:
            kept = await self._driver.ledger.ask(ask)
        except StoreError as error:
            return problem(503, "store", error.sentence)
        return _json(Views(documents=[view(each) for each in kept]))

    async def _get_files(self, _: Request) -> Response:
        welcome, files = self._driver.welcome, self.files()
        name = welcome.name if welcome is not None else ""
        return _json(FilesView(node=name, lists=files.lists, counts=files.counts))

    async def _get_weblog(self, request: Request) -> Response:
        if self.weblog is None:
            return problem(503, "busy", "the worker has only been started")
        return await self.weblog.get(request)

    async def _get_sessions(self, _: Request) -> Response:
        assert self.sessions is not None, "set before it listens"
        return _json(bound.status(self.sessions))

    async def _get_persistence(self, request: Request) -> Response:
        """Entries: of `rule=`, of `client=`, `limit=` of them at most."""
        assert self.sessions is not None, "set before it listens"
        most = number(request.query.get("limit", "100"), 1, ENTRIES_MOST)
        if most is None:
            return problem(400, "bad_request", f"limit is a number from 1 to {ENTRIES_MOST}")
        rule, client = request.query.get("rule", ""), request.query.get("client", "")
        try:
            return _json(bound.entries(self.sessions, rule, client, most))
        except Refused as refused:
            return problem(404, refused.code, refused.sentence)

    async def _get_peer(self, request: Request) -> Response:
        """The same of the other node: `what` names the target, the rest goes with it."""
        query = dict(request.query)
        what = urllib.parse.unquote(query.pop("what", ""))
        if what not in READABLE:
            return problem(400, "bad_request", f"what is one of {', '.join(READABLE)}")
        target = what + (f"?{urllib.parse.urlencode(query)}" if query else "")
        if len(target) > TARGET_MAX:
            # The peer would take it for a broken message, and end the session.
            return problem(400, "bad_request", f"a target has {TARGET_MAX} characters at most")
        answer = await self.line.read_peer(target) if self.line is not None else None
        if answer is None:
            why = self.report().why or "it didn't answer in time"
            return problem(503, "peer_away", f"the peer can't be asked: {why}")
        return Response(status=answer[0], body=answer[1])

    async def _get_openapi(self, _: Request) -> Response:
        return _json(openapi.described())

    # -- changing ----------------------------------------------------------------------------------

    async def _post_change(self, request: Request) -> Response:
        try:
            wanted = msgspec.json.decode(request.body, type=operation.Request)
        except msgspec.DecodeError as error:
            return problem(400, "bad_request", f"{error}")
        caller = request.caller
        name = f"{wanted.by} (uid {caller.uid})" if wanted.by else f"uid {caller.uid}"
        wanted = replace(wanted, by=name[:64])
        # Who hangs up doesn't take a half-done change with it, which isn't this task's; it may be
        # asked for again.
        said = await self._driver.request(wanted)
        fields = {"event": "change", "reason": said.code, "request": wanted.request}
        why = f" ({wanted.reason})" if wanted.reason else ""
        record = partial(
            log.info,
            "a change by %s%s: %s, %s",
            wanted.by,
            why,
            said.state.value,
            said.sentence,
            extra={"fields": fields},
        )
        asyncio.get_running_loop().call_soon(record)  # after the answer
        return _json(said)

    async def _post_sync(self, request: Request) -> Response:
        try:
            wanted = msgspec.json.decode(request.body or b"{}", type=ForceSync)
        except msgspec.DecodeError as error:
            return problem(400, "bad_request", f"{error}")
        refused = self._driver.force(adopt=wanted.adopt)
        code, sentence = refused or ("", "both documents are compared now")
        return _json(Said(code=code, sentence=sentence), 409 if refused else 200)


def _view(document: Document, *, current: bool) -> DocumentView:
    return DocumentView(
        lineage=document.lineage,
        term=document.version.term,
        generation=document.version.generation,
        fingerprint=fingerprint(document.tables),
        made_at_ns=document.made_at_ns,
        by=document.by,
        reason=document.reason,
        request=document.request,
        current=current,
    )


def _listed(entry: Entry) -> DocumentView:
    return DocumentView(
        lineage=entry.lineage,
        term=entry.version.term,
        generation=entry.version.generation,
        made_at_ns=entry.made_at_ns,
        by=entry.by,
        reason=entry.reason,
        request=entry.request,
        current=entry.current,
    )


def _backed_up(backup: Backup) -> DocumentView:
    return DocumentView(
        lineage=backup.lineage,
        term=backup.version.term,
        generation=backup.version.generation,
        made_at_ns=backup.taken_at_ns,
        backup=backup.number,
        why=backup.why,
    )


def _json(value: Any, status: int = 200) -> Response:
    return Response(body=msgspec.json.encode(value), status=status)
