# SPDX-License-Identifier: Apache-2.0
"""Failovers to be read like a chat: what is done to the pair, `----`, and what both nodes did.

Each file of this directory that ends in .txt is one history of two real cores on real engines and
real kernel rules, in a world where nothing is late by chance. `pytest tests/transcripts --rewrite`
writes what now happens below the commands; commit the difference only if you understand it.

Times are milliseconds of the world. The pair has short timers, so that an hour of trouble fits on a
screen: hello 0.2, dead 0.6, verify 0.4, stall 1, lease 3, attestation 12, boot wait 5 ms.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from sim import faults
from sim.invariants import check_someone
from sim.network import MS
from sim.node import SimNode
from sim.schedule import bound_ns
from sim.world import World
from twinbeat.core.effects import Effects
from twinbeat.core.events import (
    AdminCommand,
    EngineEvent,
    ForceFailover,
    ForceYield,
    GateLost,
    GateRestored,
    HealthChanged,
    Pause,
    Resume,
    Stopping,
)
from twinbeat.core.reasons import Refusal, duration
from twinbeat.core.types import Admin, Cause, EngineEventKind, TrackedHealth

HERE = pathlib.Path(__file__).parent
FILES = sorted(HERE.glob("*.txt"))
SEPARATOR = "----"

ENGINE: dict[EngineEventKind, Callable[[EngineEvent], str]] = {
    EngineEventKind.HEARD: lambda e: "hears its peer",
    EngineEventKind.SUSPECT: lambda e: f"suspects, after {duration(e.a)} of silence",
    EngineEventKind.CLEARED: lambda e: "hears its peer again",
    EngineEventKind.STALLED: lambda e: f"says stalled: kernel answers {'open' if e.a else 'shut'}",
    EngineEventKind.DEAD: lambda e: f"says dead: {e.b} probes unanswered",
    EngineEventKind.CLAIM: lambda e: f"claims term {e.a}: {name(e.cause)}",
    EngineEventKind.RECEIPT: lambda e: f"has the receipt for {e.a} after {duration(e.b)}",
    EngineEventKind.OPENED: lambda e: f"OPENS under {e.a}: {name(e.cause)}",
    EngineEventKind.ABANDONED: lambda e: f"abandons {e.a}: {name(e.cause)}",
    EngineEventKind.CLOSED: lambda e: f"SHUTS, {e.a} is over: {name(e.cause)}",
    EngineEventKind.CONTESTED: lambda e: f"heard an open gate under {e.a}: its own is held shut",
    EngineEventKind.REOPENED: lambda e: "REOPENS, announces again: the other one is fenced",
    EngineEventKind.COUNTER_JUMP: lambda e: "jumps above the counter that its peer knew",
}
"""What is told of the engine; the rest is left out."""


def name(cause: Cause) -> str:
    return cause.name.lower().replace("_", " ")


class Story:
    """Carries out the commands of a transcript and notes what both nodes do."""

    def __init__(self) -> None:
        self.world = World(1, calm=True)
        self.world.narrator = self
        self.lines: list[str] = []
        self.requests = 0

    # -- listening -------------------------------------------------------------------------------

    def _say(self, node: SimNode, what: str) -> None:
        # The second node's lines are set in, so that each node has its own column.
        column = " " * 20 * node.index
        self.lines.append(f"{self.world.now_ns / MS:8.3f}  {column}{node.name} {what}")

    def engine(self, node: SimNode, event: EngineEvent) -> None:
        if event.kind in ENGINE:
            self._say(node, ENGINE[event.kind](event))

    def core(self, node: SimNode, effects: Effects) -> None:
        for record in effects.records:
            self._say(node, f"is {record.after.name.lower()}, says Python: {record.reason}")
        for reply in effects.replies:
            self._say(node, f"answers {reply.outcome.value}: {reply.reason}")
        for line in effects.logs:
            if isinstance(line.reason, Refusal) and not effects.replies:
                self._say(node, f"claims nothing, says Python: {line.reason}")
        if effects.withdraw_vips:
            self._say(node, f"takes the addresses off {effects.withdraw_vips}")

    # -- doing -----------------------------------------------------------------------------------

    def do(self, line: str) -> None:
        verb, *words = line.split()
        getattr(self, f"do_{verb.replace('-', '_')}")(*words)

    def _node(self, name: str) -> SimNode:
        return self.world.nodes["ab".index(name)]

    def do_boot(self, *names: str) -> None:
        for each in names:
            self._node(each).boot()

    def do_disk(self, node: str, length: str) -> None:
        """`disk a 3ms`: so long it takes to write."""
        self._node(node).disk.latency_ns = int(float(length.removesuffix("ms")) * MS)

    def do_run(self, length: str) -> None:
        self.world.run(int(float(length.removesuffix("ms")) * MS))

    def do_power_off(self, node: str) -> None:
        self._node(node).power_off()

    def do_wipe(self, node: str) -> None:
        self._node(node).wipe()

    def do_kill(self, node: str) -> None:
        self._node(node).kill()

    def do_start(self, node: str) -> None:
        faults.start(self.world, self._node(node))

    def do_stop(self, node: str) -> None:
        self._node(node).stop()

    def do_cont(self, node: str) -> None:
        self._node(node).cont()

    def do_hang_python(self, node: str) -> None:
        self._node(node).hang_python()

    def do_cut(self, *names: str) -> None:
        """`cut a`: nothing that a sends arrives. `cut a b`: nothing arrives at all."""
        for each in names:
            for link in self.world.links:
                self.world.cut(link.number, self._node(each).index)

    def do_unplug(self, node: str) -> None:
        self.world.unplug(self._node(node).index)

    def do_heal(self, *names: str) -> None:
        """`heal`: everything. `heal a`: what a sends arrives again."""
        if not names:
            self.world.heal_wires()
        for each in names:
            for link in self.world.links:
                path = link.path[self._node(each).index]
                path.mend(self.world.now_ns)
                path.jitter_ns = 0

    def do_sick(self, node: str, score: str) -> None:
        failed = () if score == "1000" else ("wan0",)
        health = TrackedHealth(score=int(score), failed=failed)
        self._node(node).tell(HealthChanged(health=health))

    def do_gate(self, what: str, node: str) -> None:
        event = GateLost if what == "lost" else GateRestored
        self._node(node).tell(event(interface="lan0"))

    def do_restart(self, node: str) -> None:
        self._node(node).tell(Stopping(restart=True))

    def do_tell(self, node: str, *words: str) -> None:
        self.requests += 1
        request = f"r{self.requests}"
        insists = "--even-if-unfit" in words
        match [word for word in words if not word.startswith("--")]:
            case ["failover"]:
                command = ForceFailover(request_id=request, even_if_unfit=insists)
            case ["yield"]:
                command = ForceYield(request_id=request)
            case ["pause", length]:
                for_ns = int(float(length.removesuffix("ms")) * MS)
                command = Pause(request_id=request, for_ns=for_ns)
            case ["resume"]:
                command = Resume(request_id=request)
            case [*status]:
                admin = Admin["_".join(status).upper()]
                command = AdminCommand(request_id=request, status=admin, even_if_unfit=insists)
        self._node(node).tell(command)

    def do_show(self) -> None:
        for node in self.world.nodes:
            gate = "gate open" if node.gate_open() else "gate shut"
            said = node.agent.machine.status.sentence if node.agent else f"{node.name} has no agent"
            self._say(node, f"[{gate}] {said}")

    def do_well(self) -> None:
        """Everything is mended: somebody has to serve within the bound."""
        faults.make_well(self.world)
        check_someone(self.world, bound_ns(self.world), steady_ns=5 * MS)


def play(text: str) -> str:
    """The transcript with what really happens below its commands."""
    story = Story()
    told: list[str] = []
    for block in text.strip("\n").split("\n\n"):
        lines = block.split("\n")
        commands = lines[: lines.index(SEPARATOR)] if SEPARATOR in lines else lines
        story.lines = []
        acted = False
        for line in commands:
            if not line.startswith("#"):
                story.do(line)
                acted = True
        told.append("\n".join([*commands, SEPARATOR, *story.lines] if acted else commands))
    return "\n\n".join(told) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: pathlib.Path, request: pytest.FixtureRequest) -> None:
    expected = path.read_text()
    happened = play(expected)
    if request.config.getoption("--rewrite"):
        path.write_text(happened)
        return
    assert happened == expected


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 10
