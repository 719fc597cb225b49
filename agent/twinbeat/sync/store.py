# SPDX-License-Identifier: Apache-2.0
"""What `Propagation` finds again after a crash or a power cut: one SQLite file per node.

It knows documents, operations and outcomes as bytes that it keeps. It must not know when which of
them is right: every method is one transaction that `Propagation` asked for, and is on disk when it
returns. One that raises `StoreError` left everything as it was.

Everything here blocks on the disk: the worker keeps one thread for it, which opens the store, too.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from twinbeat.sync.database import (
    BUSY_MS,
    SCHEMA,
    Database,
    StoreError,
    packed,
    unpacked,
    wall_ns,
)
from twinbeat.sync.document import ChangeRefused, Document, Version
from twinbeat.sync.events import Held
from twinbeat.sync.operation import Operation, Outcome, State

__all__ = ["SCHEMA", "Store", "StoreError"]

STORE: Final = Path("/var/lib/twinbeat/worker/shared.db")
GENERATIONS_MOST: Final = 1_000
"""This bound and the others may be overstepped by a sixteenth (`_overflows`)."""
BYTES_MOST: Final = 64 << 20
"""Of the documents in the history, as they are kept: packed. The current one stays in any case, and
so do those that count as backups."""
BACKUPS_MOST: Final = 16
BACKUP_BYTES_MOST: Final = 32 << 20
"""The newest backup stays in any case."""
OUTCOMES_MOST: Final = 4_096
OUTCOME_BYTES_MOST: Final = 16 << 20
"""Outcomes that are undecided stay in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A document of the history, without its tables."""

    lineage: str
    version: Version
    made_at_ns: int
    """By the wall clock of the node that made the change."""
    kept_at_ns: int
    """By the wall clock of this node."""
    by: str
    reason: str
    request: str
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A document that gave way to one of another history."""

    number: int
    """For `Store.backup`."""
    lineage: str
    version: Version
    why: str
    taken_at_ns: int
    """By the wall clock of this node."""


class Store(Database):
    """The file of one node. Used by the thread that made it."""

    def __init__(
        self,
        path: Path = STORE,
        *,
        wall_ns: Callable[[], int] = wall_ns,
        busy_ms: int = BUSY_MS,
        generations_most: int = GENERATIONS_MOST,
        bytes_most: int = BYTES_MOST,
    ) -> None:
        """Open the file, and make it if there is none.  Raises StoreError."""
        super().__init__(path, wall_ns=wall_ns, busy_ms=busy_ms)
        self._generations_most = generations_most
        self._bytes_most = bytes_most
        self._read: tuple[int, Document] | None = None
        """The document of that number, as it is on disk; its row is never written to again."""
        self._foreseen: tuple[Document, Operation, Document, bytes] | None = None
        """What an operation will make of that document, and that as it is kept."""
        self._most: dict[str, tuple[int, int]] = {}
        """By table: rows and bytes that are in it at most, where it was counted; else those that
        came since the file was opened."""
        self._counted: set[str] = set()

    # -- what is kept ----------------------------------------------------------------------------

    def held(self) -> Held | None:
        """All that survived; None where the store has no document and waits for `seed`."""
        with self._transaction("reading") as database:
            row = database.execute("SELECT highest, paired, prepared FROM node").fetchone()
            if row is None:
                return None
            highest, paired, prepared = row
            in_doubt = database.execute(
                "SELECT content FROM outcome WHERE undecided ORDER BY number"
            ).fetchall()
            return Held(
                current=self._current(database),
                prepared=None if prepared is None else unpacked(prepared, Operation),
                highest=highest,
                paired=bool(paired),
                in_doubt=tuple(unpacked(content, Outcome) for (content,) in in_doubt),
            )

    def outcome(self, request: str) -> Outcome | None:
        """What came of a request, None if nothing is kept of it."""
        with self._transaction("reading") as database:
            row = database.execute(
                "SELECT content FROM outcome WHERE request = ?", (request,)
            ).fetchone()
            return None if row is None else unpacked(row[0], Outcome)

    def names(self) -> set[str]:
        """Every request of which something is kept."""
        with self._transaction("reading") as database:
            return {name for (name,) in database.execute("SELECT request FROM outcome")}

    # -- what Propagation wants done -------------------------------------------------------------

    def seed(self, document: Document, *, highest: int = 0) -> None:
        """Make this the first document; no generation up to ``highest`` is to be used again."""
        with self._transaction("seeding") as database:
            if database.execute("SELECT 1 FROM node").fetchone() is not None:
                raise StoreError("seeded", f"{self.path} has a document already")
            database.execute(
                "INSERT INTO node (id, current, highest, paired) VALUES (1, ?, ?, 0)",
                (
                    self._insert(database, document, packed(document)),
                    max(highest, document.version.generation),
                ),
            )

    def prepare(self, operation: Operation) -> None:
        """Keep the one operation that is prepared; its generation is never used again."""
        with self._transaction("preparing") as database:
            current, prepared = self._standing(database)
            if prepared is not None:
                raise StoreError("prepared", f"{prepared} is prepared, and isn't decided yet")
            if (operation.lineage, operation.base) != (current.lineage, current.version):
                raise StoreError(
                    "out_of_step",
                    f"{operation.request} changes {operation.base}, and {current.version} is here",
                )
            database.execute(
                "UPDATE node SET request = ?, prepared = ?, highest = max(highest, ?)",
                (operation.request, packed(operation), operation.version.generation),
            )

    def foresee(self, operation: Operation) -> None:
        """Work out what `commit` of this operation will write, while nobody waits for it."""
        if self._read is not None:
            current = self._read[1]
            with contextlib.suppress(ChangeRefused):
                document = operation.onto(current)
                self._foreseen = current, operation, document, packed(document)

    def commit(self, request: str, outcomes: Iterable[Outcome] = ()) -> Document:
        """Make the document of the operation prepared current, keep the outcomes.

        Returns the document.  Raises StoreError, also where the operation doesn't fit.
        """
        with self._transaction("committing") as database:
            operation = self._prepared(database, request)
            current, foreseen = self._current(database), self._foreseen
            if foreseen is not None and foreseen[0] is current and foreseen[1] == operation:
                document, content = foreseen[2:]
            else:
                try:
                    document = operation.onto(current)
                except ChangeRefused as refused:
                    raise StoreError(refused.code, refused.sentence) from refused
                content = packed(document)
            number = self._insert(database, document, content)
            database.execute(
                "UPDATE node SET current = ?, request = NULL, prepared = NULL", (number,)
            )
            self._keep(database, outcomes, operation)
            self._bound_documents(database)
        # Only now: a number that was rolled back is given once more.
        self._read, self._foreseen = (number, document), None
        return document

    def abort(self, request: str, outcomes: Iterable[Outcome] = ()) -> None:
        """Forget the operation prepared, but not its generation; keep the outcomes."""
        with self._transaction("aborting") as database:
            operation = self._prepared(database, request)
            database.execute("UPDATE node SET request = NULL, prepared = NULL")
            self._keep(database, outcomes, operation)

    def adopt(self, document: Document, outcomes: Iterable[Outcome] = (), why: str = "") -> None:
        """Make this document current, with a backup of what was; count as paired.

        Nothing is prepared afterwards. A document that equals the current one needs no backup.
        """
        with self._transaction("adopting") as database:
            current, _ = self._standing(database)
            if document != current:
                database.execute(
                    "INSERT INTO backup (document, why, taken_at_ns) "
                    "SELECT current, ?, ? FROM node",
                    (why, self._wall_ns()),
                )
                number = self._insert(database, document, packed(document))
                database.execute("UPDATE node SET current = ?", (number,))
            database.execute(
                "UPDATE node SET request = NULL, prepared = NULL, paired = 1,"
                " highest = max(highest, ?)",
                (document.version.generation,),
            )
            self._keep(database, outcomes)
            self._bound_backups(database)
            self._bound_documents(database)

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Keep the outcomes, in place of those that were kept of the same requests."""
        with self._transaction("recording") as database:
            self._keep(database, outcomes)

    def set_paired(self) -> None:
        """This node was in step with a peer."""
        with self._transaction("pairing") as database:
            self._standing(database)
            database.execute("UPDATE node SET paired = 1")

    # -- for people ------------------------------------------------------------------------------

    def history(self, limit: int = 50) -> tuple[Entry, ...]:
        """The documents that were current here, the newest first."""
        with self._transaction("reading") as database:
            rows = database.execute(
                "SELECT lineage, term, generation, made_at_ns, kept_at_ns, author, reason,"
                " document.request, number = node.current FROM document, node"
                " ORDER BY number DESC LIMIT ?",
                (max(limit, 0),),
            ).fetchall()
        return tuple(
            Entry(
                lineage=lineage,
                version=Version(term, generation),
                made_at_ns=made_at_ns,
                kept_at_ns=kept_at_ns,
                by=by,
                reason=reason,
                request=request,
                current=bool(current),
            )
            for (
                lineage,
                term,
                generation,
                made_at_ns,
                kept_at_ns,
                by,
                reason,
                request,
                current,
            ) in rows
        )

    def at(self, generation: int) -> Document | None:
        """The document of a generation: the newest, if several histories had one."""
        return self._one(
            "SELECT content FROM document WHERE generation = ? ORDER BY number DESC LIMIT 1",
            generation,
        )

    def backups(self) -> tuple[Backup, ...]:
        """What gave way to documents that were adopted, the newest first."""
        with self._transaction("reading") as database:
            rows = database.execute(
                "SELECT backup.number, lineage, term, generation, why, taken_at_ns"
                " FROM backup JOIN document ON document.number = backup.document"
                " ORDER BY backup.number DESC"
            ).fetchall()
        return tuple(
            Backup(
                number=number,
                lineage=lineage,
                version=Version(term, generation),
                why=why,
                taken_at_ns=taken_at_ns,
            )
            for number, lineage, term, generation, why, taken_at_ns in rows
        )

    def backup(self, number: int) -> Document | None:
        """The document of a backup."""
        return self._one(
            "SELECT content FROM document"
            " WHERE number = (SELECT document FROM backup WHERE number = ?)",
            number,
        )

    def _one(self, query: str, number: int) -> Document | None:
        with self._transaction("reading") as database:
            row = database.execute(query, (number,)).fetchone()
            return None if row is None else unpacked(row[0], Document)

    # -- parts of transactions -------------------------------------------------------------------

    def _current(self, database: sqlite3.Connection) -> Document:
        (number,) = database.execute("SELECT current FROM node").fetchone()
        if self._read is None or self._read[0] != number:
            (content,) = database.execute(
                "SELECT content FROM document WHERE number = ?", (number,)
            ).fetchone()
            self._read = number, unpacked(content, Document)
        return self._read[1]

    def _standing(self, database: sqlite3.Connection) -> tuple[Document, str | None]:
        """The current document and the request that is prepared."""
        row = database.execute("SELECT request FROM node").fetchone()
        if row is None:
            raise StoreError("unseeded", f"{self.path} has no document yet")
        return self._current(database), row[0]

    def _prepared(self, database: sqlite3.Connection, request: str) -> Operation:
        row = database.execute("SELECT prepared FROM node WHERE request = ?", (request,)).fetchone()
        if row is None:
            raise StoreError("not_prepared", f"{request} isn't prepared")
        return unpacked(row[0], Operation)

    def _insert(self, database: sqlite3.Connection, document: Document, content: bytes) -> int:
        """``content`` is the document as it is kept."""
        number = database.execute(
            "INSERT INTO document (lineage, term, generation, made_at_ns, kept_at_ns, author,"
            " reason, request, bytes, content) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                document.lineage,
                document.version.term,
                document.version.generation,
                document.made_at_ns,
                self._wall_ns(),
                document.by,
                document.reason,
                document.request,
                len(content),
                content,
            ),
        ).lastrowid
        assert number is not None
        self._grown("document", len(content))
        return number

    def _keep(
        self,
        database: sqlite3.Connection,
        outcomes: Iterable[Outcome],
        operation: Operation | None = None,
    ) -> None:
        """``operation`` is the one that they, or one of them, came of."""
        for outcome in outcomes:
            content = packed(replace(outcome, asked=_asked(database, outcome.request, operation)))
            database.execute(
                "INSERT OR REPLACE INTO outcome (request, undecided, bytes, content)"
                " VALUES (?, ?, ?, ?)",
                (outcome.request, outcome.state is State.UNDECIDED, len(content), content),
            )
            self._grown("outcome", len(content))
        if not self._overflows(database, "outcome", OUTCOMES_MOST, OUTCOME_BYTES_MOST):
            return
        database.execute(
            "DELETE FROM outcome WHERE NOT undecided AND number IN (SELECT number FROM ("
            "SELECT number, row_number() OVER newest AS place, sum(bytes) OVER newest AS total"
            " FROM outcome WINDOW newest AS (ORDER BY number DESC))"
            " WHERE place > ? OR total > ?)",
            (OUTCOMES_MOST, OUTCOME_BYTES_MOST),
        )

    def _bound_backups(self, database: sqlite3.Connection) -> None:
        """Forget the oldest beyond the bounds."""
        database.execute(
            "DELETE FROM backup WHERE number IN (SELECT number FROM ("
            "SELECT backup.number, row_number() OVER newest AS place, sum(bytes) OVER newest"
            " AS total FROM backup JOIN document ON document.number = backup.document"
            " WINDOW newest AS (ORDER BY backup.number DESC))"
            " WHERE place > ? OR (place > 1 AND total > ?))",
            (BACKUPS_MOST, BACKUP_BYTES_MOST),
        )

    def _bound_documents(self, database: sqlite3.Connection) -> None:
        """Forget the oldest beyond the bounds, but for the current one and backups."""
        if not self._overflows(database, "document", self._generations_most, self._bytes_most):
            return
        database.execute(
            "DELETE FROM document WHERE number IN (SELECT number FROM ("
            "SELECT number, row_number() OVER newest AS place, sum(bytes) OVER newest AS total"
            " FROM document WINDOW newest AS (ORDER BY number DESC))"
            " WHERE place > ? OR total > ?)"
            " AND number != (SELECT current FROM node)"
            " AND number NOT IN (SELECT document FROM backup)",
            (self._generations_most, self._bytes_most),
        )

    def _grown(self, table: str, size: int) -> None:
        count, total = self._most.get(table, (0, 0))
        self._most[table] = count + 1, total + size

    def _overflows(
        self, database: sqlite3.Connection, table: str, count_most: int, bytes_most: int
    ) -> bool:
        """Whether to look for what is to be forgotten: only once there is a sixteenth too much,
        since that is dearer than all the rest of a transaction. To count is dear as well, so it is
        done where there may be too much."""

        def too_much(count: int, total: int) -> bool:
            return count > count_most + count_most // 16 or total > bytes_most + bytes_most // 16

        if table in self._counted and not too_much(*self._most[table]):
            return False
        counted = database.execute(f"SELECT count(*), total(bytes) FROM {table}").fetchone()
        self._most[table] = counted
        self._counted.add(table)
        return too_much(*counted)


def _asked(database: sqlite3.Connection, request: str, operation: Operation | None) -> str:
    """What the request asked for, as far as that is known."""
    if operation is not None and operation.request == request:
        return operation.asked
    row = database.execute("SELECT content FROM outcome WHERE request = ?", (request,)).fetchone()
    return "" if row is None else unpacked(row[0], Outcome).asked
