# SPDX-License-Identifier: Apache-2.0
"""What the engine's events are to a reader of the event stream: a reason and a sentence.

Where the core has words for the log, the same are used here. It must not decide anything.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from twinbeat.core.events import EngineEvent
from twinbeat.core.news import TOLD
from twinbeat.core.reasons import CAUSES, Code, duration, sentence
from twinbeat.core.types import Cause
from twinbeat.core.types import EngineEventKind as Kind

NOT_TOLD: Final = frozenset({Kind.ORDER, Kind.PEER_CHANGED})
"""Events of the engine that say nothing to a person."""

_BY: Final = {
    Cause.RECEIPT: "by receipt",
    Cause.SILENCE: "by silence",
    Cause.LEASE_RAN_OUT: "as the peer's last lease has run out",
    Cause.WITNESSED: "by the witness",
}

NEWS: Final = frozenset(
    {
        *(Code.HEALTH_CHANGED, Code.HEALTH_HELD, Code.HEALTH_COUNTS, Code.PEER_BETTER),
        *(Code.FAIL_SAFE, Code.TAKES_BACK, Code.STICKY_PRIMARY, Code.STICKY_OVER),
        *(Code.CONFLICT, Code.CONFLICT_OVER, Code.TIMERS_SET, Code.TIMERS_REFUSED),
        *(Code.PAUSE_EXPIRED, Code.PORT_LOST, Code.PORT_RESTORED, Code.GATE_RESTORED),
        *(Code.TERMS_FAILED, Code.WITNESS_LOST, Code.WITNESS_BACK, Code.WITHOUT_WITNESS),
        *(Code.PEER_FENCED, Code.RESTART_UNCONFIRMED, Code.RELOADED),
    }
)
"""Lines of the core's log that nothing else tells the readers of the event stream."""


def reason(event: EngineEvent) -> str:
    """Its code; of an opening that of the claim, as how it was opened is told in the sentence."""
    cause = event.cause
    if event.kind is Kind.OPENED and event.b in CAUSES:
        cause = Cause(event.b) or cause
    return CAUSES[cause].value if cause is not Cause.NONE else ""


def in_words(event: EngineEvent, *, node: str, peer: str) -> str:
    """What happened, for people."""
    words = partial(sentence, node=node, peer=peer)
    term = f"term {event.a}"
    match event.kind:
        case Kind.CLAIM:
            return f"{node} claims {term}"
        case Kind.RECEIPT:
            return f"the kernel of {peer} confirmed {term} after {duration(event.b)}"
        case Kind.OPENED:
            by = _BY.get(event.cause)
            return f"the gate of {node} is open under {term}" + (f", {by}" if by else "")
        case Kind.ANNOUNCED:
            return f"the first announcement, {event.a} frames, was handed to the driver"
        case Kind.CLOSED:
            over = f", as term {event.b} overtook it" if event.b else ""
            return f"the gate of {node} is shut, {term} is over{over}"
        case Kind.ABANDONED:
            why = words(CAUSES[event.cause])
            return f"{node} gave the claim of {term} up: {why}"
        case Kind.WITHHELD:
            return words(CAUSES[event.cause])
        case Kind.TERM_LOW:
            return f"{event.a} terms are left of the block"
        case Kind.ORDER | Kind.PEER_CHANGED:
            return ""
        case _:
            facts = {"silence": duration(event.a), "link": event.link, "probes": event.b}
            return words(TOLD[event.kind][1], **facts)
