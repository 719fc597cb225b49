# SPDX-License-Identifier: Apache-2.0
"""The shipped file for HAProxy: a client has the same server after a takeover as before."""

from __future__ import annotations

import csv
import socket
import subprocess
from functools import partial
from pathlib import Path

import pytest
from twinlab import agents, lab, netns, plan, processes
from twinlab.shell import LabError, run, wait_for

from lab import watching
from lab.watching import Reign, steadily

LAB_OPTIONS = plan.Options(profile="balanced", settings=watching.PATIENT)
SHIPPED = plan.REPO_DIR / "deploy" / "haproxy" / "twinbeat.cfg"
CLIENTS = [f"10.77.0.{host}" for host in range(101, 113)]
"""Enough that nobody gets all of them right by chance: 1 in 4,096."""
PORT = 8080


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each node's can be asked what it knows."""
    directory = tmp_path_factory.mktemp("haproxy")
    return {node: directory / f"{node}.sock" for node in plan.NODES}


@pytest.fixture(scope="module")
def haproxies(pair: None, doors: dict[str, Path]) -> None:
    """One on each node, with the file as it is shipped."""
    for client in CLIENTS:
        run([*netns.enter(plan.CLIENT_NS), "ip", "address", "add", f"{client}/24", "dev", "eth0"])
    for node in plan.NODES:
        more = doors[node].with_suffix(".cfg")
        more.write_text(f"global\n    stats socket {doors[node]}\n")
        command = ["haproxy", "-db", "-L", node, "-f", str(SHIPPED), "-f", str(more)]
        processes.spawn(f"haproxy-{node}", plan.namespace(node), command)
    try:
        for node in plan.NODES:
            wait_for(partial(knows_its_peer, node), f"haproxy of {node}", timeout_s=15)
    except LabError as error:
        tails = [processes.log_tail(f"haproxy-{node}") for node in plan.NODES]
        raise AssertionError(f"{error}: {tails}") from error


def knows_its_peer(node: str) -> bool:
    shown = run([*netns.enter(plan.namespace(node)), "ss", "-Htn", "state", "established"])
    return ":10230" in shown


def told(door: Path, command: str) -> list[str]:
    """What a node's haproxy says to a command."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(str(door))
        asked.sendall(f"{command}\n".encode())
        with asked.makefile("r") as answer:
            return answer.read().splitlines()


def clients_known(door: Path) -> int:
    """How many clients a node's haproxy has a server for."""
    return sum(" server_id=" in line for line in told(door, "show table servers"))


def servers_up(door: Path) -> bool:
    """Whether a node's haproxy takes both servers to live: one that was cut off didn't."""
    rows = csv.DictReader(told(door, "show stat -1 4 -1"))
    return [row["status"] for row in rows] == ["UP", "UP"]


def server_of(client: str) -> str:
    """Who answers a client, asked again until somebody does."""

    def asked() -> str:
        command = ["curl", "-sS", "--max-time", "2", "--interface", client]
        command.append(f"http://{plan.LAN_VIP}:{PORT}/")
        inside = netns.enter(plan.CLIENT_NS)
        return subprocess.run(
            [*inside, *command], capture_output=True, text=True, check=False
        ).stdout.strip()

    return wait_for(asked, f"an answer to {client}", timeout_s=15)


def test_clients_keep_their_servers_over_two_takeovers(
    primary: str, haproxies: None, doors: dict[str, Path]
) -> None:
    steadily(partial(two_takeovers, doors))


def two_takeovers(doors: dict[str, Path], reign: Reign) -> None:
    before = {client: server_of(client) for client in CLIENTS}
    assert set(before.values()) == set(plan.SERVERS)
    for _ in range(2):
        old, survivor = reign.primary, plan.peer(reign.primary)
        wait_for(
            lambda survivor=survivor: clients_known(doors[survivor]) == len(CLIENTS),
            f"{survivor} was told of all clients",
            timeout_s=30,
        )
        wait_for(partial(servers_up, doors[survivor]), f"{survivor} may use both", timeout_s=30)
        assert reign.die() == survivor
        assert {client: server_of(client) for client in CLIENTS} == before
        lab.heal(old)
        agents.wait_fit()
        wait_for(partial(knows_its_peer, old), f"haproxy of {old}", timeout_s=15)
