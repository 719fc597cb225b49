# SPDX-License-Identifier: Apache-2.0
"""Where records come from, as the shared configuration says it. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Annotated, Final

from msgspec import Meta, Struct

from twinbeat.places import is_own
from twinbeat.weblog.block import NAME_MAX
from twinbeat.weblog.messages import SOURCES_MAX, Kind, Source

PATH_MAX: Final = 4095
SOCKET_MAX: Final = 107
"""Bytes of `sun_path`, without the null character."""


class LogSource(Struct, frozen=True, kw_only=True):
    """A row of the section ``logsource``. One of path, socket and listen is set."""

    name: Annotated[str, Meta(max_length=NAME_MAX)]
    kind: Kind
    path: str = ""
    """A file that grows."""
    socket: str = ""
    """A unix datagram socket to make, for syslog."""
    listen: str = ""
    """ADDRESS:PORT for syslog over UDP."""
    format: str = ""
    history: bool = True
    """Take what is in the file already when it is read for the first time."""

    @property
    def told(self) -> Source:
        """What clients hear of it."""
        return Source(name=self.name, kind=self.kind, format=self.format)


def endpoint(text: str) -> tuple[str, int] | None:
    """Address and port, or None where that is none: ``127.0.0.1:5514``, ``[::1]:5514``."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        return None
    return (host, number) if 0 < number < 65536 else None


def problems(rows: Iterable[LogSource]) -> Iterator[tuple[int, str, object, str]]:
    """What is wrong: which row, its key, the value, and what it should be."""
    seen: dict[tuple[str, str], str] = {}
    for at, row in enumerate(rows):
        if at == SOURCES_MAX:
            yield at, "name", row.name, f"one of at most {SOURCES_MAX} sources"
        given = [key for key in ("path", "socket", "listen") if getattr(row, key)]
        if len(given) != 1:
            right = "one of path, socket and listen: where the records come from"
            yield at, given[1] if given else "path", getattr(row, given[1]) if given else "", right
            continue
        key, value = given[0], getattr(row, given[0])
        if (wrong := _wrong(key, value)) is not None:
            yield at, key, value, wrong
        if (other := seen.setdefault((key, value), row.name)) != row.name:
            yield at, key, value, f"another one than that of {other!r}: it would be taken twice"


def _wrong(key: str, value: str) -> str | None:
    if key == "listen":
        right = "ADDRESS:PORT, for example 127.0.0.1:5514"
        return None if endpoint(value) is not None else right
    if not value.startswith("/") or "\0" in value or "/../" in value or value.endswith("/"):
        return "the absolute path of a file"
    if is_own(value):
        return "outside of the directories in which a node has its keys, its state and its sockets"
    most = SOCKET_MAX if key == "socket" else PATH_MAX
    return None if len(value.encode()) <= most else f"a path of at most {most} bytes"
