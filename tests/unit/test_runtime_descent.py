# SPDX-License-Identifier: Apache-2.0
"""The way down goes on, whatever fails on it."""

import asyncio

import pytest

from twinbeat.net.errors import NetError
from twinbeat.runtime.descent import descend


def test_what_fails_is_told_and_does_not_hold_up_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[str] = []

    async def later() -> None:
        await asyncio.sleep(0)
        taken.append("later")

    async def fails_later() -> None:
        await asyncio.sleep(0)
        raise KeyError("two")

    def fails() -> None:
        raise ValueError("one")

    def refused() -> None:
        raise NetError("no such interface")

    asyncio.run(
        descend(
            ("this", fails),
            ("that", fails_later),
            ("addresses", refused),
            ("waiting", later),
            ("the last", lambda: taken.append("last")),
        )
    )
    assert taken == ["later", "last"]
    told = [(record.getMessage(), record.exc_info is not None) for record in caplog.records]
    assert told == [
        ("on the way down, this failed", True),
        ("on the way down, that failed", True),
        ("on the way down, addresses: no such interface", False),
    ]
