# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of the configuration: what it takes and refuses, beside what `check` does."""

import copy
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from twinbeat.cli.main import run
from twinbeat.config.document import toml
from twinbeat.config.load import examine_tables
from twinbeat.config.model import SECTIONS
from twinbeat.config.schema import schema

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads(json.dumps(schema()))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def examples() -> list[dict[str, Any]]:
    pages = [ROOT / "README.md", *sorted((ROOT / "deploy/docs").glob("*.md"))]
    found = [
        block
        for page in pages
        for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.M | re.S)
    ]
    return [tables for block in [*found, toml()] if "node" in (tables := tomllib.loads(block))]


WHOLE = examples()[0]


def test_it_is_a_schema_and_names_nothing_outside() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(SCHEMA)))
    assert references == {f"#/$defs/{model.__name__}" for _, model, _ in SECTIONS.values()}
    assert '"null"' not in json.dumps(SCHEMA), "no file can say null"


def test_every_key_has_its_meaning() -> None:
    for section, (_, model, many) in SECTIONS.items():
        table = SCHEMA["$defs"][model.__name__]
        reference = {"$ref": f"#/$defs/{model.__name__}"}
        expected = {"type": "array", "items": reference} if many else reference
        assert SCHEMA["properties"][section] == expected
        assert table["description"]
        for name, key in table.get("properties", {}).items():
            assert key["description"], (section, name)
    priority = SCHEMA["$defs"]["EngineSection"]["properties"]["priority"]
    assert (priority["minimum"], priority["maximum"], priority["default"]) == (1, 98, 60)
    assert priority["description"].endswith("Takes effect after a restart.")


@pytest.mark.parametrize("tables", examples(), ids=lambda tables: tables["node"]["name"])
def test_configurations_that_can_be_used_are_taken(tables: dict[str, Any]) -> None:
    assert list(VALIDATOR.iter_errors(tables)) == []


def test_names_that_the_user_chooses_are_taken() -> None:
    tables = WHOLE | {"interfaces": {"lan": "eth3"}}
    assert list(VALIDATOR.iter_errors(tables)) == []
    assert list(VALIDATOR.iter_errors(WHOLE | {"interfaces": {"a name": "eth3"}}))
    assert list(VALIDATOR.iter_errors(WHOLE | {"interfaces": {"lan": 3}}))


WRONG: list[tuple[str, Any]] = [
    ("node.index", 5),
    ("node.index", "0"),
    ("node.name", ""),
    ("node.nam", "a"),
    ("pair.id", 0),
    ("timers.profile", "faster"),
    ("timers.hello_us", 99),
    ("timers.hello_us", 6.6),
    ("link", {}),
    ("link.0.vlan", 4095),
    ("link.0.direct", 1),
    ("link.0.mode", "tcp"),
    ("vrid.0.id", 256),
    ("vrid.0.vips", "10.0.0.1"),
    ("policy.fail_safe", "yes"),
    ("nosuch", {}),
]


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_what_it_refuses_the_check_refuses_too(path: str, value: Any) -> None:
    tables = copy.deepcopy(WHOLE)
    *parents, name = path.split(".")
    inner: Any = tables
    for parent in parents:
        inner = inner[int(parent)] if isinstance(inner, list) else inner.setdefault(parent, {})
    inner[name] = value
    assert list(VALIDATOR.iter_errors(tables))
    config, problems = examine_tables(tables, "twinbeat.toml", offline=True)
    assert config is None
    assert problems


@pytest.mark.parametrize("section", ["node", "pair", "peer"])
def test_what_has_to_be_there_is_required(section: str) -> None:
    assert list(VALIDATOR.iter_errors({k: v for k, v in WHOLE.items() if k != section}))


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
