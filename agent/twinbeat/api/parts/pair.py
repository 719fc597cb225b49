# SPDX-License-Identifier: Apache-2.0
"""This node, its gate, the peer and the links between them, as a status shows them."""

import enum

from msgspec import Struct

from twinbeat.api.parts.terms import Admin, NodeState, Reason, Role, Watch


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
