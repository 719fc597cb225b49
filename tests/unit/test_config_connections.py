# SPDX-License-Identifier: Apache-2.0
"""[connections]: over which network, what is refused, and what of it is each node's own."""

import tomllib

import pytest

from twinbeat.config.connections import Ends
from twinbeat.config.load import examine_tables
from twinbeat.config.model import Config
from twinbeat.config.problems import Problem
from twinbeat.config.shared import split
from twinbeat.runtime.shared import connections
from unit.test_config_load import GOOD

FILE = "/etc/twinbeat/twinbeat.toml"
WORDS = GOOD.format(keys="/etc/twinbeat/keys")
TAGGED = WORDS.replace("direct = true", "direct = true\nvlan = 100")


def examined(section: str, file: str = WORDS) -> tuple[Config | None, list[Problem]]:
    tables = tomllib.loads(f"{file}[connections]\n{section}\n")
    return examine_tables(tables, FILE, offline=True)


def found(section: str, file: str = WORDS) -> Config:
    config, told = examined(section, file)
    assert config is not None, told
    return config


def test_they_are_told_over_the_direct_link_unless_something_else_is_said() -> None:
    on = "enabled = true\n"
    assert found(on).connection_ends == Ends("ha0", "169.254.10.1", "169.254.10.2")
    lan = found(on + 'interface = "lan0"')
    assert lan.connection_ends == Ends("lan0", "10.77.0.1", "10.77.0.2")
    own = found(on + 'interface = "sync0"\nlocal = "192.0.2.1"\npeer = "192.0.2.2"')
    assert own.connection_ends == Ends("sync0", "192.0.2.1", "192.0.2.2")
    sync = found(on, WORDS + '[sync]\ninterface = "lan0"\n')
    assert sync.connection_ends == lan.connection_ends


def test_what_isn_t_a_direct_link_is_warned_of() -> None:
    _, told = examined('enabled = true\ninterface = "lan0"')
    (warning,) = [each for each in told if each.key == "connections.interface"]
    assert warning.warning
    assert "isn't authenticated" in warning.sentence
    assert [each for each in examined("enabled = true")[1] if "connections" in each.key] == []


@pytest.mark.parametrize(
    ("section", "file", "key", "says"),
    [
        ("enabled = true", WORDS.replace("direct = true", ""), "interface", "mark a link"),
        ('enabled = true\ninterface = "sync0"', WORDS, "interface", "nothing says"),
        ("enabled = true", TAGGED, "interface", "a link without a VLAN"),
        ('enabled = true\ninterface = "ha0"', TAGGED, "interface", "a link without a VLAN"),
        ('local = "x"', WORDS, "local", "IPv4 or IPv6 address"),
        ('enabled = true\npeer = "169.254.10.1"', WORDS, "peer", "own address"),
        ('enabled = true\npeer = "fd77::2"', WORDS, "peer", "family of 169.254.10.1"),
        ('ignore = ["10.0.0.0/8", "10.0.0.1/8"]', WORDS, "ignore[1]", "a network such as"),
        ('ignore = ["fe80::1%a\\n}"]', WORDS, "ignore[0]", "a network such as"),
        ('protocols = ["tcp", "ipx"]', WORDS, "protocols", "tcp, udp, icmp, icmp6"),
        ("protocols = []", WORDS, "protocols", "one at least"),
        ("port = 3003", WORDS, "port", "the heartbeats"),
        ("refresh_s = -1", WORDS, "refresh_s", "0 to 3600"),
        ("flows_max = 1000", WORDS, "flows_max", "1024"),
    ],
)
def test_what_is_wrong_is_named(section: str, file: str, key: str, says: str) -> None:
    _, told = examined(section, file)
    wrong = [each for each in told if not each.warning]
    assert [each.key for each in wrong] == [f"connections.{key}"]
    assert says in wrong[0].sentence


def test_where_they_are_told_over_is_each_node_s_own() -> None:
    tables = tomllib.loads('[connections]\nenabled = true\nlocal = "192.0.2.1"\n')
    local, shared = split(tables)
    assert local == {"connections": {"local": "192.0.2.1"}}
    assert shared == {"connections": {"": {"enabled": True}}}


def test_the_worker_is_told_what_follows() -> None:
    said = connections(found('enabled = true\nignore = ["192.0.2.0/24"]'))
    assert said.enabled
    own = ("169.254.10.1", "169.254.10.2", "10.77.0.1", "10.77.0.2")
    assert said.ignore == (*own, "192.0.2.0/24")
    assert said.vips == ("10.77.0.10", "fd77::10")
    assert connections(found("enabled = true\ndrop_strays = false")).vips == ()
    assert not connections(found("enabled = false")).enabled
