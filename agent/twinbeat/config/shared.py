# SPDX-License-Identifier: Apache-2.0
"""Which tables both nodes share, and the way between a TOML file and a document of those tables.

A file has arrays, a document has rows under identities, so that two commands that touch different
rows never meet. What identifies a row is exactly what `check` allows once: a configuration that can
be used can always be split. A document names no file of a node, and no key that is each node's own.
It must not know where a document comes from or goes to.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from twinbeat.config.examined import Examined
from twinbeat.config.load import examine_since
from twinbeat.config.model import CONFIG_PATH, SECTIONS, Config
from twinbeat.config.problems import ConfigError, Findings, Problem
from twinbeat.config.rows import ONLY, identity_of, where_of
from twinbeat.config.scopes import FILE_KEYS, LOCAL_KEYS, SHARED
from twinbeat.config.structure import read_section, refuse_unknown_sections
from twinbeat.config.system import System
from twinbeat.config.vips import read_addresses

Row = dict[str, Any]
Shared = dict[str, dict[str, Row]]
"""Section -> identity -> row."""
Tables = dict[str, Any]
"""What a TOML file holds."""
Identities = dict[str, list[str]]
"""Section that is an array -> the identity of each of its tables, in the file's order."""

_TWICE: Final = {
    "vrid": ("id", "is that of {first} already."),
    "route": ("", "has the destination, table and metric of {first}."),
    "rule": ("", "is the same as {first}."),
    "hook": ("", "has the name of {first}."),
}
"""What `check` says of a second row with the same identity, and at which key."""

_TWICE_NAMED: Final = ("name", "is that of {first} already.")
_PLACE: Final = re.compile(rf"\b({'|'.join(sorted(SHARED))})\[([0-9]+)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What examines a document: whose file the rest comes from, and what the document is called."""

    file: str = CONFIG_PATH
    document: str = "shared document"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A file and a document in which, together, nothing is wrong. Nobody changes them any more."""

    local: Mapping[str, Any]
    shared: Mapping[str, Mapping[str, Mapping[str, Any]]]
    identities: Identities
    examined: Examined
    """What they make."""


def called(generation: int) -> str:
    """What problems call a document."""
    return f"shared document generation {generation}"


def split(tables: Mapping[str, Any], *, file: str = CONFIG_PATH) -> tuple[Tables, Shared]:
    """The node's own tables of a parsed file, and those it shares.

    Raises ConfigError with every problem of the shared tables and every section that isn't known;
    `file` is what the problems name, and where relative paths begin. Sections that say nothing are
    left out.
    """
    findings = Findings(file)
    refuse_unknown_sections(tables, findings)
    local = {name: value for name, value in tables.items() if name not in SHARED}
    shared: Shared = {}
    for section in SECTIONS:
        if section not in SHARED or section not in tables:
            continue
        rows = _rows(section, tables[section], findings)
        if section in LOCAL_KEYS and ONLY in rows:
            own = LOCAL_KEYS[section]
            kept = {key: value for key, value in rows[ONLY].items() if key in own}
            if kept:
                local[section] = kept
            rows = {ONLY: {key: value for key, value in rows[ONLY].items() if key not in own}}
        rows = {name: row for name, row in rows.items() if row}
        if rows:
            shared[section] = rows
    if findings.failed:
        raise ConfigError(findings.problems)
    return local, shared


def join(
    local: Mapping[str, Any],
    shared: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    source: Source | None = None,
    since: Sound | None = None,
) -> tuple[Tables, Identities]:
    """One file's tables again, in an order that depends on nothing but what is in them.

    Of the shared sections of `local` only the node's own keys are looked at: a document takes their
    place. The rows themselves are for `examine` to judge. Raises ConfigError for what no file could
    say: sections that are not shared, keys that are not, and rows that are filed under something
    that isn't their identity. With ``since``, of the same file, rows that are as they were in it
    aren't looked at.
    """
    findings = Findings((source or Source()).document)
    refuse_unknown_sections(shared, findings)
    tables = {name: value for name, value in local.items() if name not in SHARED}
    identities: Identities = {}
    for section, (_, _, many) in SECTIONS.items():
        rows = shared.get(section, {})
        if rows and section not in SHARED:
            findings.add(section, None, "is each node's own: it belongs into the node's file.")
            continue
        own = _own_keys(section, local)
        if not rows and not own:
            continue
        if since is not None and section in since.shared and rows == since.shared[section]:
            tables[section] = since.examined.tables[section]
            if many:
                identities[section] = since.identities[section]
            continue
        names = sorted(rows, key=lambda name: _place(section, name, rows[name]))
        ordered = [dict(rows[name]) for name in names]
        _only_shared_keys(section, names, ordered, findings)
        if many:
            tables[section] = ordered
            identities[section] = names
            _filed_right(section, names, ordered, findings)
        elif names in ([], [ONLY]):
            tables[section] = (ordered[0] if ordered else {}) | own
        else:
            findings.add(section, None, "is one table: it has one row, without a name.")
    if findings.failed:
        raise ConfigError(findings.problems)
    return tables, identities


def examine(
    local: Mapping[str, Any],
    shared: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    source: Source,
    offline: bool = False,
    system: System | None = None,
) -> tuple[Config | None, list[Problem]]:
    """The configuration that a document makes with a node's file, or None where it can't be used.

    Problems name the document and the row, or the file where the rest of it is to blame.
    """
    return examine_shared(None, local, shared, source=source, offline=offline, system=system)[:2]


def examine_shared(
    since: Sound | None,
    local: Mapping[str, Any],
    shared: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    source: Source,
    offline: bool = False,
    system: System | None = None,
) -> tuple[Config | None, list[Problem], Sound | None]:
    """The same, and what is sound now. Of a file that is the same, only what is another than in
    ``since`` is looked at."""
    if since is not None and since.local is not local:
        since = None
    try:
        tables, identities = join(local, shared, source=source, since=since)
    except ConfigError as error:
        return None, error.problems, None
    before = None if since is None else since.examined
    config, found, examined = examine_since(
        before, tables, source.file, offline=offline, system=system
    )
    problems = [_named(problem, identities, source) for problem in found]
    if examined is None:
        return config, problems, None
    sound = Sound(local=local, shared=shared, identities=identities, examined=examined)
    return config, problems, sound


def _named(problem: Problem, identities: Identities, source: Source) -> Problem:
    """The same with rows in the place of numbers, as nobody sees those of a document."""

    def row(found: re.Match[str]) -> str:
        section, number = found[1], int(found[2])
        names = identities.get(section, [])
        return where_of(section, names[number]) if number < len(names) else found[0]

    section, _, key = re.sub(r"\[[0-9]+\]", "", problem.key).partition(".")
    from_document = section in SHARED and key not in LOCAL_KEYS.get(section, ())
    return replace(
        problem,
        file=source.document if from_document and problem.file == source.file else problem.file,
        key=_PLACE.sub(row, problem.key),
        sentence=_PLACE.sub(row, problem.sentence),
    )


def _own_keys(section: str, local: Mapping[str, Any]) -> Row:
    """What a file says in a shared section that is the node's own."""
    own, table = LOCAL_KEYS.get(section, frozenset()), local.get(section)
    if not own or not isinstance(table, Mapping):
        return {}
    return {key: value for key, value in table.items() if key in own}


def _only_shared_keys(section: str, names: list[str], rows: list[Row], findings: Findings) -> None:
    for name, row in zip(names, rows, strict=True):
        where = where_of(section, name)
        for key in sorted(LOCAL_KEYS.get(section, frozenset()) & row.keys()):
            wrong = "is each node's own: it belongs into the node's file."
            findings.add(f"{where}.{key}", row[key], wrong)
        for key in sorted(FILE_KEYS.get(section, frozenset()) & row.keys()):
            wrong = "names a file of one node; what is in it belongs into the document."
            findings.add(f"{where}.{key}", row[key], wrong)


def _rows(section: str, value: Any, findings: Findings) -> dict[str, Row]:
    """The rows of one section of a file under their identities."""
    structs = read_section(section, value, findings)
    if not SECTIONS[section][2]:
        sound = structs[0] is not None
        return {ONLY: dict(value)} if sound and value else {}
    rows: dict[str, Row] = {}
    first: dict[str, int] = {}
    for number, struct in enumerate(structs):
        if struct is None:
            continue
        name, where = identity_of(section, struct), f"{section}[{number}]"
        if name in first:
            key, wrong = _TWICE.get(section, _TWICE_NAMED)
            findings.add(
                f"{where}.{key}" if key else where,
                getattr(struct, key) if key else name,
                wrong.format(first=f"{section}[{first[name]}]"),
            )
            continue
        first[name] = number
        rows[name] = _without_files(section, dict(value[number]), where, findings)
    return rows


def _without_files(section: str, row: Row, where: str, findings: Findings) -> Row:
    """The row with the content of the files that it names."""
    if section == "vrid" and (written := row.pop("vips_file", "")):
        file = Path(findings.file).parent / written
        found = read_addresses(file, f"{where}.vips_file", written, findings)
        row["vips"] = [*row.get("vips", ()), *found]
    return row


def _filed_right(section: str, names: list[str], rows: list[Row], findings: Findings) -> None:
    """That each row is what its identity says; rows that can't be read are left to `examine`."""
    for name, row in zip(names, rows, strict=True):
        (struct,) = read_section(section, [row], Findings(findings.file))
        if struct is not None and (right := identity_of(section, struct)) != name:
            wrong = f'is filed under its identity: that of this row is "{right}".'
            findings.add(where_of(section, name), name, wrong)


def _place(section: str, name: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Numbers by their value, and networks on a link before routes whose next hop is in them."""
    parts = re.split("([0-9]+)", name)
    natural = tuple(
        (len(digits := part.lstrip("0")), digits) if at % 2 else part
        for at, part in enumerate(parts)
    )
    return (section == "route" and bool(row.get("gateway")), natural, name)
