# SPDX-License-Identifier: Apache-2.0
"""The clock, the wires and the order in which things happen. One seed, one history."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any, Protocol

from sim.invariants import Checks
from sim.network import MS, US, Link
from sim.node import LINKS, Setting, SimNode
from sim.python import FenceDevice
from sim.witness import SimWitness
from twinbeat.core.effects import Effects
from twinbeat.core.events import EngineEvent

STEPS_MAX = 2_000_000
"""A schedule that needs more is a loop that doesn't end."""


class Narrator(Protocol):
    """Who listens to a history."""

    def engine(self, node: SimNode, event: EngineEvent) -> None:
        """The engine of a node did something."""

    def core(self, node: SimNode, effects: Effects) -> None:
        """The core of a node wants something."""


class World:
    """Two nodes and what lies between them."""

    def __init__(
        self, seed: int = 0, setting: Setting | None = None, *, calm: bool = False
    ) -> None:
        """With `calm` nothing is late and nothing varies, so that transcripts read well."""
        self.seed = seed
        self.rng = random.Random(seed)
        self.calm = calm
        self.slowest = self.setting = setting or Setting()
        self.now_ns = 0
        self.steps = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self.links = [Link(0, direct=True), Link(1, direct=False)]
        if calm:
            for link in self.links:
                for path in link.path:
                    path.jitter_ns = 0
        self.witness = SimWitness(self, random.Random(~seed))
        """Asked only where the setting has one."""
        self.fence = FenceDevice(self)
        self.checks = Checks(self)
        self.narrator: Narrator | None = None
        """Told of everything worth telling, for transcripts."""
        self.nodes = (SimNode(self, 0), SimNode(self, 1))
        self.at(0, self._background)

    @property
    def a(self) -> SimNode:
        return self.nodes[0]

    @property
    def b(self) -> SimNode:
        return self.nodes[1]

    # -- time ------------------------------------------------------------------------------------

    def at(self, at_ns: int, call: Callable[..., None], *args: Any) -> None:
        """Have something happen."""
        self._number += 1
        heapq.heappush(self._queue, (max(at_ns, self.now_ns), self._number, call, args))

    def run(self, for_ns: int) -> None:
        """Let time pass. After each happening the safety rules are checked."""
        until = self.now_ns + for_ns
        queue, checks = self._queue, self.checks
        while queue and queue[0][0] <= until:
            self.now_ns, _, call, args = heapq.heappop(queue)
            self.steps += 1
            assert self.steps < STEPS_MAX, "a schedule that doesn't end"
            call(*args)
            checks.after()
        self.now_ns = until
        checks.after()

    def run_until(self, holds: Callable[[], bool], within_ns: int) -> bool:
        """Let time pass until something holds; False if it doesn't within the time."""
        until = self.now_ns + within_ns
        while self.now_ns < until:
            if holds():
                return True
            self.run(min(self.setting.hello_ns // 2, until - self.now_ns))
        return holds()

    def lateness(self) -> int:
        """How late a thread wakes up: mostly little."""
        if self.calm:
            return 1 * US
        drawn = self.rng.random()
        return int(drawn * 20 * US) if drawn < 0.98 else self.rng.randrange(150 * US)

    def loop_latency(self) -> int:
        """How long Python takes to notice."""
        return 50 * US if self.calm else self.rng.randrange(20 * US, 200 * US)

    # -- wires -----------------------------------------------------------------------------------

    def send(self, sender: SimNode, link: int, payload: bytes) -> None:
        """Put a frame on a wire."""
        wire = self.links[link]
        path = wire.path[sender.index]
        path.tape.append(payload)
        if not (wire.plugged[0] and wire.plugged[1]):
            path.spoil(self.now_ns)
            return
        arrivals = path.arrivals(self.rng)
        if not arrivals:
            path.spoil(self.now_ns)
        for delay in arrivals:
            self.at(self.now_ns + delay, self.deliver, 1 - sender.index, link, payload, True)

    def deliver(self, index: int, link: int, payload: bytes, sent: bool) -> None:
        """A frame reaches a node's port. `sent` = it comes from the wire, not from a forger."""
        node = self.nodes[index]
        if not self.links[link].plugged[index]:
            self.links[link].path[1 - index].spoil(self.now_ns)
            return
        reason = node.receive(link, payload)
        if reason is not None and sent:
            self.checks.received(node, link, payload, reason)

    def _background(self) -> None:
        """The LAN has other hosts: whoever is plugged in hears them."""
        for node in self.nodes:
            path = self.links[1].path[1 - node.index]
            if self.setting.ground:
                node.ground.look()
            if node.powered and self.links[1].plugged[node.index] and path.up:
                node.plain.link[1].foreign_ns = node.clock()
        self.at(self.now_ns + 1 * MS, self._background)

    # -- faults ----------------------------------------------------------------------------------

    def cut(self, link: int, sender: int) -> None:
        """One direction of a link goes silent."""
        path = self.links[link].path[sender]
        path.up = False
        path.spoil(self.now_ns)

    def unplug(self, index: int) -> None:
        """All cables of a node are pulled: its carrier is gone."""
        for link in self.links:
            link.plugged[index] = False
            for path in link.path:
                path.spoil(self.now_ns)

    def heal_wires(self) -> None:
        """Every wire as on the first day."""
        for link in self.links:
            for path in link.path:
                path.mend(self.now_ns)
                if self.calm:
                    path.jitter_ns = 0
            link.plugged[:] = [True, True]

    def clean_path(self, sender: int, since_ns: int) -> bool:
        """Whether some link carried everything that node `sender` sent since a moment."""
        return any(self._clean(link, sender, since_ns) for link in range(LINKS))

    def clean_loop(self, since_ns: int) -> bool:
        """Whether some link carried everything in both directions since a moment."""
        return any(
            self._clean(link, 0, since_ns) and self._clean(link, 1, since_ns)
            for link in range(LINKS)
        )

    def _clean(self, link: int, sender: int, since_ns: int) -> bool:
        wire = self.links[link]
        both = self.a.links & self.b.links
        return (
            both >> link & 1 != 0
            and all(wire.plugged)
            and wire.path[sender].clean_since(self.now_ns) < since_ns
        )
