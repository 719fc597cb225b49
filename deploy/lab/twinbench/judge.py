# SPDX-License-Identifier: Apache-2.0
"""What was seen, turned into numbers.  Pure: no lab, no clock, no file.

Its material is what can be seen from outside: the client's record, captures on the switches, the
edges of both gates as tb-gates noted them.  What the agents say of themselves (their transitions)
is used only where a figure asks for it: the moment of a verdict, the reason of a step down.

All moments are CLOCK_BOOTTIME nanoseconds.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twinlab.capture import Frame
from twinlab.probe import Record

# ------------------------------------------------------------------------- takeovers ---------


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """A node became primary, as it says itself."""

    node: str
    term: int
    reason: str
    verdict_ns: int | None
    gate_ns: int
    """When its gate opened; the transition's own moment where the timeline has none."""


def takeovers(
    histories: Mapping[str, Iterable[Mapping[str, Any]]],
    *,
    since_ns: int = 0,
    until_ns: int | None = None,
) -> list[Takeover]:
    """All transitions to primary of all nodes within a time, in order."""
    found = []
    for node, transitions in histories.items():
        for transition in transitions:
            if transition["to_role"] != "primary":
                continue
            timeline = transition.get("timeline") or {}
            at_ns = timeline.get("gate_ns") or transition["at_ns"]
            if at_ns < since_ns or (until_ns is not None and at_ns > until_ns):
                continue
            found.append(
                Takeover(
                    node=node,
                    term=transition["term"],
                    reason=transition["reason"],
                    verdict_ns=timeline.get("verdict_ns"),
                    gate_ns=at_ns,
                )
            )
    return sorted(found, key=lambda takeover: takeover.gate_ns)


# -------------------------------------------------------------- the gates from outside -------


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A gate opened or shut."""

    at_ns: int
    node: str
    open: bool
    term: int
    fence_below: int
    open_until_ns: int
    why: str
    """Of a shut gate: lease, fence, contest, term (the engine shut it itself); `-` of an open
    one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What tb-gates saw."""

    edges: tuple[Edge, ...]
    samples: int = 0
    both_open: int = 0
    """Samples in which both gates were open."""
    both_longest_ns: int = 0
    pause_longest_ns: int = 0
    """The longest time in which it did not look: what it could have missed."""


def read_watch(text: str) -> Watch:
    """Parse the output of tb-gates; one that still runs has no summary yet."""
    edges = []
    summary: dict[str, int] = {}
    for line in text.splitlines():
        if line.startswith("{"):
            summary = json.loads(line)
            continue
        words = line.split()
        if len(words) != 7:
            continue  # The last line of one that still runs.
        at, node, state, term, fence, until, why = words
        edges.append(
            Edge(
                at_ns=int(at),
                node=node,
                open=state == "open",
                term=int(term),
                fence_below=int(fence),
                open_until_ns=int(until),
                why=why,
            )
        )
    return Watch(
        edges=tuple(edges),
        samples=summary.get("samples", 0),
        both_open=summary.get("both_open", 0),
        both_longest_ns=summary.get("both_longest_ns", 0),
        pause_longest_ns=summary.get("pause_longest_ns", 0),
    )


def owner_at(edges: Sequence[Edge], at_ns: int) -> str | None:
    """Whose gate was open at a moment; None if nobody's was, or both were."""
    state: dict[str, bool] = {}
    for edge in edges:
        if edge.at_ns <= at_ns:
            state[edge.node] = edge.open
    opened = [node for node, is_open in state.items() if is_open]
    return opened[0] if len(opened) == 1 else None


class Kind(enum.Enum):
    """What a takeover was that nobody had caused."""

    FALSE = "false"
    """The primary's gate was open: the claim fenced it."""
    LAPSE = "lapse"
    """The primary's lease had really run out."""
    RESIGNED = "resigned"
    """The primary had shut its gate itself (a void order, a lost gate program)."""
    HANDED = "handed"
    """The primary had asked the other node to take over, or was told to leave the role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDown:
    """A node was no longer primary, and why, as it says itself."""

    node: str
    at_ns: int
    code: str


def steps_down(
    histories: Mapping[str, Iterable[Mapping[str, Any]]],
    provoked: Sequence[tuple[int, int]] = (),
    *,
    since_ns: int,
    until_ns: int,
) -> list[StepDown]:
    """Every end of a reign within a time that falls into none of the provoked times, in order.

    A primary that took a newer term goes on: it is recorded as a change from primary to primary.
    """
    found = [
        StepDown(node=node, at_ns=transition["at_ns"], code=str(transition["reason"]))
        for node, transitions in histories.items()
        for transition in transitions
        if transition["from_role"] == "primary" != transition["to_role"]
        and since_ns <= transition["at_ns"] <= until_ns
        and not any(begin <= transition["at_ns"] <= end for begin, end in provoked)
    ]
    return sorted(found, key=lambda step: step.at_ns)


END_OF_REIGN: Mapping[str, Kind] = {
    # The gate was open when the other node took over: the engine says `fenced` only while the lease
    # that the claim ended had not run out.
    "fenced": Kind.FALSE,
    "contest_lost": Kind.FALSE,
    "lease_expired": Kind.LAPSE,
    # Its Python, its host or its witness failed it, or it was cut off.
    "order_void": Kind.RESIGNED,
    "gate_lost": Kind.RESIGNED,
    "gate_missing": Kind.RESIGNED,
    "stranded": Kind.RESIGNED,
    "no_witness": Kind.RESIGNED,
    "unhealthy": Kind.RESIGNED,
    "resigned": Kind.RESIGNED,
    # Events were lost: how it came about isn't known, and only what was seen counts.
    "resynced": Kind.RESIGNED,
    # Why it wanted the other node's claim, which then ended its reign.
    "peer_better": Kind.HANDED,
    "told_to_hand_over": Kind.HANDED,
    "told_to_yield": Kind.HANDED,
    "stay_secondary": Kind.HANDED,
    "disabled": Kind.HANDED,
    "stopped": Kind.HANDED,
}
"""What a primary says of the end of its reign, every code of it, and what that makes of a takeover.
A code that isn't known here is taken for the worst."""


def by_own_account(said: StepDown | None) -> Kind | None:
    """What a takeover was by the loser's word; None if it tells of none."""
    return None if said is None else END_OF_REIGN.get(said.code, Kind.FALSE)


OWN_ACCOUNT_WITHIN_NS = 1_000_000_000
"""A step down further away than this from the shutting of a gate is another one."""


def last_shut(takeover_ns: int, taker: str, edges: Sequence[Edge]) -> Edge | None:
    """The last edge of the other gate before one node took over: shut, or open if it still was.

    None if nothing was ever seen of it.
    """
    shut: Edge | None = None
    for edge in edges:
        if edge.node == taker:
            continue
        if edge.at_ns <= takeover_ns:
            shut = edge
        elif shut is not None and shut.open and edge.why == "lease":
            # Read a moment before the taker's gate, and shut in between: its end is known exactly.
            return edge if edge.open_until_ns <= takeover_ns else shut
        else:
            break
    return shut


def own_account(
    takeover_ns: int, taker: str, shut: Edge | None, steps: Sequence[StepDown]
) -> StepDown | None:
    """What the loser says of the moment its gate shut: its step down nearest in time to it.

    To that of the takeover, where it wasn't seen to shut before.
    """
    at_ns = takeover_ns if shut is None or shut.open else shut.at_ns
    near = [
        step
        for step in steps
        if step.node != taker and abs(step.at_ns - at_ns) <= OWN_ACCOUNT_WITHIN_NS
    ]
    return min(near, key=lambda step: abs(step.at_ns - at_ns), default=None)


Claims = Mapping[tuple[str, int], int]
"""When each node began the claim of a term under which it became primary, as it says itself."""


def claims(histories: Mapping[str, Iterable[Mapping[str, Any]]]) -> Claims:
    """The claims behind all openings that the nodes tell of."""
    return {
        (node, transition["term"]): timeline["claim_ns"]
        for node, transitions in histories.items()
        for transition in transitions
        if transition["to_role"] == "primary"
        and (timeline := transition.get("timeline") or {}).get("claim_ns") is not None
    }


def begun_after_lease(shut: Edge, said: StepDown | None, claim_ns: int | None) -> bool:
    """Whether a claim was begun when the other gate's lease had run out, so it fenced no open one.

    Both nodes of the lab read the same clock, and a claim is dated before anything is sent.  A
    loser that says after the end of that lease that it was fenced speaks of a later reign.
    """
    if claim_ns is None or not shut.open_until_ns or shut.why not in ("lease", "fence"):
        return False
    if said is not None and by_own_account(said) is Kind.FALSE:
        of_this_reign = said.code == "fenced" and said.at_ns < shut.open_until_ns
        return of_this_reign and claim_ns >= shut.open_until_ns
    return claim_ns >= shut.open_until_ns


def kind_of(
    takeover_ns: int,
    taker: str,
    edges: Sequence[Edge],
    steps: Sequence[StepDown] = (),
    claim_ns: int | None = None,
) -> Kind:
    """Why the gate of the other node was shut when one node took over.

    The edge asked is the other gate's last shutting before the taker's gate opened; a gate that was
    never seen to shut was open.

    steps: what the nodes say of the ends of their reigns.  Within a tick of a claim's fence the
    engine shuts the gate itself, and whoever looks after that can't see the fence any more; whoever
    looks after the end of the lease can't either.  So the loser's own word that it was fenced makes
    a takeover false, whatever was seen; that its lease ran out makes it a lapse only where it is
    seen that the gate was shut by itself.  A primary that had asked for the claim says why instead
    of that it was fenced: its gate was open, and nobody cried wolf.

    claim_ns: when the taker began its claim, where it is known.  A loser that was held up between
    its clock and its gate's words takes a fence for one that came in time; a claim that was begun
    after the end of the lease, which is seen from outside, didn't.
    """
    shut = last_shut(takeover_ns, taker, edges)
    said = own_account(takeover_ns, taker, shut, steps)
    told = by_own_account(said)
    if told is Kind.HANDED:
        return told
    if shut is None or shut.open:
        return Kind.FALSE
    if begun_after_lease(shut, said, claim_ns):
        return Kind.LAPSE
    if told is Kind.FALSE:
        return told
    match shut.why:
        case "lease":
            return Kind.LAPSE
        case "term":
            return told or Kind.RESIGNED
        case _:
            return Kind.FALSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A takeover that nobody had caused."""

    taken: Edge
    kind: Kind
    shut: Edge | None
    """How the other gate was last seen."""
    said: StepDown | None
    """What the other node says of it."""
    claim_ns: int | None = None
    """When the taker began its claim; None = it doesn't tell of it."""

    def claimed_late_ns(self) -> int | None:
        """How long after the end of the other gate's lease the claim was begun, where known."""
        if self.claim_ns is None or self.shut is None or not self.shut.open_until_ns:
            return None
        return self.claim_ns - self.shut.open_until_ns

    def held_up_ns(self, lease_ns: int) -> int | None:
        """How late the old primary itself was: from its lease's last renewal to its step down.

        None where the end of its lease was not seen, or it tells of no step down.
        """
        if self.shut is None or self.said is None or not self.shut.open_until_ns:
            return None
        if self.shut.open:
            return None
        return self.said.at_ns - (self.shut.open_until_ns - lease_ns)


def unprovoked(
    edges: Sequence[Edge],
    provoked: Sequence[tuple[int, int]],
    steps: Sequence[StepDown] = (),
    claimed: Claims | None = None,
    *,
    since_ns: int,
    until_ns: int,
) -> list[Moved]:
    """The takeovers within a time that fall into none of the times in which one was provoked.

    A takeover is a gate that opens while the other node's was the last to be open: a node that
    opens its own gate again (a lapse it recovered from) took nothing over.
    """
    found = []
    owner: str | None = None
    for edge in edges:
        if not edge.open:
            continue
        before, owner = owner, edge.node
        if before is None or before == owner or not since_ns <= edge.at_ns <= until_ns:
            continue
        if any(begin <= edge.at_ns <= end for begin, end in provoked):
            continue
        shut = last_shut(edge.at_ns, edge.node, edges)
        claim_ns = (claimed or {}).get((edge.node, edge.term))
        found.append(
            Moved(
                taken=edge,
                claim_ns=claim_ns,
                kind=kind_of(edge.at_ns, edge.node, edges, steps, claim_ns),
                shut=shut,
                said=own_account(edge.at_ns, edge.node, shut, steps),
            )
        )
    return found


def false_failovers(verdicts: int, moved: Sequence[Moved], steps: Sequence[StepDown]) -> int:
    """How often the pair cried wolf, by whichever of three witnesses saw most of it.

    They see the same failovers, so they are not added up: verdicts of DEAD on a living peer,
    takeovers from an open gate as seen from outside, and primaries that say they were fenced, or
    give a reason that nobody here knows.  Of these last those are left out whose lease had run out
    when the claim that fenced them was begun.
    """
    seen = sum(1 for takeover in moved if takeover.kind is Kind.FALSE)
    lapsed = [takeover.said for takeover in moved if takeover.kind is Kind.LAPSE]
    told = sum(1 for step in steps if by_own_account(step) is Kind.FALSE and step not in lapsed)
    return max(verdicts, seen, told)


def both_open_ns(
    edges: Sequence[Edge], provoked: Sequence[tuple[int, int]], *, since_ns: int, until_ns: int
) -> int:
    """The longest time both gates were open that began in none of the provoked times."""
    opened: dict[str, bool] = {}
    longest, began = 0, None
    for edge in edges:
        opened[edge.node] = edge.open
        both = sum(opened.values()) > 1
        if both and began is None:
            began = edge.at_ns
        elif not both and began is not None:
            quiet = not any(begin <= began <= end for begin, end in provoked)
            if quiet and since_ns <= began <= until_ns:
                longest = max(longest, edge.at_ns - began)
            began = None
    return longest


# -------------------------------------------------------------------------- overlaps ---------


def overlap(frames: Sequence[Frame], reigns: Sequence[Takeover]) -> list[Frame]:
    """Frames for a VIP from an owner whose successor had already spoken.

    frames: the nodes' frames in the name of a VIP, in the order of time, on all networks.  Counted
    is each frame of another node between a new owner's first frame since it took over and the next
    takeover.
    """
    found: list[Frame] = []
    for number, reign in enumerate(reigns):
        end = reigns[number + 1].gate_ns if number + 1 < len(reigns) else None
        first: int | None = None
        for frame in frames:
            if frame.at_ns < reign.gate_ns or (end is not None and frame.at_ns >= end):
                continue
            if frame.port == reign.node:
                first = frame.at_ns if first is None else first
            elif first is not None and frame.at_ns > first:
                found.append(frame)
    return found


def first_frame_ns(frames: Iterable[Frame], node: str, since_ns: int) -> int | None:
    """When a node first spoke for a VIP since a moment."""
    return next(
        (frame.at_ns for frame in frames if frame.port == node and frame.at_ns >= since_ns), None
    )


# ------------------------------------------------------------------ the client's view --------


def served_after(record: Record, since_ns: int, *, within_ns: int) -> tuple[int | None, int]:
    """When service was whole again after a moment, and how many probes were lost from there on.

    The first number is how long after the moment the last interruption ended that began before the
    moment or within `within_ns` of it; 0 = there was none, None = it never ended.
    """
    whole = 0
    for outage in record.outages():
        if outage.first_good_ns is not None and outage.first_good_ns <= since_ns:
            continue
        if outage.first_lost_sent_ns > since_ns + within_ns:
            continue
        if outage.first_good_ns is None:
            return None, _lost_since(record, since_ns, within_ns)
        whole = max(whole, outage.first_good_ns - since_ns)
    return whole, _lost_since(record, since_ns, within_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """Service that stopped, and went on."""

    began_ns: int
    """The first lost probe was sent."""
    ended_ns: int | None
    """The first answer came again; None = none did while we looked."""
    lost: int


def interruptions(record: Record, from_ns: int, until_ns: int) -> tuple[Interruption, ...]:
    """Those that began between two moments."""
    return tuple(
        Interruption(
            began_ns=outage.first_lost_sent_ns, ended_ns=outage.first_good_ns, lost=outage.lost
        )
        for outage in record.outages()
        if from_ns <= outage.first_lost_sent_ns < until_ns
    )


LOST_BEFORE_NS = 2_000_000
"""A probe sent so long before a gate shut may still have found it shut, or its answer may have."""

NEAR_NS = 5_000_000
"""An engine's word and an edge so near to each other are of the same shutting."""


def with_lapses(edges: Sequence[Edge], steps: Sequence[StepDown]) -> tuple[Edge, ...]:
    """The edges, and beside them the lapses that were not seen to be such.

    The engine itself may shut an expired gate before anybody looks, and a stall that keeps it from
    its lease may keep whoever watches the gates from them too, until the gate is open again.
    """
    found = list(edges)
    for step in steps:
        if step.code != "lease_expired":
            continue
        near = [
            edge
            for edge in found
            if edge.node == step.node and not edge.open and abs(edge.at_ns - step.at_ns) <= NEAR_NS
        ]
        lapse = Edge(
            at_ns=step.at_ns,
            node=step.node,
            open=False,
            term=0,
            fence_below=0,
            open_until_ns=step.at_ns,
            why="lease",
        )
        if not near and open_at(edges, step.node, step.at_ns):
            # Open again by the time that somebody looked: how soon isn't known.
            found += [lapse, replace(lapse, at_ns=step.at_ns + 1, open=True, why="-")]
        elif len(near) == 1 and near[0].why == "term":
            found[found.index(near[0])] = replace(
                near[0], open_until_ns=min(near[0].at_ns, step.at_ns), why="lease"
            )
    return tuple(sorted(found, key=lambda edge: edge.at_ns))


def lapse_behind(
    interruption: Interruption, edges: Sequence[Edge], *, settled_ns: int, lease_ns: int
) -> Edge | None:
    """The lapse of a lease that explains an interruption, if the gates' edges show one.

    It has to be the only owner's, by a lease that ran out and by nothing else, and the interruption
    may not have begun before that lease was renewed for the last time: from there on the owner is
    known to have been held up, and what it held up with it need not have waited for the gate.
    Between the moment from which on all was settled and the lapse no gate may have been shut by a
    claim or by a contest.
    """
    for edge in edges:
        if edge.open or edge.why != "lease" or edge.at_ns < settled_ns:
            continue
        lapsed = edge.open_until_ns  # Exactly, if it was seen; it was looked at a little later.
        served_again = any(
            other.open and edge.at_ns <= other.at_ns <= interruption.began_ns for other in edges
        )
        if interruption.began_ns < lapsed - lease_ns - LOST_BEFORE_NS or served_again:
            continue
        if interruption.ended_ns is not None and interruption.ended_ns < lapsed:
            continue
        earlier = [other for other in edges if other.at_ns < edge.at_ns]
        disturbed = any(
            other.why in ("fence", "contest") and other.at_ns >= settled_ns for other in earlier
        )
        if owner_at(earlier, edge.at_ns) == edge.node and not disturbed:
            return edge
    return None


def _lost_since(record: Record, since_ns: int, within_ns: int) -> int:
    count = record.judged()
    return sum(
        1
        for sent, answered in zip(record.sent_ns[:count], record.answered_ns[:count], strict=True)
        if not answered and since_ns <= sent <= since_ns + within_ns
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """How two open gates became one after a partition healed."""

    loser: str | None
    """Whose gate shut first; None = only one was open."""
    shut_after_ns: int | None
    """How long after the moment the loser's gate shut; None = both stayed open."""


def contest(edges: Sequence[Edge], since_ns: int) -> Contest:
    """Which of two gates that were open at a moment shut, and when."""
    state: dict[str, bool] = {}
    for edge in edges:
        if edge.at_ns > since_ns and sum(state.values()) == 2 and not edge.open:
            gone = edge.at_ns - since_ns
            return Contest(loser=edge.node, shut_after_ns=gone)
        state[edge.node] = edge.open
    if sum(state.values()) == 2:
        return Contest(loser=None, shut_after_ns=None)
    return Contest(loser=None, shut_after_ns=0)


def overlap_after_heal_ns(
    frames: Iterable[Frame], edges: Sequence[Edge], since_ns: int, *, tolerance_ns: int = 0
) -> int:
    """How long after a moment a frame for a VIP was last sent that one owner alone would not send.

    That is a frame sent while both gates were open, or by a node whose gate was shut.

    tolerance_ns: how late tb-gates may have noted an opening; a frame so much ahead of its sender's
    opening is no fault.
    """
    last = since_ns
    for frame in frames:
        if frame.at_ns < since_ns:
            continue
        opened = {
            node for node in {edge.node for edge in edges} if open_at(edges, node, frame.at_ns)
        }
        soon = open_at(edges, frame.port, frame.at_ns + tolerance_ns)
        if len(opened) > 1 or (frame.port not in opened and not soon):
            last = frame.at_ns
    return last - since_ns


def open_at(edges: Sequence[Edge], node: str, at_ns: int) -> bool:
    """Whether a node's gate was open at a moment, as far as it was seen."""
    state = False
    for edge in edges:
        if edge.at_ns > at_ns:
            break
        if edge.node == node:
            state = edge.open
    return state


# -------------------------------------------------------------------------- counters ---------

FORGED = ("version", "pair", "key", "auth", "replay", "stranger")
"""Reasons of the kernel program (ebpf/tb_abi.h) for which it refuses what the flood consists of.

No others: an honest ANSWER that comes too late is refused as well (`window`), and an own frame that
is reflected (`own`); whoever counted those would find forged frames counted that were not.
"""


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """By how much each counter grew; counters that began in between count from zero."""
    return {name: value - before.get(name, 0) for name, value in after.items()}


def refused(counters: Mapping[str, int]) -> int:
    """How many heartbeats the kernel refused for a reason that a forger or a replayer gives it."""
    return sum(counters.get(name, 0) for name in FORGED)


# ----------------------------------------------------------- the machine itself --------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A bare real-time thread, above every engine, was not run when it should have been."""

    began_ns: int
    ended_ns: int

    @property
    def lasted_ns(self) -> int:
        return self.ended_ns - self.began_ns


def stalls_of(noted: Iterable[Sequence[int]]) -> list[Stall]:
    """What tb-late listed: when it woke, and how late that was."""
    return [Stall(began_ns=at_ns - late_ns, ended_ns=at_ns) for at_ns, late_ns in noted]


def beside_stalls(moments: Iterable[int], stalls: Sequence[Stall], *, within_ns: int) -> int:
    """How many moments lie in a stall, or so soon after one that it may be behind them."""
    return sum(
        1
        for at_ns in moments
        if any(stall.began_ns <= at_ns <= stall.ended_ns + within_ns for stall in stalls)
    )


def excess(with_it: Sequence[int], without: Sequence[int]) -> tuple[int, float]:
    """In how many more pairs something happened with a cause than without, and if that is chance.

    The second number is the chance of such an excess, or a greater one, if the cause had no effect:
    then a pair of which only one half shows something is as likely to show it in either half (the
    sign test, one-sided).
    """
    pairs = list(zip(with_it, without, strict=True))
    only_with = sum(1 for here, there in pairs if here and not there)
    only_without = sum(1 for here, there in pairs if there and not here)
    told = only_with + only_without
    ways = sum(math.comb(told, number) for number in range(only_with, told + 1))
    return only_with - only_without, ways / 2**told


def per_minute(count: float, seconds: float) -> float:
    """A rate; 0 of no time."""
    return 60 * count / seconds if seconds > 0 else 0.0
