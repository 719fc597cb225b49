# SPDX-License-Identifier: Apache-2.0
"""The journal of log records: what was appended is there, whatever happens to the disk."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from twinbeat.weblog.block import NOWHERE, Block, Position, make
from twinbeat.weblog.journal import ASIDE, Journal, opened
from twinbeat.weblog.messages import Cursor
from twinbeat.weblog.refusal import JournalError
from twinbeat.weblog.segment import SUFFIX, Hole
from twinbeat.weblog.store import Limits, Store
from unit.worker_pair import PATIENCE_S, looped, until

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
MANY = 1 << 30


def block(first: int, count: int = 3, *, epoch: int = 7, size: int = 10, at: int = NOW) -> Block:
    payload = b"".join(b"%d %s\n" % (first + n, b"x" * size) for n in range(count))
    position = Position(5, first + count, 1, 2)
    return make(
        node="a",
        epoch=epoch,
        first=first,
        source="web",
        payload=payload,
        received_ns=at,
        position=position,
    )


def fresh(directory: Path, size_max: int = MANY, boot: str = "one") -> Journal:
    journal, complaints, _ = opened(
        directory, "a", size_max=size_max, boot=boot, now_ns=lambda: 7 * SECOND
    )
    assert complaints == []
    return journal


def everything(journal: Journal, epoch: int = 7, at: int = 0) -> list[bytes]:
    """All records of an epoch, read as somebody does who pulls."""
    found: list[bytes] = []
    while True:
        hole, blocks = journal.read(epoch, at, 1000)
        if hole is not None:
            assert hole.first == at
            found.append(b"hole of %d: %s" % (hole.count, hole.reason.encode()))
            at = hole.next
        for each in blocks:
            assert each.first <= at < each.next
            found += each.records()[at - each.first :]
            at = each.next
        if hole is None and not blocks:
            return found


def records(*blocks: Block) -> list[bytes]:
    return [record for each in blocks for record in each.records()]


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{SUFFIX}"))


def test_what_was_appended_is_read_also_after_a_start(tmp_path: Path) -> None:
    made = [block(first) for first in range(0, 60, 3)]
    journal = fresh(tmp_path)
    for at in range(0, 20, 5):
        journal.append(made[at : at + 5], now_ns=NOW)
    assert everything(journal) == records(*made)
    assert everything(journal, at=31) == records(*made)[31:]
    journal.close()
    again = fresh(tmp_path)
    assert again.marks()[-1].epoch == 7, "the same epoch goes on"
    assert again.marks()[-1].durable == 60
    assert again.positions == {"web": Position(5, 60, 1, 2)}
    again.append([block(60)], now_ns=NOW)
    assert everything(again) == records(*made, block(60))


def test_another_boot_begins_another_epoch(tmp_path: Path) -> None:
    journal = fresh(tmp_path)
    journal.append([block(0)], now_ns=NOW)
    journal.close()
    again = fresh(tmp_path, boot="two")
    assert [(each.epoch, each.durable) for each in again.marks()] == [(7, 3), (8, 0)]
    assert again.positions == {"web": Position(5, 3, 1, 2)}, "files are read on where they were"
    assert everything(again) == records(block(0))


def test_power_is_cut_at_every_byte(tmp_path: Path) -> None:
    """Whatever is left of the file, the whole blocks in it are records, and nothing else is."""
    journal = fresh(tmp_path / "whole")
    made = [block(0, 2), block(2, 1), block(3, 2)]
    for each in made:
        journal.append([each], now_ns=NOW)
    journal.close()
    (whole,) = segments(tmp_path / "whole")
    data = whole.read_bytes()
    ends = [len(data) - sum(len(each.raw) for each in made[at:]) for at in range(4)]
    for size in range(len(data)):
        directory = tmp_path / "cut"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        (directory / whole.name).write_bytes(data[:size])
        journal, complaints, doubtful = opened(
            directory, "a", size_max=MANY, boot="one", now_ns=lambda: 7 * SECOND
        )
        kept = sum(size >= end for end in ends) - 1
        torn = size not in ends
        assert bool(complaints) == torn
        assert everything(journal) == records(*made[: max(kept, 0)])
        newest = journal.marks()[-1]
        assert (doubtful is not None) == (torn and kept >= 0)
        assert (newest.epoch > 7 or kept < 0) == torn, "no number is used twice"
        last = newest.durable
        journal.append([block(last, epoch=newest.epoch)], now_ns=NOW)
        assert everything(journal, newest.epoch)[-3:] == records(block(last))
        journal.close()


def test_a_damaged_place_is_named_and_set_aside(tmp_path: Path) -> None:
    journal = fresh(tmp_path, size_max=16 << 20)
    made = [block(first, 100, size=2000) for first in range(0, 2000, 100)]
    for each in made:
        journal.append([each], now_ns=NOW)
    journal.close()
    first, second = segments(tmp_path)[:2]
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    journal, complaints, _ = opened(
        tmp_path, "a", size_max=16 << 20, boot="one", now_ns=lambda: 7 * SECOND
    )
    assert len(complaints) == 1
    assert str(first) in complaints[0]
    assert len(list(tmp_path.glob(f"*{ASIDE}"))) == 1
    assert journal.counts["cut", "times"] == 1
    begins = int(second.name[21:41])
    found = everything(journal)
    (hole,) = [each for each in found if each.startswith(b"hole")]
    assert hole.endswith(b"damaged")
    at = found.index(hole)
    assert found[:at] == records(*made)[:at]
    assert found[at + 1 :] == records(*made)[begins:]
    assert journal.marks()[-1].epoch == 8


def test_a_block_that_rots_while_it_is_served_is_passed_over(tmp_path: Path) -> None:
    journal = fresh(tmp_path)
    journal.append([block(0), block(3)], now_ns=NOW)
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert everything(journal) == [*records(block(0)), b"hole of 3: damaged"]
    assert journal.counts["error", "damaged"] >= 1


def test_a_foreign_file_is_no_segment(tmp_path: Path) -> None:
    (tmp_path / f"{3:020d}-{0:020d}{SUFFIX}").write_bytes(b"something else")
    journal, complaints, _ = opened(tmp_path, "a", size_max=MANY, boot="one", now_ns=lambda: NOW)
    assert len(complaints) == 1
    assert [each.epoch for each in journal.marks()] == [NOW // SECOND]


def test_a_full_journal_refuses_or_drops_the_oldest(tmp_path: Path) -> None:
    journal = fresh(tmp_path, size_max=4 << 20)
    first = 0
    while journal.size + (size := len(block(first, 100, size=2000).raw)) <= 4 << 20:
        journal.append([block(first, 100, size=2000)], now_ns=NOW)
        first += 100
    assert size < 1 << 20
    with pytest.raises(JournalError) as caught:
        journal.append([block(first, 100, size=2000)], now_ns=NOW)
    assert caught.value.code == "full"
    assert journal.size <= 4 << 20
    assert len(everything(journal)) == first, "what is there stays"
    dropped = journal.drop_oldest()
    assert dropped > 0
    journal.append([block(first, 100, size=2000)], now_ns=NOW)
    found = everything(journal)
    assert found[0] == b"hole of %d: full" % dropped
    assert len(found) - 1 == first + 100 - dropped
    assert journal.counts["dropped", "full"] == dropped
    journal.append([block(first + 100)], now_ns=NOW)
    journal.close()
    again = fresh(tmp_path, size_max=4 << 20)
    assert again.read(7, 0, 1000)[0] in {
        Hole(0, dropped, "full"),
        Hole(0, dropped, "unknown"),
    }


def test_what_was_acknowledged_is_freed(tmp_path: Path) -> None:
    journal = fresh(tmp_path, size_max=16 << 20)
    for first in range(0, 3000, 100):
        journal.append([block(first, 100, size=2000)], now_ns=NOW)
    before = journal.size
    journal.trim(7, 1500)
    marks = journal.marks()[-1]
    assert 0 < marks.oldest <= 1500
    assert journal.size < before
    assert everything(journal, at=1500) == records(
        *(block(first, 100, size=2000) for first in range(1500, 3000, 100))
    )
    journal.trim(7, 3000)
    assert journal.marks()[-1].durable == 3000, "the newest segment tells where it goes on"


def test_what_is_young_is_spared_as_long_as_there_is_room(tmp_path: Path) -> None:
    journal = fresh(tmp_path, size_max=16 << 20)

    def append(first: int, end: int) -> None:
        for at in range(first, end, 100):
            journal.append([block(at, 100, size=2000, at=NOW + at * SECOND)], now_ns=NOW)

    append(0, 3000)
    journal.trim(7, 3000, NOW)
    assert journal.marks()[-1].oldest == 0
    journal.trim(7, 3000, NOW + 1500 * SECOND)
    oldest = journal.marks()[-1].oldest
    assert 0 < oldest <= 1500
    append(3000, 6000)
    assert journal.size > 8 << 20
    journal.trim(7, 6000, NOW)
    assert journal.marks()[-1].oldest > oldest
    assert 6 << 20 < journal.size <= 8 << 20, "no more goes than has to"


@looped
async def test_all_stays_until_files_were_compared_with_it(tmp_path: Path) -> None:
    """After a loss of power, whatever the client acknowledges meanwhile."""

    def opened_store(boot: str) -> Store:
        store = Store(tmp_path, "a", boot=boot, limits=Limits(size=16 << 20))
        store.open()
        store.begin()
        store.clients = frozenset({"logs"})
        return store

    def taken(store: Store) -> int:
        return sum(each.durable for each in store.streams())

    async def tidied(store: Store) -> None:
        """The client has everything, and all that may go has gone."""
        ends = [Cursor(each.node, each.epoch, each.durable) for each in store.streams()]
        store.acknowledge("logs", ends)
        store.tidy()
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        store.own.do(lambda: loop.call_soon_threadsafe(done.set))  # type: ignore[arg-type,return-value]
        await asyncio.wait_for(done.wait(), PATIENCE_S)

    store = opened_store("one")
    for number in range(3000):
        store.take("web", b"%d %s\n" % (number, b"x" * 2000), 1, Position(5, number + 1, 1, 2))
    await until(lambda: taken(store) == 3000)
    await tidied(store)
    store.close()
    assert list(store.recorded("web")) == [], "it was no loss of power"
    # Once more in the same boot: it may have been killed before it came to that.
    for _ in range(2):
        store = opened_store("two")
        assert store.doubtful is not None
        assert store.doubtful.durable == 3000
        await tidied(store)
        assert [each.first for each in store.recorded("web")] == list(range(3000))
        store.close()
    store = opened_store("two")
    store.take("web", b"new\n", 1, Position(5, 9, 1, 2))
    assert list(store.recorded("web")) == []
    store.close()
    store = opened_store("two")
    assert store.doubtful is None
    assert list(store.recorded("web")) == []
    store.close()


def test_old_records_go(tmp_path: Path) -> None:
    journal = fresh(tmp_path, size_max=16 << 20)
    for first in range(0, 4000, 100):
        journal.append([block(first, 100, size=2000, at=NOW + first * SECOND)], now_ns=NOW)
    journal.expire(NOW + 2000 * SECOND)
    oldest = journal.marks()[-1].oldest
    assert 0 < oldest <= 2100
    assert everything(journal)[0] == b"hole of %d: age" % oldest


def test_a_replica_keeps_the_holes_that_it_was_told_of(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a", size_max=MANY)
    journal.open()
    journal.append([block(10)], now_ns=NOW)
    journal.skip(7, Hole(13, 7, "full"))
    journal.append([block(20)], now_ns=NOW)
    told = [*records(block(10)), b"hole of 7: full", *records(block(20))]
    assert everything(journal, at=10) == told
    journal.close()
    again = Journal(tmp_path, "a", size_max=MANY)
    again.open()
    assert [each.replace(b"unknown", b"full") for each in everything(again, at=10)] == told


def test_two_epochs_grow_beside_each_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a", size_max=MANY)
    journal.open()
    journal.append([block(0), block(0, epoch=9), block(3), block(3, epoch=9)], now_ns=NOW)
    assert everything(journal) == records(block(0), block(3))
    assert everything(journal, 9) == records(block(0, epoch=9), block(3, epoch=9))
    journal.trim(7, 6)
    assert [each.epoch for each in journal.marks()] == [9], "an epoch that is over goes wholly"
    assert journal.cursor(7) == 6
    assert journal.cursor(8) is None


def test_blocks_that_are_there_are_passed_over(tmp_path: Path) -> None:
    journal = fresh(tmp_path)
    journal.append([block(0), block(3)], now_ns=NOW)
    journal.append([block(0), block(3), block(6)], now_ns=NOW)
    assert everything(journal) == records(block(0), block(3), block(6))


def test_a_disk_that_refuses_is_told_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = fresh(tmp_path)
    journal.append([block(0)], now_ns=NOW)
    real = os.fdatasync

    def failing(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(JournalError) as caught:
        journal.append([block(3)], now_ns=NOW)
    assert caught.value.code == "disk"
    assert everything(journal) == records(block(0)), "it was not durable, so it is not there"
    monkeypatch.setattr(os, "fdatasync", real)
    journal.append([block(3)], now_ns=NOW)
    assert everything(journal) == records(block(0), block(3))
    assert len(segments(tmp_path)) == 2, "a file that may have lost pages isn't written again"
    journal.close()
    assert everything(fresh(tmp_path)) == records(block(0), block(3))


def test_a_position_of_no_file_is_none() -> None:
    assert Position(0, 0, 0, 0) == NOWHERE


def test_what_is_read_over_the_end_of_a_segment_is_no_more_than_was_asked_for(
    tmp_path: Path,
) -> None:
    """Else an answer doesn't fit into a frame, and whoever asks for it never gets any further."""
    journal = fresh(tmp_path, size_max=8 << 20)
    made = [block(first, 250, size=990) for first in range(0, 5000, 250)]
    for each in made:
        journal.append([each], now_ns=NOW)
    assert len(segments(tmp_path)) > 2
    for most in (300_000, 600_000, 896 << 10):
        for first in range(0, 5000, 250):
            _, found = journal.read(7, first, most)
            assert found[0].first == first
            assert sum(len(each.raw) for each in found) <= most


def test_that_a_file_cannot_be_opened_just_now_is_no_hole(tmp_path: Path) -> None:
    journal = fresh(tmp_path)
    journal.append([block(0)], now_ns=NOW)
    (path,) = segments(tmp_path)
    path.rename(tmp_path / "away")
    path.symlink_to(path)  # ELOOP stands for a lack of descriptors, which would hit all of pytest.
    assert journal.read(7, 0, MANY) == (None, [])
    assert journal.counts["error", "unread"] == 1
    path.unlink()
    (tmp_path / "away").rename(path)
    assert everything(journal) == records(block(0))


@pytest.mark.parametrize(("blocks_of_all", "spared"), [(1 << 24, 64 << 20), (1 << 14, 2 << 20)])
def test_the_last_room_of_a_disk_is_left_to_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks_of_all: int, spared: int
) -> None:
    journal = fresh(tmp_path)
    free = spared // 4096 + 2
    real = os.statvfs(tmp_path)

    def told(_: Path) -> os.statvfs_result:
        values = list(real)
        values[:5] = [4096, 4096, blocks_of_all, free, free]
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", told)
    journal.append([block(0)], now_ns=NOW)
    free -= 2
    with pytest.raises(JournalError) as caught:
        journal.append([block(3)], now_ns=NOW)
    assert caught.value.code == "full"
    assert f"full but for {spared >> 10} KiB" in caught.value.sentence
    assert everything(journal) == records(block(0))
    free += 2
    journal.append([block(3)], now_ns=NOW)
    assert everything(journal) == records(block(0), block(3))
    journal.close()
