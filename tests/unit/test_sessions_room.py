# SPDX-License-Identifier: Apache-2.0
"""A table that is full is warned of, once a minute, with what came since."""

from __future__ import annotations

import pytest

from twinbeat.sessions.entries import Origin, Store
from twinbeat.sessions.room import WARN_S, Room
from twinbeat.sessions.rules import Persistence

WEB = Persistence(name="web", vips=("192.0.2.10",), port=80, pool="web", limit=16)


def test_what_is_full_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    store, room, now_s = Store(), Room(), 5.0
    store.configure([WEB])

    def bind(numbers: range) -> None:
        for number in numbers:
            store.table("web").put(number.to_bytes(4), "10.0.0.1", 0, origin=Origin.KERNEL)

    bind(range(16))
    assert room.look(store, {"web": 0}, now_s) == []
    bind(range(100, 103))
    assert room.look(store, {"web": 2}, now_s) == ["web"]
    assert caplog.messages == [
        "persistence web is full with 16 entries: the oldest make room for 5 more"
    ]
    now_s += WARN_S - 1
    bind(range(200, 204))
    assert room.look(store, {"web": 2}, now_s) == []
    assert room.look(store, {"web": 2}, now_s + 1) == ["web"]
    assert caplog.messages[1:] == [
        "persistence web is full with 16 entries: the oldest make room for 4 more"
    ]
    assert room.look(store, {"web": 2}, now_s + 2 * WARN_S) == []
