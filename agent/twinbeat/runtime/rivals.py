# SPDX-License-Identifier: Apache-2.0
"""Somebody else on the network with our addresses, or with the number of one of our virtual MACs.

Nothing is done about a rival but telling: by name of the interface, address, MAC. What is one:

* Whoever speaks for an address that has a virtual MAC with any other MAC. That holds on both nodes,
  as the pair itself never does so.
* Whoever speaks for one of our addresses at all while this node serves, a moment after it began:
  then the only right frames are our own, which aren't heard. The peer is told of as well; if it
  speaks, two nodes do.
* Whoever speaks VRRP under the VRID of one of our virtual MACs on its port: the same MAC would be
  in two places. Twinbeat speaks no VRRP.

A serving node also asks, a few addresses a second, whether somebody else answers: a host that was
given a shared address by mistake keeps quiet until it is asked.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from twinbeat.api import schema
from twinbeat.api.text import moment
from twinbeat.engine.types import now_ns
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Address, Interface
from twinbeat.net.rivals import Ears, Heard, Router, Speaker
from twinbeat.net.vmac import vmac_address
from twinbeat.runtime import wiring

if TYPE_CHECKING:
    from twinbeat.config.model import Config
    from twinbeat.config.service import VridSection

log = logging.getLogger("twinbeat.rivals")

SETTLED_NS: Final = 2_000_000_000
"""After taking over, frames of the node that served before may still be on their way so long."""
FORGOTTEN_NS: Final = 300_000_000_000
"""A rival not heard for so long is one no more."""
RIVALS_MAX: Final = 64
ROUND_S: Final = 8
"""All of a node's addresses are asked for within that time, as long as there are few of them."""
ASKED_PER_S: Final = 10
TICK_NS: Final = 2_000_000_000

ADDRESS: Final = "address"
VRRP: Final = "vrrp"


@dataclass(slots=True, kw_only=True)
class _Rival:
    first_ns: int
    last_ns: int
    sentence: str
    count: int = 1


class Rivals:
    """Those heard on the ports of one node."""

    def __init__(
        self,
        *,
        config: Config,
        ports: Callable[[], dict[str, Interface]],
        indexes: Callable[[], set[int]],
        serving: Callable[[], bool],
        publish: Callable[..., None],
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self._ports_of = ports
        self._indexes = indexes
        self._serving_now = serving
        self._publish = publish
        self._clock = clock
        self._ears = Ears(self.hear)
        self._listening = False
        self._refused: list[NetError] = []
        self._ticked_ns = 0
        self._serving_since_ns = 0
        self._rivals: dict[tuple[str, str, str, str], _Rival] = {}
        """By kind, interface, what is claimed, and who claims it."""
        self.frames: Counter[tuple[str, str]] = Counter()
        """By interface and kind."""
        self._learn(config)

    def _learn(self, config: Config) -> None:
        self._sections = config.vrids
        self._owners: dict[Address, VridSection] = {
            vip: section for section in config.vrids for vip in wiring.vips(section)
        }
        self._vrids = {
            (section.interface, section.id): section for section in config.vrids if section.vmac
        }
        self._ports: dict[int, Interface] = {}
        self._turn: Iterator[Address] = itertools.cycle(self._owners or [])

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, and ask while serving."""
        self._listening = True
        self._open()

    def stop(self) -> None:
        self._listening = False
        self._ears.close()

    def apply(self, config: Config) -> None:
        """Other addresses."""
        same_ports = self._indexes() == set(self._ports) and not self._refused
        if config.vrids == self._sections and same_ports:
            return
        before = self._ports
        self._learn(config)
        if same_ports:
            self._ports = before
        if not self._listening or same_ports:
            return
        # Closing a packet socket waits for all processors: 15 ms of the loop that decides.
        if self._look_for_ports().keys() != before.keys() or self._refused:
            self._listen()

    def _open(self) -> None:
        self._look_for_ports()
        self._listen()

    def _look_for_ports(self) -> dict[int, Interface]:
        self._ports = {port.index: port for port in self._ports_of().values()}
        return self._ports

    def _listen(self) -> None:
        self._refused = self._ears.open(self._ports.values())
        for error in self._refused:
            log.warning("%s: rivals for the shared addresses go unnoticed", error.sentence())

    def duty(self, at_ns: int) -> None:
        """A duty of the loop that decides."""
        if at_ns - self._ticked_ns >= TICK_NS:
            self._ticked_ns = at_ns
            self.tick()

    def tick(self) -> None:
        """Forget rivals that are gone; ask for some addresses if this node serves."""
        now = self._clock()
        for key in [key for key, one in self._rivals.items() if now - one.last_ns > FORGOTTEN_NS]:
            gone = self._rivals.pop(key)
            log.info("no more, for five minutes: %s", gone.sentence)
        if self._indexes() != set(self._ports):
            self._open()  # A port was replaced: its groups have to be joined anew.
        if not self._serves(now):
            return
        names = {port.name: port for port in self._ports.values()}
        tick_s = TICK_NS // 1_000_000_000
        asked = min(ASKED_PER_S * tick_s, -(-len(self._owners) * tick_s // ROUND_S))
        for address in itertools.islice(self._turn, asked):
            port = names.get(self._owners[address].interface)
            if port is not None:
                self._ears.ask(port, address)

    def _serves(self, now: int) -> bool:
        """Whether this node has served long enough for its own frames to be the only ones."""
        if not self._serving_now():
            self._serving_since_ns = 0
            return False
        self._serving_since_ns = self._serving_since_ns or now
        return now - self._serving_since_ns >= SETTLED_NS

    # -- judging ---------------------------------------------------------------------------------

    def hear(self, heard: Heard) -> None:
        """Judge one frame."""
        port = self._ports.get(heard.index)
        if port is None:
            return
        if isinstance(heard, Router):
            self._hear_router(port, heard)
        else:
            self._hear_speaker(port, heard)

    def _hear_router(self, port: Interface, router: Router) -> None:
        section = self._vrids.get((port.name, router.vrid))
        if section is None:
            return
        version = router.source.version
        self._note(
            VRRP,
            port,
            f"VRID {router.vrid}",
            str(router.source),
            f"{router.source} speaks VRRP with our VRID {router.vrid} on {port.name}: both use the "
            f"MAC {vmac_address(router.vrid, version)}; give one of them another number",
        )

    def _hear_speaker(self, port: Interface, speaker: Speaker) -> None:
        section = self._owners.get(speaker.address)
        if section is None or section.interface != port.name or not speaker.mac:
            return
        own = vmac_address(section.id, speaker.address.version) if section.vmac else port.mac
        foreign = section.vmac and speaker.mac != own
        if not foreign and not self._serves(self._clock()):
            return
        how = " (the same virtual MAC)" if speaker.mac == own else ""
        self._note(
            ADDRESS,
            port,
            str(speaker.address),
            speaker.mac,
            f"{speaker.mac}{how} on {port.name} speaks for our address {speaker.address}",
        )

    def _note(self, kind: str, port: Interface, what: str, who: str, sentence: str) -> None:
        self.frames[port.name, kind] += 1
        now = self._clock()
        known = self._rivals.get((kind, port.name, what, who))
        if known is not None:
            known.last_ns = now
            known.count += 1
            return
        if len(self._rivals) >= RIVALS_MAX:
            return  # counted, and there is enough to be seen to
        self._rivals[kind, port.name, what, who] = _Rival(
            first_ns=now, last_ns=now, sentence=sentence
        )
        reason = "duplicate_address" if kind == ADDRESS else "foreign_vrrp"
        fields = {"event": "rival", "reason": reason, "interface": port.name, "who": who}
        log.warning("%s", sentence, extra={"fields": {**fields, "what": what}})
        self._publish(
            "rival",
            reason=reason,
            sentence=sentence,
            fields={"interface": port.name, "what": what, "who": who},
        )

    # -- telling ---------------------------------------------------------------------------------

    def status(self, offset_ns: int) -> list[schema.Rival]:
        """Those known now, oldest first."""
        return [
            schema.Rival(
                kind=kind,
                interface=interface,
                what=what,
                who=who,
                since=moment(one.first_ns + offset_ns),
                age_ns=max(0, self._clock() - one.last_ns),
                frames=one.count,
                sentence=one.sentence,
            )
            for (kind, interface, what, who), one in self._rivals.items()
        ]

    def counted(self) -> list[schema.RivalCount]:
        """Frames of rivals, by interface and kind."""
        return [
            schema.RivalCount(interface=interface, kind=kind, frames=count)
            for (interface, kind), count in sorted(self.frames.items())
        ]
