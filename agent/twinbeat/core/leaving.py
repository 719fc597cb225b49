# SPDX-License-Identifier: Apache-2.0
"""The end of a run: a stop, which hands the role over, or a planned restart, which keeps it.

A stop waits until the peer took over or the gate is shut, and until the engine has confirmed that
it claims nothing any more. A planned restart leaves the gate open under a longer lease, and waits
until the peer has answered a frame that says so (R16); a reign that ends meanwhile turns it into a
plain stop. Both wait for a bounded time only.
"""

from __future__ import annotations

from twinbeat.core import election
from twinbeat.core.commands import Kind
from twinbeat.core.effects import Level
from twinbeat.core.election import Facts
from twinbeat.core.knowledge import Knowledge
from twinbeat.core.office import Office
from twinbeat.core.operations import Operations
from twinbeat.core.reasons import Code
from twinbeat.core.types import FOREVER, Patience
from twinbeat.core.voice import Voice


class Leaving:
    """How far a run is with ending."""

    def __init__(
        self,
        *,
        known: Knowledge,
        office: Office,
        operations: Operations,
        voice: Voice,
        patience: Patience,
    ) -> None:
        self.stopping = False
        """It ends, and so does its reign."""
        self.restarting = False
        """It ends, and its reign goes on."""
        self.stopped = False
        """The agent may end now."""
        self._from_ns = 0
        """From then on a restart may be through; then, when it is looked at again."""
        self._at_ns = 0
        """Then it ends in any case."""
        self._known = known
        self._office = office
        self._operations = operations
        self._voice = voice
        self._patience = patience

    @property
    def begun(self) -> bool:
        """The agent was told to end."""
        return self.stopping or self.restarting

    def begin(self, facts: Facts, now_ns: int, *, restart: bool) -> None:
        """The agent is told to end."""
        if self.begun:
            return
        if restart and self._office.serving:
            self.restarting = True
            hello_ns = self._known.timers.hello_ns
            self._from_ns = now_ns + 2 * hello_ns
            # The peer has to hear of it and to answer, each at its next heartbeat at the latest.
            self._at_ns = now_ns + self._patience.stop_ns + 3 * hello_ns
            return
        self.stopping = True
        self._operations.cancel(self._voice.because(Code.STOPPING))
        if not self._office.serving:
            self._at_ns = now_ns + self._patience.stop_ns
        elif election.successor(facts, even_if_unfit=True) is None:
            self._operations.begin(Kind.HAND_OVER, now_ns, resigns_with=Code.STOPPED)
        else:
            self._operations.resign(self._voice.because(Code.STOPPED), now_ns)

    def settle_reign(self) -> None:
        """The reign that was to be kept open is over: this is a plain stop now."""
        if self.restarting and not self._office.serving:
            self.restarting, self.stopping = False, True

    def settle(self, now_ns: int, *, confirmed: bool) -> None:
        """May the agent end? ``confirmed``: the engine has the standing order in effect."""
        if self.stopped or not self.begun:
            return
        if self.restarting:
            due = now_ns >= self._from_ns
            done = confirmed and due and self._known.peer_knows_of_restart
            if due:  # If that isn't so yet, it is looked at again.
                self._from_ns = now_ns + 2 * self._known.timers.hello_ns
        else:
            done = confirmed and not self._office.serving
            if not self._office.serving and not self._at_ns:
                self._at_ns = now_ns + self._patience.stop_ns
        if done or (self._at_ns and now_ns >= self._at_ns):
            if self.restarting and not done:
                self._voice.say(Level.WARNING, Code.RESTART_UNCONFIRMED)
            self.stopped = True
            self._at_ns = FOREVER

    def deadlines(self) -> tuple[int, ...]:
        """When there is something to look at again; 0 = never."""
        return self._at_ns, self._from_ns if self.restarting and not self.stopped else 0
