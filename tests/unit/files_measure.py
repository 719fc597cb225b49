# SPDX-License-Identifier: Apache-2.0
"""How long files take to the other node: two processes, a real TLS connection, real disks.

    cd tests && ../.venv/bin/python -m unit.files_measure --files 1000 --megabytes 100

What is said: the time from the connection to the moment at which both say that everything is alike,
durable on the other's disk, and how long one changed file takes, each time until the other has it.
"""

import argparse
import asyncio
import functools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from twinbeat.sync.identity import Folder
from unit.sync_files_pair import LIST, Keeper, kept
from unit.sync_pair import acquainted, running

CHANGES = 50


async def serve(root: Path) -> None:
    """Node b, until it is ended."""
    node = Keeper(root, Folder(root / "b"), 1)
    async with kept(node, lists=[LIST]), running(node):
        print(await node.port(), flush=True)
        await asyncio.Event().wait()


def has(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


async def reached(holds: Callable[[], bool]) -> None:
    """Nobody tells when; a thousandth of a second is near enough."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def lead(root: Path, port: int, files: int) -> None:
    """Node a: measure."""
    node = Keeper(root, Folder(root / "a"), 0, peer_port=port)
    async with kept(node, lists=[LIST]):
        await reached(lambda: node.status.entries >= files)
        begun, bar = time.monotonic(), 0.0
        async with running(node):
            while not (node.same and node.counts.get("rounds")):
                await asyncio.sleep(0.005)
                if time.monotonic() - bar > 0.25:
                    bar = time.monotonic()
                    s = node.status
                    print(f"  {bar - begun:5.2f} s  {s.bytes_done:>11} of {s.bytes_wanted} bytes")
            print(f"all files: {time.monotonic() - begun:.2f} s, {node.status.entries} entries")
            await changes(root, node)


async def changes(root: Path, node: Keeper) -> None:
    """One file after another is changed here; the other has it when its content is there."""
    took = []
    for number in range(CHANGES):
        name = f"d0/changed{number % 5}"
        text = f"{number} {random.random()}"
        begun = time.monotonic()
        (node.inside / name).write_text(text)
        there = root / "top-b/in" / name
        await reached(functools.partial(has, there, text))
        took.append((time.monotonic() - begun) * 1000)
        await reached(lambda: node.same)
    print(f"one file: median {statistics.median(took):.0f} ms, most {max(took):.0f} ms")


def fill(top: Path, files: int, size: int) -> None:
    """So many files, in twenty directories; half of the bytes are in a tenth of them."""
    random.seed(7)
    for number in range(files):
        path = top / f"d{number % 20}/f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        tenth = max(1, files // 10)
        share = size // 2 // (tenth if number % 10 == 0 else max(1, files - tenth))
        path.write_bytes(random.randbytes(share))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--directory", type=Path, default=None, help="on the disk to measure")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        asyncio.run(serve(chosen.serve))
        return
    with tempfile.TemporaryDirectory(dir=chosen.directory) as made:
        root = Path(made)
        acquainted(root)
        fill(root / "top-a/in", chosen.files, chosen.megabytes * 1_000_000)
        os.sync()
        other = subprocess.Popen(
            [sys.executable, "-m", "unit.files_measure", "--serve", str(root)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert other.stdout is not None
            asyncio.run(lead(root, int(other.stdout.readline()), chosen.files))
        finally:
            other.terminate()
            other.wait()


if __name__ == "__main__":
    main()
