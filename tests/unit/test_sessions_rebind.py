# SPDX-License-Identifier: Apache-2.0
"""Clients of servers that are gone get others, and whoever has other work gets to it."""

import asyncio
import itertools

import pytest

from twinbeat.sessions import rebind as rebind_module
from twinbeat.sessions.entries import Origin, Store
from twinbeat.sessions.plane import now_ns
from twinbeat.sessions.rebind import rebind
from twinbeat.sessions.rules import Persistence

S = 1_000_000_000
WEB = Persistence(name="web", vips=("192.0.2.10",), port=80, pool="web", timeout_s=60)


def bound(count: int) -> Store:
    """Half of so many clients to each of two servers."""
    store = Store()
    store.configure([WEB])
    for number in range(count):
        server = f"10.0.0.{1 + number % 2}"
        store.table("web").put(number.to_bytes(4), server, now_ns(), origin=Origin.KERNEL)
    return store


def test_they_get_one_that_is_used_for_what_was_left_of_their_time() -> None:
    store = bound(100)
    before = dict(store.table("web").items(now_ns()))
    assert asyncio.run(rebind(store, "web", ("10.0.0.1", "10.0.0.3", "10.0.0.4"))) == 50
    assert asyncio.run(rebind(store, "web", ("10.0.0.1", "10.0.0.3", "10.0.0.4"))) == 0
    table = store.table("web")
    assert sorted(table.servers) == ["10.0.0.1", "10.0.0.3", "10.0.0.4"]
    for key, entry in table.items(now_ns()):
        assert before[key].server == "10.0.0.2" or entry.server == "10.0.0.1"
        assert abs(entry.expires_ns - before[key].expires_ns) < S
    assert asyncio.run(rebind(store, "web", ())) == asyncio.run(rebind(store, "none", ("a",))) == 0


def test_it_makes_way_for_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebind_module, "REBIND_MOST", 10)
    store = bound(200)
    table = store.table("web")

    async def watched() -> list[int]:
        task = asyncio.create_task(rebind(store, "web", ("10.0.0.1",)))
        left = [table.servers["10.0.0.2"]]
        while not task.done():
            await asyncio.sleep(0)
            left.append(table.servers["10.0.0.2"])
        return left

    left = asyncio.run(watched())
    assert left[-1] == 0
    assert max(before - after for before, after in itertools.pairwise(left)) <= 10
