# SPDX-License-Identifier: Apache-2.0
"""The running client: pulls from every node of `log.conf`, writes, and says how it stands."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from twinbeat.api.http import HttpServer, Request, Response
from twinbeat.api.server import unix_socket
from twinbeat.observe.exposition import text
from twinbeat.runtime.notify import Notifier
from twinbeat.sync.identity import Folder, IdentityError
from twinbeat.sync.sockets import bound
from twinbeat.weblog import block
from twinbeat.weblog.block import BlockError
from twinbeat.weblog.client import conf as conf_file
from twinbeat.weblog.client import pull, told
from twinbeat.weblog.client.keeper import Keeper
from twinbeat.weblog.client.merge import Pair, RefusedError, Taken
from twinbeat.weblog.client.model import Conf, ConfError, Node
from twinbeat.weblog.client.pull import Connection, PullError
from twinbeat.weblog.client.state import StateError
from twinbeat.weblog.client.trust import Trust
from twinbeat.weblog.client.writing import Piece, Source
from twinbeat.weblog.messages import Blocks, Welcome

EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0)
"""Between attempts to reach a node."""
REFUSED_S: Final = 10.0
"""A node that said what can't be is left alone for so long."""
SOURCES_FRESH_S: Final = 5.0
"""A source that wasn't among those of a greeting this young is not known to the node either."""
STATUS_S: Final = 5.0

log = logging.getLogger("twinbeat.weblog.client")


@dataclass(slots=True)
class _Puller:
    """One entry of log.conf, and how it stands."""

    entry: Node
    task: asyncio.Task[None] | None = None
    name: str = ""
    pair: str = ""
    connected: bool = False
    since_s: float = field(default_factory=time.monotonic)
    sentence: str = ""
    records: int = 0


class Client:
    """One run of `twinbeat-weblog start`."""

    def __init__(self, conf: Conf, folder: Folder, state: Path) -> None:
        self._conf = conf
        self._folder = folder
        self._trust = Trust(state / "trusted")
        self._keeper = Keeper(conf, state / "state.db")
        self._pullers: dict[tuple[str, int], _Puller] = {}
        self._began_s = time.monotonic()
        self._duplicates = 0
        self._refused: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._servers: list[HttpServer] = []
        self._notifier = Notifier()
        self._own = folder.own()
        self._stopped = asyncio.Event()
        self._defect: BaseException | None = None

    # -- the whole ---------------------------------------------------------------------------------

    async def run(self, stopped: asyncio.Event, reload: asyncio.Event, control: str | None) -> None:
        """Until told to stop. Raises OSError if it can't listen, IdentityError without a key."""
        if self._own is None:
            raise IdentityError("file", f"{self._folder.own_file} is missing: add a node first.")
        self._stopped = stopped
        await self._listen(control)
        keeping = asyncio.create_task(self._keeper.run())
        reloading = asyncio.create_task(self._reload(reload))
        showing = asyncio.create_task(self._show())
        ending = asyncio.create_task(stopped.wait())
        self._arrange(self._conf.nodes)
        self._notifier.ready(self._sentence())
        try:
            await asyncio.wait([keeping, ending, reloading], return_when=asyncio.FIRST_COMPLETED)
            self._notifier.stopping("writing what has come")
            await self._dismiss(list(self._pullers.values()))
            if keeping.done():
                keeping.result()
            if reloading.done():
                reloading.result()
            if self._defect is not None:
                raise self._defect
            self._keeper.stop()
            await keeping
        finally:
            for task in (reloading, showing, ending, keeping):
                task.cancel()
            await asyncio.gather(reloading, showing, ending, keeping, return_exceptions=True)
            for server in self._servers:
                await server.close()
            self._keeper.close()
            self._notifier.close()

    async def _listen(self, control: str | None) -> None:
        routes = {("GET", "/v1/status"): self._get_status, ("GET", "/metrics"): self._get_metrics}
        if control is not None:
            Path(control).parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            server = HttpServer(routes)
            await server.listen(unix_socket(control))
            self._servers.append(server)
        if self._conf.metrics:
            host, _, port = self._conf.metrics.rpartition(":")
            server = HttpServer({("GET", "/metrics"): self._get_metrics})
            await server.listen(bound(host.strip("[]"), int(port)))
            self._servers.append(server)

    def _arrange(self, nodes: Iterable[Node]) -> None:
        for entry in nodes:
            puller = _Puller(entry)
            self._pullers[entry.address, entry.port] = puller
            puller.task = asyncio.create_task(self._pull(puller))
            puller.task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        """A task that ends by itself is a defect: better begin anew than go on without it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._defect = error
            self._stopped.set()

    async def _dismiss(self, pullers: list[_Puller]) -> None:
        tasks = [each.task for each in pullers if each.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _reload(self, wanted: asyncio.Event) -> None:
        """A new log.conf takes effect as a whole, or not at all."""
        while True:
            await wanted.wait()
            wanted.clear()
            self._notifier.reloading()
            try:
                fresh = conf_file.read(Path(self._conf.file))
            except ConfError as error:
                for problem in error.problems:
                    log.error("%s", problem, extra={"fields": {"event": "weblog-conf"}})
                log.error("the configuration stays as it was")
            else:
                await self._apply(fresh)
            self._notifier.ready(self._sentence())

    async def _apply(self, fresh: Conf) -> None:
        gone = [each for each in self._pullers.values() if each.entry not in fresh.nodes]
        await self._dismiss(gone)
        for each in gone:
            del self._pullers[each.entry.address, each.entry.port]
        kept = {each.entry for each in self._pullers.values()}
        self._arrange(entry for entry in fresh.nodes if entry not in kept)
        if fresh.metrics != self._conf.metrics:
            log.warning("another `metrics` takes effect after a restart")
        self._conf = fresh
        self._keeper.use(fresh)
        log.info("log.conf was read anew")

    # -- one node ----------------------------------------------------------------------------------

    async def _pull(self, puller: _Puller) -> None:
        """For ever: a node that fails is tried again."""
        attempt = 0
        while True:
            await self._keeper.ready()
            wait_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
            try:
                await self._connected(puller)
            except PullError as error:
                attempt = 0 if puller.connected else attempt + 1
                if error.code == "again" and attempt < 2:
                    wait_s = 0.0  # Where it comes to nothing, it is a failure like any other.
                self._note(puller, error.code, error.sentence, self._failures)
            except StateError as error:
                self._note(puller, "state", str(error), self._failures)
            except RefusedError as error:
                wait_s = REFUSED_S
                self._note(puller, error.code, f"it was refused: {error}", self._refused)
            await asyncio.sleep(wait_s)

    def _note(self, puller: _Puller, code: str, sentence: str, counted: dict[str, int]) -> None:
        """Why a connection is over; the log hears of it when it is something new."""
        counted[code] = counted.get(code, 0) + 1
        if puller.connected or sentence != puller.sentence:
            log.warning(
                "%s: %s", puller.name or puller.entry.name, sentence,
                extra={"fields": {"event": "weblog-node", "reason": code}},
            )  # fmt: skip
        if puller.connected:
            puller.since_s = time.monotonic()
        puller.connected, puller.sentence = False, sentence

    async def _connected(self, puller: _Puller) -> None:
        """From the first handshake until something fails."""
        entry = puller.entry
        place = pull.Place(entry.address, entry.port)
        fingerprints = self._trust.of(entry.fingerprint)
        tls = pull.context(self._folder.own_file)
        connection, _ = await pull.believed(place, tls, fingerprints)
        try:
            assert self._own is not None
            name = self._own.certificate.name
            try:
                welcome = await pull.greeted(connection, name)
            except PullError as error:
                if error.code != "not_known":
                    raise
                await pull.introduced(place, fingerprints, self._own.certificate.der)
                raise PullError("again", "it has come to know this client.") from None
            pair = self._keeper.pair(entry.pair or str(welcome.pair))
            self._learn(entry, pair, welcome)
            pair.arrive(welcome.node, welcome.peer, welcome.streams, time.monotonic())
            try:
                self._arrived(puller, pair, welcome)
                await self._converse(puller, connection, pair, welcome)
            finally:
                pair.leave(welcome.node, time.monotonic())
        finally:
            await connection.close()

    def _learn(self, entry: Node, pair: Pair, welcome: Welcome) -> None:
        """Certificates that this node, and the other one of its pair, will show."""
        self._trust.learn(entry.fingerprint, welcome.certificates.get(welcome.node, ()))
        for other in self._pullers.values():
            if (other.pair, other.name) == (pair.name, welcome.peer) and other.entry != entry:
                names = welcome.certificates.get(welcome.peer, ())
                self._trust.learn(other.entry.fingerprint, names)

    def _arrived(self, puller: _Puller, pair: Pair, welcome: Welcome) -> None:
        puller.name, puller.pair = welcome.node, pair.name
        puller.connected, puller.sentence = True, ""
        puller.since_s = time.monotonic()
        log.info(
            "%s is node %s of pair %s", puller.entry.name, welcome.node, pair.name,
            extra={"fields": {"event": "weblog-node", "node": welcome.node}},
        )  # fmt: skip

    async def _converse(
        self, puller: _Puller, connection: Connection, pair: Pair, welcome: Welcome
    ) -> None:
        node, began_s = welcome.node, time.monotonic()
        sources = {each.name: Source(each.name, each.kind, each.format) for each in welcome.sources}
        acknowledged = None
        while True:
            await self._keeper.ready()
            generation = self._keeper.generation
            pair.resolve(time.monotonic())
            fresh = pair.acknowledged(node)
            answer = await pull.pulled(
                connection,
                pair.wanted(node, time.monotonic()),
                fresh if fresh != acknowledged else [],
                pull.WAIT_MS,
            )
            acknowledged = fresh
            pair.hear(node, answer.streams)
            if generation != self._keeper.generation:
                continue  # what was asked for then will be asked for again
            is_young = time.monotonic() - began_s < SOURCES_FRESH_S
            self._take(puller, pair, node, answer, sources, is_young=is_young)

    def _take(
        self,
        puller: _Puller,
        pair: Pair,
        node: str,
        answer: Blocks,
        sources: dict[str, Source],
        *,
        is_young: bool,
    ) -> None:
        """Whatever was in order before something wasn't is kept."""
        pieces: list[Piece] = []
        taken = Taken()
        try:
            for gap in answer.gaps:
                pair.gap(node, gap, time.monotonic())
            for raw in answer.blocks:
                try:
                    each = block.received(raw)
                except BlockError as error:
                    raise RefusedError(error.code, "it sent what is no block of records") from None
                source = sources.get(each.source)
                if source is None and not is_young:
                    raise PullError("again", f"it has a new source, {each.source[:64]!r}.")
                piece = pair.take(node, each, source or Source(each.source, "raw", ""), taken)
                if piece is not None:
                    pieces.append(piece)
        finally:
            self._duplicates += taken.twice
            puller.records += taken.new
            if pieces:
                self._keeper.put(pieces)
            if pair.losses:
                self._keeper.wake()

    # -- how it stands -----------------------------------------------------------------------------

    def _sentence(self) -> str:
        here = sum(each.connected for each in self._pullers.values())
        if self._keeper.trouble:
            return f"nothing can be written: {self._keeper.trouble}"
        return f"{here} of {len(self._pullers)} nodes connected"

    async def _show(self) -> None:
        said = ""
        while True:
            sentence = self._sentence()
            if sentence != said:
                self._notifier.status(sentence)
            said = sentence
            await asyncio.sleep(STATUS_S)

    def status(self) -> told.ClientStatus:
        keeper, now_s = self._keeper, time.monotonic()
        counts = keeper.counts
        return told.ClientStatus(
            running_s=round(now_s - self._began_s, 1),
            sentence=self._sentence(),
            trouble=keeper.trouble,
            nodes=tuple(self._node(each, now_s) for each in self._pullers.values()),
            written=dict(counts.written),
            off=dict(counts.off),
            excluded=dict(counts.excluded),
            unmatched=counts.unmatched,
            unread=counts.unread,
            bytes=counts.bytes,
            duplicates=self._duplicates,
            lost=dict(keeper.lost),
            refused=dict(self._refused),
            failures=dict(self._failures),
            commits=keeper.commits,
            commit_failures=keeper.failures,
            commit_s=round(keeper.took_s, 3),
            pending_bytes=keeper.pending_bytes,
            cut_bytes=keeper.cut_bytes,
            short_files=keeper.short_files,
            crowded=keeper.crowded,
        )

    def _node(self, puller: _Puller, now_s: float) -> told.NodeStatus:
        pair = self._keeper.pairs.get(puller.pair)
        streams = tuple(
            told.StreamStatus(node=node, epoch=epoch, giver=giver, written=written, lag=lag)
            for node, epoch, giver, written, lag in (pair.lags() if pair else ())
            if node == puller.name
        )
        lag = sum(each.lag for each in streams)
        newest = self._keeper.newest_ns.get((puller.pair, puller.name), 0)
        return told.NodeStatus(
            address=puller.entry.name,
            node=puller.name,
            pair=puller.pair,
            connected=puller.connected,
            since_s=round(now_s - puller.since_s, 1),
            sentence=puller.sentence,
            records=puller.records,
            lag=lag,
            lag_s=round(max(0.0, time.time() - newest / 1e9), 3) if lag and newest else 0.0,
            streams=streams,
        )

    async def _get_status(self, _: Request) -> Response:
        return Response(body=msgspec.json.encode(self.status()))

    async def _get_metrics(self, _: Request) -> Response:
        return Response(body=text(told.families(self.status())), content_type=EXPOSITION)
