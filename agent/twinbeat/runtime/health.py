# SPDX-License-Identifier: Apache-2.0
"""The node's health at run time: monitors of the configuration, looked at; the outcome to the core.

Interfaces and routes are levels that the kernel tells of; the others are asked, each by a task of
its own. Everything that is found goes to the board; what the board makes of it goes to the core as
`HealthChanged`, undamped, whenever it differs from what was said before. None of it runs on the
path of a takeover, and none of it waits for anything but its own time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from twinbeat.api import schema
from twinbeat.api.text import moment
from twinbeat.core.events import HealthChanged
from twinbeat.core.types import FOREVER, Role, TrackedHealth
from twinbeat.health.answer import AddressProber
from twinbeat.health.board import Board, Change, Finding, Kind, LinkSet, SetTrack, Standing, Track
from twinbeat.health.process import ProcessProber
from twinbeat.health.runner import Runner
from twinbeat.health.script import ScriptProber
from twinbeat.net.errors import NetError
from twinbeat.net.routetable import RouteTable
from twinbeat.runtime.levels import Interfaces, RouteProber, route_finding
from twinbeat.runtime.monitors import Target, targets

if TYPE_CHECKING:
    from twinbeat.config.model import Config
    from twinbeat.core.events import Event

log = logging.getLogger("twinbeat.health")

OUTPUT_SHOWN: Final = 2048
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Publish(Protocol):
    """Puts something into the event stream."""

    def __call__(
        self,
        event: str,
        *,
        at_ns: int = 0,
        reason: str = "",
        sentence: str = "",
        fields: dict[str, str | int | bool | None] | None = None,
    ) -> None: ...


class Health:
    """All monitors of this node. Methods are for the thread of the event loop."""

    def __init__(
        self,
        *,
        feed: Callable[[Event], None],
        publish: Publish,
        now_ns: Callable[[], int],
    ) -> None:
        self._feed = feed
        self._publish = publish
        self._now_ns = now_ns
        self._board = Board()
        self._targets: dict[str, Target] = {}
        self._sets: tuple[LinkSet, ...] | None = None
        """None: nothing is watched yet."""
        self._names: Mapping[str, str] = {}
        self._role = Role.INIT
        self._said = TrackedHealth()
        self._runners: dict[str, Runner] = {}
        self._links = Interfaces(changed=self._interfaces_changed)
        self._routes = RouteTable(self._routes_changed)
        self._timer: asyncio.TimerHandle | None = None
        self._again: dict[str, asyncio.TimerHandle] = {}
        self._lock = asyncio.Lock()

    # -- life ------------------------------------------------------------------------------------

    async def start(self, config: Config) -> None:
        """Begin to watch; interfaces and routes are judged when it returns."""
        await self.apply(config)

    async def apply(self, config: Config) -> None:
        """Watch what this configuration says. Monitors that stay the same don't notice.

        What can't be watched is said in its monitor and in the log; nothing is raised.
        """
        async with self._lock:
            wanted, sets = targets(config)
            names = {
                "TWINBEAT_NODE": config.node.name,
                "TWINBEAT_PEER": config.peer.name,
                "TWINBEAT_PAIR": str(config.pair.id),
            }
            if (wanted, sets, names) == (self._targets, self._sets, self._names):
                return
            self._names = names
            anew = {
                name
                for name, target in wanted.items()
                if name in self._targets and _differs(self._targets[name], target)
            }
            gone = [name for name in self._runners if name in anew or name not in wanted]
            await asyncio.gather(*(self._runners.pop(name).stop() for name in gone))
            self._targets, self._sets = wanted, sets
            for name in list(self._again):
                self._again.pop(name).cancel()
            self._take(self._replace(wanted, sets, anew))
            await self._watch_levels()
            self._run_probes()

    def _replace(
        self, wanted: Mapping[str, Target], sets: tuple[LinkSet, ...], anew: set[str]
    ) -> list[Change]:
        specs = [target.spec for target in wanted.values()]
        return self._board.replace(specs, sets, self._now_ns(), anew=anew)

    async def _watch_levels(self) -> None:
        await self._links.watch({one.interface for one in self._of(Kind.INTERFACE)})
        self._interfaces_changed()
        prefixes = {one.prefix for one in self._of(Kind.ROUTE) if one.prefix is not None}
        try:
            await self._routes.watch(prefixes)
        except NetError as error:
            log.error("%s", error.sentence())
        self._routes_changed()

    def _run_probes(self) -> None:
        for name, target in self._targets.items():
            if name in self._runners or self._board.tracks[name].standing is Standing.IDLE:
                continue
            prober = self._prober(name, target)
            if prober is not None:
                self._runners[name] = Runner(
                    prober,
                    interval_s=target.interval_ns / 1e9,
                    timeout_s=target.timeout_ns / 1e9,
                    report=partial(self._found, name),
                )
                self._runners[name].start()

    def _prober(
        self, name: str, target: Target
    ) -> AddressProber | ProcessProber | ScriptProber | RouteProber | None:
        match target.spec.kind:
            case Kind.ADDRESS:
                address = ipaddress.ip_address(target.address)
                return AddressProber(
                    address, probe=target.probe, interface=target.interface, port=target.port
                )
            case Kind.PROCESS:
                return ProcessProber(
                    pidfile=target.pidfile,
                    name=target.process,
                    ended=lambda: self._wake(name),
                )
            case Kind.SCRIPT:
                return ScriptProber(
                    target.command, environment=lambda: self._environment(target.spec.name)
                )
            case Kind.ROUTE if target.probe:
                return RouteProber(target, self._routes)
            case Kind.ROUTE | Kind.INTERFACE | Kind.LINKSET:
                return None

    async def stop(self) -> None:
        """Watch nothing any more; scripts that run are killed."""
        async with self._lock:
            for timer in [self._timer, *self._again.values()]:
                if timer is not None:
                    timer.cancel()
            runners, self._runners = self._runners, {}
            await asyncio.gather(*(runner.stop() for runner in runners.values()))
            await self._links.stop()
            await self._routes.stop()

    # -- what happens ----------------------------------------------------------------------------

    def duty(self, at_ns: int) -> None:
        """A duty of the loop that decides: what nobody tells of is looked at."""
        self._links.duty(at_ns)

    def became(self, role: Role) -> None:
        """The node's role is this now; called often, with what may be no news."""
        if role is self._role:
            return
        self._role = role
        was = self._board.primary
        primary = role is Role.PRIMARY
        self._take(self._board.become(primary=primary, now_ns=self._now_ns()))
        if primary != was:
            task = asyncio.get_running_loop().create_task(self._follow_role())
            task.add_done_callback(_retrieved)

    async def _follow_role(self) -> None:
        """Monitors of the other role rest; those of this one begin."""
        async with self._lock:
            idle = [
                name for name in self._runners if self._board.tracks[name].standing is Standing.IDLE
            ]
            await asyncio.gather(*(self._runners.pop(name).stop() for name in idle))
            self._run_probes()
            self._interfaces_changed()
            self._routes_changed()

    def _interfaces_changed(self) -> None:
        for target in self._of(Kind.INTERFACE):
            self._heard(target.spec.name, self._links.finding(target.interface))

    def _routes_changed(self) -> None:
        for target in self._of(Kind.ROUTE):
            if target.probe:
                self._wake(target.spec.name)
            else:
                self._heard(target.spec.name, route_finding(target, self._routes))

    def _heard(self, name: str, finding: Finding) -> None:
        """A level, whether or not it changed. Being told twice of the same is no second finding."""
        track = self._board.tracks[name]
        known = track.finding
        same = known is not None and known.holds == finding.holds
        if same and (track.unsettled or known == finding):
            return
        self._found(name, finding)

    def _wake(self, name: str) -> None:
        runner = self._runners.get(name)
        if runner is not None:
            runner.wake()

    def _found(self, name: str, finding: Finding) -> None:
        self._take(self._board.observe(name, finding, self._now_ns()))
        track = self._board.tracks.get(name)
        if track is not None and name not in self._runners and track.unsettled:
            self._look_again(name)

    def _look_again(self, name: str) -> None:
        """A level that has to be found more than once: nobody tells of it twice."""
        if name in self._again:
            return
        interval_s = self._targets[name].interval_ns / 1e9

        def look() -> None:
            del self._again[name]
            target = self._targets[name]
            if target.spec.kind is Kind.INTERFACE:
                self._found(name, self._links.finding(target.interface))
            elif target.spec.kind is Kind.ROUTE:
                self._found(name, route_finding(target, self._routes))

        self._again[name] = asyncio.get_running_loop().call_later(interval_s, look)

    def _take(self, changes: list[Change]) -> None:
        for change in changes:
            self._tell(change)
        health = self._board.health
        if health != self._said:
            self._said = health
            self._feed(HealthChanged(health=health))
        self._arm()

    def _tell(self, change: Change) -> None:
        fields: dict[str, str | int | bool | None] = {
            "monitor": change.name,
            "kind": change.kind.value,
            "from": change.before.value,
            "to": change.after.value,
        }
        failed = change.after is Standing.FAILED
        quiet = change.before is Standing.PENDING and change.after is Standing.UP
        # The sentence itself is the message: ten monitors that fail at once are ten kinds of
        # record, none of them held back as a repetition.
        log.log(
            logging.WARNING if failed else logging.DEBUG if quiet else logging.INFO,
            change.reason.sentence,
            extra={"fields": {"event": "monitor", "reason": change.reason.code.value, **fields}},
        )
        self._publish(
            "monitor",
            at_ns=change.at_ns,
            reason=change.reason.code.value,
            sentence=change.reason.sentence,
            fields=fields,
        )

    def _arm(self) -> None:
        """One timer, for the start delay that ends next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline_ns = self._board.next_deadline()
        if deadline_ns < FOREVER:
            wait_s = max(0, deadline_ns - self._now_ns()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._delay_ended)

    def _delay_ended(self) -> None:
        self._timer = None
        self._take(self._board.advance(self._now_ns()))

    # -- for people ------------------------------------------------------------------------------

    def status(self, offset_ns: int) -> list[schema.Monitor]:
        """Every monitor and set as it stands."""
        in_sets = self._board.in_sets
        shown = [
            _monitor(track, self._targets[name], in_sets.get(name), offset_ns)
            for name, track in self._board.tracks.items()
        ]
        return [*(_linkset(one, offset_ns) for one in self._board.sets.values()), *shown]

    def counters(self) -> list[schema.MonitorCounters]:
        """What the monitors counted since they were first watched."""
        sets = [
            schema.MonitorCounters(
                name=name, kind=Kind.LINKSET.value, failures=one.failures, looks=0
            )
            for name, one in self._board.sets.items()
        ]
        return sets + [
            schema.MonitorCounters(
                name=name,
                kind=track.spec.kind.value,
                looks=track.looks,
                failures=track.failures,
                timeouts=track.timeouts,
            )
            for name, track in self._board.tracks.items()
        ]

    # -- small things ----------------------------------------------------------------------------

    def _of(self, kind: Kind) -> list[Target]:
        return [target for target in self._targets.values() if target.spec.kind is kind]

    def _environment(self, name: str) -> dict[str, str]:
        return {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "TWINBEAT_MONITOR": name,
            "TWINBEAT_ROLE": self._role.name.lower(),
            **self._names,
        }


def _differs(before: Target, after: Target) -> bool:
    """Whether what was found of the one says nothing of the other. A weight is no matter."""
    return replace(before, spec=replace(before.spec, weight=0)) != replace(
        after, spec=replace(after.spec, weight=0)
    )


def _retrieved(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("monitors could not follow the role: %s", error)


def _monitor(track: Track, target: Target, in_set: str | None, offset_ns: int) -> schema.Monitor:
    finding = track.finding
    return schema.Monitor(
        name=track.spec.name,
        kind=track.spec.kind.value,
        state=track.standing.value,
        since_ns=track.since_ns,
        since=moment(track.since_ns + offset_ns),
        target=target.sentence,
        weight=0 if in_set else track.spec.weight,
        linkset=in_set or "",
        reason=finding.sentence if finding is not None else "not looked at yet",
        looked_ns=track.found_ns or None,
        took_ns=finding.took_ns if finding is not None else 0,
        output=finding.output[:OUTPUT_SHOWN] if finding is not None else "",
    )


def _linkset(one: SetTrack, offset_ns: int) -> schema.Monitor:
    members = ", ".join(one.spec.members)
    failed = one.standing is Standing.FAILED
    return schema.Monitor(
        name=one.spec.name,
        kind=Kind.LINKSET.value,
        state=one.standing.value,
        since_ns=one.since_ns,
        since=moment(one.since_ns + offset_ns),
        target=members,
        weight=one.spec.weight,
        reason="every member failed" if failed else "a member carries",
    )
