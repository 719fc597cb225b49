# SPDX-License-Identifier: Apache-2.0
"""The description of the interface: what the real server answers is what it says."""

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from twinbeat.api import schema
from twinbeat.api.client import Client
from twinbeat.api.openapi import described
from unit.memory_agent import Served, status

DOCUMENT = json.loads(json.dumps(described()))
SERVER = Path(__file__).parents[2] / "agent/twinbeat/api/server.py"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        running.agent.happen(1)
        yield running


def validator(part: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**part, "components": DOCUMENT["components"]})


def content(path: str, method: str, code: int) -> tuple[str, jsonschema.Draft202012Validator]:
    """The media type and the schema of an answer."""
    answer = DOCUMENT["paths"][path][method]["responses"][str(code)]
    assert answer["description"]
    ((media, told),) = answer["content"].items()
    return media, validator(told["schema"])


def test_every_schema_is_one() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    for name, each in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(each)
        assert each, name
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(DOCUMENT))) <= known


def test_every_path_of_the_server_is_described() -> None:
    routes = re.findall(r'\("(GET)", "(/[^"]*)"\): self\._get_', SERVER.read_text())
    routes += [("POST", f"/v1/{name}") for name in schema.COMMANDS]
    described_ = {
        (method.upper(), path) for path, each in DOCUMENT["paths"].items() for method in each
    }
    assert set(routes) == described_


@pytest.mark.parametrize(
    "path", [path for path, each in DOCUMENT["paths"].items() if "get" in each]
)
def test_what_is_answered_is_what_is_described(path: str, served: Served) -> None:
    answer = Client(served.path, 5).get(path)
    media, described_ = content(path, "get", answer.status)
    if media.startswith("text/"):
        assert answer.body
        return
    lines = answer.body.splitlines() if media.endswith("ndjson") else [answer.body]
    assert lines
    for line in lines:
        described_.validate(json.loads(line))


def test_a_node_that_does_not_serve_answers_as_described(served: Served) -> None:
    served.agent.state = status(gate=schema.Gate(attached=True, open=False))
    answer = Client(served.path, 5).get("/primary")
    assert answer.status == 503
    _, described_ = content("/primary", "get", 503)
    described_.validate(json.loads(answer.body))


@pytest.mark.parametrize("name", schema.COMMANDS)
def test_commands_are_taken_and_answered_as_described(name: str, served: Served) -> None:
    path = f"/v1/{name}"
    request = {"request_id": f"openapi-{name}"} | ({"admin": "enabled"} if name == "admin" else {})
    body = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator(body).validate(request)
    client = Client(served.path, 5)
    answer = client.post(path, json.dumps(request).encode())
    assert answer.status == 200
    content(path, "post", 200)[1].validate(json.loads(answer.body))

    served.agent.answer = schema.Refusal(code="paused", sentence="no")
    refused = client.post(path, json.dumps({**request, "request_id": "another-one"}).encode())
    assert refused.status == 409
    content(path, "post", 409)[1].validate(json.loads(refused.body))

    wrong = {**request, "nosuch": 1}
    assert list(validator(body).iter_errors(wrong))
    bad = client.post(path, json.dumps(wrong).encode())
    assert bad.status == 400
    content(path, "post", 400)[1].validate(json.loads(bad.body))


@pytest.mark.parametrize("limit", ["1", "1000"])
def test_parameters_are_those_of_the_server(limit: str, served: Served) -> None:
    (told,) = DOCUMENT["paths"]["/v1/history"]["get"]["parameters"]
    bounds = told["schema"]["minimum"], told["schema"]["maximum"]
    assert int(limit) in bounds
    client = Client(served.path, 5)
    assert client.get(f"/v1/history?{told['name']}={limit}").status == 200
    for outside in (bounds[0] - 1, bounds[1] + 1):
        answer = client.get(f"/v1/history?{told['name']}={outside}")
        assert answer.status == 400
        content("/v1/history", "get", 400)[1].validate(json.loads(answer.body))


def test_what_is_described_for_everybody_is_there_on_tcp(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    for path in DOCUMENT["paths"]:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert (answer.status == 404) == path.startswith("/v1/")
    connection.close()
