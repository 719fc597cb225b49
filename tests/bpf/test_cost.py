# SPDX-License-Identifier: Apache-2.0
"""A budget in nanoseconds for each path through the programs.

The least of several runs is compared: what other processes take from a shared processor is none of
the programs' cost, and can only add to it. `deploy/lab/bench` reports medians.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "lab" / "xdpcost.py"
BUDGET_NS = {
    "hello": 400,
    "probe": 700,
    "unrelated": 30,
    "unrelated_udp": 30,
    "unrelated_ipv6": 30,
    "unrelated_arp": 30,
    "forged": 300,
    "egress": 30,
}


@pytest.fixture(scope="module")
def costs() -> dict[str, list[float]]:
    said = subprocess.run(
        [sys.executable, SCRIPT, "--json", "--runs", "8"],
        capture_output=True,
        check=True,
        timeout=100,
    )
    found: dict[str, list[float]] = json.loads(said.stdout)
    return found


@pytest.mark.parametrize("path", BUDGET_NS)
def test_cost(costs: dict[str, list[float]], path: str) -> None:
    assert min(costs[path]) <= BUDGET_NS[path], costs[path]
    assert len(costs[path]) == 8
