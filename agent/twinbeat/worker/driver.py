# SPDX-License-Identifier: Apache-2.0
"""Carries out what `Propagation` wants done, and tells it what happened.

Everything meets in one loop: the daemon's word, the peer's messages, the store's answers, requests
of this node. Whatever blocks is in a thread of its own. There is no document until one is wanted:
until the node is paired, or something is changed by a command, the file says everything.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, assert_never, get_args

from twinbeat.api.worker import Applied, Checked, Report, Standing, Welcome
from twinbeat.api.worker import Apply as AskApply
from twinbeat.api.worker import Check as AskCheck
from twinbeat.observe.histogram import Histogram
from twinbeat.sync import events as ev
from twinbeat.sync.document import Document, Run, Tables, Version
from twinbeat.sync.effects import (
    Answer,
    Apply,
    Check,
    Effect,
    Level,
    Note,
    RunCommand,
    Send,
    StoreAbort,
    StoreAdopt,
    StoreCommit,
    StorePaired,
    StorePrepare,
    StoreRecord,
)
from twinbeat.sync.messages import Forward, Message, Query
from twinbeat.sync.operation import Outcome, Output, Problem, Request, State
from twinbeat.sync.propagation import Propagation
from twinbeat.sync.reasons import outcome, sentence
from twinbeat.sync.session import Session
from twinbeat.sync.store import StoreError
from twinbeat.sync.wire import Traffic
from twinbeat.worker.callers import WAITING_MOST, Callers, Stopwatch
from twinbeat.worker.ledger import Ledger
from twinbeat.worker.link import Heard as Told
from twinbeat.worker.link import Lost

log = logging.getLogger("twinbeat.worker")

DOCUMENTS: Final = get_args(Message)
BEGIN_S: Final = 3.0
"""How long the first request waits for daemon and store."""
STEPS_S: Final = 0.01
"""Whoever looks at how it stands hears of steps of a change so much later, once for several."""
GRACE_S: Final = 2.0
"""Beyond its own deadline, so that the answer that is due then is heard."""
LEVELS: Final = {
    Level.INFO: logging.INFO,
    Level.WARNING: logging.WARNING,
    Level.ERROR: logging.ERROR,
}


class Commands(Protocol):
    """The gateway's own commands: rows of the document."""

    async def known(self, tables: Tables, run: Run) -> str:
        """Why one can't be run, or an empty string."""

    async def carry_out(self, tables: Tables, run: Run, request: str) -> tuple[Output, bool]:
        """Run one; what it said, and whether it can be taken back."""

    def rescan(self) -> None:
        """Read the listed files anew."""


def now_ns() -> int:
    """The clock of deadlines."""
    return time.monotonic_ns()


def _later(delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(delay_s, call)


class WorkerFailedError(Exception):
    """The process has to begin anew; the text says why."""


@dataclass(slots=True)
class Peer:
    """The session that stands."""

    session: Session
    broken: bool = False


class Driver:
    """One node's worker."""

    def __init__(self, *, ledger: Ledger, ask: Callable[[AskCheck | AskApply], None]) -> None:
        """``ask`` puts a question to the daemon, which answers through `hear`."""
        self._ledger = ledger
        self._ask = ask
        self.gateway: Commands | None = None
        """Runs commands; set before anything is begun."""
        self._machine: Propagation | None = None
        self.welcome: Welcome | None = None
        self.standing: Standing | None = None
        self._there = False
        """The daemon can be asked."""
        self.introduced = asyncio.Event()
        """The daemon has said who this node is."""
        self.wanted = asyncio.Event()
        """There is to be a document."""
        self.begun = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._callers = Callers()
        self._stopwatch = Stopwatch()
        self._peer: Peer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns: int | None = None
        """When it is due."""
        self._telling: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.refusals: Counter[str] = Counter()
        """By whom what had to be done was refused: the store, or the agent."""
        self.synced_s = 0
        """Unix time at which both nodes came to have this document in force; 0 = they never did."""
        self._synced: Version | None = None
        self._why = ""
        """Why there is no beginning."""
        self.changed: Callable[[], None] = lambda: None
        """Called when what is reported may have changed."""
        self.stood: Callable[[Standing | None], None] = lambda _: None
        """Called with whatever the daemon says of itself; None: it can't be asked any more."""
        self.on_standing: list[Callable[[Standing, Standing], None]] = []
        """Called with what the daemon said before and says now."""

    # -- life ------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Wait until a document is wanted, and begin with what the store has. Raises StoreError."""
        await self.introduced.wait()
        for complaint in await self._ledger.open():
            log.error("%s", complaint)
        held = await self._ledger.held()
        if held is None:
            await self.wanted.wait()
            held = await self._seeded()
        assert self.welcome is not None
        self._machine = Propagation(node=self.welcome.node)
        self.feed(ev.Started(held=held))
        self._tell_standing(None)
        if self._there:
            self._found()
        self.begun.set()

    async def _seeded(self) -> ev.Held:
        """What is in force becomes the first document."""
        assert self.welcome is not None
        document, highest = self.welcome.document, 0
        if document is None:
            document = Document(
                lineage=secrets.token_hex(16),
                version=Version(0, 1),
                tables=self.welcome.tables,
                made_at_ns=time.time_ns(),
                by=self.welcome.name,
                reason="what the file said",
            )
        else:
            highest = document.version.generation + ev.LOST_NUMBERS
        await self._ledger.seed(document, highest)
        log.info("the shared configuration has a document: %s", document.version)
        held = await self._ledger.held()
        assert held is not None
        return held

    def refused(self, error: StoreError) -> None:
        """The store can't be used: what is asked for meanwhile is refused with the reason."""
        self._why = error.sentence
        self.refusals["store"] += 1
        self.changed()

    def end(self) -> None:
        """Nothing is begun any more."""
        for timer in (self._timer, self._telling):
            if timer is not None:
                timer.cancel()
        for task in self._tasks:
            task.cancel()

    # -- the machine -----------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        """Tell the machine, do what it wants, and set the clock."""
        machine = self._machine
        if machine is None:
            return
        for effect in machine.step(event, now_ns()):
            self._carry_out(effect)
        under_way = machine.active or machine.serving
        self._stopwatch.look(under_way, now_ns())
        self._set_timer(machine)
        if under_way is None:
            self._tell_changed()
        elif self._telling is None:
            self._telling = _later(STEPS_S, self._tell_changed)

    def _tell_changed(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        self._telling = None
        if self._machine is not None:
            self._note_synced(self._machine)
        self.changed()

    def _note_synced(self, machine: Propagation) -> None:
        current = machine.current
        if current is None or not machine.equal():
            self._synced = None
        elif self._synced != current.version:
            self._synced, self.synced_s = current.version, int(time.time())

    def _set_timer(self, machine: Propagation) -> None:
        moment_ns = machine.next_deadline(now_ns())
        if self._timer is not None:
            if moment_ns == self._timer_ns:
                return
            self._timer.cancel()
        self._timer, self._timer_ns = None, moment_ns
        if moment_ns is not None:
            self._timer = _later(max(0.001, (moment_ns - now_ns()) / 1e9), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.feed(ev.Tick())

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Check(token=token, tables=tables, run=run):
                self._examine(token, tables, run)
            case Apply(token=token, document=document):
                self._ask(AskApply(id=token, document=document))
            case RunCommand():
                self._start(self._run(effect))
            case (
                StorePrepare()
                | StoreCommit()
                | StoreAbort()
                | StoreAdopt()
                | StoreRecord()
                | StorePaired()
            ):
                self._ledger.do(effect, self._stored)
            case Send(message=message):
                self._send(message)
            case Answer(outcome=said, only=only):
                self._callers.answer(said, only)
            case Note(level=level, code=code, sentence=text):
                fields = {"event": "sync", "reason": code}
                log.log(LEVELS[level], "%s", text, extra={"fields": fields})
            case _:
                assert_never(effect)

    def _examine(self, token: int, tables: Tables, run: Run | None) -> None:
        if run is None:
            self._ask(AskCheck(id=token, tables=tables))
        else:
            self._start(self._examine_run(token, tables, run))

    async def _examine_run(self, token: int, tables: Tables, run: Run) -> None:
        why = await self._commands.known(tables, run)
        if why:
            problem = Problem(where=f"command {run.command}", right=why[:4096])
            self.feed(ev.Checked(token=token, problems=(problem,)))
        else:
            self._ask(AskCheck(id=token, tables=tables))

    @property
    def _commands(self) -> Commands:
        assert self.gateway is not None, "set before anything is begun"
        return self.gateway

    async def _run(self, effect: RunCommand) -> None:
        machine = self._machine
        assert machine is not None
        current = machine.current
        assert current is not None
        output, undo = await self._commands.carry_out(current.tables, effect.run, effect.request)
        self.feed(ev.Ran(token=effect.token, output=output, undo=undo))

    def _stored(self, said: ev.Stored | ev.StoreFailed) -> None:
        if isinstance(said, ev.StoreFailed):
            self.refusals["store"] += 1
            log.error("the store refused: %s", said.sentence)
            if said.code == "uncertain" and not self.failed.done():
                self.failed.set_exception(WorkerFailedError(said.sentence))
                return
        self.feed(said)

    def _start(self, work: Awaitable[None]) -> None:
        async def worked() -> None:
            await work

        task = asyncio.get_running_loop().create_task(worked())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self.failed.done():
            self.failed.set_exception(error)

    # -- requests of this node ---------------------------------------------------------------------

    async def request(self, request: Request) -> Outcome:
        """What came of it. The same request may be asked for again at any time."""
        self.wanted.set()
        if not self.begun.is_set():
            try:
                async with asyncio.timeout(BEGIN_S):
                    await self.begun.wait()
            except TimeoutError:
                return self._callers.end(self._not_begun(request.request))
        if self._callers.waiting >= WAITING_MOST:
            busy = outcome(request.request, State.REFUSED, "busy", count=WAITING_MOST)
            return self._callers.end(busy)
        begun_ns = now_ns()
        known = await self._ledger.outcome(request.request)
        request = request.meant()
        try:
            with self._callers.joined(request) as answer:
                self.feed(ev.Requested(request=request, wall_ns=time.time_ns(), known=known))
                async with asyncio.timeout(request.timeout_ns / 1e9 + GRACE_S):
                    said = await answer
        except TimeoutError:
            return self._callers.end(outcome(request.request, State.UNDECIDED, "unfinished"))
        self._stopwatch.add("all", now_ns() - begun_ns)
        return self._callers.end(said)

    def _not_begun(self, request: str) -> Outcome:
        if self._why:
            return outcome(request, State.REFUSED, "store", why=self._why)
        return outcome(request, State.REFUSED, "daemon_away")

    def force(self, *, adopt: bool) -> tuple[str, str] | None:
        """Compare and take over again. Why not: code and sentence, or None."""
        if self._machine is None:
            return "sync_unreachable", sentence("sync_unreachable")
        refused = self._machine.force_refused(adopt=adopt)
        if refused is None:
            self._commands.rescan()
            self.feed(ev.SyncForced(adopt=adopt))
        return refused

    # -- the daemon --------------------------------------------------------------------------------

    def hear(self, told: Told) -> None:
        """What the daemon says, in its order."""
        match told:
            case Welcome():
                if self.welcome is not None and (self.welcome.node, self.welcome.pair) != (
                    told.node,
                    told.pair,
                ):
                    why = "the daemon is that of another node or pair now"
                    if not self.failed.done():
                        self.failed.set_exception(WorkerFailedError(why))
                    return
                self.welcome = told
            case Standing():
                before, self.standing = self.standing, told
                self.introduced.set()
                self.stood(told)
                self._tell_standing(before)
                if before is not None:
                    for listener in self.on_standing:
                        listener(before, told)
                if not self._there:
                    self._there = True
                    self._found()
            case Checked(id=token, problems=problems):
                self.feed(ev.Checked(token=token, problems=problems))
            case Applied(id=token, in_force=in_force, problems=problems):
                self.refusals["agent"] += not in_force
                self.feed(ev.Applied(token=token, in_force=in_force, problems=problems))
            case Lost():
                self.stood(None)
                if self._there:
                    self._there = False
                    self.feed(ev.DaemonLost())
            case _:
                assert_never(told)

    def _tell_standing(self, before: Standing | None) -> None:
        now = self.standing
        if now is None:
            return
        if before is None or before.settings != now.settings:
            settings = now.settings
            self.feed(
                ev.SettingsChanged(
                    sync=settings.enabled,
                    propagation=settings.propagation,
                    strict_status=settings.strict_status,
                )
            )
        if before is None or (before.primary, before.term) != (now.primary, now.term):
            self.feed(ev.RoleChanged(primary=now.primary, term=now.term))

    def _found(self) -> None:
        assert self.standing is not None
        told = self.standing.in_force
        in_force = ev.Mark(lineage=told.lineage, version=told.version) if told else None
        self.feed(ev.DaemonFound(in_force=in_force))

    # -- the peer ----------------------------------------------------------------------------------

    def peer_found(self, session: Session) -> None:
        """A session begins."""
        self._peer = Peer(session)
        self.feed(ev.PeerFound(summary=session.peer.summary))

    def peer_lost(self) -> None:
        """It is over."""
        self._peer = None
        self.feed(ev.PeerLost())

    async def heard(self, message: Traffic) -> bool:
        """A message of the peer; the next one only when this one was taken in. Whether it concerns
        the document."""
        if not isinstance(message, DOCUMENTS):
            return False
        known = None
        match message:
            case Query(request=request):
                known = await self._ledger.outcome(request)
            case Forward(request=forwarded):
                known = await self._ledger.outcome(forwarded.request)
            case _:
                pass
        self.feed(ev.Heard(message=message, wall_ns=time.time_ns(), known=known))
        return True

    def _send(self, message: Message) -> None:
        peer = self._peer
        if peer is None or peer.broken:
            return
        if not peer.session.offer(message) and peer.session.over is None:
            # A message that is left out breaks the order: begin anew instead.
            peer.broken = True
            peer.session.close("crowded", "The peer doesn't take what is sent.")

    # -- what there is to see ----------------------------------------------------------------------

    @property
    def machine(self) -> Propagation | None:
        """None until a document is wanted."""
        return self._machine

    def report(self) -> Report:
        """How the worker stands, without its connection."""
        machine = self._machine
        if machine is None or machine.current is None:
            idle = (
                "the node isn't paired, and nothing was changed by a command: the file says it all"
            )
            return Report(
                state="failed" if self._why else "idle",
                sentence=(self._why or idle)[:1024],
                requests=dict(self._callers.ended),
                refusals=dict(self.refusals),
            )
        standing = machine.standing()
        return Report(
            state=standing.state.value,
            sentence=standing.sentence[:1024],
            in_step=standing.in_step,
            generation=machine.current.version.generation,
            peer_generation=machine.peer.version.generation if machine.peer else 0,
            waiting=self._callers.waiting,
            failures=machine.unfulfilled[:16],
            requests=dict(self._callers.ended),
            refusals=dict(self.refusals),
            synced_s=self.synced_s,
        )

    @property
    def took(self) -> dict[str, Histogram]:
        """How long changes waited here for what."""
        return self._stopwatch.took

    @property
    def ledger(self) -> Ledger:
        """For reading what was."""
        return self._ledger
