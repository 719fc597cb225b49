# SPDX-License-Identifier: Apache-2.0
"""Entries: which key is bound to which server, and for how long still. Pure; has no clock.

A table has the entries of one rule, the least recently used first. It is bounded: what comes beyond
its limit takes the place of the oldest, which is told to listeners and counted. Lifetimes are told
as what remains of them, never as moments, since nobody compares the clocks of two nodes.

Listeners hear of every change once, in its order, with who made it; whoever brings the entries
somewhere leaves out what came from there.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from twinbeat.sessions.ordered import Ordered
from twinbeat.sessions.rules import KEY_MOST, TIMEOUT_MOST, Persistence

S: Final = 1_000_000_000
LIST_MOST: Final = 10_000
"""Entries of one answer."""
SWEEP_MOST: Final = 20_000
"""Entries that are looked at in one `sweep`."""
FORGET_MOST: Final = 2000
"""Entries that go in one step of `Store.make_way`."""
PAGE_LOOK: Final = 4 * LIST_MOST
"""Entries that are looked at for one page: some may be over, and not swept yet."""


class Origin(enum.Enum):
    """Who made a change."""

    LOCAL = "local"
    """This node: a proxy, an operator, or a server that is gone."""
    KERNEL = "kernel"
    """The packet path of this node."""
    PEER = "peer"


class Reason(enum.StrEnum):
    """Why an entry is gone."""

    EXPIRED = "expired"
    DELETED = "deleted"
    EVICTED = "evicted"
    """It was the oldest of a full table."""
    STALE = "stale"
    """The other node, who is primary, hasn't got it."""
    DROPPED = "dropped"
    """Its rule is gone, or means other keys now."""


class Refused(Exception):  # noqa: N818 - a refusal is no error of ours
    """What was asked can't be done; nothing was changed."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class Entry(NamedTuple):
    """One key's server."""

    server: str
    expires_ns: int
    """By the clock of whoever calls: it goes nowhere else."""

    def remaining_ns(self, now_ns: int) -> int:
        """What is left of its lifetime; 0 = it is over."""
        return max(0, self.expires_ns - now_ns)


class Put(NamedTuple):
    """An entry is so now. Made for each entry: a frozen dataclass takes three times as long."""

    rule: str
    key: bytes
    entry: Entry
    origin: Origin
    before: Entry | None
    """None: it is new."""


class Gone(NamedTuple):
    """An entry is no more."""

    rule: str
    key: bytes
    entry: Entry
    origin: Origin
    reason: Reason


Change = Put | Gone
Listener = Callable[[Change], None]


class Table:
    """The entries of one rule."""

    def __init__(self, rule: Persistence, tell: Listener) -> None:
        self.rule = rule
        self._tell = tell
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        """Least recently used first. A plain dict looks for its first past all that are gone."""
        self._ordered = None if rule.in_kernel else Ordered()
        """Keys of a proxy, which may ask for all of them a page at a time."""
        self._due: dict[int, list[bytes]] = {}
        """Second -> keys that may be over by then. Each entry is in one at least."""
        self._next = 0
        """The first second that may have something due."""
        self._filed = 0
        """Keys in `_due`: those of entries that were removed stay until their second."""
        self.counts: Counter[str] = Counter()
        """created, refreshed, moved, and every `Reason`."""
        self.servers: Counter[str] = Counter()
        """Entries of each server."""
        self.high = 0
        """Most entries at a time."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def timeout_ns(self) -> int:
        return self.rule.timeout_s * S

    def allowed_ns(self, lifetime_ns: int | None) -> int:
        """How long an entry may last whose lifetime somebody asks for: the timeout at most."""
        return self.timeout_ns if lifetime_ns is None else min(lifetime_ns, self.timeout_ns)

    def get(self, key: bytes, now_ns: int) -> Entry | None:
        """A live entry, or None. Looking at it doesn't prolong it."""
        entry = self._entries.get(key)
        return entry if entry is not None and entry.expires_ns > now_ns else None

    def put(
        self,
        key: bytes,
        server: str,
        now_ns: int,
        *,
        lifetime_ns: int | None = None,
        origin: Origin = Origin.LOCAL,
    ) -> Entry:
        """Bind a key, for the rule's timeout or so long; one that is bound already gets this server
        and this lifetime. Where the table is full the oldest entry goes.

        What an entry has left may be more than the rule's timeout, where that was a longer one
        before; it stays so on the way to the other node and back from the kernel.
        """
        if lifetime_ns is None:
            lifetime_ns = self.timeout_ns
        entry = Entry(server, now_ns + max(0, min(lifetime_ns, TIMEOUT_MOST * S)))
        before = self._take(key)
        if before is None and self._ordered is not None:
            self._ordered.add(key)
        if before is not None and before.expires_ns <= now_ns:
            # It was over: this is another entry, though nobody has swept yet.
            self.counts[Reason.EXPIRED] += 1
            before = None
        self._entries[key] = entry
        self.servers[server] += 1
        prolonged = False
        if before is None:
            self.counts["created"] += 1
        elif before.server == server:
            self.counts["refreshed"] += 1
            prolonged = entry.expires_ns >= before.expires_ns
        else:
            self.counts["moved"] += 1
        if not prolonged:
            self._file(key, entry)
        self._tell(Put(self.rule.name, key, entry, origin, before))
        if (count := len(self._entries)) > self.rule.limit:
            self._oldest_goes(Reason.EVICTED)
        elif count > self.high:
            self.high = count
        return entry

    def touch(self, key: bytes, now_ns: int, *, lifetime_ns: int | None = None) -> Entry | None:
        """Prolong an entry by the rule's timeout, or less, from now; None if it isn't there."""
        entry = self.get(key, now_ns)
        if entry is None:
            return None
        return self.put(key, entry.server, now_ns, lifetime_ns=self.allowed_ns(lifetime_ns))

    def delete(
        self,
        key: bytes,
        now_ns: int,
        *,
        reason: Reason = Reason.DELETED,
        origin: Origin = Origin.LOCAL,
    ) -> bool:
        """Whether it was there."""
        entry = self._pop(key)
        if entry is None:
            return False
        alive = entry.expires_ns > now_ns
        why = reason if alive else Reason.EXPIRED
        self.counts[why] += 1
        self._tell(Gone(self.rule.name, key, entry, origin, why))
        return alive

    def keys(self) -> list[bytes]:
        """All of them, the least recently used first; some may be over.

        The dict beneath has the same order, as each is put at its end anew, and is fifteen times as
        fast: a million take 15 ms.
        """
        return list(dict.keys(self._entries))

    def items(self, now_ns: int) -> Iterator[tuple[bytes, Entry]]:
        """The live ones. The table must not be changed meanwhile."""
        held = dict.items(self._entries)
        return ((key, entry) for key, entry in held if entry.expires_ns > now_ns)

    def page(
        self, now_ns: int, *, after: bytes = b"", limit: int = 1000
    ) -> tuple[list[tuple[bytes, Entry]], bytes]:
        """Live entries of a proxy in the order of their keys, and the key to go on after: empty at
        the end. A page is shorter where many entries are over and not swept yet."""
        assert self._ordered is not None
        limit = max(1, min(limit, LIST_MOST))
        found: list[tuple[bytes, Entry]] = []
        for looked, key in enumerate(self._ordered.after(after), 1):
            entry = self._entries[key]
            if entry.expires_ns > now_ns:
                found.append((key, entry))
            if len(found) == limit or looked == PAGE_LOOK:
                return found, key
        return found, b""

    def sweep(self, now_ns: int) -> bool:
        """Remove what is over, a bounded number at a time; whether there may be more."""
        looked, until = 0, now_ns // S
        while self._due and self._next <= until:
            keys = self._due.pop(self._next, [])
            self._next += 1
            self._filed -= len(keys)
            for key in keys:
                entry = self._entries.get(key)
                if entry is None:
                    continue
                if entry.expires_ns > now_ns:
                    self._file(key, entry)
                else:
                    self._pop(key)
                    self.counts[Reason.EXPIRED] += 1
                    gone = Gone(self.rule.name, key, entry, Origin.LOCAL, Reason.EXPIRED)
                    self._tell(gone)
            looked += len(keys)
            if looked >= SWEEP_MOST:
                return True
        return False

    def change(self, rule: Persistence) -> None:
        """Another timeout or limit; entries keep the lifetime that they have."""
        self.rule = rule
        while self.forget(rule.limit, Reason.EVICTED):
            pass

    def forget(self, left: int, reason: Reason) -> bool:
        """Let the oldest go until so many are left, a bounded number at a time; whether there are
        more that have to."""
        for _ in range(min(FORGET_MOST, len(self._entries) - left)):
            self._oldest_goes(reason)
        return len(self._entries) > left

    def drop(self) -> None:
        """Forget everything, one by one for those who listen."""
        entries, self._entries = self._entries, OrderedDict()
        self._due, self._filed = {}, 0
        self._ordered = None if self.rule.in_kernel else Ordered()
        self.servers.clear()
        for key, entry in entries.items():
            self.counts[Reason.DROPPED] += 1
            self._tell(Gone(self.rule.name, key, entry, Origin.LOCAL, Reason.DROPPED))

    def _pop(self, key: bytes) -> Entry | None:
        entry = self._take(key)
        if entry is not None and self._ordered is not None:
            self._ordered.discard(key)
        return entry

    def _take(self, key: bytes) -> Entry | None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.servers[entry.server] -= 1
            if not self.servers[entry.server]:
                del self.servers[entry.server]
        return entry

    def _oldest_goes(self, reason: Reason) -> None:
        key = next(iter(self._entries))
        entry = self._pop(key)
        assert entry is not None
        self.counts[reason] += 1
        self._tell(Gone(self.rule.name, key, entry, Origin.LOCAL, reason))

    def _file(self, key: bytes, entry: Entry) -> None:
        second = entry.expires_ns // S + 1
        self._next = min(self._next, second) if self._due else second
        self._due.setdefault(second, []).append(key)
        self._filed += 1
        if self._filed > 4 * len(self._entries) + 1024:
            entries, self._due, self._filed = self._entries, {}, 0
            for each, held in entries.items():
                self._file(each, held)


class Store:
    """The tables of all rules: what a proxy, the packet path and the other node write to."""

    def __init__(self) -> None:
        self._tables: dict[str, Table] = {}
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Have it called with every change, in its order. It never waits, and changes nothing."""
        self._listeners.append(listener)

    @property
    def tables(self) -> dict[str, Table]:
        """By the name of the rule."""
        return self._tables

    def configure(self, rules: Iterable[Persistence]) -> set[str]:
        """These rules are in force now. Entries stay where they mean the same as before; which
        rules begin without any."""
        wanted = {rule.name: rule for rule in rules}
        begun = set()
        for name in [name for name in self._tables if name not in wanted]:
            self._tables.pop(name).drop()
        for name, rule in wanted.items():
            table = self._tables.get(name)
            if table is not None and _means_the_same(table.rule, rule):
                table.change(rule)
                continue
            if table is not None:
                table.drop()
            self._tables[name] = Table(rule, self._tell)
            begun.add(name)
        return begun

    def make_way(self, rules: Iterable[Persistence]) -> Iterator[None]:
        """Before `configure`: let go, in steps, of what that would let go in one, of a million
        entries perhaps. Tables may be changed in between."""
        wanted = {rule.name: rule for rule in rules}
        for name, table in list(self._tables.items()):
            rule = wanted.get(name)
            if rule is not None and _means_the_same(table.rule, rule):
                left, reason = rule.limit, Reason.EVICTED
            else:
                left, reason = 0, Reason.DROPPED
            # No more steps than it takes, though there may be new ones by then.
            for _ in range(len(table) // FORGET_MOST + 1):
                if not table.forget(left, reason):
                    break
                yield

    def table(self, rule: str) -> Table:
        """The entries of a rule. Raises Refused, `unknown_rule`."""
        table = self._tables.get(rule)
        if table is None:
            known = ", ".join(sorted(self._tables)) or "there is none"
            raise Refused("unknown_rule", f"there is no persistence {rule!r}; known: {known}")
        return table

    def opaque(self, rule: str) -> Table:
        """The entries of a proxy's rule. Raises Refused, `unknown_rule` or `not_opaque`."""
        table = self.table(rule)
        if table.rule.in_kernel:
            kind = table.rule.kind
            why = f"persistence {rule} is of kind {kind}: the kernel makes its entries"
            raise Refused("not_opaque", why)
        return table

    def put(
        self, rule: str, key: bytes, server: str, now_ns: int, *, lifetime_ns: int | None = None
    ) -> Entry:
        """Bind a proxy's key to a server. Raises Refused, also `bad_key` and `bad_server`."""
        table = self.opaque(rule)
        if not 0 < len(key) <= KEY_MOST:
            raise Refused("bad_key", f"a key has 1 to {KEY_MOST} bytes; this one has {len(key)}")
        if not 0 < len(server.encode()) <= KEY_MOST:
            raise Refused("bad_server", f"a server has 1 to {KEY_MOST} bytes")
        return table.put(key, server, now_ns, lifetime_ns=table.allowed_ns(lifetime_ns))

    def get(self, rule: str, key: bytes, now_ns: int) -> Entry | None:
        """What a key is bound to, of any rule. Raises Refused."""
        return self.table(rule).get(key, now_ns)

    def touch(
        self, rule: str, key: bytes, now_ns: int, *, lifetime_ns: int | None = None
    ) -> Entry | None:
        """Prolong a proxy's entry; None if it isn't there. Raises Refused."""
        return self.opaque(rule).touch(key, now_ns, lifetime_ns=lifetime_ns)

    def delete(self, rule: str, key: bytes, now_ns: int) -> bool:
        """Remove an entry, of any rule; whether it was there. Raises Refused."""
        return self.table(rule).delete(key, now_ns)

    def sweep(self, now_ns: int) -> bool:
        """Remove what is over; whether there may be more."""
        more = [table.sweep(now_ns) for table in self._tables.values()]
        return any(more)

    def _tell(self, change: Change) -> None:
        for listener in self._listeners:
            listener(change)


def _means_the_same(before: Persistence, after: Persistence) -> bool:
    """Whether a key of one rule is a key of the other."""
    if (before.kind, before.version) != (after.kind, after.version):
        return False
    return before.bits == after.bits
