# SPDX-License-Identifier: Apache-2.0
"""What is there of a list of files, and what is to be done where two nodes differ. Pure.

Theory of operation
-------------------
Two things that differ don't say which of them is newer, and the nodes' clocks don't either. What
both had alike the last time does: the *common* state. Who still has that has not changed anything,
so it takes what the other has; if nobody has it, both have changed it, and that is a conflict.

Each node keeps what it knows of the common state by itself, as a stamp for each path; what it takes
from the other it notes before (`remembered.Remembered.ordered`). A crash may
leave one of them a step behind, so a state counts as old if either of the two knows it as common.
That a path is missing counts as a deletion only if the node that misses it knows it as common: who
lost what it knew, or whose disk isn't mounted, deletes nothing on the other.

One node alone decides for both, the primary; `plan` says what each of them has to do. A change
rules over a deletion. In a conflict the primary's state rules, and the other node keeps a copy of
its own.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from twinbeat.sync.document import U32, Name

ENTRIES_MAX: Final = 20_000
"""Of one list."""
FILE_MAX: Final = 1 << 30
"""Bytes of a file."""

Path = Annotated[str, Meta(min_length=1, max_length=4096)]
Hash = Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]
Stamp = Annotated[str, Meta(pattern="^([0-9a-f]{32})?$")]
"""Stands for everything of an entry that has to be alike; empty = there is nothing."""


class Kind(enum.StrEnum):
    """What there is under a path."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    ABSENT = "absent"
    UNKNOWN = "unknown"
    """It can't be read, or is none of the above. Nothing is done about it, nor below it."""


class Entry(Struct, frozen=True, kw_only=True):
    """One path of a list."""

    path: Path
    kind: Kind
    mode: Annotated[int, Meta(ge=0, le=0o7777)] = 0
    uid: U32 = 0
    gid: U32 = 0
    size: Annotated[int, Meta(ge=0, le=FILE_MAX)] = 0
    mtime_ns: Annotated[int, Meta(ge=-(1 << 62), lt=1 << 62)] = 0
    """Goes with the content; alone it makes no difference."""
    content: Hash = ""
    """BLAKE2b-256 of a file's content."""
    target: Annotated[str, Meta(max_length=4096)] = ""
    """Of a symbolic link."""
    common: Stamp = ""
    """What the sender last knew both nodes to have here."""
    why: Name = ""
    """Why it is unknown: a code of `files.Trouble`."""

    @property
    def stamp(self) -> str:
        """What has to be alike."""
        if self.kind in {Kind.ABSENT, Kind.UNKNOWN}:
            return ""
        # What a symbolic link's mode says means nothing.
        mode = 0 if self.kind is Kind.LINK else self.mode
        told = f"{self.kind}:{mode:o}:{self.uid}:{self.gid}:{self.content}:{self.target}"
        return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class What(enum.StrEnum):
    """What a node is told to do about a path."""

    TAKE = "take"
    """Get the other's."""
    DELETE = "delete"


class Order(Struct, frozen=True, kw_only=True):
    """One thing that a node has to do."""

    what: What
    entry: Entry
    """What there is to be; of `DELETE` the path says all."""
    expect: Stamp
    """What there must be now: who changed something meanwhile doesn't lose it."""
    keep: bool = False
    """Keep a copy of what is there, since it was changed as well."""


@dataclass(slots=True, kw_only=True)
class Plan:
    """What brings two nodes together."""

    here: list[Order] = field(default_factory=list)
    there: list[Order] = field(default_factory=list)
    common: dict[str, str] = field(default_factory=dict)
    """Path -> stamp of what is alike already and isn't known as common; empty: gone on both."""
    conflicts: list[str] = field(default_factory=list)
    revived: list[str] = field(default_factory=list)
    """Deleted on one node and changed on the other, so they come back."""
    blocked: dict[str, str] = field(default_factory=dict)
    """Paths of which a node can't say what there is -> why."""

    @property
    def empty(self) -> bool:
        return not self.here and not self.there


Entries = Mapping[str, Entry]


def stamps(entries: Entries) -> dict[str, str]:
    """What there is, as it is remembered once both nodes have it."""
    return {path: stamp for path, entry in entries.items() if (stamp := entry.stamp)}


def with_common(entries: Entries, common: Mapping[str, str]) -> dict[str, Entry]:
    """Entries as they are sent: each with what was common, and the missing ones named."""
    told = {
        path: replace(entry, common=common[path]) if common.get(path) else entry
        for path, entry in entries.items()
    }
    for path, stamp in common.items():
        if path not in told:
            told[path] = Entry(path=path, kind=Kind.ABSENT, common=stamp)
    return told


def changed(before: Entries, after: Entries) -> tuple[Entry, ...]:
    """The entries that make of one manifest the other; what isn't in it any more is absent."""
    told = [entry for path, entry in after.items() if before.get(path) != entry]
    told += [Entry(path=path, kind=Kind.ABSENT) for path in before if path not in after]
    return tuple(told)


def amended(before: Entries, changes: Iterable[Entry]) -> dict[str, Entry]:
    """The manifest after `changed`."""
    after = dict(before)
    for entry in changes:
        if entry.kind is Kind.ABSENT and not entry.common:
            after.pop(entry.path, None)
        else:
            after[entry.path] = entry
    return after


def agreed(entries: Entries, common: Iterable[tuple[str, str]]) -> dict[str, Entry]:
    """Entries as they are sent, after this was found to be common: both nodes reckon alike."""
    after = dict(entries)
    for path, stamp in common:
        entry = after.get(path)
        if entry is None:
            continue
        if stamp or entry.kind is not Kind.ABSENT:
            after[path] = replace(entry, common=stamp)
        else:
            del after[path]
    return after


def is_common(entries: Entries, common: Mapping[str, str]) -> bool:
    """Whether all that can be told is known as common, and nothing is that isn't there."""
    have = stamps(entries)
    if any(common.get(path) != stamp for path, stamp in have.items()):
        return False
    return all(path in have or _hidden(entries, path) for path in common)


def _hidden(entries: Entries, path: str) -> bool:
    """Whether it lies where nothing can be told."""
    while path:
        entry = entries.get(path)
        if entry is not None and entry.kind is Kind.UNKNOWN:
            return True
        path = path.rpartition("/")[0]
    return False


def plan(here: Entries, there: Entries, *, delete: bool) -> Plan:
    """What the two nodes have to do. ``here`` is the node that decides: its state rules."""
    made = Plan()
    for path in sorted(here.keys() | there.keys()):
        absent = Entry(path=path, kind=Kind.ABSENT)
        mine, theirs = here.get(path, absent), there.get(path, absent)
        above = path
        while above and (unknown := _unknown(here, there, above)) is None:
            above = above.rpartition("/")[0]
        if above:
            if above == path:
                made.blocked[path] = unknown or ""
            continue
        _decide(made, mine, theirs, delete=delete)
    _keep_directories(made, here, there)
    _move_aside(made, here, there)
    return made


def _unknown(here: Entries, there: Entries, path: str) -> str | None:
    for side in (here, there):
        entry = side.get(path)
        if entry is not None and entry.kind is Kind.UNKNOWN:
            return entry.why
    return None


def _decide(made: Plan, mine: Entry, theirs: Entry, *, delete: bool) -> None:
    path = mine.path
    m, t = mine.stamp, theirs.stamp
    old = {mine.common, theirs.common} - {""}
    if m == t:
        if mine.common != m or theirs.common != m:
            made.common[path] = m
    elif not m:
        if mine.common and delete and t in old:
            made.there.append(_delete(theirs))
            return
        if mine.common and delete:
            made.revived.append(path)
        made.here.append(_take(theirs, m))
    elif not t:
        if theirs.common and delete and m in old:
            made.here.append(_delete(mine))
            return
        if theirs.common and delete:
            made.revived.append(path)
        made.there.append(_take(mine, t))
    elif m in old and t not in old:
        made.here.append(_take(theirs, m))
    elif t in old and m not in old:
        made.there.append(_take(mine, t))
    else:
        keep = theirs.kind is not Kind.DIRECTORY and (
            (mine.kind, mine.content, mine.target) != (theirs.kind, theirs.content, theirs.target)
        )
        made.conflicts.append(path)
        made.there.append(_take(mine, t, keep=keep))


def _take(entry: Entry, expect: str, *, keep: bool = False) -> Order:
    return Order(what=What.TAKE, entry=_plain(entry), expect=expect, keep=keep)


def _delete(entry: Entry) -> Order:
    gone = Entry(path=entry.path, kind=Kind.ABSENT)
    return Order(what=What.DELETE, entry=gone, expect=entry.stamp)


def _plain(entry: Entry) -> Entry:
    return replace(entry, common="") if entry.common else entry


def _is_there(entry: Entry) -> bool:
    return entry.kind is not Kind.ABSENT


def _keep_directories(made: Plan, here: Entries, there: Entries) -> None:
    """A directory that something stays in, or comes into, is not deleted: it comes back."""
    for orders, others, side, other in (
        (made.here, made.there, here, there),
        (made.there, made.here, there, here),
    ):
        going = {order.entry.path for order in orders if order.what is What.DELETE}
        doomed = {path for path in going if side[path].kind is Kind.DIRECTORY}
        if not doomed:
            continue
        staying = {path for path, entry in side.items() if _is_there(entry) and path not in going}
        staying |= {order.entry.path for order in orders if order.what is What.TAKE}
        inhabited: set[str] = set()
        for path in staying:
            above = path.rpartition("/")[0]
            while above and above not in inhabited:
                inhabited.add(above)
                above = above.rpartition("/")[0]
        for path in sorted(doomed & inhabited):
            orders[:] = [order for order in orders if order.entry.path != path]
            gone = other.get(path)
            others.append(_take(side[path], gone.stamp if gone else ""))
            made.revived.append(path)


def _move_aside(made: Plan, here: Entries, there: Entries) -> None:
    """Where something else takes a directory's place, what would stay in it moves away with it."""
    for orders, side in ((made.here, here), (made.there, there)):
        going = {order.entry.path for order in orders if order.what is What.DELETE}
        for order in list(orders):
            path = order.entry.path
            now = side.get(path)
            if order.what is not What.TAKE or order.entry.kind is Kind.DIRECTORY:
                continue
            if now is None or now.kind is not Kind.DIRECTORY:
                continue
            below = path + "/"
            if all(p in going for p in side if p.startswith(below) and _is_there(side[p])):
                continue
            for each in (made.here, made.there):
                each[:] = [
                    replace(one, keep=True) if one is order else one
                    for one in each
                    if not one.entry.path.startswith(below)
                ]
            if path not in made.conflicts:
                made.conflicts.append(path)
