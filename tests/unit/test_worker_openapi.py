# SPDX-License-Identifier: Apache-2.0
"""The description of the worker's interface: what two real workers answer is what it says."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from twinbeat.api.client import Client
from twinbeat.api.sync import READABLE
from twinbeat.sessions import proxy
from twinbeat.sessions.entries import Store
from twinbeat.sessions.rules import Persistence
from twinbeat.worker.openapi import described, proxies_described
from twinbeat.worker.proxies import Proxies
from unit.worker_pair import Site, looped, working

WORKER = Path(__file__).parents[2] / "agent/twinbeat/worker"
DESCRIBED = {"worker": described(), "proxies": proxies_described()}
DOCUMENT = json.loads(json.dumps(DESCRIBED["worker"]))
PROXIES = json.loads(json.dumps(DESCRIBED["proxies"]))
VIPS = ["10.77.0.10", "10.77.0.11"]


def validator(whole: Any, part: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**part, "components": whole["components"]})


def answered(whole: Any, path: str, method: str, status: int, body: bytes) -> None:
    """Fails unless the answer is as described."""
    told = whole["paths"][path][method]["responses"][str(status)]
    assert told["description"]
    schema, answer = told["content"]["application/json"]["schema"], json.loads(body)
    validator(whole, schema).validate(answer)
    # A schema takes what it does not name; an answer of another kind would pass.
    named = whole["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
    assert not named or set(answer) <= set(named["properties"])


def request_schema(whole: Any, path: str) -> jsonschema.Draft202012Validator:
    body = whole["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    return validator(whole, body["schema"])


@pytest.mark.parametrize("whole", [DOCUMENT, PROXIES], ids=["worker", "proxies"])
def test_every_schema_is_one(whole: Any) -> None:
    assert whole["openapi"].startswith("3.1.")
    schemas = whole["components"]["schemas"]
    for name, each in schemas.items():
        jsonschema.Draft202012Validator.check_schema(each)
        assert each, name
    known = {f"#/components/schemas/{name}" for name in schemas}
    assert set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(whole))) <= known


def test_what_is_read_says_which_schema_it_is() -> None:
    """All but the document, which is kept as it is, and what is another's answer."""
    schemas = DOCUMENT["components"]["schemas"]
    without = {
        path
        for path, told in DOCUMENT["paths"].items()
        if "get" in told
        for content in [told["get"]["responses"]["200"]["content"]["application/json"]["schema"]]
        if "schema"
        not in schemas.get(content.get("$ref", "").rpartition("/")[2], content).get(
            "properties", {}
        )
    }
    assert without == {"/v1/document", "/v1/peer", "/v1/openapi.json"}


def test_every_path_is_described() -> None:
    """Those of the door's tables, and those that others have put into it."""
    sources = [(WORKER / name).read_text() for name in ("door.py", "main.py")]
    routes = {
        ("GET", path) for path in re.findall(r'^ +"(/v1/\w+)": self\._get_', sources[0], re.M)
    }
    pattern = r'[\[(]"(GET|POST)", "(/v1/[\w.]+)"[\])]'
    routes |= set(re.findall(pattern, "".join(sources)))
    assert routes == {
        (method.upper(), path) for path, each in DOCUMENT["paths"].items() for method in each
    }
    of_worker = {path for path in READABLE if path in DOCUMENT["paths"]}
    assert set(READABLE) - of_worker == {"/v1/status", "/v1/history", "/v1/counters"}
    assert set(PROXIES["paths"]) == {
        "/v1/openapi.json",
        *(f"/v1/{name}" for name in proxy.QUESTIONS),
    }


@looped
async def test_what_two_workers_answer_is_what_is_described(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await _changed_as_described(a)
        for path, each in DOCUMENT["paths"].items():
            if "get" not in each:
                continue
            answer = await a.ask(f"{path}?what=/v1/sync" if path == "/v1/peer" else path)
            assert answer.status == 200, path
            answered(DOCUMENT, path, "get", answer.status, answer.body)
            await _parameters_are_those(a, path, each["get"].get("parameters", []))
        begun = await a.post("/v1/sync", {"adopt": False})
        answered(DOCUMENT, "/v1/sync", "post", begun.status, begun.body)
        # There is no agent to ask for its keys, so this is refused; the answer has its form.
        keys = await a.post("/v1/keys", {})
        assert keys.status == 409
        answered(DOCUMENT, "/v1/keys", "post", keys.status, keys.body)
        await b.stop()
        gone = await a.ask("/v1/peer?what=/v1/sync")
        assert gone.status == 503
        answered(DOCUMENT, "/v1/peer", "get", gone.status, gone.body)


async def _changed_as_described(site: Site) -> None:
    row = {"id": 51, "interface": "lan0", "vips": VIPS}
    put = {"type": "put", "section": "vrid", "identity": "51", "row": row}
    wanted: dict[str, Any] = {
        "request": "described-1",
        "wish": {"type": "edit", "changes": [put]},
    }
    request_schema(DOCUMENT, "/v1/change").validate(wanted)
    done = await site.post("/v1/change", wanted)
    assert json.loads(done.body)["state"] == "done"
    answered(DOCUMENT, "/v1/change", "post", done.status, done.body)
    wrong = {**wanted, "policy": "neither"}
    assert list(request_schema(DOCUMENT, "/v1/change").iter_errors(wrong))
    refused = await site.post("/v1/change", wrong)
    assert refused.status == 400
    answered(DOCUMENT, "/v1/change", "post", refused.status, refused.body)


async def _parameters_are_those(site: Site, path: str, told: list[dict[str, Any]]) -> None:
    """What a parameter's schema refuses, the worker refuses, and what it takes, it takes."""
    for each in told:
        name, schema = each["name"], each["schema"]
        if "maximum" in schema:
            values = [("minimum", 0, True), ("maximum", 0, True)]
            values += [("minimum", -1, False), ("maximum", 1, False)]
            for bound, more, taken in values:
                answer = await site.ask(f"{path}?{name}={schema[bound] + more}")
                assert (answer.status != 400) is taken, (path, name, bound, more)
                answered(DOCUMENT, path, "get", answer.status, answer.body)
        elif "enum" in schema:
            assert schema["enum"] == list(READABLE)
            answer = await site.ask(f"{path}?{name}=/v1/nothing")
            assert answer.status == 400
            answered(DOCUMENT, path, "get", answer.status, answer.body)
        else:
            answer = await site.ask(f"{path}?{name}={urllib.parse.quote('no such')}")
            answered(DOCUMENT, path, "get", answer.status, answer.body)


@looped
async def test_what_proxies_are_answered_is_what_is_described(tmp_path: Path) -> None:
    store, primary = Store(), True
    store.configure([Persistence(name="app", kind="opaque", timeout_s=100, limit=10)])
    proxies = Proxies(store, lambda: primary)
    path = tmp_path / "sessions.sock"
    await proxies.listen(path)
    client = Client(str(path), 10)

    async def ask(what: str, status: int, **fields: Any) -> None:
        body = {"rule": "app", **fields}
        errors = list(request_schema(PROXIES, f"/v1/{what}").iter_errors(body))
        assert bool(errors) is (status == 400), errors
        answer = await asyncio.to_thread(client.post, f"/v1/{what}", json.dumps(body).encode())
        assert answer.status == status, answer.body
        answered(PROXIES, f"/v1/{what}", "post", answer.status, answer.body)

    try:
        told = await asyncio.to_thread(client.get, "/v1/openapi.json")
        assert json.loads(told.body) == PROXIES
        entry = {"key": "YQ==", "server": "s1"}
        await ask("put", 200, entries=[entry, {**entry, "key": "Yg==", "lifetime_ms": 5}])
        for what in ("get", "touch", "delete"):
            await ask(what, 200, keys=["YQ==", "eA=="])
        await ask("list", 200, limit=1)
        await ask("get", 404, rule="nosuch", keys=["YQ=="])
        await ask("put", 400, entries=[])
        await ask("list", 400, limit=proxy.BULK_MOST + 1)
        await ask("get", 400, keys=["YQ=="], more=1)
        primary = False
        await ask("put", 409, entries=[entry])
    finally:
        await proxies.close()
