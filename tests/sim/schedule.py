# SPDX-License-Identifier: Apache-2.0
"""One random schedule from one seed: things go wrong, all is mended, somebody serves."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from sim import coverage, faults
from sim.invariants import (
    Violation,
    check_fail_safe,
    check_health_decides,
    check_monitors,
    check_someone,
    check_steady,
)
from sim.network import MS, US
from sim.node import Setting
from sim.witness import WEIGHTS as WITNESS_WEIGHTS
from sim.world import World
from twinbeat.config.timers import PROFILES
from twinbeat.core.table import StateError
from twinbeat.core.types import Damping, FlipLimit


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


PACE: Final = {
    "fast": Fraction(1),
    "balanced": Fraction(2, 25),
    "routed": Fraction(3, 1000),
    "classic": Fraction(1, 1000),
}
"""How much faster time passes here than for a pair that keeps a profile."""


def of_profile(name: str) -> Setting:
    """The timers of a profile, by their ratios: it is these that safety may not depend on.

    What is waited for longest is shortened beyond that: steps of mere waiting find nothing.
    """
    ns = PROFILES[name].ns

    def paced(length_ns: int) -> int:
        return int(length_ns * PACE[name]) // US * US

    lease_ns = min(paced(ns.lease_ns), 5 * paced(ns.dead_ns))
    return Setting(
        hello_ns=paced(ns.hello_ns),
        dead_ns=paced(ns.dead_ns),
        verify_ns=paced(ns.verify_ns),
        stall_ns=paced(ns.stall_ns),
        lease_ns=lease_ns,
        attest_ns=min(paced(ns.attest_ns), 4 * lease_ns),
        boot_wait_ns=min(paced(ns.boot_wait_ns), 2 * lease_ns),
    )


GROUND_SHARE: Final = 0.3
"""Of so many schedules the nodes have monitors, watchdogs, and links that come and go."""
SETTINGS: Final = {name: of_profile(name) for name in PACE}


def setting_of(rng: random.Random) -> Setting:
    """Timers and policy are drawn as well: every combination has to be safe."""
    hold_ns = rng.choice((0, 1, 2, 2, 4)) * MS
    setting = replace(
        SETTINGS[rng.choice(("fast", "fast", "fast", "balanced", "routed", "classic"))],
        strict=rng.random() < 0.2,
        wait_lease=rng.random() < 0.3,
        claim_alone=rng.random() < 0.3,
        fail_safe=rng.random() < 0.8,
        damping=Damping(hold_ns=hold_ns, hold_max_ns=4 * hold_ns, forget_ns=20 * MS),
        flip_limit=FlipLimit(flips=rng.choice((0, 0, 1, 3)), window_ns=rng.choice((0, 30 * MS))),
        fence=rng.choice(("", "", "", "", "after", "before")),
    )
    return with_witness(setting, rng) if rng.random() < 0.1 else setting


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
    if witness and not world.setting.witness_ns:
        world.setting = with_witness(world.setting, world.rng)
    witness = bool(world.setting.witness_ns)
    # Drawn apart, so that the other histories stay what they are.
    on_ground = random.Random(f"ground {seed}").random() < GROUND_SHARE
    world.setting = replace(world.setting, ground=on_ground)
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
        world.run(rng.choice((1, 8, 8, 14)) * MS)
        for number in range(length):
            fault, node = faults.draw(world)
            if number == 0:
                fault = faults.story(seed)
            if witness and rng.random() < 0.4:
                fault = rng.choices(tuple(WITNESS_WEIGHTS), tuple(WITNESS_WEIGHTS.values()))[0]
            if fault not in faults.MENDING:
                kinds.add(fault.__name__)
            say(fault(world, node))
            count += 1
            # Faults come in bunches: the worst is what happens while something else is going on.
            world.run(
                rng.choice((0, 50 * US, 300 * US, 900 * US, 2 * MS, 6 * MS))
                + rng.randrange(200 * US)
            )
        world.run(rng.randrange(10 * MS))
        faults.mend(world)
        say("all is mended but the nodes' health")
        check_health_decides(world, bound_ns(world))
        check_monitors(world, bound_ns(world))
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
