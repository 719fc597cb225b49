# SPDX-License-Identifier: Apache-2.0
"""Servers of pools: who is taken to live, and when that changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from twinbeat.sessions.rules import Pool
from twinbeat.sessions.ruleset import chosen
from twinbeat.sessions.servers import Server, Servers

POOL = Pool(
    name="web",
    servers=("10.0.0.1", "10.0.0.2", "fd00::1"),
    probe_port=80,
    interval_ms=50,
    timeout_ms=50,
    rise=2,
    fall=3,
)


class Host:
    """Answers for servers, and counts who was asked how."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.wrong = ""
        self.asked: list[tuple[str, str, int]] = []
        self.changed: list[tuple[str, str, bool]] = []
        self.servers = Servers(self._ask, self._turned)

    def _turned(self, pool: str, server: Server) -> None:
        self.changed.append((pool, server.address, server.failed))

    async def _ask(self, address: str, how: str, port: int, timeout_s: float) -> tuple[bool, str]:
        assert timeout_s == 0.05
        self.asked.append((address, how, port))
        if address == self.wrong:
            raise ValueError("a mistake of ours")
        if address in self.dead:
            raise OSError(113, "No route to host")
        return True, "fine"

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():  # noqa: ASYNC110 - what is waited for is the code under test
                await asyncio.sleep(0.01)


def run(work: Callable[[Host], Awaitable[None]]) -> None:
    async def bounded() -> None:
        host = Host()
        try:
            async with asyncio.timeout(100):
                await work(host)
        finally:
            host.servers.close()

    asyncio.run(bounded())


def test_rise_and_fall_count_what_comes_in_a_row() -> None:
    server = Server("10.0.0.1")
    found = [False, False, True, False, False, False, True, False, True, True]
    turned = [server.note(POOL, holds=holds, sentence="") for holds in found]
    assert [at for at, each in enumerate(turned) if each] == [5, 9]
    assert (server.failed, server.failures) == (False, 1)


def test_a_server_that_falls_silent_fails_and_comes_back() -> None:
    async def work(host: Host) -> None:
        host.servers.configure([POOL])
        host.dead = {"10.0.0.2"}
        await host.until(lambda: host.servers.failed() == {"web": frozenset({"10.0.0.2"})})
        assert host.changed == [("web", "10.0.0.2", True)]
        assert "No route to host" in host.servers.all()["web"]["10.0.0.2"].sentence
        host.dead = set()
        await host.until(lambda: host.servers.failed() == {"web": frozenset()})
        assert host.changed == [("web", "10.0.0.2", True), ("web", "10.0.0.2", False)]
        assert set(host.asked) == {(each, "tcp", 80) for each in POOL.servers}

    run(work)


def test_what_is_known_of_a_server_outlasts_another_configuration() -> None:
    async def work(host: Host) -> None:
        host.dead = {"10.0.0.2"}
        host.servers.configure([POOL])
        await host.until(lambda: bool(host.servers.failed()["web"]))
        host.servers.configure([replace(POOL, servers=("10.0.0.2", "10.0.0.3"))])
        assert host.servers.failed() == {"web": frozenset({"10.0.0.2"})}
        host.servers.configure([replace(POOL, probe="none")])
        assert host.servers.failed() == {"web": frozenset()}

    run(work)


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({}, ("tcp", 80)),
        ({"probe_port": 0}, ("icmp", 0)),
        ({"probe_port": 0, "port": 8080}, ("tcp", 8080)),
        ({"probe": "icmp"}, ("icmp", 0)),
        ({"probe": "none"}, ("none", 0)),
    ],
)
def test_how_servers_are_asked(changes: dict[str, object], how: tuple[str, int]) -> None:
    assert replace(POOL, **changes).probed() == how


def test_those_that_live_and_are_enabled_are_chosen_or_all_that_are_enabled() -> None:
    pool = replace(POOL, servers=("10.0.0.1", "10.0.0.2", "10.0.0.3"), disabled=("10.0.0.3",))
    assert chosen(pool, 4, frozenset()) == ("10.0.0.1", "10.0.0.2")
    assert chosen(pool, 4, frozenset({"10.0.0.1"})) == ("10.0.0.2",)
    assert chosen(pool, 4, frozenset({"10.0.0.1", "10.0.0.2"})) == ("10.0.0.1", "10.0.0.2")
    assert chosen(pool, 6, frozenset()) == ()


def test_a_mistake_about_one_server_ends_the_looking_at_none() -> None:
    async def work(host: Host) -> None:
        host.wrong = "10.0.0.1"
        host.servers.configure([POOL])
        await host.until(lambda: host.servers.failed() == {"web": frozenset({"10.0.0.1"})})
        assert "ValueError" in host.servers.all()["web"]["10.0.0.1"].sentence
        host.wrong = ""
        await host.until(lambda: host.servers.failed() == {"web": frozenset()})

    run(work)
