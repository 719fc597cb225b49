# SPDX-License-Identifier: Apache-2.0
"""`twinbeat config` and `twinbeat keys`: files on this node.

No agent is needed. One that runs on the file that is shown is asked what was set over it.
"""

from pathlib import Path
from typing import Any, Final

import click
import msgspec

from twinbeat.api.client import Client
from twinbeat.cli.base import (
    CONFIG,
    STATE,
    Exit,
    Stop,
    paint,
    reach,
    readable,
    say,
    say_json,
    settings,
    stop_for,
    talk,
)
from twinbeat.sync.document import Document

_ROTATION_S: Final = 75.0
"""Longer than the worker takes to give up."""

_file = click.argument("file", default=CONFIG, type=click.Path(dir_okay=False))
_offline = click.option(
    "--offline", is_flag=True, help="Leave out what only the node itself can answer."
)


@click.group()
def config() -> None:
    """Check, generate and show the configuration."""


@config.command()
@_file
@_offline
@readable
def check(file: str, offline: bool) -> int:
    """Everything that is wrong with FILE: exit 0 when it can be used, else 2.

    Where this node has a shared document, its own file is examined together with that.
    """
    from twinbeat.config.inforce import load_in_force
    from twinbeat.config.problems import ConfigError

    valid, ignored = True, []
    try:
        found = load_in_force(file, _document(file), offline=offline)
        problems, ignored = list(found.problems), list(found.ignored)
    except ConfigError as error:
        problems, valid = error.problems, False
    if settings().json:
        told = {"schema": 1, "file": file, "valid": valid, "problems": problems}
        say_json({**told, "ignored": ignored})
        return Exit.OK if valid else Exit.USAGE
    for problem in problems:
        kind = paint("warning: ", "yellow") if problem.warning else paint("error: ", "red")
        say(f"{kind}{problem}")
    if ignored:
        note = paint("note: ", "cyan")
        say(f"{note}shared tables count as the shared configuration has them, not as {file}:")
        say(f"  {', '.join(ignored)} (`twinbeat config diff {file}`)")
    if valid:
        say(f"{file} can be used")
    return Exit.OK if valid else Exit.USAGE


def in_force(file: str) -> Any:
    """What FILE makes with the shared document, if there is one. Stops the command."""
    from twinbeat.config.inforce import load_in_force
    from twinbeat.config.problems import ConfigError

    try:
        return load_in_force(file, _document(file), offline=True).config
    except ConfigError as error:
        for problem in error.problems:
            talk(f"{problem}")
        raise Stop(Exit.USAGE, f"{file} can't be used") from error


def _document(file: str) -> Document | None:
    """The shared document that goes with this node's own file."""
    from twinbeat.config.inforce import COPY, CopyError, read_copy

    if Path(file) != Path(CONFIG):
        return None
    try:
        return read_copy(Path(STATE) / COPY)
    except CopyError as error:
        talk(f"{error}; what is said of {file} is without it")
        return None


@config.command()
def generate() -> None:
    """Print a commented file with every key and its default."""
    from twinbeat.config import document

    say(document.toml().rstrip("\n"))


@config.command()
def schema() -> None:
    """Print a JSON schema of the file, for editors and for programs that write it."""
    from twinbeat.config.schema import schema as made

    say(msgspec.json.format(msgspec.json.encode(made()), indent=2).decode())


@config.command(name="show")
@_file
@click.option("--effective", is_flag=True, help="Defaults and the profile's values filled in.")
@readable
def show_(file: str, effective: bool) -> None:
    """Print the configuration in FILE; --effective as it would be in force."""
    from twinbeat.config import document
    from twinbeat.config.compare import digest
    from twinbeat.config.load import examine
    from twinbeat.config.model import Config

    found, problems = examine(file, offline=True)
    if found is None:
        for problem in problems:
            talk(f"{problem}")
        raise Stop(Exit.USAGE, f"{file} can't be used")
    assert isinstance(found, Config)
    if settings().json:
        say_json(
            {
                "schema": 1,
                "file": file,
                "digest": digest(found),
                "timers": found.timers,
                "override": _override(file),
                "configuration": _sections(found),
            }
        )
        return
    if effective:
        say(document.toml(found).rstrip("\n"))
    else:
        say(Path(file).read_text(encoding="utf-8").rstrip("\n"))
    override = _override(file)
    if override is not None:
        values = ", ".join(f"{name} = {value}" for name, value in override.items())
        say(f"# Set over it on the running pair, until `twinbeat unset timers`: {values}")


@config.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.option("--peer", is_flag=True, help="Compare with what the other node has.")
@readable
def diff(file: str | None, peer: bool) -> int:
    """How the shared configuration differs from FILE, or from the other node's: then exit 1."""
    from twinbeat.cli.sync import contrast, document

    if peer and file is not None:
        raise Stop(Exit.USAGE, "compare with a file or with the peer")
    own = document()
    if peer:
        settings().node = "peer"
        other = document()
        where = f"the peer (generation {other.version.generation})"
        return contrast(own.tables, other.tables, base="this node", other=where)
    from twinbeat.cli.change import shared_of

    name = file or CONFIG
    _, tables = shared_of(name)
    return contrast(own.tables, tables, base="the shared configuration", other=name)


def _override(file: str) -> dict[str, int] | None:
    """The timers that an operator set over this file on the running pair; None = none."""
    from twinbeat.api.client import ClientError
    from twinbeat.api.schema import Status

    try:
        status = msgspec.json.decode(settings().client.get("/v1/status").body, type=Status)
    except (ClientError, msgspec.DecodeError):
        return None  # Nobody runs, or it isn't ours to ask: then the file is all there is.
    running = Path(status.configuration.path)
    if status.timers.override is None or running.resolve() != Path(file).resolve():
        return None
    names = ("hello_us", "dead_us", "verify_us", "stall_us", "lease_us")
    return {name: getattr(status.timers, name) for name in names}


def _sections(found: Any) -> dict[str, Any]:
    from twinbeat.config.model import SECTIONS

    return {name: getattr(found, attribute) for name, (attribute, _, _) in SECTIONS.items()}


@click.group()
def keys() -> None:
    """Make and change the keys that authenticate heartbeats."""


@keys.command(name="generate")
@click.option("--id", "id_", type=click.IntRange(1, 255), default=1, help="Its id; 1.")
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), default=None)
@click.option("--print", "print_", is_flag=True, help="Print a key instead of writing it.")
def generate_(id_: int, directory: Path | None, print_: bool) -> None:
    """Write a new key file, mode 0600; an old one is never overwritten.

    Copy it to the other node over a channel that nobody else reads, such as scp.
    """
    from twinbeat.config.keys import generate_key, new_key
    from twinbeat.config.nodes import KEYS_DIRECTORY

    if print_:
        say(new_key())
        return
    where = directory or Path(KEYS_DIRECTORY)
    try:
        file = generate_key(where, id_)
    except FileExistsError as error:
        raise Stop(
            Exit.NO, f"{where / f'{id_}.key'} is there already and stays; --id makes another"
        ) from error
    except PermissionError as error:
        raise Stop(Exit.PERMISSION, f"{where}: {error.strerror}; be root") from error
    except OSError as error:
        raise Stop(Exit.NO, f"{where}: {error.strerror}") from error
    say(f"{file}")
    talk("Copy it to the other node, mode 0600, over a channel that nobody else reads.")


@keys.command()
@readable
def rotate() -> None:
    """Give both nodes another key for heartbeats and another certificate, without a gap.

    On either node, while both agents and workers run. What broke off is gone on with by the next.
    """
    from twinbeat.api.sync import Rotated

    client = Client(settings().worker.path, max(settings().within_s, _ROTATION_S))
    response = reach(lambda: client.post("/v1/keys", b"{}"), "twinbeat-worker")
    if response.status not in {200, 409}:
        stop_for(response)
    said = msgspec.json.decode(response.body, type=Rotated)
    if settings().json:
        say_json(said)
    if said.code:
        raise Stop(Exit.NO, f"not rotated ({said.code}): {said.sentence}")
    if not settings().json:
        say(said.sentence)
