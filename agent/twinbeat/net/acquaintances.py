# SPDX-License-Identifier: Apache-2.0
"""Which neighbours of one port are worth keeping warm: a bounded set with rules, and nothing else.

Knows no socket and no clock; who calls tells the time. The rules keep a scan of the subnet, where
hundreds are asked for that don't exist, from pushing out those that matter:

* Fixed neighbours, configured or next hops of routes, are never pushed out and never given up.
* Whoever was heard of may come in, so many a second. When the set is full a newcomer takes the
  place of one that never answered, else of one not heard of for a long time; else it is turned
  away.
* Who is merely found in the kernel's table comes in only while there is room.
* Who never answered is given up at once, who did after some fruitless rounds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from twinbeat.net.interfaces import Address

KEPT_MAX: Final = 256
"""Neighbours of one port, the fixed ones not counted."""
NEWCOMERS_PER_S: Final = 32
FORGOTTEN_S: Final = 600.0
"""Not heard of for so long, a neighbour makes room for a newcomer."""
PATIENCE: Final = 12
"""Fruitless rounds after which a neighbour that once answered is given up: a minute of them."""
REFRESH_S: Final = 20.0
"""How often the kernel is reminded of each; well below its gc_stale_time of 60 s."""


@dataclass(slots=True)
class _Neighbour:
    heard: float
    """When it was last heard of, in seconds."""
    due: float
    """When the kernel is to be reminded of it."""
    fixed: bool = False
    answered: bool = False
    """It had a MAC in the kernel's table."""
    warm: bool = False
    asked: bool = False
    """The kernel was reminded of it, and it is still to be seen what came of that."""
    fruitless: int = 0


@dataclass(slots=True)
class Tally:
    """What became of neighbours; only grows."""

    learned: int = 0
    given_up: int = 0
    turned_away: int = 0
    """No room, or too many newcomers at once."""

    def counted(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


class Acquaintances:
    """The neighbours of one port."""

    def __init__(self, tally: Tally) -> None:
        self._all: dict[Address, _Neighbour] = {}
        self._tally = tally
        self._second = 0
        self._newcomers = 0

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, address: Address) -> bool:
        return address in self._all

    @property
    def warm(self) -> int:
        """How many have a MAC in the kernel's table, as of the newest look."""
        return sum(one.warm for one in self._all.values())

    def newest(self, limit: int) -> list[Address]:
        """Those heard of last, newest first."""
        ordered = sorted(self._all, key=lambda address: self._all[address].heard, reverse=True)
        return ordered[:limit]

    # -- coming in -------------------------------------------------------------------------------

    def fix(self, wanted: Collection[Address], now: float) -> None:
        """Make the fixed neighbours exactly these; others that were fixed are like any other."""
        for address, one in self._all.items():
            one.fixed = address in wanted
        for address in wanted:
            if address not in self._all:
                self._all[address] = _Neighbour(heard=now, due=now, fixed=True)

    def hear(self, address: Address, now: float) -> None:
        """Somebody asks for this neighbour, or it asks itself."""
        one = self._all.get(address)
        if one is not None:
            one.heard = now
            return
        if int(now) != self._second:
            self._second, self._newcomers = int(now), 0
        self._newcomers += 1
        if self._newcomers > NEWCOMERS_PER_S or not self._make_room(now):
            self._tally.turned_away += 1
            return
        self._learn(address, now)

    def find(self, address: Address, now: float) -> None:
        """The kernel knows this neighbour."""
        if address not in self._all and self._learned() < KEPT_MAX:
            self._learn(address, now)

    def _learn(self, address: Address, now: float) -> None:
        self._all[address] = _Neighbour(heard=now, due=now)
        self._tally.learned += 1

    def _learned(self) -> int:
        return sum(not one.fixed for one in self._all.values())

    def _make_room(self, now: float) -> bool:
        if self._learned() < KEPT_MAX:
            return True
        loose = [address for address, one in self._all.items() if not one.fixed]
        oldest = min(loose, key=lambda at: (self._all[at].answered, self._all[at].heard))
        victim = self._all[oldest]
        if victim.answered and now - victim.heard < FORGOTTEN_S:
            return False
        self._give_up(oldest)
        return True

    # -- being kept ------------------------------------------------------------------------------

    def anybody_due(self, now: float) -> bool:
        """Whether the kernel is to be reminded of anybody now."""
        return any(one.due <= now for one in self._all.values())

    def due(self, now: float, limit: int) -> list[Address]:
        """Whom to remind the kernel of now, at most so many; each comes up again after a round."""
        found = [address for address, one in self._all.items() if one.due <= now][:limit]
        for address in found:
            self._all[address].due = now + REFRESH_S
            self._all[address].asked = True
        return found

    def look(self, known: Mapping[Address, bool | None], now: float) -> None:
        """Compare with the kernel's table: True = has a MAC, False = nobody answered, None = asked.

        Who isn't in the table was flushed, as with the carrier of its port, which says nothing of
        the neighbour. Of these and of who once answered and has no MAC the kernel is reminded anew.
        """
        for address, one in list(self._all.items()):
            state = known.get(address)
            if address not in known or (one.answered and not state):
                one.due = now
            one.warm = state is True
            if state is True:
                one.answered, one.asked, one.fruitless = True, False, 0
            elif state is False and one.asked:
                one.asked = False
                one.fruitless += 1
                if not one.fixed and one.fruitless >= (PATIENCE if one.answered else 1):
                    self._give_up(address)

    def _give_up(self, address: Address) -> None:
        del self._all[address]
        self._tally.given_up += 1
