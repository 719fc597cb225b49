# SPDX-License-Identifier: Apache-2.0
"""Where the worker checks in: /run/twinbeat/worker.sock, one line of JSON for each sign of life.

Nothing of the role hangs on it.  A worker that is gone is shown as gone; one that talks nonsense,
or too much, is hung up on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Final

import msgspec

log = logging.getLogger("twinbeat.worker")

LINE_MAX: Final = 4096
SILENT_S: Final = 5.0
"""A worker that says nothing for so long doesn't count as alive."""
WORKERS_MAX: Final = 4


class Beat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sign of life."""

    pid: int
    version: str


class WorkerDesk:
    """Listens for workers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._connected: set[asyncio.StreamWriter] = set()
        self._last_s = 0.0

    @property
    def alive(self) -> bool:
        """A worker has said so lately."""
        return bool(self._last_s) and asyncio.get_running_loop().time() - self._last_s < SILENT_S

    async def listen(self) -> None:
        """Answer on the socket, for this user and root alone. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._serve, path=str(self._path), limit=LINE_MAX
            )
        finally:
            os.umask(before)

    async def close(self) -> None:
        """Hang up on everybody."""
        if self._server is None:
            return
        self._server.close()
        for writer in list(self._connected):
            writer.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connected) >= WORKERS_MAX:
            writer.close()
            return
        self._connected.add(writer)
        decoder = msgspec.json.Decoder(Beat)
        try:
            while line := await reader.readline():
                beat = decoder.decode(line)
                if not self.alive:
                    log.info("the worker is there, process %d", beat.pid)
                self._last_s = asyncio.get_running_loop().time()
        except (ValueError, msgspec.DecodeError) as error:
            log.warning("a worker was hung up on: %s", error)
        except ConnectionError:
            log.debug("a worker's connection broke")
        finally:
            self._connected.discard(writer)
            writer.close()
            if not self._connected:
                self._last_s = 0.0
