# SPDX-License-Identifier: Apache-2.0
"""Routes, rules, injected addresses and hooks in the configuration: what is taken, what isn't."""

from pathlib import Path

import pytest

from twinbeat.config.compare import compare
from twinbeat.config.load import examine
from twinbeat.config.model import Config
from twinbeat.config.problems import Problem
from unit.test_config_load import GOOD, Machine


def examined(
    tmp_path: Path, tables: str, *, offline: bool = True, vrid: str = ""
) -> tuple[Config | None, list[Problem]]:
    directory = tmp_path / "keys"
    directory.mkdir(exist_ok=True)
    key = directory / "1.key"
    key.write_text("00112233445566778899aabbccddeeff\n")
    key.chmod(0o600)
    file = tmp_path / "twinbeat.toml"
    text = GOOD.format(keys=directory)
    assert "id = 51\n" in text
    file.write_text(text.replace("id = 51\n", f"id = 51\n{vrid}") + tables)
    return examine(file, offline=offline, system=Machine())


def route(**keys: object) -> str:
    shown = {True: "true", False: "false"}
    lines = [
        f"{name} = {shown[value] if isinstance(value, bool) else repr(value)}"
        for name, value in keys.items()
    ]
    return "\n[[route]]\n" + "\n".join(lines) + "\n"


GATEWAY = {"gateway": "10.77.0.9"}


@pytest.mark.parametrize(
    ("tables", "path", "says"),
    [
        (route(destination="10.0.0.0/8", onlink=True, **GATEWAY), "route[0].onlink", "interface"),
        (
            route(destination="10.0.0.0/8", type="blackhole", **GATEWAY),
            "route[0].gateway",
            'nothing with type = "blackhole"',
        ),
        (
            route(destination="10.0.0.0/8", type="prohibit", mtu=1400),
            "route[0].mtu",
            'nothing with type = "prohibit"',
        ),
        (route(destination="10.0.0.0/8", type="local"), "route[0].type", '"unreachable"'),
        (route(destination="10.0.0.0/8", mtu=60, **GATEWAY), "route[0].mtu", "less than any"),
        (
            route(destination="2001:db8::/64", gateway="fd77::9", mtu=1279),
            "route[0].mtu",
            "less than any",
        ),
        (
            route(destination="10.0.0.0/8", source="fd77::1", **GATEWAY),
            "route[0].source",
            "family",
        ),
        (route(destination="10.0.0.0/8", metric=-1, **GATEWAY), "route[0].metric", "from 0"),
        (
            route(destination="default", **GATEWAY) + route(destination="0.0.0.0/0", **GATEWAY),
            "route[1]",
            "destination, table and metric of route[0]",
        ),
        ("\n[[rule]]\ntable = 300\n", "rule[0].priority", "is missing"),
        ("\n[[rule]]\npriority = 0\ntable = 300\n", "rule[0].priority", "from 1"),
        (
            '\n[[rule]]\npriority = 1\ntable = 300\nsource = "10.0.0.1/8"\n',
            "rule[0].source",
            "host bits",
        ),
        (
            '\n[[rule]]\npriority = 1\ntable = 300\nsource = "10.0.0.0/8"\n'
            'destination = "fd77::/64"\n',
            "rule[0]",
            "different families",
        ),
        (
            '\n[[rule]]\npriority = 1\ntable = 300\nsource = "10.0.0.0/8"\nfamily = "ipv6"\n',
            "rule[0].family",
            "not that of source",
        ),
        (
            "\n[[rule]]\npriority = 1\ntable = 300\nfwmark = 0x100\nfwmask = 0xff\n",
            "rule[0].fwmark",
            "hides",
        ),
        ("\n[[rule]]\npriority = 1\ntable = 300\n" * 2, "rule[1]", "the same as rule[0]"),
        ('\n[[hook]]\nname = "x"\nexec = "bin/x"\n', "hook[0].exec", "an absolute path"),
        ('\n[[hook]]\nname = "x"\nexec = "/x"\nevents = []\n', "hook[0].events", "never run"),
        (
            '\n[[hook]]\nname = "x"\nexec = "/x"\nevents = ["claiming"]\n',
            "hook[0].events",
            '"peer-lost"',
        ),
        ('\n[[hook]]\nname = "x"\nexec = "/x"\n' * 2, "hook[1]", "the name of hook[0]"),
        ('\n[[hook]]\nname = "x"\nexec = "/x"\ntimeout_s = 0\n', "hook[0].timeout_s", "from 1"),
        ("\n[inject]\ntable = 0\n", "inject.table", "from 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, tables: str, path: str, says: str) -> None:
    _, problems = examined(tmp_path, tables)
    assert [problem.key for problem in problems] == [path], problems
    assert says in str(problems[0])


@pytest.mark.parametrize(
    ("vrid", "path"),
    [
        ('uplinks = ["ha0"]\n', "vrid[0].uplinks"),
        ('inject = true\nuplinks = ["lan0"]\n', "vrid[0].uplinks"),
    ],
)
def test_uplinks_are_of_injected_addresses_and_each_another(
    tmp_path: Path, vrid: str, path: str
) -> None:
    _, problems = examined(tmp_path, "", vrid=vrid)
    assert [problem.key for problem in problems] == [path]


def test_an_injected_address_has_no_virtual_mac(tmp_path: Path) -> None:
    config, problems = examined(tmp_path, "", vrid='inject = true\nuplinks = ["ha0"]\n')
    assert problems == []
    assert config is not None
    assert not config.vrids[0].vmac


def test_an_uplink_that_is_not_there_is_named_by_its_key(tmp_path: Path) -> None:
    _, problems = examined(tmp_path, "", vrid='inject = true\nuplinks = ["gone0"]\n', offline=False)
    assert [(problem.key, problem.value) for problem in problems] == [
        ("vrid[0].uplinks", '"gone0"')
    ]


def test_a_route_over_an_interface_that_comes_later_is_only_warned_of(tmp_path: Path) -> None:
    tables = route(destination="10.0.0.0/8", interface="tun0")
    config, problems = examined(tmp_path, tables, offline=False)
    assert config is not None
    (warning,) = problems
    assert (warning.key, "no such interface" in str(warning)) == ("route[0].interface", True)


def test_a_hook_that_anybody_can_change_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "hook"
    program.write_text("#!/bin/sh\n")
    tables = f'\n[[hook]]\nname = "x"\nexec = "{program}"\n'
    program.chmod(0o755)
    config, problems = examined(tmp_path, tables, offline=False)
    assert (config is not None, problems) == (True, [])
    program.chmod(0o757)
    config, problems = examined(tmp_path, tables, offline=False)
    assert config is None
    assert "changed by anybody" in str(problems[0])
    program.chmod(0o644)
    assert "no program" in str(examined(tmp_path, tables, offline=False)[1][0])
    program.unlink()
    assert "can't be run" in str(examined(tmp_path, tables, offline=False)[1][0])


def test_what_changes_is_named_by_what_identifies_it(tmp_path: Path) -> None:
    one = '\n[[rule]]\npriority = 5\ntable = 300\n[[hook]]\nname = "x"\nexec = "/x"\n'
    before, _ = examined(tmp_path, one + route(destination="default", metric=5, **GATEWAY))
    after, _ = examined(
        tmp_path,
        one.replace('"/x"', '"/y"') + route(destination="default", metric=5, mtu=1400, **GATEWAY),
    )
    assert before is not None
    assert after is not None
    changes = compare(before, after)
    assert [change.key for change in changes] == [
        "route[default table 254 metric 5].mtu",
        "hook[x].exec",
    ]
    assert not any(change.restart for change in changes)
