# SPDX-License-Identifier: Apache-2.0
"""The agent, put together: the only place that builds concrete objects.

Start: disk, host, programs, gates, addresses, engine, core, interface; the way down is the reverse.
Whatever happens in between, the gate is shut or left to its lease on purpose: a stop hands the role
over first, a planned restart leaves the reign to the successor under a longer lease, and a broken
invariant shuts the gate at once and lets systemd start the agent anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from twinbeat.api import schema
from twinbeat.api.events import EventHub
from twinbeat.api.server import AlreadyRunningError, Server
from twinbeat.api.text import moment, realtime_offset_ns
from twinbeat.config.check import OWN_INTERFACES
from twinbeat.config.compare import digest
from twinbeat.config.keys import Key, load_keys
from twinbeat.config.load import load
from twinbeat.config.model import Config, link_number
from twinbeat.config.problems import ConfigError, Findings
from twinbeat.config.secrets import Options, load_options
from twinbeat.core.events import (
    ConfigReloaded,
    EngineEvent,
    Event,
    GateLost,
    GateRestored,
    HostMeasured,
    PeerFenced,
    PortLost,
    PortRestored,
    Started,
    Stopping,
)
from twinbeat.core.machine import Machine
from twinbeat.core.reasons import Code
from twinbeat.core.terms import kernel_listened
from twinbeat.core.types import (
    EngineEventKind,
    EngineView,
    Flag,
    Phase,
    Policy,
    Role,
    Watch,
)
from twinbeat.engine import loader
from twinbeat.engine import maps as bpf_maps
from twinbeat.engine.engine import Engine, EngineError
from twinbeat.engine.maps import PIN_ROOT, Maps
from twinbeat.engine.types import MapFds, Setup, now_ns
from twinbeat.engine.watchdog import Device, WatchdogError
from twinbeat.net import AsyncIPRoute, sysctls
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Address, interface, interfaces
from twinbeat.net.warmth import PortSetup, Warmth
from twinbeat.observe.history import History
from twinbeat.observe.metrics import exposition
from twinbeat.runtime import host, status, wiring
from twinbeat.runtime.executor import Executor
from twinbeat.runtime.fencing import Fencing
from twinbeat.runtime.gate import GateWords
from twinbeat.runtime.hands import DiskHands, EngineHands, NetworkHands
from twinbeat.runtime.health import Health
from twinbeat.runtime.hooks import Hooks
from twinbeat.runtime.lean import settle
from twinbeat.runtime.links import Links
from twinbeat.runtime.loop import Loop
from twinbeat.runtime.neighbours import Neighbours
from twinbeat.runtime.node import Node
from twinbeat.runtime.notify import Notifier
from twinbeat.runtime.reload import Plan, plan
from twinbeat.runtime.rivals import Rivals
from twinbeat.runtime.rotation import check_rotation
from twinbeat.runtime.routes import RoleRoutes
from twinbeat.runtime.stage import HOST, REFUSALS, Stage, Watchers
from twinbeat.runtime.store import STATE_DIRECTORY, Store, StoreError, boot_id
from twinbeat.runtime.teller import Teller
from twinbeat.runtime.watchdog import Watchdog
from twinbeat.runtime.witness import Isolation, WitnessDesk, build
from twinbeat.runtime.workers import WorkerDesk
from twinbeat.witness.base import WitnessError

log = logging.getLogger("twinbeat")

RUN_DIRECTORY: Final = Path("/run/twinbeat")
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_BROKEN: Final = 70
"""An invariant was broken (EX_SOFTWARE)."""
EXIT_RESTART: Final = 75
"""A planned restart: the unit starts the agent anew at once (EX_TEMPFAIL)."""

STOP_PATIENCE_S: Final = 5.0
"""A stop that isn't through by then shuts the gate and ends."""


_MEANT: Final = frozenset({Code.NOT_READY, Code.DISABLED, Code.STOPPING})
"""Reasons to be unfit that are no fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where things are at run time."""

    run: Path = RUN_DIRECTORY
    state: Path = STATE_DIRECTORY
    pins: Path = PIN_ROOT


class StartError(Exception):
    """The agent can't start here; the text says why and what to do."""


class App:
    """One run of the agent."""

    def __init__(self, config: Config, *, notifier: Notifier, paths: Paths) -> None:
        self._file = config
        """As in the file: its digest is what the peer compares."""
        self._config = config
        """In force."""
        self._paths = paths
        self._notifier = notifier
        self._ended = asyncio.Event()
        self._broken: BaseException | None = None
        self._stopping = False
        self._restart = False
        self._before: list[Event] = []
        """What happened before the core was started."""
        self._begun = False
        self._reloading = asyncio.Lock()
        self._peer_fit = False
        self._pinged_ns = 0
        offset_ns = realtime_offset_ns()
        started_ns = now_ns()
        self._facts = status.Facts(
            started_ns=started_ns,
            started=moment(started_ns + offset_ns),
            loaded=moment(started_ns + offset_ns),
            digest=digest(config),
        )
        self._hub = EventHub()
        self._warmth = Warmth()
        self._watchdog = Watchdog(config.watchdog, Device(config.watchdog.device))
        self._lateness_file = paths.run / "lateness.json"
        self._store = Store(paths.state)
        self._tasks: set[asyncio.Task[object]] = set()

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
        self._be_alone()
        try:
            self._store.prepare()
            self._keys = load_keys(self._config)
            self._note_keys()
            self._third_party = build(self._config, now_ns=now_ns)
            self._fence_options = load_options(self._config.fence, self._config.path)
            self._history = History(self._paths.state / "history.jsonl")
            if self._history.unreadable:
                log.warning("%d lines of the history can't be read", self._history.unreadable)
        except (StoreError, WitnessError) as error:
            raise StartError(str(error)) from error
        self._keep_awake()
        self._fit_host()
        await self._load_programs()
        # Only now: the compiler needs no better share than anybody else.
        for refused in host.claim_share():
            log.warning("%s", refused)

    def _be_alone(self) -> None:
        """Two agents on one gate would each shut what the other opens: the second never begins."""
        path = self._paths.run / "twinbeatd.lock"
        try:
            self._paths.run.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartError("another twinbeatd runs on this node") from error
        except OSError as error:
            raise StartError(f"locking {path}: {error.strerror}") from error

    def _keep_awake(self) -> None:
        """Before lateness is measured, as it changes what timers the host can hold."""
        latency_us = self._config.idle_latency_us
        if latency_us is None:
            return
        held = host.keep_awake(latency_us)
        if isinstance(held, str):
            log.warning("%s", held)

    def _fit_host(self) -> None:
        lateness = host.remembered(self._lateness_file) or host.measure()
        host.remember(self._lateness_file, lateness)
        fitting = host.fit(self._config, lateness)
        if fitting.refused:
            raise StartError(fitting.refused)
        if fitting.raised:
            log.warning("%s", fitting.raised)
            self._facts.raised.append(schema.Reason(code="raised", sentence=fitting.raised))
        self._config = fitting.config
        self._wake_late_ns = lateness.p90_ns

    async def _load_programs(self) -> None:
        """In a process of its own; programs of another build are replaced unless they serve."""
        pair = self._config.pair.id
        loaded = await loader.run(pair, root=self._paths.pins)
        if loaded.ok and loaded.status == "outdated":
            serving = Maps.open(pair, root=self._paths.pins)
            with serving:
                gate_open = serving.gate().is_open(now_ns())
            if not gate_open or not loaded.abi_fits:
                loaded = await loader.run(pair, replace=True, root=self._paths.pins)
        if not loaded.ok:
            fix = f" {loaded.fix}" if loaded.fix else ""
            raise StartError(f"{loaded.sentence}.{fix}\n{loaded.detail}".strip())
        self._facts.bpf = loaded.layout
        log.info("kernel programs: %s, gate %s", loaded.status, loaded.gate)

    async def _start(self, failed: contextlib.AsyncExitStack) -> None:
        """Everything up to the open interface; `failed` undoes what was begun if it can't be."""
        self._maps = Maps.open(self._config.pair.id, root=self._paths.pins)
        failed.callback(self._maps.close)
        self._gate = GateWords(self._maps.fd("gate"))
        failed.callback(self._gate.close)
        epoch = self._take_epoch()
        self._build_core()
        self._stage = Stage(
            config=self._config,
            ipr=self._ipr,
            maps=self._maps,
            watchers=Watchers(
                gate_lost=self._gate_lost,
                gate_restored=self._gate_restored,
                link_restored=lambda _name: self._links.reopen(),
                port_lost=lambda name: self._feed(PortLost(interface=name)),
                port_restored=lambda name: self._feed(PortRestored(interface=name)),
                failed=self._teller.effect_failed,
            ),
        )
        self._routes = RoleRoutes(
            config=self._config,
            directory=self._paths.state,
            term=lambda: self._maps.gate().term,
        )
        self._network = NetworkHands(
            stage=self._stage,
            routes=self._routes,
            vips=self._vips,
            gate_is_open=lambda: self._maps.gate().is_open(now_ns()),
        )
        self._hooks = Hooks(first=self._routes.settled)
        self._hooks.apply(self._config)
        self._teller.on_transition += [self._routes.transition, self._hooks.transition]
        self._teller.routes_stood_ns = lambda: self._routes.stood_ns
        self._neighbours = Neighbours(config=self._config, ipr=self._ipr, tell=self._peer_mac)
        self._health = Health(feed=self._feed, publish=self._teller.publish, now_ns=now_ns)
        failed.callback(self._stage.leave)
        try:
            self._stage.configure_keys(self._config.keys.send, _bpf_keys(self._keys))
            await self._stage.raise_gates()
            await self._stage.raise_addresses()
            await self._routes.start(resumed=self._maps.gate().is_open(now_ns()))
            failed.callback(self._routes.leave)
            self._engine = await self._open_engine()
            failed.callback(self._engine.close)
            self._stage.open_links()
        except (*REFUSALS, EngineError) as error:
            raise StartError(str(error)) from error
        self._check_host_settings()
        self._check_ways_in()
        self._wire()
        # Before the core decides anything, so that it knows what the kernel knows.
        failed.push_async_callback(self._health.stop)
        await self._health.start(self._config)
        await self._listen()
        failed.push_async_callback(self._server.close)
        failed.push_async_callback(self._workers.close)
        self._arm_watchdog()
        failed.callback(self._watchdog.stop, disarm=True)
        self._begin()
        self._neighbours.start()
        self._fencing.start()
        self._isolation.start()
        self._rivals.start()
        self._warm_up()
        log.info("%s started, epoch %d", self._config.node.name, epoch)
        settle()

    def _arm_watchdog(self) -> None:
        """Last of all, right before the loop that pings it turns."""
        try:
            self._watchdog.start(now_ns())
        except WatchdogError as error:
            raise StartError(f'{error}; watchdog.mode = "required" demands one') from error

    def _warm_up(self) -> None:
        self._bind_warmth()
        try:
            self._warmth.start()
        except NetError as error:
            # A takeover is slower then, and no less safe.
            log.warning("%s", error)

    def _bind_warmth(self) -> None:
        never = [*self._vips(), *(ip_address(link.peer) for link in self._config.links)]
        ports = [
            PortSetup(interface=port, fixed=wiring.fixed_neighbours(self._config, name))
            for name, port in self._stage.ports().items()
        ]
        self._warmth.bind(ports, never=never)

    def _take_epoch(self) -> int:
        """R13: a boot epoch above all before; that of a living gate map goes on.

        The map's counter is what frames are numbered from, by the engine and by XDP alike.
        """
        gate = self._maps.gate()
        running = gate.counter >> 32
        try:
            if running:
                self._store.keep_epoch(running)
                epoch = running
            else:
                epoch = self._store.raise_epoch()
                gate.counter = epoch << 32
                self._maps.write_gate(gate)
            known = self._store.peer()
        except StoreError as error:
            raise StartError(str(error)) from error
        peer = self._maps.peer()
        if known is not None and known.counter > peer.known:
            peer.known = known.counter
            self._maps.write_peer(peer)
        return int(epoch)

    def _build_core(self) -> None:
        moment_ns = now_ns()
        try:
            durable = self._store.durable(now_ns=moment_ns)
            reserved_last = self._store.terms_reserved_to()
        except StoreError as error:
            raise StartError(str(error)) from error
        for complaint in self._store.complaints:
            log.warning("%s", complaint)
        gate = self._maps.gate()
        # A wiped disk must not make this node forget the terms that its own kernel remembers.
        reserved_last = max(reserved_last, gate.term, gate.fence_below)
        self._machine = Machine(
            policy=self._policy(),
            timers=wiring.timers(self._config),
            durable=durable,
            reserved_last=reserved_last,
            now_ns=moment_ns,
        )
        self._teller = Teller(
            history=self._history,
            hub=self._hub,
            notifier=self._notifier,
            boot=boot_id(),
            now_ns=now_ns,
            ended=self._ended.set,
            history_failed=lambda why: log.warning("%s", why),
        )

    async def _open_engine(self) -> Engine:
        ports = self._stage.ports()
        macs = await self._neighbours.known()
        engine = Engine(
            Setup(
                maps=MapFds(
                    gate=self._maps.fd("gate"),
                    self=self._maps.fd("self"),
                    peer=self._maps.fd("peer"),
                    links=self._maps.fd("links"),
                    control=self._maps.fd("control"),
                ),
                links=tuple(
                    wiring.link(
                        section,
                        interface(section.interface),
                        macs.get(link_number(section), ""),
                    )
                    for section in self._config.heartbeat_links
                ),
                settings=wiring.settings(self._in_force(), ports=len(ports)),
                config=wiring.wire(self._config, self._keys),
                control_ifindex=self._stage.control_index,
                port_ifindexes=tuple(port.index for port in ports.values()),
                priority=self._config.engine.priority,
                cpu=self._config.engine.cpu,
            )
        )
        engine.set_announcements(*wiring.announcements(self._config, ports))
        return engine

    def _wire(self) -> None:
        self._hands = EngineHands(
            self._engine,
            self._gate,
            lease_ns=lambda: self._machine.timers.lease_ns,
            take_timers=self._take_timers,
        )
        self._links = Links(
            config=self._config,
            engine=self._engine,
            maps=self._maps,
            stage=self._stage,
            neighbours=self._neighbours,
            publish=self._teller.publish,
        )
        self._fencing = Fencing(
            section=self._config.fence,
            options=self._fence_options,
            peer=self._config.peer.name,
            now_ns=now_ns,
            publish=self._teller.publish,
            fenced=lambda: self._feed(PeerFenced()),
        )
        self._witness = WitnessDesk(
            self._third_party,
            config=self._config,
            arbitration=lambda: self._machine.arbitration,
            feed=self._feed,
            failed=self._fail,
            now_ns=now_ns,
        )
        self._isolation = Isolation(
            config=self._config, feed=self._feed, failed=self._fail, now_ns=now_ns
        )
        self._rivals = Rivals(
            config=self._config,
            ports=self._stage.ports,
            indexes=self._stage.port_indexes,
            serving=lambda: self._maps.gate().is_open(now_ns()),
            publish=self._teller.publish,
        )
        self._disk = DiskHands(self._store, now_ns=now_ns)
        executor = Executor(
            engine=self._hands,
            network=self._network,
            disk=self._disk,
            teller=self._teller,
            feed=self._feed,
            failed=self._fail,
            ask_witness=self._witness.ask,
        )
        self._executor = executor
        self._loop = Loop(
            decider=self._machine, submit=executor.submit, now_ns=now_ns, failed=self._fail
        )
        self._loop.listeners += [self._teller.engine_event, self._engine_event]
        self._loop.listeners += [self._fencing.engine_event, self._look_for_fencing]
        self._loop.on_tick.append(self._tick)
        self._loop.duties += [
            lambda _: self._keep_position(),
            lambda _: self._look_for_hooks(),
            self._links.duty,
            self._rivals.duty,
            self._health.duty,
            lambda _: self._warmth.tick(),
        ]

    def _begin(self) -> None:
        """The order is with the engine before its thread runs, so that it can resume a reign."""
        gate = self._maps.gate()
        highest = max(gate.term, gate.fence_below)
        view = EngineView(phase=Phase.LISTENING, watch=Watch.UNKNOWN, term=0, highest=highest)
        self._begun = True
        floor = (gate.counter >> 32) << 10  # Of the boot epoch, see Started.
        listened = kernel_listened(gate.term, gate.fence_below)
        started = Started(engine=view, term_floor=floor, kernel_listened=listened)
        self._loop.feed(*self._before, started)
        try:
            report = self._engine.start()
        except EngineError as error:
            raise StartError(str(error)) from error
        self._facts.realtime = report.real_time is None
        if report.real_time is not None:
            log.warning("no real-time priority for the engine: %s", os.strerror(report.real_time))
        self._loop.start(self._hands)

    async def _listen(self) -> None:
        node = Node(
            hub=self._hub,
            history=self._history,
            teller=self._teller,
            status=self.status,
            counters=self.counters,
            feed=self._feed,
            reload=self.reload,
            paused=self._paused,
            measure=self._measure,
        )
        self._server = Server(node, exposition(self.status, self.counters))
        self._workers = WorkerDesk(self._paths.run / "worker.sock")
        try:
            await self._server.listen_unix(str(self._paths.run / "control.sock"))
            await self._workers.listen()
        except AlreadyRunningError as error:
            raise StartError("another twinbeatd runs on this node") from error
        except OSError as error:
            raise StartError(f"listening below {self._paths.run}: {error.strerror}") from error
        listen = self._config.metrics.listen
        if listen:
            address, _, port = listen.rpartition(":")
            try:
                await self._server.listen_tcp(address.strip("[]"), int(port))
            except OSError as error:
                # Not worth a failover: the node serves without being scraped.
                log.error("metrics.listen = %s: %s", listen, error.strerror)

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
        host.forget(self._lateness_file)
        self._loop.stop()
        for task in self._tasks:
            task.cancel()
        try:
            self._engine.stop(close_gate=not leave)
        except EngineError as error:
            log.error("%s", error)
        if not leave:
            self._gate.shut()
        await self._executor.idle()
        await self._fencing.stop()
        await self._witness.stop()
        await self._isolation.stop()
        await self._server.close()
        await self._workers.close()
        self._rivals.stop()
        self._neighbours.stop()
        await self._health.stop()
        self._warmth.stop()
        try:
            await self._hooks.stop()
            self._routes.leave()
            if leave:
                self._stage.leave()
            else:
                await self._take_everything_down()
        except REFUSALS as error:
            log.error("%s", error)
        await self._keep_last_position()
        await self._teller.close()
        # The gate is shut or left open on purpose by now; any other end is a matter for the device.
        self._watchdog.stop(disarm=not leave and self._broken is None)
        self._engine.close()
        self._gate.close()
        self._maps.close()
        if self._broken is not None:
            return EXIT_BROKEN
        return EXIT_RESTART if leave else EXIT_OK

    async def _take_everything_down(self) -> None:
        try:
            await self._routes.remove_all()
        finally:
            await self._stage.strike()

    async def _keep_last_position(self) -> None:
        peer = self._maps.peer()
        own = self._maps.gate().counter >> 32
        self._disk.keep_peer(epoch=peer.epoch, counter=peer.known, own_epoch=own)
        await self._disk.close()

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

    def _tick(self, at_ns: int) -> None:
        watchdog_ns = self._notifier.watchdog_ns
        if watchdog_ns and at_ns - self._pinged_ns >= watchdog_ns // 4:
            self._pinged_ns = at_ns
            self._notifier.watchdog()
        self._watchdog.tick(at_ns, paused=self._machine.facts.paused)
        self._look_for_fencing()
        if not self._engine.running and not self._ended.is_set():
            self._fail(RuntimeError("the engine's thread ended by itself"))
        self._health.became(self._machine.role)

    def _look_for_hooks(self) -> None:
        """What hooks may want to know beside the role."""
        if not self._hooks.any:
            return
        core = self._machine.status
        watch = core.engine.watch if core.engine is not None else Watch.UNKNOWN
        self._hooks.look(
            unfit=[(why.code.value, why.sentence) for why in core.unfit if why.code not in _MEANT],
            peer_alive=watch in {Watch.ALIVE, Watch.SUSPECT},
        )

    def _keep_position(self) -> None:
        known = self._engine.positions()
        self._disk.keep_peer(
            epoch=known.peer_epoch, counter=known.peer_known, own_epoch=known.own >> 32
        )

    def _engine_event(self, event: EngineEvent) -> None:
        self._health.became(self._machine.role)
        match event.kind:
            case EngineEventKind.LINK_SILENT:
                self._neighbours.silent(event.link)
            case EngineEventKind.LINK_HEARD:
                self._neighbours.heard(event.link)
            case EngineEventKind.HEARD | EngineEventKind.COUNTER_JUMP:
                self._keep_position()
            case EngineEventKind.PEER_CHANGED:
                fit = bool(event.b & Flag.FIT)
                if fit and not self._peer_fit and self._machine.role is Role.PRIMARY:
                    self._warmth.hint()
                self._peer_fit = fit
            case _:
                pass

    def _look_for_fencing(self, _event: EngineEvent | None = None) -> None:
        self._fencing.look(wanted=self._machine.waits_for_fencing)

    def _peer_mac(self, number: int, mac: bytes) -> None:
        self._engine.set_peer_mac(number, mac)

    def _gate_lost(self, name: str, what: str) -> None:
        self._teller.publish("gate_lost", reason="gate_lost", sentence=what)
        self._feed(GateLost(interface=name))

    def _gate_restored(self, name: str) -> None:
        ports = self._stage.ports()
        self._engine.set_announcements(*wiring.announcements(self._config, ports))
        self._bind_warmth()
        self._feed(GateRestored(interface=name))

    def _paused(self, reason: str) -> None:
        self._facts.pause_reason, self._facts.pause_since_ns = reason, now_ns()

    def _check_host_settings(self) -> None:
        ipv6 = any(":" in text for section in self._config.vrids for text in section.vips)
        names = sorted({section.interface for section in self._config.vrids})
        for finding in [*sysctls.check_ports(names, ipv6=ipv6), *self._stage.sysctls]:
            log.warning("%s", finding.sentence())
            self._facts.warnings.append(schema.Warn(code="sysctl", sentence=finding.sentence()))

    def _check_ways_in(self) -> None:
        """Injected addresses are local to every interface, but only some have a gate."""
        if not any(section.inject for section in self._config.vrids):
            return
        guarded = {one.index for one in self._stage.guarded.values()}
        open_ways = [
            one.name
            for one in interfaces().values()
            if one.up
            and one.name != HOST
            and not one.name.startswith(OWN_INTERFACES)
            and guarded.isdisjoint({one.index, one.parent})
        ]
        if open_ways:
            names = ", ".join(sorted(open_ways))
            sentence = (
                f"injected addresses can be reached over {names} past the gate: name them in "
                "`uplinks`, or drop what comes in there for the addresses"
            )
            log.warning("%s", sentence)
            self._facts.warnings.append(schema.Warn(code="ungated_interfaces", sentence=sentence))

    # -- what the configuration says ---------------------------------------------------------------

    def _policy(self) -> Policy:
        # Raised timers are this host's affair; the pair compares what the files say.
        return wiring.policy(
            self._config, digest=self._facts.digest, wake_late_ns=self._wake_late_ns
        )

    def _in_force(self) -> Config:
        """With the timers that an operator set while the pair ran."""
        return wiring.with_timers(self._config, self._machine.timers)

    def _vips(self) -> list[Address]:
        return [vip for section in self._config.vrids for vip in wiring.vips(section)]

    # -- the interface's side --------------------------------------------------------------------

    def status(self) -> schema.Status:
        """The node as it is now."""
        self._facts.attested_until_ns = self._hands.attested_until_ns
        self._facts.worker = self._workers.alive
        self._facts.watchdog = self._watchdog.status()
        self._facts.fence = self._fencing.status()
        self._facts.witness = self._witness.status()
        self._facts.isolation = self._isolation.status()
        return status.status(
            config=self._in_force(),
            core=self._machine.status,
            snapshot=self._hands.snapshot(),
            guarded=self._stage.guarded,
            facts=self._facts,
            teller=self._teller,
            neighbours=self._warmth.standing(),
            monitors=self._health.status(realtime_offset_ns()),
            links=self._links,
            rivals=self._rivals,
            routes=self._routes.status(),
            hooks=self._hooks.status(),
        )

    def counters(self) -> schema.Counters:
        """Everything that only grows."""
        counted = status.counters(
            config=self._config,
            engine=self._engine,
            maps=self._maps,
            lag=self._loop.lag,
            teller=self._teller,
            neighbours=self._warmth.tally.counted(),
            monitors=self._health.counters(),
            links=self._links,
            rivals=self._rivals,
            dropped=self._hub.dropped_total,
        )
        return replace(
            counted,
            histograms=counted.histograms | status.witness_histogram(self._witness),
            witness=self._witness.counters(),
            fencings=dict(self._fencing.outcomes),
            watchdog=self._watchdog.counted(),
            route_changes=dict(self._routes.changes),
        )

    # -- reload ----------------------------------------------------------------------------------

    def _on_hangup(self) -> None:
        if not self._begun:
            return  # the configuration was read a moment ago
        task = asyncio.get_running_loop().create_task(self.reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reload(self) -> schema.Outcome | schema.Refusal:
        """Read the configuration again: all of it takes effect, or nothing."""
        async with self._reloading:
            self._notifier.reloading()
            try:
                sentence = await self._reload()
            except ConfigError as error:
                for problem in error.problems:
                    log.error("%s", problem)
                answer: schema.Outcome | schema.Refusal = schema.Refusal(
                    code="config", sentence=f"nothing was changed: {error}"
                )
            except REFUSALS as error:
                log.error("the reload was undone: %s", error)
                answer = schema.Refusal(code="environment", sentence=f"it was undone: {error}")
            else:
                if self._facts.needs_restart:
                    log.warning("%s", sentence)
                answer = schema.Outcome(
                    operation="",
                    state=schema.OutcomeState.DONE,
                    code="reloaded",
                    sentence=sentence,
                )
            self._notifier.ready(self._machine.status.sentence)
            return answer

    async def _reload(self) -> str:
        intent, keys, fence_options = await asyncio.to_thread(self._read_again)
        if not intent.changes and keys == self._keys and fence_options == self._fence_options:
            self._file = intent.config
            self._note_loaded(intent.needs_restart)
            waiting = ", ".join(intent.needs_restart)
            return "the configuration was reloaded, and nothing is to be changed" + (
                f"; only a restart puts into force: {waiting}" if waiting else ""
            )
        self._check_rotation(intent.config, keys)
        # The timers of the file were raised to what the host holds; so are those of the new one.
        config = intent.config
        if intent.config.timers_set == self._file.timers_set:
            config = replace(config, timers_set=self._config.timers_set)
        else:
            lateness = await asyncio.to_thread(host.measure)
            fitting = host.fit(intent.config, lateness)
            self._wake_late_ns = lateness.p90_ns
            if fitting.refused:
                raise NetError(fitting.refused)
            config = fitting.config
            self._facts.raised = (
                [schema.Reason(code="raised", sentence=fitting.raised)] if fitting.raised else []
            )
        if intent.links:
            refused = self._links.refusal(config)
            if refused:
                raise NetError(refused)
            before_links = self._config
            await self._links.apply(config)
        try:
            if intent.addresses:
                await self._stage.change_addresses(config)
        except REFUSALS:
            if intent.links:
                await self._links.apply(before_links)
            raise
        if keys != self._keys:
            self._stage.configure_keys(config.keys.send, _bpf_keys(keys))
            self._engine.set_config(wiring.wire(config, keys))
            self._keys = keys
            self._note_keys()
        self._fencing.apply(config.fence, fence_options)
        self._fence_options = fence_options
        self._isolation.apply(config)
        self._config, self._file = config, intent.config
        self._rivals.apply(config)
        await self._health.apply(config)
        await self._routes.apply(config)
        self._hooks.apply(config)
        self._take_effect(intent.needs_restart)
        waiting = ", ".join(intent.needs_restart)
        return f"the configuration was reloaded, {len(intent.changes)} keys changed" + (
            f"; only a restart puts into force: {waiting}" if waiting else ""
        )

    def _check_rotation(self, config: Config, keys: tuple[Key, ...]) -> None:
        """Raises ConfigError if these keys would cut the pair."""
        if keys == self._keys:
            return
        seen = self._hands.snapshot()
        findings = Findings(config.path)
        check_rotation(
            config,
            before=self._keys,
            after=keys,
            peer=seen.peer,
            watch=seen.engine.watch,
            findings=findings,
        )
        if findings.failed:
            raise ConfigError(findings.problems)

    def _note_keys(self) -> None:
        self._facts.keys = sorted(key.id for key in self._keys)

    def _read_again(self) -> tuple[Plan, tuple[Key, ...], Options]:
        """All that takes time, off the loop that decides."""
        wanted = load(self._file.path)
        return plan(self._file, wanted), load_keys(wanted), load_options(wanted.fence, wanted.path)

    def _note_loaded(self, needs_restart: tuple[str, ...]) -> None:
        self._facts.digest = digest(self._file)
        self._facts.needs_restart = list(needs_restart)
        self._facts.loaded = moment(now_ns() + realtime_offset_ns())

    def _take_effect(self, needs_restart: tuple[str, ...]) -> None:
        ports = self._stage.ports()
        self._engine.set_announcements(*wiring.announcements(self._config, ports))
        self._bind_warmth()
        self._note_loaded(needs_restart)
        self._feed(ConfigReloaded(policy=self._policy(), timers=wiring.timers(self._config)))
        self._take_timers()

    def _take_timers(self) -> None:
        """Settings of the engine, with the timers that the core wants now."""
        ports = self._stage.ports()
        self._engine.set_settings(wiring.settings(self._in_force(), ports=len(ports)))

    async def _measure(self) -> None:
        """How late this host wakes up now, for whoever wants other intervals."""
        lateness = await asyncio.to_thread(host.measure)
        self._wake_late_ns = lateness.p90_ns
        self._feed(HostMeasured(wake_late_ns=self._policy().wake_late_ns))


def _bpf_keys(keys: tuple[Key, ...]) -> list[bpf_maps.Key]:
    return [bpf_maps.Key(id=key.id, secret=key.secret) for key in keys]
