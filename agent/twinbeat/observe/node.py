# SPDX-License-Identifier: Apache-2.0
"""Metrics of this node, of its peer, and of what the node's health is made of."""

import sys
from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from twinbeat.api.schema import Admin, Counters, FlipsReset, NodeState, Role, Status, Watch
from twinbeat.observe.family import Family

PEER_STATES: Final = ("unknown", "dead", "stalled", *(role.value for role in Role))
"""What is known of the peer; while it is heard, its role."""


def node(status: Status) -> Iterator[Metric]:
    """Its role, what it waits for, its timers, the agent's process."""
    family = Family(status)
    for part in (_process, _standing, _pause, _timers, _flips):
        yield from part(family, status)


def _process(family: Family, status: Status) -> Iterator[Metric]:
    yield from family.info(
        "twinbeat_build",
        "Versions.",
        {
            "version": status.process.version,
            "commit": status.process.commit,
            "python": status.process.python or sys.version.split()[0],
            "bpf": status.process.bpf,
        },
    )
    yield from family.info(
        "twinbeat_node", "Names.", {"node": status.node.name, "peer": status.peer.name}
    )
    yield from family.gauge(
        "twinbeat_resident_memory_bytes",
        "Resident memory of the agent.",
        status.process.rss_bytes or None,
    )


def _standing(family: Family, status: Status) -> Iterator[Metric]:
    node = status.node
    yield from family.states(
        "twinbeat_state", "Role of this node.", [role.value for role in Role], node.role.value
    )
    yield from family.states(
        "twinbeat_admin",
        "What the operator wants of this node.",
        [admin.value for admin in Admin],
        node.admin.value,
    )
    serving = node.role is Role.PRIMARY and status.gate.open
    yield from family.gauge(
        "twinbeat_primary", "1 while this node serves: primary, its gate open.", serving
    )
    yield from family.gauge("twinbeat_gate_open", "1 while the gate is open.", status.gate.open)
    yield from family.gauge("twinbeat_fit", "1 while this node could serve.", node.fit)
    yield from family.gauges(
        "twinbeat_health",
        "1 per tracked check that holds.",
        "component",
        [(component.name, component.healthy) for component in node.components],
    )
    yield from family.gauge(
        "twinbeat_health_score",
        "What counts of 1000 points; who has fewer yields to who has more.",
        node.health,
    )
    yield from family.gauge("twinbeat_term", "Term served or claimed, 0 = none.", node.term)
    yield from family.gauge(
        "twinbeat_health_relapses", "Failures that lengthen the wait for recovery.", node.relapses
    )
    yield from family.gauge(
        "twinbeat_stay_primary_conflict",
        "1 while both nodes are told to stay primary.",
        bool(node.conflict),
    )
    yield from family.gauge(
        "twinbeat_config_mismatch",
        "1 while the peer's shared configuration differs.",
        status.configuration.mismatch,
    )


def _pause(family: Family, status: Status) -> Iterator[Metric]:
    yield from family.gauge(
        "twinbeat_paused",
        "1 while nobody may claim, whichever node was paused.",
        status.pause is not None or status.peer.paused,
    )
    pause, ends_ns = status.pause, [status.peer.paused_until_ns]
    if pause is not None:
        ends_ns.append(pause.until_ns)
    known_ns = [each for each in ends_ns if each is not None]
    if known_ns:
        expires = (max(known_ns) + status.realtime_offset_ns) / 1e9
        yield from family.gauge(
            "twinbeat_pause_expires_timestamp_seconds", "When the pause ends by itself.", expires
        )
    last = status.last_transition
    if last is not None:
        yield from family.gauge(
            "twinbeat_last_transition_timestamp_seconds",
            "When the role changed last.",
            (last.at_ns + last.realtime_offset_ns) / 1e9,
        )


def _timers(family: Family, status: Status) -> Iterator[Metric]:
    timers = status.timers
    yield from family.gauges(
        "twinbeat_timer_seconds",
        "Timers in force.",
        "timer",
        [
            ("hello", timers.hello_us / 1e6),
            ("dead", timers.dead_us / 1e6),
            ("verify", timers.verify_us / 1e6),
            ("stall", timers.stall_us / 1e6),
            ("lease", timers.lease_us / 1e6),
            ("attest", timers.attest_ms / 1e3),
            ("boot_wait", timers.boot_wait_ms / 1e3),
        ],
    )
    yield from family.gauges(
        "twinbeat_timer_kept_seconds",
        "Intervals kept at this moment, while the nodes approach others.",
        "timer",
        [
            ("hello", None if timers.kept_hello_us is None else timers.kept_hello_us / 1e6),
            ("dead", None if timers.kept_dead_us is None else timers.kept_dead_us / 1e6),
        ],
    )
    yield from family.gauge(
        "twinbeat_timers_override",
        "1 while an operator's intervals are in force instead of the configuration's.",
        timers.override is not None,
    )
    yield from family.gauge(
        "twinbeat_timers_refused",
        "1 while the peer doesn't keep the intervals that were set here.",
        timers.refused is not None,
    )


def _flips(family: Family, status: Status) -> Iterator[Metric]:
    node = status.node
    yield from family.gauge(
        "twinbeat_sticky_primary",
        "1 while this node stays primary whatever its health, as the role moved too often.",
        node.sticky,
    )
    yield from family.gauge(
        "twinbeat_flips", "Changes of role for the sake of health since the last reset.", node.flips
    )
    wall_ns = status.realtime_offset_ns
    if node.flips_since_ns is not None:
        yield from family.gauge(
            "twinbeat_flips_since_timestamp_seconds",
            "When the first of the changes of role that are counted was.",
            (node.flips_since_ns + wall_ns) / 1e9,
        )
    if node.flips_window_left_ns is not None:
        yield from family.gauge(
            "twinbeat_flip_window_ends_timestamp_seconds",
            "When the first of the changes of role that are counted counts no more.",
            (status.now_ns + node.flips_window_left_ns + wall_ns) / 1e9,
        )
    yield from family.gauge(
        "twinbeat_flips_end_with_next_failure",
        "1 while every check of both nodes has held since the last change of role that is counted: "
        "the next failure begins a new count.",
        node.flips_reset is FlipsReset.NEXT_FAILURE,
    )


def peer_state(status: Status) -> str:
    """The one word for the peer: its role while it is heard, else why it isn't."""
    peer = status.peer
    if peer.watch in {Watch.DEAD, Watch.STALLED, Watch.UNKNOWN}:
        return peer.watch.value
    return "unknown" if peer.role is None else peer.role.value


def peer(status: Status) -> Iterator[Metric]:
    """What is known of the other node."""
    family = Family(status)
    yield from family.states(
        "twinbeat_peer_state",
        "What is known of the peer; while it is heard, its role.",
        PEER_STATES,
        peer_state(status),
    )
    yield from family.gauge(
        "twinbeat_peer_fit",
        "1 while the peer is heard and says it could serve.",
        status.peer.watch is Watch.ALIVE and status.peer.fit,
    )
    heard = status.peer.watch is Watch.ALIVE
    yield from family.gauge(
        "twinbeat_peer_health_score",
        "The peer's points of 1000, while it is heard.",
        status.peer.health if heard else None,
    )


def monitors(status: Status, counters: Counters) -> Iterator[Metric]:
    """What the node's health is made of."""
    family = Family(status)
    pair = str(status.pair)
    yield from family.states(
        "twinbeat_node_state",
        "What this node is fit for.",
        [state.value for state in NodeState],
        status.node.state.value,
    )
    up = GaugeMetricFamily(
        "twinbeat_monitor_up",
        "0 while a monitor or a link set has failed; idle ones are left out.",
        labels=["pair", "monitor", "kind"],
    )
    for monitor in status.monitors:
        if monitor.state != "idle":
            up.add_metric([pair, monitor.name, monitor.kind], monitor.state != "failed")
    yield up
    for what, text in (
        ("failures", "Looks of a monitor that found a failure, whatever came of it."),
        ("timeouts", "Looks of a monitor that got no answer in time, or found a script hanging."),
    ):
        yield from family.counters(
            f"twinbeat_monitor_{what}",
            text,
            ["monitor", "kind"],
            [([one.name, one.kind], getattr(one, what)) for one in counters.monitors],
        )
