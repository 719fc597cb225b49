# SPDX-License-Identifier: Apache-2.0
"""What is looked after while the agent runs: with each event of the engine, with each turn of the
timer, and about once a second.

Nothing here decides. It pings who watches over the agent, keeps the peer's position on disk, and
passes on to health, hooks, neighbours and fencing what they may want to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from twinbeat.core.events import EngineEvent
from twinbeat.core.machine import Machine
from twinbeat.core.reasons import Code
from twinbeat.core.types import EngineEventKind, Flag, Role, Watch
from twinbeat.engine.engine import Engine
from twinbeat.net.warmth import Warmth
from twinbeat.runtime.fencing import Fencing
from twinbeat.runtime.hands import DiskHands
from twinbeat.runtime.health import Health
from twinbeat.runtime.hooks import Hooks
from twinbeat.runtime.links import Links
from twinbeat.runtime.loop import Loop
from twinbeat.runtime.neighbours import Neighbours
from twinbeat.runtime.notify import Notifier
from twinbeat.runtime.rivals import Rivals
from twinbeat.runtime.teller import Teller
from twinbeat.runtime.watchdog import Watchdog

_MEANT: Final = frozenset({Code.NOT_READY, Code.DISABLED, Code.STOPPING})
"""Reasons to be unfit that are no fault."""


@dataclass(slots=True, kw_only=True)
class Duties:
    """Called by the loop, in its thread."""

    machine: Machine
    engine: Engine
    disk: DiskHands
    notifier: Notifier
    watchdog: Watchdog
    fencing: Fencing
    health: Health
    hooks: Hooks
    neighbours: Neighbours
    warmth: Warmth
    rivals: Rivals
    links: Links
    engine_ended: Callable[[], None]
    """The engine's thread doesn't run any longer."""
    _peer_fit: bool = False
    _pinged_ns: int = 0

    def join(self, loop: Loop, teller: Teller) -> None:
        """Have the loop call all of it."""
        loop.listeners += [teller.engine_event, self.engine_event]
        loop.listeners += [self.fencing.engine_event, self.look_for_fencing]
        loop.on_tick.append(self.tick)
        loop.duties += [
            self.keep_position,
            self.look_for_hooks,
            self.links.duty,
            self.rivals.duty,
            self.health.duty,
            lambda _: self.warmth.tick(),
        ]

    def tick(self, at_ns: int) -> None:
        """With each turn of the timer."""
        watchdog_ns = self.notifier.watchdog_ns
        if watchdog_ns and at_ns - self._pinged_ns >= watchdog_ns // 4:
            self._pinged_ns = at_ns
            self.notifier.watchdog()
        self.watchdog.tick(at_ns, paused=self.machine.facts.paused)
        self.look_for_fencing()
        if not self.engine.running:
            self.engine_ended()
        self.health.became(self.machine.role)

    def engine_event(self, event: EngineEvent) -> None:
        """With each event, after the core has seen it."""
        self.health.became(self.machine.role)
        match event.kind:
            case EngineEventKind.LINK_SILENT:
                self.neighbours.silent(event.link)
            case EngineEventKind.LINK_HEARD:
                self.neighbours.heard(event.link)
            case EngineEventKind.HEARD | EngineEventKind.COUNTER_JUMP:
                self.keep_position()
            case EngineEventKind.PEER_CHANGED:
                fit = bool(event.b & Flag.FIT)
                if fit and not self._peer_fit and self.machine.role is Role.PRIMARY:
                    self.warmth.hint()
                self._peer_fit = fit
            case _:
                pass

    def look_for_fencing(self, _event: EngineEvent | None = None) -> None:
        """With each event as well: nothing but a fenced peer may be missing for a takeover."""
        self.fencing.look(wanted=self.machine.waits_for_fencing)

    def keep_position(self, _at_ns: int = 0) -> None:
        """About once a second: a next run goes on from where the frames of both had come to."""
        known = self.engine.positions()
        self.disk.keep_peer(
            epoch=known.peer_epoch, counter=known.peer_known, own_epoch=known.own >> 32
        )

    def look_for_hooks(self, _at_ns: int) -> None:
        """About once a second: what hooks may want to know beside the role."""
        if not self.hooks.any:
            return
        core = self.machine.status
        watch = core.engine.watch if core.engine is not None else Watch.UNKNOWN
        self.hooks.look(
            unfit=[(why.code.value, why.sentence) for why in core.unfit if why.code not in _MEANT],
            peer_alive=watch in {Watch.ALIVE, Watch.SUSPECT},
        )
