# SPDX-License-Identifier: Apache-2.0
"""The worker's side of log records: a thread with a loop of its own runs them while any are wanted.

What the shared document says of them (or the file, where there is no document) and what the daemon
says of addresses become one `Wanted`, which that loop is given whenever it is another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from twinbeat.api.http import Request, Response, problem
from twinbeat.sync.document import Tables
from twinbeat.weblog.shown import WeblogView
from twinbeat.weblog.sources import LogSource
from twinbeat.worker.driver import Driver, WorkerFailedError
from twinbeat.worker.logsite import LogSite, Wanted

log = logging.getLogger("twinbeat.worker")

VIEW_S: Final = 1.0
"""How often it is noted how things stand."""
AGAIN_S: Final = 5.0
"""After a defect has ended the loop."""
STOP_S: Final = 10.0
PARTS: Final = ("logsource", "logclient", "weblog")
"""Sections of the shared document."""


class Weblog:
    """Belongs to the worker's loop, but for what runs in its thread."""

    def __init__(self, driver: Driver, directory: Path, marker: Path) -> None:
        """``marker`` is a file that doesn't outlive the kernel, so that a new boot is noticed."""
        self._driver = driver
        self._directory = directory
        self._marker = marker
        self._changed = asyncio.Event()
        self._view: WeblogView | None = None
        self._rows: Any = None
        self._wanted: Wanted | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._site: LogSite | None = None
        self._main: asyncio.Task[None] | None = None

    # -- in the worker's loop ----------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        await self._driver.introduced.wait()
        self._driver.on_standing.append(lambda _, __: self.look())
        try:
            while True:
                self._changed.clear()
                await self._adjust(self._wants())
                await self._changed.wait()
        finally:
            await asyncio.shield(self._stop())

    def look(self) -> None:
        """The document or what the daemon says may be others now."""
        self._changed.set()

    def brief(self) -> WeblogView | None:
        """How it stood a moment ago, for the daemon; None: nothing is wanted."""
        if self._view is None or self._wanted is None:
            return None
        newest = {each.node: each for each in self._view.streams}
        return replace(
            self._view,
            streams=tuple(newest.values()),
            clients=tuple(replace(each, streams=()) for each in self._view.clients),
            strangers=(),
        )

    async def get(self, _: Request) -> Response:
        """GET /v1/weblog: how it stands now."""
        loop, site = self._loop, self._site
        view = self._view or WeblogView(why="No log source and no log client is configured.")
        if loop is not None and site is not None:
            asking = asyncio.run_coroutine_threadsafe(_viewed(site), loop)
            try:
                async with asyncio.timeout(2.0):
                    view = await asyncio.wrap_future(asking)
            except (TimeoutError, asyncio.CancelledError, RuntimeError):
                return problem(503, "busy", "what keeps log records does not answer in time")
        return Response(status=200, body=msgspec.json.encode(view))

    def _tables(self) -> Tables:
        machine, welcome = self._driver.machine, self._driver.welcome
        if machine is not None and machine.current is not None:
            return machine.current.tables
        if welcome is None:
            return {}
        return welcome.document.tables if welcome.document is not None else welcome.tables

    def _wants(self) -> Wanted | None:
        welcome, standing, tables = self._driver.welcome, self._driver.standing, self._tables()
        if welcome is None or standing is None:
            return self._wanted
        if not tables.get("logsource") and not tables.get("logclient"):
            return None
        settings, own = standing.settings, tables.get("weblog", {}).get("", {})
        return Wanted(
            node=welcome.name,
            pair=welcome.pair,
            identity=settings.identity,
            sources=tuple(_sources(tables)),
            clients=tuple(
                (row["name"], row["fingerprint"])
                for _, row in sorted(tables.get("logclient", {}).items())
            ),
            port=own.get("port", Wanted.__struct_defaults__[2]),
            listen=tuple(settings.weblog_listen),
            peer=settings.peer,
            own=settings.listen,
            interface=settings.interface,
            size=own.get("size_mb", 1024) << 20,
            age_s=own.get("age_h", 168) * 3600,
            drop_oldest=own.get("full", "refuse") == "drop-oldest",
        )

    async def _adjust(self, wanted: Wanted | None) -> None:
        before, self._wanted = self._wanted, wanted
        if wanted == before:
            return
        anew = before is None or wanted is None or _fixed(before) != _fixed(wanted)
        if anew:
            if not await self._stop():
                # Two of them would write the same journals.
                raise WorkerFailedError("what keeps log records doesn't end: its disk may hang")
            if wanted is not None:
                self._start()
        elif self._loop is not None and self._site is not None and wanted is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._site.configure, wanted)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._live, name="weblog", daemon=True)
        self._thread.start()

    async def _stop(self) -> bool:
        """Whether it is over."""
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        loop, main = self._loop, self._main
        if loop is not None and main is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(main.cancel)
        await asyncio.to_thread(thread.join, STOP_S)
        self._view = None
        return not thread.is_alive()

    # -- in its thread -----------------------------------------------------------------------------

    def _live(self) -> None:
        mine = threading.current_thread()
        while self._thread is mine:
            try:
                asyncio.run(self._run())
            except asyncio.CancelledError:
                return
            except Exception:  # this thread's supervisor
                log.exception("what keeps log records failed; it begins anew")
                time.sleep(AGAIN_S)

    async def _run(self) -> None:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        if self._thread is not threading.current_thread():
            self._loop = self._main = None
            return  # Told to stop before there was a loop to tell.
        wanted = self._wanted
        assert wanted is not None
        site = self._site = LogSite(self._directory, wanted, boot=_boot(self._marker))
        if self._wanted is not None and self._wanted != wanted:
            site.configure(self._wanted)  # Wanted otherwise before there was a site to tell.
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(site.run())
                tasks.create_task(self._note(site))
        finally:
            self._site = self._loop = self._main = None

    async def _note(self, site: LogSite) -> None:
        while True:
            self._view = site.view()
            await asyncio.sleep(VIEW_S)


def _sources(tables: Tables) -> Iterator[LogSource]:
    """Those that this release understands."""
    for name, row in sorted(tables.get("logsource", {}).items()):
        try:
            yield msgspec.convert(row, LogSource)
        except msgspec.ValidationError as error:
            log.error("log source %s is of another release: %s", name, error)


def _fixed(wanted: Wanted) -> tuple[str, str]:
    """What can't be changed while it runs."""
    return wanted.node, wanted.identity


async def _viewed(site: LogSite) -> WeblogView:
    return site.view()


def _boot(marker: Path) -> str:
    """The same until the machine is started anew; empty where that can't be known, and then a new
    epoch begins each time."""
    try:
        with contextlib.suppress(FileNotFoundError):
            return marker.read_text()
        boot = secrets.token_hex(8)
        marker.write_text(boot)
    except OSError:
        return secrets.token_hex(8)
    return boot
