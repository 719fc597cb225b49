# SPDX-License-Identifier: Apache-2.0
"""log.conf: what it means, and that nothing wrong in it goes without its line and what is right."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from twinbeat.weblog.client import conf, edit
from twinbeat.weblog.client.model import ConfError, Interval, Kind, Node

PRINT = "ab" * 32
WHOLE = f"""\
# comment
NODE 192.0.2.1 FINGERPRINT {PRINT}
node 2001:db8::2 port 4011 PAIR west fingerprint {":".join(["CD"] * 32)}

metrics [::1]:9705
Filter default ON
Filter shop HOST www.shop.example *.cdn.example IP 10.1.0.0 10.2.0.0 NETMASK 255.255.0.0 ON
Filter probes IP 198.51.100.7/32 OFF
Filter one NODE a SOURCE web SERVER 192.0.2.80

begin shop
    logFormat          CUSTOM "%h \\"%r\\" %{{Referer}}i"
    logInterval        weekly
    logFileSizeLimit   20
    logFilenameFormat  /var/log/x/%v/NS%{{%m%d%y}}t.log
    logtime            GMT
    logExclude         .gif .JPG
end shop
begin one
    logFormat W3C date time c-ip
    logFilenameFormat one.log
end one
"""


def problems(text: str) -> list[tuple[int, str]]:
    with pytest.raises(ConfError) as found:
        conf.parse(text)
    return [(each.line, each.sentence) for each in found.value.problems if not each.warning]


def test_a_whole_file() -> None:
    found = conf.parse(WHOLE)
    assert found.nodes == (
        Node(address="192.0.2.1", fingerprint=PRINT),
        Node(address="2001:db8::2", port=4011, pair="west", fingerprint="cd" * 32),
    )
    assert found.metrics == "[::1]:9705"
    assert [(each.name, each.on) for each in found.filters] == [
        ("shop", True),
        ("probes", False),
        ("one", True),
        ("default", True),
    ]
    shop, probes, one, default = found.filters
    assert shop.hosts == (b"www.shop.example", b"*.cdn.example")
    assert shop.clients == tuple(map(ipaddress.ip_network, ("10.1.0.0/16", "10.2.0.0/16")))
    writing = shop.writing
    assert (writing.kind, writing.format) == (Kind.CUSTOM, '%h "%r" %{Referer}i')
    assert (writing.interval, writing.size_limit) == (Interval.WEEKLY, 20 << 20)
    assert (writing.name, writing.local) == ("/var/log/x/%v/NS%{%m%d%y}t.log", False)
    assert writing.exclude == (b".gif", b".jpg")
    assert probes.clients == (ipaddress.ip_network("198.51.100.7/32"),)
    assert (one.nodes, one.sources) == (("a",), ("web",))
    assert one.servers == (ipaddress.ip_network("192.0.2.80/32"),)
    assert (one.writing.kind, one.writing.local) == (Kind.W3C, False)
    assert one.writing.name == "/var/log/twinbeat-weblog/one.log"
    assert (default.writing.kind, default.writing.interval) == (Kind.RAW, Interval.DAILY)
    assert default.writing.local


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("NODE gateway FINGERPRINT " + PRINT, "names are not asked for"),
        ("NODE 192.0.2.9", "add-node 192.0.2.9"),
        ("NODE 192.0.2.9 FINGERPRINT 12ab", "64 hexadecimal digits"),
        ("NODE 192.0.2.9 PROT 3 FINGERPRINT " + PRINT, "Did you mean `PORT`"),
        ("NODE 192.0.2.9 PORT 70000 FINGERPRINT " + PRINT, "from 1 to 65535"),
        ("NODE 192.0.2.9 FINGERPRINT", "needs a value"),
        ("NSIP 192.0.2.9 username nsroot", "not by passwords"),
        ("Filter", "needs a name"),
        ("Filter bad/name HOST x", "1 to 64 letters"),
        ("Filter f1", "says of no record that it is meant"),
        ("Filter f1 IP 300.1.2.3", "write an address"),
        ("Filter f1 IP 10.0.0.0 NETMASK 255.0.255.0", "255.255.255.0"),
        ("Filter f1 NETMASK 255.0.0.0", "behind the IP"),
        ("Filter f1 HOTS x", "Did you mean `HOST`"),
        ("Filter f1 HOST", "HOST has no value"),
        ("Filter default HOST x", "no criteria"),
        ("Filter f1 HOST 'x", "a quote is opened"),
        ("end f1", "without a `begin`"),
        ("logFormat RAW", "stands outside"),
        ("Fliter f1 HOST x", "Did you mean `Filter`"),
        ("begin nobody\nend nobody", "there is no `Filter nobody`"),
        ("metrics everywhere", "write ADDRESS:PORT"),
        ("begin default\nlogFormt RAW\nend default", "Did you mean `logFormat`"),
        ("begin default\nlogFormat NSCA\nend default", "Did you mean `NCSA`"),
        ('begin default\nlogFormat "%h %Y"\nend default', "`%Y` is no specifier"),
        ("begin default\nlogFormat W3C c-op\nend default", "no field `c-op`"),
        ("begin default\nlogInterval Houly\nend default", "Did you mean `Hourly`"),
        ("begin default\nlogFileSizeLimit 0\nend default", "from 1 to"),
        ("begin default\nlogFilenameFormat a%zb\nend default", "`%z` is unknown"),
        ("begin default\nlogFilenameFormat ../../etc/x\nend default", "no name of a file"),
        ("begin default\nlogtime UTC\nend default", "GMT or LOCAL"),
        ("begin default\nlogExclude gif\nend default", ".gif .jpg"),
        ("begin default\nlogtime GMT\nlogtime GMT\nend default", "in line 4"),
        ("begin default\nlogtime\nend default", "needs a value"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(line: str, said: str) -> None:
    text = f"NODE 192.0.2.1 FINGERPRINT {'ef' * 32}\nFilter default\n{line}\n"
    if line.startswith("Filter default "):
        text = f"\n\n{line}\n"
    first = problems(text)[0]
    assert said in first[1], first
    inside = line.startswith("begin default")
    assert first[0] == (5 if line.count("logtime GMT") == 2 else 4 if inside else 3)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    found = problems("NODE x\nFilter default\nbegin default\nlogFormat Q\nlogtime X\n")
    assert [line for line, _ in found] == [1, 3, 4, 5]


def test_two_filters_may_not_write_one_file() -> None:
    found = problems(
        "Filter default\nFilter f HOST x\nbegin f\nlogFilenameFormat a.log\nend f\n"
        "begin default\nlogFilenameFormat a.log\nend default\n"
    )
    assert len(found) == 1
    assert "files of filter" in found[0][1]


def test_without_a_default_it_is_said_that_records_are_dropped() -> None:
    found = conf.parse("Filter f HOST x\n")
    assert ["no `Filter default`" in each.sentence for each in found.problems] == [True]


def test_a_node_comes_and_goes_and_nothing_else_changes() -> None:
    text = edit.HEAD
    first = Node(address="192.0.2.1", fingerprint=PRINT)
    second = Node(address="192.0.2.1", port=4011, pair="west", fingerprint="cd" * 32)
    both = edit.with_node(edit.with_node(text, first), second)
    assert conf.parse(both).nodes == (first, second)
    assert edit.with_node(both, second) == both
    left, found = edit.without_node(both, "192.0.2.1", 3011)
    assert found
    assert conf.parse(left).nodes == (second,)
    assert edit.without_node(left, "192.0.2.1", 3011) == (left, False)
    assert edit.without_node(left, "192.0.2.1", 4011) == (text, True)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for content, said in ((b"\xff\xfe", "UTF-8"), (b"#" * (2 << 20), "the most")):
        (tmp_path / "log.conf").write_bytes(content)
        with pytest.raises(ConfError, match=said):
            conf.read(tmp_path / "log.conf")
    with pytest.raises(ConfError, match="add-node"):
        conf.read(tmp_path / "gone.conf")
