# SPDX-License-Identifier: Apache-2.0
"""The agent as the interface sees it: status, counters, history, commands.

Commands of the interface become events of the core; its replies become answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from twinbeat.api import schema
from twinbeat.api.events import EventHub
from twinbeat.api.told import told
from twinbeat.core import election
from twinbeat.core import events as core
from twinbeat.core.effects import Outcome, Reply
from twinbeat.core.reasons import OVERRIDES, Code, Refusal
from twinbeat.core.types import SECOND, Admin
from twinbeat.observe.history import History
from twinbeat.runtime.teller import Teller

PATIENCE_S: Final = 10.0
"""A command that takes longer is answered as accepted; the event stream tells how it ends."""

LEAVING: Final = frozenset(
    {Code.PEER_UNKNOWN, *(code for code, _ in election.SUCCESSOR + election.UNFIT)}
)
"""Why nobody could take over from a node that is to leave: an operator may send it away all the
same."""


class Node:
    """Implements `twinbeat.api.agent.Agent`."""

    def __init__(
        self,
        *,
        hub: EventHub,
        history: History,
        teller: Teller,
        status: Callable[[], schema.Status],
        counters: Callable[[], schema.Counters],
        feed: Callable[[core.Event], None],
        reload: Callable[[], Awaitable[schema.Outcome | schema.Refusal]],
        measure: Callable[[], Awaitable[None]],
    ) -> None:
        """``measure`` finds out anew how late this host wakes up, and tells the core."""
        self._hub = hub
        self._history = history
        self._teller = teller
        self._status = status
        self._counters = counters
        self._feed = feed
        self._reload = reload
        self._measure = measure

    @property
    def events(self) -> EventHub:
        return self._hub

    def status(self) -> schema.Status:
        return self._status()

    def counters(self) -> schema.Counters:
        return self._counters()

    def history(self, limit: int) -> list[schema.Transition]:
        return self._history.newest(limit)

    async def command(
        self, command: schema.Command, caller: schema.Caller
    ) -> schema.Outcome | schema.Refusal:
        result = await self._carry_out(command, caller)
        self._teller.publish(
            "command",
            reason=result.code,
            sentence=told(command, caller, result),
            fields={"request_id": command.request_id, "uid": caller.uid, "why": command.reason},
        )
        return result

    async def _carry_out(
        self, command: schema.Command, caller: schema.Caller
    ) -> schema.Outcome | schema.Refusal:
        if isinstance(command, schema.Reload):
            outcome = await self._reload()
            if isinstance(outcome, schema.Outcome):
                return schema.Outcome(
                    operation=command.request_id,
                    state=outcome.state,
                    code=outcome.code,
                    sentence=outcome.sentence,
                )
            return outcome
        if isinstance(command, schema.SetTimers) and not command.even_so:
            await self._measure()
        event = translate(command, caller)
        self._teller.expect(command.request_id)
        self._feed(event)
        reply = await self._teller.answer(command.request_id, patience_s=PATIENCE_S)
        return self._answer(command, reply)

    def _answer(
        self, command: schema.Command, reply: Reply | None
    ) -> schema.Outcome | schema.Refusal:
        if reply is None:
            return schema.Outcome(
                operation=command.request_id,
                state=schema.OutcomeState.ACCEPTED,
                code=Code.ACCEPTED.value,
                sentence="the command is still under way",
            )
        code, sentence = reply.reason.code, reply.reason.sentence
        if reply.outcome is Outcome.REFUSED or isinstance(reply.reason, Refusal):
            return schema.Refusal(
                code=code.value, sentence=sentence, override=override_of(command, code)
            )
        done = reply.outcome is Outcome.DONE
        return schema.Outcome(
            operation=command.request_id,
            state=schema.OutcomeState.DONE if done else schema.OutcomeState.FAILED,
            code=code.value,
            sentence=sentence,
            term=self._status().node.term or None,
        )


def override_of(command: schema.Command, code: Code) -> str | None:
    """The option of this command that gets past a refusal, unless it was given already."""
    option = OVERRIDES.get(code)
    if isinstance(command, schema.SetAdmin):
        option = "--even-if-unfit" if code in LEAVING else None
    if option is None:
        return None
    given = getattr(command, option.removeprefix("--").replace("-", "_"), None)
    return option if given is False else None


def translate(command: schema.Command, caller: schema.Caller) -> core.Operator:
    """A command of the interface as the core's event."""
    common = {
        "request_id": command.request_id,
        "operator": f"uid {caller.uid}",
        "reason": command.reason,
    }
    match command:
        case schema.Failover():
            return core.ForceFailover(even_if_unfit=command.even_if_unfit, **common)
        case schema.Yield():
            return core.ForceYield(**common)
        case schema.PauseFor():
            return core.Pause(for_ns=(command.for_s or 0) * SECOND, **common)
        case schema.Resume():
            return core.Resume(**common)
        case schema.SetAdmin():
            return core.AdminCommand(
                status=Admin[command.admin.name],
                even_if_unfit=command.even_if_unfit,
                **common,
            )
        case schema.SetTimers():
            return core.SetTimers(
                hello_us=command.hello_us,
                dead_us=command.dead_us,
                verify_us=command.verify_us,
                stall_us=command.stall_us,
                lease_us=command.lease_us,
                unset=command.unset,
                even_so=command.even_so,
                **common,
            )
        case schema.Reload():
            raise AssertionError("a reload is no event")
