# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus at a pair that has everything: sessions, connections, log records, a witness.

Every query of the dashboard finds data here, and what outlasts a takeover fires its alerts: those
whose faults take long to cause are alerts_by_absence.py's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from twinlab import (
    agents,
    clients,
    lab,
    lasting,
    logwatch,
    netns,
    plan,
    processes,
    prometheus,
    storm,
    weblog,
)
from twinlab.shell import LabError, run, wait_for

from lab import watching
from lab.test_prometheus import fires
from lab.watching import ordered

CLIENT_METRICS = 9704
LAB_OPTIONS = plan.Options(
    profile="balanced",
    settings=(
        *watching.PATIENT,
        lasting.ENABLED,
        "keys.send=0",
        f'metrics.listen = "0.0.0.0:{prometheus.METRICS_PORT}"',
        'watchdog.mode = "auto"',
        'watchdog.device = "/dev/twinbeat-none"',
        'fence.agent = "/bin/false"',
        'witness.without="serve"',
        "witness.lease_ms=6000",
        f'isolation.references=["{plan.CLIENT_ADDRESS}"]',
        "isolation.interval_ms=300",
    ),
    witness=True,
)
DASHBOARD = plan.REPO_DIR / "deploy" / "grafana" / "twinbeat.json"
FOUND_S = 60.0
"""Other tests run beside this one. The slowest are rates, of two scrapes of what happened."""


@pytest.fixture(scope="module")
def third(pair: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[weblog.Third]:
    """The machine that fetches log records; Prometheus watches it and both nodes."""
    storm.pair()
    for node in plan.NODES:
        weblog.start_nginx(node)
    made = weblog.Third(
        tmp_path_factory.mktemp("third"), metrics=f"{plan.CLIENT_ADDRESS}:{CLIENT_METRICS}"
    )
    weblog.configure(made.fingerprint)
    wait_for(logwatch.replicating, "both nodes to replicate log records", timeout_s=30)
    made.write_conf()
    made.start()
    target = f"{plan.CLIENT_ADDRESS}:{CLIENT_METRICS}"
    prometheus.start(waits="0s", others={"logs": target})
    yield made
    prometheus.stop()
    processes.end(weblog.CLIENT)


def expressions() -> list[tuple[str, str]]:
    """Every panel's queries, with what Grafana would put in the place of its variables."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [
        (panel["title"], target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]
    found += [(each["name"], each["expr"]) for each in dashboard["annotations"]["list"]]
    values = {"$pair": ".*", "$__rate_interval": "10s", "$__interval": "60s"}
    for name, value in values.items():
        found = [(title, expr.replace(name, value)) for title, expr in found]
    return found


def test_every_query_of_every_panel_finds_data(third: weblog.Third) -> None:
    """While clients come, records are logged and fetched, and after the role has moved once."""
    wait_for(storm.agree, "both nodes have the same in force", timeout_s=60)
    ordered("force", "failover", "--yes", "--reason", "a change of role to look at")
    missing = expressions()
    assert len(missing) > 40

    def all_found() -> bool:
        clients.fetch(20)
        missing[:] = [each for each in missing if not prometheus.query(each[1])]
        return not missing

    with weblog.asking(rate=200):
        try:
            wait_for(all_found, "data", timeout_s=FOUND_S, interval_s=0.3)
        except LabError:
            pytest.fail(f"nothing is found by {missing}")


def test_what_is_wrong_with_a_query_would_be_seen(third: weblog.Third) -> None:
    assert prometheus.query("twinbeat_gone") == []
    with pytest.raises(LabError, match="parse error"):
        prometheus.query("rate(")


def test_more_clients_than_there_is_room_for_fire(third: weblog.Third) -> None:
    agents.wait_fit()
    rule = plan.rule_name(plan.PROBE_PORT)
    ordered("set", "persistence", rule, "limit=20")
    clients.send(200, 2000)
    fires("TwinbeatPersistenceFull")


def test_a_kernel_that_takes_no_rules_fires(third: weblog.Third) -> None:
    """nft refuses whatever it is given, on the secondary; within its own view of the disk."""
    node = plan.peer(agents.wait_fit())
    inside = netns.enter(plan.namespace(node))
    run([*inside, "mount", "--bind", "/bin/false", "/usr/sbin/nft"])
    try:
        ordered("set", "persistence", plan.rule_name(plan.HTTP_PORT), "timeout_s=1700")
        fires("TwinbeatPersistenceNotInKernel")
    finally:
        run([*inside, "umount", "/usr/sbin/nft"])


def test_what_is_sent_to_conntrackd_from_elsewhere_fires(third: weblog.Third) -> None:
    """From the clients' side, to the address at which the nodes tell each other."""
    agents.wait_fit()
    lasting.wait_synced()
    node = "a"
    address = plan.node_address(node, "ha0")
    way = ["ip", "route", "add", address, "via", plan.node_address(node, "lan0")]
    inside = netns.enter(plan.CLIENT_NS)
    run([*inside, *way])
    sends = (
        "import socket\n"
        "out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for _ in range(9): out.sendto(b'forged', ('{address}', 3780))\n"
    )
    try:
        run([*inside, "/usr/bin/python3", "-I", "-c", sends])
        fires("TwinbeatConnectionsForged")
    finally:
        run([*inside, *("del" if word == "add" else word for word in way)])


def test_a_node_that_reaches_nobody_fires(third: weblog.Third) -> None:
    node = agents.wait_fit()
    lab.cut_link(node, "lan0")
    try:
        fires("TwinbeatIsolated")
    finally:
        lab.heal(node)
