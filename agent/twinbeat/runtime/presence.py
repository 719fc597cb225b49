# SPDX-License-Identifier: Apache-2.0
"""What engine and neighbours are told of this node's ports, and of the timers it keeps.

Worked out anew when a port came back, after a reload, and when other timers were agreed upon.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from ipaddress import ip_address

from twinbeat.core.types import Timers
from twinbeat.engine.engine import Engine, EngineError
from twinbeat.net.errors import NetError
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

    def warm_up(self) -> None:
        """Begin to keep the neighbours of the ports known."""
        self._bind_warmth()
        try:
            self._warmth.start()
        except NetError as error:
            # A takeover is slower then, and no less safe.
            log.warning("%s", error)

    def take_ports(self) -> None:
        """The ports as they are now: carrier, what is announced there, whose MAC is kept."""
        ports = self._stage.ports()
        self._engine.set_announcements(*wiring.announcements(self._current.config, ports))
        try:
            self._engine.set_ports([port.index for port in ports.values()])
        except EngineError as error:  # One of them went this very moment, which is told of as well.
            log.warning("%s", error)
        self._bind_warmth()

    def take_timers(self) -> None:
        """Settings of the engine, with the timers that the core wants now."""
        in_force = wiring.with_timers(self._current.config, self._timers())
        self._engine.set_settings(wiring.settings(in_force, ports=len(self._stage.ports())))

    def _bind_warmth(self) -> None:
        config = self._current.config
        never = [*self._current.vips, *(ip_address(link.peer) for link in config.links)]
        ports = [
            PortSetup(interface=port, fixed=wiring.fixed_neighbours(config, name))
            for name, port in self._stage.ports().items()
        ]
        self._warmth.bind(ports, never=never)
