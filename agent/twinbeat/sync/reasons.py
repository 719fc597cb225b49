# SPDX-License-Identifier: Apache-2.0
"""Every code that an outcome, a refusal or a line of the log of this package can have.

A code is stable, a sentence is a template for people. Rule REASON: nothing here is refused without
both.
"""

from __future__ import annotations

from typing import Final

from twinbeat.sync.document import Version
from twinbeat.sync.operation import Outcome, Output, Problem, State

SENTENCES: Final = {
    # -- it was done ----------------------------------------------------------------------------
    "done": "done on both nodes",
    "unchanged": "it is so already; nothing was done",
    "alone_first": "done on this node, and the primary does it next",
    "alone_unreachable": "done on this node only: the peer can't be reached; the pair is out of "
    "sync until it is back",
    "alone_out_of_sync": "done on this node only: the peer isn't in step yet",
    "alone_disabled": "done on this node only: propagation or synchronization is disabled",
    "alone_silent": "done on this node only: the peer didn't answer in time; the pair is out of "
    "sync until it does",
    "alone_refused": "done on this node only: the peer could not ({why}); the pair is out of sync",
    "not_at_once": "run on this node when it was back in step",
    # -- it was refused, and nothing has changed -------------------------------------------------
    "invalid": "the configuration would be wrong: {why}",
    "peer_invalid": "the peer finds the configuration wrong: {why}",
    "exists": "{why}",
    "missing": "{why}",
    "changed_meanwhile": "it was made for {base}, and {current} is in force",
    "not_primary": "this node isn't primary, and it can't be given to the one that is: {why}",
    "local": "this node isn't primary, and it was to be done here only",
    "peer_unreachable": "the peer can't be reached, and it was to be done on both or none",
    "out_of_sync": "the nodes aren't in step: {why}",
    "propagation_disabled": "propagation is disabled on {where}, and it was to be done on both or "
    "none",
    "peer_refused": "the peer could not: {why}; it was to be done on both or none",
    "not_reached": "the connection broke before it reached the peer; it was done on neither node",
    "daemon_away": "the agent can't be asked: is twinbeatd running?",
    "id_used": "the request id {name} was given to another command before; this one was not "
    "carried out: give it an id of its own",
    "busy": "{count} others wait already",
    "timeout": "its turn didn't come in time: {why}",
    "starting": "the worker has just been started; ask again",
    "store": "the store can't keep it: {why}",
    "taken_back": "it could not be put in force on this node ({why}); it was taken back on both",
    "run_failed": "the command failed: {why}",
    "run_taken_back": "the command failed on this node ({why}); it was taken back on both",
    # -- nobody knows yet ------------------------------------------------------------------------
    "undecided": "the connection broke while the peer was at it: it ends on both or on neither "
    "when the peer is back; ask again under the same request id",
    "silent": "the peer is still at it; ask again under the same request id",
    "given_up": "the peer, which may have it, didn't come back in time; it will be undone there",
    "unfinished": "this node is still at it; ask again under the same request id",
    "unfinished_there": "this node has it; whether the primary has it, too, isn't known yet",
    "failed_here": "the peer has it, and it can't be put in force on this node: {why}",
    "not_taken_back": "it could not be put in force on this node ({why}); the peer, which may have "
    "it, takes it back when it is in step",
    "forward_lost": "the connection to the primary broke before it answered; ask again under the "
    "same request id",
    "running": "the command runs",
    "interrupted": "the worker ended while the command ran: nobody knows whether it came to its "
    "end",
    # -- afterwards ------------------------------------------------------------------------------
    "settled": "the nodes are in step again, and it is on both",
    "undone": "the nodes are in step again, and it is on neither",
    "superseded": "one node alone did it, and gave way to the other, which was primary later; "
    "`twinbeat show config --backups` has what it was",
    # -- a forced synchronization is refused ------------------------------------------------------
    "sync_unreachable": "the peer can't be reached",
    "sync_disabled": "synchronization is disabled on {where}",
    "sync_under_way": "it is under way",
    "nothing_to_adopt": "both nodes come from one pair; there is nothing to give up",
    # -- votes of a secondary (why an operation wasn't carried out there) ------------------------
    "stale_term": "the role moved while it was prepared (reign {term} is over, {known} has begun); "
    "nothing was changed: give it again",
    "unsettled": "something else is under way",
    "out_of_step": "{why}",
    "content_differs": "{why}",
    "apply_failed": "it could not be put in force: {why}",
    # -- synchronization -------------------------------------------------------------------------
    "taking": "takes over {version} of the peer",
    "taken": "took over {version} of the peer",
    "take_refused": "can't take over {version} of the peer: {why}",
    "lineage_conflict": "the nodes come from different pairs, and none touches the other's "
    "configuration: `twinbeat force sync --adopt` on the one that is to give up its own",
    "reapply_failed": "{version} can't be put in force: {why}",
    "settling": "finds out what became of {request}, which was under way",
}


def sentence(code: str, **facts: object) -> str:
    """The sentence of a code, cut to what may travel."""
    return SENTENCES[code].format(**facts)[:1024]


def outcome(
    request: str,
    state: State,
    code: str,
    *,
    version: Version | None = None,
    problems: tuple[Problem, ...] = (),
    outputs: tuple[Output, ...] = (),
    **facts: object,
) -> Outcome:
    """What came of a request, with the sentence of its code."""
    return Outcome(
        request=request,
        state=state,
        code=code,
        sentence=sentence(code, **facts),
        version=version or Version(),
        problems=problems,
        outputs=outputs,
    )


def named(problems: tuple[Problem, ...]) -> str:
    """The first problem, and how many more there are."""
    if not problems:
        return "no reason given"
    first = problems[0]
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{first.where}: {first.right or first.value}{more}"
