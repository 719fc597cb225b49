# SPDX-License-Identifier: Apache-2.0
"""The primary's routes and rules: when they are settled, and what came of it.

The kernel holds the truth, so everything is one question asked again: is what stands what the role
wants?  It is asked when the role changes, when the configuration does, after interfaces moved (the
kernel drops the routes of one that goes down), and once in a while for whoever removed one by hand.
Nobody waits for the answer: a primary serves before its routes stand, and a refused route is told,
shown and tried again, but never costs the role.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from twinbeat.api import schema
from twinbeat.config.model import Config
from twinbeat.net import netlink, routes, rules
from twinbeat.net.errors import NetError
from twinbeat.net.netlink import EventSocket
from twinbeat.net.routes import Key, Kind, Problem, Route, Settled
from twinbeat.runtime import wiring
from twinbeat.runtime.executor import EffectError
from twinbeat.runtime.store import StoreError, write_whole

log = logging.getLogger("twinbeat.routes")

REPLACED_ROUTES: Final = "routes.json"
"""The file of the state directory that a ReplacedFile is kept in."""
LOOK_S: Final = 30.0
"""How often it is looked after what stands."""
LINK_PAUSE_S: Final = 0.25
"""Notices of interfaces come in swarms; one look answers them all."""
RETRY_S: Final = 5.0
"""What was refused is tried again after so long."""
LOGGED_MAX: Final = 20
"""Lines of one settlement; a thousand routes over one missing interface are one trouble."""
METRIC_MAX: Final = 0xFFFFFF
"""What an external metric of OSPF holds; FRR makes a distance of a kernel metric's top byte."""


class ReplacedFile(msgspec.Struct, frozen=True, kw_only=True):
    """routes.json: routes of others that ours have taken the place of."""

    schema: int = 1
    routes: list[tuple[str, int, int, str]]
    """Destination, table, metric, and the kernel's message in hexadecimal digits."""


class RoleRoutes:
    """Routes and rules that belong to the primary, on one node."""

    def __init__(self, *, config: Config, directory: Path, term: Callable[[], int]) -> None:
        self._config = config
        self._path = directory / REPLACED_ROUTES
        self._term = term
        self._primary = False
        self._adopted = False
        """Kept standing for a reign that the core hasn't resumed yet."""
        self._lock = asyncio.Lock()
        self._remembered: dict[Key, bytes] = {}
        self._links: EventSocket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._known: set[str] = set()
        """Problems that were told already."""
        self._routes = Settled()
        self._rules = Settled()
        self._length_ns = 0
        self.changes: Counter[str] = Counter()
        """added, removed, restored, repaired"""

    # -- life ------------------------------------------------------------------------------------

    async def start(self, *, resumed: bool) -> None:
        """Take stock of what an agent before this one left.

        With `resumed` its reign may go on, so what the configuration wants stays; else everything
        of ours goes and what was there before returns.  Raises NetError.
        """
        self._remembered = await asyncio.to_thread(replaced_routes, self._path)
        self._primary = self._adopted = resumed
        async with self._lock:
            await self._settle()
        self._links = EventSocket([netlink.RTNLGRP_LINK])
        asyncio.get_running_loop().add_reader(self._links.fileno(), self._noticed)
        self._look_later(LOOK_S)

    def leave(self) -> None:
        """Let go without touching anything."""
        if self._links is not None:
            asyncio.get_running_loop().remove_reader(self._links.fileno())
            self._links.close()
            self._links = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def remove_all(self) -> None:
        """Everything of ours goes, and what was there before returns. Raises NetError."""
        self._primary = False
        async with self._lock:
            await self._settle()

    async def apply(self, config: Config) -> None:
        """Another configuration: while primary the difference is made at once."""
        async with self._lock:
            before, self._config = self._config, config
            # Whoever asks the kernel for all of its routes takes milliseconds of a processor.
            if _asked_for(config) != _asked_for(before) or self._problems():
                await self._settle()

    # -- the role --------------------------------------------------------------------------------

    async def install(self) -> None:
        """On becoming primary. Raises EffectError if a route or rule was refused."""
        await self._become(primary=True)

    async def remove(self) -> None:
        """On yielding. Raises EffectError if something could not be removed or put back."""
        await self._become(primary=False)

    async def _become(self, *, primary: bool) -> None:
        self._primary, self._adopted = primary, False
        async with self._lock:
            try:
                await self._settle()
            except NetError as error:
                self._look_later(RETRY_S)
                raise EffectError(str(error)) from error
            problems = self._problems()
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise EffectError(problems[0].sentence() + more)

    def transition(self, recorded: schema.Transition) -> None:
        """A reign that ended with the agent before this one and wasn't resumed needs no routes."""
        if self._adopted and recorded.to_role in {schema.Role.SECONDARY, schema.Role.DISABLED}:
            self._primary = self._adopted = False
            self._look_later(0)

    @property
    def stood_ns(self) -> int:
        """When the kernel had taken the last of the routes, by the boot-time clock."""
        return self._routes.stood_ns

    async def settled(self) -> None:
        """Return when no settlement is under way."""
        async with self._lock:
            pass

    # -- settling --------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Make what stands what the role wants. Raises NetError."""
        begun = asyncio.get_running_loop().time()
        # The loop attests meanwhile: only a thread thinks of a thousand routes.
        self._routes, self._rules = await asyncio.to_thread(
            self._work, self._config if self._primary else None, self._term()
        )
        self._length_ns = int((asyncio.get_running_loop().time() - begun) * 1e9)
        for settled in (self._routes, self._rules):
            self.changes["added"] += settled.added
            self.changes["removed"] += settled.removed
            self.changes["restored"] += settled.restored
        self._tell()
        self._look_later(RETRY_S if self._problems() else LOOK_S)

    def _work(self, config: Config | None, term: int) -> tuple[Settled, Settled]:
        """In a thread: settle what a configuration asks for, or nothing at all.

        Rules go before the tables they lead to, and come after them.
        """
        if config is None:
            of_rules = rules.settle([])
            return self._settle_routes([]), of_rules
        # What a routing daemon waits for comes first: in a flood of others it could miss it.
        of_routes = self._settle_routes(
            [*injected(config, term), *map(wiring.route, config.routes)]
        )
        return of_routes, rules.settle([rule for one in config.rules for rule in wiring.rules(one)])

    def _settle_routes(self, wanted: list[Route]) -> Settled:
        return routes.settle(wanted, remembered=self._remembered, remember=self._remember)

    def _problems(self) -> list[Problem]:
        return self._routes.problems + self._rules.problems

    def _tell(self) -> None:
        problems = {one.sentence(): one.trouble for one in self._problems()}
        new = [sentence for sentence in problems if sentence not in self._known]
        for sentence in new[:LOGGED_MAX]:
            reason = f"route_{problems[sentence].value}"
            log.warning("%s", sentence, extra={"fields": {"event": "route", "reason": reason}})
        if len(new) > LOGGED_MAX:
            log.warning("and %d more routes or rules", len(new) - LOGGED_MAX)
        solved = len(self._known - problems.keys())
        if solved and self._primary:
            log.info("%d routes or rules that were refused are settled now", solved)
        self._known = set(problems)

    # -- looking after them ----------------------------------------------------------------------

    def _noticed(self) -> None:
        assert self._links is not None
        self._links.read(lambda _kind, _body: None)
        if self._primary or self._remembered:
            self._look_later(LINK_PAUSE_S)

    def _look_later(self, pause_s: float) -> None:
        """Look again after this time at the latest."""
        loop = asyncio.get_running_loop()
        due = loop.time() + pause_s
        if self._links is None or (
            self._timer is not None and loop.time() < self._timer.when() <= due
        ):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._repair())

    async def _repair(self) -> None:
        if self._lock.locked():
            return  # Somebody looks already, and will come back to it.
        async with self._lock:
            standing = self._routes.standing + self._rules.standing
            had_problems = bool(self._problems())
            before = self.changes["added"]
            try:
                await self._settle()
            except NetError as error:
                log.warning("%s", error)
                self._look_later(RETRY_S)
                return
            added = self.changes["added"] - before
            if added and not had_problems and standing:
                self.changes["repaired"] += added
                log.warning(
                    "%d routes or rules of ours were gone and have been put back",
                    added,
                    extra={"fields": {"event": "route", "reason": "route_repaired"}},
                )

    # -- what was there before -------------------------------------------------------------------

    def _remember(self, remembered: Mapping[Key, bytes]) -> None:
        file = ReplacedFile(routes=[(*key, body.hex()) for key, body in remembered.items()])
        try:
            write_whole(self._path, msgspec.json.encode(file) + b"\n")
        except StoreError as error:
            raise NetError(str(error)) from error

    # -- status ----------------------------------------------------------------------------------

    def status(self) -> schema.Routes:
        problems = self._problems()
        injecting = [section for section in self._config.vrids if section.inject]
        return schema.Routes(
            wanted=self._routes.wanted,
            standing=self._routes.standing,
            kept=self._routes.kept,
            replaced=len(self._remembered),
            injected=sum(len(section.vips) for section in injecting) if self._primary else 0,
            inject_table=self._config.inject.table if injecting else None,
            rules_wanted=self._rules.wanted,
            rules_standing=self._rules.standing,
            rules_kept=self._rules.kept,
            problems_total=len(problems),
            troubles=dict(Counter(one.trouble.value for one in problems)),
            problems=[
                schema.RouteProblem(trouble=one.trouble.value, what=one.what, why=one.why)
                for one in problems[: schema.LISTED_PROBLEMS]
            ],
            settled_in_ns=self._length_ns,
        )


def _asked_for(config: Config) -> tuple[object, ...]:
    """All that what stands depends on, beside role and term."""
    injecting = [vrid.vips for vrid in config.vrids if vrid.inject]
    return config.routes, config.rules, config.inject, injecting


def injected(config: Config, term: int) -> list[Route]:
    """Host routes for the addresses that are reached through routers.

    A blackhole leads nowhere and needs no interface, and in a table that no rule asks it is only a
    note to the routing daemon.  The metric falls as the term grows, so that a daemon which passes
    it on lets the newest reign win, although routers still believe in the one that died.
    """
    section = config.inject
    metric = section.metric
    if not metric:
        metric = max(1, METRIC_MAX - (term & METRIC_MAX))
    return [
        Route(
            destination=ipaddress.ip_network(vip),
            kind=Kind.BLACKHOLE,
            table=section.table,
            metric=metric,
        )
        for vrid in config.vrids
        if vrid.inject
        for vip in vrid.vips
    ]


def replaced_routes(path: Path) -> dict[Key, bytes]:
    """Routes of others that ours have taken the place of, by an agent's file.

    Raises NetError; a file that can't be understood is set aside, and said so.
    """
    try:
        file = msgspec.json.decode(path.read_bytes(), type=ReplacedFile)
        found = {
            (destination, table, metric): bytes.fromhex(body)
            for destination, table, metric, body in file.routes
        }
        for body in found.values():
            routes.parse(body)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise NetError(f"reading {path}", code=error.errno or 0) from error
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is of no use
        aside = path.with_name(f"{path.name}.broken")
        with contextlib.suppress(OSError):
            path.replace(aside)
        log.warning(
            "%s can't be read (%s) and was set aside: routes of others that it named, if any, "
            "are not put back",
            path,
            error,
        )
        return {}
    return found
