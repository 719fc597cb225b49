# SPDX-License-Identifier: Apache-2.0
"""What `log.conf` says, once it has been understood, and what can be wrong with it."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass, field
from typing import Final

PORT: Final = 3011
METRICS: Final = "127.0.0.1:9704"
OUTPUT: Final = "/var/log/twinbeat-weblog"
FILTER_NAME_MAX: Final = 64
SIZE_LIMIT_MB: Final = 10
"""logFileSizeLimit where logInterval is Size and nothing else is said, as in the reference."""
DEFAULT: Final = "default"
"""The filter that takes what no other has taken."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a file."""

    file: str
    line: int
    """0 = the file as a whole."""
    sentence: str
    """What is wrong and what would be right."""
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        told = f"{where}: {'warning: ' if self.warning else ''}{self.sentence}"
        # A file may hold what a terminal would take for a command.
        return told if told.isprintable() else told.encode("unicode_escape").decode("ascii")


class ConfError(Exception):
    """The configuration can't be used; `problems` holds everything found."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(each) for each in problems if not each.warning))
        self.problems = problems


class FormatError(Exception):
    """A format, of a source or of a filter, can't be understood. The message is a sentence."""


class Interval(enum.Enum):
    """When a filter begins a new file."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    """At midnight before Sunday."""
    MONTHLY = "monthly"
    """At midnight before the first."""
    SIZE = "size"
    NONE = "none"


class Kind(enum.Enum):
    """How a filter writes records."""

    RAW = "raw"
    """As the web server wrote them."""
    NCSA = "ncsa"
    W3C = "w3c"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node to pull from."""

    address: str
    port: int = PORT
    fingerprint: str
    """SHA-256 of its certificate, in hexadecimal."""
    pair: str = ""
    """Tells apart pairs that have the same number; empty = the number that the node says."""
    line: int = field(default=0, compare=False)

    @property
    def name(self) -> str:
        """What it is called before it has said its own name."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How and where a filter writes: its `begin … end` block."""

    kind: Kind = Kind.RAW
    format: str = ""
    """The specifiers of CUSTOM, the fields of W3C; empty = those it has by default."""
    interval: Interval = Interval.DAILY
    size_limit: int = 0
    """Bytes; 0 = no limit."""
    name: str = ""
    """Pattern of the file's path."""
    local: bool = False
    """Local time in names, for the begin of intervals and in records; else GMT."""
    exclude: tuple[bytes, ...] = ()
    """Ends of paths that are not logged, in small letters."""
    lines: dict[str, int] = field(default_factory=dict, compare=False)
    """Where each directive stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which records, and what becomes of them. Of one kind any value will do; all kinds have to."""

    name: str
    on: bool = True
    """False: what matches is not written anywhere."""
    hosts: tuple[bytes, ...] = ()
    clients: tuple[Network, ...] = ()
    servers: tuple[Network, ...] = ()
    nodes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    writing: Writing
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conf:
    """A whole `log.conf`."""

    file: str
    nodes: tuple[Node, ...]
    filters: tuple[Filter, ...]
    """In the order in which they are tried, `default` last."""
    metrics: str = METRICS
    """ADDRESS:PORT; empty = none."""
    problems: tuple[Problem, ...] = ()
    """Warnings only."""
