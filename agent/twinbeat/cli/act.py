# SPDX-License-Identifier: Apache-2.0
"""Commands that change something: force, stay, enable, disable, pause, resume."""

import re
from typing import Final

import click

from twinbeat.cli.base import Exit, Stop, command, confirm, readable
from twinbeat.cli.change import disable_server, enable_server
from twinbeat.cli.sync import force_sync

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_reason = click.option("--reason", default="", metavar="TEXT", help="Why, for log and history.")
_yes = click.option("--yes", "-y", is_flag=True, help="Don't ask.")
_even_if_unfit = click.option(
    "--even-if-unfit", is_flag=True, help="Also when whoever takes over is not fit."
)


@click.group()
def force() -> None:
    """Switch over, or synchronize, by command."""


force.add_command(force_sync)


@force.command()
@_yes
@_reason
@_even_if_unfit
@readable
def failover(yes: bool, reason: str, even_if_unfit: bool) -> None:
    """Make the other node primary; on either node. Refused where the taker can't serve."""
    confirm("Switch the primary role over to the other node?", yes)
    command("failover", reason=reason, even_if_unfit=even_if_unfit)


@force.command(name="yield")
@_yes
@_reason
@readable
def yield_(yes: bool, reason: str) -> None:
    """Give up the role, even if nobody takes it."""
    confirm("Give up the primary role, even if the other node doesn't take it?", yes)
    command("yield", reason=reason)


@click.command()
@click.argument("role", type=click.Choice(["primary", "secondary", "off"]))
@_reason
@_even_if_unfit
@readable
def stay(role: str, reason: str, even_if_unfit: bool) -> None:
    """Keep to a role: primary (while healthy), secondary (never claims), or off."""
    admin = "enabled" if role == "off" else f"stay-{role}"
    command("admin", admin=admin, reason=reason, even_if_unfit=even_if_unfit)


@click.group(invoke_without_command=True)
@_reason
@readable
@click.pass_context
def enable(context: click.Context, reason: str) -> None:
    """Let this node take part again; or `enable server`."""
    if context.invoked_subcommand is None:
        command("admin", admin="enabled", reason=reason)


@click.group(invoke_without_command=True)
@_yes
@_reason
@_even_if_unfit
@readable
@click.pass_context
def disable(context: click.Context, yes: bool, reason: str, even_if_unfit: bool) -> None:
    """Take this node out of the pair: it neither serves nor takes over; or `disable server`."""
    if context.invoked_subcommand is None:
        confirm("Take this node out of the pair?", yes)
        command("admin", admin="disabled", reason=reason, even_if_unfit=even_if_unfit)


enable.add_command(enable_server)
disable.add_command(disable_server)


class _Length(click.ParamType[int]):
    """A number with its unit, in seconds."""

    name = "length"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """`30m` -> 1800."""
        found = re.fullmatch(r"([0-9]{1,7})([smhd])", value)
        if found is None:
            self.fail(f"{value!r} is no length such as 90s, 30m, 2h or 1d", param, ctx)
        seconds = int(found[1]) * _UNITS[found[2]]
        if not 1 <= seconds <= 7 * 86400:
            self.fail(f"{value!r} is not between 1s and 7d", param, ctx)
        return seconds


@click.command()
@click.option("--for", "for_s", type=_Length(), metavar="30m", help="It ends by itself then.")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for whoever wonders.")
@readable
def pause(for_s: int | None, reason: str) -> None:
    """Nobody takes over until `resume`, or until the time is over. Service goes on."""
    if not reason.strip():
        raise Stop(Exit.USAGE, "--reason may not be empty")
    command("pause", for_s=for_s, reason=reason)


@click.command()
@_reason
@readable
def resume(reason: str) -> None:
    """End a pause."""
    command("resume", reason=reason)
