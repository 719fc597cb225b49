# SPDX-License-Identifier: Apache-2.0
"""What datagrams of syslog say, as nginx, haproxy and logger really send them."""

from __future__ import annotations

import calendar
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinbeat.weblog.syslog import escaped, understand

NOW = calendar.timegm((2026, 11, 23, 22, 0, 0))
NGINX = b'<190>Nov 23 21:59:58 gw1 nginx: 10.0.0.1 - - [..] "GET / HTTP/1.1" 200 5 "-" "curl: [x]"'
HAPROXY = b"<134>Nov 23 21:59:58 haproxy[1234]: 10.0.0.1:4 [23/Nov/2026:21:59:58.001] web web/s1 0"
NEW = (
    b'<165>1 2026-11-23T21:59:58.003Z gw1 haproxy 1234 ID47 [a@1 k="v\\]"][b] \xef\xbb\xbfGET / 200'
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_nginx() -> None:
    said = understand(NGINX, NOW)
    assert said.message.startswith(b"10.0.0.1 - - [..]")
    assert said.message.endswith(b'"curl: [x]"')
    assert (said.priority, said.host, said.program, said.process) == (190, b"gw1", b"nginx", b"-")
    assert said.time == b"2026-11-23T21:59:58+00:00"


def test_haproxy_says_no_host() -> None:
    said = understand(HAPROXY, NOW)
    assert said.message.startswith(b"10.0.0.1:4 [23/Nov")
    assert (said.host, said.program, said.process) == (b"-", b"haproxy", b"1234")


def test_rfc_5424() -> None:
    said = understand(NEW, NOW)
    assert said.message == b"GET / 200"
    assert said.line == b"<165>2026-11-23T21:59:58.003Z gw1 haproxy 1234 GET / 200"
    assert understand(b"<0>1 - - - - - -", NOW).message == b""


def test_a_time_of_last_year() -> None:
    january = calendar.timegm((2027, 1, 1, 0, 0, 1))
    stamp = b"<190>Dec 31 23:59:59 gw1 nginx: x"
    assert understand(stamp, january).time == b"2026-12-31T23:59:59+00:00"


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"hello",
        b"<>Nov 23 21:59:58 gw1 nginx: x",
        b"<999>Nov 23 21:59:58 gw1 nginx: x",
        b"<190>Nix 23 21:59:58 gw1 nginx: x",
        b"<190>Nov 99 21:59:58 gw1 nginx: x",
        b"<190>2 2026-11-23T21:59:58Z gw1 app - - - x",
        b"<190>1 2026-11-23T21:59:58Z gw1 app - - [unfinished x",
    ],
)
def test_malformed_ones_are_kept_as_they_came(datagram: bytes) -> None:
    said = understand(datagram, NOW)
    assert said.malformed
    assert said.message == said.line == datagram


@given(st.binary(max_size=300))
def test_anything_is_understood_or_kept(datagram: bytes) -> None:
    for each in (datagram, b"<190>Nov 23 21:59:58 " + datagram, b"<1>1 " + datagram):
        said = understand(each, NOW)
        assert said.message in each
        assert b"\n" not in escaped(said.line)


def test_a_newline_within_is_written_as_two_characters() -> None:
    assert escaped(b"one\ntwo\r\n\0") == b"one\\ntwo"
