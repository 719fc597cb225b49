# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics: one collector that reads `Status` and `Counters` when it is scraped.

A scrape costs the fast path nothing. What stands is a gauge; what happens is a counter, a moment or
a histogram, as a failover is over long before the next scrape. Every metric has the label `pair`.

NetScaler users: hacurmasterstate is twinbeat_state, hacurstate is twinbeat_health and
twinbeat_peer_state, hatotpktrx and hatotpkttx are twinbeat_heartbeats_received_total and
_sent_total, haErrMasterDispute is twinbeat_dual_primary_total.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from twinbeat.api.schema import Admin, Counters, NodeState, Role, Status, Watch
from twinbeat.observe import exposition as written
from twinbeat.observe.family import Family
from twinbeat.observe.sync import shared_configuration

REJECTED: Final = (
    "length",
    "malformed",
    "version",
    "pair",
    "ttl",
    "own",
    "key",
    "auth",
    "replay",
    "stranger",
    "window",
    "link",
    "bad_link",
    "bad_cpu",
)
"""Verdicts of the kernel that refuse a heartbeat (`enum tb_reason`)."""

KERNEL_EVENTS: Final = (
    "fenced",
    "contested",
    "cleared",
    "expired",
    "adopted",
    "challenged",
    "snapshot_busy",
)
"""What the kernel programs did by themselves."""

GATE_VERDICTS: Final = {
    direction: tuple(f"{direction}_{verdict}" for verdict in verdicts)
    for direction, verdicts in {
        "in": ("open", "vmac", "vip", "arp", "nd"),
        "out": ("open", "vmac", "vip", "arp", "nd", "leak"),
    }.items()
}
"""Verdicts of the gate by direction: open lets through, the others drop. They add up."""

NEIGHBOUR_CHANGES: Final = ("learned", "given_up", "turned_away")

ROUTE_CHANGES: Final = ("added", "removed", "restored", "repaired")
ROUTE_TROUBLES: Final = ("conflict", "failed", "not_restored")
HOOK_OUTCOMES: Final = ("ok", "failed", "timeout", "refused")

FENCINGS: Final = ("succeeded", "failed", "timed_out", "not_run")
"""How an attempt to fence ends."""

RIVALS: Final = ("address", "vrrp")

PEER_STATES: Final = ("unknown", "dead", "stalled", *(role.value for role in Role))
"""What is known of the peer; while it is heard, its role."""

HISTOGRAMS: Final = {
    "send_lateness": (
        "twinbeat_heartbeat_send_lateness_seconds",
        "How late own heartbeats were handed to the driver.",
    ),
    "round_trip": (
        "twinbeat_round_trip_seconds",
        "To the peer and back, without the time a frame lay there.",
    ),
    "silence": (
        "twinbeat_silence_seconds",
        "How long the peer had been silent when it was found dead.",
    ),
    "loop_lag": (
        "twinbeat_loop_lag_seconds",
        "How late the deciding loop ran what was due.",
    ),
    "witness_request": (
        "twinbeat_witness_request_duration_seconds",
        "How long the witness took for requests that it answered.",
    ),
}
"""Name in `Counters.histograms` -> metric and help. Others have no metric."""


class TwinbeatCollector:
    """Reads the agent when it is asked, and keeps nothing."""

    def __init__(self, status: Callable[[], Status], counters: Callable[[], Counters]) -> None:
        self._status = status
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """Every family, whole, from one status and one set of counters."""
        status, counters = self._status(), self._counters()
        yield from _node(status)
        yield from _peer(status)
        yield from _links(status, counters)
        yield from _addresses(status, counters)
        yield from _monitors(status, counters)
        yield from _last_resorts(status, counters)
        yield from _third_parties(status, counters)
        yield from _routes(status, counters)
        yield from _hooks(status)
        yield from shared_configuration(status, counters)
        yield from _happenings(status, counters)
        yield from _histograms(status, counters)

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance, so that registering reads no status."""
        return []


def exposition(
    status: Callable[[], Status], counters: Callable[[], Counters]
) -> Callable[[], bytes]:
    """A function that gives the exposition text."""
    collector = TwinbeatCollector(status, counters)
    return lambda: written.text(collector.collect())


# ----------------------------------------------------------------------------------- gauges ------


def _node(status: Status) -> Iterator[Metric]:
    family, node = Family(status), status.node
    process = status.process
    yield from family.info(
        "twinbeat_build",
        "Versions.",
        {
            "version": process.version,
            "commit": process.commit,
            "python": process.python or sys.version.split()[0],
            "bpf": process.bpf,
        },
    )
    yield from family.info("twinbeat_node", "Names.", {"node": node.name, "peer": status.peer.name})
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
    yield from family.gauge("twinbeat_term", "Term served or claimed, 0 = none.", node.term)
    yield from family.gauge(
        "twinbeat_paused",
        "1 while nobody may claim, whichever node was paused.",
        status.pause is not None or status.peer.paused,
    )
    pause = status.pause
    if pause is not None and pause.until_ns is not None:
        expires = (pause.until_ns + status.realtime_offset_ns) / 1e9
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
    yield from family.gauge(
        "twinbeat_sticky_primary",
        "1 while this node stays primary whatever its health, as the role moved too often.",
        node.sticky,
    )
    yield from family.gauge(
        "twinbeat_flips", "Changes of role for the sake of health since the last reset.", node.flips
    )
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
    yield from family.gauge(
        "twinbeat_resident_memory_bytes", "Resident memory of the agent.", process.rss_bytes or None
    )


def peer_state(status: Status) -> str:
    """The one word for the peer: its role while it is heard, else why it isn't."""
    peer = status.peer
    if peer.watch in {Watch.DEAD, Watch.STALLED, Watch.UNKNOWN}:
        return peer.watch.value
    return "unknown" if peer.role is None else peer.role.value


def _peer(status: Status) -> Iterator[Metric]:
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


def _links(status: Status, counters: Counters) -> Iterator[Metric]:
    family = Family(status)
    beating = [link for link in status.links if link.heartbeat]
    yield from family.gauges(
        "twinbeat_link_up",
        "1 while the link has carrier and carries heartbeats.",
        "link",
        [(link.name, link.up) for link in beating],
    )
    yield from family.gauges(
        "twinbeat_link_silent",
        "1 while the link has been silent for seconds though the peer is heard on another.",
        "link",
        [(link.name, link.quality.alarm) for link in beating],
    )
    yield from family.gauges(
        "twinbeat_link_loss_ratio",
        "Part of the peer's heartbeats of the last ten seconds that never came on the link.",
        "link",
        [(link.name, link.quality.loss_ratio) for link in beating],
    )
    yield from family.gauges(
        "twinbeat_heartbeat_age_seconds",
        "Since the newest accepted heartbeat on the link.",
        "link",
        [(link.name, None if link.age_ns is None else link.age_ns / 1e9) for link in status.links],
    )
    yield from family.counters(
        "twinbeat_link_alarms",
        "How often a link was silent for seconds though the peer was heard on another.",
        ["link"],
        [([link.name], link.alarms) for link in counters.links],
    )
    for what, name, text in (
        ("sent", "sent", "sent"),
        ("received", "received", "accepted"),
        ("lost", "missed", "that the peer sent and this node never saw"),
    ):
        yield from family.counters(
            f"twinbeat_heartbeats_{name}",
            f"Heartbeats {text}.",
            ["link"],
            [([link.name], getattr(link, what)) for link in counters.links],
        )
    yield from family.counters(
        "twinbeat_send_errors",
        "Heartbeats that the kernel didn't take, by errno.",
        ["link", "errno"],
        [
            ([link.name, name], count)
            for link in counters.links
            for name, count in sorted(link.send_errors.items())
        ],
    )
    yield from family.counters(
        "twinbeat_control_frames",
        "Frames on ports that carry addresses, sent and failed.",
        ["result"],
        [([result], counters.control_frames.get(result, 0)) for result in ("sent", "failed")],
    )
    yield from family.counters(
        "twinbeat_heartbeats_rejected",
        "Heartbeats refused by the kernel; an empty link = where no link is.",
        ["link", "reason"],
        [
            *(
                ([link.name, reason], link.reasons.get(reason, 0))
                for link in counters.links
                for reason in REJECTED
            ),
            *((["", reason], _on_no_link(counters, reason)) for reason in REJECTED),
        ],
    )


def _on_no_link(counters: Counters, reason: str) -> int:
    counted = sum(link.reasons.get(reason, 0) for link in counters.links)
    return counters.reasons.get(reason, 0) - counted


def _addresses(status: Status, counters: Counters) -> Iterator[Metric]:
    pair = str(status.pair)
    vips = GaugeMetricFamily(
        "twinbeat_vips", "Shared addresses by what they are here.", labels=["pair", "vrid", "state"]
    )
    for vrid in status.vrids:
        for state in ("serving", "ready", "absent"):
            vips.add_metric(
                [pair, str(vrid.id), state], vrid.vips_total if vrid.state == state else 0
            )
    yield vips
    neighbours = GaugeMetricFamily(
        "twinbeat_neighbours",
        "Neighbours kept known for a takeover; those that are cold would have to be asked for.",
        labels=["pair", "interface", "state"],
    )
    for port in status.neighbours:
        neighbours.add_metric([pair, port.interface, "warm"], port.warm)
        neighbours.add_metric([pair, port.interface, "cold"], port.kept - port.warm)
    yield neighbours
    rivals = GaugeMetricFamily(
        "twinbeat_rivals",
        "Others on a port with our addresses (address) or with our VRID in VRRP (vrrp).",
        labels=["pair", "interface", "kind"],
    )
    for interface in sorted({vrid.interface for vrid in status.vrids}):
        for kind in RIVALS:
            found = [(one.interface, one.kind) for one in status.rivals]
            rivals.add_metric([pair, interface, kind], found.count((interface, kind)))
    yield rivals
    family = Family(status)
    yield from family.counters(
        "twinbeat_rival_frames",
        "Frames heard of them.",
        ["interface", "kind"],
        [([one.interface, one.kind], one.frames) for one in counters.rivals],
    )
    yield from family.counters(
        "twinbeat_neighbour_changes",
        "Neighbours learned, given up as nobody answers, turned away for lack of room.",
        ["change"],
        [([change], counters.neighbours.get(change, 0)) for change in NEIGHBOUR_CHANGES],
    )
    yield from family.counters(
        "twinbeat_announcements_sent",
        "Announcements of addresses sent.",
        ["family"],
        [([name], count) for name, count in sorted(counters.announcements.items())],
    )
    yield from family.counters(
        "twinbeat_announcements_unsent",
        "Passes cut short as the gate was shut (blocked), frames the kernel didn't take (refused).",
        ["reason"],
        [([why], counters.announcements_unsent.get(why, 0)) for why in ("blocked", "refused")],
    )
    yield from family.counters(
        "twinbeat_gate_packets",
        "Packets judged by the gate: open = let through, others dropped.",
        ["direction", "verdict"],
        [
            ([direction, name.removeprefix(f"{direction}_")], counters.reasons.get(name, 0))
            for direction, names in GATE_VERDICTS.items()
            for name in names
        ],
    )


def _routes(status: Status, counters: Counters) -> Iterator[Metric]:
    """Routes and rules that come and go with the role."""
    family, routes = Family(status), status.routes
    pair = str(status.pair)
    standing = GaugeMetricFamily(
        "twinbeat_routes",
        "Routes and rules that the role wants: standing, kept (somebody else's that does the "
        "same), missing.",
        labels=["pair", "kind", "state"],
    )
    for kind, wanted, stands, kept in (
        ("route", routes.wanted, routes.standing, routes.kept),
        ("rule", routes.rules_wanted, routes.rules_standing, routes.rules_kept),
    ):
        standing.add_metric([pair, kind, "standing"], stands)
        standing.add_metric([pair, kind, "kept"], kept)
        standing.add_metric([pair, kind, "missing"], wanted - stands - kept)
    yield standing
    yield from family.gauges(
        "twinbeat_route_problems",
        "Routes and rules that were refused, or that could not be put back.",
        "trouble",
        [(trouble, routes.troubles.get(trouble, 0)) for trouble in ROUTE_TROUBLES],
    )
    yield from family.gauge(
        "twinbeat_routes_replaced",
        "Routes of others whose place is taken until the role is given back.",
        routes.replaced,
    )
    yield from family.counters(
        "twinbeat_route_changes",
        "Changes of routes and rules; restored: of others, put back; repaired: added again.",
        ["change"],
        [([change], counters.route_changes.get(change, 0)) for change in ROUTE_CHANGES],
    )


def _hooks(status: Status) -> Iterator[Metric]:
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


def _last_resorts(status: Status, counters: Counters) -> Iterator[Metric]:
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


def _third_parties(status: Status, counters: Counters) -> Iterator[Metric]:
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


def _monitors(status: Status, counters: Counters) -> Iterator[Metric]:
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


# ------------------------------------------------------------------------------- happenings ------


def _happenings(status: Status, counters: Counters) -> Iterator[Metric]:
    family = Family(status)
    yield from family.counters(
        "twinbeat_transitions",
        "Changes of role.",
        ["from", "to", "reason"],
        [
            ([entry.from_role.value, entry.to_role.value, entry.reason], entry.count)
            for entry in counters.transitions
        ],
    )
    yield from family.counters(
        "twinbeat_claims_refused",
        "Claims refused or abandoned.",
        ["reason"],
        [([reason], count) for reason, count in sorted(counters.claims_refused.items())],
    )
    yield from family.counters(
        "twinbeat_suspicions",
        "Suspicions by how they ended.",
        ["outcome"],
        [([outcome], count) for outcome, count in sorted(counters.suspicions.items())],
    )
    yield from family.counter(
        "twinbeat_dual_primary",
        "How often another open gate was heard while this one was open.",
        counters.dual_primary,
    )
    yield from family.counters(
        "twinbeat_kernel_events",
        "What the kernel programs did by themselves.",
        ["event"],
        [([event], counters.reasons.get(event, 0)) for event in KERNEL_EVENTS],
    )
    yield from family.counters(
        "twinbeat_effect_failures",
        "Effects that the host refused.",
        ["effect"],
        [([effect], count) for effect, count in sorted(counters.effect_failures.items())],
    )
    yield from family.counter(
        "twinbeat_late_ticks", "Rounds of the engine that began late.", counters.late_ticks
    )
    yield from family.counter(
        "twinbeat_events_lost", "Events that found no room.", counters.events_lost
    )
    yield from family.counter(
        "twinbeat_log_lines_lost", "Records that the log had no room for.", counters.log_lines_lost
    )
    yield from family.counter(
        "twinbeat_peer_busy",
        "Rounds that went by the last snapshot of the peer, as the new one was being written.",
        counters.peer_busy,
    )


def _histograms(status: Status, counters: Counters) -> Iterator[Metric]:
    family = Family(status)
    yield from family.histograms(
        "twinbeat_heartbeat_interarrival_seconds",
        "Time between two heartbeats, stamped by the kernel; the sum is estimated.",
        "link",
        [(link.name, link.gaps) for link in counters.links if link.gaps is not None],
    )
    yield from family.histograms(
        "twinbeat_failover_duration_seconds",
        "Takeovers of this node by phase; total is from the last heartbeat to the announcement.",
        "phase",
        sorted(counters.phases.items()),
    )
    for key, (name, text) in HISTOGRAMS.items():
        histogram = counters.histograms.get(key)
        if histogram is not None:
            yield from family.histograms(name, text, "", [("", histogram)])


METRIC_NAMES: Final = frozenset(
    {
        "twinbeat_admin",
        "twinbeat_announcements_sent_total",
        "twinbeat_announcements_unsent_total",
        "twinbeat_build_info",
        "twinbeat_claims_refused_total",
        "twinbeat_config_generation",
        "twinbeat_config_mismatch",
        "twinbeat_control_frames_total",
        "twinbeat_dual_primary_total",
        "twinbeat_effect_failures_total",
        "twinbeat_events_lost_total",
        "twinbeat_failover_duration_seconds",
        "twinbeat_fence_ready",
        "twinbeat_fencings_total",
        "twinbeat_fit",
        "twinbeat_flips",
        "twinbeat_gate_open",
        "twinbeat_gate_packets_total",
        "twinbeat_health",
        "twinbeat_health_relapses",
        "twinbeat_heartbeat_age_seconds",
        "twinbeat_heartbeat_interarrival_seconds",
        "twinbeat_heartbeat_send_lateness_seconds",
        "twinbeat_heartbeats_missed_total",
        "twinbeat_heartbeats_received_total",
        "twinbeat_heartbeats_rejected_total",
        "twinbeat_heartbeats_sent_total",
        "twinbeat_hook_last_duration_seconds",
        "twinbeat_hook_last_exit_code",
        "twinbeat_hook_runs_total",
        "twinbeat_hook_skipped_total",
        "twinbeat_isolated",
        "twinbeat_kernel_events_total",
        "twinbeat_last_fencing_duration_seconds",
        "twinbeat_last_fencing_timestamp_seconds",
        "twinbeat_last_transition_timestamp_seconds",
        "twinbeat_late_ticks_total",
        "twinbeat_link_alarms_total",
        "twinbeat_link_loss_ratio",
        "twinbeat_link_silent",
        "twinbeat_link_up",
        "twinbeat_log_lines_lost_total",
        "twinbeat_loop_lag_seconds",
        "twinbeat_monitor_failures_total",
        "twinbeat_monitor_timeouts_total",
        "twinbeat_monitor_up",
        "twinbeat_neighbour_changes_total",
        "twinbeat_neighbours",
        "twinbeat_node_info",
        "twinbeat_node_state",
        "twinbeat_pause_expires_timestamp_seconds",
        "twinbeat_paused",
        "twinbeat_peer_busy_total",
        "twinbeat_peer_fenced",
        "twinbeat_peer_fit",
        "twinbeat_peer_state",
        "twinbeat_primary",
        "twinbeat_resident_memory_bytes",
        "twinbeat_rival_frames_total",
        "twinbeat_rivals",
        "twinbeat_round_trip_seconds",
        "twinbeat_route_changes_total",
        "twinbeat_route_problems",
        "twinbeat_routes",
        "twinbeat_routes_replaced",
        "twinbeat_send_errors_total",
        "twinbeat_silence_seconds",
        "twinbeat_state",
        "twinbeat_stay_primary_conflict",
        "twinbeat_sticky_primary",
        "twinbeat_suspicions_total",
        "twinbeat_sync_certificate_expires_timestamp_seconds",
        "twinbeat_sync_connection_total",
        "twinbeat_sync_errors_total",
        "twinbeat_sync_failures",
        "twinbeat_sync_in_step",
        "twinbeat_sync_requests_total",
        "twinbeat_sync_state",
        "twinbeat_sync_waiting",
        "twinbeat_term",
        "twinbeat_timer_kept_seconds",
        "twinbeat_timer_seconds",
        "twinbeat_timers_override",
        "twinbeat_timers_refused",
        "twinbeat_transitions_total",
        "twinbeat_vips",
        "twinbeat_watchdog_armed",
        "twinbeat_watchdog_ping_failures_total",
        "twinbeat_watchdog_timeout_seconds",
        "twinbeat_witness_absent",
        "twinbeat_witness_confirmed_age_seconds",
        "twinbeat_witness_request_duration_seconds",
        "twinbeat_witness_requests_total",
        "twinbeat_witness_up",
        "twinbeat_worker_events_total",
        "twinbeat_worker_up",
    }
)
"""Every name that can be exposed, for dashboards, alert rules and their test. Histograms appear by
their base name; their series end in _bucket, _sum and _count."""
