# SPDX-License-Identifier: Apache-2.0
"""The probes' fate as a picture: every probe a dot, every lost one a red stroke."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from twinlab.probe import Record
from twinlab.timeline import Moment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANSWERED, LOST, OVERVIEW = "#2a6f97", "#c1121f", "#555555"
COLOURS = {
    "event": "#000000",
    "suspect_ns": "#e09f3e",
    "verdict_ns": "#9e2a2b",
    "gate_ns": "#386641",
    "announced_ns": "#6a4c93",
}
LABELS = {
    "event": "the event",
    "suspect_ns": "suspicion",
    "verdict_ns": "verdict",
    "gate_ns": "gate open",
    "announced_ns": "announced",
}
MARGIN_MS = 1.0
FAR_NS = 50_000_000
"""What lies further from the event than this is no part of its picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One failover to show."""

    title: str
    zero_ns: int
    moments: Sequence[Moment]


def draw(path: Path, record: Record, acts: Sequence[Act]) -> None:
    """Write the plot: the whole run above, each failover enlarged below."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(14, 3.2 + 3.2 * len(acts)), layout="constrained")
    axes = figure.subplots(len(acts) + 1, 1)
    _overview(axes[0], record, acts)
    for axis, act in zip(axes[1:], acts, strict=True):
        _enlarged(axis, record, act)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _points(
    record: Record, from_ns: int, to_ns: int, zero_ns: int, unit_ns: float, step: int = 1
) -> tuple[list[float], list[float], list[float]]:
    """Send times and round trips (µs) of the answered, and send times of the lost, in a window."""
    sent_at: list[float] = []
    trips: list[float] = []
    lost: list[float] = []
    for number in range(record.judged()):
        sent, answered = record.sent_ns[number], record.answered_ns[number]
        if not from_ns <= sent <= to_ns:
            continue
        if not answered:
            lost.append((sent - zero_ns) / unit_ns)
        elif number % step == 0:
            sent_at.append((sent - zero_ns) / unit_ns)
            trips.append((answered - sent) / 1000)
    return sent_at, trips, lost


def _overview(axis: Axes, record: Record, acts: Sequence[Act]) -> None:
    """The whole run; of the answered probes one in a few, of the lost every one."""
    begin, end = record.sent_ns[0], record.sent_ns[-1]
    step = max(1, len(record.sent_ns) // 20_000)
    sent_at, trips, lost = _points(record, begin, end, begin, 1e9, step)
    axis.plot(sent_at, trips, ".", markersize=1, color=ANSWERED)
    axis.set_yscale("log")
    axis.plot(lost, [20] * len(lost), "|", markersize=12, color=LOST)
    for act in acts:
        axis.axvline((act.zero_ns - begin) / 1e9, color=OVERVIEW, linewidth=0.8)
        axis.annotate(
            f" {act.title}",
            ((act.zero_ns - begin) / 1e9, 0.97),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        )
    axis.set_ylabel("round trip, µs")
    axis.set_xlabel("seconds since the first probe")
    total = len(record.sent_ns)
    axis.set_title(
        f"{total:,} probes through the shared address, one every "
        f"{record.interval_ns / 1000:,.0f} µs; {record.lost():,} lost (red)",
        loc="left",
    )


def _enlarged(axis: Axes, record: Record, act: Act) -> None:
    """A few milliseconds around one failover."""
    stamps = [
        moment.at_ns
        for moment in act.moments
        if moment.key != "last_heard_ns" and abs(moment.at_ns - act.zero_ns) < FAR_NS
    ]
    width = max(stamps) - min(stamps)
    margin = int(max(MARGIN_MS * 1e6, width * 0.25))
    begin, end = min(stamps) - margin, max(stamps) + margin
    sent_at, trips, lost = _points(record, begin, end, act.zero_ns, 1e6)
    axis.plot(sent_at, trips, ".", markersize=5, color=ANSWERED, label="answered")
    axis.plot(lost, [0] * len(lost), "|", markersize=16, color=LOST, label="lost")
    for moment in act.moments:
        if moment.key in COLOURS and abs(moment.at_ns - act.zero_ns) < FAR_NS:
            axis.axvline(
                (moment.at_ns - act.zero_ns) / 1e6,
                color=COLOURS[moment.key],
                linewidth=1.2,
                label=LABELS[moment.key],
            )
    axis.set_xlim((begin - act.zero_ns) / 1e6, (end - act.zero_ns) / 1e6)
    axis.set_ylim(bottom=-max(trips, default=100) * 0.08)
    axis.set_xlabel("milliseconds since the event (by the time a probe was sent)")
    axis.set_ylabel("round trip, µs")
    axis.set_title(act.title, loc="left")
    axis.legend(loc="upper right", fontsize=8, ncols=3)
