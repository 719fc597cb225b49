# SPDX-License-Identifier: Apache-2.0
"""The store in its thread: what is kept of a request is found, and what isn't is not looked for."""

import asyncio
from pathlib import Path

import pytest

from twinbeat.sync.document import Document, Version
from twinbeat.sync.effects import StoreRecord
from twinbeat.sync.events import Stored, StoreFailed
from twinbeat.sync.operation import Outcome, State
from twinbeat.worker import ledger as module
from twinbeat.worker.ledger import Ledger


def outcome(request: str) -> Outcome:
    return Outcome(request=request, state=State.DONE, code="done", sentence="so")


async def opened(path: Path) -> Ledger:
    ledger = Ledger(path)
    assert await ledger.open() == []
    return ledger


async def record(ledger: Ledger, token: int, *names: str) -> None:
    answered: asyncio.Future[Stored | StoreFailed] = asyncio.get_running_loop().create_future()
    outcomes = tuple(outcome(name) for name in names)
    ledger.do(StoreRecord(token=token, outcomes=outcomes), answered.set_result)
    # It is asked for before it is done, and answered after.
    for said in outcomes:
        assert await ledger.outcome(said.request) == said
    assert await answered == Stored(token=token)


def seed() -> Document:
    return Document(lineage="a" * 32, version=Version(0, 1), tables={})


def test_what_is_kept_is_found_before_and_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        ledger = await opened(tmp_path / "shared.db")
        await ledger.seed(seed(), 1)
        assert await ledger.outcome("x") is None
        await record(ledger, 1, "x", "y")
        ledger.close()
        again = await opened(tmp_path / "shared.db")
        assert await again.outcome("y") == outcome("y")
        assert await again.outcome("z") is None
        again.close()

    asyncio.run(scenario())


def test_with_too_many_names_the_store_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NAMED_MOST", 2)

    async def scenario() -> None:
        ledger = await opened(tmp_path / "shared.db")
        await ledger.seed(seed(), 1)
        await record(ledger, 1, "a", "b", "c")
        await record(ledger, 2, "d")
        assert await ledger.outcome("e") is None
        ledger.close()

    asyncio.run(scenario())
