# SPDX-License-Identifier: Apache-2.0
"""Everything that can happen to a few requests, with a fault after any step.

    python -m unit.sync_explorer                   from tests/; every script, two faults, minutes
    python -m unit.sync_explorer --faults 3 --only strict-strict

A path goes on in one order by itself: stores, daemons and messages take turns, and what is broken
is mended when nothing else is left to do. A fault is anything else: a connection that breaks, a
worker or a daemon that is killed, a disk that is full or a daemon that refuses for once, a role
that moves, a deadline that comes early, or a turn that goes to somebody else. The explorer goes
through all paths with at most so many faults; worlds that are the same and have as many faults left
are gone through once. There are two orders: the network last, or first (`World.hasty`).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from twinbeat.sync.operation import Policy
from twinbeat.sync.propagation import Propagation
from unit.sync_world import SECOND, Command, ViolationError, World, add, key, run

Path = tuple["Path", tuple[str, int]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A path that breaks a promise."""

    promise: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.promise}:\n  " + "\n  ".join(self.path)


@dataclass(slots=True, kw_only=True)
class Explored:
    states: int = 0
    ends: int = 0
    found: Found | None = None


def explore(world: World, faults: int, most: int = 10_000_000) -> Explored:
    """Goes through all paths until a promise is broken or ``most`` states were seen."""
    explored = Explored()
    seen = {(key(world), faults)}
    stack: list[tuple[World, int, Path]] = [(world, faults, None)]
    while stack and explored.states < most:
        world, left, path = stack.pop()
        explored.states += 1
        choices = list(_choices(world, left))
        if not choices:
            explored.ends += 1
            try:
                world.judge()
            except (ViolationError, AssertionError) as broken:
                explored.found = _found(broken, path)
                return explored
            continue
        last = len(choices) - 1
        for index, (name, node, cost) in enumerate(choices):
            # The last one may use up the world itself.
            following = world.copied() if index < last else world
            step: Path = (path, (name, node))
            try:
                following.act(name, node)
            except (ViolationError, AssertionError) as broken:
                explored.found = _found(broken, step)
                return explored
            state = (key(following), left - cost)
            if state not in seen:
                seen.add(state)
                stack.append((following, left - cost, step))
    return explored


def wander(seed: int, kind: type[Propagation] = Propagation) -> Found | None:
    """One random path with six requests of all kinds and up to thirty faults."""
    rng = random.Random(seed)
    policies = list(Policy)
    script = tuple(
        Command(
            request=rng.choice([add, add, run])(
                name, rng.choice(policies), rng.choice([4, 10, 40])
            ),
            to=rng.choice([None, None, 0, 1]),
        )
        for name in "xyzuvw"
    )
    world = begun(script, kind, hasty=rng.random() < 0.5)
    path: Path = None
    left, rate = rng.randrange(31), rng.choice([0.03, 0.1, 0.3])
    try:
        for _ in range(3000):
            choices = list(_choices(world, left))
            if not choices:
                world.judge()
                return None
            free = [choice for choice in choices if not choice[2]]
            costly = [choice for choice in choices if choice[2]]
            take = costly if costly and (not free or rng.random() < rate) else free
            name, node, cost = rng.choice(take)
            left -= cost
            path = (path, (name, node))
            world.act(name, node)
    except (ViolationError, AssertionError) as broken:
        return _found(broken, path)
    return Found(promise="it comes to rest", path=())


def _choices(world: World, left: int) -> Iterator[tuple[str, int, int]]:
    """What may happen next, and what of the budget it takes."""
    pending, broken = world.pending(), world.broken()
    deadline = world.deadline()
    if pending:
        yield (*pending[0], 0)
    elif broken:
        for act in broken:
            yield (*act, 0)
        if deadline is not None:
            yield ("time", 0, 0)
    elif deadline is not None:
        yield ("time", 0, 0)
    if left:
        for act in [*pending[1:], *(broken if pending else []), *world.faults()]:
            yield (*act, 1)
        if deadline is not None and pending:
            yield ("time", 0, 1)


def _found(broken: AssertionError, path: Path) -> Found:
    steps = []
    while path is not None:
        path, (name, node) = path
        steps.append(f"{name} {node}")
    return Found(promise=str(broken) or repr(broken), path=tuple(reversed(steps)))


# -- what is explored ----------------------------------------------------------------------------


def scripts() -> dict[str, tuple[Command, ...]]:
    strict, available = Policy.STRICT, Policy.AVAILABLE
    made: dict[str, tuple[Command, ...]] = {}
    for first in (strict, available):
        for second in (strict, available):
            name = f"{first.value}-{second.value}"
            made[name] = (
                Command(request=add("x", first)),
                Command(request=add("y", second, timeout_s=40)),
            )
    for policy in (strict, available):
        made[policy.value] = (Command(request=add("x", policy)),)
        made[f"run-{policy.value}"] = (
            Command(request=run("x", policy)),
            Command(request=add("y", policy)),
        )
        made[f"twice-{policy.value}"] = (
            Command(request=add("x", policy), to=0),
            Command(request=add("x", policy), to=1),
        )
        made[f"forwarded-{policy.value}"] = (
            Command(request=add("x", policy), to=1),
            Command(request=add("y", policy), to=0),
        )
    return made


def begun(
    script: tuple[Command, ...], kind: type[Propagation] = Propagation, *, hasty: bool = False
) -> World:
    """Both run, are connected and in step; nothing was asked for yet."""
    world = World.made((), kind=kind)
    world.calm()
    world.script, world.hasty = script, hasty
    world.now_ns = 3 * SECOND  # Past the time in which a node that was started waits for the other.
    return world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--most", type=int, default=10_000_000)
    parser.add_argument("--random", type=int, default=0, help="so many random paths instead")
    options = parser.parse_args()
    for seed in range(options.random):
        found = wander(seed)
        if found is not None:
            print(f"seed {seed}: {found}", flush=True)
    if options.random:
        return
    for name, script in scripts().items():
        if options.only not in name:
            continue
        for hasty in (False, True):
            began = time.monotonic()
            explored = explore(begun(script, hasty=hasty), options.faults, options.most)
            took = time.monotonic() - began
            order = "network first" if hasty else "network last"
            counts = f"{explored.states} states, {explored.ends} ends, {took:.1f} s"
            print(f"{name}, {order}: {counts}", flush=True)
            if explored.found is not None:
                print(explored.found)


if __name__ == "__main__":
    main()
