# SPDX-License-Identifier: Apache-2.0
"""Keys in their order, for whoever reads them a page at a time. Pure.

They lie in parts of a thousand or so: adding, removing and going on after a key take a few
microseconds however many there are, where one sorted list moves half of itself each time, and
sorting for each page looks at all of them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Final

PART_MOST: Final = 1024
"""Keys of a part; a larger one becomes two, and neighbours with a quarter of it together one."""


class Ordered:
    """A set of keys that knows their order."""

    def __init__(self) -> None:
        self._parts: list[list[bytes]] = []
        self._lasts: list[bytes] = []
        """The last key of each part."""

    def add(self, key: bytes) -> None:
        """One that isn't there."""
        if not self._parts:
            self._parts, self._lasts = [[key]], [key]
            return
        at = min(bisect_left(self._lasts, key), len(self._parts) - 1)
        part = self._parts[at]
        insort(part, key)
        if len(part) > PART_MOST:
            upper = part[PART_MOST // 2 :]
            del part[PART_MOST // 2 :]
            self._parts.insert(at + 1, upper)
            self._lasts.insert(at + 1, upper[-1])
        self._lasts[at] = part[-1]

    def discard(self, key: bytes) -> None:
        """One that may be there."""
        at = bisect_left(self._lasts, key)
        if at == len(self._parts):
            return
        part = self._parts[at]
        found = bisect_left(part, key)
        if part[found] != key:
            return
        del part[found]
        if at + 1 < len(self._parts) and len(part) + len(self._parts[at + 1]) < PART_MOST // 4:
            part += self._parts.pop(at + 1)
            del self._lasts[at + 1]
        if part:
            self._lasts[at] = part[-1]
        else:
            del self._parts[at], self._lasts[at]

    def after(self, key: bytes) -> Iterator[bytes]:
        """Those behind a key. They must not change meanwhile."""
        at = bisect_right(self._lasts, key)
        if at == len(self._parts):
            return
        first = self._parts[at]
        yield from first[bisect_right(first, key) :]
        for number in range(at + 1, len(self._parts)):
            yield from self._parts[number]
