# SPDX-License-Identifier: Apache-2.0
"""The way down, step by step: what fails is told, and the next step is taken all the same."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable

from twinbeat.engine.engine import EngineError
from twinbeat.runtime.guarded import REFUSALS

log = logging.getLogger("twinbeat")

Step = tuple[str, Callable[[], Awaitable[None] | None]]
"""What it is about, in a word, and what to do."""


async def descend(*steps: Step) -> None:
    """Take each step, in order, once the one before is through or has failed."""
    for name, step in steps:
        try:
            doing = step()
            if inspect.isawaitable(doing):
                await doing
        except (*REFUSALS, EngineError) as error:
            log.error("on the way down, %s: %s", name, error)
        except Exception:
            log.exception("on the way down, %s failed", name)
