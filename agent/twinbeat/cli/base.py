# SPDX-License-Identifier: Apache-2.0
"""What all commands share: exit codes, options, talking to the agent, writing answers.

Data goes to standard output, talk to standard error. Exit codes tell a script what it has to know;
above all that of a command whose answer got lost (UNKNOWN) from that of one that failed.
"""

import enum
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

import click
import msgspec

from twinbeat.api.client import (
    Client,
    ClientError,
    ForbiddenError,
    Response,
    UnknownOutcomeError,
    UnreachableError,
)
from twinbeat.api.schema import POLICY_REFUSALS, SOCKET, Answer, OutcomeState, Problem, Refusal

CONFIG: Final = "/etc/twinbeat/twinbeat.toml"
STATE: Final = "/var/lib/twinbeat"
WORKER_SOCKET: Final = "sync.sock"
"""Where the worker listens, beside the agent's own socket."""


class Exit(enum.IntEnum):
    """Exit codes of every command but `check`, which has those of monitoring plugins."""

    OK = 0
    NO = 1
    """The answer is no, or the state of the moment refused it."""
    USAGE = 2
    """The command or the configuration is wrong."""
    UNREACHABLE = 3
    """No agent answers."""
    POLICY = 4
    """A rule refused it: peer unfit, paused, told to stay, hold-down."""
    UNKNOWN = 5
    """Sent, and no answer came: it may have been done."""
    PERMISSION = 6
    """This user may not."""


class Stop(Exception):  # noqa: N818 - not an error, but the end of a command
    """Ends a command with a code and a sentence on standard error."""

    def __init__(self, code: Exit, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(slots=True)
class Settings:
    """The options that every command has."""

    socket: str = SOCKET
    timeout_s: float | None = None
    """As it was given."""
    patience_s: float = 10.0
    """What it is if it wasn't: a command may have less."""
    json: bool = False
    color: bool | None = None
    """None = where a terminal is."""
    node: str = ""
    """Whose answer is wanted: this node's, or `peer`."""

    @property
    def within_s(self) -> float:
        """How long to wait for an answer."""
        return self.patience_s if self.timeout_s is None else self.timeout_s

    @property
    def client(self) -> Client:
        """A client for the agent."""
        return Client(self.socket, self.within_s)

    @property
    def worker(self) -> Client:
        """A client for the worker of this node."""
        return Client(os.path.join(os.path.dirname(self.socket), WORKER_SOCKET), self.within_s)


class Seconds(click.FloatRange):
    """A length of time; `nan` is in every range of floats, and no length."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """A number within the range."""
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number", param, ctx)
        return seconds


Command = TypeVar("Command", bound=Callable[..., Any])
Answered = TypeVar("Answered")


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(context.ensure_object(Settings), name, value)

    return callback


def shared(function: Command) -> Command:
    """Options that may stand before or behind the command's name."""
    options = (
        click.option(
            "--socket",
            metavar="PATH",
            default=None,
            expose_value=False,
            callback=_set("socket"),
            help=f"Where the agent listens; {SOCKET} if not given.",
        ),
        click.option(
            "--timeout",
            type=Seconds(0.001, 3600),
            metavar="SECONDS",
            default=None,
            expose_value=False,
            callback=_set("timeout_s"),
            help="How long to wait for an answer; 10 if not given, 4 for `check`.",
        ),
        click.option(
            "--no-color",
            is_flag=True,
            flag_value=False,
            default=None,
            expose_value=False,
            callback=_set("color"),
            help="No colours; NO_COLOR does the same.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def readable(function: Command) -> Command:
    """The shared options and --json."""
    option = click.option(
        "--json",
        is_flag=True,
        flag_value=True,
        default=None,
        expose_value=False,
        callback=_set("json"),
        help="Print JSON (schema 1).",
    )
    return shared(option(function))


def remote(function: Command) -> Command:
    """Those of `readable` and --node: what can be asked of the other node as well."""
    option = click.option(
        "--node",
        type=click.Choice(["peer"]),
        default=None,
        expose_value=False,
        callback=_set("node"),
        help="Ask the other node, through this one's worker.",
    )
    return readable(option(function))


def settings() -> Settings:
    """Those of the running command."""
    return click.get_current_context().ensure_object(Settings)


# --------------------------------------------------------------------------------- writing -------


def say(text: str) -> None:
    """A line of data."""
    click.echo(text, color=color())


def color() -> bool | None:
    """Whether colours are wanted; None = where a terminal is."""
    if os.environ.get("NO_COLOR"):
        return False
    context = click.get_current_context(silent=True)
    return context.ensure_object(Settings).color if context is not None else None


def say_json(value: Any) -> None:
    """Data as one line of JSON; bytes are JSON already."""
    encoded = value if isinstance(value, bytes) else msgspec.json.encode(value)
    click.echo(encoded.decode().rstrip("\n"))


def talk(text: str) -> None:
    """A line for the person, not for the pipe."""
    click.echo(text, err=True, color=color())


def paint(text: str, color: str | None = None, *, bold: bool = False) -> str:
    """Text with a colour, which `say` takes away where there is no terminal."""
    return click.style(text, fg=color, bold=bold) if color or bold else text


# ------------------------------------------------------------------------------ the agent --------


def fetch(target: str) -> Response:
    """Ask the agent for something. Stops the command where there is no answer."""
    if settings().node:
        return ask_worker(target)
    response = get(settings().client, target)
    if response.status not in {200, 503}:
        stop_for(response)
    return response


def get(client: Client, target: str, whom: str = "twinbeatd") -> Response:
    """Read something. Stops the command where there is no answer."""
    return reach(lambda: asked(lambda: client.get(target)), whom)


def asked(question: Callable[[], Answered]) -> Answered:
    """A question that isn't answered has no outcome: whoever hangs counts as nobody there."""
    try:
        return question()
    except UnknownOutcomeError as error:
        raise UnreachableError(str(error)) from error


def ask_worker(target: str) -> Response:
    """Ask the worker for something, that of the other node if `--node peer` says so."""
    if settings().node:
        path, _, query = target.partition("?")
        target = f"/v1/peer?what={path}" + (f"&{query}" if query else "")
    response = get(settings().worker, target, "twinbeat-worker")
    if response.status == 404:
        raise Stop(Exit.NO, _said(response))
    if response.status != 200:
        stop_for(response)
    return response


def read(target: str) -> bytes:
    """The body of an answer that has to be 200."""
    response = fetch(target)
    if response.status != 200:
        stop_for(response)
    return response.body


def reach(ask: Callable[[], Answered], whom: str = "twinbeatd") -> Answered:
    """Turn what can go wrong on the way into exit codes."""
    try:
        return ask()
    except UnreachableError as error:
        raise Stop(Exit.UNREACHABLE, f"{error}. Is {whom} running?") from error
    except ForbiddenError as error:
        raise Stop(Exit.PERMISSION, f"{error}") from error
    except UnknownOutcomeError as error:
        raise Stop(Exit.UNKNOWN, f"{error}; the outcome is not known") from error
    except ClientError as error:
        raise Stop(Exit.UNREACHABLE, f"{error}") from error


def stop_for(response: Response) -> NoReturn:
    """End the command for an answer that is none."""
    code = Exit.USAGE if 400 <= response.status < 500 else Exit.UNREACHABLE
    raise Stop(code, _said(response))


def _said(response: Response) -> str:
    try:
        return msgspec.json.decode(response.body, type=Problem).sentence
    except msgspec.DecodeError:
        return f"the agent answered {response.status}"


def command(name: str, **arguments: Any) -> None:
    """Tell the agent to do something, print what came of it, and end with the right code."""
    body = {"request_id": f"cli-{os.urandom(12).hex()}"}
    body |= {key: value for key, value in arguments.items() if value is not None}
    response = reach(lambda: settings().client.post(f"/v1/{name}", msgspec.json.encode(body)))
    try:
        answer = msgspec.json.decode(response.body, type=Answer)
    except msgspec.DecodeError:
        stop_for(response)
    if settings().json:
        say_json(response.body)
    result = answer.result
    if isinstance(result, Refusal):
        hint = f" ({result.override} does it all the same)" if result.override else ""
        code = Exit.POLICY if result.code in POLICY_REFUSALS else Exit.NO
        raise Stop(code, f"refused ({result.code}): {result.sentence}{hint}")
    if result.state is OutcomeState.FAILED:
        raise Stop(Exit.NO, f"failed ({result.code}): {result.sentence}")
    if not settings().json:
        under_way = "under way: " if result.state is OutcomeState.ACCEPTED else ""
        say(f"{under_way}{result.sentence}")


def confirm(question: str, yes: bool) -> None:
    """Ask, but only where somebody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Stop(Exit.USAGE, "there is nobody to ask here: add --yes")
    if not click.confirm(question, default=False, err=True):
        raise Stop(Exit.NO, "not done")
