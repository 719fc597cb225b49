# SPDX-License-Identifier: Apache-2.0
"""Monitors and link sets in the configuration: what is taken, and what each mistake is called."""

import re
from pathlib import Path

import pytest

from twinbeat.config.load import examine
from twinbeat.config.model import Config
from twinbeat.config.monitors import PROTOCOLS, protocol_number
from twinbeat.config.problems import Problem
from twinbeat.config.system import Address, Device

DOCS = Path(__file__).parents[2] / "deploy" / "docs"

BASE = """
[node]
name = "a"
index = 0
[pair]
id = 7
[peer]
name = "b"
[[link]]
interface = "ha0"
direct = true
local = "169.254.10.1"
peer = "169.254.10.2"
[[link]]
interface = "lan0"
local = "10.77.0.1"
peer = "10.77.0.2"
[[vrid]]
id = 51
interface = "lan0"
vips = ["10.77.0.10"]
"""


class Machine:
    """A machine with these interfaces."""

    def interfaces(self) -> dict[str, str]:
        return dict.fromkeys(("ha0", "lan0", "lan1", "wan0"), "")

    def device(self, name: str) -> Device:
        return Device()

    def addresses(self) -> list[Address]:
        return []


def examined(
    tmp_path: Path, more: str, *, offline: bool = True
) -> tuple[Config | None, list[Problem]]:
    file = tmp_path / "twinbeat.toml"
    file.write_text(BASE + more)
    return examine(file, offline=offline, system=Machine())


def monitor(kind: str, **keys: object) -> str:
    lines = [
        f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"
        for key, value in keys.items()
    ]
    return "\n".join(["[[monitor]]", 'name = "m"', f'kind = "{kind}"', *lines, ""])


def complaints(tmp_path: Path, more: str, *, offline: bool = True) -> list[tuple[str, str]]:
    _, problems = examined(tmp_path, more, offline=offline)
    return [
        (problem.key, problem.sentence)
        for problem in problems
        if problem.key.startswith(("monitor", "linkset"))
    ]


@pytest.mark.parametrize(
    "example", re.findall(r"^```toml\n(.*?)^```", (DOCS / "health.md").read_text(), re.M | re.S)
)
def test_the_documentation_s_examples_can_be_used(tmp_path: Path, example: str) -> None:
    config, problems = examined(tmp_path, example)
    assert problems == []
    assert config is not None


@pytest.mark.parametrize(
    ("more", "key", "said"),
    [
        (monitor("route"), "prefix", "is needed for kind route"),
        (monitor("route", prefix="10.0.0.7/8"), "prefix", "the network is 10.0.0.0/8"),
        (monitor("route", prefix="10.0.0.0"), "prefix", "with its prefix length"),
        (monitor("route", prefix="nowhere/8"), "prefix", "should be a network"),
        (monitor("route", prefix="10.0.0.0/8", protocol="brid"), "protocol", "Did you mean `bird`"),
        (monitor("route", prefix="10.0.0.0/8", protocol="256"), "protocol", "is no protocol"),
        (monitor("route", prefix="10.0.0.0/8", probe="tcp"), "probe", "neighbour or icmp"),
        (monitor("route", prefix="10.0.0.0/8", port=1), "port", "it is for address"),
        (monitor("interface"), "interface", "is needed for kind interface"),
        (monitor("interface", interface="x", command=["/x"]), "command", "it is for script"),
        (monitor("address"), "address", "is needed"),
        (monitor("address", address="host"), "address", "should be an IPv4 or IPv6 address"),
        (monitor("address", address="224.0.0.1"), "address", "not the address of one host"),
        (monitor("address", address="10.0.0.1", probe="tcp"), "port", "needs it"),
        (monitor("address", address="10.0.0.1", port=80), "port", 'goes with probe = "tcp"'),
        (monitor("address", address="10.0.0.1", probe="neighbour"), "interface", "one link"),
        (monitor("address", address="fe80::1"), "interface", "one link"),
        (monitor("process"), "", "needs a pidfile"),
        (monitor("process", pidfile="bird.pid"), "pidfile", "an absolute path"),
        (monitor("script"), "command", "is needed"),
        (monitor("script", command=["check"]), "command", "no PATH is searched"),
        (monitor("script", command=["/x"], weight=1001), "weight", "from 0 to 1000"),
        (monitor("script", command=["/x"], fall=0), "fall", "from 1 to 1000"),
        (monitor("ping"), "kind", "one of"),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, more: str, key: str, said: str) -> None:
    found = complaints(tmp_path, more)
    path = f"monitor[0].{key}".rstrip(".")
    assert [where for where, _ in found] == [path]
    assert said in found[0][1]


@pytest.mark.parametrize(
    ("address", "probe", "said"),
    [
        ("10.77.0.2", "icmp", "the peer's: its death would make this node unfit too"),
        ("10.77.0.2", "tcp", "the peer's"),
        ("10.77.0.1", "icmp", "this node's own, which always answers"),
        ("10.77.0.10", "icmp", "a shared address, which this node answers itself"),
        ("10.77.0.10", "tcp", ""),
        ("10.77.0.254", "icmp", ""),
    ],
)
def test_a_host_that_tells_nothing_of_this_node_is_warned_of(
    tmp_path: Path, address: str, probe: str, said: str
) -> None:
    port = {"port": 443} if probe == "tcp" else {}
    config, problems = examined(tmp_path, monitor("address", address=address, probe=probe, **port))
    assert config is not None
    found = [problem.sentence for problem in problems if problem.key == "monitor[0].address"]
    assert [said in sentence for sentence in found] == ([True] if said else [])


def named(name: str, interface: str = "wan0") -> str:
    return f'[[monitor]]\nname = "{name}"\nkind = "interface"\ninterface = "{interface}"\n'


def linkset(name: str, *members: str) -> str:
    return f'[[linkset]]\nname = "{name}"\ninterfaces = {list(members)}\n'


@pytest.mark.parametrize(
    ("more", "where"),
    [
        (named("m") + named("m", "lan1"), "monitor[1].name"),
        (named("m") + named("n"), "monitor[1].interface"),
        (named("lan0", "wan0"), "monitor[0].name"),
        (named("lan1", "wan0") + linkset("s", "lan1", "wan0"), "monitor[0].name"),
        (named("s") + linkset("s", "lan0", "lan1"), "linkset[0].name"),
        (linkset("lan0", "lan0", "lan1"), "linkset[0].name"),
        (linkset("s", "lan0", "lan1") + linkset("s", "wan0", "ha0"), "linkset[1].name"),
        (linkset("s", "lan0", "lan1") + linkset("t", "lan1", "wan0"), "linkset[1].interfaces"),
        (linkset("s", "lan0", "lan0"), "linkset[0].interfaces"),
        (linkset("s"), "linkset[0].interfaces"),
    ],
)
def test_names_and_members_belong_to_one_thing_only(tmp_path: Path, more: str, where: str) -> None:
    config, _ = examined(tmp_path, more)
    assert config is None
    assert [key for key, _ in complaints(tmp_path, more)] == [where]


def test_a_port_may_be_said_more_about_under_its_own_name(tmp_path: Path) -> None:
    assert complaints(tmp_path, named("lan0", "lan0")) == []
    assert complaints(tmp_path, named("lan1", "lan1") + linkset("s", "lan0", "lan1")) == []


def test_more_monitors_than_anybody_oversees(tmp_path: Path) -> None:
    many = "".join(
        monitor("script", command=["/x"]).replace('"m"', f'"m{number}"') for number in range(129)
    )
    assert complaints(tmp_path, many) == [("monitor", "there can be 128 at most.")]


# -- on the machine ------------------------------------------------------------------------------


def test_an_unknown_interface_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    (found,) = complaints(tmp_path, named("m", "lan9"), offline=False)
    assert found[0] == "monitor[0].interface"
    assert "there is no such interface here. Did you mean `lan" in found[1]


def test_a_member_that_is_gone_is_what_a_set_is_for(tmp_path: Path) -> None:
    _, problems = examined(tmp_path, linkset("s", "lan1", "eth9"), offline=False)
    assert [problem.warning for problem in problems if problem.key.startswith("linkset")] == [True]
    _, problems = examined(tmp_path, linkset("s", "eth8", "eth9"), offline=False)
    said = [problem.warning for problem in problems if problem.key.startswith("linkset")]
    assert said == [False, False], "where none is there it is a mistake"


def test_a_program_must_be_there_and_be_executable(tmp_path: Path) -> None:
    program = tmp_path / "check"
    more = monitor("script", command=[str(program)]).replace("'", '"')
    assert complaints(tmp_path, more, offline=False)[0][1] == "there is no such program."
    program.write_text("#!/bin/sh\n")
    assert complaints(tmp_path, more, offline=False)[0][1] == "this user can't execute it."
    program.chmod(0o755)
    assert complaints(tmp_path, more, offline=False) == []


def test_protocols_have_the_kernel_s_numbers() -> None:
    from twinbeat.net.routes import PROTO

    assert protocol_number("") == 0
    assert protocol_number("186") == 186
    assert PROTOCOLS["twinbeat"] == PROTO
    header = Path("/usr/include/linux/rtnetlink.h").read_text()
    known = {
        name.lower(): int(number)
        for name, number in re.findall(r"#define RTPROT_(\w+)\s+(\d+)", header)
    }
    for name in set(PROTOCOLS) - {"twinbeat"}:
        assert PROTOCOLS[name] == known[name]
