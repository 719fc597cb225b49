# SPDX-License-Identifier: Apache-2.0
"""The one registry of reasons: every transition and every refusal has a code and a sentence.

Logs, the CLI, metrics and the documentation all take them from here. A code is a stable label; a
sentence is a template that a person can read, filled with facts by `because`. Nothing else in the
project invents a reason.
"""

from __future__ import annotations

import enum
import string
from dataclasses import dataclass
from typing import Final

from twinbeat.core.types import Cause


class Code(enum.Enum):
    """Why something happened, or why it was refused. The value is the metric's label."""

    # -- a role began or ended ------------------------------------------------------------------
    STARTED = "started"
    LISTENED = "listened"
    PEER_FOUND = "peer_found"
    PEER_DEAD = "peer_dead"
    PEER_STALLED = "peer_stalled"
    PEER_IDLE = "peer_idle"
    FIRST = "first"
    PEER_YIELDED = "peer_yielded"
    ALONE = "alone"
    ORDERED = "ordered"
    TERM_RENEWED = "term_renewed"
    PEER_DEAF = "peer_deaf"
    RESUMED = "resumed"
    FENCED = "fenced"
    LEASE_EXPIRED = "lease_expired"
    CONTEST_LOST = "contest_lost"
    RESIGNED = "resigned"
    TOLD_TO_YIELD = "told_to_yield"
    TOLD_TO_HAND_OVER = "told_to_hand_over"
    STRANDED = "stranded"
    ORDER_VOID = "order_void"
    GATE_LOST = "gate_lost"
    DISABLED = "disabled"
    ENABLED = "enabled"
    STOPPED = "stopped"
    RESYNCED = "resynced"
    # -- a claim was withheld or abandoned ------------------------------------------------------
    NO_RECEIPT = "no_receipt"
    OVERTAKEN = "overtaken"
    BLOCK_SPENT = "block_spent"
    ISOLATED = "isolated"
    NO_CONTROL = "no_control"
    PEER_SERVES = "peer_serves"
    NOT_PERMITTED = "not_permitted"
    PEER_LEASE = "peer_lease"
    MISMATCH = "mismatch"
    UNPROVEN = "unproven"
    DESPITE_MISMATCH = "despite_mismatch"
    # -- the witness ----------------------------------------------------------------------------
    WITNESSED = "witnessed"
    NO_WITNESS = "no_witness"
    WITNESS_SILENT = "witness_silent"
    WITNESS_KEEPS_PEER = "witness_keeps_peer"
    WITNESS_LOST = "witness_lost"
    WITNESS_BACK = "witness_back"
    WITHOUT_WITNESS = "without_witness"
    # -- a standing order withholds a permit ----------------------------------------------------
    STAY_SECONDARY = "stay_secondary"
    PAUSED = "paused"
    PEER_PAUSED = "peer_paused"
    STARTING = "starting"
    GATE_MISSING = "gate_missing"
    NO_TERMS = "no_terms"
    UNHEALTHY = "unhealthy"
    CHECKS_FAIL = "checks_fail"
    STOPPING = "stopping"
    NEVER_PAIRED = "never_paired"
    YIELDING = "yielding"
    ABSTAINING = "abstaining"
    NOT_FENCED = "not_fenced"
    # -- a command was refused ------------------------------------------------------------------
    PEER_UNKNOWN = "peer_unknown"
    PEER_UNFIT = "peer_unfit"
    PEER_NEVER_CLAIMS = "peer_never_claims"
    PEER_STAYS_PRIMARY = "peer_stays_primary"
    PEER_STARTING = "peer_starting"
    CLAIM_UNDER_WAY = "claim_under_way"
    DIGEST_DIFFERS = "digest_differs"
    SELF_UNFIT = "self_unfit"
    STAY_PRIMARY = "stay_primary"
    NOT_PRIMARY = "not_primary"
    ALREADY_PRIMARY = "already_primary"
    BOTH_STAY_PRIMARY = "both_stay_primary"
    BUSY = "busy"
    NOT_PAUSED = "not_paused"
    NOT_READY = "not_ready"
    TIMERS_CONTRADICT = "timers_contradict"
    HOST_LATE = "host_late"
    PEER_LATE = "peer_late"
    PEER_CONTRADICTS = "peer_contradicts"
    DISK_REFUSES = "disk_refuses"
    # -- how a command went on ------------------------------------------------------------------
    ACCEPTED = "accepted"
    SWITCHED_OVER = "switched_over"
    PEER_DID_NOT_CLAIM = "peer_did_not_claim"
    CLAIM_FAILED = "claim_failed"
    DONE = "done"
    DONE_AFTER_CLAIM = "done_after_claim"
    PAUSED_BOTH = "paused_both"
    UNCONFIRMED = "unconfirmed"
    PAUSED_ONE_SIDED = "paused_one_sided"
    UNCHANGED = "unchanged"
    TIMERS_BOTH = "timers_both"
    TIMERS_ALONE = "timers_alone"
    TIMERS_OVERTAKEN = "timers_overtaken"
    TIMERS_UNANSWERED = "timers_unanswered"
    TIMERS_APPROACHED = "timers_approached"
    # -- worth a line in the log ----------------------------------------------------------------
    PEER_SUSPECTED = "peer_suspected"
    PEER_CLEARED = "peer_cleared"
    LINK_SILENT = "link_silent"
    LINK_HEARD = "link_heard"
    LATE = "late"
    CONTESTED = "contested"
    REOPENED = "reopened"
    COUNTER_JUMP = "counter_jump"
    PAUSE_EXPIRED = "pause_expired"
    PEER_PAUSE_EXPIRED = "peer_pause_expired"
    PORT_LOST = "port_lost"
    PORT_RESTORED = "port_restored"
    GATE_RESTORED = "gate_restored"
    TERMS_RESERVED = "terms_reserved"
    TERMS_FAILED = "terms_failed"
    HEALTH_CHANGED = "health_changed"
    PEER_BETTER = "peer_better"
    FAIL_SAFE = "fail_safe"
    TAKES_BACK = "takes_back"
    HEALTH_HELD = "health_held"
    HEALTH_COUNTS = "health_counts"
    STICKY_PRIMARY = "sticky_primary"
    STICKY_OVER = "sticky_over"
    CONFLICT = "stay_primary_conflict"
    CONFLICT_OVER = "stay_primary_conflict_over"
    TIMERS_SET = "timers_set"
    TIMERS_REFUSED = "timers_refused"
    PEER_WAS_HEARD = "peer_was_heard"
    PEER_FENCED = "peer_fenced"
    RESTART_UNCONFIRMED = "restart_unconfirmed"
    RELOADED = "reloaded"
    EFFECT_FAILED = "effect_failed"
    # -- a monitor of this node's health changed --------------------------------------------------
    MONITOR_FAILED = "monitor_failed"
    MONITOR_HANGS = "monitor_hangs"
    MONITOR_HOLDS = "monitor_holds"
    MONITOR_EXCUSED = "monitor_excused"
    MONITOR_ROLE = "monitor_role"
    SET_FAILED = "set_failed"
    SET_HOLDS = "set_holds"


SENTENCES: Final[dict[Code, str]] = {
    Code.STARTED: "{node} started and listens for {peer}",
    Code.LISTENED: "{node} listened for {waited} and heard nobody",
    Code.PEER_FOUND: "{peer} was heard, {peer_role}",
    Code.PEER_DEAD: "{peer} fell silent, and its kernel answered none of {probes} probes",
    Code.PEER_STALLED: "the agent of {peer} hangs: its kernel answers, its agent doesn't",
    Code.FIRST: "nobody served before, as far as {node} knows",
    Code.PEER_IDLE: "{peer} is heard, but nobody serves",
    Code.PEER_YIELDED: "{peer} asked {node} to take over",
    Code.ALONE: "{node} listened since its start and heard nobody who serves",
    Code.ORDERED: "the operator ordered {node} to take over",
    Code.TERM_RENEWED: "{node} earned its reign anew, under a newer term",
    Code.PEER_DEAF: "{peer} doesn't serve and can't hear {node}",
    Code.RESUMED: "{node} restarted while its gate was still open",
    Code.FENCED: "{peer} took over: its claim ended the reign of {node}",
    Code.LEASE_EXPIRED: "the lease ran out before it was renewed: the agent of {node} was held up",
    Code.CONTEST_LOST: "both gates were open, and {node}, which heard of it first, gave way",
    Code.RESIGNED: "{node} gave up the role",
    Code.TOLD_TO_YIELD: "the operator told {node} to give up the role",
    Code.TOLD_TO_HAND_OVER: "the operator ordered {node} to hand the role over",
    Code.STRANDED: "{node} took over while it was itself cut off from the network",
    Code.ORDER_VOID: "the standing order of {node} ran out: its Python was held up",
    Code.GATE_LOST: "{interface} lost a gate program, or an address that can't be put back",
    Code.DISABLED: "the operator disabled {node}",
    Code.ENABLED: "the operator enabled {node}",
    Code.STOPPED: "{node} was stopped",
    Code.RESYNCED: "events of the engine were lost; the role was read from its state",
    Code.NO_RECEIPT: "{peer} is heard, but gave no receipt for the claim",
    Code.OVERTAKEN: "a higher term than the claimed one was seen",
    Code.BLOCK_SPENT: "no reserved term is left above the highest seen",
    Code.ISOLATED: "{node} is itself cut off from the network",
    Code.NO_CONTROL: "the receive path of {node} isn't proven to run",
    Code.PEER_SERVES: "{peer} serves",
    Code.NOT_PERMITTED: "the standing order of {node} doesn't allow it",
    Code.PEER_LEASE: "the last lease of {peer} may still run",
    Code.MISMATCH: "{peer} speaks under a key or version that {node} doesn't accept",
    Code.UNPROVEN: "{node} never heard {peer}, and no link is proven to carry anything",
    Code.WITNESSED: "the witness granted the term, and every older word has run out",
    Code.NO_WITNESS: "neither {peer} nor the witness confirmed {node} in time: it may be cut off",
    Code.WITNESS_SILENT: "the witness doesn't answer, and without it nobody takes over by silence",
    Code.WITNESS_KEEPS_PEER: "{peer} isn't heard, but the witness says that it serves",
    Code.WITNESS_LOST: "the witness doesn't answer: {why}",
    Code.WITNESS_BACK: "the witness answers again",
    Code.WITHOUT_WITNESS: "the witness doesn't answer, and {node} goes on as if there were none: "
    "both nodes may serve",
    Code.DESPITE_MISMATCH: "{node} waited for {peer}, whose frames it refuses, as long as it may",
    Code.STAY_SECONDARY: "{node} was told to stay secondary",
    Code.PAUSED: "{node} is paused: nobody takes over",
    Code.PEER_PAUSED: "{peer} is paused: nobody takes over",
    Code.STARTING: "{node} has not yet listened long enough",
    Code.GATE_MISSING: "a gate program is missing on {interface}",
    Code.NO_TERMS: "the disk of {node} reserves no terms: {why}",
    Code.UNHEALTHY: "{node} isn't healthy ({checks}), and fail-safe is off",
    Code.CHECKS_FAIL: "checks of {node} fail: {checks}",
    Code.STOPPING: "{node} is being stopped",
    Code.NEVER_PAIRED: "{node} never heard {peer}, and claim_alone is off",
    Code.YIELDING: "{node} is handing the role over",
    Code.ABSTAINING: "{node} gave up the role a moment ago and lets {peer} go first",
    Code.NOT_FENCED: "{peer} has to be fenced before its role is taken over in silence",
    Code.PEER_UNKNOWN: "{peer} isn't heard, so its state is unknown",
    Code.PEER_UNFIT: "{peer} isn't fit to serve",
    Code.PEER_NEVER_CLAIMS: "{peer} was told to stay secondary or is disabled",
    Code.PEER_STAYS_PRIMARY: "{peer} was told to stay primary",
    Code.PEER_STARTING: "{peer} has only just started",
    Code.CLAIM_UNDER_WAY: "a claim is under way; wait until it is decided",
    Code.DIGEST_DIFFERS: "the shared configuration of {peer} differs",
    Code.SELF_UNFIT: "{node} isn't fit to serve: {why}",
    Code.STAY_PRIMARY: "{node} was told to stay primary",
    Code.NOT_PRIMARY: "{node} isn't primary",
    Code.ALREADY_PRIMARY: "{node} is primary already",
    Code.BOTH_STAY_PRIMARY: "{peer} was already told to stay primary",
    Code.BUSY: "another command is under way",
    Code.NOT_PAUSED: "{node} isn't paused",
    Code.NOT_READY: "{node} has only just started",
    Code.TIMERS_CONTRADICT: "{flaw}",
    Code.HOST_LATE: "{node} can't hold a heartbeat every {hello}: one wake-up in ten comes {late} "
    "late or later on its host",
    Code.PEER_LATE: "{peer} can't hold these intervals: one wake-up in ten comes {late} late or "
    "later on its host",
    Code.PEER_CONTRADICTS: "{peer} finds that these intervals contradict each other",
    Code.DISK_REFUSES: "the state of {node} could not be saved",
    Code.ACCEPTED: "the command was accepted and is under way",
    Code.SWITCHED_OVER: "{winner} is primary",
    Code.PEER_DID_NOT_CLAIM: "{peer} did not take over within {waited}; {node} keeps the role",
    Code.CLAIM_FAILED: "{node} could not take over: {why}",
    Code.DONE: "done",
    Code.DONE_AFTER_CLAIM: "done, but a claim of {node} came before it",
    Code.PAUSED_BOTH: "both nodes are paused: if the agent of the one that serves died now, its "
    "gate would shut within {lease} and nobody would take over until {pause_ends}",
    Code.PAUSED_ONE_SIDED: "{node} is paused; {peer} has not confirmed that it knows, so it may "
    "take over",
    Code.UNCONFIRMED: "the engine of {node} has not confirmed it; the outcome isn't known",
    Code.RESTART_UNCONFIRMED: "{peer} has not confirmed that it knows of the planned restart of "
    "{node}: it may take over",
    Code.UNCHANGED: "nothing to change",
    Code.TIMERS_BOTH: "both nodes keep {timers}",
    Code.TIMERS_ALONE: "{node} keeps {timers}; {peer} can't be asked now and takes them over when "
    "it is heard",
    Code.TIMERS_OVERTAKEN: "the operator of {peer} set others at the same time: {timers}",
    Code.TIMERS_UNANSWERED: "{peer} said nothing of these intervals within {waited}; {node} keeps "
    "{timers}",
    Code.TIMERS_APPROACHED: "both nodes took {timers} over, and still approach them",
    Code.PEER_SUSPECTED: "{peer} was silent for {silence}",
    Code.PEER_CLEARED: "{peer} speaks again after {silence}",
    Code.LINK_SILENT: "{peer} isn't heard on link {link}, silent for {silence}",
    Code.LINK_HEARD: "{peer} is heard on link {link} again",
    Code.LATE: "the engine woke up {silence} late",
    Code.CONTESTED: "another open gate was heard: the kernel of {node} shut its own",
    Code.REOPENED: "{peer} is fenced: the gate of {node} is open again",
    Code.COUNTER_JUMP: "{peer} knew a newer counter of {node}; it jumped above",
    Code.PAUSE_EXPIRED: "the pause ran out",
    Code.PEER_PAUSE_EXPIRED: "the pause of {peer}, which isn't heard, ran out",
    Code.PORT_LOST: "{interface} lost its carrier or vanished",
    Code.PORT_RESTORED: "{interface} is back",
    Code.GATE_RESTORED: "the gate programs stand on {interface} again",
    Code.TERMS_RESERVED: "terms up to {last} are reserved",
    Code.TERMS_FAILED: "terms could not be reserved: {why}",
    Code.HEALTH_CHANGED: "the health of {node} is {score}",
    Code.PEER_BETTER: "{peer} is healthier ({peer_score} against {score})",
    Code.FAIL_SAFE: "{node} isn't healthy, but serves on: {peer} is no better, or can't take over",
    Code.TAKES_BACK: "{node} was told to stay primary and is fit again",
    Code.HEALTH_HELD: "the health of {node} rises to {score}; it counts when that has held for "
    "{hold}",
    Code.HEALTH_COUNTS: "the health of {node} counts as {score} now",
    Code.STICKY_PRIMARY: "the role moved {flips} times for the sake of health: {node} keeps it "
    "now, whatever its health",
    Code.STICKY_OVER: "{node} yields again to a healthier peer",
    Code.CONFLICT: "{node} and {peer} were both told to stay primary: {winner} goes first",
    Code.CONFLICT_OVER: "only one node is told to stay primary now",
    Code.TIMERS_SET: "{node} keeps {timers} from now on, as an operator wants it",
    Code.TIMERS_REFUSED: "{node} doesn't keep what the operator of {peer} wants: {why}",
    Code.PEER_WAS_HEARD: "{peer} is heard",
    Code.PEER_FENCED: "{peer} was fenced",
    Code.RELOADED: "the configuration was reloaded",
    Code.EFFECT_FAILED: "{effect} failed: {why}",
    Code.MONITOR_FAILED: "monitor {monitor} ({kind}) failed: {why}",
    Code.MONITOR_HANGS: "monitor {monitor} ({kind}) got no answer in time: {why}",
    Code.MONITOR_HOLDS: "monitor {monitor} ({kind}) holds: {why}",
    Code.MONITOR_EXCUSED: "monitor {monitor} ({kind}) fails within its start delay: {why}",
    Code.MONITOR_ROLE: "monitor {monitor} begins or ends with the role",
    Code.SET_FAILED: "every interface of link set {monitor} failed: {members}",
    Code.SET_HOLDS: "an interface of link set {monitor} carries again: {members}",
}


WORDS_MOST: Final = 200
"""So much of an operator's own words is part of a reason."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a transition happened: a code for machines, a sentence for people."""

    code: Code
    sentence: str

    def quoting(self, words: str) -> Reason:
        """The same with the operator's own words, if he gave any: printable, and not too many."""
        said = " ".join("".join(one if one.isprintable() else " " for one in words).split())
        if len(said) > WORDS_MOST:
            said = said[: WORDS_MOST - 1] + "…"
        return Reason(self.code, f'{self.sentence} ("{said}")') if said else self

    def then(self, consequence: str) -> Reason:
        """The same with what came of it."""
        return Reason(self.code, f"{self.sentence}; {consequence}")

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was not done. A value, never an exception: it is logged, shown and counted."""

    code: Code
    sentence: str

    def reason(self) -> Reason:
        """The same as the reason of something that was done because of it."""
        return Reason(self.code, self.sentence)

    def __str__(self) -> str:
        return self.sentence


CAUSES: Final[dict[Cause, Code]] = {
    Cause.NONE: Code.RESYNCED,
    Cause.DEAD: Code.PEER_DEAD,
    Cause.STALLED: Code.PEER_STALLED,
    Cause.IDLE: Code.PEER_IDLE,
    Cause.YIELDED: Code.PEER_YIELDED,
    Cause.COLD: Code.ALONE,
    Cause.ORDERED: Code.ORDERED,
    Cause.RENEW: Code.TERM_RENEWED,
    Cause.DEAF: Code.PEER_DEAF,
    Cause.RESUMED: Code.RESUMED,
    Cause.RECEIPT: Code.PEER_IDLE,
    Cause.SILENCE: Code.PEER_DEAD,
    Cause.LEASE_RAN_OUT: Code.PEER_DEAD,
    Cause.FENCED: Code.FENCED,
    Cause.EXPIRED: Code.LEASE_EXPIRED,
    Cause.CONTEST_LOST: Code.CONTEST_LOST,
    Cause.RESIGNED: Code.RESIGNED,
    Cause.STRANDED_ISOLATED: Code.STRANDED,
    Cause.ORDER_VOID: Code.ORDER_VOID,
    Cause.GATE_LOST: Code.GATE_LOST,
    Cause.NO_RECEIPT: Code.NO_RECEIPT,
    Cause.OVERTAKEN: Code.OVERTAKEN,
    Cause.BLOCK_SPENT: Code.BLOCK_SPENT,
    Cause.ISOLATED: Code.ISOLATED,
    Cause.NO_CONTROL: Code.NO_CONTROL,
    Cause.PEER_SERVES: Code.PEER_SERVES,
    Cause.NOT_PERMITTED: Code.NOT_PERMITTED,
    Cause.PEER_LEASE: Code.PEER_LEASE,
    Cause.MISMATCH: Code.MISMATCH,
    Cause.UNPROVEN: Code.UNPROVEN,
    Cause.DESPITE_MISMATCH: Code.DESPITE_MISMATCH,
    Cause.WITNESSED: Code.WITNESSED,
    Cause.NO_WITNESS: Code.NO_WITNESS,
    Cause.PEER_STARTS: Code.PEER_STARTING,
}
"""Every cause of the engine has its code; a test walks the enumeration."""


class _Facts(dict[str, object]):
    """A fact that nobody gave reads as a question mark instead of hiding the sentence."""

    def __missing__(self, key: str) -> str:
        return "?"


def sentence(code: Code, **facts: object) -> str:
    """The sentence of ``code`` with ``facts`` filled in."""
    return string.Formatter().vformat(SENTENCES[code], (), _Facts(facts))


def because(code: Code, **facts: object) -> Reason:
    """The reason ``code`` with its sentence."""
    return Reason(code, sentence(code, **facts))


def refuse(code: Code, **facts: object) -> Refusal:
    """The refusal ``code`` with its sentence."""
    return Refusal(code, sentence(code, **facts))


OVERRIDES: Final[dict[Code, str]] = {
    Code.PEER_UNFIT: "--even-if-unfit",
    Code.SELF_UNFIT: "--even-if-unfit",
    Code.DIGEST_DIFFERS: "--even-if-unfit",
    Code.STAY_PRIMARY: "--even-if-unfit",
    Code.PEER_STAYS_PRIMARY: "--even-if-unfit",
    Code.HOST_LATE: "--even-so",
    Code.PEER_LATE: "--even-so",
}
"""The option with which an operator may insist against a refusal."""


def duration(ns: int) -> str:
    """A duration as people read it: three digits and a unit."""
    for limit, unit in ((1_000, "ns"), (1_000_000, "µs"), (1_000_000_000, "ms")):
        if ns < limit:
            return f"{ns / (limit / 1000):.3g} {unit}"
    return f"{ns / 1e9:.4g} s"
