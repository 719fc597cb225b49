# SPDX-License-Identifier: Apache-2.0
"""Route netlink by hand, where pyroute2 would cost too much: batches of addresses, dumps, events.

pyroute2 spends about half a millisecond on a message, most of it on decoding.  That is nothing for
an interface, but 10,000 addresses would take five seconds of the loop that renews the attestation,
and their notifications as long again.  Here a message is a `struct.pack`, many of them go in one
datagram, and of a notification only what is asked for is looked at.
"""

from __future__ import annotations

import errno
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Self, TypeVar

from twinbeat.net.errors import NetError
from twinbeat.nlmsg import ATTRIBUTE as ATTRIBUTE
from twinbeat.nlmsg import BATCH_NS as BATCH_NS
from twinbeat.nlmsg import HEADER as HEADER
from twinbeat.nlmsg import NETLINK_ADD_MEMBERSHIP as NETLINK_ADD_MEMBERSHIP
from twinbeat.nlmsg import NETLINK_EXT_ACK as NETLINK_EXT_ACK
from twinbeat.nlmsg import NLM_F_ACK as NLM_F_ACK
from twinbeat.nlmsg import NLM_F_CREATE as NLM_F_CREATE
from twinbeat.nlmsg import NLM_F_DUMP as NLM_F_DUMP
from twinbeat.nlmsg import NLM_F_EXCL as NLM_F_EXCL
from twinbeat.nlmsg import NLM_F_REPLACE as NLM_F_REPLACE
from twinbeat.nlmsg import NLM_F_REQUEST as NLM_F_REQUEST
from twinbeat.nlmsg import NLMSG_DONE as NLMSG_DONE
from twinbeat.nlmsg import NLMSG_ERROR as NLMSG_ERROR
from twinbeat.nlmsg import SO_RCVBUFFORCE as SO_RCVBUFFORCE
from twinbeat.nlmsg import SOL_NETLINK as SOL_NETLINK
from twinbeat.nlmsg import align as align
from twinbeat.nlmsg import attribute as attribute
from twinbeat.nlmsg import attributes as attributes
from twinbeat.nlmsg import error_code as error_code
from twinbeat.nlmsg import messages as messages
from twinbeat.nlmsg import next_size as next_size

_T = TypeVar("_T")


RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33
RTM_GETRULE: Final = 34
RTM_NEWQDISC: Final = 36
RTM_DELQDISC: Final = 37
RTM_GETQDISC: Final = 38
RTM_NEWTFILTER: Final = 44
RTM_DELTFILTER: Final = 45
RTM_GETTFILTER: Final = 46

RTNLGRP_LINK: Final = 1
RTNLGRP_TC: Final = 4
RTNLGRP_IPV4_IFADDR: Final = 5
RTNLGRP_IPV6_IFADDR: Final = 9

NETLINK_GET_STRICT_CHK: Final = 12


BATCH_MAX: Final = 256
"""Messages in one datagram: with an acknowledgement each, the answers fit the receive buffer."""
BATCH_FIRST: Final = 4

RECEIVE_BUFFER: Final = 4 << 20
"""Bytes: 10,000 notifications of addresses that are added at once must not overflow it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message to send."""

    kind: int
    flags: int
    payload: bytes


class Socket:
    """A route netlink socket in the namespace of the process; blocking, for short exchanges."""

    def __init__(self, *, groups: Iterable[int] = (), family: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family
        )
        self._sequence = 0
        try:
            self._set_receive_buffer()
            self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            if family == socket.NETLINK_ROUTE:
                self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def _set_receive_buffer(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    def dump(
        self,
        kind: int,
        payload: bytes,
        *,
        at_most: int | None = None,
        wanted: Callable[[memoryview], bool] | None = None,
    ) -> list[tuple[int, bytes]]:
        """Ask for a dump; all its messages as (kind, payload), or those that are wanted.

        With `at_most` the first so many, and the socket can only be closed after that.  Raises
        NetError if the kernel refuses it.
        """
        self._sequence += 1
        header = HEADER.pack(
            HEADER.size + len(payload), kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0
        )
        self._socket.send(header + payload)
        found: list[tuple[int, bytes]] = []
        while True:
            for answer, sequence, body in messages(self._socket.recv(1 << 18)):
                if sequence != self._sequence:
                    continue
                if answer == NLMSG_DONE:
                    return found
                if answer == NLMSG_ERROR:
                    raise NetError("reading from the kernel", code=error_code(body))
                if wanted is None or wanted(body):
                    found.append((answer, bytes(body)))
                if at_most is not None and len(found) >= at_most:
                    return found

    def batch(self, batch: Iterable[Message], *, tolerate: frozenset[int]) -> list[tuple[int, int]]:
        """Send messages in datagrams of up to BATCH_MAX, each acknowledged: as many in one as the
        kernel carries out in BATCH_NS.

        Returns (index, errno) for those refused with an errno that isn't in `tolerate`.
        """
        refused: list[tuple[int, int]] = []
        at, size = 0, BATCH_FIRST
        waiting = iter(batch)
        while chunk := list(itertools.islice(waiting, size)):
            took_ns = self._exchange(chunk, at, tolerate, refused)
            at += len(chunk)
            size = next_size(size, took_ns, BATCH_MAX)
        return refused

    def _exchange(
        self,
        chunk: list[Message],
        at: int,
        tolerate: frozenset[int],
        refused: list[tuple[int, int]],
    ) -> int:
        """One datagram and its acknowledgements; how long the kernel took to carry it out."""
        first = self._sequence + 1
        data = bytearray()
        for message in chunk:
            self._sequence += 1
            data += HEADER.pack(
                HEADER.size + len(message.payload),
                message.kind,
                message.flags | NLM_F_REQUEST | NLM_F_ACK,
                self._sequence,
                0,
            )
            data += message.payload
            data += bytes(align(len(data)) - len(data))
        begun_ns = time.monotonic_ns()
        self._socket.send(data)
        took_ns = time.monotonic_ns() - begun_ns
        waiting = len(chunk)
        while waiting:
            for kind, sequence, body in messages(self._socket.recv(1 << 18)):
                if kind != NLMSG_ERROR or sequence < first:
                    continue
                waiting -= 1
                code = error_code(body)
                if code and code not in tolerate:
                    refused.append((at + sequence - first, code))
        return took_ns


class EventSocket(Socket):
    """A socket of which only notifications are read, without blocking."""

    def __init__(self, groups: Iterable[int]) -> None:
        super().__init__(groups=groups)
        self._socket.setblocking(False)

    def read(self, handle: Callable[[int, memoryview], None], *, datagrams_max: int = 64) -> bool:
        """Hand what is queued to `handle`; False if the kernel had to drop some of it.

        After False the reader has missed something and must look at the state itself.
        """
        for _ in range(datagrams_max):
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return False
                raise
            for kind, _sequence, body in messages(data):
                handle(kind, body)
        return True


def chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """The items in lists of at most `size`."""
    chunk: list[_T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
