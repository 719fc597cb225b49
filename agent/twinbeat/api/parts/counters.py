# SPDX-License-Identifier: Apache-2.0
"""Everything that only grows."""

from typing import Final

from msgspec import Struct

from twinbeat.api.parts.terms import SCHEMA, Histogram, Role
from twinbeat.api.parts.worker import Sessions

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
