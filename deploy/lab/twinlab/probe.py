# SPDX-License-Identifier: Apache-2.0
"""What the client lived through: running tb-probe, and reading its record.

The definition of an outage is here and nowhere else.  A probe is *lost* if no answer to it ever
came (a run ends 20 ms after its last probe; while it goes on, the last 20 ms are not judged).  An
*outage* is a run of lost probes and lasts

    from the arrival of the last answer before the first lost probe
    to   the arrival of the first answer to a probe sent after it,

both by the kernel's stamps at the client's interface.  So it includes everything the client had to
wait for, and about one probing interval of not knowing.  A stretch in which no probe was sent at
all (the client itself did not get the CPU) is told apart: `sender_gap_ns` is the longest pause
between two sends around the outage.
"""

from __future__ import annotations

import itertools
import mmap
import struct
import time
from array import array
from dataclasses import dataclass
from pathlib import Path

from twinlab import plan, processes, services
from twinlab.shell import LabError, wait_for

HEADER = struct.Struct("=8sIIqqqqqqqqqq")
FIELDS = (
    *("magic", "header_bytes", "vips", "interval_ns", "capacity", "started_ns", "sent", "answered"),
    *("duplicates", "strays", "send_errors", "lateness_max_ns", "finished"),
)
"""`struct header` of tools/tb-probe.c, its fields in their order."""

MAGIC = b"TBPROBE1"
SETTLE_NS = 20_000_000
"""The tool waits this long for the last answers; what was sent later than that is not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """One interruption as the client saw it (see the module's definition)."""

    last_good_ns: int
    """Arrival of the last answer before; CLOCK_BOOTTIME, as all moments here."""
    first_good_ns: int | None
    """Arrival of the first answer after; None = it never came back while we looked."""
    first_lost_sent_ns: int
    first_good_sent_ns: int | None
    lost: int
    sender_gap_ns: int

    @property
    def duration_ns(self) -> int | None:
        return None if self.first_good_ns is None else self.first_good_ns - self.last_good_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A snapshot of what tb-probe wrote: two parallel arrays, one entry per probe."""

    interval_ns: int
    vips: int
    sent_ns: array[int]
    answered_ns: array[int]
    """0 = no answer."""
    duplicates: int
    strays: int
    send_errors: int
    lateness_max_ns: int
    finished: bool

    def judged(self) -> int:
        """How many probes are old enough for their fate to be known."""
        if not self.sent_ns:
            return 0
        horizon = self.sent_ns[-1] - SETTLE_NS
        count = len(self.sent_ns)
        if self.finished:
            return count
        while count and self.sent_ns[count - 1] > horizon:
            count -= 1
        return count

    def lost(self) -> int:
        return sum(1 for answered in self.answered_ns[: self.judged()] if not answered)

    def outages(self, *, join_ns: int = 0) -> list[Outage]:
        """All outages, oldest first.

        join_ns: two outages with less than this of good service between them count as one.
        """
        count = self.judged()
        found: list[Outage] = []
        number = 0
        while number < count:
            if self.answered_ns[number]:
                number += 1
                continue
            end = number
            while end < count and not self.answered_ns[end]:
                end += 1
            outage = self._outage(number, end, count)
            if found and outage.last_good_ns - (found[-1].first_good_ns or 0) < join_ns:
                outage = _joined(found.pop(), outage)
            found.append(outage)
            number = end
        return found

    def _outage(self, first_lost: int, first_good: int, count: int) -> Outage:
        """The outage whose lost probes are first_lost … first_good − 1."""
        # Answers may overtake each other (two servers): the last arrival counts.
        before = self.answered_ns[max(0, first_lost - 64) : first_lost]
        last_good = max(before, default=0) or self.sent_ns[first_lost]
        back = first_good < count
        sends = self.sent_ns[max(0, first_lost - 1) : first_good + 1]
        return Outage(
            last_good_ns=last_good,
            first_good_ns=self.answered_ns[first_good] if back else None,
            first_lost_sent_ns=self.sent_ns[first_lost],
            first_good_sent_ns=self.sent_ns[first_good] if back else None,
            lost=first_good - first_lost,
            sender_gap_ns=max((b - a for a, b in itertools.pairwise(sends)), default=0),
        )

    def longest_outage(self, *, join_ns: int = 0) -> Outage | None:
        """The longest one; one that never ended is longer than any other."""
        return max(
            self.outages(join_ns=join_ns),
            key=lambda outage: (outage.duration_ns is None, outage.duration_ns or 0),
            default=None,
        )

    def outage_around(
        self, moment_ns: int, *, until_ns: int | None = None, join_ns: int = 5_000_000
    ) -> Outage | None:
        """The outage that contains a moment or is the first to begin after it.

        until_ns: one that begins later than this has nothing to do with the moment.
        """
        for outage in self.outages(join_ns=join_ns):
            if outage.first_good_ns is None or outage.first_good_ns >= moment_ns:
                late = until_ns is not None and outage.first_lost_sent_ns > until_ns
                return None if late else outage
        return None


def _joined(first: Outage, second: Outage) -> Outage:
    return Outage(
        last_good_ns=first.last_good_ns,
        first_good_ns=second.first_good_ns,
        first_lost_sent_ns=first.first_lost_sent_ns,
        first_good_sent_ns=second.first_good_sent_ns,
        lost=first.lost + second.lost,
        sender_gap_ns=max(first.sender_gap_ns, second.sender_gap_ns),
    )


def read(path: Path) -> Record:
    """Read a record, finished or still growing."""
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size or not head.startswith(MAGIC):
            raise LabError(f"{path}: not a record of tb-probe")
        header = dict(zip(FIELDS, HEADER.unpack(head), strict=True))
        size = header["header_bytes"]
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            words = array("q", memory[size : size + 16 * header["sent"]])
    return Record(
        interval_ns=header["interval_ns"],
        vips=header["vips"],
        sent_ns=words[0::2],
        answered_ns=words[1::2],
        duplicates=header["duplicates"],
        strays=header["strays"],
        send_errors=header["send_errors"],
        lateness_max_ns=header["lateness_max_ns"],
        finished=bool(header["finished"]),
    )


class Probe:
    """A running tb-probe.  Use as a context: leaving it ends the run and keeps the record."""

    def __init__(
        self,
        *,
        vips: list[str] | None = None,
        interval_us: int = 200,
        fifo: int = 20,
        name: str = "probe",
        path: Path | None = None,
    ) -> None:
        self.path = path or plan.RUN_DIR / f"{name}.bin"
        self._name = name
        self._command = [services.tool("tb-probe"), "--out", str(self.path)]
        self._command += ["--interval-us", str(interval_us), "--fifo", str(fifo)]
        targets = vips or [plan.LAN_VIP]
        if len(targets) == 1:
            self._command += ["--vip", targets[0]]
        else:
            vips_file = plan.RUN_DIR / f"{name}.vips"
            vips_file.write_text("\n".join(targets) + "\n")
            self._command += ["--vips-file", str(vips_file)]

    def __enter__(self) -> Probe:
        self.path.unlink(missing_ok=True)
        processes.log_file(self._name).unlink(missing_ok=True)
        processes.spawn(self._name, plan.CLIENT_NS, self._command)
        wait_for(self._has_begun, "the first probe", timeout_s=5, interval_s=0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def _has_begun(self) -> bool:
        if processes.pid_of(self._name) is None:
            raise LabError(f"tb-probe ended: {processes.log_tail(self._name)}")
        return self.path.exists() and self.path.stat().st_size > 0 and self._counts()[0] > 0

    def _counts(self) -> tuple[int, int]:
        """Probes sent and answered so far; cheap, for waiting."""
        with self.path.open("rb") as file:
            head = file.read(HEADER.size)
        if len(head) < HEADER.size or not head.startswith(MAGIC):
            return 0, 0
        fields = HEADER.unpack(head)
        return fields[6], fields[7]

    def tail(self, count: int) -> list[tuple[int, int]]:
        """Sent and answered times of the newest `count` probes, oldest first."""
        sent, _ = self._counts()
        first = max(0, sent - count)
        with self.path.open("rb") as file:
            file.seek(4096 + 16 * first)
            words = array("q", file.read(16 * (sent - first)))
        return list(zip(words[0::2], words[1::2], strict=True))

    def wait_served(self, *, since_ns: int = 0, run: int = 50, timeout_s: float = 20.0) -> None:
        """Wait until `run` probes sent after a moment were answered without one missing between."""

        def served() -> bool:
            good = 0
            for sent, answered in self.tail(run * 4 + 200):
                good = good + 1 if answered and sent > since_ns else 0
                if good >= run:
                    return True
            return False

        wait_for(served, "the client is served", timeout_s=timeout_s, interval_s=0.01)

    def wait_for_time(self, duration_s: float) -> None:
        """Let the probe run on: the one place where time itself is the condition."""
        until = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(duration_s * 1e9)

        def reached() -> bool:
            newest = self.tail(1)
            return bool(newest) and newest[0][0] >= until

        wait_for(reached, "probes go on", timeout_s=duration_s + 10, interval_s=0.01)

    def finish(self) -> Record:
        """End the run in good order and read it; a second call only reads."""
        processes.end(self._name)
        return read(self.path)

    def record(self) -> Record:
        """The record as it stands now."""
        return read(self.path)


__all__ = ["Outage", "Probe", "Record", "read"]
