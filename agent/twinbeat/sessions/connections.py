# SPDX-License-Identifier: Apache-2.0
"""The course of conntrackd on one node: when it runs, and what it is told to do.

Pure: it is given what is seen each second and says what is due. The state of a connection is put
into the kernel of the secondary as soon as it comes (`DisableExternalCache`), so a takeover has
nothing to commit; all that is left to do is to begin well:

- conntrackd runs only while the peer is there. What one that outlived a partition had queued would
  be stale by the time it could be told, and a stale end of a connection would end it on the node
  that serves. A node that stops serving begins anew for the same reason.
- The secondary forgets what conntrackd read from its own kernel at the start, or it would tell the
  primary that connections are over which only ran out here, where no packet of theirs is seen.
- As soon as the peer is heard the secondary asks for everything. The primary reads its kernel's
  table anew when it has come to serve, and from time to time: connections that change no state are
  no news by themselves, and would run out on the secondary.

`conntrackd -t` of the usual scripts is not used: it empties the kernel's table a minute later.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta, Struct

AWAY_S: Final = 3.0
"""A peer that is silent for so long isn't told anything any more; what it said last is in by
then."""
BACK_OFF_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Before conntrackd that ended by itself is started again; the last for good."""
STEADY_S: Final = 60.0
"""Who ran for so long has a new beginning: the back-off starts anew."""
SILENT_S: Final = 5.0
"""conntrackd sends a sign of life each second: nothing for so long means that it isn't heard."""
HUNG_S: Final = 30.0
"""Who answers nothing for so long is ended, and started again like one that ended by itself."""
SETTLE_S: Final = 1.5
"""What was asked for has begun to come by then, if there is anything."""
TRICKLE: Final = 200
"""Changes in a second: what comes in bulk comes by the thousands, so this is news of the day."""
SLOWER_S: Final = 4.0
"""From then on half the fastest second will do: what comes still is news, of a busy primary."""
FILL_MOST_S: Final = 15.0
"""And from then on anything: nothing tells news and what was asked for apart."""

Name = Annotated[str, Meta(max_length=64)]


class ConnectionSettings(Struct, frozen=True, kw_only=True):
    """`[connections]` in force on this node, with what follows from other sections."""

    enabled: bool = False
    protocols: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    """With the node's own addresses and the peer's."""
    drop_strays: bool = True
    refresh_s: int = 60
    flows_max: int = 262_144
    resend_max: int = 131_072
    buffer_kib: int = 8192
    port: int = 3780
    interface: str = ""
    local: str = ""
    peer: str = ""
    vips: tuple[str, ...] = ()
    """Only where strays are dropped."""


class ConnectionsBrief(Struct, frozen=True, kw_only=True):
    """How the state of connections stands on this node."""

    state: Name
    """off, alone, starting, unheard, filling, synced, failed"""
    sentence: Annotated[str, Meta(max_length=1024)] = ""
    process: int = 0
    """conntrackd's number; 0 = it doesn't run."""
    flows: int = -1
    """In the kernel's table; -1 = not known."""
    tracked: int = 0
    """Connections of which this node tells the other."""
    unconfirmed: int = 0
    """Messages that the peer's conntrackd hasn't confirmed yet: the lag, in messages."""
    heard_ms: int = -1
    """Since the peer's conntrackd was heard last; -1 = never in this run."""
    synced_s: int = 0
    """Unix time at which this node last came to have all that the primary has; 0 = never."""
    fill_ms: int = -1
    """How long it took the last time; -1 = it never came to that."""
    strays_dropped: bool = False
    """Packets of unknown connections are dropped."""
    strays_error: Annotated[str, Meta(max_length=1024)] = ""
    """Why the table of nftables isn't as it should be."""
    counts: dict[str, int] = {}
    """All only grow, over all runs of conntrackd: see COUNTS."""


COUNTS: Final = (
    "sent_packets",
    "received_packets",
    "sent_bytes",
    "received_bytes",
    "send_errors",
    "receive_errors",
    "malformed",
    "lost",
    "installed",
    "install_failed",
    "resent_full",
    "overruns",
    "early_dropped",
    "table_full",
    "strays",
    "forged",
    "starts",
    "ends",
    "command_failures",
)
"""What is counted, by the names of the metric's label."""


class Phase(enum.StrEnum):
    """What `ConnectionsBrief.state` says."""

    OFF = "off"
    ALONE = "alone"
    STARTING = "starting"
    UNHEARD = "unheard"
    FILLING = "filling"
    SYNCED = "synced"
    FAILED = "failed"


SENTENCES: Final = {
    Phase.OFF: "connections aren't kept on both nodes: after a takeover clients connect anew",
    Phase.ALONE: "the peer isn't there, so nobody is told of connections",
    Phase.STARTING: "conntrackd is starting",
    Phase.UNHEARD: "the peer's conntrackd isn't heard",
    Phase.FILLING: "the primary's connections are being taken over",
    Phase.SYNCED: "both nodes know the connections",
    Phase.FAILED: "conntrackd doesn't run",
}


class Order(enum.Enum):
    """What conntrackd is to be told, by its options."""

    FORGET = ("-f", "internal")
    ASK = ("-n",)
    TELL = ("-R",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look."""

    now_s: float
    """A clock that only goes on."""
    primary: bool | None
    """None: nobody says."""
    peer_alive: bool
    enabled: bool
    running: bool
    """conntrackd runs."""
    answers: bool = False
    """And has answered this look."""
    received: int = 0
    """Packets of the peer's, in this run."""
    installed: int = 0
    """Connections that were put into the kernel, in this run."""


class Course:
    """When conntrackd runs, and what it is told."""

    def __init__(self) -> None:
        self.phase = Phase.OFF
        self.why = ""
        """Why it failed."""
        self.filled_s = -1.0
        """How long the last filling took."""
        self._alive_s: float | None = None
        self._primary: bool | None = None
        self._stale = False
        """What runs has to begin anew."""
        self._failures = 0
        self._not_before_s = 0.0
        self._begun_s = 0.0
        self._runs = False
        """It was started, and its end isn't known."""
        self._begin()

    def _begin(self) -> None:
        """Another run."""
        self._answered_s = self._begun_s
        self._forgot = False
        self._asked_s: float | None = None
        self._told_s: float | None = None
        self._received = -1
        self._heard_s: float | None = None
        self._installed, self._looked_s = 0, self._begun_s
        self._fastest = 0.0
        self._moved_s = 0.0
        self._filled = False

    # -- whether it runs -------------------------------------------------------------------------

    def wanted(self, seen: Seen) -> bool:
        """Whether conntrackd is to run now; and takes in what was seen of the roles."""
        if self._primary and seen.primary is False:
            self._stale = True
        if seen.primary is not None:
            self._primary = seen.primary
        if seen.peer_alive:
            self._alive_s = seen.now_s
        if not seen.enabled:
            self.phase, self._failures, self._not_before_s, self.why = Phase.OFF, 0, 0.0, ""
            return False
        there = self._alive_s is not None and seen.now_s - self._alive_s < AWAY_S
        if self._primary is None or not there or (not seen.running and not seen.peer_alive):
            self.phase = Phase.ALONE
            return False
        if not seen.running and seen.now_s < self._not_before_s:
            self.phase = Phase.FAILED
            return False
        return True

    @property
    def stale(self) -> bool:
        """What runs is to be ended, and begun anew."""
        return self._stale

    def hung(self, now_s: float) -> bool:
        """What runs answers nothing any more."""
        return now_s - self._answered_s >= HUNG_S

    def started(self, now_s: float) -> None:
        """It runs from now on."""
        self._stale, self._runs = False, True
        self._begun_s, self.phase = now_s, Phase.STARTING
        self._begin()

    def ended(self, now_s: float, why: str) -> None:
        """It ended, or couldn't be started, without being asked to."""
        if self._runs and now_s - self._begun_s >= STEADY_S:
            self._failures = 0
        self._runs = False
        wait_s = BACK_OFF_S[min(self._failures, len(BACK_OFF_S) - 1)]
        self._failures += 1
        self._not_before_s, self.why, self.phase = now_s + wait_s, why, Phase.FAILED

    # -- what it is told -------------------------------------------------------------------------

    def due(self, seen: Seen, refresh_s: int) -> Order | None:
        """The next thing to tell it that runs."""
        if seen.answers:
            self._answered_s = seen.now_s
        else:
            if seen.now_s - self._begun_s >= SILENT_S:
                self.phase = Phase.STARTING
            return None
        if seen.received != self._received:
            if self._received >= 0 or seen.received:
                self._heard_s = seen.now_s
            self._received = seen.received
        passed_s = max(seen.now_s - self._looked_s, 0.001)
        rate = (seen.installed - self._installed) / passed_s
        self._installed, self._looked_s = seen.installed, seen.now_s
        heard = self._heard_s is not None and seen.now_s - self._heard_s < SILENT_S
        if not heard:
            self.phase = Phase.UNHEARD
        if self._primary:
            return self._as_primary(seen, heard, refresh_s)
        return self._as_secondary(seen, heard, rate)

    def _as_primary(self, seen: Seen, heard: bool, refresh_s: int) -> Order | None:
        if heard:
            self.phase = Phase.SYNCED
        self._asked_s, self._filled = None, False
        # At its start it has read the kernel's table: only who had forgotten that reads it again.
        if self._told_s is None and not self._forgot:
            self._told_s = seen.now_s
        over = refresh_s and self._told_s is not None and seen.now_s - self._told_s >= refresh_s
        if seen.peer_alive and heard and (self._told_s is None or over):
            self._told_s = seen.now_s
            return Order.TELL
        return None

    def _as_secondary(self, seen: Seen, heard: bool, rate: float) -> Order | None:
        self._told_s = None
        if not self._forgot:
            self._forgot = True
            return Order.FORGET
        if not heard:
            # Whatever was told meanwhile may be lost.
            self._asked_s, self._filled = None, False
            return None
        if self._asked_s is None:
            self._asked_s = self._moved_s = seen.now_s
            self._fastest, self.phase = 0.0, Phase.FILLING
            return Order.ASK
        if not self._filled:
            self._fastest = max(self._fastest, rate)
            if rate >= TRICKLE:
                self._moved_s = seen.now_s
            if self._all_came(seen.now_s - self._asked_s, rate):
                self._filled, self.filled_s = True, self._moved_s - self._asked_s
        self.phase = Phase.SYNCED if self._filled else Phase.FILLING
        return None

    def _all_came(self, passed_s: float, rate: float) -> bool:
        """Whether what was asked for is there. conntrackd doesn't tell, and news come meanwhile."""
        if passed_s < SETTLE_S:
            return False
        slower = passed_s >= SLOWER_S and rate <= self._fastest / 2
        return rate < TRICKLE or slower or passed_s >= FILL_MOST_S

    def heard_s(self, now_s: float) -> float | None:
        """How long ago the peer's was heard; None = not in this run."""
        return None if self._heard_s is None else now_s - self._heard_s

    @property
    def sentence(self) -> str:
        """How it stands, and why."""
        said = SENTENCES[self.phase]
        return f"{said}: {self.why}" if self.phase is Phase.FAILED and self.why else said
