# SPDX-License-Identifier: Apache-2.0
"""The private pair tbctl0/tbctl1 over which the engine proves its own receive path (protocol R11).

Frames sent into one end arrive at the link program on the other, on the processor that sent them.
They never leave the node, so the pair needs no address and makes no traffic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyroute2.netlink.exceptions import NetlinkError

from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Interface, interfaces, mark
from twinbeat.net.vmac import quieten, remove

if TYPE_CHECKING:
    from twinbeat.net import AsyncIPRoute

SENDER: Final = "tbctl0"
RECEIVER: Final = "tbctl1"


async def ensure_control(ipr: AsyncIPRoute, *, pair: int) -> tuple[Interface, Interface]:
    """(sending end, receiving end), both up; own leftovers are reused.

    Raises NetError if the kernel refuses, or if a name belongs to somebody else's interface.
    """
    present = interfaces()
    for name in (SENDER, RECEIVER):
        one = present.get(name)
        if one is not None and one.kind != "veth":
            raise NetError(
                f"creating {name}: an interface of that name exists and is no veth pair",
                fix=f"remove it with `ip link del {name}`",
            )
    try:
        if SENDER not in present or RECEIVER not in present:
            for name in (SENDER, RECEIVER):
                if name in present:
                    await remove(ipr, present[name])
            await ipr.link("add", ifname=SENDER, kind="veth", peer={"ifname": RECEIVER})
        for name in (SENDER, RECEIVER):
            one = interfaces()[name]
            quieten(one)
            await ipr.link("set", index=one.index, state="up", ifalias=mark(pair))
    except NetlinkError as error:
        raise NetError(f"creating the private pair {SENDER}/{RECEIVER}", code=error.code) from error
    now = interfaces()
    return now[SENDER], now[RECEIVER]


async def remove_control(ipr: AsyncIPRoute) -> None:
    """Delete the pair, if it is there."""
    one = interfaces().get(SENDER)
    if one is not None and one.kind == "veth":
        await remove(ipr, one)
