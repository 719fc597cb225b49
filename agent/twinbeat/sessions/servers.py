# SPDX-License-Identifier: Apache-2.0
"""Which servers live: what looking at them makes of each, with rise and fall. Pure but for the loop
that looks; how a server is asked is given from outside.

A server is taken to live until it has failed `fall` times in a row, so that a worker that starts
takes nobody's server away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from twinbeat.sessions.rules import Pool

log = logging.getLogger("twinbeat.worker")

Ask = Callable[[str, str, int, float], Awaitable[tuple[bool, str]]]
"""Asks an address by `tcp` or `icmp`, at a port, within seconds: whether it lives, a sentence."""


@dataclass(slots=True)
class Server:
    """One server of one pool, as it was found."""

    address: str
    failed: bool = False
    sentence: str = "not looked at yet"
    streak: int = 0
    """Findings in a row that say otherwise than `failed`."""
    failures: int = 0
    """Times that it failed."""

    def note(self, pool: Pool, *, holds: bool, sentence: str) -> bool:
        """Take in what was found; whether it stands otherwise now."""
        self.sentence = sentence
        if holds != self.failed:
            self.streak = 0
            return False
        self.streak += 1
        if self.streak < (pool.rise if self.failed else pool.fall):
            return False
        self.failed, self.streak = not self.failed, 0
        self.failures += self.failed
        return True


@dataclass(slots=True)
class _Watched:
    pool: Pool
    servers: dict[str, Server] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class Servers:
    """Looks at the servers of all pools."""

    def __init__(self, ask: Ask, changed: Callable[[str, Server], None]) -> None:
        """``changed`` is told of a server that stands otherwise, and the name of its pool."""
        self._ask = ask
        self._changed = changed
        self._pools: dict[str, _Watched] = {}

    def configure(self, pools: Iterable[Pool]) -> None:
        """Look at these from now on. What is known of a server that stays in its pool is kept."""
        wanted = {pool.name: pool for pool in pools}
        for name in [name for name in self._pools if name not in wanted]:
            self._end(self._pools.pop(name))
        for name, pool in wanted.items():
            before = self._pools.get(name)
            if before is not None and before.pool == pool:
                continue
            known = before.servers if before is not None else {}
            if before is not None:
                self._end(before)
            addresses = (*pool.of(4), *pool.of(6))
            servers = {each: known.get(each, Server(each)) for each in addresses}
            watched = self._pools[name] = _Watched(pool, servers)
            if pool.probed()[0] != "none":
                watched.task = asyncio.get_running_loop().create_task(self._watch(watched))
            else:
                for server in servers.values():
                    server.failed, server.sentence = False, "not looked at"

    def close(self) -> None:
        """Look at nobody any more."""
        self.configure(())

    def failed(self) -> Mapping[str, frozenset[str]]:
        """By pool, those that don't live."""
        return {
            name: frozenset(each.address for each in watched.servers.values() if each.failed)
            for name, watched in self._pools.items()
        }

    def all(self) -> Mapping[str, Mapping[str, Server]]:
        """By pool and address."""
        return {name: watched.servers for name, watched in self._pools.items()}

    @staticmethod
    def _end(watched: _Watched) -> None:
        if watched.task is not None:
            watched.task.cancel()

    async def _watch(self, watched: _Watched) -> None:
        pool = watched.pool
        how, port = pool.probed()
        while True:
            beat = asyncio.create_task(asyncio.sleep(pool.interval_ms / 1000))
            try:
                await asyncio.gather(
                    *(self._look(watched, each, how, port) for each in watched.servers.values())
                )
                await beat
            finally:
                beat.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await beat

    async def _look(self, watched: _Watched, server: Server, how: str, port: int) -> None:
        pool = watched.pool
        try:
            holds, sentence = await self._ask(server.address, how, port, pool.timeout_ms / 1000)
        except OSError as error:
            holds, sentence = False, f"{server.address} can't be asked: {error.strerror or error}"
        except Exception as error:
            # Whatever it is, it is no reason to look at no server of the pool any more.
            log.exception("asking %s went wrong", server.address)
            holds, sentence = False, f"{server.address} can't be asked: {type(error).__name__}"
        if server.note(pool, holds=holds, sentence=sentence):
            self._changed(pool.name, server)
