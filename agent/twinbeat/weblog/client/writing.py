# SPDX-License-Identifier: Apache-2.0
"""From records to files: filters, formats and names, put together for each source.

What all records of a source have in common is worked out once, in a `_Plan`. Where no filter, no
format and no name has to look into a record, a block goes to its file as it came.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from twinbeat.weblog.client import selection
from twinbeat.weblog.client.files import Files, Target
from twinbeat.weblog.client.formats import Format, Get, Here
from twinbeat.weblog.client.layouts import NOTHING, Layout, Row, layout
from twinbeat.weblog.client.model import Conf, Filter, FormatError
from twinbeat.weblog.client.names import Name, period

SOURCES_MAX: Final = 1024
"""Plans that are kept; more sources than that make them anew each time."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where records come from, as a node says it."""

    name: str
    kind: str
    format: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Records of one source that stand next to each other in a stream."""

    pair: str
    node: str
    epoch: int
    first: int
    count: int
    source: Source
    received_ns: int
    payload: bytes
    """Lines, each with its end."""


@dataclass(slots=True)
class Counts:
    """What became of records, by filter."""

    written: dict[str, int] = field(default_factory=dict)
    off: dict[str, int] = field(default_factory=dict)
    """Taken by a filter that is OFF."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Left out by logExclude."""
    unmatched: int = 0
    """Taken by no filter, where there is no default."""
    unread: int = 0
    """Not as the source's format says; written as they came."""
    bytes: int = 0
    """Written to files."""

    def add(self, other: Counts) -> None:
        for mine, theirs in (
            (self.written, other.written),
            (self.off, other.off),
            (self.excluded, other.excluded),
        ):
            for name, number in theirs.items():
                mine[name] = mine.get(name, 0) + number
        self.unmatched += other.unmatched
        self.unread += other.unread
        self.bytes += other.bytes


class Writer:
    """Puts pieces into files. Nothing counts before `Files.commit`."""

    def __init__(self, conf: Conf, files: Files) -> None:
        self._conf = conf
        self._files = files
        self._names = {
            each.name: Name(each.writing.name, local=each.writing.local) for each in conf.filters
        }
        self._plans: dict[tuple[str, Source], _Plan] = {}

    @property
    def crowded_total(self) -> int:
        """Records whose file would have been one too many."""
        return sum(name.crowded_total for name in self._names.values())

    def put(self, piece: Piece, counts: Counts) -> None:
        """Append what is to be written of a piece. Raises WriteError or StateError."""
        key = (piece.node, piece.source)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= SOURCES_MAX:
                self._plans.clear()
            plan = _Plan(self._conf, self._names, piece.node, piece.source)
            self._plans[key] = plan
        for target, chunk in plan.chunks(piece, counts):
            counts.bytes += len(chunk)
            self._files.append(target, chunk)


@dataclass(frozen=True, slots=True)
class _Way:
    """A filter, for the records of one source."""

    filter: Filter
    takes: Callable[[Row], bool] | None
    format: Format
    write: Get
    values: Callable[[Row], tuple[str, ...]] | None
    """What the name takes from a record; None = nothing."""
    suffix: Callable[[Row], bool] | None
    """Whether logExclude leaves the record out."""


class _Plan:
    """All that can be known of a source's records before they come."""

    def __init__(self, conf: Conf, names: dict[str, Name], node: str, source: Source) -> None:
        self._here = Here(node=node.encode(), source=source.name.encode())
        self._names = names
        self._node, self._source = node, source.name
        form = known_layout(source)
        filters = selection.possible(conf.filters, node, source.name)
        shapes = {each.name: Format(each.writing, form) for each in filters}
        fields: set[str] = set()
        for each in filters:
            fields |= set(selection.criteria(each))
            if each.on:
                fields |= set(shapes[each.name].needs)
                fields |= {"path" if name == "suffix" else name for name in names[each.name].fields}
                fields |= {"path"} if each.writing.exclude else set()
        wanted = tuple(sorted(fields & form.fields))
        self._reader = form.reader(wanted)
        self._ways = [self._way(each, shapes[each.name], wanted) for each in filters]
        self._counts = any(each.counts for each in shapes.values())
        first = self._ways[0] if self._ways else None
        self._plain = (
            first
            if first is not None
            and first.takes is None
            and first.values is None
            and (not first.filter.on or (first.format.is_raw and first.suffix is None))
            else None
        )

    def _way(self, each: Filter, shape: Format, wanted: tuple[str, ...]) -> _Way:
        at = {name: number for number, name in enumerate(wanted, 1)}
        name = self._names[each.name]
        return _Way(
            filter=each,
            takes=selection.test(each, wanted),
            format=shape,
            write=shape.writer(wanted, self._here),
            values=_valuer(name.fields, at) if name.fields else None,
            suffix=_excluder(each.writing.exclude, at.get("path")),
        )

    def chunks(self, piece: Piece, counts: Counts) -> list[tuple[Target, bytes]]:
        """What goes where, each file's lines in their order."""
        second = piece.received_ns // 1_000_000_000
        if self._plain is not None:
            name = self._plain.filter.name
            told = counts.written if self._plain.filter.on else counts.off
            told[name] = told.get(name, 0) + piece.count
            if not self._plain.filter.on:
                return []
            return [(self._target(self._plain, (), second), piece.payload)]
        here = self._here
        here.epoch, here.received_s = piece.epoch, second
        sequence = piece.first
        found: dict[tuple[int, tuple[str, ...]], list[bytes]] = {}
        numbers = list(enumerate(self._ways))
        for row in self._reader.rows(piece.payload, piece.count):
            here.sequence = sequence
            sequence += 1
            for number, way in numbers:  # noqa: B007 - the one that took it is used below
                if way.takes is None or way.takes(row):
                    break
            else:
                counts.unmatched += 1
                continue
            name = way.filter.name
            if not way.filter.on:
                counts.off[name] = counts.off.get(name, 0) + 1
                continue
            if len(row) == 1 and self._reader.wanted:
                counts.unread += 1
                line, values = way.format.unread(row[0]), _blank(way, row)
            elif way.suffix is not None and way.suffix(row):
                counts.excluded[name] = counts.excluded.get(name, 0) + 1
                continue
            else:
                line = way.write(row)
                values = way.values(row) if way.values is not None else ()
            lines = found.get((number, values))
            if lines is None:
                lines = found[number, values] = []
            lines.append(line)
        made = []
        for (number, values), lines in found.items():
            way = self._ways[number]
            name = way.filter.name
            counts.written[name] = counts.written.get(name, 0) + len(lines)
            made.append((self._target(way, values, second), b"".join(lines)))
        return made

    def _target(self, way: _Way, values: tuple[str, ...], second: int) -> Target:
        name, writing = self._names[way.filter.name], way.filter.writing
        base = name.path(second, name.values(values) if values else (), self._node, self._source)
        label = "" if name.has_time else period(writing.interval, second, local=writing.local)
        return Target(base, label, writing.size_limit, lambda: way.format.head(time.time()))


def _blank(way: _Way, row: Row) -> tuple[str, ...]:
    """What the name of a record that can't be read takes from it."""
    return way.values(row) if way.values is not None else ()


def known_layout(source: Source) -> Layout:
    """How a source's lines are read; as mere lines, where its format can't be understood."""
    try:
        return layout(source.kind, source.format)
    except FormatError:
        return NOTHING


def _valuer(fields: tuple[str, ...], at: dict[str, int]) -> Callable[[Row], tuple[str, ...]]:
    def value(row: Row, name: str) -> str:
        number = at.get("path" if name == "suffix" else name, 0)
        raw = row[number] if number and len(row) > 1 else b""
        if name == "suffix":
            raw = raw.rpartition(b"/")[2].rpartition(b".")[2] if b"." in raw else b""
        return raw.decode(errors="replace").lower()

    return lambda row: tuple(value(row, name) for name in fields)


def _excluder(ends: tuple[bytes, ...], number: int | None) -> Callable[[Row], bool] | None:
    if not ends or number is None:
        return None
    return lambda row: len(row) > 1 and row[number].lower().endswith(ends)
