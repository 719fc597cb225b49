# SPDX-License-Identifier: Apache-2.0
"""What engine and peer say, made anew only when they say something else.

The loop that decides looks several times a second, mostly at what it knows already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twinbeat.engine._engine import lib
from twinbeat.engine.convert import engine_words, peer_words
from twinbeat.engine.types import EngineWords, PeerWords


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What engine and peer say; counters, stamps and running leases as of when it was made."""

    engine: EngineWords
    peer: PeerWords


class Looker:
    """Remembers the newest look."""

    def __init__(self) -> None:
        self._words: tuple[object, ...] = ()
        self._look: Look | None = None

    def at(self, view: Any) -> Look:
        """The look at a struct tb_view *: the last one again if nothing that lasts has changed."""
        words = lasting_words(view)
        if self._look is None or words != self._words:
            self._words = words
            self._look = Look(engine=engine_words(view.engine), peer=peer_words(view.peer))
        return self._look


def lasting_words(view: Any) -> tuple[object, ...]:
    """What the view says, without what every frame and every round changes."""
    engine, peer = view.engine, view.peer
    return (
        engine.phase,
        engine.watch,
        engine.term,
        engine.last_term,
        engine.highest,
        engine.claim,
        engine.order_generation,
        engine.withheld,
        engine.receipted,
        engine.two_way,
        engine.link_silent,
        engine.hello,
        engine.dead,
        engine.restart_known,
        peer.epoch,
        peer.arrived_ns != 0,
        peer.type == lib.TB_ANSWER,
        peer.term,
        peer.claim,
        peer.fence_below,
        peer.highest,
        peer.flags,
        peer.role,
        peer.admin,
        peer.health,
        peer.key_id,
        peer.keys[0],
        peer.keys[1],
        peer.layouts,
        peer.dead_us,
        peer.lease_full_us,
        peer.hello_us,
        peer.verify_us,
        peer.generation,
        peer.digest,
        peer.two_way,
        peer.proposal.number,
        peer.proposal.flags,
        peer.proposal.hello_us,
        peer.proposal.dead_us,
        peer.proposal.verify_us,
        peer.proposal.stall_us,
        peer.proposal.lease_us,
    )
