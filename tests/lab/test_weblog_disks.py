# SPDX-License-Identifier: Apache-2.0
"""A gateway's disk is full, or loses its power: what was durable is there, once, and the rest comes
from the log file."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from lab.test_weblog_power import root  # noqa: F401 - a fixture
from unit.own_disk import cut, fill, mounted_anew, turn_read_only
from unit.test_worker_weblog import Lab, dialed, introduced, logging_pair, replicated
from unit.worker_pair import Site, in_step

CUTS = 3
LINE = "10.0.0.1 - - [23/Nov/2026:22:00:%02d +0000] GET /n/%08d 200 " + "x" * 60


class Process:
    """A worker that can be killed."""

    def __init__(self, site: Site, state: Path, *, without: Path | None = None) -> None:
        """``without``: where it sees no file system, so that it doesn't keep it busy."""
        command = [sys.executable, "-m", "twinbeat.worker.main", "--state", str(state)]
        command += ["--socket", str(site.root / "run" / "worker.sock")]
        if without is not None:
            script = f'umount {without} && exec "$@"'
            command = ["unshare", "-m", "sh", "-c", script, "sh", *command]
        self.running = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    async def end(self, number: int = signal.SIGTERM) -> None:
        self.running.send_signal(number)
        await asyncio.to_thread(self.running.wait, 10)


@contextlib.contextmanager
def ended(processes: dict[str, Process]):  # type: ignore[no-untyped-def]
    try:
        yield
    finally:
        for each in processes.values():
            each.running.kill()
            each.running.wait()


def played(test: Callable[[Path, Path], Awaitable[None]]) -> Callable[..., None]:
    def run_it(tmp_path: Path, root: Path) -> None:  # noqa: F811 - the fixture
        asyncio.run(test(tmp_path, root))  # type: ignore[arg-type]

    run_it.__name__, run_it.__doc__ = test.__name__, inspect.getdoc(test)
    return run_it


def record(number: int) -> str:
    return LINE % (number % 60, number)


@played
async def test_a_full_disk_costs_nothing_but_time(tmp_path: Path, disk: Path) -> None:
    async with logging_pair(tmp_path) as lab:
        processes: dict[str, Process] = {}
        with ended(processes):
            processes["b"] = Process(lab.b, lab.b.root / "state", without=disk)
            processes["a"] = Process(lab.a, disk / "state")
            await in_step(lab.a, lab.b)
            await write(lab, 0, 1000)
            await lab.until(lab.a, replicated("a", 1000), "they are on both nodes")
            filler = fill(disk)
            await write(lab, 1000, 200_000)
            seen = await lab.until(lab.a, lambda seen: seen.state == "refusing", "it is full")
            assert "full but for" in seen.why
            assert seen.counts["own-refused full"] > 0
            filler.unlink()
            await lab.until(lab.a, replicated("a", 100_000), "it goes on")
            assert (await lab.view(lab.a)).state == "collecting"


@played
async def test_a_disk_that_turned_read_only_costs_nothing_but_time(
    tmp_path: Path, disk: Path
) -> None:
    async with logging_pair(tmp_path) as lab:
        processes: dict[str, Process] = {}
        with ended(processes):
            processes["b"] = Process(lab.b, lab.b.root / "state", without=disk)
            processes["a"] = Process(lab.a, disk / "state")
            await in_step(lab.a, lab.b)
            await write(lab, 0, 1000)
            await lab.until(lab.a, replicated("a", 1000), "they are on both nodes")
            turn_read_only(disk)
            await write(lab, 1000, 2000)
            seen = await lab.until(lab.a, lambda seen: seen.state == "refusing", "it can't write")
            assert "Read-only file system" in seen.why
            assert seen.counts["own-refused readonly"] > 0
            await in_step(lab.a, lab.b)  # What both nodes keep alike goes on.
            await processes["a"].end(signal.SIGKILL)
            mounted_anew(disk.with_name("disk.ext4"), disk)
            processes["a"] = Process(lab.a, disk / "state")
            seen = await lab.until(lab.a, replicated("a", 2000), "it goes on")
            assert sum(each.durable for each in seen.streams if each.node == "a") == 2000


@played
async def test_what_was_durable_is_there_once_after_a_loss_of_power(
    tmp_path: Path, disk: Path
) -> None:
    """The log file lies on the disk that loses its power, too, and most of it is never synced."""
    async with logging_pair(tmp_path) as lab:
        processes: dict[str, Process] = {}
        log = lab.log_of(lab.a)
        log.symlink_to(disk / "access.log")
        with ended(processes):
            processes["b"] = Process(lab.b, lab.b.root / "state", without=disk)
            processes["a"] = Process(lab.a, disk / "state")
            await in_step(lab.a, lab.b)
            written = 0
            for _ in range(CUTS):
                before = written
                for turn in range(10):
                    await write(lab, written, written + 500)
                    written += 500
                    if turn == 2:
                        sync(log)
                await lab.until(lab.a, replicated("a", before + 1000), "some are on both nodes")
                os.kill(processes["a"].running.pid, signal.SIGSTOP)
                cut(disk)
                await processes["a"].end(signal.SIGKILL)
                mounted_anew(disk.with_name("disk.ext4"), disk)
                (lab.a.root / "run" / "weblog.boot").unlink()
                await write(lab, written, written + 100)
                written += 100
                processes["a"] = Process(lab.a, disk / "state")
            last = LINE % (59, 99_999_999)
            with log.open("a") as file:
                file.write(last + "\n")
            await lab.until(lab.a, lambda seen: seen.port, "a listens")
            assert await introduced(lab.folder, lab.b, lab.port)
            assert await introduced(lab.folder, lab.a, lab.port)
            async with dialed(lab.folder, lab.a, lab.port) as client:
                await client.greet()
                while last.encode() not in client.of("a") or client.behind("a"):
                    await client.pull()
                    assert client.gaps == [], (client.gaps, client.welcome)
                found = client.of("a")
                assert len(set(found)) == len(found), "none twice"
                # Where the file lost the end of a line, the next one stands behind what was left.
                whole = [each for each in log.read_bytes().split(b"\n") if len(each) == len(last)]
                assert set(whole) <= set(found), "none lost"
                lines = set(log.read_bytes().split(b"\n"))
                assert {each for each in found if len(each) != len(last)} <= lines, "none in part"
                numbers = [int(each.split()[-3].removeprefix(b"/n/")) for each in found]
                assert numbers == sorted(numbers)


def sync(log: Path) -> None:
    """The kernel does that to a part of a file whenever it likes."""
    with log.open("rb") as file:
        os.fsync(file.fileno())


async def write(lab: Lab, first: int, end: int) -> None:
    """As a web server does: whole lines, and no sync."""
    with lab.log_of(lab.a).open("a") as file:
        file.writelines(record(number) + "\n" for number in range(first, end))
    await asyncio.sleep(0)
