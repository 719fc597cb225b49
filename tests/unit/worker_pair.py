# SPDX-License-Identifier: Apache-2.0
"""Two workers and all that belongs to them, but agents that keep what is in force in memory."""

import asyncio
import contextlib
import functools
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from twinbeat.api.client import Client, ClientError, Response
from twinbeat.api.sync import SyncView
from twinbeat.api.worker import Mark, Standing, SyncSettings, Welcome
from twinbeat.runtime.workers import WorkerDesk
from twinbeat.sync.document import Document, Put, Tables
from twinbeat.sync.identity import Folder
from twinbeat.sync.operation import Edit, Outcome, Policy, Problem, Request, Wish
from twinbeat.worker.main import Worker
from unit.sync_pair import acquainted

PATIENCE_S = 30.0
SEED: Tables = {"vrid": {"51": {"id": 51, "interface": "lan0", "vips": ["10.77.0.10"]}}}
_numbers = itertools.count(1)


async def until(holds: Callable[[], object], what: str = "") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"it never came to it: {what}"
        await asyncio.sleep(0.005)


def looped(test: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """A test that runs in a loop of its own."""

    @functools.wraps(test)
    def run(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Site:
    """One node: the daemon's end, and the worker while it runs."""

    def __init__(self, root: Path, index: int, folder: Folder, port: int) -> None:
        self.name = "ab"[index]
        self.index = index
        self.root = root / f"site-{self.name}"
        (self.root / "run").mkdir(parents=True)
        self.folder = folder
        self.document: Document | None = None
        self.tables = SEED
        self.primary, self.term = index == 0, 4
        self.settings = SyncSettings(
            enabled=True,
            propagation=True,
            strict_status=False,
            peer=f"127.0.0.{2 - index}",
            listen=f"127.0.0.{index + 1}",
            port=port,
            interface="",
            timeout_s=10,
            identity=str(folder.path),
        )
        self.applied: list[Document] = []
        self.refuse: Callable[[Tables], str] = lambda _: ""
        self.desk = self._desk()
        self.worker: Worker | None = None
        self.running: asyncio.Task[None] | None = None
        self.stopped = asyncio.Event()

    def _desk(self) -> WorkerDesk:
        return WorkerDesk(
            self.root / "run" / "worker.sock",
            welcome=self._welcome,
            standing=self._standing,
            check=self._check,
            apply=self._apply,
        )

    def _welcome(self) -> Welcome:
        return Welcome(
            node=self.index,
            name=self.name,
            pair=7,
            build="0",
            document=self.document,
            tables=self.tables,
        )

    def _standing(self) -> Standing:
        document = self.document
        return Standing(
            primary=self.primary,
            term=self.term,
            peer_alive=True,
            in_force=Mark(lineage=document.lineage, version=document.version)
            if document is not None
            else None,
            settings=self.settings,
        )

    async def _check(self, tables: Tables) -> tuple[Problem, ...]:
        why = self.refuse(tables)
        return (Problem(where="vrid 51", right=why),) if why else ()

    async def _apply(self, document: Document) -> tuple[bool, tuple[Problem, ...]]:
        problems = await self._check(document.tables)
        if problems:
            return False, problems
        self.document = document
        self.applied.append(document)
        return True, ()

    # -- the worker --------------------------------------------------------------------------------

    def start(self) -> None:
        self.stopped = asyncio.Event()
        self.worker = Worker(socket=self.root / "run" / "worker.sock", state=self.root / "state")
        self.running = asyncio.create_task(self.worker.run(self.stopped))

    async def stop(self) -> None:
        if self.running is not None:
            self.stopped.set()
            await self.running
            self.running = None

    async def ask(self, target: str) -> Response:
        return await asyncio.to_thread(self._client.get, target)

    async def post(self, target: str, body: Any) -> Response:
        return await asyncio.to_thread(self._client.post, target, msgspec.json.encode(body))

    async def view(self) -> SyncView:
        return msgspec.json.decode((await self.ask("/v1/sync")).body, type=SyncView)

    async def change(
        self, vips: list[str], *, request: str = "", strict: bool = False, **more: Any
    ) -> Outcome:
        row = {"id": 51, "interface": "lan0", "vips": vips}
        wish = Edit(changes=(Put(section="vrid", identity="51", row=row),))
        policy = Policy.STRICT if strict else Policy.AVAILABLE
        return await self.ask_for(wish, request=request, policy=policy, **more)

    async def ask_for(self, wish: Wish, *, request: str = "", **more: Any) -> Outcome:
        wanted = Request(request=request or f"test-{next(_numbers)}", wish=wish, **more)
        answer = await self.post("/v1/change", wanted)
        assert answer.status == 200, answer.body
        return msgspec.json.decode(answer.body, type=Outcome)

    @property
    def lineage(self) -> str:
        assert self.document is not None
        return self.document.lineage

    @property
    def vips(self) -> list[str]:
        """In force."""
        assert self.document is not None
        return list(self.document.tables["vrid"]["51"]["vips"])

    @property
    def _client(self) -> Client:
        return Client(str(self.root / "run" / "sync.sock"), 60.0)


@contextlib.asynccontextmanager
async def pair(root: Path) -> AsyncIterator[tuple[Site, Site]]:
    """Both agents listen; no worker runs yet."""
    port = free_port()
    folders = acquainted(root)
    sites = tuple(Site(root, index, folders[index], port) for index in range(2))
    for site in sites:
        await site.desk.listen()
    try:
        yield sites[0], sites[1]
    finally:
        for site in sites:
            await site.stop()
            await site.desk.close()


async def in_step(*sites: Site) -> None:
    """Both say that both have the same."""

    deadline = time.monotonic() + PATIENCE_S
    # Asked themselves: their agents hear of it a moment later.
    while not all([await _says_so(site) for site in sites]):
        assert time.monotonic() < deadline, "it never came to it: both are in step"
        await asyncio.sleep(0.005)


async def _says_so(site: Site) -> bool:
    try:
        return (await site.view()).report.in_step
    except ClientError:  # It has only been started.
        return False


@contextlib.asynccontextmanager
async def working(root: Path) -> AsyncIterator[tuple[Site, Site]]:
    """Both workers run and are in step."""
    async with pair(root) as (a, b):
        a.start()
        b.start()
        await in_step(a, b)
        yield a, b
