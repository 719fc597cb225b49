# SPDX-License-Identifier: Apache-2.0
"""Ends connections that a VIP had on this node once its gate is shut.

They would stay established here, and speak up as ghosts when this node is primary again, long after
the client began anew with the peer.  The kernel ends them by SOCK_DESTROY, as `ss -K` does.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Collection
from typing import Final

from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Address
from twinbeat.net.netlink import Message, Socket

NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
SOCK_DESTROY: Final = 21

_REQUEST: Final = struct.Struct("=BBBxI")
"""The head of struct inet_diag_req_v2: family, protocol, extensions, states."""
_ID: Final = struct.Struct("!HH16s16s")
"""The head of struct inet_diag_sockid: ports and addresses in network order."""
_ID_LENGTH: Final = 48
_MSG_HEAD: Final = 4
_LISTEN: Final = 10
_TIME_WAIT: Final = 6
_STATES: Final = 0xFFF & ~(1 << _LISTEN) & ~(1 << _TIME_WAIT)
"""Listeners stay: they serve again when the role comes back."""


def destroy(vips: Collection[Address]) -> int:
    """End all TCP connections whose local address is one of these; how many there were.

    Raises NetError if the kernel refuses (CONFIG_INET_DIAG_DESTROY missing, or no permission).
    """
    wanted = {vip.packed for vip in vips}
    victims: list[Message] = []
    with Socket(family=NETLINK_SOCK_DIAG) as sock:
        # IPv4 connections may sit in IPv6 sockets, so both families are looked through.
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _STATES) + bytes(_ID_LENGTH)
            for _kind, body in sock.dump(SOCK_DIAG_BY_FAMILY, request):
                identity = bytes(body[_MSG_HEAD : _MSG_HEAD + _ID_LENGTH])
                if _local(identity, family) in wanted:
                    head = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _STATES)
                    victims.append(Message(SOCK_DESTROY, 0, head + identity))
        # A connection may end by itself between the dump and its turn.
        for _, code in sock.batch(victims, tolerate=frozenset({errno.ENOENT})):
            raise NetError(
                "ending connections of virtual addresses",
                code=code,
                fix="the kernel needs CONFIG_INET_DIAG_DESTROY" if code == errno.EOPNOTSUPP else "",
            )
    return len(victims)


def _local(identity: bytes, family: int) -> bytes:
    _sport, _dport, source, _destination = _ID.unpack_from(identity)
    raw = bytes(source)
    if family == socket.AF_INET:
        return raw[:4]
    mapped = ipaddress.IPv6Address(raw).ipv4_mapped
    return mapped.packed if mapped is not None else raw
