# SPDX-License-Identifier: Apache-2.0
"""From the engine's events to the timeline of a change of role.

The events of one change come in the order in which they happened: silence, suspicion, verdict,
claim, receipt, gate, announcement. Some steps don't take place (a planned switch-over has no
suspicion, an opening by silence no receipt); their place stays 0. What a cleared suspicion or an
abandoned claim left is forgotten, so that a timeline never mixes two stories.
"""

from __future__ import annotations

from dataclasses import replace

from twinbeat.core.events import EngineEvent
from twinbeat.core.types import EngineEventKind as Kind
from twinbeat.core.types import Timeline


def follow(line: Timeline, event: EngineEvent) -> Timeline:
    """The timeline after ``event``."""
    match event.kind:
        case Kind.SUSPECT:
            # A suspicion within a story (the kernel fell silent as well) doesn't begin it anew.
            if line.suspicion_ns:
                return line
            return Timeline(last_heard_ns=max(0, event.at_ns - event.a), suspicion_ns=event.at_ns)
        case Kind.STALLED | Kind.DEAD:
            return replace(line, verdict_ns=event.at_ns)
        case Kind.CLEARED | Kind.HEARD:
            return Timeline() if not line.claim_ns else line
        case Kind.CLAIM:
            return replace(line, claim_ns=event.at_ns, receipt_ns=0)
        case Kind.RECEIPT:
            return replace(line, receipt_ns=event.at_ns)
        case Kind.OPENED | Kind.CLOSED:
            return replace(line, gate_ns=event.at_ns)
        case Kind.ANNOUNCED:
            # Of a reign that began in an earlier story: the end of it hasn't been announced.
            return replace(line, announced_ns=event.at_ns) if line.gate_ns else line
        case Kind.ABANDONED:
            return replace(line, claim_ns=0, receipt_ns=0)
        case _:
            return line
