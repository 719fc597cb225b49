# SPDX-License-Identifier: Apache-2.0
"""What the engine is told and what it tells, as Python values.

Every number here comes out of the C headers through the compiled module; nothing is typed twice,
and a test compares the names below with those of the headers. Times are integer nanoseconds of
CLOCK_BOOTTIME (`now_ns()`), unless a name says otherwise. What decides anything is not known here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address

from twinbeat.engine._engine import lib

FRAME_SIZE: int = lib.TB_FRAME_SIZE
BUCKETS: int = lib.TB_BUCKETS


def now_ns() -> int:
    """The engine's and the kernel programs' clock: it goes on while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class FrameType(IntEnum):
    """What a frame is (enum tb_type)."""

    HELLO = lib.TB_HELLO
    PROBE = lib.TB_PROBE
    ANSWER = lib.TB_ANSWER
    CONTROL = lib.TB_CONTROL


class Flag(IntFlag):
    """Bits of a frame's flags (enum tb_flag)."""

    OPEN = lib.TB_F_OPEN
    HEARS_YOU = lib.TB_F_HEARS_YOU
    YIELD = lib.TB_F_YIELD
    PAUSED = lib.TB_F_PAUSED
    RESTART = lib.TB_F_RESTART
    ISOLATED = lib.TB_F_ISOLATED
    CONTESTED = lib.TB_F_CONTESTED
    FIT = lib.TB_F_FIT
    STARTING = lib.TB_F_STARTING
    PREFERRED = lib.TB_F_PREFERRED
    CLAIMING = lib.TB_F_CLAIMING
    PAUSE_ACK = lib.TB_F_PAUSE_ACK
    STRANDED = lib.TB_F_STRANDED
    NEVER_CLAIMS = lib.TB_F_NEVER_CLAIMS
    KNOWN = lib.TB_F_KNOWN
    NEWBORN = lib.TB_F_NEWBORN
    PROPOSAL = lib.TB_F_PROPOSAL
    REFUSES = lib.TB_F_REFUSES
    EVEN_SO = lib.TB_F_EVEN_SO
    NEGOTIATES = lib.TB_F_NEGOTIATES


class Role(IntEnum):
    """Role of a node as frames carry it (enum tb_role)."""

    INIT = lib.TB_ROLE_INIT
    SECONDARY = lib.TB_ROLE_SECONDARY
    CLAIMING = lib.TB_ROLE_CLAIMING
    PRIMARY = lib.TB_ROLE_PRIMARY
    DISABLED = lib.TB_ROLE_DISABLED


class Admin(IntEnum):
    """What the operator wants of a node (enum tb_admin)."""

    ENABLED = lib.TB_ADMIN_ENABLED
    STAY_PRIMARY = lib.TB_ADMIN_STAY_PRIMARY
    STAY_SECONDARY = lib.TB_ADMIN_STAY_SECONDARY
    DISABLED = lib.TB_ADMIN_DISABLED


class Permit(IntFlag):
    """What a standing order allows the engine to do by itself (enum tb_permit)."""

    MAY_SERVE = lib.TB_MAY_SERVE
    MAY_CLAIM_DEAD = lib.TB_MAY_CLAIM_DEAD
    MAY_CLAIM_STALLED = lib.TB_MAY_CLAIM_STALLED
    MAY_CLAIM_IDLE = lib.TB_MAY_CLAIM_IDLE
    MAY_CLAIM_YIELD = lib.TB_MAY_CLAIM_YIELD
    MAY_CLAIM_COLD = lib.TB_MAY_CLAIM_COLD
    CLAIM_NOW = lib.TB_CLAIM_NOW
    YIELD = lib.TB_YIELD
    PREFERRED = lib.TB_PREFERRED
    PAUSED = lib.TB_PAUSED
    RESUME = lib.TB_RESUME
    UNHEARD = lib.TB_UNHEARD


class Phase(IntEnum):
    """What the engine is about (enum tb_phase)."""

    LISTENING = lib.TB_LISTENING
    CLAIMING = lib.TB_CLAIMING
    SERVING = lib.TB_SERVING


class Watch(IntEnum):
    """What is known of the peer's agent (enum tb_watch)."""

    ALIVE = lib.TB_ALIVE
    SUSPECT = lib.TB_SUSPECT
    STALLED = lib.TB_STALLED
    DEAD = lib.TB_DEAD
    UNKNOWN = lib.TB_UNKNOWN


class Cause(IntEnum):
    """Why a claim or a reign began, ended or was refused (enum tb_cause)."""

    NONE = lib.TB_C_NONE
    DEAD = lib.TB_C_DEAD
    STALLED = lib.TB_C_STALLED
    IDLE = lib.TB_C_IDLE
    YIELDED = lib.TB_C_YIELDED
    COLD = lib.TB_C_COLD
    ORDERED = lib.TB_C_ORDERED
    RENEW = lib.TB_C_RENEW
    DEAF = lib.TB_C_DEAF
    RESUMED = lib.TB_C_RESUMED
    RECEIPT = lib.TB_C_RECEIPT
    SILENCE = lib.TB_C_SILENCE
    LEASE_RAN_OUT = lib.TB_C_LEASE_RAN_OUT
    FENCED = lib.TB_C_FENCED
    EXPIRED = lib.TB_C_EXPIRED
    CONTEST_LOST = lib.TB_C_CONTEST_LOST
    RESIGNED = lib.TB_C_RESIGNED
    STRANDED_ISOLATED = lib.TB_C_STRANDED_ISOLATED
    ORDER_VOID = lib.TB_C_ORDER_VOID
    GATE_LOST = lib.TB_C_GATE_LOST
    NO_RECEIPT = lib.TB_C_NO_RECEIPT
    OVERTAKEN = lib.TB_C_OVERTAKEN
    BLOCK_SPENT = lib.TB_C_BLOCK_SPENT
    ISOLATED = lib.TB_C_ISOLATED
    NO_CONTROL = lib.TB_C_NO_CONTROL
    PEER_SERVES = lib.TB_C_PEER_SERVES
    NOT_PERMITTED = lib.TB_C_NOT_PERMITTED
    PEER_LEASE = lib.TB_C_PEER_LEASE
    MISMATCH = lib.TB_C_MISMATCH
    UNPROVEN = lib.TB_C_UNPROVEN
    DESPITE_MISMATCH = lib.TB_C_DESPITE_MISMATCH
    WITNESSED = lib.TB_C_WITNESSED
    NO_WITNESS = lib.TB_C_NO_WITNESS
    PEER_STARTS = lib.TB_C_PEER_STARTS


class EventKind(IntEnum):
    """What happened (enum tb_event_kind); the header says what `a` and `b` of each event hold."""

    HEARD = lib.TB_E_HEARD
    SUSPECT = lib.TB_E_SUSPECT
    CLEARED = lib.TB_E_CLEARED
    STALLED = lib.TB_E_STALLED
    DEAD = lib.TB_E_DEAD
    WITHHELD = lib.TB_E_WITHHELD
    CLAIM = lib.TB_E_CLAIM
    RECEIPT = lib.TB_E_RECEIPT
    OPENED = lib.TB_E_OPENED
    ANNOUNCED = lib.TB_E_ANNOUNCED
    ABANDONED = lib.TB_E_ABANDONED
    CLOSED = lib.TB_E_CLOSED
    LINK_SILENT = lib.TB_E_LINK_SILENT
    LINK_HEARD = lib.TB_E_LINK_HEARD
    LATE = lib.TB_E_LATE
    TERM_LOW = lib.TB_E_TERM_LOW
    ORDER = lib.TB_E_ORDER
    COUNTER_JUMP = lib.TB_E_COUNTER_JUMP
    PEER_CHANGED = lib.TB_E_PEER_CHANGED
    CONTESTED = lib.TB_E_CONTESTED
    REOPENED = lib.TB_E_REOPENED


class LinkMode(IntEnum):
    """How heartbeats leave on a link."""

    ETHERNET = lib.TB_MODE_ETHERNET
    """Prebuilt frames past the qdisc; the peer is in the same subnet."""
    UDP = lib.TB_MODE_UDP
    """A socket, the kernel routes."""


NO_FLAGS = Flag(0)
NO_PERMITS = Permit(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """Durations of the profile, in nanoseconds."""

    hello_ns: int
    dead_ns: int
    verify_ns: int
    stall_ns: int
    lease_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the engine detects and claims; a reload replaces them and nothing is forgotten."""

    timers: Timers
    node: int
    """Own index, 0 or 1."""
    links: int
    """Mask of the configured links, bit n = link n."""
    direct: int = 0
    """Mask of the links that are a cable between the nodes."""
    ports: int = 0
    """How many VIP ports are watched for carrier (`Setup.port_ifindexes`)."""
    late_ns: int
    """A tick later than this restarts the verify window."""
    idle_claim_ns: int
    listen_ns: int
    boot_wait_ns: int = 0
    """How long a peer that starts as this node did and goes first is waited for, at most."""
    mismatch_wait_ns: int = 0
    """How much longer frames refused for their key or version withhold a cold claim at most."""
    witness_ns: int = 0
    """How long the word of the peer or of the witness is good for; 0 = no witness."""
    probes: int = 3
    """On-time unanswered probes that a verdict of DEAD needs on each link with carrier."""
    strict: bool = False
    wait_lease: bool = False
    claim_alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Intervals that a node wants, or refuses, in some of its heartbeats (struct tb_proposal)."""

    number: int = 0
    """0 = none."""
    flags: Flag = NO_FLAGS
    hello_us: int = 0
    dead_us: int = 0
    verify_us: int = 0
    stall_us: int = 0
    lease_us: int = 0
    every: int = 0
    """One heartbeat of so many carries it; 0 in what was received."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What Python says of this node in every frame."""

    flags: Flag = NO_FLAGS
    role: Role = Role.INIT
    admin: Admin = Admin.ENABLED
    health: int = 0
    generation: int = 0
    """Of the configuration that both nodes share."""
    digest: int = 0
    pause_until_ns: int = 0
    """With PAUSED: when that ends; 0 = it has no end."""
    proposal: Proposal = field(default_factory=Proposal)


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessWords:
    """What the witness said (struct tb_witness); replaced whole."""

    term: int = 0
    until_ns: int = 0
    open_ns: int = 0
    before: int = 0
    kept: int = 0
    absent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The standing order: replaced whole, void when it expires or the attestation lapses."""

    generation: int
    expires_ns: int
    term_first: int = 1
    term_last: int = 0
    """Block of terms reserved on disk, both ends included; first > last: none."""
    permits: Permit = NO_PERMITS
    lease_ns: int = 0
    """0 = the settings' lease; longer during a planned restart."""
    resign_of: int = 0
    """A number other than the last order's: shut the gate at once. Stays in the orders after it."""
    heard: int = 0
    """Counter of the peer's newest frame when what the order rests on was found out."""
    facts: Facts = field(default_factory=Facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class WireConfig:
    """What makes a frame ours; the same values that map "config" holds."""

    pair: int
    node: int
    keys: tuple[tuple[int, bytes], ...]
    """(id 1-255, 16 bytes) of each accepted key, one or two; position = slot."""
    send_key: int = 0
    """Slot under which frames are sent."""
    port: int = 3003


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link, as the engine sends on it."""

    number: int
    ifindex: int
    local: IPv4Address | IPv6Address
    peer: IPv4Address | IPv6Address
    mode: LinkMode = LinkMode.ETHERNET
    vlan: int = 0
    local_mac: bytes = b""
    """Six bytes; empty: asked of the interface."""
    peer_mac: bytes = b""
    """Six bytes; empty: not resolved yet, frames are broadcast until it is (set_peer_mac)."""
    ttl: int = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFds:
    """Descriptors of the mmapable maps; the engine maps them and needs the descriptors no more."""

    gate: int
    self: int
    peer: int
    links: int
    control: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """All that is fixed for the life of an engine."""

    maps: MapFds
    links: tuple[Link, ...]
    settings: Settings
    config: WireConfig
    control_ifindex: int = 0
    """The sending end of the private pair (tbctl0); 0: no control frames, hence no verdict of DEAD.
    """
    port_ifindexes: tuple[int, ...] = ()
    """VIP ports, for their carrier; bit n of the port mask = n-th of these."""
    priority: int = 60
    """SCHED_FIFO priority of the thread."""
    cpu: int | None = None
    """Processor to pin the thread to; None: where the scheduler likes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartReport:
    """What the host allowed the engine; None = granted, else the errno that refused it."""

    real_time: int | None
    locked: int | None
    pinned: int | None
    helpers: int
    """Control helpers running, one per processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One GARP (IPv4) or unsolicited neighbour advertisement (IPv6) to be repeated by the schedule.

    With a virtual MAC one per (VMAC, port) moves the switch; plain addresses need one each. The
    order of the list is the order on the wire, so virtual MACs go first.
    """

    ifindex: int
    mac: bytes
    """The MAC that owns the address from now on: source of the frame and its content."""
    address: IPv4Address | IPv6Address
    reply: bool = False
    """IPv4: reply form instead of request form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnounceSchedule:
    """When announcements are made again; counted from the opening of the gate."""

    repeats_ns: tuple[int, ...] = (
        2_000_000,
        5_000_000,
        20_000_000,
        100_000_000,
        1_000_000_000,
        5_000_000_000,
    )
    """Ascending, at most lib.TB_ANNOUNCE_REPEATS."""
    refresh_ns: int = 60_000_000_000
    """Period after the last repeat; 0 = none."""
    rate_per_second: int = 50_000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in the engine; the header says what `a` and `b` hold."""

    kind: EventKind
    cause: Cause
    link: int
    at_ns: int
    a: int
    b: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts by powers of two: `buckets[i]` counts values below 2^i microseconds (and not below
    2^(i-1)); the last one all that were longer.
    """

    buckets: tuple[int, ...]
    count: int
    sum_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCounters:
    """Of one link, since the engine was opened."""

    sent: dict[FrameType, int]
    errors: dict[int, int]
    """Failed sends by errno; those of a rare errno are under 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Of the engine since it was opened; every one only grows."""

    links: dict[int, LinkCounters]
    rounds: int
    late: int
    """Rounds that began later than `late_ns`."""
    events_lost: int
    """Events that found the ring full: Python was too slow to drain it."""
    events_held: int
    """Events that Python was not woken for, as too many came before them."""
    announcements_ipv4: int
    announcements_ipv6: int
    announcements_blocked: int
    """Not sent, as the gate was found shut."""
    announcements_refused: int
    """The kernel took none: dropped by the egress gate, or the interface was down."""
    control_sent: int
    control_errors: int
    peer_busy: int
    """Rounds that used the last snapshot of the peer, as XDP was writing the new one."""

    @property
    def announcements_sent(self) -> int:
        """Of both families."""
        return self.announcements_ipv4 + self.announcements_ipv6


@dataclass(frozen=True, slots=True, kw_only=True)
class GateWords:
    """The gate as it stands in the map."""

    term: int
    open_until_ns: int
    fence_below: int
    contested: int
    contested_ns: int
    counter: int
    open: bool
    """By the rule of the kernel, at the moment of reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerWords:
    """The newest frame of the peer, as XDP stored it."""

    epoch: int
    counter: int
    known: int
    """Highest counter ever accepted: what has to be persisted."""
    arrived_ns: int
    echo: int
    term: int
    claim: int
    fence_below: int
    highest: int
    lease_us: int
    flags: Flag
    pause_left_ns: int
    """With PAUSED: what was left of that when the frame was made, rounded up; 0 = it has no end."""
    type: int
    link: int
    role: int
    admin: int
    health: int
    key_id: int
    """Of the newest HELLO or PROBE, 0 = none yet."""
    keys: tuple[int, ...]
    """Ids of the keys that it accepts, 0 = none."""
    layouts: int
    dead_us: int
    lease_full_us: int
    hello_us: int
    verify_us: int
    generation: int
    digest: int
    two_way: bool
    proposal: Proposal = field(default_factory=Proposal)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkWords:
    """The kernel's stamps of one link, 0 = never."""

    number: int
    hello_ns: int
    answer_ns: int
    stranger_ns: int
    mismatch_ns: int
    foreign_ns: int
    accepted: int
    round_trip_ns: int
    cpu: int | None
    carrier: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWords:
    """What the engine itself knows, as of its last round."""

    phase: Phase
    watch: Watch
    term: int
    last_term: int
    highest: int
    claim: int
    """The term claimed right now, 0 = none."""
    heard_ns: int
    suspect_ns: int
    lease_until_ns: int
    order_generation: int
    window_probes: int
    window_restarts: int
    withheld: Cause
    """Why nothing is claimed though the peer is silent."""
    receipted: bool
    two_way: int
    link_silent: int
    hello_ns: int = 0
    dead_ns: int = 0
    """The intervals kept at this moment."""
    restart_known: bool = False
    """The peer has answered a frame that says that a restart is planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """How far the two nodes have counted (R13); epoch << 32 | number of frames."""

    own: int
    """The newest counter of this node."""
    peer: int
    """That of the peer's newest frame."""
    peer_epoch: int
    """Of the peer, as adopted; 0 = none was yet."""
    peer_known: int
    """The newest counter of the peer ever known, that of earlier boots included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything at one glance, for status and metrics."""

    at_ns: int
    engine: EngineWords
    gate: GateWords
    peer: PeerWords
    links: tuple[LinkWords, ...]
    control_ns: int
