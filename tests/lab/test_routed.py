# SPDX-License-Identifier: Apache-2.0
"""Gateways in different subnets: heartbeats through routers, addresses announced by real BGP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twinlab import agents, lab, netns, plan, probe, routed
from twinlab.shell import run, wait_for

from lab import watching

SETTINGS = (
    "timers.hello_us=20000",
    "timers.dead_us=150000",
    "timers.verify_us=50000",
    "timers.stall_us=200000",
    "timers.lease_us=600000",
    "timers.attest_ms=2000",
    "timers.boot_wait_ms=2000",
)
LAB_OPTIONS = plan.Options(
    profile="routed", routed=True, links=routed.LINKS, settings=SETTINGS, ipv6=True
)

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("pair")]


@pytest.fixture
def announced(primary: str) -> str:
    """The primary of a fit pair, once the router leads to it."""
    wait_for(lambda: leads_to(primary), "the router to know", timeout_s=20)
    return primary


VIPS = [plan.LAN_VIP, plan.LAN_VIP6]


def leads_to(node: str) -> bool:
    """Whether the router sends what is for the shared addresses, of either family, to the node."""
    return all(routed.next_hop(vip) == node for vip in VIPS)


def on_lo(node: str) -> bool:
    shown = run([*netns.enter(plan.namespace(node)), "ip", "-o", "address", "show", "dev", "lo"])
    return f"{plan.LAN_VIP}/32" in shown and f"{plan.LAN_VIP6}/128" in shown


def ping6() -> bool:
    """Whether the client's router finds somebody who answers for the shared IPv6 address."""
    ask = f"ping -6 -q -c1 -W1 {plan.LAN_VIP6}; :"
    return "1 received" in run([*netns.enter(plan.CLIENT_NS), "sh", "-c", ask])


def test_heartbeats_pass_routers_and_one_router_only(announced: str) -> None:
    for node in plan.NODES:
        said = agents.show(node)
        assert said is not None
        assert [link["mode"] for link in said["links"]] == ["udp", "udp"]
        assert all(link["up"] and link["two_way"] for link in said["links"])
        own, peer = (said["links"][0][key].rpartition(".")[0] for key in ("local", "peer"))
        assert own != peer, "they would be neighbours"
        assert watching.reasons(node)["ttl"] == 0


def test_both_have_the_address_and_only_the_primary_tells_its_daemon(announced: str) -> None:
    other = plan.peer(announced)
    assert all(on_lo(node) for node in plan.NODES)
    assert routed.injected(announced) == VIPS
    assert routed.injected(other) == []
    assert ping6()
    said = agents.show(announced)
    assert said is not None
    assert said["routes"]["injected"] == said["routes"]["standing"] == 2
    assert said["routes"]["inject_table"] == routed.TABLE


@pytest.fixture
def misled(announced: str) -> Iterator[str]:
    """The secondary, to which the router leads by mistake."""
    other = plan.peer(announced)
    router = [*netns.enter(routed.ROUTER), "ip", "route"]
    wrong = [f"{plan.LAN_VIP}/32", "via", routed.node_address(other, "lan0"), "metric", "1"]
    run([*router, "add", *wrong])
    yield other
    run([*router, "del", *wrong])


def test_what_is_led_to_the_secondary_finds_its_gate_shut(misled: str) -> None:
    before = watching.reasons(misled)["in_vip"]
    with probe.Probe(interval_us=1000) as running:
        running.wait_for_time(0.3)
        record = running.finish()
    assert not any(record.answered_ns), "a closed gate let something through"
    wait_for(
        lambda: watching.reasons(misled)["in_vip"] - before >= len(record.sent_ns),
        "the kernel to count what it dropped",
        timeout_s=20,
    )


def test_a_death_moves_the_route_and_the_client_stays_served(announced: str) -> None:
    other = plan.peer(announced)
    seen = watching.watch(
        lambda: lab.cut(announced, silent=True),
        lambda: watching.serves(other),
        f"{other} takes over",
        interval_us=1000,
    )
    assert routed.next_hop(plan.LAN_VIP) == other
    wait_for(ping6, "IPv6 has moved as well", timeout_s=20)
    assert leads_to(other)
    took = watching.takeover(other, seen.before_ns)
    stamps = took["timeline"]
    assert seen.outage is not None
    assert seen.outage.first_good_ns is not None
    ours_ms = (stamps["routes_ns"] - seen.before_ns) / 1e6
    theirs_ms = (seen.outage.first_good_ns - stamps["routes_ns"]) / 1e6
    print(f"{seen.outage_ms():.0f} ms: ours {ours_ms:.0f}, the daemons' {theirs_ms:.0f}")
    assert stamps["gate_ns"] <= stamps["routes_ns"], "announced behind a shut gate"
    # The dead one's session lives on for seconds: that the router didn't wait for its end is what
    # the falling metric is for.
    assert theirs_ms < 3000
    seen.never_both(announced, other)
    lab.heal(announced)
    agents.wait_fit()
    wait_for(lambda: routed.injected(announced) == [], "the old route goes", timeout_s=20)
    assert routed.next_hop(plan.LAN_VIP) == other


def test_a_switch_over_takes_the_route_along(announced: str) -> None:
    other = plan.peer(announced)
    seen = watching.watch(
        lambda: agents.cli(announced, "force", "failover", "--yes", "--reason", "test"),
        lambda: watching.serves(other),
        f"{other} takes over",
        interval_us=1000,
    )
    assert routed.next_hop(plan.LAN_VIP) == other
    assert routed.injected(announced) == []
    assert seen.outage_ms() < 3000


def test_what_a_killed_agent_left_attracts_nobody_and_is_cleaned_up(announced: str) -> None:
    other = plan.peer(announced)
    seen = watching.watch(
        lambda: agents.kill(announced),
        lambda: watching.serves(other),
        f"{other} takes over",
        interval_us=1000,
    )
    # Its route still stands and its daemon still announces it, yet the newest reign wins.
    assert routed.injected(announced) == VIPS
    assert routed.next_hop(plan.LAN_VIP) == other
    assert seen.outage_ms() < 5000
    agents.start(announced)
    agents.wait_fit()
    assert routed.injected(announced) == []
    assert routed.next_hop(plan.LAN_VIP) == other


def test_an_uplink_that_loses_its_gate_takes_the_address_along(announced: str) -> None:
    name = plan.namespace(announced)
    run([*netns.enter(name), "tc", "qdisc", "del", "dev", "wan0", "clsact"])
    wait_for(lambda: not on_lo(announced), "no address where no gate stands", timeout_s=20)
    other = plan.peer(announced)
    wait_for(lambda: watching.serves(other), f"{other} takes over", timeout_s=30)
    wait_for(lambda: on_lo(announced), "the gate and the address are back", timeout_s=20)
    agents.wait_fit()


CONFIGURED = """
[[route]]
destination = "203.0.113.0/24"
gateway = "{router}"
[[route]]
destination = "198.51.100.0/24"
type = "blackhole"
table = 300
[[route]]
destination = "10.88.0.0/24"
type = "blackhole"
[[rule]]
priority = 1000
source = "198.51.100.0/24"
table = 300
[[hook]]
name = "note"
exec = "/etc/twinbeat/note"
events = ["primary", "secondary"]
[[hook]]
name = "hangs"
exec = "/etc/twinbeat/hangs"
events = ["primary"]
timeout_s = 1
"""
NOTE = '#!/bin/sh\necho "$TWINBEAT_EVENT $TWINBEAT_TERM $TWINBEAT_REASON" >>/run/note\n'
HANGS = "#!/bin/sh\nyes\nsleep 60\n"


@pytest.fixture
def equipped(announced: str) -> str:
    """The pair with routes, rules and hooks, reloaded into both."""
    for node in plan.NODES:
        etc = netns.node_dir(node, "/etc/twinbeat")
        for name, script in (("note", NOTE), ("hangs", HANGS)):
            (etc / name).write_text(script)
            (etc / name).chmod(0o755)
        router = routed.router_address(node, "wan0")
        text = agents.configuration(node, LAB_OPTIONS) + CONFIGURED.format(router=router)
        (etc / "twinbeat.toml").write_text(text)
        agents.reload(node)
        wait_for(
            lambda node=node: len((agents.show(node) or {}).get("hooks", [])) == 2,
            f"{node} to reload",
            timeout_s=30,
        )
    return announced


def ours(node: str) -> str:
    enter = netns.enter(plan.namespace(node))
    routes = run([*enter, "ip", "route", "show", "table", "all", "proto", "155"])
    return routes + run([*enter, "ip", "rule", "show"])


def test_routes_rules_and_hooks_follow_the_role(equipped: str) -> None:
    other = plan.peer(equipped)
    expected = ("203.0.113.0/24 via", "blackhole 198.51.100.0/24 table 300", "lookup 300")
    wait_for(lambda: all(one in ours(equipped) for one in expected), "a reload", timeout_s=20)
    assert not any(one in ours(other) for one in expected)
    done = agents.cli(equipped, "force", "failover", "--yes", "--reason", "test")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: all(one in ours(other) for one in expected), "the new one's", timeout_s=20)
    wait_for(lambda: not any(one in ours(equipped) for one in expected), "the old", timeout_s=20)
    said = agents.show(other)
    assert said is not None
    (problem,) = said["routes"]["problems"]
    assert problem["trouble"] == "conflict"
    assert f"10.88.0.0/24 via {routed.router_address(other, 'wan0')} dev wan0" in problem["why"]
    assert said["node"]["fit"], "a refused route costs nothing but itself"
    for node, event in ((other, "primary"), (equipped, "secondary")):
        note = netns.node_dir(node, "/run") / "note"
        wait_for(lambda note=note: note.exists() and note.read_text(), "the hook", timeout_s=30)
        assert note.read_text().split()[0] == event

    def flooder() -> dict[str, object]:
        hooks = (agents.show(other) or {}).get("hooks", [])
        return next((hook for hook in hooks if hook["name"] == "hangs" and hook["runs"]), {})

    hook = wait_for(flooder, "the hook that floods and hangs to be killed", timeout_s=30)
    assert hook["outcomes"] == {"timeout": 1}
    assert "killed" in str(hook["last_sentence"])
    shown = agents.cli(other, "show").stdout
    assert "conflict: blackhole 10.88.0.0/24" in shown
    assert "hook hangs took too long" in shown
