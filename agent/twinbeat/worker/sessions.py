# SPDX-License-Identifier: Apache-2.0
"""Persistence of one node: the rules of the document in force, their entries, the kernel's table,
the servers, and what the two nodes tell each other of all that.

Beside the document, and after it: nothing here can hold up a command, and nothing that happens
here changes a role. What packets need is in the kernel; this only keeps it as it should be.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Final

from twinbeat.api.worker import Standing
from twinbeat.health import answer
from twinbeat.observe.histogram import Histogram
from twinbeat.sessions import replication
from twinbeat.sessions import rules as rows
from twinbeat.sessions.alone import batches, tell_alone
from twinbeat.sessions.entries import Store, Table
from twinbeat.sessions.kernel import KernelError
from twinbeat.sessions.plane import MissingError, Plane, PlaneError, now_ns
from twinbeat.sessions.rebind import rebind
from twinbeat.sessions.replication import Batch, Part
from twinbeat.sessions.room import Room
from twinbeat.sessions.rules import Persistence, Pool
from twinbeat.sessions.ruleset import chosen
from twinbeat.sessions.servers import Server, Servers
from twinbeat.sync.alike import leads
from twinbeat.sync.session import Session
from twinbeat.sync.wire import Persisting, SessionAsk, SessionBatch, SessionDone, Traffic
from twinbeat.worker.driver import Driver, WorkerFailedError
from twinbeat.worker.following import Following

TICK_S: Final = 0.02
"""How long news gather. An entry made now is told of within two of these."""
IDLE_TICKS: Final = 100
"""Ticks without news after which news are waited for instead."""
IDLE_S: Final = 1.0
SWEEP_S: Final = 1.0
RELOAD_S: Final = 60.0
"""How often a primary compares the kernel's maps with what it knows, whatever it was told."""
RELOAD_REST: Final = 50
"""And so many times as long as it took: the kernel looks for the place where it left off from the
beginning for each part, which takes a second for 200,000 entries, and half a minute for a million.
"""
ASK_S: Final = 2.0
"""How long the other node may be silent about what it has alone."""
START_S: Final = 5.0
"""How long a worker that starts has proxies wait for what the other node may have."""
RETRY_S: Final = 5.0
"""Between two attempts to make the kernel's table as it should be."""
LOOK_S: Final = 5.0
LAST_MOST: Final = 4
"""Readings of news, each of some thousands, when this node serves no longer."""

log = logging.getLogger("twinbeat.worker")


class Sessions:
    """Runs beside the driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.store = Store()
        self.window = Histogram()
        """From an entry's making until it was in the other node's kernel."""
        self.leader = replication.Leader(self.store, self.window.add, now_ns)
        self._following = Following(
            self.store,
            leading=lambda: self.primary,
            flush=lambda: self.plane is not None and self.plane.flush(),
            taken=self._taken,
        )
        self.follower = self._following.follower
        self.counts: Counter[str] = Counter()
        """rebound, failed, remade: the table was gone; full: connections that found no room"""
        self.servers = Servers(_ask, self._server_changed)
        self.plane: Plane | None = None
        self.why = ""
        """Why the kernel's table isn't as it should be."""
        self.rules: dict[str, Persistence] = {}
        self.pools: dict[str, Pool] = {}
        self.primary = False
        self._tables: Mapping[str, Any] | None = None
        self._session: Session | None = None
        self.leading = False
        self._loaded = False
        """What the kernel's maps had when the worker started is known: before, a snapshot would
        take from the other node what this one has only to read."""
        self._asking: asyncio.TimerHandle | None = None
        """The other node is asked what it has alone, before it is filled."""
        self._telling: asyncio.Task[None] | None = None
        self._knows = False
        """The other node was asked, or has told everything, since this worker started."""
        self._begun_s = time.monotonic()
        self._ruled = False
        """This node served, and hasn't taken over everything from the other since."""
        self._dirty = asyncio.Event()
        self._news = asyncio.Event()
        self._reload = asyncio.Event()
        self._rebind = asyncio.Event()
        self._read_ns = now_ns()
        self._watched: int | None = None
        """Descriptor that the loop looks at while news are waited for."""
        self._room = Room()
        self._without: dict[str, int] = {}
        """Connections that found no room, by rule."""
        self.store.listen(lambda _: self._news.set())

    # -- life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        await self._driver.introduced.wait()
        self._driver.on_standing.append(self._standing)
        try:
            self.plane = Plane(self.store)
        except OSError as error:
            self.why = f"netlink can't be used: {error.strerror}"
        self.look()
        try:
            async with asyncio.TaskGroup() as tasks:
                for part in (
                    self._configuring(),
                    self._ticking(),
                    self._sweeping(),
                    self._comparing(),
                    self._rebinding(),
                    self._following.run(),
                ):
                    tasks.create_task(part)
        except ExceptionGroup as errors:
            # What is raised in an `except*` comes out in a group that nobody expects.
            failed, others = errors.split(OSError)
            if failed is None or others is not None:
                raise
            raise WorkerFailedError(f"netlink failed: {failed.exceptions[0]}") from errors
        finally:
            self._unwatch()
            self.servers.close()
            if self.plane is not None:
                self.plane.close()

    @property
    def knows(self) -> bool:
        """Entries of proxies are here, as far as the other node has any. One that can't be reached
        is waited for no longer than `START_S`."""
        return self._knows or time.monotonic() - self._begun_s >= START_S

    @property
    def connected(self) -> bool:
        """There is another node to speak with."""
        return self._session is not None

    def look(self) -> None:
        """The document or the roles may be others now."""
        machine, welcome = self._driver.machine, self._driver.welcome
        standing = self._driver.standing
        if welcome is None or standing is None:
            return
        if machine is not None and machine.current is not None:
            tables: Mapping[str, Any] = machine.current.tables
        else:
            tables = welcome.document.tables if welcome.document is not None else welcome.tables
        wanted = {name: tables.get(name, {}) for name in ("pool", "persistence")}
        if wanted != self._tables:
            self._tables = wanted
            self._dirty.set()
        self._look_at_roles(standing)

    def _standing(self, _: Standing, __: Standing) -> None:
        self.look()

    def _look_at_roles(self, standing: Standing) -> None:
        self._ruled = self._ruled or standing.primary
        if standing.primary != self.primary:
            if self.primary:
                self._hear_the_last()
            self.primary = standing.primary
            if self.primary:
                # Whatever packets did since the gate opened is in the maps.
                self._reload.set()
                self._rebind.set()
            else:
                self._ruled = self.leader.untold() != {}
            self._attend()
        machine, session = self._driver.machine, self._session
        peer = machine.peer if machine is not None else None
        leading = (
            self.primary
            and self._loaded
            and session is not None
            and machine is not None
            and peer is not None
            and leads(machine.summary(), peer) is True
        )
        if leading != self.leading:
            self.leading = leading
            self._lead()

    def _hear_the_last(self) -> None:
        """What packets did until the gate was shut: nobody asks the kernel for it later."""
        with contextlib.suppress(OSError):  # As it says itself at its next tick.
            for _ in range(LAST_MOST):
                if not self._learn(now_ns()):
                    break
        if self.leading:
            self.leader.tick(now_ns())
            return
        # Whoever serves by now may have asked already.
        for rule, keys in (self.leader.untold() or {}).items():
            table = self.store.tables.get(rule)
            for batch in batches(table, list(keys)) if table is not None else ():
                self._carry(batch)

    def _lead(self, *, lost: bool = False) -> None:
        """Send entries from now on, or no more; but first hear what the other node has alone."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        self.leader.follow(None, now_ns(), lost=lost)
        if self.leading and self._session is not None:
            self.leader.expect(now_ns())
            self._session.offer(SessionAsk(fresh=not self._knows))
            self._asking = asyncio.get_running_loop().call_later(ASK_S, self._heard)

    def _heard(self) -> None:
        """What the other node had alone has come, or won't: now it is filled."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        self._knows = True
        if self.leading:
            self.leader.follow(self._carry, now_ns())
            self._news.set()

    def _attend(self) -> None:
        if self.plane is None:
            return
        self._unwatch()
        on = self.primary and any(rule.in_kernel for rule in self.rules.values())
        try:
            self.plane.attend(on=on)
        except OSError as error:
            self.counts["failed"] += 1
            log.error("new connections can't be followed: %s", error.strerror)
        self._read_ns = now_ns()
        self._news.set()

    # -- the rules -------------------------------------------------------------------------------

    async def _configuring(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            assert self._tables is not None
            pools, rules = rows.read(self._tables)
            for _ in self.store.make_way(rules.values()):
                await asyncio.sleep(0)
            self.pools, self.rules = pools, rules
            begun = self.store.configure(self.rules.values())
            self.servers.configure(self.pools.values())
            await self._make()
            self._attend()
            self._rebind.set()
            if begun:
                self._reload.set()
                # What one node sent before both meant the same by their keys is worth nothing.
                if self.leading:
                    self.leader.asked()
                elif self._session is not None and not self.primary:
                    self._session.offer(SessionAsk())

    async def _make(self) -> None:
        """Have the kernel's table as the rules want it; where it can't be, again later."""
        if self.plane is None:
            return
        try:
            await self.plane.configure(self.rules, self.pools, self.servers.failed())
        except PlaneError as error:
            self.counts["failed"] += 1
            if self.why != str(error):
                log.error("persistence isn't in the kernel as configured: %s", error)
            self.why = str(error)
            asyncio.get_running_loop().call_later(RETRY_S, self._dirty.set)
        else:
            self.why = ""

    def _server_changed(self, pool: str, server: Server) -> None:
        word = "failed" if server.failed else "lives"
        log.warning("server %s of pool %s %s: %s", server.address, pool, word, server.sentence)
        self._dirty.set()

    # -- ticks -----------------------------------------------------------------------------------

    async def _ticking(self) -> None:
        idle = 0
        while True:
            idle = 0 if self._tick() else idle + 1
            if idle < IDLE_TICKS:
                await asyncio.sleep(TICK_S)
            elif await self._news_came():
                idle = 0

    async def _news_came(self) -> bool:
        """Wait for news instead of looking for them; whether any came in time."""
        self._news.clear()
        self._watched = self.plane.descriptor if self.plane is not None else None
        if self._watched is not None:
            asyncio.get_running_loop().add_reader(self._watched, self._news.set)
        try:
            async with asyncio.timeout(IDLE_S):
                await self._news.wait()
        except TimeoutError:
            return False
        else:
            return True
        finally:
            self._unwatch()
            # Nothing was there until now.
            self._read_ns = now_ns()

    def _unwatch(self) -> None:
        """Before the descriptor is closed: its number may be another's at once."""
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            self._watched = None

    def _tick(self) -> bool:
        """Whether anything was to be done."""
        moment = now_ns()
        heard = self._learn(moment)
        more = self.plane is not None and self.plane.flush()
        sent = self.leader.waiting
        self.leader.tick(moment)
        return bool(heard or more or sent or self.leader.outstanding)

    def _learn(self, moment: int) -> int:
        """Take in news of connections; how many there were."""
        if self.plane is None:
            return 0
        # What is read now was made after the last reading: that is how old it may be.
        self.leader.made_ns = self._read_ns
        heard, whole = self.plane.learn()
        self.leader.made_ns, self._read_ns = None, moment
        if not whole:
            self._reload.set()
        return heard

    async def _sweeping(self) -> None:
        looked_s = 0.0
        while True:
            await asyncio.sleep(SWEEP_S)
            more = True
            while more:
                more = self.store.sweep(now_ns())
                await asyncio.sleep(0)
            if time.monotonic() - looked_s >= LOOK_S:
                looked_s = time.monotonic()
                self._look_for_room()

    def _look_for_room(self) -> None:
        if self.plane is None:
            return
        try:
            self._without = self.plane.full()
        except KernelError:
            pass  # What was counted last stands.
        except MissingError as error:
            # Whoever restarts Debian's nftables.service empties all tables, ours too.
            if not self.why and not self._dirty.is_set():
                self.counts["remade"] += 1
                log.warning("%s; it is made again", error)
                self._dirty.set()
            return
        self.counts["full"] = sum(self._without.values())
        self._room.look(self.store, self._without, time.monotonic())

    async def _comparing(self) -> None:
        """The kernel's maps with what is known: at the start, as told to, and by the clock on the
        primary; on the other node where the kernel has refused something, which it lacks then."""
        refused, took_s = 0, 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(RELOAD_S, RELOAD_REST * took_s)):
                    await self._reload.wait()
            told = self._reload.is_set()
            self._reload.clear()
            count = self.plane.kernel_counts["refused"] if self.plane is not None else 0
            lacking, refused = count != refused, count
            if not (told or self.primary or lacking):
                continue
            try:
                if self.plane is not None:
                    pause = 0.0 if told else TICK_S
                    restore = self.primary or lacking
                    took_s = await self.plane.reload(restore=restore, pause_s=pause)
            except PlaneError as error:
                self.counts["failed"] += 1
                log.warning("entries can't be read from the kernel: %s", error)
                await asyncio.sleep(RETRY_S)
            if not self._loaded:
                self._loaded = True
                self.look()

    async def _rebinding(self) -> None:
        """Clients of a server that is gone get another one, by their key."""
        while True:
            await self._rebind.wait()
            self._rebind.clear()
            if not self.primary:
                continue
            for rule in list(self.rules.values()):
                if rule.in_kernel and rule.pool in self.pools:
                    await self._rebind_rule(rule)

    async def _rebind_rule(self, rule: Persistence) -> None:
        failed = self.servers.failed().get(rule.pool, frozenset())
        servers = chosen(self.pools[rule.pool], rule.version, failed)
        rebound = await rebind(self.store, rule.name, servers)
        self.counts["rebound"] += rebound
        if rebound:
            log.info("%d clients of persistence %s got another server", rebound, rule.name)

    # -- the other node --------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def attending(self, session: Session) -> AsyncIterator[None]:
        """Speak about entries over this session while the block lasts."""
        self._session = session
        self.look()
        try:
            yield
        finally:
            self._session = None
            self.leading = False
            self._lead(lost=True)
            if self._telling is not None:
                self._telling.cancel()
                self._telling = None
            self._following.lost(session)

    def take(self, message: Traffic) -> bool:
        """A message about entries, and whether it is one. Never waits."""
        if not isinstance(message, Persisting):
            return False
        match message:
            case SessionDone(number=number):
                self.leader.answered(number, now_ns())
            case SessionAsk() if self.leading:
                self.leader.asked()
            case SessionAsk(fresh=fresh):
                if self._telling is None or self._telling.done():
                    alone = functools.partial(self._alone, fresh=fresh)
                    telling = tell_alone(self.store, alone, self._carry)
                    self._telling = asyncio.get_running_loop().create_task(telling)
            case SessionBatch() if self._session is not None:
                self._following.note(self._session, message)
        return True

    def _alone(self, table: Table, *, fresh: bool) -> Collection[bytes]:
        """Keys that the primary may not have, where this node served as well; and where its worker
        has just started those of proxies, which no kernel keeps for it."""
        if fresh and not table.rule.in_kernel:
            return table.keys()
        if not self._ruled:
            return ()
        untold = self.leader.untold()
        return table.keys() if untold is None else list(untold.get(table.rule.name, ()))

    def _taken(self, session: Session, batch: Batch) -> None:
        """All of it is in the kernel."""
        if session is not self._session:
            return
        if not batch.number and self._asking is not None:
            self._asking.cancel()
            self._asking = asyncio.get_running_loop().call_later(ASK_S, self._heard)
        if batch.part is Part.END:
            if batch.number:
                self._ruled, self._knows = self.primary, True
            else:
                self._heard()
        if batch.number:
            session.offer(SessionDone(number=batch.number))

    def _carry(self, batch: Batch) -> bool:
        session = self._session
        return session is not None and session.offer(
            SessionBatch(
                number=batch.number,
                part=batch.part.value,
                rule=batch.rule,
                entries=batch.entries,
                gone=batch.gone,
            )
        )


async def _ask(address: str, how: str, port: int, timeout_s: float) -> tuple[bool, str]:
    """Whether a server answers. Raises OSError."""
    found = await answer.ask(
        ipaddress.ip_address(address), probe=how, interface="", port=port, timeout_s=timeout_s
    )
    return found.holds, found.sentence
