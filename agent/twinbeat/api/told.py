# SPDX-License-Identifier: Apache-2.0
"""What was asked of the agent and what came of it, in one line for the log and the event stream."""

from twinbeat.api.schema import (
    Caller,
    Command,
    Failover,
    Outcome,
    PauseFor,
    Refusal,
    Reload,
    Resume,
    SetAdmin,
    SetTimers,
    Yield,
)
from twinbeat.api.text import age, length

_INTERVALS = ("hello", "dead", "verify", "stall", "lease")


def asked(command: Command) -> str:
    """The command with what decides about it: `pause for 30m`, `admin stay-primary`."""
    match command:
        case Failover():
            return "failover, even if unfit" if command.even_if_unfit else "failover"
        case Yield():
            return "yield"
        case PauseFor():
            return "pause" if command.for_s is None else f"pause for {age(command.for_s * 10**9)}"
        case Resume():
            return "resume"
        case SetAdmin():
            even = ", even if unfit" if command.even_if_unfit else ""
            return f"admin {command.admin.value}{even}"
        case SetTimers():
            given = [(name, getattr(command, f"{name}_us")) for name in _INTERVALS]
            wanted = [f"{name} {length(us * 1000)}" for name, us in given if us is not None]
            even = ", even so" if command.even_so else ""
            return f"timers {'unset' if command.unset else ', '.join(wanted)}{even}"
        case Reload():
            return "reload"


def told(command: Command, caller: Caller, result: Outcome | Refusal) -> str:
    """Who asked for what, why, and how it ended."""
    why = f" ({command.reason})" if command.reason else ""
    kind = "refused" if isinstance(result, Refusal) else result.state.value
    end = kind if result.sentence == kind else f"{kind}, {result.sentence}"
    return f"{asked(command)} by uid {caller.uid}{why}: {end}"
