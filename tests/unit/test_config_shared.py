# SPDX-License-Identifier: Apache-2.0
"""Splitting a file into its own and its shared tables, and putting the two together again."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinbeat.config import document
from twinbeat.config.load import examine_tables
from twinbeat.config.model import SECTIONS, Config
from twinbeat.config.problems import ConfigError, Problem
from twinbeat.config.rows import ONLY, identity
from twinbeat.config.scopes import LOCAL_KEYS, NODE_LOCAL, SHARED
from twinbeat.config.shared import (
    Shared,
    Source,
    Tables,
    examine,
    split,
)
from twinbeat.config.shared import join as join_with_names
from twinbeat.config.system import Address, Device
from unit.test_config_load import GOOD
from unit.test_config_monitors import BASE as MONITORED
from unit.test_config_witness import BASE as WITNESSED

FILE = "/etc/twinbeat/twinbeat.toml"
DOCUMENT = "shared document, generation 7"
SOURCE = Source(file=FILE, document=DOCUMENT)
EVERYTHING = (
    GOOD.format(keys="/etc/twinbeat/keys")
    + """
[announce]
repeats_ms = [1, 2]
[inject]
table = 156
[[vrid]]
id = 7
interface = "wan0"
vips = ["10.78.0.10"]
[[route]]
destination = "default"
gateway = "10.77.0.9"
[[route]]
destination = "default"
gateway = "fd77::9"
[[route]]
destination = "10.77.9.0/24"
interface = "lan0"
[[rule]]
priority = 1000
table = 300
[[rule]]
priority = 1000
table = 300
fwmark = 1
[[rule]]
priority = 1000
table = 300
family = "ipv4"
[[hook]]
name = "mail"
exec = "/bin/true"
[[monitor]]
name = "uplink"
kind = "route"
prefix = "0.0.0.0/0"
[[linkset]]
name = "lan"
interfaces = ["lan1", "lan2"]
"""
)
EXAMPLES = {
    "load": GOOD.format(keys="/etc/twinbeat/keys"),
    "monitors": MONITORED,
    "witness": WITNESSED,
    "everything": EVERYTHING,
    "generated": document.toml(),
}


def parsed(text: str) -> Tables:
    return tomllib.loads(text)


def config_of(tables: Tables) -> Config:
    config, problems = examine_tables(tables, FILE, offline=True)
    assert config is not None, problems
    return config


def by_content(tables: Tables) -> dict[str, Any]:
    """Without sections that say nothing; arrays in any order."""
    return {
        name: sorted(value, key=repr) if isinstance(value, list) else value
        for name, value in tables.items()
        if value
    }


def problems_of(tables: Tables) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        split(tables, file=FILE)
    return caught.value.problems


def join(local: Tables, shared: Shared) -> Tables:
    return join_with_names(local, shared, source=SOURCE)[0]


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_was_split_is_joined_to_the_same(name: str) -> None:
    tables = parsed(EXAMPLES[name])
    local, shared = split(tables)
    assert local.keys() <= NODE_LOCAL
    assert shared.keys() <= SHARED
    joined = join(local, shared)
    assert by_content(joined) == by_content(tables)
    assert split(joined) == (local, shared)
    for section, (attribute, _, many) in SECTIONS.items():
        before, after = (getattr(config_of(each), attribute) for each in (tables, joined))
        if many:
            assert len(before) == len(after), section
            assert set(before) == set(after), section
        else:
            assert before == after, section


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_file_changes_nothing(random: Any) -> None:
    tables = parsed(EVERYTHING)
    for section in SHARED & tables.keys():
        if isinstance(tables[section], list):
            random.shuffle(tables[section])
    tables = dict(random.sample(list(tables.items()), len(tables)))
    local, shared = split(tables)
    assert (local, shared) == split(parsed(EVERYTHING))
    backwards = {name: dict(reversed(rows.items())) for name, rows in reversed(shared.items())}
    assert join(local, backwards) == join(local, shared)
    assert list(join(local, backwards)["vrid"]) == join(local, shared)["vrid"]


NETWORKS = st.sampled_from(["default", "0.0.0.0/0", "::/0", "10.0.0.0/8", "fd77::/64"])
ROUTES = st.fixed_dictionaries(
    {"destination": NETWORKS},
    optional={
        "gateway": st.sampled_from(["10.77.0.9", "fd77::9"]),
        "table": st.sampled_from([254, 300]),
        "metric": st.sampled_from([0, 10]),
    },
)
RULES = st.fixed_dictionaries(
    {"priority": st.sampled_from([1, 11]), "table": st.sampled_from([1, 300])},
    optional={
        "source": st.sampled_from(["", "10.0.0.0/8"]),
        "destination": st.sampled_from(["", "10.0.0.0/8"]),
        "fwmark": st.sampled_from([0, 1]),
        "fwmask": st.sampled_from([1, 0xFFFFFFFF]),
        "interface": st.sampled_from(["", "lan0"]),
        "family": st.sampled_from(["auto", "ipv4", "both"]),
    },
)
NAMES = st.fixed_dictionaries({"name": st.sampled_from(["a", "b"]), "exec": st.just("/bin/true")})
IDS = st.fixed_dictionaries({"id": st.sampled_from([5, 51]), "interface": st.just("lan0")})
ROWS = (("route", ROUTES), ("rule", RULES), ("hook", NAMES), ("vrid", IDS))


@given(
    st.one_of(
        *(st.tuples(st.just(name), st.lists(rows, min_size=2, max_size=4)) for name, rows in ROWS)
    )
)
def test_rows_are_twice_there_exactly_where_the_check_says_so(
    drawn: tuple[str, list[dict[str, Any]]],
) -> None:
    section, rows = drawn
    tables = parsed(WITNESSED) | {section: rows}
    _, said = examine_tables(tables, FILE, offline=True)
    words = (" already.", " metric of ", " same as ", " name of ")
    twice = [p for p in said if p.key.startswith(section) and any(w in p.sentence for w in words)]
    if not twice:
        split(tables, file=FILE)
        return
    found = problems_of(tables)
    assert [(p.key, p.sentence) for p in found] == [(p.key, p.sentence) for p in twice]
    assert all(p.file == FILE and p.value is not None for p in found)


@pytest.mark.parametrize(
    ("section", "row", "name"),
    [
        ("vrid", {"id": 51, "interface": "lan0"}, "51"),
        ("route", {"destination": "10.0.0.0/8"}, "10.0.0.0/8 table 254 metric 0"),
        ("route", {"destination": "default", "metric": 9}, "0.0.0.0/0 table 254 metric 9"),
        ("route", {"destination": "default", "gateway": "fd77::9"}, "::/0 table 254 metric 0"),
        ("rule", {"priority": 1, "table": 2}, "1 table 2"),
        (
            "rule",
            {
                "priority": 1,
                "table": 2,
                "source": "10.0.0.0/8",
                "destination": "10.1.0.0/16",
                "fwmark": 1,
                "fwmask": 255,
                "interface": "lan0",
                "family": "ipv4",
            },
            "1 from 10.0.0.0/8 to 10.1.0.0/16 fwmark 0x1/0xff iif lan0 family ipv4 table 2",
        ),
        ("hook", {"name": "mail", "exec": "/bin/true"}, "mail"),
        ("linkset", {"name": "lan", "interfaces": ["lan0"]}, "lan"),
        ("monitor", {"name": "up", "kind": "route"}, "up"),
        ("timers", {}, ONLY),
        ("policy", {"strict": True}, ONLY),
    ],
)
def test_what_identifies_a_row(section: str, row: dict[str, Any], name: str) -> None:
    assert identity(section, row) == name


def test_numbers_are_in_order_and_links_before_what_lies_behind_them() -> None:
    tables = join(*split(parsed(EVERYTHING)))
    assert [vrid["id"] for vrid in tables["vrid"]] == [7, 51]
    assert [route["destination"] for route in tables["route"]] == [
        "10.77.9.0/24",
        "default",
        "default",
    ]


@pytest.mark.parametrize(
    ("old", "new", "key", "value", "says"),
    [
        ("[policy]\nstrict", "[policy]\nstirct", "policy.stirct", "false", "you mean `strict`?"),
        ("[policy]", "[polcy]", "polcy", None, "is not a section. Did you mean `policy`?"),
        ("id = 7\ninterface", "idd = 7\ninterface", "vrid[1].idd", "7", "Did you mean `id`?"),
        ("id = 7\ninterface", "id = 300\ninterface", "vrid[1].id", "300", "from 1 to 255"),
        ("id = 7\ninterface", "id = 51\ninterface", "vrid[1].id", "51", "that of vrid[0] already"),
        ("[[hook]]", "[hook]", "hook", None, "write [[hook]]"),
        ('profile = "fast"', "hello_us = 1979-05-27", "timers.hello_us", "1979-05-27", "integer"),
    ],
)
def test_what_a_file_shares_is_refused_as_ever(
    old: str, new: str, key: str, value: str | None, says: str
) -> None:
    assert EVERYTHING.count(old) == 1
    found = problems_of(parsed(EVERYTHING.replace(old, new)))
    problem = next(problem for problem in found if problem.key == key)
    assert problem.file == FILE
    assert value is None or problem.value == value
    assert says in problem.sentence


@pytest.mark.parametrize(
    ("shared", "key", "says"),
    [
        ({"node": {ONLY: {"name": "b"}}}, "node", "each node's own"),
        ({"link": {"ha0": {"interface": "ha0"}}}, "link", "each node's own"),
        ({"vrids": {"51": {}}}, "vrids", "Did you mean `vrid`?"),
        ({"timers": {"x": {}}}, "timers", "is one table"),
        ({"timers": {ONLY: {}, "x": {}}}, "timers", "is one table"),
        ({"vrid": {"5": {"id": 51, "interface": "lan0"}}}, "vrid 5", 'this row is "51"'),
        ({"policy": {ONLY: {"preferred": True}}}, "policy.preferred", "each node's own"),
        ({"timers": {ONLY: {"accept_host": True}}}, "timers.accept_host", "each node's own"),
        (
            {"vrid": {"51": {"id": 51, "interface": "lan0", "vips_file": "x"}}},
            "vrid 51.vips_file",
            "names a file of one node",
        ),
    ],
)
def test_a_document_that_no_file_could_be_is_refused(
    shared: dict[str, Any], key: str, says: str
) -> None:
    config, (problem,) = examine({}, shared, source=SOURCE, offline=True)
    assert config is None
    assert (problem.file, problem.key) == (DOCUMENT, key)
    assert says in problem.sentence


def test_rows_of_a_document_are_examined_like_those_of_a_file() -> None:
    local, shared = split(parsed(EVERYTHING))
    shared["vrid"]["51"] = {"id": 51, "interface": "lan0", "vipz": ["10.77.0.10"]}
    config, problems = examine(local, shared, source=SOURCE, offline=True)
    assert config is None
    assert [(p.file, p.key, p.sentence) for p in problems if not p.warning] == [
        (DOCUMENT, "vrid 51.vipz", "is not a key. Did you mean `vips`?")
    ]


def test_problems_name_rows_and_whose_they_are() -> None:
    local, shared = split(parsed(EVERYTHING))
    shared["vrid"]["51"] = {"id": 51, "interface": "lan0", "vips": ["10.78.0.10"]}
    local["link"] = [{**local["link"][0], "peer": "nonsense"}, local["link"][1]]
    local["policy"] = {"preferred": 5}
    config, problems = examine(local, shared, source=SOURCE, offline=True)
    assert config is None
    assert [str(problem) for problem in problems if not problem.warning] == [
        f"{FILE}: policy.preferred = 5: should be true or false.",
        f'{DOCUMENT}: vrid 51.vips = "10.78.0.10": stands in vrid 7 already.',
    ]
    local["policy"] = {"preferred": True, "strict": True}
    config, problems = examine(local, shared, source=SOURCE, offline=True)
    assert f"{FILE}: link[0].peer" in "".join(map(str, problems))


def test_what_is_a_nodes_own_stays_in_its_file() -> None:
    text = EVERYTHING.replace("[policy]", "[policy]\npreferred = true")
    text = text.replace("[timers]", "[timers]\naccept_host = true")
    local, shared = split(parsed(text))
    assert local["policy"] == {"preferred": True}
    assert local["timers"] == {"accept_host": True}
    assert shared == split(parsed(EVERYTHING))[1]
    assert config_of(join(local, shared)).policy.preferred
    other = split(parsed(EVERYTHING))[0]
    assert not config_of(join(other, shared)).policy.preferred
    assert set(LOCAL_KEYS) <= SHARED


def test_a_file_that_says_nothing_but_its_own_keys_shares_nothing() -> None:
    local, shared = split({"policy": {"preferred": True}, "timers": {}})
    assert (local, shared) == ({"policy": {"preferred": True}}, {})
    assert join(local, shared) == {"policy": {"preferred": True}}


def test_addresses_of_a_file_become_part_of_the_document(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("10.79.0.1 # one\n\nFD79::1\n")
    row = {"id": 7, "interface": "wan0", "vips": ["10.78.0.10"], "vips_file": "more"}
    _, shared = split({"vrid": [row]}, file=str(tmp_path / "twinbeat.toml"))
    vips = ["10.78.0.10", "10.79.0.1", "fd79::1"]
    assert shared == {"vrid": {"7": {"id": 7, "interface": "wan0", "vips": vips}}}
    assert "vips_file" in row
    row["vips_file"] = "none"
    with pytest.raises(ConfigError, match=r"vrid\[0\].vips_file.*can't be read: No such file"):
        split({"vrid": [row]}, file=str(tmp_path / "twinbeat.toml"))


def test_names_of_interfaces_become_devices_of_this_node() -> None:
    text = EVERYTHING + '[interfaces]\nlan0 = "eth3"\nlan1 = "eth4"\n'
    local, shared = split(parsed(text))
    config, _ = examine(local, shared, source=SOURCE, offline=True)
    assert config is not None
    assert [vrid.interface for vrid in config.vrids] == ["wan0", "eth3"]
    assert [route.interface for route in config.routes] == ["eth3", "", ""]
    assert config.linksets[0].interfaces == ("eth4", "lan2")
    assert [link.interface for link in config.links] == ["ha0", "lan0"]
    assert shared["vrid"]["51"]["interface"] == "lan0"


class Nothing:
    """A machine with one interface."""

    def interfaces(self) -> dict[str, str]:
        return {"eth0": ""}

    def device(self, name: str) -> Device:
        return Device()

    def addresses(self) -> list[Address]:
        return []


def test_a_device_that_is_not_there_is_complained_of_by_both_names() -> None:
    local, shared = split(parsed(EVERYTHING + '[interfaces]\nlan0 = "eth3"\n'))
    _, problems = examine(local, shared, source=SOURCE, system=Nothing())
    (problem,) = (p for p in problems if p.key == "vrid 51.interface")
    assert (problem.file, problem.value) == (DOCUMENT, '"eth3"')
    assert problem.sentence.endswith("([interfaces] calls it lan0.)")


def test_a_name_is_no_device_of_another_name() -> None:
    local, shared = split(parsed(EVERYTHING + '[interfaces]\nlan0 = "lan1"\nlan1 = "eth4"\n'))
    _, problems = examine(local, shared, source=SOURCE, offline=True)
    assert [p.key for p in problems if not p.warning] == ["interfaces.lan0"]


def test_a_document_takes_the_place_of_what_the_file_shares() -> None:
    tables = parsed(EVERYTHING)
    _, shared = split(parsed(WITNESSED))
    joined = join(tables, shared)
    assert joined["node"] == tables["node"]
    assert SHARED & joined.keys() == shared.keys()


def test_nothing_given_is_changed() -> None:
    tables = parsed(EVERYTHING)
    local, shared = split(tables)
    join(local, shared)["vrid"][0]["id"] = 1
    shared["policy"][ONLY]["strict"] = True
    assert tables == parsed(EVERYTHING)
    assert "7" in shared["vrid"]
    assert shared["vrid"]["7"]["id"] == 7


def test_every_section_is_one_or_the_other() -> None:
    assert not SHARED & NODE_LOCAL
    assert SECTIONS.keys() <= SHARED | NODE_LOCAL


def test_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        split({"vrid": 5}, file=str(tmp_path))
