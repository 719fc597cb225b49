# SPDX-License-Identifier: Apache-2.0
"""The third machine loses its power: what its log client had acknowledged is in the files, once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.own_disk import cut, fill, mounted_anew, own_disk, turn_read_only
from unit.test_weblog_client_run import Machine, lines, pair, until
from unit.weblog_node import Node, records

SIZE = 64 << 20
CUTS = 2
SEED = 20261124


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory on an ext4 of its own."""
    mounted = tmp_path / "disk"
    with own_disk(tmp_path / "disk.ext4", mounted, SIZE):
        yield mounted


async def lose_power(machine: Machine, disk: Path) -> None:
    """Everything that runs there stands still, the disk takes nothing more, and it is mounted anew:
    only what was synced is there."""
    assert machine.process is not None
    os.kill(machine.process.pid, signal.SIGSTOP)
    cut(disk)
    await machine.end(signal.SIGKILL)
    mounted_anew(disk.with_name("disk.ext4"), disk)


def test_what_was_acknowledged_is_written_once_after_a_loss_of_power(root: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        rng = random.Random(SEED)
        made = 0

        async def feed() -> None:
            nonlocal made
            while True:
                await a.add(records("a", 1, made, lines(made, 50)))
                made += 50
                await asyncio.sleep(0.003)

        feeding = asyncio.create_task(feed())
        for _ in range(CUTS):
            await machine.start()
            before = a.acknowledged.get(("a", 1), 0)
            await until(lambda before=before: a.acknowledged.get(("a", 1), 0) > before)
            await asyncio.sleep(rng.random() * 0.3)
            await lose_power(machine, root)
            acknowledged = a.acknowledged["a", 1]
            written = machine.written()
            assert written[:acknowledged] == lines(0, acknowledged)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        await machine.start()
        await until(lambda: a.acknowledged.get(("a", 1)) == made)
        assert machine.written() == lines(0, made)

    played(root, play)


def test_a_disk_that_turned_read_only_costs_nothing_but_time(root: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        await a.add(records("a", 1, 0, lines(0, 100)))
        await machine.start()
        await until(lambda: a.acknowledged.get(("a", 1)) == 100)
        turn_read_only(root)
        await a.add(records("a", 1, 100, lines(100, 100)))
        status = await machine.until_status(lambda said: said["trouble"])
        assert "read-only" in status["trouble"].lower(), status["trouble"]
        status = await machine.until_status(lambda said: said["commit_failures"] > 1)
        assert status["nodes"][0]["connected"], "it goes on trying"
        assert a.acknowledged["a", 1] == 100
        await machine.end(signal.SIGKILL)
        mounted_anew(root.with_name("disk.ext4"), root)
        await machine.start()
        await until(lambda: a.acknowledged.get(("a", 1)) == 200)
        assert machine.written() == lines(0, 200)

    played(root, play)


def test_a_full_disk_costs_nothing_but_time(root: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        await a.add(records("a", 1, 0, lines(0, 100)))
        await machine.start()
        await until(lambda: a.acknowledged.get(("a", 1)) == 100)
        filler = fill(root)
        await a.add(*(records("a", 1, at, [b"x" * 200_000]) for at in range(100, 200)))
        status = await machine.until_status(lambda said: said["trouble"])
        assert "No space" in status["trouble"] or "full" in status["trouble"]
        assert a.acknowledged["a", 1] < 200
        filler.unlink()
        await until(lambda: a.acknowledged.get(("a", 1)) == 200)
        assert machine.written() == [*lines(0, 100), *[b"x" * 200_000] * 100]

    played(root, play)


def played(root: Path, play: object) -> None:
    async def whole() -> None:
        async with pair(root) as (machine, a, b):
            os.sync()  # whoever wrote log.conf did so long ago
            await play(machine, a, b)  # type: ignore[operator]
            await machine.end()

    asyncio.run(whole())
