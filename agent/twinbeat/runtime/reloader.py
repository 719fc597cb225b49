# SPDX-License-Identifier: Apache-2.0
"""A reload carried out: read, thought through, tried where it may fail, and only then put in force.

`twinbeat.runtime.reload` says what a new configuration changes; this part brings it about in a
running agent. Whatever may be refused comes first, and is undone if something after it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from twinbeat.api import schema
from twinbeat.api.text import moment, realtime_offset_ns
from twinbeat.aside import Aside
from twinbeat.config.inforce import Examiner, InForce, load_in_force
from twinbeat.config.keys import Key, load_keys
from twinbeat.config.model import Config
from twinbeat.config.problems import ConfigError, Findings
from twinbeat.config.secrets import Options, load_options
from twinbeat.engine.engine import Engine
from twinbeat.engine.types import now_ns
from twinbeat.net.errors import NetError
from twinbeat.runtime import ground, host, wiring
from twinbeat.runtime.current import Current
from twinbeat.runtime.guarded import REFUSALS
from twinbeat.runtime.hands import EngineHands
from twinbeat.runtime.health import Health
from twinbeat.runtime.hooks import Hooks
from twinbeat.runtime.links import Links
from twinbeat.runtime.outside import Outside
from twinbeat.runtime.reload import Plan, plan
from twinbeat.runtime.rotation import check_rotation
from twinbeat.runtime.shared import tell_ignored
from twinbeat.runtime.site import Site
from twinbeat.runtime.status import Facts
from twinbeat.sync.document import Document

log = logging.getLogger("twinbeat")

EFFECT_S: Final = 0.01
"""So long after a document was put in force engine and core are told of it: whoever waits for it
isn't held up by that, and of a stream of documents they are told once."""


@dataclass(slots=True, kw_only=True)
class Reloader:
    """Reads the configuration again; one reload at a time."""

    current: Current
    examiner: Examiner
    facts: Facts
    engine: Engine
    hands: EngineHands
    site: Site
    links: Links
    outside: Outside
    health: Health
    hooks: Hooks
    take_effect: Callable[[], None]
    """Tells engine and core of the configuration in force."""
    reloading: Callable[[], None]
    ready: Callable[[], None]
    """Both tell systemd."""
    reloaded: Callable[[], None]
    """Told when it is over."""
    aside: Aside = field(default_factory=lambda: Aside("shared"))
    """Where documents are examined and kept."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _planned: tuple[Config, Config, Plan] | None = None
    """What is to be done to get from the one to the other."""
    _effect: asyncio.TimerHandle | None = None
    """Engine and core are about to be told of the configuration in force."""
    _tasks: set[asyncio.Task[object]] = field(default_factory=set)

    def begin(self) -> None:
        """Reload, and answer nobody."""
        task = asyncio.get_running_loop().create_task(self.reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """End what nobody waits for."""
        for task in self._tasks:
            task.cancel()
        if self._effect is not None:
            self._effect.cancel()

    async def reload(self) -> schema.Outcome | schema.Refusal:
        """Read the configuration again: all of it takes effect, or nothing."""
        async with self._turn:
            self.reloading()
            self.examiner.forget()
            try:
                _, sentence = await self._bring_about(self.current.document)
            except ConfigError as error:
                for problem in error.problems:
                    log.log(logging.WARNING if problem.warning else logging.ERROR, "%s", problem)
                log.error("the configuration in force stays: this one can't be used")
                answer: schema.Outcome | schema.Refusal = schema.Refusal(
                    code="config", sentence=f"nothing was changed: {error}"
                )
            except REFUSALS as error:
                log.error("the reload was undone: %s", error)
                answer = schema.Refusal(code="environment", sentence=f"it was undone: {error}")
            else:
                if self.facts.needs_restart:
                    log.warning("%s", sentence)
                answer = schema.Outcome(
                    operation="",
                    state=schema.OutcomeState.DONE,
                    code="reloaded",
                    sentence=sentence,
                )
            self.ready()
            self.reloaded()
            return answer

    async def put(self, document: Document, keep: Callable[[], None]) -> tuple[str, ...]:
        """This document in the place of the one in force; the keys that wait for a restart.

        ``keep`` is called, in a thread, when all was examined and before anything is touched.
        Raises what it raises, ConfigError, or one of REFUSALS; all is as it was then.
        """
        async with self._turn:
            intent, _ = await self._bring_about(document, keep)
            return intent.needs_restart

    async def _bring_about(
        self, document: Document | None, keep: Callable[[], None] | None = None
    ) -> tuple[Plan, str]:
        current = self.current
        found, intent, keys, options = await self.aside.call(self._read, document, keep)
        waiting = ", ".join(intent.needs_restart)
        later = f"; only a restart puts into force: {waiting}" if waiting else ""
        if not intent.changes and keys == current.keys and options == current.fence_options:
            told = current.generation, current.digest
            current.read(intent.config, found)
            self._note_loaded(intent.needs_restart)
            if told != (current.generation, current.digest):
                self._take_effect()
            return intent, f"the configuration was reloaded, and nothing is to be changed{later}"
        self._check_rotation(intent.config, keys)
        config = await self._fit(intent.config)
        await self._try(intent, config)
        self._take_keys(config, keys)
        await self._apply(intent, config, options, found)
        if keep is None:
            self._note_loaded(intent.needs_restart)
            self._take_effect()
        else:
            # Who waits for the document hears that it is in force before the peer's engine does.
            loop = asyncio.get_running_loop()
            loop.call_soon(self._note_loaded, intent.needs_restart)
            if self._effect is None:
                self._effect = loop.call_later(EFFECT_S, self._take_effect)
        return intent, f"the configuration was reloaded, {len(intent.changes)} keys changed{later}"

    def _take_effect(self) -> None:
        if self._effect is not None:
            self._effect.cancel()
            self._effect = None
        self.take_effect()

    def _read(
        self, document: Document | None, keep: Callable[[], None] | None
    ) -> tuple[InForce, Plan, tuple[Key, ...], Options]:
        """All that takes time, off the loop that decides."""
        running = self.current.file
        if document is None:
            found = load_in_force(running.path, None)
        else:
            found = self.examiner.load(document)
        wanted = found.config
        if keep is not None and (wanted.keys, wanted.fence) == (running.keys, running.fence):
            # A document names no file of a node: to read those again takes a reload.
            keys, options = self.current.keys, self.current.fence_options
        else:
            keys, options = load_keys(wanted), load_options(wanted.fence, wanted.path)
        if keep is not None:
            keep()
        planned = self._planned
        if planned is None or planned[0] is not running or planned[1] is not wanted:
            planned = running, wanted, plan(running, wanted)
        self._planned = None
        return found, planned[2], keys, options

    def foresee(self) -> None:
        """Think through what was examined last, while nobody waits for it. Blocking."""
        running, wanted = self.current.file, self.examiner.found
        if wanted is not None:
            self._planned = running, wanted, plan(running, wanted)

    def _check_rotation(self, config: Config, keys: tuple[Key, ...]) -> None:
        """Raises ConfigError if these keys would cut the pair."""
        if keys == self.current.keys:
            return
        seen = self.hands.snapshot()
        findings = Findings(config.path)
        check_rotation(
            config,
            before=self.current.keys,
            after=keys,
            peer=seen.peer,
            watch=seen.engine.watch,
            findings=findings,
        )
        if findings.failed:
            raise ConfigError(findings.problems)

    async def _fit(self, config: Config) -> Config:
        """The timers of the file were raised to what the host holds; so are those of the new one.

        Raises NetError if the host can't hold them.
        """
        current = self.current
        if config.timers_set == current.file.timers_set:
            return replace(config, timers_set=current.config.timers_set)
        lateness = await asyncio.to_thread(host.measure)
        fitting = host.fit(config, lateness)
        current.wake_late_ns = lateness.p90_ns
        if fitting.refused:
            raise NetError(fitting.refused)
        raised = schema.Reason(code="raised", sentence=fitting.raised)
        self.facts.raised = [raised] if fitting.raised else []
        return fitting.config

    async def _try(self, intent: Plan, config: Config) -> None:
        """What the kernel may refuse; then all of it is as it was."""
        links, before = self.links, self.current.config
        if intent.links:
            refused = links.refusal(config)
            if refused:
                raise NetError(refused)
            await links.apply(config)
        try:
            if intent.addresses:
                await self.site.stage.change_addresses(config)
        except REFUSALS:
            if intent.links:
                await links.apply(before)
            raise

    def _take_keys(self, config: Config, keys: tuple[Key, ...]) -> None:
        current = self.current
        if keys == current.keys:
            return
        self.site.stage.configure_keys(config.keys.send, wiring.bpf_keys(keys))
        self.engine.set_config(wiring.wire(config, keys))
        current.keys = keys
        self.facts.keys = current.key_ids

    async def _apply(self, intent: Plan, config: Config, options: Options, found: InForce) -> None:
        ports_stay = _ports(config) == _ports(self.current.config)
        self.outside.apply(config, options)
        self.current.fence_options = options
        self.current.config = config
        self.current.read(intent.config, found)
        await self.health.apply(config)
        await self.site.routes.apply(config)
        self.hooks.apply(config)
        if intent.addresses and not ports_stay:
            self.facts.warnings = ground.shortcomings(config, self.site.stage)

    def _note_loaded(self, needs_restart: tuple[str, ...]) -> None:
        """Say from now on what was read, and when."""
        self.facts.digest = self.current.digest
        self.facts.generation = self.current.generation
        tell_ignored(self.current, self.facts.ignored)
        self.facts.ignored = list(self.current.ignored)
        self.facts.needs_restart = list(needs_restart)
        self.facts.loaded = moment(now_ns() + realtime_offset_ns())


def _ports(config: Config) -> list[tuple[object, ...]]:
    """What the settings of this host that are looked at depend on."""
    return [
        (
            section.id,
            section.interface,
            section.uplinks,
            section.vmac,
            section.inject,
            any(":" in vip for vip in section.vips),
        )
        for section in config.vrids
    ]
