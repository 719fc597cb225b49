# SPDX-License-Identifier: Apache-2.0
"""`twinbeat-worker`: keeps the shared configuration the same on both nodes, beside the daemon.

It decides nothing about roles, and may end or fall behind at any moment: whatever was acknowledged
is on disk, and the daemon goes on with what it has in force.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from twinbeat import __version__
from twinbeat.api.schema import Histogram
from twinbeat.api.worker import Apply, Check, Report, Standing
from twinbeat.observe.log import set_up
from twinbeat.sessions.keeper import Keeper
from twinbeat.sessions.plane import PlaneError, remove
from twinbeat.sync.session import Session
from twinbeat.sync.store import StoreError
from twinbeat.sync.wire import Keying, Traffic
from twinbeat.worker import bound
from twinbeat.worker.door import Door
from twinbeat.worker.driver import Driver, WorkerFailedError
from twinbeat.worker.gateway import Gateway
from twinbeat.worker.keys import Keys
from twinbeat.worker.ledger import Ledger
from twinbeat.worker.line import Line
from twinbeat.worker.link import DaemonLink
from twinbeat.worker.proxies import Proxies, proxies_socket
from twinbeat.worker.sessions import Sessions
from twinbeat.worker.weblog import Weblog

SOCKET: Final = "/run/twinbeat/worker.sock"
STATE: Final = "/var/lib/twinbeat/worker"
EXIT_FAILED: Final = 1
RETRY_S: Final = 5.0
"""Between two attempts to open a store that refuses."""
TELL_S: Final = 0.1
"""The daemon hears of what has changed so much later: once for all steps of a change."""
FILES_TELL_S: Final = 0.25
"""Of lists of files that stand otherwise, so much later."""
GC_THRESHOLDS: Final = (20_000, 20, 20)
"""As for the agent: next to no garbage is cyclic, and a change makes thousands of objects."""

log = logging.getLogger("twinbeat.worker")


class Worker:
    """One run of the worker."""

    def __init__(self, *, socket: Path, state: Path) -> None:
        self._socket = socket
        self._ledger = Ledger(state / "shared.db")
        self._driver = Driver(ledger=self._ledger, ask=self._ask)
        self._gateway = self._driver.gateway = Gateway(self._driver, state / "files")
        self._sessions = Sessions(self._driver)
        control = str(socket.with_name("control.sock"))
        self._door = Door(self._driver, control=control)
        self._door.files = self._gateway.status
        self._door.sessions = self._sessions
        self._proxies = Proxies(
            self._sessions.store,
            lambda: self._sessions.primary,
            self._sessions.counts,
            knows=lambda: self._sessions.knows,
        )
        self._line = self._door.line = Line(
            self._driver,
            read=self._door.read,
            attending=self._attending,
            other=self._take,
        )
        self._connections = Keeper(socket.parent)
        self._door.connections = self._connections.brief
        self._keys = Keys(self._line, control=control, directory=self._keys_directory)
        self._door.routes["POST", "/v1/keys"] = self._keys.post
        self._weblog = Weblog(self._driver, state / "weblog", socket.with_name("weblog.boot"))
        self._door.weblog = self._weblog
        self._link = DaemonLink(
            str(socket),
            hear=self._driver.hear,
            report=self._report,
            took=self._took,
            sessions=lambda: bound.status(self._sessions),
        )
        self._telling: asyncio.TimerHandle | None = None
        self._files_telling: asyncio.TimerHandle | None = None
        self._driver.changed = self._changed
        self._gateway.stood = self._files_stood
        self._connections.changed = self._changed
        self._driver.stood = self._stands

    async def run(self, stopped: asyncio.Event) -> None:
        """Until told to stop. Raises whatever makes it necessary to begin anew."""
        await self._door.listen(str(self._socket.with_name("sync.sock")))
        await self._proxies.listen(proxies_socket(self._socket))
        ending: asyncio.Future[Any] = asyncio.create_task(stopped.wait())
        parts = [
            asyncio.create_task(part)
            for part in (
                self._link.run(stopped),
                self._begin(),
                self._gateway.run(),
                self._line.run(),
                self._connections.run(),
                self._weblog.run(),
                self._sessions.run(),
            )
        ]
        watched: list[asyncio.Future[Any]] = [*parts, self._driver.failed]
        try:
            while not ending.done():
                await asyncio.wait([ending, *watched], return_when=asyncio.FIRST_COMPLETED)
                for part in [each for each in watched if each.done()]:
                    watched.remove(part)
                    part.result()
        finally:
            self._driver.end()
            # Who speaks over a session before who watches what is spoken of.
            for part in (*reversed(parts), ending):
                part.cancel()
                await asyncio.gather(part, return_exceptions=True)
            await self._proxies.close()
            await self._door.close()
            self._ledger.close()

    async def _begin(self) -> None:
        """A store that refuses doesn't end the worker: it is shown, and tried again."""
        while True:
            try:
                await self._driver.begin()
            except StoreError as error:
                self._driver.refused(error)
                log.error("the store can't be used: %s", error.sentence)
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _stands(self, standing: Standing | None) -> None:
        """How the node stands, as the daemon says; None: it is away."""
        if standing is None:
            self._connections.stand(primary=None, peer_alive=False)
            return
        self._connections.configure(standing.connections)
        self._connections.stand(primary=standing.primary, peer_alive=standing.peer_alive)

    @contextlib.asynccontextmanager
    async def _attending(self, session: Session) -> AsyncIterator[None]:
        """All who speak over a session beside the document."""
        async with self._gateway.attending(session), self._sessions.attending(session):
            yield

    def _take(self, message: Traffic) -> None:
        """What the other node says of something else than the document."""
        if isinstance(message, Keying):
            self._keys.heard(message)
        elif not self._sessions.take(message):
            self._gateway.take(message)

    def _keys_directory(self) -> str:
        standing = self._driver.standing
        return standing.settings.keys if standing is not None else ""

    def _ask(self, question: Check | Apply) -> None:
        self._link.ask(question)

    def _changed(self) -> None:
        self._gateway.look()
        self._weblog.look()
        self._sessions.look()
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TELL_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._link.tell()

    def _files_stood(self) -> None:
        """How many have come of a list is told with the next beat; that it stands otherwise, soon,
        and once for all lists."""
        if self._files_telling is None:
            loop = asyncio.get_running_loop()
            self._files_telling = loop.call_later(FILES_TELL_S, self._tell_files)

    def _tell_files(self) -> None:
        self._files_telling = None
        self._link.tell()

    def _report(self) -> Report:
        return self._door.report()

    def _took(self) -> dict[str, Histogram]:
        return {
            what: Histogram(counts=list(taken.counts), sum_ns=taken.sum_ns)
            for what, taken in self._driver.took.items()
        }


async def _main(socket: Path, state: Path) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await Worker(socket=socket, state=state).run(stopped)


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="twinbeat-worker", description="The bulky work beside twinbeatd."
    )
    parser.add_argument(
        "--socket",
        type=Path,
        default=Path(SOCKET),
        metavar="PATH",
        help="where the daemon listens; sync.sock is made beside it; default: %(default)s",
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=Path(STATE),
        metavar="DIR",
        help="the store of the shared configuration; default: %(default)s",
    )
    parser.add_argument(
        "--remove",
        action="store_true",
        help="take the tables of persistence and of unknown connections out of the kernel, and end",
    )
    parser.add_argument("--version", action="version", version=f"twinbeat-worker {__version__}")
    options = parser.parse_args(arguments)
    sink = set_up("auto", name="twinbeat-worker")
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        if options.remove:
            asyncio.run(remove())
            return 0
        asyncio.run(_main(options.socket, options.state))
    except PlaneError as error:
        log.error("tables of nftables stay: %s", error)
        return EXIT_FAILED
    except (WorkerFailedError, OSError) as error:
        log.error("the worker begins anew: %s", error)
        return EXIT_FAILED
    finally:
        sink.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
