# SPDX-License-Identifier: Apache-2.0
"""The alert for intervals that only one node keeps, of a pair without a shared configuration.

With one `twinbeat set timers` changes that, and both have the same. A part of `make alerts`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twinlab import agents, lab, plan, prometheus
from twinlab.shell import wait_for

from lab import watching
from lab.test_policy import TURN_MS, late  # noqa: F401 - a fixture
from lab.test_prometheus import fires, tell

LAB_OPTIONS = plan.Options(
    profile="balanced",
    settings=(*watching.CALM, f'metrics.listen = "0.0.0.0:{prometheus.METRICS_PORT}"'),
)


@pytest.fixture(scope="module")
def watched(pair: None) -> Iterator[None]:
    prometheus.start(waits="0s")
    yield
    prometheus.stop()


def test_intervals_that_one_node_cannot_keep(watched: None, late: str) -> None:  # noqa: F811
    """They were set while nobody heard it, whose machine is too busy for them."""
    other = plan.peer(late)
    wanted = ("set", "timers", f"hello={TURN_MS // 4}ms", "dead=200ms")
    assert agents.cli(late, *wanted).returncode == 4, "so its host is measured, and found late"
    lab.cut(late, silent=True)
    wait_for(lambda: is_dead(other), f"{other} misses {late}", timeout_s=20)
    tell(other, *wanted)
    lab.heal(late)
    fires("TwinbeatTimersDiffer", within_s=60)


def is_dead(node: str) -> bool:
    said = agents.show(node)
    return said is not None and said["peer"]["watch"] == "dead"
