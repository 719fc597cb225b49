# SPDX-License-Identifier: Apache-2.0
"""What a node stands on: what its monitors look at, and the watchdog of its machine.

What the findings amount to is for the product's own board to say, over the targets of a
configuration; and its own `Watchdog` says when the device is pinged, in the turns of the loop that
decides. Made up are only what is looked at, and the device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from sim.network import MS, US
from twinbeat.config.arbiters import WatchdogSection
from twinbeat.config.model import Config
from twinbeat.config.watching import LinksetSection, MonitorSection
from twinbeat.core.events import HealthChanged
from twinbeat.core.types import Role, TrackedHealth
from twinbeat.health.board import Board, Finding, Kind
from twinbeat.runtime.monitors import targets
from twinbeat.runtime.watchdog import Watchdog

if TYPE_CHECKING:
    from sim.node import Agent, SimNode

UPLINKS: Final = ("wan0", "wan1")
"""Interfaces of which one is enough."""
WEIGHTS: Final = {"lan0": 1000, "dmz0": 400, "default": 1000}
"""What else is looked at, and what its failure takes from the score: the interface of the switched
link, another one, and a route."""
LEVELS: Final = (*UPLINKS, "dmz0", "default")
"""What may be lost without a wire of the pair being touched."""
DELAY_NS: Final = 3 * MS
"""So long after the start, and after becoming primary, the route may be missing."""
PACE: Final = 1000
"""A watchdog counts in seconds: its second is a millisecond here."""


def watched(config: Config) -> Config:
    """The same pair, and its nodes have monitors."""
    return msgspec.structs.replace(
        config,
        linksets=(LinksetSection(name="wan", interfaces=UPLINKS),),
        monitors=(
            MonitorSection(name="dmz0", kind="interface", interface="dmz0", weight=WEIGHTS["dmz0"]),
            MonitorSection(name="default", kind="route", prefix="0.0.0.0/0"),
        ),
    )


class Ground:
    """Of one machine, whatever becomes of its agent."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self.lost: set[str] = set()
        """Levels that don't hold."""
        self.dog = Dog(node)

    def holds(self, name: str) -> bool:
        if name == "lan0":
            return self._node.world.links[1].plugged[self._node.index]
        return name not in self.lost

    @property
    def score(self) -> int:
        """What the monitors have to make of it: a set fails only when all its members do."""
        gone = [name for name in (*UPLINKS, *WEIGHTS) if not self.holds(name)]
        if {*UPLINKS, "lan0", "dmz0"} <= set(gone):
            return 0
        taken = sum(WEIGHTS.get(name, 0) for name in gone)
        return max(0, 1000 - taken - 1000 * (set(UPLINKS) <= set(gone)))

    def lose(self, *names: str) -> None:
        """These don't hold any more; the kernel tells of it a little later."""
        self.lost.update(names)
        self._told()

    def gain(self, *names: str) -> None:
        """These hold again."""
        self.lost.difference_update(names)
        self._told()

    def _told(self) -> None:
        world = self._node.world
        world.at(world.now_ns + world.rng.randrange(300 * US), self.look)

    def look(self) -> None:
        """Whoever runs on this machine looks at its levels."""
        node = self._node
        agent = node.agent
        if agent is not None and agent.monitors is not None and node.decides:
            agent.monitors.look()


class Monitors:
    """Those of one run of the agent."""

    def __init__(self, node: SimNode, agent: Agent, config: Config) -> None:
        wanted, sets = targets(watched(config))
        self._node = node
        self._agent = agent
        self._board = Board()
        self._said = TrackedHealth()
        self._board.replace(
            (
                replace(target.spec, start_delay_ns=DELAY_NS * (target.spec.kind is Kind.ROUTE))
                for target in wanted.values()
            ),
            sets,
            node.clock(),
        )

    def look(self) -> None:
        """Take in what is so now."""
        board, now_ns = self._board, self._node.clock()
        for name, track in board.tracks.items():
            holds = self._node.ground.holds(name)
            if track.finding is None or track.finding.holds != holds:
                sentence = "holds" if holds else "is lost"
                board.observe(name, Finding(holds=holds, sentence=sentence, certain=True), now_ns)
        board.advance(now_ns)
        lost = len(self._node.ground.lost & {*UPLINKS})
        if lost:
            what = "failed" if lost == len(UPLINKS) else "was held by one of them"
            self._node.world.checks.covered.add(f"a set of links {what}")
        self._take()

    def followed(self, _: object = None) -> None:
        """The role may be another."""
        primary = self._agent.machine.role is Role.PRIMARY
        self._board.become(primary=primary, now_ns=self._node.clock())
        self._take()

    def _take(self) -> None:
        health = self._board.health
        if health == self._said:
            return
        self._said = health
        self._node.tell(HealthChanged(health=health))


class Dog:
    """The device: it resets its machine unless it is pinged, and outlives whoever armed it."""

    path = "/dev/watchdog"
    identity = "made up"
    stoppable = True

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._until_ns = 0
        self.length_ns = 0

    @property
    def armed(self) -> bool:
        return self._until_ns != 0

    @property
    def timeout_s(self) -> int:
        return self.length_ns // MS

    def nowayout(self) -> bool | None:
        return False

    def arm(self, timeout_s: int) -> None:
        self.length_ns = timeout_s * MS
        self.ping()

    def ping(self) -> None:
        world = self._node.world
        self._until_ns = world.now_ns + self.length_ns
        world.at(self._until_ns, self._due)

    def disarm(self) -> None:
        self._until_ns = 0

    def leave(self) -> None:
        """It runs on."""

    def _due(self) -> None:
        node, world = self._node, self._node.world
        if not self.armed or world.now_ns < self._until_ns:
            return
        world.checks.reset(node)
        node.power_off()
        world.at(world.now_ns + world.rng.randrange(300 * US, 6 * MS), node.power_on)


class Guard:
    """The watchdog, held by one run of the agent."""

    def __init__(self, node: SimNode, agent: Agent, attest_ns: int) -> None:
        # A loop that hangs for so long has lost its attestation.
        length_s = attest_ns * 3 // 2 // MS + 2
        self._watchdog = Watchdog(
            WatchdogSection(mode="required", timeout_s=length_s), node.ground.dog
        )
        self._agent = agent
        self._watchdog.start(node.clock() * PACE)

    def tick(self, at_ns: int) -> None:
        """With each turn of the timer of the loop that decides."""
        self._watchdog.tick(at_ns * PACE, paused=self._agent.machine.facts.paused)

    def stop(self, *, disarm: bool) -> None:
        self._watchdog.stop(disarm=disarm)


def change(node: SimNode) -> str:
    """Something that the monitors look at is lost, or comes back."""
    rng = node.world.rng
    name = rng.choice(LEVELS)
    if name in node.ground.lost:
        node.ground.gain(name)
        return f"{name} of {node.name} is back"
    names = UPLINKS if name in UPLINKS and rng.random() < 0.5 else (name,)
    node.ground.lose(*names)
    return f"{' and '.join(names)} of {node.name} are lost"
