# SPDX-License-Identifier: Apache-2.0
"""What a living pair is told to do: carried out once, or refused with a code and nothing done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from twinlab import agents, lab, netns, plan, processes
from twinlab.shell import run, wait_for

from lab import watching

LAB_OPTIONS = plan.Options(profile="balanced", settings=watching.STEADY)
BOUND_MS = 200.0
"""What a shared machine may add to the round trip that a change of roles on purpose costs."""
CLAIMS_WITHIN_S = 1.0
"""Who may claim has done so long before: dead, verify, a lease, and as much again."""


def tell(node: str, *words: str) -> str:
    """Have the node told something; what it said. Fails if it refused."""
    done = agents.cli(node, *words)
    assert done.returncode == 0, f"{' '.join(words)} at {node}: {done.stdout}{done.stderr}"
    return done.stdout


def refused(node: str, code: str, *words: str) -> None:
    """It is, with this code, and nothing changes."""
    before = {each: watching.transitions(each) for each in plan.NODES}
    done = agents.cli(node, *words)
    assert done.returncode in (1, 4), "by the node's state, or by policy"
    assert f"refused ({code}): " in done.stderr
    assert {each: watching.transitions(each) for each in plan.NODES} == before


def said(node: str) -> dict[str, Any]:
    status = agents.show(node)
    assert status is not None, f"the agent of {node} does not answer"
    return status


def peer_is_told(node: str, admin: str) -> bool:
    return bool(said(plan.peer(node))["peer"]["admin"] == admin)


@pytest.fixture(autouse=True)
def _told_nothing(pair: None) -> Iterator[None]:
    """Whatever a node was told to be, it is no more after the test."""
    yield
    for node in plan.NODES:
        wait_for(partial(agents.show, node), f"{node} answers", timeout_s=20)
        admin = said(node)["node"]["admin"]
        if admin != "enabled":
            tell(node, *(("enable",) if admin == "disabled" else ("stay", "off")))


def conflict(node: str) -> str:
    return str(said(node)["node"]["conflict"])


def http(node: str, path: str) -> int:
    """The status code of the node's own HTTP interface."""
    inside = netns.enter(plan.namespace(node))
    asked = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5"]
    return int(run([*inside, *asked, f"http://127.0.0.1:9703{path}"]))


FAILOVER = ("force", "failover", "--yes", "--reason", "a test")


def test_who_is_to_stay_secondary_never_claims(primary: str) -> None:
    other = plan.peer(primary)
    tell(other, "stay", "secondary", "--reason", "a test")
    wait_for(partial(peer_is_told, other, "stay-secondary"), "its peer hears of it", timeout_s=20)
    refused(primary, "peer_never_claims", *FAILOVER)
    refused(other, "stay_secondary", *FAILOVER)
    refused(primary, "peer_never_claims", *FAILOVER, "--even-if-unfit")
    lab.cut(primary, silent=True)
    wait_for(lambda: said(other)["peer"]["watch"] == "dead", "its death is seen", timeout_s=30)
    begun = agents.boot_ns()
    wait_for(lambda: agents.boot_ns() > begun + CLAIMS_WITHIN_S * 1e9, "its time", timeout_s=20)
    assert said(other)["node"]["role"] == "secondary"
    assert 'twinbeat_claims_refused_total{pair="1",reason="not_permitted"} 1.0' in agents.metrics(
        other
    )
    log = processes.log_tail(agents.process_name(other), 20)
    assert f"{other} was told to stay secondary" in log
    lab.heal(primary)
    wait_for(partial(watching.serves, primary), f"{primary} serves", timeout_s=20)
    tell(other, "stay", "off")


def test_who_is_disabled_hands_over_and_takes_no_part(primary: str) -> None:
    other = plan.peer(primary)
    seen = watching.watch(
        lambda: tell(primary, "disable", "--yes", "--reason", "new disks"),
        partial(watching.serves, other),
        f"{other} takes over",
    )
    seen.never_both(primary, other)
    assert seen.outage_ms() < BOUND_MS
    wait_for(lambda: said(primary)["node"]["role"] == "disabled", "it takes no part", timeout_s=20)
    assert said(primary)["node"]["state"] == "disabled"
    last = agents.history(primary)[-1]
    assert (last["reason"], "new disks" in last["sentence"]) == ("disabled", True)
    refused(other, "peer_never_claims", *FAILOVER)
    refused(primary, "disabled", *FAILOVER)
    tell(primary, "enable")
    agents.wait_fit()


def test_a_yield_and_its_reason(primary: str) -> None:
    other = plan.peer(primary)
    refused(other, "not_primary", "force", "yield", "--yes")
    tell(primary, "force", "yield", "--yes", "--reason", "a new fan")
    wait_for(partial(watching.serves, other), f"{other} takes over", timeout_s=20)
    last = agents.history(primary)[-1]
    assert (last["reason"], "a new fan" in last["sentence"]) == ("told_to_yield", True)


def test_a_failover_is_carried_out_once_per_request(primary: str) -> None:
    other = plan.peer(primary)
    body = json.dumps({"request_id": "once-only", "reason": "a test"})
    asked = ["curl", "-sS", "--max-time", "20", "--unix-socket", agents.socket_path(primary)]
    for _ in range(2):
        answer = json.loads(run([*asked, "--json", body, "http://localhost/v1/failover"]))
        assert answer["result"]["code"] == "switched_over", answer
        assert watching.serves(other)
        counted = {node: watching.transitions(node) for node in plan.NODES}
    assert {node: watching.transitions(node) for node in plan.NODES} == counted
    assert watching.serves(other), "not moved to and fro"


def test_a_shared_configuration_that_differs_refuses_until_somebody_insists(primary: str) -> None:
    other = plan.peer(primary)
    before = agents.file_of(other).read_text()
    try:
        agents.reconfigure(other, before.replace("[policy]\n", "[policy]\nfail_safe = false\n"))
        wait_for(lambda: said(primary)["configuration"]["mismatch"], "it is seen", timeout_s=20)
        refused(primary, "digest_differs", *FAILOVER)
        refused(other, "digest_differs", *FAILOVER)
        tell(primary, *FAILOVER, "--even-if-unfit")
        wait_for(partial(watching.serves, other), f"{other} takes over", timeout_s=20)
    finally:
        agents.reconfigure(other, before)


def test_two_that_were_told_to_stay_primary_apart_are_named_when_they_meet(primary: str) -> None:
    other = plan.peer(primary)
    lab.cut(other, silent=True)
    wait_for(lambda: said(primary)["peer"]["watch"] == "dead", f"{other} isn't heard", timeout_s=30)
    for node in plan.NODES:
        tell(node, "stay", "primary")
    lab.heal(other)
    for node in plan.NODES:
        wait_for(partial(conflict, node), "it is named", timeout_s=20)
    (winner,) = {said(node)["node"]["conflict"] for node in plan.NODES}
    wait_for(partial(watching.serves, winner), f"{winner} serves", timeout_s=20)
    for node in plan.NODES:
        assert "stay_primary_conflict" in [one["code"] for one in said(node)["warnings"]]
        assert 'twinbeat_stay_primary_conflict{pair="1"} 1.0' in agents.metrics(node)
        log = processes.log_tail(agents.process_name(node), 40)
        assert f"were both told to stay primary: {winner} goes first" in log
        assert f"{winner} goes first" in agents.cli(node, "show", "node").stdout
    tell(plan.peer(winner), "stay", "off")
    wait_for(lambda: not conflict(winner), "it is over", timeout_s=20)
    tell(winner, "stay", "off")


@pytest.mark.parametrize("role", ["primary", "secondary"])
def test_a_script_and_a_load_balancer_are_told_by_a_code(primary: str, role: str) -> None:
    serving = role == "primary"
    node = primary if serving else plan.peer(primary)
    assert agents.cli(node, "is-primary").returncode == (0 if serving else 1)
    assert agents.cli(node, "is-healthy").returncode == 0
    checked = agents.cli(node, "check")
    assert (checked.returncode, checked.stdout.split(" - ")[0]) == (0, "TWINBEAT OK"), checked
    assert (http(node, "/primary"), http(node, "/secondary")) == (
        (200, 503) if serving else (503, 200)
    )
    for path in ("/health", "/live", "/ready"):
        assert http(node, path) == 200
    agents.kill(node)
    assert agents.cli(node, "is-primary").returncode == 3
    assert agents.cli(node, "check").returncode == 3
