# SPDX-License-Identifier: Apache-2.0
"""A transmitter that has stalled, told from the counters of its interface. Pure.

An interface may have carrier and yet send nothing: a hung ring, a driver whose queue was never
woken up. Two signs of it, taken at intervals:

- the kernel's transmit watchdog fired for a queue (`tx_timeout` grew): the driver was given a
  packet and never reported it sent;
- packets were dropped or refused on their way out while not one was sent, in several samples in a
  row. Heartbeats bypass the queues, so a driver that takes none of them shows here at once.

An interface that sends nothing because nobody asks it to is not stalled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SAMPLES_DROPPING: Final = 2
"""So many samples in a row with drops only are a stall; one may lie across a burst."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The counters of one interface at one moment (`struct rtnl_link_stats64` and sysfs)."""

    packets: int
    dropped: int
    """tx_dropped, and tx_errors: both are packets that were meant to leave and didn't."""
    timeouts: int
    """`queues/tx-*/tx_timeout`, all queues together."""


class StallWatch:
    """Watches one interface."""

    def __init__(self) -> None:
        self._last: Sent | None = None
        self._dropping = 0
        self._sentence = ""

    def see(self, sent: Sent | None) -> str:
        """Take a sample in; why the transmitter is held to be stalled, empty if it isn't.

        None: the interface is not there. Counters that went back are those of another one.
        """
        last, self._last = self._last, sent
        if sent is None or last is None or _went_back(last, sent):
            self._dropping, self._sentence = 0, ""
            return self._sentence
        moved = sent.packets - last.packets
        lost = sent.dropped - last.dropped
        fired = sent.timeouts - last.timeouts
        self._dropping = self._dropping + 1 if lost and not moved else 0
        if fired:
            self._sentence = "transmit stall: the kernel's transmit watchdog fired"
        elif self._dropping >= SAMPLES_DROPPING:
            self._sentence = f"transmit stall: nothing was sent, {lost} packets were dropped"
        elif moved:
            self._sentence = ""
        return self._sentence


def _went_back(last: Sent, sent: Sent) -> bool:
    return (
        sent.packets < last.packets or sent.dropped < last.dropped or sent.timeouts < last.timeouts
    )
