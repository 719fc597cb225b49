# SPDX-License-Identifier: Apache-2.0
"""One thread beside a loop: in order, answered in the loop, done with it when it is closed."""

import asyncio
import logging
import threading

import pytest

from twinbeat.aside import Aside


def test_work_is_done_in_its_order_by_one_thread_that_is_not_the_loop() -> None:
    async def scenario() -> None:
        aside, done = Aside("test"), list[tuple[int, int]]()

        def work(number: int) -> int:
            done.append((number, threading.get_ident()))
            return number

        asked = [aside.call(work, number) for number in range(3)]
        aside.post(lambda: work(3))
        assert await asyncio.gather(*asked) == [0, 1, 2]
        assert await aside.call(work, 4) == 4
        assert [number for number, _ in done] == [0, 1, 2, 3, 4]
        threads = {thread for _, thread in done}
        assert len(threads) == 1
        assert threading.get_ident() not in threads
        aside.close()

    asyncio.run(scenario())


def test_what_is_raised_is_for_the_one_who_waits_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        aside = Aside("test")
        with pytest.raises(ZeroDivisionError):
            await aside.call(lambda: 1 // 0)
        with caplog.at_level(logging.ERROR):
            aside.post(lambda: 1 // 0)
            assert await aside.call(lambda: 1) == 1
        assert "nobody waits for" in caplog.text
        aside.close()

    asyncio.run(scenario())


def test_who_is_cancelled_hears_nothing_and_it_is_done_nevertheless() -> None:
    async def scenario() -> None:
        aside, go, done = Aside("test"), threading.Event(), threading.Event()

        def work() -> None:
            go.wait()
            done.set()

        waiting = aside.call(work)
        waiting.cancel()
        go.set()
        assert await aside.call(done.is_set)
        assert waiting.cancelled()
        aside.close()

    asyncio.run(scenario())


def test_closing_does_what_was_asked_for_and_takes_nothing_more() -> None:
    async def scenario() -> None:
        aside, done = Aside("test"), list[int]()
        for number in range(100):
            aside.post(lambda number=number: done.append(number))
        aside.close()
        assert done == list(range(100))
        with pytest.raises(RuntimeError):
            aside.post(lambda: None)
        aside.close()
        Aside("never begun").close()

    asyncio.run(scenario())
