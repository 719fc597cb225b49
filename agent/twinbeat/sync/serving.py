# SPDX-License-Identifier: Apache-2.0
"""Sends the peer the contents that it wants, of files of the lists and of nothing else."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from typing import Final

from twinbeat.sync.beneath import Trouble
from twinbeat.sync.files import content
from twinbeat.sync.filing import Filing
from twinbeat.sync.session import Session
from twinbeat.sync.taking import COURIERS, in_thread
from twinbeat.sync.wire import FILE_PIECE_MAX, FilePiece, FileWant

SERVERS: Final = 4
WANTS_MAX: Final = 2 * COURIERS
"""That wait to be served; a peer has no more couriers."""


class Serving:
    """Of one session."""

    def __init__(self, filing: Filing, session: Session, sent: Callable[[FilePiece], None]) -> None:
        self._filing = filing
        self._session = session
        self._sent = sent
        self._wants: deque[FileWant] = deque()
        self._wanted = asyncio.Event()

    def take(self, want: FileWant) -> None:
        """A range is wanted. What is too much is dropped and counted."""
        if len(self._wants) < WANTS_MAX:
            self._wants.append(want)
            self._wanted.set()
        else:
            self._filing.count("flooded")

    async def run(self) -> None:
        """One server of several. Raises SessionOverError."""
        while True:
            while not self._wants:
                self._wanted.clear()
                await self._wanted.wait()
            await self._serve(self._wants.popleft())

    async def _serve(self, want: FileWant) -> None:
        try:
            listed = self._filing.lists.get(want.list)
            if listed is None:
                raise Trouble("changed", want.path, f"There is no list {want.list!r} here.")
            read = functools.partial(
                content, self._filing.tree, listed.files, want.path, want.offset, want.size
            )
            data = await in_thread(self._filing.executor, read)
            for start in range(0, len(data), FILE_PIECE_MAX):
                part = data[start : start + FILE_PIECE_MAX]
                await self._send(want, start, part)
            if len(data) < want.size:
                raise Trouble("changed", want.path)
        except Trouble as trouble:
            self._filing.count(f"unserved_{trouble.code}")
            await self._send(want, 0, b"", trouble.code, trouble.sentence)

    async def _send(
        self, want: FileWant, start: int, data: bytes, code: str = "", sentence: str = ""
    ) -> None:
        piece = FilePiece(
            list=want.list,
            path=want.path,
            content=want.content,
            offset=want.offset + start,
            data=data,
            code=code,
            sentence=sentence,
        )
        await self._session.send(piece)
        self._sent(piece)
