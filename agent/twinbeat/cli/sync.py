# SPDX-License-Identifier: Apache-2.0
"""What there is to see of the shared configuration, and `twinbeat force sync`.

The worker is asked, not the daemon. What it says of the other node is what that one told it last.
"""

import sys
import time
from collections.abc import Iterator
from typing import Final

import click
import msgspec

from twinbeat.api.schema import SCHEMA
from twinbeat.api.sync import DocumentView, ForceSync, Said, SyncView, Views
from twinbeat.api.text import length, moment
from twinbeat.cli.base import (
    Exit,
    Stop,
    ask_worker,
    confirm,
    paint,
    reach,
    readable,
    say,
    say_json,
    settings,
    stop_for,
    talk,
)
from twinbeat.sync.document import Document, Tables, Version, difference

UNWRITTEN: Final = (0, 0)
"""Version of what the file says where no document was made yet."""

_COLORS: Final = {"failed": "red", "lineage-conflict": "red", "partial-success": "yellow"}
_ENDED: Final = frozenset({"failed", "lineage-conflict", "disabled", "unreachable"})
_LOOK_S: Final = 0.1


# ------------------------------------------------------------------------------- reading ---------


def document(query: str = "") -> Document:
    """The document in force, or that of `generation=` or `backup=`."""
    body = ask_worker("/v1/document" + (f"?{query}" if query else "")).body
    return msgspec.json.decode(body, type=Document)


def is_written(version: Version) -> bool:
    """Whether there is a document; else the file says everything."""
    return (version.term, version.generation) != UNWRITTEN


def view() -> SyncView:
    """How synchronization stands."""
    return msgspec.json.decode(ask_worker("/v1/sync").body, type=SyncView)


# ------------------------------------------------------------------------------ show sync --------


def show_sync() -> None:
    """How the two documents stand, and every setting."""
    if settings().json:
        say_json(ask_worker("/v1/sync").body)
        return
    for line in _standing(view()):
        say(line)


def _standing(seen: SyncView) -> Iterator[str]:
    report = seen.report
    word = "IN STEP" if report.in_step else report.state.upper().replace("-", " ")
    color = "green" if report.in_step else _COLORS.get(report.state, "yellow")
    yield paint(word, color, bold=True) + f": {report.sentence}"
    for failed in report.failures:
        yield paint("  ! ", "yellow") + f"{failed.where}: {failed.right or failed.value}"
    yield ""
    yield f"node       {seen.node or 'not known yet'}, {_own(seen)}"
    if seen.peer is not None:
        peer = seen.peer
        applied = "in force" if peer.applied else "not in force"
        role = "primary" if peer.primary else "not primary"
        busy = "" if peer.settled else ", something is under way"
        told = f"{peer.name} ({peer.build}), {role}, {_named(peer.document)}, {applied}{busy}"
        yield f"peer       {told}"
    yield f"connection {_connection(seen)}"
    if seen.settings is not None:
        yield f"settings   {', '.join(_settings(seen))}"
    ended = ", ".join(f"{state} {count}" for state, count in sorted(report.requests.items()))
    waiting = f"{report.waiting} waiting" if report.waiting else "none waiting"
    yield f"requests   {', '.join(filter(None, (waiting, ended)))}"


def _own(seen: SyncView) -> str:
    if seen.document is None:
        return "no document yet: the file says everything"
    now = seen.in_force == seen.document.generation
    instead = f"generation {seen.in_force} in force" if seen.in_force else "not in force"
    paired = "" if seen.paired else ", never in step with a peer yet: it only receives"
    away = "" if seen.daemon else ", the agent is away"
    return f"{_named(seen.document)}, {'in force' if now else instead}{paired}{away}"


def _connection(seen: SyncView) -> str:
    report = seen.report
    said = report.connection or "none"
    if report.why:
        said += f": {report.why}"
    if report.connection == "connected":
        said += f", round trip {length(report.round_trip_ns)}"
    come, size = report.arriving
    if size:
        said += f", {come:,} of {size:,} bytes have come"
    for whose, ends_s in (("own", report.own_ends_s), ("peer's", report.peer_ends_s)):
        if ends_s:
            said += f", {whose} certificate until {time.strftime('%Y-%m-%d', time.gmtime(ends_s))}"
    return said


def _settings(seen: SyncView) -> Iterator[str]:
    now = seen.settings
    assert now is not None
    flags = (
        ("synchronization", now.enabled),
        ("propagation", now.propagation),
        ("strict status", now.strict_status),
    )
    yield from (f"{name} {'on' if value else 'off'}" for name, value in flags)
    yield f"peer {now.peer or 'by its first link'} port {now.port}"
    yield f"listens at {now.listen or 'any address'}"
    yield f"interface {now.interface or 'any'}"
    yield f"answers within {now.timeout_s} s"


def _named(one: DocumentView) -> str:
    made = f", made {moment(one.made_at_ns)}" if one.made_at_ns else ""
    by = f" by {one.by}" if one.by else ""
    reason = f" ({one.reason})" if one.reason else ""
    return f"generation {one.generation} of term {one.term}{made}{by}{reason}"


# ---------------------------------------------------------------------------- show config --------


def show_config(generation: int | None, backup: int | None, listed: str | None) -> None:
    """The shared configuration as a file has it, or which of them there are."""
    if listed:
        _list(listed)
        return
    query = ""
    if generation is not None:
        query = f"generation={generation}"
    elif backup is not None:
        query = f"backup={backup}"
    found = document(query)
    if settings().json:
        say_json({"schema": SCHEMA, "document": found})
        return
    from twinbeat.config.document import shared_toml

    if is_written(found.version):
        made = f", made {moment(found.made_at_ns)}" if found.made_at_ns else ""
        by = f" by {found.by}" if found.by else ""
        say(f"# {found.version}{made}{by}{f': {found.reason}' if found.reason else ''}")
    else:
        say("# As the node's file has it: no command has changed anything yet.")
    say("# `twinbeat apply FILE` makes what such a file says the shared configuration.\n")
    say(shared_toml(found.tables).rstrip("\n"))


def _list(listed: str) -> None:
    body = ask_worker(f"/v1/{listed}").body
    if settings().json:
        say_json(body)
        return
    views = msgspec.json.decode(body, type=Views).documents
    if not views:
        say(f"there are no {listed} on this node")
    for one in views:
        number = f"backup {one.backup}: " if one.backup else ""
        why = f", gave way: {one.why}" if one.why else ""
        mark = paint(" *", "green", bold=True) if one.current else ""
        say(f"{number}{_named(one)}{why}{mark}")


# ----------------------------------------------------------------------------- force sync --------


@click.command(name="sync")
@click.option("--adopt", is_flag=True, help="This node gives up what it has, whatever it is.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@readable
def force_sync(adopt: bool, yes: bool) -> None:
    """Compare both nodes' shared configuration again, and take over what rules.

    Waits until both have the same, as long as --timeout says. --adopt is for a node that comes
    from another pair: it takes the peer's over, and a copy of its own is kept.
    """
    if adopt:
        confirm("Give up this node's shared configuration and take the peer's over?", yes)
    body = msgspec.json.encode(ForceSync(adopt=adopt))
    answer = reach(lambda: settings().worker.post("/v1/sync", body), "twinbeat-worker")
    if answer.status not in {200, 409}:
        stop_for(answer)
    said = msgspec.json.decode(answer.body, type=Said)
    if said.code:
        code = Exit.POLICY if said.code == "sync_disabled" else Exit.NO
        raise Stop(code, f"refused ({said.code}): {said.sentence}")
    seen = _wait()
    if settings().json:
        say_json(seen)
    else:
        say(f"both nodes have generation {seen.report.generation}")


def _wait() -> SyncView:
    """Until both are in step. Stops the command where that isn't to be."""
    ends = time.monotonic() + settings().within_s
    shown = ""
    while True:
        time.sleep(_LOOK_S)
        seen = view()
        report = seen.report
        if report.in_step:
            return seen
        if report.state in _ENDED:
            raise Stop(Exit.NO, f"{report.state}: {report.sentence}")
        if time.monotonic() > ends:
            hint = "`twinbeat show sync` tells how it goes on"
            raise Stop(Exit.UNKNOWN, f"it goes on: {report.sentence}; {hint}")
        told = progress(*report.arriving)
        if told and told != shown and sys.stderr.isatty():
            shown = told
            talk(told)


def progress(come: int, size: int) -> str:
    """A bar of what has come of the peer's document; empty while nothing is coming."""
    return f"{bar(come, size)} {come:,} of {size:,} bytes" if size else ""


def bar(done: int, whole: int) -> str:
    """Forty characters; empty where there is nothing to be done."""
    if not whole:
        return ""
    full = min(done, whole) * 40 // whole
    return f"[{'#' * full}{'.' * (40 - full)}]"


def contrast(before: Tables, after: Tables, *, base: str, other: str) -> int:
    """Says how the tables of two documents differ. The exit code: 1 where they do."""
    from twinbeat.config.contrast import lines

    changes = difference(before, after)
    if settings().json:
        say_json({"schema": SCHEMA, "from": base, "to": other, "changes": changes})
    elif changes:
        say(f"from {base} to {other}:")
        for line in lines(before, changes):
            say(line)
    else:
        say(f"{base} and {other} are the same")
    return Exit.NO if changes else Exit.OK
