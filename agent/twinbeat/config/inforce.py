# SPDX-License-Identifier: Apache-2.0
"""The configuration in force: the node's own tables of its file, and the shared ones of a document.

Without a document the file says both. With one, what the file still says of shared tables counts
for nothing, and is named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from twinbeat.config.load import examine, parse
from twinbeat.config.model import Config
from twinbeat.config.problems import ConfigError, Problem
from twinbeat.config.shared import Source, called, split, where_of
from twinbeat.config.shared import examine as examine_joined
from twinbeat.config.system import System
from twinbeat.sync.document import Document, Put, Tables, difference

COPY: Final = "shared.json"
"""Below the state directory: the document that the daemon has in force."""
IGNORED_MOST: Final = 32


class CopyError(Exception):
    """The daemon's copy of the document can't be used; the text names file and reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What a file and a document make together."""

    config: Config
    document: Document | None
    """None: the file says everything."""
    ignored: tuple[str, ...] = ()
    """What the file says otherwise than the document, which counts for nothing."""
    tables: Tables = field(default_factory=dict)
    """What the file says of shared tables where there is no document: one begins with it."""
    problems: tuple[Problem, ...] = ()
    """Warnings."""


def read_copy(path: Path) -> Document | None:
    """The document that was in force last, or None if there never was one. Raises CopyError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Document)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CopyError(f"{path} can't be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CopyError(f"{path} is no document: {error}") from error


def load_in_force(
    file: str | Path,
    document: Document | None,
    *,
    offline: bool = False,
    system: System | None = None,
) -> InForce:
    """What is in force with this document. Raises ConfigError with every problem."""
    tables: Tables = {}
    ignored: tuple[str, ...] = ()
    if document is None:
        config, problems = examine(file, offline=offline, system=system)
        if config is not None:
            tables = shared_tables(file)
    else:
        parsed = parse(file)
        source = Source(file=str(file), document=called(document.version.generation))
        config, problems = examine_joined(
            parsed, document.tables, source=source, offline=offline, system=system
        )
        ignored = _ignored(parsed, document, str(file))
    if config is None:
        raise ConfigError(problems)
    return InForce(
        config=config,
        document=document,
        ignored=ignored,
        tables=tables,
        problems=tuple(problems),
    )


def shared_tables(file: str | Path) -> Tables:
    """What the file says of shared tables: a document begins with it. Raises ConfigError."""
    return split(parse(file), file=str(file))[1]


def problems_of(file: str | Path, tables: Tables, name: str) -> list[Problem]:
    """What a document of these tables would be refused for. ``name`` is what it is called."""
    try:
        local = parse(file)
    except ConfigError as error:
        return error.problems
    config, problems = examine_joined(local, tables, source=Source(file=str(file), document=name))
    return [] if config is not None else [each for each in problems if not each.warning]


def _ignored(tables: dict[str, object], document: Document, file: str) -> tuple[str, ...]:
    try:
        shared = split(tables, file=file)[1]
    except ConfigError as error:
        return tuple(f"{problem.key}: {problem.sentence}" for problem in error.problems[:1])
    changes = difference(document.tables, shared)
    named = [where_of(put.section, put.identity) for put in changes if isinstance(put, Put)]
    more = len(named) - IGNORED_MOST
    return (*named[:IGNORED_MOST], *([f"and {more} more"] if more > 0 else ()))
