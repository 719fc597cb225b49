# SPDX-License-Identifier: Apache-2.0
"""`twinbeat show files`: how each list of files stands, and what is in the way of it."""

from collections.abc import Iterator
from typing import Final

import msgspec

from twinbeat.api.sync import FilesView
from twinbeat.api.text import moment
from twinbeat.cli.base import ask_worker, paint, say, say_json, settings
from twinbeat.cli.flips import times
from twinbeat.cli.sync import bar
from twinbeat.sync.shown import FileFailure, ListStatus, printable

_COLORS: Final = {"same": "green", "partly": "yellow", "unreadable": "red"}


def show_files() -> None:
    """Every list, on this node or the other."""
    body = ask_worker("/v1/files").body
    if settings().json:
        say_json(body)
        return
    seen = msgspec.json.decode(body, type=FilesView)
    if not seen.lists:
        say("no list of files is kept alike (`twinbeat add file NAME paths=…` makes one)")
    for listed in seen.lists:
        for line in lines(listed):
            say(line)


def lines(listed: ListStatus) -> Iterator[str]:
    """One list."""
    state = paint(listed.state.upper(), _COLORS.get(listed.state, "cyan"), bold=True)
    yield f"{listed.name}: {state}: {printable(listed.sentence)}"
    facts = [f"  entries {listed.entries:,}, bytes {listed.bytes:,}"]
    if listed.changed_ns:
        facts.append(f"last changed here {moment(listed.changed_ns)}")
    if listed.conflicts:
        facts.append(paint(times(listed.conflicts, "conflict"), "yellow"))
    yield ", ".join(facts)
    if listed.state == "working" and listed.items:
        yield f"  {_progress(listed)}"
    for failed in listed.failures:
        yield paint("  ! ", "yellow") + _failure(failed)
    if listed.failed > len(listed.failures):
        yield f"  and {listed.failed - len(listed.failures)} more"
    if listed.command:
        yield f"  its command {listed.command}"


def _progress(listed: ListStatus) -> str:
    """By bytes where there are any: that is what takes its time."""
    drawn = bar(listed.bytes_done, listed.bytes_wanted) or bar(listed.items_done, listed.items)
    told = f"{listed.items_done:,} of {listed.items:,} items"
    if listed.bytes_wanted:
        told += f", {listed.bytes_done:,} of {listed.bytes_wanted:,} bytes"
    return f"{drawn} {told}"


def _failure(failed: FileFailure) -> str:
    """Sentences may name the path already."""
    path, sentence = printable(failed.path), printable(failed.sentence).rstrip(".")
    named = f"{path}: " if path and path not in sentence else ""
    return f"{named}{sentence} ({printable(failed.code)})"
