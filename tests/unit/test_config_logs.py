# SPDX-License-Identifier: Apache-2.0
"""Log sources and log clients in the configuration: what is refused, and that each is named."""

from __future__ import annotations

import pytest

from unit.test_config_syncing import problems

RIGHT = """
[weblog]
size_mb = 64
full = "drop-oldest"
[[logsource]]
name = "web"
kind = "nginx"
path = "/var/log/nginx/access.log"
format = '$remote_addr "$request"'
[[logsource]]
name = "lb"
kind = "haproxy"
listen = "127.0.0.1:5514"
[[logclient]]
name = "logs1"
fingerprint = "{digits}"
""".format(digits="0f" * 32)


def test_what_is_right_is_taken() -> None:
    assert [each for each in problems(RIGHT) if not each.warning] == []


@pytest.mark.parametrize(
    ("before", "after", "key", "wrong"),
    [
        ('path = "/var/log/nginx/access.log"', "", "logsource[0].path", "one of path"),
        ("/var/log/nginx/access.log", "access.log", "logsource[0].path", "absolute path"),
        ("/var/log/nginx/access.log", "/etc/./twinbeat/keys/1.key", "logsource[0].path", "outside"),
        (
            'path = "/var/log/nginx/access.log"',
            'socket = "/run/twinbeat/control.sock"',
            "logsource[0].socket",
            "outside",
        ),
        ('"nginx"', '"lighttpd"', "logsource[0].kind", '"nginx", "haproxy"'),
        ("127.0.0.1:5514", "127.0.0.1", "logsource[1].listen", "ADDRESS:PORT"),
        ('name = "lb"', 'name = "web"', "logsource[1]", "has the name of logsource[0]"),
        ("0f0f0f", "0F0f0f", "logclient[0].fingerprint", "64 hexadecimal digits"),
        ("size_mb = 64", "size_mb = 1", "weblog.size_mb", "16"),
        ("size_mb = 64", 'listen = "here"', "weblog.listen", "IPv4 or IPv6"),
    ],
)
def test_what_is_wrong_is_named(before: str, after: str, key: str, wrong: str) -> None:
    assert before in RIGHT
    found = [each for each in problems(RIGHT.replace(before, after)) if not each.warning]
    assert [each.key for each in found] == [key]
    assert wrong in found[0].sentence


def test_one_certificate_is_one_client() -> None:
    twice = RIGHT + '[[logclient]]\nname = "logs2"\nfingerprint = "' + "0f" * 32 + '"\n'
    (found,) = [each for each in problems(twice) if not each.warning]
    assert found.key == "logclient[1].fingerprint"
