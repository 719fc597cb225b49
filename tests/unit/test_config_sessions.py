# SPDX-License-Identifier: Apache-2.0
"""Pools and persistence rules: what can be used, what is refused, and the words for both."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import FieldInfo, fields

from twinbeat.config import edit
from twinbeat.config.persisting import check_sessions
from twinbeat.config.problems import Findings
from twinbeat.config.service import VridSection
from twinbeat.config.sessions import PersistenceSection, PoolSection
from twinbeat.sessions.rules import Persistence, Pool
from twinbeat.sync.document import Put, Tables, applied

VRIDS = (VridSection(id=51, interface="lan0", vips=("192.0.2.10", "2001:db8::10")),)
SERVERS = ["10.0.0.1", "10.0.0.2", "fd00::1"]
WEB = {"name": "web", "servers": SERVERS}
HTTP = {"name": "http", "vips": ["192.0.2.10"], "port": 80, "pool": "web"}


def complaints(pools: list[dict[str, Any]], rules: list[dict[str, Any]]) -> list[tuple[str, str]]:
    findings = Findings("f")
    check_sessions(
        tuple(msgspec.convert(pool, PoolSection) for pool in pools),
        tuple(msgspec.convert(rule, PersistenceSection) for rule in rules),
        VRIDS,
        findings,
    )
    return [(problem.key, problem.sentence) for problem in findings.problems]


def test_what_can_be_used_is_not_complained_of() -> None:
    rules = [
        HTTP,
        HTTP | {"name": "dns", "protocol": "udp", "kind": "source-prefix", "prefix_length": 20},
        HTTP | {"name": "six", "vips": ["2001:db8::10"], "kind": "source-prefix"},
        HTTP | {"name": "both", "port": 81, "kind": "source-destination"},
        {"name": "proxy", "kind": "opaque", "timeout_s": 60},
    ]
    assert complaints([WEB], rules) == []


@pytest.mark.parametrize(
    ("pool", "key", "said"),
    [
        ({"servers": []}, "servers", "one address at least"),
        ({"servers": ["10.0.0.1:80"]}, "servers", "without a port"),
        ({"servers": ["fe80::1%a\nflush ruleset"]}, "servers", "without a port"),
        ({"servers": ["10.0.0.1", "10.0.0.1"]}, "servers", "each server once"),
        ({"disabled": ["10.0.0.9"]}, "disabled", "one of the pool's servers"),
        ({"probe": "tcp"}, "probe_port", "the port that is asked"),
        ({"timeout_ms": 1001}, "timeout_ms", "interval_ms = 1000 at most"),
    ],
)
def test_a_pool_that_can_t_be_used_is_refused(pool: dict[str, Any], key: str, said: str) -> None:
    ((where, sentence),) = complaints([WEB | pool], [])
    assert where == f"pool[0].{key}"
    assert said in sentence


@pytest.mark.parametrize(
    ("rule", "key", "said"),
    [
        ({"vips": []}, "vips", "one address at least"),
        ({"vips": ["192.0.2.10/24"]}, "vips", "without host bits"),
        ({"vips": ["192.0.2.10", "2001:db8::10"]}, "vips", "of one family"),
        ({"vips": ["192.0.2.99"]}, "vips", "is no address of a [[vrid]]"),
        ({"kind": "source-destination", "vips": ["2001:db8::10"]}, "kind", "of IPv6"),
        ({"port": 0}, "port", "that clients ask for"),
        ({"pool": "ftp"}, "pool", "the name of a [[pool]]"),
        ({"prefix_length": 24}, "prefix_length", "but for kind source-prefix"),
        ({"kind": "source-prefix", "prefix_length": 33}, "prefix_length", "32 at most"),
        ({"kind": "opaque", "vips": [], "port": 0}, "pool", "left out"),
    ],
)
def test_a_rule_that_can_t_be_used_is_refused(rule: dict[str, Any], key: str, said: str) -> None:
    ((where, sentence),) = complaints([WEB], [HTTP | rule])
    assert where == f"persistence[0].{key}"
    assert said in sentence


def test_a_pool_needs_servers_of_the_rule_s_family() -> None:
    four = WEB | {"servers": ["10.0.0.1"]}
    ((_, sentence),) = complaints([four], [HTTP | {"vips": ["2001:db8::10"]}])
    assert "a pool with IPv6 servers" in sentence


def test_two_rules_don_t_share_an_address_and_port() -> None:
    other = HTTP | {"name": "other", "vips": ["192.0.2.0/28"]}
    assert complaints([WEB], [HTTP, other | {"port": 81}]) == []
    ((where, sentence),) = complaints([WEB], [HTTP, other])
    assert where == "persistence[1].vips"
    assert "that persistence http has not got" in sentence
    twice = [key for key, _ in complaints([WEB, WEB], [HTTP, HTTP | {"port": 81}])]
    assert twice == ["pool[1]", "persistence[1]"]


def defaults(struct: type[msgspec.Struct]) -> dict[str, Any]:
    def default(field: FieldInfo) -> Any:
        return "required" if field.required else field.default

    return {field.name: default(field) for field in fields(struct)}


def test_the_worker_reads_a_row_as_the_file_does() -> None:
    assert defaults(Pool) == defaults(PoolSection)
    assert defaults(Persistence) == defaults(PersistenceSection)


# ---------------------------------------------------------------------------------- words --------


def switched(tables: Tables, line: str, *, on: bool) -> Tables:
    return applied(tables, edit.switch(tables, line.split(), on=on))


def test_servers_are_disabled_and_enabled_again() -> None:
    both: Tables = {"pool": {"web": WEB, "ftp": {"name": "ftp", "servers": ["10.0.0.1"]}}}
    off = switched(both, "10.0.0.1", on=False)
    assert [row["disabled"] for row in off["pool"].values()] == [["10.0.0.1"], ["10.0.0.1"]]
    assert switched(off, "10.0.0.1", on=False) == off
    assert switched(off, "10.0.0.1", on=True) == both
    one = switched(both, "10.0.0.1 10.0.0.2 pool web", on=False)
    assert one["pool"]["web"]["disabled"] == ["10.0.0.1", "10.0.0.2"]
    assert "disabled" not in one["pool"]["ftp"]


def test_a_server_that_isn_t_there_can_t_be_disabled() -> None:
    tables: Tables = {"pool": {"web": WEB}}
    for line, said in (
        ("10.0.0.9", "10.0.0.9 is not in any pool"),
        ("10.0.0.9 pool web", "10.0.0.9 is not in pool web"),
        ("10.0.0.1 pool wbe", "Did you mean `web`"),
    ):
        with pytest.raises(edit.EditError, match=said):
            edit.switch(tables, line.split(), on=False)


def test_a_server_is_added_to_its_pool() -> None:
    tables: Tables = {"pool": {"web": WEB}}
    (put,) = edit.bind(tables, "server", ["10.0.0.3"], fresh=True)
    assert isinstance(put, Put)
    assert put.row["servers"] == [*SERVERS, "10.0.0.3"]


def test_the_documentation_lists_both_sections() -> None:
    page = Path(__file__).parents[2] / "deploy" / "docs" / "configuration.md"
    assert {"### `[[pool]]`", "### `[[persistence]]`"} <= set(page.read_text().split("\n"))
