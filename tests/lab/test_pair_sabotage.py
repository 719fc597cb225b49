# SPDX-License-Identifier: Apache-2.0
"""Things that are done to a node rather than happen to it: hooks and addresses taken away, state
wiped, floods, and Twinbeat itself removed."""

from __future__ import annotations

import ipaddress
import re
import shutil
from typing import Self

import pytest
from twinlab import agents, capture, cutter, flood, lab, netns, plan, processes, timeline
from twinlab.shell import run, wait_for

from lab import watching

GATE_TERM, GATE_FENCE = 0, 2
"""Words of `struct tb_gate`: the term, and the fence below which every term is over."""


def test_restart_of_the_secondary_is_not_noticed(primary: str) -> None:
    other = plan.peer(primary)

    def restart() -> None:
        agents.terminate(other)
        agents.start(other)

    watching.unnoticed(restart, agents.pair_is_fit, "the pair is whole again", owner=primary)


def test_planned_restart_of_the_primary_is_not_noticed(primary: str) -> None:
    """The gate stays open under a longer lease; the new agent takes the reign up again."""
    reign = watching.term(primary)
    seen = watching.unnoticed(
        lambda: agents.restart(primary),
        agents.pair_is_fit,
        "the pair is whole again",
        owner=primary,
    )
    resumed = timeline.takeover(primary, seen.before_ns)
    assert (resumed["reason"], resumed["term"]) == ("resumed", reign)


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


LAN_VMAC = f"tbv{plan.LAN_VRID}"


@pytest.mark.parametrize(
    "by_hand",
    [
        ["link", "set", LAN_VMAC, "down"],
        ["link", "del", LAN_VMAC],
        ["address", "del", f"{plan.LAN_VIP}/32", "dev", LAN_VMAC],
    ],
    ids=["set down", "removed", "without address"],
)
def test_what_is_taken_away_by_hand_is_put_back(primary: str, by_hand: list[str]) -> None:
    """The gate stands, so nobody has to take over; the client hardly notices."""
    before = {name: watching.transitions(name) for name in plan.NODES}
    ip = [*netns.enter(plan.namespace(primary)), "ip"]

    def is_back() -> bool:
        link = run([*ip, "-o", "link"])
        up = [line for line in link.splitlines() if f" {LAN_VMAC}@" in line and ",UP" in line]
        return bool(up) and f" {plan.LAN_VIP}/32 " in run([*ip, "-o", "address"])

    seen = watching.watch(lambda: run([*ip, *by_hand]), is_back, "it is back", timeout_s=20)
    assert seen.outage is not None, "or nothing was taken away"
    assert seen.outage_ms() < 1000
    assert watching.serves(primary)
    assert agents.wait_fit() == primary
    assert {name: watching.transitions(name) for name in plan.NODES} == before


def test_wiped_state(primary: str) -> None:
    """A node that lost its memory learns its place from its peer, and never reuses a term."""
    survivor = plan.peer(primary)
    highest = watching.term(primary)
    agents.kill(primary)
    wait_for(lambda: watching.serves(survivor), f"{survivor} takes over", timeout_s=30)
    for path in (netns.node_dir(primary, "/var/lib") / "twinbeat").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run([*netns.enter(plan.namespace(primary)), "rm", "-rf", "/sys/fs/bpf/twinbeat"])
    agents.start(primary)
    assert agents.wait_fit() == survivor
    done = agents.cli(survivor, "force", "failover", "--yes", "--reason", "test")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: watching.serves(primary), f"{primary} is primary again", timeout_s=30)
    assert watching.term(primary) > highest


def test_forged_flood_moves_nobody(primary: str) -> None:
    target = plan.peer(primary)
    before = {name: watching.transitions(name) for name in plan.NODES}
    refused = watching.reasons(target)["auth"]
    frames = [flood.forged(target, "lan0", link_number=1)]
    with flood.Flood(target, "lan0", frames, seconds=60, counting_from=1 << 62) as running:
        wait_for(
            lambda: watching.reasons(target)["auth"] - refused > 200_000,
            "a flood of forged frames",
            timeout_s=60,
        )
        sent = running.stop()
    wait_for(
        lambda: watching.reasons(target)["auth"] - refused >= sent,
        f"all {sent} forged frames are counted",
        timeout_s=20,
    )
    assert watching.reasons(target)["auth"] - refused == sent
    assert {name: watching.transitions(name) for name in plan.NODES} == before


def test_replayed_flood_moves_nobody(primary: str) -> None:
    target = plan.peer(primary)
    before = {name: watching.transitions(name) for name in plan.NODES}
    with capture.Capture(links=("lan0",), heartbeats=True, snap=256) as recorder:
        heard = watching.received(target, "lan0")
        wait_for(
            lambda: watching.received(target, "lan0") - heard > 30,
            "heartbeats to record",
            timeout_s=30,
        )
    frames = flood.recorded(recorder.finish(), target, "lan0")
    assert len(frames) >= 30
    refused = watching.reasons(target)["replay"]
    with flood.Flood(target, "lan0", frames[:1000], seconds=60) as blasted:
        wait_for(
            lambda: watching.reasons(target)["replay"] - refused > 100_000,
            "a flood of replayed frames",
            timeout_s=60,
        )
        sent = blasted.stop()
    wait_for(
        lambda: watching.reasons(target)["replay"] - refused >= sent,
        f"all {sent} replayed frames are counted",
        timeout_s=20,
    )
    assert {name: watching.transitions(name) for name in plan.NODES} == before


def test_real_death_during_a_flood(primary: str) -> None:
    survivor = plan.peer(primary)
    frames = [flood.forged(survivor, "lan0", link_number=1)]
    refused = watching.reasons(survivor)["auth"]
    with flood.Flood(survivor, "lan0", frames, seconds=60, counting_from=1 << 62):
        wait_for(
            lambda: watching.reasons(survivor)["auth"] - refused > 20_000,
            "a flood of forged frames",
            timeout_s=60,
        )
        lab.cut(primary, silent=True)
        wait_for(lambda: watching.serves(survivor), f"{survivor} takes over", timeout_s=20)


def test_fenced_between_decision_and_announcement(primary: str) -> None:
    """The egress gate has the last word: what was decided before the fence is dropped after it."""
    virtual = bytes.fromhex(plan.vmac(plan.LAN_VRID).replace(":", ""))
    address = ipaddress.IPv4Address(plan.LAN_VIP).packed
    # The same but for the field that an announcement leaves open: they are told apart by it.
    early, late = (
        b"\xff" * 6
        + virtual
        + bytes.fromhex("08060001080006040001")
        + virtual
        + address
        + bytes([number] * 6)
        + address
        for number in (1, 2)
    )
    port = netns.packet_socket(plan.namespace(primary), "lan0")
    before = watching.reasons(primary)["out_arp"] + watching.reasons(primary)["out_vmac"]
    with (
        port,
        capture.Capture(links=("lan0",)) as recorder,
        cutter.mapped(agents.pinned(primary, "gate")) as words,
    ):
        port.send(early)
        # What the kernel program does when it hears a claim; the engine doesn't know of it yet.
        words[GATE_FENCE] = words[GATE_TERM] + 2
        with pytest.raises(OSError, match="No buffer space"):
            # How the kernel tells a sender that its frame was dropped on the way out.
            port.send(late)
        after = watching.reasons(primary)["out_arp"] + watching.reasons(primary)["out_vmac"]
        wait_for(agents.pair_is_fit, "the pair recovers", timeout_s=20)
    spoke = [frame.data for frame in recorder.finish().frames if frame.port == primary]
    assert [data for data in spoke if data.startswith(early)], "while the gate was open it went out"
    assert not [data for data in spoke if data.startswith(late)]
    assert after > before, "and the drop was counted"


class Transit:
    """Pings through a node to a server under their own addresses: no VIP in it.

    Which of them were answered is read from what `ping` says, so nothing here counts per second: a
    test goes on once more of them came back, and a gap in their numbers is one that did not.
    """

    def __init__(self, node: str, server: str) -> None:
        self._name = f"transit-{node}"
        self._server = server
        self._routes = {
            plan.CLIENT_NS: [f"{plan.server_address(server)}/32", plan.node_address(node, "lan0")],
            plan.namespace(server): [f"{plan.CLIENT_ADDRESS}/32", plan.node_address(node, "wan0")],
        }

    def __enter__(self) -> Self:
        for name, (to, via) in self._routes.items():
            run([*netns.enter(name), "ip", "route", "add", to, "via", via])
        processes.log_file(self._name).unlink(missing_ok=True)
        ping = ["ping", "-i", "0.01", plan.server_address(self._server)]
        processes.spawn(self._name, plan.CLIENT_NS, ping)
        return self

    def __exit__(self, *_: object) -> None:
        processes.end(self._name)
        for name, (to, via) in self._routes.items():
            run([*netns.enter(name), "ip", "route", "del", to, "via", via])

    def answered(self) -> list[int]:
        """The numbers of the pings that were answered, in the order of their answers."""
        said = processes.log_file(self._name).read_text()
        return [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl=.*\n", said)]

    def goes_on(self) -> None:
        """Wait until a number of pings were answered that were not sent yet."""
        enough = max(self.answered(), default=0) + 20
        wait_for(
            lambda: max(self.answered(), default=0) >= enough,
            f"answers of {self._server} to the client",
            timeout_s=30,
        )

    def lost(self) -> set[int]:
        """The pings without an answer though a later one was answered."""
        answered = self.answered()
        return set(range(1, max(answered))) - set(answered)


def traces(node: str) -> list[str]:
    """What there is of Twinbeat on a node's interfaces."""
    inside = netns.enter(plan.namespace(node))
    links = run([*inside, "ip", "-d", "-o", "link"]).splitlines()
    filters = run([*inside, "tc", "qdisc", "show"]).splitlines()
    vips = run([*inside, "ip", "-o", "address"]).splitlines()
    return [
        *(line for line in links if re.search(r"\b(tbv|tbw|tbctl)\d|xdp", line)),
        *(line for line in filters if "clsact" in line),
        *(line for line in vips if any(f" {vip}/" in line for vip in watching.VIPS)),
    ]


def test_traffic_that_is_not_for_a_vip_stays_as_it_was(primary: str) -> None:
    """Crashed, started anew, removed: what a node forwards under its own addresses gets through."""
    other = plan.peer(primary)
    assert all(traces(node) for node in plan.NODES)
    with Transit(primary, "s1") as one, Transit(other, "s2") as two:

        def both_go_on() -> None:
            one.goes_on()
            two.goes_on()

        both_go_on()
        agents.kill(primary)
        wait_for(lambda: watching.serves(other), f"{other} takes over", timeout_s=30)
        both_go_on()
        agents.start(primary)
        assert agents.wait_fit() == other
        both_go_on()
        assert (one.lost(), two.lost()) == (set(), set())
        for node in plan.NODES:
            agents.terminate(node)
        assert {node: traces(node) for node in plan.NODES} == {node: [] for node in plan.NODES}
        both_go_on()
        # Taking a clsact qdisc from an interface stops that interface's queue for about a
        # millisecond, and the kernel drops what would have left by it: once for each of two ports.
        assert len(one.lost()) <= 2
        assert len(two.lost()) <= 2
