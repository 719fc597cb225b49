# SPDX-License-Identifier: Apache-2.0
"""`twinbeat pair`: both nodes come to know each other, and both operators see that it is they."""

import asyncio
import os
import sys
import time
from pathlib import Path

import click

from twinbeat.api.schema import SCHEMA
from twinbeat.cli.base import CONFIG, Exit, Stop, readable, say, say_json, settings, talk
from twinbeat.cli.config import in_force
from twinbeat.config.keys import check_keys, new_key, store_key
from twinbeat.config.model import Config
from twinbeat.config.problems import Findings
from twinbeat.sync.identity import Folder
from twinbeat.sync.pairing import pair_dialing, pair_listening
from twinbeat.sync.parties import Ask, Comparison, HeartbeatKey, Paired, PairingError, Party


class KeyFiles:
    """The keys of the heartbeats, as this node keeps them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._made: set[int] = set()

    def held(self, id_: int) -> HeartbeatKey | None:
        """The key of that id, if there is one that can be used."""
        for key in check_keys(str(self.directory), id_, Findings("")):
            if key.id == id_:
                return HeartbeatKey(id=id_, digits=key.secret.hex())
        return None

    def store(self, key: HeartbeatKey) -> None:
        """Write it down, if it isn't there already. Raises FileExistsError where another is."""
        if self.held(key.id) == key:
            return
        store_key(self.directory, key.id, key.digits)
        self._made.add(key.id)

    def remove(self, key: HeartbeatKey) -> None:
        """Take back what `store` has written."""
        if key.id in self._made:
            (self.directory / f"{key.id}.key").unlink()


@click.command()
@click.argument("peer", required=False)
@click.option("--listen", is_flag=True, help="Wait for the other node, also as node 1.")
@click.option("--config", "file", default=CONFIG, type=click.Path(dir_okay=False))
@click.option("--yes", "-y", is_flag=True, help="Don't compare: where nobody else is on the wire.")
@readable
def pair(peer: str | None, listen: bool, file: str, yes: bool) -> None:
    """Make the two nodes of a pair known to each other; run it on both.

    Node 0 waits, node 1 dials it (at PEER, or where its file says). Both show a code; only if the
    codes are alike, each node believes the other's certificate from then on, and both have the
    heartbeats' key of the one that waited, or a new one.
    """
    if peer is not None and listen:
        raise Stop(Exit.USAGE, "dial PEER, or --listen")
    if not yes and not sys.stdin.isatty():
        why = "--yes, where nobody else can reach the wire"
        raise Stop(Exit.USAGE, f"there is nobody here to compare codes: add {why}")
    config = in_force(file)
    dials = peer is not None or (config.node.index == 1 and not listen)
    try:
        paired = asyncio.run(_paired(config, peer, _agreed if yes else _compared, dials=dials))
    except PairingError as error:
        raise Stop(Exit.NO, f"{error.sentence}{_hint(error.code)}") from error
    _tell(config, paired)


async def _paired(config: Config, peer: str | None, ask: Ask, *, dials: bool) -> Paired:
    sync, send = config.sync, config.keys.send
    keys = KeyFiles(Path(config.keys.directory))
    key = keys.held(send)
    if key is None and not dials:
        key = HeartbeatKey(id=send, digits=new_key())
    party = Party(name=config.node.name, node=config.node.index, pair=config.pair.id, key=key)
    folder = Folder(Path(sync.identity))
    if dials:
        where = peer or config.sync_peer
        talk(f"dialing {where}, port {sync.port}: run `twinbeat pair` there, too")
        return await pair_dialing(
            folder,
            party,
            ask,
            keys,
            peer=where,
            port=sync.port,
            own=sync.listen,
            interface=sync.interface,
        )
    return await pair_listening(
        folder,
        party,
        ask,
        keys,
        address=sync.listen,
        port=sync.port,
        interface=sync.interface,
        listening=lambda port: talk(f"waiting at port {port}: run `twinbeat pair` on the other"),
        turned_away=talk,
    )


async def _agreed(comparison: Comparison) -> bool:
    """For `--yes`."""
    talk(f"{_whose(comparison)}: {comparison.code}")
    return True


async def _compared(comparison: Comparison) -> bool:
    """What the operator says. A peer that gives up first is not kept waiting for."""
    talk(f"{_whose(comparison)}: {comparison.code}")
    click.echo("Does the other node show the same code? [y/N]: ", nl=False, err=True)
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()
    terminal = sys.stdin.fileno()

    def typed() -> None:
        if not answered.done():
            answered.set_result(os.read(terminal, 80))

    loop.add_reader(terminal, typed)
    try:
        return (await answered).strip().lower() in {b"y", b"yes"}
    finally:
        loop.remove_reader(terminal)


def _whose(comparison: Comparison) -> str:
    return f"the code with {comparison.peer_name} (node {comparison.peer_node})"


def _hint(code: str) -> str:
    match code:
        case "listen":
            return (
                " If that is the worker of a node that was paired before, stop it first "
                "(`systemctl stop twinbeat-worker`), or wait on the other node (--listen)."
            )
        case "key_exists":
            return " Run it anew and wait (--listen) on the node whose key is to stay."
        case _:
            return ""


def _tell(config: Config, paired: Paired) -> None:
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(paired.certificate.ends_s))
    print_, key = paired.certificate.fingerprint, paired.key
    if settings().json:
        told = {"peer": paired.name, "fingerprint": print_, "ends": ends}
        say_json({"schema": SCHEMA, **told, "key": key.id if key is not None else None})
        return
    say(f"paired with {paired.name}, whose certificate has {print_} and is good until {ends}")
    if key is not None:
        say(f"both nodes have key {key.id} for heartbeats, here in {config.keys.directory}")
