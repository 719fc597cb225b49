# SPDX-License-Identifier: Apache-2.0
"""The SQLite file that `Store` keeps everything in: opened, examined, and changed all or nothing.

The file is written ahead (WAL) and synced at every commit, so a cut at any moment leaves the state
before a transaction or the one after it. It is examined whole when it is opened; one that is broken
is set aside under a name that the sentence in `Database.complaints` tells, and is never deleted.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from twinbeat.durable import sync_directory
from twinbeat.sync.document import Document
from twinbeat.sync.operation import Operation, Outcome

SCHEMA: Final = 1
BUSY_MS: Final = 2_000
"""So long another process that looks into the file may hold a transaction up."""
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


class BrokenError(Exception):
    """The file isn't what this module writes."""


def wall_ns() -> int:
    """The wall clock."""
    return time.time_ns()


class Database:
    """The file of one node. Used by the thread that opened it."""

    def __init__(
        self, path: Path, *, wall_ns: Callable[[], int] = wall_ns, busy_ms: int = BUSY_MS
    ) -> None:
        """Open the file, and make it if there is none.  Raises StoreError."""
        self.path = path
        self.complaints: list[str] = []
        """Sentences about files that were broken and were set aside."""
        self._wall_ns = wall_ns
        self._busy_ms = busy_ms
        self._uncertain = False
        self._make_directory()
        self._examine()
        self._database = self._opened()

    def close(self) -> None:
        """Close the file; whatever was done is on disk already."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()

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
        except BrokenError as error:
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
        except BrokenError as error:
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
            sync_directory(self.path.parent)
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
            sync_directory(self.path.parent)
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
    """Raises `BrokenError` or sqlite3.Error for a broken file, StoreError for a newer one."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA:
        raise StoreError(
            "newer", f"{path} was written by a later version of twinbeat (schema {version})"
        )
    if version == 0:
        if database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise BrokenError("it isn't a store of twinbeat")
        return
    found = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise BrokenError(str(found))
    if database.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise BrokenError("a row refers to one that isn't there")
    # What every decision rests on has to be readable; pages that are whole don't promise that.
    kinds: tuple[tuple[str, type[msgspec.Struct]], ...] = (
        ("SELECT content FROM document WHERE number = (SELECT current FROM node)", Document),
        ("SELECT prepared FROM node WHERE prepared IS NOT NULL", Operation),
        ("SELECT content FROM outcome WHERE undecided", Outcome),
    )
    try:
        for query, kind in kinds:
            for (content,) in database.execute(query):
                unpacked(content, kind)
    except sqlite3.OperationalError as error:
        if _primary_code(error) != sqlite3.SQLITE_ERROR:
            raise
        raise BrokenError(str(error)) from error  # a table is missing


def packed(kept: msgspec.Struct) -> bytes:
    """MessagePack, compressed: zlib's checksum finds bits that SQLite's own check doesn't."""
    return zlib.compress(msgspec.msgpack.encode(kept), level=1)


def unpacked(content: Any, kind: type[_Kept]) -> _Kept:
    try:
        return msgspec.msgpack.decode(zlib.decompress(content), type=kind)
    except (zlib.error, msgspec.DecodeError, TypeError) as error:
        raise BrokenError(f"{kind.__name__.lower()}: {error}") from error


def _primary_code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _is_read_only(directory: Path) -> bool:
    while not directory.exists():
        directory = directory.parent
    return bool(os.statvfs(directory).f_flag & os.ST_RDONLY) or not os.access(directory, os.W_OK)
