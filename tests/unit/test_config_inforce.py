# SPDX-License-Identifier: Apache-2.0
"""What is in force: the node's own tables of its file, and the shared ones of the document."""

import copy
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinbeat.config.compare import digest
from twinbeat.config.inforce import (
    FRESH_NS,
    CopyError,
    Examiner,
    InForce,
    load_in_force,
    problems_of,
    read_copy,
    shared_tables,
)
from twinbeat.config.problems import ConfigError
from twinbeat.config.system import Address
from twinbeat.sync.document import Document, Tables, Version
from unit.test_config_load import Machine
from unit.test_config_load import good as good  # noqa: PLC0414 - a fixture
from unit.test_config_load import keys as keys  # noqa: PLC0414 - a fixture
from unit.test_config_shared import EVERYTHING


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "twinbeat.toml"
    path.write_text(EVERYTHING)
    return path


def document(tables: Tables) -> Document:
    return Document(lineage="0" * 32, version=Version(4, 7), tables=tables)


def in_force(file: Path, tables: Tables | None) -> InForce:
    return load_in_force(file, None if tables is None else document(tables), offline=True)


def with_vips(tables: Tables, *vips: str) -> Tables:
    row = {**tables["vrid"]["51"], "vips": list(vips)}
    return {**tables, "vrid": {**tables["vrid"], "51": row}}


def test_without_a_document_the_file_says_everything(file: Path) -> None:
    found = in_force(file, None)
    assert found.document is None
    assert found.ignored == ()
    assert found.tables == shared_tables(file)
    assert len(found.config.vrids) == 2


def test_a_document_rules_and_what_the_file_says_otherwise_is_named(file: Path) -> None:
    same = shared_tables(file)
    assert in_force(file, same).ignored == ()
    found = in_force(file, with_vips(same, "10.99.0.1"))
    assert found.ignored == ("vrid 51",)
    assert found.config.vrids[1].vips == ("10.99.0.1",)
    assert found.config.node.name == "a"
    less = {section: rows for section, rows in same.items() if section not in {"route", "vrid"}}
    assert in_force(file, less).ignored == (
        "route 0.0.0.0/0 table 254 metric 0",
        "route 10.77.9.0/24 table 254 metric 0",
        "route ::/0 table 254 metric 0",
        "vrid 51",
        "vrid 7",
    )


def test_a_file_whose_shared_part_is_broken_does_no_harm_to_a_document(file: Path) -> None:
    same = shared_tables(file)
    file.write_text(EVERYTHING.replace("id = 7\ninterface", "idd = 7\ninterface"))
    with pytest.raises(ConfigError):
        in_force(file, None)
    found = in_force(file, same)
    assert found.ignored[0].startswith("vrid[")
    assert len(found.config.vrids) == 2


def test_what_is_wrong_with_a_document_is_said_of_its_rows(file: Path) -> None:
    wrong = with_vips(shared_tables(file), "nonsense")
    with pytest.raises(ConfigError, match=r"shared document generation 7: vrid 51.vips\[0\]"):
        in_force(file, wrong)
    found = problems_of(file, wrong, "it")
    assert [(each.file, each.key) for each in found if "vips" in each.key] == [
        ("it", "vrid 51.vips[0]")
    ]


class Counting(Machine):
    """A machine that counts how often it is looked at."""

    looks = 0

    def addresses(self) -> list[Address]:
        self.looks += 1
        return super().addresses()


def _vrid(number: str, **keys: Any) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        if number in tables.get("vrid", {}):
            tables["vrid"][number].update(keys)

    return change


def _row(section: str, name: str, row: dict[str, Any]) -> Callable[[Tables], None]:
    return lambda tables: tables.setdefault(section, {}).update({name: row})


def _without(section: str) -> Callable[[Tables], None]:
    return lambda tables: tables.pop(section, None) and None


TO_TUNNEL = "198.18.0.0/24 table 254 metric 0"
CHANGES = (
    _vrid("51", vips=["10.77.0.10", "10.77.0.12"]),
    _vrid("51", vips=["10.77.0.1"]),  # the node's own
    _vrid("51", vips=["nonsense"]),
    _vrid("7", vips=["10.77.0.10"]),  # that of the other one
    _vrid("51", interface="lan9"),
    _vrid("51", vmac=False),
    _vrid("7", neighbours=["10.77.0.10"]),
    _row("vrid", "7", {"id": 8, "interface": "lan0", "vips": ["10.78.0.11"]}),
    _row("vrid", "9", {"id": 9, "interface": "lan0", "vips": ["10.78.0.12"]}),
    _row("route", TO_TUNNEL, {"destination": "198.18.0.0/24", "interface": "tun7"}),
    _row("monitor", "far", {"name": "far", "kind": "link", "interface": "lan8"}),
    _row("monitor", "near", {"name": "near", "kind": "link", "interface": "lan0"}),
    _row("linkset", "lan", {"name": "lan", "interfaces": ["lan1"], "monitor": "none"}),
    _row("timers", "", {"profile": "balanced"}),
    _row("timers", "", {"profile": "balanced", "dead_us": 7_000}),
    _row("hook", "mail", {"name": "mail", "exec": "/nowhere", "events": ["primary"]}),
    _row("inject", "", {"table": 157}),
    _without("monitor"),
    _without("route"),
    _without("vrid"),
    _without("rule"),
)


@settings(max_examples=40)
@given(path=st.lists(st.sets(st.integers(0, len(CHANGES) - 1), max_size=3), max_size=12))
def test_what_is_the_same_is_not_examined_again_and_found_the_same(
    tmp_path_factory: pytest.TempPathFactory, path: list[set[int]]
) -> None:
    """Whatever was in force before, a document is found right or wrong for the same reasons."""
    root = tmp_path_factory.mktemp("examined")
    (root / "1.key").touch(mode=0o600)
    (root / "1.key").write_text(secrets.token_hex(16))
    file, machine = root / "twinbeat.toml", Machine()
    machine.macs |= {"wan0": "02:00:00:00:00:03", "lan1": "02:00:00:00:00:02", "lan2": ""}
    file.write_text(EVERYTHING.replace("/etc/twinbeat/keys", str(root)))
    known = Examiner(file, system=machine)
    base = shared_tables(file)
    known.load(document(base))
    for numbers in path:
        tables = copy.deepcopy(base)
        for number in sorted(numbers):
            CHANGES[number](tables)
        anew = Examiner(file, system=machine)
        assert known.problems_of(tables, "it") == anew.problems_of(tables, "it")
        assert _loaded(known, tables) == _loaded(anew, tables)


def _loaded(examiner: Examiner, tables: Tables) -> object:
    try:
        found = examiner.load(document(tables))
    except ConfigError as error:
        return error.problems
    return found.config, found.problems


def test_what_was_examined_a_moment_ago_is_not_examined_again(good: Path) -> None:
    machine, clock = Counting(), [0]
    examiner = Examiner(good, system=machine, now_ns=lambda: clock[0])
    wanted = document(with_vips(shared_tables(good), "10.99.0.1"))

    def looks_for(act: Callable[[], object]) -> int:
        before = machine.looks
        act()
        return machine.looks - before

    def check() -> None:
        assert examiner.problems_of(wanted.tables, "it") == []

    def load() -> None:
        assert examiner.load(wanted).config.vrids[0].vips == ("10.99.0.1",)

    def load_another() -> None:
        examiner.load(document(with_vips(wanted.tables, "10.99.0.2")))

    once = looks_for(check)
    assert once > 0
    assert looks_for(check) == 0
    assert looks_for(load) == 0
    assert looks_for(load) == 0, "nothing of it is another than in force"
    load_another()
    check()
    load()
    load_another()
    assert looks_for(load) == once, "it counts for one time"
    load_another()
    check()
    clock[0] += FRESH_NS
    assert looks_for(load) == once, "it is too old"
    check()
    assert looks_for(load_another) == once, "it is of other tables"
    check()
    good.write_text(good.read_text().replace('name = "a"', 'name = "c"'))
    assert looks_for(load) == once, "the file is another"
    assert examiner.load(wanted).config.node.name == "c"
    check()
    examiner.forget()
    assert looks_for(load) == once


def test_the_copy_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "shared.json"
    assert read_copy(path) is None
    kept = document({"policy": {"": {"strict": True}}})
    path.write_bytes(msgspec.json.encode(kept))
    assert read_copy(path) == kept
    path.write_text("{")
    with pytest.raises(CopyError, match="is no document"):
        read_copy(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CopyError, match="can't be read"):
        read_copy(path)


def test_the_digest_is_over_all_that_a_document_says(file: Path) -> None:
    same = shared_tables(file)

    def of(tables: Tables, text: str = EVERYTHING) -> int:
        file.write_text(text)
        return digest(in_force(file, tables).config, whole=True)

    before = of(same)
    assert of(same, EVERYTHING.replace('interface = "ha0"', 'interface = "eth9"')) == before
    assert of(same, EVERYTHING.replace("[policy]", "[policy]\npreferred = true")) == before
    assert of(same, EVERYTHING + '[interfaces]\nlan0 = "eth3"\n') == before
    backwards = with_vips(same, *reversed(same["vrid"]["51"]["vips"]))
    assert of(backwards) == before
    changed = [
        with_vips(same, "10.99.0.1"),
        {**same, "monitor": {}},
        {**same, "hook": {"mail": {"name": "mail", "exec": "/bin/false"}}},
        {**same, "announce": {"": {"refresh_s": 50}}},
    ]
    assert len({before, *map(of, changed)}) == len(changed) + 1


def test_without_a_document_what_each_node_watches_is_its_own_affair(file: Path) -> None:
    same, other = shared_tables(file), shared_tables(file)
    del other["monitor"], other["hook"]
    assert digest(in_force(file, same).config) == digest(in_force(file, other).config)


def test_the_file_that_is_checked_is_toml(file: Path) -> None:
    file.write_text("[")
    assert "is not TOML" in problems_of(file, {}, "it")[0].sentence
    with pytest.raises(ConfigError):
        in_force(file, {})
