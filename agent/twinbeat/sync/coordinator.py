# SPDX-License-Identifier: Apache-2.0
"""The operations that a node makes: from the moment that it is begun to its answer.

This is the primary's half of the protocol (`propagation`), and also what is left of it when the
role has moved on: an operation that was begun is brought to its end by whoever began it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import assert_never

import msgspec

from twinbeat.sync import events as ev
from twinbeat.sync.document import ChangeRefused, Run, Version, applied, difference, fingerprint
from twinbeat.sync.effects import (
    Check,
    Level,
    RunCommand,
    StoreAbort,
    StoreCommit,
    StorePrepare,
    StoreRecord,
)
from twinbeat.sync.ground import Ground
from twinbeat.sync.messages import Foretold, Prepare, Prepared, Query, Verdict
from twinbeat.sync.operation import Edit, Operation, Outcome, Output, Policy, Replace, State
from twinbeat.sync.parts import RETRY_NS, SPOILED, Active, Phase, Result, Waiting
from twinbeat.sync.reasons import named, outcome
from twinbeat.sync.synchronizer import in_step


@dataclass(slots=True, kw_only=True)
class Coordinator(Ground):
    """What a node does about its own operation."""

    def _begin(self, waiting: Waiting, alone: str) -> None:
        """Makes an operation of a request whose turn it is."""
        request, current = waiting.request, self._document()
        name, wish = request.request, request.wish
        if request.base is not None and request.base != current.version:
            said = outcome(
                name, State.REFUSED, "changed_meanwhile", base=request.base, current=current.version
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
            asked=request.asked,
            by=request.by,
            reason=request.reason,
            made_at_ns=waiting.wall_ns,
        )
        token, journal = self._token(), self._token()
        self.active = Active(
            operation=operation,
            before=current,
            after=operation.document(current, tables),
            phase=Phase.CHECK,
            token=token,
            journal=journal,
            waiting=waiting,
            alone=alone,
        )
        if run is None and self.peer is not None and in_step(self.summary(), self.peer):
            self._send(Foretold(operation=operation))  # First: both examine it at the same time.
        self._out.append(Check(token=token, tables=tables, run=run))
        self._out.append(StorePrepare(token=journal, operation=operation))

    def _number(self) -> Version:
        """A version that was never used: highest is what was prepared here, kept or not."""
        self.highest += 1
        return Version(self.term, self.highest)

    def _prepare(self, active: Active) -> None:
        token = self._token()
        self.active = replace(active, phase=Phase.PREPARE, token=token)
        self._out.append(StorePrepare(token=token, operation=active.operation))

    def _journaled(self, active: Active, event: Result) -> None:
        """What the store says, which kept it while the daemon examined it."""
        if isinstance(event, ev.StoreFailed):
            self._note(Level.ERROR, "store", why=f"{event.sentence} ({event.code})")
            name = active.operation.request
            refused = outcome(name, State.REFUSED, "store", why=event.sentence)
            self._finish(active.answer or refused)
            return
        assert isinstance(event, ev.Stored)
        self.prepared = active.operation
        if active.answer is not None:
            self._abort(active, active.answer)
        elif active.phase is Phase.PREPARE:
            self._offer(active)
        else:
            self.active = active

    def _drop_begun(self, active: Active, said: Outcome) -> None:
        """Nothing comes of it; the store may have it already, or be about to."""
        if active.journal:
            self.active = replace(active, phase=Phase.PREPARE, token=0, answer=said)
        else:
            self._abort(active, said)

    def _offer(self, active: Active) -> None:
        """It is examined and journaled: to the peer, if there is one to give it to."""
        name = active.operation.request
        if not self.primary:
            why = "the role moved while it was prepared"
            self._abort(active, outcome(name, State.REFUSED, "not_primary", why=why))
        elif self.unconfirmed is not None and active.waiting is not None:
            # The peer is at the one that this one takes back.
            self.active = replace(active, phase=Phase.PREPARE, token=0, held=True)
        elif self.peer is not None and in_step(self.summary(), self.peer):
            self.active = replace(active, phase=Phase.PEER, token=0, exposed=True)
            self._send(Prepare(operation=active.operation))
        elif active.operation.policy is Policy.STRICT:
            self._abort(active, outcome(name, State.REFUSED, "peer_unreachable"))
        else:
            self._commit(active, active.alone)

    def _coming(self, request: str) -> None:
        """The secondary has it in force, so may this node, while both stores are at it."""
        active = self.active
        if active is None or active.operation.request != request:
            return
        if active.phase is not Phase.PEER or active.operation.run is not None:
            return
        self.active = active = replace(active, coming=True)
        if active.undoing is not None:
            return
        # It is decided, as the peer can lose it no more: here as well, and the peer says when.
        self.unconfirmed = active.operation
        self._commit(replace(active, acked=True), "")

    def _is_coming(self, active: Active) -> bool:
        """Whether the secondary said so, or said so to a worker that ended: the daemon has it."""
        return active.coming or (active.after is not None and self._has(active.after))

    def _confirmed(self, operation: Operation) -> None:
        """The secondary has committed it: the next one may be given to it."""
        if self.unconfirmed is not None and self.unconfirmed.request == operation.request:
            self.unconfirmed = None
        if self.peer is not None:
            self.peer = msgspec.structs.replace(
                self.peer, version=operation.version, fingerprint=operation.fingerprint
            )
        self._offer_held()

    def _offer_held(self) -> None:
        """What had to wait for the peer's word on the one before needn't any more."""
        active = self.active
        if active is not None and active.held:
            self._offer(replace(active, held=False))

    def _voted(self, vote: Prepared) -> None:
        """The secondary did it, or nothing of it."""
        expected = self.unconfirmed
        if expected is not None and expected.request == vote.request:
            if not vote.code:
                self._confirmed(expected)
            return
        active = self.active
        if active is None or active.operation.request != vote.request:
            return
        if active.phase is not Phase.PEER:
            return
        active = replace(active, outputs=(*active.outputs, *vote.outputs))
        name = active.operation.request
        if not vote.code:
            self._confirmed(active.operation)
            self._commit(replace(active, acked=True), "")
        elif vote.code == "stale_term":
            self._abort(active, outcome(name, State.REFUSED, "not_primary", why=vote.sentence))
        elif active.undoing is None and vote.code in SPOILED:
            code = "peer_invalid" if vote.code == "invalid" else "run_failed"
            why = named(vote.problems) if vote.problems else vote.sentence
            if code == "run_failed" and vote.outputs:
                failed = vote.outputs[-1]
                why = f"status {failed.status} on {failed.node}"
            said = outcome(
                name,
                State.REFUSED,
                code,
                problems=vote.problems,
                outputs=active.outputs,
                why=why,
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

    def _ask_about(self) -> None:
        """Before anything else is begun over a new connection."""
        active = self.active
        if self.peer is None or active is None:
            return
        if active.phase is Phase.DOUBT and not active.asked:
            self.active = replace(active, asked=True)
            self._send(Query(request=active.operation.request))

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

    def _commit(self, active: Active, alone: str, *, said: Outcome | None = None) -> None:
        """It is decided: by the peer, or by this node alone for the reason given."""
        said = said or self._verdict(active, alone)
        outcomes = [said]
        if active.operation.run is not None and active.undoing is None:
            outcomes = [outcome(said.request, State.UNDECIDED, "running", version=said.version)]
        if active.undoing is not None:
            outcomes.append(self._taken_back(active))
        token, coming = self._token(), self._is_coming(active)
        self.active = replace(
            active,
            phase=Phase.COMMIT,
            token=token,
            answer=said,
            alone=alone,
            retry_ns=0,
            coming=coming,
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
            self.apply_retry_ns = 0

    def _ahead(self, active: Active, now_ns: int) -> bool:
        """Whether the daemon is, or is about to be, ahead of the store here: it needn't wait for it
        where the peer has committed, and a worker that ended meanwhile finds it so."""
        coming = active.certain()
        if coming is None:
            after = active.after
            return active.phase is Phase.DOUBT and after is not None and self._has(after)
        if not self._has(coming) and not self.applying and now_ns >= self.apply_retry_ns:
            self._apply(coming)
        return True

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

    def _undoing(self, operation: Operation) -> Outcome | None:
        if not operation.undoes:
            return None
        return outcome(operation.undoes, State.REFUSED, "taken_back", why="see the log")

    def _active_result(self, active: Active, event: Result, now_ns: int) -> None:
        active = replace(active, token=0)
        name = active.operation.request
        match event:
            case ev.Checked(problems=()) if active.journal:
                self.active = replace(active, phase=Phase.PREPARE)
            case ev.Checked(problems=()):
                self._offer(active)
            case ev.Checked(problems=problems):
                why = named(problems)
                said = outcome(name, State.REFUSED, "invalid", problems=problems, why=why)
                self._drop_begun(active, said)
            case ev.StoreFailed(code=code, sentence=why):
                self._note(Level.ERROR, "store", why=f"{why} ({code})")
                if active.phase is Phase.RECORD and active.answer is not None:
                    self._record(active.answer)
                    self._finish(active.answer)
                elif active.phase is not Phase.PREPARE:
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
                    case Phase.RECORD:
                        assert active.answer is not None
                        self._finish(active.answer)
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
        token = self._token()
        self.active = replace(active, phase=Phase.RECORD, token=token, answer=said)
        self._out.append(StoreRecord(token=token, outcomes=(said,)))

    def _finish(self, said: Outcome) -> None:
        """The operation under way is over."""
        active, self.active = self.active, None
        self._remember(said)
        if active is not None:
            self._reply(active.waiting, said)
