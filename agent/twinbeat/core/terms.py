# SPDX-License-Identifier: Apache-2.0
"""Terms: reserved on disk in blocks, well before the engine needs one.

A term is the number of a reign. It only ever grows, is used for one claim only, and never again
after a restart; so what the disk says is reserved is burnt for every later run. The low bit of a
term is its node's index, so two nodes can't pick the same. Nothing is written on the fast path:
the block is in the standing order, and the next one is reserved while the old one lasts.

A disk that knows of no term is that of a new node or was lost. A new pair has small terms, but a
node that lost its disk may not use again what it used before. Its peer may have forgotten as well
or never have heard of it, so a node counts as new only if its peer says that it is new, too
(`Past`). Everybody else begins above a number that only grows, made from the boot epoch.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

from twinbeat.core.effects import ReserveTerms
from twinbeat.core.types import TermBlock

NEEDED = 4
"""A claim and the peer's answer to it use so many numbers: with fewer the block counts as spent."""

EPOCH_SHIFT: Final = 10
"""So many bits of numbers are left for the terms of each second of the boot epoch."""


def floor_of(counter: int) -> int:
    """What a node that lost its disk begins its terms above, from a counter of its own."""
    return counter >> 32 << EPOCH_SHIFT


def kernel_listened(term: int, fence_below: int) -> bool:
    """Whether a gate that is found at the start tells that only the agent was gone.

    Its term is of a reign that nobody ended: a stop would have left none, a reboot no gate. And the
    kernel, which takes in claims and answers probes by itself, heard of none after it.
    """
    return term > 0 and fence_below <= term


class Past(enum.Enum):
    """Whether terms were used before this run, of which this node doesn't know."""

    UNKNOWN = enum.auto()
    """The disk knows of none, and nobody was heard yet: nothing is claimed."""
    NONE = enum.auto()
    """The peer said the same of itself: a new pair."""
    SETTLED = enum.auto()
    """Whatever was used lies below the highest known."""


NO_BLOCK: Final = TermBlock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is reserved, and whether more is on its way."""

    size: int
    """Numbers per block."""
    reserved_last: int
    """The last number ever reserved on disk, by whatever run."""
    block: TermBlock = NO_BLOCK
    asked: ReserveTerms | None = None
    """Under way."""
    failed: str = ""
    """Why the disk refused the last time."""
    retry_ns: int = 0

    @property
    def ordered(self) -> TermBlock:
        """The block as the engine has it. One without numbers still tells what earlier runs
        reserved: all terms that this node ever saw lie below its beginning."""
        if self.block != NO_BLOCK:
            return self.block
        return TermBlock(first=self.reserved_last + 1, last=self.reserved_last)

    def wanted(self, highest: int, now_ns: int) -> ReserveTerms | None:
        """What to reserve now, if anything: a quarter of a block has to be left."""
        if self.asked is not None or (self.failed and now_ns < self.retry_ns):
            return None
        if self.block.left_above(highest) >= self.size // 4:
            return None
        if self.block.left_above(highest) > 0:
            first = self.block.first  # Go on where the block ends, wasting nothing.
            begin = self.block.last
        else:
            begin = max(self.reserved_last, highest)
            first = begin + 1
        return ReserveTerms(first=first, up_to=begin + self.size)

    def asking(self, request: ReserveTerms) -> Terms:
        """The request was handed out."""
        return replace(self, asked=request, retry_ns=0)

    def reserved(self, block: TermBlock) -> Terms:
        """The block is on disk."""
        assert block.last >= self.reserved_last, "a disk never gives back what it reserved"
        return replace(
            self, block=block, reserved_last=block.last, asked=None, failed="", retry_ns=0
        )

    def refused(self, why: str, retry_ns: int) -> Terms:
        """The disk refused; ask again at ``retry_ns``."""
        return replace(self, asked=None, failed=why or "unknown", retry_ns=retry_ns)

    @property
    def awaited(self) -> bool:
        """What is missing is being written, or about to be: no fault of this node yet."""
        return not self.failed

    def spent(self, highest: int) -> bool:
        """Too few are left to claim with. A disk that refuses counts as spent before the end."""
        reserve = self.size // 8 if self.failed else 0
        return self.block.left_above(highest) < max(NEEDED, reserve)


class Ledger:
    """The terms of one run: what it may use, the highest it ever saw, and what it knows of its
    past."""

    def __init__(self, *, size: int, reserved_last: int) -> None:
        """As in `Terms`."""
        self.terms = Terms(size=size, reserved_last=reserved_last)
        self.highest = reserved_last
        """The highest term that this node ever saw."""
        self.past = Past.SETTLED if reserved_last else Past.UNKNOWN
        self.reigned = reserved_last > 0
        """A node of the pair served before, as far as this one knows, or may have."""
        self.floor = 0
        """What a node that lost its disk begins above."""

    def see(self, *terms: int) -> None:
        """These terms are in the world."""
        self.highest = max(self.highest, *terms)

    def begin_above_floor(self) -> None:
        """Terms were used of which the disk doesn't know: all of them lie below."""
        self.past = Past.SETTLED
        self.see(self.floor)

    @property
    def spent(self) -> bool:
        """Too few are left to claim with."""
        return self.terms.spent(self.highest)

    @property
    def why_spent(self) -> str:
        """Why a node whose past is known has no terms; empty = it has."""
        if self.past is Past.UNKNOWN or not self.spent:
            return ""
        return self.terms.failed or "none are reserved yet"

    def wanted(self, now_ns: int) -> ReserveTerms | None:
        """What to reserve now, if anything; it counts as asked for."""
        if self.past is Past.UNKNOWN:
            return None
        request = self.terms.wanted(self.highest, now_ns)
        if request is not None:
            self.terms = self.terms.asking(request)
        return request
