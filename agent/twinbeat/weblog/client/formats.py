# SPDX-License-Identifier: Apache-2.0
"""How records are written: as they came, NCSA, W3C extended, or by specifiers.

A format is made for one layout of a source at a time: then it is known which fields there are, and
a record costs a few look-ups. What a source doesn't log is written as `-`.

NCSA is the Common Log Format of NCSA httpd; W3C that of the working draft WD-logfile-960323, with
`+` for blanks within a field. The specifiers are those of the reference's client as far as a log of
a web server has what they stand for; %N, %E, %Q, %X and %L are Twinbeat's own.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from twinbeat import __version__
from twinbeat.weblog.client.layouts import Layout, Row
from twinbeat.weblog.client.model import FormatError, Kind, Writing

CLF_TIME: Final = "%d/%b/%Y:%H:%M:%S %z"
W3C_DEFAULT: Final = (
    "date time c-ip cs-username s-ip s-port cs-method cs-uri-stem cs-uri-query sc-status sc-bytes "
    "cs-bytes time-taken cs-version cs-host cs(User-Agent) cs(Referer)"
)

YEAR_10000: Final = 253_402_300_800
"""Unix seconds; whoever forges a line may write any number, and C's time functions refuse some."""
NUMBER_END: Final = 1e15
"""Seconds, or their thousandths, millionths, beyond which nothing is a duration."""

Get = Callable[[Row], bytes]

_SPECIFIERS: Final = {
    "a": "client",
    "h": "client",
    "A": "server",
    "B": "bytes",
    "b": "bytes",
    "J": "sent",
    "H": "protocol",
    "I": "received",
    "j": "received",
    "l": "ident",
    "m": "method",
    "M": "micros",
    "D": "micros",
    "p": "port",
    "q": "query",
    "r": "request",
    "s": "status",
    "T": "seconds",
    "u": "user",
    "U": "path",
    "v": "host",
    "V": "host",
}
_OWN: Final = {"N": "node", "E": "epoch", "Q": "sequence", "X": "source", "L": "line"}
"""What the record itself brings, whatever its source logs."""
_SPECIFIER: Final = re.compile(r"%[<>+]*(?:\{([^}]*)\})?(.?)", re.DOTALL)

_W3C: Final = {
    "date": "%{%Y-%m-%d}t",
    "time": "%{%H:%M:%S}t",
    "c-ip": "%a",
    "cs-username": "%u",
    "s-ip": "%A",
    "s-port": "%p",
    "s-computername": "%N",
    "cs-method": "%m",
    "cs-uri": "%{uri}f",
    "cs-uri-stem": "%U",
    "cs-uri-query": "%q",
    "sc-status": "%s",
    "sc-bytes": "%B",
    "cs-bytes": "%j",
    "time-taken": "%T",
    "cs-version": "%H",
    "cs-host": "%v",
}
_W3C_HEADER: Final = re.compile(r"(cs|sc)\(([A-Za-z0-9-]+)\)")
_MONTHS: Final = {name.encode(): number for number, name in enumerate(calendar.month_abbr[1:], 1)}
_UNITS: Final = {"seconds": 1.0, "millis": 1e-3, "micros": 1e-6}


def explained() -> Iterator[tuple[str, str]]:
    """Each specifier and what stands for it, for the manual."""
    for letter, field in (*_SPECIFIERS.items(), *_OWN.items()):
        yield f"%{letter}", f"{field.capitalize()}."
    yield "%t, %{FORMAT}t", "Time, as strftime(3) has it."
    yield "%{NAME}i, %{NAME}o", "Header of the request, of the answer."


@dataclass(slots=True)
class Here:
    """What all records of a block have in common, and the number of the one at hand."""

    node: bytes = b""
    epoch: int = 0
    source: bytes = b""
    received_s: int = 0
    """When the node got them: the time of records that have none."""
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """A literal, or a field and what is to be done with it."""

    literal: str = ""
    field: str = ""
    argument: str = ""


def check(kind: Kind, text: str) -> None:
    """Raises FormatError if a filter's format can't be understood."""
    _pieces(kind, text)


def _pieces(kind: Kind, text: str) -> list[_Piece]:
    match kind:
        case Kind.RAW:
            return [_Piece(field="line")]
        case Kind.NCSA:
            return _custom('%a - %u [%t] "%r" %s %B')
        case Kind.W3C:
            return _custom(" ".join(_w3c(name) for name in w3c_fields(text)))
        case Kind.CUSTOM:
            if not text:
                raise FormatError('CUSTOM needs specifiers, such as `%h %l %u [%t] "%r" %s %B`.')
            return _custom(text)


def w3c_fields(text: str) -> list[str]:
    """The names of a W3C format's fields."""
    return (text or W3C_DEFAULT).split()


def _w3c(name: str) -> str:
    if known := _W3C.get(name.lower()):
        return known
    if found := _W3C_HEADER.fullmatch(name):
        return f"%{{{found.group(2)}}}{'i' if found.group(1) == 'cs' else 'o'}"
    known_ = ", ".join([*_W3C, "cs(HEADER)", "sc(HEADER)"])
    raise FormatError(f"W3C has no field `{name}` here; there are {known_}.")


def _custom(text: str) -> list[_Piece]:
    made, end = [], 0
    for found in _SPECIFIER.finditer(text):
        if found.start() > end:
            made.append(_Piece(literal=text[end : found.start()]))
        end = found.end()
        made.append(_specified(found))
    if end < len(text):
        made.append(_Piece(literal=text[end:]))
    return made


def _specified(found: re.Match[str]) -> _Piece:
    argument, letter = found.group(1), found.group(2)
    match letter:
        case "%" if argument is None:
            return _Piece(literal="%")
        case "i" | "o" if argument:
            name = argument.lower()
            if (letter, name) == ("i", "host"):
                return _Piece(field="host")
            return _Piece(field=("in:" if letter == "i" else "out:") + name)
        case "t":
            return _Piece(field="time", argument=argument or CLF_TIME)
        case "f" if argument == "uri":
            return _Piece(field="uri")
        case _ if argument is None and letter in _SPECIFIERS:
            return _Piece(field=_SPECIFIERS[letter])
        case _ if argument is None and letter in _OWN:
            return _Piece(field=_OWN[letter])
    known = " ".join(f"%{each}" for each in [*_SPECIFIERS, *_OWN])
    raise FormatError(
        f"`{found.group()}` is no specifier; there are {known} %t %{{format}}t %{{header}}i "
        "%{header}o %%."
    )


class Format:
    """A filter's format for the records of one layout."""

    def __init__(self, writing: Writing, layout: Layout) -> None:
        self._pieces = _pieces(writing.kind, writing.format)
        self._kind = writing.kind
        self._local = writing.local
        self._layout = layout
        self._fields = w3c_fields(writing.format) if writing.kind is Kind.W3C else []
        self.is_raw = self._pieces == [_Piece(field="line")]
        self.counts = any(piece.field == "sequence" for piece in self._pieces)
        """Whether each record's number has to be known."""

    @property
    def needs(self) -> list[str]:
        """Fields of the layout that have to be read for it."""
        found = (_resolved(piece.field, self._layout) for piece in self._pieces)
        return sorted({name for name in found if name})

    @property
    def missing(self) -> list[str]:
        """Fields that are asked for and that the source doesn't log: they become `-`."""
        own = {"", "time", *_OWN.values()}
        wanted = {piece.field for piece in self._pieces} - own
        return sorted(name for name in wanted if not _resolved(name, self._layout))

    def head(self, begun_s: float) -> bytes:
        """What a new file begins with."""
        if self._kind is not Kind.W3C:
            return b""
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(begun_s))
        return (
            f"#Version: 1.0\n#Fields: {' '.join(self._fields)}\n"
            f"#Software: twinbeat-weblog {__version__}\n#Start-Date: {begun}\n"
        ).encode()

    def unread(self, line: bytes) -> bytes:
        """A line that could not be read: as it came, so that nothing is lost."""
        return b"#Remark: " + line + b"\n" if self._kind is Kind.W3C else line + b"\n"

    def writer(self, fields: tuple[str, ...], here: Here) -> Get:
        """Makes the line of a row that has these fields behind the line itself."""
        at = {name: number for number, name in enumerate(fields, 1)}
        if self._kind is Kind.W3C:
            fields_ = [self._get(piece, at, here) for piece in self._pieces if piece.field]
            return lambda row: _packed([get(row) for get in fields_])
        gets = list(self._gets(at, here))
        return lambda row: b"".join([get(row) for get in gets])

    def _gets(self, at: dict[str, int], here: Here) -> Iterator[Get]:
        literal = b""
        for piece in self._pieces:
            if not piece.field:
                literal += piece.literal.encode()
                continue
            if literal:
                yield _constant(literal)
                literal = b""
            yield self._get(piece, at, here)
        yield _constant(literal + b"\n")

    def _get(self, piece: _Piece, at: dict[str, int], here: Here) -> Get:
        match piece.field:
            case "line":
                return lambda row: row[0]
            case "node":
                return lambda _: here.node
            case "source":
                return lambda _: here.source
            case "epoch":
                return lambda _: b"%d" % here.epoch
            case "sequence":
                return lambda _: b"%d" % here.sequence
            case "time":
                clock = Clock(self._layout.time, piece.argument, self._local)
                number = at.get("time", 0) if self._layout.time else 0
                if not number:
                    return lambda _: clock.told(here.received_s)
                return lambda row: clock(row[number], here.received_s)
        name = _resolved(piece.field, self._layout)
        number = at.get(name, 0)
        if not number:
            return _constant(b"-")
        if name != piece.field:
            return _duration(number, _UNITS[name] / _UNITS[piece.field], piece.field == "seconds")
        return lambda row: row[number] or b"-"


def _resolved(field: str, layout: Layout) -> str:
    """The field of a layout that a wanted one comes from; empty = there is none."""
    if field in layout.fields:
        return field
    if field in _UNITS:
        return next((unit for unit in _UNITS if unit in layout.fields), "")
    if field == "sent":
        return ""
    return ""


def _constant(value: bytes) -> Get:
    return lambda _: value


def _packed(values: list[bytes]) -> bytes:
    """A line of W3C: blanks separate fields, so none may be within one."""
    line = b"\0".join(values)
    return line.replace(b" ", b"+").replace(b"\t", b"+").replace(b"\0", b" ") + b"\n"


def _duration(number: int, factor: float, broken: bool) -> Get:
    """A duration in another unit."""

    def convert(row: Row) -> bytes:
        try:
            value = float(row[number]) * factor
        except (ValueError, IndexError):
            return b"-"
        if not abs(value) < NUMBER_END:  # Nor is what is no number at all.
            return b"-"
        return b"%.6f" % value if broken else b"%d" % round(value)

    return convert


class Clock:
    """Writes a moment in another way. Records of one second are next to each other: it keeps the
    last answer."""

    def __init__(self, way: str, form: str, local: bool) -> None:
        self._way = way
        self._form = form
        self._split = time.localtime if local else time.gmtime
        self._raw, self._answer = b"", b""
        self._second, self._told = -1, b""

    def __call__(self, raw: bytes, otherwise_s: int) -> bytes:
        """A record's own time; that of its receipt if it can't be understood."""
        if raw != self._raw:
            second = seconds(self._way, raw)
            self._answer = self.told(otherwise_s if second is None else second)
            self._raw = raw
        return self._answer

    def told(self, second: int) -> bytes:
        if second != self._second:
            self._told = time.strftime(self._form, self._split(second)).encode()
            self._second = second
        return self._told


def seconds(way: str, raw: bytes) -> int | None:
    """Unix seconds of a time as a source writes it; None if it isn't one, or one of no use."""
    second = _seconds(way, raw)
    return second if second is not None and 0 <= second < YEAR_10000 else None


def _seconds(way: str, raw: bytes) -> int | None:
    try:
        match way:
            case "clf":
                return _of_day(raw) - _zone(raw[-5:])
            case "haproxy":
                # It has no zone: it is the local time of the node, taken to be this machine's.
                return round(time.mktime((*time.gmtime(_of_day(raw))[:8], -1)))
            case "iso":
                text = raw.decode()
                moment = time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")
                zone = text[19:].lstrip(".0123456789").replace(":", "")
                return calendar.timegm(moment) - (0 if zone in {"", "Z"} else _zone(zone.encode()))
            case "epoch":
                return int(float(raw))
            case _:
                return None
    except (ValueError, KeyError, IndexError, OverflowError):
        return None


def _of_day(raw: bytes) -> int:
    """`23/Nov/2026:22:00:01`, as if it were GMT."""
    return calendar.timegm(
        (
            *(int(raw[7:11]), _MONTHS[raw[3:6]], int(raw[0:2])),
            *(int(raw[12:14]), int(raw[15:17]), int(raw[18:20])),
        )
    )


def _zone(raw: bytes) -> int:
    """`+0130` in seconds."""
    size = int(raw[1:3]) * 3600 + int(raw[3:5]) * 60
    return -size if raw[0:1] == b"-" else size
