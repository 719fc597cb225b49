# SPDX-License-Identifier: Apache-2.0
"""A bench's result for people: a table for the terminal, and deploy/docs/bench.md.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twinbench import limits
from twinbench.samples import quantile

Object = dict[str, Any]


def number(value: float | None) -> str:
    """Three significant digits at least, no more decimals than help."""
    if value is None:
        return "-"
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def verdict(figure: Object) -> str:
    """One word: does the bar hold?"""
    if figure["error"]:
        return "failed"
    if figure["bar"] is None:
        return "shown"
    if figure["holds"] is None:
        return "too short"
    if not figure["holds"]:
        return "MISSED"
    return "aim" if figure["reaches_aim"] else "holds"


def bound(figure: Object, which: str) -> str:
    """A bar or an aim, with its direction."""
    value = figure[which]
    if value is None:
        return "-"
    sign = "≥" if figure["at_least"] else "≤"
    return f"{sign} {number(value)}" if value or figure["at_least"] else number(value)


def table(figures: Sequence[Object]) -> str:
    """The figures as aligned lines."""
    rows = [("figure", "median", "max", "unit", "runs", "bar", "aim", "")]
    rows += [
        (
            figure["name"],
            number(figure["median"]),
            number(figure["max"]),
            figure["unit"],
            str(figure["runs"]),
            bound(figure, "bar"),
            bound(figure, "aim"),
            verdict(figure),
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 0 < column < 3 or column == 4 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def summary(result: Object) -> str:
    """The counts a reader wants first."""
    words = [verdict(figure) for figure in result["figures"]]
    judged = sum(words.count(word) for word in ("aim", "holds", "MISSED"))
    held = words.count("aim") + words.count("holds")
    text = f"{held} of {judged} bars hold, {words.count('aim')} of them reach the aim"
    if words.count("too short"):
        text += f"; {words.count('too short')} were measured too briefly to be judged"
    if words.count("failed"):
        text += f"; {words.count('failed')} could not be measured"
    return text + "."


METHOD = """## How it was measured

Everything is seen from outside the agents. An outage is what the client's own record shows: from
the arrival of the last answer before the first lost probe to that of the first answer to a probe
sent after it, both by the kernel's stamps. Overlaps are counted in captures on the switches, and
both nodes' gates are watched in the kernel's maps. What the agents say of themselves is used only
where a figure asks for it: the moment of a verdict, the reason of a step down.

A silent death is one store into a word that all switch ports of a node share: from then on nothing
leaves the node and nothing reaches it, and no carrier falls. Twinbeat and keepalived take turns,
run by run, on the same namespaces, cables and servers. Before each group of figures a bare
real-time thread says how late this machine wakes anybody, and what that costs; nothing of it is
ever subtracted. Each group has a share of the time: when that is spent, its figures appear with
the runs made, and a bar that asks for more is not judged.

No witness is configured. With one ([witness.md](witness.md)) a silent death costs the witness'
lease (`witness.lease_ms`, 500 ms unless set) and what etcd's answer takes, instead of a
millisecond; what opens by the peer's receipt, as every planned change of roles does, is as fast as
here.
"""

BARS = " ▁▂▃▄▅▆▇█"
BUCKETS = 16


def histogram(values: Sequence[float]) -> str:
    """The values' distribution between their extremes, in a line of bars; empty of too few."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if len(values) < 3 or low == high:
        return ""
    counts = [0] * BUCKETS
    for value in values:
        counts[min(BUCKETS - 1, int((value - low) / (high - low) * BUCKETS))] += 1
    highest = max(counts)
    return "".join(BARS[-(-count * (len(BARS) - 1) // highest)] for count in counts)


def markdown(result: Object) -> str:
    """The report: machine, versions, method, all figures, what is beside them, what limits them."""
    machine, versions = result["machine"], result["versions"]
    kind = "quick" if result["quick"] else "full"
    parts = [
        "# Figures\n",
        "Written from one run (`deploy/lab/bench`, then `deploy/lab/bench --report-from "
        "deploy/lab/out/bench.json`).\n",
        f"A {kind} run of {result['elapsed_s'] / 60:.0f} minutes on {machine['date'][:10]}: "
        f"{summary(result)}\n",
        METHOD,
        "Set beyond the profiles: "
        + (", ".join(f"`{setting}`" for setting in result["settings"]) or "nothing")
        + ". The profiles' timers are never raised to suit the host, as an agent would do by "
        "itself: their figures are about them.\n",
        "| | |\n|---|---|",
        f"| machine | {machine['processors']} × {machine['processor']}, {machine['memory']}, "
        f"virtualisation: {machine['virtual']} |",
        f"| kernel | {machine['kernel']}, real-time throttling {machine['rt_throttling']} |",
        *(f"| {name} | {version or 'not found'} |" for name, version in versions.items()),
        "",
        "## All figures\n",
        "| figure | median | max | unit | runs | bar | aim | holds |",
        "|---|---:|---:|---|---:|---|---|---|",
        *(_row(figure) for figure in result["figures"]),
        "",
        "*shown*: for comparison, without a bar. *too short*: fewer runs or less time than the bar "
        "asks for. A bar of a lower bound has ≥; where a bar holds for the maximum, the maximum "
        "decides.\n",
        *_distributions(result["figures"]),
        "## What each figure is, and what limits it\n",
        *(text for group in _grouped(result) for text in _section(*group)),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _row(figure: Object) -> str:
    word = verdict(figure)
    return (
        f"| `{figure['name']}` | {number(figure['median'])} | {number(figure['max'])} | "
        f"{figure['unit']} | {figure['runs']} | {bound(figure, 'bar')} | "
        f"{bound(figure, 'aim')} | {f'**{word}**' if word in ('MISSED', 'failed') else word} |"
    )


def _distributions(figures: Sequence[Object]) -> list[str]:
    """The figures that are times of an outage or of a part of one, as distributions."""
    rows = [
        f"| `{figure['name']}` | {figure['unit']} | "
        + " | ".join(number(value) for value in _tails(figure))
        + f" | {number(min(figure['values']))} | {number(max(figure['values']))} | "
        f"`{histogram(figure['values'])}` |"
        for figure in figures
        if figure["unit"] in ("ms", "us") and figure["runs"] > 2 and figure["group"]
    ]
    if not rows:
        return []
    head = "| figure | unit | p50 | p90 | p99 | least | most | from least to most |"
    return ["## How they spread\n", head, "|---|---|---:|---:|---:|---:|---:|---|", *rows, ""]


def _tails(figure: Object) -> list[float | None]:
    return [figure["median"], *(quantile(figure["values"], share) for share in (0.9, 0.99))]


def _grouped(result: Object) -> list[tuple[Object, list[Object]]]:
    """The groups with their figures; what belongs to none comes last."""
    about = [*result.get("groups", ()), {"name": ""}]
    found = [
        (group, [figure for figure in result["figures"] if figure["group"] == group["name"]])
        for group in about
    ]
    return [(group, figures) for group, figures in found if figures]


def _section(group: Object, figures: Sequence[Object]) -> list[str]:
    """One group: its figures, and those only shown beside them."""
    lines = [f"### {group['name'].replace('_', ' ') or 'the machine'}\n"]
    then = limits.machine(group)
    if then:
        lines.append(f"The machine: {_sentences(then)}\n")
    if group.get("cut_short"):
        lines.append(f"Its time was spent after {'; '.join(group['cut_short'])}.\n")
    if group.get("problems"):
        lines.append("Runs that failed: " + "; ".join(map(_one_line, group["problems"])) + ".\n")
    lines += [_paragraph(figure, then) for figure in figures if figure["bar"] is not None]
    beside = [figure for figure in figures if figure["bar"] is None]
    if beside and len(beside) < len(figures):
        lines.append("\nBeside them:\n")
    lines += [_paragraph(figure, then) for figure in beside]
    return [*lines, ""]


def _paragraph(figure: Object, said: Sequence[str]) -> str:
    """One figure; what was said of the machine already isn't repeated."""
    reached = f"{number(figure['median'])} {figure['unit']} (at most {number(figure['max'])})"
    lines = [f"- **{figure['name']}**: {figure['what']}: {reached if figure['runs'] else '-'}."]
    if figure["error"]:
        lines.append(f"  Failed: {_one_line(figure['error'])}")
    if figure["note"]:
        lines.append(f"  {figure['note'][:1].upper()}{figure['note'][1:]}.")
    if figure["seconds"]:
        lines.append(f"  Watched for {figure['seconds']:g} s.")
    own = [sentence for sentence in figure["limited_by"] if sentence not in said]
    if own:
        lines.append(f"  What limits it here: {_sentences(own)}")
    return "\n".join(lines)


def _sentences(texts: Sequence[str]) -> str:
    return " ".join(f"{text[:1].upper()}{text[1:]}." for text in texts)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
