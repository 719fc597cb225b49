# SPDX-License-Identifier: Apache-2.0
"""Keeps the engine told of the peer's MAC on each link within one subnet.

Until it is known frames are broadcast, so the pair speaks from the first moment.  A link that stays
silent is resolved anew: the peer may have got another card.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from twinbeat.config.nodes import link_number
from twinbeat.net import neighbours
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Interface, interface
from twinbeat.runtime.wiring import mac_bytes

if TYPE_CHECKING:
    from twinbeat.config.model import Config
    from twinbeat.config.nodes import LinkSection
    from twinbeat.net import AsyncIPRoute

log = logging.getLogger("twinbeat.links")

SILENT_S: Final = 2.0
"""A silence shorter than this is no reason to doubt a MAC."""
ASK_S: Final = 1.0
"""How long one attempt waits for an answer."""
PAUSE_FIRST_S: Final = 0.2
PAUSE_LAST_S: Final = 30.0


class Neighbours:
    """The peer's MAC on every link that needs one."""

    def __init__(
        self, *, config: Config, ipr: AsyncIPRoute, tell: Callable[[int, bytes], None]
    ) -> None:
        self._config = config
        self._ipr = ipr
        self._tell = tell
        self._known: dict[int, str] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._doubts: dict[int, asyncio.TimerHandle] = {}

    async def known(self) -> dict[int, str]:
        """What the neighbour table has already, by number of the link.

        Raises NetError.
        """
        for link in self._config.heartbeat_links:
            number = link_number(link)
            if link.mode == "ethernet":
                address = ipaddress.ip_address(link.peer)
                mac = await neighbours.find(self._ipr, interface(link.interface), address)
                if mac is not None:
                    self._known[number] = mac
        return dict(self._known)

    def start(self) -> None:
        """Resolve every link."""
        for link in self._config.heartbeat_links:
            self.resolve(link_number(link))

    def apply(self, config: Config) -> None:
        """Other links: forget those that went or changed, resolve those that came."""
        before = {link_number(link): link for link in self._config.heartbeat_links}
        self._config = config
        after = {link_number(link): link for link in config.heartbeat_links}
        for number in before.keys() | after.keys():
            if before.get(number) == after.get(number):
                continue
            self.heard(number)
            self._known.pop(number, None)
            task = self._tasks.pop(number, None)
            if task is not None:
                task.cancel()
            self.resolve(number)

    def resolve(self, number: int) -> None:
        """Resolve one link (again), unless that is under way."""
        link = next((one for one in self._config.heartbeat_links if one.number == number), None)
        if link is None or link.mode != "ethernet":
            return
        task = self._tasks.get(number)
        if task is None or task.done():
            self._tasks[number] = asyncio.get_running_loop().create_task(
                self._resolve(number, link)
            )

    def silent(self, number: int) -> None:
        """The peer isn't heard on a link: if that stays so, ask who it is."""
        if number not in self._doubts:
            self._doubts[number] = asyncio.get_running_loop().call_later(
                SILENT_S, self._doubt, number
            )

    def heard(self, number: int) -> None:
        """The peer is heard on a link again."""
        doubt = self._doubts.pop(number, None)
        if doubt is not None:
            doubt.cancel()

    def _doubt(self, number: int) -> None:
        del self._doubts[number]
        self.resolve(number)

    def stop(self) -> None:
        for number in list(self._doubts):
            self.heard(number)
        for task in self._tasks.values():
            task.cancel()

    async def _resolve(self, number: int, link: LinkSection) -> None:
        address = ipaddress.ip_address(link.peer)
        pause_s = PAUSE_FIRST_S
        complained = False
        while True:
            try:
                port = interface(link.interface)
                mac = await self._ask(port, address)
                if mac is not None:
                    await neighbours.pin(self._ipr, port, address, mac)
            except NetError as error:
                if not complained:
                    log.warning("link %s: %s", link.name, error.sentence())
                complained, mac = True, None
            if mac is not None:
                if self._known.get(number) != mac:
                    log.info("link %s: the peer's MAC is %s", link.name, mac)
                self._known[number] = mac
                self._tell(number, mac_bytes(mac))
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_LAST_S)

    async def _ask(
        self, port: Interface, address: ipaddress.IPv4Address | ipaddress.IPv6Address
    ) -> str | None:
        # A pinned entry would be found again without anybody being asked.
        await neighbours.unpin(self._ipr, port, address)
        return await neighbours.resolve(self._ipr, port, address, timeout_s=ASK_S)
