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
from twinbeat.sessions import strays

LAB_OPTIONS = plan.Options(profile="balanced", settings=(*watching.STEADY, lasting.ENABLED))


def die(primary: str) -> str:
    """A silent death of the primary; returns the survivor, which serves."""
    survivor = plan.peer(primary)
    lab.cut(primary, silent=True)
    wait_for(lambda: watching.serves(survivor), f"{survivor} takes over", timeout_s=10)
    return survivor


SIZE = 7 << 20
"""Bytes of the download: nine seconds, in which the primary dies twice."""


def test_both_outlast_two_deaths_in_a_row_and_a_planned_switch_over(primary: str) -> None:
    lasting.wait_synced()
    with lasting.talking() as conversation, lasting.downloading(SIZE) as download:
        for old in (primary, plan.peer(primary)):
            survivor = plan.peer(old)
            for each in (conversation, download):
                wait_for(partial(each.known, survivor), f"{survivor} knows", timeout_s=10)
            assert die(old) == survivor
            lasting.heal(old)
        wait_for(partial(conversation.known, survivor), f"{survivor} knows", timeout_s=10)
        done = agents.cli(survivor, "force", "failover", "--yes", "--reason", "a test")
        assert done.returncode == 0, done.stderr
        wait_for(partial(watching.serves, old), f"{old} serves", timeout_s=10)
        fetched = download.end(stop=False)
        # A line that was on its way is there again by now, or never.
        said = conversation.end(stop=True)
    assert (said["error"], fetched["error"]) == ("", "")
    assert said["lines"] > 100
    assert fetched["sha256"] == hashlib.sha256(services.download()[:SIZE]).hexdigest()
    agents.wait_fit()


def test_a_conntrackd_that_is_killed_costs_no_role_and_another_comes(primary: str) -> None:
    lasting.wait_synced()
    other = plan.peer(primary)
    before = lasting.kept(other)["counts"]["ends"]
    (process,) = processes_of(other)
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: process not in processes_of(other), "its end", timeout_s=5)
    wait_for(lambda: bool(processes_of(other)), "another conntrackd", timeout_s=20)
    lasting.wait_synced()
    assert agents.roles() == {primary: "primary", other: "secondary"}
    wait_for(lambda: lasting.kept(other)["counts"]["ends"] > before, "it is told", timeout_s=10)


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
        agents.wait_fit()
        # conntrackd ends with the worker at once.
        processes.send_signal(f"worker-{survivor}", signal.SIGKILL)
        wait_for(lambda: processes_of(survivor) == [], "its end", timeout_s=5)
        run([*inside, "conntrack", "-D", "-p", "tcp", "--dport", str(plan.LINE_PORT)])
        assert not conversation.known(survivor)
        before = strays_of(survivor)
        die(primary)
        # The table needs no worker.
        wait_for(lambda: strays_of(survivor) > before, "packets are dropped", timeout_s=20)
        agents.start_worker(survivor)
        # It goes on asking, as nobody told it that its connection is over.
        assert conversation.process.poll() is None, conversation.end(stop=False)
    lab.heal(primary)
    agents.wait_fit()


def strays_of(node: str) -> int:
    listed = run([*netns.enter(plan.namespace(node)), "nft", "list", "counters"])
    return strays.counted(listed)["strays"]


def test_switched_off_connections_end_with_a_takeover_and_that_is_shown(primary: str) -> None:
    for node in plan.NODES:
        text = agents.file_of(node).read_text()
        assert "[connections]\nenabled = true" in text
        off = text.replace("[connections]\nenabled = true", "[connections]\nenabled = false")
        agents.reconfigure(node, off)
        wait_for(partial(is_off, node), f"{node} keeps them no more", timeout_s=20)
    assert "clients connect anew" in agents.cli(primary, "show", "connections").stdout
    agents.wait_fit()
    with lasting.talking(patience_s=5) as conversation:
        die(primary)
        said = conversation.end(stop=False)
    assert "reset" in said["error"] or "timed out" in said["error"]
    lab.heal(primary)
    agents.wait_fit()


def is_off(node: str) -> bool:
    """Nothing of it is left, and it is said."""
    tables = run([*netns.enter(plan.namespace(node)), "nft", "list", "tables"])
    gone = "twinbeat_connections" not in tables and processes_of(node) == []
    return gone and lasting.kept(node).get("state") == "off"
