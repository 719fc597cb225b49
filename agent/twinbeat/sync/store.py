# SPDX-License-Identifier: Apache-2.0
"""What `Propagation` finds again after a crash or a power cut: one SQLite file per node.

It knows documents, operations and outcomes as bytes that it keeps. It must not know when which of
them is right: every method is one transaction that `Propagation` asked for, and is on disk when it
returns. One that raises `StoreError` left everything as it was.

The file is written ahead (WAL) and synced at every commit, so a cut at any moment leaves the state
before a transaction or the one after it. It is examined whole when it is opened; one that is broken
is set aside under a name that the sentence in `Store.complaints` tells, and is never deleted.

Everything here blocks on the disk: the worker keeps one thread for it, which opens the store, too.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from twinbeat.sync.document import ChangeRefused, Document, Version
from twinbeat.sync.events import Held
from twinbeat.sync.operation import Operation, Outcome, State

STORE: Final = Path("/var/lib/twinbeat/worker/shared.db")
SCHEMA: Final = 1
BUSY_MS: Final = 2_000
"""So long another process that looks into the file may hold a transaction up."""
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
WAL_BYTES_MOST: Final = 16 << 20
"""What the write-ahead log is cut to when it was written back."""

_TABLES: Final = (
    """CREATE TABLE document (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        lineage TEXT NOT NULL, term INTEGER NOT NULL, generation INTEGER NOT NULL,
        made_at_ns INTEGER NOT NULL, kept_at_ns INTEGER NOT NULL,
        author TEXT NOT NULL, reason TEXT NOT NULL, request TEXT NOT NULL,
        bytes INTEGER NOT NULL, content BLOB NOT NULL) STRICT""",
    "CREATE INDEX document_generation ON document (generation)",
    "CREATE INDEX document_bytes ON document (number, bytes)",
    """CREATE TABLE backup (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        document INTEGER NOT NULL REFERENCES document (number),
        why TEXT NOT NULL, taken_at_ns INTEGER NOT NULL) STRICT""",
    "CREATE INDEX backup_document ON backup (document)",
    """CREATE TABLE outcome (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        request TEXT NOT NULL UNIQUE,
        undecided INTEGER NOT NULL CHECK (undecided IN (0, 1)),
        bytes INTEGER NOT NULL, content BLOB NOT NULL) STRICT""",
    "CREATE INDEX outcome_undecided ON outcome (number) WHERE undecided",
    "CREATE INDEX outcome_bytes ON outcome (number, bytes)",
    """CREATE TABLE node (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        current INTEGER NOT NULL REFERENCES document (number),
        highest INTEGER NOT NULL CHECK (highest >= 0),
        paired INTEGER NOT NULL CHECK (paired IN (0, 1)),
        request TEXT, prepared BLOB,
        CHECK ((request IS NULL) = (prepared IS NULL))) STRICT""",
)
_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_CODES: Final = {
    sqlite3.SQLITE_FULL: ("full", "the disk is full"),
    sqlite3.SQLITE_READONLY: ("read_only", "it can't be written to"),
    sqlite3.SQLITE_BUSY: ("locked", "another process holds it"),
    sqlite3.SQLITE_LOCKED: ("locked", "another process holds it"),
    sqlite3.SQLITE_CORRUPT: ("broken", "its content is broken; a restart sets it aside"),
    sqlite3.SQLITE_NOTADB: ("broken", "its content is broken; a restart sets it aside"),
    sqlite3.SQLITE_IOERR: ("failing", "the disk fails"),
    sqlite3.SQLITE_CANTOPEN: ("unreachable", "it can't be opened"),
}

_Kept = TypeVar("_Kept", bound=msgspec.Struct)


class StoreError(Exception):
    """The store refused, and all is as it was before.

    Codes: ``full``, ``read_only``, ``locked``, ``broken``, ``failing``, ``unreachable`` for the
    disk; ``newer`` for a file of a later version; ``seeded``, ``unseeded``, ``prepared``,
    ``not_prepared``, ``out_of_step`` for what doesn't fit what is kept. After ``uncertain`` nobody
    knows whether a crash would bring the transaction back: end the process and read it again.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class _BrokenError(Exception):
    """The file isn't what this module writes."""


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


def _wall_ns() -> int:
    return time.time_ns()


class Store:
    """The file of one node. Made by `open`; used by the thread that opened it."""

    def __init__(
        self,
        path: Path = STORE,
        *,
        wall_ns: Callable[[], int] = _wall_ns,
        busy_ms: int = BUSY_MS,
        generations_most: int = GENERATIONS_MOST,
        bytes_most: int = BYTES_MOST,
    ) -> None:
        """Open the file, and make it if there is none.  Raises StoreError."""
        self.path = path
        self.complaints: list[str] = []
        """Sentences about files that were broken and were set aside."""
        self._wall_ns = wall_ns
        self._busy_ms = busy_ms
        self._generations_most = generations_most
        self._bytes_most = bytes_most
        self._uncertain = False
        self._read: tuple[int, Document] | None = None
        """The document of that number, as it is on disk; its row is never written to again."""
        self._foreseen: tuple[Document, Operation, Document, bytes] | None = None
        """What an operation will make of that document, and that as it is kept."""
        self._make_directory()
        self._examine()
        self._database = self._opened()

    def close(self) -> None:
        """Close the file; whatever was done is on disk already."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()

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
                prepared=None if prepared is None else _unpacked(prepared, Operation),
                highest=highest,
                paired=bool(paired),
                in_doubt=tuple(_unpacked(content, Outcome) for (content,) in in_doubt),
            )

    def outcome(self, request: str) -> Outcome | None:
        """What came of a request, None if nothing is kept of it."""
        with self._transaction("reading") as database:
            row = database.execute(
                "SELECT content FROM outcome WHERE request = ?", (request,)
            ).fetchone()
            return None if row is None else _unpacked(row[0], Outcome)

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
                    self._insert(database, document, _packed(document)),
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
                (operation.request, _packed(operation), operation.version.generation),
            )

    def foresee(self, operation: Operation) -> None:
        """Work out what `commit` of this operation will write, while nobody waits for it."""
        if self._read is not None:
            current = self._read[1]
            with contextlib.suppress(ChangeRefused):
                document = operation.onto(current)
                self._foreseen = current, operation, document, _packed(document)

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
                content = _packed(document)
            number = self._insert(database, document, content)
            database.execute(
                "UPDATE node SET current = ?, request = NULL, prepared = NULL", (number,)
            )
            self._keep(database, outcomes)
            self._bound(database)
        # Only now: a number that was rolled back is given once more.
        self._read, self._foreseen = (number, document), None
        return document

    def abort(self, request: str, outcomes: Iterable[Outcome] = ()) -> None:
        """Forget the operation prepared, but not its generation; keep the outcomes."""
        with self._transaction("aborting") as database:
            self._prepared(database, request)
            database.execute("UPDATE node SET request = NULL, prepared = NULL")
            self._keep(database, outcomes)

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
                number = self._insert(database, document, _packed(document))
                database.execute("UPDATE node SET current = ?", (number,))
            database.execute(
                "UPDATE node SET request = NULL, prepared = NULL, paired = 1,"
                " highest = max(highest, ?)",
                (document.version.generation,),
            )
            self._keep(database, outcomes)
            self._bound(database)

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
            return None if row is None else _unpacked(row[0], Document)

    # -- parts of transactions -------------------------------------------------------------------

    def _current(self, database: sqlite3.Connection) -> Document:
        (number,) = database.execute("SELECT current FROM node").fetchone()
        if self._read is None or self._read[0] != number:
            (content,) = database.execute(
                "SELECT content FROM document WHERE number = ?", (number,)
            ).fetchone()
            self._read = number, _unpacked(content, Document)
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
        return _unpacked(row[0], Operation)

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
        return number

    def _keep(self, database: sqlite3.Connection, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            content = _packed(outcome)
            database.execute(
                "INSERT OR REPLACE INTO outcome (request, undecided, bytes, content)"
                " VALUES (?, ?, ?, ?)",
                (outcome.request, outcome.state is State.UNDECIDED, len(content), content),
            )
        if not _overflows(database, "outcome", OUTCOMES_MOST, OUTCOME_BYTES_MOST):
            return
        database.execute(
            "DELETE FROM outcome WHERE NOT undecided AND number IN (SELECT number FROM ("
            "SELECT number, row_number() OVER newest AS place, sum(bytes) OVER newest AS total"
            " FROM outcome WINDOW newest AS (ORDER BY number DESC))"
            " WHERE place > ? OR total > ?)",
            (OUTCOMES_MOST, OUTCOME_BYTES_MOST),
        )

    def _bound(self, database: sqlite3.Connection) -> None:
        """Forget the oldest backups and documents beyond the bounds."""
        database.execute(
            "DELETE FROM backup WHERE number IN (SELECT number FROM ("
            "SELECT backup.number, row_number() OVER newest AS place, sum(bytes) OVER newest"
            " AS total FROM backup JOIN document ON document.number = backup.document"
            " WINDOW newest AS (ORDER BY backup.number DESC))"
            " WHERE place > ? OR (place > 1 AND total > ?))",
            (BACKUPS_MOST, BACKUP_BYTES_MOST),
        )
        if not _overflows(database, "document", self._generations_most, self._bytes_most):
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

    # -- transactions ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on disk at the end. Raises StoreError."""
        if self._uncertain:
            raise StoreError("uncertain", f"{self.path} failed before; it has to be opened again")
        database = self._database
        try:
            database.execute("BEGIN" if doing == "reading" else "BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                self._roll_back()
                raise
            self._finish(doing)
        except sqlite3.Error as error:
            raise self._refusal(doing, error) from error
        except _BrokenError as error:
            raise StoreError("broken", f"{doing} {self.path}: {error}") from error

    def _finish(self, doing: str) -> None:
        try:
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if _primary_code(error) == sqlite3.SQLITE_IOERR and not self._wiped():
                self._uncertain = True
                raise StoreError(
                    "uncertain",
                    f"{doing} {self.path}: the disk failed, and may yet bring back after a crash "
                    "what was refused; it has to be opened again",
                ) from error
            raise

    def _wiped(self) -> bool:
        """Whether the log was emptied: where the sync failed, it may hold a whole transaction that
        was refused here, and that a recovery would find."""
        try:
            row = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error:
            return False
        return row is not None and row[0] == 0

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")

    def _refusal(self, doing: str, error: sqlite3.Error) -> StoreError:
        code, why = _CODES.get(_primary_code(error), ("failing", str(error)))
        if code == "unreachable" and _is_read_only(self.path.parent):
            code, why = _CODES[sqlite3.SQLITE_READONLY]
        name = getattr(error, "sqlite_errorname", "")
        return StoreError(code, f"{doing} {self.path}: {why}" + (f" ({name})" if name else ""))

    # -- opening ---------------------------------------------------------------------------------

    def _make_directory(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            code = "read_only" if _is_read_only(self.path.parent) else "unreachable"
            raise StoreError(code, f"making {self.path.parent}: {error.strerror}") from error

    def _examine(self) -> None:
        """Set the file aside if it is broken; nothing is written to it before that is known."""
        if not self.path.exists():
            return
        try:
            database = self._connected("ro")
            try:
                _examine(database, self.path)
            finally:
                database.close()
        except sqlite3.Error as error:
            if _primary_code(error) not in _BROKEN:
                raise self._refusal("opening", error) from error
            self._set_aside(str(error))
        except _BrokenError as error:
            self._set_aside(str(error))

    def _set_aside(self, why: str) -> None:
        stamp = self._wall_ns() // 1_000_000_000
        aside = self.path.with_name(f"{self.path.name}.broken-{stamp}")
        while aside.exists():
            stamp += 1
            aside = self.path.with_name(f"{self.path.name}.broken-{stamp}")
        try:
            # The log goes first: a new file must never find it, whenever this is cut short.
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
            _sync_directory(self.path.parent)
        except OSError as error:
            code = "read_only" if _is_read_only(self.path.parent) else "unreachable"
            raise StoreError(code, f"setting {self.path} aside: {error.strerror}") from error
        self.complaints.append(f"{self.path} is broken ({why}); it was set aside as {aside}")

    def _opened(self) -> sqlite3.Connection:
        try:
            database = self._connected("rwc")
        except sqlite3.Error as error:
            raise self._refusal("opening", error) from error
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MOST}")
            database.execute("BEGIN IMMEDIATE")
            if database.execute("PRAGMA user_version").fetchone()[0] == 0:
                for table in _TABLES:
                    database.execute(table)
                database.execute(f"PRAGMA user_version = {SCHEMA}")
            database.execute("COMMIT")
            self.path.chmod(0o600)
            _sync_directory(self.path.parent)
        except sqlite3.Error as error:
            database.close()
            raise self._refusal("opening", error) from error
        except OSError as error:
            database.close()
            raise StoreError("failing", f"opening {self.path}: {error.strerror}") from error
        return database

    def _connected(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=self._busy_ms / 1_000,
            isolation_level=None,
        )


def _examine(database: sqlite3.Connection, path: Path) -> None:
    """Raises `_BrokenError` or sqlite3.Error for a broken file, StoreError for a newer one."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA:
        raise StoreError(
            "newer", f"{path} was written by a later version of twinbeat (schema {version})"
        )
    if version == 0:
        if database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise _BrokenError("it isn't a store of twinbeat")
        return
    found = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise _BrokenError(str(found))
    if database.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise _BrokenError("a row refers to one that isn't there")
    # What every decision rests on has to be readable; pages that are whole don't promise that.
    kinds: tuple[tuple[str, type[msgspec.Struct]], ...] = (
        ("SELECT content FROM document WHERE number = (SELECT current FROM node)", Document),
        ("SELECT prepared FROM node WHERE prepared IS NOT NULL", Operation),
        ("SELECT content FROM outcome WHERE undecided", Outcome),
    )
    try:
        for query, kind in kinds:
            for (content,) in database.execute(query):
                _unpacked(content, kind)
    except sqlite3.OperationalError as error:
        if _primary_code(error) != sqlite3.SQLITE_ERROR:
            raise
        raise _BrokenError(str(error)) from error  # a table is missing


def _overflows(database: sqlite3.Connection, table: str, count_most: int, bytes_most: int) -> bool:
    """Whether to look for what is to be forgotten: only once there is a sixteenth too much, since
    that is dearer than all the rest of a transaction."""
    count, total = database.execute(f"SELECT count(*), total(bytes) FROM {table}").fetchone()
    return bool(count > count_most + count_most // 16 or total > bytes_most + bytes_most // 16)


def _packed(kept: msgspec.Struct) -> bytes:
    """MessagePack, compressed: zlib's checksum finds bits that SQLite's own check doesn't."""
    return zlib.compress(msgspec.msgpack.encode(kept), level=1)


def _unpacked(content: Any, kind: type[_Kept]) -> _Kept:
    try:
        return msgspec.msgpack.decode(zlib.decompress(content), type=kind)
    except (zlib.error, msgspec.DecodeError, TypeError) as error:
        raise _BrokenError(f"{kind.__name__.lower()}: {error}") from error


def _primary_code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _is_read_only(directory: Path) -> bool:
    while not directory.exists():
        directory = directory.parent
    return bool(os.statvfs(directory).f_flag & os.ST_RDONLY) or not os.access(directory, os.W_OK)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
