# SPDX-License-Identifier: Apache-2.0
"""What a row of a shared document is filed under, and what it is called."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from twinbeat.config.model import SECTIONS
from twinbeat.config.service import RouteSection, RuleSection, VridSection

ONLY: Final = ""
"""Identity of the one row of a section that isn't an array."""

_ANY_MARK: Final = (0, 0xFFFFFFFF)


def identity(section: str, row: Mapping[str, Any]) -> str:
    """What a row of a shared section is filed under.

    Raises KeyError for a section that isn't known and msgspec.ValidationError for a row whose keys
    are not as the model has them.
    """
    return identity_of(section, msgspec.convert(dict(row), SECTIONS[section][1]))


def where_of(section: str, name: str) -> str:
    """What a row is called wherever people read of it: `vrid 51`, `timers`."""
    return f"{section} {name}".rstrip()


def identity_of(section: str, table: Struct) -> str:
    """The same of a table that was read."""
    if not SECTIONS[section][2]:
        return ONLY
    match table:
        case VridSection():
            return str(table.id)
        case RouteSection():
            return f"{_destination(table)} table {table.table} metric {table.metric}"
        case RuleSection():
            return _selector(table)
        case _:
            return str(getattr(table, "name", ONLY))


def _destination(route: RouteSection) -> str:
    """As `check` has it: of two default routes in different families neither is the other."""
    if route.destination == "default":
        return "::/0" if ":" in route.gateway else "0.0.0.0/0"
    return route.destination


def _selector(rule: RuleSection) -> str:
    """Every key of it, for any of them makes it another rule."""
    parts = [str(rule.priority)]
    if rule.source:
        parts.append(f"from {rule.source}")
    if rule.destination:
        parts.append(f"to {rule.destination}")
    if (rule.fwmark, rule.fwmask) != _ANY_MARK:
        parts.append(f"fwmark {rule.fwmark:#x}/{rule.fwmask:#x}")
    if rule.interface:
        parts.append(f"iif {rule.interface}")
    if rule.family != "auto":
        parts.append(f"family {rule.family}")
    return " ".join([*parts, f"table {rule.table}"])
