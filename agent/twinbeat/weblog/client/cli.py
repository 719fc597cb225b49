# SPDX-License-Identifier: Apache-2.0
"""The commands of `twinbeat-weblog`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from twinbeat import __version__
from twinbeat.api.client import Client as Asking
from twinbeat.api.text import SECOND, age
from twinbeat.cli.base import Exit, Settings, Stop, confirm, reach, say, say_json, talk
from twinbeat.cli.main import run
from twinbeat.sync.identity import Folder, Identity, IdentityError
from twinbeat.weblog.client import conf as conf_file
from twinbeat.weblog.client import edit, values
from twinbeat.weblog.client.model import PORT, Conf, ConfError, Node
from twinbeat.weblog.client.told import ClientStatus, NodeStatus

NAME: Final = "twinbeat-weblog"
FILE: Final = "/etc/twinbeat-weblog/log.conf"
STATE: Final = "/var/lib/twinbeat-weblog"
CONTROL: Final = "/run/twinbeat-weblog-client/control.sock"
IDENTITY: Final = "identity"
"""Below the state directory: key and certificate."""

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Options(Settings):
    """Those of every command."""

    file: Path = Path(FILE)
    state: Path = Path(STATE)
    control: str = CONTROL

    @property
    def folder(self) -> Folder:
        return Folder(self.state / IDENTITY)


pass_options = click.make_pass_decorator(Options)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=NAME)
@click.option(
    "-f",
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=FILE,
    show_default=True,
    help="The configuration.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=STATE,
    show_default=True,
    metavar="DIRECTORY",
    help="Where key, certificate and cursors are kept.",
)
@click.option(
    "--control",
    metavar="PATH",
    default=CONTROL,
    show_default=True,
    help="Socket on which the running client says how it stands; empty = none.",
)
@click.pass_context
def cli(context: click.Context, file: Path, state: Path, control: str) -> None:
    """Pulls the web logs of pairs of gateways and writes each record exactly once.

    Both nodes of a pair are added; which of them serves makes no difference.

    Exit codes: 0 ok, 1 no, or a node can't be pulled from, 2 usage or configuration, 3 no client
    runs, 4 the node is not who was meant, 6 not permitted.
    """
    context.obj = Options(file=file, state=state, control=control)


def json_option(function: Any) -> Any:
    """--json"""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON (schema 1).")(function)


# -- nodes -----------------------------------------------------------------------------------------


@cli.command("add-node")
@click.argument("address")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True)
@click.option("--fingerprint", metavar="HEX", help="What its certificate has to have.")
@click.option("--pair", default="", metavar="NAME", help="Where two pairs have the same number.")
@json_option
@pass_options
def add_node(
    options: Options, address: str, port: int, fingerprint: str | None, pair: str, as_json: bool
) -> None:
    """Add a node to log.conf, after its fingerprint was compared.

    The first time it also makes this client's key. It ends with the command that admits this client
    on the pair.
    """
    try:
        address = values.address(address)
    except values.Unusable as error:
        raise Stop(Exit.USAGE, str(error)) from None
    text = _text(options.file)
    own = _identity(options, make=True)
    certificate = _answered(_shown(address, port))
    found = certificate.fingerprint
    wanted = (fingerprint or "").replace(":", "").lower()
    if wanted and wanted != found:
        raise Stop(
            Exit.POLICY,
            f"{address} port {port} shows a certificate with SHA-256 {found}, not {wanted}: "
            "nothing was added",
        )
    if not wanted:
        talk(f"{address} port {port} shows the certificate of node {certificate.name}, SHA-256")
        talk(f"    {_grouped(found)}")
        if not sys.stdin.isatty():
            raise Stop(Exit.USAGE, f"there is nobody to compare it: add --fingerprint {found}")
        confirm("Is that the fingerprint that the node shows of itself?", yes=False)
    node = Node(address=address, port=port, fingerprint=found, pair=pair)
    _replace(options.file, edit.with_node(text, node))
    mine = own.certificate
    command = f"twinbeat weblog allow {mine.name} {mine.fingerprint}"
    if as_json:
        say_json(
            {
                "schema": 1,
                "node": {"address": address, "port": port, "fingerprint": found},
                "client": {"name": mine.name, "fingerprint": mine.fingerprint},
                "allow": command,
            }
        )
        return
    say(f"{certificate.name} ({node.name}) stands in {options.file}.")
    say(f"This client is {mine.name}, SHA-256 {mine.fingerprint}.")
    say("If the pair doesn't know it yet, admit it on one of its nodes:")
    say(f"    {command}")


@cli.command("remove-node")
@click.argument("address")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True)
@pass_options
def remove_node(options: Options, address: str, port: int) -> None:
    """Take a node out of log.conf. What was written of it stays."""
    text, found = edit.without_node(_text(options.file), address, port)
    if not found:
        raise Stop(Exit.NO, f"{options.file} has no NODE {address} with port {port}")
    _replace(options.file, text)
    say(f"{address} port {port} is not in {options.file} any more.")
    say(f"Where no client is to be admitted any more: twinbeat weblog deny {_own_name(options)}")


def _own_name(options: Options) -> str:
    with contextlib.suppress(IdentityError):
        if own := options.folder.own():
            return own.certificate.name
    return "NAME"


async def _shown(address: str, port: int) -> Any:
    from twinbeat.weblog.client import pull

    connection = await pull.opened(pull.Place(address, port), pull.context(None))
    try:
        return connection.shown()
    finally:
        await connection.close()


def _answered(asking: Coroutine[Any, Any, Answer]) -> Answer:
    from twinbeat.weblog.client.pull import PullError

    try:
        return asyncio.run(asking)
    except PullError as error:
        raise Stop(Exit.UNREACHABLE, error.sentence.rstrip(".")) from None


def _identity(options: Options, *, make: bool) -> Identity:
    try:
        own = options.folder.own()
        if own is None and make:
            name = socket.gethostname().partition(".")[0][:63] or "client"
            own = options.folder.make_own(name, time.time())
            talk(f"made a key for this client in {options.folder.path}")
    except IdentityError as error:
        # Its hint is for nodes.
        raise Stop(Exit.USAGE, error.sentence.partition(" Pair the nodes")[0]) from None
    if own is None:
        raise Stop(Exit.USAGE, f"{options.folder.own_file} is missing: `{NAME} add-node` makes it")
    return own


def _text(file: Path) -> str:
    """The content of log.conf, if it can be used; of a new one where there is none."""
    if not file.exists():
        return edit.HEAD
    _conf(file)
    return file.read_text()


def _replace(file: Path, text: str) -> None:
    """All of it or nothing."""
    conf_file.parse(text, str(file))
    fresh = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with fresh.open("w") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.rename(file)
    except PermissionError:
        raise
    except OSError as error:
        raise Stop(Exit.NO, f"{file} can't be written: {error.strerror}") from None


def _conf(file: Path) -> Conf:
    try:
        return conf_file.read(file)
    except ConfError as error:
        for problem in error.problems:
            talk(str(problem))
        raise Stop(Exit.USAGE, f"{file} can't be used") from None


def _grouped(fingerprint: str) -> str:
    return " ".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))


# -- verify ----------------------------------------------------------------------------------------


@cli.command()
@click.option("--offline", is_flag=True, help="Only the file; ask no node.")
@json_option
@pass_options
def verify(options: Options, offline: bool, as_json: bool) -> None:
    """Check log.conf, each filter, the connection to each node, and the output directories."""
    try:
        conf = conf_file.read(options.file)
        problems = list(conf.problems)
    except ConfError as error:
        conf, problems = None, error.problems
    if conf is None:
        if as_json:
            say_json({"schema": 1, "valid": False, "problems": [_told(each) for each in problems]})
            raise Stop(Exit.USAGE, "")
        for problem in problems:
            talk(str(problem))
        raise Stop(Exit.USAGE, f"{options.file} can't be used")
    from twinbeat.weblog.client import verifying

    unwritable = verifying.unwritable(conf)
    found = []
    if not offline and conf.nodes:
        own = _identity(options, make=False)
        found = asyncio.run(verifying.nodes(conf, options.folder.own_file, own, options.state))
    doubts = verifying.doubts(conf, found)
    fine = not unwritable and all(each.ok for each in found)
    if as_json:
        say_json(
            {
                "schema": 1,
                "valid": True,
                "problems": [_told(each) for each in problems],
                "nodes": found,
                "unwritable": unwritable,
                "doubts": doubts,
            }
        )
    else:
        for sentence in (*map(str, problems), *unwritable, *doubts):
            talk(sentence)
        say(f"{options.file}: {len(conf.filters)} filters, {len(conf.nodes)} nodes")
        for each in found:
            say(f"{each.address}: {each.sentence}")
    if not fine:
        raise Stop(Exit.NO, "")


def _told(problem: Any) -> dict[str, Any]:
    return {"line": problem.line, "sentence": problem.sentence, "warning": problem.warning}


# -- start and show --------------------------------------------------------------------------------


@cli.command()
@click.option("--foreground", is_flag=True, help="Log to the terminal instead of the journal.")
@pass_options
def start(options: Options, foreground: bool) -> int:
    """Pull and write until it is told to stop (SIGTERM). SIGHUP reads log.conf again."""
    from twinbeat.observe.log import set_up

    conf = _conf(options.file)
    _identity(options, make=False)
    if not conf.nodes:
        raise Stop(Exit.USAGE, f"{options.file} has no node: `{NAME} add-node ADDRESS` adds one")
    sink = set_up("plain" if foreground else "auto", name=NAME)
    try:
        return asyncio.run(_run(options, conf))
    finally:
        sink.close()


async def _run(options: Options, conf: Conf) -> int:
    from twinbeat.weblog.client.run import Client

    stopped, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    try:
        client = Client(conf, options.folder, options.state)
        await client.run(stopped, reload, options.control or None)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Stop(Exit.NO, f"{where}{error.strerror or error}") from None
    return Exit.OK


@cli.command()
@json_option
@pass_options
def show(options: Options, as_json: bool) -> None:
    """How the running client stands: each node with its lag, and what was written."""
    asking = Asking(options.control, options.within_s)
    response = reach(lambda: asking.get("/v1/status"), f"{NAME} start")
    if as_json:
        say_json(response.body)
        return
    status = msgspec.json.decode(response.body, type=ClientStatus)
    say(f"{status.sentence}, running since {age(int(status.running_s * SECOND))}")
    for node in status.nodes:
        say(_line(node))
    for name, count in status.written.items():
        say(f"filter {name}: {count:,} records written")
    for reason, count in status.lost.items():
        say(f"lost ({reason}): {count:,} records")
    if status.unread:
        say(f"{status.unread:,} records were not as their source's format says")


def _line(node: NodeStatus) -> str:
    since = age(int(node.since_s * SECOND))
    name = f"{node.node or '?'} ({node.address})"
    if not node.connected:
        return f"{name}: not connected since {since}: {node.sentence or 'trying'}"
    behind = f"{node.lag:,} records, {node.lag_s:.1f} s behind" if node.lag else "nothing behind"
    return f"{name}: connected since {since}, {node.records:,} records, {behind}"


def main() -> None:
    """The entry point."""
    sys.exit(run(sys.argv[1:], cli, NAME))


if __name__ == "__main__":
    main()
