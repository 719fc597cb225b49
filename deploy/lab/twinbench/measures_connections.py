# SPDX-License-Identifier: Apache-2.0
"""Connections through the gateways, translated, over silent deaths of the primary: a download and a
conversation that were there before, and are to be there afterwards."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import Any, Final

from twinlab import lasting, plan, services
from twinlab.shell import wait_for

from twinbench import figures, ground
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure

SIZE: Final = 2 << 20
"""Bytes of a download: almost three seconds, in whose first one the primary dies."""
KNOWN_S: Final = 5.0


def connections(effort: Effort, budget: Budget) -> list[Figure]:
    """One death after the other: who comes back is the secondary of the next one."""
    wanted = ground.options("balanced")
    wanted = replace(wanted, settings=(*wanted.settings, lasting.ENABLED))
    expected = hashlib.sha256(services.download()[:SIZE]).hexdigest()
    broken: dict[str, list[str]] = {"download": [], "conversation": []}
    pauses: list[float] = []
    fills: list[float] = []
    runs = 0
    for number in budget.runs(effort.connections, "deaths"):
        with budget.attempt(f"run {number + 1}"):
            primary = ground.twinbeat(wanted)
            lasting.wait_synced()
            told, fetched = _death(primary)
            runs += 1
            if told["error"]:
                broken["conversation"].append(f"run {number + 1}: {told['error']}")
            if fetched["error"] or fetched["sha256"] != expected:
                why = fetched["error"] or "other bytes came than were sent"
                broken["download"].append(f"run {number + 1}: {why}")
            pauses.append(told["longest_ns"] / 1e6)
            lasting.heal(primary)
            fills.append((lasting.kept(primary).get("filled_ns") or 0) / 1e9)
            ground.say(f"  {told['error'] or fetched['error'] or f'{pauses[-1]:.0f} ms'}")
        ground.mend()
    return [
        *(
            figures.measured(
                f"connections_{what}",
                [float(len(reasons))] * runs,
                note=f"{runs - len(reasons)} of {runs} outlasted it",
                details={"broken": reasons},
            )
            for what, reasons in broken.items()
        ),
        figures.measured("connections_pause", pauses),
        figures.measured("connections_fill", fills),
    ]


def _death(primary: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both connections say at their end."""
    survivor = plan.peer(primary)
    with lasting.talking() as conversation, lasting.downloading(SIZE) as download:
        for each in (conversation, download):
            wait_for(partial(each.known, survivor), f"{survivor} knows it", timeout_s=KNOWN_S)
        before_ns, _ = ground.cut_silently(primary)
        ground.takeover_after(survivor, before_ns)
        fetched = download.end(stop=False)
        return conversation.end(stop=True), fetched
