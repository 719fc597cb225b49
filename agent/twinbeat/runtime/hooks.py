# SPDX-License-Identifier: Apache-2.0
"""Programs of the operator that are told what happened: late, and never waited for.

Each hook has a queue of its own and runs one at a time.  What happened is news of three kinds: the
role, the node's fitness, the peer.  Of each kind only the newest waits; an older one that has not
begun is skipped and counted, so a slow hook ends with the truth and never with a backlog.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from twinbeat.api import schema
from twinbeat.api.text import length, moment, realtime_offset_ns
from twinbeat.config.model import Config
from twinbeat.config.service import HookSection
from twinbeat.engine.types import now_ns
from twinbeat.programs import Finished, Program

log = logging.getLogger("twinbeat.hooks")

STOP_S: Final = 2.0
"""What a running hook gets when the agent ends."""
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

KINDS: Final = {
    "primary": "role",
    "secondary": "role",
    "disabled": "role",
    "fault": "fitness",
    "fit": "fitness",
    "peer-lost": "peer",
    "peer-found": "peer",
}
"""Event -> the kind of news that it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """What a hook is told."""

    event: str
    role: str
    before: str = ""
    """The role before, of a change of role."""
    reason: str = ""
    sentence: str = ""
    term: int = 0
    at_ns: int = 0


class Hook:
    """One hook and its queue."""

    def __init__(self, section: HookSection, names: dict[str, str]) -> None:
        self.section = section
        self._names = names
        self._waiting: dict[str, Happening] = {}
        self._task: asyncio.Task[None] | None = None
        self._running: Happening | None = None
        self._last: tuple[Happening, Finished] | None = None
        self.outcomes: Counter[str] = Counter()
        """ok, failed, timeout, refused"""
        self.skipped = 0

    def tell(self, happening: Happening, *, first: Callable[[], Awaitable[None]]) -> None:
        """Run it for this, as soon as it is free and `first` is through."""
        kind = KINDS[happening.event]
        if self._waiting.pop(kind, None) is not None:
            self.skipped += 1
        self._waiting[kind] = happening
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(first))

    async def stop(self) -> None:
        """Forget what waits; give what runs a moment, then take it down."""
        self._waiting.clear()
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=STOP_S)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self, first: Callable[[], Awaitable[None]]) -> None:
        while self._waiting:
            if "role" in self._waiting:
                await first()
                if not self._waiting:  # stopped meanwhile
                    break
            kind = next(iter(self._waiting))
            self._running = happening = self._waiting.pop(kind)
            try:
                await self._once(happening)
            finally:
                self._running = None

    async def _once(self, happening: Happening) -> None:
        section = self.section
        program = Program([section.exec, *section.arguments], self._environment(happening))
        finished = await program.run(timeout_s=section.timeout_s)
        self._last = happening, finished
        outcome = "ok" if finished.good else "failed"
        if finished.refused:
            outcome = "refused"
        elif finished.timed_out:
            outcome = "timeout"
        self.outcomes[outcome] += 1
        self._log(happening, finished, outcome)

    def _log(self, happening: Happening, finished: Finished, outcome: str) -> None:
        fields = {
            "event": "hook",
            "reason": f"hook_{outcome}",
            "hook": self.section.name,
            "told": happening.event,
            "exit_code": finished.code,
            "length_ns": finished.length_ns,
        }
        said = " | ".join(finished.output.split("\n")).strip(" |")
        flooded = "; it wrote too much, and the rest was refused" if finished.flooded else ""
        log.log(
            logging.INFO if finished.good else logging.WARNING,
            "hook %s (%s) %s after %s%s%s",
            self.section.name,
            happening.event,
            finished.sentence(),
            length(finished.length_ns),
            flooded,
            f": {said}" if said else "",
            extra={"fields": fields},
        )

    def _environment(self, happening: Happening) -> dict[str, str]:
        return {
            "PATH": PATH,
            "LC_ALL": "C.UTF-8",
            **self._names,
            "TWINBEAT_HOOK": self.section.name,
            "TWINBEAT_EVENT": happening.event,
            "TWINBEAT_ROLE": happening.role,
            "TWINBEAT_FROM": happening.before,
            "TWINBEAT_REASON": happening.reason,
            "TWINBEAT_SENTENCE": happening.sentence,
            "TWINBEAT_TERM": str(happening.term),
            "TWINBEAT_TIME": moment(happening.at_ns + realtime_offset_ns()),
        }

    def status(self) -> schema.Hook:
        last = self._last
        return schema.Hook(
            name=self.section.name,
            exec=self.section.exec,
            events=list(self.section.events),
            running=self._running.event if self._running is not None else None,
            waiting=[one.event for one in self._waiting.values()],
            runs=sum(self.outcomes.values()),
            outcomes=dict(self.outcomes),
            skipped=self.skipped,
            last_event=last[0].event if last else None,
            last_exit_code=last[1].code if last else None,
            last_good=last[1].good if last else None,
            last_sentence=last[1].sentence() if last else "",
            last_length_ns=last[1].length_ns if last else None,
            last_output=last[1].output[: schema.SHOWN_OUTPUT] if last else "",
        )


class Hooks:
    """All hooks of the node."""

    def __init__(self, *, first: Callable[[], Awaitable[None]]) -> None:
        self._first = first
        """What a role's hook comes after: its routes."""
        self._hooks: dict[str, Hook] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._role = "init"
        self._term = 0
        self._fit: bool | None = None
        self._peer: bool | None = None

    def apply(self, config: Config) -> None:
        """Those of this configuration; one that changed begins anew, its queue forgotten."""
        names = {
            "TWINBEAT_NODE": config.node.name,
            "TWINBEAT_PEER": config.peer.name,
            "TWINBEAT_PAIR": str(config.pair.id),
        }
        before, self._hooks = self._hooks, {}
        for section in config.hooks:
            known = before.pop(section.name, None)
            if known is not None and known.section == section:
                self._hooks[section.name] = known
                continue
            if known is not None:
                self._dismiss(known)
            self._hooks[section.name] = Hook(section, names)
        for hook in before.values():
            self._dismiss(hook)
        if not self._hooks:
            # The first look for those that may come is none.
            self._fit = self._peer = None

    def _dismiss(self, hook: Hook) -> None:
        task = asyncio.get_running_loop().create_task(hook.stop())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def stop(self) -> None:
        """Take down what runs."""
        stopping = [hook.stop() for hook in self._hooks.values()]
        await asyncio.gather(*stopping, *self._leaving)

    # -- news ------------------------------------------------------------------------------------

    def transition(self, recorded: schema.Transition) -> None:
        """The role changed. A reign that goes on under a newer term began before."""
        self._role, self._term = recorded.to_role.value, recorded.term
        if recorded.from_role is recorded.to_role:
            return
        self._tell(
            Happening(
                event=recorded.to_role.value,
                role=self._role,
                before=recorded.from_role.value,
                reason=recorded.reason,
                sentence=recorded.sentence,
                term=recorded.term,
                at_ns=recorded.at_ns,
            )
        )

    @property
    def any(self) -> bool:
        """Whether there are any: nobody else wants to know what `look` looks at."""
        return bool(self._hooks)

    def look(self, *, unfit: Sequence[tuple[str, str]], peer_alive: bool) -> None:
        """Look for news beside the role; the first look is none.

        `unfit` holds why the node isn't fit, as (code, sentence).
        """
        fit = not unfit
        if self._fit is not None and fit != self._fit:
            code, sentence = unfit[0] if unfit else ("", "")
            self._beside("fit" if fit else "fault", code, sentence)
        if self._peer is not None and peer_alive != self._peer:
            self._beside("peer-found" if peer_alive else "peer-lost", "", "")
        self._fit, self._peer = fit, peer_alive

    def _beside(self, event: str, reason: str, sentence: str) -> None:
        self._tell(
            Happening(
                event=event,
                role=self._role,
                reason=reason,
                sentence=sentence,
                term=self._term,
                at_ns=now_ns(),
            )
        )

    def _tell(self, happening: Happening) -> None:
        for hook in self._hooks.values():
            if happening.event in hook.section.events:
                hook.tell(happening, first=self._first)

    def status(self) -> list[schema.Hook]:
        return [hook.status() for hook in self._hooks.values()]
