# SPDX-License-Identifier: Apache-2.0
"""What a node knows and what is under way on it: the ground that `Propagation` stands on.

All values in it are immutable, so a copy of a node is a snapshot. The parts of `Propagation` change
it; here is only what they all need: how the node stands, and small ways of saying something.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twinbeat.sync.document import Document, Done
from twinbeat.sync.effects import Answer, Apply, Effect, Level, Note, Send
from twinbeat.sync.events import Mark
from twinbeat.sync.messages import Forwarded, Message, Summary
from twinbeat.sync.operation import Operation, Outcome, Problem
from twinbeat.sync.parts import (
    FINISHED_MOST,
    Active,
    Foreseen,
    Phase,
    Serving,
    Taking,
    Waiting,
    mark,
)
from twinbeat.sync.reasons import named, sentence
from twinbeat.sync.synchronizer import Decision, Standing, SyncState, decide


@dataclass(slots=True, kw_only=True)
class Ground:
    """All that a node knows."""

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
    unconfirmed: Operation | None = None
    """What the peer is bound to commit and hasn't said yet that it did."""
    # -- what is under way -----------------------------------------------------------------------
    tokens: int = 0
    patient_until_ns: int = 0
    queue: tuple[Waiting, ...] = ()
    active: Active | None = None
    serving: Serving | None = None
    taking: Taking | None = None
    foreseen: Foreseen | None = None
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
    unapplied: tuple[Problem, ...] = ()
    """What of the current document is not in force though the daemon has it, as that said last."""
    conflict: bool = False
    finished: tuple[Outcome, ...] = ()
    """The last outcomes, the oldest first."""
    _out: list[Effect] = field(default_factory=list, repr=False)

    # -- how it stands ---------------------------------------------------------------------------

    def _document(self) -> Document:
        assert self.current is not None, "fed `Started` first"
        return self.current

    @property
    def decided(self) -> Document | None:
        """What counts here, though the store may still be at it."""
        serving = self.serving
        if (
            serving is None
            or serving.phase is not Phase.COMMIT
            or serving.operation.run is not None
        ):
            return self.current
        return serving.after

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
        # What is about to be committed is ahead of the document, and the peer waits for it.
        at_it = serving is not None and serving.live
        coming = active.certain() if active is not None else None
        return Summary(
            node=self.node,
            lineage=current.lineage,
            version=current.version,
            fingerprint=self.print,
            paired=self.paired,
            settled=not busy,
            applied=at_it or self._has(coming or current) or self._has(current),
            failed=self.refused is not None,
            primary=self.primary,
            term=self.term,
            sync=self.sync,
            propagation=self.propagation,
        )

    def _has(self, document: Document) -> bool:
        """Whether the daemon has it in force."""
        known = self.in_force
        return known is not None and (
            known.version == document.version and known.lineage == document.lineage
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
                state=SyncState.DISABLED, sentence=f"disabled on {where}", in_step=self.equal()
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
        if self.unfulfilled and self.strict_status:
            text = f"taken over, but {named(self.unfulfilled)}"
            return Standing(state=SyncState.PARTIAL_SUCCESS, sentence=text, in_step=self.equal())
        if self.primary:
            return Standing(
                state=SyncState.ENABLED,
                sentence="this node's document rules",
                in_step=self.equal(),
            )
        equal = self.equal()
        return Standing(
            state=SyncState.SUCCESS if equal else SyncState.IN_PROGRESS,
            sentence=f"both have {self.current.version}" if equal else "the nodes differ",
            in_step=equal,
        )

    @property
    def unfulfilled(self) -> tuple[Problem, ...]:
        """What of this node's document isn't carried out, item by item."""
        return (*self.failures, *self.unapplied)

    def equal(self) -> bool:
        """Whether both nodes have the same document, and have it in force."""
        peer = self.peer
        if peer is None or self.current is None:
            return False
        own = self.summary()
        return decide(own, peer) is Decision.IN_STEP and own.applied and peer.applied

    def _occupied(self) -> bool:
        return (
            self.active is not None
            or self.serving is not None
            or self.prepared is not None
            or (self.taking is not None and self.taking.phase is not Phase.WANT)
            or bool(self.owed)
        )

    def _apply(self, document: Document) -> None:
        self.applying, self.applying_mark = self._token(), mark(document)
        self.apply_retry_ns = 0
        self._out.append(Apply(token=self.applying, document=document))

    # -- ways of saying something ----------------------------------------------------------------

    def _reply(self, waiting: Waiting | None, said: Outcome, *, only: str = "") -> None:
        """``only``: to those who asked for that."""
        if waiting is None:
            return
        if waiting.here:
            self._out.append(Answer(outcome=said, only=only))
        if waiting.there:
            self._send(Forwarded(outcome=said))

    def _remember(self, said: Outcome) -> None:
        others = [one for one in self.finished if one.request != said.request]
        self.finished = (*others, said)[-FINISHED_MOST:]

    def _doubt(self, said: Outcome) -> None:
        self.in_doubt = (*self.in_doubt, said)

    def _record(self, said: Outcome) -> None:
        self.records = (*self.records, said)

    def _token(self) -> int:
        self.tokens += 1
        return self.tokens

    def _send(self, message: Message) -> None:
        if self.peer is not None:
            self._out.append(Send(message=message))

    def _note(self, level: Level, code: str, **facts: object) -> None:
        self._out.append(Note(level=level, code=code, sentence=sentence(code, **facts)))
