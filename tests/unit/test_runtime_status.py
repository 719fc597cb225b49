# SPDX-License-Identifier: Apache-2.0
"""What a status makes of the monitors."""

from typing import Any

from twinbeat.api.schema import Component, Monitor
from twinbeat.runtime.status import components


def monitor(name: str, **facts: Any) -> Monitor:
    known = {"kind": "script", "state": "up", "reason": "exit code 0", "weight": 1000}
    return Monitor(name=name, since_ns=0, since="", **(known | facts))


def test_every_check_that_counts_is_a_component_whether_it_holds_or_not() -> None:
    monitors = [
        monitor("disk"),
        monitor("lan", state="failed", reason="every member failed"),
        monitor("lan0", linkset="lan", weight=0, state="failed"),
        monitor("uplink", state="idle"),
        monitor("delayed", state="pending", reason=""),
    ]
    assert components({"lan"}, monitors) == [
        Component(name="delayed", healthy=True),
        Component(name="disk", healthy=True, sentence="exit code 0"),
        Component(name="lan", healthy=False, sentence="every member failed"),
    ]


def test_a_failure_is_told_though_its_monitor_was_taken_away_meanwhile() -> None:
    assert components({"gone"}, []) == [Component(name="gone", healthy=False)]
