# SPDX-License-Identifier: Apache-2.0
"""Reading a file into a `Config`, or into the list of everything that is wrong with it.

Three passes. Structure: each key of each table is converted on its own against the model, so one
wrong value hides no other. Meaning: the relations between keys, section by section, where the
structure of those sections is sound. Machine: interfaces, addresses, key files; left out offline.
"""

import contextlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo

from twinbeat.config import check
from twinbeat.config.fields import ANY_NAME, fields_of, free_key
from twinbeat.config.model import SECTIONS, Config
from twinbeat.config.nodes import InterfacesSection
from twinbeat.config.problems import ConfigError, Findings, Problem, did_you_mean
from twinbeat.config.system import Host, System

_FILE_MAX: Final = 1 << 20


def load(path: str | Path, *, offline: bool = False, system: System | None = None) -> Config:
    """The configuration in `path`.

    `offline` leaves out what only the machine it is for can answer: interfaces, addresses and key
    files. Raises ConfigError with all problems found; warnings alone do not raise.
    """
    config, problems = examine(path, offline=offline, system=system)
    if config is None:
        raise ConfigError(problems)
    return config


def examine(
    path: str | Path, *, offline: bool = False, system: System | None = None
) -> tuple[Config | None, list[Problem]]:
    """The configuration, or None where it can't be used, and every problem and warning."""
    try:
        data = parse(path)
    except ConfigError as error:
        return None, error.problems
    return examine_tables(data, path, offline=offline, system=system)


def examine_tables(
    tables: Mapping[str, Any],
    path: str | Path,
    *,
    offline: bool = False,
    system: System | None = None,
) -> tuple[Config | None, list[Problem]]:
    """The same of tables that were put together elsewhere.

    `path` is the file that problems name, and where relative paths begin.
    """
    findings = Findings(str(path))
    sections, sound = _structure(tables, findings)
    check.normalise(sections, Path(path).parent, sound, findings)
    check.meaning(sections, sound, findings)
    if not offline:
        check.machine(sections, sound, findings, system or Host())
    if findings.failed:
        return None, findings.problems
    return Config(**sections, path=str(path)), findings.problems


def parse(path: str | Path) -> dict[str, Any]:
    """The tables of a file. Raises ConfigError if it isn't TOML or can't be read."""
    findings = Findings(str(path))
    data = _parse(Path(path), findings)
    if data is None:
        raise ConfigError(findings.problems)
    return data


def _parse(path: Path, findings: Findings) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            raw = file.read(_FILE_MAX + 1)
    except FileNotFoundError:
        findings.add("", None, "there is no such file. `twinbeat config generate` prints one.")
        return None
    except OSError as error:
        findings.add("", None, f"can't be read: {error.strerror}.")
        return None
    if len(raw) > _FILE_MAX:
        findings.add("", None, "is larger than a mebibyte; long lists of VIPs go into vips_file.")
        return None
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        findings.add("", None, f"is not UTF-8 (byte {error.start}).")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        findings.add("", None, f"is not TOML: {error}.")
    return None


# ------------------------------------------------------------------------------ structure --------


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


def _structure(data: Mapping[str, Any], findings: Findings) -> tuple[dict[str, Any], set[str]]:
    """Arguments for `Config`, and the names of those sections whose structure is sound."""
    sections: dict[str, Any] = {}
    sound: set[str] = set()
    refuse_unknown_sections(data, findings)
    for name, (attribute, _, many) in SECTIONS.items():
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
