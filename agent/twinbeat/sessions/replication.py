# SPDX-License-Identifier: Apache-2.0
"""How entries get to the other node, and stay in step there. Pure: it is driven by ticks, and what
it wants to say it gives to whoever carries it.

The primary's node *leads*: it sends what changes in batches, each with a number, and the other
answers a number when everything up to it is in its kernel. The time from an entry's making to that
answer is the window in which a death could lose it; its histogram is kept here.

Nobody ever waits for the other node. Where answers stay out, or the carrier has no room, the leader
stops sending (*behind*), and once the other has caught up it sends everything anew: a snapshot,
paced, between whose beginning and end the follower notes what it is told, and drops the rest after
it. Lifetimes are told as what remains of them.

An entry that was only prolonged is told of once a second, or once in a sixteenth of its timeout.
"""

from __future__ import annotations

import enum
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from twinbeat.sessions.entries import Change, Gone, Origin, Put, Reason, Store
from twinbeat.sessions.keys import key_sizes

MS: Final = 1_000_000
BATCH_MOST: Final = 1000
OPAQUE_MOST: Final = 256
"""Entries of one message, which goes in one frame: those of a proxy may have half a kilobyte."""
SNAPSHOT_TICK: Final = 4000
"""Entries of a snapshot that are sent in one tick: 4 ms of work here and 30 ms there, so that where
either is woken late the other has something to do meanwhile."""
SNAPSHOT_AHEAD: Final = 12
"""Batches without an answer beyond which a snapshot waits: news behind them wait 0.1 s."""
OUTSTANDING_MOST: Final = 256
"""Batches without an answer beyond which the other node is behind."""
WAITING_MOST: Final = 200_000
"""Changes that wait for the next tick; more of them are a snapshot."""
STEP_NS: Final = 1_000 * MS
"""A prolongation is told of when the end moves into another step."""
RETRY_NS: Final = 1_000 * MS
"""Between a snapshot that came to nothing and the next attempt."""
DROP_MOST: Final = 2048
"""Entries that are looked at before other work gets its turn, of those that a snapshot may not have
named."""
GIVE_UP_NS: Final = 10_000 * MS
"""So long answers are waited for by who sends nothing meanwhile: one that found no room on its way
never comes, and nothing would follow that could make up for it."""

Told = tuple[bytes, str, int]
"""Key, server, and what remains in milliseconds."""


class Part(enum.StrEnum):
    """Of a snapshot, or not."""

    LIVE = "live"
    BEGIN = "begin"
    MORE = "more"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Entries of one rule, for the other node."""

    number: int
    part: Part = Part.LIVE
    rule: str = ""
    entries: tuple[Told, ...] = ()
    gone: tuple[bytes, ...] = ()


class Sent(NamedTuple):
    """A batch that was sent and not answered."""

    number: int
    made_ns: int
    """When its first entry was made."""
    timed: int
    """Entries whose way is timed: those of a snapshot were made long ago."""
    rule: str
    entries: tuple[Told, ...]


Carry = Callable[[Batch], bool]
"""Takes a message, or has no room for it. Never waits."""
Took = Callable[[int, int], None]
"""Is told how long so many entries took until they were in the other kernel."""


class State(enum.StrEnum):
    """How the other node stands, seen from the leader."""

    ALONE = "alone"
    FILLING = "filling"
    IN_STEP = "in-step"
    BEHIND = "behind"


class Leader:
    """Sends what changes here."""

    def __init__(self, store: Store, took: Took, clock: Callable[[], int]) -> None:
        self._store = store
        self._took = took
        self._clock = clock
        self._carry: Carry | None = None
        self._number = 0
        self._waiting: dict[tuple[str, bytes], bool] = {}
        """What is to be told of; False = it is gone."""
        self._oldest_ns = 0
        """When the first of them was made, at the earliest."""
        self.made_ns: int | None = None
        """When what is put now was made at the earliest; None = now."""
        self._answers: deque[Sent] = deque()
        self._filling: Iterator[tuple[str, list[bytes]]] | None = None
        self._not_before_ns = 0
        self.state = State.ALONE
        self.counts: Counter[str] = Counter()
        """sent, gone, batches, snapshots, and resyncs by why: slow, crowded, flood, asked"""
        self.filled = (0, 0)
        """Entries of the snapshot under way that were sent, and that there were."""
        self.filled_ns = 0
        """How long the last snapshot took until its end was answered."""
        self._filling_since_ns = 0
        self._missed = 0
        """News that were not sent, or not answered, since it fell behind: a snapshot has them."""
        self._missed_ns: int | None = None
        """When the first of them was made; None = it hasn't fallen behind."""
        self._untold: dict[str, set[bytes]] | None = None
        """Of a node that leads no longer; see `untold`."""
        store.listen(self._changed)

    @property
    def outstanding(self) -> int:
        """Entries that were sent, and of which the other node has said nothing yet."""
        return sum(sent.timed for sent in self._answers)

    @property
    def waiting(self) -> int:
        """Changes that wait to be sent."""
        return len(self._waiting)

    def untold(self) -> dict[str, set[bytes]] | None:
        """What the other node may not have, by rule; None: it may lack anything."""
        if self.state is State.ALONE:
            return self._untold
        if self.state is not State.IN_STEP:
            return None
        found: dict[str, set[bytes]] = {}
        for rule, key in self._waiting:
            found.setdefault(rule, set()).add(key)
        for sent in self._answers:
            found.setdefault(sent.rule, set()).update(key for key, _, _ in sent.entries)
        return {rule: keys for rule, keys in found.items() if keys}

    def expect(self, now_ns: int) -> None:
        """There is somebody to send to, though not yet: news are as old as this when they come."""
        self._missed, self._missed_ns = 0, now_ns

    def follow(self, carry: Carry | None, now_ns: int, *, lost: bool = False) -> None:
        """There is somebody to send to, or nobody any more; ``lost``: nor to speak with."""
        self._untold = None if carry is not None or lost else self.untold()
        self._carry = carry
        self._answers.clear()
        self._waiting.clear()
        self._filling = None
        if carry is None:
            self._missed, self._missed_ns = 0, None
        self._not_before_ns = now_ns
        self.state = State.ALONE if carry is None else State.BEHIND

    def asked(self) -> None:
        """The other node wants everything anew, or has to get it. At once, as it has the room for
        it, but not again and again."""
        if self._carry is not None and self.state is not State.BEHIND:
            self._fall_behind("asked", self._oldest_ns if self._waiting else self._clock())
            self._not_before_ns = min(self._not_before_ns, self._filling_since_ns + RETRY_NS)

    def answered(self, number: int, now_ns: int) -> None:
        """Everything up to that number is in the other kernel."""
        while self._answers and self._answers[0].number <= number:
            sent = self._answers.popleft()
            if sent.timed:
                self._took(max(0, now_ns - sent.made_ns), sent.timed)
        if self.state is State.FILLING and self._filling is None and not self._answers:
            self.state = State.IN_STEP
            self.filled_ns = now_ns - self._filling_since_ns
            if self._missed_ns is not None:
                if self._missed:
                    self._took(max(0, now_ns - self._missed_ns), self._missed)
                self._missed, self._missed_ns = 0, None

    def tick(self, now_ns: int) -> None:
        """Send what has gathered."""
        if self._carry is None:
            return
        if self.state is State.BEHIND:
            patience_ns = GIVE_UP_NS if self._answers else 0
            if now_ns < self._not_before_ns + patience_ns:
                return
            for sent in self._answers:
                if sent.timed and self._missed_ns is not None:
                    self._missed_ns = min(self._missed_ns, sent.made_ns)
                    self._missed += sent.timed
            self._answers.clear()
            self._begin(now_ns)
        if self._waiting:
            self._send_waiting(now_ns)
        if self._filling is not None:
            self._send_more(now_ns)

    # -- what changes ------------------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        if change.origin is Origin.PEER:
            return
        if self.state in {State.ALONE, State.BEHIND}:
            if isinstance(change, Put) and self._is_news(change):
                self._keep(change)
            return
        if isinstance(change, Gone):
            if change.reason in {Reason.EXPIRED, Reason.DROPPED}:
                self._waiting.pop((change.rule, change.key), None)
                return
        elif not self._is_news(change):
            return
        if not self._waiting:
            self._oldest_ns = self._clock() if self.made_ns is None else self.made_ns
        self._waiting[change.rule, change.key] = isinstance(change, Put)
        if len(self._waiting) > WAITING_MOST:
            self._fall_behind("flood", self._oldest_ns)

    def _keep(self, change: Put) -> None:
        """There is nobody to send it to now."""
        self._missed += self._missed_ns is not None
        if self._untold is not None:
            keys = self._untold.setdefault(change.rule, set())
            keys.add(change.key)
            if len(keys) > WAITING_MOST:
                self._untold = None

    def _is_news(self, change: Put) -> bool:
        before, after = change.before, change.entry
        if before is None or before.server != after.server:
            return True
        step = min(STEP_NS, max(MS, self._store.tables[change.rule].timeout_ns // 16))
        return before.expires_ns // step != after.expires_ns // step

    def _fall_behind(self, why: str, since_ns: int) -> None:
        self.counts[f"resync {why}"] += 1
        if self._missed_ns is None:
            self._missed_ns = since_ns
        self._missed += sum(self._waiting.values())
        self._waiting.clear()
        self._filling = None
        self.state = State.BEHIND
        self._not_before_ns = self._clock() + RETRY_NS

    # -- sending -----------------------------------------------------------------------------------

    def _send_waiting(self, now_ns: int) -> None:
        waiting, self._waiting = self._waiting, {}
        rules: dict[str, tuple[list[Told], list[bytes]]] = {}
        for (rule, key), there in waiting.items():
            table = self._store.tables.get(rule)
            if table is None:
                continue
            entries, gone = rules.setdefault(rule, ([], []))
            entry = table.get(key, now_ns)
            if entry is not None:
                entries.append((key, entry.server, entry.remaining_ns(now_ns) // MS))
            elif not there:
                gone.append(key)
        left = sum(len(entries) for entries, _ in rules.values())
        for rule, (entries, gone) in rules.items():
            most = self._most(rule)
            for at in range(0, max(len(entries), len(gone)), most):
                part = entries[at : at + most], gone[at : at + most]
                if not self._send(Part.LIVE, rule, *part, self._oldest_ns):
                    self._missed += left
                    return
                left -= len(part[0])

    def _most(self, rule: str) -> int:
        return BATCH_MOST if self._store.tables[rule].rule.in_kernel else OPAQUE_MOST

    def _begin(self, now_ns: int) -> None:
        self.counts["snapshots"] += 1
        self.state = State.FILLING
        self._filling_since_ns = now_ns
        keys = [
            (name, table.keys(), self._most(name)) for name, table in self._store.tables.items()
        ]
        self.filled = (0, sum(len(each) for _, each, _ in keys))
        self._filling = _parts(keys)
        self._send(Part.BEGIN, "", [], [], now_ns)

    def _send_more(self, now_ns: int) -> None:
        sent = 0
        while self._filling is not None and sent < SNAPSHOT_TICK:
            if len(self._answers) >= SNAPSHOT_AHEAD:
                return
            rule, keys = next(self._filling, ("", []))
            if not rule:
                self._filling = None
                self._send(Part.END, "", [], [], now_ns)
                return
            table = self._store.tables.get(rule)
            found = [(key, table.get(key, now_ns)) for key in keys] if table is not None else []
            entries = [
                (key, entry.server, entry.remaining_ns(now_ns) // MS)
                for key, entry in found
                if entry is not None
            ]
            sent += len(keys)
            self.filled = (self.filled[0] + len(keys), self.filled[1])
            if entries:
                self._send(Part.MORE, rule, entries, [], now_ns)

    def _send(
        self, part: Part, rule: str, entries: list[Told], gone: list[bytes], made_ns: int
    ) -> bool:
        assert self._carry is not None
        if len(self._answers) >= OUTSTANDING_MOST:
            self._fall_behind("slow", made_ns)
            return False
        self._number += 1
        batch = Batch(
            number=self._number, part=part, rule=rule, entries=tuple(entries), gone=tuple(gone)
        )
        if not self._carry(batch):
            self._fall_behind("crowded", made_ns)
            return False
        self.counts["batches"] += 1
        self.counts["sent"] += len(entries)
        self.counts["gone"] += len(gone)
        # What a snapshot repeats was made long ago: it says nothing of the window.
        count = len(entries) if part is Part.LIVE else 0
        self._answers.append(Sent(self._number, made_ns, count, rule, batch.entries))
        return True


class Follower:
    """Takes what the leader sends into the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._told: dict[str, set[bytes]] | None = None
        """What a snapshot has named so far."""
        self._unnamed: Iterator[tuple[str, bytes]] | None = None
        """Those that it hasn't, which are to go."""
        self.counts: Counter[str] = Counter()
        """received, gone, snapshots; left out: unknown_rule, malformed, ours, crowded"""

    def lost(self) -> None:
        """Nothing more comes: what there is stays."""
        self._told = self._unnamed = None

    def take(self, batch: Batch, now_ns: int, *, leading: bool) -> bool:
        """Take a batch in; whether its rule is known here. After the end of a snapshot `drop` has
        to be called until there is nothing more to be dropped, before the next batch is taken.

        ``leading``: this node leads by now. Then only what it doesn't know yet can be news: the
        last entries of a node that has just handed over.
        """
        if batch.part is Part.BEGIN:
            self._told = {}
            self.counts["snapshots"] += 1
            return True
        if batch.part is Part.END:
            if self._told is not None:
                self._unnamed = _unnamed(self._store, self._told)
            self._told = None
            return True
        table = self._store.tables.get(batch.rule)
        if table is None:
            self.counts["unknown_rule"] += len(batch.entries)
            return False
        sizes = key_sizes(table.rule)
        told = None if self._told is None else self._told.setdefault(batch.rule, set())
        received = 0
        if not leading:
            # First: a full table would throw out one that the leader keeps, to make room.
            for key in batch.gone:
                self.counts["gone"] += table.delete(key, now_ns, origin=Origin.PEER)
        for key, server, remaining_ms in batch.entries:
            if len(key) not in sizes or not server:
                self.counts["malformed"] += 1
                continue
            if leading and table.get(key, now_ns) is not None:
                self.counts["ours"] += 1
                continue
            if told is not None:
                told.add(key)
            lifetime_ns = remaining_ms * MS
            table.put(key, server, now_ns, lifetime_ns=lifetime_ns, origin=Origin.PEER)
            received += 1
        self.counts["received"] += received
        return True

    def drop(self, now_ns: int, *, leading: bool) -> bool:
        """Drop what a snapshot has not named, a bounded number at a time; whether there is more.

        Who leads by now drops nothing: its own packets may have made it anew.
        """
        if leading:
            self._unnamed = None
        if self._unnamed is None:
            return False
        found = list(itertools.islice(self._unnamed, DROP_MOST))
        for name, key in found:
            table = self._store.tables.get(name)
            if key and table is not None:
                table.delete(key, now_ns, reason=Reason.STALE, origin=Origin.PEER)
        if len(found) < DROP_MOST:
            self._unnamed = None
        return self._unnamed is not None


def _unnamed(store: Store, told: dict[str, set[bytes]]) -> Iterator[tuple[str, bytes]]:
    """All keys that there are now, by rule; empty for one that was told of."""
    for name, table in list(store.tables.items()):
        named = told.get(name, set())
        for key in table.keys():  # noqa: SIM118
            yield name, b"" if key in named else key


def _parts(keys: Iterable[tuple[str, list[bytes], int]]) -> Iterator[tuple[str, list[bytes]]]:
    for name, found, most in keys:
        for at in range(0, len(found), most):
            yield name, found[at : at + most]
