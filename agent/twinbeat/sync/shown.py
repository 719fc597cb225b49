# SPDX-License-Identifier: Apache-2.0
"""How the lists of files stand, for people and metrics. Knows nothing of how they are kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

from msgspec import Meta, Struct

from twinbeat.sync.document import Name, Sentence

BRIEFS_MOST: Final = 64
"""Lists that the agent hears of: first those that aren't alike."""
STATES: Final = ("partly", "same", "unreadable", "waiting", "working")


def printable(text: str) -> str:
    """A path, or what a peer said, as it may go into a log or onto a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class FileFailure(Struct, frozen=True, kw_only=True):
    """One path that isn't as it should be."""

    path: Annotated[str, Meta(max_length=4096)]
    code: Name
    sentence: Sentence = ""


class ListStatus(Struct, frozen=True, kw_only=True):
    """One list, in full."""

    name: str
    state: str
    """waiting, working, same, partly, unreadable"""
    sentence: str
    entries: int = 0
    bytes: int = 0
    items_done: int = 0
    items: int = 0
    """Of the round that runs, on this node; on the one that leads, of both."""
    bytes_done: int = 0
    bytes_wanted: int = 0
    failed: int = 0
    failures: tuple[FileFailure, ...] = ()
    """The first of them, of both nodes."""
    conflicts: int = 0
    """Paths that both nodes had changed, since the worker started; of the node that leads."""
    watched: int = 0
    command: str = ""
    """How it ended the last time."""
    changed_ns: int = 0
    """When something was changed here the last time, by the wall clock."""

    def brief(self) -> ListBrief:
        """What is told of it every other second."""
        return ListBrief(
            name=self.name,
            state=self.state,
            sentence=self.sentence[:512],
            entries=self.entries,
            bytes=self.bytes,
            failed=self.failed,
            conflicts=self.conflicts,
        )


class FilesStatus(Struct, frozen=True, kw_only=True):
    """All lists, and what happened to them since the worker started."""

    lists: tuple[ListStatus, ...] = ()
    counts: dict[str, int] = {}


class ListBrief(Struct, frozen=True, kw_only=True):
    """One list, in a few words and numbers."""

    name: Name
    state: Name
    sentence: Sentence = ""
    entries: int = 0
    bytes: int = 0
    failed: int = 0
    conflicts: int = 0


Briefs = Annotated[tuple[ListBrief, ...], Meta(max_length=BRIEFS_MOST)]


def briefs(lists: Iterable[ListStatus]) -> Briefs:
    """What the agent hears of: of too many lists those that aren't alike."""
    first = sorted(lists, key=lambda each: (each.state == "same", each.name))[:BRIEFS_MOST]
    return tuple(sorted((each.brief() for each in first), key=lambda each: each.name))
