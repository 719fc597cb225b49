# SPDX-License-Identifier: Apache-2.0
"""The lab's witness: three real etcd in a namespace of their own, reached over wan0 by both."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import signal
from typing import Any

from twinlab import etcd, netns, plan, processes
from twinlab.shell import LabError, run, wait_for

NAMESPACE = plan.WITNESS_NS
MAC = "02:88:00:00:03:01"
MEMBERS = tuple(
    etcd.Member(name=name, address=f"10.88.0.{host}", port=2379, peer_port=2380)
    for name, host in (("etcd-1", 31), ("etcd-2", 32), ("etcd-3", 33))
)
"""One may die and the others still decide. A member's process goes by its name."""

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
    """Make the certificates and start the members; returns when all of them answer."""
    etcd.make_papers(papers().directory, [member.address for member in MEMBERS])
    mend()


def _run(member: etcd.Member) -> None:
    """Start a member on what data there is."""
    command = etcd.command(DIRECTORY / member.name, papers(), member, MEMBERS)
    processes.spawn(member.name, NAMESPACE, command)


def _asked(member: etcd.Member, path: str, *arguments: str) -> dict[str, Any]:
    """What a member answers curl in its own namespace, with a node's papers; empty = nothing."""
    files = papers()
    with contextlib.suppress(LabError, ValueError):
        said = run(
            [
                *netns.enter(NAMESPACE),
                *["curl", "-s", "--max-time", "1", "--cacert", str(files.ca)],
                *["--cert", str(files.certificate("node")), "--key", str(files.key("node"))],
                *[*arguments, member.url + path],
            ]
        )
        return dict(json.loads(said))
    return {}


def healthy(member: etcd.Member) -> bool:
    """Whether it says so itself: it knows a leader, and most of the cluster follows that one."""
    return bool(_asked(member, "/health").get("health") == "true")


def leader() -> etcd.Member:
    """The member through which everything is decided."""
    for member in MEMBERS:
        said = _asked(member, "/v3/maintenance/status", "--data", "{}")
        if said and said["leader"] == said["header"]["member_id"]:
            return member
    raise LabError("no member of the witness leads it")


def stop() -> None:
    """The servers end."""
    for member in MEMBERS:
        processes.end(member.name)


def kill(member: etcd.Member) -> None:
    """One of them dies."""
    processes.send_signal(member.name, signal.SIGKILL)
    wait_for(lambda: processes.pid_of(member.name) is None, f"{member.name} to end", timeout_s=5)


def hang() -> None:
    """SIGSTOP: their kernel takes connections and requests, and nobody answers."""
    for member in MEMBERS:
        pid = processes.send_signal(member.name, signal.SIGSTOP)
        wait_for(functools.partial(_is_stopped, pid), f"{member.name} to stop", timeout_s=5)


def _is_stopped(pid: int) -> bool:
    return processes.state_of(pid) == "T"


def unhang() -> None:
    for member in MEMBERS:
        processes.send_signal(member.name, signal.SIGCONT)


def mend() -> None:
    """Whatever a test did to them is undone."""
    for member in MEMBERS:
        pid = processes.pid_of(member.name)
        if pid is None:
            _run(member)
        elif processes.state_of(pid) == "T":
            processes.send_signal(member.name, signal.SIGCONT)
    for member in MEMBERS:
        try:
            wait_for(
                functools.partial(healthy, member),
                f"{member.name} answers",
                timeout_s=20,
                interval_s=0.05,
            )
        except LabError as error:
            raise LabError(f"{error}\n{processes.log_tail(member.name, 3)}") from error


def table() -> list[str]:
    """The lines of [witness] in a node's configuration."""
    return [
        'kind = "etcd"',
        f"endpoints = {json.dumps([member.url for member in MEMBERS])}",
        *(f'{key} = "/etc/twinbeat/{name}"' for key, name in FILES.items()),
    ]


def hand_out(node: str) -> None:
    """Put a node's certificates where its configuration says."""
    files, etc = papers(), netns.node_dir(node, "/etc/twinbeat")
    sources = (files.ca, files.certificate("node"), files.key("node"))
    for source, name in zip(sources, FILES.values(), strict=True):
        shutil.copy(source, etc / name)
        (etc / name).chmod(0o600)
