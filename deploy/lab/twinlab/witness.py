# SPDX-License-Identifier: Apache-2.0
"""The lab's witness: a real etcd in a namespace of its own, which both gateways reach over wan0."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal

from twinlab import etcd, netns, plan, processes
from twinlab.shell import LabError, run, wait_for

NAMESPACE = plan.WITNESS_NS
ADDRESS = "10.88.0.31"
MAC = "02:88:00:00:03:01"
PORT = 2379
PROCESS = "etcd"
HOST_NAME = "witness"
DIRECTORY = plan.RUN_DIR / "witness"
FILES = {
    "ca_file": "witness-ca.crt",
    "cert_file": "witness-node.crt",
    "key_file": "witness-node.key",
}


def papers() -> etcd.Papers:
    return etcd.Papers(DIRECTORY / "papers")


def start() -> None:
    """Make the certificates and start etcd; returns when it answers."""
    etcd.make_papers(papers().directory, [ADDRESS])
    run_etcd()


def run_etcd() -> None:
    """Start the server on what data there is, and wait until it answers."""
    command = etcd.command(DIRECTORY / "data", papers(), ADDRESS, PORT, PORT + 1)
    processes.spawn(PROCESS, NAMESPACE, command)
    wait_for(
        healthy,
        f"etcd to answer ({processes.log_tail(PROCESS, 3)})",
        timeout_s=20,
        interval_s=0.05,
    )


def healthy() -> bool:
    """Whether it says so itself; asked by curl from its own namespace, with a node's papers."""
    files = papers()
    with contextlib.suppress(LabError, ValueError):
        said = run(
            [
                *netns.enter(NAMESPACE),
                *["curl", "-s", "--max-time", "1", "--cacert", str(files.ca)],
                *["--cert", str(files.certificate("node")), "--key", str(files.key("node"))],
                f"https://{ADDRESS}:{PORT}/health",
            ]
        )
        return bool(json.loads(said)["health"] == "true")
    return False


def stop() -> None:
    """The server ends."""
    processes.end(PROCESS)


def hang() -> None:
    """SIGSTOP: its kernel takes connections and requests, and nobody answers."""
    pid = processes.send_signal(PROCESS, signal.SIGSTOP)
    wait_for(lambda: processes.state_of(pid) == "T", "etcd to stop", timeout_s=5)


def unhang() -> None:
    processes.send_signal(PROCESS, signal.SIGCONT)


def mend() -> None:
    """Whatever a test did to it is undone."""
    pid = processes.pid_of(PROCESS)
    if pid is None:
        run_etcd()
    elif processes.state_of(pid) == "T":
        unhang()
        wait_for(healthy, "etcd to answer again", timeout_s=20, interval_s=0.05)


def table() -> list[str]:
    """The lines of [witness] in a node's configuration."""
    return [
        'kind = "etcd"',
        f'endpoints = ["https://{ADDRESS}:{PORT}"]',
        *(f'{key} = "/etc/twinbeat/{name}"' for key, name in FILES.items()),
    ]


def hand_out(node: str) -> None:
    """Put a node's certificates where its configuration says."""
    files, etc = papers(), netns.node_dir(node, "/etc/twinbeat")
    sources = (files.ca, files.certificate("node"), files.key("node"))
    for source, name in zip(sources, FILES.values(), strict=True):
        shutil.copy(source, etc / name)
        (etc / name).chmod(0o600)
