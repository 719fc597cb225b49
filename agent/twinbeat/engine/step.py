# SPDX-License-Identifier: Apache-2.0
"""The engine's decision and the kernel's rules in plain memory, for tests and the simulator.

`Step` is the real csrc/engine.c, `Kernel` the real ebpf/tb_rules.h (what XDP does with a heartbeat
and how frames are made), both with a clock of the caller's; `Node` drives them the way the thread
does in production. Nothing here opens a socket, starts a thread or reads a clock, and none of it
needs root. Not used in production.

C structures are handed out as they are: their fields are attributes with the names of tb_abi.h and
engine.h, to be read and written, valid as long as their owner is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twinbeat.engine._engine import ffi, lib
from twinbeat.engine.convert import config_to_c, event_from_c, order_to_c, settings_to_c
from twinbeat.engine.types import Event, FrameType, Order, Settings, WireConfig


class Step:
    """tb_engine_step with a fake clock: fill `input`, step, look at the actions."""

    def __init__(self, settings: Settings, now_ns: int) -> None:
        """Begin as a node that knows nothing (tb_engine_init)."""
        self.engine: Any = ffi.new("struct tb_engine *")
        """struct tb_engine, to be looked at."""
        self.input: Any = ffi.new("struct tb_input *")
        """struct tb_input of the next step, all zero at first; kept between steps."""
        self.actions: Any = ffi.new("struct tb_actions *")
        """struct tb_actions of the last step."""
        lib.tb_engine_init(self.engine, settings_to_c(settings), now_ns)

    def configure(self, settings: Settings) -> None:
        """Take new settings into effect without forgetting anything."""
        lib.tb_engine_configure(self.engine, settings_to_c(settings))

    def set_order(self, order: Order, *, attested_until_ns: int) -> None:
        """Put the standing order into `input`."""
        self.input.order = order_to_c(order, attested_until_ns)[0]

    def step(self, now_ns: int) -> Any:
        """One round; returns `actions`."""
        lib.tb_engine_step(self.engine, now_ns, self.input, self.actions)
        return self.actions

    def events(self) -> list[Event]:
        """The events of the last step."""
        return [event_from_c(self.actions.event[i]) for i in range(self.actions.events)]


@dataclass(frozen=True, slots=True)
class Received:
    """What the kernel made of a frame."""

    reason: int
    """enum tb_reason: lib.TB_R_HELLO and so on."""
    answer: bytes | None
    """The ANSWER it sends back on the same link, if any."""


class Kernel:
    """The maps of one node in plain memory, and what the kernel does with a heartbeat."""

    def __init__(self, config: WireConfig) -> None:
        """Empty maps, but for the configuration."""
        self.maps: Any = ffi.new("struct tb_plain *")
        """Maps as C structures: gate, self, peer, link[], control[], config, counters[]."""
        self.set_config(config)

    def set_config(self, config: WireConfig) -> None:
        """Replace map "config" (rotation of keys)."""
        self.maps.config = config_to_c(config)[0]

    @property
    def gate(self) -> Any:
        """struct tb_gate."""
        return self.maps.gate

    @property
    def peer(self) -> Any:
        """struct tb_peer."""
        return self.maps.peer

    def gate_open(self, now_ns: int) -> bool:
        """The rule of R1, as evaluated for each packet."""
        return bool(lib.tb_plain_gate_open(self.maps, now_ns))

    def receive(
        self,
        link: int,
        frame: bytes,
        now_ns: int,
        *,
        cpu: int = 0,
        ttl: int = 255,
        ttl_min: int = 255,
    ) -> Received:
        """What XDP does with a payload that arrives on a link."""
        buffer = ffi.new("uint8_t[]", frame)
        answered = ffi.new("int *")
        reason = lib.tb_plain_receive(
            self.maps, link, buffer, len(frame), now_ns, cpu, ttl, ttl_min, answered
        )
        answer = bytes(ffi.buffer(buffer, lib.TB_FRAME_SIZE)) if answered[0] else None
        return Received(reason, answer)

    def receive_control(self, frame: bytes, now_ns: int, *, cpu: int = 0) -> int:
        """What XDP does with a frame on the private pair; returns the reason."""
        buffer = ffi.new("uint8_t[]", frame)
        return int(lib.tb_plain_receive_control(self.maps, buffer, len(frame), now_ns, cpu))

    def frame(
        self,
        kind: FrameType,
        link: int,
        now_ns: int,
        *,
        echo: int = 0,
        echo_ns: int = 0,
        hold_ns: int = 0,
        proposal: Any = None,
    ) -> bytes:
        """Make a frame from the maps, drawing a counter; `proposal` is a struct tb_proposal *."""
        frame = ffi.new("struct tb_frame *")
        lib.tb_plain_frame(
            self.maps, frame, kind, link, now_ns, echo, echo_ns, hold_ns, proposal or ffi.NULL
        )
        return bytes(ffi.buffer(frame))

    def count(self, reason: int) -> int:
        """How often a reason was counted."""
        return int(self.maps.counters[reason])


@dataclass(slots=True)
class Round:
    """What a round of a node put on its links and told its agent."""

    frames: list[tuple[int, bytes]] = field(default_factory=list)
    """(link, payload), in the order sent."""
    events: list[Event] = field(default_factory=list)
    announce: bool = False
    announce_stop: bool = False
    opened: bool = False
    closed: bool = False
    again: bool = False
    """Another round is due at once."""
    wake_ns: int = 0
    wakes_python: bool = False
    """Python is to be woken for rationed events, of this round or earlier ones."""
    waiting: int = 0
    """So many of its events are rationed, and wake nobody yet."""


class Node:
    """A whole node but for its Python: the real engine on the real rules, driven as thread.c does
    it.
    """

    def __init__(self, settings: Settings, config: WireConfig, now_ns: int) -> None:
        """A node that knows nothing; give it an order before the first round."""
        self.kernel = Kernel(config)
        self.engine = Step(settings, now_ns)
        self.order = Order(generation=0, expires_ns=0)
        self.attested_until_ns = 0
        self.link_carrier = settings.links
        """Mask of links with carrier."""
        self.port_carrier = (1 << settings.ports) - 1
        self.control_works = True
        """Whether a control frame that the engine asks for comes through (its receive path runs).
        """
        self.sends = True
        """Whether the host takes the frames that are to be sent."""

    def restart_agent(self, settings: Settings, now_ns: int) -> None:
        """The agent dies and starts anew; the kernel's maps stay."""
        self.engine = Step(settings, now_ns)
        self.order = Order(generation=0, expires_ns=0)
        self.attested_until_ns = 0

    def gate_open(self, now_ns: int) -> bool:
        """The rule of R1."""
        return self.kernel.gate_open(now_ns)

    def look(self, now_ns: int) -> None:
        """First half of a round: read the maps at `now_ns` and decide. A node may be stalled after
        it.
        """
        step = self.engine
        step.set_order(self.order, attested_until_ns=self.attested_until_ns)
        lib.tb_plain_look(self.kernel.maps, step.input, step.engine.settings.links)
        step.input.link_carrier = self.link_carrier
        step.input.port_carrier = self.port_carrier
        step.step(now_ns)

    def act(self, now_ns: int) -> Round:
        """Second half: carry the last actions out at `now_ns`, made later by a stall perhaps."""
        actions, maps = self.engine.actions, self.kernel.maps
        lib.tb_plain_act(maps, actions, self.engine.engine.term)
        links = self.engine.engine.settings.links
        frames = []
        for link in range(lib.TB_LINKS):
            if not (actions.hello | actions.probe) & links & 1 << link:
                continue
            kind = FrameType.PROBE if actions.probe & 1 << link else FrameType.HELLO
            hold_ns = max(0, now_ns - actions.echo_arrived_ns) if actions.echo else 0
            frames.append(
                (
                    link,
                    self.kernel.frame(
                        kind,
                        link,
                        now_ns,
                        echo=actions.echo,
                        echo_ns=actions.echo_ns,
                        hold_ns=hold_ns,
                        proposal=ffi.addressof(actions, "proposal"),
                    ),
                )
            )
        if not self.sends:
            frames.clear()
        if any(actions.probe & 1 << link for link, _ in frames):
            self.engine.input.probes_sent += 1
        if actions.control and self.control_works:
            self.kernel.receive_control(
                self.kernel.frame(FrameType.CONTROL, 0, now_ns), now_ns, cpu=0
            )
        return Round(
            frames=frames,
            events=self.engine.events(),
            announce=bool(actions.announce),
            announce_stop=bool(actions.announce_stop),
            opened=bool(actions.open),
            closed=bool(actions.shut),
            again=bool(actions.again),
            wake_ns=actions.wake_ns,
            wakes_python=bool(actions.wake_python),
            waiting=actions.waiting,
        )

    def round(self, now_ns: int) -> Round:
        """A whole round at one instant."""
        self.look(now_ns)
        return self.act(now_ns)
