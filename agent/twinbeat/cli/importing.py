# SPDX-License-Identifier: Apache-2.0
"""`twinbeat import`: another program's configuration in Twinbeat's words. No agent is needed."""

import ipaddress
from pathlib import Path
from typing import Any, Final

import click

from twinbeat.api.schema import SCHEMA
from twinbeat.cli.base import Exit, Stop, paint, readable, say, say_json, settings, talk

_VERDICTS: Final = {
    "left": ("to do by hand", "red"),
    "changed": ("other here", "yellow"),
    "needless": ("not needed", "cyan"),
}


@click.command(name="import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--link",
    "links",
    multiple=True,
    metavar="INTERFACE,OWN,PEER",
    help="A link: its interface and the two nodes' addresses. Once for each, the best one first.",
)
@click.option("--index", type=click.IntRange(0, 1), help="0 on one node, 1 on the other.")
@click.option("--peer", default="", metavar="NAME", help="Name of the other node.")
@click.option("--shared", is_flag=True, help="Print only what both nodes share, for `apply`.")
@readable
def import_(file: Path, links: tuple[str, ...], index: int | None, peer: str, shared: bool) -> int:
    """Print the twinbeat.toml that a keepalived.conf makes, and say of each line what it can't.

    Run it on both nodes, each with its own file. What it prints can be used: `twinbeat config
    check` takes it, but for keys and addresses that only the node has. Exit 1 where lines are left
    that somebody has to look at.
    """
    from twinbeat.config import document
    from twinbeat.config.keepalived.grammar import read
    from twinbeat.config.keepalived.translate import Site, translate
    from twinbeat.config.load import examine_tables
    from twinbeat.config.problems import ConfigError
    from twinbeat.config.scopes import SHARED
    from twinbeat.config.shared import split

    site = Site(index=index, peer=peer, links=tuple(map(_link, links)))
    try:
        made = translate(read(file), site)
    except ConfigError as error:
        for problem in error.problems:
            talk(f"{problem}")
        raise Stop(Exit.USAGE, f"{file} can't be understood") from error
    if not made.tables.get("vrid"):
        for note in made.notes:
            _talk_of(note)
        raise Stop(Exit.USAGE, f"{file} has no vrrp_instance that can be used: nothing to import")
    if not made.tables["link"]:
        interface = made.tables["vrid"][0]["interface"]
        raise Stop(
            Exit.USAGE,
            f"{file} speaks by multicast, so it names no address of the other node. Say by which "
            f"links the nodes reach each other: --link {interface},OWN-ADDRESS,PEER-ADDRESS",
        )
    _, problems = examine_tables(made.tables, file, offline=True)
    errors = [problem for problem in problems if not problem.warning]
    if errors:
        for note in made.notes:
            _talk_of(note)
        for problem in errors:
            talk(f"{problem}")
        raise Stop(Exit.USAGE, f"{file} makes a configuration that can't be used")
    tables = made.tables
    if shared:
        tables = {name: rows for name, rows in tables.items() if name in SHARED}
    text = document.tables_toml(tables).rstrip("\n")
    if settings().json:
        local, rows = split(made.tables, file=str(file))
        say_json(_told(file, text, {"local": local, "shared": rows}, made))
    else:
        say(_head(file) + text)
        for note in made.notes:
            _talk_of(note)
    return Exit.NO if made.left else Exit.OK


def _link(given: str) -> tuple[str, str, str]:
    """INTERFACE,OWN,PEER. Stops the command where it is something else."""
    words = given.split(",")
    try:
        if len(words) != 3 or not 0 < len(words[0]) <= 15:
            raise ValueError
        own, peer = (str(ipaddress.ip_address(word)) for word in words[1:])
    except ValueError as error:
        right = "an interface and two addresses, such as eth0,192.0.2.1,192.0.2.2"
        raise Stop(Exit.USAGE, f"--link {given}: should be {right}") from error
    return words[0], own, peer


def _head(file: Path) -> str:
    return f"# Made from {file} by `twinbeat import`.\n\n"


def _told(file: Path, text: str, tables: dict[str, Any], made: Any) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "file": str(file),
        "complete": not made.left,
        "toml": text,
        **tables,
        "notes": made.notes,
    }


def _talk_of(note: Any) -> None:
    verdict, color = _VERDICTS[note.verdict]
    talk(f"{note.file}:{note.line}: {note.what}: {paint(verdict, color)}: {note.sentence}")
