# SPDX-License-Identifier: Apache-2.0
"""The heartbeat links while the agent runs: changed by a reload, measured, and watched for silence.

A reload may add links, take some away and change others, on one node after the other, without a
suspicion or a verdict coming of it. Three things see to that. A link that carries heartbeats both
ways stays as it is, or the reload is refused. The engine expects a link only after it can send on
it, and the kernel takes part only after the engine does. And what a slot of the maps knew of
another link is forgotten before the slot is used again, but for the newest counter of the peer, so
that no recording counts.

A link that is silent though the peer is heard on another is no reason for a failover and every
reason for an alarm: the next failure may be the last link's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from twinbeat.api import schema
from twinbeat.api.figures import percentile
from twinbeat.api.text import length
from twinbeat.config.nodes import link_number
from twinbeat.engine import abi
from twinbeat.engine.engine import EngineError
from twinbeat.engine.look import Look
from twinbeat.engine.types import EngineWords, Flag, LinkWords, Snapshot, Watch, now_ns
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import interface
from twinbeat.runtime import wiring
from twinbeat.runtime.linkmeter import LossMeter, Sample

if TYPE_CHECKING:
    from twinbeat.config.model import Config
    from twinbeat.config.nodes import LinkSection
    from twinbeat.engine.engine import Engine
    from twinbeat.engine.maps import Maps
    from twinbeat.runtime.neighbours import Neighbours
    from twinbeat.runtime.stage import Stage

log = logging.getLogger("twinbeat.links")

ALARM_AFTER_NS: Final = 2_000_000_000
"""A link that is silent for so long while the peer is heard is worth an alarm."""
_FRESH_NS: Final = 3_000_000_000
"""An answer is asked for each second, so a link without one for so long isn't proven both ways."""

_HEARTBEATS: Final = (abi.Reason.HELLO, abi.Reason.PROBE)
_ANSWERS: Final = (abi.Reason.ANSWER, abi.Reason.WINDOW)
_COUNTED: Final = (*_HEARTBEATS, *_ANSWERS)

Publish = Callable[..., None]


def same_path(one: LinkSection, other: LinkSection) -> bool:
    """Whether heartbeats go on as before from one to the other: all but name, TTL and `direct`."""
    return (one.number, one.interface, one.vlan, one.mode, one.local, one.peer) == (
        other.number,
        other.interface,
        other.vlan,
        other.mode,
        other.local,
        other.peer,
    )


def silent_since(hello_ns: int, at_ns: int) -> int:
    """Since when a link that is now found silent has been so; ``hello_ns``: when it was last heard.

    It is looked at each second, and was heard shortly before, or it was found silent then.
    """
    return hello_ns if 0 < hello_ns < at_ns else at_ns


def staying(before: Sequence[LinkSection], after: Sequence[LinkSection]) -> list[LinkSection]:
    """The links that are in both with the same path, as they will be."""
    kept = {link_number(link): link for link in before}
    return [
        link
        for link in after
        if link_number(link) in kept and same_path(kept[link_number(link)], link)
    ]


def refusal(
    before: Sequence[LinkSection],
    after: Sequence[LinkSection],
    *,
    words: Sequence[LinkWords],
    at_ns: int,
    dead_ns: int,
    peer_heard: bool,
) -> str:
    """Why a change of links must not be made now, or an empty string.

    While the peer is heard, a link that carries both ways has to stay. When nobody is heard there
    is nothing to lose.
    """
    stay = staying(before, after)
    if len(stay) == len(before) or not peer_heard:
        return ""
    numbers = {link_number(link) for link in stay}
    for one in words:
        heard = one.hello_ns != 0 and at_ns - one.hello_ns <= 2 * dead_ns
        answered = one.answer_ns != 0 and at_ns - one.answer_ns <= max(_FRESH_NS, 2 * dead_ns)
        if one.number in numbers and heard and answered:
            return ""
    if stay:
        names = ", ".join(link.name for link in stay)
        return (
            f"the peer would be heard on no link: of those that stay as they are ({names}) none "
            "carries heartbeats both ways now"
        )
    return "no link would stay as it is, so the peer would be silent for a moment" + _renumbered(
        before, after
    )


def _renumbered(before: Sequence[LinkSection], after: Sequence[LinkSection]) -> str:
    """Hint at the usual reason: a link was taken out before others that have no number."""
    numbers = {link.name: link_number(link) for link in before}
    moved = [
        f"{link.name} would change its number from {numbers[link.name]} to {link.number} "
        f"(write number = {numbers[link.name]})"
        for link in after
        if link.name in numbers and numbers[link.name] != link.number
    ]
    return f": {'; '.join(moved)}" if moved else "; change them one after the other"


@dataclass(slots=True, kw_only=True)
class _Watched:
    """What is remembered of one link."""

    since_ns: int
    """Silent since then, as far as this agent knows; 0 = heard."""
    alarm: bool = False


class Links:
    """The links in force."""

    def __init__(
        self,
        *,
        config: Config,
        engine: Engine,
        maps: Maps,
        stage: Stage,
        neighbours: Neighbours,
        publish: Publish,
    ) -> None:
        self._config = config
        self._engine = engine
        self._maps = maps
        self._stage = stage
        self._neighbours = neighbours
        self._publish = publish
        self._meter = LossMeter()
        self._watched: dict[int, _Watched] = {}
        self._alarms: dict[int, int] = {}

    # -- changing --------------------------------------------------------------------------------

    def refusal(self, config: Config) -> str:
        """Why these links can't be put into force now, or an empty string. Changes nothing."""
        snapshot = self._engine.snapshot()
        return refusal(
            self._config.heartbeat_links,
            config.heartbeat_links,
            words=snapshot.links,
            at_ns=snapshot.at_ns,
            dead_ns=self._config.timers.ns.dead_ns,
            peer_heard=snapshot.engine.watch in {Watch.ALIVE, Watch.SUSPECT},
        )

    async def apply(self, config: Config) -> None:
        """Put the links of another configuration into force, or change nothing.

        Raises NetError, BpfError or EngineError.
        """
        before, after = self._config.heartbeat_links, config.heartbeat_links
        if before == after:
            self._config = config
            return
        await self._stage.guard_links(after)
        try:
            self._open(after)
        except EngineError as error:
            await self._stage.release_links(before)
            raise NetError(str(error)) from error
        except NetError:
            await self._stage.release_links(before)
            raise
        stay = staying(before, after)
        # From here on nothing can be refused.
        self._expect(stay)
        self._engine.snapshot()  # A round has passed: nothing else is judged by any more.
        self._stage.set_links(stay)
        self._stage.forget_links({link_number(link) for link in after if link not in stay})
        self._expect(after)
        self._stage.set_links(after)
        self._config = config
        await self._stage.release_links(after)
        self._neighbours.apply(config)

    def reopen(self) -> None:
        """An interface was replaced by another of the same name: send on that one."""
        try:
            self._open(self._config.heartbeat_links)
        except (EngineError, NetError) as error:
            log.error("%s", error)

    def _open(self, links: Sequence[LinkSection]) -> None:
        self._engine.set_links([wiring.link(link, interface(link.interface), "") for link in links])

    def _expect(self, links: Sequence[LinkSection]) -> None:
        wanted, direct = wiring.link_masks(links)
        self._engine.set_settings(replace(self._engine.settings, links=wanted, direct=direct))

    # -- measuring -------------------------------------------------------------------------------

    def duty(self, at_ns: int) -> None:
        """Look at every link; say what is new. A duty of the loop that decides."""
        links = self._config.heartbeat_links
        # The peer's counter has to be of the same moment as what came in.
        look = self._engine.look(timeout_s=0)
        self._sample(links, look, at_ns)
        for number in set(self._watched) - {link_number(link) for link in links}:
            del self._watched[number]
        for link in links:
            self._watch(link, look.engine, at_ns)

    def _sample(self, links: Sequence[LinkSection], look: Look, at_ns: int) -> None:
        counted = {
            link_number(link): self._maps.counters_of(link.number, _COUNTED) for link in links
        }
        self._meter.add(
            Sample(
                at_ns=at_ns,
                counter=self._engine.positions().peer,
                heard={
                    number: sum(one[reason] for reason in _HEARTBEATS)
                    for number, one in counted.items()
                },
                answers=sum(one[reason] for one in counted.values() for reason in _ANSWERS),
                steady=look.engine.watch is Watch.ALIVE and Flag.HEARS_YOU in look.peer.flags,
            )
        )

    def _watch(self, link: LinkSection, engine: EngineWords, at_ns: int) -> None:
        number = link_number(link)
        silent = bool(engine.link_silent >> number & 1)
        one = self._watched.get(number)
        if one is None:
            one = self._watched[number] = _Watched(since_ns=at_ns)
        if not silent:
            if one.alarm:
                for_ns = at_ns - one.since_ns
                self._tell(
                    link, "link_alarm_over", f"carries heartbeats again after {length(for_ns)}"
                )
            one.since_ns, one.alarm = 0, False
            return
        if engine.watch is not Watch.ALIVE:
            # Nobody is heard anywhere: that is another matter, and told of elsewhere.
            one.since_ns, one.alarm = at_ns, False
            return
        if not one.since_ns:
            one.since_ns = silent_since(self._maps.link(number).hello_ns, at_ns)
        patience_ns = max(ALARM_AFTER_NS, 3 * self._config.timers.ns.dead_ns)
        if one.alarm or at_ns - one.since_ns < patience_ns:
            return
        one.alarm = True
        self._alarms[number] = self._alarms.get(number, 0) + 1
        heard = [
            other.name
            for other in self._config.heartbeat_links
            if not engine.link_silent >> link_number(other) & 1
        ]
        why = self._why(link, self._engine.snapshot())
        self._tell(
            link,
            "link_alarm",
            f"carries no heartbeats, though {self._config.peer.name} is heard on "
            f"{', '.join(heard) or 'another'}: {why}",
        )

    def _why(self, link: LinkSection, snapshot: Snapshot) -> str:
        """What the kernel knows about a silent link."""
        words = next((one for one in snapshot.links if one.number == link.number), None)
        if words is None or not words.carrier:
            return "no carrier"
        counted = self._maps.counters_of(link.number)
        if counted[abi.Reason.LINK]:
            return (
                f"frames come in under the number of another link: give it number = {link.number} "
                "on both nodes"
            )
        if words.mismatch_ns and snapshot.at_ns - words.mismatch_ns < _FRESH_NS:
            return "frames come in, and are refused for their key or version"
        if link.vlan:
            return (
                f"no frame comes in with the tag {link.vlan}; if the card takes tags off, ethtool "
                f"-K {link.interface} rxvlan off"
            )
        return "no frame comes in"

    def _tell(self, link: LinkSection, event: str, what: str) -> None:
        sentence = f"link {link.name} ({link.interface}) {what}"
        alarm = event == "link_alarm"
        fields = {"event": event, "reason": "link_silent" if alarm else "link_heard"}
        log.log(
            logging.WARNING if alarm else logging.INFO,
            "%s",
            sentence,
            extra={"fields": {**fields, "link": link.name}},
        )
        self._publish(event, reason=fields["reason"], sentence=sentence, fields={"link": link.name})

    # -- telling ---------------------------------------------------------------------------------

    def quality(self, number: int) -> schema.LinkQuality:
        """What was measured of a link."""
        gaps = self._maps.gaps(number)
        one = self._watched.get(number)
        alarm = one is not None and one.alarm
        return schema.LinkQuality(
            alarm=alarm,
            silent_ns=now_ns() - one.since_ns if one is not None and one.since_ns else None,
            loss_ratio=self._meter.ratio(number),
            gap_p50_ns=percentile(gaps, 0.50),
            gap_p99_ns=percentile(gaps, 0.99),
            gap_p999_ns=percentile(gaps, 0.999),
        )

    def lost(self, number: int) -> int:
        """Heartbeats lost on a link since it is there."""
        return self._meter.lost.get(number, 0)

    def alarms(self, number: int) -> int:
        """How often it gave an alarm."""
        return self._alarms.get(number, 0)
