# SPDX-License-Identifier: Apache-2.0
"""Whether an address answers: ARP or neighbour discovery, ICMP echo, a TCP connection.

Each look asks a few times within its timeout, so that one lost packet is no failure, and takes the
first answer. Sockets live for one look only, don't block, and see nothing but what may be the
answer, as far as the kernel can sort it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from twinbeat.health import packets
from twinbeat.health.board import Finding

Address = IPv4Address | IPv6Address

TRIES: Final = 3
"""Questions within one timeout."""
_READS_MAX: Final = 64
"""Packets looked at before other work gets its turn."""
_SIOCGIFHWADDR: Final = 0x8927
_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1
_ICMP6_FILTER: Final = 1

_sequence = itertools.count(1)


class AddressProber:
    """One address by one way of asking: `neighbour`, `icmp` or `tcp`."""

    def __init__(self, address: Address, *, probe: str, interface: str = "", port: int = 0) -> None:
        self._address = address
        self._probe = probe
        self._interface = interface
        self._port = port

    async def look(self, timeout_s: float) -> Finding:
        return await ask(
            self._address,
            probe=self._probe,
            interface=self._interface,
            port=self._port,
            timeout_s=timeout_s,
        )

    def close(self) -> None:
        """Nothing is kept between looks."""


async def ask(
    address: Address, *, probe: str, interface: str, port: int = 0, timeout_s: float
) -> Finding:
    """Ask once, within the timeout. Raises OSError if it can't even be asked."""
    where = f" on {interface}" if interface else ""
    if probe == "tcp":
        return await _connect(address, port, interface, timeout_s)
    if probe == "icmp":
        answered = await _echo(address, interface, timeout_s)
        what = "ICMP echo"
    elif isinstance(address, IPv4Address):
        answered = await _arp(address, interface, timeout_s)
        what = "ARP"
    else:
        answered = await _discover(address, interface, timeout_s)
        what = "neighbour discovery"
    if answered:
        return Finding(holds=True, sentence=f"{address} answers {what}{where}")
    return Finding(
        holds=False,
        sentence=f"{address} doesn't answer {what}{where} within {timeout_s:g} s",
        timed_out=True,
    )


async def _connect(address: Address, port: int, interface: str, timeout_s: float) -> Finding:
    at = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    with socket.socket(_family(address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        _bind_device(sock, interface)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
        except TimeoutError:
            sentence = f"{at} doesn't take a connection within {timeout_s:g} s"
            return Finding(holds=False, sentence=sentence, timed_out=True)
        except OSError as error:
            return Finding(holds=False, sentence=f"{at}: {_said(error)}")
    return Finding(holds=True, sentence=f"{at} takes connections")


async def _echo(address: Address, interface: str, timeout_s: float) -> bool:
    version = address.version
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    identifier, sequence = os.getpid() & 0xFFFF, next(_sequence) & 0xFFFF
    with _raw(_family(address), protocol) as sock:
        reply = packets.ECHO_REPLY if version == 4 else packets.ECHO_REPLY6
        _only(sock, version, reply)
        _bind_device(sock, interface)
        sock.connect(_sockaddr(address, interface))
        message = packets.echo_request(version, identifier, sequence)
        return await _until_answered(
            sock,
            lambda: sock.send(message),
            lambda packet: packets.is_echo_reply(version, packet, identifier, sequence),
            timeout_s,
        )


async def _arp(address: IPv4Address, interface: str, timeout_s: float) -> bool:
    with _raw(socket.AF_PACKET, 0) as sock:
        # The protocol comes with the bind: before that, frames of all interfaces would queue.
        sock.bind((interface, packets.ETH_P_ARP))
        frame = packets.arp_request(_mac(sock, interface), _own(address, interface), address)
        return await _until_answered(
            sock,
            lambda: sock.send(frame),
            lambda got: packets.arp_answer(got, address) is not None,
            timeout_s,
        )


async def _discover(address: IPv6Address, interface: str, timeout_s: float) -> bool:
    with _raw(socket.AF_INET6, socket.IPPROTO_ICMPV6) as sock:
        _only(sock, 6, packets.ADVERTISEMENT)
        _bind_device(sock, interface)
        index = socket.if_nametoindex(interface)
        # Whoever is asked drops what may have passed a router (RFC 4861, 7.1.1).
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        group = (str(packets.solicited_node(address)), 0, 0, index)
        message = packets.solicitation(_mac(sock, interface), address)
        return await _until_answered(
            sock,
            lambda: sock.sendto(message, group),
            lambda got: packets.is_advertisement(got, address),
            timeout_s,
        )


async def _until_answered(
    sock: socket.socket,
    send: Callable[[], object],
    is_answer: Callable[[bytes], bool],
    timeout_s: float,
) -> bool:
    """Send up to TRIES times, evenly over the timeout, until the answer is there."""
    loop = asyncio.get_running_loop()
    answered = asyncio.Event()

    def readable() -> None:
        for _ in range(_READS_MAX):
            try:
                if is_answer(sock.recv(2048)):
                    answered.set()
                    return
            except BlockingIOError:
                return
            except OSError:
                return  # an ICMP error about an earlier question; the next one may fare better

    loop.add_reader(sock.fileno(), readable)
    try:
        for _ in range(TRIES):
            send()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s / TRIES):
                    await answered.wait()
            if answered.is_set():
                return True
    finally:
        loop.remove_reader(sock.fileno())
    return False


def _said(error: OSError) -> str:
    """asyncio puts addresses where the kernel's word was."""
    return os.strerror(error.errno) if error.errno else str(error)


# -- sockets -----------------------------------------------------------------------------------


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _raw(family: int, protocol: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)


def _bind_device(sock: socket.socket, interface: str) -> None:
    if interface:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())


def _sockaddr(address: Address, interface: str) -> tuple[object, ...]:
    if address.version == 4:
        return (str(address), 0)
    scope = socket.if_nametoindex(interface) if interface and address.is_link_local else 0
    return (str(address), 0, 0, scope)


def _only(sock: socket.socket, version: int, kind: int) -> None:
    """Let the kernel throw away ICMP messages of every other kind."""
    if version == 4:
        sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~(1 << kind)))
    else:
        blocked = [0xFFFFFFFF] * 8
        blocked[kind >> 5] &= ~(1 << (kind & 31))
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))


def _mac(sock: socket.socket, interface: str) -> bytes:
    answer = fcntl.ioctl(sock.fileno(), _SIOCGIFHWADDR, struct.pack("16s16x", interface.encode()))
    return bytes(answer[18:24])


def _own(address: IPv4Address, interface: str) -> IPv4Address:
    """Under which address the kernel would speak to that one; 0.0.0.0 where it wouldn't."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            _bind_device(sock, interface)
            sock.connect((str(address), 9))
            return IPv4Address(sock.getsockname()[0])
        except OSError:
            return IPv4Address(0)
