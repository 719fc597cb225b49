# SPDX-License-Identifier: Apache-2.0
"""What may stand next on the command line of a change: names that there are, keys, values.

All of it comes from the model and from the worker, so it is in step with both. Whatever goes wrong,
nothing is suggested.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import click
import msgspec
from click.shell_completion import CompletionItem

from twinbeat.api.client import Client, ClientError
from twinbeat.cli.base import Settings
from twinbeat.sync.document import Document, Tables

WITHIN_S: Final = 0.5
"""Nobody waits longer for a suggestion."""


def words(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the words behind `add vrid`, `rm vip` and the like."""
    verb, what = context.info_name or "", context.params.get("what")
    given: Sequence[str] = context.params.get("words") or ()
    if not what:
        return []
    found = _suggested(context, verb, what, given, incomplete)
    return [CompletionItem(word) for word in found if word.startswith(incomplete)]


def commands(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names for `run`."""
    names = _tables(context).get("command", {})
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _suggested(
    context: click.Context, verb: str, what: str, given: Sequence[str], incomplete: str
) -> Iterator[str]:
    from twinbeat.config.edit import KINDS, MEMBERS, lead_of, settable, values_of
    from twinbeat.config.model import SECTIONS

    if what in MEMBERS:
        section, key = MEMBERS[what]
        rows = _tables(context).get(section, {})
        if given and given[-1] == section:
            yield from rows
        elif verb in {"rm", "unbind"} and not given:
            yield from (str(item) for row in rows.values() for item in row.get(key, ()))
        elif given:
            yield section
        return
    if what not in KINDS:
        return
    named = SECTIONS[what][2]
    if named and not given:
        if verb != "add":
            rows = _tables(context).get(what, {})
            yield from (str(row.get(lead_of(what), name)) for name, row in rows.items())
        return
    key, sign, _ = incomplete.partition("=")
    if sign:
        if key in settable(what):
            yield from (f"{key}={value}" for value in values_of(what, key))
        return
    taken = {word.partition("=")[0] for word in given}
    ending = "" if verb == "unset" else "="
    yield from (f"{key}{ending}" for key in settable(what) if key not in taken)


def _tables(context: click.Context) -> Tables:
    """Of the document in force, or nothing."""
    found = context.find_object(Settings) or Settings()
    client = Client(found.worker.path, WITHIN_S)
    try:
        answer = client.get("/v1/document")
        return msgspec.json.decode(answer.body, type=Document).tables
    except (ClientError, msgspec.DecodeError):
        return {}
