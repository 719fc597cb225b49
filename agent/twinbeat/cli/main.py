# SPDX-License-Identifier: Apache-2.0
"""The entry point and the tree of commands. Each command's module is loaded when it is called."""

import importlib
import os
import sys
from typing import Any, Final

import click

from twinbeat import __version__
from twinbeat.cli.base import Exit, Settings, Stop, readable, talk

COMPLETE_VARIABLE: Final = "_TWINBEAT_COMPLETE"

# Name -> (module below twinbeat.cli, attribute, first line of its help). The help stands here so
# that `twinbeat --help` loads no command.
COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "show": ("show", "show", "Who is primary, how the peer is, what is wrong."),
    "stat": ("stat", "stat", "Counters, or rates with --watch."),
    "top": ("top", "top", "Both nodes on a live screen."),
    "history": ("history", "history", "Changes of role and how long each step took."),
    "events": ("history", "events", "What just happened, or --follow it."),
    "force": ("act", "force", "By command: force failover, force yield, force sync."),
    "stay": ("act", "stay", "Keep to a role: stay primary|secondary|off."),
    "enable": ("act", "enable", "Let this node take part again."),
    "disable": ("act", "disable", "Take this node out of the pair."),
    "pause": ("act", "pause", "Nobody takes over, for maintenance."),
    "resume": ("act", "resume", "End a pause."),
    "add": ("change", "add", "Add an address, a route, a monitor, … on both nodes."),
    "set": ("change", "set_", "Give keys another value, on both nodes."),
    "unset": ("change", "unset", "Give keys their defaults again, on both nodes."),
    "rm": ("change", "rm", "Remove something, on both nodes."),
    "bind": ("change", "bind", "Put addresses into a VRID, interfaces into a link set, …"),
    "unbind": ("change", "unbind", "Take them out again."),
    "apply": ("change", "apply", "Make a file the shared configuration."),
    "rollback": ("change", "rollback", "Make an earlier generation the newest one."),
    "run": ("change", "run", "Run a command of the configuration on both nodes."),
    "config": ("config", "config", "Check, generate and show the configuration."),
    "import": ("importing", "import_", "What a keepalived.conf is in Twinbeat's configuration."),
    "weblog": ("weblog", "weblog", "Who may fetch log records: allow, deny, list."),
    "pair": ("pair", "pair", "Make the two nodes known to each other."),
    "keys": ("config", "keys", "Make keys, and change them on a running pair."),
    "doctor": ("doctor", "doctor", "What this host lacks, and how to fix it."),
    "debug": ("debug", "debug", "What somebody needs who is to help: debug dump."),
    "check": ("check", "check", "A monitoring plugin: codes 0 to 3, with figures."),
    "is-primary": ("check", "is_primary", "Exit 0 while this node serves, else 1."),
    "is-healthy": ("check", "is_healthy", "Exit 0 while this node could serve, else 1."),
    "completion": ("completion", "completion", "Print a completion script for a shell."),
}


class Tree(click.Group):
    """A group whose commands are loaded by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        loaded: click.Command = getattr(
            importlib.import_module(f"twinbeat.cli.{module}"), attribute
        )
        return loaded

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest a name for one that is unknown."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if not close or "Did you mean" in error.message:
                raise
            hint = f"{error.message} Did you mean '{close[0]}'?"
            raise click.UsageError(hint, ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=Tree, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="twinbeat")
@readable
def cli() -> None:
    """Twinbeat keeps a pair of gateways answering as one.

    Exit codes: 0 ok, 1 no or refused by the state of the moment, 2 usage, 3 no agent answers,
    4 refused by a rule, 5 no answer came (the outcome is not known), 6 not permitted.
    """


def main() -> None:
    """Run, and end with a code and a sentence whatever happens."""
    completing = os.environ.get(COMPLETE_VARIABLE)
    if completing:
        from click.shell_completion import shell_complete

        from twinbeat.cli import completion  # noqa: F401 - it registers its kinds

        sys.exit(shell_complete(cli, {}, "twinbeat", COMPLETE_VARIABLE, completing))
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str], tree: click.Group = cli, name: str = "twinbeat") -> int:
    """The exit code of a command line. Never raises, never shows a traceback."""
    try:
        # Not cli.main(): it has an opinion of its own about broken pipes.
        with tree.make_context(name, list(arguments), obj=Settings()) as context:
            result: Any = tree.invoke(context)
        sys.stdout.flush()
    except Stop as end:
        if str(end):
            talk(f"{name}: {end}")
        return end.code
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        talk(f"{name}: not done")
        return Exit.NO
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough; leave nothing for the interpreter to complain about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except PermissionError as error:
        talk(f"{name}: {error.filename or 'this'}: {error.strerror}")
        return Exit.PERMISSION
    except UnicodeEncodeError as error:
        talk(f"{name}: {_unspeakable(error)}")
        return Exit.USAGE
    except Exception as error:  # noqa: BLE001 - the supervisor: operators get a sentence
        talk(f"{name}: this is a defect of {name} itself: {type(error).__name__}: {error}")
        return 70
    return int(result) if isinstance(result, int) else Exit.OK


def _unspeakable(error: UnicodeEncodeError) -> str:
    """Bytes of an argument that aren't UTF-8 are surrogates to Python, which nothing sends."""
    letters = ascii(error.object[error.start : error.end])
    if error.encoding == "utf-8":
        return f"{letters} in what was given is not UTF-8"
    return f"{letters} is not in {error.encoding}, in which the output is to be written"


if __name__ == "__main__":
    main()
