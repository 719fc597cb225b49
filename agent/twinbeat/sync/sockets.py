# SPDX-License-Identifier: Apache-2.0
"""Sockets for the connection and for pairing: bound where they should be, then turned into TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

from twinbeat.framing import FRAME_MAX
from twinbeat.sync.tls import failure

Address = tuple[str, int] | tuple[str, int, int, int]


def anywhere() -> str:
    """Every address of this node."""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"


def resolved(address: str, port: int) -> tuple[int, Address]:
    """Family and socket address of a numeric address; no name is ever asked for."""
    found = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
    )
    return found[0][0], found[0][4]  # type: ignore[return-value]


def bound(address: str, port: int, interface: str = "") -> socket.socket:
    """A socket at that address, and on that interface alone if one is named. Raises OSError."""
    family, where = resolved(address, port)
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if interface:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        made.bind(where)
    except OSError:
        made.close()
        raise
    return made


async def reached(address: str, port: int, *, own: str = "", interface: str = "") -> socket.socket:
    """A connection from an address and over an interface of this node, any where none is named.
    Raises OSError."""
    family, where = resolved(address, port)
    any_own = "::" if family == socket.AF_INET6 else "0.0.0.0"
    made = bound(own or any_own, 0, interface)
    try:
        await asyncio.get_running_loop().sock_connect(made, where)
    except BaseException:
        made.close()
        raise
    return made


def hang_up(connected: socket.socket) -> None:
    """End a connection, whoever is reading from it: that is how he hears of it."""
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


async def secured(
    connected: socket.socket, tls: ssl.SSLContext, *, dialed: bool, within_s: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The streams of a connection after its handshake. Raises WireError; it is closed then."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=FRAME_MAX // 2)
    protocol = asyncio.StreamReaderProtocol(reader)
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What was written and can't leave yet shall wait here, where commands overtake files.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 << 10)
        if dialed:
            transport, _ = await loop.create_connection(
                lambda: protocol,
                sock=connected,
                ssl=tls,
                server_hostname="",
                ssl_handshake_timeout=within_s + 1.0,
                ssl_shutdown_timeout=1.0,
            )
        else:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connected,
                ssl=tls,
                ssl_handshake_timeout=within_s + 1.0,
                ssl_shutdown_timeout=1.0,
            )
    except OSError as error:
        connected.close()
        raise failure(error) from None
    except BaseException:
        connected.close()
        raise
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
