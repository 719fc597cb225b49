# SPDX-License-Identifier: Apache-2.0
"""All records on a node: its own journal and a replica of every other's, with their marks.

Who has acknowledged what is kept here, too, and what may go because of that. Belongs to one event
loop; the writing is done by each keeper's thread.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from twinbeat.weblog.block import NOWHERE, Block, Position, make
from twinbeat.weblog.journal import Journal, Marks, opened
from twinbeat.weblog.keeper import Keeper
from twinbeat.weblog.messages import STREAMS_MAX, Cursor, Stream

DELAYS_MOST: Final = 65_536
"""Blocks whose way to the other node is timed at the same time."""
DELAY_BUCKETS: Final = 32
RECENT_MAX: Final = 64 << 20
"""Bytes of journal that a file is compared with: more than comes until the kernel writes by itself,
half a minute later (vm.dirty_expire_centisecs)."""
COMPARED_S: Final = 60
"""So long records stay though everybody has them: twice as long as the kernel keeps what a web
server wrote in memory, so that the file can be compared with them after a loss of power."""
COMPARE_S: Final = 30
"""As long as files are to be compared with them, all own records stay, so long at most."""
IN_TIME_MS: Final = 100
"""99 of 100 records are to be on both nodes by then."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
PEER: Final = "peer"
"""Who acknowledges for the other node, beside the clients by their fingerprints."""

Key = tuple[str, int]
"""Node and epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of each journal."""

    size: int = 1 << 30
    """Bytes of all its segments."""
    age_s: int = 7 * 86400
    drop_oldest: bool = False
    """When it is full, the oldest go; otherwise nothing more is taken."""


class Store:
    """Opened by `open`, closed by `close`."""

    def __init__(self, directory: Path, node: str, *, boot: str, limits: Limits) -> None:
        self.node = node
        self.limits = limits
        self.clients: frozenset[str] = frozenset()
        """Fingerprints of those that are allowed: what all of them have may go."""
        self.peer = ""
        """Name of the other node."""
        self.received = 0
        """Sequence of the next own record."""
        self.epoch = 0
        self.records: Counter[str] = Counter()
        """Collected since the start, by source."""
        self.doubtful: Marks | None = None
        """The end of an epoch of this node's that the peer may have more of: see `restore`."""
        self.delays = [0] * DELAY_BUCKETS
        """Own records by how long they took from their arrival to both nodes' disks: number n is of
        less than 2^n microseconds and not of a lower number."""
        self.in_time = 0
        """Of these, those that took at most `IN_TIME_MS`."""
        self.delay_ns = 0
        """All these together."""
        self._directory = directory
        self._boot = boot
        self._positions: dict[str, Position] = {}
        self._uncompared: set[str] = set()
        """Sources of which nothing was taken in the current epoch, so that the machine may have
        lost the end of their file since."""
        self._opened_s = 0.0
        self._keepers: dict[str, Keeper] = {}
        self._opened: list[Journal] = []
        self._acked: dict[str, dict[Key, int]] = {}
        self._timed: deque[tuple[int, int, int, int]] = deque()
        self._waiting: set[asyncio.Future[None]] = set()
        self._arriving: dict[Key, int] = {}
        self.changed: Callable[[], None] = lambda: None

    # -- opening and closing -----------------------------------------------------------------------

    def open(self) -> list[str]:
        """The own journal and those replicas that there are: sentences about what was wrong.

        Blocks while all of it is read. Raises JournalError where the own one can't be used.
        """
        journal, complaints, self.doubtful = opened(
            self._directory / self.node,
            self.node,
            size_max=self.limits.size,
            boot=self._boot,
            now_ns=time.time_ns,
        )
        self._opened = [journal]
        for path in sorted(self._directory.iterdir()):
            if path.is_dir() and path.name != self.node and _NAME.fullmatch(path.name):
                replica = Journal(path, path.name, size_max=self.limits.size, boot=self._boot)
                complaints += replica.open()[0]
                self._opened.append(replica)
        self._positions = dict(journal.positions)
        marks = journal.marks()[-1]
        self.epoch, self.received = marks.epoch, marks.durable
        self._uncompared = journal.positions.keys() - journal.placed.get(self.epoch, set())
        self._opened_s = time.monotonic()
        return complaints

    def begin(self) -> None:
        """Write from now on, in the running loop."""
        for journal in self._opened:
            self.keep(journal)
        self._opened = []

    def close(self) -> None:
        """Blocks until what waits is written or refused."""
        for keeper in self._keepers.values():
            keeper.close()

    def _drops_oldest(self) -> bool:
        # Where nobody may fetch them, nobody is owed the oldest.
        return self.limits.drop_oldest or not self.clients

    def limit(self, limits: Limits) -> None:
        """Other bounds from now on."""
        self.limits = limits
        for keeper in self._keepers.values():
            keeper.journal.size_max = limits.size

    # -- what comes in -----------------------------------------------------------------------------

    @property
    def own(self) -> Keeper:
        return self._keepers[self.node]

    @property
    def has_room(self) -> bool:
        """Whether records may be collected."""
        return self.own.has_room

    def take(
        self, source: str, payload: bytes, count: int = -1, position: Position = NOWHERE
    ) -> None:
        """Records that this node has collected, to be made durable."""
        now = time.time_ns()
        block = make(
            node=self.node,
            epoch=self.epoch,
            first=self.received,
            source=source,
            payload=payload,
            received_ns=now,
            position=position,
            count=count,
        )
        self.received = block.next
        self.records[source] += block.count
        if position is not NOWHERE:
            self._positions[source] = position
            self._uncompared.discard(source)
        if len(self._timed) < DELAYS_MOST:
            self._timed.append((block.epoch, block.next, now, block.count))
        self.own.put(block)

    def begin_epoch(self) -> None:
        """No number of the current epoch is given to a record any more: somebody has records under
        numbers that this node has not given."""
        self.epoch = max(self.epoch + 1, int(time.time()))
        self.received = 0
        self._timed.clear()

    def position(self, source: str) -> Position | None:
        """Where the reader of a file stood at the last record that was taken."""
        return self._positions.get(source)

    def restore(self, block: Block) -> None:
        """A record of this node's own that only the peer still had, to be kept here again. Files
        are read on behind it."""
        self.own.put(block)
        if block.position != NOWHERE:
            self._positions[block.source] = block.position

    def recorded(self, source: str) -> Iterator[Block]:
        """The last blocks of a source, where this machine may have lost the end of its file: after
        a loss of power, until something of the file was taken. Otherwise none."""
        if source in self._uncompared:
            yield from self.own.journal.recent(source, RECENT_MAX)

    # -- replicas ----------------------------------------------------------------------------------

    def load(self, node: str) -> Journal:
        """The replica of another node's journal, to be given to `keep`. Blocks while it is read.

        Raises JournalError; ValueError for a name that is none.
        """
        if not _NAME.fullmatch(node):
            raise ValueError(node)
        directory = self._directory / node
        journal = Journal(directory, node, size_max=self.limits.size, boot=self._boot)
        journal.open()
        return journal

    def keep(self, journal: Journal) -> Keeper:
        """Write it from now on, in the running loop."""
        keeper = self._keepers[journal.node] = Keeper(
            journal, changed=self._stood, drops_oldest=self._drops_oldest
        )
        return keeper

    def arriving(self, node: str, epoch: int, following: int) -> None:
        """So much of a replica is on its way to the disk."""
        self._arriving[node, epoch] = following

    # -- what there is -----------------------------------------------------------------------------

    def streams(self, *, own: bool = False) -> tuple[Stream, ...]:
        """All that is here, or what this node has collected itself."""
        found: list[Stream] = []
        for node in sorted(self._keepers, key=lambda name: name != self.node):
            if own and node != self.node:
                break
            for marks in self._keepers[node].journal.marks():
                key = node, marks.epoch
                mine = node == self.node
                received = self._arriving.get(key, 0)
                if mine:
                    received = self.received if marks.epoch == self.epoch else marks.durable
                on_both = self._acked.get(PEER, {}).get(key, 0) if mine else marks.durable
                found.append(
                    Stream(
                        node=node,
                        epoch=marks.epoch,
                        oldest=marks.oldest,
                        received=max(received, marks.durable),
                        durable=marks.durable,
                        replicated=on_both,
                    )
                )
        return tuple(found[-STREAMS_MAX:])

    def journal(self, node: str) -> Journal | None:
        """To read from."""
        keeper = self._keepers.get(node)
        return keeper.journal if keeper is not None else None

    @property
    def keepers(self) -> dict[str, Keeper]:
        return self._keepers

    async def wait(self, seconds: float) -> None:
        """Until something has become durable, or so long."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            async with asyncio.timeout(seconds):
                await waiting
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(waiting)

    def _stood(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self.changed()

    # -- acknowledgements --------------------------------------------------------------------------

    def acknowledge(self, who: str, cursors: Iterable[Cursor]) -> None:
        """Somebody has written all that is before these. ``who`` is a fingerprint, or `PEER`."""
        known = {(each.node, each.epoch): each for each in self.streams(own=who == PEER)}
        acked = self._acked.setdefault(who, {})
        for cursor in cursors:
            key = cursor.node, cursor.epoch
            if key not in known:
                continue
            if who == PEER and cursor.next > known[key].received:
                continue  # `is_ahead` has seen to it.
            # Nobody can have what has not been given yet.
            following = min(cursor.next, known[key].durable)
            if following > acked.get(key, 0):
                acked[key] = following
        for key in acked.keys() - known.keys():
            del acked[key]
        if who == PEER:
            self._arrived()

    def is_ahead(self, cursors: Iterable[Cursor]) -> bool:
        """Whether the peer has records of the current epoch that this node has not: its disk has
        forgotten what it had promised to keep."""
        return any(
            (each.node, each.epoch) == (self.node, self.epoch) and each.next > self.received
            for each in cursors
        )

    def _arrived(self) -> None:
        """How long the records took that are on both nodes now."""
        acked, now = self._acked[PEER], time.time_ns()
        while self._timed:
            epoch, following, received_ns, count = self._timed[0]
            if acked.get((self.node, epoch), 0) < following:
                return
            self._timed.popleft()
            took = max(now - received_ns, 0)
            self.delays[min((took // 1000).bit_length(), DELAY_BUCKETS - 1)] += count
            self.in_time += count if took <= IN_TIME_MS * 1_000_000 else 0
            self.delay_ns += took * count

    def acked(self, who: str) -> dict[Key, int]:
        """What somebody has acknowledged since the start."""
        return dict(self._acked.get(who, {}))

    def forget(self, who: str) -> None:
        """He is no longer allowed."""
        self._acked.pop(who, None)

    # -- making room -------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Free what all have, what is too old, and epochs that are over and empty."""
        now_ns = time.time_ns()
        too_old = now_ns - self.limits.age_s * 1_000_000_000
        for node, keeper in self._keepers.items():
            journal = keeper.journal
            is_compared = not self._uncompared or time.monotonic() - self._opened_s > COMPARE_S
            if node == self.node and not is_compared:
                continue
            spare_ns = now_ns - COMPARED_S * 1_000_000_000
            marks = journal.marks()
            for each in marks:
                below = min(
                    (self._acked.get(who, {}).get((node, each.epoch), 0) for who in self.clients),
                    default=0,
                )
                is_empty = each.epoch != marks[-1].epoch and each.oldest == each.durable
                if below > each.oldest or is_empty:
                    below = max(below, each.durable if is_empty else 0)
                    keeper.do(partial(journal.trim, each.epoch, below, spare_ns))
            keeper.do(lambda journal=journal: journal.expire(too_old))  # type: ignore[misc]
