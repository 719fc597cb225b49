# SPDX-License-Identifier: Apache-2.0
"""What differs between two configurations, and what of it only a restart puts into force.

A reload is all or nothing: the new file is loaded and checked as a whole before anything changes,
and where it can't be used the old configuration stays in force untouched.
"""

import hashlib
from functools import cache
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from twinbeat.config.fields import fields_of
from twinbeat.config.model import SECTIONS, Config
from twinbeat.config.problems import show
from twinbeat.config.scopes import DEVICE_KEYS, FILE_KEYS, LOCAL_KEYS, SHARED
from twinbeat.config.service import RouteSection, RuleSection, route_destination

_Flat = dict[str, tuple[str, bool]]
"""Path of a key -> its value as shown, and whether it needs a restart."""


class Change(Struct, frozen=True, kw_only=True):
    """One key whose value differs. None stands for a table that is only in the other file."""

    key: str
    before: str | None
    after: str | None
    restart: bool
    """Takes effect only when the agent is started again."""

    def __str__(self) -> str:
        how = "after a restart" if self.restart else "now"
        return f"{self.key}: {self.before or 'absent'} -> {self.after or 'absent'} ({how})"


def compare(before: Config, after: Config) -> list[Change]:
    """Every key that differs, in the order of the file.

    Links, VRIDs and routes are matched by what identifies them, so that reordering VRIDs is no
    change. Links that have no number of their own are numbered by their order, so reordering those
    changes their numbers.
    """
    if before == after:
        return []
    changes = []
    for section, (attribute, model, many) in SECTIONS.items():
        was, is_ = getattr(before, attribute), getattr(after, attribute)
        # Writing out every key takes most of the time, and most sections are as they were.
        if was != is_:
            of_section = (section, model, many)
            if many:
                was, is_ = _others(was, is_), _others(is_, was)
            changes += _differences(_flat(was, *of_section), _flat(is_, *of_section))
    return changes


def _others(tables: Any, than: Any) -> list[Any]:
    """Those of an array that aren't the same in the other one."""
    there = {_identity(table): table for table in than}
    return [table for table in tables if there.get(_identity(table)) != table]


def _differences(old: _Flat, new: _Flat) -> list[Change]:
    changes = []
    for key in dict.fromkeys([*old, *new]):
        was, is_ = old.get(key), new.get(key)
        if was != is_:
            # A table that comes or goes does so at once, whatever its keys ask for otherwise.
            restart = was is not None and is_ is not None and was[1]
            changes.append(
                Change(
                    key=key,
                    before=was[0] if was else None,
                    after=is_[0] if is_ else None,
                    restart=restart,
                )
            )
    return changes


Said = dict[str, tuple[Any, list[str]]]
"""By section, what its tables say, and of which tables that is."""


def digest(config: Config, *, whole: bool = False, said: Said | None = None) -> int:
    """32 bits over all that must be the same on both nodes; travels in every heartbeat.

    Names, addresses and interfaces of the nodes differ by nature and are left out. `whole` is over
    everything that a shared document says; without one, monitors and the like are each node's own
    affair. ``said`` is kept for the next time: of tables that are the same then nothing is to be
    worked out.
    """
    shared: dict[str, Any] = {
        "pair": config.pair.id,
        "links": [link.number for link in config.heartbeat_links],
        "timers": msgspec.to_builtins(config.timers),
        "vrids": sorted((vrid.id, vrid.vmac, sorted(vrid.vips)) for vrid in config.vrids),
        "policy": [
            config.policy.strict,
            config.policy.fail_safe,
            config.policy.stall,
            config.policy.claim_alone,
        ],
        "witness": [
            config.witness.kind,
            sorted(config.witness.endpoints),
            config.witness.prefix,
            config.witness.lease_ms,
            config.witness.without,
        ],
    }
    if whole:
        known: Said = {} if said is None else said
        shared["document"] = {section: _known_rows(config, section, known) for section in SHARED}
    packed = msgspec.json.encode(shared, order="deterministic")
    return int.from_bytes(hashlib.blake2s(packed, digest_size=4).digest(), "big")


def _known_rows(config: Config, section: str, known: Said) -> list[str]:
    value = getattr(config, SECTIONS[section][0])
    if section not in known or known[section][0] is not value:
        known[section] = value, _shared_rows(config, section)
    return known[section][1]


def _shared_rows(config: Config, section: str) -> list[str]:
    """What the tables of a shared section say, in any order. A release that has further keys says
    the same as long as nobody uses them."""
    attribute, model, many = SECTIONS[section]
    own = {*LOCAL_KEYS.get(section, ()), *FILE_KEYS.get(section, ())}
    own |= {*DEVICE_KEYS.get(section, ())}
    value = getattr(config, attribute)
    rows = []
    for table in value if many else (value,):
        said = {
            field.encode_name: getattr(table, field.name)
            for field in fields_of(model)
            if field.encode_name not in own and getattr(table, field.name) != field.default
        }
        if "vips" in said:
            said["vips"] = sorted(said["vips"])
        rows.append(msgspec.json.encode(said, order="deterministic").decode())
    return sorted(rows)


def _flat(value: Any, section: str, model: type[Struct], many: bool) -> _Flat:
    tables = [(f"{section}[{_identity(table)}]", table) for table in value] if many else []
    flat: _Flat = {}
    for path, table in tables or ([] if many else [(section, value)]):
        for field in fields_of(model):
            content = getattr(table, field.name)
            if isinstance(content, dict):
                flat |= {f"{path}.{name}": (show(part), False) for name, part in content.items()}
                continue
            # Hashed besides, as a long list is shown shortened.
            shown = show(list(content) if isinstance(content, tuple) else content)
            mark = "" if len(shown) < 80 else f" #{_mark(content)}"
            flat[f"{path}.{field.encode_name}"] = (shown + mark, needs_restart(field.type))
    return flat


def _mark(content: Any) -> str:
    return hashlib.blake2s(repr(content).encode(), digest_size=4).hexdigest()


def _identity(table: Any) -> str:
    """What no other table of its section has: `check` refuses those that are the same."""
    match table:
        case Struct(name=name):  # type: ignore[misc]
            return str(name)
        case Struct(id=number):  # type: ignore[misc]
            return str(number)
        case RuleSection():
            mark = f"{table.fwmark}/{table.fwmask}"
            selector = f"{table.source}-{table.destination}-{mark}-{table.interface}"
            return f"{table.priority} {selector} {table.family} table {table.table}"
        case _:
            metric = f" metric {table.metric}" if table.metric else ""
            ipv6 = " (IPv6)" if table.destination == "default" and _is_ipv6(table) else ""
            return f"{table.destination}{ipv6} table {table.table}{metric}"


def _is_ipv6(route: RouteSection) -> bool:
    return ":" in route_destination(route)


@cache
def needs_restart(type_: Any) -> bool:
    """Whether the model says so of a key of this type."""
    if get_origin(type_) is Annotated:
        metas = [meta for meta in get_args(type_)[1:] if isinstance(meta, Meta)]
        return any(bool(meta.extra and meta.extra.get("restart")) for meta in metas)
    return any(needs_restart(part) for part in get_args(type_))
