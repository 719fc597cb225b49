# SPDX-License-Identifier: Apache-2.0
"""What the nodes say of their log records, watched across failovers, and the judge of what a log
client wrote.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final

import msgspec

from twinbeat.api.client import ClientError
from twinbeat.weblog.shown import Replication, WeblogView
from twinlab import plan, processes, storm
from twinlab.shell import wait_for

RATE: Final = 2000
"""Requests a second."""
LOOK_S: Final = 0.1
"""Between two looks at the watermarks."""
_NUMBER: Final = re.compile(rb'"GET /n/(\d+) ')

Stream = tuple[str, int]


def view(node: str) -> WeblogView | None:
    """What the node's worker says of log records; None if it doesn't answer."""
    try:
        answer = storm.worker(node, 2.0).get("/v1/weblog")
        return msgspec.json.decode(answer.body, type=WeblogView)
    except (ClientError, msgspec.DecodeError):
        return None


def replicating() -> bool:
    """Both nodes pull the other one's records, and clients can reach them."""
    views = [view(node) for node in plan.NODES]
    return all(one is not None and one.port and one.replication.state == "pulling" for one in views)


@dataclass
class Watch:
    """The watermarks of both nodes, looked at again and again."""

    replicated: dict[Stream, int] = field(default_factory=dict)
    """The highest that anybody has said."""
    over: threading.Event = field(default_factory=threading.Event)
    delays: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By worker and start of it: records known to be on both nodes, and those within 100 ms."""
    together: tuple[int, int] = (0, 0)
    """The same for all workers, but for what came to be known from a fault on until both nodes
    replicated again: nobody could have had those in time."""
    rejoined_s: list[float] = field(default_factory=list)
    """How long that took after all had been mended: from one end of `apart` to the other."""
    _runs: dict[str, int] = field(default_factory=dict)
    _last: dict[str, int] = field(default_factory=dict)
    _fault: bool = False
    _mended_s: float = 0.0
    _is_apart: bool = True
    _known: dict[str, tuple[int, int]] = field(default_factory=dict)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Something happens to a node, and is mended when this ends."""
        self._fault = self._is_apart = True
        try:
            yield
        finally:
            self._mended_s = time.monotonic()
            self._fault = False

    def look(self) -> None:
        while not self.over.is_set():
            fault, views = self._fault, {}
            for node in plan.NODES:
                if processes.pid_of(f"worker-{node}") is not None:
                    said = view(node)
                    if said is not None:
                        self._note(node, said)
                        views[node] = said.replication
            if not fault and not self._fault and len(views) == len(plan.NODES):
                self._add(views)
            self.over.wait(LOOK_S)

    def _add(self, views: Mapping[str, Replication]) -> None:
        """Both nodes run and can reach each other."""
        known = {node: (said.records, said.in_time) for node, said in views.items()}
        if self._is_apart:
            most = 2 * RATE * LOOK_S
            if any(said.state != "pulling" or said.waiting > most for said in views.values()):
                return
            self._is_apart = False
            if self._mended_s:
                self.rejoined_s.append(time.monotonic() - self._mended_s)
        else:
            grown = [
                tuple(now - then for now, then in zip(known[node], self._known[node], strict=True))
                for node in known
            ]
            records, fast = (sum(each) for each in zip(self.together, *grown, strict=True))
            self.together = records, fast
        self._known = known

    def _note(self, node: str, said: WeblogView) -> None:
        for stream in said.streams:
            key = (stream.node, stream.epoch)
            self.replicated[key] = max(self.replicated.get(key, 0), stream.replicated)
        told = said.replication
        if told.records < self._last.get(node, 0):
            self._runs[node] = self._runs.get(node, 0) + 1  # it was started anew
        self._last[node] = told.records
        self.delays[f"{node} {self._runs.get(node, 0)}"] = (told.records, told.in_time)

    def is_whole(self) -> bool:
        """Both nodes replicate again."""
        return not self._is_apart


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watch while the block lasts."""
    watch = Watch()
    looking = threading.Thread(target=watch.look)
    looking.start()
    try:
        yield watch
    finally:
        watch.over.set()
        looking.join()


@dataclass
class Judged:
    """What is wrong with what was written; all of them are to be empty."""

    records: int = 0
    twice: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """The watermark had said replicated, and they were not written."""
    missing: list[str] = field(default_factory=list)
    """In a journal in the end, and not written."""
    disorder: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    """In the log of an nginx, and not written."""

    @property
    def faults(self) -> list[str]:
        return [*self.twice, *self.lost, *self.missing, *self.disorder, *self.unwritten]


def judge(
    lines: list[bytes],
    replicated: dict[Stream, int],
    held: dict[Stream, int],
    logs: Mapping[str, list[bytes]] = MappingProxyType({}),
) -> Judged:
    """`held`: what the nodes have in the end, as the sequence that follows; `logs`: what each
    nginx has logged."""
    written: Counter[tuple[str, bytes]] = Counter()
    found: dict[Stream, list[int]] = {}
    numbers: Counter[bytes] = Counter()
    newest: dict[str, tuple[int, int]] = {}
    judged = Judged(records=len(lines))
    for line in lines:
        node, epoch, sequence, record = line.split(b" ", 3)
        key = (node.decode(), int(epoch))
        written[key[0], record] += 1
        found.setdefault(key, []).append(int(sequence))
        place = (int(epoch), int(sequence))
        if place < newest.get(key[0], (-1, -1)) and len(judged.disorder) < 20:
            judged.disorder.append(f"{place} of {key[0]} came after {newest[key[0]]}")
        newest[key[0]] = max(place, newest.get(key[0], (-1, -1)))
        if asked_for := _NUMBER.search(line):
            numbers[asked_for.group(1)] += 1
    judged.twice += [
        f"request {n.decode()} {count} times" for n, count in numbers.items() if count > 1
    ]
    for stream, sequences in found.items():
        if len(set(sequences)) != len(sequences):
            judged.twice.append(f"{stream}: {len(sequences) - len(set(sequences))} records twice")
    for marks, faults in ((replicated, judged.lost), (held, judged.missing)):
        for stream, end in marks.items():
            lacking = set(range(end)) - set(found.get(stream, ()))
            if lacking:
                faults.append(f"{stream}: {len(lacking)} of {end}, the first {min(lacking)}")
    for name, log in logs.items():
        # A line with a null in it is what a power failure left of the end of a file.
        left = Counter((name, record) for record in log if b"\0" not in record) - written
        if left:
            some = sorted(record for _, record in left)
            judged.unwritten.append(f"{left.total()} of {name}, {some[0]!r} to {some[-1]!r}"[:500])
    return judged


def held() -> dict[Stream, int]:
    """What is durable on the nodes now; LabError if one doesn't say."""
    found: dict[Stream, int] = {}
    for node in plan.NODES:
        said = wait_for(partial(view, node), f"the streams of {node}", timeout_s=20)
        for stream in said.streams:
            key = (stream.node, stream.epoch)
            found[key] = max(found.get(key, 0), stream.durable)
    return found
