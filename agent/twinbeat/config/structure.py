# SPDX-License-Identifier: Apache-2.0
"""The first pass over tables: each key converted on its own against the model.

One wrong value hides no other, and says what would be right. It knows types only; what they can't
say is `check`'s, whose rules and programs nobody has to load who only wants to know what a key is.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo

from twinbeat.config.fields import ANY_NAME, fields_of, free_key
from twinbeat.config.model import SECTIONS
from twinbeat.config.nodes import InterfacesSection
from twinbeat.config.problems import Findings, did_you_mean


def refuse_unknown_sections(tables: Mapping[str, Any], findings: Findings) -> None:
    """Name every section that the model does not have."""
    for name, value in tables.items():
        if name not in SECTIONS:
            _unknown(name, value, list(SECTIONS), findings)


def read_section(section: str, value: Any, findings: Findings) -> tuple[Struct | None, ...]:
    """The tables of a section as structs, with None for each in which something is wrong."""
    _, model, many = SECTIONS[section]
    if not many:
        return (_table(value, model, section, findings),)
    if not isinstance(value, list):
        findings.add(section, value, f"is an array of tables: write [[{section}]].")
        return ()
    return tuple(
        _table(table, model, f"{section}[{number}]", findings) for number, table in enumerate(value)
    )


def read_sections(
    data: Mapping[str, Any], findings: Findings, known: Callable[[str], Any] = lambda _: None
) -> tuple[dict[str, Any], set[str]]:
    """Arguments for `Config`, and the names of those sections whose structure is sound.

    ``known`` gives what needn't be read, or None.
    """
    sections: dict[str, Any] = {}
    sound: set[str] = set()
    refuse_unknown_sections(data, findings)
    for name, (attribute, _, many) in SECTIONS.items():
        if (found := known(attribute)) is not None:
            sections[attribute] = found
            sound.add(attribute)
            continue
        before = len(findings.problems)
        tables = read_section(name, data.get(name, [] if many else {}), findings)
        sections[attribute] = tables if many else tables[0]
        if len(findings.problems) == before:
            sound.add(attribute)
    return sections, sound


def _table(table: Any, model: type[Struct], path: str, findings: Findings) -> Struct | None:
    """One table as its struct, or None when something in it is wrong."""
    if not isinstance(table, dict):
        findings.add(path, table, f"is a table: write [{path}] and its keys below.")
        return None
    if not free_key(model):
        # What is sound is found so in one go; only of what isn't each key is looked at.
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.convert(table, model, strict=True)
    before = len(findings.problems)
    known = {field.encode_name: field for field in fields_of(model)}
    if free_key(model):
        return _named(table, known[ANY_NAME], path, findings)
    for key, value in table.items():
        if key not in known:
            _unknown(f"{path}.{key}", value, list(known), findings)
    values: dict[str, Any] = {}
    for key, field in known.items():
        where = f"{path}.{key}"
        if key not in table:
            if field.required:
                findings.add(where, None, f"is missing. It is {right(field.type)}.")
            continue
        try:
            values[key] = msgspec.convert(table[key], field.type, strict=True)
        except msgspec.ValidationError:
            findings.add(where, table[key], f"should be {right(field.type)}.")
    return model(**values) if len(findings.problems) == before else None


def _named(table: dict[str, Any], field: FieldInfo, path: str, findings: Findings) -> Struct | None:
    """A table whose keys are names, and not those of the model."""
    name_type, value_type = get_args(get_args(field.type)[0])
    before = len(findings.problems)
    for name, value in table.items():
        try:
            msgspec.convert(name, name_type)
        except msgspec.ValidationError:
            findings.add(path, name, f"should be {right(name_type)}, or a name that looks so.")
        try:
            msgspec.convert(value, value_type)
        except msgspec.ValidationError:
            findings.add(f"{path}.{name}", value, f"should be {right(value_type)}.")
    if len(findings.problems) > before:
        return None
    return InterfacesSection(device_of=dict(table))


def _unknown(path: str, value: Any, known: list[str], findings: Findings) -> None:
    section, _, key = path.rpartition(".")
    hint = did_you_mean(key, known)
    if not hint:
        home = [
            name
            for name, (_, model, _) in SECTIONS.items()
            if key in {field.encode_name for field in fields_of(model)}
        ]
        if home and home[0] != section:
            hint = f" It belongs to [{home[0]}]."
    # The value of a key that is not known could be anything, even a secret in the wrong place.
    shown = value if isinstance(value, bool | int) else None
    findings.add(path, shown, f"is not a key.{hint}" if section else f"is not a section.{hint}")


def right(type_: Any) -> str:
    """What a value of this type looks like, for the end of a sentence."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Annotated:
        base, *metas = arguments
        return _right_annotated(base, [meta for meta in metas if isinstance(meta, Meta)])
    if origin is Literal:
        return "one of " + ", ".join(f'"{value}"' for value in arguments)
    if origin is tuple:
        return f"a list, each of it {right(arguments[0])}"
    if arguments and type(None) in arguments:
        return right(next(part for part in arguments if part is not type(None)))
    names = {int: "an integer", str: "a string", bool: "true or false"}
    return names[type_]


def _right_annotated(base: Any, metas: list[Meta]) -> str:
    for meta in reversed(metas):
        if meta.extra and "right" in meta.extra:
            return str(meta.extra["right"])
    text = right(base)
    for meta in metas:
        if meta.ge is not None and meta.le is not None:
            text += f" from {meta.ge} to {meta.le}"
        if meta.max_length is not None:
            text += f", {meta.max_length} at most"
    return text
