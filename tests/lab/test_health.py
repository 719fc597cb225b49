# SPDX-License-Identifier: Apache-2.0
"""Monitors in a real pair: what fails is named, and the role goes to who is better off."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from twinlab import agents, lab, netns, plan, processes
from twinlab.shell import run, wait_for

from lab import watching

PREFIX = "198.51.100.0/24"
CONFIG = """
[[linkset]]
name = "storage"
interfaces = ["red0", "red1"]

[[monitor]]
name = "upstream"
kind = "route"
prefix = "198.51.100.0/24"

[[monitor]]
name = "service"
kind = "process"
pidfile = "/etc/twinbeat/service.pid"
process = "sleep"

[[monitor]]
name = "check"
kind = "script"
command = ["/etc/twinbeat/check.sh"]
interval_ms = 100
timeout_ms = 400
fall = 2

[[monitor]]
name = "server"
kind = "address"
address = "10.88.0.21"
interface = "wan0"
probe = "neighbour"
interval_ms = 100
"""
LAB_OPTIONS = plan.Options(
    profile="balanced",
    # Health that comes back counts soon, also after many tests: how it is damped has its own tests.
    settings=(*watching.STEADY, "policy.recovery_hold_ms=100", "policy.recovery_hold_max_s=1"),
)
BOUND_MS = 200.0
"""What a shared machine may add to less than a millisecond."""
LINKWATCH_MS = 1000.0
"""The kernel tells of carriers once a second, unless there was none to tell of for as long."""
SCRIPT = """#!/bin/sh
if [ -e /etc/twinbeat/hang ]; then echo waiting; sleep 1000; fi
if [ -e /etc/twinbeat/flood ]; then exec yes; fi
if [ -e /etc/twinbeat/bad ]; then echo out of order; exit 3; fi
echo "$TWINBEAT_ROLE of $TWINBEAT_NODE"
"""


def ip(node: str, arguments: str) -> None:
    run([*netns.enter(plan.namespace(node)), "ip", *arguments.split()])


def start_service(node: str) -> None:
    pid = processes.spawn(f"service-{node}", plan.namespace(node), ["/bin/sleep", "1000"])
    (netns.node_dir(node, "/etc/twinbeat") / "service.pid").write_text(str(pid))


def equip(node: str) -> None:
    """What the monitors watch: two cables more, a route, a service, a script."""
    for cable in ("red0", "red1"):
        ip(node, f"link add {cable} type veth peer name far-{cable}")
        for end in (cable, f"far-{cable}"):
            ip(node, f"link set {end} up")
    ip(node, f"route add {PREFIX} via 10.88.0.21")
    start_service(node)
    etc = netns.node_dir(node, "/etc/twinbeat")
    script = etc / "check.sh"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    agents.reconfigure(node, agents.file_of(node).read_text() + CONFIG)


def monitors(node: str) -> dict[str, dict[str, Any]]:
    said = agents.show(node)
    return {one["name"]: one for one in said["monitors"]} if said else {}


def state(node: str, name: str) -> str:
    return str(monitors(node).get(name, {}).get("state", ""))


@pytest.fixture(scope="module")
def equipped(pair: None) -> None:
    for node in plan.NODES:
        equip(node)
    for node in plan.NODES:
        wait_for(
            lambda node=node: (
                all(one["state"] == "up" for one in monitors(node).values())
                and "check" in monitors(node)
            ),
            f"every monitor of {node} holds",
            timeout_s=20,
        )


def knows_servers(node: str) -> bool:
    """A port that lost its carrier forgot them: its node asks again, in some seconds at most."""
    shown = run([*netns.enter(plan.namespace(node)), "ip", "-j", "neigh", "show", "dev", "wan0"])
    known = {one["dst"] for one in json.loads(shown) if "lladdr" in one}
    return {plan.server_address(server) for server in plan.SERVERS} <= known


@pytest.fixture
def healthy(equipped: None, primary: str) -> Iterator[str]:
    """The primary of a pair in which everything holds; mended after the test."""
    for node in plan.NODES:
        wait_for(lambda node=node: knows_servers(node), f"{node} knows the servers", timeout_s=20)
    yield primary
    for node in plan.NODES:
        for cable in ("red0", "red1"):
            ip(node, f"link set far-{cable} up")
        ip(node, f"route replace {PREFIX} via 10.88.0.21")
        for switch in ("hang", "flood", "bad"):
            (netns.node_dir(node, "/etc/twinbeat") / switch).unlink(missing_ok=True)
        if processes.pid_of(f"service-{node}") is None:
            start_service(node)


def fails_over(
    node: str,
    cause: Callable[[], object],
    name: str,
    node_state: str,
    bound_ms: float = BOUND_MS,
) -> str:
    """Cause a failure at the primary; the other takes over. What the failed monitor says of it."""
    other = plan.peer(node)
    seen = watching.watch(cause, lambda: watching.serves(other), f"{other} takes over")
    transition = watching.takeover(other, seen.before_ns)
    assert transition["reason"] == "peer_yielded", watching.story(seen.before_ns)
    seen.never_both(node, other)
    assert seen.outage_ms() < bound_ms, "a role that is handed over costs a round trip"
    said = agents.show(node)
    assert said is not None
    assert said["node"]["state"] == node_state
    assert said["node"]["health"] == 0
    assert not said["node"]["fit"]
    failed = [one["name"] for one in said["node"]["components"] if not one["healthy"]]
    assert name in failed
    return str(monitors(node)[name]["reason"])


def test_what_is_watched_without_being_listed(healthy: str) -> None:
    shown = monitors(healthy)
    for name in ("lan0", "wan0"):
        assert (shown[name]["kind"], shown[name]["state"]) == ("interface", "up")
        assert shown[name]["weight"] == 1000
    assert "ha0" not in shown, "the cable between the nodes says nothing of this one"
    assert shown["red0"]["linkset"] == "storage"
    assert shown["check"]["output"] in {f"primary of {healthy}", f"secondary of {healthy}"}
    told = agents.cli(healthy, "show", "monitors")
    assert told.returncode == 0, told.stderr
    assert "upstream (route 198.51.100.0/24, weight 1000): up" in told.stdout


def test_one_member_of_a_set_moves_nobody(healthy: str) -> None:
    before = {node: watching.transitions(node) for node in plan.NODES}
    ip(healthy, "link set far-red0 down")
    wait_for(lambda: state(healthy, "red0") == "failed", "its carrier is missed", timeout_s=20)
    assert monitors(healthy)["red0"]["reason"] == "it has no carrier"
    said = agents.show(healthy)
    assert said is not None
    assert (said["node"]["state"], said["node"]["health"], said["node"]["fit"]) == (
        "up",
        1000,
        True,
    )
    assert state(healthy, "storage") == "up"
    assert {node: watching.transitions(node) for node in plan.NODES} == before


def test_all_members_of_a_set_do(healthy: str) -> None:
    def cut_both() -> None:
        for cable in ("red0", "red1"):
            ip(healthy, f"link set far-{cable} down")

    assert fails_over(healthy, cut_both, "storage", "partial_fail") == "every member failed"


def test_a_port_that_loses_its_carrier(healthy: str) -> None:
    reason = fails_over(
        healthy,
        lambda: lab.cut_link(healthy, "wan0", silent=False),
        "wan0",
        "partial_fail",
        LINKWATCH_MS + BOUND_MS,
    )
    assert reason == "it has no carrier"


def test_a_route_withdrawn(healthy: str) -> None:
    reason = fails_over(
        healthy, lambda: ip(healthy, f"route del {PREFIX}"), "upstream", "route_monitor_fail"
    )
    assert reason == f"no route to {PREFIX} in any table"


def test_a_route_missing_on_both_moves_nobody(healthy: str) -> None:
    """Ties keep the primary: the peer is no better."""
    other = plan.peer(healthy)
    ip(other, f"route del {PREFIX}")
    wait_for(lambda: state(other, "upstream") == "failed", "the peer misses it", timeout_s=20)
    before = {node: watching.transitions(node) for node in plan.NODES}
    ip(healthy, f"route del {PREFIX}")
    wait_for(lambda: state(healthy, "upstream") == "failed", "the primary misses it", timeout_s=20)
    wait_for(
        lambda: (agents.show(other) or {})["peer"]["health"] == 0,
        "the peer knows of it",
        timeout_s=20,
    )
    assert {node: watching.transitions(node) for node in plan.NODES} == before
    assert watching.serves(healthy)


def test_a_process_killed(healthy: str) -> None:
    reason = fails_over(
        healthy,
        lambda: processes.send_signal(f"service-{healthy}", signal.SIGKILL),
        "service",
        "partial_fail",
    )
    assert "ended; pid" in reason or "does not run" in reason


@pytest.mark.parametrize(
    ("switch", "said"),
    [
        ("bad", "exit code 3: out of order"),
        ("hang", "it hung for 0.4 s and was killed with all it had started"),
        ("flood", "it floods its output (more than 64 KiB) and was killed"),
    ],
)
def test_a_script_that_fails_hangs_or_floods(healthy: str, switch: str, said: str) -> None:
    etc = netns.node_dir(healthy, "/etc/twinbeat")
    before = agents.counters(healthy)
    assert before is not None
    reason = fails_over(healthy, (etc / switch).touch, "check", "partial_fail")
    assert reason == said
    counted = agents.counters(healthy)
    assert counted is not None
    grew = {
        key: _of(counted, "check")[key] - _of(before, "check")[key]
        for key in ("failures", "timeouts")
    }
    assert grew["failures"] >= 2, "`fall` failures in a row, not one"
    assert bool(grew["timeouts"]) is (switch == "hang")
    log = processes.log_file(agents.process_name(healthy)).read_text()
    assert said in log


def _of(counters: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in counters["monitors"] if one["name"] == name)


@pytest.fixture
def limited(healthy: str) -> Iterator[str]:
    """The primary of a pair that may flip twice."""
    before = {node: agents.file_of(node).read_text() for node in plan.NODES}
    for node, text in before.items():
        more = text.replace("[policy]\n", "[policy]\nmax_flips = 2\nflip_window_s = 600\n")
        assert "was reloaded" in agents.reconfigure(node, more)
    yield healthy
    for node, text in before.items():
        agents.reconfigure(node, text)


def test_a_primary_that_flipped_often_enough_keeps_the_role(limited: str) -> None:
    """Until all is well on both nodes; the failure after that begins a new count."""
    other, begin = plan.peer(limited), agents.boot_ns()
    falls_ill(limited)
    wait_for(partial(watching.serves, other), f"{limited} passes it on", timeout_s=20)
    for node in plan.NODES:
        flips_are_counted(node, 1, "recovery", "the first counts for another 9m 5")
        ends_s = value_of(node, "twinbeat_flip_window_ends_timestamp_seconds")
        assert 580 < ends_s - time.time() <= 600
    falls_ill(other)
    recovers(limited)
    wait_for(partial(watching.serves, limited), f"{other} passes it back", timeout_s=20)
    falls_ill(limited)
    before = {node: watching.transitions(node) for node in plan.NODES}
    recovers(other)
    said = agents.show(limited)
    assert said is not None
    assert (said["node"]["health"], said["peer"]["health"]) == (0, 1000)
    assert said["node"]["sticky"], watching.story(begin)
    assert "sticky_primary" in [one["code"] for one in said["warnings"]]
    assert 'twinbeat_sticky_primary{pair="1"} 1.0' in agents.metrics(limited)
    shown = agents.cli(limited, "show", "node").stdout
    assert "the role moved 2 times for the sake of health (sticky)" in shown
    flips_are_counted(limited, 2, "recovery", "  a new count begins with the first failure")
    assert "twinbeat_flip_window_ends" not in agents.metrics(limited), "no time ends it"
    log = processes.log_tail(agents.process_name(limited), 10)
    assert f"{limited} keeps it now, whatever its health" in log
    assert watching.serves(limited)
    assert {node: watching.transitions(node) for node in plan.NODES} == before
    recovers(limited)
    assert not is_sticky(limited)
    flips_are_counted(limited, 2, "next-failure", "the next failure begins a new count")
    assert value_of(limited, "twinbeat_flips_end_with_next_failure") == 1
    falls_ill(limited)
    wait_for(partial(watching.serves, other), f"{limited} passes it on again", timeout_s=20)


@pytest.fixture
def unsafe(healthy: str) -> Iterator[str]:
    """The primary of a pair without fail-safe."""
    before = {node: agents.file_of(node).read_text() for node in plan.NODES}
    for node, text in before.items():
        more = text.replace("[policy]\n", "[policy]\nfail_safe = false\n")
        assert "was reloaded" in agents.reconfigure(node, more)
    yield healthy
    for node, text in before.items():
        agents.reconfigure(node, text)


def test_of_two_that_fail_the_last_primary_serves_on(healthy: str) -> None:
    """With fail-safe, whichever failed first."""
    other = plan.peer(healthy)
    falls_ill(other)
    falls_ill(healthy)
    assert watching.serves(healthy)
    recovers(other)
    wait_for(partial(watching.serves, other), f"{healthy} passes it on", timeout_s=20)
    falls_ill(other)
    assert watching.serves(other)
    assert agents.roles() == {healthy: "secondary", other: "primary"}


def test_without_fail_safe_nobody_serves_where_both_fail(unsafe: str) -> None:
    other = plan.peer(unsafe)
    falls_ill(other)
    assert watching.serves(unsafe)
    falls_ill(unsafe)
    wait_for(lambda: not watching.serves(unsafe), "it gives up", timeout_s=20)
    wait_for(
        lambda: agents.roles() == {unsafe: "secondary", other: "secondary"},
        "nobody serves",
        timeout_s=20,
    )
    assert agents.history(unsafe)[-1]["reason"] == "unhealthy"
    recovers(other)
    wait_for(partial(watching.serves, other), f"{other} serves", timeout_s=30)


@contextlib.contextmanager
def staying_secondary(node: str) -> Iterator[None]:
    """A node that never claims, as its peer knows."""

    def told(admin: str) -> None:
        word = "secondary" if admin == "stay-secondary" else "off"
        assert agents.cli(node, "stay", word).returncode == 0
        wait_for(
            lambda: (agents.show(plan.peer(node)) or {})["peer"]["admin"] == admin,
            f"the peer hears that {node} is {admin}",
            timeout_s=20,
        )

    told("stay-secondary")
    try:
        yield
    finally:
        told("enabled")


def test_an_unfit_primary_serves_on_where_nobody_else_may(healthy: str) -> None:
    """The last line of the truth table, and what follows when the peer may again."""
    other = plan.peer(healthy)
    with staying_secondary(other):
        falls_ill(healthy)
        assert watching.serves(healthy)
        log = processes.log_tail(agents.process_name(healthy), 10)
        assert f"{healthy} isn't healthy, but serves on: {other} is no better, or can't" in log
    wait_for(partial(watching.serves, other), f"{healthy} passes it on", timeout_s=20)


def test_without_fail_safe_an_unfit_primary_doesn_t(unsafe: str) -> None:
    with staying_secondary(plan.peer(unsafe)):
        falls_ill(unsafe)
        wait_for(
            lambda: set(agents.roles().values()) == {"secondary"}, "nobody serves", timeout_s=20
        )
    wait_for(partial(watching.serves, plan.peer(unsafe)), "its peer does, now", timeout_s=30)


@pytest.fixture
def asking(healthy: str) -> Iterator[str]:
    """The primary; its monitors may be changed."""
    before = agents.file_of(healthy).read_text()
    yield healthy
    agents.reconfigure(healthy, before)


def test_an_address_that_doesn_t_answer_makes_the_worse_node_by_its_weight(asking: str) -> None:
    other = plan.peer(asking)
    text = agents.file_of(asking).read_text()
    silent = text.replace('"10.88.0.21"\n', '"10.88.0.77"\nweight = 100\n')
    assert "was reloaded" in agents.reconfigure(asking, silent)
    wait_for(partial(watching.serves, other), f"{other} takes over", timeout_s=20)
    said = agents.show(asking)
    assert said is not None
    node = said["node"]
    assert (node["health"], node["state"], node["fit"]) == (900, "up", True)
    assert monitors(asking)["server"]["state"] == "failed"
    assert 'twinbeat_monitor_up{kind="address",monitor="server",pair="1"} 0.0' in agents.metrics(
        asking
    )


@pytest.mark.parametrize("probe", ["neighbour", "icmp"])
def test_a_next_hop_that_doesn_t_answer_takes_its_route_along(asking: str, probe: str) -> None:
    text = agents.file_of(asking).read_text()
    prefix = f'prefix = "{PREFIX}"\n'
    asked = text.replace(prefix, f'{prefix}probe = "{probe}"\ninterval_ms = 100\n')
    assert "was reloaded" in agents.reconfigure(asking, asked)
    wait_for(lambda: state(asking, "upstream") == "up", "the next hop answers", timeout_s=20)
    reason = fails_over(
        asking,
        lambda: ip(asking, f"route replace {PREFIX} via 10.88.0.77"),
        "upstream",
        "route_monitor_fail",
    )
    assert "10.88.0.77" in reason


def test_a_route_may_be_missing_for_a_while_after_the_role_came(asking: str) -> None:
    text = agents.file_of(asking).read_text()
    prefix = f'prefix = "{PREFIX}"\n'
    patient = text.replace(prefix, f'{prefix}start_delay_s = 4\nwhen = "primary"\n')
    other = plan.peer(asking)
    assert "was reloaded" in agents.reconfigure(asking, patient)
    falls_ill(asking)
    wait_for(partial(watching.serves, other), f"{other} takes over", timeout_s=20)
    ip(asking, f"route del {PREFIX}")
    assert state(asking, "upstream") == "idle"
    recovers(asking)
    came = agents.boot_ns()
    falls_ill(other)
    wait_for(partial(watching.serves, asking), f"{asking} has the role", timeout_s=20)
    assert state(asking, "upstream") == "pending", "found missing, and excused"
    recovers(other)
    wait_for(partial(watching.serves, other), "it is over", timeout_s=20)
    assert agents.boot_ns() > came + 4e9
    assert state(asking, "upstream") == "idle", "the role is gone"
    log = processes.log_tail(agents.process_name(asking), 40)
    assert f"monitor upstream (route) failed: no route to {PREFIX}" in log


def flips_are_counted(node: str, count: int, reset: str, shown: str) -> None:
    said = agents.show(node)
    assert said is not None
    assert (said["node"]["flips"], said["node"]["flips_reset"]) == (count, reset)
    assert 0 < said["node"]["flips_since_ns"] < said["now_ns"]
    for command in (("show", "node"), ("stat",)):
        assert shown in agents.cli(node, *command).stdout


def value_of(node: str, metric: str) -> float:
    """Of a metric without labels of its own."""
    samples = (line.split() for line in agents.metrics(node).splitlines())
    return next(float(one[1]) for one in samples if one[0] == metric + '{pair="1"}')


def falls_ill(node: str) -> None:
    (netns.node_dir(node, "/etc/twinbeat") / "bad").touch()
    wait_for(partial(counts, node, 0), f"{node} is ill", timeout_s=20)


def recovers(node: str) -> None:
    (netns.node_dir(node, "/etc/twinbeat") / "bad").unlink()
    wait_for(partial(counts, node, 1000), f"{node} is well", timeout_s=30)


def counts(node: str, health: int) -> bool:
    """Whether this is the node's health, and the peer knows of it."""
    own, other = agents.show(node), agents.show(plan.peer(node))
    if own is None or other is None:
        return False
    return bool(own["node"]["health"] == other["peer"]["health"] == health)


def is_sticky(node: str) -> bool:
    said = agents.show(node)
    return bool(said and said["node"]["sticky"])


def test_a_reload_with_mistakes_changes_nothing(healthy: str) -> None:
    file = agents.file_of(healthy)
    good = file.read_text()
    wrong = good.replace('"red0", "red1"', '"rad0", "rad1"').replace("check.sh", "chick.sh")
    wrong = wrong.replace(f'prefix = "{PREFIX}"', 'prefix = "198.51.100.7/24"')
    before = monitors(healthy)
    try:
        file.write_text(wrong)
        done = agents.cli(healthy, "config", "check")
        assert done.returncode == 2
        for complaint in ("rad0", "Did you mean `red0`?", "chick.sh", "198.51.100.0/24"):
            assert complaint in done.stdout + done.stderr
        told = processes.log_file(agents.process_name(healthy))
        agents.reload(healthy)
        wait_for(lambda: "chick.sh" in told.read_text(), "the mistake is told", timeout_s=20)
    finally:
        file.write_text(good)
    after = monitors(healthy)
    assert {name: one["since_ns"] for name, one in after.items()} == {
        name: one["since_ns"] for name, one in before.items()
    }
    assert watching.serves(healthy)
