# SPDX-License-Identifier: Apache-2.0
"""Commands that change the shared configuration: add, set, unset, rm, bind, apply, run, …"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import click
import msgspec
from click.shell_completion import CompletionItem

from twinbeat.api.schema import Status
from twinbeat.cli.base import Exit, Stop, command, get, settings, stop_for, talk
from twinbeat.cli.request import How, ask, become, changing, edit, running
from twinbeat.cli.sync import document, view
from twinbeat.sync.document import Change, Run, Tables

KINDS: Final = (
    *("timers", "vrid", "route", "rule", "inject", "hook", "policy", "announce", "monitor"),
    *("linkset", "file", "command", "pool", "persistence", "connections", "weblog"),
    *("logsource", "logclient"),
)
"""Sections that both nodes share, in the file's order."""
MEMBERS: Final = ("vip", "neighbour", "uplink", "interface", "path", "server")
"""What is an item of a list in one of them."""
OVERRIDES: Final = ("hello_us", "dead_us", "verify_us", "stall_us", "lease_us")
"""Intervals that a running pair can be given without a shared configuration."""


def _completed(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from twinbeat.cli import complete

    return complete.words(context, parameter, incomplete)


def _completed_commands(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from twinbeat.cli import complete

    return complete.commands(context, parameter, incomplete)


_words = click.argument("words", nargs=-1, shell_complete=_completed)


def _what(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.argument("what", type=click.Choice(names), metavar="WHAT")


# ---------------------------------------------------------------------------------- rows ---------


@click.command()
@_what(*KINDS, *MEMBERS)
@_words
@changing
def add(what: str, words: tuple[str, ...], how: How) -> int:
    """Add something to the shared configuration, on both nodes.

    `twinbeat add vrid 51 interface=lan0 vips=192.0.2.10`, `twinbeat add vip 192.0.2.11 vrid 51`,
    `twinbeat add route 10.0.0.0/8 gateway=192.0.2.1`. Keys are those of twinbeat.toml(5); a length
    has its unit in the key or behind the value (`interval_ms=500`, `interval=500ms`), a list has
    commas or is written as in the file.
    """
    from twinbeat.config import edit as words_of

    def changes(tables: Tables) -> Sequence[Change]:
        if what in MEMBERS:
            return words_of.bind(tables, what, words, fresh=True)
        return words_of.add(tables, what, words)

    return edit(changes, how)


@click.command(name="set")
@_what(*KINDS)
@_words
@click.option("--even-so", is_flag=True, help="timers: also where a host wakes up too late.")
@changing
def set_(what: str, words: tuple[str, ...], even_so: bool, how: How) -> int:
    """Give keys another value, on both nodes: `twinbeat set vrid 51 monitor=false`.

    Single tables have no name: `twinbeat set timers hello=500us dead=20ms`. While the nodes have no
    shared configuration, the timers hello, dead, verify, stall and lease can be set over each
    node's file on a running pair (what isn't given follows where it would contradict the rest);
    that outlives restarts, until `twinbeat unset timers`.
    """
    from twinbeat.config import edit as words_of

    if what != "timers":
        if even_so:
            raise Stop(Exit.USAGE, "--even-so is for timers")
        return edit(lambda tables: words_of.change(tables, what, words), how)
    try:
        wanted = words_of.assigned("timers", words)
    except words_of.EditError as error:
        raise Stop(Exit.USAGE, f"{error}") from error
    if not wanted:
        keys = words_of.settable("timers") if _is_shared() else OVERRIDES
        raise Stop(Exit.USAGE, f"say what is to be set: {', '.join(keys)}")
    if not _is_shared():
        return _override(wanted, even_so, how)
    if even_so:
        why = "accept_host in the [timers] of each node's own file says that"
        raise Stop(Exit.USAGE, f"--even-so is not for a shared configuration: {why}")
    code = edit(lambda tables: words_of.change(tables, "timers", words), how)
    _end_override(how)
    return code


@click.command()
@_what(*KINDS)
@_words
@changing
def unset(what: str, words: tuple[str, ...], how: How) -> int:
    """Give keys their defaults again, on both nodes: `twinbeat unset vrid 51 monitor`.

    `twinbeat unset timers` takes all single timers back to those of the profile, and ends what was
    set over each node's file.
    """
    from twinbeat.config import edit as words_of

    if what == "timers" and not _is_shared():
        if words:
            why = "without a shared configuration all of them are unset at once"
            raise Stop(Exit.USAGE, f"{words[0]}: {why}")
        _refuse_options(how)
        command("timers", reason=how.reason, unset=True)
        return Exit.OK
    code = edit(lambda tables: words_of.unset(tables, what, words), how)
    if what == "timers":
        _end_override(how)
    return code


@click.command()
@_what(*KINDS, *MEMBERS)
@_words
@changing
def rm(what: str, words: tuple[str, ...], how: How) -> int:
    """Remove something, on both nodes: `twinbeat rm vip 192.0.2.11`, `twinbeat rm vrid 51`.

    Where several are called so, keys say which: `twinbeat rm route 10.0.0.0/8 table=300`.
    """
    from twinbeat.config import edit as words_of

    verb = words_of.unbind if what in MEMBERS else words_of.remove
    return edit(lambda tables: verb(tables, what, words), how)


@click.command()
@_what(*MEMBERS)
@_words
@changing
def bind(what: str, words: tuple[str, ...], how: How) -> int:
    """Put something where it belongs, wherever it was: `twinbeat bind vip 192.0.2.10 vrid 51`.

    vip, neighbour and uplink belong to a vrid, interface to a linkset, path to a file list, server
    to a pool. Where it is already, nothing happens.
    """
    from twinbeat.config import edit as words_of

    return edit(lambda tables: words_of.bind(tables, what, words), how)


@click.command()
@_what(*MEMBERS)
@_words
@changing
def unbind(what: str, words: tuple[str, ...], how: How) -> int:
    """Take something from where it belongs: `twinbeat unbind interface lan1 linkset lan`."""
    from twinbeat.config import edit as words_of

    return edit(lambda tables: words_of.unbind(tables, what, words), how)


@click.command(name="server")
@click.argument("words", nargs=-1, required=True, metavar="ADDRESS [pool NAME]")
@changing
def enable_server(words: tuple[str, ...], how: How) -> int:
    """Use servers of a pool again: `twinbeat enable server 10.88.0.21 pool web`."""
    from twinbeat.config import edit as words_of

    return edit(lambda tables: words_of.switch(tables, words, on=True), how)


@click.command(name="server")
@click.argument("words", nargs=-1, required=True, metavar="ADDRESS [pool NAME]")
@changing
def disable_server(words: tuple[str, ...], how: How) -> int:
    """Use servers of a pool no longer: `twinbeat disable server 10.88.0.21 pool web`.

    Clients that are bound to them are bound to others at once; connections that stand go on.
    Without a pool, in every one that the servers are in.
    """
    from twinbeat.config import edit as words_of

    return edit(lambda tables: words_of.switch(tables, words, on=False), how)


# -------------------------------------------------------------------------------- as a whole -----


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--yes", "-y", is_flag=True, help="Don't ask before something is removed.")
@changing
def apply(file: str, yes: bool, how: How) -> int:
    """Make the shared tables of FILE the shared configuration, on both nodes.

    Whatever FILE doesn't say is removed; only what differs is touched. Tables that are each node's
    own stay as they are. --dry-run prints the difference, and whether it could be used here.
    """
    local, tables = shared_of(file)
    if local:
        talk(f"each node's own, and left alone: {', '.join(local)}")
    return become(tables, how, yes=yes)


def shared_of(file: str) -> tuple[list[str], Tables]:
    """Sections of a file that are the node's own, and the shared tables. Stops the command."""
    from twinbeat.config.load import parse
    from twinbeat.config.problems import ConfigError
    from twinbeat.config.shared import split

    try:
        local, tables = split(parse(file), file=file)
    except ConfigError as error:
        for problem in error.problems:
            talk(f"{problem}")
        raise Stop(Exit.USAGE, f"{file} can't be used") from error
    return list(local), tables


@click.command()
@click.argument("generation", type=click.IntRange(1))
@click.option("--yes", "-y", is_flag=True, help="Don't ask before something is removed.")
@changing
def rollback(generation: int, yes: bool, how: How) -> int:
    """Make the shared configuration what it was in GENERATION, as a new generation.

    `twinbeat show config --generations` lists them.
    """
    found = document(f"generation={generation}")
    named = replace(how, reason=how.reason or f"rollback to generation {generation}")
    return become(found.tables, named, yes=yes)


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("name", metavar="COMMAND", shell_complete=_completed_commands)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@running
def run(name: str, arguments: tuple[str, ...], how: How) -> int:
    """Run a command of the configuration on both nodes, on the secondary first.

    Only what `[[command]]` names can be run. Options of `twinbeat` stand before COMMAND; whatever
    follows it is given to the command. What it said is printed, for each node.
    """
    return ask(Run(command=name, arguments=arguments), how)


# ------------------------------------------------------------- timers without a document ---------


def _is_shared() -> bool:
    """Whether a shared configuration is in force; a worker that isn't there has none."""
    try:
        return view().in_force > 0
    except Stop as end:
        if end.code is not Exit.UNREACHABLE:
            raise
    if _status().configuration.document:
        talk("the worker is away: this stands over the shared configuration until it is unset")
    return False


def _status() -> Status:
    answer = get(settings().client, "/v1/status")
    if answer.status != 200:
        stop_for(answer)
    return msgspec.json.decode(answer.body, type=Status)


def _override(wanted: dict[str, Any], even_so: bool, how: How) -> int:
    others = sorted(wanted.keys() - set(OVERRIDES))
    if others:
        names = ", ".join(name.removesuffix("_us") for name in OVERRIDES)
        why = f"without a shared configuration only {names} can be set on a running pair"
        raise Stop(Exit.USAGE, f"timers: {others[0]}: {why}; each node's file has the others")
    _refuse_options(how)
    command("timers", reason=how.reason, even_so=even_so, **wanted)
    return Exit.OK


def _refuse_options(how: How) -> None:
    if how.dry_run or how.strict or how.local or how.request:
        options = "--strict, --local, --request and --dry-run"
        raise Stop(Exit.USAGE, f"there is no shared configuration, and {options} are for one")


def _end_override(how: How) -> None:
    """What was set over the files would hide what the shared configuration says."""
    if how.dry_run:
        return
    if _status().timers.override is not None:
        command("timers", reason=how.reason, unset=True)
