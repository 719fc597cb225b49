# SPDX-License-Identifier: Apache-2.0
"""What engine and neighbours are told of this node's ports, and of the timers it keeps.

Worked out when a port came back, after a reload, and when other timers were agreed upon; what is no
news is told to nobody, as frames are built of it and neighbours looked up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from ipaddress import ip_address

from twinbeat.core.types import Timers
from twinbeat.engine.engine import Engine, EngineError
from twinbeat.engine.types import Announcement, AnnounceSchedule
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Address, Interface
from twinbeat.net.warmth import PortSetup, Warmth
from twinbeat.runtime import wiring
from twinbeat.runtime.current import Current
from twinbeat.runtime.stage import Stage

log = logging.getLogger("twinbeat")


class Presence:
    """Tells them."""

    def __init__(
        self,
        *,
        current: Current,
        stage: Stage,
        engine: Engine,
        warmth: Warmth,
        timers: Callable[[], Timers],
    ) -> None:
        """``timers`` are those that the core wants now."""
        self._current = current
        self._stage = stage
        self._engine = engine
        self._warmth = warmth
        self._timers = timers
        self._watched = [port.index for port in stage.ports().values()]
        """Whose carrier the engine looks at."""
        self._ports = len(self._watched)
        self._announced: tuple[list[Announcement], AnnounceSchedule] | None = None
        self._bound: tuple[list[PortSetup], list[Address]] | None = None

    def warm_up(self) -> None:
        """Begin to keep the neighbours of the ports known."""
        self._bind_warmth(self._stage.ports())
        try:
            self._warmth.start()
        except NetError as error:
            # A takeover is slower then, and no less safe.
            log.warning("%s", error)

    def port_restored(self) -> None:
        """A port came back: tell of all of them anew, whatever was told before."""
        self._watched, self._bound = [], None
        self.take_config()
        self._engine.announce()

    def take_config(self) -> None:
        """Carrier, what is announced on the ports, and whose MAC is kept, as far as it is news."""
        ports = self._stage.ports()
        announced = wiring.announcements(self._current.config, ports)
        if announced != self._announced:
            self._engine.set_announcements(*announced)
            self._announced = announced
        self._watch([port.index for port in ports.values()])
        self._bind_warmth(ports)

    def take_timers(self) -> None:
        """Settings of the engine, with the timers that the core wants now."""
        in_force = wiring.with_timers(self._current.config, self._timers())
        settings = wiring.settings(in_force, ports=self._ports)
        if settings != self._engine.settings:
            self._engine.set_settings(settings)

    def _watch(self, indexes: list[int]) -> None:
        if indexes == self._watched:
            return
        self._ports = len(indexes)
        try:
            self._engine.set_ports(indexes)
        except EngineError as error:  # One of them went this very moment, which is told of as well.
            log.warning("%s", error)
        else:
            self._watched = indexes

    def _bind_warmth(self, ports: Mapping[str, Interface]) -> None:
        config = self._current.config
        never = [*self._current.vips, *(ip_address(link.peer) for link in config.links)]
        setups = [
            PortSetup(interface=port, fixed=wiring.fixed_neighbours(config, name))
            for name, port in ports.items()
        ]
        if (setups, never) != self._bound:
            self._bound = setups, never
            self._warmth.bind(setups, never=never)
