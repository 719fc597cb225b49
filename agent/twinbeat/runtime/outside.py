# SPDX-License-Identifier: Apache-2.0
"""Whoever else has a say in the role: the witness, the fence, what is to be reached, other owners.

Each of the four watches or asks somebody who is neither this node nor its peer, and tells the core.
Here they are made, begun, changed and ended together.
"""

from __future__ import annotations

from collections.abc import Callable

from twinbeat.config.model import Config
from twinbeat.config.secrets import Options
from twinbeat.core.events import Event, PeerFenced
from twinbeat.core.machine import Machine
from twinbeat.engine.maps import Maps
from twinbeat.engine.types import now_ns
from twinbeat.runtime.current import Current
from twinbeat.runtime.fencing import Fencing
from twinbeat.runtime.rivals import Rivals
from twinbeat.runtime.stage import Stage
from twinbeat.runtime.teller import Teller
from twinbeat.runtime.witness import Isolation, WitnessDesk
from twinbeat.witness.base import Witness


class Outside:
    """The four of them."""

    def __init__(
        self,
        *,
        current: Current,
        third_party: Witness,
        machine: Machine,
        maps: Maps,
        stage: Stage,
        teller: Teller,
        feed: Callable[[Event], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        config = current.config
        self.fencing = Fencing(
            section=config.fence,
            options=current.fence_options,
            peer=config.peer.name,
            now_ns=now_ns,
            publish=teller.publish,
            heard=lambda: maps.peer().counter,
            fenced=lambda heard: feed(PeerFenced(heard=heard)),
        )
        self.witness = WitnessDesk(
            third_party,
            config=config,
            arbitration=lambda: machine.arbitration,
            feed=feed,
            failed=failed,
            now_ns=now_ns,
        )
        self.isolation = Isolation(config=config, feed=feed, failed=failed, now_ns=now_ns)
        self.rivals = Rivals(
            config=config,
            ports=stage.ports,
            indexes=stage.port_indexes,
            serving=lambda: maps.gate().is_open(now_ns()),
            publish=teller.publish,
        )

    def start(self) -> None:
        """Begin; the witness is asked when the core wants it."""
        self.fencing.start()
        self.isolation.start()
        self.rivals.start()

    def apply(self, config: Config, options: Options) -> None:
        """Take a new configuration; ``options`` are the fence's."""
        self.fencing.apply(config.fence, options)
        self.isolation.apply(config)
        self.rivals.apply(config)

    async def stop(self) -> None:
        """Ask and watch no more."""
        await self.fencing.stop()
        await self.witness.stop()
        await self.isolation.stop()
        self.rivals.stop()
