# SPDX-License-Identifier: Apache-2.0
"""Metrics of links, addresses and routes: what travels, what is served, and what is refused."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from twinbeat.api.schema import REFUSED, Counters, Status
from twinbeat.observe.family import Family

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

RIVALS: Final = ("address", "vrrp")


def links(status: Status, counters: Counters) -> Iterator[Metric]:
    """Heartbeats, link by link."""
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
                for reason in REFUSED
            ),
            *((["", reason], _on_no_link(counters, reason)) for reason in REFUSED),
        ],
    )


def _on_no_link(counters: Counters, reason: str) -> int:
    counted = sum(link.reasons.get(reason, 0) for link in counters.links)
    return counters.reasons.get(reason, 0) - counted


def addresses(status: Status, counters: Counters) -> Iterator[Metric]:
    """Shared addresses: their state, neighbours and rivals, and what the gate let through."""
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


def routes(status: Status, counters: Counters) -> Iterator[Metric]:
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
