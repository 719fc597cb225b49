# SPDX-License-Identifier: Apache-2.0
"""The canonical form of a world: two worlds with the same form count as one state.

It holds, for both nodes, what a decision of the gate, the engine or the core rests on while nothing
but cuts, pauses and reboots happens. Times count from now, in grains, and no further than they
reach; terms by their age; counters not at all. So a form says less than a world does; what that
costs is measured, not believed: see `sim.explorer.AUDITED`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from sim.node import Agent, SimNode
from sim.world import World
from twinbeat.core.types import Watch

Time = Callable[[int], object]

disk_words: Final = attrgetter("last_primary", "peer_known", "peer_paused", "admin")
engine_words: Final = attrgetter(
    "phase", "watch", "receipted", "answer_open", "by_silence", "served_by_peer"
)
engine_times: Final = attrgetter(
    "heard_ns", "met_ns", "idle_since_ns", "open_until_ns", "started_ns"
)
facts_words: Final = attrgetter("role", "admin", "past", "last_primary", "abstaining")
order_words: Final = attrgetter("permits", "flags")
SUSPICIOUS: Final = (Watch.SUSPECT, Watch.STALLED, Watch.DEAD)


@dataclass(frozen=True, slots=True)
class Form:
    """How finely worlds are told apart."""

    grain_ns: int
    reach: int
    """A moment that lies more grains back, or ahead, is past or to come."""

    def of(self, world: World) -> tuple[object, ...]:
        """The form of a world."""
        terms = sorted(world.checks.terms_used, reverse=True)
        return (
            tuple(path.up for link in world.links for path in link.path),
            len(terms),
            *(self._node(world, node, terms) for node in world.nodes),
        )

    def _node(self, world: World, node: SimNode, terms: list[int]) -> tuple[object, ...]:
        disk = disk_words(node.disk.durable)
        if not node.powered:
            return "off", disk
        now_ns, grain_ns, reach = node.clock(), self.grain_ns, self.reach

        def time(at_ns: int) -> object:
            return at_ns and ("at", max(-reach, min(reach, (at_ns - now_ns) // grain_ns)))

        gate, peer = node.plain.gate, node.plain.peer
        kernel = (
            terms.index(gate.term) if gate.term in terms else gate.term > 0,
            gate.term >= gate.fence_below,
            gate.contested == gate.term,
            time(gate.open_until) if gate.term else None,
            peer.flags,
            peer.epoch == world.nodes[1 - node.index].disk.epoch,
            peer.fence_below >= gate.term,
        )
        if node.agent is None:
            return "gone", disk, kernel
        return "runs", kernel, node.stopped, _agent(node.agent, now_ns, time, node.stopped)


def _agent(agent: Agent, now_ns: int, time: Time, stopped: bool) -> tuple[object, ...]:
    engine, machine = agent.engine, agent.machine
    return (
        engine_words(engine),
        engine.claim_cause if engine.claim else None,
        tuple(map(time, engine_times(engine))),
        time(engine.suspect_ns) if engine.watch in SUSPICIOUS else None,
        time(max(engine.backoff_until_ns, now_ns)),
        time(agent.attested_at_ns) if stopped else None,
        facts_words(machine.facts),
        order_words(machine.order),
    )
