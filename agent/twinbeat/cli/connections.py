# SPDX-License-Identifier: Apache-2.0
"""`twinbeat show connections`: whether connections would outlast a takeover, and what is known."""

from collections.abc import Iterator
from typing import Final

from twinbeat.api.schema import Connections
from twinbeat.api.text import length
from twinbeat.cli.base import paint

COLORS: Final = {"synced": "green", "failed": "red", "off": "cyan", "alone": "cyan"}
_LOSSES: Final = {
    "install_failed": "that the kernel refused",
    "lost": "messages lost on the way",
    "malformed": "messages that made no sense",
    "overruns": "times more news of the kernel's than room",
    "resent_full": "messages that found no room to wait for the peer",
    "early_dropped": "thrown out early by the full table of the kernel",
    "table_full": "that found no room in the kernel's table",
    "forged": "packets to conntrackd's port from elsewhere",
    "ends": "unexpected ends of conntrackd",
    "command_failures": "orders that conntrackd didn't take",
}


def lines(kept: Connections | None) -> Iterator[str]:
    """All there is to say."""
    if kept is None:
        yield paint("UNTOLD", "yellow", bold=True) + ": the worker isn't there, or has just come"
        return
    word = paint(kept.state.upper(), COLORS.get(kept.state, "yellow"), bold=True)
    yield f"{word}: {kept.sentence}"
    if kept.state == "off":
        return
    yield f"connections  {_flows(kept)}, {kept.tracked:,} told of to the peer"
    heard = "not heard yet" if kept.heard_ns is None else f"heard {length(kept.heard_ns)} ago"
    counts = kept.counts
    yield (
        f"peer         {heard}, {counts.get('received_packets', 0):,} packets received, "
        f"{counts.get('sent_packets', 0):,} sent, {kept.unconfirmed:,} messages unconfirmed"
    )
    yield f"installed    {counts.get('installed', 0):,} in this node's kernel{_filled(kept)}"
    dropped = "dropped" if kept.strays_dropped else "not dropped"
    yield f"strays       {counts.get('strays', 0):,}; packets of unknown connections are {dropped}"
    if kept.strays_error:
        yield paint("  ! ", "yellow") + kept.strays_error
    for name, text in _LOSSES.items():
        if counts.get(name):
            yield paint("  ! ", "yellow") + f"{counts[name]:,} {text}"


def _flows(kept: Connections) -> str:
    if kept.flows is None:
        return "in the kernel not known"
    room = f" of {kept.flows_max:,}" if kept.flows_max else ""
    return f"{kept.flows:,}{room} in the kernel"


def _filled(kept: Connections) -> str:
    return "" if kept.filled_ns is None else f", filled in {length(kept.filled_ns)} the last time"
