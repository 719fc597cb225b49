# SPDX-License-Identifier: Apache-2.0
"""One random schedule from one seed: things go wrong, all is mended, somebody serves."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from sim import coverage, faults
from sim.invariants import Violation, check_fail_safe, check_someone, check_steady
from sim.network import MS, US
from sim.node import Setting
from sim.witness import WEIGHTS as WITNESS_WEIGHTS
from sim.world import World
from twinbeat.core.table import StateError
from twinbeat.core.types import FlipLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a schedule came to."""

    seed: int
    steps: int
    faults: int
    kinds: int = 0
    """Different faults among them."""
    overlaps: int
    covered: frozenset[str]
    violation: str | None
    trace: tuple[str, ...]


BALANCED = Setting(
    hello_ns=400 * US,
    dead_ns=1600 * US,
    verify_ns=400 * US,
    stall_ns=1600 * US,
    lease_ns=8 * MS,
    attest_ns=40 * MS,
    boot_wait_ns=12 * MS,
)
ROUTED = Setting(
    hello_ns=300 * US,
    dead_ns=1500 * US,
    verify_ns=600 * US,
    stall_ns=1500 * US,
    lease_ns=6 * MS,
    attest_ns=9 * MS,
    boot_wait_ns=12 * MS,
)
CLASSIC = Setting(
    hello_ns=200 * US,
    dead_ns=3 * MS,
    verify_ns=200 * US,
    stall_ns=1 * MS,
    lease_ns=10 * MS,
    attest_ns=20 * MS,
    boot_wait_ns=20 * MS,
)
"""The profiles by the ratios of their timers: it is these that safety may not depend on."""


def setting_of(rng: random.Random) -> Setting:
    """Timers and policy are drawn as well: every combination has to be safe."""
    return replace(
        rng.choice((Setting(), Setting(), Setting(), BALANCED, ROUTED, CLASSIC)),
        strict=rng.random() < 0.2,
        wait_lease=rng.random() < 0.3,
        claim_alone=rng.random() < 0.3,
        fail_safe=rng.random() < 0.8,
        flip_limit=FlipLimit(flips=rng.choice((0, 0, 1, 3)), window_ns=rng.choice((0, 30 * MS))),
    )


def with_witness(setting: Setting, rng: random.Random) -> Setting:
    """The same pair with a witness, which mostly is to stop whoever is cut off."""
    return replace(
        setting,
        witness_ns=rng.choice((6, 12, 24)) * MS,
        witness_serve=rng.random() < 0.1,
    )


def run(seed: int, length: int = 12, *, witness: bool = False) -> Result:
    """Play the schedule of `seed` with `length` faults. A broken rule is told, not raised."""
    world = World(seed)
    world.setting = setting_of(world.rng)
    if witness:
        world.setting = with_witness(world.setting, world.rng)
    world.slowest = world.setting
    rng = world.rng
    trace: list[str] = []

    def say(what: str) -> None:
        trace.append(f"{world.now_ns / 1e6:9.3f}  {what}")

    violation = None
    count = 0
    kinds: set[str] = set()
    coverage.TURNS.clear()
    try:
        world.a.boot()
        world.at(rng.randrange(6 * MS), faults.start, world, world.b)
        world.run(rng.choice((1, 8, 14)) * MS)
        for _ in range(length):
            fault, node = faults.draw(world)
            kinds.add(fault.__name__)
            if witness and rng.random() < 0.4:
                fault = rng.choices(tuple(WITNESS_WEIGHTS), tuple(WITNESS_WEIGHTS.values()))[0]
            say(fault(world, node))
            count += 1
            # Faults come in bunches: the worst is what happens while something else is going on.
            world.run(
                rng.choice((0, 50 * US, 300 * US, 900 * US, 2 * MS, 6 * MS))
                + rng.randrange(200 * US)
            )
        world.run(rng.randrange(10 * MS))
        faults.make_well(world)
        say("all is made well")
        check_someone(world, bound_ns(world), steady_ns=4 * world.slowest.lease_ns)
        # Better health counts late, and who was told to stay primary waits before it takes it.
        world.run(world.setting.damping.hold_max_ns)
        check_steady(world, 10 * world.slowest.hello_ns + 2 * MS)
        if rng.random() < 0.3:
            say("both nodes fail their checks")
            fails = world.nodes if rng.random() < 0.5 else world.nodes[::-1]
            check_fail_safe(world, fails, failing_ns(world))
    except Violation as broken:
        violation = str(broken)
    except (StateError, AssertionError) as broken:
        violation = f"STATE: {broken}"
    if violation is not None:
        say(violation)
    return Result(
        seed=seed,
        steps=world.steps,
        faults=count,
        kinds=len(kinds),
        overlaps=world.checks.overlaps,
        covered=frozenset(world.checks.covered | coverage.TURNS),
        violation=violation,
        trace=tuple(trace),
    )


def failing_ns(world: World) -> int:
    """By when a node that fails its checks has handed over, or shut its gate."""
    setting = world.slowest
    waits = setting.patience.operation_ns + 12 * setting.hello_ns + 8 * setting.verify_ns
    return waits + 4 * setting.dead_ns + setting.lease_ns + 2 * MS


def bound_ns(world: World) -> int:
    """By when somebody has to serve after all is well: all waits of the rules, twice."""
    setting = world.slowest
    patience = setting.patience
    return 2 * (
        setting.boot_wait_ns
        + setting.mismatch_wait_ns
        + 16 * setting.witness_ns
        + 5 * setting.lease_ns
        + 10 * (setting.dead_ns + setting.verify_ns)
        + patience.abstain_ns
        + patience.operation_ns
        + patience.retry_ns
        + setting.damping.hold_max_ns
    )
