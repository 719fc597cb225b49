# SPDX-License-Identifier: Apache-2.0
"""Has the kernel programs loaded by somebody who may: the agent itself need not.

Under systemd a unit of its own does it (deploy/systemd/twinbeat-loader@.service), with the one
capability that the agent goes without, and for as long as it takes. It is started by whoever
connects to its socket, loads the programs of this very installation and no others, answers with the
report and ends. Without such a socket the loader is a child of the agent, with the agent's own
capabilities.

    python -m twinbeat.runtime.loading     the unit's side: one request from standard input
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

from twinbeat.engine import loader
from twinbeat.engine.loader import Loaded
from twinbeat.engine.maps import PIN_ROOT

SOCKET: Final = Path("/run/twinbeat-loader.sock")
ANSWER_S: Final = 100.0
"""A compilation takes seconds; the unit that waits for it is given up after two minutes."""
REQUEST_MAX: Final = 256
ANSWER_MAX: Final = 1 << 20
"""Bytes."""


async def load(
    pair: int, *, replace: bool = False, root: Path = PIN_ROOT, socket: Path = SOCKET
) -> Loaded:
    """As `loader.run`, by the loader's unit where there is one. Never raises: the report says."""
    if root == PIN_ROOT and await asyncio.to_thread(socket.exists):
        if not replace:
            found = await asyncio.to_thread(loader.look, root / str(pair))
            if found is not None:
                return found
        try:
            return loader.parse(await _ask(socket, {"pair": pair, "replace": replace}))
        except (OSError, TimeoutError, ValueError) as error:
            return Loaded(
                ok=False,
                code="no-loader",
                sentence=f"the loader of the kernel programs does not answer at {socket}: "
                f"{str(error) or 'it took too long'}",
                fix="see why: journalctl --unit 'twinbeat-loader@*'",
            )
    return await loader.run(pair, replace=replace, root=root)


async def _ask(socket: Path, request: dict[str, int | bool]) -> bytes:
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_unix_connection(socket, limit=ANSWER_MAX)
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            return await reader.readline()
        finally:
            writer.close()


def main() -> int:
    """One request, one report; the exit code is the loader's."""
    line = sys.stdin.buffer.readline(REQUEST_MAX)
    try:
        request = json.loads(line)
        pair, replace = request["pair"], request["replace"]
        if type(pair) is not int or type(replace) is not bool or pair <= 0:
            raise ValueError(line)
    except (ValueError, TypeError, KeyError):
        sys.stderr.write("twinbeat-loader: that is no request; only twinbeatd sends them\n")
        return 2
    return loader.main(["--pair", str(pair), *(["--replace"] if replace else [])])


if __name__ == "__main__":
    sys.exit(main())
