# SPDX-License-Identifier: Apache-2.0
"""One measurement of one failure, the same for every system on the lab's ground.

The system under test is only asked who is primary before and waited for afterwards; what is
measured comes from the client's probes and from captures on the switches.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from twinlab import agents, capture, cutter, plan, probe
from twinlab.shell import LabError, wait_for

BFD_PORT = 3784
BFD_STATE_DOWN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What one failure did to the client.  Moments are CLOCK_BOOTTIME ns."""

    before_ns: int
    """Just before the failure was caused."""
    after_ns: int
    """Just after: what caused it took effect between the two."""
    outage: probe.Outage | None
    """None = the client noticed nothing."""
    lost: int
    """Probes lost in the whole run."""
    record: probe.Record

    @property
    def outage_ns(self) -> int | None:
        """How long the client waited; 0 if it noticed nothing, None if it waits to this day."""
        return 0 if self.outage is None else self.outage.duration_ns


def failure(
    cause: Callable[[], object],
    *,
    interval_us: int = 100,
    vips: list[str] | None = None,
    steady_s: float = 0.3,
    served_timeout_s: float = 20.0,
) -> Failure:
    """Probe, cause a failure, wait until the client is served again, and report what it saw.

    vips: the VIPs to probe in turn (their neighbour entries are learned first).
    steady_s: how long everything has to be well before the failure is caused.
    """
    warm_up = 50 if vips is None or len(vips) == 1 else len(vips)
    with probe.Probe(interval_us=interval_us, vips=vips) as running:
        running.wait_served(run=warm_up, timeout_s=60)
        running.wait_for_time(steady_s)
        before = agents.boot_ns()
        cause()
        after = agents.boot_ns()
        running.wait_served(since_ns=after, timeout_s=served_timeout_s)
        running.wait_for_time(0.05)
        record = running.finish()
    outage = record.outage_around(before)
    return Failure(
        before_ns=before, after_ns=after, outage=outage, lost=record.lost(), record=record
    )


def silent_death(node: str, *, interval_us: int = 100, vips: list[str] | None = None) -> Failure:
    """The outage when a node dies without a carrier falling.  The node stays cut: heal it after."""
    with cutter.CutWord(node) as word:
        return failure(lambda: word.store(cutter.ALL_BITS), interval_us=interval_us, vips=vips)


def bfd_detection_ns(node: str) -> int:
    """How long BFD takes from a node's silent death to the first packet with state Down.

    BFD only detects; nobody takes an address over: a lower bound for whoever builds on it.
    """
    survivor = plan.peer(node)
    with cutter.CutWord(node) as word, capture.Capture(links=("lan0",)) as recorder:
        before = agents.boot_ns()
        word.store(cutter.ALL_BITS)
        wait_for(lambda: _went_down(recorder, survivor, before), "BFD to go down", timeout_s=5)
        at = _went_down(recorder, survivor, before)
        if at is None:
            raise LabError("BFD went down, and the capture lost it again")
        return at - before


def _went_down(recorder: capture.Capture, node: str, since_ns: int) -> int | None:
    for frame in capture.read(recorder.paths).frames:
        ports = frame.udp_ports()
        if frame.port != node or frame.at_ns < since_ns or ports is None or ports[1] != BFD_PORT:
            continue
        (_version_diag, state) = struct.unpack_from("=BB", frame.data, 14 + 20 + 8)
        if state >> 6 == BFD_STATE_DOWN:
            return frame.at_ns
    return None


__all__ = ["Failure", "bfd_detection_ns", "failure", "silent_death"]
