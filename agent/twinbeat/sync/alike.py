# SPDX-License-Identifier: Apache-2.0
"""Files that are alike on both nodes: all that whoever drives the worker has to know of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from twinbeat.sync.beneath import Tree
from twinbeat.sync.filing import Filing
from twinbeat.sync.lists import FileList
from twinbeat.sync.messages import Summary
from twinbeat.sync.session import Session
from twinbeat.sync.shown import FilesStatus
from twinbeat.sync.talking import Talk
from twinbeat.sync.wire import Filing as Message


def leads(mine: Summary, peers: Summary) -> bool | None:
    """Who decides about files: the one primary. None = nobody, as long as it isn't clear."""
    if mine.primary == peers.primary or not (mine.sync and peers.sync):
        return None
    return mine.primary


class Files:
    """All there is to it, for whoever drives the worker."""

    def __init__(self, name: str, directory: Path, top: str = "/") -> None:
        """``name``: of this node; ``directory``: where the worker remembers, its own.

        ``top``: the directory that stands for `/`.
        """
        self._filing = Filing(name, directory, Tree(top))
        self._talk: Talk | None = None
        self._leading: bool | None = None

    async def run(self) -> None:
        """Watch the lists, until cancelled. For the life of the worker."""
        await self._filing.run()

    @contextlib.asynccontextmanager
    async def attending(self, session: Session) -> AsyncIterator[None]:
        """Keep the lists alike over this session while the block lasts.

        For each session, from `PeerFound` on. Whoever is cancelled in the block stays cancelled.
        """
        assert self._talk is None
        self._talk = talk = Talk(self._filing, session, self._leading)

        def ended(task: asyncio.Task[None]) -> None:
            """A mistake must not go unseen until the session happens to end."""
            if not task.cancelled() and task.exception() is not None:
                session.close("handler", "This node made a mistake with files.")

        task = asyncio.create_task(talk.run())
        task.add_done_callback(ended)
        try:
            yield
        finally:
            self._talk = None
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.result()

    def take(self, message: Message) -> None:
        """A message of `wire.Filing` that came over the session. Never waits."""
        if self._talk is not None:
            self._talk.take(message)

    def lead(self, leading: bool | None) -> None:
        """What `leads` says, whenever one of the two summaries is another."""
        self._leading = leading
        if self._talk is not None:
            self._talk.lead(leading)

    def configure(self, lists: Iterable[FileList]) -> None:
        """The rows of the section ``file`` of the document in force."""
        self._filing.configure(lists)

    def rescan(self) -> None:
        """Walk all lists now: `force sync`."""
        self._filing.rescan()

    async def in_step(self, path: str, timeout_s: float) -> str:
        """Wait until both nodes have a file alike; a sentence if they don't in that time."""
        return await self._filing.in_step(path, timeout_s)

    def on_standing(self, stood: Callable[[], None]) -> None:
        """Have this called when the state of a list is another. It never waits."""
        self._filing.stood = stood

    def status(self) -> FilesStatus:
        """How each list stands, and what was counted."""
        return self._filing.status()
