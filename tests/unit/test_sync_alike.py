# SPDX-License-Identifier: Apache-2.0
"""Files kept alike over a real connection: what gets there, what stays, what is told."""

import asyncio
import contextlib
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from twinbeat.sync import filing, taking, talking
from twinbeat.sync.alike import leads
from twinbeat.sync.identity import Folder
from twinbeat.sync.lists import CONFLICT, FileList
from twinbeat.sync.manifest import Entry, Kind, Order, What
from twinbeat.sync.session import Session
from twinbeat.sync.wire import FileCommon, FileDone, FileOrders, FilePiece, FileWant, Manifest
from unit.own_disk import mount
from unit.sync_files_pair import LIST, Keeper, alike, connected, keepers, kept
from unit.sync_pair import summary, until
from unit.test_sync_connection import asynchronous


async def same(a: Keeper, b: Keeper, said: dict[str, str]) -> None:
    """Both nodes have this and say so."""
    await until(
        lambda: a.said() == b.said() == said, f"{said}, and there is {a.said()}, {b.said()}"
    )
    await until(lambda: a.same and b.same, f"{a.status}, {b.status}")


@contextlib.contextmanager
def small(where: Path, size: str) -> Iterator[None]:
    """A file system of so few bytes is mounted there."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", where)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", where], check=True)


def copies(node: Keeper) -> list[str]:
    return sorted(path.read_text() for path in node.inside.rglob(f"*{CONFLICT}*"))


class Stuck(Keeper):
    """Takes no contents for a while."""

    async def handle(self, session: Session) -> None:
        self.sessions.append(session)
        async with self.files.attending(session):
            while True:
                message = await session.receive()
                if isinstance(message, FilePiece):
                    await self.taking.wait()
                self.files.take(message)  # type: ignore[arg-type]


class TestComingTogether:
    @asynchronous
    async def test_what_one_has_the_other_gets_and_the_other_way_round(
        self, tmp_path: Path
    ) -> None:
        a, b = keepers(tmp_path)
        (a.inside / "d/e").mkdir(parents=True)
        (a.inside / "d/e/f").write_text("from a")
        (a.inside / "l").symlink_to("d/e/f")
        (b.inside / "g").write_text("from b")
        (b.inside / "empty").write_text("")
        (b.inside / "x.bak").write_text("left out")
        async with kept(a, b), connected(a, b):
            said = {
                "d": "directory",
                "d/e": "directory",
                "d/e/f": "from a",
                "empty": "",
                "g": "from b",
                "l": "-> d/e/f",
            }
            await until(lambda: a.same and b.same, f"{a.status}, {b.status}")
            assert a.said() == said
            assert b.said() == said | {"x.bak": "left out"}
            assert a.status.conflicts == 0

    @asynchronous
    async def test_changes_travel_as_they_happen_in_both_directions(self, tmp_path: Path) -> None:
        async with alike(tmp_path) as (a, b):
            await same(a, b, {})
            (a.inside / "f").write_text("1")
            await same(a, b, {"f": "1"})
            (b.inside / "f").write_text("2")
            await same(a, b, {"f": "2"})
            (b.inside / "d").mkdir()
            (b.inside / "d/g").write_text("deep")
            await same(a, b, {"f": "2", "d": "directory", "d/g": "deep"})
            (a.inside / "f").chmod(0o600)
            await until(lambda: stat.S_IMODE((b.inside / "f").stat().st_mode) == 0o600)
            (a.inside / "d/g").rename(a.inside / "h")
            (a.inside / "d").rmdir()
            await same(a, b, {"f": "2", "h": "deep"})
            (b.inside / "f").unlink()
            await same(a, b, {"h": "deep"})
            assert a.status.conflicts == 0

    @asynchronous
    async def test_only_what_changed_travels(self, tmp_path: Path) -> None:
        async with alike(tmp_path) as (a, b):
            for number in range(20):
                (a.inside / str(number)).write_text("x" * 1000)
            await until(lambda: a.same and b.same and len(b.said()) == 20)
            b.heard.clear()
            a.heard.clear()
            (a.inside / "7").write_text("new")
            await until(lambda: (b.inside / "7").read_text() == "new")
            await until(lambda: a.same and b.same)
            pieces = [message for message in b.heard if isinstance(message, FilePiece)]
            assert [(piece.path, piece.data) for piece in pieces] == [("/in/7", b"new")]
            told = [m for m in a.heard if isinstance(m, Manifest)]
            assert all(not message.whole for message in told)
            assert {entry.path for message in told for entry in message.entries} == {"/in/7"}

    @asynchronous
    async def test_owners_and_modes_of_directories_are_kept(self, tmp_path: Path) -> None:
        a, b = keepers(tmp_path)
        (a.inside / "d").mkdir()
        (a.inside / "d/f").write_text("x")
        (a.inside / "d").chmod(0o550)
        if os.geteuid() == 0:
            os.chown(a.inside / "d/f", 7, 8)
        async with kept(a, b), connected(a, b):
            await same(a, b, {"d": "directory", "d/f": "x"})
            assert stat.S_IMODE((b.inside / "d").stat().st_mode) == 0o550
            mine, theirs = (a.inside / "d/f").stat(), (b.inside / "d/f").stat()
            assert (mine.st_uid, mine.st_gid) == (theirs.st_uid, theirs.st_gid)
            assert mine.st_mtime_ns == theirs.st_mtime_ns

    @asynchronous
    async def test_large_files_travel_in_ranges_and_whole(self, tmp_path: Path) -> None:
        async with alike(tmp_path) as (a, b):
            data = os.urandom(3 * taking.RANGE + 12345)
            (a.inside / "large").write_bytes(data)
            await until((b.inside / "large").exists)
            assert (b.inside / "large").read_bytes() == data
            wants = [m for m in a.heard if isinstance(m, FileWant)]
            assert [want.size for want in wants] == [taking.RANGE] * 3 + [12345]
            await until(lambda: a.same and b.same)
            assert a.status.bytes_done == a.status.bytes_wanted == len(data)

    @asynchronous
    async def test_who_leads_sees_how_far_the_other_is(self, tmp_path: Path) -> None:
        a, _ = keepers(tmp_path)
        b = Stuck(tmp_path, Folder(tmp_path / "b"), 1)
        b.taking.clear()
        for number in range(30):
            (a.inside / str(number)).write_text("x" * 1000)
        async with kept(a, b), connected(a, b):
            await until(lambda: a.status.items_done, f"{a.status}")
            half = a.status
            assert (half.state, half.items, half.bytes_wanted) == ("working", 30, 30_000)
            assert half.items_done < 30
            assert half.bytes_done == 1000 * half.items_done
            b.taking.set()
            await until(lambda: a.same and b.same, f"{a.status}, {b.status}")
            assert a.status.items_done == a.status.items == 30

    @asynchronous
    async def test_a_file_that_is_listed_by_itself(self, tmp_path: Path) -> None:
        lists = [FileList(name="l", paths=("/in/one", "/in/*.cfg"))]
        async with alike(tmp_path, lists) as (a, b):
            (a.inside / "one").write_text("1")
            (a.inside / "other").write_text("not listed")
            (b.inside / "x.cfg").write_text("x")
            await until(lambda: (b.inside / "one").exists() and (a.inside / "x.cfg").exists())
            await until(lambda: a.same and b.same)
            assert not (b.inside / "other").exists()
            (b.inside / "one").unlink()
            await until(lambda: not (a.inside / "one").exists())


class TestWithoutConnection:
    @asynchronous
    async def test_what_happened_meanwhile_is_made_up_for(self, tmp_path: Path) -> None:
        async with alike(tmp_path) as (a, b):
            for name in ("changed", "deleted", "both", "revived"):
                (a.inside / name).write_text("old")
            await until(lambda: a.same and b.same and len(b.said()) == 4)
        for one in (a, b):
            assert len(list(one.memory.iterdir())) == 1
        (a.inside / "changed").write_text("new")
        (b.inside / "deleted").unlink()
        (a.inside / "both").write_text("the primary's")
        (b.inside / "both").write_text("the secondary's")
        (a.inside / "revived").unlink()
        (b.inside / "revived").write_text("new")
        a, b = keepers(tmp_path)
        async with kept(a, b), connected(a, b):
            await until(lambda: a.same and b.same)
            said = {"changed": "new", "both": "the primary's", "revived": "new"}
            assert a.said() == said
            assert copies(b) == ["the secondary's"]
            assert copies(a) == []
            assert (a.status.conflicts, a.counts["conflicts"], a.counts["revived"]) == (1, 1, 1)

    @asynchronous
    async def test_the_role_decides_and_may_move(self, tmp_path: Path) -> None:
        a, b = keepers(tmp_path)
        for node in (a, b):
            node.files.lead(None)
            (node.inside / "f").write_text(f"from {node.name}")
        async with kept(a, b), connected(a, b):
            await until(lambda: "primary" in a.status.sentence and "primary" in b.status.sentence)
            a.files.lead(False)
            b.files.lead(True)
            await until(lambda: a.same and b.same)
            assert (a.inside / "f").read_text() == (b.inside / "f").read_text() == "from b"
            assert copies(a) == ["from a"]
            b.files.lead(False)
            a.files.lead(True)
            (a.inside / "f").write_text("again")
            await until(lambda: (b.inside / "f").read_text() == "again")
            await until(lambda: a.same and b.same)
            assert copies(b) == []

    @asynchronous
    async def test_a_memory_that_is_lost_deletes_nothing_and_loses_nothing(
        self, tmp_path: Path
    ) -> None:
        async with alike(tmp_path) as (a, b):
            for name in ("f", "g"):
                (a.inside / name).write_text("old")
            await until(lambda: a.same and b.same and len(b.said()) == 2)
        (a.inside / "f").unlink()
        (b.inside / "g").unlink()
        for memory in (a.memory, b.memory):
            for path in memory.iterdir():
                path.write_bytes(b"damaged")
        a, b = keepers(tmp_path)
        async with kept(a, b), connected(a, b):
            await until(lambda: a.same and b.same)
            assert a.said() == b.said() == {"f": "old", "g": "old"}

    @asynchronous
    async def test_a_directory_that_vanishes_as_a_whole_is_restored(self, tmp_path: Path) -> None:
        async with alike(tmp_path) as (a, b):
            (a.inside / "f").write_text("old")
            await same(a, b, {"f": "old"})
            b.inside.rename(b.top / "elsewhere")
            await until((b.inside / "f").exists)
            await same(a, b, {"f": "old"})
            assert (a.inside / "f").read_text() == "old"

    @asynchronous
    async def test_a_transfer_that_was_cut_is_gone_on_with(self, tmp_path: Path) -> None:
        a, b = keepers(tmp_path)
        data = os.urandom(12 * taking.RANGE)
        (a.inside / "large").write_bytes(data)
        async with kept(a, b), connected(a, b):
            await until(lambda: b.files.status().lists and b.status.bytes_done > taking.RANGE)
            b.taking.clear()
            a.session.close("reconnect", "A test.")
            b.taking.set()
            await until((b.inside / "large").exists, f"{a.status} {b.status}")
            assert (b.inside / "large").read_bytes() == data
            assert b.counts["resumed"] == 1
            await until(lambda: a.same and b.same)


class TestTrouble:
    @asynchronous
    async def test_what_fails_is_named_on_both_nodes_and_the_rest_gets_there(
        self, tmp_path: Path
    ) -> None:
        a, b = keepers(tmp_path)
        (a.inside / "d").mkdir()
        (a.inside / "d/f").write_text("x")
        (a.inside / "g").write_text("y")
        # A directory of theirs in which something is left out stands in the way of a file.
        (b.inside / "g").mkdir()
        (b.inside / "g/x.bak").write_text("left out")
        (b.inside / "h").write_text("z")
        async with kept(a, b), connected(a, b):
            await until(lambda: a.status.state == b.status.state == "partly", f"{a.status}")
            assert (a.inside / "h").read_text() == "z"
            assert (b.inside / "d/f").read_text() == "x"
            for status in (a.status, b.status):
                assert [(f.path, f.code) for f in status.failures] == [("/in/g", "not_empty")]
            (b.inside / "g/x.bak").unlink()
            await same(a, b, {"d": "directory", "d/f": "x", "g": "y", "h": "z"})
            assert b.counts["failed_not_empty"] >= 1

    @pytest.mark.privileged
    @asynchronous
    async def test_a_full_disk_takes_what_fits_and_the_rest_when_there_is_room(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(talking, "RETRY_S", (0.05, 0.1))
        a, b = keepers(tmp_path)
        with small(b.inside, "3m"):
            (a.inside / "large").write_bytes(bytes(4 << 20))
            (a.inside / "small").write_text("x")
            async with kept(a, b), connected(a, b):
                await until(lambda: a.status.state == "partly", f"{a.status}")
                assert (b.inside / "small").read_text() == "x"
                (failure,) = a.status.failures
                assert (failure.path, failure.code) == ("/in/large", "full")
                assert "bytes needed" in failure.sentence
                mount("-o", "remount,size=9m", b.inside)
                await until((b.inside / "large").exists, "it is tried again")
                await until(lambda: a.same and b.same)

    @pytest.mark.privileged
    @asynchronous
    async def test_what_failed_and_is_wanted_no_longer_is_named_no_longer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither node has it then, so nothing else would tell the one that follows."""
        monkeypatch.setattr(talking, "RETRY_S", (0.05, 0.1))
        a, b = keepers(tmp_path)
        with small(b.inside, "1m"):
            (a.inside / "large").write_bytes(bytes(2 << 20))
            async with kept(a, b), connected(a, b):
                await until(lambda: a.status.state == b.status.state == "partly", f"{b.status}")
                assert [(f.path, f.code) for f in b.status.failures] == [("/in/large", "full")]
                (a.inside / "large").unlink()
                await same(a, b, {})
                assert (a.status.failures, b.status.failures) == ((), ())
                assert b.status.failed == 0

    @asynchronous
    async def test_nodes_that_mean_something_else_do_nothing(self, tmp_path: Path) -> None:
        a, b = keepers(tmp_path)
        (a.inside / "f").write_text("x")
        async with kept(a), kept(b, lists=[replace(LIST, exclude=())]), connected(a, b):
            await until(lambda: "another list" in a.status.sentence)
            assert b.said() == {}
            b.files.configure([LIST])
            await same(a, b, {"f": "x"})

    @asynchronous
    async def test_lists_come_and_go(self, tmp_path: Path) -> None:
        a, b = keepers(tmp_path)
        (a.inside / "f").write_text("x")
        async with kept(a, b, lists=[]), connected(a, b):
            assert a.files.status().lists == ()
            for node in (a, b):
                node.files.configure([LIST])
            await until(lambda: a.files.status().lists and b.files.status().lists)
            await same(a, b, {"f": "x"})
            for node in (a, b):
                node.files.configure([])
            await until(lambda: a.files.status().lists == b.files.status().lists == ())
            (a.inside / "f").write_text("y")
            for node in (a, b):
                node.files.configure([LIST])
            await until(lambda: (b.inside / "f").read_text() == "y")


class TestHostilePeer:
    """Whatever a peer says that was let in, it gets and changes nothing outside of the lists."""

    @asynchronous
    async def test_orders_and_wants_beyond_the_list(self, tmp_path: Path) -> None:
        async with alike(tmp_path) as (a, b):
            await same(a, b, {})
            a.files.lead(False)
            (b.top / "secret").write_text("secret")
            (b.inside / "link").symlink_to(b.top)
            paths = ["/secret", "/in/../secret", "/in/link/secret", "/x", "/in/x.bak", "/in/link/x"]
            entries = [Entry(path=path, kind=Kind.FILE, size=4, content="0" * 64) for path in paths]
            orders = [Order(what=What.TAKE, entry=entry, expect="") for entry in entries]
            orders += [Order(what=What.DELETE, entry=entry, expect="") for entry in entries]
            a.heard.clear()
            message = FileOrders(list="l", definition=LIST.digest, round=77, orders=tuple(orders))
            await a.session.send(message)
            for path in paths[:3]:
                await a.session.send(FileWant(list="l", path=path, content="0" * 64, size=9))
            await a.session.send(FileWant(list="none", path="/secret", content="0" * 64, size=9))
            await until(lambda: any(isinstance(m, FileDone) for m in a.heard), "the answer")
            await until(lambda: sum(isinstance(m, FilePiece) for m in a.heard) == 4)
            (done,) = [m for m in a.heard if isinstance(m, FileDone)]
            assert (done.round, done.changed, done.failed) == (77, 0, 12)
            assert {failure.code for failure in done.failures} == {"escape"}
            pieces = [m for m in a.heard if isinstance(m, FilePiece)]
            assert {(piece.data, piece.code) for piece in pieces} == {
                (b"", "escape"),
                (b"", "changed"),
            }
            assert sorted(os.listdir(b.top)) == ["in", "secret"]
            assert (b.top / "secret").read_text() == "secret"
            assert b.said() == {"link": f"-> {b.top}"}

    @asynchronous
    async def test_a_manifest_that_names_what_is_not_listed(self, tmp_path: Path) -> None:
        async with alike(tmp_path) as (a, b):
            await same(a, b, {})
            entries = tuple(
                Entry(path=path, kind=Kind.FILE, size=1, content="0" * 64)
                for path in ("/etc/passwd", "/in/../x", "/in/x.bak")
            )
            a.heard.clear()
            await b.session.send(
                Manifest(list="l", definition=LIST.digest, whole=False, entries=entries)
            )
            await until(lambda: a.counts.get("refused") == 3)
            assert a.said() == {}
            assert os.listdir(a.top) == ["in"]

    @asynchronous
    async def test_what_nobody_asked_for_is_dropped_and_counted(self, tmp_path: Path) -> None:
        async with alike(tmp_path) as (a, b):
            await same(a, b, {})
            await a.session.send(FilePiece(list="l", path="/in/f", offset=0, data=b"x"))
            await a.session.send(FileDone(list="l", round=5))
            await a.session.send(FileDone(list="unknown"))
            await until(lambda: b.counts.get("unwanted") == 2 and b.counts.get("unknown_list"))
            for number in range(100):
                want = FileWant(list="l", path=f"/in/{number}", content="", size=1)
                b.files.take(want)
            assert b.counts["flooded"] > 0
            assert b.said() == {}

    @asynchronous
    async def test_who_leads_takes_no_orders(self, tmp_path: Path) -> None:
        async with alike(tmp_path) as (a, b):
            (a.inside / "f").write_text("x")
            await same(a, b, {"f": "x"})
            gone = Entry(path="/in/f", kind=Kind.ABSENT)
            stamp = next(iter(a.files._filing.lists.values())).scan.entries["/in/f"].stamp
            order = Order(what=What.DELETE, entry=gone, expect=stamp)
            b.heard.clear()
            await b.session.send(
                FileOrders(list="l", definition=LIST.digest, round=1, orders=(order,))
            )
            await b.session.send(
                FileCommon(list="l", definition=LIST.digest, stamps=(("/in/f", ""),))
            )
            await until(lambda: any(isinstance(m, FileDone) for m in b.heard))
            (done,) = [m for m in b.heard if isinstance(m, FileDone)]
            assert done.code == "not_following"
            assert (a.inside / "f").exists()
            assert a.counts["refused"] == 2


class TestCommand:
    @asynchronous
    async def test_runs_where_something_was_changed_and_once(self, tmp_path: Path) -> None:
        script = tmp_path / "reload"
        script.write_text(
            f'#!/bin/sh\necho "$TWINBEAT_FILES $TWINBEAT_NODE $TWINBEAT_CHANGED" >>{tmp_path}/ran\n'
        )
        script.chmod(0o755)
        a, b = keepers(tmp_path)
        for number in range(5):
            (a.inside / str(number)).write_text("x")
        lists = [replace(LIST, command=(str(script),))]
        async with kept(a, b, lists=lists), connected(a, b):
            await until(lambda: a.same and b.same and b.counts.get("commands"))
            assert (tmp_path / "ran").read_text() == "l b 5\n"
            assert b.status.command == "ended with 0"
            assert a.status.command == ""

    @asynchronous
    async def test_that_takes_too_long_is_killed_and_said(self, tmp_path: Path) -> None:
        a, b = keepers(tmp_path)
        (a.inside / "f").write_text("x")
        lists = [replace(LIST, command=("/bin/sleep", "60"), timeout_s=1)]
        async with kept(a, b, lists=lists), connected(a, b):
            await until(lambda: b.counts.get("commands_failed"))
            assert b.status.command == "took too long and was killed"
            await same(a, b, {"f": "x"})


class TestInStep:
    @asynchronous
    async def test_a_file_is_waited_for_until_both_have_it(self, tmp_path: Path) -> None:
        async with alike(tmp_path) as (a, b):
            await same(a, b, {})
            (a.inside / "f").write_text("x")
            assert await a.files.in_step("/in/f", 5.0) == ""
            assert (b.inside / "f").read_text() == "x"
            assert await b.files.in_step("/in/f", 5.0) == ""

    @asynchronous
    async def test_otherwise_it_is_said_why(self, tmp_path: Path) -> None:
        a, b = keepers(tmp_path)
        (a.inside / "f").write_text("x")
        async with kept(a, b):
            await until(lambda: a.files.status().lists)
            said = await a.files.in_step("/in/f", 0.05)
            assert said.startswith("/in/f isn't known to be alike on both nodes: ")
            assert (
                await a.files.in_step("/etc/passwd", 0.05) == "/etc/passwd is in no list of files."
            )


@pytest.mark.parametrize(
    ("mine", "theirs", "leading"),
    [
        ({"primary": True}, {}, True),
        ({}, {"primary": True}, False),
        ({}, {}, None),
        ({"primary": True}, {"primary": True}, None),
        ({"primary": True}, {"sync": False}, None),
        ({"primary": True, "sync": False}, {}, None),
    ],
)
def test_the_one_primary_leads(mine: dict, theirs: dict, leading: bool | None) -> None:
    one = msgspec.structs.replace(summary(0), **mine)
    other = msgspec.structs.replace(summary(1), **theirs)
    assert leads(one, other) is leading


@asynchronous
async def test_a_thousand_files_take_seconds(tmp_path: Path) -> None:
    """A guard, with room for a busy machine; deploy/docs/files.md has what was measured."""
    a, b = keepers(tmp_path)
    for number in range(1000):
        path = a.inside / f"d{number % 20}/f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(2_000))
    begun = time.monotonic()
    async with kept(a, b), connected(a, b):
        while not (a.files.status().lists and a.same and b.same):
            await asyncio.sleep(0.01)
            assert time.monotonic() - begun < 80, f"{a.status} {b.status}"
    for path in a.inside.rglob("f*"):
        assert (b.inside / path.relative_to(a.inside)).read_bytes() == path.read_bytes()
    assert filing.LOOK_S > 18, "no walk by the clock was needed"


def test_a_mistake_of_this_program_is_not_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the session at once and comes out, so that the worker is started anew."""

    async def mistaken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(talking.Talk, "_tell", mistaken)

    @asynchronous
    async def run() -> None:
        async with alike(tmp_path) as (_, b):
            await until(lambda: b.sessions and b.sessions[-1].over is not None)
            assert b.sessions[-1].over.code == "handler"
            await asyncio.Event().wait()

    with pytest.raises(BaseExceptionGroup) as ended:
        run()
    assert ended.group_contains(ZeroDivisionError)
