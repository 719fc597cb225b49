# SPDX-License-Identifier: Apache-2.0
"""One configuration on two nodes: how long a change takes, and a whole document; what deaths lose.

A change is asked for on the primary under the policy `strict`, so its answer says that it is in
force on both nodes. The lab keeps the nodes' state in memory; what a disk adds stands beside it: a
change waits for six syncs, one after the other.
"""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import time
from typing import Any, Final

import msgspec
from twinlab import agents, plan, processes, storm
from twinlab.shell import LabError, wait_for

from twinbeat.config.rows import identity
from twinbeat.sync.document import Put, Remove
from twinbeat.sync.operation import Edit, Outcome, Policy, Request, State
from twinbench import figures, ground, judge, samples
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure

VIP: Final = "10.77.0.111"
ROUTES: Final = 1000
IN_STEP_S: Final = 60.0
QUIET_S: Final = 5.0
SYNCS: Final = 20
SEED: Final = 20261123
_numbers = itertools.count(1)


def sync(effort: Effort, budget: Budget) -> list[Figure]:
    """Changes one after the other; then a secondary that gets a whole document."""
    wanted = ground.options("balanced")
    primary = _in_step(wanted)
    took = _changes(primary, effort, budget)
    commands = _commands(primary, effort, budget)
    phases = _phases()
    whole = _Whole(primary)
    for number in budget.runs(effort.full_syncs, "full synchronizations"):
        with budget.attempt(f"full synchronization {number + 1}"):
            whole.once(effort.many_vips)
            ground.say(f"  full synchronization {whole.took_s[-1]:.2f} s")
    beside = {"sync_of_a_file_ms": _disk_ms(), "phases_ms": phases}
    details = {"vips": effort.many_vips, "routes": ROUTES}
    return [
        figures.measured("propagation", took, details=beside),
        figures.measured("propagation_command", commands),
        figures.measured("full_sync", whole.took_s, details=details),
        figures.measured("full_sync_transitions", whole.transitions),
        figures.measured("full_sync_missed", whole.missed),
        figures.measured("full_sync_suspicions", whole.rate(whole.raised, whole.took_s)),
        figures.measured("full_sync_quiet_suspicions", whole.rate(whole.quiet, whole.quiet_s)),
    ]


def deaths(effort: Effort, budget: Budget) -> list[Figure]:
    """A stream of commands on both nodes, while processes of either are killed."""
    _in_step(ground.options("balanced"))
    number = budget.runs(effort.storm_deaths, "deaths in a stream of commands", share=0.95)
    done = storm.storm(number, SEED, pause_s=effort.storm_pause_s)
    done.settle()
    killed = sum(done.deaths.values())
    states = {state.value: 0 for state in State}
    for said in done.answers.values():
        states[said.state.value] += 1
    note = f"{killed} deaths, {len(done.answers)} commands"
    faults = done.faults()
    details = {"deaths": dict(done.deaths), "answers": states, "faults": faults[:20]}
    # Each death is a run; none of them stands out, as all that is known is what was at the end.
    counts = {"lost": len(done.lost()), "twice": len(done.twice()), "faults": len(faults)}
    return [
        *(
            figures.measured(f"storm_{what}", [count] * killed, note=note, details=details)
            for what, count in counts.items()
        ),
        figures.measured("storm_agree", done.agreed_s, note=note),
    ]


# -- the ground --------------------------------------------------------------------------------


def _in_step(wanted: plan.Options) -> str:
    """Both nodes with the same document in force; returns the primary."""
    ground.twinbeat(wanted)
    storm.acquaint()
    for node in plan.NODES:
        agents.start_worker(node)
    wait_for(storm.in_step, "both workers to be in step", timeout_s=IN_STEP_S)
    return agents.wait_fit()


def _ask(node: str, *changes: Put | Remove, policy: Policy = Policy.STRICT) -> Outcome:
    """Ask for a change; LabError unless it is done."""
    wanted = Request(
        request=f"bench-{time.time_ns():x}-{next(_numbers)}",
        wish=Edit(changes=changes),
        policy=policy,
        timeout_ns=60_000_000_000,
    )
    answer = storm.worker(node, 65.0).post("/v1/change", msgspec.json.encode(wanted))
    said = msgspec.json.decode(answer.body, type=Outcome)
    if said.state is not (State.DONE if policy is Policy.STRICT else State.ALONE):
        raise LabError(f"a change was {said.state.value}: {said.sentence}")
    return said


def _vrid(node: str, *more: str) -> Put:
    """The LAN's VRID with further addresses."""
    name = str(plan.LAN_VRID)
    row = storm.document(node).tables["vrid"][name]
    own = [plan.LAN_VIP, plan.LAN_VIP6]
    vips = [*(vip for vip in row["vips"] if vip in own), *more]
    return Put(section="vrid", identity=name, row={**row, "vips": vips})


# -- one change --------------------------------------------------------------------------------


def _changes(primary: str, effort: Effort, budget: Budget) -> list[float]:
    """Milliseconds of each, as whoever asked for it waits; one client for all."""
    took = []
    puts = [_vrid(primary, VIP), _vrid(primary)]
    for number in budget.runs(effort.changes, "changes", share=0.3):
        with budget.attempt(f"change {number + 1}"):
            began = time.perf_counter()
            _ask(primary, puts[number % 2])
            took.append((time.perf_counter() - began) * 1e3)
    _ask(primary, _vrid(primary))
    return took


def _commands(primary: str, effort: Effort, budget: Budget) -> list[float]:
    """The same through the command line, whose start is part of it."""
    took = []
    vrid = str(plan.LAN_VRID)
    words = (("add", "vip", VIP, "vrid", vrid), ("rm", "vip", VIP))
    for number in budget.runs(effort.commands, "commands", share=0.3):
        with budget.attempt(f"command {number + 1}"):
            began = time.perf_counter()
            done = agents.cli(primary, *words[number % 2], "--strict")
            took.append((time.perf_counter() - began) * 1e3)
            if done.returncode:
                raise LabError(done.stderr.strip())
    _ask_if(primary)
    return took


def _ask_if(primary: str) -> None:
    """No further address is left, however many commands there were."""
    wanted = _vrid(primary)
    if storm.document(primary).tables["vrid"][wanted.identity] != wanted.row:
        _ask(primary, wanted)


def _phases() -> dict[str, dict[str, float]]:
    """By node, the mean of what its changes waited for, in ms."""

    def told() -> dict[str, Any] | None:
        said = {node: one.get("sync_phases") for node, one in ground.counters().items()}
        return said if all(said.values()) else None

    said = wait_for(told, "the phases of changes", timeout_s=10)
    return {
        node: {
            name: round(phase["sum_ns"] / max(1, sum(phase["counts"])) / 1e6, 2)
            for name, phase in phases.items()
        }
        for node, phases in said.items()
    }


def _disk_ms() -> float | None:
    """What a sync of 4 KiB takes on the disk of this machine, which the lab doesn't use."""
    took = []
    with tempfile.TemporaryFile(dir=plan.REPO_DIR) as file:
        for _ in range(SYNCS):
            file.write(bytes(4096))
            began = time.perf_counter()
            file.flush()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1e3)
    middle = samples.median(took)
    return None if middle is None else round(middle, 2)


# -- a whole document --------------------------------------------------------------------------


class _Whole:
    """A secondary whose worker was away gets a document with ten thousand addresses."""

    def __init__(self, primary: str) -> None:
        self._primary = primary
        self._secondary = plan.peer(primary)
        self.took_s: list[float] = []
        self.transitions: list[float] = []
        self.missed: list[float] = []
        self.raised: list[float] = []
        self.quiet: list[float] = []
        self.quiet_s: list[float] = []

    def once(self, vips: int) -> None:
        """From the start of its worker until both say that both have it in force."""
        wait_for(storm.in_step, "both workers to be in step", timeout_s=IN_STEP_S)
        self._quiet()
        processes.send_signal(f"worker-{self._secondary}", signal.SIGKILL)
        worker = f"worker-{self._secondary}"
        wait_for(lambda: processes.pid_of(worker) is None, "the worker to end", timeout_s=5)
        routes = _routes(ROUTES)
        more = plan.more_vips(vips)
        before = _moved()
        _ask(self._primary, _vrid(self._primary, *more), *routes, policy=Policy.AVAILABLE)
        raised, missed = _raised(), _missed()
        began = time.perf_counter()
        agents.start_worker(self._secondary)
        wait_for(storm.in_step, "the document to be taken over", timeout_s=IN_STEP_S)
        self.took_s.append(time.perf_counter() - began)
        self.raised.append(_raised() - raised)
        self.missed.append(_missed() - missed)
        self.transitions.append(_moved() - before)
        away = [Remove(section="route", identity=one.identity) for one in routes]
        _ask(self._primary, _vrid(self._primary), *away)

    def _quiet(self) -> None:
        raised, began = _raised(), time.perf_counter()
        time.sleep(QUIET_S)
        self.quiet.append(_raised() - raised)
        self.quiet_s.append(time.perf_counter() - began)

    @staticmethod
    def rate(raised: list[float], seconds: list[float]) -> list[float]:
        """Suspicions a minute."""
        return [judge.per_minute(int(sum(raised)), sum(seconds))] if seconds else []


def _routes(count: int) -> list[Put]:
    rows = [
        {"destination": f"198.18.{n // 256}.{n % 256}/32", "type": "blackhole"}
        for n in range(count)
    ]
    return [Put(section="route", identity=identity("route", row), row=row) for row in rows]


def _raised() -> int:
    """Suspicions so far, whatever came of them."""
    return sum(ground.suspicions().values())


def _missed() -> int:
    """Heartbeats that were sent and not seen."""
    return sum(link["lost"] for said in ground.counters().values() for link in said["links"])


def _moved() -> int:
    """Transitions so far, on both nodes."""
    return sum(map(len, ground.histories().values()))
