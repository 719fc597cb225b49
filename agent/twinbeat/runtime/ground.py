# SPDX-License-Identifier: Apache-2.0
"""What a run stands on: one agent, a host that holds the timers, programs, a boot epoch, an engine.

Each function makes sure of one of them before anything is served, and raises `StartError` with the
reason and what to do about it if it can't be. Nothing here lasts but the lock and the request to
keep processors awake, which end with the process.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from twinbeat.api import schema
from twinbeat.config.model import Config
from twinbeat.config.nodes import link_number
from twinbeat.config.system import OWN_INTERFACES
from twinbeat.core.events import Started
from twinbeat.core.terms import floor_of, kernel_listened
from twinbeat.core.types import Durable, EngineView, Phase, Timers, Watch
from twinbeat.engine.abi import Gate
from twinbeat.engine.engine import Engine
from twinbeat.engine.maps import PIN_ROOT, Maps
from twinbeat.engine.types import MapFds, Setup, now_ns
from twinbeat.engine.watchdog import WatchdogError
from twinbeat.net import sysctls
from twinbeat.net.interfaces import interface, interfaces
from twinbeat.runtime import host, loading, wiring
from twinbeat.runtime.current import Current
from twinbeat.runtime.guarded import HOST
from twinbeat.runtime.hands import DiskHands
from twinbeat.runtime.stage import Stage
from twinbeat.runtime.store import STATE_DIRECTORY, Store, StoreError, refused
from twinbeat.runtime.watchdog import Watchdog

log = logging.getLogger("twinbeat")


class StartError(Exception):
    """The agent can't start here; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where things are at run time."""

    run: Path = Path("/run/twinbeat")
    state: Path = STATE_DIRECTORY
    pins: Path = PIN_ROOT


def be_alone(run: Path) -> int:
    """Two agents on one gate would each shut what the other opens: the second never begins.

    Returns the file descriptor of the lock, which the process holds until its end.
    """
    path = run / "twinbeatd.lock"
    try:
        run.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StartError("another twinbeatd runs on this node") from error
    except OSError as error:
        raise StartError(refused(f"locking {path}", error)) from error
    return lock


def keep_awake(config: Config) -> None:
    """Before lateness is measured, as it changes what timers the host can hold."""
    if config.idle_latency_us is None:
        return
    held = host.keep_awake(config.idle_latency_us)
    if isinstance(held, str):
        log.warning("%s", held)


def fit(current: Current, remembered: Path) -> list[schema.Reason]:
    """Put timers into force that this host holds; why they aren't those of the file, if so."""
    lateness = host.remembered(remembered) or host.measure()
    host.remember(remembered, lateness)
    fitting = host.fit(current.file, lateness)
    if fitting.refused:
        raise StartError(fitting.refused)
    current.config = fitting.config
    current.wake_late_ns = lateness.p90_ns
    if not fitting.raised:
        return []
    log.warning("%s", fitting.raised)
    return [schema.Reason(code="raised", sentence=fitting.raised)]


async def load_programs(pair: int, pins: Path) -> str:
    """In a process of its own; programs of another build are replaced unless they serve.

    Returns the layout of those that are loaded now.
    """
    loaded = await loading.load(pair, root=pins)
    if loaded.ok and loaded.status == "outdated":
        with Maps.open(pair, root=pins) as serving:
            gate_open = serving.gate().is_open(now_ns())
        if not gate_open or not loaded.abi_fits:
            loaded = await loading.load(pair, replace=True, root=pins)
    if not loaded.ok:
        fix = f"; {loaded.fix}" if loaded.fix else ""
        raise StartError(f"{loaded.sentence}{fix}\n{loaded.detail}".strip())
    log.info("kernel programs: %s, gate %s", loaded.status, loaded.gate)
    return loaded.layout


def take_epoch(maps: Maps, store: Store) -> int:
    """R13: a boot epoch above all before; that of a living gate map goes on.

    The map's counter is what frames are numbered from, by the engine and by XDP alike.
    """
    gate = maps.gate()
    epoch = int(gate.counter >> 32)
    try:
        if epoch:
            store.keep_epoch(epoch)
        else:
            epoch = store.raise_epoch()
            gate.counter = epoch << 32
            maps.write_gate(gate)
        known = store.peer()
    except StoreError as error:
        raise StartError(str(error)) from error
    peer = maps.peer()
    if known is not None and known.counter > peer.known:
        peer.known = known.counter
        maps.write_peer(peer)
    return epoch


def remembered(maps: Maps, store: Store, at_ns: int) -> tuple[Durable, int]:
    """What earlier runs left: the state, and the last term that any of them ever reserved."""
    try:
        durable = store.durable(now_ns=at_ns)
        reserved_last = store.terms_reserved_to()
    except StoreError as error:
        raise StartError(str(error)) from error
    for complaint in store.complaints:
        log.warning("%s", complaint)
    gate = maps.gate()
    # A wiped disk must not make this node forget the terms that its own kernel remembers.
    return durable, max(reserved_last, gate.term, gate.fence_below)


def found(gate: Gate) -> Started:
    """What the kernel's gate tells a core that begins."""
    highest = max(gate.term, gate.fence_below)
    return Started(
        engine=EngineView(phase=Phase.LISTENING, watch=Watch.UNKNOWN, term=0, highest=highest),
        term_floor=floor_of(gate.counter),
        kernel_listened=kernel_listened(gate.term, gate.fence_below),
    )


def open_engine(
    current: Current, *, maps: Maps, stage: Stage, macs: Mapping[int, str], timers: Timers
) -> Engine:
    """The engine on these maps and ports; its thread doesn't run yet.

    ``macs`` are those of the peer, where they are known; ``timers`` those that the core wants.
    """
    config, ports = current.config, stage.ports()
    in_force = wiring.with_timers(config, timers)
    engine = Engine(
        Setup(
            maps=MapFds(
                gate=maps.fd("gate"),
                self=maps.fd("self"),
                peer=maps.fd("peer"),
                links=maps.fd("links"),
                control=maps.fd("control"),
            ),
            links=tuple(
                wiring.link(
                    section, interface(section.interface), macs.get(link_number(section), "")
                )
                for section in config.heartbeat_links
            ),
            settings=wiring.settings(in_force, ports=len(ports)),
            config=wiring.wire(config, current.keys),
            control_ifindex=stage.control_index,
            port_ifindexes=tuple(port.index for port in ports.values()),
            priority=config.engine.priority,
            cpu=config.engine.cpu,
        )
    )
    engine.set_announcements(*wiring.announcements(config, ports))
    return engine


def arm(watchdog: Watchdog) -> None:
    """Raises StartError where the device is demanded and can't be had."""
    try:
        watchdog.start(now_ns())
    except WatchdogError as error:
        raise StartError(f'{error}; watchdog.mode = "required" demands one') from error


def keep_last_position(maps: Maps, disk: DiskHands) -> None:
    """What the kernel has come to know since it was kept last, for the next run."""
    peer = maps.peer()
    own = maps.gate().counter >> 32
    disk.keep_peer(epoch=peer.epoch, counter=peer.known, own_epoch=own)


def shortcomings(config: Config, stage: Stage) -> list[schema.Warn]:
    """What of this host's settings isn't as it should be; all of it is in the log as well."""
    ipv6 = any(":" in text for section in config.vrids for text in section.vips)
    ports = sorted({section.interface for section in config.vrids})
    found = [
        schema.Warn(code="sysctl", sentence=finding.sentence())
        for finding in [*sysctls.check_ports(ports, ipv6=ipv6), *stage.sysctls]
    ]
    open_ways = _ways_in(config, stage)
    if open_ways:
        sentence = (
            f"injected addresses can be reached over {', '.join(open_ways)} past the gate: name "
            "them in `uplinks`, or drop what comes in there for the addresses"
        )
        found.append(schema.Warn(code="ungated_interfaces", sentence=sentence))
    for warning in found:
        log.warning("%s", warning.sentence)
    return found


def _ways_in(config: Config, stage: Stage) -> list[str]:
    """Injected addresses are local to every interface, but only some have a gate: the others."""
    if not any(section.inject for section in config.vrids):
        return []
    guarded = {one.index for one in stage.guarded.values()}
    return sorted(
        one.name
        for one in interfaces().values()
        if one.up
        and one.name != HOST
        and not one.name.startswith(OWN_INTERFACES)
        and guarded.isdisjoint({one.index, one.parent})
    )
