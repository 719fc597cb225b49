# SPDX-License-Identifier: Apache-2.0
"""What this host needs for connections that outlast a takeover, and how full its table is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from twinbeat.config.model import Config
from twinbeat.sessions.conntrackd import PATH, PROGRAMS

_SETTINGS: Final = Path("/proc/sys/net/netfilter")


def setting(name: str) -> int | None:
    """A number of the kernel's connection tracking; None where it isn't there."""
    try:
        return int((_SETTINGS / name).read_text())
    except (OSError, ValueError):
        return None


def findings(config: Config) -> Iterator[tuple[bool, str, str]]:
    """Whether something is right, a sentence about it, and what would mend it."""
    loose = setting("nf_conntrack_tcp_loose")
    if loose is not None:
        alone = "left alone" if loose == 0 else "taken for new ones and translated afresh"
        fix = "sysctl -w net.netfilter.nf_conntrack_tcp_loose=0"
        yield loose == 0, f"connections in mid-stream are {alone}", fix
    if not config.connections.enabled:
        return
    missing = {
        package: name for name, package in PROGRAMS.items() if shutil.which(name, path=PATH) is None
    }
    if missing:
        names = ", ".join(sorted(missing.values()))
        yield (
            False,
            f"connections would not outlast a takeover: {names} not installed",
            f"apt install {' '.join(sorted(missing))}",
        )
    else:
        yield True, "what keeps connections on both nodes is installed", ""
    room = setting("nf_conntrack_max")
    if room is not None:
        enough = 2 * room <= config.connections.flows_max
        asked = f"connections.flows_max is {config.connections.flows_max:,}"
        yield (
            enough,
            f"the kernel has room for {room:,} connections, and {asked}",
            f"`twinbeat set connections flows_max={2 * room}`",
        )
