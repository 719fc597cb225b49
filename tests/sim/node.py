# SPDX-License-Identifier: Apache-2.0
"""One node of the simulated pair: the real rules of the kernel, the real engine, the real core.

Only the clock, the wires, the disk and the scheduler are made up.

A node is a machine (powered or not) with a kernel (its maps), a disk, and an agent (running,
stopped by SIGSTOP, or gone) in which the engine's thread and Python may be held up apart from each
other. The kernel goes on answering and judging frames whatever the agent does, as XDP does.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sim.network import MS, US
from twinbeat.core import pace
from twinbeat.core.effects import Effects
from twinbeat.core.events import (
    EffectFailed,
    EngineEvent,
    EngineSeen,
    Event,
    PeerSeen,
    Started,
    StateSaved,
    TermsFailed,
    TermsReserved,
    Tick,
)
from twinbeat.core.machine import Machine
from twinbeat.core.terms import kernel_listened
from twinbeat.core.types import (
    FOREVER,
    Admin,
    Cause,
    Damping,
    Durable,
    EngineEventKind,
    EngineView,
    Flag,
    FlipLimit,
    Order,
    Patience,
    PeerView,
    Phase,
    Policy,
    Role,
    TermBlock,
    Timers,
    Watch,
)
from twinbeat.core.witness import Words
from twinbeat.engine import types as words
from twinbeat.engine._engine import ffi, lib
from twinbeat.engine.convert import (
    config_to_c,
    proposal_to_c,
    proposal_words,
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
LINKS = 2
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
        now = node.clock()
        self.engine = ffi.new("struct tb_engine *")
        self.input = ffi.new("struct tb_input *")
        self.actions = ffi.new("struct tb_actions *")
        self.decided_lease_ns = 0
        self.timers = pace.over(node.world.setting.timers(), node.disk.durable.wish.intervals)
        lib.tb_engine_init(self.engine, node.c_settings(self.timers), now)
        self.machine = Machine(
            policy=node.policy(),
            timers=node.world.setting.timers(),
            durable=node.disk.durable,
            reserved_last=node.disk.reserved,
            now_ns=now,
            patience=node.world.setting.patience,
        )
        self.inbox: list[Event] = []
        self.python_due = False
        self.engine_waits = False
        self.tick_ns = 0
        self.attested_at_ns = now


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
        self.control_works = True
        self.event_to_lose: EngineEventKind | None = None
        """The next of this kind finds no room in the engine's ring."""
        self.away_ns = 1 * MS
        """After an agent that was told to stop has ended, it is started again so much later."""
        self.last_act_ns = 0
        """World time at which the engine last acted."""
        self.fluent_since_ns = 0
        """Since when its engine acts without a longer break."""
        self.lease_ns = 0
        """The lease to which it last renewed: longer during a planned restart."""
        self._timers = world.setting.timers()
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
        return Policy(
            node=self.index,
            name=self.name,
            peer_name="ba"[self.index],
            fail_safe=setting.fail_safe,
            claim_alone=setting.claim_alone,
            damping=setting.damping,
            flip_limit=setting.flip_limit,
            preempt_hold_ns=8 * MS,
            restart_lease_ns=4 * setting.lease_ns,
            witness_lease_ns=setting.witness_ns,
            witness_serve=setting.witness_serve,
            terms_per_block=128,
        )

    def c_settings(self, timers: Timers) -> Any:
        setting = self.world.setting
        return settings_to_c(
            words.Settings(
                timers=words.Timers(
                    hello_ns=timers.hello_ns,
                    dead_ns=timers.dead_ns,
                    verify_ns=timers.verify_ns,
                    stall_ns=timers.stall_ns,
                    lease_ns=timers.lease_ns,
                ),
                node=self.index,
                links=(1 << LINKS) - 1,
                direct=DIRECT,
                ports=1,
                late_ns=timers.hello_ns,
                idle_claim_ns=2 * timers.dead_ns,
                listen_ns=max(
                    timers.boot_wait_ns,
                    timers.lease_ns * 2 + timers.dead_ns + timers.verify_ns,
                ),
                mismatch_wait_ns=setting.mismatch_wait_ns,
                strict=setting.strict,
                wait_lease=setting.wait_lease,
                claim_alone=setting.claim_alone,
                witness_ns=setting.witness_ns,
            )
        )

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

    def power_off(self) -> None:
        """Everything but the disk is gone."""
        if self.powered:
            paused = self.disk.durable.paused_until_ns
            if 0 < paused < FOREVER:
                left = max(0, paused - self.clock())
                self.offset_ns = self.world.rng.randrange(1, 1 << 50)
                self.disk.durable = replace(
                    self.disk.durable, paused_until_ns=self.clock() + left or 1
                )
            else:
                self.offset_ns = self.world.rng.randrange(1, 1 << 50)
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
        self.agent = agent = Agent(self)
        self.world.checks.agent_started(self)
        gate = self.plain.gate
        self._step(
            agent,
            Started(
                engine=self._engine_view(agent),
                term_floor=self.disk.epoch << 10,
                kernel_listened=kernel_listened(gate.term, gate.fence_below),
            ),
        )
        self._after_python(agent)
        self._run_engine_at(self.world.now_ns, agent)

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
        self._wake_python(agent)

    def hang_python(self) -> None:
        """The loop that decides doesn't turn."""
        self.python_hung = self.agent is not None

    def unhang_python(self) -> None:
        """It turns again."""
        if self.python_hung:
            self.python_hung = False
            assert self.agent is not None
            self._wake_python(self.agent)

    # -- the kernel ------------------------------------------------------------------------------

    def gate_open(self) -> bool:
        """As a packet would see it now."""
        return self.powered and bool(lib.tb_plain_gate_open(self.plain, self.clock()))

    def receive(self, link: int, payload: bytes) -> int | None:
        """What XDP does; the reason, or None if the machine is off."""
        if not self.powered:
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
        lib.tb_plain_look(self.plain, inputs, (1 << LINKS) - 1)
        inputs.link_carrier = self._link_carrier()
        inputs.port_carrier = 1 if world.links[1].plugged[self.index] else 0
        lib.tb_engine_step(agent.engine, now, inputs, agent.actions)
        # As decided: the intervals may change before a round that is held up is carried out.
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
        return mask

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
        for i in range(actions.events):
            raw = actions.event[i]
            event = EngineEvent(
                kind=EngineEventKind(raw.kind),
                at_ns=raw.at_ns,
                cause=Cause(raw.cause),
                a=raw.a,
                b=raw.b,
                link=raw.link,
            )
            world.checks.engine_event(self, event)
            if event.kind is self.event_to_lose:
                self.event_to_lose = None
            else:
                agent.inbox.append(event)
            if world.narrator is not None:
                world.narrator.engine(self, event)
        if actions.announce:
            world.checks.announced(self)
            agent.inbox.append(EngineEvent(kind=EngineEventKind.ANNOUNCED, at_ns=now + 5 * US, a=1))
        if agent.inbox:
            self._wake_python(agent)
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
            self._wake_python(self.agent)

    def _wake_python(self, agent: Agent) -> None:
        if not agent.python_due:
            agent.python_due = True
            self.world.at(self.world.now_ns + self.world.loop_latency(), self._run_python, agent)

    def _run_python(self, agent: Agent) -> None:
        agent.python_due = False
        if self.agent is not agent or self.stopped or self.python_hung:
            return
        inbox, agent.inbox = agent.inbox, []
        for event in inbox:
            self._step(agent, event)
            if self.agent is not agent:
                return
        self._step(agent, EngineSeen(view=self._engine_view(agent)))
        peer = self.plain.peer
        if peer.epoch and peer.arrived_ns >= agent.engine.started_ns:
            self._step(agent, PeerSeen(view=self._peer_view()))
        if self.agent is agent and agent.machine.next_deadline() <= self.clock():
            self._step(agent, Tick())
        self._after_python(agent)

    def _after_python(self, agent: Agent) -> None:
        """Arm the one timer."""
        if self.agent is not agent:
            return
        deadline = max(self.clock() + 10 * US, agent.machine.next_deadline())
        if deadline != agent.tick_ns and deadline < FOREVER:
            agent.tick_ns = deadline
            self.world.at(self.world_ns(deadline), self._tick, agent, deadline)

    def _tick(self, agent: Agent, deadline: int) -> None:
        if self.agent is agent and agent.tick_ns == deadline:
            self._wake_python(agent)

    def _step(self, agent: Agent, event: Event) -> None:
        if self.agent is not agent:
            return
        effects = agent.machine.step(event, self.clock())
        self.world.checks.effects(self, event, effects)
        if self.world.narrator is not None:
            self.world.narrator.core(self, effects)
        self._execute(agent, effects)

    def _execute(self, agent: Agent, effects: Effects) -> None:
        world = self.world
        if effects.save is not None:
            world.at(world.now_ns + self.disk.latency_ns, self._save, agent, effects.save)
        if effects.order is not None:
            self._set_order(agent, effects.order)
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
        agent.input.witness = witness_to_c(told)[0]

    def _set_order(self, agent: Agent, order: Order) -> None:
        raw = agent.input.order
        raw.generation = order.generation
        raw.expires_ns = order.expires_ns
        raw.attested_until_ns = order.attested_until_ns
        raw.term_first = order.term_first
        raw.term_last = order.term_last
        raw.lease_ns = order.lease_ns
        raw.permits = order.permits
        raw.resign_of = order.resign_of
        raw.flags = order.flags
        raw.role = order.role
        raw.admin = order.admin
        raw.health = order.health
        raw.generation_shared = order.generation_shared
        raw.digest = order.digest
        proposal_to_c(wiring.proposal_of(order), raw.proposal)

    def _engine_view(self, agent: Agent) -> EngineView:
        engine = agent.engine
        return EngineView(
            phase=Phase(engine.phase),
            watch=Watch(engine.watch),
            term=engine.term or engine.claim,
            highest=engine.highest,
            lease_until_ns=engine.lease_until,
            order_generation=engine.order_generation,
            hello_ns=engine.hello,
            dead_ns=engine.dead,
            restart_known=bool(engine.restart_known),
        )

    def _peer_view(self) -> PeerView:
        peer = self.plain.peer
        # R13: the runtime keeps what it knows of the peer, and its own epoch, which may jump.
        self.disk.peer_counter = max(self.disk.peer_counter, peer.known)
        self.disk.epoch = max(self.disk.epoch, self.plain.gate.counter >> 32)
        return PeerView(
            counter=peer.counter,
            arrived_ns=peer.arrived_ns,
            term=peer.term,
            claim=peer.claim,
            fence_below=peer.fence_below,
            highest=peer.highest,
            lease_us=peer.lease_us,
            flags=Flag(peer.flags),
            role=Role(peer.role),
            admin=Admin(peer.admin),
            health=peer.health,
            dead_us=peer.dead_us,
            lease_full_us=peer.lease_full_us,
            hello_us=peer.hello_us,
            verify_us=peer.verify_us,
            generation=peer.generation,
            digest=peer.digest,
            two_way=bool(peer.two_way),
            proposal=wiring.proposal(proposal_words(peer.proposal)),
        )
