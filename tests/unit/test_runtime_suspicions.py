# SPDX-License-Identifier: Apache-2.0
"""What is left out for the core makes no difference to it."""

import itertools

from twinbeat.core.events import EngineEvent
from twinbeat.core.timeline import follow
from twinbeat.core.types import EngineEventKind as Kind
from twinbeat.core.types import Timeline
from twinbeat.runtime.suspicions import Suspicions


def told(*kinds: Kind) -> list[EngineEvent]:
    return [EngineEvent(kind=kind, at_ns=100 + at, a=at) for at, kind in enumerate(kinds)]


def kinds(events: list[EngineEvent]) -> list[Kind]:
    return [event.kind for event in events]


def test_one_cleared_suspicion_stands_for_all_that_follow() -> None:
    suspicions = Suspicions()
    pair = [Kind.SUSPECT, Kind.CLEARED]
    assert kinds(suspicions.thin(told(*pair, *pair, *pair))) == pair
    assert suspicions.thin(told(*pair, *pair)) == []


def test_a_suspicion_that_stands_is_told_and_so_is_its_end() -> None:
    suspicions = Suspicions()
    suspicions.thin(told(Kind.SUSPECT, Kind.CLEARED))
    assert kinds(suspicions.thin(told(Kind.SUSPECT))) == [Kind.SUSPECT]
    assert kinds(suspicions.thin(told(Kind.CLEARED))) == [Kind.CLEARED]


def test_after_anything_else_a_suspicion_is_news_again() -> None:
    suspicions = Suspicions()
    pair = [Kind.SUSPECT, Kind.CLEARED]
    suspicions.thin(told(*pair))
    assert kinds(suspicions.thin(told(Kind.CLAIM, *pair, *pair))) == [Kind.CLAIM, *pair]


def test_a_verdict_between_suspicion_and_end_keeps_both() -> None:
    suspicions = Suspicions()
    suspicions.thin(told(Kind.SUSPECT, Kind.CLEARED))
    story = [Kind.SUSPECT, Kind.STALLED, Kind.CLEARED]
    assert kinds(suspicions.thin(told(*story))) == story


def test_late_rounds_of_one_turn_are_told_once() -> None:
    suspicions = Suspicions()
    assert kinds(suspicions.thin(told(Kind.LATE, Kind.LATE))) == [Kind.LATE]
    assert kinds(suspicions.thin(told(Kind.LATE))) == [Kind.LATE]


def test_links_are_told_always() -> None:
    suspicions = Suspicions()
    links = [Kind.LINK_SILENT, Kind.LINK_HEARD] * 3
    assert kinds(suspicions.thin(told(*links))) == links


def test_the_core_is_in_the_same_story_whatever_is_left_out() -> None:
    others = (Kind.SUSPECT, Kind.CLEARED, Kind.STALLED, Kind.CLAIM, Kind.OPENED)
    choice = ((Kind.SUSPECT, Kind.CLEARED), *((kind,) for kind in others))
    compared = 0
    for story in itertools.product(choice, repeat=5):
        events = told(*itertools.chain.from_iterable(story))
        suspicions = Suspicions()
        half = len(events) // 2
        thinned = suspicions.thin(events[:half]) + suspicions.thin(events[half:])
        whole, part = Timeline(), Timeline()
        for event in events:
            whole = follow(whole, event)
        for event in thinned:
            part = follow(part, event)
        assert part == whole, story
        compared += len(thinned) < len(events)
    assert compared > 100
