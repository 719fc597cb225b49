# SPDX-License-Identifier: Apache-2.0
"""The gateway's own commands: what the configuration allows to be run on both nodes, and no more.

A template is an argv in which `{1}` to `{9}` stand for what whoever runs it adds, and `{file}` for
the first of that, which must then be a path of a list of files, so that both nodes have it alike.
There is no shell, and no way to add an argument that the template has no place for. What is put at
the beginning of an argument may not start with `-`: an option belongs into the template, where who
allows it can see it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from twinbeat.programs import Finished, Program
from twinbeat.sync.document import Argument, Name, Run
from twinbeat.sync.lists import FileList, wrong_argv
from twinbeat.sync.operation import OUTPUT_MOST, Output

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FILE: Final = "file"
_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_KNOWN: Final = re.compile(r"[1-9]|file")
NOT_STARTED: Final = 127
"""Status of a command that could not be started; the same as a shell's."""
HANGS: Final = -9
"""Status of one that was killed and is still there."""

Argv = Annotated[tuple[Argument, ...], Meta(max_length=64)]


class CommandRefused(Exception):  # noqa: N818 - a refusal is no error of ours
    """It isn't run. Nothing was done."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class Template(Struct, frozen=True, kw_only=True):
    """A command that may be run on both nodes: a row of the section ``command``."""

    name: Name
    argv: Annotated[Argv, Meta(min_length=1)]
    timeout_s: Annotated[int, Meta(ge=1, le=3600)] = 30
    """Of each run; then it is killed, with all processes of its group."""
    undo: Argv = ()
    """Takes it back on the node where it was run, if it must not stay."""

    def places(self) -> frozenset[str]:
        """What is to be filled in, in either of the two."""
        return frozenset(
            place for argv in (self.argv, self.undo) for part in argv for place in _places(part)
        )

    @property
    def takes(self) -> int:
        """Arguments that it needs."""
        numbers = [1 if place == FILE else int(place) for place in self.places()]
        return max(numbers, default=0)

    def file(self, run: Run) -> str:
        """The file that it is to be run with, or nothing. Both nodes must have it alike."""
        return run.arguments[0] if FILE in self.places() and run.arguments else ""


def problems(templates: Iterable[Template]) -> Iterator[tuple[int, str, object, str]]:
    """What is wrong: which command, its key, the value, and what it should be."""
    named: set[str] = set()
    for at, each in enumerate(templates):
        if each.name in named:
            yield at, "name", each.name, "a name that no other command has"
        named.add(each.name)
        if not each.argv:
            yield at, "argv", None, "at least a program: there is nothing to run"
        for key, argv in (("argv", each.argv), ("undo", each.undo)):
            if argv and (right := wrong_argv(argv)):
                yield at, key, list(argv), right
            elif argv and _PLACE.search(argv[0]):
                yield at, key, argv[0], "a program that is named here, not by who runs it"
            for place in (place for part in argv for place in _places(part)):
                if not _is(place):
                    right = "{file}, or the number of an argument from {1} to {9}"
                    yield at, key, f"{{{place}}}", right
        numbers = {1 if place == FILE else int(place) for place in each.places() if _is(place)}
        if numbers != set(range(1, len(numbers) + 1)):
            given = " ".join(f"{{{place}}}" for place in sorted(each.places()))
            yield at, "argv", given, "numbered from {1} without a gap"


def argv(
    templates: Iterable[Template], lists: Iterable[FileList], run: Run
) -> tuple[Template, tuple[str, ...]]:
    """What is run for a request. Raises CommandRefused."""
    template = next((each for each in templates if each.name == run.command), None)
    if template is None:
        sentence = f"There is no [[command]] called {run.command!r}."
        raise CommandRefused("unknown_command", sentence)
    if run.undo and not template.undo:
        raise CommandRefused("no_undo", f"{template.name} has no undo.")
    if len(run.arguments) != template.takes:
        count = f"{template.takes} argument{'' if template.takes == 1 else 's'}"
        sentence = f"{template.name} takes {count}, and {len(run.arguments)} are given."
        raise CommandRefused("arguments", sentence)
    for argument in run.arguments:
        if "\0" in argument:
            raise CommandRefused("arguments", "An argument has a zero byte in it.")
    path = template.file(run)
    if path and not any(files.covers(path) for files in lists):
        sentence = f"{path!r} isn't in any [[file]] list, so the other node needn't have it."
        raise CommandRefused("not_listed", sentence)
    parts = template.undo if run.undo else template.argv
    return template, tuple(_filled(template, part, run.arguments) for part in parts)


async def carry_out(
    template: Template, command: Sequence[str], *, node: str, environment: dict[str, str]
) -> tuple[Output, Finished]:
    """Run it, and wait for its end or the end of its time."""
    program = Program(
        command,
        {"PATH": PATH, "LC_ALL": "C.UTF-8", "TWINBEAT_COMMAND": template.name, **environment},
        kept=OUTPUT_MOST,
        patient=True,
    )
    finished = await program.run(timeout_s=template.timeout_s)
    return output(node, finished), finished


def output(node: str, finished: Finished) -> Output:
    """What both nodes keep of a run."""
    text, status = finished.output, finished.code
    if finished.refused or finished.timed_out or status is None:
        text = f"{text.rstrip()}\n" if text else ""
        text = f"{text[: OUTPUT_MOST - 512]}[it {finished.sentence()}]"[:OUTPUT_MOST]
    if finished.refused:
        status = NOT_STARTED
    elif finished.timed_out and status == 0:
        # It obeyed SIGTERM politely; done it is not.
        status = -15
    return Output(node=node, status=HANGS if status is None else status, text=text[:OUTPUT_MOST])


def _filled(template: Template, part: str, arguments: Sequence[str]) -> str:
    def fill(match: re.Match[str]) -> str:
        place = match.group(1)
        argument = arguments[0 if place == FILE else int(place) - 1]
        if match.start() == 0 and argument.startswith("-"):
            sentence = f"{argument!r} would be an option; {template.name} has no place for one."
            raise CommandRefused("option", sentence)
        return argument

    return _PLACE.sub(fill, part)


def _places(part: str) -> list[str]:
    return _PLACE.findall(part)


def _is(place: str) -> bool:
    return _KNOWN.fullmatch(place) is not None
