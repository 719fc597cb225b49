# SPDX-License-Identifier: Apache-2.0
"""Pools of servers and persistence rules: rows of the shared configuration, and what follows from
them. Pure; touches no kernel.

A rule says whose connections are bound (`kind`: what of a client is its key), for how long, and to
the servers of which pool. What goes through the kernel is bound there; entries of an `opaque` rule
are a proxy's own, and only kept and replicated.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

Kind = Literal["source", "source-prefix", "source-destination", "opaque"]
Balance = Literal["hash", "round-robin", "random"]
Probe = Literal["", "none", "tcp", "icmp"]

SERVERS_MOST: Final = 256
VIPS_MOST: Final = 256
LIMIT_MOST: Final = 1_000_000
TIMEOUT_MOST: Final = 604_800
"""Seconds: a week."""
KEY_MOST: Final = 256
"""Bytes of a proxy's key, and of what it calls a server."""

Name = Annotated[str, Meta(min_length=1, max_length=32)]
Text = Annotated[str, Meta(max_length=64)]


class Pool(Struct, frozen=True, kw_only=True):
    """Servers that do the same: a row of the section ``pool``."""

    name: Name
    servers: Annotated[tuple[Text, ...], Meta(max_length=SERVERS_MOST)]
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    """0 = the one that the client asked for."""
    balance: Balance = "hash"
    disabled: Annotated[tuple[Text, ...], Meta(max_length=SERVERS_MOST)] = ()
    probe: Probe = ""
    probe_port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    interval_ms: Annotated[int, Meta(ge=50)] = 1000
    timeout_ms: Annotated[int, Meta(ge=10)] = 1000
    rise: Annotated[int, Meta(ge=1)] = 2
    fall: Annotated[int, Meta(ge=1)] = 3

    def of(self, version: int) -> tuple[str, ...]:
        """Its servers of one family, in canonical form and in their order."""
        return tuple(str(each) for each in map(address, self.servers) if _is(each, version))

    def is_enabled(self, server: str) -> bool:
        """Whether an operator wants it used."""
        return server not in {str(address(each)) for each in self.disabled}

    def probed(self) -> tuple[Literal["none", "tcp", "icmp"], int]:
        """How its servers are asked, and at which port: tcp where a port is known, else icmp."""
        port = self.probe_port or self.port
        if self.probe in {"none", "icmp"}:
            return ("none" if self.probe == "none" else "icmp"), 0
        return ("tcp", port) if port else ("icmp", 0)


class Persistence(Struct, frozen=True, kw_only=True):
    """Who is bound to a server, and how: a row of the section ``persistence``."""

    name: Name
    kind: Kind = "source"
    vips: Annotated[tuple[Text, ...], Meta(max_length=VIPS_MOST)] = ()
    """Addresses, or networks of them, of one family."""
    protocol: Literal["tcp", "udp"] = "tcp"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    prefix_length: Annotated[int, Meta(ge=0, le=128)] = 0
    """Of a source prefix; 0 = 24 for IPv4 and 64 for IPv6."""
    timeout_s: Annotated[int, Meta(ge=1, le=TIMEOUT_MOST)] = 1800
    pool: Annotated[str, Meta(max_length=32)] = ""
    limit: Annotated[int, Meta(ge=16, le=LIMIT_MOST)] = 100_000

    @property
    def version(self) -> int:
        """4 or 6; 0 for a rule without addresses."""
        return _version(self.vips)

    @property
    def in_kernel(self) -> bool:
        """Whether packets are bound by it, and not a proxy's requests."""
        return self.kind != "opaque"

    @property
    def bits(self) -> int:
        """How much of a client's address counts."""
        whole = 32 if self.version == 4 else 128
        if self.kind != "source-prefix":
            return whole
        return min(whole, self.prefix_length or (24 if self.version == 4 else 64))


def address(text: str) -> Address | None:
    """An address, or None for what is none. Not one with a zone, which may be any text, and what
    these are written into for nft takes a line's end in it for the next command."""
    if "%" in text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def network(text: str) -> Network | None:
    """An address or a network, or None for what is neither; without a zone, as `address`."""
    if "%" in text:
        return None
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


@functools.lru_cache(maxsize=1024)
def _version(vips: tuple[str, ...]) -> int:
    """Asked for with every entry, and reading an address takes longer than all else."""
    networks = [network(each) for each in vips]
    return next((each.version for each in networks if each is not None), 0)


def _is(found: Address | None, version: int) -> bool:
    return found is not None and found.version == version


def read(
    tables: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, Pool], dict[str, Persistence]]:
    """The rows of a document, by name. What can't be read is left out: it was examined before."""
    pools = _rows(tables.get("pool", {}), Pool)
    rules = _rows(tables.get("persistence", {}), Persistence)
    usable = {
        name: rule
        for name, rule in rules.items()
        if not rule.in_kernel or (rule.pool in pools and rule.version and rule.port)
    }
    return pools, usable


def _rows(rows: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    found = {}
    for row in rows.values():
        try:
            struct = msgspec.convert(row, kind)
        except msgspec.ValidationError:
            continue
        found[struct.name] = struct
    return found


# ------------------------------------------------------------------------------- examining -------


def pool_problems(pools: Sequence[Pool]) -> Iterator[tuple[int, str, Any, str]]:
    """What is wrong with pools: which, key, value, and what would be right."""
    for at, pool in enumerate(pools):
        if not pool.servers:
            yield at, "servers", list(pool.servers), "one address at least"
        for key in ("servers", "disabled"):
            texts = getattr(pool, key)
            wrong = [each for each in texts if address(each) is None]
            if wrong:
                yield at, key, wrong[0], "an IPv4 or IPv6 address without a port"
            elif len({address(each) for each in texts}) < len(texts):
                yield at, key, list(texts), "a list that names each server once"
        known = {address(each) for each in pool.servers}
        strange = [each for each in pool.disabled if address(each) not in known]
        if strange:
            yield at, "disabled", strange[0], "one of the pool's servers"
        if pool.probe == "tcp" and not (pool.port or pool.probe_port):
            yield at, "probe_port", 0, "the port that is asked, as the pool has no port of its own"
        if pool.timeout_ms > pool.interval_ms:
            yield at, "timeout_ms", pool.timeout_ms, f"interval_ms = {pool.interval_ms} at most"


def rule_problems(
    rules: Sequence[Persistence], pools: Mapping[str, Pool]
) -> Iterator[tuple[int, str, Any, str]]:
    """The same of persistence rules."""
    taken: list[tuple[str, int, Network, int]] = []
    for at, rule in enumerate(rules):
        if not rule.in_kernel:
            for key in ("vips", "port", "prefix_length", "pool"):
                if getattr(rule, key):
                    yield (
                        at,
                        key,
                        _plain(getattr(rule, key)),
                        "left out: opaque entries are a proxy's",
                    )
            continue
        yield from ((at, *rest) for rest in _kernel_problems(rule, pools))
        for text in rule.vips:
            found = network(text)
            if found is None:
                continue
            for protocol, port, other, number in taken:
                if (protocol, port) != (rule.protocol, rule.port):
                    continue
                if other.version == found.version and other.overlaps(found):
                    right = f"an address that persistence {rules[number].name} has not got already"
                    yield at, "vips", text, right
            taken.append((rule.protocol, rule.port, found, at))


def _kernel_problems(
    rule: Persistence, pools: Mapping[str, Pool]
) -> Iterator[tuple[str, Any, str]]:
    if not rule.vips:
        yield "vips", [], "one address at least"
    if not rule.port:
        yield "port", 0, "the port that clients ask for"
    wrong = [each for each in rule.vips if network(each) is None]
    if wrong:
        yield "vips", wrong[0], "an IPv4 or IPv6 address, or a network without host bits"
    elif len({each.version for each in map(network, rule.vips) if each is not None}) > 1:
        yield "vips", list(rule.vips), "of one family; another rule does the other"
    if rule.version == 6 and rule.kind == "source-destination":
        # nft 1.0.6 of Debian 12 has no registers for a key of 32 bytes beside a value.
        yield "kind", rule.kind, "source or source-prefix, for addresses of IPv6"
    if rule.prefix_length and rule.kind != "source-prefix":
        yield "prefix_length", rule.prefix_length, "left out, but for kind source-prefix"
    if rule.version == 4 and rule.prefix_length > 32:
        yield "prefix_length", rule.prefix_length, "32 at most"
    if rule.pool not in pools:
        yield "pool", rule.pool, "the name of a [[pool]]"
    elif rule.version and not pools[rule.pool].of(rule.version):
        yield "pool", rule.pool, f"a pool with IPv{rule.version} servers"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
