# SPDX-License-Identifier: Apache-2.0
"""Syslog over real sockets: what comes is gathered, what can't be taken is refused and counted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from twinbeat.weblog import receiver as receivers
from twinbeat.weblog.receiver import BUFFER, DATAGRAM_MAX, Receiver
from twinbeat.weblog.sources import LogSource, endpoint, problems
from unit.worker_pair import PATIENCE_S, free_port, looped, until

NGINX = b"<190>Nov 23 21:59:58 gw1 nginx: GET /%d"


@contextlib.asynccontextmanager
async def listening(source: LogSource, *, room: bool = True) -> AsyncIterator[Receiver]:
    receiver = Receiver(source, lambda: room)
    receiver.open()
    try:
        yield receiver
    finally:
        receiver.close()


async def gathered(receiver: Receiver, count: int) -> list[bytes]:
    found: list[bytes] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count:
        assert time.monotonic() < deadline, found
        if (chunk := receiver.gathered()) is not None:
            payload, number = chunk
            assert payload.count(b"\n") == number
            found += payload[:-1].split(b"\n")
        else:
            await asyncio.sleep(0.005)
    return found


@looped
async def test_a_unix_socket_is_made_for_everybody_and_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "web"
    source = LogSource(name="web", kind="nginx", socket=str(path))
    left_over = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    left_over.bind(str(path))
    left_over.close()
    async with listening(source) as receiver:
        assert receiver.why == ""
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.connect(str(path))
            for n in range(5):
                server.send(NGINX % n)
            server.send(b"not syslog at all")
            server.send(b"<190>Nov 23 21:59:58 gw1 nginx: two\nlines")
            server.send(b"\n")
        found = await gathered(receiver, 7)
        assert found == [*(b"GET /%d" % n for n in range(5)), b"not syslog at all", b"two\\nlines"]
        assert receiver.counts["malformed"] == 2
        assert receiver.counts["empty"] == 1
    assert not path.exists()


@looped
async def test_udp(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "::1"):
        port = free_port()
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        async with listening(LogSource(name="lb", kind="syslog", listen=where)) as receiver:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as server:
                server.sendto(b"<134>1 2026-11-23T22:00:00Z gw1 haproxy 12 - - up", (host, port))
                found = await gathered(receiver, 1)
            assert found == [b"<134>2026-11-23T22:00:00Z gw1 haproxy 12 up"]


@looped
async def test_a_datagram_that_is_too_long_is_cut_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "web"
    async with listening(LogSource(name="web", kind="raw", socket=str(path))) as receiver:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.connect(str(path))
            server.send(b"x" * DATAGRAM_MAX)
            server.send(b"y" * (DATAGRAM_MAX + 1))
        assert await gathered(receiver, 2) == [b"x" * DATAGRAM_MAX, b"y" * DATAGRAM_MAX]
        assert receiver.counts["cut"] == 1


@looped
async def test_no_more_waits_than_is_allowed(tmp_path: Path) -> None:
    port = free_port()
    source = LogSource(name="lb", kind="raw", listen=f"127.0.0.1:{port}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receivers, "WAITING_MAX", 1000)
        async with listening(source) as receiver:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
                for _ in range(50):
                    server.sendto(b"x" * 99, ("127.0.0.1", port))
            await until(lambda: receiver.counts["refused"])
            found = await gathered(receiver, 10)
            assert len(found) + receiver.counts["refused"] <= 50
            assert len(found) == 10


@looped
async def test_without_room_datagrams_are_refused_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "web"
    source = LogSource(name="web", kind="raw", socket=str(path))
    async with listening(source, room=False) as receiver:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.connect(str(path))
            server.send(b"lost")
        deadline = time.monotonic() + PATIENCE_S
        while receiver.counts["refused"] != 1:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        assert receiver.gathered() is None


@looped
async def test_what_the_kernel_has_no_room_for_is_counted(tmp_path: Path) -> None:
    port = free_port()
    source = LogSource(name="lb", kind="raw", listen=f"127.0.0.1:{port}")
    async with listening(source) as receiver:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            # The loop has no turn meanwhile, so nobody takes anything.
            for _ in range(2 * BUFFER // 60_000 + 1):
                server.sendto(b"x" * 60_000, ("127.0.0.1", port))
        receiver.look()
        missed = receiver.counts["missed"]
        assert missed > 0
        receiver.look()
        assert receiver.counts["missed"] == missed


@looped
async def test_what_can_not_be_listened_at_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("a log, say")
    for source in (
        LogSource(name="web", kind="nginx", socket=str(taken)),
        LogSource(name="web", kind="nginx", socket=str(tmp_path / "none" / "web")),
        LogSource(name="web", kind="nginx", listen="192.0.2.1:5514"),
    ):
        async with listening(source) as receiver:
            assert (source.socket or source.listen) in receiver.why
    assert taken.read_text() == "a log, say", "nobody's file is removed"


def test_where_records_come_from_is_said_once_and_rightly() -> None:
    rows = [
        LogSource(name="right", kind="nginx", path="/var/log/a"),
        LogSource(name="nowhere", kind="nginx"),
        LogSource(name="both", kind="nginx", path="/var/log/b", listen="127.0.0.1:5514"),
        LogSource(name="relative", kind="nginx", path="log"),
        LogSource(name="port", kind="nginx", listen="127.0.0.1"),
        LogSource(name="host", kind="nginx", listen="localhost:5514"),
        LogSource(name="long", kind="nginx", socket="/" + "x" * 200),
        LogSource(name="twice", kind="nginx", path="/var/log/a"),
    ]
    found = [(rows[at].name, key) for at, key, _, _ in problems(rows)]
    assert found == [
        ("nowhere", "path"),
        ("both", "listen"),
        ("relative", "path"),
        ("port", "listen"),
        ("host", "listen"),
        ("long", "socket"),
        ("twice", "path"),
    ]
    assert endpoint("[::1]:5514") == ("::1", 5514)
    assert endpoint("127.0.0.1:0") is None
