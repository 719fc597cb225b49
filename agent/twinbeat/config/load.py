# SPDX-License-Identifier: Apache-2.0
"""Reading a file into a `Config`, or into the list of everything that is wrong with it.

Three passes. Structure (`structure`): each key of each table is converted on its own against the
model, so one wrong value hides no other. Meaning: the relations between keys, section by section,
where the structure of those sections is sound. Machine: interfaces, addresses, key files; left out
offline.
"""

import codecs
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from twinbeat.config import check
from twinbeat.config.examined import Examination, Examined
from twinbeat.config.model import Config
from twinbeat.config.problems import ConfigError, Findings, Problem
from twinbeat.config.structure import read_sections
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
    config, problems, _ = examine_since(None, tables, path, offline=offline, system=system)
    return config, problems


def examine_since(
    since: Examined | None,
    tables: Mapping[str, Any],
    path: str | Path,
    *,
    offline: bool = False,
    system: System | None = None,
) -> tuple[Config | None, list[Problem], Examined | None]:
    """The same where something like it was found right before; and what was found right now."""
    findings = Findings(str(path))
    examination = Examination(findings, since)
    examination.compare(tables)
    sections, sound = read_sections(tables, findings, examination.known)
    check.normalise(sections, Path(path).parent, sound, findings, examination.same)
    check.meaning(sections, sound, examination)
    if not offline:
        check.machine(sections, sound, examination, system or Host())
    if findings.failed:
        return None, findings.problems, None
    examined = Examined(tables=tables, sections=sections, warned=examination.warned)
    return Config(**sections, path=str(path)), findings.problems, examined


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
    if raw.startswith(codecs.BOM_UTF8):
        findings.add("", None, "begins with a byte order mark: save it as UTF-8 without one.")
        return None
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        findings.add("", None, f"is not UTF-8 (byte {error.start}).")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        findings.add("", None, f"is not TOML: {error}.")
    return None
