# SPDX-License-Identifier: Apache-2.0
"""`twinbeat-worker`: tells the daemon that it is there, and comes back when the daemon does.

It has no work yet; synchronisation, sessions and web logs will live here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from twinbeat import __version__

SOCKET: Final = "/run/twinbeat/worker.sock"
BEAT_S: Final = 2.0
RETRY_S: Final = 1.0


async def run(path: str, stopped: asyncio.Event) -> None:
    """Check in until told to stop; a daemon that is away is waited for."""
    beat = msgspec.json.encode({"pid": os.getpid(), "version": __version__}) + b"\n"
    while not stopped.is_set():
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(path)
            try:
                while not stopped.is_set():
                    writer.write(beat)
                    await writer.drain()
                    await _wait(stopped, BEAT_S)
            finally:
                writer.close()
        await _wait(stopped, RETRY_S)


async def _wait(stopped: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopped.wait()


async def _main(path: str) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await run(path, stopped)


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="twinbeat-worker", description="The bulky work beside twinbeatd."
    )
    parser.add_argument("--socket", default=SOCKET, metavar="PATH", help="default: %(default)s")
    parser.add_argument("--version", action="version", version=f"twinbeat-worker {__version__}")
    asyncio.run(_main(parser.parse_args(arguments).socket))
    return 0


if __name__ == "__main__":
    sys.exit(main())
