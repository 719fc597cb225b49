# SPDX-License-Identifier: Apache-2.0
"""Calls that may block for good, each in a thread of its own.

A pidfile on a file server that hangs holds its thread for as long as it likes. Threads of a pool
would be missed there by whoever else uses it, the writer of terms for one, and the agent could not
end before they do. So these are daemon threads, and whoever calls makes sure that it has no more
than one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def aside(call: Callable[P, T], *args: P.args, **named: P.kwargs) -> asyncio.Future[T]:
    """Call, away from the loop. A future that nobody waits for any more changes nothing."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def done(result: T) -> None:
        if not future.done():
            future.set_result(result)

    def failed(error: Exception) -> None:
        if not future.done():
            future.set_exception(error)

    def work() -> None:
        # The loop may be gone by the time a call comes back.
        with contextlib.suppress(RuntimeError):
            try:
                result = call(*args, **named)
            except Exception as error:  # noqa: BLE001 - it is raised where the future is awaited
                loop.call_soon_threadsafe(failed, error)
            else:
                loop.call_soon_threadsafe(done, result)

    threading.Thread(target=work, name="twinbeat-health", daemon=True).start()
    return future
