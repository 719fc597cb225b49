# SPDX-License-Identifier: Apache-2.0
"""Where the operator is answered: what was asked, what is being waited for, what was said.

Every command gets a final answer under its request id, once; a command repeated under its id gets
the same one again. What withdraws or grants something is answered when three parties have it: the
engine (which confirms the generation and says whether a claim came first), the disk, and for a
pause the peer. The desk knows no facts of the pair: it is told what holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from twinbeat.core.effects import Outcome, Reply
from twinbeat.core.reasons import Code, Reason, Refusal

REQUESTS_REMEMBERED: Final = 128
"""Commands whose answers are kept, so that one repeated under its id is answered, not repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """A command whose order is out and that is answered when it is in effect."""

    request_id: str
    deadline_ns: int
    answer: Code
    needs_peer: bool = False
    """A pause: the peer should say that it knows."""
    serving: bool = False
    """The node served when it was asked: that a claim came before is no news to anybody."""
    generation: int | None = None
    """Of the order that carries it out; None until that is derived."""
    claim_came_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Who has what, as far as the desk has to know."""

    generation: int
    """Of the standing order."""
    saved: bool
    """The disk has the state as it is."""
    save_failed: str
    """Why the disk refused; empty = it didn't."""
    peer_heard: bool
    peer_knows: bool
    """The peer has said that it knows of the pause."""
    pause_ends: bool
    """The pause has an end."""


PAUSE_ENDS: Final = "it is back or the pause ends"
ENDLESS: Final = "it is back or `twinbeat resume` is given to the node that is left"
"""Of a pause without an end: the node that was told may be lost."""


class Desk:
    """Answers and what they wait for."""

    def __init__(self, because: Callable[..., Reason]) -> None:
        """``because`` gives the reason of a code, in the words of this node."""
        self._because = because
        self._answers: OrderedDict[str, Reply] = OrderedDict()
        self._waiting: list[Confirmation] = []
        self._replies: list[Reply] = []
        self.confirmed = 0
        """The newest generation that the engine confirmed."""

    def repeat(self, request_id: str) -> bool:
        """Give the answer of a known command again; False if it isn't known. One that is waited for
        is answered when the first one is."""
        known = self._answers.get(request_id)
        if known is not None:
            self._replies.append(known)
            return True
        return any(each.request_id == request_id for each in self._waiting)

    def answer(self, request_id: str, outcome: Outcome, reason: Reason | Refusal) -> None:
        """Say how a command stands. Without a request id nobody asked."""
        if not request_id:
            return
        reply = Reply(request_id=request_id, outcome=outcome, reason=reason)
        self._replies.append(reply)
        self._answers[request_id] = reply
        self._answers.move_to_end(request_id)
        while len(self._answers) > REQUESTS_REMEMBERED:
            self._answers.popitem(last=False)

    def expect(
        self,
        request_id: str,
        answer: Code,
        deadline_ns: int,
        *,
        serving: bool,
        needs_peer: bool = False,
    ) -> None:
        """Answer when the order that is about to go out is in effect and the state is saved."""
        self._waiting.append(
            Confirmation(
                request_id=request_id,
                deadline_ns=deadline_ns,
                answer=answer,
                needs_peer=needs_peer,
                serving=serving,
            )
        )

    def confirm(self, generation: int, *, claim_came_first: bool) -> None:
        """The engine has taken an order into effect."""
        if claim_came_first:
            self._waiting = [
                replace(each, claim_came_first=True)
                if each.generation is not None and self.confirmed < each.generation <= generation
                else each
                for each in self._waiting
            ]
        self.confirmed = max(self.confirmed, generation)

    def settle(self, held: Held, now_ns: int) -> None:
        """Answer whatever is in effect or can't wait any longer."""
        waiting: list[Confirmation] = []
        for each in self._waiting:
            confirmation = each
            if confirmation.generation is None:
                confirmation = replace(confirmation, generation=held.generation)
            if not self._settled(confirmation, held, now_ns):
                waiting.append(confirmation)
        self._waiting = waiting

    def _settled(self, each: Confirmation, held: Held, now_ns: int) -> bool:
        assert each.generation is not None
        in_effect = self.confirmed >= each.generation
        late = now_ns >= each.deadline_ns
        peer_settled = not each.needs_peer or not held.peer_heard or held.peer_knows
        if not held.saved and (held.save_failed or late):
            why = held.save_failed or "the disk hangs"
            self.answer(each.request_id, Outcome.FAILED, self._unsaved(why))
        elif not in_effect and late:
            self.answer(each.request_id, Outcome.FAILED, self._because(Code.UNCONFIRMED))
        elif not held.saved or not in_effect or (not peer_settled and not late):
            return False
        else:
            answer = each.answer
            if each.needs_peer and not (held.peer_heard and held.peer_knows):
                answer = Code.PAUSED_ONE_SIDED
            elif each.claim_came_first and not each.serving:
                answer = Code.DONE_AFTER_CLAIM
            ends = PAUSE_ENDS if held.pause_ends else ENDLESS
            self.answer(each.request_id, Outcome.DONE, self._because(answer, pause_ends=ends))
        return True

    def _unsaved(self, why: str) -> Reason:
        reason = self._because(Code.DISK_REFUSES)
        return replace(reason, sentence=f"{reason.sentence}: {why}")

    def deadlines(self) -> list[int]:
        """When something can't wait any longer."""
        return [each.deadline_ns for each in self._waiting]

    def take(self) -> tuple[Reply, ...]:
        """What is to be said now."""
        replies, self._replies = tuple(self._replies), []
        return replies
