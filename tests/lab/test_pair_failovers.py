# SPDX-License-Identifier: Apache-2.0
"""A real pair under a real client: every way in which the role changes hands.

What counts is seen from outside: how long the client waited, and whether two nodes ever spoke for
an address.  Times are bounded generously, since the machine may be shared; figures are the bench's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from functools import partial

from twinlab import agents, cutter, lab, plan, services
from twinlab.shell import wait_for

from lab import watching

BOUND_MS = 400.0
"""Detection takes 80 ms with these timers; the rest is what a shared machine may add."""


def hears_on_every_link(node: str) -> bool:
    said = agents.show(node)
    return said is not None and all(link["up"] and link["two_way"] for link in said["links"])


def test_a_fit_pair_has_one_owner(primary: str) -> None:
    other = plan.peer(primary)
    assert lab.status()["primary"] == primary
    for node, role, gate_open in ((primary, "primary", True), (other, "secondary", False)):
        said = agents.show(node)
        assert said is not None
        assert said["node"]["role"] == role
        assert said["gate"]["attached"]
        assert said["gate"]["open"] is gate_open
        assert said["peer"]["watch"] == "alive"
        # The pair is fit when it hears each other anyhow; the other link may follow a little later.
        wait_for(partial(hears_on_every_link, node), f"{node} hears on every link", timeout_s=20)
    # A client is bound to one server.
    assert len({services.http_get(plan.LAN_VIP) for _ in range(20)}) == 1
    assert lab.learned_port("lan0", plan.vmac(plan.LAN_VRID)) == primary


def test_status_and_cli_say_the_same(primary: str) -> None:
    command = str(plan.LAB_DIR / "lab")
    state = json.loads(subprocess.check_output([command, "status", "--json"], text=True))
    assert state["primary"] == primary
    assert state["nodes"][primary]["gate_open"] is True
    assert state["nodes"][primary]["term"] > 0
    shown = subprocess.check_output([command, "cli", primary, "show", "--json"], text=True)
    assert json.loads(shown)["node"]["term"] == state["nodes"][primary]["term"]


def test_cli_shows_what_comes_as_it_comes_and_may_be_interrupted(primary: str) -> None:
    command = [str(plan.LAB_DIR / "lab"), "cli", primary, "--json", "stat", "--watch", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().strip()
        # As the terminal does it: to the whole group in the foreground.
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(timeout=10) == 130
        assert "Traceback" not in running.stderr.read()


def test_silent_death(primary: str) -> None:
    survivor = plan.peer(primary)
    seen = watching.watch(
        lambda: lab.cut(primary, silent=True),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
    )
    transition = watching.takeover(survivor, seen.before_ns)
    assert transition["reason"] == "peer_dead"
    assert transition["timeline"]["suspect_ns"] is not None
    assert 60 < seen.outage_ms() < BOUND_MS
    seen.never_both(primary, survivor)
    assert lab.status()["primary"] == survivor, "the other one only believes to be"
    assert lab.learned_port("lan0", plan.vmac(plan.LAN_VRID)) == survivor
    assert lab.learned_port("wan0", plan.vmac(plan.WAN_VRID)) == survivor


def test_rejoin_changes_nothing(primary: str) -> None:
    survivor = plan.peer(primary)
    lab.cut(primary, silent=True)
    wait_for(lambda: watching.serves(survivor), f"{survivor} takes over", timeout_s=30)
    before = watching.transitions(survivor)
    seen = watching.watch(
        lambda: lab.heal(primary), agents.pair_is_fit, "the pair is whole again", timeout_s=60
    )
    assert agents.roles() == {primary: "secondary", survivor: "primary"}
    assert watching.transitions(survivor) == before, "the survivor's reign went on"
    assert seen.outage_ms() < BOUND_MS


def test_death_with_power(primary: str) -> None:
    """Carriers fall, also at the survivor's end of the direct cable."""
    survivor = plan.peer(primary)
    seen = watching.watch(
        lambda: lab.cut(primary, silent=False),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
    )
    assert watching.takeover(survivor, seen.before_ns)["reason"] == "peer_dead"
    seen.never_both(primary, survivor)


def test_hung_agent(primary: str) -> None:
    """Its kernel still answers: another verdict, and its gate is shut before ours opens."""
    survivor = plan.peer(primary)
    seen = watching.watch(
        lambda: agents.stop(primary),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
    )
    transition = watching.takeover(survivor, seen.before_ns)
    assert transition["reason"] == "peer_stalled"
    assert seen.outage_ms() < BOUND_MS
    seen.never_both(primary, survivor)
    back = watching.watch(
        lambda: agents.cont(primary), agents.pair_is_fit, "the pair is whole again", timeout_s=60
    )
    assert agents.roles() == {primary: "secondary", survivor: "primary"}
    assert back.owners_since(back.before_ns) == {survivor}, "the woken node said nothing"


def test_killed_agent(primary: str) -> None:
    survivor = plan.peer(primary)
    seen = watching.watch(
        lambda: agents.kill(primary),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
    )
    assert seen.outage_ms() < BOUND_MS
    seen.never_both(primary, survivor)
    back = watching.watch(
        lambda: agents.start(primary), agents.pair_is_fit, "the pair is whole again", timeout_s=60
    )
    assert agents.roles() == {primary: "secondary", survivor: "primary"}
    assert back.outage_ms() < BOUND_MS
    assert back.owners_since(back.before_ns) == {survivor}


def test_planned_switch_over(primary: str) -> None:
    other = plan.peer(primary)

    def hand_over() -> None:
        done = agents.cli(primary, "force", "failover", "--yes", "--reason", "test")
        assert done.returncode == 0, done.stderr

    seen = watching.watch(hand_over, lambda: watching.serves(other), f"{other} is primary")
    assert watching.takeover(other, seen.before_ns)["reason"] == "peer_yielded"
    assert seen.outage_ms() < BOUND_MS
    seen.never_both(primary, other)
    assert agents.wait_fit() == other


def test_switch_over_is_refused_when_nobody_can_take_over(primary: str) -> None:
    agents.stop(plan.peer(primary))
    wait_for(
        lambda: (said := agents.show(primary)) and said["peer"]["watch"] != "alive",
        "the primary sees its peer hang",
        timeout_s=30,
    )
    done = agents.cli(primary, "force", "failover", "--yes", "--reason", "test")
    assert done.returncode in {1, 4}, done.stdout
    assert "refused" in done.stderr
    assert watching.serves(primary)


def test_dead_secondary_changes_nothing(primary: str) -> None:
    other = plan.peer(primary)
    before = watching.transitions(primary)

    def cut() -> None:
        lab.heal(other)
        agents.wait_fit()
        lab.cut(other, silent=True)

    watching.unnoticed(
        cut,
        lambda: (said := agents.show(primary)) and said["peer"]["watch"] == "dead",
        "the primary misses its peer",
        owner=primary,
    )
    assert watching.transitions(primary) == before
    with cutter.CutWord(other) as word:
        assert word.dropped()["ha0"]["in"] > 0, "the primary went on speaking to it"
