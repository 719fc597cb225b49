# SPDX-License-Identifier: Apache-2.0
"""What a proxy keeps on the primary is on the other node after a takeover."""

from __future__ import annotations

import pytest
from twinlab import agents, lab, netns, plan, storm
from twinlab.shell import wait_for

from lab import watching
from lab.watching import Reign, ordered, steadily
from twinbeat.sessions.client import Sessions, SessionsError

LAB_OPTIONS = plan.Options(profile="balanced", settings=watching.PATIENT)
RULE = ("add", "persistence", "app", "kind=opaque", "timeout_s=600")


def sessions(node: str) -> Sessions:
    """As a proxy on that node asks."""
    path = netns.node_dir(node, "/run") / "twinbeat" / "sessions.sock"
    return Sessions("app", path=str(path))


def found(node: str, key: str) -> str:
    """What a node's worker knows of a key; empty while it can't say."""
    with sessions(node) as asked:
        try:
            return asked.get(key) or ""
        except SessionsError:
            return ""


def test_an_entry_outlasts_the_node_that_made_it(primary: str) -> None:
    storm.acquaint()
    for node in plan.NODES:
        agents.start_worker(node)
    wait_for(storm.in_step, "both workers in step", timeout_s=30)
    ordered(*RULE)
    steadily(outlasted)


def outlasted(reign: Reign) -> None:
    primary, survivor = reign.primary, plan.peer(reign.primary)
    with sessions(primary) as proxy:
        wait_for(lambda: took(proxy), f"{primary} takes entries", timeout_s=30)
        many = {f"cookie-{number}": f"s{number % 2}" for number in range(3000)}
        proxy.put(many)
        assert proxy.get("cookie-1") == "s1"
    with sessions(survivor) as proxy:
        wait_for(lambda: found(survivor, "cookie-1") == "s1", "the first of them", timeout_s=30)
        wait_for(lambda: found(survivor, "cookie-2999"), "the last of them", timeout_s=30)
        assert {each.key.decode(): each.server for each in proxy.list()} == many
        with pytest.raises(SessionsError, match="this node isn't"):
            proxy.put({"cookie-1": "s9"})
        assert reign.die() == survivor
        assert proxy.get_many(many) == list(many.values())
        wait_for(lambda: took(proxy), "the new primary takes entries", timeout_s=30)
    lab.heal(primary)
    agents.wait_fit()
    wait_for(lambda: found(primary, "cookie-1") == "s9", "who came back", timeout_s=20)


def took(proxy: Sessions) -> bool:
    try:
        proxy.put({"cookie-1": "s9"})
    except SessionsError:
        return False
    return True
