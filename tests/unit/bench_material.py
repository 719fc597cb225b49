# SPDX-License-Identifier: Apache-2.0
"""What the tests of the bench are made of: the bench, and records and frames made by hand."""

import struct
import sys
from array import array
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy" / "lab"))

from twinbench import (
    budget,
    cpu,
    effort,
    figures,
    forge,
    judge,
    limits,
    machine,
    measures_flood,
    measures_load,
    measures_partition,
    measures_reload,
    measures_xdp,
    report,
    run,
    samples,
)
from twinlab import agents, capture, demo, flood, plan, probe, shell, timeline

MS = 1_000_000
VIP = "10.77.0.10"


def record(answered: list[bool], *, interval_ns: int = MS, delay_ns: int = 1000) -> probe.Record:
    """Probes sent at interval, 2 × interval, …, each answered after `delay_ns` or never."""
    sent = array("q", [(number + 1) * interval_ns for number in range(len(answered))])
    back = [at + delay_ns if good else 0 for at, good in zip(sent, answered, strict=True)]
    return probe.Record(
        interval_ns=interval_ns,
        vips=1,
        sent_ns=sent,
        answered_ns=array("q", back),
        duplicates=0,
        strays=0,
        send_errors=0,
        lateness_max_ns=0,
        finished=True,
    )


def frame(
    at_ns: int, port: str, *, source: str = VIP, protocol: int = 17, dport: int = 7777
) -> capture.Frame:
    """An IPv4 frame in the name of an address, as captured on the client's switch."""
    address = bytes(int(part) for part in source.split("."))
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, protocol, 0, address, address)
    data = bytes(12) + b"\x08\x00" + head + struct.pack(">HHHH", 7777, dport, 8, 0)
    return capture.Frame(at_ns, "lan0", port, data)


__all__ = [
    "MS",
    "VIP",
    "agents",
    "budget",
    "capture",
    "cpu",
    "demo",
    "effort",
    "figures",
    "flood",
    "forge",
    "frame",
    "judge",
    "limits",
    "machine",
    "measures_flood",
    "measures_load",
    "measures_partition",
    "measures_reload",
    "measures_xdp",
    "plan",
    "probe",
    "record",
    "report",
    "run",
    "samples",
    "shell",
    "timeline",
]
