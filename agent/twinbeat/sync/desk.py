# SPDX-License-Identifier: Apache-2.0
"""Where requests wait for their turn, and who is told what became of them.

A request that was made before is answered from what is known of it, wherever that is kept. One that
can't be carried out here is passed on to the primary, or refused with a reason; none is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from twinbeat.sync.coordinator import Coordinator
from twinbeat.sync.effects import Answer
from twinbeat.sync.messages import Forward
from twinbeat.sync.operation import Outcome, Policy, Request, State
from twinbeat.sync.parts import QUEUE_MOST, Phase, Waiting, merged
from twinbeat.sync.reasons import outcome
from twinbeat.sync.synchronizer import Decision, in_step


@dataclass(slots=True, kw_only=True)
class Desk(Coordinator):
    """What a node does about what it is asked for."""

    def _requested(self, waiting: Waiting, known: Outcome | None) -> None:
        """A request, perhaps one that was made before."""
        name = waiting.request.request
        if self.current is None:
            self._reply(waiting, outcome(name, State.REFUSED, "starting"))
            return
        if self._is_another(waiting.request, known):
            used = outcome(name, State.REFUSED, "id_used", name=name)
            self._reply(waiting, used, only=waiting.request.asked)
            return
        active = self.active
        if active is not None and name in {active.operation.request, active.operation.undoes}:
            before = active.waiting
            self.active = replace(active, waiting=merged(before, waiting), answer=active.answer)
            return
        for index, other in enumerate(self.queue):
            if other.request.request == name:
                here, there = other.here or waiting.here, other.there or waiting.there
                both = replace(other, here=here, there=there)
                self.queue = (*self.queue[:index], both, *self.queue[index + 1 :])
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

    def _is_another(self, request: Request, known: Outcome | None) -> bool:
        """Whether its id was given to something else, as far as anything is kept of that."""
        name, active = request.request, self.active
        asked = [one.asked for one in self._document().recent if one.request == name]
        if active is not None and active.operation.request == name:
            asked.append(active.operation.asked)
        wait = (*self.queue, *self.forwarded)
        asked += [one.request.asked for one in wait if one.request.request == name]
        if known is not None:
            asked.append(known.asked)
        return any(one not in {"", request.asked} for one in asked)

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
                if self.equal():
                    state, code = State.DONE, "settled"
                elif self.primary:
                    state, code = State.ALONE, "alone_unreachable"
                else:
                    # The primary may be at it still, and may have to take it back.
                    state, code = State.UNDECIDED, "unfinished_there"
                outputs = told.outputs if told is not None else ()
                return outcome(request, state, code, version=done.version, outputs=outputs)
        if told is not None and told.state is State.UNDECIDED:
            return None
        return told

    def _forward_answered(self, told: Outcome) -> None:
        if any(waiting.request.request == told.request for waiting in self.forwarded):
            self.forwarded = tuple(
                waiting for waiting in self.forwarded if waiting.request.request != told.request
            )
            self._out.append(Answer(outcome=told))

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

    def _give_way(self, request: Request) -> bool:
        """Whether the operation under way leaves, as the other one needs no peer."""
        active = self.active
        if request.policy is not Policy.AVAILABLE or active is None or active.waiting is not None:
            return False
        if not self.daemon:
            return False  # Which may have it in force.
        if active.phase not in {Phase.DOUBT, Phase.PEER}:
            return False
        if active.operation.policy is Policy.AVAILABLE:
            self._commit(active, "alone_silent")
        elif self._is_coming(active):
            # In force here, as it is there: the peer brings it to its end, and so does this node.
            said = outcome(
                active.operation.request,
                State.UNDECIDED,
                "undecided",
                version=active.operation.version,
            )
            self._doubt(said)
            self._commit(active, "", said=said)
        else:
            code = "given_up" if active.operation.run is None else "interrupted"
            given_up = outcome(active.operation.request, State.UNDECIDED, code)
            self._abort(active, given_up)
        return True
