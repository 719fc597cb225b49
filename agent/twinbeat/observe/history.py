# SPDX-License-Identifier: Apache-2.0
"""The transitions this node remembers, across restarts: JSON lines, bounded.

A line is written once and never changed; a later line with the same number replaces the earlier
one, which is how a timeline gets the moments that come after the transition itself. A last line
torn by a power cut is passed over. Memory is always up to date; the disk follows when `write` is
called, which blocks and belongs in a thread.
"""

import os
from pathlib import Path
from threading import Lock
from typing import Final

import msgspec
from msgspec.structs import replace

from twinbeat.api.schema import Timeline, Transition, with_durations

HISTORY_PATH: Final = Path("/var/lib/twinbeat/history.jsonl")
KEPT: Final = 1000


class History:
    """Transitions, oldest first."""

    def __init__(self, path: Path = HISTORY_PATH, kept: int = KEPT) -> None:
        assert kept > 0
        self._path = path
        self._kept = kept
        self._known: dict[int, Transition] = {}
        self._pending: list[Transition] = []
        self._lines = 0
        self._torn = False
        self._lock = Lock()
        """Held for moments only, so that the deciding loop never waits for the disk."""
        self._writing = Lock()
        self.unreadable = 0
        """Lines of the file that were no transitions."""
        self._load()

    def newest(self, limit: int) -> list[Transition]:
        """The newest `limit`, oldest of them first."""
        assert limit > 0
        return list(self._known.values())[-limit:]

    def record(self, transition: Transition) -> Transition:
        """Remember a transition; returned with its number and its durations."""
        number = max(self._known, default=0) + 1
        return self._put(with_durations(replace(transition, number=number)))

    def amend(self, number: int, timeline: Timeline) -> Transition | None:
        """Give a transition its later moments; None if it is no longer known."""
        known = self._known.get(number)
        if known is None:
            return None
        return self._put(with_durations(replace(known, timeline=timeline)))

    def write(self) -> None:
        """Bring the disk up to date. Blocks; what could not be written is tried again next time.

        Raises OSError.
        """
        with self._writing:
            with self._lock:
                pending, self._pending = self._pending, []
                known = list(self._known.values())
            try:
                if self._lines + len(pending) > 2 * self._kept:
                    self._rewrite(known)
                elif pending:
                    self._append(pending)
            except OSError:
                with self._lock:
                    self._pending = (pending + self._pending)[-self._kept :]
                raise

    def _put(self, transition: Transition) -> Transition:
        with self._lock:
            self._known[transition.number] = transition
            while len(self._known) > self._kept:
                del self._known[next(iter(self._known))]
            # Bounded as well: with a disk that refuses for long the newest are what matters.
            self._pending = [*self._pending, transition][-self._kept :]
        return transition

    def _load(self) -> None:
        try:
            content = self._path.read_bytes()
        except OSError:
            return  # none yet, or none to be had: the first write says why
        *lines, last = content.split(b"\n")
        self._torn = bool(last)
        decoder = msgspec.json.Decoder(Transition)
        for line in lines:
            try:
                transition = decoder.decode(line)
            except msgspec.DecodeError:
                self.unreadable += 1
            else:
                self._known[transition.number] = transition
            self._lines += 1
        self._known = dict(sorted(self._known.items())[-self._kept :])

    def _append(self, pending: list[Transition]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            if self._torn:
                file.write(b"\n")
                self._torn = False
            file.write(b"".join(msgspec.json.encode(entry) + b"\n" for entry in pending))
            file.flush()
            os.fsync(file.fileno())
        self._lines += len(pending)

    def _rewrite(self, known: list[Transition]) -> None:
        """Replace the file by what is known, whole or not at all."""
        beside = self._path.with_suffix(".new")
        with beside.open("wb") as file:
            file.write(b"".join(msgspec.json.encode(entry) + b"\n" for entry in known))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        self._lines, self._torn = len(known), False
