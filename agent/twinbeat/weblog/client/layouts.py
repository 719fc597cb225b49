# SPDX-License-Identifier: Apache-2.0
"""How the lines of a source are read: nginx's log_format, Apache's LogFormat, haproxy's httplog.

A format becomes one regular expression over a whole payload, with a group for each field that
somebody wants and none for the others, so a record costs one match in C. Lines that don't match are
kept: they come back as a row of nothing but themselves.

Fields: client, ident, user, time, request, method, uri, path, query, protocol, status, bytes, sent,
received, seconds, millis, micros, host, server, port, scheme, frontend, backend; in:NAME and
out:NAME are headers of request and response.
"""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from twinbeat.weblog.client.model import FormatError

FORMAT_MAX: Final = 4096
TEXT_MAX: Final = 1024
TEXTS_MAX: Final = 2
"""Fields of that kind in a format."""
LINE_MAX: Final = 64 << 10
"""Bytes of a line that is looked into; a longer one counts as one that can't be read."""

Row = tuple[bytes, ...]
"""The line, then the fields wanted; the line alone where it can't be read."""

OF_REQUEST: Final = ("method", "uri", "path", "query", "protocol")
"""What is found in a request line."""

_NGINX_NAMED: Final = {
    "combined": '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent '
    '"$http_referer" "$http_user_agent"',
}
_APACHE_NAMED: Final = {
    "common": '%h %l %u %t "%r" %>s %b',
    "combined": '%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"',
    "vhost_combined": '%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i"',
    "vhost_common": '%v %h %l %u %t "%r" %>s %b',
}
_HAPROXY: Final = '{client}:{} [{time}] {frontend} {backend}/{} {} {status} {bytes} {*} "{request}"'
"""`option httplog`; what has no name is of no use to a web log."""

_NGINX_FIELDS: Final = {
    "remote_addr": "client",
    "realip_remote_addr": "client",
    "remote_user": "user",
    "time_local": "time",
    "time_iso8601": "time",
    "msec": "time",
    "request": "request",
    "status": "status",
    "body_bytes_sent": "bytes",
    "bytes_sent": "sent",
    "request_length": "received",
    "request_time": "seconds",
    "host": "host",
    "http_host": "host",
    "server_name": "host",
    "server_addr": "server",
    "server_port": "port",
    "request_method": "method",
    "request_uri": "uri",
    "uri": "path",
    "args": "query",
    "query_string": "query",
    "server_protocol": "protocol",
    "scheme": "scheme",
}
_NGINX_TIMES: Final = {"time_local": "clf", "time_iso8601": "iso", "msec": "epoch"}
_APACHE_FIELDS: Final = {
    "h": "client",
    "a": "client",
    "l": "ident",
    "u": "user",
    "t": "time",
    "r": "request",
    "s": "status",
    "b": "bytes",
    "B": "bytes",
    "O": "sent",
    "I": "received",
    "D": "micros",
    "T": "seconds",
    "v": "host",
    "V": "host",
    "A": "server",
    "p": "port",
    "m": "method",
    "U": "path",
    "q": "query",
    "H": "protocol",
}
_NGINX_PART: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_APACHE_PART: Final = re.compile(r"%[<>!\d,]*(?:\{([^}]*)\})?(\^[a-z]{2}|[A-Za-z%])")
_HAPROXY_PART: Final = re.compile(r"\{(\w*)(\*?)\}")


class Wide(enum.Enum):
    """Blanks in a field, so that no line takes a time that grows with a power of its length."""

    NO = ""
    LIST = "list"
    """As nginx writes what several upstreams said: with `, ` and ` : ` between them."""
    TEXT = "text"
    """Anything, up to `TEXT_MAX` bytes."""


@dataclass(frozen=True, slots=True)
class Field:
    """A part of a line that is not always the same."""

    name: str = ""
    """Empty: nobody can ask for it."""
    wide: Wide = Wide.NO
    """Whether it may have blanks in it."""


Part = str | Field


@dataclass(frozen=True, slots=True)
class Layout:
    """A format that was understood."""

    parts: tuple[Part, ...] = ()
    time: str = ""
    """How times are written: clf, iso, epoch, haproxy; empty = it has none."""

    @property
    def fields(self) -> frozenset[str]:
        """What can be asked for."""
        found = {part.name for part in self.parts if isinstance(part, Field)} - {""}
        if "request" in found:
            found |= set(OF_REQUEST)
        if "uri" in found:
            found |= {"path", "query"}
        return frozenset(found)

    def reader(self, wanted: Iterable[str]) -> Reader:
        """Reads lines into rows with these fields; those that the format has not are empty."""
        return Reader(self.parts, tuple(wanted))


NOTHING: Final = Layout()
"""Of a source whose lines are just lines."""


def layout(kind: str, text: str) -> Layout:
    """How the lines of a source are built. Raises FormatError with what can't be understood."""
    text = text.strip()
    if len(text) > FORMAT_MAX:
        raise FormatError(f"the format has more than {FORMAT_MAX} characters")
    if kind == "syslog":
        return _by_syslog(layout("raw", "") if text in {"", "raw"} else layout("", text))
    if kind == "raw" or text == "raw":
        return NOTHING
    if text == "httplog" or (kind == "haproxy" and not text):
        return _built(_HAPROXY, _HAPROXY_PART, _haproxy_field)
    if "$" in text or (kind == "nginx" and text in {"", *_NGINX_NAMED}):
        return _built(_NGINX_NAMED.get(text or "combined", text), _NGINX_PART, _nginx_field)
    if "%" in text or text in _APACHE_NAMED or (kind == "apache" and not text):
        return _built(_APACHE_NAMED.get(text or "combined", text), _APACHE_PART, _apache_field)
    known = ", ".join(sorted({*_NGINX_NAMED, *_APACHE_NAMED, "httplog", "raw"}))
    raise FormatError(f"the format `{text[:64]}` is none of {known}, nor is it written out")


def _built(
    text: str,
    variable: re.Pattern[str],
    field: Callable[[re.Match[str]], tuple[Sequence[Part], str]],
) -> Layout:
    """The parts of a format; `field` says what a variable is, and how a time in it is written."""
    parts: list[Part] = []
    time, end = "", 0
    for found in variable.finditer(text):
        parts.append(text[end : found.start()])
        end = found.end()
        made, way = field(found)
        if way and time:
            made = [Field(wide=Wide.TEXT)]  # the same moment once more, in another spelling
        time = time or way
        parts += made
    parts.append(text[end:])
    told = [part for part in parts if part != ""]
    for one, other in itertools.pairwise(told):
        if isinstance(one, Field) and isinstance(other, Field):
            raise FormatError("two variables stand side by side: nothing says where one ends")
    texts = sum(isinstance(part, Field) and part.wide is Wide.TEXT for part in told[:-1])
    if texts > TEXTS_MAX:
        raise FormatError(f"more than {TEXTS_MAX} fields may have blanks in them")
    return Layout(tuple(told), time)


def _by_syslog(message: Layout) -> Layout:
    """`<PRI>TIME HOST PROGRAM PROCESS MESSAGE`, as nodes write what came by syslog."""
    own = Field("" if message.time else "time")
    head: list[Part] = ["<", Field(), ">", own, " "]
    for _ in ("host", "program", "process"):
        head += [Field(), " "]
    rest: tuple[Part, ...] = message.parts or (Field(wide=Wide.TEXT),)
    if isinstance(rest[0], str):
        # Two literals side by side are one.
        head[-1:] = [" " + rest[0]]
        rest = rest[1:]
    return Layout((*head, *rest), message.time or "iso")


def _nginx_field(found: re.Match[str]) -> tuple[Sequence[Part], str]:
    name = found.group(1) or found.group(2)
    field = _NGINX_FIELDS.get(name, "")
    if not field and name.startswith("http_"):
        field = "in:" + name[5:].replace("_", "-")
    elif not field and name.startswith("sent_http_"):
        field = "out:" + name[10:].replace("_", "-")
    if name.startswith("upstream_"):
        return [Field(field, Wide.LIST)], ""
    way = _NGINX_TIMES.get(name, "")
    # One is without blanks, and of the other it is known where.
    return [Field(field, Wide.TEXT if way == "clf" else Wide.NO)], way


def _apache_field(found: re.Match[str]) -> tuple[Sequence[Part], str]:
    argument, letter = found.group(1), found.group(2)
    if letter == "%":
        return ["%"], ""
    if letter == "t" and not argument:
        return ["[", Field("time", Wide.TEXT), "]"], "clf"
    if letter in {"i", "o"} and argument:
        name = argument.lower()
        if (letter, name) == ("i", "host"):
            return [Field("host")], ""
        return [Field(("in:" if letter == "i" else "out:") + name)], ""
    if letter == "T" and argument in {"ms", "us"}:
        return [Field("millis" if argument == "ms" else "micros")], ""
    if argument:
        return [Field(wide=Wide.TEXT if letter == "t" else Wide.NO)], ""
    return [Field(_APACHE_FIELDS.get(letter, ""))], ""


def _haproxy_field(found: re.Match[str]) -> tuple[Sequence[Part], str]:
    name = found.group(1)
    wide = Wide.TEXT if found.group(2) else Wide.NO
    return [Field(name, wide)], "haproxy" if name == "time" else ""


# -- reading -----------------------------------------------------------------------------------


class Reader:
    """Reads payloads into rows."""

    def __init__(self, parts: tuple[Part, ...], wanted: tuple[str, ...]) -> None:
        self.wanted = wanted
        made = _Expression(parts, frozenset(wanted))
        self._lines = re.compile(b"^(" + made.text + b")$", re.MULTILINE)
        self._empty = not parts or not wanted
        order = [0, *(made.groups.get(name, -1) + 1 for name in wanted)]
        # Groups come in the order of the line, and a field that is missing has none.
        self._pick = None if order == list(range(len(order))) else _picker(order)

    def rows(self, payload: bytes, count: int) -> list[Row]:
        """One row for each of the `count` lines, in their order."""
        if not self._empty:
            found = self._lines.findall(payload)
            if len(found) == count:
                return found if self._pick is None else list(map(self._pick, found))
        lines = payload.split(b"\n")
        lines.pop()
        return [self._row(line) for line in lines]

    def _row(self, line: bytes) -> Row:
        if self._empty or len(line) > LINE_MAX:
            return (line,)
        found = self._lines.fullmatch(line)
        if found is None:
            return (line,)
        row = tuple(each or b"" for each in found.groups())
        return row if self._pick is None else self._pick(row)


def _picker(order: list[int]) -> Callable[[Row], Row]:
    """The groups in another order, an empty field where there is none."""
    if 0 not in order[1:]:
        pick = itemgetter(*order)
        return lambda row: pick(row) if len(order) > 1 else (row[order[0]],)
    first, *rest = order
    return lambda row: (row[first], *(row[each] if each else b"" for each in rest))


class _Expression:
    """The regular expression of a line, with groups for what is wanted only."""

    def __init__(self, parts: tuple[Part, ...], wanted: frozenset[str]) -> None:
        self.groups: dict[str, int] = {}
        """Field -> number of its group, from 0."""
        self._wanted = wanted
        pieces = []
        for number, part in enumerate(parts):
            if isinstance(part, str):
                pieces.append(re.escape(part.encode()))
                continue
            after = parts[number + 1] if number + 1 < len(parts) else ""
            quoted = after[:1] == '"' if isinstance(after, str) else False
            next_ = after[:1].encode() if isinstance(after, str) else b""
            pieces.append(self._field(part, next_, quoted))
        self.text = b"".join(pieces)

    def _group(self, name: str, text: bytes) -> bytes:
        if name not in self._wanted or name in self.groups:
            return b"(?:" + text + b")"
        self.groups[name] = len(self.groups)
        return b"(" + text + b")"

    def _field(self, part: Field, after: bytes, quoted: bool) -> bytes:
        if quoted:
            any_ = rb'[^"\\\n]*(?:\\.[^"\\\n]*)*'
        elif not after:
            any_ = rb"[^\n]*"
        elif part.wide is Wide.LIST:
            any_ = rb"[^ ,\n]*(?:(?:,| :) [^ ,\n]*)*"
        elif part.wide is Wide.TEXT and after == b" ":
            any_ = rb"[^\n]{0,%d}?" % TEXT_MAX
        else:
            any_ = b"[^" + re.escape(after) + rb"\n]*"
        if part.name == "request" and self._wanted & set(OF_REQUEST):
            # One that is not as it should be is still read, as a whole.
            return self._opened("request", lambda: self._request() + b"|" + any_)
        if part.name == "uri" and self._wanted & {"path", "query"}:
            return self._uri()
        return self._group(part.name, any_) if part.name else b"(?:" + any_ + b")"

    def _opened(self, name: str, inside: Callable[[], bytes]) -> bytes:
        """A group around others: it is counted before them."""
        if name in self._wanted and name not in self.groups:
            self.groups[name] = len(self.groups)
            return b"(" + inside() + b")"
        return b"(?:" + inside() + b")"

    def _uri(self) -> bytes:
        def inside() -> bytes:
            path = self._group("path", rb'[^ ?"\n]*')
            return path + rb"(?:\?" + self._group("query", rb'[^ "\n]*') + b")?"

        return self._opened("uri", inside)

    def _request(self) -> bytes:
        method = self._group("method", rb"[A-Za-z]+")
        uri = self._uri()
        return method + b" " + uri + b" " + self._group("protocol", rb"HTTP/[\d.]+")
