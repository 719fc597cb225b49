# SPDX-License-Identifier: Apache-2.0
"""The alerts whose faults lie in what is stored: a log client's full disk, a peer that can't keep
up with entries, a node with the configuration of another pair. A part of `make alerts`.

The tests go on from one another: what a disk holds up becomes late while others run.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from twinlab import agents, clients, netns, plan, processes, prometheus, storm, weblog
from twinlab.shell import run, wait_for

from lab import watching
from lab.alerts_by_fault import again_and_again
from lab.test_prometheus import fires, tell
from lab.test_prometheus_kept import CLIENT_METRICS
from lab.watching import ordered
from twinbeat.config.inforce import COPY
from unit.own_disk import fill, own_disk

LAB_OPTIONS = plan.Options(
    profile="balanced",
    settings=(
        *watching.PATIENT,
        "keys.send=0",
        f'metrics.listen = "0.0.0.0:{prometheus.METRICS_PORT}"',
    ),
)
OTHER_LOG = "/run/other.log"
DISK = 64 << 20
JOURNAL_MB = 16
"""The smallest that there is."""
LINE = b"10.0.0.1 - - [24/Nov/2026:02:00:00 +0000] GET / 200 " + b"x" * 900 + b"\n"
SLOWLY = f"""
table inet slow {{
    chain out {{
        type filter hook output priority 0
        tcp sport 3008 meta priority set {0x0001_0030}
        tcp dport 3008 meta priority set {0x0001_0030}
    }}
}}
"""
"""What the workers say to each other goes in the class 1:30."""
SLOW_RATE = "160kbit"
"""Less than half of what two thousand new clients a second are told with."""


def states(node: str) -> tuple[Path, Path]:
    """What a node's worker keeps of the shared configuration, and the agent's copy of it."""
    own = netns.node_dir(node, "/var/lib") / "twinbeat"
    return own / "worker" / "shared.db", own / COPY


def forget(node: str) -> None:
    """Agent and worker end, and there is no shared configuration any more."""
    processes.end(f"worker-{node}")
    agents.kill(node)
    database, copy = states(node)
    for path in (copy, *database.parent.glob(f"{database.name}*")):
        path.unlink()


@pytest.fixture(scope="module")
def former(pair: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the secondary has kept of the pair that these two were before they began anew."""
    storm.pair()
    node = plan.peer(agents.wait_fit())
    processes.end(f"worker-{node}")
    database, _ = states(node)
    kept = tmp_path_factory.mktemp("former") / database.name
    assert not database.with_name(f"{database.name}-wal").exists(), "it ended in good order"
    shutil.copy2(database, kept)
    for each in plan.NODES:
        forget(each)
    for each in plan.NODES:
        agents.start(each)
    agents.wait_fit()
    wait_for(storm.in_step, "both are in step anew", timeout_s=60)
    return kept


@pytest.fixture(scope="module")
def third(former: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[weblog.Third]:
    """A machine that fetches log records onto a small disk; Prometheus watches all three."""
    root = tmp_path_factory.mktemp("third")
    with own_disk(root / "disk.ext4", root / "disk", DISK):
        target = f"{plan.CLIENT_ADDRESS}:{CLIENT_METRICS}"
        made = weblog.Third(root / "client", metrics=target)
        made.out = root / "disk" / "all.log"
        for node in plan.NODES:
            weblog.start_nginx(node)
            (netns.node_dir(node, "/run") / Path(OTHER_LOG).name).touch()
        weblog.configure(made.fingerprint)
        ordered("set", "weblog", f"size_mb={JOURNAL_MB}", "full=drop-oldest")
        ordered("add", "logsource", "other", "kind=nginx", f"path={OTHER_LOG}")
        wait_for(weblog.replicating, "both nodes to replicate log records", timeout_s=30)
        made.write_conf()
        made.start()
        prometheus.start(waits="0s", others={"logs": target})
        yield made
        prometheus.stop()
        processes.end(weblog.CLIENT)


@pytest.fixture(scope="module")
def filler(third: weblog.Third) -> Path:
    """What takes all the room there was on the disk of the log client, which had written before."""
    log_lines(10)
    wait_for(lambda: len(third.lines()) >= 10, "the first records", timeout_s=20)
    filler = fill(third.out.parent)
    log_lines(2000)
    return filler


def log_lines(count: int) -> None:
    """Records of about a kilobyte each, on the secondary."""
    node = plan.peer(agents.wait_fit())
    with (netns.node_dir(node, "/run") / Path(OTHER_LOG).name).open("ab") as file:
        file.write(LINE * count)


def test_a_log_client_whose_disk_is_full(filler: Path) -> None:
    """It is so for as long as the disk is full, though writing is tried again and again."""
    fires("TwinbeatWeblogClientTrouble")
    stands = "min_over_time(twinbeat_weblog_client_trouble[5s]) == 1"
    wait_for(lambda: prometheus.query(stands), "it to stand", timeout_s=20, interval_s=0.2)


@contextlib.contextmanager
def slow_link(node: str) -> Iterator[None]:
    """What a node's worker sends its peer takes its time on the link between them; nothing else."""
    inside = netns.enter(plan.namespace(node))
    device = ["dev", "ha0"]
    run([*inside, "tc", "qdisc", "add", *device, "root", "handle", "1:", "htb", "default", "10"])
    try:
        for number, rate in (("1:10", "10gbit"), ("1:30", SLOW_RATE)):
            which = ["parent", "1:", "classid", number, "htb", "rate", rate]
            run([*inside, "tc", "class", "add", *device, *which])
        run([*inside, "nft", "-f", "-"], input_text=SLOWLY)
        yield
    finally:
        run([*inside, "tc", "qdisc", "del", *device, "root"])
        run([*inside, "nft", "add table inet slow; delete table inet slow"])


def test_a_peer_that_cannot_keep_up(third: weblog.Third) -> None:
    """New clients come faster than the link takes the news of them."""
    primary = agents.wait_fit()
    networks = itertools.count()

    def come() -> None:
        clients.send(4000, 2000, f"10.100.{16 * (next(networks) % 16)}.1")

    come()
    assert "TwinbeatPersistenceBehind" not in prometheus.firing(), "nothing slows it down yet"
    with again_and_again(come), slow_link(primary):
        fires("TwinbeatPersistenceBehind")


def test_nodes_of_two_pairs(third: weblog.Third, former: Path) -> None:
    """The secondary comes back with what it kept of another pair."""
    node = plan.peer(agents.wait_fit())
    wait_for(storm.in_step, "both are in step", timeout_s=60)
    processes.end(f"worker-{node}")
    database, _ = states(node)
    shutil.copy2(former, database)
    agents.start_worker(node)
    fires("TwinbeatLineageConflict")
    tell(node, "force", "sync", "--adopt", "--yes")
    wait_for(storm.agree, "both have the same again", timeout_s=60)


def test_a_log_client_that_is_a_minute_late(filler: Path) -> None:
    fires("TwinbeatWeblogClientBehind", within_s=100)


def test_records_that_went_before_they_were_fetched(filler: Path, third: weblog.Third) -> None:
    """They were more than the journals have room for, while the log client wrote nothing."""
    log_lines(3 * JOURNAL_MB * 1024)
    dropped = 'twinbeat_weblog_events_total{event="own-dropped",reason="full"} > 0'
    wait_for(lambda: prometheus.query(dropped), "the oldest to go", timeout_s=60, interval_s=0.2)
    filler.unlink()
    fires("TwinbeatWeblogClientLost")
