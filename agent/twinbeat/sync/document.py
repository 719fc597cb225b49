# SPDX-License-Identifier: Apache-2.0
"""The document: the configuration that both nodes share, and how two of them differ.

It knows tables, rows and versions. It must not know what a row means: whether a VIP is an address
is for the daemon to say, who examines a document before it is put in force.

A document is the end of a straight line of changes, each of which has a version of its own. Two
documents of one lineage can be compared by version alone, since no two changes ever have the same:
a term belongs to one node (safety rule TERM), and a node never uses a generation twice in a term.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

RECENT: Final = 256
"""So many changes are named in a document. Whoever asks again for one of them is answered without
its being done again, on whichever node, however that node came by the document."""

ROWS_MOST: Final = 100_000

Row = dict[str, Any]
"""One table of the configuration, as JSON has it."""
Tables = dict[str, dict[str, Row]]
"""Section -> identity of the row -> row. A section that has one table only calls it ''."""

Name = Annotated[str, Meta(max_length=64)]
Identity = Annotated[str, Meta(max_length=512)]
Sentence = Annotated[str, Meta(max_length=1024)]
RequestId = Annotated[str, Meta(min_length=1, max_length=64)]
Lineage = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Fingerprint = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
ASKED_SIZE: Final = 6
"""Bytes of a fingerprint by which nothing but an oversight is found out: 256 of them go with each
document."""
Asked = Annotated[str, Meta(pattern=rf"^([0-9a-f]{{{2 * ASKED_SIZE}}})?$")]
"""Fingerprint of what a request asked for; empty: not known."""
Argument = Annotated[str, Meta(max_length=4096)]
U64 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
U32 = Annotated[int, Meta(ge=0, lt=1 << 32)]


class ChangeRefused(Exception):  # noqa: N818 - a refusal is no error of ours
    """A change doesn't fit the tables that it is meant for. Nothing was changed."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class Version(Struct, frozen=True, order=True, array_like=True):
    """Which of two documents rules: the higher generation under the higher term."""

    term: U64 = 0
    """Of the reign under which the change was made; 0 for a document that seeds a lineage."""
    generation: U32 = 0
    """Grows with every change, across terms too, and travels in every heartbeat."""

    def __str__(self) -> str:
        return f"generation {self.generation} of term {self.term}"


class Run(Struct, frozen=True, kw_only=True, tag="run"):
    """A command of the configuration is to be run on both nodes."""

    command: Name
    arguments: Annotated[tuple[Argument, ...], Meta(max_length=64)] = ()
    undo: bool = False
    """What takes the command back is to be run instead of it."""


class Done(Struct, frozen=True, array_like=True):
    """A change that a document contains."""

    request: RequestId
    version: Version
    run: Run | None = None
    """What was run, where it was a command: a node that gets the document later runs it then."""
    undoes: Annotated[str, Meta(max_length=64)] = ""
    """The request that was taken back by this one."""
    asked: Asked = ""
    """What was asked for (`sync.operation.Request`)."""


class Document(Struct, frozen=True, kw_only=True):
    """The shared configuration after one change."""

    lineage: Lineage
    """Of the pair that it grew in: 32 random hexadecimal digits, drawn when it was seeded."""
    version: Version
    tables: Tables
    recent: Annotated[tuple[Done, ...], Meta(max_length=RECENT)] = ()
    """The last changes, the oldest first."""
    made_at_ns: U64 = 0
    """Wall clock of the node that made the change; for people only."""
    by: Name = ""
    reason: Sentence = ""
    request: Annotated[str, Meta(max_length=64)] = ""
    """Of the change that led here; empty for a seed."""

    def contains(self, request: str) -> bool:
        """Whether the change is among the recent ones."""
        return any(done.request == request for done in self.recent)


class Expect(enum.StrEnum):
    """What a `Put` wants to find where it puts its row."""

    ANY = "any"
    ABSENT = "absent"
    PRESENT = "present"


class Put(Struct, frozen=True, kw_only=True, tag="put"):
    """A row is to be so."""

    section: Name
    identity: Identity
    row: Row
    expect: Expect = Expect.ANY


class Remove(Struct, frozen=True, kw_only=True, tag="remove"):
    """A row is to go."""

    section: Name
    identity: Identity


Change = Put | Remove


def packed(tables: Tables) -> bytes:
    """The one way to write tables down: JSON with sorted keys, without empty sections."""
    kept = {section: rows for section, rows in tables.items() if rows}
    return msgspec.json.encode(kept, order="deterministic")


def fingerprint(tables: Tables) -> str:
    """BLAKE2s-256 of `packed`, in hexadecimal digits."""
    return hashlib.blake2s(packed(tables)).hexdigest()


def difference(before: Tables, after: Tables) -> tuple[Change, ...]:
    """The fewest changes that make one of the other, so that only what differs is touched.

    Removals come first: what takes the place of something finds it empty.
    """
    removed: list[Change] = []
    put: list[Change] = []
    for section in sorted(before.keys() | after.keys()):
        old, new = before.get(section, {}), after.get(section, {})
        removed += [Remove(section=section, identity=name) for name in sorted(old.keys() - new)]
        for name in sorted(new):
            if name not in old:
                put.append(_put(section, name, new[name], Expect.ABSENT))
            elif old[name] != new[name]:
                put.append(_put(section, name, new[name], Expect.PRESENT))
    return (*removed, *put)


def applied(tables: Tables, changes: Iterable[Change]) -> Tables:
    """The tables after the changes; those given stay as they are.

    Raises `ChangeRefused`: ``exists`` for a row that was to be absent, ``missing`` for one that was
    to be there.
    """
    after = dict(tables)
    own: set[str] = set()
    for change in changes:
        section, identity = change.section, change.identity
        if section not in own:
            after[section] = dict(after.get(section, {}))
            own.add(section)
        rows = after[section]
        there = identity in rows
        match change:
            case Remove():
                if not there:
                    raise ChangeRefused("missing", f"{_where(change)} is not there")
                del rows[identity]
            case Put(expect=expect, row=row):
                if there and expect is Expect.ABSENT:
                    raise ChangeRefused("exists", f"{_where(change)} is there already")
                if not there and expect is Expect.PRESENT:
                    raise ChangeRefused("missing", f"{_where(change)} is not there")
                rows[identity] = row
    return {section: rows for section, rows in after.items() if rows}


def _put(section: str, identity: str, row: Row, expect: Expect) -> Put:
    return Put(section=section, identity=identity, row=row, expect=expect)


def _where(change: Change) -> str:
    return f"{change.section} {change.identity}".rstrip()
