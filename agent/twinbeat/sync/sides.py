# SPDX-License-Identifier: Apache-2.0
"""What is known of the peer's side of a list of files, and what its messages make of that.

Nothing is done here about it: that is `talking.Talk`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from twinbeat.sync.filing import Listed
from twinbeat.sync.manifest import ENTRIES_MAX, Entry, Kind, Order, agreed, amended
from twinbeat.sync.taking import Taking
from twinbeat.sync.wire import FileCommon, FileDone, FileOrders, Manifest

ASK_S: Final = 5.0
"""Between two questions what the peer has."""


class Side:
    """What is known of the peer's side of one list, within one session."""

    def __init__(self, listed: Listed, count: Callable[[str, int], None]) -> None:
        """``count`` is told what was refused, and how much of it."""
        self.listed = listed
        self._count = count
        self.theirs: dict[str, Entry] | None = None
        """What the peer has; None = it hasn't said yet."""
        self.definition = ""
        self.version = 0
        self.told: dict[str, Entry] | None = None
        """What the peer knows of this node."""
        self.coming: list[Entry] = []
        self.ordered: list[Order] = []
        self.order: FileOrders | None = None
        """The last of a set that has arrived whole."""
        self.round = 0
        self.done: asyncio.Future[FileDone] | None = None
        self.taking: Taking | None = None
        self.active_at = 0.0
        self.asked_at = -ASK_S
        self.planned: tuple[int, int] | None = None
        self.failing = 0
        self.not_before = 0.0
        self.retry_at = 0.0
        self.failed_there = False
        """Of the last orders that the peer was given it couldn't carry out all."""

    def manifest(self, message: Manifest) -> bool:
        """The peer says what it has. Whether it has said all now."""
        # What is unknown only keeps others from being touched, and may lie above the list.
        covered = [
            entry
            for entry in message.entries
            if entry.kind is Kind.UNKNOWN or self.listed.files.covers(entry.path)
        ]
        self._count("refused", len(message.entries) - len(covered))
        if len(self.coming) + len(covered) > 2 * ENTRIES_MAX:
            self._count("flooded", 1)
            self.coming = []
            return False
        self.coming += covered
        if not message.last:
            return False
        entries, self.coming = self.coming, []
        if message.whole:
            self.theirs = {entry.path: entry for entry in entries}
        elif self.theirs is not None:
            self.theirs = amended(self.theirs, entries)
        if self.theirs is not None and len(self.theirs) > 2 * ENTRIES_MAX:
            self.theirs = None
            self._count("flooded", 1)
        self.definition = message.definition
        self.version += 1
        return True

    def orders(self, message: FileOrders) -> bool:
        """The peer, who leads, says what is to be done here. Whether it has said all now."""
        if len(self.ordered) + len(message.orders) > 2 * ENTRIES_MAX:
            self._count("flooded", 1)
            self.ordered = []
            return False
        self.ordered += message.orders
        if message.last:
            self.order = message
        return message.last

    def common(self, message: FileCommon) -> bool:
        """The peer, who leads, says what is common. Whether that is believed."""
        listed = self.listed
        if message.definition != listed.files.digest:
            self._count("refused", len(message.stamps))
            return False
        listed.agree(message.stamps)
        paths = {path for path, _ in message.stamps}
        listed.fail([one for one in listed.failures if one.path not in paths])
        if self.told is not None:
            self.told = agreed(self.told, message.stamps)
        listed.unsaved = True
        return True
