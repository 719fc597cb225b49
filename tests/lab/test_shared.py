# SPDX-License-Identifier: Apache-2.0
"""The command line on a real pair: paired, changed, rotated, killed, both nodes stay the same."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

import pytest
from twinlab import agents, netns, plan, storm
from twinlab.shell import run, wait_for

from lab import watching
from lab.test_policy import said, suspicions, tell, transitions

LAB_OPTIONS = plan.Options(profile="balanced", settings=(*watching.CALM, "keys.send=0"))
DEATHS = 20
SEED = 20261123
VIP = "10.77.0.111"


@pytest.fixture
def paired(primary: str) -> str:
    """The primary of a pair whose nodes know each other, and are in step."""
    if not storm.in_step():
        answers: dict[str, Any] = {}

        def pair(node: str) -> None:
            answers[node] = agents.cli(node, "pair", "--yes", timeout_s=60)

        both = [threading.Thread(target=pair, args=(node,)) for node in plan.NODES]
        for each in both:
            each.start()
        for each in both:
            each.join()
        for node, done in answers.items():
            assert done.returncode == 0, (node, done.stdout, done.stderr)
        wait_for(storm.in_step, "both workers to be in step", timeout_s=30)
    return primary


def addresses(node: str) -> str:
    device = f"tbv{plan.LAN_VRID}"
    shown = run([*netns.enter(plan.namespace(node)), "ip", "-o", "addr", "show", "dev", device])
    return str(shown)


def test_a_command_on_either_node_is_in_force_on_both(paired: str) -> None:
    primary, secondary = paired, plan.peer(paired)
    before = transitions()
    assert "done on both nodes" in tell(
        primary, "add", "vip", VIP, "vrid", str(plan.LAN_VRID), "--strict"
    )
    assert all(VIP in addresses(node) for node in plan.NODES)
    assert "done on both nodes" in tell(secondary, "rm", "vip", VIP)
    assert not any(VIP in addresses(node) for node in plan.NODES)
    refused = agents.cli(secondary, "set", "vrid", str(plan.LAN_VRID), "interface=none")
    assert refused.returncode == 2, refused.stderr
    assert "are the same" in tell(secondary, "config", "diff", "--peer")
    shown = {node: tell(node, "show", "config") for node in plan.NODES}
    assert shown["a"] == shown["b"] == tell(secondary, "show", "config", "--node", "peer")
    assert tell(primary, "show", "sync").startswith("IN STEP")
    earlier = said(secondary)["configuration"]["generation"]
    tell(primary, "add", "vip", VIP, "vrid", str(plan.LAN_VRID))
    tell(secondary, "rollback", str(earlier))
    assert said(primary)["configuration"]["generation"] > earlier + 1
    assert not any(VIP in addresses(node) for node in plan.NODES)
    assert transitions() == before


def stands(node: str, state: str) -> bool:
    """Whether a node's `show files`, status and metric say so of the list."""
    seen = json.loads(tell(node, "show", "files", "--json"))["lists"]
    told = (said(node)["sync"] or {}).get("files", [])
    metric = f'twinbeat_files_state{{list="certs",pair="1",state="{state}"}} 1.0'
    return (
        [each["state"] for each in seen] == [state]
        and [each["state"] for each in told] == [state]
        and metric in agents.metrics(node)
    )


def test_what_becomes_of_listed_files_is_told_on_both(paired: str) -> None:
    primary, secondary = paired, plan.peer(paired)
    before = transitions()
    inside = {node: netns.node_dir(node, "/var/lib") / "certs" for node in plan.NODES}
    for directory in inside.values():
        directory.mkdir()
    tell(primary, "add", "file", "certs", "paths=/var/lib/certs")
    (inside[primary] / "one").write_text("from the primary")
    (inside[secondary] / "two").write_text("from the secondary")
    for node in plan.NODES:
        wait_for(
            lambda node=node: stands(node, "same") and (inside[node] / "one").exists(),
            f"{node} to say that the list is alike",
            timeout_s=20,
        )
        assert (inside[node] / "two").read_text() == "from the secondary"
        assert "files  certs" not in tell(node, "show")
        assert 'twinbeat_files_entries{list="certs",pair="1"} 3.0' in agents.metrics(node)
    os.mkfifo(inside[secondary] / "pipe")
    wait_for(lambda: stands(primary, "partly"), "the primary to say what is wrong", timeout_s=20)
    shown = tell(primary, "show")
    assert "files  certs: partly" in shown
    assert "! files certs: /var/lib/certs/pipe can't be read" in shown
    assert "  ! /var/lib/certs/pipe" in tell(primary, "show", "files")
    assert "  ! /var/lib/certs/pipe" in tell(primary, "show", "files", "--node", "peer")
    (inside[secondary] / "pipe").unlink()
    for node in plan.NODES:
        wait_for(lambda node=node: stands(node, "same"), f"{node} to have it alike", timeout_s=20)
    tell(primary, "rm", "file", "certs")
    assert transitions() == before


def unheard() -> int:
    """Heartbeats that were sent and not seen, or seen and refused."""
    total = 0
    for node in plan.NODES:
        counted = agents.counters(node)
        assert counted is not None
        total += sum(link["lost"] for link in counted["links"])
        total += sum(counted["reasons"].get(why, 0) for why in ("key", "auth", "replay"))
    return total


def test_keys_and_certificates_change_without_a_missed_heartbeat(paired: str) -> None:
    before = suspicions(), transitions(), unheard()
    done = agents.cli(plan.peer(paired), "keys", "rotate", timeout_s=90)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "both nodes send under key 2 and accept no other" in done.stdout
    assert (suspicions(), transitions(), unheard()) == before
    for node in plan.NODES:
        now = said(node)
        assert (now["configuration"]["send_key"], now["configuration"]["keys"]) == (2, [2])
        assert (now["peer"]["send_key"], now["peer"]["keys"]) == (2, [2])
    wait_for(storm.in_step, "both workers to be in step", timeout_s=30)


def test_whatever_dies_both_nodes_have_what_was_acknowledged(paired: str) -> None:
    done = storm.storm(range(DEATHS), SEED)
    took_s = done.settle()
    assert done.faults() == []
    assert sum(done.deaths.values()) == DEATHS
    states = {one.state.value for one in done.answers.values()}
    assert "done" in states, states
    assert took_s < 30
