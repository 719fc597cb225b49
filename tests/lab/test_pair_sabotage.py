# SPDX-License-Identifier: Apache-2.0
"""Things that are done to a node rather than happen to it: hooks removed, state wiped, floods."""

from __future__ import annotations

import ipaddress
import shutil

import pytest
from twinlab import agents, capture, cutter, flood, lab, netns, plan, probe, timeline
from twinlab.shell import run, wait_for

from lab import watching

GATE_TERM, GATE_FENCE = 0, 2
"""Words of `struct tb_gate`: the term, and the fence below which every term is over."""


def test_restart_of_the_secondary_is_not_noticed(primary: str) -> None:
    other = plan.peer(primary)

    def restart() -> None:
        agents.terminate(other)
        agents.start(other)

    seen = watching.watch(restart, agents.pair_is_fit, "the pair is whole again", timeout_s=60)
    assert seen.outage is None
    assert watching.serves(primary)


def test_planned_restart_of_the_primary_is_not_noticed(primary: str) -> None:
    """The gate stays open under a longer lease; the new agent takes the reign up again."""
    reign = watching.term(primary)
    seen = watching.watch(
        lambda: agents.restart(primary),
        agents.pair_is_fit,
        "the pair is whole again",
        timeout_s=60,
    )
    resumed = timeline.takeover(primary, seen.before_ns)
    assert (resumed["reason"], resumed["term"]) == ("resumed", reign)
    assert seen.outage is None


@pytest.mark.parametrize("hook", ["xdp", "clsact"])
def test_gate_removed_by_hand(primary: str, hook: str) -> None:
    """No gate, no address: the node gives up what it can't gate, and the other takes over."""
    survivor = plan.peer(primary)
    commands = {
        "xdp": ["ip", "link", "set", "dev", "lan0", "xdp", "off"],
        "clsact": ["tc", "qdisc", "del", "dev", "lan0", "clsact"],
    }
    seen = watching.watch(
        lambda: run([*netns.enter(plan.namespace(primary)), *commands[hook]]),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
    )
    assert not watching.serves(primary)
    said = agents.show(primary)
    assert said is not None
    assert not said["node"]["fit"]
    assert said["node"]["unfit"], "and it says why"
    shown = run([*netns.enter(plan.namespace(primary)), "ip", "-o", "address"])
    assert plan.LAN_VIP not in shown
    assert seen.owners_since(agents.boot_ns()) == set()
    agents.terminate(primary)
    agents.start(primary)


def test_wiped_state(primary: str) -> None:
    """A node that lost its memory learns its place from its peer, and never reuses a term."""
    survivor = plan.peer(primary)
    highest = watching.term(primary)
    agents.kill(primary)
    wait_for(lambda: watching.serves(survivor), f"{survivor} takes over", timeout_s=10)
    for path in (netns.node_dir(primary, "/var/lib") / "twinbeat").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run([*netns.enter(plan.namespace(primary)), "rm", "-rf", "/sys/fs/bpf/twinbeat"])
    agents.start(primary)
    assert agents.wait_fit() == survivor
    done = agents.cli(survivor, "force", "failover", "--yes", "--reason", "test")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: watching.serves(primary), f"{primary} is primary again", timeout_s=10)
    assert watching.term(primary) > highest


def test_forged_flood_moves_nobody(primary: str) -> None:
    target = plan.peer(primary)
    before = {name: watching.transitions(name) for name in plan.NODES}
    refused = watching.reasons(target)["auth"]
    frames = [flood.forged(target, "lan0", link_number=1)]
    with flood.Flood(target, "lan0", frames, seconds=3, counting_from=1 << 62) as running:
        sent = running.finish()
    assert sent > 100_000
    wait_for(
        lambda: watching.reasons(target)["auth"] - refused >= sent,
        f"all {sent} forged frames are counted",
        timeout_s=5,
    )
    assert watching.reasons(target)["auth"] - refused == sent
    assert {name: watching.transitions(name) for name in plan.NODES} == before


def test_replayed_flood_moves_nobody(primary: str) -> None:
    target = plan.peer(primary)
    before = {name: watching.transitions(name) for name in plan.NODES}
    with (
        capture.Capture(links=("lan0",), heartbeats=True, snap=256) as recorder,
        probe.Probe() as running,
    ):
        running.wait_for_time(0.2)
    frames = flood.recorded(recorder.finish(), target, "lan0")
    assert len(frames) > 20
    refused = watching.reasons(target)["replay"]
    with flood.Flood(target, "lan0", frames[:1000], seconds=2) as blasted:
        sent = blasted.finish()
    wait_for(
        lambda: watching.reasons(target)["replay"] - refused >= sent,
        f"all {sent} replayed frames are counted",
        timeout_s=5,
    )
    assert {name: watching.transitions(name) for name in plan.NODES} == before


def test_real_death_during_a_flood(primary: str) -> None:
    survivor = plan.peer(primary)
    frames = [flood.forged(survivor, "lan0", link_number=1)]
    with flood.Flood(survivor, "lan0", frames, seconds=5, counting_from=1 << 62):
        lab.cut(primary, silent=True)
        wait_for(lambda: watching.serves(survivor), f"{survivor} takes over", timeout_s=4)


def test_fenced_between_decision_and_announcement(primary: str) -> None:
    """The egress gate has the last word: what was decided before the fence is dropped after it."""
    virtual = bytes.fromhex(plan.vmac(plan.LAN_VRID).replace(":", ""))
    address = ipaddress.IPv4Address(plan.LAN_VIP).packed
    arp = bytes.fromhex("0001080006040001") + virtual + address + bytes(6) + address
    announcement = b"\xff" * 6 + virtual + b"\x08\x06" + arp
    port = netns.packet_socket(plan.namespace(primary), "lan0")
    before = watching.reasons(primary)["out_arp"] + watching.reasons(primary)["out_vmac"]
    with (
        port,
        capture.Capture(links=("lan0",)) as recorder,
        cutter.mapped(agents.pinned(primary, "gate")) as words,
    ):
        port.send(announcement)
        # What the kernel program does when it hears a claim; the engine doesn't know of it yet.
        words[GATE_FENCE] = words[GATE_TERM] + 2
        fenced_at = agents.boot_ns()
        with pytest.raises(OSError, match="No buffer space"):
            # How the kernel tells a sender that its frame was dropped on the way out.
            port.send(announcement)
        sent_at = agents.boot_ns()
        after = watching.reasons(primary)["out_arp"] + watching.reasons(primary)["out_vmac"]
        wait_for(agents.pair_is_fit, "the pair recovers", timeout_s=20)
    spoke = [
        frame.at_ns
        for frame in recorder.finish().by_owner(watching.VIPS, watching.VMACS)
        if frame.port == primary and frame.is_announcement()
    ]
    assert [at for at in spoke if at < fenced_at], "while the gate was open it went out"
    assert not [at for at in spoke if fenced_at < at < sent_at + watching.FLIGHT_NS]
    assert after > before, "and the drop was counted"
