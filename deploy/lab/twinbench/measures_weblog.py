# SPDX-License-Identifier: Apache-2.0
"""Web logs: what failovers lose, how soon a record is on both nodes, how many a second get through.

The nodes' state lies on an ext4 each that really syncs, the log client's files on the host's disk.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from twinlab import agents, logwatch, plan, processes, weblog
from twinlab.shell import LabError, wait_for

from twinbench import cpu, figures, ground, measures_death
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure

SETTLED_S: Final = 90.0
REJOIN_S: Final = 30.0
BETWEEN_S: Final = 1.0
"""Of replication as usual, after each failover."""
LINE: Final = (
    '10.77.0.100 - - [24/Nov/2026:00:00:00 +0000] "GET /f/%012d HTTP/1.1" 200 2 "-" '
    '"Mozilla/5.0 (X11; Linux x86_64) lab"\n'
)
CHUNK: Final = 2000
"""Lines that are appended at a time."""
FED_PER_S: Final = 120_000
"""Lines are appended no faster than this; what gets through is measured."""
DISK: Final = 2 << 30


def records(effort: Effort, budget: Budget) -> list[Figure]:
    """Failovers of all kinds under load, a client that stands still, as much as goes, and deaths
    with and without all that."""
    with _ground() as made:
        in_time = _in_time(effort, budget)
        with logwatch.watched() as watch, weblog.asking():
            kinds = _failovers(made, watch, effort, budget)
            stood = _stood(made, effort, budget)
        asked = weblog.asked()
        wait_for(
            partial(weblog.settled, made.third), "all records to be written", timeout_s=SETTLED_S
        )
        held, logs = logwatch.held(), weblog.logs()
        judged = logwatch.judge(made.third.lines(), watch.replicated, held, logs)
        fed = _fed(made, effort, budget)
        outages = _outages(effort, budget)
    details = {
        "failovers": kinds,
        "asked": {key: value for key, value in asked.items() if key != "answered"},
        "records": judged.records,
        "replicated": sum(watch.replicated.values()),
        "faults": judged.faults[:20],
    }
    together, fast = watch.together
    note = f"{len(kinds)} failovers, {judged.records} records"
    found = {
        "lost": judged.lost,
        "twice": judged.twice,
        "disorder": judged.disorder,
        "missing": [*judged.missing, *judged.unwritten],
    }
    return [
        *(
            figures.measured(
                f"weblog_{what}", [len(faults)] * len(kinds), note=note, details=details
            )
            for what, faults in found.items()
        ),
        in_time,
        figures.measured(
            "weblog_in_time_failovers",
            [100 * fast / together] if together else [],
            note=f"{together} records between {len(kinds)} failovers",
        ),
        figures.measured("weblog_rejoined", watch.rejoined_s),
        figures.measured("weblog_caught_up", stood),
        *fed,
        *outages,
    ]


@contextlib.contextmanager
def _ground() -> Iterator[weblog.Ground]:
    """A pair in balanced on disks of its own, a log client beside it."""
    wanted = ground.options("balanced")
    ground.twinbeat(replace(wanted, settings=(*wanted.settings, "keys.send=0")))
    with (
        tempfile.TemporaryDirectory(prefix="twinbench-", dir="/var/tmp") as root,
        weblog.ground(Path(root), size=DISK) as made,
    ):
        yield made


def _in_time(effort: Effort, budget: Budget) -> Figure:
    """While nothing happens: the share of records that were on both nodes within 100 ms."""
    before = _replicated()
    seconds = budget.seconds(effort.weblog_steady_s, "records at rest", share=0.2)
    with weblog.asking():
        time.sleep(seconds)
    after = _replicated()
    records, fast = (now - then for now, then in zip(after, before, strict=True))
    if not records:
        return figures.failed("weblog_in_time", "nothing was replicated")
    note = f"{records} records in {seconds:.0f} s"
    return figures.measured("weblog_in_time", [100 * fast / records], seconds=seconds, note=note)


def _replicated() -> tuple[int, int]:
    """Records known to be on both nodes, and those within 100 ms, of both workers."""
    found = [logwatch.view(node) for node in plan.NODES]
    told = [one.replication for one in found if one is not None]
    return sum(one.records for one in told), sum(one.in_time for one in told)


def _failovers(
    made: weblog.Ground, watch: logwatch.Watch, effort: Effort, budget: Budget
) -> list[str]:
    kinds = []
    for number in budget.runs(effort.weblog_failovers, "failovers under logging", share=0.5):
        kind = weblog.KINDS[number % len(weblog.KINDS)]
        with budget.attempt(f"failover {number + 1} ({kind})"):
            made.fail(kind, watch=watch)
            kinds.append(kind)
            ground.say(f"  failover {number + 1}: {kind}")
            wait_for(watch.is_whole, "both nodes to replicate again", timeout_s=REJOIN_S)
            time.sleep(BETWEEN_S)
    return kinds


def _outages(effort: Effort, budget: Budget) -> list[Figure]:
    """Silent deaths under the same requests, logged and replicated or neither."""
    found: dict[str, list[float]] = {"weblog_outage": [], "weblog_outage_quiet": []}
    wanted = ground.options("balanced")
    with weblog.asking():
        for name, outages in found.items():
            if name == "weblog_outage_quiet":
                processes.end(weblog.CLIENT)
                weblog.stop_logging()
            what = "without logging" if name == "weblog_outage_quiet" else "with logging"
            share = 0.4 if name == "weblog_outage" else 0.9
            for number in budget.runs(effort.weblog_outages, f"deaths {what}", share=share):
                with budget.attempt(f"death {number + 1} {what}"):
                    primary = agents.wait_fit()
                    death = measures_death.one_death(primary, wanted)
                    outages.append(death.outage_ns / measures_death.MS)
                    ground.say(f"  {outages[-1]:.1f} ms {what}")
    return [figures.measured(name, outages) for name, outages in found.items()]


def _stood(made: weblog.Ground, effort: Effort, budget: Budget) -> list[float]:
    """Seconds that a client takes to catch up after it stood still; none: it has not."""
    seconds = budget.seconds(effort.weblog_stop_s, "a client that stands still", share=0.5)
    pid = processes.pid_of(weblog.CLIENT)
    if pid is None:
        raise LabError("the log client does not run")
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
    began = time.monotonic()

    def caught_up() -> bool:
        said = made.third.status()
        # Records come in all the time: what a tenth of a second brings is no lag.
        most = logwatch.RATE // 2
        return said is not None and all(
            node["connected"] and node["lag"] < most for node in said["nodes"]
        )

    took_s: list[float] = []
    with budget.attempt("catching up"):
        wait_for(caught_up, "the client to catch up", timeout_s=SETTLED_S)
        took_s.append(time.monotonic() - began)
    return took_s


# -- as much as goes ---------------------------------------------------------------------------


def _fed(made: weblog.Ground, effort: Effort, budget: Budget) -> list[Figure]:
    """Lines are appended to the log of one node until a number of them has been written by a client
    that passes them through."""
    processes.end(weblog.CLIENT)
    third = weblog.Third(made.third.root.parent / "raw", "RAW")
    # The same client, so that nobody has to be admitted anew.
    for kept in ("state",):
        if not (third.root / kept).is_symlink():
            subprocess.run(["rm", "-rf", str(third.root / kept)], check=True)
            (third.root / kept).symlink_to(made.third.root / kept)
    third.write_conf()
    third.start()
    wait_for(partial(weblog.settled, third), "the client to be connected", timeout_s=SETTLED_S)
    node = agents.wait_fit()
    count = effort.weblog_lines
    names = {"collecting": f"worker-{node}", "replica": f"worker-{plan.peer(node)}"}
    names["client"] = weblog.CLIENT
    before = _times(names)
    size = len(LINE % 0)
    begun = third.out.stat().st_size if third.out.exists() else 0
    began = time.monotonic()
    with Path(f"/proc/{agents.pid(node)}/root{weblog.ACCESS_LOG}").open("ab") as log:
        for number in range(0, count, CHUNK):
            lines = "".join(LINE % each for each in range(number, number + CHUNK))
            log.write(lines.encode())
            log.flush()
            ahead = number / FED_PER_S - (time.monotonic() - began)
            if ahead > 0:
                time.sleep(ahead)
    fed_s = time.monotonic() - began
    with budget.attempt("all lines to be written"):
        wait_for(
            lambda: third.out.exists() and third.out.stat().st_size - begun >= count * size,
            f"{count} lines to be written",
            timeout_s=SETTLED_S,
        )
    took_s = time.monotonic() - began
    used = {what: ns / count / 1e3 for what, ns in _used(names, before).items()}
    written = third.out.read_bytes()[begun:]
    wanted = "".join(LINE % number for number in range(count)).encode()
    if written != wanted:
        why = f"{written.count(b'f/')} of {count} lines, or not in their order"
        return [
            figures.failed("weblog_throughput", why),
            figures.failed("weblog_cost", why),
        ]
    details: dict[str, Any] = {
        "lines": count,
        "bytes_of_a_line": size,
        "fed_s": round(fed_s, 2),
        "us_of_a_record": {what: round(each, 2) for what, each in used.items()},
    }
    return [
        figures.measured("weblog_throughput", [count / took_s], details=details),
        figures.measured("weblog_cost", [sum(used.values())], details=details),
    ]


def _times(names: dict[str, str]) -> dict[str, cpu.Times]:
    found = {}
    for what, name in names.items():
        pid = processes.pid_of(name)
        if pid is None:
            raise LabError(f"{name} does not run")
        found[what] = cpu.times(pid)
    return found


def _used(names: dict[str, str], before: dict[str, cpu.Times]) -> dict[str, int]:
    """Nanoseconds of processor time of each, since."""
    after = _times(names)
    return {what: cpu.used_ns(before[what], after[what])["all"] for what in names}
