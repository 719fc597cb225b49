# SPDX-License-Identifier: Apache-2.0
"""Files kept alike through what takes a node down: SIGKILL at any moment, and loss of power."""

import asyncio
import dataclasses
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinbeat.sync.lists import CONFLICT, TEMPORARY
from twinbeat.sync.remembered import Memory
from twinbeat.sync.talking import Talk
from unit.own_disk import cut, mounted_anew, own_disk
from unit.sync_files_pair import LIST, Keeper, connected, keepers, kept
from unit.sync_pair import running, until
from unit.test_sync_connection import asynchronous

TESTS = Path(__file__).parents[1]
KILLS = 4


async def served(root: Path) -> tuple[asyncio.subprocess.Process, int]:
    """Node b as a process of its own, and its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "unit.files_measure", "--serve", str(root)),
        stdout=asyncio.subprocess.PIPE,
        cwd=TESTS,
    )
    assert process.stdout is not None
    return process, int(await process.stdout.readline())


def whole(text: str) -> bool:
    """Whether it is a content as they are written here, from its beginning to its end."""
    head, _, rest = text.partition("\n")
    return head.isdigit() and rest == head * (len(rest) // max(1, len(head))) and rest != ""


def write(node: Keeper, number: int, dice: random.Random) -> None:
    """Change a file as a program does that keeps its files whole."""
    name = node.inside / f"f{number % 12}"
    fresh = node.inside / f"{name.name}.bak"
    fresh.write_text(f"{number}\n" + str(number) * dice.choice((1, 1000, 200_000)))
    fresh.rename(name)


@pytest.mark.slow
def test_a_node_that_is_killed_at_any_moment_has_whole_files_and_catches_up(tmp_path: Path) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(90):
            await killed(tmp_path)

    asyncio.run(bounded())


async def killed(root: Path) -> None:
    dice = random.Random(4)
    a, b = keepers(root)
    number = 0
    process, port = await served(root)
    a.connection.settings = dataclasses.replace(a.connection.settings, peer_port=port)
    async with kept(a, lists=[LIST]), running(a):
        for _ in range(KILLS):
            for _ in range(20):
                number += 1
                write(a, number, dice)
            await until(lambda: a.up)
            await asyncio.sleep(dice.uniform(0.0, 0.4))  # whatever it is doing then
            process.kill()
            await process.wait()
            for path in b.inside.glob("f*"):
                if CONFLICT not in path.name and not path.name.endswith(".bak"):
                    assert whole(path.read_text()), path
            process, port = await served(root)
            a.connection.settings = dataclasses.replace(a.connection.settings, peer_port=port)
            a.connection.hurry()
        said = {path: text for path, text in a.said().items() if not path.endswith(".bak")}
        async with asyncio.timeout(90):
            while b.said() != said or not a.same:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        process.kill()
        await process.wait()
    assert not list(b.inside.glob(f"*{CONFLICT}*")), "nobody changed anything there"


@asynchronous
async def test_what_was_taken_is_no_change_of_one_s_own_even_if_nobody_came_to_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round is over, and both end before either knows that what they have is common."""

    async def cut_off(*_: object) -> None:
        pass

    a, b = keepers(tmp_path)
    (a.inside / "f").write_text("first")
    with monkeypatch.context() as patch:
        patch.setattr(Talk, "_settle", cut_off)
        async with kept(a, b), connected(a, b):
            await until(lambda: a.same and b.said() == {"f": "first"})
            await until(lambda: Memory(b.memory).load("l").common, "it is noted")
    assert Memory(a.memory).load("l").common == {}
    (a.inside / "f").write_text("second")
    a, b = keepers(tmp_path)
    async with kept(a, b), connected(a, b):
        await until(lambda: a.same and b.same)
        assert a.said() == b.said() == {"f": "second"}
        assert a.status.conflicts == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An ext4 of its own: its image, and where it is mounted, as the tree of node b."""
    image, where = tmp_path / "image", tmp_path / "top-b"
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    with own_disk(image, where, 16 << 20):
        yield image, where


@pytest.mark.privileged
def test_what_both_nodes_say_they_have_outlasts_a_loss_of_power(
    tmp_path: Path, disk: tuple[Path, Path]
) -> None:
    """Also what somebody wrote on the node that loses power, and didn't sync himself."""
    image, where = disk

    @asynchronous
    async def before() -> None:
        a, b = keepers(tmp_path)
        (a.inside / "d").mkdir()
        (a.inside / "d/from-a").write_text("from a")
        for name in ("gone", "last"):
            (a.inside / name).write_text("to be deleted")
        async with kept(a, b), connected(a, b):
            await until(lambda: a.same and b.same and len(b.said()) == 4)
            (b.inside / "d/from-b").write_text("from b")
            (b.inside / "gone").unlink()
            (a.inside / "d/from-a").write_text("from a, changed")
            said = {"d": "directory", "d/from-a": "from a, changed", "d/from-b": "from b"}
            said["last"] = "to be deleted"
            await until(lambda: a.said() == b.said() == said and a.same and b.same, f"{said}")
            # A deletion alone: nothing else that is synced takes it to the disk.
            (a.inside / "last").unlink()
            await until(lambda: not (b.inside / "last").exists() and a.same and b.same)
            cut(where)

    before()
    mounted_anew(image, where)
    inside = where / "in"
    said = {"d/from-a": "from a, changed", "d/from-b": "from b"}
    assert {path: (inside / path).read_text() for path in said} == said
    assert not (inside / "gone").exists()
    assert not (inside / "last").exists()

    @asynchronous
    async def after() -> None:
        a, b = keepers(tmp_path)
        async with kept(a, b), connected(a, b):
            await until(lambda: a.same and b.same, f"{a.status} {b.status}")
            assert a.said() == b.said() == said | {"d": "directory"}
            assert a.status.conflicts == 0

    after()
    assert not [name for name in os.listdir(inside) if name.startswith(TEMPORARY)]
