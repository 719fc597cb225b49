# SPDX-License-Identifier: Apache-2.0
"""Log records on this node, in a loop of their own: collected, replicated, given to clients.

It never waits for the loop that keeps the document alike, nor that one for it. What comes from
there is a `Wanted`; what goes back is a `WeblogView`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from msgspec import Struct

from twinbeat.framing import WireError
from twinbeat.sync.identity import Folder, IdentityError
from twinbeat.sync.sockets import reached, secured
from twinbeat.sync.tls import Cabinet
from twinbeat.weblog.collecting import Collector
from twinbeat.weblog.messages import PORT, PROTOCOL, Welcome
from twinbeat.weblog.pulling import Replicator
from twinbeat.weblog.refusal import JournalError
from twinbeat.weblog.serving import Server
from twinbeat.weblog.shown import FLUSH_US, ClientStatus, Lag, Replication, WeblogView
from twinbeat.weblog.sources import LogSource
from twinbeat.weblog.store import Limits, Store
from twinbeat.worker.guests import Guests
from twinbeat.worker.logdoor import HANDSHAKE_S, LogDoor, reason

log = logging.getLogger("twinbeat.worker")

RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 2.0
TIDY_S: Final = 1.0
REOPEN_S: Final = 5.0
SETTLE_S: Final = 10.0
"""How long the peer is waited for when this node's journal may have lost its end."""


class Wanted(Struct, frozen=True, kw_only=True):
    """What both configuration and daemon say about log records."""

    node: str
    pair: int
    identity: str
    """Directory of the node's certificate and its peer's."""
    sources: tuple[LogSource, ...] = ()
    clients: tuple[tuple[str, str], ...] = ()
    """Name and fingerprint."""
    port: int = PORT
    listen: tuple[str, ...] = ()
    """Own addresses that clients and the peer reach; none = all."""
    peer: str = ""
    """Address of the other node; empty: it is not pulled from."""
    own: str = ""
    """Own address that the peer is dialed from; empty = any."""
    interface: str = ""
    """Over which the peer is dialed."""
    size: int = 1 << 30
    age_s: int = 7 * 86400
    drop_oldest: bool = False

    @property
    def limits(self) -> Limits:
        return Limits(size=self.size, age_s=self.age_s, drop_oldest=self.drop_oldest)


class LogSite:
    """Runs in one event loop."""

    def __init__(self, directory: Path, wanted: Wanted, *, boot: str) -> None:
        self._wanted = wanted
        self._directory = directory
        self._boot = boot
        self._guests = Guests(directory / "clients")
        self._folder = Folder(Path(wanted.identity))
        self._cabinet = Cabinet(self._folder, protocol=PROTOCOL, guests=True)
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="weblog-read")
        self._counts: Counter[tuple[str, str]] = Counter()
        self._store: Store | None = None
        self._collector: Collector | None = None
        self._server: Server | None = None
        self._replicator: Replicator | None = None
        self._restart = asyncio.Event()
        """The sockets are wanted otherwise."""
        self._is_there = asyncio.Event()
        """The peer has come by itself: there is no reason to wait before it is dialed again."""
        self._door = LogDoor(
            self._cabinet, self._guests, counts=self._counts, peer_came=self._is_there.set
        )
        self._pulling = ""
        """Why the peer is not pulled from; empty = it is."""
        self._failed = ""

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.to_thread(self._guests.load)
        store = self._store = await self._opened()
        self._collector = Collector(store)
        self._replicator = Replicator(store)
        self._server = Server(store, readers=self._readers, welcome=self._welcome)
        self._configure()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._settle())
                for part in (
                    self._collector.run(),
                    self._always(self._listen),
                    self._always(self._replicate),
                    self._tidy(),
                ):
                    tasks.create_task(part)
        finally:
            self._collector.close()
            # All of them were told to close; what a peer doesn't answer is over after a second.
            closing = [writer.wait_closed() for writer in list(self._door.writers)]
            await asyncio.shield(asyncio.gather(*closing, return_exceptions=True))
            await asyncio.shield(asyncio.to_thread(store.close))
            self._readers.shutdown(wait=False)

    async def _opened(self) -> Store:
        """A disk that refuses doesn't end it: that is shown, and tried again."""
        wanted = self._wanted
        while True:
            store = Store(
                self._directory / "journal", wanted.node, boot=self._boot, limits=wanted.limits
            )
            try:
                complaints = await asyncio.to_thread(store.open)
            except JournalError as error:
                if self._failed != error.sentence:
                    log.error("log records can't be kept: %s", error.sentence)
                self._failed = error.sentence
                self._counts["open", error.code] += 1
                await asyncio.sleep(REOPEN_S)
                continue
            self._failed = ""
            for complaint in complaints:
                log.warning("%s", complaint, extra={"fields": {"event": "weblog_damaged"}})
            store.begin()
            return store

    async def _settle(self) -> None:
        """Where the own journal may have lost its end, wait a while for the peer to give it back:
        files wait as well, and nothing in them is recorded twice."""
        store = self._store
        assert store is not None
        until = time.monotonic() + SETTLE_S
        while store.doubtful is not None and time.monotonic() < until:
            await store.wait(0.2)
        if store.doubtful is not None:
            log.warning("the peer could not be asked for the end of this node's log records")
            store.doubtful = None
        self._configure()

    def configure(self, wanted: Wanted) -> None:
        """Something is wanted otherwise. Node and identity stay as they are."""
        before, self._wanted = self._wanted, wanted
        self._configure()
        keys = ("port", "listen", "peer", "own", "interface")
        if any(getattr(before, key) != getattr(wanted, key) for key in keys):
            self._restart.set()

    def _configure(self) -> None:
        wanted, store = self._wanted, self._store
        if store is None or self._collector is None or self._server is None:
            return
        self._guests.allow({fingerprint: name for name, fingerprint in wanted.clients})
        self._cabinet.invited = frozenset(self._guests.known.values())
        gone = store.clients - self._guests.allowed.keys()
        store.clients = frozenset(self._guests.allowed)
        store.limit(wanted.limits)
        # A file is read on where the last record of it ended: see `_settle`.
        settled = store.doubtful is None
        self._collector.configure(each for each in wanted.sources if settled or not each.path)
        for serving in self._server.connections:
            if serving.who in gone:
                serving.end("denied", "This client is no longer allowed here.")
        for fingerprint in gone:
            store.forget(fingerprint)

    async def _always(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part, and anew when it is wanted otherwise."""
        while True:
            self._restart.clear()
            running = asyncio.ensure_future(part())
            restart = asyncio.create_task(self._restart.wait())
            try:
                await asyncio.wait({running, restart}, return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()
            finally:
                running.cancel()
                restart.cancel()
                await asyncio.gather(running, restart, return_exceptions=True)

    async def _listen(self) -> None:
        assert self._server is not None
        await self._door.listen(self._server, self._wanted.listen, self._wanted.port)

    def _welcome(self, version: int) -> Welcome:
        wanted, store = self._wanted, self._store
        assert store is not None
        credentials = self._door.credentials()
        certificates: dict[str, tuple[bytes, ...]] = {}
        if credentials is not None:
            certificates[wanted.node] = (credentials.own.der,)
            with contextlib.suppress(IdentityError):
                if (successor := self._folder.successor()) is not None:
                    certificates[wanted.node] += (successor.certificate.der,)
            if store.peer:
                certificates[store.peer] = tuple(each.der for each in credentials.trusted)
        return Welcome(
            version=version,
            node=wanted.node,
            peer=store.peer,
            pair=wanted.pair,
            sources=tuple(each.told for each in wanted.sources),
            streams=store.streams(),
            certificates=certificates,
        )

    # -- replicating -------------------------------------------------------------------------------

    async def _replicate(self) -> None:
        pause = RETRY_MIN_S
        while True:
            begun, unreached = time.monotonic(), self._counts["replication", "unreached"]
            self._is_there.clear()
            why = await self._replicated()
            if why and why != self._pulling:
                log.info("the peer's log records can't be replicated: %s", why)
            self._pulling = why
            if time.monotonic() - begun > 1.0:
                pause = RETRY_MIN_S
            if self._counts["replication", "unreached"] == unreached:
                self._is_there.clear()  # It may have come only to hear the same.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * random.uniform(0.5, 1.0)):
                    await self._is_there.wait()
            pause = min(pause * 2, RETRY_MAX_S)

    async def _replicated(self) -> str:
        """One conversation; why it is over."""
        wanted, credentials, replicator = self._wanted, self._door.credentials(), self._replicator
        assert replicator is not None
        if credentials is None or not wanted.peer:
            return "The node is not paired, or no address of the peer is known."
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                connected = await reached(
                    wanted.peer, wanted.port, own=wanted.own, interface=wanted.interface
                )
                reader, writer = await secured(
                    connected, credentials.client, dialed=True, within_s=HANDSHAKE_S
                )
        except (OSError, TimeoutError, WireError) as error:
            self._counts["replication", "unreached"] += 1
            return reason(error)
        self._door.writers.add(writer)
        try:
            credentials.peer_of(writer.get_extra_info("ssl_object"))
            self._pulling = ""
            # In a task of its own: where a task group ends with an error, CPython 3.11.2 leaves the
            # task marked as cancelled, and no time-out in it would be told from an end any more.
            await asyncio.create_task(replicator.replicate(reader, writer))
        except (WireError, JournalError, OSError, TimeoutError) as error:
            self._counts["replication", "ended"] += 1
            return reason(error)
        except BaseExceptionGroup as group:
            known, other = group.split((WireError, JournalError, OSError, TimeoutError))
            if other is not None or known is None:
                raise
            self._counts["replication", "ended"] += 1
            found: BaseException = known
            while isinstance(found, BaseExceptionGroup):
                found = found.exceptions[0]
            return reason(found)
        finally:
            writer.close()
        return "It ended."

    async def _tidy(self) -> None:
        assert self._store is not None
        while True:
            await asyncio.sleep(TIDY_S)
            self._store.tidy()

    # -- telling -----------------------------------------------------------------------------------

    def view(self) -> WeblogView:
        """How everything stands."""
        wanted, store, credentials = self._wanted, self._store, self._door.credentials()
        print_ = credentials.own.fingerprint if credentials is not None else ""
        if store is None or self._collector is None or self._server is None:
            state = "failed" if self._failed else "collecting"
            return WeblogView(node=wanted.node, state=state, why=self._failed, fingerprint=print_)
        error = store.own.error
        streams = store.streams()
        counts = self._counts + self._server.counts
        for keeper in store.keepers.values():
            side = "own" if keeper.journal.node == store.node else "replica"
            for (what, which), number in keeper.journal.counts.items():
                counts[f"{side}-{what}", which] += number
            counts[side, "flushes"] += keeper.flushes
            counts[side, FLUSH_US] += keeper.flushed_ns // 1000
        sources = tuple(self._collector.status())
        for source in sources:
            for what, number in source.counts.items():
                counts["source", what] += number
            counts["source", "records"] += source.records
        if self._replicator is not None:
            for what, number in self._replicator.counts.items():
                counts["replicated", what] += number
        return WeblogView(
            node=wanted.node,
            peer=store.peer,
            state="refusing" if error is not None else "collecting",
            why=error.sentence if error is not None else "",
            port=self._door.port,
            listening=self._door.listening,
            fingerprint=print_,
            epoch=store.epoch,
            size=sum(keeper.journal.size for keeper in store.keepers.values()),
            size_max=wanted.size,
            streams=streams,
            sources=sources,
            clients=tuple(self._client(store, *each) for each in wanted.clients),
            strangers=tuple(self._guests.strangers.values()),
            replication=Replication(
                state="away" if self._pulling else "pulling",
                why=self._pulling,
                records=sum(store.delays),
                in_time=store.in_time,
                waiting=sum(
                    max(each.received - max(each.replicated, each.oldest), 0)
                    for each in streams
                    if each.node == store.node
                ),
                delays=tuple(store.delays),
                delay_ns=store.delay_ns,
            ),
            counts={f"{what} {which}".rstrip(): n for (what, which), n in sorted(counts.items())},
        )

    def _client(self, store: Store, name: str, fingerprint: str) -> ClientStatus:
        assert self._server is not None
        there = [each for each in self._server.connections if each.who == fingerprint]
        acked = store.acked(fingerprint)
        lags = []
        for stream in store.streams():
            done = max(acked.get((stream.node, stream.epoch), 0), stream.oldest)
            lags.append(
                Lag(
                    node=stream.node,
                    epoch=stream.epoch,
                    acked=acked.get((stream.node, stream.epoch), 0),
                    lag=stream.durable - done,
                )
            )
        return ClientStatus(
            name=name,
            fingerprint=fingerprint,
            known=fingerprint in self._guests.known,
            connected=len(there),
            address=there[-1].address if there else "",
            since_s=there[-1].since_s if there else 0.0,
            records=sum(each.records for each in there),
            lag=sum(each.lag for each in lags),
            streams=tuple(lags),
        )
