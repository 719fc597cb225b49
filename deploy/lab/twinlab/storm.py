# SPDX-License-Identifier: Apache-2.0
"""A stream of commands on both nodes, while one process after another of either is killed.

What is told of it at the end: which commands were acknowledged, and where they are. Each command
adds a row that no other one adds, so one that was lost or done twice shows.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from twinbeat.api.client import Client, ClientError
from twinbeat.api.sync import SyncView
from twinbeat.sync.document import Document, Expect, Put
from twinbeat.sync.identity import Folder
from twinbeat.sync.operation import Edit, Outcome, Policy, Request, State
from twinlab import agents, netns, plan, processes
from twinlab.shell import LabError, wait_for

SECTION: Final = "command"
"""Its rows change nothing that a node does."""
PAUSE_S: Final = 0.15
"""Between two commands, so that there are several between two deaths and not thousands."""
DEATH_S: Final = 1.0
"""The longest time between two deaths."""
BACK_S: Final = 60.0
LOOK_S: Final = 0.05
"""Between two looks whether both nodes agree."""
DEFINITE: Final = frozenset({State.DONE, State.ALONE, State.REFUSED, State.SUPERSEDED})


def worker(node: str, timeout_s: float = 15.0) -> Client:
    """The worker of a node, which is asked for changes."""
    return Client(str(netns.node_dir(node, "/run") / "twinbeat" / "sync.sock"), timeout_s)


def view(node: str) -> SyncView | None:
    try:
        return msgspec.json.decode(worker(node, 3.0).get("/v1/sync").body, type=SyncView)
    except (ClientError, msgspec.DecodeError):
        return None


def in_step() -> bool:
    """Both nodes say that both have the same in force."""
    views = [view(node) for node in plan.NODES]
    return all(one is not None and one.report.in_step for one in views)


def agree() -> bool:
    """Both nodes say so, their agents by what is in force and what they hear of each other."""
    said = [agents.show(node) for node in plan.NODES]
    told = [one["configuration"] for one in said if one is not None]
    same = len(told) == len(plan.NODES) and len({one["generation"] for one in told}) == 1
    return same and not any(one["mismatch"] for one in told) and in_step()


def document(node: str) -> Document:
    return msgspec.json.decode(worker(node).get("/v1/document").body, type=Document)


def acquaint() -> None:
    """What a pairing leaves behind on both nodes."""
    folders = []
    for node in plan.NODES:
        folder = Folder(netns.node_dir(node, "/var/lib") / "twinbeat" / "worker" / "identity")
        if folder.own() is None:
            folder.make_own(node, time.time())
        folders.append(folder)
    for folder, peer in (folders, folders[::-1]):
        found = peer.own()
        assert found is not None
        folder.trust(found.certificate)


def pair() -> None:
    """`twinbeat pair` on both nodes, and both in step."""
    done: dict[str, subprocess.CompletedProcess[str]] = {}

    def run(node: str) -> None:
        done[node] = agents.cli(node, "pair", "--yes", timeout_s=60)

    both = [threading.Thread(target=run, args=(node,)) for node in plan.NODES]
    for each in both:
        each.start()
    for each in both:
        each.join()
    for node, said in done.items():
        if said.returncode:
            raise LabError(f"pairing {node}: {said.stdout}{said.stderr}")
    wait_for(in_step, "both workers to be in step", timeout_s=30)


@dataclass
class Storm:
    """What was asked for and what was answered."""

    seed: int
    pause_s: float = PAUSE_S
    answers: dict[str, Outcome] = field(default_factory=dict)
    """The last of each request."""
    deaths: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)
    agreed_s: list[float] = field(default_factory=list)
    """From each death until both nodes agreed again, its restart included."""
    _died: list[float] = field(default_factory=list)
    """When, of those deaths after which they haven't agreed yet."""

    # -- commands ----------------------------------------------------------------------------------

    def ask(self, node: str, name: str, policy: Policy) -> Outcome | None:
        """Ask once; None where nobody answered."""
        row: dict[str, Any] = {"name": name, "argv": ["/bin/true", name]}
        put = Put(section=SECTION, identity=name, row=row, expect=Expect.ABSENT)
        wanted = Request(
            request=name, wish=Edit(changes=(put,)), policy=policy, timeout_ns=5_000_000_000
        )
        try:
            answer = worker(node).post("/v1/change", msgspec.json.encode(wanted))
            said = msgspec.json.decode(answer.body, type=Outcome)
        except (ClientError, msgspec.DecodeError):
            return None
        self.answers[name] = said
        return said

    def stream(self) -> None:
        """One command after the other, on either node, under either policy."""
        rng = random.Random(self.seed)
        for number in itertools.count():
            if self.over.is_set():
                return
            policy = rng.choice([Policy.STRICT, Policy.AVAILABLE])
            self.ask(rng.choice(plan.NODES), f"s{self.seed}-{number}", policy)
            self.over.wait(rng.uniform(0, self.pause_s))

    # -- deaths ------------------------------------------------------------------------------------

    def kill(self, deaths: Iterable[int]) -> None:
        """One after the other: who died is back before the next one dies."""
        rng = random.Random(self.seed + 1)
        for _ in deaths:
            time.sleep(rng.uniform(0, DEATH_S))
            node, what = rng.choice(plan.NODES), rng.choice(["worker", "agent"])
            name = f"worker-{node}" if what == "worker" else agents.process_name(node)
            pid = processes.pid_of(name)
            assert pid is not None, f"{name} ended by itself: {processes.log_tail(name)}"
            os.kill(pid, signal.SIGKILL)
            died = time.monotonic()
            self.deaths[name] += 1
            _wait_gone(name)
            # Not before: until then the dead may seem to agree.
            self._died.append(died)
            if what == "worker":
                agents.start_worker(node)
            else:
                agents.start(node)
                agents.wait_fit()

    def watch(self) -> None:
        """See when both nodes agree after each death, until they do after the last."""
        while not self.over.is_set() or self._died:
            died = list(self._died)
            if died and agree():
                now = time.monotonic()
                self.agreed_s += [now - moment for moment in died]
                del self._died[: len(died)]
            elif died and time.monotonic() - died[-1] > BACK_S:
                return
            time.sleep(LOOK_S)

    # -- afterwards --------------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait until both are in step again, and ask again for what isn't known."""
        wait_for(in_step, "both workers to be in step", timeout_s=BACK_S)
        for name, said in list(self.answers.items()):
            if said.state not in DEFINITE or said.state is State.ALONE:
                self.ask(agents.primary() or plan.NODES[0], name, Policy.AVAILABLE)
        wait_for(in_step, "both workers to be in step", timeout_s=BACK_S)

    def twice(self) -> list[str]:
        """Commands that a document names more than once."""
        found: set[str] = set()
        for node in plan.NODES:
            made = Counter(done.request for done in document(node).recent)
            found |= {f"{name} was done twice" for name, times in made.items() if times > 1}
        return sorted(found)

    def lost(self) -> list[str]:
        """Commands that were acknowledged as done on both nodes, and that one of them hasn't."""
        rows = [document(node).tables.get(SECTION, {}) for node in plan.NODES]
        return [
            f"{name} was acknowledged ({said.code}) and isn't there"
            for name, said in self.answers.items()
            if said.state is State.DONE and not all(name in one for one in rows)
        ]

    def faults(self) -> list[str]:
        """What is otherwise than it was answered, by command."""
        found = []
        there = [document(node) for node in plan.NODES]
        if there[0] != there[1]:
            found.append(f"the documents differ: {there[0].version} and {there[1].version}")
        found += self.twice() + self.lost()
        rows = there[0].tables.get(SECTION, {})
        for name, said in self.answers.items():
            if said.state in {State.REFUSED, State.SUPERSEDED} and name in rows:
                found.append(f"{name} was {said.state.value} ({said.code}) and is there")
            elif said.state not in DEFINITE:
                found.append(f"nobody knows of {name}: {said.state.value} ({said.code})")
        return found


def _wait_gone(name: str) -> None:
    wait_for(lambda: processes.pid_of(name) is None, f"{name} to end", timeout_s=5)


def storm(deaths: Iterable[int], seed: int, *, pause_s: float = PAUSE_S) -> Storm:
    """Carry it out on a pair that is in step, and leave it so; one death for each number."""
    made = Storm(seed=seed, pause_s=pause_s)
    beside = [threading.Thread(target=part) for part in (made.stream, made.watch)]
    for part in beside:
        part.start()
    try:
        made.kill(deaths)
    finally:
        made.over.set()
        for part in beside:
            part.join()
    return made
