# SPDX-License-Identifier: Apache-2.0
"""What happened: changes of role with their timelines, and the stream of events."""

from typing import Final

import msgspec
from msgspec import Struct

from twinbeat.api.parts.terms import SCHEMA, Role


class Timeline(Struct, frozen=True, kw_only=True):
    """The moments of a transition, CLOCK_BOOTTIME ns, in the order they normally come."""

    last_heard_ns: int | None = None
    suspect_ns: int | None = None
    verdict_ns: int | None = None
    claim_ns: int | None = None
    receipt_ns: int | None = None
    gate_ns: int | None = None
    """The gate opened (or shut, when the role is given up)."""
    announced_ns: int | None = None
    """The first announcement was handed to the driver."""
    routes_ns: int | None = None
    """Routes and rules were in place: the slow path is done."""


PHASES: Final[tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]] = (
    ("suspect", ("last_heard_ns",), ("suspect_ns",)),
    ("verify", ("suspect_ns",), ("verdict_ns",)),
    ("claim", ("verdict_ns", "suspect_ns"), ("claim_ns",)),
    ("receipt", ("claim_ns",), ("receipt_ns",)),
    ("gate", ("receipt_ns", "claim_ns"), ("gate_ns",)),
    ("announce", ("gate_ns",), ("announced_ns",)),
    ("routes", ("announced_ns", "gate_ns"), ("routes_ns",)),
    ("total", ("last_heard_ns", "claim_ns"), ("announced_ns", "gate_ns")),
)
"""Phases of a takeover: each from the first moment known of the one to that of the other. The names
are the labels of the failover histogram; `total` leaves out the routes, for which nobody waits."""


class Transition(Struct, frozen=True, kw_only=True):
    """One change of role."""

    number: int
    """Grows by one with each transition this node ever recorded."""
    time: str
    at_ns: int
    realtime_offset_ns: int
    """Wall clock minus boot clock when it happened: aligns the timeline with an outside capture."""
    boot: str
    """Boot id: nanoseconds of different boots don't compare."""
    from_role: Role
    to_role: Role
    reason: str
    """Code of the core's registry of reasons: peer_dead, peer_yielded, ordered, fenced, …"""
    sentence: str
    term: int
    timeline: Timeline = Timeline()
    durations_ns: dict[str, int] = {}
    """By phase (PHASES); filled by `with_durations`."""
    realtime_ns: dict[str, int] = {}
    """The timeline on the wall clock, nanoseconds since 1970, by the names of its moments without
    `_ns`; filled by `with_durations`."""


def durations(timeline: Timeline) -> dict[str, int]:
    """Length of each phase whose moments are known and in order."""
    found: dict[str, int] = {}
    for phase, begins, ends in PHASES:
        start = _first(timeline, begins)
        stop = _first(timeline, ends)
        if start is not None and stop is not None and stop >= start:
            found[phase] = stop - start
    return found


def _first(timeline: Timeline, names: tuple[str, ...]) -> int | None:
    moments = (getattr(timeline, name) for name in names)
    return next((moment for moment in moments if moment is not None), None)


def with_durations(transition: Transition) -> Transition:
    """The same transition with what follows from its timeline: phases, wall-clock moments."""
    timeline = transition.timeline
    moments = {name: getattr(timeline, name) for name in Timeline.__struct_fields__}
    return msgspec.structs.replace(
        transition,
        durations_ns=durations(timeline),
        realtime_ns={
            name.removesuffix("_ns"): moment + transition.realtime_offset_ns
            for name, moment in moments.items()
            if moment is not None
        },
    )


class History(Struct, frozen=True, kw_only=True):
    """Transitions, newest last."""

    schema: int = SCHEMA
    transitions: list[Transition]


class Event(Struct, frozen=True, kw_only=True):
    """Something happened: one line of the event stream."""

    schema: int = SCHEMA
    number: int
    time: str
    at_ns: int
    event: str
    """transition, suspect, cleared, stalled, dead, withheld, claim, link_silent, refusal, …"""
    reason: str = ""
    sentence: str = ""
    fields: dict[str, str | int | bool | None] = {}


class Dropped(Struct, frozen=True, kw_only=True):
    """Stands in the stream where a reader was too slow."""

    schema: int = SCHEMA
    event: str = "dropped"
    count: int
