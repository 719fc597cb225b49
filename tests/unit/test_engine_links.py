# SPDX-License-Identifier: Apache-2.0
"""What silence on some of the links means, and what links that come and go mean: nothing.

The scripted peer speaks on link 0.
"""

from dataclasses import replace

from twinbeat.engine.types import EventKind, Watch
from unit.engine_bench import FAST, MS, Bench, secondary

SUSPICIONS = (EventKind.SUSPECT, EventKind.DEAD, EventKind.STALLED, EventKind.WITHHELD)


def suspicions(bench: Bench) -> list[EventKind]:
    return [event.kind for event in bench.events if event.kind in SUSPICIONS]


def sends_on(bench: Bench) -> set[int]:
    """The links that the newest rounds sent on."""
    return {link for told in bench.rounds[-20:] for link, _ in told.frames}


def test_all_links_must_be_silent() -> None:
    """One that is heard keeps the peer alive; when it falls silent too the peer is found dead."""
    bench = secondary(settings=replace(FAST, links=0b111))
    bench.run(200 * MS)
    assert suspicions(bench) == []
    assert bench.watch is Watch.ALIVE
    bench.agent = bench.kernel = False
    bench.node.link_carrier = 0b111
    bench.run(20 * MS)
    assert EventKind.DEAD in suspicions(bench)


def test_a_link_that_comes_is_no_reason_for_a_word() -> None:
    bench = secondary()
    bench.events.clear()
    bench.configure(links=0b101)
    bench.run(50 * MS)
    assert bench.events == []
    assert bench.watch is Watch.ALIVE
    assert sends_on(bench) == {0, 2}
    assert bench.node.engine.engine.link_silent == 0b100


def test_a_link_that_goes_is_none_either() -> None:
    bench = secondary(settings=replace(FAST, links=0b011))
    bench.run(10 * MS)
    bench.events.clear()
    bench.configure(links=0b001)
    bench.run(50 * MS)
    assert suspicions(bench) == []
    assert bench.watch is Watch.ALIVE
    assert sends_on(bench) == {0}
    assert bench.node.engine.engine.link_silent == 0


def test_links_that_come_and_go_all_the_time_raise_no_suspicion() -> None:
    bench = secondary()
    for turn in range(200):
        bench.configure(links=0b001 | turn % 8 << 1)
        bench.run(MS // 3)
    assert suspicions(bench) == []
    assert bench.watch is Watch.ALIVE


def test_a_link_that_nobody_answers_on_yet_doesn_t_hide_a_death() -> None:
    """Half-configured: here it is expected, at the peer it isn't there."""
    bench = secondary()
    bench.configure(links=0b011)
    bench.node.link_carrier = 0b011
    bench.run(5 * MS)
    bench.agent = bench.kernel = False
    bench.run(20 * MS)
    assert EventKind.DEAD in suspicions(bench)
