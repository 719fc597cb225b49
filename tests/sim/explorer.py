# SPDX-License-Identifier: Apache-2.0
"""Breadth first through everything that two nodes can do within a budget of faults.

    python -m sim.explorer                         from tests/; the whole budget, minutes
    python -m sim.explorer --cuts 0 --pauses 2     another one

A state is a whole world: the real cores, engines and kernels of both nodes, the wires, the disks.
From each the explorer goes on by every action that the budget still allows, and by letting a tick
pass, until no state is new: with one cut, one pause and one reboot, at any tick, each mended at any
later tick or never, in any order. The world is calm, so that a state has one future. Two states are
the same if what matters of them is (`digest`): what the gates, engines and cores of both nodes
know, times in parts of a tick. Terms count by their order; a path that needs a fourth term ends.

The safety rules are checked after everything that happens. Where all is mended somebody has to
serve within a bound, counted along the path. What breaks a rule is printed as the path that leads
there, and since the search is breadth first it is a shortest one: a transcript can be made of it.
"""

from __future__ import annotations

import argparse
import copyreg
import gc
import hashlib
import multiprocessing
import os
import pickle
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sim.invariants import Violation
from sim.network import MS, US
from sim.node import SimNode
from sim.schedule import bound_ns
from sim.world import World
from twinbeat.core.table import StateError
from twinbeat.engine._engine import ffi

TICK_NS: Final = 700 * US
"""Past a dead interval, within the suspicion: a verdict takes one more, a lease four more."""
MATTERS: Final = 8
"""A moment that lies back further, or ahead, is past or to come: all waits of the rules but the
attestation's are shorter."""
TERMS: Final = 3
"""A path ends where a term beyond so many would be used."""
CHUNK: Final = 24
"""States that a process expands at a time."""


# -- a world as bytes ----------------------------------------------------------------------------


def _c_value(name: str, content: bytes) -> Any:
    """A C structure again."""
    made = ffi.new(name)
    ffi.memmove(made, content, len(content))
    return made


def _of_c(value: Any) -> tuple[Callable[..., Any], tuple[str, bytes]]:
    kind = ffi.typeof(value)
    size = ffi.sizeof(kind if kind.kind == "array" else kind.item)
    return _c_value, (kind.cname, bytes(ffi.buffer(value, size)))


copyreg.pickle(type(ffi.new("int *")), _of_c)
copyreg.pickle(type(ffi.new("uint8_t[2]")), _of_c)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Faults that a path may still have."""

    cuts: int = 1
    pauses: int = 1
    reboots: int = 1


@dataclass(slots=True, kw_only=True)
class State:
    """A world, what it may still suffer, and how long nobody has served though all is well."""

    world: World
    budget: Budget
    nobody_ns: int = 0
    path: list[str] = field(default_factory=list)

    def packed(self) -> bytes:
        return pickle.dumps(self, protocol=pickle.HIGHEST_PROTOCOL)


class Nothing:
    """What is drawn in a world where nothing varies."""

    def randrange(self, *_: int) -> int:
        return 0

    def random(self) -> float:
        return 0.5


def unpacked(packed: bytes) -> State:
    state = pickle.loads(packed)
    assert isinstance(state, State)
    return state


def beginning(budget: Budget) -> State:
    """a serves, b watches."""
    world = World(1, calm=True)
    for link in world.links:
        for path in link.path:
            path.tape = deque(maxlen=0)
    for key in world.checks.accepted:
        world.checks.accepted[key] = deque(maxlen=0)
    world.a.boot()
    world.b.boot()
    world.run(8 * MS)
    assert world.a.gate_open()
    world.checks.terms_used.clear()
    world.rng = world.witness.rng = Nothing()  # type: ignore[assignment]
    return State(world=world, budget=budget)


# -- what can be done ----------------------------------------------------------------------------

Act = Callable[[State], None]


def actions(state: State) -> Iterator[tuple[str, Act]]:
    """Everything that makes sense now, nothing first."""
    yield "", lambda _: None
    world, budget = state.world, state.budget
    paths = [path for link in world.links for path in link.path]
    if any(not path.up for path in paths):
        yield "heal", _heal
    elif budget.cuts:
        for ends in ((0, 1), (0,), (1,)):
            yield f"cut frames of {' and '.join('ab'[end] for end in ends)}", _cut(ends)
    for node in world.nodes:
        yield from _of_node(node, budget)


def _of_node(node: SimNode, budget: Budget) -> Iterator[tuple[str, Act]]:
    index = node.index
    if not node.powered:
        yield f"boot {node.name}", lambda state: state.world.nodes[index].boot()
        return
    if node.stopped:
        yield f"cont {node.name}", lambda state: state.world.nodes[index].cont()
    elif budget.pauses and node.agent is not None:
        yield f"stop {node.name}", _stop(index)
    if budget.reboots:
        yield f"power-off {node.name}", _power_off(index)


def _heal(state: State) -> None:
    state.world.heal_wires()


def _cut(ends: tuple[int, ...]) -> Act:
    def cut(state: State) -> None:
        state.budget = replace(state.budget, cuts=state.budget.cuts - 1)
        for link in range(len(state.world.links)):
            for end in ends:
                state.world.cut(link, end)

    return cut


def _stop(index: int) -> Act:
    def stop(state: State) -> None:
        state.budget = replace(state.budget, pauses=state.budget.pauses - 1)
        state.world.nodes[index].stop()

    return stop


def _power_off(index: int) -> Act:
    def power_off(state: State) -> None:
        state.budget = replace(state.budget, reboots=state.budget.reboots - 1)
        state.world.nodes[index].power_off()

    return power_off


def is_well(world: World) -> bool:
    """Nothing is broken that somebody would have to mend."""
    wires = all(path.up for link in world.links for path in link.path)
    return wires and all(node.agent is not None and not node.stopped for node in world.nodes)


# -- what matters of a state ---------------------------------------------------------------------


def digest(state: State) -> bytes:
    """Two states with the same digest have the same future, as far as this search can tell."""
    world = state.world
    parts: list[object] = [
        state.budget,
        state.nobody_ns // (8 * TICK_NS),
        [path.up for link in world.links for path in link.path],
    ]
    parts += [_node_digest(world, node) for node in world.nodes]
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).digest()


def _parts(node: SimNode, at_ns: int) -> int:
    """How far a moment lies ahead (or back), in ticks, as far as that matters."""
    if not at_ns:
        return -99
    return max(-MATTERS, min(MATTERS, (at_ns - node.clock()) // TICK_NS))


def _node_digest(world: World, node: SimNode) -> tuple[object, ...]:
    if not node.powered:
        return ("off", node.disk.durable)
    gate, peer = node.plain.gate, node.plain.peer
    terms = sorted(world.checks.terms_used)
    kernel = (
        terms.index(gate.term) if gate.term in terms else gate.term > 0,
        gate.term >= gate.fence_below,
        gate.contested == gate.term,
        _parts(node, gate.open_until) if gate.term else None,
        peer.flags,
        peer.epoch == world.nodes[1 - node.index].disk.epoch,
        peer.fence_below >= gate.term,
        node.stopped,
    )
    if node.agent is None:
        return ("gone", kernel, node.disk.durable)
    engine, machine = node.agent.engine, node.agent.machine
    facts = machine.facts
    agent = (
        engine.phase,
        engine.watch,
        engine.claim_cause if engine.claim else None,
        bool(engine.receipted),
        bool(engine.answer_open),
        bool(engine.by_silence),
        _parts(node, engine.heard_ns),
        _parts(node, engine.suspect_ns) if engine.watch in (1, 2, 3) else None,
        _parts(node, engine.idle_since_ns),
        _parts(node, max(engine.backoff_until_ns, node.clock())),
        _parts(node, engine.open_until_ns),
        _parts(node, node.agent.attested_at_ns) if node.stopped else None,
        facts.role,
        facts.admin,
        facts.past,
        _parts(node, engine.started_ns),
        facts.last_primary,
        facts.abstaining,
        int(machine.order.permits),
        int(machine.order.flags),
    )
    return ("runs", kernel, agent)


# -- the search ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What an action led to."""

    digest: bytes = b""
    packed: bytes = b""
    broken: str = ""
    beyond: bool = False
    """It needed a term too many."""
    terms: int = 0
    opened: tuple[str, ...] = ()


_told: Final[set[bytes]] = set()
"""What this process has already handed over: it needn't pack it again."""


def expand(packed: list[bytes]) -> list[Step]:
    """Every step from these states."""
    gc.disable()  # Worlds are many and live briefly; what is circular in them goes with the chunk.
    steps: list[Step] = []
    for each in packed:
        names = [name for name, _ in actions(unpacked(each))]
        for number, name in enumerate(names):
            state = unpacked(each)
            act = list(actions(state))[number][1]
            steps.append(_taken(state, name, act))
    gc.enable()
    return steps


def _taken(state: State, name: str, act: Act) -> Step:
    world = state.world
    world.checks.covered.clear()
    state.path.append(name)
    try:
        act(state)
        world.run(TICK_NS)
        serving = world.a.gate_open() + world.b.gate_open()
        state.nobody_ns = state.nobody_ns + TICK_NS if is_well(world) and serving != 1 else 0
        if state.nobody_ns > bound_ns(world):
            raise Violation("SOMEONE", "all is well, and not exactly one serves")
    except (Violation, StateError, AssertionError) as broken:
        return Step(broken=f"{type(broken).__name__} {broken} <= {told(state.path)}")
    if len(world.checks.terms_used) > TERMS:
        return Step(beyond=True)
    world.checks.transitions.clear()
    known = digest(state)
    new = known not in _told
    _told.add(known)
    return Step(
        digest=known,
        packed=state.packed() if new else b"",
        terms=len(world.checks.terms_used),
        opened=tuple(what for what in world.checks.covered if what.startswith("opened")),
    )


def told(path: list[str]) -> str:
    """A path for people: what was done, and how many ticks passed between."""
    lines: list[str] = []
    waited = 0
    for name in path:
        if name:
            lines += [f"{waited} ticks"] * bool(waited) + [name]
            waited = 0
        waited += 1
    return " | ".join([*lines, f"{waited} ticks"])


@dataclass(slots=True, kw_only=True)
class Found:
    """What a search came to."""

    states: int = 1
    edges: int = 0
    levels: int = 0
    beyond: int = 0
    complete: bool = False
    broken: list[str] = field(default_factory=list)
    by_terms: Counter[int] = field(default_factory=Counter)
    opened: Counter[str] = field(default_factory=Counter)


def search(budget: Budget, *, within_s: float, processes: int | None = None) -> Found:
    """Go through all states of a budget, for so long at most."""
    found = Found()
    until = time.monotonic() + within_s
    first = beginning(budget)
    seen = {digest(first)}
    frontier = [first.packed()]
    # Forked, so that a fault that a test planted here is planted there.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=context) as pool:
        while frontier and not found.broken and time.monotonic() < until:
            found.levels += 1
            chunks = [frontier[i : i + CHUNK] for i in range(0, len(frontier), CHUNK)]
            frontier = []
            for steps in pool.map(expand, chunks):
                for step in steps:
                    _take(found, step, seen, frontier)
    found.complete = not frontier and not found.broken
    return found


def _take(found: Found, step: Step, seen: set[bytes], frontier: list[bytes]) -> None:
    found.edges += 1
    found.opened.update(step.opened)
    if step.broken:
        found.broken.append(step.broken)
    elif step.beyond:
        found.beyond += 1
    elif step.digest not in seen:
        seen.add(step.digest)
        frontier.append(step.packed)
        found.states += 1
        found.by_terms[step.terms] += 1


def main() -> int:
    """Explore, print, and fail if anything was found, or if it wasn't all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=1)
    parser.add_argument("--pauses", type=int, default=1)
    parser.add_argument("--reboots", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    budget = Budget(cuts=options.cuts, pauses=options.pauses, reboots=options.reboots)
    begun = time.monotonic()
    found = search(budget, within_s=60 * options.minutes)
    print(told_of(budget, found, time.monotonic() - begun))
    for line in found.broken[:20]:
        print(line)
    return 0 if found.complete else 1


def told_of(budget: Budget, found: Found, took_s: float) -> str:
    """The figures of a search."""
    by_terms = sorted(found.by_terms.items())
    terms = ", ".join(f"{count} with {number} terms" for number, count in by_terms)
    opened = ", ".join(f"{name} {count}" for name, count in sorted(found.opened.items()))
    return (
        f"{budget.cuts} cuts, {budget.pauses} pauses, {budget.reboots} reboots: "
        f"{found.states} states ({terms}), {found.edges} steps, {found.levels} levels, "
        f"{'complete' if found.complete else 'NOT COMPLETE'}, {found.beyond} ended beyond "
        f"{TERMS} terms, {len(found.broken)} rules broken, {took_s:.0f} s; {opened}"
    )


if __name__ == "__main__":
    sys.exit(main())
