# SPDX-License-Identifier: Apache-2.0
"""How two sets of shared tables differ, for people: one line per row."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from twinbeat.config.problems import show
from twinbeat.config.rows import where_of
from twinbeat.sync.document import Change, Put, Remove, Row, Tables

_ITEMS_MOST: Final = 8


def lines(before: Tables, changes: Sequence[Change]) -> Iterator[str]:
    """`+` for a row that comes, `-` for one that goes, `~` for one that is different."""
    for change in changes:
        where = where_of(change.section, change.identity)
        old = before.get(change.section, {}).get(change.identity)
        match change:
            case Remove():
                yield f"- {where}"
            case Put(row=row) if old is None:
                keys = ", ".join(f"{key} = {show(value)}" for key, value in row.items())
                yield f"+ {where}: {keys}"
            case Put(row=row) if old != row:
                yield f"~ {where}: {'; '.join(_keys(old, row))}"


def _keys(old: Row, new: Row) -> Iterator[str]:
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, list) and isinstance(after, list):
            yield f"{key} {_items(before, after)}"
        elif key not in new:
            yield f"{key} = {show(before)} -> its default"
        elif key not in old:
            yield f"{key} = {show(after)}"
        else:
            yield f"{key} = {show(before)} -> {show(after)}"


def _items(before: list[Any], after: list[Any]) -> str:
    held, wanted = set(map(show, before)), set(map(show, after))
    gone = [item for item in map(show, before) if item not in wanted]
    come = [item for item in map(show, after) if item not in held]
    parts = [f"{sign} {_some(items)}" for sign, items in (("+", come), ("-", gone)) if items]
    return " ".join(parts) or "in another order"


def _some(items: list[str]) -> str:
    more = len(items) - _ITEMS_MOST
    return ", ".join(items[:_ITEMS_MOST]) + (f" and {more} more" if more > 0 else "")
