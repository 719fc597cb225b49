# SPDX-License-Identifier: Apache-2.0
"""The table of roles: every pair is walked, and the diagram in the docs is drawn from it."""

import pathlib

import pytest

from twinbeat.core import table
from twinbeat.core.table import TRANSITIONS, StateError, Turn, turn
from twinbeat.core.types import Role

DOCUMENT = pathlib.Path(__file__).parents[2] / "deploy" / "docs" / "states.md"
PAIRS = [(role, by) for role in Role for by in Turn]


@pytest.mark.parametrize(("role", "by"), PAIRS, ids=lambda each: each.name)
def test_a_pair_is_in_the_table_or_refused(role: Role, by: Turn) -> None:
    if (role, by) in TRANSITIONS:
        assert turn(role, by) is TRANSITIONS[role, by]
    else:
        with pytest.raises(StateError, match=role.name):
            turn(role, by)


def test_nothing_but_an_opening_makes_a_primary() -> None:
    for (before, by), after in TRANSITIONS.items():
        if after is Role.PRIMARY and before is not Role.PRIMARY:
            assert by is Turn.OPENED


def test_a_disabled_node_has_no_way_to_serve() -> None:
    reached = {after for (before, _), after in TRANSITIONS.items() if before is Role.DISABLED}
    assert reached == {Role.DISABLED, Role.SECONDARY}
    assert (Role.DISABLED, Turn.CLAIMED) not in TRANSITIONS
    assert (Role.DISABLED, Turn.OPENED) not in TRANSITIONS


def test_every_role_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS.values()) == set(Role)
    assert {before for before, _ in TRANSITIONS} == set(Role)


def test_the_document_shows_this_table() -> None:
    assert f"```mermaid\n{table.diagram()}\n```" in DOCUMENT.read_text()
