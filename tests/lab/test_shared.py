# SPDX-License-Identifier: Apache-2.0
"""The command line on a real pair: paired, changed, rotated, killed, both nodes stay the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from twinlab import agents, netns, plan, storm
from twinlab.shell import run, wait_for

from lab import watching
from lab.test_policy import said, suspicions, tell, transitions

LAB_OPTIONS = plan.Options(profile="balanced", settings=(*watching.CALM, "keys.send=0"))
DEATHS = 20
SEED = 20261123
VIP = "10.77.0.111"


@pytest.fixture
def paired(primary: str) -> str:
    """The primary of a pair whose nodes know each other, and are in step."""
    if not storm.in_step():
        storm.pair()
    return primary


def addresses(node: str) -> str:
    device = f"tbv{plan.LAN_VRID}"
    shown = run([*netns.enter(plan.namespace(node)), "ip", "-o", "addr", "show", "dev", device])
    return str(shown)


def test_a_command_on_either_node_is_in_force_on_both(paired: str) -> None:
    primary, secondary = paired, plan.peer(paired)
    before = transitions()
    assert "done on both nodes" in tell(
        primary, "add", "vip", VIP, "vrid", str(plan.LAN_VRID), "--strict"
    )
    assert all(VIP in addresses(node) for node in plan.NODES)
    assert "done on both nodes" in tell(secondary, "rm", "vip", VIP)
    assert not any(VIP in addresses(node) for node in plan.NODES)
    refused = agents.cli(secondary, "set", "vrid", str(plan.LAN_VRID), "interface=none")
    assert refused.returncode == 2, refused.stderr
    assert "are the same" in tell(secondary, "config", "diff", "--peer")
    shown = {node: tell(node, "show", "config") for node in plan.NODES}
    assert shown["a"] == shown["b"] == tell(secondary, "show", "config", "--node", "peer")
    assert tell(primary, "show", "sync").startswith("IN STEP")
    earlier = said(secondary)["configuration"]["generation"]
    tell(primary, "add", "vip", VIP, "vrid", str(plan.LAN_VRID))
    tell(secondary, "rollback", str(earlier))
    assert said(primary)["configuration"]["generation"] > earlier + 1
    assert not any(VIP in addresses(node) for node in plan.NODES)
    assert transitions() == before


def stands(node: str, state: str) -> bool:
    """Whether a node's `show files`, status and metric say so of the list."""
    seen = json.loads(tell(node, "show", "files", "--json"))["lists"]
    told = (said(node)["sync"] or {}).get("files", [])
    metric = f'twinbeat_files_state{{list="certs",pair="1",state="{state}"}} 1.0'
    return (
        [each["state"] for each in seen] == [state]
        and [each["state"] for each in told] == [state]
        and metric in agents.metrics(node)
    )


def test_what_becomes_of_listed_files_is_told_on_both(paired: str) -> None:
    primary, secondary = paired, plan.peer(paired)
    before = transitions()
    inside = {node: netns.node_dir(node, "/var/lib") / "certs" for node in plan.NODES}
    for directory in inside.values():
        directory.mkdir()
    tell(primary, "add", "file", "certs", "paths=/var/lib/certs")
    (inside[primary] / "one").write_text("from the primary")
    (inside[secondary] / "two").write_text("from the secondary")
    for node in plan.NODES:
        wait_for(
            lambda node=node: stands(node, "same") and (inside[node] / "one").exists(),
            f"{node} to say that the list is alike",
            timeout_s=20,
        )
        assert (inside[node] / "two").read_text() == "from the secondary"
        assert "files  certs" not in tell(node, "show")
        assert 'twinbeat_files_entries{list="certs",pair="1"} 3.0' in agents.metrics(node)
    os.mkfifo(inside[secondary] / "pipe")
    wait_for(lambda: stands(primary, "partly"), "the primary to say what is wrong", timeout_s=20)
    shown = tell(primary, "show")
    assert "files  certs: partly" in shown
    assert "! files certs: /var/lib/certs/pipe can't be read" in shown
    assert "  ! /var/lib/certs/pipe" in tell(primary, "show", "files")
    assert "  ! /var/lib/certs/pipe" in tell(primary, "show", "files", "--node", "peer")
    (inside[secondary] / "pipe").unlink()
    for node in plan.NODES:
        wait_for(lambda node=node: stands(node, "same"), f"{node} to have it alike", timeout_s=20)
    tell(primary, "rm", "file", "certs")
    assert transitions() == before


def unheard() -> int:
    """Heartbeats that were sent and not seen, or seen and refused."""
    total = 0
    for node in plan.NODES:
        counted = agents.counters(node)
        assert counted is not None
        total += sum(link["lost"] for link in counted["links"])
        total += sum(counted["reasons"].get(why, 0) for why in ("key", "auth", "replay"))
    return total


def test_keys_and_certificates_change_without_a_missed_heartbeat(paired: str) -> None:
    before = suspicions(), transitions(), unheard()
    done = agents.cli(plan.peer(paired), "keys", "rotate", timeout_s=90)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "both nodes send under key 2 and accept no other" in done.stdout
    assert (suspicions(), transitions(), unheard()) == before
    for node in plan.NODES:
        now = said(node)
        assert (now["configuration"]["send_key"], now["configuration"]["keys"]) == (2, [2])
        assert (now["peer"]["send_key"], now["peer"]["keys"]) == (2, [2])
    wait_for(storm.in_step, "both workers to be in step", timeout_s=30)
    for node in plan.NODES:
        for whose in ("own", "peer"):
            labels = f'{{pair="1",whose="{whose}"}} '
            name = f"twinbeat_sync_certificate_expires_timestamp_seconds{labels}"
            (line,) = [one for one in agents.metrics(node).splitlines() if one.startswith(name)]
            assert float(line.removeprefix(name)) > time.time() + 1000 * 86400


def held(node: str) -> list[str]:
    """The workers' connections of a node, with the device that they are bound to."""
    inside = netns.enter(plan.namespace(node))
    port = "( sport = :3008 or dport = :3008 )"
    shown = run([*inside, "ss", "-Htn", "state", "established", port])
    return [line for line in str(shown).splitlines() if line.strip()]


def test_bulk_data_takes_the_interface_that_is_named(paired: str) -> None:
    before = transitions()
    files = {node: agents.file_of(node).read_text() for node in plan.NODES}
    assert all("169.254." in "".join(held(node)) for node in plan.NODES), "the first link"
    try:
        for node, text in files.items():
            agents.reconfigure(node, text + '\n[sync]\ninterface = "lan0"\n')
        for node in plan.NODES:
            wait_for(
                lambda node=node: len(held(node)) == 1 and "%lan0:" in held(node)[0],
                f"{node} to be connected over lan0",
                timeout_s=20,
            )
        wait_for(storm.in_step, "both workers to be in step", timeout_s=20)
        assert "interface lan0" in tell(paired, "show", "sync")
    finally:
        for node, text in files.items():
            agents.reconfigure(node, text)
    wait_for(storm.in_step, "both workers to be in step", timeout_s=30)
    assert transitions() == before


STRANGER = """
import os, socket, ssl, sys
tls = ssl.create_default_context()
tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
for number in range(30):
    with socket.create_connection((sys.argv[1], 3008), timeout=5) as made:
        try:
            if number % 3 == 0:
                made.sendall(os.urandom(4096))
            elif number % 3 == 1:
                with tls.wrap_socket(made) as spoken:
                    spoken.sendall(b"\\xff\\xff\\xff\\xff" + os.urandom(4096))
                    spoken.recv(1)
            else:
                made.sendall(b"\\x16\\x03\\x01\\xff\\xff")
                continue
            made.recv(1)
        except OSError:
            pass
"""


def test_strangers_at_the_port_of_the_workers_are_counted_and_disturb_nobody(paired: str) -> None:
    """Noise, TLS without a certificate, a record that ends too soon."""
    primary, secondary = paired, plan.peer(paired)

    def refused(node: str) -> int:
        counted = agents.counters(node) or {}
        told: dict[str, int] = counted.get("sync_connection", {})
        return sum(count for what, count in told.items() if what.startswith("refused"))

    before = transitions(), suspicions()
    counted = refused(primary)
    address = said(primary)["links"][0]["local"]
    inside = netns.enter(plan.namespace(secondary))
    strangers = subprocess.Popen([*inside, sys.executable, "-c", STRANGER, address])
    try:
        assert "done on both nodes" in tell(
            primary, "add", "vip", VIP, "vrid", str(plan.LAN_VRID), "--strict"
        )
        assert "done on both nodes" in tell(secondary, "rm", "vip", VIP)
    finally:
        assert strangers.wait(timeout=90) == 0
    wait_for(lambda: refused(primary) >= counted + 20, "them to be counted", timeout_s=30)
    wait_for(storm.in_step, "both workers to be in step", timeout_s=20)
    assert (transitions(), suspicions()) == before


def test_whatever_dies_both_nodes_have_what_was_acknowledged(paired: str) -> None:
    done = storm.storm(range(DEATHS), SEED)
    done.settle()
    assert done.faults() == []
    assert sum(done.deaths.values()) == DEATHS
    states = {one.state.value for one in done.answers.values()}
    assert "done" in states, states
    assert len(done.agreed_s) == DEATHS, "each time both nodes came to agree again"
    assert max(done.agreed_s) < 30
