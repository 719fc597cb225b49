# SPDX-License-Identifier: Apache-2.0
"""The operations of the peer that a node carries out: the secondary's half of the protocol.

What is committed here is decided (`propagation`), so an operation that was begun here is brought to
its end whatever becomes of the connection, and whoever asks about it is answered after that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from twinbeat.sync import events as ev
from twinbeat.sync.document import ChangeRefused
from twinbeat.sync.effects import Check, Level, RunCommand, StoreAbort, StoreCommit, StorePrepare
from twinbeat.sync.ground import Ground
from twinbeat.sync.messages import Ahead, Answered, Prepared, Verdict
from twinbeat.sync.operation import Operation, Outcome, Problem, State
from twinbeat.sync.parts import FORETOLD_NS, RETRY_NS, Foreseen, Phase, Result, Serving, mark
from twinbeat.sync.reasons import named, outcome, sentence


@dataclass(slots=True, kw_only=True)
class Participant(Ground):
    """What a node does about the peer's operation."""

    def _told_beforehand(self, operation: Operation) -> None:
        """The daemon examines it while the primary does. One at a time is enough, and of what is
        wrong with it the peer is told when it asks."""
        under_way = self.foreseen is not None and self.foreseen.token
        if under_way or self._occupied() or not self.daemon or operation.run is not None:
            return
        current = self._document()
        try:
            after = operation.onto(current)
        except ChangeRefused:
            return
        token = self._token()
        self.foreseen = Foreseen(operation=operation, before=current, after=after, token=token)
        self._out.append(Check(token=token, tables=after.tables))

    def _examined(self, foreseen: Foreseen, event: ev.Checked, now_ns: int) -> None:
        sound = not event.problems
        self.foreseen = replace(foreseen, token=0, found_ns=now_ns) if sound else None

    def _asked_to_prepare(self, operation: Operation, now_ns: int) -> None:
        name, current = operation.request, self._document()
        if any(
            done.request == name and done.version == operation.version for done in current.recent
        ):
            self._send(Prepared(request=name))
            return
        if not self.propagation:
            self._refuse(name, "propagation_disabled", where="the peer")
            return
        if operation.node == self.node:
            self._refuse(name, "out_of_step", why="it names this node as the one that made it")
            return
        overtaken = operation.version.term == self.term and self.primary
        if operation.version.term < self.term or overtaken:
            self._refuse(name, "stale_term", term=operation.version.term, known=self.term)
            return
        if self._occupied():
            self._refuse(name, "unsettled")
            return
        foreseen, self.foreseen = self.foreseen, None
        if foreseen is not None and (
            foreseen.before is not current or foreseen.operation != operation
        ):
            foreseen = None
        try:
            after = foreseen.after if foreseen is not None else operation.onto(current)
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
        serving = Serving(operation=operation, after=after, phase=Phase.CHECK)
        if foreseen is not None and foreseen.token:
            self.serving = replace(serving, token=foreseen.token)  # It is being examined.
        elif foreseen is not None and now_ns - foreseen.found_ns < FORETOLD_NS:
            self._journal(serving)
        else:
            token = self._token()
            self.serving = replace(serving, token=token)
            self._out.append(Check(token=token, tables=after.tables, run=operation.run))

    def _journal(self, serving: Serving) -> None:
        token = self._token()
        self.serving = replace(serving, phase=Phase.PREPARE, token=token)
        self._out.append(StorePrepare(token=token, operation=serving.operation))

    def _serving_result(self, serving: Serving, event: Result, now_ns: int) -> None:
        serving = replace(serving, token=0)
        operation = serving.operation
        name = operation.request
        match event:
            case ev.Checked(problems=()):
                self._journal(serving)
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
                self.in_force = mark(serving.after)
                if serving.live:
                    self._send(Ahead(request=name))
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

    def _commit_serving(self, serving: Serving) -> None:
        token = self._token()
        self.serving = replace(serving, phase=Phase.COMMIT, token=token, retry_ns=0)
        operation = serving.operation
        said = outcome(
            operation.request,
            State.ALONE,
            "alone_first",
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

    def _refuse(
        self, request: str, code: str, problems: tuple[Problem, ...] = (), **facts: object
    ) -> None:
        text = sentence(code, **facts)
        self._send(Prepared(request=request, code=code, sentence=text, problems=problems))

    def _refuse_live(
        self, serving: Serving, code: str, problems: tuple[Problem, ...] = (), **facts: object
    ) -> None:
        """Nothing was kept of it: said over the connection on which it came, or when asked."""
        if serving.live:
            self._refuse(serving.operation.request, code, problems, **facts)
        elif serving.asked:
            self._send(Answered(request=serving.operation.request, verdict=Verdict.UNKNOWN))

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
