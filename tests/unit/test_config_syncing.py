# SPDX-License-Identifier: Apache-2.0
"""Synchronization, lists of files and commands: what is refused, and that each is named."""

import tomllib
from pathlib import Path

import pytest

from twinbeat.config.load import examine_tables
from twinbeat.config.model import Config
from twinbeat.config.problems import Problem
from unit.test_config_load import GOOD

FILE = "/etc/twinbeat/twinbeat.toml"
RIGHT = """
[sync]
peer = "169.254.10.2"
listen = "169.254.10.1"
[[file]]
name = "certificates"
paths = ["/etc/haproxy", "/etc/ssl/private/site.pem"]
exclude = ["*.swp"]
command = ["/bin/true"]
[[command]]
name = "nft"
argv = ["/bin/true", "-f", "{file}", "{1}", "{2}"]
undo = ["/bin/true"]
"""


def problems(text: str, *, offline: bool = True) -> list[Problem]:
    tables = tomllib.loads(GOOD.format(keys="/etc/twinbeat/keys") + text)
    return examine_tables(tables, FILE, offline=offline)[1]


def test_the_peer_is_looked_for_where_the_interface_leads() -> None:
    def found(sync: str) -> Config:
        tables = tomllib.loads(GOOD.format(keys="/etc/twinbeat/keys") + sync)
        config, told = examine_tables(tables, FILE, offline=True)
        assert config is not None, told
        return config

    plain = found("")
    first, second = plain.links
    assert plain.sync_peer == first.peer
    assert found(f'[sync]\ninterface = "{second.interface}"').sync_peer == second.peer
    assert found('[sync]\ninterface = "sync0"\npeer = "192.0.2.9"').sync_peer == "192.0.2.9"
    assert found('[sync]\ninterface = "sync0"').sync_peer == first.peer
    told = [each for each in problems('[sync]\ninterface = "sync0"') if "sync" in each.key]
    assert [(each.key, each.warning) for each in told] == [("sync.interface", True)]
    assert "set sync.peer" in told[0].sentence


def test_what_is_right_is_taken() -> None:
    assert [problem for problem in problems(RIGHT) if not problem.warning] == []


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ('peer = "169.254.10.2"', 'peer = "b"', "sync.peer", "an IPv4 or IPv6 address"),
        ('peer = "169.254.10.2"', 'peer = "10.77.0.1"', "sync.peer", "own address"),
        ('listen = "169.254.10.1"', 'listen = "10.77.0.2"', "sync.listen", "peer's address"),
        ('"/etc/haproxy"', '"/"', "file[0].paths", "an absolute path without"),
        ('"/etc/haproxy"', '"/etc/../root"', "file[0].paths", "an absolute path without"),
        ('"/etc/haproxy"', '"etc"', "file[0].paths", "absolute path"),
        (
            'paths = ["/etc/haproxy", ',
            'paths = ["/etc"]\n[[file]]\nname = "x"\npaths = [',
            "file[1].paths",
            "meet those of 'certificates'",
        ),
        (
            'paths = ["/etc/haproxy", "/etc/ssl/private/site.pem"]',
            "paths = []",
            "paths",
            "at least one",
        ),
        ('exclude = ["*.swp"]', 'exclude = [""]', "file[0].exclude", "a name, or an absolute path"),
        ('command = ["/bin/true"]', 'command = ["true"]', "file[0].command", "absolute path"),
        ('["/bin/true", "-f"', '["true", "-f"', "command[0].argv", "absolute path"),
        ('"-f"', '"{x}"', "command[0].argv", "number of an argument"),
        ('["/bin/true", "-f"', '["/bin/{1}", "-f"', "command[0].argv", "named here"),
        ('"{2}"', '"{3}"', "command[0].argv", "without a gap"),
        ('"/etc/haproxy"', '"/etc/twinbeat"', "file[0].paths", "belongs to the node itself"),
        ('"/etc/haproxy"', '"/etc/**"', "file[0].paths", "single names"),
        ('"{2}"', '"{10}"', "command[0].argv", "number of an argument"),
        ('"{1}"', '"a\\u0000"', "command[0].argv", "null character"),
        ('undo = ["/bin/true"]', 'undo = ["true"]', "command[0].undo", "absolute path"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, key: str, says: str) -> None:
    assert RIGHT.count(old) == 1
    (problem,) = (one for one in problems(RIGHT.replace(old, new)) if not one.warning)
    assert problem.key.endswith(key)
    assert says in problem.sentence


def test_names_are_used_once() -> None:
    again = RIGHT.partition("[[file]]")[2]
    found = problems(f"{RIGHT}[[file]]{again}".replace('"/etc/', '"/opt/', 1))
    assert {problem.key for problem in found} >= {"file[1].name", "command[1].name"}


def test_programs_are_looked_at_where_they_run(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.write_text("#!/bin/sh\n")
    open_to_all.chmod(0o777)
    text = RIGHT.replace('undo = ["/bin/true"]', f'undo = ["{open_to_all}"]')
    text = text.replace('command = ["/bin/true"]', 'command = ["/none"]')
    found = {one.key: one for one in problems(text, offline=False)}
    assert "changed by anybody" in found["command[0].undo"].sentence
    assert found["file[0].command"].warning
    assert "No such file" in found["file[0].command"].sentence
