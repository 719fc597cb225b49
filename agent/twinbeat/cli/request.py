# SPDX-License-Identifier: Apache-2.0
"""Asking the worker to change something on both nodes, and saying what came of it.

A request has an id: asked for again under it, it is answered again and not done again. One that was
made of rows which somebody else changed meanwhile is refused, and made anew.
"""

import dataclasses
import functools
import os
import pwd
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
import msgspec

from twinbeat.api.client import Client
from twinbeat.api.schema import SCHEMA, Status
from twinbeat.cli.base import (
    CONFIG,
    Exit,
    Stop,
    confirm,
    get,
    paint,
    reach,
    readable,
    say,
    say_json,
    settings,
    stop_for,
    talk,
)
from twinbeat.cli.sync import document, is_written
from twinbeat.sync.document import Change, Document, Expect, Put, Remove, Tables, difference
from twinbeat.sync.document import applied as after
from twinbeat.sync.operation import (
    Edit,
    Outcome,
    Policy,
    Replace,
    Request,
    State,
    Wish,
    print_of,
)

ATTEMPTS: Final = 4
"""Times that a change is made anew for the document that is in force by then."""
GRACE_S: Final = 3.0
"""The answer that is due at a request's end is waited for so much longer."""

_BY_RULE: Final = frozenset(
    {
        *("local", "not_primary", "peer_unreachable", "peer_refused"),
        *("out_of_sync", "propagation_disabled"),
    }
)
_WRONG: Final = frozenset({"invalid", "peer_invalid", "id_used"})


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """The options of every change."""

    strict: bool
    request: str
    local: bool
    reason: str
    asked: tuple[Any, ...] = ()
    """The command and its words: another one under the same id is refused."""
    dry_run: bool = False


def _options(*, dry_run: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    options = [
        click.option(
            "--strict/--available",
            default=False,
            help="On both nodes or on none; or, as is usual, on the primary alone while the other "
            "can't be reached, which gets it as soon as it is back.",
        ),
        click.option(
            "--request", default="", metavar="ID", help="Asked for again under this id: done once."
        ),
        click.option("--local", is_flag=True, help="Refuse it where this node isn't primary."),
        click.option("--reason", default="", metavar="TEXT", help="Why, for log and history."),
    ]
    if dry_run:
        options.append(click.option("--dry-run", is_flag=True, help="Only say what would change."))

    def packed(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*, strict: bool, request: str, local: bool, reason: str, **others: Any) -> Any:
            dry = {"dry_run": others.pop("dry_run")} if dry_run else {}
            asked = (function.__name__, *(others[name] for name in sorted(others)))
            how = How(
                strict=strict, request=request, local=local, reason=reason, asked=asked, **dry
            )
            return function(how=how, **others)

        made: Callable[..., Any] = called
        for option in reversed(options):
            made = option(made)
        return readable(made)

    return packed


changing: Final = _options(dry_run=True)
"""The options of a command that changes rows; its function gets them as `how`."""
running: Final = _options(dry_run=False)
"""Those of one that can't be tried out."""


# ------------------------------------------------------------------------------ asking -----------


def edit(changes: Callable[[Tables], Sequence[Change]], how: How) -> int:
    """Carry out what an operator means, for the document in force, however often it moves on."""
    from twinbeat.config.edit import EditError

    request = how.request or _new_id()
    for attempt in range(1, ATTEMPTS + 1):
        current = document()
        wanted: Sequence[Change] = ()
        if not current.contains(request):
            try:
                wanted = changes(current.tables)
            except EditError as error:
                raise Stop(Exit.USAGE, f"{error}") from error
        if how.dry_run:
            return _preview(current, wanted)
        # A row that was made of the one that is there counts for no other.
        free = all(isinstance(one, Remove) or one.expect is Expect.ABSENT for one in wanted)
        name = request if attempt == 1 else f"{request}.{attempt}"
        said = _answer(Edit(changes=tuple(wanted)), how, name, base=None if free else current)
        if said.code != "changed_meanwhile" or how.request:
            break
    return _tell(said)


def become(tables: Tables, how: How, *, yes: bool) -> int:
    """The shared tables are to be these."""
    from twinbeat.config.contrast import lines

    request = how.request or _new_id()
    current = document()
    how = dataclasses.replace(how, asked=("become", tables))
    if current.contains(request):
        return ask(Replace(tables=current.tables), how, request)
    changes = difference(current.tables, tables)
    if how.dry_run:
        return _preview(current, changes)
    if not settings().json:
        for line in lines(current.tables, changes):
            talk(line)
    gone = sum(isinstance(change, Remove) for change in changes)
    if gone:
        confirm(f"Remove {gone} {'row' if gone == 1 else 'rows'} on both nodes?", yes)
    return _tell(_answer(Replace(tables=tables), how, request, base=current))


def ask(wish: Wish, how: How, request: str = "") -> int:
    """Ask for it, whatever is in force."""
    return _tell(_answer(wish, how, request or how.request or _new_id()))


def _answer(wish: Wish, how: How, request: str, *, base: Document | None = None) -> Outcome:
    within_s = settings().within_s
    body = msgspec.json.encode(
        Request(
            request=request,
            wish=wish,
            policy=Policy.STRICT if how.strict else Policy.AVAILABLE,
            timeout_ns=int(within_s * 1e9),
            base=base.version if base is not None and is_written(base.version) else None,
            asked=print_of(how.asked),
            by=_who()[:40],
            reason=how.reason[:1024],
            local=how.local,
        )
    )
    client = Client(settings().worker.path, within_s + GRACE_S)
    try:
        answer = reach(lambda: client.post("/v1/change", body), "twinbeat-worker")
    except Stop as end:
        if end.code is Exit.UNKNOWN:
            raise Stop(end.code, f"{end}; ask again with --request {request}") from end
        raise
    if answer.status != 200:
        stop_for(answer)
    return msgspec.json.decode(answer.body, type=Outcome)


def _new_id() -> str:
    return f"cli-{os.urandom(12).hex()}"


def _who() -> str:
    """Who types, by name; the worker adds what the kernel says."""
    user = os.environ.get("SUDO_USER", "")
    try:
        return user or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return user


# ------------------------------------------------------------------------------- saying ----------


def _tell(said: Outcome) -> int:
    """What came of a request, and its exit code."""
    plain = not settings().json
    if not plain:
        version = {"term": said.version.term, "generation": said.version.generation}
        say_json({"schema": SCHEMA, **msgspec.to_builtins(said), "version": version})
    for output in said.outputs if plain else ():
        ended = f"exit {output.status}" if output.status >= 0 else f"signal {-output.status}"
        say(paint(f"{output.node}: {ended}", "red" if output.status else "green"))
        for line in output.text.splitlines():
            say(f"  {line}")
    for problem in said.problems:
        talk(f"  {problem.where}: {problem.right or problem.value}")
    if said.state in {State.DONE, State.ALONE}:
        made = said.version.generation and said.code != "unchanged"
        number = f"generation {said.version.generation}: " if made else ""
        if plain:
            say(number + paint(said.sentence, "yellow" if said.state is State.ALONE else None))
        return Exit.OK
    if said.state is State.UNDECIDED:
        raise Stop(Exit.UNKNOWN, f"{said.sentence} (--request {said.request})")
    raise Stop(_exit(said), f"{said.state.value} ({said.code}): {said.sentence}")


def _exit(said: Outcome) -> Exit:
    if said.state is not State.REFUSED:
        return Exit.NO
    if said.code in _BY_RULE:
        return Exit.POLICY
    if said.code in _WRONG:
        return Exit.USAGE
    return Exit.UNREACHABLE if said.code == "daemon_away" else Exit.NO


def _preview(current: Document, changes: Sequence[Change]) -> int:
    """What would change, and whether it could be used here."""
    from twinbeat.config.contrast import lines

    problems = [f"{problem}" for problem in _problems(after(current.tables, changes))]
    if not settings().json:
        if all(_is_there(current, change) for change in changes):
            say("nothing would change")
        for line in lines(current.tables, changes):
            say(line)
        for problem in problems:
            talk(problem)
    else:
        base = {"term": current.version.term, "generation": current.version.generation}
        say_json({"schema": SCHEMA, "base": base, "changes": changes, "problems": problems})
    if problems:
        raise Stop(Exit.USAGE, "it could not be used")
    return Exit.OK


def _is_there(current: Document, change: Change) -> bool:
    row = current.tables.get(change.section, {}).get(change.identity)
    return isinstance(change, Put) and row == change.row


def _problems(tables: Tables) -> Sequence[Any]:
    """What the tables would be refused for, together with this node's file."""
    from twinbeat.config.inforce import problems_of

    answer = get(settings().client, "/v1/status")
    path = CONFIG
    if answer.status == 200:
        path = msgspec.json.decode(answer.body, type=Status).configuration.path
    if not os.access(path, os.R_OK):
        talk(f"not examined: this user can't read {path}")
        return ()
    return problems_of(path, tables, "what would be shared")
