# SPDX-License-Identifier: Apache-2.0
"""The loop that decides: events into the core, effects out of it, one timer for its next deadline.

Nothing else calls the core, so a hang of this loop is seen by all who should see it: the
attestation lapses, the engine stops renewing, and systemd's watchdog isn't pinged.  The engine's
fast path waits for none of it.

The engine wakes the loop for what has to be decided upon; passing suspicions wait in its ring for
a turn of the timer that looks at it.  Most turns only renew the attestation: while the core is
calm, every other second is often enough to look.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from twinbeat.core.effects import Effects
from twinbeat.core.events import EngineEvent, EngineSeen, Event, PeerSeen, Tick
from twinbeat.core.types import EngineView, PeerView
from twinbeat.observe.histogram import Histogram
from twinbeat.runtime.suspicions import PASSING, Suspicions

LOOKS_MAX: Final = 4
"""So often a busy engine is looked at again; after that its state waits for the timer."""


PAUSE_MAX_NS: Final = 500_000_000
"""The timer fires so often at least, for what hangs on it beside the core: the watchdogs, and the
duties of each second.  An early tick does the core no harm."""
DUTIES_NS: Final = 1_000_000_000
"""Between two rounds of the duties, at least; the turn that comes next is soon enough."""


class Decider(Protocol):
    """The core, as the loop needs it."""

    def step(self, event: Event, now_ns: int) -> Effects: ...

    def next_deadline(self) -> int: ...

    def calm(self, now_ns: int) -> bool:
        """Whether a tick would do nothing now but renew the attestation."""


class Senses(Protocol):
    """The engine, as the loop needs it."""

    def fileno(self) -> int: ...

    def events(self) -> list[EngineEvent]: ...

    def look(self, *, wait: bool) -> tuple[EngineView, PeerView | None]:
        """The engine's state and the peer's newest frame (None = never heard).

        With `wait` the state is of this moment, else as of soon after the last look.  What says the
        same as at that look may be the same object.
        """


class Loop:
    """Feeds one core. All methods are for the thread of the event loop."""

    def __init__(
        self,
        *,
        decider: Decider,
        submit: Callable[[Effects], None],
        now_ns: Callable[[], int],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._decider = decider
        self._submit = submit
        self._now_ns = now_ns
        self._failed = failed
        self._senses: Senses | None = None
        self._queue: deque[Event] = deque()
        self._stepping = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_ns = 0
        self._engine: EngineView | None = None
        self._peer_seen: PeerView | None = None
        self._peer_said: PeerView | None = None
        self._suspicions = Suspicions()
        self._done_ns = 0
        self._stopped = False
        self.listeners: list[Callable[[EngineEvent], None]] = []
        """Called with each event of the engine after the core has seen it."""
        self.on_tick: list[Callable[[int], None]] = []
        """Called with the time after each turn of the timer: pings, and what is to be seen at once.
        """
        self.duties: list[Callable[[int], None]] = []
        """Called with the time after a turn of the timer, about once a second: so nothing else has
        to wake this thread for what can wait."""
        self.lag = Histogram()
        """How late the timer fired."""

    def start(self, senses: Senses) -> None:
        """Listen to the engine and arm the timer."""
        self._senses = senses
        asyncio.get_running_loop().add_reader(senses.fileno(), self._guarded, self.drain)
        self._arm()

    def stop(self) -> None:
        """Decide nothing more."""
        self._stopped = True
        if self._senses is not None:
            asyncio.get_running_loop().remove_reader(self._senses.fileno())
            self._senses = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def feed(self, *events: Event) -> None:
        """Hand events to the core, in order; safe to call from within an effect."""
        self._queue.extend(events)
        if self._stepping or self._stopped:
            return
        self._stepping = True
        try:
            while self._queue and not self._stopped:
                effects = self._decider.step(self._queue.popleft(), self._now_ns())
                if effects:
                    self._submit(effects)
        finally:
            self._stepping = False
        if self._senses is not None:
            self._arm()

    def drain(self) -> None:
        """Take in what the engine has to say, now."""
        assert self._senses is not None
        events = self._senses.events()
        if events:
            self._take_in(events)

    def _take_in(self, events: list[EngineEvent], *more: Event) -> None:
        """Events, then the state they led to.

        The engine goes on meanwhile: a state newer than the last event fetched would tell the core
        of a change before its event does, and so without its reason.  Such a state is not used.
        """
        assert self._senses is not None
        facts: list[Event] = []
        for _ in range(LOOKS_MAX):
            # Nothing happened, nothing changed: what was known at the last turn will do.
            engine, peer = self._senses.look(wait=not _passing(events))
            later = self._senses.events()
            if not later:
                known, self._engine = self._engine, engine
                if (engine is not known and engine != known) or not _passing(events):
                    facts = [EngineSeen(view=engine)]
                break
            events += later
        # The peer's frame comes first: what the events tell of may rest on it.
        self.feed(*self._news_of(peer), *self._suspicions.thin(events), *facts, *more)
        self._tell(events)

    def _tell(self, events: list[EngineEvent]) -> None:
        for event in events:
            for listener in self.listeners:
                listener(event)

    def _news_of(self, peer: PeerView | None) -> list[Event]:
        """The peer's frame, if it says anything that the last one fed did not."""
        if peer is None or peer is self._peer_seen:
            return []
        self._peer_seen = peer
        said = replace(peer, counter=0, arrived_ns=0, lease_us=0)
        if said == self._peer_said:
            return []
        self._peer_said = said
        return [PeerSeen(view=peer)]

    def _on_timer(self) -> None:
        assert self._senses is not None
        self._timer = None
        now_ns = self._now_ns()
        self.lag.add(max(0, now_ns - self._deadline_ns))
        if self._decider.calm(now_ns):
            self.feed(Tick())
        else:
            self._take_in(self._senses.events(), Tick())
        for call in self.on_tick:
            call(now_ns)
        if now_ns - self._done_ns >= DUTIES_NS and not self._stopped:
            self._done_ns = now_ns
            for call in self.duties:
                call(now_ns)

    def _arm(self) -> None:
        deadline_ns = self._decider.next_deadline()
        if self._timer is None:
            deadline_ns = min(deadline_ns, self._now_ns() + PAUSE_MAX_NS)
        else:
            if deadline_ns >= self._deadline_ns:
                return
            self._timer.cancel()
        self._deadline_ns = deadline_ns
        wait_s = max(0, deadline_ns - self._now_ns()) / 1e9
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._guarded, self._on_timer)

    def _guarded(self, call: Callable[[], None]) -> None:
        """The supervisor's line: a broken invariant ends the agent in an orderly way."""
        if self._stopped:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the gate has to be shut
            self.stop()
            self._failed(error)


def _passing(events: list[EngineEvent]) -> bool:
    """Whether none of them says more than the engine's last state did."""
    return all(event.kind in PASSING for event in events)
