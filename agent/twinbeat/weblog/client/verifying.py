# SPDX-License-Identifier: Apache-2.0
"""What `verify` finds out beyond the file: nodes, their sources, the output directories."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from twinbeat.sync.identity import Identity
from twinbeat.weblog.client import pull, selection
from twinbeat.weblog.client.formats import Format
from twinbeat.weblog.client.layouts import layout
from twinbeat.weblog.client.model import Conf, FormatError, Node
from twinbeat.weblog.client.pull import Place, PullError
from twinbeat.weblog.client.trust import Trust
from twinbeat.weblog.client.writing import Source as Known
from twinbeat.weblog.client.writing import known_layout
from twinbeat.weblog.messages import Source, Welcome


class Found(Struct, frozen=True, kw_only=True):
    """What a node said."""

    address: str
    ok: bool
    sentence: str
    node: str = ""
    peer: str = ""
    sources: tuple[Source, ...] = ()


async def nodes(conf: Conf, own_file: Path, own: Identity, state: Path) -> list[Found]:
    """Greet all of them at once."""
    trust = Trust(state / "trusted")
    asked = (_node(each, own_file, own, trust) for each in conf.nodes)
    return list(await asyncio.gather(*asked))


async def _node(entry: Node, own_file: Path, own: Identity, trust: Trust) -> Found:
    try:
        welcome = await _greeted(entry, own_file, own, trust)
    except PullError as error:
        return Found(address=entry.name, ok=False, sentence=error.sentence)
    held = sum(each.durable - each.oldest for each in welcome.streams)
    return Found(
        address=entry.name,
        ok=True,
        sentence=f"node {welcome.node} of pair {entry.pair or welcome.pair}, "
        f"{len(welcome.sources)} sources, {held:,} records held",
        node=welcome.node,
        peer=welcome.peer,
        sources=welcome.sources,
    )


async def _greeted(entry: Node, own_file: Path, own: Identity, trust: Trust) -> Welcome:
    place, fingerprints = Place(entry.address, entry.port), trust.of(entry.fingerprint)
    for attempt in (1, 2):
        connection, _ = await pull.believed(place, pull.context(own_file), fingerprints)
        try:
            return await pull.greeted(connection, own.certificate.name)
        except PullError as error:
            if error.code != "not_known" or attempt == 2:
                raise
        finally:
            await connection.close()
        await pull.introduced(place, fingerprints, own.certificate.der)
    raise AssertionError


def unwritable(conf: Conf) -> list[str]:
    """Directories that this user may not write to, as sentences."""
    found = []
    for each in conf.filters:
        fixed = re.split(r"%[^%]", each.writing.name, maxsplit=1)[0]
        directory = Path(fixed).parent if not fixed.endswith("/") else Path(fixed)
        while not directory.exists():
            directory = directory.parent
        if not directory.is_dir():
            found.append(f"filter {each.name}: {directory} is not a directory")
        elif not os.access(directory, os.W_OK | os.X_OK):
            found.append(f"filter {each.name}: {directory} can't be written by this user")
    return sorted(set(found))


def doubts(conf: Conf, found: Iterable[Found]) -> list[str]:
    """What filters and formats look for and a source doesn't log, as sentences."""
    told = []
    for node in found:
        for each in node.sources:
            source = Known(each.name, each.kind, each.format)
            try:
                layout(each.kind, each.format)
            except FormatError as error:
                told.append(f"source {each.name} of node {node.node} is only lines here: {error}")
            told += _doubts(conf, node.node, source)
    return sorted(set(told))


def _doubts(conf: Conf, node: str, source: Known) -> list[str]:
    told = []
    form = known_layout(source)
    for each in selection.possible(conf.filters, node, source.name):
        lacking = selection.missing(each, form)
        if lacking:
            told.append(
                f"filter {each.name} looks at {', '.join(lacking)}, which source {source.name} "
                f"({source.kind}) does not log: it takes nothing from there"
            )
        lacking = Format(each.writing, form).missing if each.on else []
        if lacking:
            told.append(
                f"filter {each.name} writes `-` for {', '.join(lacking)}, which source "
                f"{source.name} ({source.kind}) does not log"
            )
    return told
