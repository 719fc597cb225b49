# SPDX-License-Identifier: Apache-2.0
"""One run of the agent: put together in the order of its parts, and taken down in reverse.

Start: disk, host, programs, gates, addresses, engine, core, interface; the way down is the reverse.
Whatever happens in between, the gate is shut or left to its lease on purpose: a stop hands the role
over first, a planned restart leaves the reign to the successor under a longer lease, and a broken
invariant shuts the gate at once and lets systemd start the agent anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import Final

from twinbeat.api.events import EventHub
from twinbeat.api.text import moment, realtime_offset_ns
from twinbeat.config.inforce import Examiner, InForce
from twinbeat.config.keys import load_keys
from twinbeat.config.secrets import load_options
from twinbeat.core.events import (
    ConfigReloaded,
    Event,
    GateLost,
    GateRestored,
    HostMeasured,
    PortLost,
    PortRestored,
    Stopping,
)
from twinbeat.core.machine import Machine
from twinbeat.engine.engine import EngineError
from twinbeat.engine.maps import Maps
from twinbeat.engine.types import now_ns
from twinbeat.engine.watchdog import Device
from twinbeat.net import AsyncIPRoute
from twinbeat.net.warmth import Warmth
from twinbeat.observe.history import History
from twinbeat.runtime import ground, host, status, wiring
from twinbeat.runtime.current import Current
from twinbeat.runtime.descent import descend
from twinbeat.runtime.duties import Duties
from twinbeat.runtime.executor import Executor
from twinbeat.runtime.gate import GateWords
from twinbeat.runtime.ground import Paths, StartError
from twinbeat.runtime.guarded import REFUSALS, Watchers
from twinbeat.runtime.hands import DiskHands, EngineHands
from twinbeat.runtime.health import Health
from twinbeat.runtime.hooks import Hooks
from twinbeat.runtime.interface import Interface
from twinbeat.runtime.lean import settle
from twinbeat.runtime.links import Links
from twinbeat.runtime.loop import Loop
from twinbeat.runtime.node import Node
from twinbeat.runtime.notify import Notifier
from twinbeat.runtime.outside import Outside
from twinbeat.runtime.presence import Presence
from twinbeat.runtime.reloader import Reloader
from twinbeat.runtime.shared import Shared, tell_ignored
from twinbeat.runtime.site import Site
from twinbeat.runtime.store import Store, StoreError, boot_id
from twinbeat.runtime.teller import Teller
from twinbeat.runtime.view import View
from twinbeat.runtime.watchdog import Watchdog
from twinbeat.runtime.witness import build
from twinbeat.runtime.workers import WorkerDesk
from twinbeat.witness.base import WitnessError

log = logging.getLogger("twinbeat")

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_BROKEN: Final = 70
"""An invariant was broken (EX_SOFTWARE)."""
EXIT_RESTART: Final = 75
"""A planned restart: the unit starts the agent anew at once (EX_TEMPFAIL)."""

STOP_PATIENCE_S: Final = 5.0
"""A stop that isn't through by then shuts the gate and ends."""


class App:
    """One run of the agent."""

    def __init__(self, found: InForce, *, notifier: Notifier, paths: Paths) -> None:
        self._current = current = Current(found)
        self._paths = paths
        self._notifier = notifier
        self._ended = asyncio.Event()
        self._broken: BaseException | None = None
        self._stopping = False
        self._restart = False
        self._before: list[Event] = []
        """What happened before the core was started."""
        self._begun = False
        offset_ns = realtime_offset_ns()
        started_ns = now_ns()
        self._facts = status.Facts(
            started_ns=started_ns,
            started=moment(started_ns + offset_ns),
            loaded=moment(started_ns + offset_ns),
            digest=current.digest,
            generation=current.generation,
            ignored=list(current.ignored),
        )
        self._hub = EventHub()
        self._warmth = Warmth()
        self._watchdog = Watchdog(current.file.watchdog, Device(current.file.watchdog.device))
        self._lateness_file = paths.run / "lateness.json"
        self._store = Store(paths.state)
        self._examiner = Examiner(current.file.path)

    # -- life ------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Start, serve until told to stop, and take everything down; the exit code.

        Raises StartError or ConfigError if the agent can't start; then nothing is served.
        """
        await self._prepare()
        async with AsyncIPRoute() as self._ipr:
            self._take_signals()
            async with contextlib.AsyncExitStack() as failed:
                await self._start(failed)
                failed.pop_all()
            await self._ended.wait()
            return await self._finish()

    async def _prepare(self) -> None:
        """What needs no network: disk, host, kernel programs."""
        self._lock = ground.be_alone(self._paths.run)
        current = self._current
        tell_ignored(current)
        try:
            self._store.prepare()
            current.keys = load_keys(current.file)
            self._facts.keys = current.key_ids
            self._third_party = build(current.file, now_ns=now_ns)
            current.fence_options = load_options(current.file.fence, current.file.path)
            self._history = History(self._paths.state / "history.jsonl")
            if self._history.unreadable:
                log.warning("%d lines of the history can't be read", self._history.unreadable)
        except (StoreError, WitnessError) as error:
            raise StartError(str(error)) from error
        ground.keep_awake(current.file)
        self._facts.raised = ground.fit(current, self._lateness_file)
        self._facts.bpf = await ground.load_programs(current.config.pair.id, self._paths.pins)
        # Only now: the compiler needs no better share than anybody else.
        for refused in host.claim_share():
            log.warning("%s", refused)

    async def _start(self, failed: contextlib.AsyncExitStack) -> None:
        """Everything up to the open interface; `failed` undoes what was begun if it can't be."""
        config = self._current.config
        self._maps = Maps.open(config.pair.id, root=self._paths.pins)
        failed.callback(self._maps.close)
        self._gate = GateWords(self._maps.fd("gate"))
        failed.callback(self._gate.close)
        epoch = ground.take_epoch(self._maps, self._store)
        self._build_core()
        self._site = Site(
            current=self._current,
            ipr=self._ipr,
            maps=self._maps,
            state=self._paths.state,
            watchers=Watchers(
                gate_lost=self._gate_lost,
                gate_restored=self._gate_restored,
                link_restored=lambda _name: self._links.reopen(),
                port_lost=lambda name: self._feed(PortLost(interface=name)),
                port_restored=lambda name: self._feed(PortRestored(interface=name)),
                failed=self._teller.effect_failed,
            ),
            # The engine comes later.
            tell_mac=lambda number, mac: self._engine.set_peer_mac(number, mac),  # noqa: PLW0108
        )
        routes = self._site.routes
        self._hooks = Hooks(first=routes.settled)
        self._hooks.apply(config)
        self._teller.on_transition += [routes.transition, self._hooks.transition]
        self._teller.routes_stood_ns = lambda: routes.stood_ns
        self._health = Health(feed=self._feed, publish=self._teller.publish, now_ns=now_ns)
        failed.callback(self._site.leave)
        try:
            await self._site.raise_up()
            self._engine = ground.open_engine(
                self._current,
                maps=self._maps,
                stage=self._site.stage,
                macs=await self._site.neighbours.known(),
                timers=self._machine.timers,
            )
            failed.callback(self._engine.close)
            self._site.stage.open_links()
        except (*REFUSALS, EngineError) as error:
            raise StartError(str(error)) from error
        self._facts.warnings += ground.shortcomings(config, self._site.stage)
        self._wire()
        # Before the core decides anything, so that it knows what the kernel knows.
        failed.push_async_callback(self._health.stop)
        await self._health.start(config)
        await self._listen()
        failed.push_async_callback(self._interface.close)
        ground.arm(self._watchdog)  # Last of all, right before the loop that pings it turns.
        failed.callback(self._watchdog.stop, disarm=True)
        self._begin()
        self._site.neighbours.start()
        self._outside.start()
        self._presence.warm_up()
        log.info("%s started, epoch %d", config.node.name, epoch)
        settle()

    def _build_core(self) -> None:
        moment_ns = now_ns()
        durable, reserved_last = ground.remembered(self._maps, self._store, moment_ns)
        self._machine = Machine(
            policy=self._current.policy,
            timers=wiring.timers(self._current.config),
            durable=durable,
            reserved_last=reserved_last,
            now_ns=moment_ns,
        )
        self._teller = Teller(
            history=self._history,
            hub=self._hub,
            notifier=self._notifier,
            node=self._current.config.node.name,
            peer=self._current.config.peer.name,
            boot=boot_id(),
            now_ns=now_ns,
            ended=self._ended.set,
            history_failed=lambda why: log.warning("%s", why),
        )

    def _wire(self) -> None:
        current, site = self._current, self._site
        self._presence = Presence(
            current=current,
            stage=site.stage,
            engine=self._engine,
            warmth=self._warmth,
            timers=lambda: self._machine.timers,
        )
        self._hands = EngineHands(
            self._engine,
            self._gate,
            lease_ns=lambda: self._machine.timers.lease_ns,
            take_timers=self._presence.take_timers,
        )
        self._links = Links(
            config=current.config,
            engine=self._engine,
            maps=self._maps,
            stage=site.stage,
            neighbours=site.neighbours,
            publish=self._teller.publish,
        )
        self._outside = Outside(
            current=current,
            third_party=self._third_party,
            machine=self._machine,
            maps=self._maps,
            stage=site.stage,
            teller=self._teller,
            feed=self._feed,
            failed=self._fail,
        )
        self._disk = DiskHands(self._store, now_ns=now_ns)
        self._executor = Executor(
            engine=self._hands,
            network=site.hands,
            disk=self._disk,
            teller=self._teller,
            feed=self._feed,
            failed=self._fail,
            ask_witness=self._outside.witness.ask,
        )
        self._loop = Loop(
            decider=self._machine, submit=self._executor.submit, now_ns=now_ns, failed=self._fail
        )
        self._share_out()
        self._reloader = Reloader(
            current=current,
            examiner=self._examiner,
            facts=self._facts,
            engine=self._engine,
            hands=self._hands,
            site=site,
            links=self._links,
            outside=self._outside,
            health=self._health,
            hooks=self._hooks,
            take_effect=self._take_effect,
            reloading=self._notifier.reloading,
            ready=lambda: self._notifier.ready(self._machine.status.sentence),
            # This node may be another now; the desk comes later.
            reloaded=lambda: self._workers.introduce(),  # noqa: PLW0108
        )

    def _share_out(self) -> None:
        """Who is called by the loop, and when."""
        duties = Duties(
            machine=self._machine,
            engine=self._engine,
            disk=self._disk,
            notifier=self._notifier,
            watchdog=self._watchdog,
            fencing=self._outside.fencing,
            health=self._health,
            hooks=self._hooks,
            neighbours=self._site.neighbours,
            warmth=self._warmth,
            rivals=self._outside.rivals,
            links=self._links,
            engine_ended=self._engine_ended,
        )
        duties.join(self._loop, self._teller)

    def _begin(self) -> None:
        """The order is with the engine before its thread runs, so that it can resume a reign."""
        self._begun = True
        self._loop.feed(*self._before, ground.found(self._maps.gate()))
        try:
            report = self._engine.start()
        except EngineError as error:
            raise StartError(str(error)) from error
        self._facts.realtime = report.real_time is None
        if report.real_time is not None:
            log.warning(
                "no real-time priority for the engine: %s; grant CAP_SYS_NICE or LimitRTPRIO=",
                os.strerror(report.real_time),
            )
        self._loop.start(self._hands)

    async def _listen(self) -> None:
        shared = Shared(
            current=self._current,
            examiner=self._examiner,
            store=self._store,
            machine=self._machine,
            put=self._reloader.put,
            foresee=self._reloader.foresee,
            aside=self._reloader.aside,
        )
        self._workers = workers = WorkerDesk(
            self._paths.run / "worker.sock",
            welcome=shared.welcome,
            standing=shared.standing,
            check=shared.check,
            apply=shared.apply,
        )
        self._teller.on_transition.append(lambda _: workers.tell())
        self._loop.duties.append(lambda _: workers.tell())
        view = View(
            facts=self._facts,
            current=self._current,
            machine=self._machine,
            loop=self._loop,
            engine=self._engine,
            hands=self._hands,
            disk=self._disk,
            maps=self._maps,
            site=self._site,
            links=self._links,
            warmth=self._warmth,
            health=self._health,
            hooks=self._hooks,
            teller=self._teller,
            hub=self._hub,
            workers=workers,
            watchdog=self._watchdog,
            outside=self._outside,
        )
        node = Node(
            hub=self._hub,
            history=self._history,
            teller=self._teller,
            status=view.status,
            counters=view.counters,
            feed=self._feed,
            reload=self._reloader.reload,
            measure=self._measure,
        )
        self._interface = Interface(node, workers)
        await self._interface.listen(self._paths.run, self._current.config.metrics.listen)

    # -- the end ---------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, False)
        loop.add_signal_handler(signal.SIGUSR2, self._stop, True)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _stop(self, restart: bool) -> None:
        """The first signal asks the core to hand over; a second one doesn't wait for it."""
        if self._stopping or not self._begun:
            self._restart = False
            self._ended.set()
            return
        self._stopping, self._restart = True, restart
        self._notifier.stopping("restarting" if restart else "stopping")
        asyncio.get_running_loop().call_later(STOP_PATIENCE_S, self._ended.set)
        self._feed(Stopping(restart=restart))

    def _fail(self, error: BaseException) -> None:
        """A broken invariant: shut the gate at once, say what happened, end."""
        if self._broken is None:
            self._broken = error
            self._gate.shut()
            log.critical(
                "an invariant is broken, so this node steps down: %s: %s",
                type(error).__name__,
                error,
                exc_info=error,
            )
            log.critical("state at that moment: %s", self._machine.status)
        self._ended.set()

    async def _finish(self) -> int:
        """Take everything down in order; what fails is told and doesn't hold up the rest."""
        leave = self._restart and self._broken is None
        await descend(
            ("late wake-ups", lambda: host.forget(self._lateness_file)),
            ("the loop", self._loop.stop),
            ("reloads", self._reloader.stop),
            ("the engine", lambda: self._engine.stop(close_gate=not leave)),
            ("the gate", lambda: None if leave else self._gate.shut()),
            ("effects", self._executor.idle),
            ("fence and third parties", self._outside.stop),
            ("the interface", self._interface.close),
            ("neighbours", self._site.neighbours.stop),
            ("health", self._health.stop),
            ("warmth", self._warmth.stop),
            ("hooks", self._hooks.stop),
            ("addresses and routes", self._site.leave if leave else self._site.clear),
            ("the last position", lambda: ground.keep_last_position(self._maps, self._disk)),
            ("the disk", self._disk.close),
            ("the history", self._teller.close),
            ("the watchdog", lambda: self._let_go_of_watchdog(leave)),
            ("the engine's memory", self._engine.close),
            ("the gate's words", self._gate.close),
            ("the maps", self._maps.close),
        )
        if self._broken is not None:
            return EXIT_BROKEN
        return EXIT_RESTART if leave else EXIT_OK

    def _let_go_of_watchdog(self, leave: bool) -> None:
        # The gate is left open on purpose, or shut by now; if not, that is a matter for the device.
        on_purpose = not leave and self._broken is None
        self._watchdog.stop(disarm=on_purpose and self._gate.is_shut())

    # -- in the loop -----------------------------------------------------------------------------

    def _feed(self, event: Event) -> None:
        """Into the core, or kept for it while the core isn't started."""
        if not self._begun:
            self._before.append(event)
            return
        try:
            self._loop.feed(event)
        except Exception as error:  # noqa: BLE001 - the supervisor's line, as in the loop
            self._loop.stop()
            self._fail(error)

    def _engine_ended(self) -> None:
        if not self._ended.is_set():
            self._fail(RuntimeError("the engine's thread ended by itself"))

    def _gate_lost(self, name: str, what: str) -> None:
        self._teller.publish("gate_lost", reason="gate_lost", sentence=what)
        self._feed(GateLost(interface=name))

    def _gate_restored(self, name: str) -> None:
        self._presence.port_restored()
        self._feed(GateRestored(interface=name))

    # -- reload ----------------------------------------------------------------------------------

    def _on_hangup(self) -> None:
        if self._begun:  # else the configuration was read a moment ago
            self._reloader.begin()

    def _take_effect(self) -> None:
        """Engine and core learn of the configuration in force."""
        current = self._current
        self._presence.take_config()
        self._feed(ConfigReloaded(policy=current.policy, timers=wiring.timers(current.config)))
        self._presence.take_timers()

    async def _measure(self) -> None:
        """How late this host wakes up now, for whoever wants other intervals."""
        lateness = await asyncio.to_thread(host.measure)
        self._current.wake_late_ns = lateness.p90_ns
        self._feed(HostMeasured(wake_late_ns=self._current.policy.wake_late_ns))
