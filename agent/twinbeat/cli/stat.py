# SPDX-License-Identifier: Apache-2.0
"""`twinbeat stat`: counters once, or rates like vmstat."""

import time
from collections.abc import Iterator
from typing import Final

import click
import msgspec

from twinbeat.api.schema import REFUSED, Counters, Histogram, Status
from twinbeat.api.text import age, length
from twinbeat.cli.base import Seconds, read, remote, say, say_json, settings
from twinbeat.cli.flips import flips

_QUANTILES: Final = (0.5, 0.99, 1.0)
_TRAFFIC: Final = ("sent", "received")
_HEADER_EVERY: Final = 20
_DROPPED_IN: Final = ("in_vmac", "in_vip", "in_arp", "in_nd")
_DROPPED_OUT: Final = ("out_vmac", "out_vip", "out_arp", "out_nd", "out_leak")


@click.command()
@click.option("--watch", "-w", type=Seconds(0.1, 3600), metavar="SECONDS", help="Rates, repeated.")
@click.option("--count", "-c", type=click.IntRange(1), help="So many times with --watch.")
@remote
def stat(watch: float | None, count: int | None) -> None:
    """Counters since the agent began; with --watch what they grew by, per second."""
    body = read("/v1/counters")
    if watch is None:
        if settings().json:
            say_json(body)
            return
        status = msgspec.json.decode(read("/v1/status"), type=Status)
        for line in (
            *_standing(status),
            *_table(msgspec.json.decode(body, type=Counters)),
        ):
            say(line)
        return
    before = msgspec.json.decode(body, type=Counters)
    shown = 0
    while count is None or shown < count:
        time.sleep(watch)
        body = read("/v1/counters")
        now = msgspec.json.decode(body, type=Counters)
        if settings().json:
            say_json(body)
        else:
            if shown % _HEADER_EVERY == 0:
                say("".join(f"{name:>10}" for name, _ in _rates(before, now)))
            say("".join(f"{value:>10}" for _, value in _rates(before, now)))
        before = now
        shown += 1


def _rates(before: Counters, now: Counters) -> Iterator[tuple[str, str]]:
    seconds = max(now.now_ns - before.now_ns, 1) / 1e9

    def reasons(counters: Counters, names: tuple[str, ...]) -> int:
        return sum(counters.reasons.get(name, 0) for name in names)

    sums = [
        {
            "sent/s": sum(link.sent for link in counters.links),
            "heard/s": sum(link.received for link in counters.links),
            "refused/s": reasons(counters, REFUSED),
            "suspect/s": sum(counters.suspicions.values()),
            "late/s": counters.late_ticks,
            "in/s": reasons(counters, ("in_open",)),
            "indrop/s": reasons(counters, _DROPPED_IN),
            "out/s": reasons(counters, ("out_open",)),
            "outdrop/s": reasons(counters, _DROPPED_OUT),
        }
        for counters in (before, now)
    ]
    for name, value in sums[1].items():
        yield name, f"{(value - sums[0][name]) / seconds:.0f}"


def _standing(status: Status) -> Iterator[str]:
    """What the figures are of: state, role, and the last change of it."""
    node = status.node
    yield (
        f"{node.name}: {node.role.value}, state {node.state.value.upper()}, {node.admin.value}, "
        f"for {age(status.now_ns - node.role_since_ns)}"
    )
    last = status.last_transition
    if last is not None:
        yield (
            f"last transition #{last.number}, {last.time}: {last.from_role.value} -> "
            f"{last.to_role.value}, {last.sentence} ({last.reason})"
        )
    yield from flips(node, status.now_ns)


def _table(counters: Counters) -> Iterator[str]:
    sent, received = (sum(getattr(link, what) for link in counters.links) for what in _TRAFFIC)
    yield f"heartbeats on all links: sent {sent}, received {received}"
    for link in counters.links:
        refused = {name: link.reasons[name] for name in REFUSED if link.reasons.get(name)}
        unsent = {f"unsent {name}": count for name, count in link.send_errors.items()}
        lost = {"lost": link.lost, "alarms": link.alarms}
        counted = {name: count for name, count in lost.items() if count} | refused | unsent
        words = "".join(f", {name} {count}" for name, count in counted.items())
        yield f"link {link.name}: sent {link.sent}, received {link.received}{words}"
        if link.gaps is not None:
            yield f"  between two heartbeats: {_quantiles(link.gaps)}"
    for name, histogram in counters.histograms.items():
        yield f"{name.replace('_', ' ')}: {_quantiles(histogram)}"
    for name, histogram in counters.phases.items():
        yield f"takeover, {name}: {_quantiles(histogram)}"
    for name, histogram in counters.sync_phases.items():
        yield f"change of the configuration, {name}: {_quantiles(histogram)}"
    for title, values in (
        ("kernel verdicts", counters.reasons),
        ("suspicions", counters.suspicions),
        ("announcements", counters.announcements),
        ("announcements not sent", counters.announcements_unsent),
        ("control frames", counters.control_frames),
        ("neighbours", counters.neighbours),
        ("claims refused", counters.claims_refused),
        ("effects failed", counters.effect_failures),
        ("routes of the role", counters.route_changes),
        ("requests to the witness", counters.witness),
        ("attempts to fence", counters.fencings),
        ("watchdog", counters.watchdog),
        (
            "frames of rivals",
            {f"{one.kind} {one.interface}": one.frames for one in counters.rivals},
        ),
        ("requests to change the configuration", counters.sync_requests),
        ("connection of the workers", counters.sync_connection),
        ("refused to the worker", counters.sync_failures),
        ("files kept alike", counters.sync_files),
        ("log records", counters.weblog),
        ("persistence", counters.sessions.counts if counters.sessions is not None else {}),
        ("worker", counters.worker),
    ):
        counted = {name: value for name, value in values.items() if value}
        if counted:
            yield f"{title}: " + ", ".join(f"{name} {value}" for name, value in counted.items())
    for monitor in counters.monitors:
        looks = f" of {monitor.looks} looks" if monitor.looks else ""
        late = f", {monitor.timeouts} of these by timeout" if monitor.timeouts else ""
        if monitor.failures:
            yield f"monitor {monitor.name}: failed {monitor.failures}{looks}{late}"
    for entry in counters.transitions:
        roles = f"{entry.from_role.value} -> {entry.to_role.value}"
        yield f"transitions {roles}, {entry.reason}: {entry.count}"
    yield (
        f"dual primary {counters.dual_primary}, late ticks {counters.late_ticks}, "
        f"events lost {counters.events_lost}, held {counters.events_held}, "
        f"log lines lost {counters.log_lines_lost}, peer busy {counters.peer_busy}"
    )


def _quantiles(histogram: Histogram) -> str:
    """Upper bounds, as the buckets are powers of two."""
    total = sum(histogram.counts)
    if not total:
        return "nothing yet"
    parts = []
    for quantile in _QUANTILES:
        seen = 0
        for number, count in enumerate(histogram.counts):
            seen += count
            if seen >= quantile * total:
                name = "all" if quantile == 1 else f"{quantile:.0%}"
                parts.append(f"{name} below {length(2**number * 1000)}")
                break
    return f"{', '.join(parts)} ({total})"
