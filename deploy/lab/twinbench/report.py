# SPDX-License-Identifier: Apache-2.0
"""A bench's result for people: a table for the terminal, and deploy/docs/bench.md.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twinbench.limits import LIMITS

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


def markdown(result: Object) -> str:
    """The report: machine, versions, all figures, what limits them."""
    machine, versions = result["machine"], result["versions"]
    kind = "quick" if result["quick"] else "full"
    parts = [
        "# Figures\n",
        "Written from one run (`deploy/lab/bench`, then `deploy/lab/bench --report-from "
        "deploy/lab/out/bench.json`). Everything is measured from outside the "
        "agents: by the client's own record, by captures on the switches, and by watching both "
        "gates.\n",
        f"A {kind} run of {result['elapsed_s'] / 60:.0f} minutes on {machine['date'][:10]}: "
        f"{summary(result)}\n",
        "| | |\n|---|---|",
        f"| machine | {machine['processors']} × {machine['processor']}, {machine['memory']}, "
        f"virtualisation: {machine['virtual']} |",
        f"| kernel | {machine['kernel']}, real-time throttling {machine['rt_throttling']} |",
        *(f"| {name} | {version or 'not found'} |" for name, version in versions.items()),
        "",
        "| figure | median | max | unit | runs | bar | aim | |",
        "|---|---:|---:|---|---:|---|---|---|",
        *(_row(figure) for figure in result["figures"]),
        "",
        "*shown*: for comparison, without a bar. *too short*: fewer runs or less time than the bar "
        "asks for. A bar of a lower bound has ≥; where a bar holds for the maximum, the maximum "
        "decides.\n",
        "## What each figure is\n",
        *(_paragraph(figure) for figure in result["figures"]),
    ]
    return "\n".join(parts) + "\n"


def _row(figure: Object) -> str:
    word = verdict(figure)
    return (
        f"| `{figure['name']}` | {number(figure['median'])} | {number(figure['max'])} | "
        f"{figure['unit']} | {figure['runs']} | {bound(figure, 'bar')} | "
        f"{bound(figure, 'aim')} | {f'**{word}**' if word in ('MISSED', 'failed') else word} |"
    )


def _paragraph(figure: Object) -> str:
    lines = [f"- **{figure['name']}**: {figure['what']}."]
    if figure["error"]:
        lines.append(f"  Failed: {' '.join(figure['error'].split())[:300]}")
    if figure["name"] in LIMITS:
        lines.append(f"  Limited by {LIMITS[figure['name']]}.")
    if figure["note"]:
        lines.append(f"  {figure['note'][:1].upper()}{figure['note'][1:]}.")
    if figure["seconds"]:
        lines.append(f"  Watched for {figure['seconds']:g} s.")
    for name, value in figure["details"].items():
        if name != "samples" and value not in ({}, [], "", None):
            shown = str(value)
            lines.append(f"  {name.replace('_', ' ')}: {shown[:400]}")
    return "\n".join(lines)
