# SPDX-License-Identifier: Apache-2.0
"""Entries of proxies on two real workers: replicated, given back, and put together again.

The rules are opaque, so no kernel is touched; `test_sessions_plane` and the lab have the others.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from twinbeat.sessions import client
from twinbeat.sessions.entries import Origin, Reason
from twinbeat.sessions.plane import now_ns
from twinbeat.sessions.replication import DROP_MOST
from twinbeat.sessions.shown import Entries, SessionsStatus
from twinbeat.sync.document import Tables
from twinbeat.sync.wire import SessionBatch
from twinbeat.worker import following as worker_following
from twinbeat.worker import sessions as worker_sessions
from twinbeat.worker.sessions import Sessions
from unit import worker_pair
from unit.worker_pair import PATIENCE_S, Site, in_step, looped, until, working

RULES: Tables = {"persistence": {"proxy": {"name": "proxy", "kind": "opaque", "timeout_s": 60}}}


@pytest.fixture(autouse=True)
def _ruled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pair, "SEED", worker_pair.SEED | RULES)


def sessions(site: Site) -> Sessions:
    assert site.worker is not None
    return site.worker._sessions


def put(site: Site, key: bytes, server: str) -> None:
    sessions(site).store.put("proxy", key, server, now_ns())


def held(site: Site) -> dict[bytes, str]:
    table = sessions(site).store.tables.get("proxy")
    if table is None:
        return {}
    return {key: entry.server for key, entry in table.items(now_ns())}


def state(site: Site) -> str:
    return sessions(site).leader.state.value


async def filled(leader: Site) -> None:
    await until(lambda: state(leader) == "in-step", "the other node is filled")


@looped
async def test_entries_of_the_primary_are_on_both(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await filled(a)
        put(a, b"cookie", "app1")
        await until(lambda: held(b) == {b"cookie": "app1"}, "it is on both")
        sessions(a).store.delete("proxy", b"cookie", now_ns())
        await until(lambda: not held(b), "it is gone on both")


@looped
async def test_a_worker_that_starts_anew_gets_entries_back(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await filled(a)
        for number in range(600):
            put(a, b"%d" % number, "app1")
        await until(lambda: len(held(b)) == 600, "all are on both")
        await until(lambda: a.desk.sessions is not None, "the daemon is told")
        await a.stop()
        await until(lambda: a.desk.sessions is None, "nobody tells how it stands")
        a.start()
        await in_step(a, b)
        await filled(a)
        assert held(a) == held(b)
        assert len(held(a)) == 600


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that starts waits for the other node, however slow the machine is."""
    for name in ("START_S", "ASK_S"):
        monkeypatch.setattr(worker_sessions, name, 3600.0)


@pytest.mark.usefixtures("_patient")
@looped
async def test_a_worker_that_starts_takes_nobody_for_new(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await filled(a)
        put(a, b"cookie", "app1")
        await until(lambda: bool(held(b)), "it is on both")
        await a.stop()
        a.start()
        path = a.root / "run" / "sessions.sock"
        await until(path.exists, "proxies may ask")
        with client.Sessions("proxy", path=str(path), timeout_s=PATIENCE_S) as proxy:
            said = [await asyncio.to_thread(asked, proxy)]
            deadline = time.monotonic() + PATIENCE_S
            while said[-1] in {"starting", "away"} and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
                said.append(await asyncio.to_thread(asked, proxy))
        assert said[-1] == "app1", set(said)


def asked(proxy: client.Sessions) -> str | None:
    """The server of a cookie, or why it can't be told."""
    try:
        return proxy.get("cookie")
    except client.SessionsError as refused:
        return refused.code


@looped
async def test_what_the_primary_has_not_got_goes_in_pieces(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await filled(a)
        table = sessions(b).store.table("proxy")
        for number in range(5 * DROP_MOST):
            table.put(b"%d" % number, "app1", now_ns(), origin=Origin.PEER)
        sessions(a).leader.asked()
        sizes = [len(table)]
        deadline = time.monotonic() + PATIENCE_S
        while sizes[-1] and time.monotonic() < deadline:
            await asyncio.sleep(0)
            sizes.append(len(table))
        gone = [before - after for before, after in itertools.pairwise(sizes)]
        assert max(gone) <= DROP_MOST
        assert sum(gone) == table.counts[Reason.STALE] == 5 * DROP_MOST
        await filled(a)


@looped
async def test_what_was_got_is_taken_in_though_the_other_node_is_lost(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await filled(a)
        taker, session = sessions(b)._following, sessions(b)._session
        assert session is not None
        for number, entry in enumerate(((b"one", "app1", 50_000), (b"two", "app2", 50_000)), 900):
            taker.note(session, SessionBatch(number=number, rule="proxy", entries=(entry,)))
        taker.lost(session)
        await until(lambda: held(b) == {b"one": "app1", b"two": "app2"}, "all is there")


@looped
async def test_more_than_can_wait_is_asked_for_anew(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await filled(a)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker_following, "ARRIVED_MOST", 0)
            put(a, b"cookie", "app1")
            await until(lambda: sessions(b).follower.counts["crowded"], "there is no room")
        await until(lambda: sessions(a).leader.counts["resync asked"], "all is asked for")
        await until(lambda: held(b) == {b"cookie": "app1"}, "it is on both")


@looped
async def test_who_hands_over_tells_only_what_was_not_answered(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await filled(a)
        for number in range(600):
            put(a, b"%d" % number, "app1")
        await until(lambda: len(held(b)) == 600, "all are on both")
        put(a, b"last", "app2")
        a.primary, b.primary, b.term = False, True, a.term + 1
        a.desk.tell()
        b.desk.tell()
        await filled(b)
        assert held(b)[b"last"] == "app2"
        assert held(a) == held(b)
        assert sessions(b).follower.counts["ours"] < 600


@looped
async def test_what_both_bound_apart_is_put_together(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await filled(a)
        put(a, b"shared", "app1")
        await until(lambda: bool(held(b)), "it is on both")
        # b serves as well, and neither hears of the other.
        a.settings = replace(a.settings, peer="127.0.0.9", port=1)
        a.desk.tell()
        await until(lambda: state(a) == "alone", "they are parted")
        b.primary, b.term = True, a.term + 1
        b.desk.tell()
        await until(lambda: sessions(b).primary, "b serves")
        put(a, b"of-a", "app1")
        put(a, b"shared", "app1")
        put(b, b"of-b", "app2")
        put(b, b"shared", "app2")
        a.primary = False
        a.settings = replace(a.settings, peer="127.0.0.2", port=b.settings.port)
        a.desk.tell()
        await filled(b)
        together = {b"shared": "app2", b"of-a": "app1", b"of-b": "app2"}
        assert held(a) == held(b) == together


@looped
async def test_it_is_shown_on_both_nodes(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await filled(a)
        put(a, b"cookie", "app1")
        await until(lambda: bool(held(b)), "it is on both")
        for site, states in ((a, {"in-step"}), (b, {"follows"})):
            answer = await site.ask("/v1/sessions")
            seen = msgspec.json.decode(answer.body, type=SessionsStatus)
            assert {seen.replication.state} == states
            assert [(rule.name, rule.entries) for rule in seen.rules] == [("proxy", 1)]
            answer = await site.ask("/v1/persistence?rule=proxy&client=cookie")
            (entry,) = msgspec.json.decode(answer.body, type=Entries).entries
            assert (entry.client, entry.server) == ("cookie", "app1")
            assert 50_000 < entry.remaining_ms <= 60_000
            assert (await site.ask("/v1/persistence?rule=nosuch")).status == 404
            assert (await site.ask("/v1/persistence?limit=none")).status == 400
            elsewhere = await site.ask("/v1/peer?what=%2Fv1%2Fpersistence&rule=proxy")
            assert elsewhere.status == 200
            assert b"cookie" in elsewhere.body
