# SPDX-License-Identifier: Apache-2.0
"""Metrics of whoever else has a part, where it is configured: hooks, watchdog, fence, witness."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import Metric

from twinbeat.api.schema import Counters, Status
from twinbeat.observe.family import Family

HOOK_OUTCOMES: Final = ("ok", "failed", "timeout", "refused")

FENCINGS: Final = ("succeeded", "failed", "timed_out", "not_run")
"""How an attempt to fence ends."""

WITNESS_ERRORS: Final = ("nonsense", "refused", "unanswered")
"""Results of requests to the witness that are no word of it."""


def hooks(status: Status) -> Iterator[Metric]:
    """What became of the operator's programs."""
    family, hooks = Family(status), status.hooks
    if not hooks:
        return
    yield from family.counters(
        "twinbeat_hook_runs",
        "Runs of hooks by how they ended.",
        ["hook", "outcome"],
        [
            ([hook.name, outcome], hook.outcomes.get(outcome, 0))
            for hook in hooks
            for outcome in HOOK_OUTCOMES
        ],
    )
    yield from family.counters(
        "twinbeat_hook_skipped",
        "News that newer ones overtook before the hook was free.",
        ["hook"],
        [([hook.name], hook.skipped) for hook in hooks],
    )
    yield from family.gauges(
        "twinbeat_hook_last_exit_code",
        "Exit code of the newest run, negative: the signal that ended it.",
        "hook",
        [(hook.name, hook.last_exit_code) for hook in hooks],
    )
    yield from family.gauges(
        "twinbeat_hook_last_duration_seconds",
        "How long the newest run took.",
        "hook",
        [
            (hook.name, None if hook.last_length_ns is None else hook.last_length_ns / 1e9)
            for hook in hooks
        ],
    )


def last_resorts(status: Status, counters: Counters) -> Iterator[Metric]:
    """Watchdog and fencing, each only where it is configured."""
    family, dog, fence = Family(status), status.watchdog, status.fence
    if dog is not None and dog.mode != "off":
        yield from family.gauge(
            "twinbeat_watchdog_armed", "1 while the host's watchdog guards it.", dog.armed
        )
        yield from family.gauge(
            "twinbeat_watchdog_timeout_seconds",
            "Without a ping for so long it resets the machine.",
            dog.timeout_s or None,
        )
        yield from family.counter(
            "twinbeat_watchdog_ping_failures",
            "Pings that the watchdog refused.",
            counters.watchdog.get("failures", 0),
        )
    if not fence.agent:
        return
    yield from family.counters(
        "twinbeat_fencings",
        "Attempts to fence the peer.",
        ["outcome"],
        [([outcome], counters.fencings.get(outcome, 0)) for outcome in FENCINGS],
    )
    yield from family.gauge(
        "twinbeat_peer_fenced", "1 from fencing the peer until it is heard again.", fence.fenced
    )
    if fence.last is not None:
        yield from family.gauge(
            "twinbeat_last_fencing_timestamp_seconds",
            "When the newest attempt to fence the peer began.",
            (fence.last.at_ns + status.realtime_offset_ns) / 1e9,
        )
        yield from family.gauge(
            "twinbeat_last_fencing_duration_seconds",
            "How long it took.",
            fence.last.duration_ns / 1e9,
        )
    if fence.check is not None:
        yield from family.gauge(
            "twinbeat_fence_ready",
            "1 while the fence agent says that it could.",
            fence.check.outcome == "succeeded",
        )


def third_parties(status: Status, counters: Counters) -> Iterator[Metric]:
    """Witness and reference addresses, each only where it is configured."""
    family, witness, isolation = Family(status), status.witness, status.isolation
    if isolation is not None:
        yield from family.gauge(
            "twinbeat_isolated",
            "1 while none of the reference addresses answers.",
            isolation.isolated,
        )
    if witness is None:
        return
    yield from family.gauge("twinbeat_witness_up", "1 while the witness answers.", witness.up)
    yield from family.gauge(
        "twinbeat_witness_absent",
        "1 while the node goes on as if there were no witness, as it is silent.",
        witness.absent,
    )
    age_ns = witness.confirmed_age_ns
    yield from family.gauge(
        "twinbeat_witness_confirmed_age_seconds",
        "Since the witness was last asked for a confirmation of the own term that it gave.",
        None if age_ns is None else age_ns / 1e9,
    )
    yield from family.counters(
        "twinbeat_witness_requests",
        "Requests to the witness.",
        ["result"],
        [([result], number) for result, number in sorted(counters.witness.items())],
    )
    yield from family.counters(
        "twinbeat_witness_errors",
        "Requests to the witness that brought no word of it.",
        ["reason"],
        [([reason], counters.witness.get(reason, 0)) for reason in WITNESS_ERRORS],
    )
