# SPDX-License-Identifier: Apache-2.0
"""What every section of the configuration is described with."""

from functools import cache
from typing import Annotated, Any, Final

from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields

ANY_NAME: Final = "NAME"
"""Stands for whatever a key is called, in a section whose keys are names that the user chooses."""


def key(
    description: str,
    *,
    ge: int | None = None,
    le: int | None = None,
    pattern: str | None = None,
    max_length: int | None = None,
    example: Any = None,
    right: str | None = None,
    restart: bool = False,
) -> Meta:
    """What there is to say about a key. `right` describes what a pattern allows."""
    limits = {"ge": ge, "le": le, "pattern": pattern, "max_length": max_length}
    arguments: dict[str, Any] = {name: limit for name, limit in limits.items() if limit is not None}
    return Meta(
        description=description,
        examples=None if example is None else [example],
        extra={"restart": restart} | ({"right": right} if right else {}),
        **arguments,
    )


def named(pattern: str, right: str) -> Meta:
    """How something may be called, as a pattern and in words."""
    return Meta(pattern=pattern, extra={"right": right})


NodeName = Annotated[
    str, named(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$", "1 to 63 letters, digits, '-', '_' or '.'")
]
InterfaceName = Annotated[str, named(r"^[^\s/:]{1,15}$", "the name of a network interface")]


@cache
def fields_of(section: type[Struct]) -> tuple[FieldInfo, ...]:
    """The keys of a section. msgspec evaluates every annotation anew each time it is asked."""
    return fields(section)


@cache
def free_key(section: type[Struct]) -> bool:
    """Whether the keys of this section are names that the user chooses."""
    return any(known.encode_name == ANY_NAME for known in fields_of(section))
