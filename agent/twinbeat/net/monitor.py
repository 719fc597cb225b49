# SPDX-License-Identifier: Apache-2.0
"""The kernel's notifications about interfaces, addresses and gate hooks, as they happen.

Says what changed, not what it means: that a lost hook shuts the gate is decided by whoever listens.
When the kernel had to drop notifications the listener is told to look at everything itself.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from twinbeat.net import netlink
from twinbeat.net.interfaces import IFINFO, Assigned, Interface, parse_address, parse_link
from twinbeat.net.netlink import EventSocket

_GROUPS: Final = (
    netlink.RTNLGRP_LINK,
    netlink.RTNLGRP_TC,
    netlink.RTNLGRP_IPV4_IFADDR,
    netlink.RTNLGRP_IPV6_IFADDR,
)
LINKS_ONLY: Final = (netlink.RTNLGRP_LINK,)
"""For a listener that needs neither addresses nor hooks."""
_TCMSG: Final = struct.Struct("=BxxxiIII")
"""struct tcmsg: family, interface, handle, parent, info."""
_CLSACT_MAJOR: Final = 0xFFFF0000


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """An interface appeared or changed; this is how it is now."""

    interface: Interface


@dataclass(frozen=True, slots=True)
class LinkGone:
    """An interface was removed, or moved to another namespace."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class AddressGone:
    """An address was removed from an interface."""

    address: Assigned


@dataclass(frozen=True, slots=True)
class HookChanged:
    """A clsact qdisc or one of its filters was removed from an interface."""

    index: int


@dataclass(frozen=True, slots=True)
class Missed:
    """Notifications were lost; whatever was watched may have changed."""


Notice = LinkChanged | LinkGone | AddressGone | HookChanged | Missed


class Monitor:
    """Hands notices to a listener from the event loop.

    Addresses are told of only for the interfaces in `addresses_of`: with 10,000 VIPs elsewhere
    nobody wants to parse each.
    """

    def __init__(
        self, listener: Callable[[Notice], None], *, groups: Iterable[int] = _GROUPS
    ) -> None:
        self._listener = listener
        self._groups = tuple(groups)
        self._socket: EventSocket | None = None
        self.addresses_of: set[int] = set()
        """Indexes of interfaces whose addresses are watched."""

    @property
    def listening(self) -> bool:
        """Whether it is begun: whatever changes is told of."""
        return self._socket is not None

    def start(self) -> None:
        """Begin to listen; from now on nothing is missed without a Missed."""
        if self._socket is None:
            self._socket = EventSocket(self._groups)
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def stop(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        assert self._socket is not None
        if not self._socket.read(self._handle):
            self._listener(Missed())

    def _handle(self, kind: int, body: memoryview) -> None:
        notice = self._parse(kind, body)
        if notice is not None:
            self._listener(notice)

    def _parse(self, kind: int, body: memoryview) -> Notice | None:
        match kind:
            case netlink.RTM_NEWLINK:
                # Bridge ports send a second notification of another family without the attributes.
                if body[0]:
                    return None
                return LinkChanged(parse_link(body))
            case netlink.RTM_DELLINK:
                if body[0]:
                    return None
                _family, _type, index, _flags, _change = IFINFO.unpack_from(body)
                return LinkGone(index, parse_link(body).name)
            case netlink.RTM_DELADDR:
                (index,) = struct.unpack_from("=I", body, 4)
                if index not in self.addresses_of:
                    return None
                address = parse_address(body)
                return AddressGone(address) if address is not None else None
            case netlink.RTM_DELQDISC | netlink.RTM_DELTFILTER:
                _family, index, handle, parent, _info = _TCMSG.unpack_from(body)
                at_clsact = _CLSACT_MAJOR in {handle & _CLSACT_MAJOR, parent & _CLSACT_MAJOR}
                return HookChanged(index) if at_clsact else None
            case _:
                return None
