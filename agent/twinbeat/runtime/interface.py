# SPDX-License-Identifier: Apache-2.0
"""Where the agent can be asked: the local socket, the metrics' port, and the worker's socket."""

from __future__ import annotations

import logging
from pathlib import Path

from twinbeat.api.server import AlreadyRunningError, Server
from twinbeat.observe.metrics import exposition
from twinbeat.runtime.ground import StartError
from twinbeat.runtime.node import Node
from twinbeat.runtime.store import refused
from twinbeat.runtime.workers import WorkerDesk

log = logging.getLogger("twinbeat")


class Interface:
    """Opens and closes them."""

    def __init__(self, node: Node, workers: WorkerDesk) -> None:
        self._server = Server(node, exposition(node.status, node.counters))
        self._workers = workers

    async def listen(self, run: Path, tcp: str) -> None:
        """Answer below ``run``, and on the address ``tcp`` ("": on none). Raises StartError."""
        try:
            await self._server.listen_unix(str(run / "control.sock"))
            await self._workers.listen()
        except AlreadyRunningError as error:
            raise StartError("another twinbeatd runs on this node") from error
        except OSError as error:
            raise StartError(refused(f"listening below {run}", error)) from error
        if tcp:
            address, _, port = tcp.rpartition(":")
            try:
                await self._server.listen_tcp(address.strip("[]"), int(port))
            except OSError as error:
                # Not worth a failover: the node serves without being scraped.
                log.error("metrics.listen = %s: %s", tcp, error.strerror)

    async def close(self) -> None:
        """Answer no more."""
        await self._server.close()
        await self._workers.close()
