# SPDX-License-Identifier: Apache-2.0
"""What the engine's events mean, one table per question.

The engine tells what it did and what it holds of the peer. Here is how the role turns by that, what
is known of the peer from then on, and which line of the log it is worth. What an event changes
beyond that is in `Machine`.
"""

from __future__ import annotations

from typing import Final

from twinbeat.core.effects import Level
from twinbeat.core.reasons import Code
from twinbeat.core.table import Turn
from twinbeat.core.types import Cause, Phase, Role, Watch
from twinbeat.core.types import EngineEventKind as Kind

TURNS: Final = {
    Kind.CLAIM: Turn.CLAIMED,
    Kind.OPENED: Turn.OPENED,
    Kind.ABANDONED: Turn.ABANDONED,
    Kind.CLOSED: Turn.CLOSED,
}
"""How the role turns by what the engine did."""

WATCH: Final = {
    Kind.HEARD: Watch.ALIVE,
    Kind.CLEARED: Watch.ALIVE,
    Kind.SUSPECT: Watch.SUSPECT,
    Kind.STALLED: Watch.STALLED,
    Kind.DEAD: Watch.DEAD,
}
"""What an event says of the peer's agent."""

TOLD: Final = {
    Kind.HEARD: (Level.INFO, Code.PEER_WAS_HEARD),
    Kind.CLEARED: (Level.DEBUG, Code.PEER_CLEARED),
    Kind.SUSPECT: (Level.DEBUG, Code.PEER_SUSPECTED),
    Kind.STALLED: (Level.WARNING, Code.PEER_STALLED),
    Kind.DEAD: (Level.WARNING, Code.PEER_DEAD),
    Kind.CONTESTED: (Level.WARNING, Code.CONTESTED),
    Kind.REOPENED: (Level.WARNING, Code.REOPENED),
    Kind.LINK_SILENT: (Level.WARNING, Code.LINK_SILENT),
    Kind.LINK_HEARD: (Level.INFO, Code.LINK_HEARD),
    Kind.LATE: (Level.WARNING, Code.LATE),
    Kind.COUNTER_JUMP: (Level.WARNING, Code.COUNTER_JUMP),
}
"""What of the engine's events is a line of the log, how loud, and in which words."""

ONLY_TOLD: Final = frozenset({Kind.LINK_SILENT, Kind.LINK_HEARD, Kind.LATE})
"""Events that say something to people and leave every fact of the core as it was."""


FREE: Final = frozenset({Cause.IDLE, Cause.COLD, Cause.STALLED, Cause.DEAF, Cause.DEAD})
"""What a claim is begun for where nobody need have served: if nobody did, it isn't the reason of
the reign, which took the role from nobody."""


def missed(phase: Phase, role: Role) -> Turn | None:
    """The turn that would bring the role to what the engine is doing, if an event was lost."""
    match phase, role:
        case Phase.SERVING, Role.INIT | Role.SECONDARY | Role.CLAIMING:
            return Turn.OPENED
        case Phase.LISTENING | Phase.CLAIMING, Role.PRIMARY:
            return Turn.CLOSED
        case Phase.LISTENING, Role.CLAIMING:
            return Turn.ABANDONED
        case Phase.CLAIMING, Role.SECONDARY:
            return Turn.CLAIMED
        case _:
            return None
