# SPDX-License-Identifier: Apache-2.0
"""How lines of web servers are read and written, which filter takes them, and into which file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinbeat.weblog.client import conf, names
from twinbeat.weblog.client.files import Files
from twinbeat.weblog.client.formats import seconds
from twinbeat.weblog.client.layouts import NOTHING, layout
from twinbeat.weblog.client.model import FormatError, Interval
from twinbeat.weblog.client.state import State
from twinbeat.weblog.client.writing import Counts, Piece, Source, Writer

COMBINED = (
    b'203.0.113.9 - ann [23/Nov/2026:22:30:01 +0130] "GET /a/b.gif?x=1 HTTP/1.1" 200 512 '
    b'"https://www.example/" "Mozilla 5 (x)"'
)
BROKEN = b'203.0.113.9 - - [23/Nov/2026:22:30:01 +0130] "\\x16\\x03\\x01" 400 150 "-" "-"'
STRANGE = b"what is this"
HAPROXY = (
    b"haproxy[7]: 198.51.100.4:5123 [23/Nov/2026:22:30:01.123] web~ pool/s1 0/0/1/2/3 200 99 - - "
    b'---- 1/1/0/0/0 0/0 {www|x} "POST /login HTTP/2.0"'
)
SYSLOG = b"<190>2026-11-23T21:00:01.123+00:00 web1 nginx - "
AT = 1_795_500_000  # 2026-11-24T06:00:00Z
NGINX = Source("web", "nginx", "")


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Bench:
    """Filters, a source, and what is in which file."""

    def __init__(self, root: Path, text: str) -> None:
        self.root = root
        self.files = Files(State(root / "state.db"))
        self.files.recover()
        self.writer = Writer(conf.parse(text.replace("@", str(root / "out"))), self.files)
        self.counts = Counts()
        self.first = 0

    def put(self, *lines: bytes, source: Source = NGINX, node: str = "a", at: int = AT) -> None:
        payload = b"".join(line + b"\n" for line in lines)
        self.files.begin()
        self.writer.put(
            Piece("1", node, 3, self.first, len(lines), source, at * 10**9, payload), self.counts
        )
        self.files.sync()
        self.files.commit([(("1", node, 3), self.first + len(lines))])
        self.first += len(lines)

    def out(self) -> dict[str, bytes]:
        root = self.root / "out"
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


def written(root: Path, block: str, *lines: bytes, source: Source = NGINX) -> bytes:
    text = f"Filter default\nbegin default\n{block}\nlogFilenameFormat @/x\nend default\n"
    bench = Bench(root, text)
    bench.put(*lines, source=source)
    return bench.out()["x"]


def test_raw_is_what_came(tmp_path: Path) -> None:
    lines = (COMBINED, STRANGE, b"\xff\x00")
    assert written(tmp_path, "logFormat RAW", *lines) == b"\n".join((*lines, b""))


def test_ncsa_in_both_times(tmp_path: Path) -> None:
    local = written(tmp_path / "1", "logFormat NCSA", COMBINED)
    assert local == (
        b'203.0.113.9 - ann [23/Nov/2026:22:00:01 +0100] "GET /a/b.gif?x=1 HTTP/1.1" 200 512\n'
    )
    gmt = written(tmp_path / "2", "logFormat NCSA\nlogtime GMT", COMBINED)
    assert b"[23/Nov/2026:21:00:01 +0000]" in gmt


def test_w3c_has_its_directives_and_no_blanks_in_fields(tmp_path: Path) -> None:
    found = written(tmp_path, "logFormat W3C", COMBINED, STRANGE)
    version, fields, software, begun, record, remark, end = found.split(b"\n")
    assert version == b"#Version: 1.0"
    assert fields.startswith(b"#Fields: date time c-ip cs-username ")
    assert software.startswith(b"#Software: twinbeat-weblog ")
    assert begun.startswith(b"#Start-Date: ")
    assert record == (
        b"2026-11-23 21:00:01 203.0.113.9 ann - - GET /a/b.gif x=1 200 512 - - HTTP/1.1 - "
        b"Mozilla+5+(x) https://www.example/"
    )
    assert len(record.split(b" ")) == len(fields.split(b" ")) - 1
    assert (remark, end) == (b"#Remark: " + STRANGE, b"")


def test_specifiers(tmp_path: Path) -> None:
    block = 'logFormat CUSTOM "%N/%E/%Q %a %m %U?%q %H %s %{User-Agent}i %{X}o %{%H:%M}t %% %X"'
    found = written(tmp_path, block, COMBINED, BROKEN, STRANGE)
    assert found.split(b"\n") == [
        b"a/3/0 203.0.113.9 GET /a/b.gif?x=1 HTTP/1.1 200 Mozilla 5 (x) - 22:00 % web",
        b"a/3/1 203.0.113.9 - -?- - 400 - - 22:00 % web",
        STRANGE,
        b"",
    ]


def test_a_format_of_nginx_s_own(tmp_path: Path) -> None:
    form = '$host $server_addr:$server_port $remote_addr [$time_iso8601] "$request" $request_time'
    line = (
        b'www.example 192.0.2.80:443 2001:db8::7 [2026-11-23T22:00:01+01:00] "GET / HTTP/2.0" 0.25'
    )
    source = Source("web", "nginx", form)
    found = written(tmp_path, 'logFormat "%v %A %p %a %M %T %t"', line, source=source)
    assert found == (
        b"www.example 192.0.2.80 443 2001:db8::7 250000 0.25 23/Nov/2026:22:00:01 +0100\n"
    )


@pytest.mark.parametrize(
    ("kind", "form", "line", "wanted"),
    [
        ("apache", "", COMBINED.replace(b"(x)", b'\\"x\\"'), b"203.0.113.9 200 GET"),
        ("apache", "%v:%p %h %l %u %t \"%r\" %>s %O", b"w:80 ::1 - - [23/Nov/2026:22:30:01 +0130] "
         b'"GET / HTTP/1.1" 304 7', b"::1 304 GET"),
        ("haproxy", "httplog", HAPROXY.partition(b": ")[2], b"198.51.100.4 200 POST"),
        ("syslog", "combined", SYSLOG + COMBINED, b"203.0.113.9 200 GET"),
        ("syslog", "$remote_addr|$status|$request_method", SYSLOG + b"::1|204|PUT",
         b"::1 204 PUT"),
        ("syslog", "[$status]", SYSLOG + b"[301]", b"- 301 -"),
    ],
)  # fmt: skip
def test_other_sources(tmp_path: Path, kind: str, form: str, line: bytes, wanted: bytes) -> None:
    found = written(tmp_path, 'logFormat "%a %s %m"', line, source=Source("s", kind, form))
    assert found == wanted + b"\n"


def test_what_came_by_syslog_has_its_time(tmp_path: Path) -> None:
    block = 'logFormat "%{%H:%M:%S}t %L"'
    line = SYSLOG + b"what happened"
    found = written(tmp_path, block, line, STRANGE, source=Source("s", "syslog", ""))
    assert found == b"22:00:01 " + line + b"\n" + STRANGE + b"\n"


def test_formats_that_can_t_be_read_say_why() -> None:
    assert layout("raw", "$a") == NOTHING
    for kind, form, said in (
        ("nginx", "$host$status", "side by side"),
        ("nginx", "conbined", "none of"),
        ("haproxy", "tcplog", "none of"),
        ("nginx", "$" * 5000, "characters"),
        ("apache", "%{a}t %{b}t %{c}t %h", "blanks"),
    ):
        with pytest.raises(FormatError, match=said):
            layout(kind, form)


@pytest.mark.parametrize("told", [b"inf", b"-inf", b"nan", b"1e400", b"1e300", b"-1", b"9" * 300])
def test_numbers_that_are_none_stop_nothing(tmp_path: Path, told: bytes) -> None:
    """Whoever may send a datagram may write anything into a line."""
    text = 'Filter default\nbegin default\nlogFormat CUSTOM "%{%Y}t %D %T"\nlogFilenameFormat @/x\n'
    bench = Bench(tmp_path, text + "end default\n")
    bench.put(b"[" + told + b"] 0.5", source=Source("s", "nginx", "[$msec] $request_time"))
    bench.put(b"[1] " + told, source=Source("s", "nginx", "[$msec] $request_time"))
    first, second = bench.out()["x"].splitlines()
    assert first == b"2026 500000 0.5"
    assert second.startswith(b"1970 ")


def test_names_are_never_longer_than_a_file_system_takes(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, "Filter default\nbegin default\nlogFilenameFormat @/%v/%v%A%v.log\nend default\n"
    )
    for host in (b"\xff" * 200, b"a" * 99 + b"b", b"\xff" * 99 + b"x"):
        bench.put(host + b" 192.0.2.1", source=Source("s", "nginx", "$host $server_addr"))
    assert len(bench.out()) == 3
    for name in bench.out():
        assert all(len(part.encode()) <= 255 for part in name.split("/"))


def test_a_line_takes_no_time_that_grows_with_its_square() -> None:
    form = layout("nginx", '$host "$request" $upstream_addr $upstream_status $status')
    reader = form.reader(("host", "status", "path"))
    began = time.process_time()
    line = b'h "GET / HTTP/1.1" 10.0.0.1:80, 10.0.0.2:80 : 10.0.0.3:80 502 200 x'
    assert reader.rows(line + b"\n", 1) == [(line, b"h", b"200 x", b"/")]
    hostile = b'h "' + b"GET " * 8000 + b'" ' + b", " * 8000 + b" : " * 8000
    reader.rows(hostile + b"\n", 1)
    reader.rows(b'"' * 60000 + b"\n", 1)
    reader.rows(b'h "' + b"\\" * 60000 + b"\n", 1)
    reader = layout("haproxy", "").reader(("status", "path"))
    reader.rows(b"1:2 [x] f b/s 0 200 1 " + b' "' * 30000 + b"\n", 1)
    reader.rows(HAPROXY.partition(b" {")[0] + b" {" + b' "x' * 20000 + b"\n", 1)
    assert time.process_time() - began < 2


def test_the_first_filter_that_matches_takes_a_record(tmp_path: Path) -> None:
    form = "$host $server_addr $remote_addr $request_uri"
    source = Source("web", "nginx", form)
    bench = Bench(
        tmp_path,
        "Filter off IP 198.51.100.0 NETMASK 255.255.255.0 OFF\n"
        "Filter shop HOST shop.example *.shop.example IP 203.0.113.0/24 ON\n"
        "Filter srv SERVER 192.0.2.80 ON\nFilter other NODE b\nFilter default\n"
        + "".join(
            f"begin {name}\nlogFilenameFormat @/{name}\nend {name}\n"
            for name in ("shop", "srv", "other")
        )
        + "begin default\nlogFilenameFormat @/rest\nlogExclude .gif .jpg\nend default\n",
    )
    bench.put(
        b"shop.example 192.0.2.1 203.0.113.1 /1",
        b"WWW.shop.example:8443 192.0.2.1 203.0.113.2 /2",
        b"shop.example 192.0.2.80 192.0.2.200 /3",
        b"shop.example 192.0.2.80 198.51.100.9 /4",
        b"notshop.example 192.0.2.1 203.0.113.1 /5",
        b"x 192.0.2.1 bogus /6.GIF",
        b"x 192.0.2.1 ::ffff:198.51.100.1 /7",
        source=source,
    )
    bench.put(b"x 192.0.2.1 192.0.2.9 /8", source=source, node="b")
    ends = {name: [line[-1:] for line in text.splitlines()] for name, text in bench.out().items()}
    assert ends == {"shop": [b"1", b"2"], "srv": [b"3"], "rest": [b"5"], "other": [b"8"]}
    assert bench.counts.off == {"off": 2}
    assert bench.counts.excluded == {"default": 1}
    assert bench.counts.written == {"shop": 2, "srv": 1, "default": 1, "other": 1}


def test_what_no_filter_takes_is_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "Filter f IP 203.0.113.9\nbegin f\nlogFilenameFormat @/f\nend f\n")
    bench.put(COMBINED, STRANGE, COMBINED)
    assert bench.counts.unmatched == 1
    assert bench.out() == {"f": (COMBINED + b"\n") * 2}


def test_names_from_records_stay_in_their_directory(tmp_path: Path) -> None:
    source = Source("web", "nginx", "$host $request_uri")
    bench = Bench(
        tmp_path,
        "Filter default\nbegin default\nlogtime GMT\n"
        "logFilenameFormat @/%v/%N-%X-%{%y%m%d}t-%x.log\nend default\n",
    )
    bench.put(b"../../etc /a.tar.gz", b"A.example /b", b"\x01 /c.", source=source)
    assert list(bench.out()) == [
        "%01/a-web-261124--.log",
        "______etc/a-web-261124-gz.log",
        "a_example/a-web-261124--.log",
    ]


def test_invented_hosts_make_no_files(tmp_path: Path) -> None:
    source = Source("web", "nginx", "$host $request_uri")
    bench = Bench(tmp_path, "Filter default\nbegin default\nlogFilenameFormat @/%v\nend default\n")
    count = names.VALUES_MAX + 50
    bench.put(*(b"h%d /" % number for number in range(count)), source=source)
    found = bench.out()
    assert len(found) == names.VALUES_MAX + 1
    assert found[names.OTHERS].count(b"\n") == 50
    assert bench.writer.crowded_total == 50


def test_files_by_time_go_by_when_the_node_got_the_record(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path,
        "Filter default\nbegin default\nlogInterval Hourly\nlogFilenameFormat @/h\nend default\n",
    )
    bench.put(b"1")
    bench.put(b"2", at=AT + 3599)
    bench.put(b"3", at=AT + 3600)
    bench.put(b"late", at=AT)
    bench.put(b"4", at=AT + 7200)
    assert bench.out() == {"h": b"1\n2\n", "h.0": b"3\nlate\n", "h.1": b"4\n"}


def test_a_file_that_took_the_place_of_another_one_is_not_cut(tmp_path: Path) -> None:
    """A file system gives the inode of a file that is gone to the next one."""
    name = "Filter default\nbegin default\nlogFilenameFormat @/%{%Y%m%d}t\nend default\n"
    bench = Bench(tmp_path, name)
    bench.put(COMBINED)
    (gone,) = (tmp_path / "out").iterdir()
    # Whatever its name is by now, it is somebody else's: here, the one of another day.
    gone.rename(tmp_path / "out" / "later")
    bench.put(COMBINED, at=AT + 86400)
    with (tmp_path / "out" / "later").open("ab") as file:
        file.write(b"acknowledged\n")
    again = Files(State(tmp_path / "state.db"))
    again.recover()
    assert bench.out()["later"].endswith(b"acknowledged\n")
    assert (again.cut_total, again.short_total) == (0, 0)


def test_what_was_not_counted_is_cut_wherever_it_was_moved_meanwhile(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "Filter default\nbegin default\nlogFilenameFormat @/x\nend default\n")
    bench.put(COMBINED)
    for name in ("x.1", "x.2.gz"):
        with (tmp_path / "out" / "x").open("ab") as file:
            file.write(b"not counted\n")
        (tmp_path / "out" / "x").rename(tmp_path / "out" / name)
        Files(State(tmp_path / "state.db")).recover()
        bench.files.recover()
        bench.put(COMBINED)
    assert bench.out()["x.1"] == COMBINED + b"\n"
    assert bench.out()["x.2.gz"] == COMBINED + b"\nnot counted\n", "it may be another one"
    assert bench.out()["x"] == COMBINED + b"\n"


def test_files_by_size(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path,
        "Filter default\nbegin default\nlogInterval Size\nlogFileSizeLimit 1\n"
        "logFilenameFormat @/s\nend default\n",
    )
    line = b"x" * 300_000
    bench.put(*[line] * 7)
    bench.put(b"y" * (2 << 20))
    bench.put(b"z")
    assert {name: len(text) for name, text in bench.out().items()} == {
        "s": 900_003,
        "s.0": 900_003,
        "s.1": 300_001,
        "s.2": (2 << 20) + 1,
        "s.3": 2,
    }


@pytest.mark.parametrize(
    ("interval", "before", "after"),
    [
        (Interval.HOURLY, "2026-11-24 05:59:59", "2026-11-24 06:00:00"),
        (Interval.DAILY, "2026-11-23 23:59:59", "2026-11-24 00:00:00"),
        (Interval.WEEKLY, "2026-11-28 23:59:59", "2026-11-29 00:00:00"),
        (Interval.WEEKLY, "2026-10-24 23:59:59", "2026-10-25 00:00:00"),
        (Interval.MONTHLY, "2026-11-30 23:59:59", "2026-12-01 00:00:00"),
    ],
)
@pytest.mark.parametrize("local", [False, True])
def test_intervals_begin_when_they_should(
    interval: Interval, before: str, after: str, local: bool
) -> None:
    def second(text: str) -> int:
        moment = time.strptime(text, "%Y-%m-%d %H:%M:%S")
        return int(time.mktime((*moment[:8], -1)) if local else _timegm(moment))

    def label(text: str) -> str:
        return names.period(interval, second(text), local=local)

    assert label(before) < label(after)
    assert second(after) - second(before) == 1
    week = names.period(Interval.WEEKLY, second("2026-10-26 12:00:00"), local=local)
    assert week == "20261025"  # the Sunday on which summer time ends here
    for never in (Interval.SIZE, Interval.NONE):
        assert names.period(never, second(after), local=local) == ""


def _timegm(moment: time.struct_time) -> int:
    import calendar

    return calendar.timegm(moment)


def test_moments_of_all_sources_are_understood() -> None:
    want = _timegm(time.strptime("2026-11-23 21:00:01", "%Y-%m-%d %H:%M:%S"))
    for way, raw in (
        ("clf", b"23/Nov/2026:22:30:01 +0130"),
        ("clf", b"23/Nov/2026:16:00:01 -0500"),
        ("iso", b"2026-11-23T22:00:01+01:00"),
        ("iso", b"2026-11-23T21:00:01Z"),
        ("iso", b"2026-11-23T21:00:01.5+00:00"),
        ("epoch", str(want).encode() + b".123"),
        ("haproxy", b"23/Nov/2026:22:00:01.999"),
    ):
        assert seconds(way, raw) == want, way
    for way in ("clf", "iso", "epoch", "haproxy", ""):
        assert seconds(way, b"-") is None


def test_the_command_says_what_is_wrong_and_ends_with_2(tmp_path: Path) -> None:
    file = tmp_path / "log.conf"
    file.write_text("Filter default\nbegin default\nlogFormat %Y\nend default\n")
    result = subprocess.run(
        [sys.executable, "-m", "twinbeat.weblog.client.cli", "-f", file, "verify", "--offline"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert result.returncode == 2
    assert f"{file}:3: logFormat: `%Y` is no specifier" in result.stderr
