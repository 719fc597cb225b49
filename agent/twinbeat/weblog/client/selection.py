# SPDX-License-Identifier: Apache-2.0
"""Which filter takes a record: the first whose criteria it meets.

For the records of one source many filters are out of the question from the start, or certain; only
the rest is looked at record by record, and what was found of a host or an address is kept.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Final

from twinbeat.weblog.client.layouts import Layout, Row
from twinbeat.weblog.client.model import Filter, Network

KEPT_MAX: Final = 65536
"""Hosts, or addresses, of which the answer is kept; then it is begun anew."""
KEPT_SIZE: Final = 255
"""Bytes of one that is kept: a longer one is no name (RFC 1035, 2.3.4), and anybody may send it."""

Test = Callable[[Row], bool]


def possible(filters: Iterable[Filter], node: str, source: str) -> list[Filter]:
    """The filters that may take records of a source, in their order; the last of them takes all."""
    found = []
    for each in filters:
        if each.nodes and node not in each.nodes:
            continue
        if each.sources and source not in each.sources:
            continue
        found.append(each)
        if not criteria(each):
            break
    return found


def criteria(each: Filter) -> list[str]:
    """The fields of a record that a filter looks at."""
    wanted = (("host", each.hosts), ("client", each.clients), ("server", each.servers))
    return [name for name, values in wanted if values]


def missing(each: Filter, layout: Layout) -> list[str]:
    """What a filter looks at and a source doesn't log: it takes nothing from there."""
    return [name for name in criteria(each) if name not in layout.fields]


def test(each: Filter, fields: tuple[str, ...]) -> Test | None:
    """Whether a filter takes a row with these fields behind the line; None = it takes every row."""
    at = {name: number for number, name in enumerate(fields, 1)}
    tests: list[Test] = []
    if each.hosts:
        tests.append(_one(at.get("host"), _hosts(each.hosts)))
    if each.clients:
        tests.append(_one(at.get("client"), _networks(each.clients)))
    if each.servers:
        tests.append(_one(at.get("server"), _networks(each.servers)))
    if not tests:
        return None
    if len(tests) == 1:
        return tests[0]
    return lambda row: all(one(row) for one in tests)


def _one(number: int | None, answer: Callable[[bytes], bool]) -> Test:
    kept: dict[bytes, bool] = {}
    if number is None:
        return lambda _: False

    def decide(row: Row) -> bool:
        if len(row) == 1:
            return False
        value = row[number]
        found = kept.get(value)
        if found is None:
            found = answer(value)
            if len(kept) >= KEPT_MAX:
                kept.clear()
            if len(value) <= KEPT_SIZE:
                kept[value] = found
        return found

    return decide


def _hosts(hosts: tuple[bytes, ...]) -> Callable[[bytes], bool]:
    exact = frozenset(host for host in hosts if not host.startswith(b"*."))
    ends = tuple(host[1:] for host in hosts if host.startswith(b"*."))

    def answer(value: bytes) -> bool:
        name = value.lower()
        if not name.startswith(b"["):
            name = name.partition(b":")[0]
        return name in exact or name.endswith(ends)

    return answer


def _networks(networks: tuple[Network, ...]) -> Callable[[bytes], bool]:
    def answer(value: bytes) -> bool:
        try:
            address = ipaddress.ip_address(value.decode("ascii").strip("[]"))
        except (ValueError, UnicodeDecodeError):
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        if mapped is not None:
            address = mapped
        return any(address in network for network in networks)

    return answer
