# SPDX-License-Identifier: Apache-2.0
"""Following a log file: every whole line once, whatever logrotate does and whenever one dies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twinbeat import places
from twinbeat.weblog import tail as tails
from twinbeat.weblog.block import PAYLOAD_MAX, RECORD_MAX, Block, Position, make
from twinbeat.weblog.tail import Tail


class Reader:
    """A tail, the clock that it is shown, and what it has taken."""

    def __init__(
        self,
        path: Path,
        position: Position | None = None,
        *,
        history: bool = True,
        recorded: tuple[Block, ...] = (),
    ) -> None:
        self.tail = Tail(str(path), position, history=history, recorded=lambda: recorded)
        self.blocks: list[Block] = []
        self.now = 0.0
        self.taken: list[bytes] = []
        self.position = position

    def look(self, seconds: float = 0.02) -> list[bytes]:
        """What is new."""
        self.now += seconds
        new: list[bytes] = []
        while (chunk := self.tail.poll(self.now)) is not None:
            assert chunk.payload.endswith(b"\n")
            assert chunk.payload.count(b"\n") == chunk.count
            new += chunk.payload[:-1].split(b"\n")
            self.position = chunk.position
            self.blocks.append(
                make(
                    node="a",
                    epoch=1,
                    first=len(self.blocks),
                    source="web",
                    payload=chunk.payload,
                    received_ns=0,
                    position=chunk.position,
                )
            )
        self.taken += new
        return new

    def wait(self) -> list[bytes]:
        """Long enough for a file to be quiet."""
        found: list[bytes] = []
        for _ in range(int(tails.QUIET_S / 0.02) + 60):
            found += self.look()
        return found

    def again(self) -> Reader:
        """After a crash: all that is known is the position of the last record."""
        self.tail.close()
        return Reader(self.tail.path, self.position)

    def after_a_cut(self) -> Reader:
        """After a loss of power: the journal is believed more than the file."""
        self.tail.close()
        again = Reader(self.tail.path, self.position, recorded=tuple(self.blocks))
        again.blocks = self.blocks
        return again


def write(path: Path, *lines: str, end: str = "\n") -> None:
    with path.open("a") as file:
        file.write("\n".join(lines) + end)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def lines(*numbers: int) -> list[bytes]:
    return [b"10.0.0.%d - - [23/Nov/2026:22:00:00 +0000] GET / 200" % n for n in numbers]


def put(path: Path, *numbers: int) -> None:
    write(path, *(line.decode() for line in lines(*numbers)))


def test_lines_are_taken_as_they_come(log: Path) -> None:
    reader = Reader(log)
    assert reader.look() == []
    put(log, 1, 2)
    assert reader.look() == lines(1, 2)
    assert reader.look() == []
    write(log, "begun", end="")
    assert reader.look() == [], "it has no end yet"
    write(log, " and ended")
    assert reader.look() == [b"begun and ended"]


def test_after_a_crash_nothing_is_read_twice_or_passed_over(log: Path) -> None:
    reader = Reader(log)
    put(log, 1)
    reader.look()
    put(log, 2, 3)
    reader = reader.again()
    assert reader.look() == lines(2, 3)


def test_what_is_there_at_first_is_taken_or_not(log: Path) -> None:
    put(log, 1)
    assert Reader(log).look() == lines(1)
    reader = Reader(log, history=False)
    assert reader.look() == []
    put(log, 2)
    assert reader.look() == lines(2)
    other = log.with_name("other.log")
    late = Reader(other, history=False)
    late.look()
    put(other, 3)
    assert late.look() == lines(3), "a file that comes later is new as a whole"


def test_a_renamed_file_is_read_to_its_end_and_then_the_new_one(log: Path) -> None:
    reader = Reader(log)
    put(log, 1)
    reader.look()
    put(log, 2)
    old = log.rename(log.with_name("access.log.1"))
    put(old, 3)
    assert reader.look() == lines(2, 3)
    put(log, 5)
    put(old, 4)
    assert reader.wait() == lines(4, 5)
    put(old, 6)
    assert reader.look() == lines(6), "a worker of the server was late to open the new one"
    assert reader.tail.counts == {"renamed": 1, "late": 1}
    put(log, 7)
    reader = reader.again()
    assert reader.look() == lines(7)


def test_an_unfinished_last_line_is_a_record(log: Path) -> None:
    reader = Reader(log)
    put(log, 1)
    write(log, "cut off", end="")
    assert reader.look() == lines(1)
    log.rename(log.with_name("access.log.1"))
    put(log, 2)
    assert reader.wait() == [b"cut off", *lines(2)]
    assert reader.tail.counts["unfinished"] == 1


def test_rotated_twice_while_nobody_looked(log: Path) -> None:
    reader = Reader(log)
    put(log, 1)
    reader.look()
    put(log, 2)
    for age, (number, name) in enumerate([(3, "access.log.2"), (4, "access.log.1")]):
        log.rename(log.with_name(name))
        os.utime(log.with_name(name), (1_700_000_000 + age,) * 2)
        put(log, number)
    log.with_name("access.log.3.gz").write_bytes(b"packed")
    reader = reader.again()
    assert reader.wait() == lines(2, 3, 4)
    reader = reader.again()
    put(log, 5)
    assert reader.wait() == lines(5)


def test_copied_and_truncated(log: Path) -> None:
    reader = Reader(log)
    put(log, 1, 2, 3)
    reader.look()
    os.truncate(log, 0)
    put(log, 4)
    assert reader.look() + reader.look() == lines(4)
    assert reader.tail.counts["truncated"] == 1
    reader = reader.again()
    put(log, 5)
    assert reader.look() == lines(5)


def test_truncated_and_grown_beyond_where_the_reader_stood(log: Path) -> None:
    reader = Reader(log)
    put(log, 1)
    reader.look()
    os.truncate(log, 0)
    put(log, *range(2, 9))
    assert reader.look(tails.CHECK_S + 0.1) == lines(*range(2, 9))


def test_copied_and_truncated_while_nobody_looked(log: Path) -> None:
    reader = Reader(log)
    put(log, 1, 2, 3)
    reader.look()
    put(log, 4)
    log.with_name("access.log.1").write_bytes(log.read_bytes())
    os.truncate(log, 0)
    put(log, 5)
    reader = reader.again()
    assert reader.wait() == lines(4, 5)


def test_an_inode_that_is_used_again_is_another_file(log: Path) -> None:
    reader = Reader(log)
    put(log, 1)
    reader.look()
    position = reader.position
    assert position is not None
    reader.tail.close()
    log.unlink()
    put(log, 2, 3)
    same = Position(log.stat().st_ino, position.offset, position.head, position.head_size)
    again = Reader(log, same)
    assert again.wait() == lines(2, 3)
    assert again.tail.counts["missing"] == 1


def test_a_line_without_an_end_is_cut(log: Path) -> None:
    reader = Reader(log)
    log.write_bytes(b"x" * (2 * PAYLOAD_MAX) + b"\n")
    found = reader.look()
    assert b"".join(found) == b"x" * (2 * PAYLOAD_MAX)
    assert max(map(len, found)) <= RECORD_MAX
    assert reader.tail.counts["cut"] >= 1


def test_a_file_that_can_not_be_read_is_named(log: Path) -> None:
    log.mkdir()
    reader = Reader(log)
    assert reader.look() == []
    assert "not a regular file" in reader.tail.why
    log.rmdir()
    put(log, 1)
    assert reader.look() == lines(1)
    assert reader.tail.why == ""


def test_more_than_a_block_comes_in_several(log: Path) -> None:
    with log.open("wb") as file:
        file.writelines(b"%d\n" % n for n in range(200_000))
    assert Reader(log).look() == [b"%d" % n for n in range(200_000)]


@pytest.mark.parametrize("lost", [1, 10, 52, 53, 54, 100, 200])
@pytest.mark.parametrize("soon", [False, True])
def test_a_file_that_lost_its_end_with_the_power_is_not_read_twice(
    log: Path, lost: int, soon: bool
) -> None:
    reader = Reader(log)
    put(log, *range(1, 10))
    reader.look()
    put(log, 4, 5, 6)
    reader.look()
    os.truncate(log, log.stat().st_size - lost)
    whole = log.read_bytes().endswith(b"\n")
    if soon:
        put(log, 7)
    again = reader.after_a_cut()
    if not soon:
        assert again.look() == []
        put(log, 7)
    (found,) = again.look()
    assert found == (
        lines(7)[0] if not soon or whole or lost in {1, 53} else log.read_bytes().split(b"\n")[-2]
    )
    assert again.tail.counts["shortened"] == 1


def test_a_file_that_lost_its_end_and_has_grown_beyond_it_since(log: Path) -> None:
    reader = Reader(log)
    put(log, *range(1, 10))
    reader.look()
    put(log, 4, 5, 6)
    reader.look()
    os.truncate(log, log.stat().st_size - len(lines(6)[0]) - 1)
    new = range(10, 30)
    put(log, *new)
    again = reader.after_a_cut()
    assert again.look() == lines(*new)
    assert again.tail.counts["shortened"] == 1


def test_a_file_that_lost_its_end_twice(log: Path) -> None:
    reader = Reader(log)
    for first in (1, 4, 7, 10):
        put(log, *range(first, first + 3))
        reader.look()
    os.truncate(log, log.stat().st_size - 2 * (len(lines(10)[0]) + 1))
    reader = reader.after_a_cut()
    put(log, *range(20, 40))
    assert reader.look() == lines(*range(20, 40))
    os.truncate(log, log.stat().st_size - 5 * (len(lines(10)[0]) + 1))
    put(log, *range(50, 70))
    reader = reader.after_a_cut()
    assert reader.look() == lines(*range(50, 70))
    assert reader.tail.counts["shortened"] == 1


def test_a_file_that_is_as_it_was_is_read_on_after_a_cut(log: Path) -> None:
    reader = Reader(log)
    put(log, 1, 2)
    write(log, "cut off", end="")
    reader.look()
    log.rename(log.with_name("access.log.1"))
    put(log, 3, 4)
    reader.wait()
    put(log, 5)
    reader.look()
    put(log, 6)
    again = reader.after_a_cut()
    assert again.look() == lines(6)
    assert again.tail.counts["shortened"] == 0


def test_a_file_that_lost_its_end_with_the_power_is_not_read_again(log: Path) -> None:
    reader = Reader(log)
    write(log, *(f"line {number}" for number in range(100)))
    assert len(reader.look()) == 100
    size = log.stat().st_size
    os.truncate(log, size // 2)
    reader = reader.again()
    assert reader.look() == []
    # nginx goes on behind whatever is left, be it within a line.
    write(log, "line after")
    assert reader.look() == [b"line after"]
    assert reader.tail.counts["shortened"] == 1
    assert reader.tail.counts["missing"] == 0


def test_a_file_that_was_truncated_while_nobody_looked_is_read_from_its_begin(log: Path) -> None:
    reader = Reader(log)
    write(log, *(f"line {number}" for number in range(100)))
    assert len(reader.look()) == 100
    os.truncate(log, 0)
    write(log, *(f"later {number}" for number in range(60)))
    assert len(reader.again().look()) == 60


def test_a_line_without_its_end_is_nothing_to_be_behind_with(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntw")
    tail = Tail(str(log), None)
    assert tail.poll(0.0) is not None
    assert tail.behind == 0
    with log.open("ab") as file:
        file.write(b"o\nthree")
    assert tail.behind == len(b"two\nthree")


def test_a_link_to_what_belongs_to_the_node_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "key").write_text("secret\n")
    monkeypatch.setattr(places, "OWN", (str(own.resolve()),))
    (tmp_path / "log").symlink_to(own / "key")
    tail = Tail(str(tmp_path / "log"), None)
    assert tail.poll(0.0) is None
    assert "belongs to the node" in tail.why
