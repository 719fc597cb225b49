# SPDX-License-Identifier: Apache-2.0
"""nginx, haproxy and Apache themselves: what they log, by file and by syslog, is written once."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from twinbeat.weblog.shown import WeblogView
from unit.test_weblog_client_run import Machine
from unit.test_worker_weblog import fingerprint, logging_pair
from unit.worker_pair import free_port

COUNT = 48
"""Requests to each program."""
AT_ONCE = 4
"""The kernel has room for ten datagrams (net.unix.max_dgram_qlen) on a machine without systemd,
and who sends them doesn't wait."""
PATIENCE_S = 60.0

NGINX = """
daemon off; worker_processes 1; pid {root}/pid; error_log stderr warn;
events {{ worker_connections 64; }}
http {{
    access_log {root}/access.log;
    access_log syslog:server=unix:{socket},nohostname combined;
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 "nginx"; }} }}
}}
"""
HAPROXY = """
global
    log stdout format raw local0
    log {udp} format rfc5424 local0
    log {socket} local0
defaults
    mode http
    log global
    option httplog
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend web
    bind 127.0.0.1:{port}
    http-request return status 200
"""
APACHE = """
ServerRoot {root}
ServerName lab
PidFile {root}/pid
Listen 127.0.0.1:{port}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
User www-data
Group www-data
DocumentRoot {root}
ErrorLog {root}/error.log
LogFormat "%h %l %u %t \\"%r\\" %>s %O \\"%{{Referer}}i\\" \\"%{{User-Agent}}i\\"" combined
CustomLog {root}/access.log combined
CustomLog "|/usr/bin/logger -d -u {socket} -p local0.info -t httpd" combined
"""


class Program:
    """One of them, with a directory and a port of its own."""

    def __init__(self, root: Path, name: str, command: list[str], text: str, **more: str) -> None:
        self.root = root / name
        self.root.mkdir()
        self.root.chmod(0o755)
        self.log = self.root / "access.log"
        self.port = free_port()
        conf = self.root / "conf"
        conf.write_text(text.format(root=self.root, port=self.port, **more))
        self._command = [part.format(root=self.root, conf=conf) for part in command]
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        errors = (self.root / "stderr").open("ab")
        with errors, self.log.open("ab") as out:
            self._running = subprocess.Popen(self._command, stdout=out, stderr=errors)

    @property
    def said(self) -> str:
        return (self.root / "stderr").read_text()

    def rotate(self) -> None:
        """As logrotate does it: renamed, and the program told to begin another file."""
        assert self._running is not None
        self.log.rename(self.log.with_suffix(".log.1"))
        self._running.send_signal(signal.SIGUSR1)

    def end(self) -> None:
        if self._running is None:
            return
        self._running.send_signal(signal.SIGTERM)
        try:
            self._running.wait(20)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait(20)

    def ask(self, numbers: range) -> None:
        """One request after the other. Each is answered once: a connection is only tried again
        as long as none was made."""
        connected: http.client.HTTPConnection | None = None
        for number in numbers:
            if connected is None:
                connected = self._connected()
            connected.request("GET", f"/n/{number}?x=1", headers={"User-Agent": "lab 1"})
            answer = connected.getresponse()
            answer.read()
            if answer.will_close:
                connected.close()
                connected = None
        if connected is not None:
            connected.close()

    def _connected(self) -> http.client.HTTPConnection:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            connected = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
            try:
                connected.connect()
            except OSError:
                assert time.monotonic() < deadline, self.said
                time.sleep(0.02)
            else:
                return connected


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Where www-data may look, and where the names of sockets are short."""
    for number in itertools.count():
        made = Path(f"/tmp/twinbeat-{os.getpid()}-{number}")
        with contextlib.suppress(FileExistsError):
            made.mkdir(mode=0o755)
            break
    yield made
    shutil.rmtree(made)


def all_have(count: int) -> Callable[[WeblogView], bool]:
    return lambda seen: all(each.records >= count for each in seen.sources)


async def until(holds: Callable[[], Any], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what()
        await asyncio.sleep(0.02)


def test_what_real_programs_log_is_written_once(tmp_path: Path, root: Path) -> None:
    asyncio.run(play(tmp_path, root))


async def play(tmp_path: Path, root: Path) -> None:
    udp = f"127.0.0.1:{free_port()}"
    sockets = {name: str(root / f"{name}.sock") for name in ("nginx", "haproxy", "apache")}
    programs = {
        "nginx": Program(
            root, "nginx", ["nginx", "-p", "{root}", "-c", "{conf}"], NGINX, socket=sockets["nginx"]
        ),
        "haproxy": Program(
            root, "haproxy", ["haproxy", "-db", "-f", "{conf}"], HAPROXY,
            udp=udp, socket=sockets["haproxy"],
        ),
        "apache": Program(
            root, "apache", ["/usr/sbin/apache2", "-f", "{conf}", "-D", "FOREGROUND"], APACHE,
            socket=sockets["apache"],
        ),
    }  # fmt: skip
    sources = {
        f"{name}-file": {"kind": name, "path": str(each.log)} for name, each in programs.items()
    }
    sources |= {f"{name}-unix": {"kind": name, "socket": at} for name, at in sockets.items()}
    sources["haproxy-udp"] = {"kind": "haproxy", "listen": udp}
    sources["apache-file"]["format"] = "combined"
    machine = Machine(tmp_path)
    machine.introduce()
    async with logging_pair(tmp_path) as lab:
        lab.folder = machine.folder
        client = {"logs1": {"name": "logs1", "fingerprint": fingerprint(lab.folder)}}
        named = {name: {"name": name, **row} for name, row in sources.items()}
        lab.a.tables = {**lab.a.tables, "logsource": named, "logclient": client}
        lab.a.start()
        seen = await lab.until(
            lab.a,
            lambda seen: (
                seen.port
                and all(Path(each).exists() for each in sockets.values())
                and not any(each.why for each in seen.sources)
            ),
            "all is listened at",
        )
        own = lab.a.folder.own()
        assert own is not None
        machine.conf.write_text(
            f"metrics none\nNODE {lab.a.settings.listen} PORT {seen.port} "
            f"FINGERPRINT {own.certificate.fingerprint}\nFilter default\nbegin default\n"
            f'logFormat CUSTOM "%X %U %q %m %s %a %{{User-Agent}}i"\n'
            f"logFilenameFormat {machine.out}/log\nend default\n"
        )
        try:
            for each in programs.values():
                each.start()
            await machine.start()
            for first in range(0, COUNT, AT_ONCE):
                # Apache has what it pipes to killed at a restart, and loses a line of it at times.
                if first == COUNT // 2:
                    programs["nginx"].rotate()
                end = first + AT_ONCE
                asked = [
                    asyncio.to_thread(each.ask, range(first, end)) for each in programs.values()
                ]
                await asyncio.gather(*asked)
                await lab.until(lab.a, all_have(end), "all sources to have them")
            await until(
                lambda: len(machine.written()) >= COUNT * len(sources),
                lambda: (Counter(each.split(b" ")[0] for each in machine.written()), machine.log()),
            )
            assert await machine.end() == 0
        finally:
            if machine.process is not None and machine.process.returncode is None:
                await machine.end(signal.SIGKILL)
            for each in programs.values():
                each.end()
        view = await lab.view(lab.a)
    found: dict[str, list[list[str]]] = {name: [] for name in sources}
    for line in machine.written():
        source, *rest = line.decode().split(" ", 6)
        found[source].append(rest)
    for name, rows in found.items():
        program = name.partition("-")[0]
        status = "404" if program == "apache" else "200"
        # haproxy logs no more headers than it is told to.
        agent = "-" if program == "haproxy" else "lab 1"
        wanted = [
            [f"/n/{number}", "x=1", "GET", status, "127.0.0.1", agent] for number in range(COUNT)
        ]
        assert sorted(rows) == sorted(wanted), (name, programs[program].said)
    assert found["nginx-file"] == sorted(found["nginx-file"], key=lambda row: int(row[0][3:]))
    assert not any(each.counts.get("malformed") for each in view.sources)
    assert {each.name for each in view.sources if each.counts.get("renamed")} == {"nginx-file"}
