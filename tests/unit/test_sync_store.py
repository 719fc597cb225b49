# SPDX-License-Identifier: Apache-2.0
"""The store of the shared configuration: each transaction, and what crashes and bad disks leave."""

import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from twinbeat.sync.document import ASKED_SIZE, Document, Put, Version, applied, fingerprint
from twinbeat.sync.events import Held
from twinbeat.sync.operation import Operation, Outcome, Output, Policy, State
from twinbeat.sync.store import OUTCOMES_MOST, SCHEMA, Store, StoreError
from unit.own_disk import cut, mount, mounted_anew, own_disk

LINEAGE = "ab" * 16
OTHER = "cd" * 16
KILLS = 20

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from unit.test_sync_store import Store, done, following, held
print("begins", flush=True)
store = Store(Path(sys.argv[1]))
print("open", flush=True)
while True:
    now = held(store)
    if now.prepared is None:
        store.prepare(following(now))
    document = store.commit(*done(held(store)))
    print(document.version.generation, flush=True)
"""


def seed(generation: int = 1, lineage: str = LINEAGE, **rest: Any) -> Document:
    tables = {"vrid": {"51": {"value": generation}}}
    return Document(lineage=lineage, version=Version(0, generation), tables=tables, **rest)


def following(now: Held, *, padding: str = "") -> Operation:
    """An operation that counts the document's one row up."""
    generation = now.highest + 1
    row = {"value": generation, "padding": padding}
    change = Put(section="vrid", identity="51", row=row)
    return Operation(
        request=f"request-{generation}",
        node=0,
        lineage=now.current.lineage,
        base=now.current.version,
        version=Version(7, generation),
        changes=(change,),
        fingerprint=fingerprint(applied(now.current.tables, [change])),
        policy=Policy.STRICT,
    )


def outcome(request: str, state: State = State.DONE, text: str = "") -> Outcome:
    outputs = (Output(node="a", status=0, text=text),) if text else ()
    return Outcome(request=request, state=state, code=state.value, sentence="so", outputs=outputs)


def done(now: Held) -> tuple[str, tuple[Outcome, ...]]:
    assert now.prepared is not None
    return now.prepared.request, (outcome(now.prepared.request),)


def held(store: Store) -> Held:
    found = store.held()
    assert found is not None
    return found


def step(store: Store, **rest: Any) -> Document:
    store.prepare(following(held(store), **rest))
    return store.commit(*done(held(store)))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as caught:
        call()
    assert caught.value.sentence
    return caught.value.code


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "worker" / "shared.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path)
    store.seed(seed())
    yield store
    store.close()


class TestTransactions:
    def test_an_empty_store_waits_for_its_seed(self, path: Path) -> None:
        store = Store(path)
        assert store.held() is None
        assert refused(store.set_paired) == "unseeded"
        store.seed(seed(4), highest=1_004)
        assert held(store) == Held(current=seed(4), highest=1_004)
        assert refused(lambda: store.seed(seed())) == "seeded"
        store.close()

    def test_what_is_prepared_survives_and_is_committed(self, store: Store, path: Path) -> None:
        operation = following(held(store))
        store.prepare(operation)
        again = Store(path)
        assert held(again) == Held(current=seed(), prepared=operation, highest=2)
        document = again.commit(operation.request, (outcome(operation.request),))
        assert document == operation.onto(seed())
        assert held(again) == Held(current=document, highest=2)
        assert again.outcome(operation.request) == outcome(operation.request)
        assert again.outcome("another") is None
        again.close()

    def test_what_was_foreseen_is_committed_and_nothing_else(
        self, store: Store, path: Path
    ) -> None:
        given_up = following(held(store))
        store.prepare(given_up)
        store.foresee(given_up)
        store.abort(given_up.request)
        operation = following(held(store), padding="another")
        store.prepare(operation)
        store.foresee(operation)
        assert store.commit(*done(held(store))) == operation.onto(seed())
        # Of a document that isn't current any more nothing is left that could be written.
        store.foresee(given_up)
        later = step(store)
        again = Store(path)
        assert held(again).current == later
        again.close()

    def test_a_document_is_read_anew_after_another_process_has_written(
        self, store: Store, path: Path
    ) -> None:
        held(store)
        again = Store(path)
        later = step(again)
        again.close()
        assert held(store).current == later
        assert step(store).version.generation == later.version.generation + 1

    def test_an_abort_keeps_the_generation_used(self, store: Store) -> None:
        operation = following(held(store))
        store.prepare(operation)
        store.abort(operation.request, (outcome(operation.request, State.REFUSED),))
        assert held(store) == Held(current=seed(), highest=2)
        found = store.outcome(operation.request)
        assert found is not None
        assert found.state is State.REFUSED

    def test_what_does_not_fit_changes_nothing(self, store: Store) -> None:
        operation = following(held(store))
        assert refused(lambda: store.commit(operation.request)) == "not_prepared"
        assert refused(lambda: store.abort(operation.request)) == "not_prepared"
        store.prepare(operation)
        before = held(store)
        assert refused(lambda: store.prepare(operation)) == "prepared"
        assert refused(lambda: store.commit("another", (outcome("x"),))) == "not_prepared"
        assert held(store) == before
        assert store.outcome("x") is None
        step_two = store.commit(operation.request)
        assert refused(lambda: store.prepare(operation)) == "out_of_step"
        assert held(store) == Held(current=step_two, highest=2)

    def test_an_adopted_document_leaves_a_backup(self, store: Store) -> None:
        store.prepare(following(held(store)))
        theirs = seed(9, OTHER)
        store.adopt(theirs, (outcome("mine", State.SUPERSEDED),), "the peer's rules")
        assert held(store) == Held(current=theirs, highest=9, paired=True)
        (backup,) = store.backups()
        assert (backup.version, backup.why) == (Version(0, 1), "the peer's rules")
        assert store.backup(backup.number) == seed()
        assert store.outcome("mine") is not None
        store.adopt(theirs)
        assert len(store.backups()) == 1

    def test_what_was_asked_for_is_known_of_whatever_is_kept(self, store: Store) -> None:
        """By it another command under the same id is refused."""
        asked = "ab" * ASKED_SIZE
        for end in (store.commit, store.abort):
            operation = replace(following(held(store)), asked=asked)
            store.prepare(operation)
            end(operation.request, (outcome(operation.request, State.UNDECIDED),))
            found = store.outcome(operation.request)
            assert (found and found.asked) == asked
            store.record((outcome(operation.request),))  # Who records it knows the outcome only.
            found = store.outcome(operation.request)
            assert found == replace(outcome(operation.request), asked=asked)

    def test_outcomes_replace_each_other_and_doubts_are_told(self, store: Store) -> None:
        doubt = outcome("a", State.UNDECIDED)
        store.record((doubt, outcome("b")))
        assert held(store).in_doubt == (doubt,)
        store.record((outcome("a"),))
        assert held(store).in_doubt == ()
        store.set_paired()
        assert held(store).paired

    def test_people_find_what_was(self, store: Store) -> None:
        second = step(store)
        third = step(store)
        assert [entry.version.generation for entry in store.history()] == [3, 2, 1]
        assert [entry.current for entry in store.history(2)] == [True, False]
        assert [store.at(number) for number in (1, 2, 3, 4)] == [seed(), second, third, None]


class TestBounds:
    def test_of_generations(self, path: Path) -> None:
        store = Store(path, generations_most=5)
        store.seed(seed())
        store.adopt(seed(2, OTHER))
        for _ in range(8):
            step(store)
        # The first counts as a backup, and so stays.
        assert [e.version.generation for e in store.history()] == [10, 9, 8, 7, 6, 1]
        store.close()

    def test_of_bytes_spares_the_current_one(self, path: Path) -> None:
        store = Store(path, bytes_most=1_000)
        store.seed(seed())
        noise = random.Random(1)
        for _ in range(3):
            step(store, padding=noise.randbytes(800).hex())
        assert [e.version.generation for e in store.history()] == [4]
        store.close()

    def test_of_outcomes_spares_what_is_in_doubt(self, store: Store) -> None:
        store.record((outcome("doubt", State.UNDECIDED),))
        # Looking for what is too much is dear, so there may be a sixteenth too much.
        room = OUTCOMES_MOST + OUTCOMES_MOST // 16
        store.record(tuple(outcome(f"o{number}") for number in range(room - 1)))
        assert store.outcome("o0") is not None
        store.record((outcome("last"),))
        assert store.outcome(f"o{room - 1 - OUTCOMES_MOST}") is None
        assert store.outcome(f"o{room - OUTCOMES_MOST}") is not None
        assert [one.request for one in held(store).in_doubt] == ["doubt"]


class TestBrokenFile:
    @pytest.mark.parametrize("what", ["not a database at all" * 50, "torn"])
    def test_it_is_set_aside_and_named(self, path: Path, what: str) -> None:
        store = Store(path)
        store.seed(seed())
        for _ in range(20):
            step(store)
        store.close()
        content = path.read_bytes()
        broken = what.encode() if what != "torn" else content[: len(content) // 2]
        path.write_bytes(broken)
        store = Store(path, wall_ns=lambda: 5_000_000_000)
        assert store.held() is None
        aside = path.with_name("shared.db.broken-5")
        assert aside.read_bytes() == broken
        assert str(aside) in store.complaints[0]
        store.close()

    def test_bits_of_the_current_document_count(self, path: Path) -> None:
        store = Store(path)
        store.seed(seed(reason="a reason that is easily found"))
        store.close()
        database = sqlite3.connect(path)
        database.execute("UPDATE document SET content = substr(content, 1, 20)")
        database.commit()
        database.close()
        store = Store(path)
        assert store.held() is None
        assert len(store.complaints) == 1
        store.close()

    def test_one_of_somebody_else_is_kept_too(self, path: Path) -> None:
        path.parent.mkdir()
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE theirs (x)")
        database.close()
        store = Store(path)
        assert "isn't a store" in store.complaints[0]
        store.close()

    def test_one_of_a_later_version_is_left_alone(self, store: Store, path: Path) -> None:
        store.close()
        database = sqlite3.connect(path)
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
        database.close()
        assert refused(lambda: Store(path)) == "newer"
        assert not list(path.parent.glob("*.broken-*"))


def test_a_file_that_another_process_holds_is_left_alone(store: Store, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    hasty = None
    try:
        assert refused(lambda: Store(path, busy_ms=10)) == "locked"
    finally:
        other.execute("ROLLBACK")
    hasty = Store(path, busy_ms=10)
    other.execute("BEGIN IMMEDIATE")
    assert refused(lambda: hasty.record((outcome("a"),))) == "locked"
    assert held(hasty) == Held(current=seed(), highest=1)
    other.execute("ROLLBACK")
    hasty.record((outcome("a"),))
    other.close()
    hasty.close()


def test_a_process_killed_at_any_moment_loses_nothing_acknowledged(
    store: Store, path: Path
) -> None:
    chance = random.Random(os.getpid())
    program = WRITER.format(here=str(Path(__file__).parents[1]))
    acknowledged = 1
    for number in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            # Every fourth dies while it opens the file, the others after so and so many commits.
            lines = [child.stdout.readline().strip() for _ in range(1 + number % 4)]
            time.sleep(chance.uniform(0, 0.02))
            child.kill()
            lines += child.stdout.read().split("\n")[:-1]
            said = [line for line in lines if line not in {"begins", "open"}]
        if said:
            acknowledged = int(said[-1])
        survivor = Store(path)
        assert survivor.complaints == []
        now = held(survivor)
        generation = now.current.version.generation
        assert generation in {acknowledged, acknowledged + 1}, f"seed {os.getpid()}"
        assert now.current.tables["vrid"]["51"]["value"] == generation
        assert now.prepared is None or now.prepared == following(
            Held(current=now.current, highest=generation)
        )
        if generation > 1:
            assert survivor.outcome(f"request-{generation}") is not None
        assert survivor.outcome(f"request-{generation + 1}") is None
        acknowledged = generation
        survivor.close()
    assert acknowledged > KILLS // 2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An ext4 of its own: its image, and where it is mounted."""
    image, where = tmp_path / "image", tmp_path / "disk"
    with own_disk(image, where, 8 << 20):
        yield image, where


@pytest.mark.privileged
class TestDisk:
    def test_a_full_one_refuses_whole_transactions(self, disk: tuple[Path, Path]) -> None:
        store = Store(disk[1] / "shared.db")
        store.seed(seed())
        filler = disk[1] / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4_096))
        before = held(store)
        noise = random.Random(1)
        operation = following(before, padding=noise.randbytes(1 << 20).hex())
        assert refused(lambda: store.prepare(operation)) == "full"
        assert held(store) == before
        filler.unlink()
        os.sync()
        store.prepare(operation)
        assert held(store).prepared == operation
        store.close()

    def test_a_read_only_one_is_named(self, disk: tuple[Path, Path]) -> None:
        path = disk[1] / "shared.db"
        store = Store(path)
        store.seed(seed())
        store.close()
        mount("-o", "remount,ro", disk[1])
        assert refused(lambda: Store(path)) == "read_only"
        assert refused(lambda: Store(disk[1] / "new" / "shared.db")) == "read_only"
        mount("-o", "remount,rw", disk[1])
        store = Store(path)
        assert held(store) == Held(current=seed(), highest=1)
        store.close()

    def test_a_loss_of_power_keeps_what_was_acknowledged(self, disk: tuple[Path, Path]) -> None:
        image, where = disk
        for _ in range(3):
            before = self.lose_power(where)
            mounted_anew(image, where)
            store = Store(where / "shared.db")
            assert store.complaints == []
            assert held(store) == before
            assert before.prepared is not None
            store.abort(before.prepared.request)
            store.close()

    def lose_power(self, where: Path) -> Held:
        """Write until the disk keeps nothing any more; returns what was acknowledged."""
        store = Store(where / "shared.db")
        if store.held() is None:
            store.seed(seed())
        for _ in range(5):
            step(store)
        operation = following(held(store))
        store.prepare(operation)
        acknowledged = held(store)
        cut(where)
        assert refused(lambda: store.abort(operation.request)) in {"failing", "uncertain"}
        store.close()
        return acknowledged
