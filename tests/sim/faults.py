# SPDX-License-Identifier: Apache-2.0
"""What goes wrong, drawn from the seed: wires, processes, machines, disks, operators, forgers."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from sim import ground
from sim.invariants import check_forge
from sim.network import MS, US
from sim.node import ALL_LINKS, Setting, SimNode
from sim.witness import heal_witness
from sim.world import World
from twinbeat.core import pace
from twinbeat.core.events import (
    AdminCommand,
    ForceFailover,
    ForceYield,
    GateLost,
    GateRestored,
    HealthChanged,
    HostMeasured,
    IsolationChanged,
    Pause,
    Resume,
    SetTimers,
    Stopping,
)
from twinbeat.core.types import Admin, EngineEventKind, Intervals, TrackedHealth
from twinbeat.engine._engine import lib

MAGIC_AND_VERSION: Final = struct.pack(">IB", lib.TB_MAGIC, lib.TB_VERSION)
PAIR: Final = struct.pack(">I", 1)

Fault = Callable[[World, SimNode], str]
"""Does something to the world, for the most part to one node; says what, for the trace."""


def _span(world: World, most_ns: int) -> int:
    """A length, short ones more often: bugs live near the timers."""
    return int(world.rng.choice((0.1, 0.3, 1.0)) * world.rng.random() * most_ns) + 10 * US


def cut_one_way(world: World, node: SimNode) -> str:
    """A node's frames are lost on one link or on all."""
    links = world.rng.choice(((0,), (1,), (0, 1)))
    for link in links:
        world.cut(link, node.index)
    return f"frames of {node.name} are lost on {links}"


def cut_both_ways(world: World, node: SimNode) -> str:
    """A link goes silent, or all do."""
    links = world.rng.choice(((0,), (1,), (0, 1), (0, 1)))
    for link in links:
        world.cut(link, 0)
        world.cut(link, 1)
    return f"links {links} are silent"


def unplug(world: World, node: SimNode) -> str:
    """A node's cables are pulled."""
    world.unplug(node.index)
    return f"{node.name} is unplugged"


def heal_wires(world: World, node: SimNode) -> str:
    """Every wire is whole again."""
    world.heal_wires()
    return "the wires are whole"


def heal_one_way(world: World, node: SimNode) -> str:
    """Only one direction of a link comes back."""
    link = world.links[world.rng.randrange(2)]
    link.path[node.index].mend(world.now_ns)
    link.plugged[:] = [True, True]
    return f"frames of {node.name} get through on link {link.number}"


def noise(world: World, node: SimNode) -> str:
    """Loss, doubling and delay."""
    rng = world.rng
    for link in world.links:
        for path in link.path:
            path.loss = rng.choice((0.0, 0.05, 0.3, 0.7))
            path.duplicates = rng.choice((0.0, 0.3))
            path.jitter_ns = rng.choice((10, 100, 700)) * US
    return "noise"


def stall(world: World, node: SimNode) -> str:
    """SIGSTOP and, some time later, SIGCONT."""
    length = _span(world, 3 * world.setting.lease_ns)
    node.stop()
    world.at(world.now_ns + length, node.cont)
    return f"{node.name} is stopped for {length // US} us"


def stall_in_round(world: World, node: SimNode) -> str:
    """The engine is held up between its decision and its acts."""
    node.pause_in_round_ns = _span(world, 2 * world.setting.lease_ns)
    return f"{node.name} is held up in its round for {node.pause_in_round_ns // US} us"


def hang_python(world: World, node: SimNode) -> str:
    """Python alone hangs for a while."""
    length = _span(world, 3 * world.setting.attest_ns)
    node.hang_python()
    world.at(world.now_ns + length, node.unhang_python)
    return f"the Python of {node.name} hangs for {length // US} us"


def outlive_attestation(world: World, node: SimNode) -> str:
    """The Python of the node that serves hangs for longer than it may serve without, and nothing
    else goes wrong meanwhile."""
    if not node.gate_open():
        node = world.nodes[1 - node.index]
    attested_ns = max(world.slowest.attest_ns, world.slowest.lease_ns * 3 // 2)
    length_ns = attested_ns + 2 * world.slowest.lease_ns
    node.hang_python()
    world.at(world.now_ns + length_ns, node.unhang_python)
    world.run(length_ns)
    return f"the Python of {node.name} hung for {length_ns // US} us"


def bad_fence(world: World, node: SimNode) -> str:
    """What cuts the power fails, or takes its time."""
    world.fence.works = world.rng.random() < 0.5
    world.fence.slow_ns = world.rng.choice((1, 6, 20)) * MS
    return f"the fence device is {'slow' if world.fence.works else 'broken'}"


def kill(world: World, node: SimNode) -> str:
    """SIGKILL; the supervisor starts the agent again, or doesn't."""
    node.kill()
    again = world.rng.random() < 0.8
    if again:
        world.at(world.now_ns + _span(world, 2 * world.setting.lease_ns), start, world, node)
    return f"the agent of {node.name} is killed{'' if again else ' and stays away'}"


def start(world: World, node: SimNode) -> str:
    """The agent or the machine comes back, if it was gone."""
    if not node.powered:
        node.boot()
    elif node.agent is None:
        node.start()
    return f"{node.name} starts"


def reboot(world: World, node: SimNode) -> str:
    """Power is lost, perhaps with the state directory."""
    node.power_off()
    wiped = world.rng.random() < 0.2
    if wiped:
        node.wipe()
    world.at(world.now_ns + _span(world, 4 * world.setting.lease_ns), start, world, node)
    return f"{node.name} loses power{' and its disk' if wiped else ''}"


def restart(world: World, node: SimNode) -> str:
    """A planned restart: the gate stays open under a longer lease."""
    node.away_ns = _span(world, 4 * MS)
    node.tell(Stopping(restart=True))
    return f"{node.name} is restarted by plan"


def stop_agent(world: World, node: SimNode) -> str:
    """systemctl stop, and start again."""
    node.away_ns = _span(world, 12 * MS)
    node.tell(Stopping())
    return f"{node.name} is stopped by plan"


def bad_disk(world: World, node: SimNode) -> str:
    """The disk refuses or is slow for a while."""
    node.disk.failing = world.rng.random() < 0.5
    node.disk.latency_ns = world.rng.choice((300, 3000)) * US

    def mend() -> None:
        node.disk.failing = False
        node.disk.latency_ns = 300 * US

    world.at(world.now_ns + _span(world, 20 * MS), mend)
    return f"the disk of {node.name} is {'failing' if node.disk.failing else 'slow'}"


def sick(world: World, node: SimNode) -> str:
    """The monitors find fault with a node."""
    if world.setting.ground:
        return ground.change(node)
    score = world.rng.choice((300, 700, 1000))
    failed = () if score == 1000 else ("wan0",)
    node.tell(HealthChanged(health=TrackedHealth(score=score, failed=failed)))
    return f"the health of {node.name} is {score}"


def flap(world: World, node: SimNode) -> str:
    """A monitor fails and holds, again and again."""
    times = 2 * world.rng.randrange(1, 4)  # In the end it holds.
    for i in range(times):
        failed = () if i % 2 else ("wan0",)
        if world.setting.ground:
            move = node.ground.gain if i % 2 else node.ground.lose
            world.at(world.now_ns + i * 600 * US, move, "default")
            continue
        health = TrackedHealth(score=1000 if i % 2 else 0, failed=failed)
        world.at(world.now_ns + i * 600 * US, node.tell, HealthChanged(health=health))
    return f"a monitor of {node.name} flaps {times} times"


def lose_events(world: World, node: SimNode) -> str:
    """The engine's ring is full just then: the core isn't told of one thing that happens."""
    kinds = EngineEventKind
    lost = world.rng.choice(
        (
            {kinds.CLAIM},
            {kinds.CLAIM, kinds.OPENED},
            *(2 * ({kinds.OPENED}, {kinds.ABANDONED})),
            {kinds.CLOSED},
            {kinds.ORDER},
        )
    )
    node.events_to_lose = set(lost)
    told = " and the next ".join(sorted(kind.name for kind in lost))
    return f"the next {told} of {node.name} is lost"


def boot_unheard(world: World, node: SimNode) -> str:
    """Both nodes boot, and nothing that one of them sends arrives: it claims in vain, and its core
    isn't told of all of that."""
    for each in world.nodes:
        each.power_off()
    world.heal_wires()
    for link in range(len(world.links)):
        world.cut(link, node.index)
    for each in world.nodes:
        each.boot()
    kinds = EngineEventKind
    node.events_to_lose = set(world.rng.choice(((), (kinds.CLAIM,), (kinds.ABANDONED,))))
    return f"both boot, and the frames of {node.name} are lost"


def boot_harassed(world: World, node: SimNode) -> str:
    """A node boots alone, and somebody without a key sends it heartbeats, for as long as that could
    keep it from serving."""
    for each in world.nodes:
        each.power_off()
    world.heal_wires()
    node.boot()
    what = harass(world, node)
    alone_ns = 3 * world.setting.boot_wait_ns + 2 * world.setting.mismatch_wait_ns
    world.at(world.now_ns + alone_ns, start, world, world.nodes[1 - node.index])
    world.run(alone_ns)
    return f"{node.name} boots alone, and {what}"


def open_untold(world: World, node: SimNode) -> str:
    """A core isn't told that its node took over, and then its reign is over."""
    if node.gate_open():
        node = world.nodes[1 - node.index]
    kinds = EngineEventKind
    node.events_to_lose = set(world.rng.choice(((kinds.OPENED,), (kinds.CLAIM, kinds.OPENED))))
    if world.rng.random() < 0.5:  # Nor of its orders, whose word would do.
        for after_us in range(0, 1000, 100):
            world.at(world.now_ns + after_us * US, node.events_to_lose.add, kinds.ORDER)
    node.tell(ForceFailover(request_id=f"o{world.now_ns}", even_if_unfit=True))
    if world.rng.random() < 0.3:
        world.at(world.now_ns + 1 * MS, node.tell, GateLost(interface="lan0"))
        world.at(world.now_ns + 3 * MS, node.tell, GateRestored(interface="lan0"))
        return f"{node.name} is told to take over, and its gate is lost"
    back = ForceFailover(request_id=f"p{world.now_ns}", even_if_unfit=True)
    world.at(world.now_ns + 800 * US, world.nodes[1 - node.index].tell, back)
    return f"{node.name} is told to take over, and its peer right after it"


def die_disabled(world: World, node: SimNode) -> str:
    """An agent whose engine is held up is disabled, killed, and started when its lease is over."""
    node.pause_in_round_ns = 2 * MS
    request = f"d{world.now_ns}"
    node.tell(AdminCommand(request_id=request, status=Admin.DISABLED, even_if_unfit=True))
    world.at(world.now_ns + 1 * MS, node.kill)
    world.at(world.now_ns + 2 * MS + world.slowest.lease_ns, start, world, node)
    return f"{node.name} is disabled and killed"


def die_paused(world: World, node: SimNode) -> str:
    """The operator pauses the node that watches, and a while later the one that serves is lost."""
    if node.gate_open():
        node = world.nodes[1 - node.index]
    node.tell(Pause(request_id=f"q{world.now_ns}", for_ns=30 * MS))
    lost = world.rng.choice((kill, stall, reboot))
    world.at(world.now_ns + 2 * MS, lost, world, world.nodes[1 - node.index])
    return f"{node.name} is paused, and then {lost.__name__} happens to its peer"


def lose_gate(world: World, node: SimNode) -> str:
    """A gate program is removed by hand; an operator puts it back later."""
    node.tell(GateLost(interface="lan0"))
    world.at(world.now_ns + _span(world, 10 * MS), node.tell, GateRestored(interface="lan0"))
    return f"a gate program of {node.name} is removed"


def isolate(world: World, node: SimNode) -> str:
    """The reference addresses don't answer for a while."""
    node.tell(IsolationChanged(isolated=True))
    world.at(world.now_ns + _span(world, 10 * MS), node.tell, IsolationChanged(isolated=False))
    return f"{node.name} reaches none of its references"


def deaf_to_itself(world: World, node: SimNode) -> str:
    """No control frame comes through: the node's own receive path doesn't run."""
    node.control_works = not node.control_works
    return f"the receive path of {node.name} {'runs' if node.control_works else 'is stuck'}"


def command(world: World, node: SimNode) -> str:
    """The operator wants something."""
    rng = world.rng
    request = f"r{rng.randrange(40)}"
    insists = rng.random() < 0.3
    given = rng.choice(
        (
            ForceFailover(request_id=request, even_if_unfit=insists),
            ForceFailover(request_id=request, even_if_unfit=insists),
            ForceYield(request_id=request),
            Pause(request_id=request, for_ns=rng.choice((1, 8, 30)) * MS),
            Resume(request_id=request),
            *(
                AdminCommand(request_id=request, status=status, even_if_unfit=insists)
                for status in Admin
            ),
        )
    )
    node.tell(given)
    return f"{node.name} is told {type(given).__name__}{getattr(given, 'status', '')!s}"


def change_links(world: World, node: SimNode) -> str:
    """The operator takes a link out of one node's configuration, or puts it back."""
    every = ALL_LINKS
    node.set_links(every if node.links != every else world.rng.choice((1, 2)))
    return f"{node.name} has the links {node.links:02b}"


TIMERS: Final = tuple(
    Intervals(hello_us=hello, dead_us=dead, verify_us=verify, stall_us=stall, lease_us=lease)
    for hello, dead, verify, stall, lease in (
        (200, 600, 400, 1_000, 3_000),
        (200, 1_200, 300, 1_000, 5_000),
        (500, 1_500, 400, 1_500, 4_000),
        (1_000, 3_000, 600, 3_000, 8_000),
    )
)
"""What operators want all of a sudden."""


def renew_unheard(world: World, node: SimNode) -> str:
    """Who serves is held up for most of its lease, and has to ask for a receipt that can't come."""
    if not node.gate_open():
        node = world.nodes[1 - node.index]
    for link in range(len(world.links)):
        world.cut(link, node.index)
    node.pause_in_round_ns = int((0.5 + 0.3 * world.rng.random()) * world.slowest.lease_ns)
    return f"{node.name} is held up for {node.pause_in_round_ns // US} us, and its frames are lost"


def yield_in_vain(world: World, node: SimNode) -> str:
    """Who serves is told to give the role to a node that just then finds itself cut off."""
    if not node.gate_open():
        node = world.nodes[1 - node.index]
    other = world.nodes[1 - node.index]
    node.tell(ForceYield(request_id=f"y{world.now_ns}"))
    other.tell(IsolationChanged(isolated=True))
    until_ns = world.now_ns + 4 * world.setting.patience.operation_ns
    world.at(until_ns, other.tell, IsolationChanged(isolated=False))
    return f"{node.name} is told to yield, and {other.name} reaches none of its references"


def set_timers(world: World, node: SimNode) -> str:
    """The operator wants other intervals, or those of the configuration."""
    rng = world.rng
    request = f"t{world.now_ns}"
    if rng.random() < 0.2:
        node.tell(SetTimers(request_id=request, unset=True))
        return f"{node.name} is told to keep the intervals of its configuration"
    wanted = rng.choice(TIMERS)
    world.slowest = slower(world.slowest, wanted)
    even_so = rng.random() < 0.3
    node.tell(SetTimers(request_id=request, even_so=even_so, **dataclasses.asdict(wanted)))
    return f"{node.name} is told to keep {wanted}"


def slower(setting: Setting, wanted: Intervals) -> Setting:
    """The longer one of each: what bounds are to be counted with."""
    both = setting.timers(), pace.over(setting.timers(), wanted)
    return replace(
        setting,
        **{name: max(getattr(each, name) for each in both) for name in both[0].__slots__},
    )


def late_host(world: World, node: SimNode) -> str:
    """How late a host wakes up is measured, and may be too much for short intervals."""
    late_ns = world.rng.choice((0, 150, 300, 700)) * US
    node.tell(HostMeasured(wake_late_ns=late_ns))
    return f"the host of {node.name} wakes up {late_ns // US} us late"


def late_timers(world: World, node: SimNode) -> str:
    """The operator wants shorter intervals than the host can hold."""
    node.tell(HostMeasured(wake_late_ns=700 * US))
    wanted = TIMERS[0]
    world.slowest = slower(world.slowest, wanted)
    node.tell(SetTimers(request_id=f"l{world.now_ns}", **dataclasses.asdict(wanted)))
    return f"the host of {node.name} is late, and it is told to keep {wanted}"


def forge(world: World, node: SimNode) -> str:
    """Somebody sends what he made up or recorded."""
    rng = world.rng
    index, link = node.index, rng.randrange(2)
    tapes = [path.tape for each in world.links for path in each.path]
    frames = [frame for tape in tapes for frame in tape]
    for _ in range(8):
        kind = rng.randrange(4)
        if kind == 0 or not frames:
            payload = rng.randbytes(128)
        else:
            payload = rng.choice(frames)
            if kind == 1:  # One bit of a real frame is changed.
                at = rng.randrange(128 * 8)
                changed = bytearray(payload)
                changed[at // 8] ^= 1 << at % 8
                payload = bytes(changed)
            elif kind == 2:  # A node hears itself.
                own = [frame for each in world.links for frame in each.path[index].tape]
                if own:
                    payload = rng.choice(own)
            else:  # A recording, after the original was accepted.
                accepted = world.checks.accepted[index, link]
                if not accepted:
                    continue
                payload = rng.choice(accepted)
        check_forge(world, index, link, payload)
    return f"frames are forged at {node.name}"


def harass(world: World, node: SimNode) -> str:
    """Somebody without a key sends heartbeats from the peer's address, for as long as it takes."""
    link, sender = world.rng.randrange(2), 1 - node.index
    heartbeat = MAGIC_AND_VERSION + bytes((1, sender, link)) + PAIR + world.rng.randbytes(116)

    def again() -> None:
        world.deliver(node.index, link, heartbeat, False)
        world.at(world.now_ns + 2 * MS, again)

    again()
    return f"somebody without a key sends heartbeats to {node.name} from now on"


WEIGHTS: Final[dict[Fault, int]] = {
    cut_one_way: 6,
    cut_both_ways: 6,
    unplug: 2,
    heal_wires: 8,
    heal_one_way: 3,
    noise: 3,
    stall: 8,
    stall_in_round: 6,
    hang_python: 3,
    kill: 4,
    start: 2,
    reboot: 4,
    restart: 2,
    stop_agent: 1,
    bad_disk: 2,
    sick: 3,
    flap: 2,
    lose_events: 6,
    die_disabled: 1,
    boot_unheard: 3,
    open_untold: 1,
    lose_gate: 1,
    isolate: 1,
    deaf_to_itself: 1,
    command: 6,
    set_timers: 3,
    late_host: 2,
    forge: 3,
    harass: 1,
    boot_harassed: 1,
    bad_fence: 2,
}
"""How often each is drawn."""
ON_GROUND: Final = WEIGHTS | {sick: 8, flap: 3, change_links: 5, hang_python: 5}
"""And where the nodes have more than their links."""


STORIES: Final[tuple[Fault, ...]] = (
    boot_harassed,
    boot_unheard,
    open_untold,
    die_disabled,
    renew_unheard,
    yield_in_vain,
    late_timers,
    die_paused,
)
"""What leads to turns and verdicts that chance alone leads to seldom: every schedule begins with
one."""
SELDOM: Final = 40
"""One schedule in so many begins with the one that takes long."""
MENDING: Final[frozenset[Fault]] = frozenset({heal_wires, heal_one_way, heal_witness, start})
"""What is drawn like a fault and is none."""


def story(seed: int) -> Fault:
    """What a schedule begins with."""
    if seed % SELDOM == SELDOM - 1:
        return outlive_attestation
    return STORIES[seed % len(STORIES)]


def draw(world: World) -> tuple[Fault, SimNode]:
    """What goes wrong next."""
    weights = ON_GROUND if world.setting.ground else WEIGHTS
    fault = world.rng.choices(tuple(weights), tuple(weights.values()))[0]
    # Most interesting is what happens to the one that serves.
    serving = [node for node in world.nodes if node.gate_open()]
    if serving and world.rng.random() < 0.4:
        return fault, serving[0]
    return fault, world.nodes[world.rng.randrange(2)]


def mend(world: World) -> None:
    """Everything is mended but the nodes' health, and both operators let go."""
    world.heal_wires()
    world.witness.mend()
    world.fence.mend()
    for node in world.nodes:
        node.cont()
        node.unhang_python()
        node.control_works = True
        node.set_links(ALL_LINKS)
        node.events_to_lose = set()
        node.disk.failing = False
        node.disk.latency_ns = 300 * US
        start(world, node)
        node.tell(GateRestored(interface="lan0"))
        node.tell(IsolationChanged(isolated=False))
        let_go(world, node)


INSISTS_NS: Final = 4 * MS
"""An operator who isn't answered asks again after so long."""


def let_go(world: World, node: SimNode) -> None:
    """The operator takes back all that he told a node, and again until its disk has that: the node
    may lose its power first."""
    node.tell(Resume(request_id=f"well-r-{node.name}-{world.now_ns}"))
    node.tell(AdminCommand(request_id=f"well-a-{node.name}-{world.now_ns}", status=Admin.ENABLED))

    def insist() -> None:
        kept = node.disk.durable
        if kept.admin is not Admin.ENABLED or kept.paused_until_ns:
            let_go(world, node)

    world.at(world.now_ns + INSISTS_NS, insist)


def make_well(world: World) -> None:
    """Everything is mended, health included."""
    mend(world)
    for node in world.nodes:
        if world.setting.ground:
            node.ground.gain(*ground.LEVELS)
        else:
            node.tell(HealthChanged(health=TrackedHealth()))
