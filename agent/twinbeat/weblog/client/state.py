# SPDX-License-Identifier: Apache-2.0
"""What has to outlast the client: how far each stream was written, and how long each file was then.

One SQLite database, one transaction for both: a cursor and the lengths of the files that hold the
records before it are on disk together or not at all. Whatever is longer than its length here was
written and not yet counted; it is cut off before anything is written again (`files`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twinbeat.durable import sync_directory

SCHEMA: Final = 1
STREAMS_MAX: Final = 4096
"""Streams remembered; the oldest epochs go first."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS cursor (
    pair TEXT NOT NULL, node TEXT NOT NULL, epoch INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (pair, node, epoch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS file (
    path TEXT PRIMARY KEY, device INTEGER NOT NULL, inode INTEGER NOT NULL,
    length INTEGER NOT NULL, used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS series (
    base TEXT PRIMARY KEY, period TEXT NOT NULL, number INTEGER NOT NULL
) WITHOUT ROWID;
"""

Stream = tuple[str, str, int]
"""Pair, node, epoch: where a sequence counts."""


class StateError(Exception):
    """The state can't be read or written. The message is a sentence."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A file as it was when the cursors were written."""

    path: str
    device: int
    inode: int
    length: int


class State:
    """The database. Raises StateError. Files are in it while they are open, and after a crash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA:
                raise StateError(f"{path} is of a later release (schema {version}).")
            self._db.executescript(_TABLES)
            self._db.execute(f"PRAGMA user_version = {SCHEMA}")
            fresh = self._db.execute("SELECT max(used) FROM file").fetchone()[0]
            sync_directory(path.parent)
        except (sqlite3.Error, OSError) as error:
            raise StateError(f"{path} can't be used: {error}.") from None
        self._round = int(fresh or 0)

    def close(self) -> None:
        self._db.close()

    def cursors(self) -> dict[Stream, int]:
        """The next sequence of each stream."""
        rows = self._all("SELECT pair, node, epoch, next FROM cursor")
        return {(pair, node, epoch): next_ for pair, node, epoch, next_ in rows}

    def files(self) -> list[Kept]:
        """The files, those used last at the end."""
        query = "SELECT path, device, inode, length FROM file ORDER BY used"
        return [Kept(*row) for row in self._all(query)]

    def series(self) -> dict[str, tuple[str, int]]:
        """Period and number of the newest file of each name that stays the same."""
        query = "SELECT base, period, number FROM series"
        return {base: (period, number) for base, period, number in self._all(query)}

    def begun(self, file: Kept) -> None:
        """Remember a file before anything is written to it."""
        self.commit([], [file], [])

    def forget(self, paths: Iterable[str]) -> None:
        """These files are not where they were."""
        with self._transaction() as db:
            db.executemany("DELETE FROM file WHERE path = ?", [(path,) for path in paths])

    def commit(
        self,
        cursors: Iterable[tuple[Stream, int]],
        files: Iterable[Kept],
        series: Iterable[tuple[str, str, int]],
        over: Iterable[Stream] = (),
        done: Iterable[str] = (),
    ) -> None:
        """All of it, or nothing. What is in the files has to be on the disk already. ``over``:
        streams, ``done``: paths of files, that are not remembered any more."""
        self._round += 1
        rows = [(each.path, each.device, each.inode, each.length, self._round) for each in files]
        with self._transaction() as db:
            db.executemany("DELETE FROM cursor WHERE pair = ? AND node = ? AND epoch = ?", over)
            db.executemany(
                "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?, ?)",
                [(*stream, next_) for stream, next_ in cursors],
            )
            db.executemany("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?)", rows)
            db.executemany("DELETE FROM file WHERE path = ?", [(path,) for path in done])
            db.executemany("INSERT OR REPLACE INTO series VALUES (?, ?, ?)", series)

    def _all(self, query: str) -> list[Any]:
        try:
            return self._db.execute(query).fetchall()
        except sqlite3.Error as error:
            raise StateError(f"{self.path} can't be read: {error}.") from None

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db, self.path)


class _Transaction:
    """BEGIN, and COMMIT or ROLLBACK."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise StateError(f"{self._path} can't be written: {error}.") from None
        return self._db

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        try:
            if error is None:
                self._db.execute("COMMIT")
                return
        except sqlite3.Error as failed:
            error = failed
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise StateError(f"{self._path} can't be written: {error}.") from None
