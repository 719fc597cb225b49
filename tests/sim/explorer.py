# SPDX-License-Identifier: Apache-2.0
"""Breadth first through everything that two nodes can do within a budget of faults.

    python -m sim.explorer                         from tests/; the whole budget
    python -m sim.explorer --fine                  told apart more finely: for a night
    python -m sim.explorer --cuts 0 --pauses 2     another budget

A state is a whole world: the real cores, engines and kernels of both nodes, the wires, the disks.
From each the explorer goes on by every action that the budget still allows, and by letting a tick
pass, until no state is new: with one cut, one pause and one reboot, at any tick, each mended at any
later tick or never, in any order. The world is calm, so that a state has one future. Two worlds are
one state if their canonical forms are the same (`sim.canon`). A path ends where a fourth term would
be used.

The safety rules are checked after everything that happens. Where all is mended somebody has to
serve within a bound, counted along the path. What breaks a rule is printed as the path that leads
there, and since the search is breadth first it is a shortest one: a transcript can be made of it.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import multiprocessing
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final

from sim import packing
from sim.canon import Form
from sim.figures import processor_s
from sim.invariants import Violation
from sim.network import MS, US
from sim.node import Setting, SimNode
from sim.schedule import bound_ns
from sim.world import World
from twinbeat.core.table import StateError

TICK_NS: Final = 700 * US
"""Past a dead interval, within the suspicion: a verdict takes one more."""
SETTING: Final = replace(
    Setting(),
    verify_ns=200 * US,
    stall_ns=TICK_NS,
    lease_ns=2 * TICK_NS,
    attest_ns=4 * TICK_NS,
    boot_wait_ns=4 * TICK_NS,
    mismatch_wait_ns=6 * TICK_NS,
    patience=replace(
        Setting().patience,
        resync_ns=TICK_NS,
        calm_ns=TICK_NS,
        retry_ns=TICK_NS,
        abstain_ns=2 * TICK_NS,
    ),
)
"""Waits of as few ticks as the rules of the configuration allow."""
COARSE: Final = Form(grain_ns=TICK_NS, reach=5)
FINE: Final = Form(grain_ns=TICK_NS // 2, reach=16)
TERMS: Final = 3
"""A path ends where a term beyond so many would be used."""
AUDITED: Final = 64
"""Of the worlds taken for a known state one in so many is gone on from all the same, once for each
state: what it leads to is compared with what the first one led to, and explored as well."""
CHUNK: Final = 24
"""States that a process expands at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Faults that a path may still have."""

    cuts: int = 1
    pauses: int = 1
    reboots: int = 1

    def __str__(self) -> str:
        counts = {"cut": self.cuts, "pause": self.pauses, "reboot": self.reboots}
        return ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())


@dataclass(slots=True, kw_only=True)
class State:
    """A world, what it may still suffer, and how long nobody has served though all is well."""

    world: World
    budget: Budget
    form: Form
    nobody_ns: int = 0
    path: list[str] = field(default_factory=list)

    def digest(self) -> bytes:
        """The same for two worlds that count as one state."""
        parts = (self.budget, self.nobody_ns // (8 * TICK_NS), self.form.of(self.world))
        return hashlib.blake2b(repr(parts).encode(), digest_size=12).digest()


class Nothing:
    """What is drawn in a world where nothing varies."""

    def randrange(self, *_: int) -> int:
        return 0

    def random(self) -> float:
        return 0.5


def unpacked(content: bytes) -> State:
    state = packing.unpacked(content)
    assert isinstance(state, State)
    return state


def beginning(budget: Budget, form: Form) -> State:
    """a serves, b watches."""
    world = World(1, SETTING, calm=True)
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
    return State(world=world, budget=budget, form=form)


# -- what can be done ----------------------------------------------------------------------------

Act = Callable[[State], None]


def actions(state: State) -> Iterator[tuple[str, Act]]:
    """Everything that makes sense now, nothing first. Each may be done to another copy."""
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


# -- the search ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What an action led to."""

    source: bytes
    """The digest of the state before it."""
    name: str
    digest: bytes = b""
    packed: bytes = b""
    audited: bool = False
    """To be gone on from even though it counts as known."""
    broken: str = ""
    beyond: bool = False
    """It needed a term too many."""
    terms: int = 0
    opened: tuple[str, ...] = ()

    @property
    def led_to(self) -> bytes:
        return self.digest or (b"broken" if self.broken else b"beyond")


_told: Final[set[bytes]] = set()
"""What this process has already handed over: it needn't pack it again."""


def expand(packed: list[bytes]) -> list[Step]:
    """Every step from these states."""
    steps: list[Step] = []
    for each in packed:
        before = unpacked(each)
        source = before.digest()
        nothing, *others = actions(before)
        steps += [_taken(unpacked(each), source, name, act) for name, act in others]
        steps.append(_taken(before, source, *nothing))
    gc.collect()  # Worlds are many and live briefly; what is circular in them goes at once.
    return steps


def _taken(state: State, source: bytes, name: str, act: Act) -> Step:
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
        what = f"{type(broken).__name__} {broken} <= {told(state.path)}"
        return Step(source=source, name=name, broken=what)
    if len(world.checks.terms_used) > TERMS:
        return Step(source=source, name=name, beyond=True)
    world.checks.transitions.clear()
    known = state.digest()
    audited = (known[0] + 256 * known[1] + len(state.path)) % AUDITED == 0
    wanted = audited or known not in _told
    _told.add(known)
    return Step(
        source=source,
        name=name,
        digest=known,
        packed=packing.packed(state) if wanted else b"",
        audited=audited,
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

    budget: Budget
    states: int = 1
    steps: int = 0
    levels: int = 0
    beyond: int = 0
    left: int = 0
    """States that nobody went on from: none, and the search is complete."""
    complete: bool = False
    broken: list[str] = field(default_factory=list)
    led: dict[tuple[bytes, str], bytes] = field(default_factory=dict)
    """Where a state and an action led first."""
    audited: int = 0
    """Steps from worlds that were taken for a known state."""
    differed: Counter[str] = field(default_factory=Counter)
    """Those that led elsewhere, by action."""
    by_terms: Counter[int] = field(default_factory=Counter)
    opened: Counter[str] = field(default_factory=Counter)
    took_s: float = 0
    used_s: float = 0

    def __str__(self) -> str:
        by_terms = ", ".join(
            f"{count} at {terms}" for terms, count in sorted(self.by_terms.items())
        )
        opened = ", ".join(f"{name} {count}" for name, count in sorted(self.opened.items()))
        frontier = "the frontier is exhausted" if self.complete else f"{self.left} states are left"
        return (
            f"{self.budget}: {self.states} states, {self.steps} transitions, {self.levels} levels; "
            f"{'complete' if self.complete else 'NOT COMPLETE'}, {frontier}; states by new terms "
            f"used: {by_terms}, {self.beyond} transitions needed more than {TERMS}; {opened}; "
            f"{len(self.broken)} rules broken; audit: of {self.audited} transitions from worlds "
            f"taken for a known state {self.differed.total()} led to another state "
            f"({', '.join(f'{name} {count}' for name, count in self.differed.most_common())}); "
            f"{self.took_s:.0f} s, {self.used_s:.0f} s of processors' time"
        )


def search(
    budget: Budget,
    *,
    within_s: float,
    form: Form = COARSE,
    tell: Callable[[str], None] = lambda _: None,
) -> Found:
    """Go through all states of a budget, for so long at most."""
    found = Found(budget=budget)
    begun, used = time.monotonic(), processor_s()
    first = beginning(budget, form)
    packing.keep(first)
    seen, audited = {first.digest()}, set[bytes]()
    frontier = [packing.packed(first)]
    # Forked, so that a fault that a test planted here is planted there.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(os.cpu_count(), context, _begin) as pool:
        while frontier and not found.broken and time.monotonic() < begun + within_s:
            found.levels += 1
            chunks = [frontier[i : i + CHUNK] for i in range(0, len(frontier), CHUNK)]
            frontier = []
            for steps in pool.map(expand, chunks):
                for step in steps:
                    _take(found, step, seen, audited, frontier)
            tell(f"level {found.levels}: {found.states} states, {len(frontier)} to go on from")
    found.left = len(frontier)
    found.complete = not frontier and not found.broken
    found.took_s, found.used_s = time.monotonic() - begun, processor_s() - used
    return found


def _begin() -> None:
    """In each process: what is there already needn't be looked at for rubbish."""
    gc.freeze()
    gc.disable()


def _take(
    found: Found, step: Step, seen: set[bytes], audited: set[bytes], frontier: list[bytes]
) -> None:
    found.steps += 1
    found.opened.update(step.opened)
    led, key = found.led, (step.source, step.name)
    if key in led:
        found.audited += 1
        if led[key] != step.led_to:
            found.differed[step.name.split()[0] if step.name else "a tick"] += 1
    else:
        led[key] = step.led_to
    if step.broken:
        found.broken.append(step.broken)
    elif step.beyond:
        found.beyond += 1
    elif step.digest not in seen:
        seen.add(step.digest)
        frontier.append(step.packed)
        found.states += 1
        found.by_terms[step.terms] += 1
    elif step.audited and step.digest not in audited:
        audited.add(step.digest)
        frontier.append(step.packed)


def _say(what: str) -> None:
    print(what, flush=True)


def main() -> int:
    """Explore, print, and fail if anything was found, or if it wasn't all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=1)
    parser.add_argument("--pauses", type=int, default=1)
    parser.add_argument("--reboots", type=int, default=1)
    parser.add_argument("--fine", action="store_true", help="tell worlds apart more finely")
    parser.add_argument("--minutes", type=float, default=480)
    options = parser.parse_args()
    budget = Budget(cuts=options.cuts, pauses=options.pauses, reboots=options.reboots)
    form = FINE if options.fine else COARSE
    found = search(budget, within_s=60 * options.minutes, form=form, tell=_say)
    print(found)
    for line in found.broken[:20]:
        print(line)
    return 0 if found.complete else 1


if __name__ == "__main__":
    sys.exit(main())
