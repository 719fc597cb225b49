# SPDX-License-Identifier: Apache-2.0
"""One configuration on two nodes: what is told to one is in force on both when it answers."""

from __future__ import annotations

import itertools
import os
import signal
from typing import Any

import msgspec
import pytest
from twinlab import agents, netns, plan, processes, storm
from twinlab.shell import run, wait_for

from lab import watching
from twinbeat.api.client import Client, ClientError
from twinbeat.api.sync import SyncView
from twinbeat.sync.document import Document, Put
from twinbeat.sync.operation import Edit, Outcome, Policy, Request, State

LAB_OPTIONS = plan.Options(profile="balanced", settings=watching.STEADY)
_numbers = itertools.count(1)


def client(node: str) -> Client:
    """The worker's own socket of a node."""
    return Client(str(netns.node_dir(node, "/run") / "twinbeat" / "sync.sock"), 20.0)


def view(node: str) -> SyncView | None:
    try:
        return msgspec.json.decode(client(node).get("/v1/sync").body, type=SyncView)
    except (ClientError, msgspec.DecodeError):
        return None


def in_step() -> bool:
    views = [view(node) for node in plan.NODES]
    return all(one is not None and one.report.in_step for one in views)


def document(node: str) -> Document:
    return msgspec.json.decode(client(node).get("/v1/document").body, type=Document)


def bind(node: str, vips: list[str], policy: Policy = Policy.AVAILABLE) -> Outcome:
    """Have the LAN's VRID serve these."""
    row = {**document(node).tables["vrid"][str(plan.LAN_VRID)], "vips": vips}
    wish = Edit(changes=(Put(section="vrid", identity=str(plan.LAN_VRID), row=row),))
    wanted = Request(request=f"lab-{next(_numbers)}", wish=wish, policy=policy)
    answer = client(node).post("/v1/change", msgspec.json.encode(wanted))
    assert answer.status == 200, answer.body
    return msgspec.json.decode(answer.body, type=Outcome)


def addresses(node: str) -> str:
    device = f"tbv{plan.LAN_VRID}"
    return run([*netns.enter(plan.namespace(node)), "ip", "-o", "addr", "show", "dev", device])


def said(node: str) -> dict[str, Any]:
    status = agents.show(node)
    assert status is not None
    return status


@pytest.fixture
def synchronized(primary: str) -> str:
    storm.acquaint()
    for node in plan.NODES:
        if processes.pid_of(f"worker-{node}") is None:
            agents.start_worker(node)
    wait_for(in_step, "both workers to be in step", timeout_s=20)
    return primary


def test_a_command_is_in_force_on_both_when_it_is_answered(synchronized: str) -> None:
    primary, secondary = synchronized, plan.peer(synchronized)
    before = [watching.transitions(node) for node in plan.NODES]
    vips = list(document(primary).tables["vrid"][str(plan.LAN_VRID)]["vips"])
    for node, more in ((primary, "10.77.0.111"), (secondary, "10.77.0.112")):
        vips.append(more)
        outcome = bind(node, vips, Policy.STRICT)
        assert outcome.state is State.DONE, outcome
        for each in plan.NODES:
            assert f"{more}/32" in addresses(each), (node, each)
            assert said(each)["configuration"]["generation"] == outcome.version.generation

    def heard() -> bool:
        told = [said(node) for node in plan.NODES]
        generations = {one["peer"]["generation"] for one in told}
        differ = any(one["configuration"]["mismatch"] for one in told)
        return generations == {outcome.version.generation} and not differ

    wait_for(heard, "the heartbeats to say the same", timeout_s=30)
    assert [watching.transitions(node) for node in plan.NODES] == before


def test_a_worker_that_dies_changes_no_role_and_catches_up(synchronized: str) -> None:
    primary, secondary = synchronized, plan.peer(synchronized)
    before = [watching.transitions(node) for node in plan.NODES]
    pid = processes.pid_of(f"worker-{secondary}")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    vips = list(document(primary).tables["vrid"][str(plan.LAN_VRID)]["vips"])
    outcome = bind(primary, [*vips, "10.77.0.113"])
    assert outcome.state is State.ALONE, outcome
    assert "10.77.0.113/32" in addresses(primary)
    assert "10.77.0.113/32" not in addresses(secondary)
    wait_for(
        lambda: said(primary)["configuration"]["mismatch"],
        "the heartbeats to tell the difference",
        timeout_s=30,
    )
    wait_for(lambda: processes.pid_of(f"worker-{secondary}") is None, "its end", timeout_s=30)
    agents.start_worker(secondary)
    wait_for(in_step, "the worker to catch up", timeout_s=20)
    assert "10.77.0.113/32" in addresses(secondary)
    assert [watching.transitions(node) for node in plan.NODES] == before
