# SPDX-License-Identifier: Apache-2.0
"""The Python of a simulated node: the agent's own loop and its fencing, without asyncio.

What is fed to the core, in which order and when it is left out is decided by `runtime.loop`; how
engine and peer are looked at by `engine.look` and `runtime.wiring`. Made up is only when a turn
begins, and the device that cuts the peer's power.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sim.network import MS, US
from twinbeat.api import schema
from twinbeat.config.arbiters import FenceSection
from twinbeat.config.secrets import Options
from twinbeat.core.effects import Effects
from twinbeat.core.events import EngineEvent, Event, PeerFenced
from twinbeat.core.machine import Machine
from twinbeat.core.types import EngineView, PeerView
from twinbeat.engine.look import Look, Looker
from twinbeat.runtime import wiring
from twinbeat.runtime.fencing import Fencing
from twinbeat.runtime.loop import Loop
from twinbeat.runtime.suspicions import PASSING

if TYPE_CHECKING:
    from sim.node import Agent, SimNode
    from sim.world import World

SOONEST_NS: Final = 10 * US
"""A timer that is due fires no sooner."""


class Senses:
    """What the loop sees of the engine: its ring, and copies of its state."""

    def __init__(self, node: SimNode, agent: Agent) -> None:
        self._node = node
        self._agent = agent
        self._looker = Looker()
        self._look: Look | None = None
        self._views: tuple[EngineView, PeerView | None] | None = None

    @property
    def engine(self) -> Any:
        return self._agent.engine

    @property
    def peer(self) -> Any:
        return self._node.plain.peer

    def fileno(self) -> int:
        raise NotImplementedError

    def events(self) -> list[EngineEvent]:
        happened, self._agent.ring = self._agent.ring, []
        return happened

    def look(self, *, wait: bool) -> tuple[EngineView, PeerView | None]:
        """Without `wait` it is the state of soon after the last look."""
        before, look = self._views, self._looker.at(self)
        if before is None or look is not self._look:
            self._look = look
            self._views = wiring.engine_view(look.engine), wiring.peer_view(look.peer)
        assert self._views is not None
        return self._views if wait or before is None else before


class Decider:
    """The core, watched."""

    def __init__(self, node: SimNode, machine: Machine) -> None:
        self._node = node
        self._machine = machine

    def step(self, event: Event, now_ns: int) -> Effects:
        effects = self._machine.step(event, now_ns)
        world = self._node.world
        world.checks.effects(self._node, event, effects)
        if world.narrator is not None:
            world.narrator.core(self._node, effects)
        return effects

    def next_deadline(self) -> int:
        return self._machine.next_deadline()

    def calm(self, now_ns: int) -> bool:
        return self._machine.calm(now_ns)


class SimLoop(Loop):
    """The loop that decides. Its turns begin when the world says so."""

    def __init__(self, node: SimNode, agent: Agent) -> None:
        super().__init__(
            decider=Decider(node, agent.machine),
            submit=self._carry_out,
            now_ns=node.clock,
            failed=_raised,
        )
        self._node = node
        self._agent = agent
        self._armed_ns = 0
        self._due = False
        self.bell = False
        """The engine did something that has to be decided upon."""

    def begin(self) -> None:
        """In the place of `start`, which needs asyncio."""
        self._senses = Senses(self._node, self._agent)
        self._arm()

    def stop(self) -> None:
        self._stopped = True

    def push(self, event: EngineEvent) -> bool:
        """Into the ring; True if that wakes the loop."""
        self._agent.ring.append(event)
        self.bell = self.bell or event.kind not in PASSING
        return self.bell

    def turn(self) -> None:
        """What the bell or the timer asks for."""
        bell, self.bell = self.bell, False
        due, self._due = self._due, False
        if due:
            self._on_timer()
        elif bell:
            self.drain()

    def _carry_out(self, effects: Effects) -> None:
        self._node.execute(self._agent, effects)

    def _arm(self) -> None:
        deadline_ns = self._decider.next_deadline()
        if self._armed_ns and deadline_ns >= self._deadline_ns:
            return
        node = self._node
        self._deadline_ns = deadline_ns
        self._armed_ns = max(deadline_ns, node.clock() + SOONEST_NS)
        node.world.at(node.world_ns(self._armed_ns), self._fire, self._armed_ns)

    def _fire(self, armed_ns: int) -> None:
        if self._armed_ns == armed_ns and self._node.agent is self._agent:
            self._armed_ns = 0
            self._due = True
            self._node.wake_python(self._agent)


def _raised(error: BaseException) -> None:
    raise error


class Task:
    """A coroutine that goes on when the world lets it."""

    def __init__(self, world: World, work: Coroutine[int, None, None]) -> None:
        self._world = world
        self._work = work
        self._over = False
        self._go()

    def done(self) -> bool:
        return self._over

    def _go(self) -> None:
        try:
            wait_ns = self._work.send(None)
        except StopIteration:
            self._over = True
        else:
            self._world.at(self._world.now_ns + wait_ns, self._go)


class _Wait:
    """Some time passes."""

    def __init__(self, length_ns: int) -> None:
        self._length_ns = length_ns

    def __await__(self) -> Generator[int, None, None]:
        yield self._length_ns


class SimFencing(Fencing):
    """When the peer is fenced and what is made of that is the agent's to decide; the device takes
    its time, cuts the power somewhere in between, and may fail."""

    def __init__(self, node: SimNode, agent: Agent, policy: Any) -> None:
        super().__init__(
            section=FenceSection(agent="/fence", policy=policy),
            options=Options(),
            peer="ba"[node.index],
            now_ns=node.clock,
            publish=_unheard,
            heard=lambda: int(node.plain.peer.counter),
            fenced=self._tell,
        )
        self._node = node
        self._agent = agent

    def _tell(self, heard: int) -> None:
        if self._node.agent is self._agent:
            self._node.tell(PeerFenced(heard=heard))

    def _told(self, done: schema.Fencing) -> None:
        """Nobody reads a log here."""

    def _spawn(self, work: Coroutine[Any, Any, None]) -> Any:
        return Task(self._node.world, work)

    async def _rest(self) -> None:
        await _Wait(2 * MS)

    async def _run(self, action: str) -> schema.Fencing:
        node, world = self._node, self._node.world
        device = world.fence
        begun_ns, kernel = node.clock(), node.plain
        await _Wait(world.rng.randrange(device.slow_ns))
        # The program outlives the agent that began it, but not its machine.
        works = device.works and node.powered and node.plain is kernel
        if works:
            device.cut(1 - node.index)
        await _Wait(device.says_after_ns or world.rng.randrange(device.slow_ns))
        return schema.Fencing(
            action=action,
            outcome="succeeded" if works else "failed",
            sentence="",
            time="",
            at_ns=begun_ns,
            duration_ns=node.clock() - begun_ns,
        )


def _unheard(*_: Any, **__: Any) -> None:
    """Nobody listens to the events of fencing here."""


@dataclass(slots=True)
class FenceDevice:
    """What cuts a node's power by order of the other."""

    world: World
    works: bool = True
    slow_ns: int = 2 * MS
    """What it takes at most until the power is off, and again until it says so."""
    says_after_ns: int = 0
    """The latter; 0 = it is drawn."""
    fenced_ns: list[int] = field(default_factory=lambda: [-1, -1])
    """By node: when its power was last cut."""

    def mend(self) -> None:
        self.works, self.slow_ns = True, 2 * MS

    def cut(self, index: int) -> None:
        """Off; somebody switches it on again."""
        world = self.world
        self.fenced_ns[index] = world.now_ns
        world.checks.covered.add("a peer was fenced")
        world.nodes[index].power_off()
        world.at(world.now_ns + world.rng.randrange(300 * US, 6 * MS), self._on, index)

    def _on(self, index: int) -> None:
        if not self.world.nodes[index].powered:
            self.world.nodes[index].boot()
