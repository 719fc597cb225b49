# SPDX-License-Identifier: Apache-2.0
"""The role as it is held: since when, why, under which term; and the record of each change.

`twinbeat.core.table` says to which role a turn leads; this part takes it on, with every field that
goes with it, one record and one line of the log. The record of a takeover waits a moment for the
announcement, so that its timeline is complete.
"""

from __future__ import annotations

from dataclasses import replace

from twinbeat.core.effects import Draft, Level, Transition
from twinbeat.core.events import EngineEvent
from twinbeat.core.reasons import Reason
from twinbeat.core.status import sentence
from twinbeat.core.timeline import follow
from twinbeat.core.types import Patience, Role, Timeline
from twinbeat.core.voice import Voice


class Office:
    """What a node is to the pair, and how it came to be that."""

    def __init__(
        self, reason: Reason, *, now_ns: int, patience: Patience, voice: Voice, draft: Draft
    ) -> None:
        self.role = Role.INIT
        self.since_ns = now_ns
        self.reason = reason
        """Of the last change."""
        self.term = 0
        """Served or claimed; 0 = none."""
        self.contested = False
        """Another open gate was heard, and the kernel shut this one until that is decided."""
        self.fenced = False
        """The claim of the peer ended its last reign."""
        self.pending_until_ns = 0
        """So long a takeover waits to be recorded; 0 = none does."""
        self._pending: Transition | None = None
        self._last: Transition | None = None
        self._line = Timeline()
        self._patience = patience
        self._voice = voice
        self._draft = draft

    @property
    def serving(self) -> bool:
        """It is primary."""
        return self.role is Role.PRIMARY

    @property
    def last(self) -> Transition | None:
        """The newest record."""
        return self._pending or self._last

    def sentence(self, name: str) -> str:
        """What node ``name`` does now, and why: one line."""
        return sentence(name, self.role, self.term, contested=self.contested, reason=self.reason)

    def follow(self, event: EngineEvent) -> None:
        """Let the timeline of the next change follow the engine."""
        self._line = follow(self._line, event)

    def become(self, role: Role, reason: Reason, at_ns: int, now_ns: int) -> None:
        """Take on a role."""
        self.record()
        ended = self.serving and role is not Role.PRIMARY
        record = Transition(
            at_ns=at_ns,
            before=self.role,
            after=role,
            reason=reason,
            term=self.term,
            timeline=self._line,
        )
        if self.role is not role:
            self.since_ns = at_ns
        self.role = role
        self.reason = reason
        self._draft.status_changed = True
        if role is Role.PRIMARY:
            self._pending = record
            self.pending_until_ns = now_ns + self._patience.announced_ns
            self._line = Timeline()
        else:
            self._last = record
            self._draft.records.append(record)
            if ended or role is Role.DISABLED:
                self._line = Timeline()
        level = Level.WARNING if ended or role is Role.PRIMARY else Level.INFO
        # Of a claim either end is told with the same reason.
        self._voice.log(Level.DEBUG if role is Role.CLAIMING else level, reason)

    def announced(self, at_ns: int) -> None:
        """The last step of a takeover has taken place."""
        if self._pending is not None:
            line = replace(self._pending.timeline, announced_ns=at_ns)
            self._pending = replace(self._pending, timeline=line)
            self.record()

    def settle(self, now_ns: int) -> None:
        """A takeover that nobody announces is recorded without."""
        if self._pending is not None and now_ns >= self.pending_until_ns:
            self.record()

    def record(self) -> None:
        """The takeover is complete, if there is one: record it."""
        if self._pending is not None:
            self._draft.records.append(self._pending)
            self._last = self._pending
        self._pending = None
        self.pending_until_ns = 0
