# SPDX-License-Identifier: Apache-2.0
"""The data plane as text for `nft`: one table of ours, and in it a map and a few chains per rule.

Pure. A new connection for a rule's address goes through its chain. The balance picks a server, and
`update` writes that one into the map, unless the client has an entry: then it keeps its server, and
only the lifetime begins anew. Then the connection follows the entry. So the packet path needs
nobody to make entries, to follow them or to let them expire; whoever writes them from elsewhere
writes to the same map.

A map's name says what its keys mean and how many it takes, so one that is there can be kept; its
timeout stands in the rules, where it can be changed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from twinbeat.sessions.rules import Network, Persistence, Pool, network

TABLE: Final = "twinbeat_sessions"
FAMILY: Final = "inet"
HOOK: Final = "bind"
PRIORITY: Final = "dstnat - 5"
"""Before the rules of others that translate the same addresses: the first one decides."""
SEED: Final = "0x7b"
"""Of the balance by hash: the same on both nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What of ours is in the kernel."""

    table: bool = False
    maps: frozenset[str] = frozenset()
    chains: frozenset[str] = frozenset()
    counters: frozenset[str] = frozenset()


def map_name(rule: Persistence) -> str:
    return f"p_{rule.name}.{rule.kind}{rule.version}-{rule.bits}.{rule.limit}"


def counter_name(rule: Persistence) -> str:
    """Counts connections for which the map had no room."""
    return f"full_{rule.name}"


def size_of(rule: Persistence) -> int:
    """More than the limit: so many come before the oldest could be taken out."""
    return rule.limit + rule.limit // 8 + 1024


def chosen(pool: Pool, version: int, failed: frozenset[str]) -> tuple[str, ...]:
    """The servers that new clients get. Where every one fails all are tried that are enabled."""
    enabled = tuple(each for each in pool.of(version) if pool.is_enabled(each))
    return tuple(each for each in enabled if each not in failed) or enabled


def maps_script(rules: Sequence[Persistence], present: Present) -> str:
    """Makes the maps that aren't there, so that they can be filled before anybody follows them."""
    missing = [rule for rule in rules if map_name(rule) not in present.maps]
    if not missing:
        return ""
    lines = [f"add table {FAMILY} {TABLE}"]
    for rule in missing:
        one = f"ipv{rule.version}_addr"
        key = f"{one} . {one}" if rule.kind == "source-destination" else one
        lines.append(
            f"add map {FAMILY} {TABLE} {map_name(rule)} "
            f"{{ type {key} : {one}; flags dynamic,timeout; size {size_of(rule)}; }}"
        )
    return "\n".join(lines) + "\n"


def chains_script(
    rules: Sequence[Persistence],
    pools: Mapping[str, Pool],
    failed: Mapping[str, frozenset[str]],
    present: Present,
) -> str:
    """Makes these rules the ones in force, in one transaction, and takes away what is not theirs.

    ``failed``: by pool. The maps of all rules are there already.
    """
    if not rules:
        return f"delete table {FAMILY} {TABLE}\n" if present.table else ""
    made = {rule.name: _Rule(rule, pools[rule.pool], failed) for rule in rules}
    chains = {HOOK, *(name for each in made.values() for name in each.chains)}
    at = f"{FAMILY} {TABLE}"
    lines = [f"add table {at}", f"flush table {at}"]
    lines += [f"add counter {at} {counter_name(rule)}" for rule in rules]
    lines.append(f"add chain {at} {HOOK} {{ type nat hook prerouting priority {PRIORITY}; }}")
    lines += [f"add chain {at} {name}" for name in sorted(chains - {HOOK})]
    for each in made.values():
        lines += [f"add rule {at} {line}" for line in each.lines()]
    lines += [f"delete chain {at} {name}" for name in sorted(present.chains - chains)]
    kept = {map_name(rule) for rule in rules}
    lines += [f"delete map {at} {name}" for name in sorted(present.maps - kept)]
    counters = {counter_name(rule) for rule in rules}
    lines += [f"delete counter {at} {name}" for name in sorted(present.counters - counters)]
    return "\n".join(lines) + "\n"


class _Rule:
    def __init__(self, rule: Persistence, pool: Pool, failed: Mapping[str, frozenset[str]]) -> None:
        self._rule = rule
        self._pool = pool
        self._servers = chosen(pool, rule.version, failed.get(pool.name, frozenset()))
        self._ip = "ip" if rule.version == 4 else "ip6"

    @property
    def chains(self) -> list[str]:
        servers = range(len(self._servers))
        return [f"c_{self._rule.name}", *(self._chain(number) for number in servers)]

    def lines(self) -> Iterator[str]:
        rule, ip = self._rule, self._ip
        if not self._servers:
            return
        yield (
            f"{HOOK} {ip} daddr {{ {', '.join(_ranges(rule.vips))} }} "
            f"{rule.protocol} dport {rule.port} goto c_{rule.name}"
        )
        for number, server in enumerate(self._servers):
            yield (
                f"{self._chain(number)} update @{map_name(rule)} "
                f"{{ {self._key} timeout {rule.timeout_s}s : {server} }}"
            )
        yield f"c_{rule.name} {self._picked('vmap', lambda at: f'jump {self._chain(at)}')}"
        port = f" : {self._pool.port}" if self._pool.port else ""
        mine = f"c_{rule.name} meta l4proto {rule.protocol}"
        yield f"{mine} dnat {ip} to {self._key} map @{map_name(rule)}{port}"
        # There is no entry, so there was no room for one: served all the same, and counted.
        without = self._picked("map", lambda at: self._servers[at])
        yield f"{mine} counter name {counter_name(rule)} dnat {ip} to {without}{port}"

    def _picked(self, what: str, of: Callable[[int], str]) -> str:
        """One of the servers, by the balance: its chain or its address."""
        count = len(self._servers)
        if count == 1:
            return of(0)
        choices = ", ".join(f"{number} : {of(number)}" for number in range(count))
        number = {
            "hash": f"jhash {self._key} mod {count} seed {SEED}",
            "round-robin": f"numgen inc mod {count}",
            "random": f"numgen random mod {count}",
        }[self._pool.balance]
        return f"{number} {what} {{ {choices} }}"

    @property
    def _key(self) -> str:
        rule, ip = self._rule, self._ip
        whole = 32 if rule.version == 4 else 128
        if rule.kind == "source-destination":
            return f"{ip} saddr . {ip} daddr"
        if rule.kind == "source-prefix" and rule.bits < whole:
            mask = ((1 << rule.bits) - 1) << (whole - rule.bits)
            kind = ipaddress.IPv4Address if rule.version == 4 else ipaddress.IPv6Address
            return f"{ip} saddr & {kind(mask)}"
        return f"{ip} saddr"

    def _chain(self, number: int) -> str:
        return f"s_{self._rule.name}_{number}"


def _ranges(vips: Sequence[str]) -> list[str]:
    """Without what lies in another one: nft takes no intervals that overlap."""
    found = [each for each in map(network, vips) if each is not None]
    four = [each for each in found if isinstance(each, ipaddress.IPv4Network)]
    six = [each for each in found if isinstance(each, ipaddress.IPv6Network)]
    joined: list[Network] = [*ipaddress.collapse_addresses(four)]
    joined += ipaddress.collapse_addresses(six)
    return [
        str(each.network_address) if each.prefixlen == each.max_prefixlen else str(each)
        for each in joined
    ]
