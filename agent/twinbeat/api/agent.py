# SPDX-License-Identifier: Apache-2.0
"""What the interface needs of an agent, and nothing more.

The runtime implements `Agent`; the tests have a small one in memory. The server never reaches past
this Protocol, so it can be run, tested and replaced without an engine or a kernel.
"""

from typing import Protocol

from twinbeat.api.events import EventHub
from twinbeat.api.schema import (
    Caller,
    Command,
    Counters,
    Outcome,
    Refusal,
    Status,
    Transition,
)


class Agent(Protocol):
    """One node. All but `command` answer at once from what is known; they must not block."""

    @property
    def events(self) -> EventHub:
        """Where the agent publishes and readers subscribe."""

    def status(self) -> Status:
        """The node as it is now, finished by `twinbeat.observe.status.finish`."""

    def counters(self) -> Counters:
        """Everything that only grows, read now."""

    def history(self, limit: int) -> list[Transition]:
        """The newest `limit` transitions, oldest of them first."""

    async def command(self, command: Command, caller: Caller) -> Outcome | Refusal:
        """Carry a command out, or refuse it and change nothing.

        Returns when the outcome is known, or with `done=False` when it goes on for longer than a
        caller should wait. It runs to its end even if the caller goes away.
        """
