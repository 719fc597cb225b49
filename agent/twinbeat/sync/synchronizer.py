# SPDX-License-Identifier: Apache-2.0
"""Which of two documents rules, who takes it over, and what gets lost or is owed by that.

Pure decisions, made of the two nodes' summaries alone, so that both come to the same one. How a
document is taken over is `propagation`'s, since nothing else may be under way meanwhile.

The rules, in their order:

1. One lineage: the higher version rules (`Version`: term first, then generation). A build number or
   a role says nothing about whose document is newer. It may well be the primary who takes over: one
   that was killed before it could keep what its secondary has.
2. One lineage, one version, different tables: can't be, and is repaired from the primary.
3. Two lineages: a node that was never in step with a peer only receives. Of two such the primary's
   rules. Two nodes that come from different pairs don't touch each other's document until the
   operator says which of them gives up what it has.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from twinbeat.sync.document import RECENT, Document, Done, Version
from twinbeat.sync.messages import Summary


class Decision(enum.Enum):
    """What a node has to do about its document and its peer's."""

    IN_STEP = enum.auto()
    """Nothing: both have the same."""
    TAKE = enum.auto()
    """Take the peer's over."""
    GIVE = enum.auto()
    """The peer takes over this node's."""
    CONFLICT = enum.auto()
    """Two pairs' nodes: nobody takes over anything."""
    WAIT = enum.auto()
    """Two new nodes, and none of them or both are primary yet."""
    DISABLED = enum.auto()
    """They differ, and one of them is told not to synchronize."""


def decide(own: Summary, peer: Summary, *, adopting: bool = False) -> Decision:
    """What ``own`` has to do. With ``adopting`` the operator said that it gives up what it has."""
    if (
        own.lineage == peer.lineage
        and own.version == peer.version
        and own.fingerprint == peer.fingerprint
    ):
        return Decision.IN_STEP
    if not (own.sync and peer.sync):
        return Decision.DISABLED
    if own.lineage == peer.lineage and own.version != peer.version:
        return Decision.TAKE if own.version < peer.version else Decision.GIVE
    if own.lineage != peer.lineage:
        if adopting:
            return Decision.TAKE
        if own.paired and peer.paired:
            return Decision.CONFLICT
        if own.paired or peer.paired:
            return Decision.GIVE if own.paired else Decision.TAKE
    if own.primary == peer.primary:
        return Decision.WAIT
    return Decision.GIVE if own.primary else Decision.TAKE


def in_step(own: Summary, peer: Summary) -> bool:
    """Whether an operation can be given to ``peer`` now."""
    return (
        decide(own, peer) is Decision.IN_STEP
        and peer.settled
        and peer.applied
        and peer.propagation
        and own.propagation
    )


def lost(before: Document, after: Document) -> tuple[Done, ...]:
    """Changes of ``before`` that ``after`` doesn't contain; of another lineage, all that it names.

    What was taken back in ``after``, and what it is too old to name any more, isn't lost.
    """
    if before.lineage != after.lineage:
        return before.recent
    common = _common(before, after)
    if common is None and len(after.recent) == RECENT:
        return ()
    floor = common.version if common is not None else Version()
    kept = {done.request for done in after.recent} | {done.undoes for done in after.recent}
    return tuple(
        done for done in before.recent if done.version > floor and done.request not in kept
    )


def owed(before: Document, after: Document) -> tuple[Done, ...]:
    """Commands in ``after`` that weren't run on a node that had ``before``, the oldest first."""
    if before.lineage != after.lineage:
        return ()
    common = _common(before, after)
    floor = common.version if common is not None else before.version
    settled = {done.request for done in before.recent} | {done.undoes for done in after.recent}
    return tuple(
        done
        for done in after.recent
        if done.run is not None
        and not done.run.undo
        and done.version > floor
        and done.request not in settled
    )


def _common(before: Document, after: Document) -> Done | None:
    """The newest change that both name: there they went apart."""
    there = {(done.request, done.version) for done in after.recent}
    common = [done for done in before.recent if (done.request, done.version) in there]
    return common[-1] if common else None


class SyncState(enum.StrEnum):
    """How synchronization stands, in the words of `twinbeat show sync`."""

    ENABLED = "enabled"
    """This node is primary and its document rules."""
    IN_PROGRESS = "in-progress"
    SUCCESS = "success"
    PARTIAL_SUCCESS = "partial-success"
    """Taken over, but some of it couldn't be carried out (shown with ``strict_status`` only)."""
    FAILED = "failed"
    DISABLED = "disabled"
    LINEAGE_CONFLICT = "lineage-conflict"
    UNREACHABLE = "unreachable"
    """The peer isn't connected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What there is to say about synchronization: for `show`, metrics and alerts."""

    state: SyncState
    sentence: str
    in_step: bool
    """Both have the same document and it is in force on both, as far as this node knows."""
