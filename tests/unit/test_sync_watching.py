# SPDX-License-Identifier: Apache-2.0
"""Watching directories: what is heard, what is not, and that nothing is missed for good."""

import asyncio
import errno
import os
import shutil
from pathlib import Path

import pytest

from twinbeat.sync import watching
from twinbeat.sync.beneath import Tree
from twinbeat.sync.files import Reader
from twinbeat.sync.lists import FileList
from twinbeat.sync.watching import IN_Q_OVERFLOW, Quiet, Watcher
from unit.sync_pair import until
from unit.test_sync_connection import asynchronous

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


class Ears:
    """A watcher, and how often it called."""

    def __init__(self, top: Path, directories: dict[str, set[str] | None]) -> None:
        self.heard = 0
        self.top = top
        self.watcher = Watcher(Tree(str(top)), self.hear)
        assert self.watcher.watch(directories) == (True, [])

    def hear(self) -> None:
        self.heard += 1

    async def after(self) -> bool:
        """Whether something that was done is heard: all is, before a mark that always is."""
        before = self.heard
        mark = self.watcher.counts["events"]
        await until(lambda: self.watcher.counts["events"] > mark, "an event")
        return self.heard > before


@asynchronous
async def test_what_matters_is_heard(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    ears = Ears(tmp_path, {"/d": None})
    file = tmp_path / "d/f"
    for act in (
        lambda: file.write_text("x"),
        lambda: file.chmod(0o600),
        lambda: file.rename(tmp_path / "d/g"),
        lambda: (tmp_path / "d/g").rename(tmp_path / "gone"),
        lambda: (tmp_path / "gone").rename(tmp_path / "d/back"),
        (tmp_path / "d/back").unlink,
        (tmp_path / "d/sub").mkdir,
        lambda: (tmp_path / "d/l").symlink_to("x"),
        lambda: shutil.rmtree(tmp_path / "d"),
    ):
        before = ears.heard
        act()
        await until(lambda before=before: ears.heard > before, "it is heard")
    ears.watcher.close()


@asynchronous
async def test_only_names_that_matter_are_heard(tmp_path: Path) -> None:
    ears = Ears(tmp_path, {"/": {"f"}})
    (tmp_path / "other").write_text("x")
    assert not await ears.after()
    (tmp_path / "f").write_text("x")
    assert await ears.after()
    ears.watcher.close()


@asynchronous
async def test_reading_is_not_heard(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    ears = Ears(tmp_path, {"/": None})
    (tmp_path / "f").read_text()
    os.listdir(tmp_path)
    (tmp_path / "mark").write_text("")
    await until(lambda: ears.heard)
    # Created and closed after writing; and nothing of what came before.
    await until(lambda: ears.watcher.counts["events"] >= 2)
    assert ears.watcher.counts["events"] == 2
    ears.watcher.close()


@asynchronous
async def test_directories_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    ears = Ears(tmp_path, {"/": {"a"}, "/a": None})
    assert ears.watcher.watch({"/": {"a"}, "/a": None}) == (False, [])
    (tmp_path / "b").mkdir()
    assert ears.watcher.watch({"/b": None}) == (True, [])
    assert ears.watcher.watched == 1
    (tmp_path / "a/f").write_text("")
    (tmp_path / "b/f").write_text("")
    await until(lambda: ears.heard)
    # The same name, and another directory: the old watch is none of it.
    (tmp_path / "b").rename(tmp_path / "c")
    (tmp_path / "b").mkdir()
    assert ears.watcher.watch({"/b": None}) == (True, [])
    before = ears.heard
    (tmp_path / "b/g").write_text("")
    await until(lambda: ears.heard > before, "the new one is watched")
    ears.watcher.close()


@asynchronous
async def test_a_symbolic_link_is_never_watched_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    watcher = Watcher(Tree(str(tmp_path)), lambda: None)
    assert watcher.watch({"/link": None, "/gone": None}) == (False, [])
    assert watcher.watched == 0
    watcher.close()


@asynchronous
async def test_an_overflow_is_counted_and_means_that_something_happened(tmp_path: Path) -> None:
    ears = Ears(tmp_path, {"/": {"never"}})
    assert not ears.watcher._taken(watching._EVENT.pack(1, 0x100, 0, 0))
    assert ears.watcher._taken(watching._EVENT.pack(-1, IN_Q_OVERFLOW, 0, 0))
    assert ears.watcher.counts["overflows"] == 1
    ears.watcher.close()


@asynchronous
async def test_a_real_overflow_is_met(tmp_path: Path) -> None:
    """More happens, while the loop does something else, than the kernel keeps."""
    limit = int(QUEUE.read_text())  # noqa: ASYNC240 - not of a disk
    if limit > 200_000:
        pytest.skip("the kernel's queue is too long to be filled in a moment")
    ears = Ears(tmp_path, {"/": {"never"}})
    one, other = tmp_path / "one", tmp_path / "other"
    one.touch()
    for _ in range(limit // 4 + 10):
        one.rename(other)
        other.rename(one)
    await until(lambda: ears.watcher.counts["overflows"], "the overflow is seen")
    assert ears.heard
    ears.watcher.close()


@asynchronous
async def test_a_directory_that_cannot_be_watched_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(result: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    watcher = Watcher(Tree(str(tmp_path)), lambda: None)
    monkeypatch.setattr(watching, "_called", full)
    new, (trouble,) = watcher.watch({"/": None})
    assert (new, trouble.code, watcher.counts["lost"]) == (False, "limit", 1)
    assert "max_user_watches" in trouble.sentence
    watcher.close()


@asynchronous
async def test_a_walk_says_all_that_has_to_be_watched(tmp_path: Path) -> None:
    (tmp_path / "in/d").mkdir(parents=True)
    (tmp_path / "in/f").write_text("")
    files = FileList(name="l", paths=("/in", "/etc/one", "/none/deep"))
    found = Reader(files, Tree(str(tmp_path))).scan()
    assert found.directories == {"/": {"in", "etc", "none"}, "/in": None, "/in/d": None}


class TestQuiet:
    @asynchronous
    async def test_a_burst_is_one(self) -> None:
        quiet = Quiet(quiet_s=0.05, at_most_s=5.0)

        async def burst() -> None:
            for _ in range(20):
                quiet.happened()
                await asyncio.sleep(0.001)

        bursting = asyncio.create_task(burst())
        assert await quiet.burst(5.0)
        assert bursting.done()
        assert not await quiet.burst(0.001)
        assert quiet.bursts == 1

    @asynchronous
    async def test_one_that_never_ends_is_cut(self) -> None:
        quiet = Quiet(quiet_s=0.05, at_most_s=0.1)

        async def burst() -> None:
            while True:
                quiet.happened()
                await asyncio.sleep(0.001)

        bursting = asyncio.create_task(burst())
        assert await quiet.burst(5.0)
        bursting.cancel()
