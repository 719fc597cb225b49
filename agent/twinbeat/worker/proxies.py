# SPDX-License-Identifier: Apache-2.0
"""Where proxies keep their own entries: a unix socket with the bounds of all our interfaces.

It has a directory and a group of its own, so that who may bind clients may nothing else.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from twinbeat.api.http import Handler, HttpServer, Request, Response, problem
from twinbeat.api.server import unix_socket
from twinbeat.sessions import proxy
from twinbeat.sessions.entries import Refused, Store
from twinbeat.worker.openapi import proxies_described

GROUP: Final = "twinbeat-sessions"
STATUS: Final = {
    "unknown_rule": 404,
    "not_primary": 409,
    "not_opaque": 409,
    "starting": 503,
}
"""Of a refusal by its code; all others are 400."""
STARTING: Final = (
    "this worker has just started, and gets the entries back from the other node: ask again"
)


log = logging.getLogger("twinbeat.worker")


def proxies_socket(worker: Path) -> Path:
    """In a directory of its own beside that of the worker's socket; without it, in that one."""
    own = worker.parent.with_name(f"{worker.parent.name}-sessions")
    return (own if own.is_dir() else worker.parent) / "sessions.sock"


class Proxies:
    """Listens for proxies."""

    def __init__(
        self,
        store: Store,
        primary: Callable[[], bool],
        counts: Counter[str] | None = None,
        *,
        knows: Callable[[], bool] = lambda: True,
    ) -> None:
        """``counts``: where what is done is counted as well, by `proxy_put` and the like.
        ``knows``: what the other node may have is here by now; before, a client that is bound would
        be taken for a new one."""
        self._store = store
        self._primary = primary
        self._knows = knows
        self._server: HttpServer | None = None
        self.counts: Counter[str] = Counter() if counts is None else counts
        """Entries by what was done to them: proxy_put, _get, _touch, _delete, _list; and requests
        that were refused: proxy_refused."""

    async def listen(self, path: Path) -> None:
        """Answer there; where that can't be, it is told in the log and all else goes on."""
        routes: dict[tuple[str, str], Handler] = {
            ("POST", f"/v1/{what}"): functools.partial(self._answer, what)
            for what in proxy.QUESTIONS
        }
        routes["GET", "/v1/openapi.json"] = _described
        server = HttpServer(routes, body_max=proxy.BODY_MAX)
        try:
            await server.listen(unix_socket(str(path), group=GROUP))
        except OSError as error:
            log.error("proxies can't be answered at %s: %s", path, error.strerror or error)
            return
        self._server = server

    async def close(self) -> None:
        """Hang up on everybody."""
        if self._server is not None:
            await self._server.close()

    async def _answer(self, what: str, request: Request) -> Response:
        try:
            question = proxy.read(what, request.body)
            if not self._knows():
                raise Refused("starting", STARTING)
            now_ns = time.monotonic_ns()
            said = proxy.answer(self._store, question, now_ns, primary=self._primary())
        except Refused as refused:
            self.counts["proxy_refused"] += 1
            return problem(STATUS.get(refused.code, 400), refused.code, refused.sentence[:1024])
        done = said.deleted if isinstance(said, proxy.Deleted) else said.entries
        self.counts[f"proxy_{what}"] += len(done)
        return Response(body=msgspec.json.encode(said))


async def _described(_: Request) -> Response:
    return Response(body=msgspec.json.encode(proxies_described()))
