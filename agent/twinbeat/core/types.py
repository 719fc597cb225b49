# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of the core: roles, facts, orders and what is remembered of a change of role.

Everything here is a value: frozen, comparable, printable. The numbers of the enumerations are those
of ``ebpf/tb_abi.h`` and ``csrc/engine.h``; a test compares them with the compiled module. This
module knows no clock, no socket and no file.

Times are integer nanoseconds of the node's boot-time clock and end in ``_ns``; those of the frame
are microseconds, as they travel, and end in ``_us``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

MILLISECOND = 1_000_000
SECOND = 1_000_000_000
FOREVER = 2**63 - 1
"""A moment that never comes."""


class Role(enum.IntEnum):
    """What a node is to the pair (``enum tb_role``)."""

    INIT = 0
    """Just started: it has not yet learnt who serves."""
    SECONDARY = 1
    """It watches the peer, ready to take over."""
    CLAIMING = 2
    """It has asked for a term and waits for the receipt or for the silence to be proven."""
    PRIMARY = 3
    """Its gate is open: it owns the shared addresses."""
    DISABLED = 4
    """It takes no part: told so by the operator."""


class Admin(enum.IntEnum):
    """What the operator told a node to do (``enum tb_admin``)."""

    ENABLED = 0
    STAY_PRIMARY = 1
    """Preferred: takes the role back while healthy."""
    STAY_SECONDARY = 2
    """Watches, but never claims."""
    DISABLED = 3
    """Takes no part and never claims."""

    @property
    def never_claims(self) -> bool:
        """True if no fault of the peer may make this node primary."""
        return self in (Admin.STAY_SECONDARY, Admin.DISABLED)


class Flag(enum.IntFlag):
    """Bits of a frame (``enum tb_flag``)."""

    OPEN = 1 << 0
    HEARS_YOU = 1 << 1
    YIELD = 1 << 2
    PAUSED = 1 << 3
    RESTART = 1 << 4
    ISOLATED = 1 << 5
    CONTESTED = 1 << 6
    FIT = 1 << 7
    STARTING = 1 << 8
    PREFERRED = 1 << 9
    CLAIMING = 1 << 10
    PAUSE_ACK = 1 << 11
    STRANDED = 1 << 12
    NEVER_CLAIMS = 1 << 13
    KNOWN = 1 << 14
    NEWBORN = 1 << 15
    PROPOSAL = 1 << 16
    REFUSES = 1 << 17
    EVEN_SO = 1 << 18
    NEGOTIATES = 1 << 19


class Permit(enum.IntFlag):
    """What a standing order allows the engine to do by itself (``enum tb_permit``)."""

    MAY_SERVE = 1 << 0
    MAY_CLAIM_DEAD = 1 << 1
    MAY_CLAIM_STALLED = 1 << 2
    MAY_CLAIM_IDLE = 1 << 3
    MAY_CLAIM_YIELD = 1 << 4
    MAY_CLAIM_COLD = 1 << 5
    CLAIM_NOW = 1 << 6
    YIELD = 1 << 7
    PREFERRED = 1 << 8
    PAUSED = 1 << 9
    RESUME = 1 << 10
    UNHEARD = 1 << 11
    """What may be claimed in silence may be only while nothing came after `Order.heard`."""

    CLAIMS = (
        MAY_CLAIM_DEAD
        | MAY_CLAIM_STALLED
        | MAY_CLAIM_IDLE
        | MAY_CLAIM_YIELD
        | MAY_CLAIM_COLD
        | CLAIM_NOW
    )
    """Every way to become primary."""


class Phase(enum.IntEnum):
    """What the engine is doing (``enum tb_phase``)."""

    LISTENING = 0
    CLAIMING = 1
    SERVING = 2


class Watch(enum.IntEnum):
    """What the engine holds of the peer's agent (``enum tb_watch``)."""

    ALIVE = 0
    SUSPECT = 1
    STALLED = 2
    DEAD = 3
    UNKNOWN = 4
    """Never heard since this agent started."""


class EngineEventKind(enum.IntEnum):
    """What the engine reports (``enum tb_event_kind``)."""

    HEARD = 1
    SUSPECT = 2
    CLEARED = 3
    STALLED = 4
    DEAD = 5
    WITHHELD = 6
    CLAIM = 7
    RECEIPT = 8
    OPENED = 9
    ANNOUNCED = 10
    ABANDONED = 11
    CLOSED = 12
    LINK_SILENT = 13
    LINK_HEARD = 14
    LATE = 15
    TERM_LOW = 16
    ORDER = 17
    COUNTER_JUMP = 18
    PEER_CHANGED = 19
    CONTESTED = 20
    REOPENED = 21


class Cause(enum.IntEnum):
    """Why the engine did it (``enum tb_cause``)."""

    NONE = 0
    # A claim was begun.
    DEAD = 1
    STALLED = 2
    IDLE = 3
    YIELDED = 4
    COLD = 5
    ORDERED = 6
    RENEW = 7
    DEAF = 8
    RESUMED = 9
    # The gate was opened by.
    RECEIPT = 10
    SILENCE = 11
    LEASE_RAN_OUT = 12
    # A reign ended.
    FENCED = 13
    EXPIRED = 14
    CONTEST_LOST = 15
    RESIGNED = 16
    STRANDED_ISOLATED = 17
    ORDER_VOID = 18
    GATE_LOST = 19
    # A claim was refused or abandoned.
    NO_RECEIPT = 20
    OVERTAKEN = 21
    BLOCK_SPENT = 22
    ISOLATED = 23
    NO_CONTROL = 24
    PEER_SERVES = 25
    NOT_PERMITTED = 26
    PEER_LEASE = 27
    MISMATCH = 28
    UNPROVEN = 29
    DESPITE_MISMATCH = 30
    # The witness granted it; neither peer nor witness gave their word.
    WITNESSED = 31
    NO_WITNESS = 32
    # Nobody has served yet, and the node that goes first is starting.
    PEER_STARTS = 33


NO_FLAGS: Final = Flag(0)
NO_PERMITS: Final = Permit(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """The intervals of the pair as the core needs them; the engine has its own copy."""

    hello_ns: int
    dead_ns: int
    verify_ns: int
    stall_ns: int
    lease_ns: int
    attest_ns: int
    """How long an attestation holds: Python alone may hang so long, plus one lease."""
    boot_wait_ns: int
    """How long a node that hears nobody waits after its start before it claims."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Those of the timers that may be changed while the pair runs, in the unit in which they
    travel."""

    hello_us: int
    dead_us: int
    verify_us: int
    stall_us: int
    lease_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Intervals that an operator set while the pair ran. The higher number counts, everywhere."""

    number: int = 0
    """Grows with each change; 0 = there never was one."""
    intervals: Intervals | None = None
    """None = those of each node's configuration."""
    even_so: bool = False
    """Though a host can't hold them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a frame says of intervals that are wanted, beside those that its sender keeps."""

    number: int
    intervals: Intervals | None
    even_so: bool = False
    refuses: bool = False
    """The sender doesn't keep the wish of that number."""
    late_us: int = 0
    """Because its host is so late; 0 = because the intervals contradict themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the core waits for others. Nobody configures it; the simulator shortens it."""

    operation_ns: int = SECOND // 2
    """For a planned change of role, beside what the timers make of it."""
    confirm_ns: int = 2 * SECOND
    """For the engine to confirm an order and the disk to take the state: then it is answered as
    unconfirmed."""
    abstain_ns: int = 5 * SECOND
    """For the peer to go first, after the role was given up by order."""
    stop_ns: int = SECOND // 5
    """For the engine to confirm the last order of a run."""
    announced_ns: int = 20 * MILLISECOND
    """For the announcement of a takeover: then it is recorded without."""
    agree_ns: int = 3 * SECOND
    """For the peer to take over other intervals, beside what they make of it."""
    resync_ns: int = 50 * MILLISECOND
    """For events of the engine that its state is already ahead of: then they count as lost."""
    retry_ns: int = SECOND
    """Before a disk that failed is asked again."""
    late_log_ns: int = 10 * SECOND
    """Between two lines about late wake-ups."""
    calm_ns: int = 2 * SECOND
    """Everything is settled anew so often at least, whatever a machine makes of its own calm."""


DEFAULT_PATIENCE: Final = Patience()


@dataclass(frozen=True, slots=True, kw_only=True)
class Damping:
    """How long better health has to hold before it counts. Worse health counts at once, always."""

    hold_ns: int = 2 * SECOND
    """After a failure; 0 = at once."""
    hold_max_ns: int = 60 * SECOND
    """It doubles with each relapse, up to this."""
    forget_ns: int = 60 * SECOND
    """Each such time without a failure undoes one doubling; 0 = none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipLimit:
    """How often the role may move for the sake of health."""

    flips: int = 0
    """0 = any number."""
    window_ns: int = 0
    """Within this time; 0 = since the last reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the configuration decides. Replaced whole by a reload."""

    node: int
    """Own index, 0 or 1; also the low bit of every own term."""
    name: str
    peer_name: str
    fail_safe: bool = True
    """Two unhealthy nodes still have one primary; a node yields only to a better one."""
    claim_alone: bool = False
    """A node that never heard its peer may claim."""
    preferred: bool = False
    """First-start tie-break in favour of this node, where nobody was told to stay primary."""
    preempt_hold_ns: int = 10 * SECOND
    """How long a node told to stay primary has to be fit before it takes the role back."""
    damping: Damping = field(default_factory=Damping)
    flip_limit: FlipLimit = field(default_factory=FlipLimit)
    wake_late_ns: int = 0
    """One wake-up in ten comes so late on this host or later; 0 = not measured, or accepted."""
    restart_lease_ns: int = 5 * SECOND
    """The lease of a planned restart."""
    fence_first: bool = False
    """A silent peer has to be fenced before the role is taken over from it."""
    terms_per_block: int = 1024
    """Numbers reserved on disk at a time; a claim uses two, since every other one is the peer's."""
    generation: int = 0
    """Of the shared configuration."""
    digest: int = 0
    """Of the shared configuration; differing digests refuse a planned switch-over."""
    witness_lease_ns: int = 0
    """How long a word of the witness is good for; 0 = there is no witness."""
    witness_serve: bool = False
    """While the witness is silent, go on as without one, instead of shutting and not claiming."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermBlock:
    """Terms reserved on disk before use: ``first`` to ``last``, both included."""

    first: int = 1
    last: int = 0

    def __contains__(self, term: int) -> bool:
        return self.first <= term <= self.last

    def left_above(self, highest: int) -> int:
        """How many numbers of the block lie above ``highest``."""
        return max(0, self.last - max(highest, self.first - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A standing order (``struct tb_order``): what the engine may do by itself. Replaced whole."""

    generation: int
    expires_ns: int
    """Void from then on; 0 = void."""
    attested_until_ns: int
    term_first: int
    term_last: int
    lease_ns: int = 0
    """0 = the timers' lease; longer during a planned restart."""
    permits: Permit = NO_PERMITS
    resign_of: int = 0
    """Generation (low 32 bits) of a demand to shut the gate at once; 0 = none."""
    heard: int = 0
    """Counter of the peer's newest frame when what the order rests on was found out: that its power
    was cut."""
    flags: Flag = NO_FLAGS
    role: Role = Role.INIT
    admin: Admin = Admin.ENABLED
    health: int = 0
    generation_shared: int = 0
    digest: int = 0
    pause_until_ns: int = 0
    """With `Flag.PAUSED`: when the pause ends; 0 = it has no end."""
    proposal: Proposal | None = None
    """Of other intervals."""
    proposal_every: int = 0
    """One heartbeat of so many carries it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """The newest accepted frame of the peer (``struct tb_peer``, copied whole)."""

    counter: int
    arrived_ns: int
    term: int = 0
    claim: int = 0
    fence_below: int = 0
    highest: int = 0
    lease_us: int = 0
    flags: Flag = NO_FLAGS
    answered: bool = False
    """Made by the peer's kernel: what its agent says in it is as of when that last ran."""
    pause_left_ns: int = 0
    """With `Flag.PAUSED`: what was left of the pause, rounded up; 0 = it has no end."""
    role: Role = Role.INIT
    admin: Admin = Admin.ENABLED
    health: int = 0
    dead_us: int = 0
    lease_full_us: int = 0
    hello_us: int = 0
    verify_us: int = 0
    generation: int = 0
    digest: int = 0
    two_way: bool = False
    proposal: Proposal | None = None
    """The newest one, whichever frame it came in."""

    @property
    def serves(self) -> bool:
        """The gate counts, never the role: a primary with a shut gate doesn't serve."""
        return bool(self.flags & Flag.OPEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    """A copy of what the engine holds; a level, so that a lost event can do no lasting harm."""

    phase: Phase
    watch: Watch
    term: int
    """Served or claimed; 0 = none."""
    highest: int
    """The highest term this node ever saw."""
    lease_until_ns: int = 0
    order_generation: int = 0
    """Generation of the newest order in effect."""
    hello_ns: int = 0
    dead_ns: int = 0
    """The intervals kept at this moment, while two nodes approach others."""
    restart_known: bool = False
    """The peer has answered a frame that says that a restart is planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When the steps of a change of role happened; 0 = that step did not take place."""

    last_heard_ns: int = 0
    suspicion_ns: int = 0
    verdict_ns: int = 0
    claim_ns: int = 0
    receipt_ns: int = 0
    gate_ns: int = 0
    """When the gate was opened, or shut."""
    announced_ns: int = 0

    def phases(self) -> dict[str, int]:
        """Durations between the steps that took place, by the names of the metric's label."""
        marks = (
            ("suspect", self.last_heard_ns, self.suspicion_ns),
            ("verify", self.suspicion_ns, self.verdict_ns),
            ("claim", self.verdict_ns or self.suspicion_ns, self.claim_ns),
            ("receipt", self.claim_ns, self.receipt_ns),
            ("gate", self.receipt_ns or self.claim_ns, self.gate_ns),
            ("announce", self.gate_ns, self.announced_ns),
            (
                "total",
                self.last_heard_ns or self.claim_ns,
                self.announced_ns or self.gate_ns,
            ),
        )
        return {name: end - start for name, start, end in marks if start and end >= start}


@dataclass(frozen=True, slots=True, kw_only=True)
class Durable:
    """What must survive a restart of the agent; saved whole."""

    admin: Admin = Admin.ENABLED
    last_primary: bool = False
    """This node served last: the only one that may claim while the pair is paused."""
    peer_known: bool = False
    """The peer was heard at least once under this state directory."""
    peer_paused_until_ns: int = 0
    """The peer said that it is paused for so long, and was not heard to say otherwise: a reboot of
    this node may not end a pause of the pair. As `paused_until_ns`."""
    peer_pause_over: bool = False
    """That pause ran out or was ended here while the peer was silent, and its agent said nothing
    since: its kernel may repeat the pause for ever, and so may it to the next run of this agent."""
    paused_until_ns: int = 0
    """0 = not paused, `FOREVER` = until resumed. Boot-time clock: after a reboot of the machine the
    runtime sets it to `FOREVER` or to what is left."""
    pause_reason: str = ""
    """In the operator's words."""
    pause_since_ns: int = 0
    """0 = not paused, or since before this boot."""
    wish: Wish = field(default_factory=Wish)
    """The intervals that an operator set while the pair ran."""

    @property
    def peer_paused(self) -> bool:
        """The peer is paused, for however long."""
        return self.peer_paused_until_ns > 0


class NodeState(enum.Enum):
    """What a node is fit for, in one word; the reference's words for it."""

    INIT = "init"
    """Just started; the core's own."""
    UP = "up"
    """Can be primary or secondary."""
    PARTIAL_FAIL = "partial_fail"
    """A monitored interface or link set failed, or another check that is no route's."""
    COMPLETE_FAIL = "complete_fail"
    """Every interface failed."""
    ROUTE_MONITOR_FAIL = "route_monitor_fail"
    """A route monitor failed, and no interface."""
    DISABLED = "disabled"
    """Told to take no part; the core's own."""


SCORE_MAX: Final = 1000
"""Every check holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedHealth:
    """What the monitors say, condensed."""

    score: int = SCORE_MAX
    """0 to SCORE_MAX; higher is better; compared before anyone yields. 0 = not UP."""
    failed: tuple[str, ...] = field(default=())
    """Names of the checks whose failure leaves the node not UP; empty while it is UP."""
    lowering: tuple[str, ...] = field(default=())
    """Names of failing checks that lower the score of a node that is UP all the same."""
    state: NodeState = NodeState.UP
    """Never INIT or DISABLED: those are for the core to say."""

    @property
    def up(self) -> bool:
        """True if the node could serve, as far as the monitors go."""
        return not self.failed
