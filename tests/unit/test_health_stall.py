# SPDX-License-Identifier: Apache-2.0
"""Transmit stalls, told from counters. Virtual interfaces can't stall: it is proven here only."""

from __future__ import annotations

from twinbeat.health.stall import Sent, StallWatch


def sentences(*samples: tuple[int, int, int]) -> list[str]:
    """What a watch says after each sample of (packets, dropped, timeouts)."""
    watch = StallWatch()
    return [
        watch.see(Sent(packets=packets, dropped=dropped, timeouts=timeouts))
        for packets, dropped, timeouts in samples
    ]


def stalled(*samples: tuple[int, int, int]) -> list[bool]:
    return [bool(sentence) for sentence in sentences(*samples)]


def test_an_interface_that_sends_is_not_stalled() -> None:
    assert stalled((0, 0, 0), (10, 0, 0), (20, 3, 0), (30, 9, 0)) == [False] * 4


def test_nor_is_one_that_nobody_sends_through() -> None:
    assert stalled((7, 2, 1), (7, 2, 1), (7, 2, 1), (7, 2, 1)) == [False] * 4


def test_the_watchdog_of_the_driver_is_believed_at_once() -> None:
    said = sentences((5, 0, 0), (5, 0, 1), (5, 0, 1), (6, 0, 1))
    assert [bool(one) for one in said] == [False, True, True, False], "until packets leave again"
    assert "watchdog" in said[1]


def test_drops_without_a_single_packet_sent() -> None:
    said = sentences((5, 0, 0), (5, 40, 0), (5, 80, 0), (5, 80, 0), (9, 80, 0))
    assert [bool(one) for one in said] == [False, False, True, True, False]
    assert "40 packets" in said[2]


def test_one_burst_of_drops_is_no_stall() -> None:
    assert stalled((5, 0, 0), (5, 40, 0), (6, 40, 0), (6, 80, 0), (7, 80, 0)) == [False] * 5


def test_counters_that_went_back_are_of_another_interface() -> None:
    assert stalled((500, 0, 3), (500, 9, 4), (1, 0, 0), (2, 0, 0)) == [False, True, False, False]


def test_an_interface_that_is_not_there_is_not_called_stalled() -> None:
    watch = StallWatch()
    watch.see(Sent(packets=1, dropped=0, timeouts=0))
    assert watch.see(Sent(packets=1, dropped=0, timeouts=2))
    assert not watch.see(None)
    assert not watch.see(Sent(packets=1, dropped=0, timeouts=2)), "nothing to compare it with"
