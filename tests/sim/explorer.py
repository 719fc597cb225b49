# SPDX-License-Identifier: Apache-2.0
"""All short schedules, one by one: at each step every action that makes sense, at every gap.

    python -m sim.explorer --depth 3          from tests/; prints what it tried and what it found

The world is calm, so that a path is one history, and a snapshot of it is a process: every branch is
a fork, in which the real engines, kernels and cores go their own way. A branch whose state was seen
before, with at least as many steps to go, is not gone into again; states are compared by what
matters of them (`digest`), in a table that all processes share. At the end of each path all is
mended, and somebody has to serve.

What is found is printed as the path that leads there: a transcript can be written from it.
"""

from __future__ import annotations

import argparse
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sim import faults
from sim.invariants import Violation, check_someone
from sim.network import MS, US
from sim.node import SimNode
from sim.schedule import bound_ns
from sim.world import World
from twinbeat.core.events import AdminCommand, ForceFailover
from twinbeat.core.table import StateError
from twinbeat.core.types import Admin

GAPS = (150 * US, 700 * US, 2200 * US)
"""Within an exchange, within a suspicion, and past a lease's half."""
TABLE_BYTES = 1 << 22

Action = tuple[str, Callable[[], object]]


def actions(world: World) -> Iterator[Action]:
    """Everything that makes sense now."""
    for node in world.nodes:
        yield from _of_node(world, node)
    paths = [path for link in world.links for path in link.path]
    if not all(path.up for path in paths):
        yield "heal", world.heal_wires
    if all(path.up for path in paths):
        yield "cut a b", lambda: [world.cut(link, end) for link in (0, 1) for end in (0, 1)]


def _of_node(world: World, node: SimNode) -> Iterator[Action]:
    name = node.name
    if not node.powered:
        yield f"boot {name}", node.boot
        return
    yield f"power-off {name}", node.power_off
    if all(link.path[node.index].up for link in world.links):
        yield f"cut {name}", lambda: [world.cut(link, node.index) for link in (0, 1)]
    if node.agent is None:
        yield f"start {name}", node.start
        return
    yield f"kill {name}", node.kill
    if node.stopped:
        yield f"cont {name}", node.cont
        return
    yield f"stop {name}", node.stop
    if not node.pause_in_round_ns:
        for held in (900 * US, 2600 * US):
            yield f"hold {name} {held // US}us", lambda held=held: _hold(node, held)
    number = world.steps
    insists = ForceFailover(request_id=f"f{number}", even_if_unfit=True)
    yield f"tell {name} failover", lambda: node.tell(insists)
    if node.agent.machine.facts.admin is Admin.ENABLED:
        stay = AdminCommand(request_id=f"s{number}", status=Admin.STAY_SECONDARY)
        yield f"tell {name} stay secondary", lambda: node.tell(stay)


def _hold(node: SimNode, held_ns: int) -> None:
    node.pause_in_round_ns = held_ns


def digest(world: World) -> tuple[object, ...]:
    """What matters of a state: who may do what, and roughly how long still."""
    parts: list[object] = []
    for node in world.nodes:
        if not node.powered:
            parts.append(("off", node.disk.durable.admin))
            continue
        gate = node.plain.gate
        left = max(0, gate.open_until - node.clock()) // (300 * US) if gate.term else -1
        # Terms matter by their order and owner only.
        other = world.nodes[1 - node.index]
        theirs = other.plain.gate.term if other.powered else 0
        parts.append(
            (
                gate.term > 0,
                gate.term > theirs,
                gate.term >= gate.fence_below,
                gate.contested == gate.term,
                left,
                node.stopped,
                node.pause_in_round_ns > 0,
            )
        )
        if node.agent is None:
            parts.append("gone")
            continue
        engine, facts = node.agent.engine, node.agent.machine.facts
        parts.append(
            (
                engine.phase,
                engine.watch,
                engine.claim > 0,
                engine.claim_cause,
                bool(engine.receipted),
                bool(engine.answer_open),
                max(0, node.clock() - engine.heard_ns) // (200 * US) if engine.heard_ns else -1,
                engine.backoff_until_ns > node.clock(),
                facts.role,
                facts.admin,
                int(node.agent.machine.order.permits),
                node.plain.peer.flags,
            )
        )
    parts += [path.up for link in world.links for path in link.path]
    return tuple(parts)


@dataclass(slots=True)
class Seen:
    """States seen, by hash and steps to go, shared by all processes. Forgets nothing; a collision
    costs one branch."""

    table: mmap.mmap

    def new(self, state: tuple[object, ...], to_go: int) -> bool:
        """True the first time, or when more is left to try than the last time."""
        at = hash(state) % TABLE_BYTES
        known = self.table[at]
        if known > to_go:
            return False
        self.table[at] = to_go + 1
        return True


class Explorer:
    """Goes through all paths of a depth."""

    def __init__(self, depth: int, share: tuple[int, int] = (0, 1)) -> None:
        """`share` (i, n): only every n-th first action, beginning with the i-th."""
        self.depth = depth
        self.share = share
        self.seen = Seen(mmap.mmap(-1, TABLE_BYTES))
        self.tally = mmap.mmap(-1, 24)
        """Paths, branches cut short, violations."""
        self.found, self._tell = os.pipe()

    def run(self) -> tuple[int, int, list[str]]:
        """(paths gone to the end, branches cut short, violations)."""
        world = World(1, calm=True)
        world.a.boot()
        world.b.boot()
        world.run(6 * MS)
        assert world.a.gate_open()
        pid = os.fork()
        if pid == 0:
            self._explore(world, self.depth, [])
            os._exit(0)
        os.close(self._tell)
        with os.fdopen(self.found) as pipe:
            violations = pipe.read().splitlines()
        os.waitpid(pid, 0)
        paths, known, _ = struct.unpack("3Q", self.tally[:])
        return paths, known, violations

    def _explore(self, world: World, to_go: int, path: list[str]) -> None:
        """In a process of its own: every way on from here, each in another one."""
        if to_go == 0:
            self._finish(world, path)
            return
        choices = [(what, act, gap) for what, act in actions(world) for gap in GAPS]
        if to_go == self.depth:
            choices = choices[self.share[0] :: self.share[1]]
        for what, act, gap in choices:
            pid = os.fork()
            if pid == 0:
                self._branch(world, to_go, [*path, f"{what}, {gap // US} us"], act, gap)
                os._exit(0)
            os.waitpid(pid, 0)

    def _branch(
        self, world: World, to_go: int, path: list[str], act: Callable[[], object], gap: int
    ) -> None:
        try:
            act()
            world.run(gap)
        except (Violation, StateError, AssertionError) as broken:
            self._report(path, broken)
            return
        if self.seen.new(digest(world), to_go - 1):
            self._explore(world, to_go - 1, path)
        else:
            self._count(1)

    def _finish(self, world: World, path: list[str]) -> None:
        self._count(0)
        try:
            faults.make_well(world)
            check_someone(world, bound_ns(world), steady_ns=6 * MS)
        except (Violation, StateError, AssertionError) as broken:
            self._report([*path, "all is made well"], broken)

    def _count(self, which: int) -> None:
        counts = list(struct.unpack("3Q", self.tally[:]))
        counts[which] += 1
        self.tally[:] = struct.pack("3Q", *counts)

    def _report(self, path: list[str], broken: BaseException) -> None:
        os.write(self._tell, f"{broken} <= {' | '.join(path)}\n".encode())


def main() -> int:
    """Explore, print, and fail if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--share", default="0/1", help="I/N: only every N-th first action")
    options = parser.parse_args()
    first, of = map(int, options.share.split("/"))
    begun = time.monotonic()
    paths, known, violations = Explorer(options.depth, (first, of)).run()
    print(
        f"depth {options.depth}: {paths} paths, {known} branches seen before, "
        f"{len(violations)} violations, {time.monotonic() - begun:.0f} s"
    )
    for line in violations[:50]:
        print(line)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
