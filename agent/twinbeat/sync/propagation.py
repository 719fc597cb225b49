# SPDX-License-Identifier: Apache-2.0
"""How a change gets to both nodes: one machine per node, fed with events, giving effects.

It knows the document, the operation under way and what the peer said of itself. It must not know a
clock, a file, a socket or what a row means. Only what the store was told survives the process, and
everything here is made so that it may end between any two effects.

Theory of operation
-------------------

The primary makes an `Operation` of a request and gives it to the secondary *before* it does it
itself. **What the secondary's store commits is decided**; nothing else decides while both are
connected. So a secondary is never in doubt, and a primary is only from the moment that it sends
the operation until it hears of it. ::

    primary                                       secondary
    check with the daemon
    store: prepared
            ------ Prepare ------------------->
                                                  check with the daemon
                                                  store: prepared
                                                  daemon: in force
                                                  store: committed           <- the decision
            <----- Prepared -------------------
    store: committed
    daemon: in force
    answer: done on both
            ------ Status (new version) ------>

What goes wrong, and what follows:

- Refused by the secondary: its store knows nothing of it, so the primary aborts and says why.
- The connection breaks after `Prepare`: an available operation is committed by the primary alone;
  a strict one is *in doubt*, and its client is told so when its time is up. On the next connection
  the primary asks (`Query`), before anything else is begun: committed there is committed here.
- A primary that starts anew with an operation prepared is in the same doubt. A secondary that does
  finishes it, since it is the one who decides.
- An operation in doubt that is in the way of an available one is *given up*: its number is burnt,
  so the primary's next document rules over the one that the secondary may have made of it. What
  became of it is settled when both are in step.
- The primary can't put in force what both have committed: it takes it back by an operation of its
  own. No node ever returns to an older generation, so whoever compares versions is never wrong.
- A secondary becomes primary: its document rules by its term. What the old primary did alone in the
  meantime is superseded, kept as a copy and named (rule NO-LOSS: known not to be on both).

A request is done once, however often it is asked for: the document names its last changes, so a
node knows them however it came by the document; older ones are known to the store.

The nodes' documents are compared (`synchronizer.decide`) whenever one of them changes, and one of
them takes over the other's only while nothing else is under way. Everything is one at a time: an
operation made here, one made by the peer, or a document taken over.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

import msgspec

from twinbeat.sync import events as ev
from twinbeat.sync.document import (
    ChangeRefused,
    Document,
    Done,
    Run,
    Version,
    applied,
    difference,
    fingerprint,
)
from twinbeat.sync.effects import (
    Answer,
    Apply,
    Check,
    Effect,
    Level,
    Note,
    RunCommand,
    Send,
    StoreAbort,
    StoreAdopt,
    StoreCommit,
    StorePaired,
    StorePrepare,
    StoreRecord,
)
from twinbeat.sync.events import Event, Held, Mark
from twinbeat.sync.messages import (
    Answered,
    Forward,
    Forwarded,
    Given,
    Message,
    Prepare,
    Prepared,
    Pull,
    Query,
    Status,
    Summary,
    Verdict,
    Want,
)
from twinbeat.sync.operation import (
    Edit,
    Operation,
    Outcome,
    Output,
    Policy,
    Problem,
    Replace,
    Request,
    State,
)
from twinbeat.sync.reasons import named, outcome, sentence
from twinbeat.sync.synchronizer import Decision, Standing, SyncState, decide, in_step, lost, owed

QUEUE_MOST: Final = 64
"""Requests that wait for their turn; the next one is refused as busy."""
FINISHED_MOST: Final = 64
"""Outcomes that are remembered whole, outputs included."""
SECOND_NS: Final = 1_000_000_000
RETRY_NS: Final = SECOND_NS
"""Between two attempts at what the store or the daemon refused and what has to be done."""
TAKE_NS: Final = 60 * SECOND_NS
"""A document that was wanted is wanted again if it isn't here by then."""
REFUSED_NS: Final = 30 * SECOND_NS
"""Between two attempts to take over a document that the daemon refused."""
CONNECT_NS: Final = 2 * SECOND_NS
"""So long after the start no operation is made without the peer, who may well be there."""

SPOILED: Final = frozenset({"invalid", "run_failed"})
"""Codes of votes that say something about the change itself: nobody does it then."""


class Phase(enum.Enum):
    """How far an operation, or a document that is taken over, has come."""

    CHECK = enum.auto()
    """The daemon examines it."""
    PREPARE = enum.auto()
    """The store journals it."""
    PEER = enum.auto()
    """The peer has it, or will have."""
    DOUBT = enum.auto()
    """Whether the peer has committed it is to be asked."""
    APPLY = enum.auto()
    """The daemon puts it in force."""
    RUN = enum.auto()
    """Its command runs."""
    COMMIT = enum.auto()
    """The store commits it."""
    ABORT = enum.auto()
    """The store forgets it."""
    WANT = enum.auto()
    """The peer's document is on its way."""
    ADOPT = enum.auto()
    """The store takes the document over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A request, and who waits for what becomes of it until when."""

    request: Request
    wall_ns: int
    since_ns: int
    here: bool
    """Somebody on this node does."""
    there: bool
    """The peer forwarded it."""

    @property
    def deadline_ns(self) -> int:
        """It is answered by then."""
        return self.since_ns + self.request.timeout_ns

    @property
    def patience_ns(self) -> int:
        """Half of the time is for waiting: for the turn, for the peer to be in step, or for its
        answer."""
        return self.since_ns + self.request.timeout_ns // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """The operation that this node makes."""

    operation: Operation
    before: Document
    """What it is made for."""
    after: Document | None
    """What it makes of it."""
    phase: Phase
    token: int = 0
    """Of the effect that is awaited; 0: none."""
    waiting: Waiting | None = None
    """None: it was found prepared at the start, or nobody waits any more."""
    exposed: bool = False
    """It was sent to the peer."""
    stale: bool = False
    """It was sent over a connection that is gone: this node isn't settled until it is over."""
    acked: bool = False
    """The peer has committed it."""
    asked: bool = False
    """The peer was asked about it, over this connection."""
    retry_ns: int = 0
    """When to try again what the store refused; 0: nothing to try."""
    answer: Outcome | None = None
    """What is said when the phase is over."""
    alone: str = "alone_unreachable"
    """Why the peer hasn't it, where it hasn't."""
    why: str = ""
    outputs: tuple[Output, ...] = ()
    undoing: Outcome | None = None
    """This operation takes another one back: what is said of that one then."""
    undone_everywhere: bool = True
    """What it takes back isn't on the peer, unless the peer commits this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The operation of the peer that this node carries out."""

    operation: Operation
    after: Document
    phase: Phase
    token: int = 0
    live: bool = True
    """The connection over which it came stands: the peer hears what comes of it."""
    asked: bool = False
    """The peer wants to know what became of it."""
    retry_ns: int = 0
    vote: Prepared | None = None
    """What is said when it is aborted."""
    outputs: tuple[Output, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """The document of the peer that this node takes over."""

    phase: Phase
    deadline_ns: int
    token: int = 0
    document: Document | None = None
    print: str = ""


@dataclass(slots=True, kw_only=True)
class Propagation:
    """One node. `step` feeds an event and gives effects; `next_deadline` says when it wants a
    `Tick`. All values in it are immutable, so a copy of it is a snapshot."""

    node: int
    """Index of this node, 0 or 1."""
    sync: bool = True
    propagation: bool = True
    strict_status: bool = False
    # -- what the store knows --------------------------------------------------------------------
    current: Document | None = None
    print: str = ""
    """Fingerprint of the current document."""
    prepared: Operation | None = None
    highest: int = 0
    paired: bool = False
    in_doubt: tuple[Outcome, ...] = ()
    # -- what others said ------------------------------------------------------------------------
    primary: bool = False
    term: int = 0
    daemon: bool = False
    in_force: Mark | None = None
    peer: Summary | None = None
    told: Summary | None = None
    """What the peer was told last over this connection."""
    # -- what is under way -----------------------------------------------------------------------
    tokens: int = 0
    patient_until_ns: int = 0
    queue: tuple[Waiting, ...] = ()
    active: Active | None = None
    serving: Serving | None = None
    taking: Taking | None = None
    forwarded: tuple[Waiting, ...] = ()
    applying: int = 0
    """Token of the attempt to put a document in force that was current then."""
    applying_mark: Mark | None = None
    apply_retry_ns: int = 0
    apply_problems: tuple[Problem, ...] = ()
    owed: tuple[Done, ...] = ()
    """Commands that the document taken over contains and that were not run here."""
    owed_token: int = 0
    marking: int = 0
    """Token of the note that this node was in step with a peer."""
    records: tuple[Outcome, ...] = ()
    """Outcomes that the store is to keep beside what it commits."""
    recording: tuple[int, tuple[Outcome, ...]] = (0, ())
    """Token of the attempt to let it keep these."""
    record_retry_ns: int = 0
    adopting: bool = False
    """The operator gives up what this node has."""
    refresh: bool = False
    """The operator wants the peer's document taken over although it is the same."""
    refused: Mark | None = None
    """The document of the peer that the daemon here refused."""
    refused_retry_ns: int = 0
    failures: tuple[Problem, ...] = ()
    """What of the last document taken over couldn't be carried out, item by item."""
    conflict: bool = False
    finished: tuple[Outcome, ...] = ()
    """The last outcomes, the oldest first."""
    _out: list[Effect] = field(default_factory=list, repr=False)

    # -- the two verbs ---------------------------------------------------------------------------

    def step(self, event: Event, now_ns: int) -> tuple[Effect, ...]:
        """Takes a fact in; gives what is to be done because of it, in that order."""
        self._out = []
        self._hear(event, now_ns)
        if self.current is not None:
            self._advance(now_ns)
        out, self._out = tuple(self._out), []
        return out

    def next_deadline(self, now_ns: int) -> int | None:
        """When a `Tick` is wanted, at the latest; what is past by now was seen to."""
        moments = [moment for waiting in self.queue for moment in _moments(waiting)]
        moments += [waiting.deadline_ns for waiting in self.forwarded]
        active, serving, taking = self.active, self.serving, self.taking
        if active is not None:
            moments.append(active.retry_ns)
            if active.waiting is not None:
                moments += _moments(active.waiting)
        if serving is not None:
            moments.append(serving.retry_ns)
        if taking is not None and taking.phase is Phase.WANT:
            moments.append(taking.deadline_ns)
        moments += [self.apply_retry_ns, self.refused_retry_ns, self.record_retry_ns]
        if self.queue:
            moments.append(self.patient_until_ns)
        return min((moment for moment in moments if moment > now_ns), default=None)

    # -- how it stands ---------------------------------------------------------------------------

    def summary(self) -> Summary:
        """What a connection begins with."""
        current = self._document()
        active, serving, taking = self.active, self.serving, self.taking
        busy = (
            (serving is not None and not serving.live)
            or (active is not None and (active.stale or not self.primary))
            or (self.prepared is not None and active is None and serving is None)
            or (taking is not None and taking.phase is not Phase.WANT)
            or bool(self.owed)
        )
        at_it = (active is not None and active.phase is Phase.APPLY) or (
            serving is not None and serving.live
        )
        return Summary(
            node=self.node,
            lineage=current.lineage,
            version=current.version,
            fingerprint=self.print,
            paired=self.paired,
            settled=not busy,
            applied=at_it or self.in_force == _mark(current),
            failed=self.refused is not None,
            primary=self.primary,
            term=self.term,
            sync=self.sync,
            propagation=self.propagation,
        )

    def decision(self) -> Decision | None:
        """What is to be done about the two documents; None while the peer isn't connected."""
        if self.peer is None or self.current is None:
            return None
        return decide(self.summary(), self.peer, adopting=self.adopting)

    def standing(self) -> Standing:
        """How synchronization stands, for people."""
        if not self.sync or (self.peer is not None and not self.peer.sync):
            where = "the peer" if self.sync else "this node"
            return Standing(
                state=SyncState.DISABLED, sentence=f"disabled on {where}", in_step=self._equal()
            )
        if self.peer is None or self.current is None:
            return Standing(
                state=SyncState.UNREACHABLE, sentence="the peer can't be reached", in_step=False
            )
        decision = self.decision()
        if decision is Decision.CONFLICT:
            text = sentence("lineage_conflict")
            return Standing(state=SyncState.LINEAGE_CONFLICT, sentence=text, in_step=False)
        if self.refused is not None:
            why = named(self.failures)
            text = sentence("take_refused", version=self.refused.version, why=why)
            return Standing(state=SyncState.FAILED, sentence=text, in_step=False)
        if self.apply_problems:
            why = named(self.apply_problems)
            text = sentence("reapply_failed", version=self.current.version, why=why)
            return Standing(state=SyncState.FAILED, sentence=text, in_step=False)
        if self.taking is not None or decision is Decision.TAKE:
            text = sentence("taking", version=self.peer.version)
            return Standing(state=SyncState.IN_PROGRESS, sentence=text, in_step=False)
        if self.failures and self.strict_status:
            text = f"taken over, but {named(self.failures)}"
            return Standing(state=SyncState.PARTIAL_SUCCESS, sentence=text, in_step=self._equal())
        if self.primary:
            return Standing(
                state=SyncState.ENABLED,
                sentence="this node's document rules",
                in_step=self._equal(),
            )
        equal = self._equal()
        return Standing(
            state=SyncState.SUCCESS if equal else SyncState.IN_PROGRESS,
            sentence=f"both have {self.current.version}" if equal else "the nodes differ",
            in_step=equal,
        )

    def _equal(self) -> bool:
        peer = self.peer
        if peer is None or self.current is None:
            return False
        own = self.summary()
        return decide(own, peer) is Decision.IN_STEP and own.applied and peer.applied

    def _document(self) -> Document:
        assert self.current is not None, "fed `Started` first"
        return self.current

    # -- hearing ---------------------------------------------------------------------------------

    def _hear(self, event: Event, now_ns: int) -> None:
        match event:
            case ev.Started(held=held):
                self._started(held, now_ns)
            case ev.RoleChanged(primary=primary, term=term):
                self.primary, self.term = primary, max(term, self.term)
            case ev.SettingsChanged():
                self.sync, self.propagation = event.sync, event.propagation
                self.strict_status = event.strict_status
            case ev.DaemonFound(in_force=in_force):
                self.daemon, self.in_force = True, in_force
                self.refused, self.refused_retry_ns, self.apply_retry_ns = None, 0, 0
            case ev.DaemonLost():
                self._daemon_lost(now_ns)
            case ev.PeerFound(summary=summary):
                assert self.peer is None, "`PeerLost` comes before the next `PeerFound`"
                self.peer, self.told = summary, None
            case ev.PeerLost():
                self._peer_lost()
            case ev.Heard(message=message, known=known):
                if self.peer is not None:
                    self._message(message, known, now_ns)
            case ev.Requested(request=request, wall_ns=wall_ns, known=known):
                waiting = Waiting(
                    request=request, wall_ns=wall_ns, since_ns=now_ns, here=True, there=False
                )
                self._requested(waiting, known)
            case ev.SyncForced(adopt=adopt):
                self._forced(adopt)
            case ev.Checked() | ev.Applied() | ev.Ran() | ev.Stored() | ev.StoreFailed():
                self._result(event, now_ns)
            case ev.Tick():
                pass
            case _:
                assert_never(event)

    def _started(self, held: Held, now_ns: int) -> None:
        self.current, self.print = held.current, fingerprint(held.current.tables)
        self.prepared, self.paired, self.in_doubt = held.prepared, held.paired, held.in_doubt
        self.highest = max(held.highest, held.current.version.generation)
        self.patient_until_ns = now_ns + CONNECT_NS
        if held.prepared is not None:
            assert held.prepared.version.generation <= self.highest
            self._resume(held.prepared)

    def _resume(self, operation: Operation) -> None:
        """An operation was prepared when the process ended."""
        current = self._document()
        self._note(Level.INFO, "settling", request=operation.request)
        try:
            after = operation.onto(current)
        except ChangeRefused:
            after = None  # Can't be; aborted rather than believed.
        if operation.node == self.node and after is not None:
            self.active = Active(
                operation=operation,
                before=current,
                after=after,
                phase=Phase.DOUBT,
                exposed=True,
                stale=True,
                undoing=self._undoing(operation),
            )
        elif operation.run is not None or after is None:
            # A command that was begun isn't begun again: nobody knows how far it came.
            answer = outcome(operation.request, State.UNDECIDED, "interrupted")
            self.serving = Serving(
                operation=operation, after=current, phase=Phase.ABORT, live=False
            )
            self._abort_serving(answer)
        else:
            self.serving = Serving(operation=operation, after=after, phase=Phase.APPLY, live=False)

    def _undoing(self, operation: Operation) -> Outcome | None:
        if not operation.undoes:
            return None
        return outcome(operation.undoes, State.REFUSED, "taken_back", why="see the log")

    def _daemon_lost(self, now_ns: int) -> None:
        self.daemon, self.in_force, self.applying = False, None, 0
        active, serving, taking = self.active, self.serving, self.taking
        if active is not None and active.phase is Phase.CHECK:
            self._finish(outcome(active.operation.request, State.REFUSED, "daemon_away"))
        if serving is not None and serving.phase is Phase.CHECK:
            self.serving = None
            self._refuse_live(serving, "daemon_away")
        elif serving is not None and serving.phase is Phase.APPLY:
            self.serving = replace(serving, token=0)
        if taking is not None and taking.phase is Phase.CHECK:
            self.taking = None

    def _peer_lost(self) -> None:
        self.peer = self.told = None
        self.conflict = False
        if self.serving is not None:
            self.serving = replace(self.serving, live=False, asked=False)
        if self.taking is not None and self.taking.phase is Phase.WANT:
            self.taking = None
        active = self.active
        if active is not None:
            self.active = active = replace(active, asked=False, stale=active.exposed)
            if active.phase is Phase.PEER:
                self._alone_or_doubt(active, "alone_unreachable")
        for waiting in self.forwarded:
            self._out.append(
                Answer(outcome=outcome(waiting.request.request, State.UNDECIDED, "forward_lost"))
            )
        self.forwarded = ()

    def _forced(self, adopt: bool) -> None:
        if adopt and self.decision() is Decision.CONFLICT:
            self.adopting = True
        self.refused, self.refused_retry_ns = None, 0
        if self.primary and not adopt:
            self._send(Pull())
        else:
            self.refresh = True

    # -- messages --------------------------------------------------------------------------------

    def _message(self, message: Message, known: Outcome | None, now_ns: int) -> None:
        match message:
            case Status(summary=summary):
                if self.refused is not None and self.peer is not None:
                    news = Mark(lineage=summary.lineage, version=summary.version)
                    if news != self.refused:
                        self.refused, self.refused_retry_ns = None, 0
                self.peer = summary
            case Prepare(operation=operation):
                self._asked_to_prepare(operation)
            case Prepared():
                self._voted(message)
            case Query(request=request):
                self._queried(request, known)
            case Answered(request=request, verdict=verdict):
                self._told_verdict(request, verdict)
            case Want():
                self._send(Given(document=self._document()))
            case Given(document=document):
                self._given(document)
            case Pull():
                self.refresh = not self.primary
                self.refused, self.refused_retry_ns = None, 0
            case Forward(request=request):
                waiting = Waiting(
                    request=request, wall_ns=0, since_ns=now_ns, here=False, there=True
                )
                self._requested(waiting, known)
            case Forwarded(outcome=told):
                self._forward_answered(told)
            case _:
                assert_never(message)

    # -- requests --------------------------------------------------------------------------------

    def _requested(self, waiting: Waiting, known: Outcome | None) -> None:
        """A request, perhaps one that was made before."""
        name = waiting.request.request
        if self.current is None:
            self._reply(waiting, outcome(name, State.REFUSED, "stopped"))
            return
        active = self.active
        if active is not None and name in {active.operation.request, active.operation.undoes}:
            before = active.waiting
            self.active = replace(active, waiting=_merged(before, waiting), answer=active.answer)
            return
        for index, other in enumerate(self.queue):
            if other.request.request == name:
                merged = replace(
                    other, here=other.here or waiting.here, there=other.there or waiting.there
                )
                self.queue = (*self.queue[:index], merged, *self.queue[index + 1 :])
                return
        if any(other.request.request == name for other in self.forwarded):
            return
        past = self._past(name, known)
        if past is not None:
            self._reply(waiting, past)
        elif len(self.queue) >= QUEUE_MOST:
            busy = outcome(name, State.REFUSED, "busy", count=len(self.queue))
            self._reply(waiting, busy)
        else:
            self.queue = (*self.queue, waiting)

    def _past(self, request: str, known: Outcome | None) -> Outcome | None:
        """What became of a request that was made before; None if it wasn't."""
        last = next((one for one in reversed(self.finished) if one.request == request), None)
        told = last or known
        for doubtful in self.in_doubt:
            if doubtful.request == request:
                return doubtful
        for done in self._document().recent:
            if done.request == request:
                if told is not None and told.state in {State.DONE, State.PARTLY}:
                    return told
                both = self.peer is not None and in_step(self.summary(), self.peer)
                state = State.DONE if both else State.ALONE
                code = "settled" if both else "alone_unreachable"
                return outcome(request, state, code, version=done.version)
        if told is not None and told.state is State.UNDECIDED:
            return None
        return told

    def _forward_answered(self, told: Outcome) -> None:
        if any(waiting.request.request == told.request for waiting in self.forwarded):
            self.forwarded = tuple(
                waiting for waiting in self.forwarded if waiting.request.request != told.request
            )
            self._out.append(Answer(outcome=told))

    def _reply(self, waiting: Waiting | None, said: Outcome) -> None:
        if waiting is None:
            return
        if waiting.here:
            self._out.append(Answer(outcome=said))
        if waiting.there:
            self._send(Forwarded(outcome=said))

    def _next_request(self, now_ns: int) -> bool:
        """Looks whether the first request in the queue can go on. True if something was done."""
        waiting = self.queue[0]
        request = waiting.request
        late = now_ns >= waiting.patience_ns
        if not self.primary:
            self.queue = self.queue[1:]
            self._pass_on(waiting)
            return True
        if self._occupied():
            if not late:
                return False
            if self._give_way(request):
                return True
            if now_ns < waiting.deadline_ns:
                return False
            return self._drop(waiting, "timeout", "another one isn't done yet")
        if not self.daemon:
            return late and self._drop(waiting, "daemon_away")
        go = self._readiness(request, now_ns, late=late)
        if go is None:
            return False
        alone, code, why = go
        if code:
            return self._drop(waiting, code, why)
        self.queue = self.queue[1:]
        self._begin(waiting, alone or "alone_unreachable")
        return True

    def _pass_on(self, waiting: Waiting) -> None:
        """This node isn't primary: the request goes to the one who is, or nowhere."""
        name = waiting.request.request
        if waiting.request.local:
            self._reply(waiting, outcome(name, State.REFUSED, "local"))
        elif waiting.there or self.peer is None or not self.peer.primary:
            if waiting.there:
                why = "neither node is primary, or the role has just moved"
            elif self.peer is None:
                why = "the peer can't be reached"
            else:
                why = "the peer isn't primary either"
            self._reply(waiting, outcome(name, State.REFUSED, "not_primary", why=why))
        elif len(self.forwarded) >= QUEUE_MOST:
            busy = outcome(name, State.REFUSED, "busy", count=len(self.forwarded))
            self._reply(waiting, busy)
        else:
            self.forwarded = (*self.forwarded, waiting)
            self._send(Forward(request=waiting.request))

    def _readiness(
        self, request: Request, now_ns: int, *, late: bool
    ) -> tuple[str, str, str] | None:
        """Whether an operation can be made: None to wait; or why it goes alone, why it is refused
        (empty: neither), and a word on that."""
        strict = request.policy is Policy.STRICT
        peer = self.peer
        if peer is None:
            if now_ns < self.patient_until_ns and not late:
                return None
            return ("", "peer_unreachable", "") if strict else ("alone_unreachable", "", "")
        if in_step(self.summary(), peer):
            return ("", "", "")
        decision = self.decision()
        if decision is Decision.TAKE:
            why = "this node has an older document than its peer and takes that over first"
            hopeless = late or self.refused is not None
            return ("", "out_of_sync", why) if hopeless else None
        if not (self.propagation and peer.propagation):
            where = "the peer" if self.propagation else "this node"
            return ("", "propagation_disabled", where) if strict else ("alone_disabled", "", "")
        if decision is Decision.DISABLED:
            why = "synchronization is disabled"
            return ("", "out_of_sync", why) if strict else ("alone_disabled", "", "")
        if decision in {Decision.CONFLICT, Decision.WAIT} or peer.failed or late:
            why = "the peer can't take over this node's document, or hasn't yet"
            return ("", "out_of_sync", why) if strict else ("alone_out_of_sync", "", "")
        return None

    def _drop(self, waiting: Waiting, code: str, why: str = "") -> bool:
        self.queue = self.queue[1:]
        said = outcome(waiting.request.request, State.REFUSED, code, why=why, where=why)
        self._reply(waiting, said)
        return True

    def _occupied(self) -> bool:
        return (
            self.active is not None
            or self.serving is not None
            or self.prepared is not None
            or (self.taking is not None and self.taking.phase is not Phase.WANT)
            or bool(self.owed)
        )

    def _give_way(self, request: Request) -> bool:
        """Whether the operation under way leaves, as the other one needs no peer."""
        active = self.active
        if request.policy is not Policy.AVAILABLE or active is None or active.waiting is not None:
            return False
        if active.phase not in {Phase.DOUBT, Phase.PEER}:
            return False
        if active.operation.policy is Policy.AVAILABLE:
            self._commit(active, "alone_silent")
        else:
            code = "given_up" if active.operation.run is None else "interrupted"
            given_up = outcome(active.operation.request, State.UNDECIDED, code)
            self._abort(active, given_up)
        return True

    # -- an operation of this node ---------------------------------------------------------------

    def _begin(self, waiting: Waiting, alone: str) -> None:
        """Makes an operation of a request whose turn it is."""
        request, current = waiting.request, self._document()
        name, wish = request.request, request.wish
        if request.base is not None and request.base != current.version:
            said = outcome(
                name,
                State.REFUSED,
                "changed_meanwhile",
                base=request.base,
                current=current.version,
            )
            self._reply(waiting, said)
            return
        if self.term < current.version.term:
            why = f"term {current.version.term} is over this node's {self.term}"
            self._reply(waiting, outcome(name, State.REFUSED, "not_primary", why=why))
            return
        match wish:
            case Edit(changes=changes):
                pass
            case Replace(tables=tables):
                changes = difference(current.tables, tables)
            case Run():
                changes = ()
            case _:
                assert_never(wish)
        try:
            tables = applied(current.tables, changes)
        except ChangeRefused as refused:
            said = outcome(name, State.REFUSED, refused.code, why=refused.sentence)
            self._reply(waiting, said)
            return
        run = wish if isinstance(wish, Run) else None
        print_ = fingerprint(tables)
        if run is None and print_ == self.print:
            said = outcome(name, State.DONE, "unchanged", version=current.version)
            self._reply(waiting, said)
            return
        operation = Operation(
            request=name,
            node=self.node,
            lineage=current.lineage,
            base=current.version,
            version=self._number(),
            changes=changes,
            fingerprint=print_,
            policy=request.policy,
            run=run,
            by=request.by,
            reason=request.reason,
            made_at_ns=waiting.wall_ns,
        )
        token = self._token()
        self.active = Active(
            operation=operation,
            before=current,
            after=operation.document(current, tables),
            phase=Phase.CHECK,
            token=token,
            waiting=waiting,
            alone=alone,
        )
        self._out.append(Check(token=token, tables=tables, run=run))

    def _number(self) -> Version:
        """A version that was never used: highest is what was prepared here, kept or not."""
        self.highest += 1
        return Version(self.term, self.highest)

    def _prepare(self, active: Active) -> None:
        token = self._token()
        self.active = replace(active, phase=Phase.PREPARE, token=token)
        self._out.append(StorePrepare(token=token, operation=active.operation))

    def _offer(self, active: Active) -> None:
        """It is journaled: to the peer, if there is one to give it to."""
        name = active.operation.request
        if not self.primary:
            why = "the role moved while it was prepared"
            self._abort(active, outcome(name, State.REFUSED, "not_primary", why=why))
        elif self.peer is not None and in_step(self.summary(), self.peer):
            self.active = replace(active, phase=Phase.PEER, token=0, exposed=True)
            self._send(Prepare(operation=active.operation))
        elif active.operation.policy is Policy.STRICT:
            self._abort(active, outcome(name, State.REFUSED, "peer_unreachable"))
        else:
            self._commit(active, active.alone)

    def _voted(self, vote: Prepared) -> None:
        """The secondary did it, or nothing of it."""
        active = self.active
        if active is None or active.operation.request != vote.request:
            return
        if active.phase is not Phase.PEER:
            return
        active = replace(active, outputs=(*active.outputs, *vote.outputs))
        name = active.operation.request
        if not vote.code:
            if self.peer is not None:
                self.peer = msgspec.structs.replace(
                    self.peer,
                    version=active.operation.version,
                    fingerprint=active.operation.fingerprint,
                )
            self._commit(replace(active, acked=True), "")
        elif vote.code == "stale_term":
            self._abort(active, outcome(name, State.REFUSED, "not_primary", why=vote.sentence))
        elif active.undoing is None and vote.code in SPOILED:
            code = "peer_invalid" if vote.code == "invalid" else "run_failed"
            said = outcome(
                name,
                State.REFUSED,
                code,
                problems=vote.problems,
                outputs=active.outputs,
                why=named(vote.problems) if vote.problems else vote.sentence,
            )
            self._abort(active, said)
        elif active.operation.policy is Policy.STRICT:
            why = vote.sentence
            said = outcome(name, State.REFUSED, "peer_refused", problems=vote.problems, why=why)
            self._abort(active, said)
        elif self.primary:
            self._commit(replace(active, why=vote.sentence), "alone_refused")
        else:
            why = "the role moved meanwhile"
            self._abort(active, outcome(name, State.REFUSED, "not_primary", why=why))

    def _alone_or_doubt(self, active: Active, why: str) -> None:
        """The peer may have it or not, and can't be asked now."""
        if active.operation.policy is Policy.AVAILABLE and self.primary:
            self._commit(active, why)
        else:
            self.active = replace(active, phase=Phase.DOUBT, asked=False)

    def _told_verdict(self, request: str, verdict: Verdict) -> None:
        active = self.active
        if active is None or active.operation.request != request:
            return
        if active.phase is not Phase.DOUBT or not active.asked:
            return
        match verdict:
            case Verdict.COMMITTED:
                self._commit(replace(active, acked=True), "")
            case Verdict.UNKNOWN:
                self._abort(active, outcome(request, State.REFUSED, "not_reached"))
            case Verdict.INTERRUPTED:
                self._abort(active, outcome(request, State.PARTLY, "interrupted"))
            case _:
                assert_never(verdict)

    def _commit(self, active: Active, alone: str) -> None:
        """It is decided: by the peer, or by this node alone for the reason given."""
        said = self._verdict(active, alone)
        outcomes = [said]
        if active.operation.run is not None and active.undoing is None:
            outcomes = [outcome(said.request, State.UNDECIDED, "running", version=said.version)]
        if active.undoing is not None:
            outcomes.append(self._taken_back(active))
        token = self._token()
        self.active = replace(
            active, phase=Phase.COMMIT, token=token, answer=said, alone=alone, retry_ns=0
        )
        self._out.append(
            StoreCommit(token=token, request=active.operation.request, outcomes=tuple(outcomes))
        )

    def _verdict(self, active: Active, alone: str) -> Outcome:
        name, version = active.operation.request, active.operation.version
        if active.acked:
            return outcome(name, State.DONE, "done", version=version, outputs=active.outputs)
        why = active.why or "no reason given"
        return outcome(name, State.ALONE, alone, version=version, outputs=active.outputs, why=why)

    def _taken_back(self, active: Active) -> Outcome:
        """What is said of the request that the operation takes back."""
        assert active.undoing is not None
        if active.acked or active.undone_everywhere:
            return active.undoing
        return outcome(
            active.undoing.request,
            State.UNDECIDED,
            "not_taken_back",
            problems=active.undoing.problems,
            outputs=active.undoing.outputs,
            why=active.undoing.sentence[:512],
        )

    def _committed(self, active: Active) -> None:
        """The store has it: now the daemon, or the command."""
        operation, after = active.operation, active.after
        assert after is not None
        self.current, self.print, self.prepared = after, operation.fingerprint, None
        if active.undoing is not None:
            said = self._taken_back(active)
            self._remember(said)
            if said.state is State.UNDECIDED:
                self._doubt(said)
            self._reply(active.waiting, said)
            active = replace(active, waiting=None)
        if operation.run is not None:
            token = self._token()
            self.active = replace(active, phase=Phase.RUN, token=token)
            self._out.append(RunCommand(token=token, request=operation.request, run=operation.run))
        elif active.undoing is not None:
            self.active = None
        else:
            self.active = replace(active, phase=Phase.APPLY, token=0)

    def _abort(self, active: Active, said: Outcome) -> None:
        token = self._token()
        self.active = replace(active, phase=Phase.ABORT, token=token, answer=said, retry_ns=0)
        outcomes = [said]
        if active.undoing is not None:
            outcomes.append(self._stuck(active.undoing))
        name = active.operation.request
        self._out.append(StoreAbort(token=token, request=name, outcomes=tuple(outcomes)))

    def _aborted(self, active: Active) -> None:
        self.prepared = None
        assert active.answer is not None
        if active.undoing is not None:
            self._give_up_undoing(active.undoing)
            return
        if active.answer.state is State.UNDECIDED:
            self._doubt(active.answer)
        self._finish(active.answer)

    def _stuck(self, undoing: Outcome) -> Outcome:
        """It can't be put in force here, and can't be taken back either: on both, and known."""
        why = undoing.sentence[:512]
        return outcome(
            undoing.request,
            State.PARTLY,
            "failed_here",
            problems=undoing.problems,
            outputs=undoing.outputs,
            why=why,
        )

    def _give_up_undoing(self, undoing: Outcome) -> None:
        said = self._stuck(undoing)
        self._record(said)
        self._finish(said)

    def _take_back(self, active: Active, said: Outcome, run: Run | None) -> None:
        """This node can't do what it has committed: a new operation undoes it on both."""
        base = self._document()
        tables = active.before.tables
        if not self.primary or self.term < base.version.term:
            self._give_up_undoing(said)
            return
        undo = hashlib.blake2s(active.operation.request.encode(), digest_size=16).hexdigest()
        operation = Operation(
            request=f"undo-{undo}",
            node=self.node,
            lineage=base.lineage,
            base=base.version,
            version=self._number(),
            changes=difference(base.tables, tables),
            fingerprint=fingerprint(tables),
            policy=Policy.AVAILABLE,
            run=run,
            undoes=active.operation.request,
            by=active.operation.by,
            reason=said.sentence,
            made_at_ns=active.operation.made_at_ns,
        )
        self._prepare(
            Active(
                operation=operation,
                before=base,
                after=operation.onto(base),
                phase=Phase.PREPARE,
                waiting=active.waiting,
                outputs=(),
                undoing=said,
                undone_everywhere=not active.exposed,
            )
        )

    def _finish(self, said: Outcome) -> None:
        """The operation under way is over."""
        active, self.active = self.active, None
        self._remember(said)
        if active is not None:
            self._reply(active.waiting, said)

    def _remember(self, said: Outcome) -> None:
        others = [one for one in self.finished if one.request != said.request]
        self.finished = (*others, said)[-FINISHED_MOST:]

    # -- an operation of the peer ----------------------------------------------------------------

    def _asked_to_prepare(self, operation: Operation) -> None:
        name, current = operation.request, self._document()
        if any(
            done.request == name and done.version == operation.version for done in current.recent
        ):
            self._send(Prepared(request=name))
            return
        if not self.propagation:
            self._refuse(name, "propagation_disabled", where="the peer")
            return
        overtaken = operation.version.term == self.term and self.primary
        if operation.version.term < self.term or overtaken:
            self._refuse(name, "stale_term", term=operation.version.term, known=self.term)
            return
        if self._occupied():
            self._refuse(name, "unsettled")
            return
        try:
            after = operation.onto(current)
        except ChangeRefused as refused:
            code = refused.code if refused.code == "content_differs" else "out_of_step"
            self._refuse(name, code, why=refused.sentence)
            return
        if operation.version <= current.version:
            why = f"{operation.version} is no news: {current.version} is here"
            self._refuse(name, "out_of_step", why=why)
            return
        if not self.daemon:
            self._refuse(name, "daemon_away")
            return
        self.taking = None
        token = self._token()
        self.serving = Serving(operation=operation, after=after, phase=Phase.CHECK, token=token)
        self._out.append(Check(token=token, tables=after.tables, run=operation.run))

    def _refuse(
        self,
        request: str,
        code: str,
        problems: tuple[Problem, ...] = (),
        **facts: object,
    ) -> None:
        text = sentence(code, **facts)
        self._send(Prepared(request=request, code=code, sentence=text, problems=problems))

    def _queried(self, request: str, known: Outcome | None) -> None:
        serving = self.serving
        if serving is not None and serving.operation.request == request:
            self.serving = replace(serving, asked=True)
            return
        self._send(Answered(request=request, verdict=self._verdict_on(request, known)))

    def _verdict_on(self, request: str, known: Outcome | None) -> Verdict:
        if self._document().contains(request):
            return Verdict.COMMITTED
        remembered = (*self.in_doubt, *self.finished)
        past = next((one for one in remembered if one.request == request), known)
        if past is not None and past.code == "interrupted":
            return Verdict.INTERRUPTED
        if past is not None and past.state in {State.DONE, State.ALONE}:
            return Verdict.COMMITTED
        return Verdict.UNKNOWN

    def _commit_serving(self, serving: Serving) -> None:
        token = self._token()
        self.serving = replace(serving, phase=Phase.COMMIT, token=token, retry_ns=0)
        operation = serving.operation
        said = outcome(
            operation.request,
            State.DONE,
            "done",
            version=operation.version,
            outputs=serving.outputs,
        )
        outcomes = [said]
        if operation.undoes:
            why = operation.reason[:512]
            outcomes.append(outcome(operation.undoes, State.REFUSED, "taken_back", why=why))
        self._out.append(
            StoreCommit(token=token, request=operation.request, outcomes=tuple(outcomes))
        )

    def _abort_serving(self, said: Outcome, vote: Prepared | None = None) -> None:
        serving = self.serving
        assert serving is not None
        token = self._token()
        self.serving = replace(serving, phase=Phase.ABORT, token=token, vote=vote, retry_ns=0)
        self._remember(said)
        if said.state is State.UNDECIDED and said not in self.in_doubt:
            self._doubt(said)
        self._out.append(
            StoreAbort(token=token, request=serving.operation.request, outcomes=(said,))
        )

    def _served(self, serving: Serving) -> None:
        """The store committed or aborted: the peer may know."""
        self.serving, self.prepared = None, None
        operation = serving.operation
        committed = serving.phase is Phase.COMMIT
        if committed:
            self.current, self.print = serving.after, operation.fingerprint
            self.highest = max(self.highest, operation.version.generation)
        vote = Prepared(request=operation.request, outputs=serving.outputs)
        if not committed:
            vote = serving.vote or vote
        if serving.live and (committed or serving.vote is not None):
            self._send(vote)
        if serving.asked:
            verdict = self._verdict_on(operation.request, None)
            self._send(Answered(request=operation.request, verdict=verdict))

    # -- a document that is taken over -----------------------------------------------------------

    def _given(self, document: Document) -> None:
        taking = self.taking
        if taking is None or taking.phase is not Phase.WANT or not self.daemon:
            return
        if self._occupied():
            self.taking = None
            return
        current = self._document()
        news = document.lineage != current.lineage or document.version > current.version
        if not (news or self.refresh or self.decision() is Decision.TAKE):
            self.taking = None
            return
        token = self._token()
        self.taking = replace(
            taking,
            phase=Phase.CHECK,
            token=token,
            document=document,
            print=fingerprint(document.tables),
        )
        self._out.append(Check(token=token, tables=document.tables))

    def _adopt(self, taking: Taking) -> None:
        document, current = taking.document, self._document()
        assert document is not None
        outcomes = [
            outcome(done.request, State.SUPERSEDED, "superseded", version=done.version)
            for done in lost(current, document)
        ]
        outcomes += [
            outcome(done.request, State.UNDECIDED, "running", version=done.version)
            for done in self._owed(current, document)
        ]
        outcomes += undone(current, document)
        token = self._token()
        self.taking = replace(taking, phase=Phase.ADOPT, token=token)
        why = sentence("taking", version=document.version)
        self._out.append(
            StoreAdopt(token=token, document=document, outcomes=tuple(outcomes), why=why)
        )

    def _owed(self, before: Document, after: Document) -> tuple[Done, ...]:
        """Commands to be run yet; not those that were begun here and perhaps came to their end."""
        begun = {doubtful.request for doubtful in self.in_doubt}
        return tuple(done for done in owed(before, after) if done.request not in begun)

    def _adopted(self, taking: Taking) -> None:
        document, before = taking.document, self._document()
        assert document is not None
        for done in lost(before, document):
            said = outcome(done.request, State.SUPERSEDED, "superseded", version=done.version)
            self._remember(said)
            self._note(Level.WARNING, "superseded")
        for said in undone(before, document):
            self._remember(said)
        self.owed = self._owed(before, document)
        self.current, self.print = document, taking.print
        self.highest = max(self.highest, document.version.generation)
        self.paired = True
        self.taking, self.adopting, self.failures = None, False, ()
        if self.refresh:
            self.refresh, self.in_force = False, None
        self._note(Level.INFO, "taken", version=document.version)

    # -- what came of effects --------------------------------------------------------------------

    def _result(
        self, event: ev.Checked | ev.Applied | ev.Ran | ev.Stored | ev.StoreFailed, now_ns: int
    ) -> None:
        token = event.token
        assert token > 0
        if token == self.marking:
            self.marking = 0
            self.paired = self.paired or isinstance(event, ev.Stored)
        elif token == self.recording[0]:
            self._recorded(isinstance(event, ev.Stored), now_ns)
        elif token == self.applying:
            assert isinstance(event, ev.Applied)
            self._reapplied(event, now_ns)
        elif token == self.owed_token:
            assert isinstance(event, ev.Ran)
            self._owed_ran(event)
        elif self.active is not None and token == self.active.token:
            self._active_result(self.active, event, now_ns)
        elif self.serving is not None and token == self.serving.token:
            self._serving_result(self.serving, event, now_ns)
        elif self.taking is not None and token == self.taking.token:
            self._taking_result(self.taking, event, now_ns)

    def _active_result(
        self,
        active: Active,
        event: ev.Checked | ev.Applied | ev.Ran | ev.Stored | ev.StoreFailed,
        now_ns: int,
    ) -> None:
        active = replace(active, token=0)
        name = active.operation.request
        match event:
            case ev.Checked(problems=()):
                self._prepare(active)
            case ev.Checked(problems=problems):
                why = named(problems)
                said = outcome(name, State.REFUSED, "invalid", problems=problems, why=why)
                self._finish(said)
            case ev.StoreFailed(code=code, sentence=why):
                self._note(Level.ERROR, "store", why=f"{why} ({code})")
                if active.phase is not Phase.PREPARE:
                    self.active = replace(active, retry_ns=now_ns + RETRY_NS)
                elif active.undoing is not None:
                    self._give_up_undoing(active.undoing)
                else:
                    self._finish(outcome(name, State.REFUSED, "store", why=why))
            case ev.Stored():
                match active.phase:
                    case Phase.PREPARE:
                        self.prepared = active.operation
                        self._offer(active)
                    case Phase.COMMIT:
                        self._committed(active)
                    case _:
                        assert active.phase is Phase.ABORT
                        self._aborted(active)
            case ev.Ran(output=output, undo=undo):
                self._ran(active, output, undo)
            case ev.Applied():
                raise AssertionError("the current document is applied under a token of its own")
            case _:
                assert_never(event)

    def _ran(self, active: Active, output: Output, undo: bool) -> None:
        """The command was run here, after the peer ran it."""
        operation, run = active.operation, active.operation.run
        assert run is not None
        active = replace(active, outputs=(*active.outputs, output))
        if active.undoing is not None:
            self.active = None
            return
        said = self._verdict(active, active.alone)
        if output.status != 0:
            why = f"status {output.status}"
            if active.acked and undo and operation.policy is Policy.STRICT:
                back = outcome(
                    operation.request,
                    State.REFUSED,
                    "run_taken_back",
                    outputs=active.outputs,
                    why=why,
                )
                self._take_back(active, back, msgspec.structs.replace(run, undo=True))
                return
            said = outcome(
                operation.request,
                State.PARTLY,
                "run_failed",
                version=operation.version,
                outputs=active.outputs,
                why=why,
            )
        self._record(said)
        self._finish(said)

    def _serving_result(
        self,
        serving: Serving,
        event: ev.Checked | ev.Applied | ev.Ran | ev.Stored | ev.StoreFailed,
        now_ns: int,
    ) -> None:
        serving = replace(serving, token=0)
        operation = serving.operation
        name = operation.request
        match event:
            case ev.Checked(problems=()):
                token = self._token()
                self.serving = replace(serving, phase=Phase.PREPARE, token=token)
                self._out.append(StorePrepare(token=token, operation=operation))
            case ev.Checked(problems=problems):
                self.serving = None
                self._refuse_live(serving, "invalid", problems, why=named(problems))
            case ev.StoreFailed(code=code, sentence=why):
                self._note(Level.ERROR, "store", why=f"{why} ({code})")
                if serving.phase is Phase.PREPARE:
                    self.serving = None
                    self._refuse_live(serving, "store", why=why)
                else:
                    self.serving = replace(serving, retry_ns=now_ns + RETRY_NS)
            case ev.Stored():
                if serving.phase is not Phase.PREPARE:
                    self._served(serving)
                    return
                self.prepared = operation
                self.highest = max(self.highest, operation.version.generation)
                if operation.run is None:
                    self.serving = replace(serving, phase=Phase.APPLY)
                    return
                token = self._token()
                self.serving = replace(serving, phase=Phase.RUN, token=token)
                self._out.append(RunCommand(token=token, request=name, run=operation.run))
            case ev.Applied(in_force=True):
                self.in_force = _mark(serving.after)
                self._commit_serving(serving)
            case ev.Applied(problems=problems):
                self._vote_no(serving, "apply_failed", problems, named(problems))
            case ev.Ran(output=output):
                serving = replace(serving, outputs=(output,))
                if output.status == 0 or operation.undoes:
                    self._commit_serving(serving)
                else:
                    self._vote_no(serving, "run_failed", (), f"status {output.status}")
            case _:
                assert_never(event)

    def _vote_no(
        self, serving: Serving, code: str, problems: tuple[Problem, ...], why: str
    ) -> None:
        """It was journaled and can't be done: forgotten again, and said."""
        name = serving.operation.request
        self.serving = serving
        vote = Prepared(
            request=name,
            code=code,
            sentence=sentence(code, why=why),
            problems=problems,
            outputs=serving.outputs,
        )
        self._abort_serving(outcome(name, State.REFUSED, code, problems=problems, why=why), vote)

    def _refuse_live(
        self, serving: Serving, code: str, problems: tuple[Problem, ...] = (), **facts: object
    ) -> None:
        """Nothing was kept of it: said over the connection on which it came, or when asked."""
        if serving.live:
            self._refuse(serving.operation.request, code, problems, **facts)
        elif serving.asked:
            self._send(Answered(request=serving.operation.request, verdict=Verdict.UNKNOWN))

    def _taking_result(
        self,
        taking: Taking,
        event: ev.Checked | ev.Applied | ev.Ran | ev.Stored | ev.StoreFailed,
        now_ns: int,
    ) -> None:
        assert taking.document is not None
        match event:
            case ev.Checked(problems=()):
                self._adopt(taking)
            case ev.Stored():
                self._adopted(taking)
            case ev.Checked(problems=problems):
                self._not_taken(taking.document, problems, now_ns)
            case ev.StoreFailed(sentence=why):
                problem = Problem(where="the worker's store", right=why)
                self._not_taken(taking.document, (problem,), now_ns)
            case _:
                raise AssertionError("nothing else was asked for")

    def _not_taken(self, document: Document, problems: tuple[Problem, ...], now_ns: int) -> None:
        self.taking, self.refused, self.failures = None, _mark(document), problems
        self.refused_retry_ns = now_ns + REFUSED_NS
        why = named(problems)
        self._note(Level.ERROR, "take_refused", version=document.version, why=why)

    def _reapplied(self, event: ev.Applied, now_ns: int) -> None:
        """The daemon was given the current document."""
        self.applying = 0
        current, active = self._document(), self.active
        if event.in_force:
            self.in_force = self.applying_mark
            self.apply_problems, self.apply_retry_ns = (), 0
            if event.problems:
                self.failures = event.problems
            return
        if active is not None and active.phase is Phase.APPLY:
            said = outcome(
                active.operation.request,
                State.REFUSED,
                "taken_back",
                problems=event.problems,
                why=named(event.problems),
            )
            self._take_back(active, said, None)
            return
        self.apply_problems = event.problems or (Problem(where="the agent", right="refused"),)
        self.apply_retry_ns = now_ns + RETRY_NS
        why = named(event.problems)
        self._note(Level.ERROR, "reapply_failed", version=current.version, why=why)

    def _owed_ran(self, event: ev.Ran) -> None:
        done, self.owed = self.owed[0], self.owed[1:]
        self.owed_token = 0
        state, code = State.DONE, "not_at_once"
        if event.output.status != 0:
            state, code = State.PARTLY, "run_failed"
            problem = Problem(where=f"command {done.request}", right=event.output.text[:1024])
            self.failures = (*self.failures, problem)
        said = outcome(
            done.request,
            state,
            code,
            version=done.version,
            outputs=(event.output,),
            why=f"status {event.output.status}",
        )
        self._remember(said)
        self._record(said)

    # -- going on --------------------------------------------------------------------------------

    def _advance(self, now_ns: int) -> None:
        """Begins whatever can begin now; the order is that of importance."""
        self._deadlines(now_ns)
        self._retry(now_ns)
        self._put_in_force(now_ns)
        self._ask_about()
        self._take(now_ns)
        self._run_owed()
        for _ in range(2 * QUEUE_MOST):
            if not self.queue or not self._next_request(now_ns):
                break
        self._settle()
        self._keep_records(now_ns)
        self._tell()

    def _deadlines(self, now_ns: int) -> None:
        """Nobody waits longer than they said."""
        for waiting in self.forwarded:
            if now_ns >= waiting.deadline_ns:
                said = outcome(waiting.request.request, State.UNDECIDED, "silent")
                self._out.append(Answer(outcome=said))
        self.forwarded = tuple(one for one in self.forwarded if now_ns < one.deadline_ns)
        for waiting in self.queue:
            if now_ns >= waiting.deadline_ns and waiting is not self.queue[0]:
                why = "others were before it"
                said = outcome(waiting.request.request, State.REFUSED, "timeout", why=why)
                self._reply(waiting, said)
        self.queue = tuple(
            one for one in self.queue if now_ns < one.deadline_ns or one is self.queue[0]
        )
        taking = self.taking
        if taking is not None and taking.phase is Phase.WANT and now_ns >= taking.deadline_ns:
            self.taking = None
        active = self.active
        if active is None or active.waiting is None:
            return
        late = now_ns >= active.waiting.patience_ns
        available = active.operation.policy is Policy.AVAILABLE and self.primary
        if active.phase is Phase.PEER and late and available:
            self._commit(active, "alone_silent")
            active = self.active
            assert active is not None
        if active.waiting is None or now_ns < active.waiting.deadline_ns:
            return
        name = active.waiting.request.request
        if active.phase is Phase.CHECK:
            self._finish(outcome(name, State.REFUSED, "timeout", why="the agent is slow"))
            return
        code = {Phase.PEER: "silent", Phase.DOUBT: "undecided"}.get(active.phase, "unfinished")
        self._reply(active.waiting, outcome(name, State.UNDECIDED, code))
        self.active = replace(active, waiting=None)

    def _retry(self, now_ns: int) -> None:
        """What the store refused and what nevertheless has to be done."""
        active, serving = self.active, self.serving
        if active is not None and 0 < active.retry_ns <= now_ns:
            if active.phase is Phase.COMMIT:
                self._commit(active, active.alone)
            else:
                assert active.answer is not None
                self._abort(active, active.answer)
        if serving is not None and 0 < serving.retry_ns <= now_ns:
            if serving.phase is Phase.COMMIT:
                self._commit_serving(serving)
            else:
                said = outcome(serving.operation.request, State.UNDECIDED, "interrupted")
                past = [one for one in self.finished if one.request == said.request]
                self._abort_serving(past[-1] if past else said, serving.vote)

    def _put_in_force(self, now_ns: int) -> None:
        """The daemon has in force what the store has, or what the peer wants committed."""
        if not self.daemon:
            return
        current, serving, active = self._document(), self.serving, self.active
        if serving is not None and serving.phase is Phase.APPLY and not serving.token:
            if self.in_force == _mark(serving.after):
                self._commit_serving(serving)
            elif not self.applying:
                token = self._token()
                self.serving = replace(serving, token=token)
                self._out.append(Apply(token=token, document=serving.after))
            return
        if serving is not None and serving.phase in {Phase.APPLY, Phase.COMMIT}:
            return
        if active is not None and active.undoing is not None:
            return  # What can't be put in force is about to be replaced.
        if self.in_force == _mark(current):
            self.apply_problems, self.apply_retry_ns = (), 0
            if active is not None and active.phase is Phase.APPLY:
                assert active.answer is not None
                self._finish(active.answer)
            return
        if not self.applying and now_ns >= self.apply_retry_ns:
            self.applying, self.applying_mark = self._token(), _mark(current)
            self.apply_retry_ns = 0
            self._out.append(Apply(token=self.applying, document=current))

    def _ask_about(self) -> None:
        """Before anything else is begun over a new connection."""
        active = self.active
        if self.peer is None or active is None:
            return
        if active.phase is Phase.DOUBT and not active.asked:
            self.active = replace(active, asked=True)
            self._send(Query(request=active.operation.request))

    def _take(self, now_ns: int) -> None:
        """Asks for the peer's document, if that is the one that rules."""
        decision = self.decision()
        if decision is Decision.CONFLICT and not self.conflict:
            self._note(Level.ERROR, "lineage_conflict")
        self.conflict = decision is Decision.CONFLICT
        if self.peer is None or not self.daemon or self.taking is not None or self._occupied():
            return
        again = self.refresh and decision is Decision.IN_STEP and not self.primary
        if decision is not Decision.TAKE and not again:
            return
        if self.refused is not None and now_ns < self.refused_retry_ns:
            return
        self.refused, self.refused_retry_ns = None, 0
        self.taking = Taking(phase=Phase.WANT, deadline_ns=now_ns + TAKE_NS)
        self._send(Want())

    def _run_owed(self) -> None:
        """Commands that were run on the peer while this node was away, once the document that has
        them is in force."""
        if not self.owed or self.owed_token or self.in_force != _mark(self._document()):
            return
        done = self.owed[0]
        assert done.run is not None
        self.owed_token = self._token()
        self._out.append(RunCommand(token=self.owed_token, request=done.request, run=done.run))

    def _settle(self) -> None:
        """In step: what was in doubt is on both or on neither, and the two are a pair."""
        if self.peer is None or self.decision() is not Decision.IN_STEP or self._occupied():
            return
        if not self.paired and not self.marking:
            self.marking = self._token()
            self._out.append(StorePaired(token=self.marking))
        if self.in_doubt and self.peer.settled:
            for doubtful in self.in_doubt:
                said = self._settlement(doubtful)
                self._remember(said)
                self._record(said)
            self.in_doubt = ()

    def _settlement(self, doubtful: Outcome) -> Outcome:
        """What is true of it now that both have the same document."""
        request = doubtful.request
        done = next((one for one in self._document().recent if one.request == request), None)
        if doubtful.code in {"interrupted", "running"} or (done and done.run):
            version = done.version if done else None
            return outcome(request, State.PARTLY, "interrupted", version=version)
        if done is not None:
            return outcome(request, State.DONE, "settled", version=done.version)
        return outcome(request, State.REFUSED, "undone")

    def _doubt(self, said: Outcome) -> None:
        self.in_doubt = (*self.in_doubt, said)

    def _record(self, said: Outcome) -> None:
        self.records = (*self.records, said)

    def _keep_records(self, now_ns: int) -> None:
        """Lets the store keep what is to be kept, however often it refuses."""
        if self.records and not self.recording[0] and now_ns >= self.record_retry_ns:
            token, self.record_retry_ns = self._token(), 0
            self.recording = (token, self.records)
            self._out.append(StoreRecord(token=token, outcomes=self.records))

    def _recorded(self, stored: bool, now_ns: int) -> None:
        kept, self.recording = self.recording[1], (0, ())
        if stored:
            self.records = self.records[len(kept) :]
        else:
            self.record_retry_ns = now_ns + RETRY_NS

    def _tell(self) -> None:
        """The peer knows how this node stands."""
        if self.peer is None:
            return
        summary = self.summary()
        if summary != self.told:
            self.told = summary
            self._send(Status(summary=summary))

    # -- small change ----------------------------------------------------------------------------

    def _token(self) -> int:
        self.tokens += 1
        return self.tokens

    def _send(self, message: Message) -> None:
        if self.peer is not None:
            self._out.append(Send(message=message))

    def _note(self, level: Level, code: str, **facts: object) -> None:
        self._out.append(Note(level=level, code=code, sentence=sentence(code, **facts)))


def _mark(document: Document) -> Mark:
    return Mark(lineage=document.lineage, version=document.version)


def _moments(waiting: Waiting) -> list[int]:
    return [waiting.patience_ns, waiting.deadline_ns]


def _merged(before: Waiting | None, again: Waiting) -> Waiting:
    """Asked once more while it is under way: the newest deadline counts, for all who ask."""
    if before is None:
        return again
    return replace(again, here=before.here or again.here, there=before.there or again.there)


def undone(before: Document, after: Document) -> list[Outcome]:
    """What is said of requests that the other node took back meanwhile."""
    had = {done.request for done in before.recent}
    return [
        outcome(done.undoes, State.REFUSED, "taken_back", why="the log of the other node tells")
        for done in after.recent
        if done.undoes and done.request not in had
    ]
