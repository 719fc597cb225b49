# SPDX-License-Identifier: Apache-2.0
"""`twinbeat config` and `twinbeat keys`: files on this node.

No agent is needed. One that runs on the file that is shown is asked what was set over it.
"""

from pathlib import Path
from typing import Any

import click

from twinbeat.cli.base import CONFIG, Exit, Stop, paint, readable, say, say_json, settings, talk

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
    """Everything that is wrong with FILE: exit 0 when it can be used, else 2."""
    from twinbeat.config.load import examine

    found, problems = examine(file, offline=offline)
    if settings().json:
        say_json({"schema": 1, "file": file, "valid": found is not None, "problems": problems})
    else:
        for problem in problems:
            kind = paint("warning: ", "yellow") if problem.warning else paint("error: ", "red")
            say(f"{kind}{problem}")
        if found is not None:
            say(f"{file} can be used")
    return Exit.OK if found is not None else Exit.USAGE


@config.command()
def generate() -> None:
    """Print a commented file with every key and its default."""
    from twinbeat.config import document

    say(document.toml().rstrip("\n"))


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


def _override(file: str) -> dict[str, int] | None:
    """The timers that an operator set over this file on the running pair; None = none."""
    import msgspec

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
    """Make the keys that authenticate heartbeats."""


@keys.command(name="generate")
@click.option("--id", "id_", type=click.IntRange(1, 255), default=1, help="Its id; 1.")
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), default=None)
@click.option("--print", "print_", is_flag=True, help="Print a key instead of writing it.")
def generate_(id_: int, directory: Path | None, print_: bool) -> None:
    """Write a new key file, mode 0600; an old one is never overwritten.

    Copy it to the other node over a channel that nobody else reads, such as scp.
    """
    from twinbeat.config.keys import generate_key, new_key
    from twinbeat.config.model import KEYS_DIRECTORY

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
