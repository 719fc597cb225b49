# SPDX-License-Identifier: Apache-2.0
"""A disk that hangs: nobody waits for it longer than agreed, and nothing is taken for written.

What hangs here is a real file: a FIFO in place of the one that is written first, which nobody
opens for reading, so that whoever writes hangs in the kernel as on a dead disk.
"""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinbeat.core.effects import ReserveTerms
from twinbeat.core.types import Durable, TermBlock
from twinbeat.runtime.executor import EffectError
from twinbeat.runtime.hands import DiskHands
from twinbeat.runtime.store import Store
from unit.sync_pair import until

REQUEST = ReserveTerms(first=1, up_to=64)
PATIENCE_S = 0.2


class Hanging:
    """A state directory of which one file can't be written."""

    def __init__(self, directory: Path, name: str) -> None:
        self.store = Store(directory)
        self.hands = DiskHands(self.store, now_ns=lambda: 1, patience_s=PATIENCE_S)
        self._fifo = directory / f"{name}.new"
        os.mkfifo(self._fifo)

    def wake(self) -> None:
        """The disk is back: who hangs goes on, and who comes next finds nothing in the way."""
        if self._fifo.exists():
            reader = os.open(self._fifo, os.O_RDONLY | os.O_NONBLOCK)
            self._fifo.unlink()
            for thread in writers():
                thread.join(60)
            os.close(reader)


@pytest.fixture
def hanging(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Hanging]:
    found = Hanging(tmp_path, getattr(request, "param", "terms.json"))
    yield found
    found.wake()


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tb-disk"]


def test_terms_that_hang_are_told_of_and_count_as_refused(hanging: Hanging) -> None:
    async def inside() -> None:
        with pytest.raises(EffectError, match=r"has not taken terms within 0.2 s.* hangs"):
            await hanging.hands.reserve(REQUEST)
        # However often it is tried: one thread hangs, and nobody waits again.
        for _ in range(20):
            with pytest.raises(EffectError, match="has not taken terms"):
                async with asyncio.timeout(PATIENCE_S / 2):
                    await hanging.hands.reserve(REQUEST)
            with pytest.raises(EffectError, match="has not taken terms"):
                await hanging.hands.save(Durable())
        assert len(writers()) == 1
        assert hanging.store.terms_reserved_to() == 0

    asyncio.run(inside())


def test_a_disk_that_is_back_takes_what_is_asked_then(
    hanging: Hanging, caplog: pytest.LogCaptureFixture
) -> None:
    async def inside() -> TermBlock:
        with pytest.raises(EffectError, match="hangs"):
            await hanging.hands.reserve(REQUEST)
        hanging.wake()
        await until(lambda: "answers again" in caplog.text)
        async with asyncio.timeout(60):
            while True:
                try:
                    return await hanging.hands.reserve(REQUEST)
                except EffectError:  # A disk that works may take longer than the patience here.
                    await until(lambda: not writers())

    assert asyncio.run(inside()) == TermBlock(first=1, last=64)
    assert hanging.store.terms_reserved_to() == 64


@pytest.mark.parametrize("hanging", ["peer.json"], indirect=True)
def test_a_position_that_hangs_is_told_of_once_and_holds_up_no_end(
    hanging: Hanging, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(1, 10_000_000_000_000, 1_000_000_000))
    hands = DiskHands(hanging.store, now_ns=lambda: next(clock), patience_s=PATIENCE_S)
    for counter in range(5):
        hands.keep_peer(epoch=1, counter=counter, own_epoch=0)
    assert caplog.text.count("has not taken the peer's position") == 1
    assert "has not taken the peer's position" in hands.not_kept, "as long as it lasts"
    assert hands.keep_failures == 4

    async def inside() -> None:
        async with asyncio.timeout(60):
            await hands.close()

    asyncio.run(inside())
    hanging.wake()


def test_a_position_that_is_refused_is_told_of_while_it_lasts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "gone"

    async def inside() -> None:
        hands = DiskHands(Store(directory), now_ns=lambda: 1)

        async def keep(counter: int) -> None:
            hands.keep_peer(epoch=1, counter=counter, own_epoch=0)
            busy = hands._keeping
            assert busy is not None
            await asyncio.wrap_future(busy)

        for counter in (1, 2, 3):
            await keep(counter)
        assert hands.keep_failures == 2, "the third is judged when the next is due"
        assert "peer.json" in hands.not_kept
        assert caplog.text.count("peer.json") == 1, "the log has it once"
        directory.mkdir()
        await keep(4)
        assert hands.not_kept
        await keep(5)
        assert not hands.not_kept
        assert hands.keep_failures == 3
        assert "takes the peer's position again" in caplog.text
        await hands.close()

    asyncio.run(inside())
