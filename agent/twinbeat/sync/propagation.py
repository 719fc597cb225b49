# SPDX-License-Identifier: Apache-2.0
"""How a change gets to both nodes: one machine per node, fed with events, giving effects.

It knows the document, the operation under way and what the peer said of itself. It must not know a
clock, a file, a socket or what a row means. Only what the store was told survives the process, and
everything here is made so that it may end between any two effects.

Theory of operation
-------------------

The primary makes an `Operation` of a request and gives it to the secondary *before* it does it
itself. **What the secondary has journaled and in force is decided**, as it commits that whatever
happens to it; nothing else decides while both are connected. So a secondary is never in doubt, and
a primary is only from the moment that it sends the operation until it hears of it. ::

    primary                                       secondary
            ------ Foretold ------------------>
    check with the daemon, store: prepared        check with the daemon
            ------ Prepare ------------------->
                                                  store: prepared
                                                  daemon: in force       <- it will be done
            <----- Ahead ----------------------          the decision
    daemon: in force, store: committed            store: committed
    answer: done on both
            <----- Prepared -------------------
            ------ Status (new version) ------>          the next one may begin

`Foretold` only saves time: what the secondary's daemon finds counts for the `Prepare` that follows,
and where none follows nothing comes of it. `Ahead` is the decision since what is journaled there
and in force there is committed whatever ends meanwhile: the store finds it prepared, and the daemon
has it on disk. So daemons may be ahead of both stores, and a worker that ends in between finds it
so and leaves it so; and what is ahead is never given up. `Prepared` tells that the secondary is
through with it (`unconfirmed`); of commands, and of what takes another one back, it is the decision
itself, as it is with a peer of an older release, which says no `Ahead`.

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

from dataclasses import dataclass, replace
from typing import assert_never

from twinbeat.sync import events as ev
from twinbeat.sync.desk import Desk
from twinbeat.sync.document import ChangeRefused, fingerprint
from twinbeat.sync.effects import Answer, Apply, Effect, Level, StorePaired, StoreRecord
from twinbeat.sync.events import Event, Held, Mark
from twinbeat.sync.messages import (
    Ahead,
    Answered,
    Foretold,
    Forward,
    Forwarded,
    Given,
    Prepare,
    Prepared,
    Pull,
    Query,
    Status,
    Want,
)
from twinbeat.sync.operation import Operation, Outcome, Policy, Problem, State
from twinbeat.sync.participant import Participant
from twinbeat.sync.parts import (
    CONNECT_NS,
    QUEUE_MOST,
    RETRY_NS,
    Active,
    Phase,
    Result,
    Serving,
    Waiting,
    moments_of,
)
from twinbeat.sync.reasons import named, outcome
from twinbeat.sync.synchronizer import Decision
from twinbeat.sync.taker import Taker


@dataclass(slots=True, kw_only=True)
class Propagation(Desk, Participant, Taker):
    """One node. `step` feeds an event and gives effects; `next_deadline` says when it wants a
    `Tick`."""

    # -- the two verbs -----------------------------------------------------------------------------

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
        moments = [moment for waiting in self.queue for moment in moments_of(waiting)]
        moments += [waiting.deadline_ns for waiting in self.forwarded]
        active, serving, taking = self.active, self.serving, self.taking
        if active is not None:
            moments.append(active.retry_ns)
            if active.waiting is not None:
                moments += moments_of(active.waiting)
        if serving is not None:
            moments.append(serving.retry_ns)
        if taking is not None and taking.phase is Phase.WANT:
            moments.append(taking.deadline_ns)
        moments += [self.apply_retry_ns, self.refused_retry_ns, self.record_retry_ns]
        if self.queue:
            moments.append(self.patient_until_ns)
        return min((moment for moment in moments if moment > now_ns), default=None)

    # -- hearing -----------------------------------------------------------------------------------

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
            case ev.Heard():
                if self.peer is not None:
                    self._message(event, now_ns)
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

    def _daemon_lost(self, now_ns: int) -> None:
        self.daemon, self.in_force = False, None
        self.applying, self.foreseen = 0, None
        active, serving, taking = self.active, self.serving, self.taking
        if active is not None and active.phase is Phase.CHECK:
            said = outcome(active.operation.request, State.REFUSED, "daemon_away")
            self._drop_begun(active, said)
        if serving is not None and serving.phase is Phase.CHECK:
            self.serving = None
            self._refuse_live(serving, "daemon_away")
        elif serving is not None and serving.phase is Phase.APPLY:
            self.serving = replace(serving, token=0)
        if taking is not None and taking.phase is Phase.CHECK:
            self.taking = None

    def _peer_lost(self) -> None:
        self.peer = self.told = self.foreseen = self.unconfirmed = None
        self.conflict = self.refresh = False
        if self.serving is not None:
            self.serving = replace(self.serving, live=False, asked=False)
        if self.taking is not None and self.taking.phase is Phase.WANT:
            self.taking = None
        active = self.active
        if active is not None:
            self.active = active = replace(active, asked=False, stale=active.exposed)
            if active.phase is Phase.PEER:
                self._alone_or_doubt(active, "alone_unreachable")
        self._offer_held()
        for waiting in self.forwarded:
            self._out.append(
                Answer(outcome=outcome(waiting.request.request, State.UNDECIDED, "forward_lost"))
            )
        self.forwarded = ()

    # -- messages and results ----------------------------------------------------------------------

    def _message(self, heard: ev.Heard, now_ns: int) -> None:
        message, known = heard.message, heard.known
        match message:
            case Status(summary=summary):
                if self.refused is not None and self.peer is not None:
                    news = Mark(lineage=summary.lineage, version=summary.version)
                    if news != self.refused:
                        self.refused, self.refused_retry_ns = None, 0
                self.peer = summary
            case Foretold(operation=operation):
                self._told_beforehand(operation)
            case Prepare(operation=operation):
                self._asked_to_prepare(operation, now_ns)
            case Ahead(request=request):
                self._coming(request)
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
                    request=request, wall_ns=heard.wall_ns, since_ns=now_ns, here=False, there=True
                )
                self._requested(waiting, known)
            case Forwarded(outcome=told):
                self._forward_answered(told)
            case _:
                assert_never(message)

    def _result(self, event: Result, now_ns: int) -> None:
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
        elif self.foreseen is not None and token == self.foreseen.token:
            assert isinstance(event, ev.Checked)
            self._examined(self.foreseen, event, now_ns)
        elif token == self.owed_token:
            assert isinstance(event, ev.Ran)
            self._owed_ran(event)
        elif self.active is not None and token == self.active.journal:
            self._journaled(replace(self.active, journal=0), event)
        elif self.active is not None and token == self.active.token:
            self._active_result(self.active, event, now_ns)
        elif self.serving is not None and token == self.serving.token:
            self._serving_result(self.serving, event, now_ns)
        elif self.taking is not None and token == self.taking.token:
            self._taking_result(self.taking, event, now_ns)

    def _reapplied(self, event: ev.Applied, now_ns: int) -> None:
        """The daemon was given the current document."""
        self.applying = 0
        current, active = self._document(), self.active
        if event.in_force:
            self.in_force = self.applying_mark
            self.apply_problems, self.apply_retry_ns = (), 0
            self.unapplied = event.problems
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

    # -- going on ----------------------------------------------------------------------------------

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
        elif active.held and late:
            self.unconfirmed = None
            self._offer_held()
        active = self.active
        assert active is not None
        if active.waiting is None or now_ns < active.waiting.deadline_ns:
            return
        name = active.waiting.request.request
        if active.phase is Phase.CHECK:
            said = outcome(name, State.REFUSED, "timeout", why="the agent is slow")
            self._drop_begun(active, said)
            return
        code = {Phase.PEER: "silent", Phase.DOUBT: "undecided"}.get(active.phase, "unfinished")
        self._reply(active.waiting, outcome(name, State.UNDECIDED, code))
        self.active = replace(active, waiting=None)

    def _retry(self, now_ns: int) -> None:
        """What the store refused and what nevertheless has to be done."""
        active, serving = self.active, self.serving
        if active is not None and 0 < active.retry_ns <= now_ns:
            if active.phase is Phase.COMMIT:
                self._commit(active, active.alone, said=active.answer)
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
            if self._has(serving.after):
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
        if active is not None and self._ahead(active, now_ns):
            return
        if self._has(current):
            self.apply_problems, self.apply_retry_ns = (), 0
            if active is not None and active.phase is Phase.APPLY:
                assert active.answer is not None
                self._finish(active.answer)
            return
        if not self.applying and now_ns >= self.apply_retry_ns:
            self._apply(current)

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
