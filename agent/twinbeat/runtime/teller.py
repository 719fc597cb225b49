# SPDX-License-Identifier: Apache-2.0
"""What is told to people, to programs and to systemd: history, events, log, answers.

Keeps what the counters need on the way.  Nothing here decides, fails or waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from twinbeat.api import schema
from twinbeat.api.events import EventHub
from twinbeat.api.text import length, moment, realtime_offset_ns
from twinbeat.core.effects import Level, Log, Notify, Outcome, Reply, Transition
from twinbeat.core.events import EngineEvent
from twinbeat.core.reasons import Code, Refusal
from twinbeat.core.types import Cause, EngineEventKind, Role
from twinbeat.core.types import Timeline as CoreTimeline
from twinbeat.observe.histogram import Histogram
from twinbeat.observe.history import History
from twinbeat.runtime import happened
from twinbeat.runtime.notify import Notifier

log = logging.getLogger("twinbeat")

_LEVELS: Final = {
    Level.DEBUG: logging.DEBUG,
    Level.INFO: logging.INFO,
    Level.WARNING: logging.WARNING,
    Level.ERROR: logging.ERROR,
}
_SUSPICION_ENDS: Final = {
    EngineEventKind.CLEARED: "cleared",
    EngineEventKind.STALLED: "stalled",
    EngineEventKind.DEAD: "dead",
    EngineEventKind.WITHHELD: "withheld",
}
_NO_FAILOVER: Final = frozenset(
    code.value for code in (Code.FIRST, Code.RESUMED, Code.TERM_RENEWED)
)
"""Why a node is primary though it took the role from nobody."""

CLAIM_ENDS: Final = frozenset({EngineEventKind.ABANDONED, EngineEventKind.WITHHELD})


class Teller:
    """Implements the executor's Teller, and listens to the engine's events."""

    def __init__(
        self,
        *,
        history: History,
        hub: EventHub,
        notifier: Notifier,
        node: str,
        peer: str,
        boot: str,
        now_ns: Callable[[], int],
        ended: Callable[[], None],
        history_failed: Callable[[str], None],
    ) -> None:
        self._history = history
        self._hub = hub
        self._notifier = notifier
        self._node = node
        self._peer = peer
        self.boot = boot
        self._now_ns = now_ns
        self._ended = ended
        self._history_failed = history_failed
        self._events = 0
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._accepted: deque[str] = deque(maxlen=256)
        self._amendable = 0
        self._routes_ns = 0
        """When routes were last done before the takeover that they belong to was told."""
        self.routes_stood_ns = now_ns
        """When the kernel had taken them, asked when they are done."""
        self._ready = False
        self._write_task: asyncio.Task[None] | None = None
        self._unwritten = False
        self.transitions: Counter[tuple[str, str, str]] = Counter()
        self.suspicions: Counter[str] = Counter()
        self.claims_refused: Counter[str] = Counter()
        self.effect_failures: Counter[str] = Counter()
        self.phases: dict[str, Histogram] = {}
        self.on_transition: list[Callable[[schema.Transition], None]] = []
        """Called with each change of role once it is recorded."""
        self.last: schema.Transition | None = None
        self.last_failover: schema.Transition | None = None
        for known in history.newest(1000):
            self._remember(known)

    # -- the executor's side ---------------------------------------------------------------------

    def record(self, transition: Transition) -> None:
        before, after = role_name(transition.before), role_name(transition.after)
        offset_ns = realtime_offset_ns()
        known = timeline(transition.timeline)
        early = after is schema.Role.PRIMARY and self._routes_ns >= transition.at_ns
        if early:
            known = replace(known, routes_ns=self._routes_ns)
        recorded = self._history.record(
            schema.Transition(
                number=0,
                time=moment(transition.at_ns + offset_ns),
                at_ns=transition.at_ns,
                realtime_offset_ns=offset_ns,
                boot=self.boot,
                from_role=before,
                to_role=after,
                reason=transition.reason.code.value,
                sentence=transition.reason.sentence,
                term=transition.term,
                timeline=known,
            )
        )
        self._remember(recorded)
        self._write_history()
        self.transitions[before.value, after.value, recorded.reason] += 1
        if after is schema.Role.PRIMARY:
            self._amendable = 0 if early else recorded.number
            if recorded.reason not in _NO_FAILOVER:
                for phase, length_ns in recorded.durations_ns.items():
                    self.phases.setdefault(phase, Histogram()).add(length_ns)
        fields: dict[str, str | int | bool | None] = {
            "from": before.value,
            "to": after.value,
            "term": recorded.term,
            **{f"{phase}_ns": length_ns for phase, length_ns in recorded.durations_ns.items()},
        }
        self.publish(
            "transition",
            at_ns=transition.at_ns,
            reason=recorded.reason,
            sentence=recorded.sentence,
            fields=fields,
        )
        # The core told why; this is what it came to, for `journalctl TWINBEAT_EVENT=transition`.
        total_ns = recorded.durations_ns.get("total")
        log.info(
            "%s, which was %s, term %d%s",
            after.value,
            before.value,
            recorded.term,
            "" if total_ns is None else f", {length(total_ns)} in all",
            extra={"fields": {"event": "transition", "reason": recorded.reason, **fields}},
        )
        for call in self.on_transition:
            call(recorded)

    def log(self, line: Log) -> None:
        reason = line.reason
        kind = "refusal" if isinstance(reason, Refusal) else reason.code.value
        fields = {"event": kind, "reason": reason.code.value}
        log.log(_LEVELS[line.level], "%s", reason.sentence, extra={"fields": fields})
        if reason.code in happened.NEWS:
            self.publish(kind, reason=reason.code.value, sentence=reason.sentence)

    def notify(self, notify: Notify) -> None:
        if notify.ready and not self._ready:
            self._ready = True
            self._notifier.ready(notify.status)
        else:
            self._notifier.status(notify.status)

    def reply(self, reply: Reply) -> None:
        waiting = self._waiting.get(reply.request_id)
        if reply.outcome is Outcome.ACCEPTED:
            self._accepted.append(reply.request_id)
        elif waiting is not None and not waiting.done():
            waiting.set_result(reply)
        elif reply.request_id in self._accepted:
            self.publish(
                "command",
                reason=reply.reason.code.value,
                sentence=reply.reason.sentence,
                fields={"request_id": reply.request_id, "outcome": reply.outcome.value},
            )

    def effect_failed(self, effect: str, why: str) -> None:
        self.effect_failures[effect] += 1
        self.publish("effect_failed", reason=effect, sentence=f"{effect} failed: {why}")

    def routes_done(self) -> None:
        """The slow path of the last takeover is over: its timeline gets its last moment."""
        last = self.last
        if last is None or last.number != self._amendable:
            # The core tells of a takeover once it knows all of it; routes may be quicker.
            self._routes_ns = self.routes_stood_ns()
            return
        self._amendable = 0
        done = replace(last.timeline, routes_ns=self.routes_stood_ns())
        amended = self._history.amend(last.number, done)
        if amended is not None:
            self._remember(amended)
            if "routes" in amended.durations_ns and amended.reason not in _NO_FAILOVER:
                length_ns = amended.durations_ns["routes"]
                self.phases.setdefault("routes", Histogram()).add(length_ns)
            self._write_history()

    def stopped(self) -> None:
        self._ended()

    # -- answers ---------------------------------------------------------------------------------

    async def answer(self, request_id: str, *, patience_s: float) -> Reply | None:
        """The final reply to a command; None if it is still under way after that time."""
        future = self._waiting.setdefault(request_id, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.shield(future)
        except TimeoutError:
            return None
        finally:
            self._waiting.pop(request_id, None)

    def expect(self, request_id: str) -> None:
        """Note that somebody is about to wait: a reply may come within the step."""
        self._waiting[request_id] = asyncio.get_running_loop().create_future()

    # -- the engine's side -------------------------------------------------------------------------

    def engine_event(self, event: EngineEvent) -> None:
        """Count and publish an event of the engine."""
        name = event.kind.name.lower()
        if event.kind in _SUSPICION_ENDS and event.cause is not Cause.PEER_STARTS:
            self.suspicions[_SUSPICION_ENDS[event.kind]] += 1
        reason = happened.reason(event)
        if event.kind in CLAIM_ENDS and reason:
            self.claims_refused[reason] += 1
        if event.kind not in happened.NOT_TOLD:
            self.publish(
                name,
                at_ns=event.at_ns,
                reason=reason,
                sentence=happened.in_words(event, node=self._node, peer=self._peer),
                fields={"a": event.a, "b": event.b, "link": event.link},
            )

    def publish(
        self,
        event: str,
        *,
        at_ns: int = 0,
        reason: str = "",
        sentence: str = "",
        fields: dict[str, str | int | bool | None] | None = None,
    ) -> None:
        """Put something into the event stream."""
        self._events += 1
        at_ns = at_ns or self._now_ns()
        self._hub.publish(
            schema.Event(
                number=self._events,
                time=moment(at_ns + realtime_offset_ns()),
                at_ns=at_ns,
                event=event,
                reason=reason,
                sentence=sentence,
                fields=fields or {},
            )
        )

    # -- history ---------------------------------------------------------------------------------

    def _remember(self, recorded: schema.Transition) -> None:
        self.last = recorded
        moved = schema.Role.PRIMARY in {recorded.to_role, recorded.from_role}
        if moved and recorded.reason not in _NO_FAILOVER:
            self.last_failover = recorded

    def _write_history(self) -> None:
        self._unwritten = True
        if self._write_task is None or self._write_task.done():
            self._write_task = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        while self._unwritten:
            self._unwritten = False
            try:
                await asyncio.to_thread(self._history.write)
            except OSError as error:
                self._history_failed(f"the history could not be written: {error.strerror}")

    async def close(self) -> None:
        """Bring the history to the disk before the agent ends."""
        if self._write_task is not None:
            await self._write_task


def role_name(role: Role) -> schema.Role:
    return schema.Role(role.name.lower())


def timeline(known: CoreTimeline) -> schema.Timeline:
    """0 of the core's timeline is `None` outside."""
    return schema.Timeline(
        last_heard_ns=known.last_heard_ns or None,
        suspect_ns=known.suspicion_ns or None,
        verdict_ns=known.verdict_ns or None,
        claim_ns=known.claim_ns or None,
        receipt_ns=known.receipt_ns or None,
        gate_ns=known.gate_ns or None,
        announced_ns=known.announced_ns or None,
    )
