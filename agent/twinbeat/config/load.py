# SPDX-License-Identifier: Apache-2.0
"""Reading a file into a `Config`, or into the list of everything that is wrong with it.

Three passes. Structure: each key of each table is converted on its own against the model, so one
wrong value hides no other. Meaning: the relations between keys, section by section, where the
structure of those sections is sound. Machine: interfaces, addresses, key files; left out offline.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from twinbeat.config import check
from twinbeat.config.model import SECTIONS, Config, fields_of
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
    findings = Findings(str(path))
    data = _parse(Path(path), findings)
    if data is None:
        return None, findings.problems
    sections, sound = _structure(data, findings)
    check.normalise(sections, Path(path).parent, sound, findings)
    check.meaning(sections, sound, findings)
    if not offline:
        check.machine(sections, sound, findings, system or Host())
    if findings.failed:
        return None, findings.problems
    return Config(**sections, path=str(path)), findings.problems


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


def _structure(data: dict[str, Any], findings: Findings) -> tuple[dict[str, Any], set[str]]:
    """Arguments for `Config`, and the names of those sections whose structure is sound."""
    sections: dict[str, Any] = {}
    sound: set[str] = set()
    for name, value in data.items():
        if name not in SECTIONS:
            _unknown(name, value, list(SECTIONS), findings)
    for name, (attribute, model, many) in SECTIONS.items():
        before = len(findings.problems)
        if many:
            tables = data.get(name, [])
            if not isinstance(tables, list):
                findings.add(name, tables, f"is an array of tables: write [[{name}]].")
                continue
            sections[attribute] = tuple(
                _table(table, model, f"{name}[{number}]", findings)
                for number, table in enumerate(tables)
            )
        else:
            sections[attribute] = _table(data.get(name, {}), model, name, findings)
        if len(findings.problems) == before:
            sound.add(attribute)
    return sections, sound


def _table(table: Any, model: type[Struct], path: str, findings: Findings) -> Struct | None:
    """One table as its struct, or None when something in it is wrong."""
    if not isinstance(table, dict):
        findings.add(path, table, f"is a table: write [{path}] and its keys below.")
        return None
    before = len(findings.problems)
    known = {field.encode_name: field for field in fields_of(model)}
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
