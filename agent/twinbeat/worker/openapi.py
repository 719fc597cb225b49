# SPDX-License-Identifier: Apache-2.0
"""What the worker answers, in OpenAPI 3.1: on sync.sock for people, on sessions.sock for proxies.

From the types that answer it, like the daemon's own description (`twinbeat.api.openapi`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from twinbeat.api.openapi import JSON, content, document
from twinbeat.api.schema import Problem
from twinbeat.api.sync import READABLE, FilesView, ForceSync, Rotated, Said, SyncView, Views
from twinbeat.sessions import proxy
from twinbeat.sessions.shown import ENTRIES_MOST, Entries, SessionsStatus
from twinbeat.sync.document import Document
from twinbeat.sync.operation import Outcome, Request
from twinbeat.weblog.shown import WeblogView

HISTORY_MOST: Final = 1000
"""Generations in one answer."""
NUMBER_MOST: Final = (1 << 32) - 1
"""Of a generation and of a backup."""

_NUMBER: Final = {"type": "integer", "minimum": 0, "maximum": NUMBER_MOST}
_TEXT: Final = {"type": "string"}

_READ: Final[dict[str, tuple[type[Any], str]]] = {
    "/v1/sync": (SyncView, "How synchronization stands, and what the peer's worker said."),
    "/v1/document": (Document, "The shared configuration: the current one, or an earlier one."),
    "/v1/generations": (Views, "What it was, the newest first, without tables."),
    "/v1/backups": (Views, "Documents that gave way to the peer's, without tables."),
    "/v1/files": (FilesView, "How the lists of files stand on this node."),
    "/v1/weblog": (WeblogView, "How collecting log records, their replication and clients stand."),
    "/v1/sessions": (SessionsStatus, "How persistence stands."),
    "/v1/persistence": (Entries, "Entries, of one rule or of one client."),
}
_PARAMETERS: Final[dict[str, dict[str, tuple[str, dict[str, Any]]]]] = {
    "/v1/document": {
        "generation": ("That of this number.", _NUMBER),
        "backup": ("The copy of this number of one that gave way.", _NUMBER),
    },
    "/v1/generations": {
        "limit": ("So many.", {"type": "integer", "minimum": 1, "maximum": HISTORY_MOST}),
    },
    "/v1/persistence": {
        "rule": ("Of this rule.", _TEXT),
        "client": ("Of this client.", _TEXT),
        "limit": ("So many.", {"type": "integer", "minimum": 1, "maximum": ENTRIES_MOST}),
    },
}
_TROUBLE: Final = {
    "400": "The request is wrong.",
    "404": "There is no such thing on this node.",
    "409": "Refused; nothing has changed.",
    "503": "It can't be answered now; the sentence says why.",
}
_PROXIES: Final[dict[str, type[proxy.Answer]]] = {
    "put": proxy.Entries,
    "get": proxy.Entries,
    "touch": proxy.Entries,
    "delete": proxy.Deleted,
    "list": proxy.Page,
}


def described() -> dict[str, Any]:
    """Every path of /run/twinbeat/sync.sock."""
    kinds = {kind for kind, _ in _READ.values()}
    kinds |= {Problem, Request, Outcome, ForceSync, Said, Rotated}
    refs, schemas = _components(kinds)
    problem = refs[Problem]
    paths: dict[str, Any] = {}
    for path, (kind, summary) in _READ.items():
        told = _PARAMETERS.get(path, {})
        get: dict[str, Any] = {"summary": summary}
        if told:
            get["parameters"] = [_parameter(name, *each) for name, each in told.items()]
        get["responses"] = {"200": content(refs[kind]), **_troubles(problem, "400", "404", "503")}
        paths[path] = {"get": get}
    what = _parameter("what", "Which path, of the daemon or the worker.", {"enum": [*READABLE]})
    paths["/v1/peer"] = {
        "get": {
            "summary": "The same of the other node; further parameters go with it.",
            "parameters": [{**what, "required": True}],
            "responses": {
                "200": content({"type": "object"}),
                **_troubles(problem, "400", "404", "503"),
            },
        }
    }
    paths["/v1/openapi.json"] = _itself()
    paths["/v1/change"] = _post(
        "Change what both nodes share; the state of the outcome says what came of it.",
        refs[Request],
        {"200": content(refs[Outcome]), **_troubles(problem, "400")},
    )
    paths["/v1/sync"]["post"] = _post(
        "Compare both documents now, and take over whatever rules.",
        refs[ForceSync],
        {
            "200": content(refs[Said], about="It has begun."),
            "409": content(refs[Said], about=_TROUBLE["409"]),
            **_troubles(problem, "400"),
        },
    )["post"]
    paths["/v1/keys"] = _post(
        "Give both nodes another key for heartbeats and other certificates.",
        {"type": "object"},
        {
            "200": content(refs[Rotated], about="Done."),
            "409": content(refs[Rotated], about="It didn't come to its end; do it again."),
        },
    )
    about = "What twinbeat-worker answers on /run/twinbeat/sync.sock."
    return document("Twinbeat's worker", about, paths, schemas)


def proxies_described() -> dict[str, Any]:
    """Every path of the proxies' socket."""
    refs, schemas = _components({*proxy.QUESTIONS.values(), *_PROXIES.values(), Problem})
    paths: dict[str, Any] = {"/v1/openapi.json": _itself()}
    for name, question in proxy.QUESTIONS.items():
        paths[f"/v1/{name}"] = _post(
            " ".join((question.__doc__ or "").split()),
            refs[question],
            {
                "200": content(refs[_PROXIES[name]]),
                **_troubles(refs[Problem], "400", "404", "409", "503"),
            },
        )
    about = "What twinbeat-worker answers proxies that keep persistence of their own."
    return document("Twinbeat's worker, for proxies", about, paths, schemas)


def _components(kinds: set[type[Any]]) -> tuple[dict[type[Any], Any], dict[str, Any]]:
    """A reference to each type, and what they refer to."""
    ordered = sorted(kinds, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
    refs, schemas = msgspec.json.schema_components(
        ordered, ref_template="#/components/schemas/{name}"
    )
    return dict(zip(ordered, refs, strict=True)), schemas


def _parameter(name: str, about: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "in": "query",
        "name": name,
        "required": False,
        "description": about,
        "schema": schema,
    }


def _troubles(problem: dict[str, Any], *codes: str) -> dict[str, Any]:
    return {code: content(problem, about=_TROUBLE[code]) for code in codes}


def _post(summary: str, body: dict[str, Any], responses: dict[str, Any]) -> dict[str, Any]:
    taken = {"required": True, "content": {JSON: {"schema": body}}}
    return {"post": {"summary": summary, "requestBody": taken, "responses": responses}}


def _itself() -> dict[str, Any]:
    return {"get": {"summary": "This.", "responses": {"200": content({"type": "object"})}}}
