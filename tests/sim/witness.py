# SPDX-License-Identifier: Apache-2.0
"""A witness that keeps its word and may take its time: slow, lossy, cut off from one node or both.

It answers as etcd does, truthfully; what lies is tried against the real client. A request that
nobody waits for any more may arrive all the same and take effect.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sim.network import MS, US
from twinbeat.core.events import WitnessAnswered
from twinbeat.core.witness import Answer, Kind, Question, Verdict

if TYPE_CHECKING:
    from sim.node import Agent, SimNode
    from sim.world import World


Fault = Callable[["World", "SimNode"], str]


@dataclass(slots=True)
class Way:
    """Between one node and the witness."""

    up: bool = True
    loss: float = 0.0
    there_ns: int = 300 * US
    """What a request takes at least."""
    back_ns: int = 300 * US
    """What an answer takes at least."""
    jitter_ns: int = 600 * US

    def delay(self, rng: random.Random, least_ns: int) -> int | None:
        """How long it takes; None = it is lost."""
        if not self.up or rng.random() < self.loss:
            return None
        return least_ns + rng.randrange(self.jitter_ns + 1)

    def mend(self) -> None:
        self.up, self.loss = True, 0.0
        self.there_ns = self.back_ns = 300 * US
        self.jitter_ns = 600 * US


@dataclass(slots=True)
class Desk:
    """What a node's runtime does: one question at a time, the newest of those that wait."""

    agent: Agent
    busy: bool = False
    waiting: Question | None = None


@dataclass(slots=True)
class SimWitness:
    """The store, and the ways to it."""

    world: World
    rng: random.Random
    kept: int = 0
    life: int = 0
    ways: tuple[Way, Way] = field(default_factory=lambda: (Way(), Way()))
    desks: dict[int, Desk] = field(default_factory=dict)
    history: list[tuple[int, int]] = field(default_factory=list)
    """When which term began to be kept."""

    def mend(self) -> None:
        for way in self.ways:
            way.mend()

    # -- the node's side -------------------------------------------------------------------------

    def ask(self, node: SimNode, agent: Agent, question: Question) -> None:
        desk = self.desks.get(node.index)
        if desk is None or desk.agent is not agent:
            desk = self.desks[node.index] = Desk(agent)
        if desk.busy:
            desk.waiting = question
        else:
            self._send(node, desk, question)

    def _send(self, node: SimNode, desk: Desk, question: Question) -> None:
        desk.busy = True
        world = self.world
        sent_ns = node.clock()
        patience_ns = world.setting.witness_ns // 2
        way = self.ways[node.index]
        request = way.delay(self.rng, way.there_ns)
        cell: list[Answer] = []
        if request is not None:
            world.at(world.now_ns + request, self._arrive, node, question, sent_ns, cell)
        # The answer counts if it is there in time; else the end of patience is what is reported.
        step_ns = patience_ns // 64
        world.at(
            world.now_ns + step_ns, self._look, node, desk, question, sent_ns, cell, 1, step_ns
        )

    def _look(
        self,
        node: SimNode,
        desk: Desk,
        question: Question,
        sent_ns: int,
        cell: list[Answer],
        turn: int,
        step_ns: int,
    ) -> None:
        if node.agent is not desk.agent:
            return
        world = self.world
        if not cell and turn < 64:
            world.at(
                world.now_ns + step_ns,
                *(self._look, node, desk, question, sent_ns, cell, turn + 1, step_ns),
            )
            return
        silent = Answer(
            question=question,
            verdict=Verdict.SILENT,
            sent_ns=sent_ns,
            done_ns=node.clock(),
            why="no answer in time",
        )
        node.tell(WitnessAnswered(answer=cell[0] if cell else silent))
        desk.busy = False
        if desk.waiting is not None:
            question, desk.waiting = desk.waiting, None
            self._send(node, desk, question)

    # -- the store's side ------------------------------------------------------------------------

    def _arrive(self, node: SimNode, question: Question, sent_ns: int, cell: list[Answer]) -> None:
        verdict, before = Verdict.GRANTED, 0
        match question.kind:
            case Kind.CLAIM if self.kept < question.term:
                before, self.kept = self.kept, question.term
                self.life += 1
                self.history.append((self.world.now_ns, question.term))
            case Kind.CONFIRM if question.mark and self.kept == question.term:
                self.life += 1
            case _:
                pass
        if question.kind is not Kind.LOOK and self.kept != question.term:
            verdict = Verdict.DENIED
        kept, life = self.kept, self.life
        way = self.ways[node.index]
        back = way.delay(self.rng, way.back_ns)
        if back is None:
            return

        def arrive() -> None:
            cell.append(
                Answer(
                    question=question,
                    verdict=verdict,
                    sent_ns=sent_ns,
                    done_ns=node.clock(),
                    kept=kept,
                    before=before,
                    life=life,
                )
            )

        self.world.at(self.world.now_ns + back, arrive)


# -- what goes wrong with it ----------------------------------------------------------------------


def cut_witness(world: World, node: SimNode) -> str:
    """One node doesn't reach it."""
    world.witness.ways[node.index].up = False
    return f"{node.name} doesn't reach the witness"


def cut_witness_off(world: World, node: SimNode) -> str:
    """Nobody reaches it."""
    for way in world.witness.ways:
        way.up = False
    return "the witness is down"


def slow_witness(world: World, node: SimNode) -> str:
    """Requests and answers are under way for as long as a lease and more."""
    way = world.witness.ways[node.index]
    way.jitter_ns = world.rng.choice((1, 2, 4)) * world.setting.witness_ns // 2 + MS
    way.loss = world.rng.choice((0.0, 0.3, 0.7))
    return f"{node.name} reaches the witness slowly"


def heal_witness(world: World, node: SimNode) -> str:
    """It is reached again."""
    world.witness.mend()
    return "the witness is reached"


def partition(world: World, node: SimNode) -> str:
    """Every link between the nodes falls silent; the witness stays."""
    for link in range(2):
        world.cut(link, 0)
        world.cut(link, 1)
    return "all links are silent"


WEIGHTS: Final[dict[Fault, int]] = {
    partition: 6,
    cut_witness: 3,
    cut_witness_off: 1,
    slow_witness: 4,
    heal_witness: 3,
}
"""How often each is drawn."""
