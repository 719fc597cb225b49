# SPDX-License-Identifier: Apache-2.0
"""An interface with our programs on it: what is known of it, who is told, what may be refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from twinbeat.engine.bpf import BpfError
from twinbeat.net.errors import NetError

HOST: Final = "lo"
"""Where addresses are that routers lead to: no link's fate is theirs, and no neighbour asks it."""

REFUSALS: Final = (NetError, BpfError)
"""What the environment answers when it can't; the text of each is a sentence for people."""


@dataclass(slots=True, kw_only=True)
class Guarded:
    """One interface with our programs on it."""

    name: str
    index: int = 0
    mode: str = "none"
    """How XDP runs there: native, generic or none."""
    standing: bool = False
    """Both programs are in place."""
    serves: bool = False
    """It has virtual addresses; otherwise it only carries heartbeats."""
    carrier: bool = False
    doubted: bool = False
    """Something happened to its addresses or virtual MACs since they were looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchers:
    """Whom the stage tells. All are called in the loop."""

    gate_lost: Callable[[str, str], None]
    """Interface, and what happened to it."""
    gate_restored: Callable[[str], None]
    link_restored: Callable[[str], None]
    """An interface of a link has our programs again; it may be another one of that name."""
    port_lost: Callable[[str], None]
    port_restored: Callable[[str], None]
    failed: Callable[[str, str], None]
    """What could not be done, and the sentence why; rate-limited by the caller."""
