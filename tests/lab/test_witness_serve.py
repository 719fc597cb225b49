# SPDX-License-Identifier: Apache-2.0
"""`witness.without = "serve"`: while the witness is silent all is as without one, and loud.

And what reference addresses do for a node behind a switch that lost its way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from twinlab import agents, lab, plan, witness
from twinlab.shell import wait_for

from lab import watching

LAB_OPTIONS = plan.Options(
    profile="balanced",
    settings=(
        *watching.STEADY,
        'witness.without="serve"',
        f'isolation.references=["{plan.CLIENT_ADDRESS}"]',
        "isolation.interval_ms=300",
    ),
    witness=True,
)


@pytest.fixture
def mended(primary: str) -> Iterator[str]:
    """The primary of a fit pair that the witness answers; etcd is mended after the test."""
    for node in plan.NODES:
        wait_for(
            lambda node=node: not said(node)["witness"]["absent"],
            f"the witness answers {node}",
            timeout_s=20,
        )
    try:
        yield primary
    finally:
        witness.mend()


def said(node: str) -> dict[str, Any]:
    status = agents.show(node)
    assert status is not None, f"the agent of {node} does not answer"
    return status


def test_without_the_witness_both_sides_of_a_partition_serve(mended: str) -> None:
    witness.hang()
    for node in plan.NODES:
        wait_for(
            lambda node=node: said(node)["witness"]["absent"],
            f"{node} goes on without it",
            timeout_s=20,
        )
        assert any(
            one["code"] == "without_witness" and one["severity"] == "critical"
            for one in said(node)["warnings"]
        )
    lab.cut(mended, silent=True)
    wait_for(lambda: all(map(watching.serves, plan.NODES)), "both serve", timeout_s=20)


def test_with_the_witness_only_one_does(mended: str) -> None:
    other = plan.peer(mended)
    lab.cut(mended, silent=True)
    wait_for(lambda: watching.serves(other), f"{other} takes over", timeout_s=20)
    # Cut off from the witness as well, it is without one: that is what the policy says.
    assert not said(other)["witness"]["absent"]


def test_a_primary_that_reaches_no_reference_passes_the_role_on(mended: str) -> None:
    """Its carrier stays, and the peer is heard over the cable: only the references tell."""
    other = plan.peer(mended)
    for node in plan.NODES:
        wait_for(
            lambda node=node: said(node)["isolation"]["answering"] == plan.CLIENT_ADDRESS,
            f"the client answers {node}",
            timeout_s=20,
        )
    lab.cut_link(mended, "lan0")
    wait_for(lambda: watching.serves(other), f"{other} takes over", timeout_s=20)
    assert said(mended)["isolation"]["isolated"]
    assert any(one["code"] == "isolated" for one in said(mended)["warnings"])
    assert not watching.serves(mended)


def test_doctor_asks_witness_and_references(mended: str) -> None:
    report = json.loads(agents.cli(mended, "doctor", "--json").stdout)
    found = {check["name"]: check for check in report["checks"]}
    assert found["witness"]["level"] == "ok", found["witness"]
    findings = [each["finding"] for each in report["checks"] if each["name"] == "witness"]
    for member in witness.MEMBERS:
        assert any(f"{member.url} answers" in finding for finding in findings)
    assert found["reference"]["level"] == "ok", found["reference"]
    witness.stop()
    report = json.loads(agents.cli(mended, "doctor", "--json").stdout)
    found = {check["name"]: check for check in report["checks"]}
    assert found["witness"]["level"] == "error", found["witness"]
