# SPDX-License-Identifier: Apache-2.0
"""This node's place in the network: gates, addresses, routes of the role, and the peer's MACs.

The gates stand before the addresses and the addresses before the routes; down in reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twinbeat.engine.maps import Maps
from twinbeat.engine.types import now_ns
from twinbeat.net import AsyncIPRoute
from twinbeat.runtime import wiring
from twinbeat.runtime.current import Current
from twinbeat.runtime.guarded import Watchers
from twinbeat.runtime.hands import NetworkHands
from twinbeat.runtime.neighbours import Neighbours
from twinbeat.runtime.routes import RoleRoutes
from twinbeat.runtime.stage import Stage


class Site:
    """Raises it, leaves it to a successor, or clears it."""

    def __init__(
        self,
        *,
        current: Current,
        ipr: AsyncIPRoute,
        maps: Maps,
        state: Path,
        watchers: Watchers,
        tell_mac: Callable[[int, bytes], None],
    ) -> None:
        config = current.config
        self._current = current
        self._maps = maps
        self.stage = Stage(config=config, ipr=ipr, maps=maps, watchers=watchers)
        self.routes = RoleRoutes(
            config=config, directory=state, term=lambda: self._maps.gate().term
        )
        self.neighbours = Neighbours(config=config, ipr=ipr, tell=tell_mac)
        self.hands = NetworkHands(
            stage=self.stage,
            routes=self.routes,
            vips=lambda: self._current.vips,
            gate_is_open=self._gate_is_open,
        )

    async def raise_up(self) -> None:
        """Everything but the links' own maps. Raises one of `REFUSALS`."""
        self.stage.configure_keys(
            self._current.config.keys.send, wiring.bpf_keys(self._current.keys)
        )
        await self.stage.raise_gates()
        await self.stage.raise_addresses()
        await self.routes.start(resumed=self._gate_is_open())

    def leave(self) -> None:
        """Let go without touching anything."""
        self.routes.leave()
        self.stage.leave()

    async def clear(self) -> None:
        """Take everything down. Raises one of `REFUSALS`."""
        self.routes.leave()
        try:
            await self.routes.remove_all()
        finally:
            await self.stage.strike()

    def _gate_is_open(self) -> bool:
        return self._maps.gate().is_open(now_ns())
