# SPDX-License-Identifier: Apache-2.0
"""Connections through the gateways outlast a takeover: seen from a client that stays connected."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from functools import partial
from pathlib import Path

from twinlab import agents, lab, lasting, netns, plan, processes, services
from twinlab.shell import run, wait_for

from lab import watching
from lab.watching import Reign, steadily
from twinbeat.sessions import strays

LAB_OPTIONS = plan.Options(profile="balanced", settings=(*watching.PATIENT, lasting.ENABLED))
SOON_S = 20.0
"""What comes by itself comes within this; how soon it comes is the bench's to judge."""


def test_both_outlast_two_deaths_in_a_row_and_a_planned_switch_over(primary: str) -> None:
    steadily(two_deaths)


def two_deaths(reign: Reign) -> None:
    lasting.wait_synced()
    with lasting.talking() as conversation, lasting.downloading() as download:
        for old in (reign.primary, plan.peer(reign.primary)):
            survivor = plan.peer(old)
            for each in (conversation, download):
                wait_for(partial(each.known, survivor), f"{survivor} knows", timeout_s=SOON_S)
            assert reign.die() == survivor
            lasting.heal(old)
        for each in (conversation, download):
            wait_for(partial(each.known, old), f"{old} knows", timeout_s=SOON_S)
        reign.moves += 1
        done = agents.cli(survivor, "force", "failover", "--yes", "--reason", "a test")
        assert done.returncode == 0, done.stderr
        wait_for(partial(watching.serves, old), f"{old} serves", timeout_s=SOON_S)
        # A piece or a line that was on its way is there again by now, or never.
        fetched, said = download.end(stop=True), conversation.end(stop=True)
    assert (said["error"], fetched["error"]) == ("", "")
    assert said["lines"] > 50
    came = services.download()[: fetched["bytes"]]
    assert came
    assert fetched["sha256"] == hashlib.sha256(came).hexdigest()


def test_a_conntrackd_that_is_killed_costs_no_role_and_another_comes(primary: str) -> None:
    steadily(killed)


def killed(reign: Reign) -> None:
    lasting.wait_synced()
    primary, other = reign.primary, plan.peer(reign.primary)
    before = lasting.kept(other)["counts"]["ends"]
    (process,) = wait_for(partial(only, other), "orders are given", timeout_s=SOON_S)
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: process not in processes_of(other), "its end", timeout_s=SOON_S)
    wait_for(lambda: bool(processes_of(other)), "another conntrackd", timeout_s=SOON_S)
    lasting.wait_synced()
    assert agents.wait_fit() == primary
    wait_for(lambda: lasting.kept(other)["counts"]["ends"] > before, "it is told", timeout_s=SOON_S)


def only(node: str) -> list[int]:
    """The conntrackd of a node, when there is no other that gives it an order."""
    found = processes_of(node)
    return found if len(found) == 1 else []


def processes_of(node: str) -> list[int]:
    """Numbers of the conntrackds in a node: that which stays, and those that give it orders."""
    return [pid for pid in netns.processes(plan.namespace(node)) if is_conntrackd(pid)]


def is_conntrackd(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False  # It is gone.
    return "(conntrackd) " in state and "(conntrackd) Z" not in state


def test_without_their_state_packets_are_dropped_and_nobody_is_reset(primary: str) -> None:
    steadily(without_their_state)


def without_their_state(reign: Reign) -> None:
    """The state goes from the survivor's kernel before it serves, as if it had never come."""
    lasting.wait_synced()
    old, survivor = reign.primary, plan.peer(reign.primary)
    inside = netns.enter(plan.namespace(survivor))
    with lasting.talking() as conversation:
        wait_for(partial(conversation.known, survivor), f"{survivor} knows", timeout_s=SOON_S)
        agents.wait_fit()
        # conntrackd ends with the worker at once.
        processes.send_signal(f"worker-{survivor}", signal.SIGKILL)
        wait_for(lambda: processes_of(survivor) == [], "its end", timeout_s=SOON_S)
        run([*inside, "conntrack", "-D", "-p", "tcp", "--dport", str(plan.LINE_PORT)])
        assert not conversation.known(survivor)
        before = strays_of(survivor)
        assert reign.die() == survivor
        # The table needs no worker.
        wait_for(lambda: strays_of(survivor) > before, "packets are dropped", timeout_s=SOON_S)
        agents.start_worker(survivor)
        # It goes on asking, as nobody told it that its connection is over.
        assert conversation.process.poll() is None, conversation.end(stop=False)
    lab.heal(old)
    agents.wait_fit()


def strays_of(node: str) -> int:
    """Packets of unknown connections that a node has dropped."""
    asked = ["nft", "-j", "list", "counter", "inet", strays.TABLE, "strays"]
    told = json.loads(run([*netns.enter(plan.namespace(node)), *asked]))["nftables"]
    (counter,) = [each["counter"] for each in told if "counter" in each]
    return int(counter["packets"])


def test_switched_off_connections_end_with_a_takeover_and_that_is_shown(primary: str) -> None:
    for node in plan.NODES:
        text = agents.file_of(node).read_text()
        assert "[connections]\nenabled = true" in text
        off = text.replace("[connections]\nenabled = true", "[connections]\nenabled = false")
        agents.reconfigure(node, off)
        wait_for(partial(is_off, node), f"{node} keeps them no more", timeout_s=SOON_S)
    assert "clients connect anew" in agents.cli(primary, "show", "connections").stdout
    steadily(switched_off)


def switched_off(reign: Reign) -> None:
    old = reign.primary
    with lasting.talking(patience_s=5) as conversation:
        reign.die()
        said = conversation.end(stop=False)
    assert "reset" in said["error"] or "timed out" in said["error"]
    lab.heal(old)
    agents.wait_fit()


def is_off(node: str) -> bool:
    """Nothing of it is left, and it is said."""
    tables = run([*netns.enter(plan.namespace(node)), "nft", "list", "tables"])
    gone = "twinbeat_connections" not in tables and processes_of(node) == []
    return gone and lasting.kept(node).get("state") == "off"
