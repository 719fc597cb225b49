# SPDX-License-Identifier: Apache-2.0
"""What `twinbeat top` shows: two nodes' answers as one picture, with what changed since the last.

Pure: it neither asks nor draws. Gaps and lateness are those of the interval between two pictures,
from the histograms' growth; so a second in which nothing was late looks like one, however the day
was.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct
from msgspec.structs import asdict

from twinbeat.api.brief import Glance, Kept, kept, other_node, this_node
from twinbeat.api.figures import grown, percentile
from twinbeat.api.schema import SCHEMA, Counters, Histogram, Role, Status, Transition, Watch
from twinbeat.api.text import age, length
from twinbeat.cli.base import Exit

SPARKS: Final = "▁▂▃▄▅▆▇█"
SPARK_LENGTH: Final = 40
NOTHING: Final = "·"
"""No heartbeat in that interval."""
WARNINGS: Final = 6


@dataclass(slots=True)
class Told:
    """What both nodes answered, or why they didn't."""

    at_s: float
    time: str
    own: Status | None = None
    own_counters: Counters | None = None
    why: str = ""
    """Why this node's agent gave no answer."""
    code: Exit = Exit.UNREACHABLE
    peer: Status | None = None
    peer_counters: Counters | None = None
    peer_why: str = ""
    transitions: list[Transition] = field(default_factory=list)


class LinkRow(Struct, frozen=True, kw_only=True):
    """One link, as one node hears it."""

    name: str
    state: str
    up: bool
    gap_p99_ns: int | None = None
    """Of the last interval."""
    loss_ratio: float | None = None
    sparks: str = ""
    """The gaps of the last intervals, newest last: the lowest is the hello interval, the highest
    the dead interval and above; a dot is an interval without a heartbeat."""
    alarm: bool = False


class NodeRow(Glance, Struct, frozen=True, kw_only=True):
    """One node."""

    index: int | None
    answers: bool
    """It told all of this itself; otherwise it is what its peer heard of it."""
    why: str = ""
    """Why it didn't."""
    role_for: str = ""
    state: str = ""
    term_highest: int = 0
    lease_ns: int | None = None
    attested_ns: int | None = None
    watch: Watch | None = None
    """What it makes of the other one."""
    heard_ns: int | None = None
    late_p99_ns: int | None = None
    late_ticks: int = 0
    """In the last interval."""
    suspicions: dict[str, int] = {}
    suspicions_new: int = 0
    sync: str = ""
    in_step: bool = False
    kept: list[Kept] = []
    """What outlasts a takeover, as its worker told its agent last."""
    links: list[LinkRow] = []


class Moved(Struct, frozen=True, kw_only=True):
    """A change of role."""

    time: str
    from_role: Role
    to_role: Role
    sentence: str
    term: int
    total_ns: int | None = None


class Picture(Struct, frozen=True, kw_only=True):
    """One refresh."""

    schema: int = SCHEMA
    time: str
    pair: int = 0
    sentence: str = ""
    role: Role | None = None
    lost: str = ""
    """Why there is nothing new: this node's agent doesn't answer."""
    nodes: list[NodeRow] = []
    warnings: list[str] = []
    transitions: list[Moved] = []


class Tracker:
    """Remembers as much as the next picture needs."""

    def __init__(self) -> None:
        self._before: dict[str, Counters] = {}
        self._sparks: dict[tuple[str, str], deque[str]] = {}
        self._last: Picture | None = None
        self._lost_since = ""

    def take(self, told: Told) -> Picture:
        """The next picture."""
        if told.own is None or told.own_counters is None:
            return self._lost(told)
        self._lost_since = ""
        status = told.own
        nodes = [self._node(status, told.own_counters)]
        if told.peer is not None and told.peer_counters is not None:
            nodes.append(self._node(told.peer, told.peer_counters))
        else:
            self._forget(status.peer.name)
            nodes.append(_heard(status, told.peer_why))
        warnings = [f"{status.node.name}: {warning.sentence}" for warning in status.warnings]
        if told.peer is not None:
            name = told.peer.node.name
            warnings += [f"{name}: {warning.sentence}" for warning in told.peer.warnings]
        self._last = Picture(
            time=told.time,
            pair=status.pair,
            sentence=status.sentence,
            role=status.node.role,
            nodes=nodes,
            warnings=warnings[:WARNINGS],
            transitions=[_moved(transition) for transition in reversed(told.transitions)],
        )
        return self._last

    def _lost(self, told: Told) -> Picture:
        """The agent is away: the last picture stands, with why and since when nothing is new."""
        self._lost_since = self._lost_since or told.time
        last = self._last or Picture(time=told.time)
        for node in last.nodes:
            self._forget(node.name)
        return Picture(
            time=told.time,
            pair=last.pair,
            lost=f"no answer since {self._lost_since}: {told.why}",
            nodes=last.nodes,
            transitions=last.transitions,
        )

    def _forget(self, name: str) -> None:
        """What was counted by then says nothing of the intervals to come."""
        self._before.pop(name, None)

    def _node(self, status: Status, counters: Counters) -> NodeRow:
        node, gate, sync = status.node, status.gate, status.sync
        before = self._before.get(node.name)
        self._before[node.name] = counters
        late = _late(before, counters)
        news = sum(counters.suspicions.values())
        known = sum(before.suspicions.values()) if before is not None else news
        said = ""
        if sync is not None:
            said = f"{'in step' if sync.in_step else sync.state}, generation {sync.generation}"
        return NodeRow(
            **asdict(this_node(status)),
            index=node.index,
            answers=True,
            role_for=age(status.now_ns - node.role_since_ns),
            state=node.state.value,
            term_highest=node.term_highest,
            lease_ns=status.timers.lease_us * 1000,
            attested_ns=max(gate.attested_left_ns, 0),
            watch=status.peer.watch,
            heard_ns=status.peer.age_ns,
            late_p99_ns=late,
            late_ticks=max(0, counters.late_ticks - before.late_ticks) if before else 0,
            suspicions=counters.suspicions,
            suspicions_new=max(0, news - known),
            sync=said,
            in_step=sync is not None and sync.in_step,
            kept=kept(status, counters),
            links=self._links(status, counters, before),
        )

    def _links(self, status: Status, counters: Counters, before: Counters | None) -> list[LinkRow]:
        rows = []
        old = {link.name: link.gaps for link in before.links} if before is not None else {}
        new = {link.name: link.gaps for link in counters.links}
        for link in status.links:
            gap = None
            sparks = self._sparks.setdefault(
                (status.node.name, link.name), deque(maxlen=SPARK_LENGTH)
            )
            was, now = old.get(link.name), new.get(link.name)
            if was is not None and now is not None:
                gap = percentile(grown(was.counts, now.counts), 0.99)
                timers = status.timers
                sparks.append(spark(gap, timers.hello_us * 1000, timers.dead_us * 1000))
            rows.append(
                LinkRow(
                    name=link.name,
                    state=link.state,
                    up=link.up,
                    gap_p99_ns=gap,
                    loss_ratio=link.quality.loss_ratio,
                    sparks="".join(sparks),
                    alarm=link.quality.alarm,
                )
            )
        return rows


def spark(gap_ns: int | None, hello_ns: int, dead_ns: int) -> str:
    """One gap as a bar: logarithmic, from the hello interval up to the dead interval."""
    if gap_ns is None:
        return NOTHING
    if gap_ns <= hello_ns:
        return SPARKS[0]
    part = math.log(gap_ns / hello_ns) / math.log(max(dead_ns / hello_ns, 1.01))
    return SPARKS[min(len(SPARKS) - 1, int(part * (len(SPARKS) - 1)))]


def line(picture: Picture, node: NodeRow) -> str:
    """A node on one line, for where there is no terminal."""
    role = node.role.value if node.role is not None else "never heard"
    parts = [f"{picture.time} {node.name} {role}", f"term {node.term or 'none'}"]
    if not node.answers:
        parts += [f"gate {'open' if node.gate_open else 'shut'}", f"as heard: {node.why}"]
        return ", ".join(parts)
    left = length(node.lease_left_ns) if node.lease_left_ns is not None else ""
    parts.append(f"gate open for {left}" if node.gate_open else "gate shut")
    parts.append(f"{'fit' if node.fit else 'unfit'}, health {node.health}")
    parts.append(f"peer {node.watch.value if node.watch is not None else '?'}")
    for link in node.links:
        gap = f" gap p99 {length(link.gap_p99_ns)}" if link.gap_p99_ns is not None else ""
        parts.append(f"{link.name} {link.state}{gap}")
    if node.late_p99_ns is not None:
        parts.append(f"late p99 {length(node.late_p99_ns)}")
    parts.append(f"suspicions cleared {node.suspicions.get('cleared', 0)}")
    if node.sync:
        parts.append(f"sync {node.sync}")
    parts += [f"{each.name} {each.state}: {each.words}" for each in node.kept]
    return ", ".join(parts)


def _late(before: Counters | None, now: Counters) -> int | None:
    """How late the engine woke up, in the last interval: 99 of 100 times no later."""
    empty = Histogram(counts=[])
    new = now.histograms.get("send_lateness", empty)
    if before is None:
        return None
    return percentile(grown(before.histograms.get("send_lateness", empty).counts, new.counts), 0.99)


def _heard(status: Status, why: str) -> NodeRow:
    """The other node as this one hears it."""
    return NodeRow(
        **asdict(other_node(status)),
        index=1 - status.node.index,
        answers=False,
        why=why or "it can't be asked",
    )


def _moved(transition: Transition) -> Moved:
    return Moved(
        time=transition.time,
        from_role=transition.from_role,
        to_role=transition.to_role,
        sentence=transition.sentence,
        term=transition.term,
        total_ns=transition.durations_ns.get("total"),
    )
