# SPDX-License-Identifier: Apache-2.0
"""The alerts for who is away from a pair that has everything: a worker that hangs, conntrackd, a
log client, a witness. A part of `make alerts`, in the lab of test_prometheus_kept.py.
"""

from __future__ import annotations

import os
import signal

from twinlab import agents, netns, plan, processes, storm, weblog, witness
from twinlab.shell import run, wait_for

from lab.test_connections import processes_of
from lab.test_prometheus import fires
from lab.test_prometheus_kept import LAB_OPTIONS, third  # noqa: F401 - a fixture, and its lab
from lab.watching import ordered

OTHER_LOG = "/run/other.log"
"""A file that is there, in both nodes, and holds nothing at first."""


def test_a_worker_that_hangs_fires_for_what_it_kept(third: weblog.Third) -> None:  # noqa: F811
    """And a conntrackd that is gone, which nobody starts again meanwhile."""
    other = plan.peer(agents.wait_fit())
    worker = f"worker-{other}"
    processes.send_signal(worker, signal.SIGSTOP)
    try:
        for pid in processes_of(other):
            os.kill(pid, signal.SIGKILL)
        fires(
            "TwinbeatConnectionsNotSynced",
            "TwinbeatWeblogNotReplicated",
            "TwinbeatWeblogClientNodeAway",
        )
    finally:
        processes.send_signal(worker, signal.SIGCONT)
    # Its end is told by the worker, once that goes on.
    fires("TwinbeatConnectionsLost")
    wait_for(storm.in_step, "both nodes are in step", timeout_s=60)


def test_log_records_that_nobody_fetches_fire(third: weblog.Third) -> None:  # noqa: F811
    """A client that is gone, a source that can't be read, and a journal that is full for both."""
    agents.wait_fit()
    processes.end(weblog.CLIENT)
    for node in plan.NODES:
        (netns.node_dir(node, "/run") / "other.log").touch()
    ordered("set", "weblog", "size_mb=16")
    ordered("add", "logsource", "none", "kind=nginx", "path=/run")
    ordered("add", "logsource", "other", "kind=nginx", f"path={OTHER_LOG}")
    ordered("add", "logsource", "said", "kind=syslog", "listen=127.0.0.1:5514")
    fires("TwinbeatWeblogClientAway", "TwinbeatWeblogSourceDown")
    node = plan.peer(agents.wait_fit())
    line = b"10.0.0.1 - - [24/Nov/2026:02:00:00 +0000] GET / 200 " + b"x" * 900 + b"\n"
    with (netns.node_dir(node, "/run") / "other.log").open("ab") as file:
        file.write(line * 40_000)
    fires("TwinbeatWeblogRefuses")
    inside = netns.enter(plan.namespace(node))
    wait_for(lambda: ":5514 " in run([*inside, "ss", "-Hlnu"]), "the source", timeout_s=30)
    says = (
        "import socket\n"
        "out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for _ in range(50): out.sendto(b'<13>1 - h p - - - word', ('127.0.0.1', 5514))\n"
    )
    run([*inside, "/usr/bin/python3", "-I", "-c", says])
    fires("TwinbeatWeblogLost")


def test_a_witness_that_is_silent_fires(third: weblog.Third) -> None:  # noqa: F811
    agents.wait_fit()
    witness.hang()
    try:
        fires("TwinbeatWitnessSilent", "TwinbeatWithoutWitness")
    finally:
        witness.mend()
