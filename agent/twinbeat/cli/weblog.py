# SPDX-License-Identifier: Apache-2.0
"""`twinbeat show weblog` and `twinbeat weblog`: log records, and who may fetch them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Final

import click
import msgspec

from twinbeat.api.text import moment
from twinbeat.cli.base import (
    Exit,
    Stop,
    ask_worker,
    paint,
    readable,
    say,
    say_json,
    settings,
)
from twinbeat.cli.request import How, changing, edit
from twinbeat.sync.document import Change, Expect, Put, Remove, Tables
from twinbeat.weblog.shown import FLUSH_US, ClientStatus, SourceStatus, WeblogView

SECTION: Final = "logclient"
_COLORS: Final = {"collecting": "green", "off": "yellow"}
_FINGERPRINT: Final = re.compile("[0-9a-f]{64}")


def show_weblog() -> None:
    """Sources, streams, replication and clients of a node."""
    if settings().json:
        say_json(ask_worker("/v1/weblog").body)
        return
    for line in lines(_view()):
        say(line)


def _view() -> WeblogView:
    return msgspec.json.decode(ask_worker("/v1/weblog").body, type=WeblogView)


def lines(seen: WeblogView) -> Iterator[str]:
    """All of it."""
    state = paint(seen.state.upper(), _COLORS.get(seen.state, "red"), bold=True)
    yield f"{state}: {seen.why}" if seen.why else state
    if seen.state == "off":
        return
    full = f"{seen.size / 2**20:,.1f} MiB on disk, {seen.size_max / 2**20:,.0f} MiB per journal"
    flushes = seen.counts.get("own flushes", 0)
    took = seen.counts.get(f"own {FLUSH_US}", 0) / 1e3 / max(flushes, 1)
    slow = f", {took:.1f} ms a flush" if flushes else ""
    yield f"journal     epoch {seen.epoch}, {full}{slow}"
    copies = seen.replication
    word = f"pulling from {seen.peer}" if copies.state == "pulling" else f"away: {copies.why}"
    told = f"{copies.waiting:,} records are on this node only"
    if copies.records:
        share = 100 * copies.in_time / copies.records
        told += f"; of {copies.records:,} {share:.2f} % were on both within 100 ms"
    yield f"replication {word}; {told}"
    yield "clients at  " + (f"port {seen.port}" if seen.port else f"none: {seen.listening}")
    yield f"certificate {seen.fingerprint or 'none: this node is not paired yet'}"
    for stream in seen.streams:
        yield (
            f"stream      {stream.node}/{stream.epoch}: from {stream.oldest:,}, "
            f"received {stream.received:,}, durable {stream.durable:,}, "
            f"replicated {stream.replicated:,}"
        )
    for source in seen.sources:
        yield f"source      {_source(source)}"
    for client in seen.clients:
        yield f"client      {_client(client)}"


def _source(source: SourceStatus) -> str:
    told = f"{source.name} ({source.kind}) {source.where}: {source.records:,} records"
    if source.behind:
        told += f", {source.behind:,} bytes behind"
    counted = [f"{name} {count:,}" for name, count in sorted(source.counts.items()) if count]
    if counted:
        told += f"; {', '.join(counted)}"
    return told + (paint(f" ! {source.why}", "yellow") if source.why else "")


def _client(client: ClientStatus) -> str:
    told = f"{client.name}: "
    if client.connected:
        told += f"connected from {client.address} since {moment(int(client.since_s * 1e9))}"
    else:
        told += "not connected" if client.known else "has not introduced itself here yet"
    return f"{told}, {client.lag:,} records not acknowledged"


# ------------------------------------------------------------------------ who is allowed ---------


@click.group()
def weblog() -> None:
    """Who may fetch log records: allow, deny and list log clients."""


@weblog.command()
@click.argument("name")
@click.argument("fingerprint")
@changing
def allow(name: str, fingerprint: str, how: How) -> int:
    """Let the log client NAME fetch the records of both nodes.

    FINGERPRINT is what `twinbeat-weblog add-node` printed on its machine: 64 hexadecimal digits,
    colons don't matter.
    """
    digits = fingerprint.replace(":", "").lower()
    if not _FINGERPRINT.fullmatch(digits):
        raise Stop(Exit.USAGE, f"{fingerprint!r} is no fingerprint: it has 64 hexadecimal digits")

    def changes(tables: Tables) -> Sequence[Change]:
        for other, row in tables.get(SECTION, {}).items():
            if row.get("fingerprint") == digits and other != name:
                raise Stop(Exit.NO, f"that fingerprint is allowed already, as {other}")
        row = {"name": name, "fingerprint": digits}
        return (Put(section=SECTION, identity=name, row=row, expect=Expect.ANY),)

    return edit(changes, how)


@weblog.command()
@click.argument("name")
@changing
def deny(name: str, how: How) -> int:
    """Let the log client NAME (or that of the fingerprint NAME) fetch nothing any more.

    It is cut off at once, and what only it had not fetched yet may be freed.
    """
    digits = name.replace(":", "").lower()

    def changes(tables: Tables) -> Sequence[Change]:
        rows = tables.get(SECTION, {})
        for identity, row in rows.items():
            if name == identity or digits == row.get("fingerprint"):
                return (Remove(section=SECTION, identity=identity),)
        known = ", ".join(sorted(rows)) or "there is none"
        raise Stop(Exit.NO, f"there is no log client {name}: {known}")

    return edit(changes, how)


@weblog.command(name="list")
@readable
def list_() -> None:
    """The log clients that are allowed, and who asked and is not."""
    if settings().json:
        say_json(ask_worker("/v1/weblog").body)
        return
    seen = _view()
    say(f"this node shows the certificate {seen.fingerprint or 'of no pair: it is not paired yet'}")
    for client in seen.clients:
        say(f"allowed  {client.fingerprint}  {_client(client)}")
    if not seen.clients:
        say("no log client is allowed (`twinbeat weblog allow NAME FINGERPRINT`)")
    for stranger in seen.strangers:
        ago = max(int(time.time() - stranger.asked_s), 0)
        asked = f"asked {ago} s ago from {stranger.address}, as {stranger.name}"
        say(paint(f"unknown  {stranger.fingerprint}  {asked}", "yellow"))
