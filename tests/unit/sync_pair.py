# SPDX-License-Identifier: Apache-2.0
"""Two workers' ends of the connection, on the loopback interface: real sockets, real TLS."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from twinbeat.framing import Codec
from twinbeat.sync.connection import Connection
from twinbeat.sync.document import Version
from twinbeat.sync.endpoints import Settings
from twinbeat.sync.identity import Folder
from twinbeat.sync.messages import Summary
from twinbeat.sync.session import Limits, Session
from twinbeat.sync.wire import Hello, Traffic

HERE = "127.0.0.1"
PATIENCE_S = 25.0
"""However long the machine stands still for."""
DEAD_S = 20.0


def summary(node: int) -> Summary:
    return Summary(
        node=node,
        lineage="0" * 32,
        version=Version(1, 1),
        fingerprint="0" * 64,
        paired=True,
        settled=True,
        applied=True,
    )


def acquainted(root: Path) -> tuple[Folder, Folder]:
    """Two nodes that were paired."""
    folders = Folder(root / "a"), Folder(root / "b")
    for folder, name in zip(folders, "ab", strict=True):
        folder.make_own(name, time.time())
    introduce(*folders)
    return folders


def introduce(one: Folder, other: Folder) -> None:
    for folder, peer in ((one, other), (other, one)):
        found = peer.own()
        assert found is not None
        folder.trust(found.certificate)


async def until(holds: Callable[[], object], what: str = "") -> None:
    """Wait for a condition that nobody announces."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"it never came to it: {what}"
        await asyncio.sleep(0.001)


class Node:
    """A connection and what came over it."""

    def __init__(self, folder: Folder, index: int, codec: Codec | None = None, **settings: Any):
        self.name = "ab"[index]
        self.changes: dict[str, Any] = {}
        """What it says otherwise in its hello."""
        self.heard: list[Traffic] = []
        self.sessions: list[Session] = []
        self.listening = asyncio.Event()
        self.taking = asyncio.Event()
        """Whether it takes what comes."""
        self.taking.set()
        limits = Limits(ping_s=0.05, dead_s=DEAD_S)
        plain: dict[str, Any] = {"peer": HERE, "port": 0, "listen": HERE, "peer_port": 1}
        plain |= {"limits": limits, "pause_max_s": 0.1, "look_s": 0.05}
        plain |= {"handshake_s": PATIENCE_S, "dial_anyway_s": PATIENCE_S}
        self.connection = Connection(
            Settings(node=index, pair=1, **(plain | settings)),
            folder,
            self.hello,
            codec=codec,
        )
        self.folder = folder

    def hello(self, versions: tuple[int, int]) -> Hello:
        plain = Hello(
            versions=versions,
            pair=1,
            node=self.connection.settings.node,
            name=self.name,
            build="0.1.0",
            summary=summary(self.connection.settings.node),
        )
        return msgspec.structs.replace(plain, **self.changes)

    async def handle(self, session: Session) -> None:
        self.sessions.append(session)
        while True:
            await self.taking.wait()
            self.heard.append(await session.receive())

    @property
    def session(self) -> Session:
        """The one that stands."""
        assert self.sessions
        assert self.sessions[-1].over is None
        return self.sessions[-1]

    @property
    def up(self) -> bool:
        return bool(self.sessions) and self.sessions[-1].over is None

    def counted(self, what: str) -> dict[str, int]:
        return {which: n for (kind, which), n in self.connection.counts.items() if kind == what}

    async def port(self) -> int:
        await until(lambda: self.connection.status().port, "it listens")
        return self.connection.status().port


@contextlib.asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """The nodes run; what goes wrong in one comes out."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(node.connection.run(node.handle)) for node in nodes]
        yield
        for task in tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def connected(
    root: Path, *, codecs: tuple[Codec | None, Codec | None] = (None, None), **settings: Any
) -> AsyncIterator[tuple[Node, Node]]:
    """Both nodes with a session: b listens, a dials."""
    folders = acquainted(root)
    b = Node(folders[1], 1, codecs[1], **settings)
    async with running(b):
        a = Node(folders[0], 0, codecs[0], **(settings | {"peer_port": await b.port()}))
        async with running(a):
            await until(lambda: a.up and b.up, "they are connected")
            yield a, b
