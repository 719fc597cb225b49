# SPDX-License-Identifier: Apache-2.0
"""Routes that come and go with the role.

They carry our protocol number, so a restarted agent finds those of its crashed predecessor, and
nobody else's route is ever replaced or removed.
"""

from __future__ import annotations

import errno
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyroute2.netlink.exceptions import NetlinkError

from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import ADDRESS_PROTO, interface

if TYPE_CHECKING:
    from collections.abc import Collection

    from twinbeat.net import AsyncIPRoute

PROTO: Final = ADDRESS_PROTO


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route of the configuration."""

    destination: ipaddress.IPv4Network | ipaddress.IPv6Network
    gateway: ipaddress.IPv4Address | ipaddress.IPv6Address | None
    interface: str | None
    table: int
    metric: int = 0

    def sentence(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        dev = f" dev {self.interface}" if self.interface else ""
        return f"{self.destination}{via}{dev} table {self.table}"


async def take(ipr: AsyncIPRoute, routes: Collection[Route]) -> None:
    """Install the routes; those that stand already are fine.

    All are tried.  Raises NetError with the first that was refused.
    """
    await _each(ipr, "add", routes, fine=frozenset({errno.EEXIST}))


async def give_back(ipr: AsyncIPRoute, routes: Collection[Route]) -> None:
    """Remove the routes; those that are gone already are fine.

    All are tried.  Raises NetError with the first that was refused.
    """
    gone = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV})
    await _each(ipr, "del", routes, fine=gone)


async def give_back_stale(ipr: AsyncIPRoute, *, keep: Collection[Route]) -> int:
    """Remove routes with our protocol number that aren't in `keep`; how many there were."""
    kept = {(str(one.destination), one.table) for one in keep}
    removed = 0
    for family, whole in ((2, "0.0.0.0/0"), (10, "::/0")):
        async for message in await ipr.route("dump", family=family, proto=PROTO):
            if message["proto"] != PROTO:
                continue
            destination = message.get_attr("RTA_DST")
            name = f"{destination}/{message['dst_len']}" if destination else whole
            table = message.get_attr("RTA_TABLE") or message["table"]
            if (name, table) in kept:
                continue
            try:
                await ipr.route("del", dst=name, table=table, proto=PROTO, family=family)
                removed += 1
            except NetlinkError as error:
                if error.code != errno.ESRCH:
                    raise NetError(f"removing stale route {name}", code=error.code) from error
    return removed


async def _each(
    ipr: AsyncIPRoute, command: str, routes: Collection[Route], *, fine: frozenset[int]
) -> None:
    failed: NetError | None = None
    doing = {"add": "adding", "del": "removing"}[command]
    for route in routes:
        try:
            await ipr.route(command, **_arguments(route))
        except NetlinkError as error:
            if error.code not in fine:
                failed = failed or NetError(f"{doing} route {route.sentence()}", code=error.code)
        except NetError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _arguments(route: Route) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "dst": str(route.destination),
        "table": route.table,
        "proto": PROTO,
        "family": 2 if route.destination.version == 4 else 10,
    }
    if route.gateway is not None:
        arguments["gateway"] = str(route.gateway)
    if route.interface is not None:
        arguments["oif"] = interface(route.interface).index
    if route.metric:
        arguments["priority"] = route.metric
    return arguments
