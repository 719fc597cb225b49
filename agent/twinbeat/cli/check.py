# SPDX-License-Identifier: Apache-2.0
"""For machines: the monitoring plugin, and two questions answered by an exit code."""

import click
import msgspec

from twinbeat.api.schema import Severity, Status
from twinbeat.cli.base import Exit, Stop, fetch, read, say, shared

_STATES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


@click.command()
@shared
def check() -> int:
    """Nagios and its kin: one line with figures; exit 0 ok, 1 warning, 2 critical, 3 unknown."""
    try:
        status = msgspec.json.decode(read("/v1/status"), type=Status)
    except (Stop, msgspec.DecodeError) as error:
        say(f"TWINBEAT UNKNOWN - {error}")
        return 3
    severities = {warning.severity for warning in status.warnings}
    code = 2 if Severity.CRITICAL in severities else 1 if severities else 0
    wrong = "; ".join(warning.sentence for warning in status.warnings)
    beating = [link for link in status.links if link.heartbeat]
    up = sum(link.up for link in beating)
    figures = {
        "primary": int(status.gate.open),
        "term": status.node.term,
        "links": f"{up};;;0;{len(beating)}",
        "health": status.node.health,
    }
    if status.peer.age_ns is not None:
        figures["peer_age"] = f"{status.peer.age_ns / 1e9:.6f}s"
    perfdata = " ".join(f"{name}={value}" for name, value in figures.items())
    told = f"{status.sentence} - {wrong}" if wrong else status.sentence
    # The bar begins the figures, so the sentence may not hold one.
    say(f"TWINBEAT {_STATES[code]} - {told.replace('|', '/')} | {perfdata}")
    return code


@click.command(name="is-primary")
@shared
def is_primary() -> int:
    """Exit 0 while this node serves (primary, its gate open), else 1. Prints nothing."""
    return Exit.OK if fetch("/primary").status == 200 else Exit.NO


@click.command(name="is-healthy")
@shared
def is_healthy() -> int:
    """Exit 0 while this node could serve, else 1. Prints nothing."""
    return Exit.OK if fetch("/health").status == 200 else Exit.NO
