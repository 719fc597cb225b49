# SPDX-License-Identifier: Apache-2.0
"""The thread that writes a journal: what the disk refuses waits, and is written when it can be."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from twinbeat.weblog import keeper as keepers
from twinbeat.weblog.block import Block, make
from twinbeat.weblog.journal import opened
from twinbeat.weblog.keeper import Keeper
from unit.worker_pair import looped, until


def block(first: int, size: int = 100) -> Block:
    payload = b"x" * size + b"\n"
    return make(node="a", epoch=1, first=first, source="web", payload=payload, received_ns=1)


def kept(directory: Path, *, drops: Callable[[], bool] = lambda: False) -> Keeper:
    journal, _, _ = opened(directory, "a", size_max=16 << 20, boot="x", now_ns=lambda: 10**9)
    return Keeper(journal, changed=lambda: None, drops_oldest=drops)


def durable(keeper: Keeper) -> int:
    return keeper.journal.marks()[-1].durable


@looped
async def test_what_is_put_in_becomes_durable_in_groups(tmp_path: Path) -> None:
    keeper = kept(tmp_path)
    for first in range(500):
        keeper.put(block(first))
    await until(lambda: durable(keeper) == 500)
    assert keeper.waiting == 0
    assert 0 < keeper.flushes < 500
    keeper.close()


@looped
async def test_what_the_disk_refuses_waits_and_is_bounded(tmp_path: Path) -> None:
    keeper = kept(tmp_path)
    refused = OSError(28, "No space left on device")
    real, attempts = os.fdatasync, []

    def failing(_: int) -> None:
        attempts.append(time.monotonic())
        raise refused

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", failing)
        first = 0
        while keeper.has_room:
            keeper.put(block(first, 200_000))
            first += 1
            await asyncio.sleep(0)
        assert keepers.QUEUE_MAX <= keeper.waiting <= keepers.QUEUE_MAX + 300_000
        await until(lambda: keeper.error is not None and len(attempts) >= 3)
        assert keeper.error is not None
        assert keeper.error.code == "full"
        assert "No space left on device" in keeper.error.sentence
        # Though something was put in all the time.
        assert attempts[2] - attempts[0] >= 2 * keepers.RETRY_S * 0.9
        patch.setattr(os, "fdatasync", real)
        await until(lambda: durable(keeper) == first)
    assert keeper.error is None
    assert keeper.has_room
    assert keeper.journal.counts["refused", "full"] >= 3
    keeper.close()


@looped
async def test_a_full_journal_makes_room_where_that_is_the_policy(tmp_path: Path) -> None:
    keeper = kept(tmp_path, drops=lambda: True)
    for first in range(200):
        keeper.put(block(first, 200_000))
        await until(lambda: keeper.has_room)
    await until(lambda: durable(keeper) == 200)
    assert keeper.journal.size <= 16 << 20
    assert keeper.journal.counts["dropped", "full"] > 0
    assert keeper.journal.marks()[-1].oldest == keeper.journal.counts["dropped", "full"]
    keeper.close()


@looped
async def test_a_defect_is_told_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    keeper = kept(tmp_path)

    def broken() -> None:
        raise ZeroDivisionError

    keeper.do(broken)
    await until(lambda: keeper.error is not None)
    keeper.put(block(0))
    await until(lambda: durable(keeper) == 1)
    assert keeper.error is None
    keeper.close()


@looped
async def test_the_end_writes_what_waits(tmp_path: Path) -> None:
    keeper = kept(tmp_path)
    for first in range(100):
        keeper.put(block(first))
    await asyncio.to_thread(keeper.close)
    journal, complaints, _ = opened(
        tmp_path, "a", size_max=16 << 20, boot="x", now_ns=lambda: 10**9
    )
    assert complaints == []
    assert journal.marks()[-1].durable == 100
