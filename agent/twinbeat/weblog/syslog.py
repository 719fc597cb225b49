# SPDX-License-Identifier: Apache-2.0
"""What a datagram of syslog says: RFC 5424, RFC 3164 as it is really sent, or neither. Pure.

nginx sends ``<190>Nov 23 22:00:00 host nginx: MESSAGE``, haproxy the same without a host (its
default), or RFC 5424 with ``log … format rfc5424``; Apache's go through `logger`, which sends
either. What can't be understood is kept as it came: a record is worth more than its frame.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Final

_PRI: Final = re.compile(rb"<([0-9]{1,3})>")
_NEW: Final = re.compile(
    rb"1 (-|[0-9T:.Z+-]{10,40}) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) "
    rb'(-|(?:\[(?:[^"\]\\]|\\.|"(?:[^"\\]|\\.)*")*\])+)(?: (.*))?',
    re.DOTALL,
)
"""RFC 5424, 6: version 1, time, host, program, process, id, structured data, message."""
_OLD: Final = re.compile(
    rb"([A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2})"
    rb"(?: ([^\s:\[\]]{1,255}))?(?: ([^\s:\[\]]{1,64})(?:\[([^\]\s]{1,32})\])?:) ?(.*)",
    re.DOTALL,
)
"""RFC 3164, 4.1: time, host (which haproxy leaves out), tag, process, message."""
_BOM: Final = b"\xef\xbb\xbf"
_MONTHS: Final = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


@dataclass(frozen=True, slots=True)
class Said:
    """One datagram, taken apart."""

    message: bytes
    """What the program wrote; all of the datagram where it can't be understood."""
    priority: int = -1
    """Facility times 8 plus severity; -1: it is malformed."""
    time: bytes = b"-"
    """RFC 3339, or - where it said none."""
    host: bytes = b"-"
    program: bytes = b"-"
    process: bytes = b"-"

    @property
    def malformed(self) -> bool:
        return self.priority < 0

    @property
    def line(self) -> bytes:
        """One form for both: priority, time, host, program, process and message."""
        if self.malformed:
            return self.message
        head = b"<%d>%s %s %s %s " % (
            self.priority,
            self.time,
            self.host,
            self.program,
            self.process,
        )
        return head + self.message


def understand(datagram: bytes, now_s: float) -> Said:
    """What it says. ``now_s`` is Unix time, as RFC 3164 tells no year and no zone."""
    found = _PRI.match(datagram)
    if found is None or (priority := int(found[1])) > 191:
        return Said(datagram)
    rest = found.end()
    if new := _NEW.fullmatch(datagram, rest):
        time_, host, program, process, _, _, message = new.groups(b"")
        return Said(message.removeprefix(_BOM), priority, time_, host, program, process)
    if old := _OLD.fullmatch(datagram, rest):
        when, host, program, process, message = old.groups(b"-")
        stamp = _stamp(when, now_s)
        if stamp:
            return Said(message, priority, stamp, host, program, process)
    return Said(datagram)


def escaped(record: bytes) -> bytes:
    """A record that has no newline: those within are written as backslash and n, one that ends it
    (and what C leaves there) goes."""
    record = record.rstrip(b"\r\n\0")
    return record.replace(b"\n", b"\\n") if b"\n" in record else record


def _stamp(when: bytes, now_s: float) -> bytes:
    """`Nov 23 22:00:00` of this year in this zone as RFC 3339; of last year, if it would lie more
    than a day ahead. Empty where there is no such time."""
    if when[:3] not in _MONTHS:
        return b""
    month, day = _MONTHS.index(when[:3]) + 1, int(when[4:6])
    hour, minute, second = (int(part) for part in when[7:].split(b":"))
    if not 1 <= day <= 31 or hour > 23 or minute > 59 or second > 60:
        return b""
    year = time.localtime(now_s).tm_year
    for at in (year, year - 1):
        then = time.mktime((at, month, day, hour, minute, second, 0, 0, -1))
        if then <= now_s + 86400:
            break
    local = time.localtime(then)
    minutes = local.tm_gmtoff // 60
    sign = b"-" if minutes < 0 else b"+"
    return b"%04d-%02d-%02dT%02d:%02d:%02d%s%02d:%02d" % (
        at,
        month,
        day,
        hour,
        minute,
        second,
        sign,
        *divmod(abs(minutes), 60),
    )
