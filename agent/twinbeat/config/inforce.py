# SPDX-License-Identifier: Apache-2.0
"""The configuration in force: the node's own tables of its file, and the shared ones of a document.

Without a document the file says both. With one, what the file still says of shared tables counts
for nothing, and is named.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from twinbeat.config.load import examine, parse
from twinbeat.config.model import Config
from twinbeat.config.problems import ConfigError, Problem
from twinbeat.config.rows import where_of
from twinbeat.config.shared import Sound, Source, called, examine_shared, split
from twinbeat.config.system import System
from twinbeat.sync.document import Document, Put, Tables, difference

COPY: Final = "shared.json"
"""Below the state directory: the document that the daemon has in force."""
IGNORED_MOST: Final = 32
FRESH_NS: Final = 2_000_000_000
"""So long what was found when a document was examined counts for putting it in force."""


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


class _Found(NamedTuple):
    """A document that nothing is wrong with, a moment ago."""

    at_ns: int
    mark: tuple[int, ...]
    """Of the file's content then."""
    tables: Tables
    config: Config
    problems: list[Problem]
    sound: Sound | None


class Examiner:
    """Examines one document after the other with the file of a node.

    A change is examined before anything is done about it and again when it is put in force. What
    was found stays true for a moment, and what was read for as long as the file is the same. Only
    what is another than in the document loaded last is examined at all (`config.examined`).
    """

    def __init__(
        self,
        file: str | Path,
        *,
        offline: bool = False,
        system: System | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._file = Path(file)
        self._offline = offline
        self._system = system
        self._now_ns = now_ns
        self._parsed: tuple[tuple[int, ...], dict[str, Any], Tables | ConfigError] | None = None
        self._found: _Found | None = None
        self._sound: Sound | None = None
        """What was loaded last."""
        self._forgot = 0

    def forget(self) -> None:
        """Whatever the file refers to may be another now. May be called while another thread
        examines: what that finds is not kept."""
        self._forgot += 1
        self._parsed = self._found = self._sound = None

    @property
    def found(self) -> Config | None:
        """The configuration of what was examined last, if nothing is wrong with it."""
        return None if self._found is None else self._found.config

    def problems_of(self, tables: Tables, name: str) -> list[Problem]:
        """What a document of these tables would be refused for. ``name`` is what it is called."""
        forgot = self._forgot
        try:
            mark, parsed, _ = self._read()
        except ConfigError as error:
            return error.problems
        if self._fresh(mark, tables) is not None:
            return []
        config, problems, sound = self._examine(parsed, tables, name)
        if config is None:
            return [each for each in problems if not each.warning]
        if forgot == self._forgot:
            self._found = _Found(self._now_ns(), mark, tables, config, problems, sound)
        return []

    def load(self, document: Document) -> InForce:
        """What is in force with this document. Raises ConfigError with every problem."""
        forgot = self._forgot
        mark, parsed, shared = self._read()
        found = self._fresh(mark, document.tables)
        self._found = None
        if found is not None:
            config, problems, sound = found.config, found.problems, found.sound
        else:
            name = called(document.version.generation)
            examined, problems, sound = self._examine(parsed, document.tables, name)
            if examined is None:
                raise ConfigError(problems)
            config = examined
        if forgot == self._forgot:
            self._sound = sound
        return InForce(
            config=config,
            document=document,
            ignored=_ignored(shared, document),
            problems=tuple(problems),
        )

    def _fresh(self, mark: tuple[int, ...], tables: Tables) -> _Found | None:
        """What was found of these tables a moment ago, with the file as it is."""
        found = self._found
        if found is None or self._now_ns() - found.at_ns >= FRESH_NS:
            return None
        return found if (mark, tables) == (found.mark, found.tables) else None

    def _examine(
        self, parsed: dict[str, Any], tables: Tables, name: str
    ) -> tuple[Config | None, list[Problem], Sound | None]:
        source = Source(file=str(self._file), document=name)
        return examine_shared(
            self._sound,
            parsed,
            tables,
            source=source,
            offline=self._offline,
            system=self._system,
        )

    def _read(self) -> tuple[tuple[int, ...], dict[str, Any], Tables | ConfigError]:
        """What marks the file's content, its tables, and the shared ones of them."""
        mark = _mark(self._file)
        if self._parsed is None or self._parsed[0] != mark:
            parsed = parse(self._file)
            self._parsed = mark, parsed, _shared_of(parsed, str(self._file))
        return self._parsed


def load_in_force(
    file: str | Path,
    document: Document | None,
    *,
    offline: bool = False,
    system: System | None = None,
) -> InForce:
    """What is in force with this document. Raises ConfigError with every problem."""
    if document is not None:
        return Examiner(file, offline=offline, system=system).load(document)
    config, problems = examine(file, offline=offline, system=system)
    if config is None:
        raise ConfigError(problems)
    return InForce(
        config=config, document=None, tables=shared_tables(file), problems=tuple(problems)
    )


def shared_tables(file: str | Path) -> Tables:
    """What the file says of shared tables: a document begins with it. Raises ConfigError."""
    return split(parse(file), file=str(file))[1]


def problems_of(file: str | Path, tables: Tables, name: str) -> list[Problem]:
    """What a document of these tables would be refused for. ``name`` is what it is called."""
    return Examiner(file).problems_of(tables, name)


def _mark(file: Path) -> tuple[int, ...]:
    """Another one as soon as the file is replaced or written to."""
    try:
        told = file.stat()
    except OSError:
        return ()
    return told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns


def _shared_of(parsed: dict[str, Any], file: str) -> Tables | ConfigError:
    try:
        return split(parsed, file=file)[1]
    except ConfigError as error:
        return error


def _ignored(shared: Tables | ConfigError, document: Document) -> tuple[str, ...]:
    if isinstance(shared, ConfigError):
        return tuple(f"{problem.key}: {problem.sentence}" for problem in shared.problems[:1])
    changes = difference(document.tables, shared)
    named = [where_of(put.section, put.identity) for put in changes if isinstance(put, Put)]
    more = len(named) - IGNORED_MOST
    return (*named[:IGNORED_MOST], *([f"and {more} more"] if more > 0 else ()))
