# SPDX-License-Identifier: Apache-2.0
"""Which file a record goes to: patterns of names, and the intervals after which a new one begins.

Both go by the time at which the node got the record, not by this machine's clock: what is caught up
on after an hour lies where it would have lain.

Intervals follow the reference: weeks begin at midnight before Sunday, months before the first. What
comes from a record into a name can't lead out of the directory: each of `" * . / : < > ? \\ |` is
written as `_`, control characters as `%` and two hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import re
import time
from typing import Final

from twinbeat.weblog.client.model import FormatError, Interval

PATTERN_MAX: Final = 1024
VALUE_MAX: Final = 100
"""Characters that come from one field."""
VALUES_MAX: Final = 256
"""Different values of the fields in a filter's names; what comes after them goes to OTHERS, so that
whoever invents hosts makes no files."""
OTHERS: Final = "_others"
FIELDS: Final = {"v": "host", "A": "server", "x": "suffix"}
_OWN: Final = {"N": "node", "X": "source"}
_PART: Final = re.compile(r"%(?:\{([^}]*)\})?(.?)", re.DOTALL)
PART_MAX: Final = 240
"""Bytes between two slashes: NAME_MAX of Linux, less the number that may come behind."""
_FORBIDDEN: Final = str.maketrans(dict.fromkeys('"*./:<>?\\|', "_"))
_DAY: Final = 86400


def check(pattern: str) -> None:
    """Raises FormatError if it is no pattern of a file's name."""
    if not pattern or len(pattern) > PATTERN_MAX:
        raise FormatError(f"a name has 1 to {PATTERN_MAX} characters.")
    if "\0" in pattern or pattern.endswith("/") or ".." in pattern.split("/"):
        raise FormatError(f"`{pattern}` is no name of a file.")
    for found in _PART.finditer(pattern):
        argument, letter = found.groups()
        if letter == "t" and argument:
            continue
        if argument is None and (letter in FIELDS or letter in _OWN or letter == "%"):
            continue
        known = " ".join(f"%{each}" for each in [*FIELDS, *_OWN])
        raise FormatError(
            f"`{found.group()}` is unknown in a name; there are {known} %{{format}}t."
        )


def safe(value: str) -> str:
    """A field's value as part of a name."""
    text = value[:VALUE_MAX].translate(_FORBIDDEN)
    shown = "".join(each if each.isprintable() else f"%{ord(each) & 0xFF:02x}" for each in text)
    return shown or "-"


class Name:
    """A pattern, ready for use."""

    def __init__(self, pattern: str, *, local: bool) -> None:
        self._parts = _PART.split(pattern)
        """Literal, argument, letter, literal, …"""
        letters = self._parts[2::3]
        self.fields = tuple(sorted({FIELDS[each] for each in letters if each in FIELDS}))
        """Fields of records that it has in it."""
        self.has_time = "t" in letters
        """The name itself says when a new file begins."""
        self._split = time.localtime if local else time.gmtime
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.crowded_total = 0
        """Values that found no room of their own."""

    def values(self, raw: tuple[str, ...]) -> tuple[str, ...]:
        """What stands for the values of `fields` in names."""
        raw = tuple(each[:VALUE_MAX] for each in raw)
        found = self._known.get(raw)
        if found is None:
            if len(self._known) >= VALUES_MAX:
                self.crowded_total += 1
                return (OTHERS,) * len(raw)
            found = self._known[raw] = tuple(map(safe, raw))
        return found

    def path(self, second: int, values: tuple[str, ...], node: str, source: str) -> str:
        """The file for records of one second."""
        of = dict(zip(self.fields, values, strict=True)) | {
            "node": safe(node),
            "source": safe(source),
        }
        text = self._parts[0]
        for argument, letter, literal in zip(
            self._parts[1::3], self._parts[2::3], self._parts[3::3], strict=True
        ):
            if letter == "t":
                text += time.strftime(argument, self._split(second))
            elif letter == "%":
                text += "%"
            else:
                text += of[FIELDS.get(letter) or _OWN[letter]]
            text += literal
        return "/".join(map(_short, text.split("/")))


def _short(part: str) -> str:
    """A part of a path that a file system takes; one that is cut has a checksum instead."""
    raw = part.encode()
    if len(raw) <= PART_MAX:
        return part
    digest = hashlib.sha256(raw).hexdigest()[:16]
    return raw[: PART_MAX - 17].decode(errors="ignore") + "~" + digest


def period(interval: Interval, second: int, *, local: bool) -> str:
    """A label of the interval that a second lies in; labels of later ones sort behind it."""
    moment = time.localtime(second) if local else time.gmtime(second)
    match interval:
        case Interval.HOURLY:
            return time.strftime("%Y%m%d%H", moment)
        case Interval.DAILY:
            return time.strftime("%Y%m%d", moment)
        case Interval.WEEKLY:
            since_sunday = (moment.tm_wday + 1) % 7
            # At noon, so that an hour more or less in a day makes no difference.
            noon = second + (12 - moment.tm_hour) * 3600 - since_sunday * _DAY
            return time.strftime("%Y%m%d", time.localtime(noon) if local else time.gmtime(noon))
        case Interval.MONTHLY:
            return time.strftime("%Y%m", moment)
        case _:
            return ""
