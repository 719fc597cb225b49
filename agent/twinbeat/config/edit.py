# SPDX-License-Identifier: Apache-2.0
"""What an operator types to change the shared configuration, and the changes that it means.

A row is called by its first key (`vrid 51`, `route 10.0.0.0/8`), values are written as the file has
them, and what the model says of a key decides how its value is read. Only what is wrong with the
words is found here: whether the result can be used is for `examine` to say, on both nodes.
"""

import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo

from twinbeat.config.fields import fields_of
from twinbeat.config.model import SECTIONS
from twinbeat.config.problems import did_you_mean, show
from twinbeat.config.rows import ONLY, identity, where_of
from twinbeat.config.scopes import FILE_KEYS, LOCAL_KEYS, SHARED
from twinbeat.config.structure import right
from twinbeat.config.timers import TIMER_KEYS
from twinbeat.sync.document import Change, Expect, Put, Remove, Row, Tables

KINDS: Final = tuple(section for section in SECTIONS if section in SHARED)
"""Sections that can be changed, in the order of the file."""

MEMBERS: Final = {
    "vip": ("vrid", "vips"),
    "neighbour": ("vrid", "neighbours"),
    "uplink": ("vrid", "uplinks"),
    "interface": ("linkset", "interfaces"),
    "path": ("file", "paths"),
    "server": ("pool", "servers"),
}
"""What is bound to a row -> the row's section and the list that it is an item of."""

IDENTIFYING: Final = {
    "route": ("destination", "table", "metric"),
    "rule": tuple(field.encode_name for field in fields_of(SECTIONS["rule"][1])),
}
"""Keys that make a row the one it is, where it isn't the first alone."""

ALONE: Final = frozenset({"vip"})
"""Members that belong to one row only: bound to another, they leave the one before."""

_UNITS: Final = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
"""In microseconds."""
_NAMED_MOST: Final = 8


class EditError(Exception):
    """The words can't be carried out. The text is a sentence for whoever typed them."""


# ---------------------------------------------------------------------------- whole rows ---------


def add(tables: Tables, section: str, words: Sequence[str]) -> tuple[Change, ...]:
    """A row that isn't there yet: `51 interface=lan0`."""
    if not SECTIONS[section][2]:
        raise EditError(f"{section} is there always: `twinbeat set {section} KEY=VALUE`")
    name, rest = _called(words)
    row = _assigned(section, name or "", rest)
    lead = lead_of(section)
    if name is not None:
        if lead in row:
            raise EditError(f"{section} {name}: {lead} is given twice")
        row = {lead: _typed(section, name, lead, name)} | row
    where = where_of(section, f"{row.get(lead, '')}")
    for field in fields_of(SECTIONS[section][1]):
        if field.required and field.encode_name not in row:
            raise EditError(f"{where}: {field.encode_name} is missing. It is {right(field.type)}.")
    return (Put(section=section, identity=_filed(section, row), row=row, expect=Expect.ABSENT),)


def change(tables: Tables, section: str, words: Sequence[str]) -> tuple[Change, ...]:
    """Keys of a row that is there get other values: `51 monitor=false`."""
    if not SECTIONS[section][2]:
        new = _assigned(section, "", words)
        if not new:
            raise EditError(f"say what is to be set: {_keys_of(section)}")
        row = tables.get(section, {}).get(ONLY, {}) | new
        return (Put(section=section, identity=ONLY, row=row),)
    name, rest = _called(words)
    if name is None:
        raise EditError(f"say which: `twinbeat set {section} {lead_of(section).upper()} KEY=VALUE`")
    new = _assigned(section, name, rest)
    fixed = identifying(section)
    chosen = {key: new.pop(key) for key in fixed if key in new}
    found = find(tables, section, name, chosen)
    if not new:
        what = "every key identifies it" if set(fixed) >= set(_known(section)) else "nothing is set"
        raise EditError(f"{where_of(section, found)}: {what}: remove it and add another")
    return (_put(tables, section, found, tables[section][found] | new),)


def unset(tables: Tables, section: str, words: Sequence[str]) -> tuple[Change, ...]:
    """Keys of a row have their defaults again: `51 monitor`; of `timers` all, if none is named."""
    name, found, keys = None, ONLY, list(words)
    if SECTIONS[section][2]:
        if not keys:
            raise EditError(f"say which: `twinbeat unset {section} NAME KEY`")
        name, *keys = keys
        found = find(tables, section, name, {})
    if not keys and section == "timers":
        keys = list(TIMER_KEYS)
    if not keys:
        raise EditError(f"say what is to be unset: {_keys_of(section)}")
    row = dict(tables.get(section, {}).get(found, {}))
    for word in keys:
        key, _ = _key(section, name or "", word)
        if key in identifying(section) or _field(section, key).required:
            raise EditError(f"{where_of(section, found)}: {key} has no default")
        row.pop(key, None)
    if not row:
        there = found in tables.get(section, {})
        return (Remove(section=section, identity=found),) if there else ()
    return (_put(tables, section, found, row),)


def remove(tables: Tables, section: str, words: Sequence[str]) -> tuple[Change, ...]:
    """A row goes: `51`; of several that are called so, the one with these keys."""
    if not SECTIONS[section][2]:
        raise EditError(f"{section} can't be removed: `twinbeat unset {section} KEY`")
    name, rest = _called(words)
    if name is None:
        raise EditError(f"say which: `twinbeat rm {section} {lead_of(section).upper()}`")
    found = find(tables, section, name, _assigned(section, name, rest))
    return (Remove(section=section, identity=found),)


# ------------------------------------------------------------------------------- members ---------


def bind(
    tables: Tables, kind: str, words: Sequence[str], *, fresh: bool = False
) -> tuple[Change, ...]:
    """Items belong to a row from now on: `192.0.2.10 vrid 51`.

    With `fresh` they must not belong to any yet; without it nothing happens where they do already.
    """
    section, key = MEMBERS[kind]
    items, name = _items(kind, words)
    target = find(tables, section, name, {}) if name else _only(tables, section)
    rows: dict[str, Row] = {target: tables[section][target]}
    for item in items:
        for other in tables[section]:
            row = rows.get(other, tables[section][other])
            held = list(row.get(key, ()))
            there = [each for each in held if _same(kind, each, item)]
            if there and fresh:
                hint = f"; `twinbeat bind {kind} {item} {section} {target}` moves it"
                where = where_of(section, other)
                raise EditError(f"{item} is in {where} already{hint if other != target else ''}")
            if there and other != target and kind in ALONE:
                rows[other] = row | {key: [each for each in held if each not in there]}
            if not there and other == target:
                rows[other] = row | {key: [*held, item]}
    return tuple(_put(tables, section, name, row) for name, row in rows.items())


def unbind(tables: Tables, kind: str, words: Sequence[str]) -> tuple[Change, ...]:
    """Items belong to a row, or to any, no longer: `192.0.2.10`, `192.0.2.10 vrid 51`."""
    section, key = MEMBERS[kind]
    items, name = _items(kind, words)
    among = [find(tables, section, name, {})] if name else list(tables.get(section, {}))
    rows: dict[str, Row] = {}
    for item in items:
        holding = [
            row
            for row in among
            if any(_same(kind, each, item) for each in tables[section][row].get(key, ()))
        ]
        if not holding:
            where = where_of(section, among[0]) if name else f"any {section}"
            raise EditError(f"{item} is not in {where}")
        for found in holding:
            row = rows.get(found, tables[section][found])
            kept = [each for each in row[key] if not _same(kind, each, item)]
            rows[found] = row | {key: kept}
    return tuple(_put(tables, section, found, row) for found, row in rows.items())


def switch(tables: Tables, words: Sequence[str], *, on: bool) -> tuple[Change, ...]:
    """Servers are used, or not: `10.88.0.21`, in every pool, or `10.88.0.21 pool web`."""
    items, name = _items("server", words)
    among = [find(tables, "pool", name, {})] if name else list(tables.get("pool", {}))
    rows: dict[str, Row] = {}
    for item in items:
        holding = [
            found
            for found in among
            if any(_same("server", each, item) for each in tables["pool"][found].get("servers", ()))
        ]
        if not holding:
            where = where_of("pool", among[0]) if name else "any pool"
            raise EditError(f"{item} is not in {where}")
        for found in holding:
            row = rows.get(found, tables["pool"][found])
            others = [each for each in row.get("disabled", ()) if not _same("server", each, item)]
            rows[found] = row | {"disabled": others if on else [*others, item]}
    return tuple(_put(tables, "pool", found, row) for found, row in rows.items())


def _items(kind: str, words: Sequence[str]) -> tuple[list[str], str]:
    """What is meant, and the row: `vrid 51` or `vrid=51` behind it, or an empty string."""
    section, _ = MEMBERS[kind]
    items, name = list(words), ""
    for number, word in enumerate(words):
        if word.startswith(f"{section}="):
            name, items = word.partition("=")[2], [*words[:number], *words[number + 1 :]]
        elif word == section and number and number + 2 == len(words):
            name, items = words[number + 1], list(words[:number])
    if not items:
        raise EditError(f"say which: `{kind} {kind.upper()} {section} NAME`")
    return [_item(kind, item) for item in items], name


def _item(kind: str, text: str) -> str:
    """An item as the document has it. Raises EditError for what can't be one."""
    section, key = MEMBERS[kind]
    if "=" in text and kind != "path":
        raise EditError(f"{text} is no {kind}; the row is called by `{section} NAME`")
    if kind == "vip":
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            wrong = "is no IPv4 or IPv6 address; it has no prefix length"
            raise EditError(f"vip {text} {wrong}") from None
    field = _field(section, key)
    (item,) = _converted(f"{kind} {text}", [text], field, text)
    return str(item)


def _same(kind: str, one: str, other: str) -> bool:
    if kind in {"vip", "neighbour", "server"}:
        try:
            return ipaddress.ip_address(one) == ipaddress.ip_address(other)
        except ValueError:
            pass
    return one == other


def _only(tables: Tables, section: str) -> str:
    there = list(tables.get(section, {}))
    if len(there) == 1:
        return there[0]
    if not there:
        raise EditError(f"there is no {section} yet: `twinbeat add {section}` makes one")
    raise EditError(f"say which {section}: {_listed(there)}")


# ------------------------------------------------------------------------------ which row --------


def lead_of(section: str) -> str:
    """The key that people call a row by: the model's first."""
    return fields_of(SECTIONS[section][1])[0].encode_name


def identifying(section: str) -> tuple[str, ...]:
    """Keys that can't be changed, as that would make it another row."""
    if not SECTIONS[section][2]:
        return ()
    return IDENTIFYING.get(section, (lead_of(section),))


def find(tables: Tables, section: str, name: str, given: Mapping[str, Any]) -> str:
    """The identity of the row that is called so and has these values."""
    rows = tables.get(section, {})
    if name in rows and not given:
        return name
    lead = lead_of(section)
    found = [
        filed
        for filed, row in rows.items()
        if (name == filed or _equal(f"{row.get(lead, '')}", name))
        and all(_value_of(section, row, key) == value for key, value in given.items())
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        names = [f"{row.get(lead, '')}" for row in rows.values()]
        hint = did_you_mean(name, names) or (f" There is {_listed(names)}." if names else "")
        keys = "".join(f" {key}={show(value)}" for key, value in given.items())
        raise EditError(f"there is no {section} {name}{keys}.{hint}")
    raise EditError(
        f"several are called {section} {name}: {_listed(found)}. Say which by KEY=VALUE, or by "
        "the whole of it in quotes."
    )


def _equal(one: str, other: str) -> bool:
    try:
        return ipaddress.ip_network(one, strict=False) == ipaddress.ip_network(other, strict=False)
    except ValueError:
        return one == other


def _value_of(section: str, row: Row, key: str) -> Any:
    value = row.get(key, _field(section, key).default)
    return list(value) if isinstance(value, tuple) else value


def _filed(section: str, row: Row) -> str:
    try:
        return identity(section, row)
    except msgspec.ValidationError as error:  # Each value was looked at alone before.
        raise EditError(f"{section}: {error}") from error


def _put(tables: Tables, section: str, found: str, row: Row) -> Put:
    """The row as it is to be; lists that are empty by default are left out when they are."""
    defaults = {field.encode_name: field.default for field in fields_of(SECTIONS[section][1])}
    kept = {key: value for key, value in row.items() if value != [] or defaults.get(key) != ()}
    expect = Expect.PRESENT if found in tables.get(section, {}) else Expect.ANY
    return Put(section=section, identity=found, row=kept, expect=expect)


def _called(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The row's name, if the words begin with one, and the rest."""
    if words and "=" not in words[0]:
        return words[0], list(words[1:])
    return None, list(words)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_MOST
    return "; ".join(names[:_NAMED_MOST]) + (f"; and {more} more" if more > 0 else "")


# ------------------------------------------------------------------------- keys and values -------


def assigned(section: str, words: Sequence[str]) -> Row:
    """The values of `KEY=VALUE` words. Raises EditError for the first that is wrong."""
    return _assigned(section, "", words)


def _assigned(section: str, name: str, words: Sequence[str]) -> Row:
    row: Row = {}
    where = where_of(section, name)
    for word in words:
        written, sign, text = word.partition("=")
        if not sign:
            raise EditError(f"{where}: {word} is no KEY=VALUE. {_keys_of(section)}.")
        key, unit = _key(section, name, written)
        if key in row:
            raise EditError(f"{where}: {key} is given twice")
        if unit:
            value = _length(where, key, text)
            row[key] = _converted(f"{where}: {written}", value, _field(section, key), text)
        else:
            row[key] = _typed(section, name, key, text)
    return row


def _key(section: str, name: str, written: str) -> tuple[str, bool]:
    """The model's key; and whether its unit is to stand behind the value."""
    known = _known(section)
    where = where_of(section, name)
    if written in LOCAL_KEYS.get(section, ()):
        raise EditError(f"{where}: {written} is each node's own: it belongs into the node's file")
    if written in FILE_KEYS.get(section, ()):
        raise EditError(f"{where}: {written} names a file of one node: give what is in it")
    if written in known:
        return written, False
    for unit in _UNITS:
        if f"{written}_{unit}" in known:
            return f"{written}_{unit}", True
    hint = did_you_mean(written, known)
    raise EditError(f"{where}: {written} is not a key.{hint or f' {_keys_of(section)}.'}")


def _length(where: str, key: str, text: str) -> int:
    """`20ms` in the unit of the key."""
    stem, _, unit = key.rpartition("_")
    found = re.fullmatch(r"([0-9]{1,12})(us|ms|s|m|h)", text)
    if found is None:
        raise EditError(
            f"{where}: {stem} = {text} is no length such as {stem}=20{unit}; without a unit it is "
            f"{key}=20"
        )
    whole, rest = divmod(int(found[1]) * _UNITS[found[2]], _UNITS[unit])
    if rest:
        raise EditError(f"{where}: {stem} = {text} is no whole number of {unit}")
    return whole


def _typed(section: str, name: str, key: str, text: str) -> Any:
    """The value that a text is, by the type of its key."""
    field = _field(section, key)
    where = f"{where_of(section, name)}: {key}"
    kind = _plain(field.type)
    value: Any = text
    if kind is bool:
        value = {"true": True, "false": False}.get(text, text)
    elif kind is int:
        value = _integer(text)
    elif get_origin(kind) is tuple:
        value = _list(where, kind, text)
        if (section, key) == MEMBERS["vip"]:
            value = [_item("vip", each) for each in value]
    return _converted(where, value, field, text)


def _converted(where: str, value: Any, field: FieldInfo, text: str) -> Any:
    """The value, if the model allows it, as JSON has it."""
    try:
        found = msgspec.convert(value, field.type, strict=True)
        return list(found) if isinstance(found, tuple) else found
    except msgspec.ValidationError:
        unit = field.encode_name.rpartition("_")[2]
        hint = ""
        if unit in _UNITS and re.fullmatch(r"[0-9]+[a-z]+", text):
            stem = field.encode_name.removesuffix(f"_{unit}")
            hint = f" It is in {unit} already; {stem}={text} takes a unit."
        raise EditError(f"{where} = {show(text)} should be {right(field.type)}.{hint}") from None


def _list(where: str, kind: Any, text: str) -> list[Any]:
    """`a,b`, or an array as the file has it where an item has a comma in it."""
    if text.startswith("["):
        try:
            return list(tomllib.loads(f"list = {text}")["list"])
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise EditError(f"{where} = {show(text)} is no array: {error}") from None
    items: list[Any] = [item for item in text.split(",") if item]
    return [_integer(item) for item in items] if _plain(get_args(kind)[0]) is int else items


def _integer(text: str) -> int | str:
    try:
        return int(text, 0)
    except ValueError:
        return text


def _plain(type_: Any) -> Any:
    """A type without what is said of it, and without None."""
    while True:
        arguments = get_args(type_)
        if get_origin(type_) is Annotated:
            type_ = arguments[0]
        elif get_origin(type_) is not Literal and type(None) in arguments:
            type_ = next(part for part in arguments if part is not type(None))
        else:
            return type_


def _field(section: str, key: str) -> FieldInfo:
    model: type[Struct] = SECTIONS[section][1]
    return next(field for field in fields_of(model) if field.encode_name == key)


def _known(section: str) -> list[str]:
    return [field.encode_name for field in fields_of(SECTIONS[section][1])]


def settable(section: str) -> list[str]:
    """Keys that a command can give a value."""
    own = LOCAL_KEYS.get(section, frozenset()) | FILE_KEYS.get(section, frozenset())
    return [key for key in _known(section) if key not in own]


def values_of(section: str, key: str) -> list[str]:
    """What a key may be, where that can be listed."""
    kind = _plain(_field(section, key).type)
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is tuple:
        kind = _plain(get_args(kind)[0])
    return [f"{value}" for value in get_args(kind)] if get_origin(kind) is Literal else []


def _keys_of(section: str) -> str:
    return f"Its keys: {', '.join(settable(section))}"
