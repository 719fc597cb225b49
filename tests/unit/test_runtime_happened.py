# SPDX-License-Identifier: Apache-2.0
"""What the event stream says of the engine's events, of the core's news and of commands."""

import asyncio
from pathlib import Path

import pytest

from twinbeat.api import schema
from twinbeat.api.events import EventHub
from twinbeat.core.effects import Level, Log, Outcome, Reply
from twinbeat.core.events import EngineEvent
from twinbeat.core.reasons import Code, because, refuse
from twinbeat.core.types import Cause
from twinbeat.core.types import EngineEventKind as Kind
from twinbeat.observe.history import History
from twinbeat.runtime import happened
from twinbeat.runtime.node import Node
from unit.test_runtime_teller import Clock, teller

REFUSED = (*range(Cause.NO_RECEIPT, Cause.UNPROVEN + 1), Cause.NO_WITNESS, Cause.PEER_STARTS)
MS = 1_000_000
ID = "test-0001"


def words(kind: Kind, **facts: int) -> str:
    cause = Cause(facts.pop("cause", 0))
    event = EngineEvent(kind=kind, at_ns=1, cause=cause, **facts)
    return happened.in_words(event, node="a", peer="b")


@pytest.mark.parametrize("kind", Kind)
def test_every_event_has_a_sentence_without_a_gap(kind: Kind) -> None:
    causes = REFUSED if kind in {Kind.WITHHELD, Kind.ABANDONED} else [Cause.NONE]
    for cause in causes:
        said = words(kind, a=7 * MS, b=9, link=1, cause=cause)
        assert bool(said) is (kind not in happened.NOT_TOLD)
        assert "?" not in said


@pytest.mark.parametrize(
    ("kind", "facts", "said"),
    [
        (
            Kind.LINK_SILENT,
            {"a": 140 * MS, "link": 1},
            "b isn't heard on link 1, silent for 140 ms",
        ),
        (Kind.LATE, {"a": 11 * MS}, "the engine woke up 11 ms late"),
        (Kind.DEAD, {"b": 9}, "b fell silent, and its kernel answered none of 9 probes"),
        (Kind.RECEIPT, {"a": 4, "b": 60_000}, "the kernel of b confirmed term 4 after 60 µs"),
        (Kind.CLOSED, {"a": 4, "b": 5}, "the gate of a is shut, term 4 is over, as term 5 over"),
        (Kind.CLOSED, {"a": 4}, "the gate of a is shut, term 4 is over"),
        (
            Kind.OPENED,
            {"a": 4, "b": Cause.YIELDED, "cause": Cause.RECEIPT},
            "the gate of a is open under term 4, by receipt",
        ),
        (
            Kind.ABANDONED,
            {"a": 4, "cause": Cause.NO_RECEIPT},
            "a gave the claim of term 4 up: b is heard, but gave no receipt for the claim",
        ),
    ],
)
def test_events_are_told_in_the_words_of_the_log(
    kind: Kind, facts: dict[str, int], said: str
) -> None:
    assert words(kind, **facts).startswith(said)


def test_an_opening_has_the_reason_of_its_claim() -> None:
    opened = EngineEvent(kind=Kind.OPENED, at_ns=1, cause=Cause.RECEIPT, a=4, b=Cause.YIELDED)
    assert happened.reason(opened) == "peer_yielded"
    resumed = EngineEvent(kind=Kind.OPENED, at_ns=1, cause=Cause.RESUMED, a=4)
    assert happened.reason(resumed) == "resumed"


def test_the_stream_has_the_news_of_the_core_and_not_twice_what_the_engine_tells(
    tmp_path: Path,
) -> None:
    hub = EventHub()
    told = teller(tmp_path, Clock(), hub)
    better = because(Code.PEER_BETTER, peer="b", peer_score=1000, score=0)
    for reason in (better, because(Code.PEER_DEAD, peer="b", probes=9), refuse(Code.PAUSED)):
        told.log(Log(level=Level.WARNING, reason=reason))
    (event,) = hub.recent()
    assert (event.event, event.reason) == ("peer_better", "peer_better")
    assert event.sentence == "b is healthier (1000 against 0)"


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (
            schema.SetAdmin(request_id=ID, admin=schema.Admin.STAY_PRIMARY),
            "admin stay-primary",
        ),
        (schema.PauseFor(request_id=ID, for_s=90), "pause for 1m 30s"),
        (schema.PauseFor(request_id=ID), "pause"),
        (schema.Resume(request_id=ID), "resume"),
        (schema.SetTimers(request_id=ID, hello_us=500, even_so=True), "timers hello 500 µs"),
        (schema.SetTimers(request_id=ID, unset=True, even_so=True), "timers unset"),
        (schema.Failover(request_id=ID, even_if_unfit=True), "failover, even if unfit"),
        (schema.Yield(request_id=ID, reason="test"), "yield by uid 7 (test)"),
    ],
)
def test_the_stream_says_who_asked_for_what(
    tmp_path: Path, command: schema.Command, asked: str
) -> None:
    async def test() -> None:
        hub = EventHub()
        told = teller(tmp_path, Clock(), hub)

        def feed(event: object) -> None:
            reply = Reply(
                request_id=command.request_id, outcome=Outcome.REFUSED, reason=refuse(Code.BUSY)
            )
            told.reply(reply)

        async def measured() -> None:
            raise AssertionError("--even-so asks for no measurement")

        async def reload() -> schema.Refusal:
            raise AssertionError

        node = Node(
            hub=hub,
            history=History(tmp_path / "history.jsonl"),
            teller=told,
            status=lambda: pytest.fail("nobody asks"),
            counters=lambda: pytest.fail("nobody asks"),
            feed=feed,
            reload=reload,
            measure=measured,
        )
        await node.command(command, schema.Caller(pid=1, uid=7, gid=7))
        (event,) = hub.recent()
        assert (event.event, event.reason) == ("command", "busy")
        assert event.sentence.startswith(asked)
        assert event.sentence.endswith(": refused, another command is under way")
        assert event.fields["why"] == command.reason

    asyncio.run(test())
