# SPDX-License-Identifier: Apache-2.0
"""Other intervals while the pair runs: the operator's command, from its refusal to its answer.

`twinbeat.core.pace` knows how two nodes come to want the same; this part of the machine judges what
is wanted against this host, remembers who asked, and says what came of it. A command is answered as
done when both nodes keep the new intervals, not only want them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twinbeat.core import pace
from twinbeat.core.desk import Desk
from twinbeat.core.effects import Level, Outcome
from twinbeat.core.events import SetTimers
from twinbeat.core.pace import Agreement, News
from twinbeat.core.reasons import Code, Reason, Refusal, duration
from twinbeat.core.types import (
    EngineView,
    Flag,
    Intervals,
    Patience,
    PeerView,
    Proposal,
    Timers,
    Wish,
)

HELLOS_TO_AGREE = 8 * pace.EVERY_OPEN
"""So many heartbeats of the slower node may pass until both have said that they agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A command under way."""

    request_id: str
    number: int
    begun_ns: int
    deadline_ns: int


class Pacing:
    """The intervals that one node wants."""

    def __init__(
        self,
        *,
        wish: Wish,
        configured: Timers,
        wake_late_ns: int,
        patience: Patience,
        desk: Desk,
        because: Callable[..., Reason],
        log: Callable[[Level, Reason | Refusal], None],
    ) -> None:
        """``because`` gives a reason in the words of this node; ``log`` writes a line."""
        self.agreement = Agreement(wish)
        self.wake_late_ns = wake_late_ns
        self._configured = configured
        self._patience = patience
        self._desk = desk
        self._because = because
        self._log = log
        self._asked: Asked | None = None

    @property
    def timers(self) -> Timers:
        """Those wanted now."""
        return pace.over(self._configured, self.agreement.kept.intervals)

    @property
    def kept(self) -> str:
        """The same for people."""
        return pace.told(self.agreement.kept.intervals)

    @property
    def deadline_ns(self) -> int:
        """When the command under way can't wait any longer; 0 = there is none."""
        return self._asked.deadline_ns if self._asked is not None else 0

    def configure(self, configured: Timers, wake_late_ns: int) -> None:
        """A reload: below a wish the configuration's intervals changed."""
        self._configured, self.wake_late_ns = configured, wake_late_ns

    def judge(self, wish: Wish) -> Refusal | None:
        """Why this node can't keep a wish; None if it can."""
        wanted = wish.intervals
        if wanted is None:
            return None
        flaw = pace.flaw(wanted)
        if flaw:
            return self._refusal(Code.TIMERS_CONTRADICT, flaw=flaw)
        hello_ns = wanted.hello_us * pace.US
        if self.wake_late_ns > hello_ns and not wish.even_so:
            return self._refusal(
                Code.HOST_LATE, hello=duration(hello_ns), late=duration(self.wake_late_ns)
            )
        return None

    def command(self, command: SetTimers, peer: PeerView | None, now_ns: int) -> bool:
        """Take in a command; ``peer`` is the newest frame of a peer that is heard. Returns True if
        it is to be answered when the disk has what this node keeps."""
        if self._asked is not None:
            self._desk.answer(command.request_id, Outcome.REFUSED, self._refusal(Code.BUSY))
            return False
        intervals = self._wanted(command)
        if intervals == self.agreement.kept.intervals and self._settled(peer):
            reason = self._because(Code.UNCHANGED)
            self._desk.answer(command.request_id, Outcome.DONE, reason)
            return False
        wish = self.agreement.next(intervals, even_so=command.even_so)
        refusal = self.judge(wish)
        if refusal is not None:
            self._desk.answer(command.request_id, Outcome.REFUSED, refusal)
            self._log(Level.INFO, refusal)
            return False
        if peer is None or not peer.flags & Flag.NEGOTIATES:
            self._adopt(wish)
            return True
        accepted = self._because(Code.ACCEPTED)
        self._desk.answer(command.request_id, Outcome.ACCEPTED, accepted)
        self.agreement.proposed = wish
        slower_us = max(peer.hello_us, pace.over(self._configured, intervals).hello_ns // pace.US)
        slower_ns = max(slower_us * pace.US, self.timers.hello_ns)
        patience_ns = self._patience.agree_ns + HELLOS_TO_AGREE * slower_ns
        self._asked = Asked(
            request_id=command.request_id,
            number=wish.number,
            begun_ns=now_ns,
            deadline_ns=now_ns + patience_ns,
        )
        return False

    def _wanted(self, command: SetTimers) -> Intervals | None:
        if command.unset:
            return None
        return pace.completed(pace.intervals_of(self.timers), command.given)

    def _settled(self, peer: PeerView | None) -> bool:
        return peer is None or self.agreement.agreed

    def hear(self, peer: PeerView) -> None:
        """Take in what the peer's newest proposal says."""
        news = self.agreement.hear(peer.proposal, self.judge)
        if news.refused is not None and peer.proposal is not None:
            late = news.refused.code is Code.HOST_LATE
            self.agreement.refuse(
                peer.proposal.number, late_us=self.wake_late_ns // pace.US if late else 0
            )
            why = news.refused.sentence
            self._log(Level.WARNING, self._because(Code.TIMERS_REFUSED, why=why))
        if news.adopted is not None:
            self._log(Level.WARNING, self._because(Code.TIMERS_SET, timers=self.kept))
        self._answer_refused(news)

    def _answer_refused(self, news: News) -> None:
        asked = self._asked
        if asked is None:
            return
        if news.peer_refuses is not None:
            self._asked = None
            refusal = self._refused_by_peer(news.peer_refuses)
            self._desk.answer(asked.request_id, Outcome.REFUSED, refusal)
            self._log(Level.WARNING, refusal)
        elif news.overtaken or self.agreement.kept.number > asked.number:
            self._asked = None
            reason = self._because(Code.TIMERS_OVERTAKEN, timers=self.kept)
            self._desk.answer(asked.request_id, Outcome.FAILED, reason)

    def _refused_by_peer(self, proposal: Proposal) -> Refusal:
        if proposal.late_us:
            return self._refusal(Code.PEER_LATE, late=duration(proposal.late_us * pace.US))
        return self._refusal(Code.PEER_CONTRADICTS)

    @property
    def standing_refusal(self) -> Refusal | None:
        """Why the peer doesn't keep what this node keeps; None = it does, or was never asked."""
        refusing = self.agreement.peer_refuses
        return self._refused_by_peer(refusing) if refusing is not None else None

    def settle(
        self, peer: PeerView | None, engine: EngineView | None, now_ns: int
    ) -> tuple[str, Code] | None:
        """What follows from what is known; the request to be answered, with what, when the disk has
        what this node keeps."""
        asked, agreement = self._asked, self.agreement
        if asked is None:
            return None
        if agreement.proposed is not None and peer is None:
            # It may have taken them over before it fell silent: then it keeps the same.
            self._asked = None
            self._adopt(agreement.proposed)
            return asked.request_id, Code.TIMERS_ALONE
        if agreement.proposed is None and self._keep_both(peer, engine):
            self._asked = None
            return asked.request_id, Code.TIMERS_BOTH
        if now_ns < asked.deadline_ns:
            return None
        self._asked = None
        late = agreement.proposed is not None
        if late:
            agreement.drop()
            if peer is not None:
                self.hear(peer)
        reason = self._because(
            Code.TIMERS_UNANSWERED if late else Code.TIMERS_APPROACHED,
            waited=duration(now_ns - asked.begun_ns),
            timers=self.kept,
        )
        self._desk.answer(asked.request_id, Outcome.FAILED if late else Outcome.DONE, reason)
        self._log(Level.WARNING, reason)
        return None

    def _keep_both(self, peer: PeerView | None, engine: EngineView | None) -> bool:
        """Both nodes have arrived, as far as this one can tell."""
        if peer is None or engine is None:
            return False
        wanted = self.agreement.kept.intervals
        own = self.timers
        arrived = not engine.hello_ns or (engine.hello_ns, engine.dead_ns) == (
            own.hello_ns,
            own.dead_ns,
        )
        if wanted is None:
            # What the peer's configuration says isn't known here.
            return self.agreement.agreed
        there = (peer.hello_us, peer.dead_us) == (wanted.hello_us, wanted.dead_us)
        return self.agreement.agreed and arrived and there

    def _adopt(self, wish: Wish) -> None:
        self.agreement.adopt(wish)
        self._log(Level.WARNING, self._because(Code.TIMERS_SET, timers=self.kept))

    def _refusal(self, code: Code, **facts: object) -> Refusal:
        reason = self._because(code, **facts)
        return Refusal(reason.code, reason.sentence)
