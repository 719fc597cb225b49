# SPDX-License-Identifier: Apache-2.0
"""What the agent says about itself and what it can be told: the one schema of Twinbeat.

The command line, the interface on the socket and the metrics all read the same `Status` and the
same `Counters`, so they cannot disagree. This module knows names, types and units. It must not know
how anything is found out or carried out: it imports msgspec and the standard library, nothing of
ours.

Times. Every `*_ns` that names a moment is CLOCK_BOOTTIME of this node, the clock of the kernel's
stamps; moment + `realtime_offset_ns` is the wall clock in nanoseconds since 1970. Every `*_ns` that
names a length (`age`, `left`, `durations`, `round_trip`) is a length. `None` means: never, or not
known. Times for people are ISO 8601 with a zone.

Compatibility. `schema` grows only when a field changes its meaning or goes away. Readers ignore
fields they do not know, so adding one is no change.
"""

import enum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

SCHEMA: Final = 1
"""Version of everything below, in every answer as `schema`."""

SOCKET: Final = "/run/twinbeat/control.sock"
"""Where the agent listens."""

HISTOGRAM_BUCKETS: Final = 32
"""Bucket i counts lengths below 2^i microseconds that no earlier bucket counts (TB_BUCKETS)."""

LISTED_VIPS: Final = 64
"""A status names at most so many addresses of a VRID; `vips_total` counts them all."""

LISTED_PROBLEMS: Final = 64
"""A status names at most so many routes that aren't as they should be."""

SHOWN_OUTPUT: Final = 1024
"""Characters of a hook's output in a status; the log has more of it."""


class Role(enum.StrEnum):
    """What a node is in the pair."""

    INIT = "init"
    SECONDARY = "secondary"
    CLAIMING = "claiming"
    PRIMARY = "primary"
    DISABLED = "disabled"


class Admin(enum.StrEnum):
    """What the operator wants of a node."""

    ENABLED = "enabled"
    STAY_PRIMARY = "stay-primary"
    STAY_SECONDARY = "stay-secondary"
    DISABLED = "disabled"


class Watch(enum.StrEnum):
    """What is known of the peer's agent."""

    UNKNOWN = "unknown"  # never heard
    ALIVE = "alive"
    SUSPECT = "suspect"
    STALLED = "stalled"  # its kernel answers, its agent is silent
    DEAD = "dead"


class NodeState(enum.StrEnum):
    """What a node is fit for, in one word."""

    INIT = "init"
    UP = "up"
    PARTIAL_FAIL = "partial_fail"  # an interface, a link set, or a check that is no route's
    COMPLETE_FAIL = "complete_fail"  # every interface
    ROUTE_MONITOR_FAIL = "route_monitor_fail"
    DISABLED = "disabled"


class Severity(enum.StrEnum):
    """How much a warning matters."""

    NOTICE = "notice"
    """What the configuration brings with it for good: nothing is wrong."""
    WARNING = "warning"
    CRITICAL = "critical"


# ------------------------------------------------------------------------------- reasons ---------


class Reason(Struct, frozen=True, kw_only=True):
    """Why: a code for machines (bounded vocabulary, a metric label) and a sentence for people."""

    code: str
    sentence: str


class Warn(Struct, frozen=True, kw_only=True):
    """A standing condition that somebody should know of."""

    code: str
    sentence: str
    severity: Severity = Severity.WARNING


class Refusal(Struct, frozen=True, kw_only=True, tag="refusal", tag_field="kind"):
    """A command was not carried out, and nothing has changed."""

    code: str
    sentence: str
    override: str | None = None
    """Option of the command that would carry it out all the same, if there is one."""


class OutcomeState(enum.StrEnum):
    """How far a command came."""

    DONE = "done"
    ACCEPTED = "accepted"
    """Under way: `status` and the event stream tell how it ends."""
    FAILED = "failed"
    """It was tried; the sentence says what is the case now."""


class Outcome(Struct, frozen=True, kw_only=True, tag="outcome", tag_field="kind"):
    """A command was carried out, is under way, or was tried in vain."""

    operation: str
    """The request's `request_id`: the same request again gets the same answer."""
    state: OutcomeState
    code: str
    sentence: str
    term: int | None = None


POLICY_REFUSALS: Final = frozenset(
    {
        "both_stay_primary",
        "digest_differs",
        "host_late",
        "not_permitted",
        "paused",
        "peer_contradicts",
        "peer_late",
        "peer_never_claims",
        "peer_paused",
        "peer_stays_primary",
        "peer_unfit",
        "self_unfit",
        "stay_primary",
        "stay_secondary",
        "timers_contradict",
        "unhealthy",
    }
)
"""Refusals by a rule that somebody set, or by unfitness; the others are the state of the moment."""


# -------------------------------------------------------------------------------- status ---------


class Component(Struct, frozen=True, kw_only=True):
    """One tracked check of this node's health."""

    name: str
    healthy: bool
    sentence: str = ""


class FlipsReset(enum.Enum):
    """What is still to come before flips are counted anew."""

    RECOVERY = "recovery"
    """Every check of both nodes has to hold, and then one to fail."""
    NEXT_FAILURE = "next-failure"
    """All has held: one has to fail."""


class Node(Struct, frozen=True, kw_only=True):
    """This node."""

    name: str
    index: int
    role: Role
    role_since_ns: int
    role_since: str
    reason: Reason | None = None
    """Why it has this role."""
    admin: Admin
    health: int
    """Score, higher is better; compared with the peer's before anyone yields."""
    health_seen: int | None = None
    """What the monitors say now, where it is better than what counts: recovery has to hold."""
    health_counts_in_ns: int | None = None
    """When that is to count."""
    relapses: int = 0
    """How many failures lengthen that wait."""
    flips: int = 0
    """How often the role moved for the sake of health since the last reset."""
    flips_since_ns: int | None = None
    """When the first of them was."""
    flips_window_left_ns: int | None = None
    """After which the first of them counts no more; null = time doesn't end it: there is none, no
    window is configured, or the limit is reached."""
    flips_reset: FlipsReset | None = None
    """What is still to come before a new count begins. null = there is nothing to forget."""
    sticky: bool = False
    """It moved as often as it may: this node stays primary, whatever its health."""
    conflict: str = ""
    """Both nodes were told to stay primary: the one that goes first; empty = they weren't."""
    fit: bool
    """Healthy, enabled, with its gate in place: it could serve."""
    unfit: list[Reason] = []
    """Why it isn't fit, all reasons."""
    components: list[Component] = []
    state: NodeState = NodeState.INIT
    """What its monitors make of it; it may be unfit for other reasons while UP."""
    term: int = 0
    """The term served or claimed, 0 = none."""
    term_highest: int = 0
    """The highest term ever seen."""
    terms_left: int | None = None
    """Terms left in the block reserved on disk."""
    starting: bool = False
    """Has not yet listened long enough to decide anything."""
    isolated: bool = False


class Gate(Struct, frozen=True, kw_only=True):
    """The gate in the kernel, read from its map."""

    attached: bool
    """Both programs are in place on every port that has virtual addresses."""
    open: bool
    term: int = 0
    open_until_ns: int = 0
    left_ns: int = 0
    """What is left of the lease."""
    fence_below: int = 0
    contested: bool = False
    """Shut because another open gate was heard."""
    attested_left_ns: int = 0
    """What is left of the attestation that the deciding loop renews."""


class Peer(Struct, frozen=True, kw_only=True):
    """The other node, as its newest accepted frame says."""

    name: str
    watch: Watch
    role: Role | None = None
    """As last heard; None = never heard."""
    admin: Admin | None = None
    heard_ns: int | None = None
    age_ns: int | None = None
    """Since its agent was last heard on any link."""
    health: int | None = None
    fit: bool = False
    starting: bool = False
    gate_open: bool = False
    term: int = 0
    hears_us: bool = False
    flags: list[str] = []
    """Names of the flags in its newest frame, lower case (`enum tb_flag`)."""
    round_trip_ns: int | None = None
    lease_left_ns: int | None = None
    generation: int | None = None
    digest: int | None = None
    send_key: int | None = None
    """Id of the key that its agent sends under; None = not heard yet."""
    keys: list[int] = []
    """Ids of the keys that it accepts."""
    mismatch: bool = False
    """Frames from it are refused for their key or version: a state of its own, not death."""
    paused: bool = False
    """It was paused, and this node heeds that: it outlasts the silence of the peer."""
    paused_until_ns: int | None = None
    """So long at most, a sixteenth late perhaps; None = not paused, or it told no end."""
    pause_expires: str | None = None


class LinkQuality(Struct, frozen=True, kw_only=True):
    """What was measured of a link."""

    alarm: bool = False
    """Silent for seconds though the peer is heard: somebody should look."""
    silent_ns: int | None = None
    """For how long it has been silent, as far as this agent knows."""
    loss_ratio: float | None = None
    """Of the heartbeats that the peer sent on it in the last ten seconds the part that never came,
    from gaps in their sequence."""
    gap_p50_ns: int | None = None
    """Time between two heartbeats, percentiles since the map was made. From a histogram by powers
    of two, interpolated: good for its order of magnitude."""
    gap_p99_ns: int | None = None
    gap_p999_ns: int | None = None


class Link(Struct, frozen=True, kw_only=True):
    """One link."""

    name: str
    interface: str
    index: int
    vlan: int = 0
    mode: str = "ethernet"
    direct: bool = False
    local: str = ""
    peer: str = ""
    heartbeat: bool = True
    """False: switched off in the configuration; nothing is sent and nothing expected."""
    state: str = ""
    """up | silent | never-heard | no-carrier | off"""
    carrier: bool = False
    up: bool = False
    """Carrier, and the peer was heard on it within the dead interval."""
    two_way: bool = False
    """The peer once answered a probe on it: both directions are proven."""
    heard_ns: int | None = None
    """When the newest heartbeat on it was accepted."""
    age_ns: int | None = None
    """Since then."""
    quality: LinkQuality = LinkQuality()
    round_trip_ns: int | None = None
    xdp: str = ""
    """native | generic | none"""


class Vrid(Struct, frozen=True, kw_only=True):
    """One set of virtual addresses with its virtual MAC."""

    id: int
    interface: str
    vmac: str | None = None
    """The IPv4 virtual MAC; None = addresses are answered from the port's own."""
    inject: bool = False
    """Reached through routers: the addresses are on lo, and host routes tell the routing daemon."""
    uplinks: list[str] = []
    """With `inject`: further interfaces over which their traffic may arrive."""
    state: str = "absent"
    """serving (gate open) | ready (in place behind a closed gate) | absent"""
    carrier: bool = False
    vips_total: int = 0
    vips: list[str] = []
    """The first LISTED_VIPS of them."""
    xdp: str = ""


class Rival(Struct, frozen=True, kw_only=True):
    """Somebody else who uses one of our addresses, or the number of one of our virtual MACs."""

    kind: str
    """address | vrrp"""
    interface: str
    what: str
    """The address, or VRID and its number."""
    who: str
    """MAC of who speaks for the address; source address of who speaks VRRP."""
    since: str
    age_ns: int
    """Since it was heard last."""
    frames: int
    sentence: str


class Neighbours(Struct, frozen=True, kw_only=True):
    """Whom a new primary would talk to at once through one port."""

    interface: str
    kept: int
    """How many are kept known, the role notwithstanding."""
    warm: int
    """Of them: with a MAC in the kernel's table. The others are being asked for, or are silent."""


class RouteProblem(Struct, frozen=True, kw_only=True):
    """A route or rule of the role that isn't as it should be."""

    trouble: str
    """conflict (somebody else's is there) | failed | not_restored (what was there before)"""
    what: str
    why: str


class Routes(Struct, frozen=True, kw_only=True):
    """Routes and rules that come and go with the role; a secondary wants none."""

    wanted: int = 0
    standing: int = 0
    """Of these, in the kernel."""
    kept: int = 0
    """Of these, somebody else's that does the same."""
    replaced: int = 0
    """Routes of others whose place ours have taken, and which will be put back."""
    injected: int = 0
    """Of those wanted: host routes for the routing daemon."""
    inject_table: int | None = None
    """Where these are put; None = no address is injected."""
    rules_wanted: int = 0
    rules_standing: int = 0
    rules_kept: int = 0
    problems_total: int = 0
    troubles: dict[str, int] = {}
    """All of them by their kind."""
    problems: list[RouteProblem] = []
    """The first LISTED_PROBLEMS of them."""
    settled_in_ns: int | None = None
    """How long it took the last time to compare and change all of them."""


class Hook(Struct, frozen=True, kw_only=True):
    """A program of the operator that is told what happened."""

    name: str
    exec: str
    events: list[str]
    running: str | None = None
    """The event that it is being told at the moment."""
    waiting: list[str] = []
    runs: int = 0
    outcomes: dict[str, int] = {}
    """ok | failed (another exit code than 0) | timeout | refused (could not be started)"""
    skipped: int = 0
    """News that newer ones overtook before the hook was free."""
    last_event: str | None = None
    last_exit_code: int | None = None
    """Negative: the signal that ended it."""
    last_good: bool | None = None
    last_sentence: str = ""
    last_length_ns: int | None = None
    last_output: str = ""
    """The first SHOWN_OUTPUT characters."""


class Monitor(Struct, frozen=True, kw_only=True):
    """Something that has to hold for this node to be fit, as it stands."""

    name: str
    kind: str
    """interface | linkset | route | address | process | script"""
    state: str
    """up | failed | pending (not known yet, or excused by its start delay) | idle (not for this
    role)"""
    since_ns: int
    since: str
    target: str = ""
    """What is watched, for people."""
    reason: str = ""
    """What the newest look found."""
    weight: int = 0
    """What its failure takes from the score; 0 = it is only shown, or the set counts."""
    linkset: str = ""
    """The set it is a member of."""
    looked_ns: int | None = None
    """When the newest look ended."""
    took_ns: int = 0
    """How long that took."""
    output: str = ""
    """What a script printed, shortened."""


class Timers(Struct, frozen=True, kw_only=True):
    """The timers in force."""

    profile: str
    hello_us: int
    dead_us: int
    verify_us: int
    stall_us: int
    lease_us: int
    attest_ms: int
    boot_wait_ms: int
    kept_hello_us: int | None = None
    """Kept at this moment: while two nodes approach other intervals it may be shorter than
    `hello_us`, and longer than `dead_us`."""
    kept_dead_us: int | None = None
    override: int | None = None
    """Number of the change by which an operator set them while the pair ran; None = they are the
    configuration's."""
    even_so: bool = False
    """It was made though a host can't hold them."""
    refused: Reason | None = None
    """Why the peer doesn't keep what was set."""
    raised: list[Reason] = []
    """Timers this host can't hold as configured, and what they were raised to."""


class Policy(Struct, frozen=True, kw_only=True):
    """What is allowed when: `[policy]` as in force."""

    fail_safe: bool
    strict: bool
    stall: str
    claim_alone: bool
    preferred: bool
    preempt_hold_s: int
    recovery_hold_ms: int = 0
    recovery_hold_max_s: int = 0
    recovery_forget_s: int = 0
    max_flips: int = 0
    flip_window_s: int = 0


class Pause(Struct, frozen=True, kw_only=True):
    """Maintenance: nobody claims, renewal goes on."""

    reason: str
    since_ns: int
    """0 = since before this boot."""
    until_ns: int | None = None
    expires: str | None = None
    both: bool = False
    """The peer has acknowledged it; otherwise it is one-sided."""


class Waiting(Struct, frozen=True, kw_only=True):
    """What this node is waiting for before it may act, counted down."""

    code: str
    """boot_wait | listen | hold_down | backoff | peer_lease"""
    sentence: str
    until_ns: int
    left_ns: int


class Configuration(Struct, frozen=True, kw_only=True):
    """Where the configuration in force came from."""

    path: str
    loaded: str
    generation: int = 0
    digest: int = 0
    mismatch: bool = False
    """The peer's shared configuration differs."""
    needs_restart: list[str] = []
    """Keys changed by a reload that only a restart puts into force."""
    document: bool = False
    """A shared document is in force, not what the file says of shared tables."""
    ignored: list[str] = []
    """What the file says otherwise than the document."""
    send_key: int = 0
    """Id of the key that heartbeats are sealed with."""
    keys: list[int] = []
    """Ids of the keys that are accepted."""


class Watchdog(Struct, frozen=True, kw_only=True):
    """The host's watchdog."""

    mode: str
    """off | auto | required"""
    device: str
    armed: bool = False
    """It runs, and the deciding loop pings it."""
    resting: bool = False
    """Stopped for as long as the pair is paused."""
    identity: str = ""
    """What its driver calls itself."""
    timeout_s: int = 0
    """Without a ping for so long it resets the machine; 0 = the driver doesn't say."""
    nowayout: bool | None = None
    """Once armed it never stops; None = the driver doesn't say."""
    sentence: str = ""
    """What is wrong with it."""


class Fencing(Struct, frozen=True, kw_only=True):
    """One run of the fence agent, ended."""

    action: str
    """off | reboot | status | monitor"""
    outcome: str
    """succeeded | failed | timed_out | not_run"""
    sentence: str
    time: str
    at_ns: int
    duration_ns: int
    exit_code: int | None = None
    """None = it did not end by itself."""


class Fence(Struct, frozen=True, kw_only=True):
    """Power fencing of the peer."""

    agent: str = ""
    """The program; empty = none is configured."""
    action: str = "off"
    policy: str = "after"
    running: str = ""
    """The action under way, with how many times it was begun for this death in `attempts`."""
    attempts: int = 0
    fenced: bool = False
    """The peer was fenced, and hasn't been heard since."""
    last: Fencing | None = None
    """The newest attempt to fence."""
    check: Fencing | None = None
    """The newest check of whether it could."""


class Witness(Struct, frozen=True, kw_only=True):
    """The third party that decides between nodes that don't hear each other."""

    kind: str
    endpoints: list[str]
    without: str
    """stay | serve: what happens while it is silent."""
    lease_ns: int
    """How long its word is good for."""
    up: bool = False
    """The newest question was answered."""
    answered_ns: int | None = None
    """When the newest answer had arrived; None = never."""
    confirmed_age_ns: int | None = None
    """Since the newest confirmation of the own term was asked for; None = there is none."""
    kept_term: int = 0
    """The highest term kept there, as far as known."""
    keeps_peer: bool = False
    """It says that the peer serves, which this node doesn't hear."""
    opens_in_ns: int | None = None
    """A claim was granted and waits for older words to run out."""
    absent: bool = False
    """It is silent, and the node goes on as if there were none."""
    sentence: str = ""
    """Why there was no answer."""


class Isolation(Struct, frozen=True, kw_only=True):
    """Whether this node is itself cut off from the network, by its reference addresses."""

    references: list[str]
    isolated: bool = False
    answering: str = ""
    """Who answered last."""


class Process(Struct, frozen=True, kw_only=True):
    """The agent's processes."""

    version: str
    pid: int
    started: str
    started_ns: int
    worker: bool = False
    """twinbeat-worker answers."""
    rss_bytes: int = 0
    realtime: bool = False
    """The engine's thread runs under SCHED_FIFO."""
    python: str = ""
    bpf: str = ""
    """Hash of source and layout of the loaded programs."""
    commit: str = ""


class Timeline(Struct, frozen=True, kw_only=True):
    """The moments of a transition, CLOCK_BOOTTIME ns, in the order they normally come."""

    last_heard_ns: int | None = None
    suspect_ns: int | None = None
    verdict_ns: int | None = None
    claim_ns: int | None = None
    receipt_ns: int | None = None
    gate_ns: int | None = None
    """The gate opened (or shut, when the role is given up)."""
    announced_ns: int | None = None
    """The first announcement was handed to the driver."""
    routes_ns: int | None = None
    """Routes and rules were in place: the slow path is done."""


PHASES: Final[tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]] = (
    ("suspect", ("last_heard_ns",), ("suspect_ns",)),
    ("verify", ("suspect_ns",), ("verdict_ns",)),
    ("claim", ("verdict_ns", "suspect_ns"), ("claim_ns",)),
    ("receipt", ("claim_ns",), ("receipt_ns",)),
    ("gate", ("receipt_ns", "claim_ns"), ("gate_ns",)),
    ("announce", ("gate_ns",), ("announced_ns",)),
    ("routes", ("announced_ns", "gate_ns"), ("routes_ns",)),
    ("total", ("last_heard_ns", "claim_ns"), ("announced_ns", "gate_ns")),
)
"""Phases of a takeover: each from the first moment known of the one to that of the other. The names
are the labels of the failover histogram; `total` leaves out the routes, for which nobody waits."""


class Transition(Struct, frozen=True, kw_only=True):
    """One change of role."""

    number: int
    """Grows by one with each transition this node ever recorded."""
    time: str
    at_ns: int
    realtime_offset_ns: int
    """Wall clock minus boot clock when it happened: aligns the timeline with an outside capture."""
    boot: str
    """Boot id: nanoseconds of different boots don't compare."""
    from_role: Role
    to_role: Role
    reason: str
    """Code of the core's registry of reasons: peer_dead, peer_yielded, ordered, fenced, …"""
    sentence: str
    term: int
    timeline: Timeline = Timeline()
    durations_ns: dict[str, int] = {}
    """By phase (PHASES); filled by `with_durations`."""
    realtime_ns: dict[str, int] = {}
    """The timeline on the wall clock, nanoseconds since 1970, by the names of its moments without
    `_ns`; filled by `with_durations`."""


def durations(timeline: Timeline) -> dict[str, int]:
    """Length of each phase whose moments are known and in order."""
    found: dict[str, int] = {}
    for phase, begins, ends in PHASES:
        start = _first(timeline, begins)
        stop = _first(timeline, ends)
        if start is not None and stop is not None and stop >= start:
            found[phase] = stop - start
    return found


def _first(timeline: Timeline, names: tuple[str, ...]) -> int | None:
    moments = (getattr(timeline, name) for name in names)
    return next((moment for moment in moments if moment is not None), None)


def with_durations(transition: Transition) -> Transition:
    """The same transition with what follows from its timeline: phases, wall-clock moments."""
    timeline = transition.timeline
    moments = {name: getattr(timeline, name) for name in Timeline.__struct_fields__}
    return msgspec.structs.replace(
        transition,
        durations_ns=durations(timeline),
        realtime_ns={
            name.removesuffix("_ns"): moment + transition.realtime_offset_ns
            for name, moment in moments.items()
            if moment is not None
        },
    )


class SyncFailure(Struct, frozen=True, kw_only=True):
    """An item of the shared configuration that could not be carried out, or waits for a restart."""

    where: str
    right: str


class SyncFiles(Struct, frozen=True, kw_only=True):
    """A list of files that are kept alike, in brief: `twinbeat show files` has the rest."""

    name: str
    state: str
    """same; waiting, working; partly, unreadable: something is in the way."""
    sentence: str = ""
    entries: int = 0
    bytes: int = 0
    failed: int = 0
    """Items that can't be kept alike."""
    conflicts: int = 0
    """Paths that both nodes had changed, since the worker started; of the primary."""


class WeblogSource(Struct, frozen=True, kw_only=True):
    """A log source, in brief."""

    name: str
    records: int
    """Collected since the worker started."""
    behind: int = 0
    """Bytes of its file that are not taken yet."""
    why: str = ""
    """Why nothing can be collected: a sentence."""


class WeblogClient(Struct, frozen=True, kw_only=True):
    """A log client that is allowed, in brief."""

    name: str
    connected: bool = False
    lag: int = 0
    """Records on this node that it has not acknowledged."""


class WeblogStream(Struct, frozen=True, kw_only=True):
    """The newest epoch of a node's records, as far as this node has them."""

    node: str
    epoch: int
    oldest: int
    received: int
    durable: int
    replicated: int


class Weblog(Struct, frozen=True, kw_only=True):
    """Log records, in brief: `twinbeat show weblog` has the rest."""

    state: str
    """collecting; refusing: the journal takes nothing; failed: it can't be used."""
    why: str = ""
    listening: bool = False
    """Log clients can reach it."""
    pulling: bool = False
    """The peer's records are being replicated."""
    waiting: int = 0
    """Own records that are on this node only."""
    size: int = 0
    """Bytes of all journals."""
    size_max: int = 0
    """Bytes that each may have."""
    streams: list[WeblogStream] = []
    sources: list[WeblogSource] = []
    clients: list[WeblogClient] = []


class Sync(Struct, frozen=True, kw_only=True):
    """How the worker keeps the shared configuration the same on both nodes."""

    state: str
    """enabled (this node's document rules), success, in-progress, partial-success, failed,
    disabled, lineage-conflict, unreachable, idle (there is no document); away = no worker."""
    sentence: str
    in_step: bool = False
    """Both nodes have the same document, and it is in force on both."""
    connection: str = ""
    """unpaired, away or connected."""
    why: str = ""
    """Why it isn't connected."""
    generation: int = 0
    """Of the document that the worker keeps."""
    peer_generation: int = 0
    waiting: int = 0
    """Requests that wait."""
    arriving: list[int] = []
    """Bytes of the peer's document that have come, and that there will be."""
    failures: list[SyncFailure] = []
    own_ends_s: int = 0
    """Unix time at which this node's certificate is over; 0 = it has none."""
    peer_ends_s: int = 0
    synced_s: int = 0
    """Unix time at which both nodes came to have this document in force; 0 = they never did."""
    files: list[SyncFiles] = []
    """Of many lists first those that aren't alike."""
    weblog: Weblog | None = None
    """None: no log source and no log client is configured."""


class Connections(Struct, frozen=True, kw_only=True):
    """How the state of connections is kept on both nodes."""

    state: str
    """off, alone, starting, unheard, filling, synced, failed; see connections.md."""
    sentence: str = ""
    flows: int | None = None
    """Connections in the kernel's table of this node."""
    flows_max: int | None = None
    """What that table has room for."""
    tracked: int = 0
    """Connections of which this node tells the other."""
    unconfirmed: int = 0
    """What was told and isn't confirmed yet, in messages: the lag."""
    heard_ns: int | None = None
    """Since the peer's conntrackd was heard last; None = never in this run."""
    filled_ns: int | None = None
    """How long it took to take over all of the primary's the last time."""
    synced_s: int = 0
    """Unix time at which both nodes came to know the connections; 0 = never."""
    strays_dropped: bool = False
    """Packets to VIPs and to be forwarded that belong to no known connection are dropped."""
    strays_error: str = ""
    """Why the table of nftables isn't as it should be."""
    counts: dict[str, int] = {}
    """What only grows, since the worker started."""


class Status(Struct, frozen=True, kw_only=True):
    """All there is to say about a node at one moment."""

    schema: int = SCHEMA
    sentence: str = ""
    """The whole state in one line; filled by `twinbeat.observe.status.finish`."""
    time: str
    now_ns: int
    realtime_offset_ns: int
    boot: str = ""
    """Boot id: what happened under another one is not on this clock."""
    pair: int
    node: Node
    gate: Gate
    peer: Peer
    links: list[Link]
    vrids: list[Vrid]
    neighbours: list[Neighbours] = []
    rivals: list[Rival] = []
    monitors: list[Monitor] = []
    routes: Routes = Routes()
    hooks: list[Hook] = []
    timers: Timers
    policy: Policy | None = None
    configuration: Configuration
    process: Process
    waiting: Waiting | None = None
    pause: Pause | None = None
    watchdog: Watchdog | None = None
    fence: Fence = Fence()
    witness: Witness | None = None
    isolation: Isolation | None = None
    sync: Sync | None = None
    connections: Connections | None = None
    """None: no worker tells."""
    warnings: list[Warn] = []
    last_transition: Transition | None = None
    last_failover: Transition | None = None
    """The newest transition to primary on this node, or away from it to the peer. The first reign
    of a pair is none, nor is one that goes on after a restart (resumed) or under a newer term."""


# ------------------------------------------------------------------------------ counters ---------


REFUSED: Final = (
    "length",
    "malformed",
    "version",
    "pair",
    "ttl",
    "own",
    "key",
    "auth",
    "replay",
    "stranger",
    "window",
    "link",
    "bad_link",
    "bad_cpu",
)
"""Verdicts of the kernel that refuse a heartbeat, by their names in `reasons`."""


class Histogram(Struct, frozen=True, kw_only=True):
    """Lengths by powers of two of a microsecond."""

    counts: list[int]
    """HISTOGRAM_BUCKETS numbers, each bucket on its own (not cumulative)."""
    sum_ns: int | None = None
    """None = not kept; readers estimate it from the buckets."""


class PersistenceRule(Struct, frozen=True, kw_only=True):
    """A persistence rule, in brief: `twinbeat show sessions` has the rest."""

    name: str
    entries: int
    limit: int
    counts: dict[str, int] = {}
    """created, refreshed, moved, expired, deleted, evicted, stale, dropped"""


class PersistenceServer(Struct, frozen=True, kw_only=True):
    """A server of a pool."""

    pool: str
    address: str
    state: str
    """up, down or disabled"""
    entries: int = 0


class Replication(Struct, frozen=True, kw_only=True):
    """How entries get to the other node."""

    state: str
    """alone, follows, filling, in-step, behind"""
    outstanding: int = 0
    waiting: int = 0
    counts: dict[str, int] = {}


class Sessions(Struct, frozen=True, kw_only=True):
    """Persistence, as this node's worker told it last."""

    why: str
    """Why the kernel's table isn't as the rules want it; empty: it is."""
    rules: list[PersistenceRule]
    servers: list[PersistenceServer]
    replication: Replication
    counts: dict[str, int]
    window: Histogram
    """From an entry's making until it was in the other node's kernel."""


class LinkCounters(Struct, frozen=True, kw_only=True):
    """What went over one link since the agent (sent) or the map (received) began."""

    name: str
    sent: int = 0
    received: int = 0
    lost: int = 0
    """Sent by the peer and never seen here, from gaps in the sequence."""
    alarms: int = 0
    """How often it was silent for seconds though the peer was heard."""
    send_errors: dict[str, int] = {}
    """Heartbeats that the kernel didn't take, by errno (ENETDOWN); rare ones are `other`."""
    reasons: dict[str, int] = {}
    """The kernel's verdicts on the heartbeats of this link."""
    gaps: Histogram | None = None
    """Time between two heartbeats."""


class RivalCount(Struct, frozen=True, kw_only=True):
    """Frames of rivals heard on one port."""

    interface: str
    kind: str
    frames: int


class TransitionCount(Struct, frozen=True, kw_only=True):
    """How often a role changed for one reason."""

    from_role: Role
    to_role: Role
    reason: str
    count: int


class MonitorCounters(Struct, frozen=True, kw_only=True):
    """What one monitor counted."""

    name: str
    kind: str
    looks: int = 0
    failures: int = 0
    """Looks that found a failure, whatever came of it; of a link set how often it failed."""
    timeouts: int = 0
    """Of these: no answer in time, or a script that hung."""


class Counters(Struct, frozen=True, kw_only=True):
    """Everything that only grows. Read when asked for, never on the fast path."""

    schema: int = SCHEMA
    time: str
    now_ns: int
    reasons: dict[str, int]
    """The kernel's verdicts by reason, on all links and on none: names of `enum tb_reason`, lower
    case without the prefix."""
    links: list[LinkCounters]
    suspicions: dict[str, int] = {}
    """By outcome: cleared (the agent spoke), stalled, dead, withheld."""
    announcements: dict[str, int] = {}
    """Sent, by family: ipv4, ipv6."""
    announcements_unsent: dict[str, int] = {}
    """blocked: passes cut short, as the gate was found shut; refused: frames that the kernel didn't
    take, as its gate was shut or the interface down."""
    control_frames: dict[str, int] = {}
    """On ports that carry addresses: sent, failed."""
    peer_busy: int = 0
    """Rounds that went by the last snapshot of the peer, as the kernel was writing the new one."""
    transitions: list[TransitionCount] = []
    claims_refused: dict[str, int] = {}
    """Claims refused or abandoned, by reason code."""
    effect_failures: dict[str, int] = {}
    """Effects that failed, by kind."""
    route_changes: dict[str, int] = {}
    """Of routes and rules of the role: added, removed, restored (others', put back), repaired."""
    dual_primary: int = 0
    """How often another open gate was heard while ours was open."""
    rivals: list[RivalCount] = []
    """Only those that were heard."""
    neighbours: dict[str, int] = {}
    """What became of neighbours: learned, given_up (nobody answers), turned_away (no room)."""
    monitors: list[MonitorCounters] = []
    fencings: dict[str, int] = {}
    """Attempts to fence the peer, by outcome: succeeded, failed, timed_out, not_run."""
    watchdog: dict[str, int] = {}
    """pings, and failures: pings that the device refused."""
    witness: dict[str, int] = {}
    """Requests to the witness, by result: granted, denied, looked, unanswered, refused, nonsense;
    empty where none is configured."""
    sync_requests: dict[str, int] = {}
    """Requests to change the shared configuration that were made here, by how they ended."""
    sync_connection: dict[str, int] = {}
    """What the connection of the workers counted, by `what which`."""
    sync_phases: dict[str, Histogram] = {}
    """How long changes waited here for what: check, journal, peer, apply, run, commit; and all."""
    sync_failures: dict[str, int] = {}
    """Times that the store or the agent refused what the worker had to do, by who it was."""
    sync_files: dict[str, int] = {}
    """What happened to the lists of files, since the worker started."""
    weblog: dict[str, int] = {}
    """What happened to log records, since the worker started, by `what which`."""
    weblog_replication: Histogram | None = None
    """How long own records took from their arrival to both nodes' disks."""
    sessions: Sessions | None = None
    """Persistence; None: no worker tells."""
    worker: dict[str, int] = {}
    """connected, hung_up, check, apply, refused, failed (for a fault of the agent's own)."""
    late_ticks: int = 0
    events_lost: int = 0
    """Events of the engine that its ring had no room for, and events dropped for slow readers."""
    events_held: int = 0
    """Verdicts and their like, of which so many came that the agent was not woken for each."""
    log_lines_lost: int = 0
    """Records that the log had no room for, or that nobody took."""
    histograms: dict[str, Histogram] = {}
    """send_lateness, round_trip, silence, loop_lag; witness_request where there is one"""
    phases: dict[str, Histogram] = {}
    """Takeover phases (PHASES) since the agent started."""


class History(Struct, frozen=True, kw_only=True):
    """Transitions, newest last."""

    schema: int = SCHEMA
    transitions: list[Transition]


class Event(Struct, frozen=True, kw_only=True):
    """Something happened: one line of the event stream."""

    schema: int = SCHEMA
    number: int
    time: str
    at_ns: int
    event: str
    """transition, suspect, cleared, stalled, dead, withheld, claim, link_silent, refusal, …"""
    reason: str = ""
    sentence: str = ""
    fields: dict[str, str | int | bool | None] = {}


class Dropped(Struct, frozen=True, kw_only=True):
    """Stands in the stream where a reader was too slow."""

    schema: int = SCHEMA
    event: str = "dropped"
    count: int


# ------------------------------------------------------------------------------ commands ---------

RequestId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{8,64}$")]
Why = Annotated[str, Meta(max_length=500)]


class _Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common to all: the same `request_id` again gets the first answer, not a second act."""

    request_id: RequestId
    reason: Why = ""


class Failover(_Command, frozen=True, kw_only=True, tag="failover"):
    """Planned switch-over: the primary gives the role to its peer, the secondary takes it."""

    even_if_unfit: bool = False
    """Also when the taker is not fit."""


class Yield(_Command, frozen=True, kw_only=True, tag="yield"):
    """Give up the role if primary, even if nobody takes it."""


class PauseFor(_Command, frozen=True, kw_only=True, tag="pause"):
    """Nobody claims until resumed or until the time is over."""

    for_s: Annotated[int, Meta(ge=1, le=7 * 86400)] | None = None
    """None = until resumed."""


class Resume(_Command, frozen=True, kw_only=True, tag="resume"):
    """End a pause."""


class SetAdmin(_Command, frozen=True, kw_only=True, tag="admin"):
    """Set what the operator wants of this node."""

    admin: Admin
    even_if_unfit: bool = False
    """Leave the role though nobody takes it over."""


_Interval = Annotated[int, Meta(ge=1, le=60_000_000)]


class SetTimers(_Command, frozen=True, kw_only=True, tag="timers"):
    """Other intervals from now on, on both nodes: refused where one of them can't hold them."""

    hello_us: _Interval | None = None
    """None = as it is, or as the others ask for; so with all of them."""
    dead_us: _Interval | None = None
    verify_us: _Interval | None = None
    stall_us: _Interval | None = None
    lease_us: _Interval | None = None
    unset: bool = False
    """Those of each node's configuration again."""
    even_so: bool = False
    """Also where a host wakes up too late to hold them."""


class Reload(_Command, frozen=True, kw_only=True, tag="reload"):
    """Read the configuration again: all of it or nothing."""


Command = Failover | Yield | PauseFor | Resume | SetAdmin | SetTimers | Reload

COMMANDS: Final[dict[str, type[Any]]] = {
    "failover": Failover,
    "yield": Yield,
    "pause": PauseFor,
    "resume": Resume,
    "admin": SetAdmin,
    "timers": SetTimers,
    "reload": Reload,
}
"""POST /v1/<name> takes the struct as its body."""


class Caller(Struct, frozen=True, kw_only=True):
    """Who sent a command, as the kernel says (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


# ------------------------------------------------------------------------------- answers ---------


class Problem(Struct, frozen=True, kw_only=True):
    """The request itself was wrong (status 4xx) or the agent could not answer (5xx)."""

    schema: int = SCHEMA
    code: str
    sentence: str


class Answer(Struct, frozen=True, kw_only=True):
    """What a command came to."""

    schema: int = SCHEMA
    result: Outcome | Refusal


class Check(Struct, frozen=True, kw_only=True):
    """One line of `doctor`: plain data from `python -m twinbeat.runtime.doctor --json`."""

    name: str
    level: str
    """ok | warning | error"""
    finding: str
    fix: str = ""


class Doctor(Struct, frozen=True, kw_only=True):
    """The whole report."""

    schema: int = SCHEMA
    checks: list[Check]
