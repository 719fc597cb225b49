# SPDX-License-Identifier: Apache-2.0
"""The numbers of the core are those of the C headers, as the compiled module has them."""

import enum

import pytest

from twinbeat.core import types
from twinbeat.core.types import (
    Admin,
    Cause,
    EngineEventKind,
    Flag,
    Permit,
    Phase,
    Role,
    Watch,
)
from twinbeat.engine._engine import lib

PREFIXES: list[tuple[type[enum.IntEnum] | type[enum.IntFlag], str]] = [
    (Role, "TB_ROLE_"),
    (Admin, "TB_ADMIN_"),
    (Flag, "TB_F_"),
    (Phase, "TB_"),
    (Watch, "TB_"),
    (EngineEventKind, "TB_E_"),
    (Cause, "TB_C_"),
    (Permit, "TB_"),
]


@pytest.mark.parametrize(
    ("kind", "prefix"), PREFIXES, ids=lambda each: getattr(each, "__name__", each)
)
def test_members_have_the_numbers_of_the_header(
    kind: type[enum.IntEnum] | type[enum.IntFlag], prefix: str
) -> None:
    for member in kind:
        assert member.value == getattr(lib, f"{prefix}{member.name}"), member


@pytest.mark.parametrize(("kind", "prefix"), [row for row in PREFIXES if row[1] != "TB_"], ids=str)
def test_the_header_has_no_other_members(
    kind: type[enum.IntEnum] | type[enum.IntFlag], prefix: str
) -> None:
    names = {name.removeprefix(prefix) for name in dir(lib) if name.startswith(prefix)}
    assert names == {member.name for member in kind}


def test_forever_fits_into_a_word() -> None:
    assert 2**62 < types.FOREVER < 2**64
