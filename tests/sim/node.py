# SPDX-License-Identifier: Apache-2.0
"""One node of the simulated pair: the real rules of the kernel, the real engine, the real core.

Only the clock, the wires, the disk and the scheduler are made up.

A node is a machine (powered or not) with a kernel (its maps), a disk, and an agent (running,
stopped by SIGSTOP, or gone) in which the engine's thread and Python may be held up apart from each
other. The kernel goes on answering and judging frames whatever the agent does, as XDP does.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sim.ground import Ground, Guard, Monitors
from sim.network import MS, US
from sim.python import SimFencing, SimLoop
from twinbeat.config.arbiters import WitnessSection
from twinbeat.config.model import Config
from twinbeat.config.nodes import KeysSection, LinkSection, NodeSection, PairSection, PeerSection
from twinbeat.config.timers import TimersSection
from twinbeat.config.watching import PolicySection
from twinbeat.core import pace
from twinbeat.core.effects import Effects
from twinbeat.core.events import (
    EffectFailed,
    EngineEvent,
    Event,
    PeerFenced,
    Started,
    StateSaved,
    TermsFailed,
    TermsReserved,
)
from twinbeat.core.machine import Machine
from twinbeat.core.terms import floor_of, kernel_listened
from twinbeat.core.types import (
    FOREVER,
    Damping,
    Durable,
    EngineEventKind,
    EngineView,
    FlipLimit,
    Order,
    Patience,
    Phase,
    Policy,
    TermBlock,
    Timers,
    Watch,
)
from twinbeat.core.witness import Words
from twinbeat.engine import types as words
from twinbeat.engine._engine import ffi, lib
from twinbeat.engine.convert import (
    config_to_c,
    event_from_c,
    order_to_c,
    settings_to_c,
    witness_to_c,
)
from twinbeat.runtime import wiring

if TYPE_CHECKING:
    from sim.world import World

SECRET = bytes(range(16))
"""The pair's key."""
DRIFTS_PPM = (0, 0, -200, 200, -8_000, 8_000)
"""Of quartz, and of a virtual machine that is out of its mind."""
KEEP_EVERY_NS: Final = 4 * MS
"""How often a node writes down what it knows of its peer's counter: a second, in the agent."""
LINKS = 2
ALL_LINKS = (1 << LINKS) - 1
DIRECT = 1
"""Mask: link 0 is a cable between the nodes, link 1 a switched LAN with the VIP port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Timers and policy of a pair."""

    hello_ns: int = 200 * US
    dead_ns: int = 600 * US
    verify_ns: int = 400 * US
    stall_ns: int = 1 * MS
    lease_ns: int = 3 * MS
    attest_ns: int = 12 * MS
    boot_wait_ns: int = 5 * MS
    mismatch_wait_ns: int = 15 * MS
    strict: bool = False
    wait_lease: bool = False
    claim_alone: bool = False
    fail_safe: bool = True
    witness_ns: int = 0
    """How long a word of the witness is good for; 0 = there is none."""
    witness_serve: bool = False
    ground: bool = False
    """The nodes have monitors and watchdogs, and their links may be others while they run."""
    fence: str = ""
    """Policy for cutting the peer's power: after, before; empty = nobody can."""
    damping: Damping = field(
        default_factory=lambda: Damping(hold_ns=2 * MS, hold_max_ns=8 * MS, forget_ns=20 * MS)
    )
    flip_limit: FlipLimit = field(default_factory=FlipLimit)
    patience: Patience = field(
        default_factory=lambda: Patience(
            operation_ns=4 * MS,
            confirm_ns=8 * MS,
            abstain_ns=6 * MS,
            stop_ns=2 * MS,
            announced_ns=1 * MS,
            resync_ns=2 * MS,
            retry_ns=5 * MS,
            late_log_ns=20 * MS,
            calm_ns=3 * MS,
            agree_ns=6 * MS,
        )
    )

    def timers(self) -> Timers:
        return Timers(
            hello_ns=self.hello_ns,
            dead_ns=self.dead_ns,
            verify_ns=self.verify_ns,
            stall_ns=self.stall_ns,
            lease_ns=self.lease_ns,
            attest_ns=self.attest_ns,
            boot_wait_ns=self.boot_wait_ns,
        )


@lru_cache
def config_of(setting: Setting, index: int) -> Config:
    """The configuration of a node. Times that it has in whole units only are set in `SimNode`."""
    return Config(
        node=NodeSection(name="ab"[index], index=index),
        pair=PairSection(id=1),
        peer=PeerSection(name="ba"[index]),
        links=tuple(
            LinkSection(
                interface=name,
                name=name,
                number=number,
                local=f"192.0.2.{index + 1}",
                peer=f"192.0.2.{2 - index}",
                direct=bool(DIRECT >> number & 1),
            )
            for number, name in enumerate(("ha0", "lan0"))
        ),
        vrids=(),
        keys=KeysSection(),
        timers_set=TimersSection(
            hello_us=setting.hello_ns // US,
            dead_us=setting.dead_ns // US,
            verify_us=setting.verify_ns // US,
            stall_us=setting.stall_ns // US,
            lease_us=setting.lease_ns // US,
            attest_ms=-(-setting.attest_ns // MS),
            boot_wait_ms=-(-setting.boot_wait_ns // MS),
        ),
        policy=PolicySection(
            strict=setting.strict,
            fail_safe=setting.fail_safe,
            stall="wait-lease" if setting.wait_lease else "wait-stall",
            claim_alone=setting.claim_alone,
        ),
        witness=WitnessSection(
            kind="etcd" if setting.witness_ns else "none",
            lease_ms=setting.witness_ns // MS or 500,
            without="serve" if setting.witness_serve else "stay",
        ),
    )


@dataclass(slots=True)
class Disk:
    """What survives a power cut."""

    durable: Durable = field(default_factory=Durable)
    reserved: int = 0
    epoch: int = 0
    peer_counter: int = 0
    failing: bool = False
    latency_ns: int = 300 * US


class Agent:
    """One run of the agent's process: engine, core, and how both are held up."""

    def __init__(self, node: SimNode) -> None:
        now, setting = node.clock(), node.world.setting
        gate = node.plain.gate
        self.engine = ffi.new("struct tb_engine *")
        self.input = ffi.new("struct tb_input *")
        self.actions = ffi.new("struct tb_actions *")
        self.decided_ns = 0
        """World time at which the engine decided on its round."""
        self.decided_lease_ns = 0
        self.decided_ordered = False
        """A valid order stood when the engine decided on its round."""
        self.decided_isolated = False
        """What the core said when the engine decided on its round: it may say otherwise before that
        is carried out."""
        self.decided_heard_ns = -1
        """When the peer had been heard last by then."""
        self.timers = pace.over(setting.timers(), node.disk.durable.wish.intervals)
        lib.tb_engine_init(self.engine, node.c_settings(self.timers), now)
        self.machine = Machine(
            policy=node.policy(),
            timers=setting.timers(),
            durable=node.disk.durable,
            reserved_last=max(node.disk.reserved, gate.term, gate.fence_below),
            now_ns=now,
            patience=setting.patience,
        )
        self.ring: list[EngineEvent] = []
        """What the engine did and Python hasn't heard of."""
        self.inbox: list[Event] = []
        """What else Python is to hear of."""
        self.loop = SimLoop(node, self)
        self.fencing: SimFencing | None = None
        if setting.fence:
            self.fencing = SimFencing(node, self, setting.fence)
            self.loop.listeners += [self.fencing.engine_event, self.look_for_fencing]
            self.loop.on_tick.append(self.look_for_fencing)
        self.monitors: Monitors | None = None
        self.guard: Guard | None = None
        if setting.ground:
            self.monitors = Monitors(node, self, config_of(setting, node.index))
            self.guard = Guard(node, self, setting.attest_ns)
            self.loop.on_tick += [self.guard.tick, self.monitors.followed]
            self.loop.listeners.append(self.monitors.followed)
        self.python_due = False
        self.engine_waits = False
        self.attested_at_ns = now

    def look_for_fencing(self, _: object = None) -> None:
        """As the agent does after each event and each turn of its timer."""
        assert self.fencing is not None
        told = any(isinstance(event, PeerFenced) for event in self.inbox)
        self.fencing.look(wanted=self.machine.waits_for_fencing and not told)


class SimNode:
    """A node."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.name = "ab"[index]
        self.offset_ns = world.rng.randrange(1, 1 << 50)
        self.drift_ppm = 0 if world.calm else world.rng.choice(DRIFTS_PPM)
        """How much faster its clock runs than the world's."""
        self.disk = Disk()
        self.wall_clock = 1_000_000
        """What a boot epoch begins with; even while it was never set back."""
        self.clock_behind = False
        """It was set back: a boot epoch says no longer that it is later than others."""
        self.powered = False
        self.plain: Any = None
        self.agent: Agent | None = None
        self.stopped = False
        """SIGSTOP: neither the engine nor Python runs."""
        self.python_hung = False
        self.pause_in_round_ns = 0
        """The next round is held up for so long between its look and its acts."""
        self.turned_ns = 0
        """World time at which its Python last did anything."""
        self.ground = Ground(self)
        self.links = ALL_LINKS
        """Mask: those that its configuration has."""
        self.control_works = True
        self.events_to_lose: set[EngineEventKind] = set()
        """The next of each of these kinds finds no room in the engine's ring."""
        self.away_ns = 1 * MS
        """After an agent that was told to stop has ended, it is started again so much later."""
        self.last_act_ns = 0
        """World time at which the engine last acted."""
        self.fluent_since_ns = 0
        """Since when its engine acts without a longer break."""
        self.lease_ns = 0
        """The lease to which it last renewed: longer during a planned restart."""
        self._timers = world.setting.timers()
        self._kept_ns = 0
        """When it was last on disk what the peer counts."""
        self._answered = ffi.new("int *")
        self._buffer = ffi.new("uint8_t[128]")
        self._frame = ffi.new("struct tb_frame *")

    # -- time ------------------------------------------------------------------------------------

    def clock(self) -> int:
        """CLOCK_BOOTTIME of this node."""
        now_ns = self.world.now_ns
        return now_ns + now_ns * self.drift_ppm // 1_000_000 + self.offset_ns

    def world_ns(self, at_ns: int) -> int:
        """When its clock will say so, by the world's."""
        gone_ns = at_ns - self.offset_ns
        return gone_ns * 1_000_000 // (1_000_000 + self.drift_ppm) + (self.drift_ppm != 0)

    # -- life ------------------------------------------------------------------------------------

    def policy(self) -> Policy:
        setting = self.world.setting
        return replace(
            wiring.policy(config_of(setting, self.index), digest=0),
            damping=setting.damping,
            flip_limit=setting.flip_limit,
            preempt_hold_ns=8 * MS,
            restart_lease_ns=4 * setting.lease_ns,
            fence_first=setting.fence == "before",
            terms_per_block=128,
        )

    def c_settings(self, timers: Timers) -> Any:
        setting = self.world.setting
        config = wiring.with_timers(self._config(), timers)
        return settings_to_c(
            replace(
                wiring.settings(config, ports=1),
                boot_wait_ns=timers.boot_wait_ns,
                mismatch_wait_ns=setting.mismatch_wait_ns,
            )
        )

    def _config(self) -> Config:
        """With those of its links that it has now."""
        config = config_of(self.world.setting, self.index)
        links = tuple(link for link in config.links if self.links >> link.number & 1)
        return msgspec.structs.replace(config, links=links)

    def set_links(self, mask: int) -> None:
        """Its operator takes links out of the configuration, or puts them back, and reloads it."""
        for link in self.world.links:
            if (self.links ^ mask) >> link.number & 1:
                for path in link.path:
                    path.spoil(self.world.now_ns)
        self.links = mask
        if mask != ALL_LINKS:
            self.world.checks.covered.add("a link was taken out")
        if self.agent is not None:
            lib.tb_engine_configure(self.agent.engine, self.c_settings(self.agent.timers))

    @property
    def decides(self) -> bool:
        """The loop that decides runs."""
        return self.agent is not None and not self.stopped and not self.python_hung

    @property
    def timers(self) -> Timers:
        """Those that its engine wants now, or wanted last."""
        if self.agent is not None:
            self._timers = self.agent.timers
        return self._timers

    def boot(self) -> None:
        """Power on: an empty kernel, then the agent."""
        assert not self.powered
        self.powered = True
        self.plain = ffi.new("struct tb_plain *")
        self.plain.config = config_to_c(
            words.WireConfig(pair=1, node=self.index, keys=((1, SECRET),))
        )[0]
        self.disk.epoch = max(self.disk.epoch + 1, self.wall_clock)
        self.wall_clock += 2
        self.plain.gate.counter = self.disk.epoch << 32
        self.plain.peer.known = self.disk.peer_counter
        self.last_act_ns = self.world.now_ns
        self.start()

    def power_on(self) -> None:
        """If it isn't on."""
        if not self.powered:
            self.boot()

    def power_off(self) -> None:
        """Everything but the disk is gone."""
        self.ground.dog.disarm()
        if self.powered:
            before, kept = self.clock(), self.disk.durable
            self.offset_ns = self.world.rng.randrange(1, 1 << 50)
            after = self.clock()

            def by_the_next_clock(until_ns: int) -> int:
                ends = 0 < until_ns < FOREVER
                return after + max(0, until_ns - before) if ends else until_ns

            self.disk.durable = replace(
                kept,
                paused_until_ns=by_the_next_clock(kept.paused_until_ns),
                peer_paused_until_ns=by_the_next_clock(kept.peer_paused_until_ns),
            )
        self.powered = False
        self.agent = None
        self.stopped = self.python_hung = False
        self.pause_in_round_ns = 0

    def wipe(self) -> None:
        """The state directory is lost; the wall clock may be set back with it, to a time at which
        nobody booted."""
        self.disk = Disk()
        self.world.checks.wiped(self)
        if self.world.rng.random() < 0.5:
            self.wall_clock = self.wall_clock // 2 | 1
            self.clock_behind = True

    def start(self) -> None:
        """The agent starts, on whatever the kernel holds."""
        assert self.powered
        assert self.agent is None
        self.stopped = self.python_hung = False
        self.turned_ns = self.world.now_ns
        self.agent = agent = Agent(self)
        self.world.checks.agent_started(self)
        gate = self.plain.gate
        view = EngineView(
            phase=Phase.LISTENING,
            watch=Watch.UNKNOWN,
            term=0,
            highest=max(gate.term, gate.fence_below),
        )
        agent.loop.feed(
            Started(
                engine=view,
                term_floor=floor_of(gate.counter),
                kernel_listened=kernel_listened(gate.term, gate.fence_below),
            )
        )
        self._run_engine_at(self.world.now_ns, agent)
        agent.loop.begin()
        self.ground.look()

    def kill(self) -> None:
        """SIGKILL. The kernel stays."""
        self.agent = None
        self.stopped = self.python_hung = False
        self.pause_in_round_ns = 0

    def stop(self) -> None:
        """SIGSTOP."""
        self.stopped = self.agent is not None

    def cont(self) -> None:
        """SIGCONT."""
        if not self.stopped:
            return
        self.stopped = False
        agent = self.agent
        assert agent is not None
        if agent.engine_waits:
            agent.engine_waits = False
            self._run_engine_at(self.world.now_ns, agent)
        self.wake_python(agent)

    def hang_python(self) -> None:
        """The loop that decides doesn't turn."""
        self.python_hung = self.agent is not None

    def unhang_python(self) -> None:
        """It turns again."""
        if self.python_hung:
            self.python_hung = False
            assert self.agent is not None
            self.wake_python(self.agent)

    # -- the kernel ------------------------------------------------------------------------------

    def gate_open(self) -> bool:
        """As a packet would see it now."""
        return self.powered and bool(lib.tb_plain_gate_open(self.plain, self.clock()))

    def receive(self, link: int, payload: bytes) -> int | None:
        """What XDP does; the reason, or None if the machine is off."""
        if not self.powered or not self.links >> link & 1:
            return None
        ffi.memmove(self._buffer, payload, len(payload))
        reason = lib.tb_plain_receive(
            self.plain, link, self._buffer, len(payload), self.clock(), 0, 255, 255, self._answered
        )
        if self._answered[0]:
            self.world.send(self, link, bytes(ffi.buffer(self._buffer)))
        return int(reason)

    # -- the engine's thread ---------------------------------------------------------------------

    def _run_engine_at(self, at_ns: int, agent: Agent) -> None:
        self.world.at(at_ns, self._round, agent)

    def _round(self, agent: Agent) -> None:
        """First half: read the maps and decide."""
        if self.agent is not agent:
            return
        if self.stopped:
            agent.engine_waits = True
            return
        world = self.world
        inputs = agent.input
        now = self.clock()
        lib.tb_plain_look(self.plain, inputs, self.links)
        inputs.link_carrier = self._link_carrier()
        inputs.port_carrier = 1 if world.links[1].plugged[self.index] else 0
        lib.tb_engine_step(agent.engine, now, inputs, agent.actions)
        # As decided: all of it may change before a round that is held up is carried out.
        order = inputs.order
        agent.decided_ns = world.now_ns
        agent.decided_ordered = order.generation != 0 and now < order.attested_until_ns
        agent.decided_isolated = agent.machine.facts.isolated
        agent.decided_heard_ns = world.checks.heard_ns[self.index]
        agent.decided_lease_ns = max(agent.engine.settings.timers.lease, inputs.order.lease_ns)
        if self.pause_in_round_ns:
            held, self.pause_in_round_ns = self.pause_in_round_ns, 0
            world.at(world.now_ns + held, self._act, agent)
        else:
            self._act(agent)

    def _link_carrier(self) -> int:
        world = self.world
        other = world.nodes[1 - self.index]
        direct = world.links[0]
        mask = 0
        if direct.plugged[0] and direct.plugged[1] and other.powered:
            mask |= 1
        if world.links[1].plugged[self.index]:
            mask |= 2
        return mask & self.links

    def _act(self, agent: Agent) -> None:
        """Second half: carry the actions out, in their order."""
        if self.agent is not agent:
            return
        if self.stopped:
            self.world.at(self.world.now_ns + 10 * US, self._act, agent)
            return
        world, actions, engine = self.world, agent.actions, agent.engine
        now = self.clock()
        lib.tb_plain_act(self.plain, actions, engine.term)
        if world.now_ns - self.last_act_ns > 2 * world.slowest.hello_ns:
            self.fluent_since_ns = world.now_ns
        self.last_act_ns = world.now_ns
        if actions.open or actions.renew:
            self.lease_ns = agent.decided_lease_ns
        rung = False
        for i in range(actions.events):
            event = wiring.event(event_from_c(actions.event[i]))
            world.checks.engine_event(self, event)
            if event.kind in self.events_to_lose:
                self.events_to_lose.discard(event.kind)
            else:
                rung |= agent.loop.push(event)
            if world.narrator is not None:
                world.narrator.engine(self, event)
        if actions.announce:
            world.checks.announced(self)
            rung |= agent.loop.push(
                EngineEvent(kind=EngineEventKind.ANNOUNCED, at_ns=now + 5 * US, a=1)
            )
        if rung:
            self.wake_python(agent)
        sending = actions.hello | actions.probe
        for link in range(LINKS):
            if sending >> link & 1:
                kind = lib.TB_PROBE if actions.probe >> link & 1 else lib.TB_HELLO
                hold = max(0, now - actions.echo_arrived_ns) if actions.echo else 0
                self._make_frame(kind, link, now, actions.echo, actions.echo_ns, hold)
                world.send(self, link, bytes(ffi.buffer(self._frame)))
        if actions.probe:
            agent.input.probes_sent += 1
        if actions.control and self.control_works:
            self._make_frame(lib.TB_CONTROL, 0, now, 0, 0, 0)
            ffi.memmove(self._buffer, self._frame, 128)
            lib.tb_plain_receive_control(self.plain, self._buffer, 128, now, 0)
        if actions.again:
            wake = world.now_ns + 2 * US
        else:
            wake = max(world.now_ns + 2 * US, self.world_ns(actions.wake_ns)) + world.lateness()
        self._run_engine_at(wake, agent)

    def _make_frame(
        self, kind: int, link: int, now: int, echo: int, echo_ns: int, hold_ns: int
    ) -> None:
        proposal = ffi.addressof(self.agent.actions, "proposal") if self.agent else ffi.NULL
        lib.tb_plain_frame(
            self.plain, self._frame, kind, link, now, echo, echo_ns, hold_ns, proposal
        )

    # -- Python ----------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """The runtime learns of something."""
        if self.agent is not None:
            self.agent.inbox.append(event)
            self.wake_python(self.agent)

    def wake_python(self, agent: Agent) -> None:
        if not agent.python_due:
            agent.python_due = True
            self.world.at(self.world.now_ns + self.world.loop_latency(), self._run_python, agent)

    def _run_python(self, agent: Agent) -> None:
        agent.python_due = False
        if self.agent is not agent or self.stopped or self.python_hung:
            return
        self.world.checks.turns(self)
        self.turned_ns = self.world.now_ns
        self._keep_counters()
        told, agent.inbox = agent.inbox, []
        agent.loop.feed(*told)
        if self.agent is agent:
            agent.loop.turn()

    def _keep_counters(self) -> None:
        """R13: what is known of the peer's counter is kept now and then, and at each epoch; so is
        the own epoch, which may jump."""
        known, disk = self.plain.peer.known, self.disk
        now_ns = self.world.now_ns
        if known >> 32 != disk.peer_counter >> 32 or now_ns >= self._kept_ns + KEEP_EVERY_NS:
            self._kept_ns = now_ns
            disk.peer_counter = max(disk.peer_counter, known)
        disk.epoch = max(disk.epoch, self.plain.gate.counter >> 32)

    def execute(self, agent: Agent, effects: Effects) -> None:
        """What the core wants is done."""
        if self.agent is not agent:
            return
        world = self.world
        if effects.save is not None:
            world.at(world.now_ns + self.disk.latency_ns, self._save, agent, effects.save)
        if effects.order is not None:
            self.set_order(agent, effects.order)
        if effects.attest_until_ns is not None:
            agent.input.order.attested_until_ns = effects.attest_until_ns
            agent.attested_at_ns = self.clock()
        if effects.witness is not None:
            self._set_witness(agent, effects.witness)
        if effects.ask_witness is not None:
            world.witness.ask(self, agent, effects.ask_witness)
        if effects.timers is not None:
            agent.timers = effects.timers
            lib.tb_engine_configure(agent.engine, self.c_settings(effects.timers))
        if effects.close_gate is not None:
            term = self.plain.gate.term
            world.at(world.now_ns + agent.timers.lease_ns, self._force_shut, agent, term)
        request = effects.reserve_terms
        if request is not None:
            world.at(
                world.now_ns + self.disk.latency_ns,
                self._reserve,
                agent,
                TermBlock(first=request.first, last=request.up_to),
            )
        if effects.stopped:
            agent.loop.stop()
            if agent.guard is not None:  # A reign that goes on is a restart's.
                agent.guard.stop(disarm=not self.gate_open())
            self.kill()
            world.at(world.now_ns + self.away_ns, self._start_again)

    def _start_again(self) -> None:
        if self.powered and self.agent is None:
            self.start()

    def _save(self, agent: Agent, durable: Durable) -> None:
        if self.agent is not agent:
            return
        if self.disk.failing:
            self.tell(EffectFailed(effect="save", why="no space left"))
            return
        self.disk.durable = durable
        self.tell(StateSaved())

    def _reserve(self, agent: Agent, block: TermBlock) -> None:
        if self.agent is not agent:
            return
        if self.disk.failing:
            self.tell(TermsFailed(why="no space left"))
            return
        self.disk.reserved = max(self.disk.reserved, block.last)
        self.tell(TermsReserved(block=block))

    def _force_shut(self, agent: Agent, term: int) -> None:
        turns = self.agent is agent and not self.stopped and not self.python_hung
        if turns and term and self.plain.gate.term == term:
            self.plain.gate.open_until = 0

    def _set_witness(self, agent: Agent, told: Words) -> None:
        agent.input.witness = witness_to_c(wiring.witness(told))[0]

    def set_order(self, agent: Agent, order: Order) -> None:
        """It is the engine's from its next round on."""
        agent.input.order = order_to_c(wiring.order(order), order.attested_until_ns)[0]
