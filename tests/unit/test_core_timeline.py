# SPDX-License-Identifier: Apache-2.0
"""A timeline tells one story: nothing of the one before is left in it."""

from twinbeat.core.events import EngineEvent
from twinbeat.core.timeline import follow
from twinbeat.core.types import Cause, Timeline
from twinbeat.core.types import EngineEventKind as Kind


def told(*kinds: Kind, start: Timeline | None = None) -> Timeline:
    """The timeline after these events, a microsecond apart."""
    line = Timeline() if start is None else start
    for number, kind in enumerate(kinds, 1):
        line = follow(line, EngineEvent(kind=kind, at_ns=number * 1000, cause=Cause.DEAD))
    return line


def test_a_takeover_ends_with_its_announcement() -> None:
    line = told(Kind.SUSPECT, Kind.DEAD, Kind.CLAIM, Kind.OPENED, Kind.ANNOUNCED)
    assert (line.gate_ns, line.announced_ns) == (4000, 5000)


def test_the_end_of_a_reign_does_not_tell_of_how_it_was_announced() -> None:
    # The takeover's story is told when the gate opens; the announcement comes after that.
    line = told(Kind.ANNOUNCED, Kind.CLOSED)
    assert (line.gate_ns, line.announced_ns) == (2000, 0)
