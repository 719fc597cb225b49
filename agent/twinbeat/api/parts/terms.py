# SPDX-License-Identifier: Apache-2.0
"""The words, lengths and reasons that every other part of the schema speaks in."""

import enum
from typing import Final

from msgspec import Struct

SCHEMA: Final = 1
"""Version of the whole schema, in every answer as `schema`."""

SOCKET: Final = "/run/twinbeat/control.sock"
"""Where the agent listens."""

HISTOGRAM_BUCKETS: Final = 32
"""Bucket i counts lengths below 2^i microseconds that no earlier bucket counts (TB_BUCKETS)."""


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


class Reason(Struct, frozen=True, kw_only=True):
    """Why: a code for machines (bounded vocabulary, a metric label) and a sentence for people."""

    code: str
    sentence: str


class Warn(Struct, frozen=True, kw_only=True):
    """A standing condition that somebody should know of."""

    code: str
    sentence: str
    severity: Severity = Severity.WARNING


class Histogram(Struct, frozen=True, kw_only=True):
    """Lengths by powers of two of a microsecond."""

    counts: list[int]
    """HISTOGRAM_BUCKETS numbers, each bucket on its own (not cumulative)."""
    sum_ns: int | None = None
    """None = not kept; readers estimate it from the buckets."""
