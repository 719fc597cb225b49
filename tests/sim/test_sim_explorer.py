# SPDX-License-Identifier: Apache-2.0
"""Everything that a budget of faults can lead to is tried, and all of it is safe."""

from __future__ import annotations

import faulthandler
from collections.abc import Callable

import pytest

from sim import explorer
from sim.explorer import Budget
from sim.node import SimNode

WITHIN_S = 600
"""Several times what it takes where nothing else runs; a search not over by then isn't complete."""


DIFFERING_MOST = 0.1
"""Of the transitions from worlds that count as one state such a part may lead to different ones: of
342 it was 20 when this was written down. Each is explored as well. Which worlds are tried depends
on all that a form says, so it is a sample, three of whose standard deviations are between."""


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_S + 60)
def test_a_budget_of_faults_is_covered_completely(
    record_property: Callable[[str, object], None],
) -> None:
    """Two nodes, three terms, one cut, one pause, one reboot."""
    faulthandler.cancel_dump_traceback_later()  # Long by intent.
    found = explorer.search(Budget(), within_s=WITHIN_S)
    record_property("figures", f"explorer, {found}")
    assert not found.broken, "\n".join(found.broken[:10])
    assert found.complete, str(found)
    assert found.states > 10_000, "most of them were taken for the same"
    assert found.audited > 200, "that they are the same was hardly tried"
    differed = found.differed.total() / found.audited
    assert differed < DIFFERING_MOST, f"the form says too little: {found.differed}"
    assert set(found.by_terms) == set(range(explorer.TERMS + 1))
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
    assert not found.complete
    assert "cut" in found.broken[0]
