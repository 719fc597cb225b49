# SPDX-License-Identifier: Apache-2.0
"""The Ansible role as files: its variables, its tasks, the example, and what it writes.

Whether it does what it says is tried on machines that boot (tests/package/test_ansible.py).
"""

from __future__ import annotations

import re
import runpy
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from repo import project
from twinbeat.config.load import examine

PLAYBOOKS = project.ROOT / "deploy" / "ansible"
ROLE = PLAYBOOKS / "roles" / "twinbeat"
INVENTORY = PLAYBOOKS / "inventory"
FILES = sorted(path for path in project.files() if path.is_relative_to(PLAYBOOKS))
YAML = [path for path in FILES if path.suffix == ".yml"]
NO_MODULES = {
    *("name", "vars", "when", "register", "until", "retries", "delay", "notify", "loop"),
    *("block", "environment", "no_log", "check_mode", "changed_when", "failed_when"),
}

to_toml = runpy.run_path(str(ROLE / "filter_plugins" / "twinbeat_toml.py"))["to_toml"]


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def tasks(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each task, also those of plays and blocks."""
    for step in steps:
        yield step
        for inner in ("block", "tasks"):
            yield from tasks(step.get(inner, []))


def test_every_variable_is_described_with_its_default() -> None:
    options = loaded(ROLE / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    told = {name: about["default"] for name, about in options.items() if "default" in about}
    assert told == loaded(ROLE / "defaults" / "main.yml")
    assert all(about["description"] for about in options.values())
    required = {name for name, about in options.items() if about.get("required")}
    assert required == options.keys() - told.keys()
    assert options["twinbeat_key"]["no_log"] is True


def test_what_the_tasks_use_is_described_or_made_there() -> None:
    options = loaded(ROLE / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    texts = "\n".join(path.read_text() for path in YAML if path.is_relative_to(ROLE))
    own = set(re.findall(r"register: (twinbeat_\w+)$|^ *(?:- )?(twinbeat_\w+):", texts, re.M))
    used = set(re.findall(r"\b(twinbeat_[a-z_]+)\b", texts))
    assert used <= {name for names in own for name in names if name}
    assert set(options) <= used


@pytest.mark.parametrize("path", YAML, ids=project.name_of)
def test_each_file_is_yaml_of_one_style(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert [
        line for line in lines if len(line) > 100 or "\t" in line or line != line.rstrip()
    ] == []
    assert "---" in lines
    assert loaded(path) is not None


@pytest.mark.parametrize(
    "path",
    [path for path in YAML if path.parent.name in {"tasks", "handlers", "ansible"}],
    ids=project.name_of,
)
def test_each_task_has_a_name_and_its_module_in_full(path: Path) -> None:
    for task in tasks(loaded(path)):
        assert task.get("name"), task
        assert task["name"][0].isupper()
        if "hosts" in task:
            continue
        modules = set(task) - NO_MODULES
        assert [name for name in modules if not name.startswith("ansible.builtin.")] == []
        assert len(modules) == (0 if "block" in task else 1)


def test_ansible_reads_the_playbooks(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *("/usr/bin/ansible-playbook", "--syntax-check", "--inventory", INVENTORY),
            *(PLAYBOOKS / "site.yml", PLAYBOOKS / "upgrade.yml"),
        ],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("number", [0, 1])
def test_the_example_makes_a_configuration_that_can_be_used(number: int, tmp_path: Path) -> None:
    group = loaded(INVENTORY / "group_vars" / "gateways.yml")
    names = group["twinbeat_pair"]
    assert list(loaded(INVENTORY / "hosts.yml")["gateways"]["hosts"]) == names
    own = loaded(INVENTORY / "host_vars" / f"{names[number]}.yml")["twinbeat_own"]
    tables = {
        "node": {"name": names[number], "index": number},
        "pair": {"id": group["twinbeat_pair_id"]},
        "peer": {"name": names[1 - number]},
        **group["twinbeat_shared"],
        **own,
    }
    file = tmp_path / "twinbeat.toml"
    file.write_text(to_toml(tables))
    assert tomllib.loads(file.read_text()) == tables
    found, problems = examine(file, offline=True)
    assert found is not None
    assert problems == []


def test_tables_are_written_as_they_are() -> None:
    tables = {
        "node": {"name": 'a "quoted" \\ name\n', "index": 0},
        "odd key": {"a.b": True, "none": [], "nested": [{"x": 1, "y": ["ü", "\x7f"]}]},
        "vrid": [{"id": 51, "vips": ["10.77.0.10"]}, {"id": 52}],
        "empty": {},
    }
    assert tomllib.loads(to_toml(tables)) == tables


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"vrid": ["x"]}, "vrid is 'x': a section of twinbeat.toml is a mapping"),
        ({"timers": "fast"}, "timers is 'fast'"),
        ({"timers": {"profile": None}}, "timers.profile is None: give it a value"),
    ],
)
def test_what_is_no_table_is_refused_by_a_sentence(tables: Any, sentence: str) -> None:
    with pytest.raises(AnsibleFilterError, match=re.escape(sentence)):
        to_toml(tables)
