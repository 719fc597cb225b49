# SPDX-License-Identifier: Apache-2.0
"""A test bench for the engine's decision: one real node, and a peer whose every word is scripted.

The node is the real engine on the real rules (twinbeat.engine.step.Node). The peer is a kernel
alone: a test says whether its agent speaks, whether its kernel answers, what its gate says, and
whether the node's frames reach it. Time stands still but where `run` lets it pass.
"""

from dataclasses import dataclass, field, replace

from twinbeat.config.timers import PROFILES
from twinbeat.engine._engine import ffi
from twinbeat.engine.step import Kernel, Node, Round
from twinbeat.engine.types import (
    NO_FLAGS,
    Cause,
    Event,
    EventKind,
    Flag,
    FrameType,
    Order,
    Permit,
    Phase,
    Role,
    Settings,
    Timers,
    Watch,
    WireConfig,
)

US = 1000
MS = 1000 * US
START = 1000 * MS
FOREVER = 1 << 62
FLIGHT = 3 * US
KEYS = ((1, b"0123456789abcdef"),)

_FAST = PROFILES["fast"].ns
FAST = Settings(
    timers=Timers(
        hello_ns=_FAST.hello_ns,
        dead_ns=_FAST.dead_ns,
        verify_ns=_FAST.verify_ns,
        stall_ns=_FAST.stall_ns,
        lease_ns=_FAST.lease_ns,
    ),
    node=0,
    links=1,
    late_ns=_FAST.late_ns,
    idle_claim_ns=_FAST.idle_claim_ns,
    listen_ns=_FAST.listen_ns,
)
"""What an engine is given for the profile `fast`."""

ALL = (
    Permit.MAY_SERVE
    | Permit.MAY_CLAIM_DEAD
    | Permit.MAY_CLAIM_STALLED
    | Permit.MAY_CLAIM_IDLE
    | Permit.MAY_CLAIM_YIELD
    | Permit.MAY_CLAIM_COLD
)

ORDER = Order(generation=1, expires_ns=FOREVER, term_first=1000, term_last=2000, permits=ALL)


@dataclass
class Bench:
    """One node under test and its scripted peer."""

    settings: Settings = FAST
    order: Order = ORDER
    agent: bool = True
    """The peer's agent sends HELLOs."""
    kernel: bool = True
    """The peer's kernel takes our frames and answers our PROBEs."""
    hears: bool = True
    """The peer's HELLOs echo us and say so."""
    lease_ns: int = 10 * MS
    """What an open peer's agent renews its lease to with each HELLO."""
    flags: Flag = NO_FLAGS
    late_ns: int = 0
    """How late every round of ours begins."""
    now: int = START
    events: list[Event] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    announced: int = 0

    def __post_init__(self) -> None:
        node = self.settings.node
        self.node = Node(self.settings, WireConfig(pair=1, node=node, keys=KEYS), self.now)
        self.peer = Kernel(WireConfig(pair=1, node=1 - node, keys=KEYS))
        self.node.kernel.gate.counter = 7 << 32
        self.peer.gate.counter = 9 << 32
        self.give(self.order)
        self._heard_ns = 0
        self._echo = (0, 0, 0)
        self._hello_ns = self.now
        self._wake_ns = self.now

    # -- what the test says --------------------------------------------------------------------

    def give(self, order: Order, *, attested_until_ns: int = FOREVER) -> None:
        self.order = order
        self.node.order = order
        self.node.attested_until_ns = attested_until_ns

    def order_again(self, **changes: object) -> None:
        generation = self.order.generation + 1
        self.give(replace(self.order, generation=generation, **changes))  # type: ignore[arg-type]

    def configure(self, **changes: object) -> None:
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        self.node.engine.configure(self.settings)

    def peer_serves(self, term: int) -> None:
        """The peer's gate is open under a term."""
        self.peer.gate.term = term
        self.peer.gate.open_until = self.now + self.lease_ns

    # -- what happens ----------------------------------------------------------------------------

    def hello(self) -> int:
        """One HELLO of the peer's agent, on link 0; the reason our kernel counts it under."""
        return self.node.kernel.receive(0, self.hello_frame(), self.now).reason

    def hello_frame(self, *, proposing: bool = False) -> bytes:
        """What the peer's agent says now."""
        gate, words = self.peer.gate, self.peer.maps.self
        if gate.term and self.now < gate.open_until:
            gate.open_until = self.now + self.lease_ns
        words.flags = self.flags | (Flag.HEARS_YOU if self.hears else Flag(0))
        words.lease_full_us = self.lease_ns // US
        words.highest = max(gate.term, words.highest)
        counter, sent_ns, arrived_ns = self._echo if self.hears else (0, 0, 0)
        proposal = ffi.new("struct tb_proposal *", {"number": 1, "flags": Flag.PROPOSAL})
        return self.peer.frame(
            FrameType.HELLO,
            0,
            self.now,
            echo=counter,
            echo_ns=sent_ns,
            hold_ns=max(0, self.now - arrived_ns),
            proposal=proposal if proposing else None,
        )

    def round(self) -> Round:
        """One round of the node, now; its frames fly and come back answered."""
        told = self.node.round(self.now)
        self.rounds.append(told)
        self.events.extend(told.events)
        self.announced += told.announce
        self._wake_ns = self.now + US if told.again else told.wake_ns
        for link, frame in told.frames:
            if not self.kernel:
                continue
            self._echo = (
                int.from_bytes(frame[16:24]),
                int.from_bytes(frame[64:72]),
                self.now + FLIGHT,
            )
            self.peer.maps.peer.epoch = 7  # it knows our boot epoch
            self.peer.maps.self.fresh_from = 1
            answer = self.peer.receive(link, frame, self.now + FLIGHT).answer
            if answer:
                self.node.kernel.receive(link, answer, self.now + 2 * FLIGHT)
        return told

    def run(self, duration_ns: int) -> list[Event]:
        """Let time pass; the events of it."""
        end, first = self.now + duration_ns, len(self.events)
        while True:
            wake = self._wake_ns + self.late_ns
            if self.agent and self._hello_ns <= min(wake, end):
                self.now = max(self.now, self._hello_ns)
                self.hello()
                self._hello_ns = self.now + self.settings.timers.hello_ns
            elif wake <= end:
                self.now = max(self.now, wake)
                self.round()
            else:
                break
        self.now = end
        self._hello_ns = max(self._hello_ns, end)
        return self.events[first:]

    def told(self, kind: EventKind) -> list[Event]:
        """All events of a kind so far."""
        return [event for event in self.events if event.kind is kind]

    def last(self, kind: EventKind) -> Event:
        return self.told(kind)[-1]

    def withheld(self) -> set[Cause]:
        return {event.cause for event in self.told(EventKind.WITHHELD)}

    # -- what can be seen ------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        return Phase(self.node.engine.engine.phase)

    @property
    def watch(self) -> Watch:
        return Watch(self.node.engine.engine.watch)

    @property
    def gate_open(self) -> bool:
        return self.node.gate_open(self.now)

    @property
    def says(self) -> Flag:
        """Flags that the kernel would put into an ANSWER."""
        return Flag(self.node.kernel.maps.self.flags)

    @property
    def claims(self) -> int:
        return int(self.node.kernel.maps.self.claim)

    @property
    def role(self) -> Role:
        return Role(self.node.kernel.maps.self.role)


def secondary(**changes: object) -> Bench:
    """A node that hears a serving peer (term 501)."""
    bench = Bench(**changes)  # type: ignore[arg-type]
    bench.peer_serves(500 + (1 - bench.settings.node))
    bench.run(3 * MS)
    assert bench.watch is Watch.ALIVE
    assert bench.phase is Phase.LISTENING
    return bench


def primary(**changes: object) -> Bench:
    """A node that serves, by the receipt of a peer that lives."""
    bench = Bench(**changes)  # type: ignore[arg-type]
    bench.run(2 * MS)
    bench.order_again(permits=bench.order.permits | Permit.CLAIM_NOW)
    bench.run(1 * MS)
    assert bench.phase is Phase.SERVING
    assert bench.gate_open
    bench.order_again(permits=bench.order.permits & ~Permit.CLAIM_NOW)
    bench.run(1 * MS)
    bench.events.clear()
    bench.announced = 0
    return bench
