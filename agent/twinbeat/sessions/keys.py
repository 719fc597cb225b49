# SPDX-License-Identifier: Apache-2.0
"""What identifies a client: the key of an entry as the kernel has it, and as people read it.

A key is the client's address, in network order, masked where a prefix counts, and with the address
that it asked behind it where that counts too. A proxy's key is whatever bytes it gives.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from twinbeat.sessions.rules import KEY_MOST, Persistence, address, network

PROTOCOLS: Final = {"tcp": 6, "udp": 17}


class Seen(NamedTuple):
    """A new connection, as the kernel tells of it."""

    protocol: int
    port: int
    """That was asked for."""
    client: bytes
    vip: bytes
    server: bytes
    """Who answers."""


def maker(rule: Persistence) -> Callable[[bytes, bytes], bytes]:
    """What makes a key of a client's address and the one that it asked."""
    whole = 32 if rule.version == 4 else 128
    if rule.kind == "source-destination":
        return lambda client, vip: client + vip
    if rule.kind == "source-prefix" and rule.bits < whole:
        size = whole // 8
        mask = ((1 << rule.bits) - 1) << (whole - rule.bits)
        return lambda client, _: (int.from_bytes(client) & mask).to_bytes(size)
    return lambda client, _: client


class Finder:
    """Which rule a new connection belongs to, and under which key."""

    def __init__(self, rules: Iterable[Persistence]) -> None:
        self._hosts: dict[tuple[int, int, bytes], tuple[str, Callable[[bytes, bytes], bytes]]] = {}
        self._networks: dict[
            tuple[int, int, int], list[tuple[int, int, str, Callable[[bytes, bytes], bytes]]]
        ] = {}
        """(protocol, port, size) -> (network, bits behind it, rule, its maker)."""
        for rule in rules:
            if not rule.in_kernel:
                continue
            at, made = (PROTOCOLS[rule.protocol], rule.port), maker(rule)
            for text in rule.vips:
                found = network(text)
                if found is None:
                    continue
                shift = found.max_prefixlen - found.prefixlen
                if shift == 0:
                    self._hosts[(*at, found.network_address.packed)] = rule.name, made
                else:
                    size = found.max_prefixlen // 8
                    number = int(found.network_address) >> shift
                    rows = self._networks.setdefault((*at, size), [])
                    rows.append((number, shift, rule.name, made))

    def find(self, seen: Seen) -> tuple[str, bytes] | None:
        """Rule and key; None: it is no concern of ours."""
        host = self._hosts.get((seen.protocol, seen.port, seen.vip))
        if host is not None:
            return host[0], host[1](seen.client, seen.vip)
        rows = self._networks.get((seen.protocol, seen.port, len(seen.vip)), ())
        for number, shift, name, made in rows:
            if int.from_bytes(seen.vip) >> shift == number:
                return name, made(seen.client, seen.vip)
        return None


def shown(rule: Persistence, key: bytes) -> str:
    """A key for people: `192.0.2.7`, `192.0.2.0/24`, `192.0.2.7 to 203.0.113.1`."""
    if not rule.in_kernel:
        return key.decode("utf-8", "backslashreplace")
    try:
        if rule.kind == "source-destination":
            half = len(key) // 2
            one, other = ipaddress.ip_address(key[:half]), ipaddress.ip_address(key[half:])
            return f"{one} to {other}"
        if rule.kind == "source-prefix":
            return f"{ipaddress.ip_address(key)}/{rule.bits}"
        return f"{ipaddress.ip_address(key)}"
    except ValueError:
        return key.hex()


def key_of(rule: Persistence, client: str) -> bytes | None:
    """The key of a client, which is an address or, of a proxy's rule, the key itself; of kind
    source-destination what its keys begin with. None: it can have none."""
    if not rule.in_kernel:
        return client.encode()
    found = address(client)
    if found is None or found.version != rule.version:
        return None
    return maker(rule)(found.packed, b"")


def key_sizes(rule: Persistence) -> range:
    """How many bytes a key of a rule may have; the other node may say anything."""
    if not rule.in_kernel:
        return range(1, KEY_MOST + 1)
    size = 4 if rule.version == 4 else 16
    size *= 2 if rule.kind == "source-destination" else 1
    return range(size, size + 1)


@functools.lru_cache(maxsize=4096)
def packed(server: str) -> bytes:
    """A server's address as the kernel has it; empty for what is none."""
    found = address(server)
    return b"" if found is None else found.packed


def server_of(data: bytes) -> str:
    """The reverse."""
    try:
        return str(ipaddress.ip_address(data))
    except ValueError:
        return ""
