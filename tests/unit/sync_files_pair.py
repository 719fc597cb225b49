# SPDX-License-Identifier: Apache-2.0
"""Two nodes that keep files alike, over a real connection; each has a tree of its own."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from twinbeat.sync.alike import Files
from twinbeat.sync.identity import Folder
from twinbeat.sync.lists import FileList
from twinbeat.sync.session import Limits, Session
from twinbeat.sync.shown import ListStatus
from unit.sync_pair import Node, acquainted, running, until

LIST = FileList(name="l", paths=("/in",), exclude=("*.bak",))
LIMITS = Limits(ping_s=0.2, dead_s=5.0)


class Keeper(Node):
    """A node whose session keeps files alike; `a` leads."""

    def __init__(self, root: Path, folder: Any, index: int, **settings: Any) -> None:
        super().__init__(folder, index, **({"limits": LIMITS} | settings))
        self.top = root / f"top-{self.name}"
        self.inside = self.top / "in"
        self.inside.mkdir(parents=True, exist_ok=True)
        self.memory = root / f"memory-{self.name}"
        self.files = Files(self.name, self.memory, str(self.top))
        self.files.lead(index == 0)

    async def handle(self, session: Session) -> None:
        self.sessions.append(session)
        async with self.files.attending(session):
            while True:
                message = await session.receive()
                self.heard.append(message)
                await self.taking.wait()
                self.files.take(message)  # type: ignore[arg-type]

    @property
    def status(self) -> ListStatus:
        lists = self.files.status().lists
        return lists[0] if lists else ListStatus(name="", state="none", sentence="")

    @property
    def counts(self) -> dict[str, int]:
        return self.files.status().counts

    def said(self) -> dict[str, str]:
        """Every file, directory and link of the list, with what is in it; what goes while they are
        read isn't there."""
        found = {}
        for path in sorted(self.inside.rglob("[!.]*")):
            name = str(path.relative_to(self.inside))
            with contextlib.suppress(FileNotFoundError):
                if path.is_symlink():
                    found[name] = f"-> {path.readlink()}"
                else:
                    found[name] = "directory" if path.is_dir() else path.read_text()
        return found

    @property
    def same(self) -> bool:
        return bool(self.files.status().lists) and self.status.state == "same"


@contextlib.asynccontextmanager
async def kept(*nodes: Keeper, lists: Iterable[FileList] = (LIST,)) -> AsyncIterator[None]:
    """They look after their lists."""
    async with asyncio.TaskGroup() as group:
        tasks = []
        for node in nodes:
            node.files.configure(lists)
            tasks.append(group.create_task(node.files.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def keepers(root: Path, **settings: Any) -> tuple[Keeper, Keeper]:
    """Two nodes that were paired, and run nothing yet. `b` listens."""
    folders = (Folder(root / "a"), Folder(root / "b")) if (root / "a").exists() else None
    folders = folders or acquainted(root)
    return Keeper(root, folders[0], 0, **settings), Keeper(root, folders[1], 1, **settings)


@contextlib.asynccontextmanager
async def connected(a: Keeper, b: Keeper) -> AsyncIterator[None]:
    async with running(b):
        settings = a.connection.settings
        a.connection.settings = dataclasses.replace(settings, peer_port=await b.port())
        async with running(a):
            await until(lambda: a.up and b.up, "they are connected")
            yield


@contextlib.asynccontextmanager
async def alike(root: Path, lists: Iterable[FileList] = (LIST,)) -> AsyncIterator[tuple[Any, Any]]:
    """Two nodes that are connected and keep their lists alike."""
    a, b = keepers(root)
    async with kept(a, b, lists=lists), connected(a, b):
        yield a, b
