# SPDX-License-Identifier: Apache-2.0
"""How a node takes over its peer's document, and runs the commands that it owes by that.

The document is examined whole, kept by the store in one step with a copy of what was there before,
and then put in force as a difference by the daemon. Nothing else is under way meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from twinbeat.sync import events as ev
from twinbeat.sync.document import Document, Done, fingerprint
from twinbeat.sync.effects import Check, Level, RunCommand, StoreAdopt
from twinbeat.sync.ground import Ground
from twinbeat.sync.messages import Pull, Want
from twinbeat.sync.operation import Outcome, Problem, State
from twinbeat.sync.parts import REFUSED_NS, TAKE_NS, Phase, Result, Taking, mark
from twinbeat.sync.reasons import named, outcome, sentence
from twinbeat.sync.synchronizer import Decision, lost, owed


@dataclass(slots=True, kw_only=True)
class Taker(Ground):
    """What a node does about a document that rules over its own."""

    # -- what the operator forces ------------------------------------------------------------------

    def force_refused(self, *, adopt: bool = False) -> tuple[str, str] | None:
        """Why the operator can't force a synchronization now: code and sentence, or None."""
        code, where = "", ""
        if self.peer is None or self.current is None:
            code = "sync_unreachable"
        elif not (self.sync and self.peer.sync):
            code, where = "sync_disabled", "the peer" if self.sync else "this node"
        elif self.taking is not None:
            code = "sync_under_way"
        elif adopt and self.decision() is not Decision.CONFLICT:
            code = "nothing_to_adopt"
        return (code, sentence(code, where=where)) if code else None

    def _forced(self, adopt: bool) -> None:
        if self.force_refused(adopt=adopt) is not None:
            return
        self.adopting = adopt
        self.refused, self.refused_retry_ns = None, 0
        if self.primary and not adopt:
            self._send(Pull())
        else:
            self.refresh = True

    # -- taking over -------------------------------------------------------------------------------

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

    def _given(self, document: Document) -> None:
        taking = self.taking
        if taking is None or taking.phase is not Phase.WANT:
            return
        if self._occupied() or not self.daemon:
            self.taking = None  # Wanted again as soon as it can be used.
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

    def _taking_result(self, taking: Taking, event: Result, now_ns: int) -> None:
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
        self.taking, self.refused, self.failures = None, mark(document), problems
        self.refused_retry_ns = now_ns + REFUSED_NS
        why = named(problems)
        self._note(Level.ERROR, "take_refused", version=document.version, why=why)

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
            self.in_doubt = tuple(one for one in self.in_doubt if one.request != done.request)
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

    def _run_owed(self) -> None:
        """Commands that were run on the peer while this node was away, once the document that has
        them is in force."""
        if not self.owed or self.owed_token or self.in_force != mark(self._document()):
            return
        done = self.owed[0]
        assert done.run is not None
        self.owed_token = self._token()
        self._out.append(RunCommand(token=self.owed_token, request=done.request, run=done.run))

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


def undone(before: Document, after: Document) -> list[Outcome]:
    """What is said of requests that the other node took back meanwhile."""
    had = {done.request for done in before.recent}
    return [
        outcome(done.undoes, State.REFUSED, "taken_back", why="the log of the other node tells")
        for done in after.recent
        if done.undoes and done.request not in had
    ]
