# SPDX-License-Identifier: Apache-2.0
"""Until when nothing follows from time alone, and when time changes something next.

A tick that finds nothing to do leaves a machine calm: further ticks would find nothing either until
something happens or a deadline comes. A machine that waits for engine, peer or disk isn't calm, as
they move without a deadline.
"""

from __future__ import annotations

from twinbeat.core.conflict import Conflict
from twinbeat.core.desk import Desk
from twinbeat.core.follower import Follower
from twinbeat.core.knowledge import Knowledge
from twinbeat.core.leaving import Leaving
from twinbeat.core.office import Office
from twinbeat.core.operations import Operations
from twinbeat.core.orders import Orders
from twinbeat.core.pacing import Pacing
from twinbeat.core.types import FOREVER, Patience, Role


class Calm:
    """Knows every deadline of one node, and changes none."""

    def __init__(
        self,
        *,
        known: Knowledge,
        office: Office,
        orders: Orders,
        operations: Operations,
        leaving: Leaving,
        follower: Follower,
        desk: Desk,
        pacing: Pacing,
        conflict: Conflict,
        patience: Patience,
    ) -> None:
        self._known = known
        self._office = office
        self._orders = orders
        self._operations = operations
        self._leaving = leaving
        self._follower = follower
        self._desk = desk
        self._pacing = pacing
        self._conflict = conflict
        self._patience = patience
        self._until_ns = 0

    def holds(self, now_ns: int) -> bool:
        """Whether nothing follows from time until then."""
        return now_ns < self._until_ns

    def end(self) -> None:
        """Something happened."""
        self._until_ns = 0

    def begin(self, now_ns: int) -> None:
        """A tick found nothing to do: neither will others, for a while."""
        if not self._awaits_somebody():
            self._until_ns = min(self._next_change(now_ns), now_ns + self._patience.calm_ns)

    def next_deadline(self, now_ns: int) -> int:
        """When time has to be looked at again at the latest."""
        # Calm ends by itself after a while, for which nobody has to be woken.
        renewal_ns = self._orders.attestation.next_ns
        change_ns = FOREVER if self.holds(renewal_ns) else self._next_change(now_ns)
        return min(renewal_ns or now_ns, change_ns)

    def _awaits_somebody(self) -> bool:
        """Whether something is under way that engine, peer or disk will move on."""
        return (
            self._office.role in (Role.INIT, Role.CLAIMING)
            or self._operations.under_way is not None
            or self._office.pending_until_ns > 0
            or self._leaving.begun
            or bool(self._desk.deadlines())
            or bool(self._pacing.deadline_ns)
        )

    def _next_change(self, now_ns: int) -> int:
        """When time alone changes something next."""
        known, operations, fitness = self._known, self._operations, self._known.fitness
        passing_ns = fitness.passing_until_ns
        moments = (
            self._follower.listens_until_ns,
            operations.deadline_ns,
            known.memory.state.paused_until_ns,
            known.peer_pause_ends_ns,
            known.memory.retry_ns,
            known.ledger.terms.retry_ns,
            known.witness.deadline(now_ns, peer_heard=known.peer_heard),
            self._office.pending_until_ns,
            operations.abstain_until_ns,
            operations.hold_until_ns,
            self._pacing.deadline_ns,
            self._conflict.deadline_ns,
            fitness.damper.holding_until_ns,
            passing_ns if passing_ns > now_ns else 0,
            self._follower.resync_ns,
            *self._leaving.deadlines(),
            *self._desk.deadlines(),
        )
        return min((moment for moment in moments if moment), default=FOREVER)
