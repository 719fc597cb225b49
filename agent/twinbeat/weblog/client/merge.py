# SPDX-License-Identifier: Apache-2.0
"""Which records are asked of whom, and which of those that come are new. Pure: no clock, no socket.

Each node gives its own streams and, from its replica, its peer's. A stream is asked of the node
that collected it, while that one is there and has more; else of the other one. What comes is taken
only where it goes on from the cursor: what is below it came before and is dropped, what is beyond
it would leave a hole and is refused. So a record is taken once, whoever gives it how often.

Epochs of a node come one after the other, so that the order of a source is kept: the next one
begins when the one before has been taken as far as its node has it. While that node is away nobody
knows how far that is; then the replica's end is waited at for `EPOCH_PATIENCE_S`.

A gap is what one node can't give any more. The other one is asked from the same place; it is a loss
when both say so, when the other one doesn't know the stream, or when it has been away for
`GAP_PATIENCE_S` since the gap was told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from twinbeat.weblog.block import Block
from twinbeat.weblog.client.state import Stream as Key
from twinbeat.weblog.client.writing import Piece, Source
from twinbeat.weblog.messages import Cursor, Gap, Stream

EPOCH_PATIENCE_S: Final = 10.0
GAP_PATIENCE_S: Final = 60.0
EPOCHS_MAX: Final = 64
"""Epochs of a node that are known at a time; those before them are over."""
SEQUENCE_MAX: Final = (1 << 63) - 1


class RefusedError(Exception):
    """A node said what can't be. `code` is counted; the message is a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that nobody can give any more."""

    pair: str
    node: str
    epoch: int
    first: int
    count: int
    reason: str

    def __str__(self) -> str:
        last = self.first + self.count - 1
        return (
            f"records {self.first} to {last} of node {self.node} (pair {self.pair}, epoch "
            f"{self.epoch}) can't be had any more: {self.reason}"
        )


@dataclass(slots=True)
class _Member:
    """A node of a pair, as this client sees it."""

    here: bool = False
    away_since_s: float = 0.0
    streams: dict[tuple[str, int], Stream] = field(default_factory=dict)
    """What it said last that it has."""


@dataclass(frozen=True, slots=True)
class _Told:
    """A gap, as a node told it."""

    end: int
    reason: str
    at_s: float


@dataclass(slots=True)
class Taken:
    """What became of what came, in records."""

    new: int = 0
    twice: int = 0
    """Records that had been taken before."""


class Pair:
    """The streams of one pair. Times are seconds of any clock that only grows."""

    def __init__(self, name: str, cursors: dict[Key, int], now_s: float) -> None:
        self.name = name
        self._written: dict[tuple[str, int], int] = {}
        self._taken: dict[tuple[str, int], int] = {}
        self._members: dict[str, _Member] = {}
        self._began_s = now_s
        self._gaps: dict[tuple[str, int], dict[str, _Told]] = {}
        """Stream -> by node, the gap at its cursor."""
        self.losses: list[Loss] = []
        """Whoever reads them empties the list. They count with the next `written`."""
        self.fall_back(cursors)

    # -- who is there ------------------------------------------------------------------------------

    def arrive(self, node: str, peer: str, streams: Iterable[Stream], now_s: float) -> None:
        """A node has said its name. Raises RefusedError if somebody else goes by it."""
        if not node.isprintable():
            raise RefusedError("name", "it calls itself what can't be shown")
        member = self._member(node, now_s)
        if member.here:
            raise RefusedError(
                "name",
                f"two nodes of pair {self.name} say that they are {node}: if they are of two "
                "pairs with one number, give each its own in log.conf (NODE … PAIR name …)",
            )
        self.hear(node, streams)
        member.here = True
        if peer and peer != node:
            self._member(peer, now_s)

    def leave(self, node: str, now_s: float) -> None:
        """It can't be reached any more."""
        member = self._member(node, now_s)
        member.here, member.away_since_s = False, now_s
        for told in self._gaps.values():
            told.pop(node, None)

    def hear(self, node: str, streams: Iterable[Stream]) -> None:
        """What it has now. Raises RefusedError if it gives names that nobody could read."""
        streams = tuple(streams)
        if not all(each.node.isprintable() for each in streams):
            raise RefusedError("name", "it names a node in characters that can't be shown")
        self._members[node].streams = {(each.node, each.epoch): each for each in streams}

    def _member(self, node: str, now_s: float) -> _Member:
        return self._members.setdefault(node, _Member(away_since_s=now_s))

    # -- what is asked of whom ---------------------------------------------------------------------

    def wanted(self, node: str, now_s: float) -> list[Cursor]:
        """The places from which a node is asked to go on."""
        origins = sorted({origin for origin, _ in self._known()})
        found = (self._next(origin, now_s) for origin in origins)
        return [cursor for giver, cursor in filter(None, found) if giver == node]

    def _known(self) -> set[tuple[str, int]]:
        return {key for member in self._members.values() if member.here for key in member.streams}

    def _next(self, origin: str, now_s: float) -> tuple[str, Cursor] | None:
        """What comes next of a node's records, and who gives it."""
        epochs = sorted(epoch for name, epoch in self._known() if name == origin)
        for epoch in epochs:
            key = (origin, epoch)
            place = self._taken.get(key, 0)
            giver = self._giver(key)
            is_last = epoch == epochs[-1]
            if is_last or place < self._durable(key):
                cursor = Cursor(node=origin, epoch=epoch, next=place)
                return (giver, cursor) if giver else None
            if not self._is_over(origin, now_s):
                return None
        return None

    def _is_over(self, origin: str, now_s: float) -> bool:
        """Whether an epoch that was taken to its end has no more: its node would have said so."""
        member = self._member(origin, self._began_s)
        return member.here or now_s - member.away_since_s >= EPOCH_PATIENCE_S

    def _durable(self, key: tuple[str, int]) -> int:
        return max(self._members[name].streams[key].durable for name in self._givers(key))

    def _givers(self, key: tuple[str, int]) -> list[str]:
        """Who has a stream; the node that collected it comes first."""
        found = [name for name, each in self._members.items() if each.here and key in each.streams]
        return sorted(found, key=lambda name: (name != key[0], name))

    def _giver(self, key: tuple[str, int]) -> str:
        """Empty: nobody can go on from the cursor. A node whose disk has forgotten the end of what
        it collected has less than the other one's replica, and will never have more."""
        gaps, place = self._gaps.get(key, {}), self._taken.get(key, 0)
        givers = [name for name in self._givers(key) if name not in gaps]
        more = [name for name in givers if self._members[name].streams[key].durable > place]
        return next(iter(more or givers), "")

    # -- what comes --------------------------------------------------------------------------------

    def gap(self, node: str, told: Gap, now_s: float) -> None:
        """A node can't give what follows a cursor. Raises RefusedError."""
        key = (told.node, told.epoch)
        member = self._members[node]
        place = self._taken.get(key, 0)
        end = told.first + told.count
        if key not in member.streams or end > member.streams[key].durable:
            raise RefusedError("gap", "a gap is in what there isn't")
        if told.first <= place < end:
            self._gaps.setdefault(key, {})[node] = _Told(end, told.reason, now_s)
        self.resolve(now_s)

    def resolve(self, now_s: float) -> None:
        """Go on behind gaps that nobody can fill."""
        for key, told in list(self._gaps.items()):
            if not told:
                del self._gaps[key]
                continue
            others = {name: each for name, each in self._members.items() if name not in told}
            if any(each.here and key in each.streams for each in others.values()):
                continue
            since = min(each.at_s for each in told.values())
            away = [name for name, each in others.items() if not each.here]
            if away and now_s - since < GAP_PATIENCE_S:
                continue
            place = self._taken.get(key, 0)
            reason, end = min((each.reason, each.end) for each in told.values())
            end = min(each.end for each in told.values())
            self._taken[key] = end
            why = f"{reason}, and {' and '.join(away)} did not come back" if away else reason
            self.losses.append(Loss(self.name, *key, place, end - place, why))
            del self._gaps[key]

    def take(self, node: str, block: Block, source: Source, taken: Taken) -> Piece | None:
        """What is new of a block, None if nothing is. Raises RefusedError."""
        key = (block.node, block.epoch)
        if key not in self._members[node].streams:
            raise RefusedError("stream", "a block is of a stream that the node doesn't have")
        if block.next > SEQUENCE_MAX:
            raise RefusedError("sequence", "a block's numbers are too high")
        place = self._taken.get(key, 0)
        if block.next <= place:
            taken.twice += block.count
            return None
        if block.first > place:
            if key in self._gaps:
                return None  # the other node is asked first for what is missing before it
            raise RefusedError(
                "hole", f"a block begins at {block.first}, and {place} would be the next record"
            )
        payload, count = block.payload, block.count
        if skipped := place - block.first:
            payload, count = _behind(payload, skipped), count - skipped
            taken.twice += skipped
        self._taken[key] = block.next
        self._gaps.pop(key, None)
        taken.new += count
        return Piece(
            *(self.name, block.node, block.epoch, place, count, source, block.received_ns, payload)
        )

    # -- what was written --------------------------------------------------------------------------

    def places(self) -> dict[Key, int]:
        """How far the streams have been taken: what counts once all that is on the disk."""
        return {(self.name, *key): next_ for key, next_ in self._taken.items()}

    def written(self, places: dict[Key, int]) -> None:
        """It is."""
        for (pair, node, epoch), next_ in places.items():
            if pair == self.name:
                self._written[node, epoch] = next_

    def over(self) -> list[Key]:
        """Streams too old to be remembered; they are forgotten."""
        found = []
        for node in {node for node, _ in self._taken}:
            epochs = sorted(epoch for name, epoch in self._taken if name == node)
            for epoch in epochs[:-EPOCHS_MAX]:
                del self._taken[node, epoch]
                self._written.pop((node, epoch), None)
                found.append((self.name, node, epoch))
        return found

    def fall_back(self, cursors: dict[Key, int]) -> None:
        """Nothing counts but what the state says: all else will be asked for again."""
        self._written = {
            (node, epoch): next_
            for (pair, node, epoch), next_ in cursors.items()
            if pair == self.name
        }
        self._taken = dict(self._written)
        self._gaps.clear()
        self.losses.clear()

    def acknowledged(self, node: str) -> list[Cursor]:
        """What a node may forget: of the streams that it has, what was written."""
        return [
            Cursor(node=key[0], epoch=key[1], next=self._written[key])
            for key in sorted(self._members[node].streams)
            if self._written.get(key)
        ]

    def lags(self) -> Iterator[tuple[str, int, str, int, int]]:
        """Node, epoch, who gives it, written, and how many more records there are."""
        for key in sorted({*self._known(), *self._written}):
            written = self._written.get(key, 0)
            durable = self._durable(key) if self._givers(key) else written
            yield (*key, self._giver(key), written, max(0, durable - written))


def _behind(payload: bytes, lines: int) -> bytes:
    """Without its first lines."""
    at = 0
    for _ in range(lines):
        at = payload.index(b"\n", at) + 1
    return payload[at:]
