# SPDX-License-Identifier: Apache-2.0
"""What a proxy may ask of its own entries: put, get, touch, delete and list, in bulk and bounded.

A request is about one rule of kind `opaque` and is carried out as a whole or not at all: whatever
is wrong with one of its parts is found before anything is changed. Keys are bytes, in base64 as
JSON has it. Lifetimes are told as what remains of them. Only the primary's entries are changed; the
other node gets them from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from twinbeat.sessions.entries import Entry, Refused, Store
from twinbeat.sessions.rules import KEY_MOST

BULK_MOST: Final = 1000
"""Entries or keys of one request, and entries of one page."""
BODY_MAX: Final = 1 << 20
"""Bytes of a request: a thousand of the longest keys and servers are 700 kB."""
LIFETIME_MOST_MS: Final = 366 * 86_400_000

Rule = Annotated[str, Meta(min_length=1, max_length=32)]
Key = Annotated[bytes, Meta(min_length=1, max_length=KEY_MOST)]
Server = Annotated[str, Meta(min_length=1, max_length=KEY_MOST)]
Lifetime = Annotated[int, Meta(ge=1, le=LIFETIME_MOST_MS)]
Keys = Annotated[tuple[Key, ...], Meta(min_length=1, max_length=BULK_MOST)]


class NewEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key is to be bound."""

    key: Key
    server: Server
    lifetime_ms: Lifetime | None = None
    """None, or more than the rule's timeout: that."""


class Put(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bind keys; those that are bound already get this server and lifetime."""

    rule: Rule
    entries: Annotated[tuple[NewEntry, ...], Meta(min_length=1, max_length=BULK_MOST)]


class Get(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Look keys up; that prolongs nothing."""

    rule: Rule
    keys: Keys


class Touch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prolong entries by the rule's timeout or less, from now."""

    rule: Rule
    keys: Keys
    lifetime_ms: Lifetime | None = None


class Delete(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Remove entries."""

    rule: Rule
    keys: Keys


class List(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of a rule's entries, in the order of their keys."""

    rule: Rule
    after: Annotated[bytes, Meta(max_length=KEY_MOST)] = b""
    limit: Annotated[int, Meta(ge=1, le=BULK_MOST)] = BULK_MOST


class Known(Struct, frozen=True, kw_only=True):
    """An entry as it is."""

    key: bytes
    server: str
    remaining_ms: int


class Entries(Struct, frozen=True, kw_only=True):
    """The answer to `Put`, `Get` and `Touch`: for each key in its order what it is bound to now, or
    null."""

    schema: int = 1
    entries: tuple[Known | None, ...]


class Deleted(Struct, frozen=True, kw_only=True):
    """Which of the keys had been bound."""

    schema: int = 1
    deleted: tuple[bool, ...]


class Page(Struct, frozen=True, kw_only=True):
    """The answer to `List`."""

    schema: int = 1
    entries: tuple[Known, ...]
    after: bytes
    """Where the next page begins; empty: there is none."""


Question = Put | Get | Touch | Delete | List
Answer = Entries | Deleted | Page
QUESTIONS: Final[dict[str, type[Question]]] = {
    "put": Put,
    "get": Get,
    "touch": Touch,
    "delete": Delete,
    "list": List,
}
CHANGING: Final = (Put, Touch, Delete)


def read(what: str, body: bytes) -> Question:
    """A request of one of QUESTIONS. Raises Refused, `bad_request`."""
    try:
        return msgspec.json.decode(body, type=QUESTIONS[what])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("bad_request", f"{error}") from error


def answer(store: Store, question: Question, now_ns: int, *, primary: bool) -> Answer:
    """Carry it out. Raises Refused with nothing changed, also `not_primary`."""
    if isinstance(question, CHANGING) and not primary:
        why = "entries are made on the primary, and this node isn't: it gets them from there"
        raise Refused("not_primary", why)
    table = store.opaque(question.rule)
    match question:
        case Put(rule=rule, entries=new):
            for number, each in enumerate(new):
                if len(each.server.encode()) > KEY_MOST:
                    why = f"entries[{number}].server has more than {KEY_MOST} bytes"
                    raise Refused("bad_server", why)
            for each in new:
                length_ns = _ns(each.lifetime_ms)
                store.put(rule, each.key, each.server, now_ns, lifetime_ns=length_ns)
            bound = [each.key for each in new]
            return _found(bound, [table.get(key, now_ns) for key in bound], now_ns)
        case Get(keys=keys):
            return _found(keys, [table.get(key, now_ns) for key in keys], now_ns)
        case Touch(keys=keys, lifetime_ms=lifetime_ms):
            length_ns = _ns(lifetime_ms)
            touched = [table.touch(key, now_ns, lifetime_ns=length_ns) for key in keys]
            return _found(keys, touched, now_ns)
        case Delete(keys=keys):
            return Deleted(deleted=tuple(table.delete(key, now_ns) for key in keys))
        case List(after=after, limit=limit):
            page, further = table.page(now_ns, after=after, limit=limit)
            known = tuple(_known(key, entry, now_ns) for key, entry in page)
            return Page(entries=known, after=further)


def _found(keys: Sequence[bytes], entries: Sequence[Entry | None], now_ns: int) -> Entries:
    both = zip(keys, entries, strict=True)
    return Entries(entries=tuple(e and _known(key, e, now_ns) for key, e in both))


def _known(key: bytes, entry: Entry, now_ns: int) -> Known:
    return Known(key=key, server=entry.server, remaining_ms=entry.remaining_ns(now_ns) // 1_000_000)


def _ns(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds * 1_000_000
