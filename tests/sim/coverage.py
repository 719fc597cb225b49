# SPDX-License-Identifier: Apache-2.0
"""Which turns of the core's table came up: what a run really tried."""

from __future__ import annotations

from typing import Final

from twinbeat.core import table
from twinbeat.core.table import Turn
from twinbeat.core.types import Role

TURNS: Final[set[str]] = set()
"""Of the schedule that is played."""

_turn: Final = table.turn


def named(role: Role, by: Turn) -> str:
    """A turn as it is counted and printed."""
    return f"turn {role.name} {by.name}"


def _watched(role: Role, by: Turn) -> Role:
    after = _turn(role, by)
    TURNS.add(named(role, by))
    return after


table.turn = _watched
