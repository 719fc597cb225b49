# SPDX-License-Identifier: Apache-2.0
"""Lines of virtual_routes and virtual_rules as rows of [[route]] and [[rule]].  Pure."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from twinbeat.config.keepalived.values import address, network, number

TABLES: Final = {"main": 254, "default": 253, "local": 255}
"""Names of routing tables that every host has (rt_tables of iproute2)."""

_ROUTE_KEYS: Final = {
    "via": "gateway",
    "gw": "gateway",
    "dev": "interface",
    "src": "source",
    "table": "table",
    "metric": "metric",
    "mtu": "mtu",
}
_ROUTE_NOTHING: Final = frozenset({"to", "unicast", "inet", "inet6", "no_track"})
_ROUTE_PASSED_OVER: Final = frozenset({"scope", "proto", "protocol", "weight", "track_group"})
_RULE_KEYS: Final = {
    "from": "source",
    "to": "destination",
    "iif": "interface",
    "dev": "interface",
    "table": "table",
    "lookup": "table",
    "priority": "priority",
    "preference": "priority",
    "pref": "priority",
    "order": "priority",
    "fwmark": "fwmark",
}


class UnknownError(ValueError):
    """Something of the line has no key here; the message is the sentence that says what."""


def route(line: Iterable[str]) -> dict[str, Any]:
    """`[src A] [to] NETWORK [via|gw A] [dev I] [table T] [metric N] …`, as of `ip route`.

    Raises UnknownError.
    """
    words = list(line)
    row: dict[str, Any] = {}
    if words[0] in {"blackhole", "unreachable", "prohibit"}:
        row["type"] = words.pop(0)
    while words:
        word = words.pop(0)
        if word in _ROUTE_NOTHING:
            continue
        if word == "onlink":
            row["onlink"] = True
        elif word in _ROUTE_KEYS and words:
            row[_ROUTE_KEYS[word]] = words.pop(0)
        elif word in _ROUTE_PASSED_OVER and words:
            words.pop(0)
        elif "destination" not in row and (found := network(word)) is not None:
            row["destination"] = found
        else:
            raise UnknownError(f"`{word[:40]}` of a route has no key in [[route]].")
    if "destination" not in row:
        raise UnknownError("a route without a network that could be read.")
    _addresses(row, ("gateway", "source"), address)
    return _numbers(row, ("table", "metric", "mtu"))


def rule(line: Iterable[str]) -> dict[str, Any]:
    """`[from A] [to A] [iif I] [fwmark N[/M]] table T [priority N]`, as of `ip rule`.

    Raises UnknownError. Its priority may be missing.
    """
    words = list(line)
    row: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        if word == "no_track":
            continue
        if word not in _RULE_KEYS or not words:
            raise UnknownError(f"`{word[:40]}` of a rule has no key in [[rule]].")
        value = words.pop(0)
        if word == "fwmark" and "/" in value:
            value, _, row["fwmask"] = value.partition("/")
        if value != "all":
            row[_RULE_KEYS[word]] = value
    if "table" not in row:
        raise UnknownError("a rule without a table.")
    _addresses(row, ("source", "destination"), network)
    return _numbers(row, ("priority", "table", "fwmark", "fwmask"))


def _addresses(row: dict[str, Any], keys: Iterable[str], read: Callable[[str], str | None]) -> None:
    for key in keys:
        if key in row:
            found = read(row[key])
            if found is None:
                raise UnknownError(f"{row[key][:40]} is no {read.__name__}.")
            row[key] = found


def _numbers(row: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    for key in keys:
        if key not in row:
            continue
        value = TABLES.get(row[key]) if key == "table" else None
        value = number(row[key]) if value is None else value
        if value is None:
            hint = ": [[route]] and [[rule]] take its number" if key == "table" else ""
            raise UnknownError(f"{key} {row[key][:40]} is no number{hint}.")
        row[key] = value
    return row
