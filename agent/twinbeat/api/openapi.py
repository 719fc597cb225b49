# SPDX-License-Identifier: Apache-2.0
"""The daemon's interface described in OpenAPI 3.1, from the types that answer it."""

from typing import Any, Final

import msgspec

from twinbeat import __version__
from twinbeat.api.page import Page
from twinbeat.api.schema import (
    COMMANDS,
    SCHEMA,
    Answer,
    Counters,
    Doctor,
    Event,
    History,
    Problem,
    Role,
    Status,
)

LINES: Final = "application/x-ndjson"
JSON: Final = "application/json"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a health check answers beside its status code."""

    schema: int = SCHEMA
    role: Role
    sentence: str


_READ: Final[dict[str, tuple[type[Any], str, str]]] = {
    "/v1/status": (Status, JSON, "The node at this moment."),
    "/v1/history": (History, JSON, "Changes of role with their timelines, newest last."),
    "/v1/counters": (Counters, JSON, "Everything that only grows."),
    "/v1/events": (Event, LINES, "The newest events, one on each line."),
    "/page.json": (Page, JSON, "What the status page shows."),
}
_QUERIES: Final[dict[str, dict[str, Any]]] = {
    "/v1/history": {
        "name": "limit",
        "description": "So many, the newest.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000},
    },
    "/v1/events": {
        "name": "follow",
        "description": "1: go on with what comes, until the caller hangs up.",
        "schema": {"enum": ["0", "1"]},
    },
}
_TEXTS: Final = {
    "/": ("text/html", "The status page."),
    "/metrics": ("text/plain", "Prometheus' text format, version 0.0.4."),
}
_HEALTH: Final = {
    "/primary": "This node serves.",
    "/secondary": "It stands by.",
    "/health": "It could serve.",
    "/live": "Its deciding loop turns.",
    "/ready": "Its gates are in place, and its first listening is over.",
}


def described() -> dict[str, Any]:
    """All of it: every path of both listeners."""
    types = [kind for kind, _, _ in _READ.values()]
    types += [Answer, Problem, Doctor, Verdict, *COMMANDS.values()]
    refs, schemas = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(types, refs, strict=True))
    for command in COMMANDS.values():
        # The path says which command it is; the tag may be there, and nobody needs it.
        told = schemas[command.__name__]
        told["required"] = [name for name in told["required"] if name != "type"]
    paths: dict[str, Any] = {}
    for path, (kind, media, summary) in _READ.items():
        get: dict[str, Any] = {"summary": summary}
        if path in _QUERIES:
            get["parameters"] = [{"in": "query", "required": False, **_QUERIES[path]}]
        get["responses"] = {"200": content(by_type[kind], media)}
        if path in _QUERIES:
            get["responses"]["400"] = content(by_type[Problem], about="The request is wrong.")
        paths[path] = {"get": get}
    for path, (media, summary) in _TEXTS.items():
        text = content({"type": "string"}, media)
        paths[path] = {"get": {"summary": summary, "responses": {"200": text}}}
    for path, summary in _HEALTH.items():
        verdicts = {
            "200": content(by_type[Verdict], about="Yes."),
            "503": content(by_type[Verdict], about="No."),
        }
        paths[path] = {"get": {"summary": summary, "responses": verdicts}}
    whole = content({"type": "object"})
    paths["/v1/openapi.json"] = {"get": {"summary": "This.", "responses": {"200": whole}}}
    for name, command in COMMANDS.items():
        paths[f"/v1/{name}"] = {"post": _command(command, by_type)}
    about = f"Every answer has schema {SCHEMA}. Below /v1 only on the Unix socket."
    return document("Twinbeat", about, paths, schemas)


def _command(command: type[Any], by_type: dict[type[Any], dict[str, Any]]) -> dict[str, Any]:
    responses = {
        "200": content(by_type[Answer], about="Done."),
        "202": content(by_type[Answer], about="Under way."),
        "409": content(by_type[Answer], about="Refused; nothing has changed."),
        "400": content(by_type[Problem], about="The request is wrong."),
        "500": content(by_type[Answer], about="Tried in vain; the sentence says what is so now."),
    }
    summary = " ".join((command.__doc__ or "").split())
    body = {"required": True, "content": {JSON: {"schema": by_type[command]}}}
    return {"summary": summary, "requestBody": body, "responses": responses}


def document(
    title: str, about: str, paths: dict[str, Any], schemas: dict[str, Any]
) -> dict[str, Any]:
    """A description of these paths, whose references lead to these schemas."""
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__, "description": about},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def content(
    schema: dict[str, Any], media: str = JSON, *, about: str = "The answer."
) -> dict[str, Any]:
    """One answer."""
    return {"description": about, "content": {media: {"schema": schema}}}
