# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of persistence by netlink: elements of the maps, and news of connections.

`nft` takes milliseconds to start and to read what it is given; here a thousand elements are one
`struct.pack` each. Whatever is written goes in transactions that the kernel carries out within half
a millisecond (`nlmsg.BATCH_NS`), since nothing else runs on that processor meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from twinbeat import nlmsg
from twinbeat.sessions.keys import Seen
from twinbeat.sessions.ruleset import TABLE, Present

NETLINK_NETFILTER: Final = 12
NFPROTO_INET: Final = 1
NFTABLES: Final = 10
BATCH_BEGIN: Final = 0x10
BATCH_END: Final = 0x11
GETTABLE: Final = NFTABLES << 8 | 1
GETCHAIN: Final = NFTABLES << 8 | 4
GETSET: Final = NFTABLES << 8 | 10
NEWSETELEM: Final = NFTABLES << 8 | 12
GETSETELEM: Final = NFTABLES << 8 | 13
DELSETELEM: Final = NFTABLES << 8 | 14
GETOBJ: Final = NFTABLES << 8 | 19
DESTROYSETELEM: Final = NFTABLES << 8 | 30
"""Since Linux 6.3; unlike DELSETELEM it doesn't mind that nothing is there."""
CONNTRACK_NEW: Final = 1
"""Multicast group, and the message's number in the subsystem of the same number."""
NESTED: Final = 0x8000
ANONYMOUS: Final = 0x1
"""Flag of a set."""

ELEMENTS_MOST: Final = 256
"""In one transaction."""
RECEIVE_BUFFER: Final = 8 << 20
"""Bytes for news of connections: some ten thousand of them."""
READ_MOST: Final = 8192
"""News that are read before other work gets its turn."""

_GENMSG: Final = struct.Struct(">BBH")
_U64: Final = struct.Struct(">Q")
_OURS: Final = nlmsg.attribute(1, TABLE.encode() + b"\0")
_PAIR: Final = struct.Struct("=HH")
_TIMEOUT: Final = (12, 4)
_EXPIRATION: Final = (12, 5)


class KernelError(Exception):
    """The kernel refuses; the text says what, and why."""


class Element(NamedTuple):
    """How an element of a map is to be."""

    map: str
    key: bytes
    server: bytes
    """Empty = it is to go."""
    timeout_ms: int
    remaining_ms: int
    fresh: bool
    """There is none under this key, as far as is known."""


class Held(NamedTuple):
    """An element that is there."""

    key: bytes
    server: bytes
    remaining_ms: int


class _Socket:
    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        try:
            with contextlib.suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, nlmsg.SO_RCVBUFFORCE, RECEIVE_BUFFER)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()


class Maps(_Socket):
    """Writes to the maps and reads them. Raises OSError where netlink can't be used at all."""

    def __init__(self) -> None:
        super().__init__()
        self._sequence = 0
        self._size = ELEMENTS_MOST // 4
        self._took_ns = 0
        """How long the kernel took for the last transaction."""
        self._destroys = True
        self.counts: Counter[str] = Counter()
        """written, removed, refused; retried: transactions that were carried out in parts."""

    def write(self, elements: Sequence[Element]) -> int:
        """Have the elements as they are to be; how many the kernel refused."""
        refused, at = 0, 0
        while at < len(elements):
            part = elements[at : at + self._size]
            refused += self._carried_out(part)
            at += len(part)
            self._size = nlmsg.next_size(self._size, self._took_ns, ELEMENTS_MOST)
        self.counts["refused"] += refused
        return refused

    def _carried_out(self, part: Sequence[Element]) -> int:
        """One transaction, or as many as it takes to leave out only what can't be done."""
        error = self._transaction(part, careful=False)
        if not error:
            self.counts["written"] += sum(bool(each.server) for each in part)
            self.counts["removed"] += sum(not each.server for each in part)
            return 0
        self.counts["retried"] += 1
        if len(part) > 1:
            half = len(part) // 2
            return self._carried_out(part[:half]) + self._carried_out(part[half:])
        if not part[0].server:
            return 0 if error == errno.ENOENT else 1
        if not self._transaction(part, careful=True):
            self.counts["written"] += 1
            return 0
        return 1

    def _transaction(self, part: Sequence[Element], *, careful: bool) -> int:
        """All of it or nothing; the first error, or 0. ``careful``: not knowing what is there."""
        gone: dict[str, list[Element]] = {}
        there: dict[str, list[Element]] = {}
        for each in part:
            if not each.server or each.fresh == careful:
                gone.setdefault(each.map, []).append(each)
            if each.server:
                there.setdefault(each.map, []).append(each)
        removal = DESTROYSETELEM if self._destroys else DELSETELEM
        bodies = [
            (removal, 0, _elements(name, (_key(each) for each in found)))
            for name, found in gone.items()
        ]
        bodies += [
            (NEWSETELEM, nlmsg.NLM_F_CREATE, _elements(name, map(_whole, found)))
            for name, found in there.items()
        ]
        error = self._exchange(bodies)
        if error in {errno.EOPNOTSUPP, errno.EINVAL} and gone and self._destroys:
            self._destroys = False
            return self._transaction(part, careful=careful)
        return error

    def _exchange(self, bodies: Sequence[tuple[int, int, bytes]]) -> int:
        request, edge = nlmsg.NLM_F_REQUEST, _GENMSG.pack(0, 0, NFTABLES)
        data = bytearray(self._message(BATCH_BEGIN, request, edge))
        for number, (kind, flags, body) in enumerate(bodies, 1):
            last = nlmsg.NLM_F_ACK if number == len(bodies) else 0
            payload = _GENMSG.pack(NFPROTO_INET, 0, 0) + body
            data += self._message(kind, flags | request | last, payload)
        data += self._message(BATCH_END, request, edge)
        begun_ns = time.monotonic_ns()
        try:
            self._socket.send(data)
            self._took_ns = time.monotonic_ns() - begun_ns
        except OSError as error:
            return error.errno or errno.EIO
        # The kernel has carried it out by now, and whatever it says is there.
        first = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                for kind, _, said in nlmsg.messages(self._socket.recv(1 << 18)):
                    if kind == nlmsg.NLMSG_ERROR and not first:
                        first = nlmsg.error_code(said)
        return first

    def _message(self, kind: int, flags: int, payload: bytes) -> bytes:
        self._sequence += 1
        size = nlmsg.HEADER.size + len(payload)
        return nlmsg.HEADER.pack(size, kind, flags, self._sequence, 0) + payload

    def read(self, name: str) -> Iterator[list[Held]]:
        """What is in a map, in parts: other work may be done in between, but no other call here.

        Raises KernelError.
        """
        for kind, payload in self._dump(GETSETELEM, _OURS + _named(name), name):
            if kind == NEWSETELEM:
                yield list(_held(nlmsg.attributes(payload, 4).get(3, b"")))

    def present(self) -> Present:
        """What of ours is in the kernel, but for what is in the maps. Raises KernelError.

        `nft` reads all elements of all tables as well, whatever it is asked to list: 1.5 s for
        200,000, and anew as long as somebody writes meanwhile.
        """
        if not any(True for _ in self._ours(GETTABLE, "tables", TABLE)):
            return Present()
        chains = frozenset(_text(parts, 3) for parts in self._ours(GETCHAIN, "chains", TABLE))
        # Those of its own making have no name that anybody gave them.
        sets = (
            _text(parts, 2)
            for parts in self._ours(GETSET, "sets", TABLE)
            if not parts.get(3, b"\0")[-1] & ANONYMOUS
        )
        counters = frozenset(self.counters())
        return Present(table=True, maps=frozenset(sets), chains=chains, counters=counters)

    def counters(self, table: str = TABLE) -> dict[str, int]:
        """Packets of each named counter of a table. Raises KernelError."""
        found = {}
        for parts in self._ours(GETOBJ, "counters", table):
            packets = nlmsg.attributes(parts.get(4, b""), 0).get(2, b"")
            if len(packets) == 8:
                found[_text(parts, 2)] = _U64.unpack(packets)[0]
        return found

    def _ours(self, kind: int, what: str, table: str) -> Iterator[dict[int, bytes]]:
        """The attributes of each thing of a table; the table's name is the first of all of them."""
        for _, payload in self._dump(kind, b"", what):
            parts = nlmsg.attributes(payload, 4)
            if _text(parts, 1) == table:
                yield parts

    def _dump(self, kind: int, body: bytes, what: str) -> Iterator[tuple[int, memoryview]]:
        payload = _GENMSG.pack(NFPROTO_INET, 0, 0) + body
        self._socket.send(self._message(kind, nlmsg.NLM_F_REQUEST | nlmsg.NLM_F_DUMP, payload))
        asked = self._sequence
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                raise KernelError(f"{what} ended before its end") from None
            except OSError as error:
                raise KernelError(f"{what} can't be read: {error.strerror}") from error
            for answer, sequence, part in nlmsg.messages(data):
                if sequence != asked:
                    continue
                if answer == nlmsg.NLMSG_DONE:
                    return
                if answer == nlmsg.NLMSG_ERROR:
                    code = nlmsg.error_code(part)
                    why = errno.errorcode.get(code, str(code))
                    raise KernelError(f"{what} can't be read: {why}")
                yield answer, part


class Connections(_Socket):
    """News of new connections in this network namespace."""

    def __init__(self) -> None:
        super().__init__()
        self._socket.setsockopt(nlmsg.SOL_NETLINK, nlmsg.NETLINK_ADD_MEMBERSHIP, CONNTRACK_NEW)
        self._buffer = bytearray(1 << 16)
        self.overflows = 0
        """Times that the kernel had to leave some out."""

    def read(self, take: Callable[[Seen], None]) -> bool:
        """Hand on what is there; whether the kernel left nothing out."""
        whole = True
        view = memoryview(self._buffer)
        for _ in range(READ_MOST):
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                return whole
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overflows += 1
                whole = False
                continue
            for kind, _, body in nlmsg.messages(view[:size]):
                if kind == CONNTRACK_NEW << 8 and (seen := connection(body)) is not None:
                    take(seen)
        return whole


# ------------------------------------------------------------------------------------ bytes ------


def connection(body: bytes | memoryview) -> Seen | None:
    """A new connection's two directions; None for what has no ports."""
    orig = _direction(body, 4, 1)
    if orig is None:
        return None
    reply = _direction(body, 4 + orig[0], 2)
    if reply is None:
        return None
    _, client, vip, protocol, port = orig
    return Seen(protocol, port, client, vip, reply[1])


def _direction(
    body: bytes | memoryview, at: int, kind: int
) -> tuple[int, bytes, bytes, int, int] | None:
    """Its length, source, destination, protocol and the port asked for.

    The kernel writes the attributes in one order (ctnetlink_dump_tuples); another one is looked for
    the long way.
    """
    if len(body) < at + 52:
        return None
    length, what = _PAIR.unpack_from(body, at)
    if what & 0x3FFF != kind:
        return None
    size = {52: 4, 76: 16}.get(length)
    if size is not None and len(body) >= at + length:
        two = at + 12 + size + 4
        proto = two + size + 4
        if body[proto - 4 + 2] & 0x3F == 2 and body[proto + 2] == 1:
            return (
                length,
                bytes(body[at + 12 : at + 12 + size]),
                bytes(body[two : two + size]),
                body[proto + 4],
                body[proto + 20] << 8 | body[proto + 21],
            )
    parts = nlmsg.attributes(body[at + 4 : at + length], 0)
    addresses = nlmsg.attributes(parts.get(1, b""), 0)
    protocol = nlmsg.attributes(parts.get(2, b""), 0)
    source, destination = (
        addresses.get(one) or addresses.get(other) for one, other in ((1, 3), (2, 4))
    )
    if not source or not destination or 3 not in protocol or 1 not in protocol:
        return None
    port = int.from_bytes(protocol[3])
    return nlmsg.align(length), source, destination, protocol[1][0], port


def _text(parts: dict[int, bytes], kind: int) -> str:
    return parts.get(kind, b"").rstrip(b"\0").decode()


def _named(name: str) -> bytes:
    return nlmsg.attribute(2, name.encode() + b"\0")


def _nested(kind: int, value: bytes) -> bytes:
    return nlmsg.attribute(kind | NESTED, value)


@functools.cache
def _shape(
    key: int, server: int
) -> tuple[struct.Struct, tuple[int, ...], struct.Struct, tuple[int, ...]]:
    """An element in one piece, whole and by its key alone, with lengths and kinds of all parts."""
    by_key = (8 + key, 1 | NESTED, 4 + key, 1)
    data = (8 + server, 2 | NESTED, 4 + server, 1)
    alone = struct.Struct(f"=HHHHHH{key}s")
    whole = struct.Struct(f"=HHHHHH{key}sHHHH{server}sHH8sHH8s")
    return whole, (whole.size, 1 | NESTED, *by_key, *data), alone, (alone.size, 1 | NESTED, *by_key)


def _key(each: Element) -> bytes:
    _, _, shape, parts = _shape(len(each.key), 4)
    return shape.pack(*parts, each.key)


def _whole(each: Element) -> bytes:
    _, key, server, timeout_ms, remaining_ms, _ = each
    remaining_ms = max(1, remaining_ms)
    shape, parts, _, _ = _shape(len(key), len(server))
    return shape.pack(
        *parts[:6],
        key,
        *parts[6:],
        server,
        *_TIMEOUT,
        max(remaining_ms, timeout_ms).to_bytes(8),
        *_EXPIRATION,
        remaining_ms.to_bytes(8),
    )


def _elements(name: str, found: Iterable[bytes]) -> bytes:
    return _OURS + _named(name) + _nested(3, b"".join(found))


def _held(data: bytes) -> Iterator[Held]:
    """The elements of a message, but for those that say nothing of a server.

    The kernel writes the attributes of all of them alike (nf_tables_fill_setelem), so what the
    first one has at which place is taken for granted of those that have the same heads there.
    """
    at, end = 0, len(data)
    alike: tuple[int, bytes, int, bytes, int, bytes] | None = None
    while at + 4 <= end:
        if alike is not None:
            size, head, key_end, middle, server_end, tail = alike
            if (
                data.startswith(head, at)
                and data.startswith(middle, at + key_end)
                and data.startswith(tail, at + server_end)
                and at + size <= end
            ):
                yield Held(
                    data[at + len(head) : at + key_end],
                    data[at + key_end + len(middle) : at + server_end],
                    _U64.unpack_from(data, at + size - 8)[0],
                )
                at += size
                continue
        length, _ = _PAIR.unpack_from(data, at)
        if length < 4 or at + length > end:
            return
        parts = nlmsg.attributes(data[at + 4 : at + length], 0)
        key, server = parts.get(1, b""), parts.get(2, b"")
        remaining = parts.get(5) or parts.get(4) or b""
        # Each holds one attribute, NFTA_DATA_VALUE.
        if len(key) > 4 and len(server) > 4 and len(remaining) == 8:
            yield Held(key[4:], server[4:], _U64.unpack(remaining)[0])
            alike = _alike(data[at : at + length], len(key) - 4, len(server) - 4)
        at += nlmsg.align(length)


def _alike(one: bytes, key: int, server: int) -> tuple[int, bytes, int, bytes, int, bytes] | None:
    """Size and heads of an element that has key, server, timeout and expiration in this order."""
    shape, parts, _, _ = _shape(key, server)
    if len(one) != shape.size:
        return None
    found = shape.unpack(one)
    heads = (*found[:6], *found[7:11], *found[12:14], *found[15:17])
    if tuple(each & ~NESTED for each in heads) != tuple(
        each & ~NESTED for each in (*parts, *_TIMEOUT, *_EXPIRATION)
    ):
        return None
    key_end, server_end = 12 + key, 20 + key + server
    # The timeout itself lies between its head and that of the expiration.
    return (
        len(one),
        one[:12],
        key_end,
        one[key_end : key_end + 8],
        server_end,
        one[server_end : server_end + 4],
    )
