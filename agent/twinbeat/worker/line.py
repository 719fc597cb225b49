# SPDX-License-Identifier: Apache-2.0
"""The line to the peer's worker: keeps the connection as this node's file wants it.

It gives the driver what concerns the document, and answers what an operator on the other node wants
to read of this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from twinbeat import __version__
from twinbeat.api.http import problem
from twinbeat.api.worker import Standing, SyncSettings
from twinbeat.sync.connection import Connection
from twinbeat.sync.endpoints import ConnectionStatus, Settings
from twinbeat.sync.identity import Certificate, Folder, IdentityError
from twinbeat.sync.session import Session
from twinbeat.sync.wire import ANSWER_MAX, Hello, Read, ReadAnswer, Traffic
from twinbeat.worker.driver import Driver

log = logging.getLogger("twinbeat.worker")

LOOK_S: Final = 1.0
"""How often a node that has no document looks whether it was paired."""
RENEW_LOOK_S: Final = 600.0
"""How often it is looked whether the own certificate is due for a successor."""
READS_MOST: Final = 8
READ_S: Final = 5.0

Reader = Callable[[str], Awaitable[tuple[int, bytes]]]
"""Reads a target of this node: status and body."""
Attending = Callable[[Session], AbstractAsyncContextManager[None]]
"""Speaks over a session, beside what concerns the document, while the block lasts."""
Other = Callable[[Traffic], None]
"""Takes a message that concerns something else than the document. Never waits."""


class Line:
    """Runs beside the driver."""

    def __init__(self, driver: Driver, *, read: Reader, attending: Attending, other: Other) -> None:
        self._driver = driver
        self._read = read
        self._attending = attending
        self._other = other
        self._session: Session | None = None
        self._connection: Connection | None = None
        self._restart = asyncio.Event()
        """The connection is wanted otherwise."""
        self._tokens = itertools.count(1)
        self._reads: dict[str, asyncio.Future[ReadAnswer]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    def status(self) -> ConnectionStatus | None:
        """None: there is no document yet, so nobody is connected with."""
        return None if self._connection is None else self._connection.status()

    async def run(self) -> None:
        """Until cancelled."""
        await self._driver.introduced.wait()
        looking = asyncio.create_task(self._look_for_pairing())
        try:
            await self._driver.begun.wait()
        finally:
            looking.cancel()
        self._driver.on_standing.append(self._standing)
        renewing = asyncio.create_task(self._renew_in_time())
        try:
            await self._keep_always()
        finally:
            renewing.cancel()

    async def _keep_always(self) -> None:
        while True:
            self._restart.clear()
            keeping = asyncio.create_task(self._keep(self._wanted()))
            restart = asyncio.create_task(self._restart.wait())
            try:
                await asyncio.wait({keeping, restart}, return_when=asyncio.FIRST_COMPLETED)
                if keeping.done():
                    keeping.result()
            finally:
                keeping.cancel()
                restart.cancel()
                await asyncio.gather(keeping, restart, return_exceptions=True)

    def _standing(self, before: Standing, now: Standing) -> None:
        if before.settings != now.settings:
            self._restart.set()
        elif now.peer_alive and not before.peer_alive and self._connection is not None:
            self._connection.hurry()

    @property
    def session(self) -> Session | None:
        """With the other node's worker; None while it can't be reached."""
        return self._session

    async def _renew_in_time(self) -> None:
        """A certificate that is due gets a successor while there is somebody to tell."""
        while True:
            try:
                own = await asyncio.to_thread(Folder(Path(self._wanted().identity)).own)
                if self._session is not None and own and own.certificate.is_due(time.time()):
                    await self.renew()
                    log.info("the certificate of this node was renewed")
                    self.reconnect()
            except IdentityError as error:
                log.warning("the certificate of this node is due: %s", error.sentence)
            known = self._session is not None
            await asyncio.sleep(RENEW_LOOK_S if known else LOOK_S)

    async def renew(self) -> Certificate:
        """Show another certificate from the next connection on.

        Raises IdentityError; a successor that the other node hasn't got yet is announced again.
        """
        if self._connection is None:
            raise IdentityError("away", "there is no connection to announce it over")
        return await self._connection.renew(time.time())

    def reconnect(self) -> None:
        """Begin the next connection at once, with the certificates that there are by now."""
        if self._connection is not None:
            self._connection.reconnect("renewed", "There is a new certificate.")

    async def read_peer(self, what: str) -> tuple[int, bytes] | None:
        """What the other node says to a target; None where it can't be asked."""
        session = self._session
        if session is None or len(self._reads) >= READS_MOST:
            return None
        token = str(next(self._tokens))
        answer = self._reads[token] = asyncio.get_running_loop().create_future()
        try:
            if not session.offer(Read(token=token, what=what)):
                return None
            async with asyncio.timeout(READ_S):
                said = await answer
            return said.status, said.body
        except TimeoutError:
            return None
        finally:
            del self._reads[token]

    # -- the connection ----------------------------------------------------------------------------

    def _wanted(self) -> SyncSettings:
        assert self._driver.standing is not None
        return self._driver.standing.settings

    async def _look_for_pairing(self) -> None:
        while not self._driver.wanted.is_set():
            folder = Folder(Path(self._wanted().identity))
            with contextlib.suppress(IdentityError):
                if await asyncio.to_thread(folder.trusted):
                    self._driver.wanted.set()
            await asyncio.sleep(LOOK_S)

    async def _keep(self, settings: SyncSettings) -> None:
        welcome = self._driver.welcome
        assert welcome is not None
        self._connection = Connection(
            Settings(
                node=welcome.node,
                pair=welcome.pair,
                peer=settings.peer,
                listen=settings.listen,
                port=settings.port,
                peer_port=settings.port,
                interface=settings.interface,
            ),
            Folder(Path(settings.identity)),
            self._hello,
        )
        try:
            await self._connection.run(self._converse)
        finally:
            self._connection = None

    def _hello(self, versions: tuple[int, int]) -> Hello:
        welcome, machine = self._driver.welcome, self._driver.machine
        assert welcome is not None
        assert machine is not None
        return Hello(
            versions=versions,
            pair=welcome.pair,
            node=welcome.node,
            name=welcome.name,
            build=__version__,
            summary=machine.summary(),
        )

    async def _converse(self, session: Session) -> None:
        self._session = session
        self._driver.peer_found(session)
        try:
            async with self._attending(session):
                while True:
                    await self._take(session, await session.receive())
        finally:
            self._session = None
            self._driver.peer_lost()

    async def _take(self, session: Session, message: Traffic) -> None:
        match message:
            case Read():
                self._answer_later(session, message)
            case ReadAnswer(token=token):
                answer = self._reads.get(token)
                if answer is not None and not answer.done():
                    answer.set_result(message)
            case _:
                if not await self._driver.heard(message):
                    self._other(message)

    # -- what the other node reads -----------------------------------------------------------------

    def _answer_later(self, session: Session, question: Read) -> None:
        if len(self._answering) >= READS_MOST:
            session.offer(ReadAnswer(token=question.token, status=503))
            return
        task = asyncio.get_running_loop().create_task(self._answer(session, question))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, session: Session, question: Read) -> None:
        status, body = await self._read(question.what)
        if len(body) > ANSWER_MAX:
            too_large = "what was asked for is too large to be told: ask on the node itself"
            said = problem(413, "too_large", too_large)
            status, body = said.status, said.body
        session.offer(ReadAnswer(token=question.token, status=status, body=body))
