# SPDX-License-Identifier: Apache-2.0
"""Files read and put in place: what is kept alike, and that nothing reaches outside of a list."""

import hashlib
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinbeat.sync import files as reading
from twinbeat.sync import placing
from twinbeat.sync.beneath import Tree, Trouble
from twinbeat.sync.files import Reader, content
from twinbeat.sync.lists import CONFLICT, TEMPORARY, FileList, problems
from twinbeat.sync.manifest import Entry, Kind, Order, What
from twinbeat.sync.placing import Incoming, Place
from twinbeat.sync.remembered import Memory, Remembered

NOW_NS = 1_700_000_000_123_000_000
LIST = FileList(name="l", paths=("/in",), exclude=("*.bak",))


class Ground:
    """A tree with the list's directory and one beside it, which nobody may reach."""

    def __init__(self, top: Path, files: FileList = LIST) -> None:
        self.top = top
        self.inside, self.outside = top / "in", top / "out"
        self.inside.mkdir()
        self.outside.mkdir()
        self.secret = self.outside / "secret"
        self.secret.write_text("secret")
        self.files = files
        self.tree = Tree(str(top))
        self.reader = Reader(files, self.tree)
        self.place = Place(files, self.reader)

    def entries(self) -> dict[str, Entry]:
        return self.reader.scan().entries

    def order(self, path: str, kind: Kind = Kind.FILE, text: str = "", **more: object) -> Order:
        """To take this, in place of what is there."""
        keep = bool(more.pop("keep", False))
        fields: dict[str, object] = {"mode": 0o640, "uid": os.geteuid(), "gid": os.getegid()}
        if kind is Kind.FILE:
            fields |= {"size": len(text), "content": hashed(text), "mtime_ns": NOW_NS}
        entry = Entry(path=path, kind=kind, **(fields | more))  # type: ignore[arg-type]
        try:
            expect = self.reader.look(path).stamp
        except Trouble:
            expect = ""
        return Order(what=What.TAKE, entry=entry, expect=expect, keep=keep)

    def delete(self, path: str) -> None:
        gone = Entry(path=path, kind=Kind.ABSENT)
        expect = self.reader.look(path).stamp
        self.place.delete(Order(what=What.DELETE, entry=gone, expect=expect))

    def take(self, order: Order, text: str) -> None:
        with Incoming(self.place, order) as incoming:
            incoming.write(incoming.size, text.encode())
            incoming.put(NOW_NS)

    def untouched(self) -> bool:
        return sorted(os.listdir(self.outside)) == ["secret"] and (
            self.secret.read_text() == "secret"
        )


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def hashed(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def reachable(path: Path) -> None:
    """Let anybody pass to it."""
    for each in (path, *path.parents):
        mode = stat.S_IMODE(each.stat().st_mode)
        if mode & 0o011 != 0o011:
            each.chmod(mode | 0o011)


def temporary(path: Path) -> list[str]:
    return [name for name in os.listdir(path) if name.startswith(TEMPORARY)]


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Root is refused nothing, so this takes somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


class TestReading:
    def test_tells_kind_mode_owner_and_content(self, ground: Ground) -> None:
        (ground.inside / "d").mkdir(mode=0o750)
        (ground.inside / "d/f").write_text("text")
        (ground.inside / "d/f").chmod(0o4711)
        (ground.inside / "l").symlink_to("../out/secret")
        (ground.inside / "x.bak").write_text("left out")
        found = ground.entries()
        assert set(found) == {"/in", "/in/d", "/in/d/f", "/in/l"}
        file = found["/in/d/f"]
        assert (file.kind, file.mode, file.size) == (Kind.FILE, 0o4711, 4)
        assert (file.content, file.uid, file.gid) == (hashed("text"), os.getuid(), os.getgid())
        assert (found["/in/d"].kind, found["/in/d"].mode) == (Kind.DIRECTORY, 0o750)
        assert (found["/in/l"].kind, found["/in/l"].target) == (Kind.LINK, "../out/secret")

    def test_owners_may_be_left_out(self, tmp_path: Path) -> None:
        files = FileList(name="l", paths=("/in",), owner=False)
        ground = Ground(tmp_path, files)
        (ground.inside / "f").write_text("")
        os.chown(ground.inside / "f", 7 if os.geteuid() == 0 else -1, -1)
        assert ground.entries()["/in/f"].uid == 0

    def test_patterns_find_files_in_several_directories(self, tmp_path: Path) -> None:
        files = FileList(name="l", paths=("/in/*/c*.pem", "/in/one"))
        ground = Ground(tmp_path, files)
        for name in ("a/c1.pem", "b/c2.pem", "b/k.pem", "one"):
            (ground.inside / name).parent.mkdir(exist_ok=True)
            (ground.inside / name).write_text("")
        (ground.inside / "linked").symlink_to(ground.inside / "a")
        assert set(ground.entries()) == {"/in/a/c1.pem", "/in/b/c2.pem", "/in/one"}

    def test_what_is_as_it_was_is_not_read_again(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (ground.inside / "f").write_text("text")
        monkeypatch.setattr(reading, "RACY_NS", -(10**12))
        assert ground.reader.scan().hashed_bytes == 4
        assert ground.reader.scan().hashed_bytes == 0
        before = (ground.inside / "f").stat()
        (ground.inside / "f").write_text("TEXT")
        os.utime(ground.inside / "f", ns=(before.st_atime_ns, before.st_mtime_ns))
        again = ground.reader.scan()
        assert again.entries["/in/f"].content == hashed("TEXT"), "the time of change tells"

    def test_what_was_changed_a_moment_ago_is_read_again(self, ground: Ground) -> None:
        (ground.inside / "f").write_text("text")
        assert ground.reader.scan().hashed_bytes == 4
        assert ground.reader.scan().hashed_bytes == 4

    def test_what_is_neither_file_nor_directory_is_unknown_and_nobody_waits_for_it(
        self, ground: Ground
    ) -> None:
        os.mkfifo(ground.inside / "pipe")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(ground.inside / "s"))
            found = ground.entries()
        assert [(found[path].kind, found[path].why) for path in ("/in/pipe", "/in/s")] == [
            (Kind.UNKNOWN, "kind")
        ] * 2

    def test_names_that_nobody_can_write_down_are_unknown(self, ground: Ground) -> None:
        (ground.inside / os.fsdecode(b"a\xff")).write_text("")
        found = [entry for entry in ground.entries().values() if entry.kind is Kind.UNKNOWN]
        assert [(entry.path, entry.why) for entry in found] == [("/in/a?", "name")]

    def test_what_may_not_be_read_is_unknown_and_not_absent(
        self, ground: Ground, request: pytest.FixtureRequest
    ) -> None:
        (ground.inside / "d").mkdir()
        (ground.inside / "d/f").write_text("")
        (ground.inside / "f").write_text("")
        (ground.inside / "d").chmod(0)
        (ground.inside / "f").chmod(0)
        reachable(ground.top)
        request.getfixturevalue("as_nobody")
        found = ground.entries()
        assert {path: found[path].why for path in ("/in/d", "/in/f")} == {
            "/in/d": "permission",
            "/in/f": "permission",
        }

    def test_what_leads_to_paths_of_the_list_and_may_not_be_read_hides_them(
        self, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        """They must not look like deleted, although the directory isn't of the list itself."""
        ground = Ground(tmp_path, FileList(name="l", paths=("/in/*/c*.pem", "/in/z/*.cfg")))
        for name in ("a", "z"):
            (ground.inside / name).mkdir()
            (ground.inside / name).chmod(0)
        (ground.inside / "plain").write_text("no directory, and not of the list")
        reachable(ground.top)
        request.getfixturevalue("as_nobody")
        found = ground.entries()
        assert {path: entry.why for path, entry in found.items()} == {
            "/in/a": "permission",
            "/in/z": "permission",
        }

    def test_a_directory_of_the_list_that_is_not_there_is_absent_and_watched_for(
        self, ground: Ground
    ) -> None:
        ground.inside.rmdir()
        found = ground.reader.scan()
        assert (found.entries, list(found.roots)) == ({}, ["/"])
        assert found.directories["/"] == {"in"}

    def test_a_list_with_too_much_is_refused_as_a_whole(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading, "ENTRIES_MAX", 3)
        for number in range(3):
            (ground.inside / str(number)).write_text("")
        with pytest.raises(Trouble, match="more than 3") as refused:
            ground.reader.scan()
        assert refused.value.code == "limit"

    def test_a_file_that_is_too_large_is_unknown(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading, "FILE_MAX", 3)
        (ground.inside / "f").write_text("text")
        assert ground.entries()["/in/f"].why == "limit"

    def test_contents_are_given_in_ranges(self, ground: Ground) -> None:
        (ground.inside / "f").write_text("0123456789")
        assert content(ground.tree, LIST, "/in/f", 2, 3) == b"234"
        assert content(ground.tree, LIST, "/in/f", 8, 30) == b"89"


class TestReadingOutside:
    """Nobody gets what lies outside of a list, whatever is asked for."""

    @pytest.mark.parametrize(
        "path",
        ["/out/secret", "/in/../out/secret", "/in//../out/secret", "/in/x.bak", "/", "secret"],
    )
    def test_by_name(self, ground: Ground, path: str) -> None:
        (ground.inside / "x.bak").write_text("")
        with pytest.raises(Trouble) as refused:
            content(ground.tree, LIST, path, 0, 9)
        assert refused.value.code == "escape"

    def test_through_a_symbolic_link(self, ground: Ground) -> None:
        (ground.inside / "d").symlink_to(ground.outside)
        (ground.inside / "f").symlink_to(ground.secret)
        for path in ("/in/d/secret", "/in/f"):
            with pytest.raises(Trouble) as refused:
                content(ground.tree, LIST, path, 0, 9)
            assert refused.value.code == "escape"
        assert set(ground.entries()) == {"/in", "/in/d", "/in/f"}

    def test_by_a_list_that_nobody_examined(self, ground: Ground) -> None:
        """What the configuration would be refused for reaches nothing, and is named."""
        (ground.inside / "f").write_text("text")
        wrong = ("/", "in", "/in/../out", "/*/secret", "/proc/self")
        files = FileList(name="l", paths=("/in", *wrong))
        assert [value for _, _, value, _ in problems([files])] == list(wrong)
        found = Reader(files, ground.tree).scan().entries
        assert {path: entry.why for path, entry in found.items()} == {
            "/in": "",
            "/in/f": "",
            **dict.fromkeys(wrong, "escape"),
        }
        assert not any(map(files.covers, ("/out/secret", "/proc/self", "/")))

    def test_where_the_list_itself_leads_over_one(self, ground: Ground) -> None:
        ground.inside.rmdir()
        (ground.top / "in").symlink_to(ground.outside)
        found = ground.entries()
        assert {path: entry.kind for path, entry in found.items()} == {"/in": Kind.LINK}
        files = FileList(name="l", paths=("/in/deep", "/in/*.cfg"))
        found = Reader(files, ground.tree).scan().entries
        assert {entry.why for entry in found.values()} == {"escape"}


class TestPlacing:
    def test_a_file_gets_content_mode_owner_and_time(self, ground: Ground) -> None:
        owner = {"uid": 7, "gid": 8} if os.geteuid() == 0 else {}
        ground.take(ground.order("/in/f", text="text", mode=0o4751, **owner), "text")
        status = (ground.inside / "f").stat()
        assert (ground.inside / "f").read_text() == "text"
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o4751, NOW_NS)
        assert status.st_uid == owner.get("uid", os.geteuid())
        assert temporary(ground.inside) == []

    def test_who_has_it_open_keeps_the_old_one_whole(self, ground: Ground) -> None:
        (ground.inside / "f").write_text("old")
        with (ground.inside / "f").open() as held:
            ground.take(ground.order("/in/f", text="new"), "new")
            assert held.read() == "old"
        assert (ground.inside / "f").read_text() == "new"

    def test_what_another_name_leads_to_is_left_alone(self, ground: Ground) -> None:
        """A hard link to a file outside must not carry a change there, mode and owner included."""
        os.link(ground.secret, ground.inside / "f")
        before = ground.secret.stat()
        order = ground.order("/in/f", text="secret", mode=0o777)
        ground.place.copy_own(order, NOW_NS)
        assert stat.S_IMODE((ground.inside / "f").stat().st_mode) == 0o777
        ground.take(ground.order("/in/f", text="new"), "new")
        after = ground.secret.stat()
        assert (before.st_mode, before.st_uid, before.st_mtime_ns) == (
            after.st_mode,
            after.st_uid,
            after.st_mtime_ns,
        )
        assert ground.untouched()

    @pytest.mark.parametrize("text", ["longer", "shor", "TEXT"])
    def test_another_content_than_was_promised_is_not_put_in_place(
        self, ground: Ground, text: str
    ) -> None:
        (ground.inside / "f").write_text("old")
        with pytest.raises(Trouble):
            ground.take(ground.order("/in/f", text="text!"), text)
        assert (ground.inside / "f").read_text() == "old"
        assert temporary(ground.inside) == []

    def test_who_changed_something_meanwhile_does_not_lose_it(self, ground: Ground) -> None:
        (ground.inside / "f").write_text("old")
        order = ground.order("/in/f", text="text")
        (ground.inside / "f").write_text("mine")
        with pytest.raises(Trouble) as refused:
            ground.take(order, "text")
        assert refused.value.code == "changed"
        assert (ground.inside / "f").read_text() == "mine"

    def test_what_was_interrupted_is_gone_on_with(self, ground: Ground) -> None:
        order = ground.order("/in/f", text="0123456789")
        first = Incoming(ground.place, order)
        first.write(0, b"01234")
        first.pause()
        assert len(temporary(ground.inside)) == 1
        assert set(ground.entries()) == {"/in"}
        second = Incoming(ground.place, order)
        assert second.size == 5
        second.write(5, b"56789")
        second.put(NOW_NS)
        assert (ground.inside / "f").read_text() == "0123456789"

    def test_what_lies_in_the_way_of_a_temporary_file_is_not_written_into(
        self, ground: Ground
    ) -> None:
        text = "longer than what is outside"
        order = ground.order("/in/f", text=text)
        name = ground.inside / placing._temporary(order.entry)
        for make in (
            lambda: name.symlink_to(ground.secret),
            lambda: os.link(ground.secret, name),
            lambda: os.mkfifo(name),
        ):
            make()
            ground.take(order, text)
            assert (ground.inside / "f").read_text() == text
            assert ground.untouched()
            (ground.inside / "f").unlink()

    def test_old_temporary_files_are_removed_and_new_ones_and_others_stay(
        self, ground: Ground
    ) -> None:
        for name, age in (("a", 7200), ("b", 0)):
            path = ground.inside / f"{TEMPORARY}{name}"
            path.write_text("")
            os.utime(path, (path.stat().st_mtime - age,) * 2)
        (ground.inside / "old").write_text("")
        os.utime(ground.inside / "old", (0, 0))
        leftovers = [*ground.reader.scan().leftovers, "/in/old"]
        assert ground.place.sweep(leftovers, older_than_s=3600) == 1
        assert sorted(os.listdir(ground.inside)) == [f"{TEMPORARY}b", "old"]

    def test_directories_links_and_deletions(self, ground: Ground) -> None:
        place = ground.place
        order = ground.order("/in/d", Kind.DIRECTORY, mode=0o1555)
        place.make_directory(order, NOW_NS)
        ground.take(ground.order("/in/d/f", text="x"), "x")
        place.finish_directory(order.entry)
        assert stat.S_IMODE((ground.inside / "d").stat().st_mode) == 0o1555
        place.make_link(ground.order("/in/l", Kind.LINK, target="d/f"), NOW_NS)
        place.make_link(ground.order("/in/l", Kind.LINK, target="/out"), NOW_NS)
        assert os.readlink(ground.inside / "l") == "/out"
        with pytest.raises(Trouble) as refused:
            ground.delete("/in/d")
        assert refused.value.code == "not_empty"
        for path in ("/in/l", "/in/d/f", "/in/d"):
            ground.delete(path)
        assert os.listdir(ground.inside) == []
        assert ground.untouched()

    def test_one_kind_takes_the_place_of_another(self, ground: Ground) -> None:
        (ground.inside / "p").mkdir()
        ground.take(ground.order("/in/p", text="x"), "x")
        assert (ground.inside / "p").read_text() == "x"
        ground.place.make_link(ground.order("/in/p", Kind.LINK, target="t"), NOW_NS)
        assert (ground.inside / "p").is_symlink()
        ground.place.make_directory(ground.order("/in/p", Kind.DIRECTORY), NOW_NS)
        assert (ground.inside / "p").is_dir()

    def test_a_copy_is_kept_where_that_is_the_order(self, ground: Ground) -> None:
        (ground.inside / "f").write_text("mine")
        ground.take(ground.order("/in/f", text="theirs", keep=True), "theirs")
        assert (ground.inside / "f").read_text() == "theirs"
        copy = ground.inside / f"f{CONFLICT}20231114T221320.123Z"
        assert copy.read_text() == "mine"
        assert set(ground.entries()) == {"/in", "/in/f"}

    def test_a_directory_that_gives_way_is_kept_with_all_that_is_in_it(
        self, ground: Ground
    ) -> None:
        (ground.inside / "p").mkdir()
        (ground.inside / "p/f").write_text("mine")
        ground.take(ground.order("/in/p", text="x", keep=True), "x")
        assert (ground.inside / f"p{CONFLICT}20231114T221320.123Z/f").read_text() == "mine"

    def test_copies_are_bounded_and_the_oldest_go(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(placing, "COPIES_MAX", 3)
        for number in range(6):
            (ground.inside / "f").write_text(f"mine {number}")
            order = ground.order("/in/f", text="x", keep=True)
            with Incoming(ground.place, order) as incoming:
                incoming.write(0, b"x")
                incoming.put(NOW_NS + number * 10**9)
        copies = sorted(ground.inside.glob(f"f{CONFLICT}*"))
        assert [copy.read_text() for copy in copies] == ["mine 3", "mine 4", "mine 5"]
        assert ground.place.tally.drain()["copies_dropped"] == 3

    def test_two_copies_of_one_moment_are_both_kept(self, ground: Ground) -> None:
        for text in ("a", "b"):
            (ground.inside / "f").write_text(text)
            ground.take(ground.order("/in/f", text="x", keep=True), "x")
        copies = ground.inside.glob(f"f{CONFLICT}*")
        assert sorted(copy.read_text() for copy in copies) == ["a", "b"]


class TestPlacingOutside:
    """Nothing outside of a list is written, made, changed or removed, whatever is ordered."""

    HOSTILE = (
        "/out/x",
        "/out/secret",
        "/in/../out/secret",
        "/in/d/../../out/x",
        "/in/x.bak",
        "/in/.twinbeat-new-x",
        "/in/linked/x",
        "/in/linked/secret",
        "/",
        "/in2",
    )

    @pytest.mark.parametrize("path", HOSTILE)
    def test_by_any_order(self, ground: Ground, path: str) -> None:
        (ground.inside / "linked").symlink_to(ground.outside)
        (ground.inside / "x.bak").write_text("mine")
        place = ground.place
        take = ground.order(path, text="evil")
        absent = Entry(path=path, kind=Kind.ABSENT)
        attempts = (
            lambda: ground.take(take, "evil"),
            lambda: place.copy_own(take, NOW_NS),
            lambda: place.delete(Order(what=What.DELETE, entry=absent, expect="")),
            lambda: place.make_directory(ground.order(path, Kind.DIRECTORY), NOW_NS),
            lambda: place.finish_directory(ground.order(path, Kind.DIRECTORY).entry),
            lambda: place.make_link(ground.order(path, Kind.LINK, target="x"), NOW_NS),
        )
        for attempt in attempts:
            with pytest.raises(Trouble) as refused:
                attempt()
            assert refused.value.code == "escape"
        assert ground.untouched()
        assert sorted(os.listdir(ground.top)) == ["in", "out"]
        assert sorted(os.listdir(ground.inside)) == ["linked", "x.bak"]

    def test_where_a_symbolic_link_takes_the_place_of_a_directory_on_the_way(
        self, ground: Ground
    ) -> None:
        """At the worst moment: when the content is there, and only its name is missing."""
        (ground.inside / "d").mkdir()
        order = ground.order("/in/d/secret", text="evil")
        incoming = Incoming(ground.place, order)
        incoming.write(0, b"evil")
        (ground.inside / "d").rename(ground.inside / "moved")
        (ground.inside / "d").symlink_to(ground.outside)
        with pytest.raises(Trouble) as refused:
            incoming.put(NOW_NS)
        assert refused.value.code == "escape"
        assert ground.untouched()

    def test_where_another_directory_does(self, ground: Ground) -> None:
        (ground.inside / "d").mkdir()
        order = ground.order("/in/d/f", text="text")
        incoming = Incoming(ground.place, order)
        incoming.write(0, b"text")
        (ground.inside / "d").rename(ground.outside / "d")
        (ground.inside / "d").mkdir()
        forged = ground.inside / "d" / placing._temporary(order.entry)
        forged.write_text("evil")
        with pytest.raises(Trouble) as refused:
            incoming.put(NOW_NS)
        assert refused.value.code == "changed"
        assert not (ground.outside / "d/f").exists()
        assert os.listdir(ground.inside / "d") == [forged.name]

    def test_while_a_directory_is_swapped_all_the_time(self, ground: Ground) -> None:
        (ground.inside / "d").mkdir()
        (ground.top / "aside").symlink_to(ground.outside)
        over = threading.Event()

        def swap() -> None:
            """Exchange the directory and a symbolic link, as fast as it goes."""
            real, link, third = ground.inside / "d", ground.top / "aside", ground.top / "third"
            while not over.is_set():
                real.rename(third)
                link.rename(real)
                real.rename(link)
                third.rename(real)

        swapping = threading.Thread(target=swap)
        swapping.start()
        outcomes = set()
        try:
            for number in range(300):
                try:
                    order = ground.order("/in/d/x", text=str(number))
                    ground.take(order, str(number))
                    outcomes.add("done")
                    content(ground.tree, LIST, "/in/d/secret", 0, 9)
                    raise AssertionError("the file outside was read")
                except Trouble as trouble:
                    outcomes.add(trouble.code)
                with_link = ground.reader.scan().entries
                assert "/in/d/secret" not in with_link
        finally:
            over.set()
            swapping.join()
        assert ground.untouched()
        assert outcomes - {"done"}, "the swapping was never met"


class TestDisks:
    """What a disk refuses is named, and leaves what was there."""

    @pytest.mark.privileged
    def test_a_full_disk(self, tmp_path: Path, mounted: Path) -> None:
        ground = Ground(mounted)
        (ground.inside / "f").write_text("old")
        text = "x" * (3 << 20)
        with pytest.raises(Trouble, match="bytes needed") as refused:
            Incoming(ground.place, ground.order("/in/f", text=text))
        assert refused.value.code == "full"
        assert (ground.inside / "f").read_text() == "old"
        assert temporary(ground.inside) == []
        ground.take(ground.order("/in/g", text="small"), "small")

    @pytest.mark.privileged
    def test_a_disk_that_fills_up_meanwhile(
        self, mounted: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(placing, "SPARE", 0)
        ground = Ground(mounted)
        text = "x" * (1 << 20)
        with Incoming(ground.place, ground.order("/in/f", text=text)) as incoming:
            incoming.write(0, text[:4096].encode())
            free = os.statvfs(mounted)
            (ground.outside / "fill").write_bytes(bytes(free.f_bavail * free.f_frsize))
            with pytest.raises(Trouble) as refused:
                incoming.write(4096, text[4096:].encode())
        assert refused.value.code == "full"
        assert os.listdir(ground.inside) == []

    @pytest.mark.privileged
    def test_a_disk_that_may_only_be_read(self, mounted: Path) -> None:
        import subprocess

        ground = Ground(mounted)
        (ground.inside / "f").write_text("old")
        order = ground.order("/in/f", text="new")
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        with pytest.raises(Trouble, match="read-only") as refused:
            ground.take(order, "new")
        assert refused.value.code == "read_only"
        assert ground.entries()["/in/f"].content == hashed("old")

    def test_what_the_worker_may_not_write(
        self, ground: Ground, request: pytest.FixtureRequest
    ) -> None:
        (ground.inside / "f").write_text("old")
        order = ground.order("/in/f", text="new")
        ground.inside.chmod(0o555)
        reachable(ground.top)
        request.getfixturevalue("as_nobody")
        with pytest.raises(Trouble) as refused:
            ground.take(order, "new")
        assert refused.value.code == "permission"
        assert (ground.inside / "f").read_text() == "old"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    import subprocess

    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


class TestMemory:
    def test_is_there_again_after_a_restart(self, tmp_path: Path) -> None:
        memory = Memory(tmp_path / "m")
        assert memory.load("l") == Remembered(name="l")
        kept = Remembered(
            name="l", common={"/p": "0" * 32}, roots={"/in": 7}, known={"/p": (1, 2, 3, 4, 5, "h")}
        )
        memory.save(kept)
        assert Memory(tmp_path / "m").load("l") == kept
        assert memory.load("other") == Remembered(name="other")

    @pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x81\xa4name\xa5other"])
    def test_that_is_damaged_is_set_aside_and_means_that_nothing_is_known(
        self, tmp_path: Path, damage: bytes
    ) -> None:
        memory = Memory(tmp_path)
        memory.save(Remembered(name="l", common={"/p": "0" * 32}))
        (path,) = tmp_path.iterdir()
        path.write_bytes(damage)
        assert memory.load("l") == Remembered(name="l")
        assert [aside.read_bytes() for aside in memory.set_aside] == [damage]

    def test_a_disk_that_is_gone_deletes_nothing(self) -> None:
        remembered = Remembered(
            name="l",
            common={"/in/a": "1", "/in": "2", "/in2/a": "3", "/f": "4"},
            roots={"/in": 7, "/in2": 8},
        )
        assert remembered.beginning({"/in": 7, "/in2": 8}) == 0
        assert remembered.beginning({"/in": 9, "/in2": 8}) == 2
        assert remembered.common == {"/in2/a": "3", "/f": "4"}
        assert remembered.beginning({"/in": 9}) == 1
        assert remembered.beginning({"/in": 9, "/in2": 10}) == 0


class TestDurability:
    """What a walk saw is on the disk, since the other node is told of it."""

    @pytest.fixture
    def synced(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        found: list[str] = []
        fsync = os.fsync

        def noted(descriptor: int) -> None:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", noted)
        return found

    def test_contents_and_directories_are_synced_when_they_changed(
        self, ground: Ground, synced: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading, "RACY_NS", -(10**12))
        (ground.inside / "d").mkdir()
        (ground.inside / "d/f").write_text("x")
        ground.reader.scan()
        inside = str(ground.inside)
        # The directory above has the list's own name in it.
        assert set(synced) == {str(ground.top), inside, f"{inside}/d", f"{inside}/d/f"}
        synced.clear()
        ground.reader.scan()
        assert synced == []
        (ground.inside / "d/f").chmod(0o600)
        ground.reader.scan()
        assert synced == [f"{inside}/d/f"]
        synced.clear()
        (ground.inside / "d/f").unlink()
        ground.reader.scan()
        assert synced == [f"{inside}/d"]

    def test_a_content_is_synced_before_its_name_is_there(
        self, ground: Ground, synced: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order = ground.order("/in/f", text="text")
        before: list[list[str]] = []
        rename = os.rename

        def renaming(*args: object, **kwargs: object) -> None:
            before.append(list(synced))
            rename(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "rename", renaming)
        ground.take(order, "text")
        assert before == [[str(ground.inside / placing._temporary(order.entry))]]


def test_what_was_ordered_and_is_there_is_common() -> None:
    remembered = Remembered(
        name="l",
        common={"/a": "old", "/b": "old", "/gone": "old", "/stays": "old"},
        ordered={"/a": "new", "/b": "new", "/c": "new", "/gone": "", "/stays": ""},
    )
    remembered.recall({"/a": "new", "/b": "old", "/stays": "old"})
    assert remembered.common == {"/a": "new", "/b": "old", "/stays": "old"}
    assert remembered.ordered == {"/b": "new", "/c": "new", "/stays": ""}
