# SPDX-License-Identifier: Apache-2.0
"""Membership of the VIPs' solicited-node groups, held on the port by both nodes.

A switch with MLD snooping forwards a neighbour solicitation only where somebody joined its group.
The reports of the VMAC interface stay behind a closed gate, so the port itself joins; the switch
then knows the way to the new owner before there is one.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable

from twinbeat.net.addresses import solicited_groups
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Address


class Groups:
    """The groups joined; each socket holds as many as the kernel lets it."""

    def __init__(self) -> None:
        self._joined: dict[tuple[int, ipaddress.IPv6Address], socket.socket] = {}
        self._sockets: list[socket.socket] = []

    def hold(self, index: int, vips: Iterable[Address]) -> None:
        """Be in exactly the groups of these VIPs on the interface.

        Raises NetError if the kernel refuses.
        """
        wanted = solicited_groups(vips)
        for interface, group in [key for key in self._joined if key[0] == index]:
            if group not in wanted:
                self._joined.pop((interface, group)).setsockopt(
                    socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, _request(index, group)
                )
        for group in sorted(wanted):
            if (index, group) not in self._joined:
                self._joined[index, group] = self._join(index, group)

    def close(self) -> None:
        """Leave all groups."""
        for one in self._sockets:
            one.close()
        self._sockets.clear()
        self._joined.clear()

    def _join(self, index: int, group: ipaddress.IPv6Address) -> socket.socket:
        for fresh in (False, True):
            if fresh or not self._sockets:
                self._sockets.append(
                    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                )
            sock = self._sockets[-1]
            try:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _request(index, group))
            except OSError as error:
                # A socket has room for a limited number of memberships (optmem_max).
                if error.errno == errno.ENOBUFS and not fresh:
                    continue
                raise NetError(f"joining {group}", code=error.errno or 0) from error
            return sock
        raise AssertionError("the second turn returns or raises")


def _request(index: int, group: ipaddress.IPv6Address) -> bytes:
    return group.packed + struct.pack("=I", index)
