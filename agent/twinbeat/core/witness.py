# SPDX-License-Identifier: Apache-2.0
"""What a witness is asked and what it may answer.

With two nodes and every link cut nobody can tell death from partition. A witness is a third party
that both may ask: it keeps the highest term that was ever claimed before it, and whoever claims
takes it away from whoever had it. Here is the vocabulary, and which question is due when; no clock
and no network.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final


class Kind(enum.Enum):
    """What is asked."""

    CLAIM = "claim"
    """Keep this term if no higher one is kept."""
    CONFIRM = "confirm"
    """Is this term still the one that is kept?"""
    LOOK = "look"
    """Are you there, and what is kept?"""


class Verdict(enum.Enum):
    """What came of it."""

    GRANTED = "granted"
    DENIED = "denied"
    """Another term is kept."""
    SILENT = "silent"
    """No answer, or none that can be one. It is never a yes."""


TERMS_HONEST: Final = 1 << 43
"""No pair's terms get there by themselves: whoever lost its disk begins above a boot epoch of 32
bits times two to the tenth (`terms.floor_of`), below 2**42, and 2**42 more would do for a thousand
claims a second for a hundred years."""
TERMS_AWAY: Final = 1 << 20
"""So many may have been used, by a pair that got there all the same, since this node heard of the
highest that it knows. Each costs its claimant a turn with the witness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request to the witness."""

    kind: Kind
    term: int = 0
    term_max: int = TERMS_HONEST
    """No term above it can truly be kept. Whoever believed one would claim above it, until there
    are no numbers left."""
    mark: bool = False
    """Leave a sign of life with the confirmation, that the peer can see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a question."""

    question: Question
    verdict: Verdict
    sent_ns: int
    """Before the request was sent."""
    done_ns: int
    """After the answer had arrived, or when waiting for it ended."""
    kept: int = 0
    """The term that the witness keeps, 0 = none, or no answer."""
    before: int = 0
    """The term that a claim took the place of; 0 = none, or the claim was there already."""
    life: int = 0
    """Grows whenever a claim or a sign of life is written."""
    why: str = ""
    """Why there is no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What the engine is told of the witness (``struct tb_witness``). Replaced whole."""

    term: int = 0
    """The own term that the two times are about."""
    until_ns: int = 0
    """The gate may be open under it until then."""
    open_ns: int = 0
    """From then on it may open without a receipt; 0 = never."""
    before: int = 0
    """The term that was kept until this one was."""
    kept: int = 0
    """The highest term known to be kept."""
    absent: bool = False
    """Go on as without a witness."""


MARGIN_PARTS: Final = 20
"""A claimant waits such a part of a lease longer: clocks may differ in speed by as much."""
LIFE_LEASES: Final = 4
"""A primary that doesn't hear its peer leaves a sign of life every so many leases."""
LIFELESS_LEASES: Final = 12
"""A holder without a sign of life for so many leases counts as gone."""


class Arbitration:
    """What to ask the witness and when, and what its answers allow. Without a lease: nothing.

    Theory of operation
    -------------------
    A primary has its term confirmed every quarter of a lease, whether or not it hears its peer, so
    that a cut finds it with a word that is good for a while. A claimant takes its term to the
    witness and may open, if nobody gives a receipt, one lease after the answer: by then every word
    given before it has run out. Meanwhile it has its term confirmed as a primary does.

    Two nodes that both reach the witness but not each other must not take the role from each other
    by turns. So a node that finds the peer's term kept, and never heard of that term from the peer
    itself, leaves it alone (`holds_back`) as long as its holder gives signs of life.
    """

    def __init__(self, *, node: int, lease_ns: int, serve: bool) -> None:
        """`serve`: while the witness is silent, go on as without one."""
        self._node = node
        self._lease_ns = lease_ns
        self._serve = serve
        self._serving = 0
        self._claiming = 0
        self._told = 0
        """The highest term that the peer told of itself."""
        self._words = Words()
        self._recorded = 0
        """The own term that is known to be kept."""
        self._overtaken = 0
        """The own term that is known to be kept no longer, and never again."""
        self._asked: Question | None = None
        self._asked_ns = 0
        self._marked_ns = 0
        self._answer: Answer | None = None
        """The newest that is one."""
        self._why = ""
        self._failing_since_ns = 0
        """When the first question was sent that got no answer, since the last one that did."""
        self._failed_ns = 0
        self._changed_ns = 0
        """When another term or a sign of life was seen last."""

    # -- facts -----------------------------------------------------------------------------------

    def claimed(self, term: int) -> None:
        """The engine claims a term."""
        self._claiming = term

    def opened(self, term: int) -> None:
        """The engine serves under a term."""
        self._serving, self._claiming = term, 0

    def abandoned(self) -> None:
        """The engine gave up its claim."""
        self._claiming = 0

    def closed(self) -> None:
        """The reign is over, and with it a claim to renew it."""
        self._serving = self._claiming = 0

    def heard(self, term: int) -> None:
        """The peer told of a term in its frames."""
        self._told = max(self._told, term)

    def answered(self, answer: Answer, now_ns: int) -> None:
        """What came of a question, whenever it was asked."""
        if answer.question is self._asked:
            self._asked = None
        if answer.verdict is Verdict.SILENT:
            self._why = answer.why
            self._failed_ns = now_ns
            self._failing_since_ns = self._failing_since_ns or answer.sent_ns
            return
        last = self._answer
        if last is None or (answer.kept, answer.life) != (last.kept, last.life):
            self._changed_ns = answer.done_ns
        self._answer = answer
        self._failing_since_ns = 0
        self._words = replace(self._words, kept=max(self._words.kept, answer.kept))
        term = answer.question.term
        if answer.question.kind is Kind.LOOK or term not in (self._serving, self._claiming):
            return
        if answer.verdict is Verdict.GRANTED:
            self._granted(answer, term)
        elif answer.kept > term:
            self._overtaken = term
        else:
            self._recorded = 0

    def _granted(self, answer: Answer, term: int) -> None:
        """A word counts from before the question, a waiting time from after the answer."""
        words = self._words
        if words.term != term:
            words = replace(words, term=term, until_ns=0, open_ns=0, before=0)
        if answer.question.kind is Kind.CLAIM and not words.open_ns:
            wait_ns = self._lease_ns + self._lease_ns // MARGIN_PARTS
            words = replace(words, open_ns=answer.done_ns + wait_ns, before=answer.before)
        until_ns = max(words.until_ns, answer.sent_ns + self._lease_ns)
        self._words = replace(words, until_ns=until_ns)
        self._recorded = term

    # -- what follows ----------------------------------------------------------------------------

    def is_silent(self, now_ns: int) -> bool:
        """No answer for so long that there won't be one before the last word has run out."""
        return 0 < self._failing_since_ns <= now_ns - self._lease_ns // 2

    def holds_back(self) -> bool:
        """The witness keeps a term of a peer that is alive, though it isn't heard."""
        answer = self._answer
        if answer is None or answer.kept & 1 == self._node or answer.kept <= self._told:
            return False
        return answer.sent_ns < self._changed_ns + LIFELESS_LEASES * self._lease_ns

    def words(self, now_ns: int) -> Words:
        """What the engine should know now."""
        return replace(self._words, absent=self._serve and self.is_silent(now_ns))

    def question(self, now_ns: int, *, peer_heard: bool, highest: int = 0) -> Question | None:
        """What to ask now, if anything is due; it counts as asked.

        `highest`: the highest term that this node ever saw.
        """
        if not self._lease_ns or now_ns < self._due(now_ns, peer_heard=peer_heard):
            return None
        question = self._wanted(now_ns, peer_heard=peer_heard)
        if highest + TERMS_AWAY > TERMS_HONEST:
            question = replace(question, term_max=highest + TERMS_AWAY)
        if question.mark:
            self._marked_ns = now_ns
        self._asked, self._asked_ns = question, now_ns
        return question

    def deadline(self, now_ns: int, *, peer_heard: bool) -> int:
        """When there is something to do next; 0 = never."""
        if not self._lease_ns:
            return 0
        due = self._due(now_ns, peer_heard=peer_heard)
        if self._failing_since_ns and not self.is_silent(now_ns):
            due = min(due, self._failing_since_ns + self._lease_ns // 2)
        return due

    def _wanted(self, now_ns: int, *, peer_heard: bool) -> Question:
        term = self._asks_for(peer_heard=peer_heard)
        if not term:
            return Question(kind=Kind.LOOK)
        if term != self._recorded:
            return Question(kind=Kind.CLAIM, term=term)
        life_ns = LIFE_LEASES * self._lease_ns
        mark = not peer_heard and now_ns >= self._marked_ns + life_ns
        return Question(kind=Kind.CONFIRM, term=term, mark=mark)

    def _asks_for(self, *, peer_heard: bool) -> int:
        """The own term that the witness is asked about; 0 = none."""
        term = self._serving
        if self._claiming and not (self._serving and peer_heard) and not self.holds_back():
            term = self._claiming
        return 0 if term == self._overtaken else term

    def _due(self, now_ns: int, *, peer_heard: bool) -> int:
        """When the next question is due."""
        if not self._asked_ns:
            return now_ns
        lease = self._lease_ns
        term = self._asks_for(peer_heard=peer_heard)
        if self._asked is not None:
            # A claim waits for nothing else; what is never answered counts as failed.
            news = term and term == self._claiming != self._asked.term
            return now_ns if news else self._asked_ns + 2 * lease
        if self._failing_since_ns:
            return self._failed_ns + lease // 8
        if term and term != self._recorded:
            return now_ns
        if term:
            return self._asked_ns + lease // 4
        return self._asked_ns + (2 * lease if peer_heard else lease // 2)

    # -- for people ------------------------------------------------------------------------------

    @property
    def confirmed_ns(self) -> int:
        """When the newest confirmation of a term in use was asked for; 0 = there is none."""
        words = self._words
        current = words.term and words.term in (self._serving, self._claiming)
        return words.until_ns - self._lease_ns if current and words.until_ns else 0

    @property
    def kept(self) -> int:
        """The term kept at the witness, as far as known."""
        return self._words.kept

    @property
    def why(self) -> str:
        """Why the newest question without an answer got none."""
        return self._why

    @property
    def answered_ns(self) -> int:
        """When the newest answer had arrived; 0 = never."""
        return 0 if self._answer is None else self._answer.done_ns

    @property
    def opens_ns(self) -> int:
        """When a claim that was granted may open; 0 = none waits."""
        granted = self._claiming and self._words.term == self._claiming
        return self._words.open_ns if granted else 0
