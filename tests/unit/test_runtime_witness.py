# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the witness: one question at a time. And what shows isolation."""

import asyncio
import itertools
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from twinbeat.config.arbiters import IsolationSection, WitnessSection
from twinbeat.config.model import Config
from twinbeat.core.events import Event, IsolationChanged, WitnessAnswered
from twinbeat.core.witness import Answer, Arbitration, Kind, Question, Verdict
from twinbeat.runtime import witness as runtime
from twinbeat.runtime.witness import Isolation, WitnessDesk, build
from twinbeat.witness.base import Null, Tally, WitnessError
from twinbeat.witness.reference import Reference, on_link
from unit.test_config_compare import A

ETCD = replace(A, witness=WitnessSection(kind="etcd", endpoints=("https://127.0.0.1:1",)))


class Patient:
    """A third party that answers when the test lets it."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.cluster = ""
        self.asked: list[Question] = []
        self.let = asyncio.Event()

    async def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        await self.let.wait()
        return Answer(question=question, verdict=Verdict.GRANTED, sent_ns=1, done_ns=2)

    async def close(self) -> None:
        pass


def broken(error: BaseException) -> None:
    raise error


def desk_of(third_party: Patient, fed: asyncio.Queue[Event]) -> WitnessDesk:
    known = Arbitration(node=0, lease_ns=500_000_000, serve=False)
    return WitnessDesk(
        third_party,
        config=ETCD,
        arbitration=lambda: known,
        feed=fed.put_nowait,
        failed=broken,
        now_ns=lambda: 5,
    )


def test_of_those_that_wait_the_newest_is_asked() -> None:
    questions = [Question(kind=Kind.CLAIM, term=term) for term in (2, 4, 6)]

    async def scenario() -> tuple[list[Question], list[Event]]:
        third_party, fed = Patient(), asyncio.Queue[Event]()
        desk = desk_of(third_party, fed)
        for question in questions:
            desk.ask(question)
            await asyncio.sleep(0)
        third_party.let.set()
        told = [await fed.get() for _ in range(2)]
        await desk.stop()
        return third_party.asked, told

    asked, fed = asyncio.run(scenario())
    assert asked == [questions[0], questions[2]]
    answered = [event.answer.question for event in fed if isinstance(event, WitnessAnswered)]
    assert answered == asked


def test_a_stop_waits_for_no_answer() -> None:
    async def scenario() -> int:
        third_party, fed = Patient(), asyncio.Queue[Event]()
        desk = desk_of(third_party, fed)
        desk.ask(Question(kind=Kind.LOOK))
        await asyncio.sleep(0)
        await asyncio.wait_for(desk.stop(), 60)
        return fed.qsize()

    assert asyncio.run(scenario()) == 0


def test_status_says_whether_it_answered() -> None:
    async def scenario() -> tuple[bool, bool]:
        third_party, fed = Patient(), asyncio.Queue[Event]()
        desk = desk_of(third_party, fed)
        before = desk.status()
        desk.ask(Question(kind=Kind.LOOK))
        third_party.let.set()
        await fed.get()
        after = desk.status()
        await desk.stop()
        assert before is not None
        assert after is not None
        return before.up, after.up

    assert asyncio.run(scenario()) == (False, True)


def test_without_a_witness_there_is_the_null_one_and_nothing_to_show() -> None:
    third_party = build(A, now_ns=lambda: 5)
    assert isinstance(third_party, Null)
    answer = asyncio.run(third_party.ask(Question(kind=Kind.CLAIM, term=4)))
    assert answer.verdict is Verdict.SILENT
    known = Arbitration(node=0, lease_ns=0, serve=False)
    desk = WitnessDesk(
        third_party,
        config=A,
        arbitration=lambda: known,
        feed=lambda _: None,
        failed=broken,
        now_ns=lambda: 5,
    )
    assert desk.status() is None
    assert desk.counters() == {}


def test_a_witness_that_cannot_be_used_keeps_the_agent_from_starting() -> None:
    with pytest.raises(WitnessError, match="CA"):
        build(ETCD, now_ns=lambda: 5)


# -- reference addresses ---------------------------------------------------------------------------


def reference(*answering: str) -> Reference:
    async def probe(address: str, interface: str, timeout_s: float) -> bool:
        if address in answering:
            return True
        await asyncio.sleep(timeout_s)
        return False

    return Reference(("192.0.2.1", "192.0.2.2"), probe=probe, now_ns=lambda: 5, patience_s=0.01)


@pytest.mark.parametrize(
    ("answering", "reached"),
    [((), False), (("192.0.2.1",), True), (("192.0.2.2",), True)],
)
def test_one_answer_is_enough(answering: tuple[str, ...], reached: bool) -> None:
    asked = reference(*answering)
    assert asyncio.run(asked.reached()) is reached
    assert asked.answering == (answering[0] if answering else "")


def test_a_reference_decides_no_claim() -> None:
    asked = reference("192.0.2.1")
    for kind in (Kind.CLAIM, Kind.CONFIRM):
        answer = asyncio.run(asked.ask(Question(kind=kind, term=4)))
        assert answer.verdict is Verdict.SILENT
    looked = asyncio.run(asked.ask(Question(kind=Kind.LOOK)))
    assert looked.verdict is Verdict.GRANTED


def test_what_lies_on_a_link_is_known() -> None:
    assert on_link("127.0.0.1") == ""
    assert on_link("2001:db8::1") == ""


def test_isolation_is_told_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = itertools.chain([True, True, False, False, True], itertools.repeat(True))

    async def probe(text: str, interface: str, timeout_s: float) -> bool:
        return next(answers)

    monkeypatch.setattr(runtime, "_answers", probe)
    section = IsolationSection(references=("192.0.2.1",), interval_ms=100)
    clock: Callable[[], int] = itertools.count(1, 10**9).__next__

    async def scenario() -> list[Event]:
        fed: asyncio.Queue[Event] = asyncio.Queue()
        isolation = Isolation(
            config=replace(A, isolation=section), feed=fed.put_nowait, failed=broken, now_ns=clock
        )
        isolation.start()
        async with asyncio.timeout(60):
            told = [await fed.get() for _ in range(2)]
        await isolation.stop()
        return told

    assert asyncio.run(scenario()) == [
        IsolationChanged(isolated=True),
        IsolationChanged(isolated=False),
    ]


def test_who_is_cut_off_is_so_until_a_new_address_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other addresses, and none of them was asked yet: that is no answer."""
    answers = {"192.0.2.3"}

    async def probe(text: str, interface: str, timeout_s: float) -> bool:
        return text in answers

    monkeypatch.setattr(runtime, "_answers", probe)

    def asking(*references: str) -> Config:
        section = IsolationSection(references=references, interval_ms=100)
        return replace(A, isolation=section)

    async def scenario() -> list[Event]:
        fed: asyncio.Queue[Event] = asyncio.Queue()
        isolation = Isolation(
            config=asking("192.0.2.1"),
            feed=fed.put_nowait,
            failed=broken,
            now_ns=itertools.count(1, 10**9).__next__,
        )
        isolation.start()
        async with asyncio.timeout(60):
            told = [await fed.get()]
            isolation.apply(asking("192.0.2.2"))
            assert fed.empty(), "nobody answered"
            isolation.apply(asking("192.0.2.2", "192.0.2.3"))
            told.append(await fed.get())
            answers.clear()
            told.append(await fed.get())
            isolation.apply(A)
            told.append(fed.get_nowait())
        await isolation.stop()
        return told

    assert asyncio.run(scenario()) == [
        IsolationChanged(isolated=isolated) for isolated in (True, False, True, False)
    ]


def test_what_has_failed_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def probe(text: str, interface: str, timeout_s: float) -> bool:
        raise RuntimeError("an invariant")

    monkeypatch.setattr(runtime, "_answers", probe)

    async def scenario() -> str:
        failed: asyncio.Queue[BaseException] = asyncio.Queue()
        isolation = Isolation(
            config=replace(A, isolation=IsolationSection(references=("192.0.2.1",))),
            feed=broken,  # type: ignore[arg-type]
            failed=failed.put_nowait,
            now_ns=itertools.count(1, 10**9).__next__,
        )
        isolation.start()
        async with asyncio.timeout(60):
            error = await failed.get()
        await isolation.stop()
        return str(error)

    assert asyncio.run(scenario()) == "an invariant"


def test_without_references_nothing_is_asked_or_shown() -> None:
    isolation = Isolation(config=A, feed=broken, failed=broken, now_ns=lambda: 5)  # type: ignore[arg-type]
    isolation.start()
    assert isolation.status() is None
