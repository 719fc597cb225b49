# SPDX-License-Identifier: Apache-2.0
"""Connections through the gateways outlast a takeover: seen from a client that stays connected."""

from __future__ import annotations

import hashlib
import os
import signal
from functools import partial
from pathlib import Path

from twinlab import agents, lab, lasting, netns, plan, processes, services
from twinlab.shell import run, wait_for

from lab import watching

LAB_OPTIONS = plan.Options(profile="balanced", settings=(*watching.STEADY, lasting.ENABLED))


def die(primary: str) -> str:
    """A silent death of the primary; returns the survivor, which serves."""
    survivor = plan.peer(primary)
    lab.cut(primary, silent=True)
    wait_for(lambda: watching.serves(survivor), f"{survivor} takes over", timeout_s=10)
    return survivor


def test_a_download_and_a_conversation_outlast_two_deaths_in_a_row(primary: str) -> None:
    lasting.wait_synced()
    with lasting.talking() as conversation, lasting.downloading() as download:
        for survivor in (plan.peer(primary), primary):
            for each in (conversation, download):
                wait_for(partial(each.known, survivor), f"{survivor} knows", timeout_s=5)
            old = plan.peer(survivor)
            assert die(old) == survivor
            lasting.heal(old)
        said = conversation.end(stop=True)
        assert said["error"] == ""
        assert said["lines"] > 100
        fetched = download.end(stop=False)
    assert fetched["error"] == ""
    assert fetched["sha256"] == hashlib.sha256(services.download()).hexdigest()


def test_what_kills_conntrackd_costs_no_role_and_it_comes_back(primary: str) -> None:
    lasting.wait_synced()
    survivor = plan.peer(primary)
    (process,) = processes_of(survivor)
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: process not in processes_of(survivor), "its end", timeout_s=5)
    wait_for(lambda: bool(processes_of(survivor)), "another conntrackd", timeout_s=20)
    lasting.wait_synced()
    assert agents.roles() == {primary: "primary", survivor: "secondary"}
    assert lasting.kept(survivor)["counts"]["ends"] == 1
    # With the worker it ends at once, and it comes with the next one.
    (process,) = processes_of(primary)
    processes.send_signal(f"worker-{primary}", signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{process}").exists(), "its end", timeout_s=5)
    agents.start_worker(primary)
    lasting.wait_synced()
    assert agents.roles() == {primary: "primary", survivor: "secondary"}


def processes_of(node: str) -> list[int]:
    """Numbers of the conntrackds in a node."""
    inside = netns.processes(plan.namespace(node))
    return [
        pid
        for pid in inside
        if Path(f"/proc/{pid}/comm").read_text().strip() == "conntrackd"
        and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    ]


def test_without_their_state_packets_are_dropped_and_nobody_is_reset(primary: str) -> None:
    """The state goes from the survivor's kernel before it serves, as if it had never come."""
    lasting.wait_synced()
    survivor = plan.peer(primary)
    inside = netns.enter(plan.namespace(survivor))
    with lasting.talking() as conversation:
        wait_for(partial(conversation.known, survivor), f"{survivor} knows", timeout_s=5)
        before = lasting.kept(survivor)["counts"]["strays"]
        agents.wait_fit()
        processes.send_signal(f"worker-{survivor}", signal.SIGKILL)
        run([*inside, "conntrack", "-D", "-p", "tcp", "--dport", str(plan.LINE_PORT)])
        assert not conversation.known(survivor)
        die(primary)
        agents.start_worker(survivor)
        wait_for(
            lambda: lasting.kept(survivor).get("counts", {}).get("strays", 0) > before,
            "packets are dropped",
            timeout_s=20,
        )
        # It goes on asking, as nobody told it that its connection is over.
        assert conversation.process.poll() is None, conversation.end(stop=False)
    lab.heal(primary)
    agents.wait_fit()


def test_switched_off_connections_end_with_a_takeover_and_that_is_shown(primary: str) -> None:
    for node in plan.NODES:
        text = agents.file_of(node).read_text()
        assert "[connections]\nenabled = true" in text
        off = text.replace("[connections]\nenabled = true", "[connections]\nenabled = false")
        agents.reconfigure(node, off)
        wait_for(partial(is_off, node), f"{node} keeps them no more", timeout_s=10)
        assert processes_of(node) == []
        inside = netns.enter(plan.namespace(node))
        assert "twinbeat_connections" not in run([*inside, "nft", "list", "tables"])
    assert "clients connect anew" in agents.cli(primary, "show", "connections").stdout
    agents.wait_fit()
    with lasting.talking(patience_s=5) as conversation:
        die(primary)
        said = conversation.end(stop=False)
    assert "reset" in said["error"] or "timed out" in said["error"]
    lab.heal(primary)
    agents.wait_fit()


def is_off(node: str) -> bool:
    return lasting.kept(node).get("state") == "off"
