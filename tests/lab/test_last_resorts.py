# SPDX-License-Identifier: Apache-2.0
"""Fencing by an agent of the fence-agents package, and a watchdog that is demanded in vain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twinlab import agents, lab, netns, plan, processes
from twinlab.shell import wait_for

from lab import watching

STATE = "/run/twinbeat/outlet"
LAB_OPTIONS = plan.Options(
    profile="balanced",
    settings=(
        *watching.STEADY,
        'fence.agent="/usr/sbin/fence_dummy"',
        f'fence.options=["type=file", "status_file={STATE}"]',
        "fence.timeout_s=20",
    ),
)


def outlet(node: str) -> Path:
    """What stands for the switch of the peer's power on a node."""
    return netns.node_dir(node, "/run") / STATE.removeprefix("/run/")


def fence(node: str) -> dict[str, Any]:
    said = agents.show(node)
    return dict(said["fence"]) if said else {}


def settle(node: str, old: str, new: str) -> None:
    """Change the configuration of a node, without telling its agent."""
    file = netns.node_dir(node, "/etc/twinbeat") / "twinbeat.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_the_peer_is_fenced_beside_the_takeover(primary: str) -> None:
    survivor = plan.peer(primary)
    outlet(survivor).write_text("on")
    wait_for(
        lambda: (fence(survivor)["check"] or {}).get("outcome") == "succeeded",
        "the first check of the fence agent",
        timeout_s=20,
    )
    seen = watching.watch(
        lambda: lab.cut(primary, silent=True),
        lambda: fence(survivor).get("fenced"),
        f"{survivor} fences {primary}",
    )
    assert outlet(survivor).read_text().strip() == "off"
    last = fence(survivor)["last"]
    transition = watching.takeover(survivor, seen.before_ns)
    # Nobody waited for it.
    assert transition["timeline"]["gate_ns"] < last["at_ns"] + last["duration_ns"]
    assert seen.outage_ms() < 400
    counted = agents.counters(survivor)
    assert counted is not None
    assert counted["fencings"] == {"succeeded": 1}
    assert fence(primary)["last"] is None, "whoever serves and hears nobody fences nobody"
    lab.heal(primary)
    wait_for(lambda: not fence(survivor)["fenced"], f"{survivor} hears {primary}", timeout_s=20)


def test_the_takeover_waits_until_the_peer_is_fenced(primary: str) -> None:
    survivor = plan.peer(primary)
    outlet(survivor).write_text("on")
    settle(survivor, "timeout_s = 20", 'timeout_s = 20\npolicy = "before"')
    agents.reload(survivor)
    wait_for(lambda: fence(survivor)["policy"] == "before", "the reload", timeout_s=30)
    seen = watching.watch(
        lambda: lab.cut(primary, silent=True),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
        timeout_s=30,
    )
    last = fence(survivor)["last"]
    assert last["outcome"] == "succeeded"
    transition = watching.takeover(survivor, seen.before_ns)
    assert transition["timeline"]["gate_ns"] >= last["at_ns"] + last["duration_ns"]
    assert outlet(survivor).read_text().strip() == "off"
    seen.never_both(primary, survivor)
    settle(survivor, '\npolicy = "before"', "")
    agents.reload(survivor)
    wait_for(lambda: fence(survivor)["policy"] == "after", "the reload", timeout_s=30)


def test_while_fencing_fails_nobody_takes_over(primary: str) -> None:
    survivor = plan.peer(primary)
    settle(survivor, "timeout_s = 20", 'timeout_s = 20\npolicy = "before"')
    settle(survivor, '"type=file"', '"type=fail"')
    settle(survivor, "timeout_s = 20", "timeout_s = 1")
    agents.reload(survivor)
    wait_for(lambda: fence(survivor)["policy"] == "before", "the reload", timeout_s=30)
    since_ns = agents.boot_ns()
    lab.cut(primary, silent=True)
    wait_for(
        lambda: (fence(survivor)["last"] or {}).get("outcome") == "timed_out",
        "an attempt that fails",
        timeout_s=20,
    )
    said = agents.show(survivor)
    assert said is not None
    assert not said["gate"]["open"]
    assert "not_fenced" in {warning["code"] for warning in said["warnings"]}
    lab.heal(primary)
    settle(survivor, '\npolicy = "before"', "")
    agents.reload(survivor)
    agents.wait_fit()
    assert watching.serves(primary), watching.story(since_ns)
    settle(survivor, '"type=fail"', '"type=file"')
    settle(survivor, "timeout_s = 1", "timeout_s = 20")
    agents.reload(survivor)


@pytest.mark.parametrize("device", ["/dev/watchdog", "/dev/null"])
def test_a_watchdog_that_is_demanded_and_not_there_refuses_the_start(
    primary: str, device: str
) -> None:
    if device == "/dev/watchdog":
        assert not Path(device).exists(), "this test must not arm a watchdog of this machine"
    other = plan.peer(primary)
    name = agents.process_name(other)
    demand = f'[watchdog]\nmode = "required"\ndevice = "{device}"\n\n[node]'
    settle(other, "[node]", demand)
    try:
        agents.terminate(other)
        agents.start(other)
        wait_for(lambda: processes.pid_of(name) is None, "the agent to refuse", timeout_s=20)
    finally:
        settle(other, demand, "[node]")
    told = processes.log_tail(name, 3)
    assert device in told
    assert "demands one" in told
