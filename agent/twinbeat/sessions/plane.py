# SPDX-License-Identifier: Apache-2.0
"""The data plane of one node: keeps the kernel's table as the rules want it, writes entries that
come from elsewhere into its maps, and learns of those that packets made.

Whatever goes wrong here, the kernel goes on with what it has: entries are made, followed and
forgotten by packets alone. A worker that starts again finds the table and flushes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import Final

from twinbeat.sessions import ruleset, strays
from twinbeat.sessions.entries import Change, Origin, Put, Reason, S, Store, Table
from twinbeat.sessions.kernel import Connections, Element, Held, KernelError, Maps
from twinbeat.sessions.keys import Finder, Seen, packed, server_of
from twinbeat.sessions.rules import Persistence, Pool
from twinbeat.sessions.ruleset import Present

NFT: Final = "/usr/sbin/nft"
NFT_S: Final = 20.0
"""Nobody waits for it longer."""
NOT_RUN: Final = 127
TOO_LONG: Final = 124
"""Exit codes that aren't nft's, as a shell and `timeout` have them."""
MS: Final = 1_000_000
FLUSH_MOST: Final = 1024
"""Elements that are written before other work gets its turn."""
RESTORE_MOST: Final = 4096
"""Entries that are looked at before other work gets its turn."""
SLACK_NS: Final = 1_500 * MS
"""An entry that the kernel prolonged by less was prolonged by news that are on their way."""

_WRITES: Final = frozenset({Reason.DELETED, Reason.EVICTED, Reason.STALE})
"""Reasons for which an entry has to be taken out of the kernel: it does the rest by itself."""

log = logging.getLogger("twinbeat.sessions")


class PlaneError(Exception):
    """The kernel's table can't be made so; the text says why."""


class MissingError(Exception):
    """The kernel's table was made, and is there no more."""


def now_ns() -> int:
    """The clock of entries on this node."""
    return time.monotonic_ns()


class Plane:
    """Raises OSError where there is no netlink for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._maps, self._reader, self._counters = Maps(), Maps(), Maps()
        """Each has a socket of its own: the kernel reads out one thing at a time over one."""
        self._connections: Connections | None = None
        self._pending: dict[tuple[str, bytes], tuple[str, int, bool] | None] = {}
        """Server, end and whether it is new; None = it is to go."""
        self._servers: dict[bytes, str] = {}
        self._finder = Finder(())
        self._rules: dict[str, Persistence] = {}
        self._made: dict[str, str] = {}
        """The counter of each rule that was put into the kernel."""
        self._reading: str | None = None
        """The rule whose map is being read."""
        self._since: set[bytes] = set()
        """Keys of it that were written or heard of meanwhile: what is read of them is older, as the
        kernel has each part ready before it is asked for it."""
        self._addresses: dict[str, frozenset[bytes]] = {}
        self.counts: Counter[str] = Counter()
        """learned, foreign, overflow, repaired, restored, failed"""
        store.listen(self._changed)

    def close(self) -> None:
        """The kernel keeps what it has."""
        self._maps.close()
        self._reader.close()
        self._counters.close()
        self.attend(on=False)

    @property
    def kernel_counts(self) -> Counter[str]:
        """What became of what was written."""
        return self._maps.counts

    # -- the rules ---------------------------------------------------------------------------------

    async def configure(
        self,
        rules: Mapping[str, Persistence],
        pools: Mapping[str, Pool],
        failed: Mapping[str, frozenset[str]],
    ) -> None:
        """Make these rules the kernel's. Raises PlaneError, and what was in force stays so."""
        wanted = [rule for rule in rules.values() if rule.in_kernel]
        try:
            present = self.present()
        except PlaneError:
            if wanted or self._rules:
                raise
            return
        before = self._rules
        if wanted or present.table:
            await _nft(ruleset.maps_script(wanted, present))
            fresh = {rule.name for rule in wanted if ruleset.map_name(rule) not in present.maps}
            self._rules = {rule.name: rule for rule in wanted}
            try:
                await self._fill(fresh)
                await _nft(ruleset.chains_script(wanted, pools, failed, present))
            except PlaneError:
                self._rules = before
                raise
        self._rules = {rule.name: rule for rule in wanted}
        self._made = {rule.name: ruleset.counter_name(rule) for rule in wanted}
        self._finder = Finder(wanted)
        self._addresses = {
            rule.name: frozenset(map(packed, pools[rule.pool].of(rule.version))) for rule in wanted
        }

    async def _fill(self, names: set[str]) -> None:
        """What a rule has is in its new map before anybody follows that."""
        for name in names & self._store.tables.keys():
            table = self._store.tables[name]
            for number, key in enumerate(table.keys(), 1):
                entry = table.get(key, now_ns())
                if entry is not None:
                    self._pending[name, key] = entry.server, entry.expires_ns, True
                if number % FLUSH_MOST == 0:
                    self.flush()
                    await asyncio.sleep(0)
        more = True
        while more:
            more = self.flush()
            await asyncio.sleep(0)

    def present(self) -> Present:
        """What of ours is in the kernel. Raises PlaneError."""
        try:
            return self._counters.present()
        except (KernelError, OSError) as error:
            raise PlaneError(str(error)) from error

    # -- from elsewhere into the kernel ------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        if change.rule not in self._rules or change.origin is Origin.KERNEL:
            return
        at = change.rule, change.key
        if isinstance(change, Put):
            # What is to go and hasn't yet is there still.
            fresh = change.before is None and at not in self._pending
            self._pending[at] = change.entry.server, change.entry.expires_ns, fresh
        elif change.reason in _WRITES:
            self._pending[at] = None
        else:
            self._pending.pop(at, None)

    def flush(self) -> bool:
        """Write what has changed, a bounded number at a time: whether there is more.

        What the kernel refuses is counted, and mended by `reload`.
        """
        if not self._pending:
            return False
        moment = now_ns()
        maps = {
            name: (ruleset.map_name(rule), rule.timeout_s * 1000)
            for name, rule in self._rules.items()
        }
        elements: list[Element] = []
        for at in list(itertools.islice(self._pending, FLUSH_MOST)):
            wanted, (name, key) = self._pending.pop(at), at
            if name not in maps:
                continue
            if name == self._reading:
                self._since.add(key)
            of, timeout_ms = maps[name]
            if wanted is None:
                elements.append(Element(of, key, b"", 0, 0, fresh=False))
                continue
            server, expires_ns, fresh = wanted
            remaining_ms = (expires_ns - moment) // MS
            if remaining_ms > 0 and (data := packed(server)):
                elements.append(Element(of, key, data, timeout_ms, remaining_ms, fresh))
        self._maps.write(elements)
        return bool(self._pending)

    # -- from the kernel ---------------------------------------------------------------------------

    def attend(self, *, on: bool) -> None:
        """Follow new connections, or don't. Raises OSError."""
        if on and self._connections is None:
            self._connections = Connections()
        elif not on and self._connections is not None:
            self._connections.close()
            self._connections = None

    @property
    def descriptor(self) -> int | None:
        """Readable when there are news of connections."""
        return self._connections.fileno() if self._connections is not None else None

    def learn(self) -> tuple[int, bool]:
        """Take in new connections: how many there were, and whether the kernel told of all."""
        if self._connections is None:
            return 0, True
        moment, heard = now_ns(), 0

        def take(seen: Seen) -> None:
            nonlocal heard
            heard += 1
            self._take(seen, moment)

        whole = self._connections.read(take)
        if not whole:
            self.counts["overflow"] += 1
        return heard, whole

    def _take(self, seen: Seen, moment: int) -> None:
        found = self._finder.find(seen)
        if found is None:
            return
        name, key = found
        if seen.server not in self._addresses[name]:
            self.counts["foreign"] += 1
            return
        table = self._store.tables.get(name)
        if name == self._reading:
            self._since.add(key)
        if (name, key) in self._pending:
            if self._pending[name, key] is not None:
                return  # What is to be written is newer.
            del self._pending[name, key]  # A packet made it anew before it was taken out.
        if table is not None:
            self.counts["learned"] += 1
            table.put(key, self._server(seen.server), moment, origin=Origin.KERNEL)

    def _server(self, data: bytes) -> str:
        known = self._servers.get(data)
        if known is None:
            if len(self._servers) > 4096:
                self._servers.clear()
            known = self._servers[data] = server_of(data)
        return known

    async def reload(self, *, restore: bool, pause_s: float = 0.0) -> float:
        """Compare all maps with what is known, and take in what was missed; how many seconds of
        work that was. Raises PlaneError.

        ``restore``: what the kernel hasn't got, though it should, is written again. ``pause_s``:
        after each few hundred entries, so that whoever has other work gets to it.
        """
        work_ns = 0
        for name, rule in list(self._rules.items()):
            table = self._store.tables.get(name)
            if table is None:
                continue
            begun, found = now_ns(), set()
            self._reading, since = name, begun
            try:
                for part in self._reader.read(ruleset.map_name(rule)):
                    for held in part:
                        found.add(held.key)
                        self._compare(name, table, held)
                    work_ns += now_ns() - since
                    await asyncio.sleep(pause_s)
                    since = now_ns()
                    if self._rules.get(name) is not rule:
                        return work_ns / S
            except KernelError as error:
                raise PlaneError(str(error)) from error
            finally:
                self._reading = None
                self._since.clear()
            if restore:
                await self._restore(name, begun, found, pause_s)
        return work_ns / S

    def _compare(self, name: str, table: Table, held: Held) -> None:
        """One that the kernel has with what is known of it."""
        if held.key in self._since or (name, held.key) in self._pending:
            return
        moment, left_ns = now_ns(), held.remaining_ms * MS
        known, server = table.get(held.key, moment), self._server(held.server)
        if (
            known is None
            or known.server != server
            or moment + left_ns > known.expires_ns + SLACK_NS
        ):
            self.counts["repaired"] += 1
            table.put(held.key, server, moment, lifetime_ns=left_ns, origin=Origin.KERNEL)

    async def _restore(self, name: str, begun: int, found: set[bytes], pause_s: float) -> None:
        """Entries that were there before the kernel was asked, and of which it said nothing."""
        table, moment = self._store.tables[name], now_ns()
        oldest = moment - SLACK_NS
        for number, key in enumerate(table.keys(), 1):
            if number % RESTORE_MOST == 0:
                await asyncio.sleep(pause_s)
                if self._store.tables.get(name) is not table:
                    return
            entry = table.get(key, moment)
            if entry is None:
                continue
            # One that lasts for longer than the rule says by now was made before it said so.
            made = entry.expires_ns - table.timeout_ns
            if (
                key not in found
                and (made < min(begun, oldest) or made > moment)
                and entry.expires_ns > moment + SLACK_NS
            ):
                self.counts["restored"] += 1
                self._pending[name, key] = entry.server, entry.expires_ns, False

    def full(self) -> dict[str, int]:
        """Connections that found no room in the map, by rule.

        Raises KernelError, or MissingError where somebody has taken the table away.
        """
        counted = self._counters.counters()
        if self._made.values() - counted.keys():
            raise MissingError(f"the table {ruleset.TABLE} was taken out of the kernel")
        return {name: counted[counter] for name, counter in self._made.items()}


async def remove() -> None:
    """Take our tables away: nothing of ours stays. Raises PlaneError.

    Whoever may not even ask for tables (a container without CAP_NET_ADMIN) can have made none.
    """
    code, wrong = await _run(f"{strays.none()}{strays.none(ruleset.TABLE)}")
    if code and os.strerror(errno.EPERM) in wrong:
        log.warning("nft may not be asked here, so no table of ours can be there: %s", wrong)
    elif code:
        raise PlaneError(_refusal(code, wrong))


async def _nft(script: str) -> None:
    if script:
        code, wrong = await _run(script)
        if code:
            raise PlaneError(_refusal(code, wrong))


def _refusal(code: int, wrong: str) -> str:
    return wrong if code in {NOT_RUN, TOO_LONG} else f"nft refuses the rules: {wrong}"


async def _run(script: str) -> tuple[int, str]:
    """Have nft carry it out: its exit code, and the first line of what went wrong."""
    try:
        process = await asyncio.create_subprocess_exec(
            NFT,
            *("-f", "-"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return NOT_RUN, f"{NFT} can't be run: {error.strerror}"
    try:
        async with asyncio.timeout(NFT_S):
            _, wrong = await process.communicate(script.encode())
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return TOO_LONG, f"{NFT} took longer than {NFT_S:g} s"
    line = next(iter(wrong.decode(errors="replace").split("\n")), "")
    return process.returncode or 0, line[:512]
