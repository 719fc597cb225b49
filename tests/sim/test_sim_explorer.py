# SPDX-License-Identifier: Apache-2.0
"""Everything that a budget of faults can lead to is tried, and all of it is safe."""

from __future__ import annotations

import faulthandler
import time

import pytest

from sim import explorer
from sim.explorer import Budget
from sim.node import SimNode

WITHIN_S = 240
"""Ten times what one takes where nothing else runs; a search not over by then isn't complete."""

BUDGETS = (
    Budget(cuts=1, pauses=1, reboots=0),
    Budget(cuts=1, pauses=0, reboots=1),
    Budget(cuts=0, pauses=1, reboots=1),
)
"""Two of the three, in any order. All three take half an hour: `python -m sim.explorer`."""


@pytest.mark.slow
@pytest.mark.timeout(2 * WITHIN_S)
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_a_budget_of_faults_is_covered_completely(budget: Budget) -> None:
    faulthandler.cancel_dump_traceback_later()  # Long by intent.
    begun = time.monotonic()
    found = explorer.search(budget, within_s=WITHIN_S)
    print(explorer.told_of(budget, found, time.monotonic() - begun))
    assert not found.broken, "\n".join(found.broken[:10])
    assert found.complete
    assert found.states > 1000, "most of them were taken for the same"
    assert found.opened["opened silence"]
    assert found.opened["opened receipt"]


def test_the_explorer_finds_what_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that is heard shuts no gate: the shortest path to two owners is a short one."""
    original = SimNode.receive

    def receive(node: SimNode, link: int, payload: bytes) -> int | None:
        before = node.plain.gate.fence_below if node.powered else 0
        reason = original(node, link, payload)
        if node.powered:
            node.plain.gate.fence_below = before
        return reason

    monkeypatch.setattr(SimNode, "receive", receive)
    found = explorer.search(Budget(cuts=1, pauses=0, reboots=0), within_s=60)
    assert found.broken
    assert "cut" in found.broken[0]
