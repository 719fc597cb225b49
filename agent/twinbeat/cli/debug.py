# SPDX-License-Identifier: Apache-2.0
"""`twinbeat debug dump`: all that whoever is to help needs, in one file, without a secret.

Every part is bounded in size and in time, and a part that can't be had is named in the manifest.
What looks like a key or follows a word like `password` is taken out of every part, whoever wrote
it; key files and certificates' keys are never opened.
"""

import io
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from twinbeat import __version__
from twinbeat.api.client import Client, ClientError
from twinbeat.api.schema import SCHEMA
from twinbeat.cli.base import CONFIG, STATE, Exit, Stop, readable, say, say_json, settings, talk

PART_MAX: Final = 4 << 20
"""Bytes of a part; of a longer one the end is kept."""
COMMAND_S: Final = 10.0
DOCTOR_S: Final = 60.0
JOURNAL_LINES: Final = 5000
HIDDEN: Final = b"(not shown)"

_HEX: Final = re.compile(rb"\b[0-9a-fA-F]{32,}\b")
_ASSIGNED: Final = re.compile(
    rb"""(?ix) ( [\w.-]* (?: passw(?:or)?d | passwd | passphrase | secret | token | credential
                 | api_?key | auth_pass | private_?key ) [\w.-]* ["']? \s* [=:] \s* )
         (?: "(?:[^"\\\n]|\\.)*" | '[^'\n]*' | [^\s,"';}\]]+ )"""
)
_PEM: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [^\n]*|\Z)", re.DOTALL)

_ASKED: Final = {
    "status.json": "/v1/status",
    "counters.json": "/v1/counters",
    "history.json": "/v1/history?limit=1000",
    "events.jsonl": "/v1/events",
    "metrics.txt": "/metrics",
}
_OF_THE_PEER: Final = {"peer-status.json": "/v1/status", "peer-history.json": "/v1/history"}
_OF_THE_WORKER: Final = {"sync.json": "/v1/sync", "document.json": "/v1/document"}

_COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "host/uname.txt": ("uname", "-a"),
    "host/links.txt": ("ip", "-details", "-statistics", "link", "show"),
    "host/addresses.txt": ("ip", "address", "show"),
    "host/routes.txt": ("ip", "route", "show", "table", "all"),
    "host/rules.txt": ("ip", "rule", "show"),
    "host/neighbours.txt": ("ip", "neighbour", "show"),
    "host/filters.txt": ("tc", "-statistics", "qdisc", "show"),
    "host/processes.txt": ("ps", "-eLo", "pid,tid,cls,rtprio,ni,psr,pcpu,stat,comm"),
    "journal.txt": (
        *("journalctl", "--no-pager", "--output=short-iso-precise", f"--lines={JOURNAL_LINES}"),
        *("--unit=twinbeatd", "--unit=twinbeat-worker", "--unit=twinbeat-weblog"),
    ),
    "units.txt": ("systemctl", "--no-pager", "status", "twinbeatd", "twinbeat-worker"),
}
_FILES: Final = {
    "host/cmdline.txt": "/proc/cmdline",
    "host/interrupts.txt": "/proc/interrupts",
    "host/softnet.txt": "/proc/net/softnet_stat",
    "host/meminfo.txt": "/proc/meminfo",
    "host/cpuinfo.txt": "/proc/cpuinfo",
    "host/os-release.txt": "/etc/os-release",
}


class Unavailable(Exception):  # noqa: N818 - not an error: the manifest says why
    """A part can't be had; the message says why."""


@click.group()
def debug() -> None:
    """What somebody needs who is to help."""


@debug.command()
@click.option("--output", "-o", type=click.Path(path_type=Path), help="The file; a name if unset.")
@click.option("--config", "file", default=CONFIG, type=click.Path(dir_okay=False))
@readable
def dump(output: Path | None, file: str) -> int:
    """Write a bundle for whoever is to help: state, history, configuration, host, journal.

    It holds no keys: what looks like one is taken out. Look through it before you hand it on: names
    and addresses of the site are in it. Exit 1 where parts are missing, which its manifest names.
    """
    named = output or Path(time.strftime(f"twinbeat-{os.uname().nodename}-%Y%m%dT%H%M%SZ.tar.gz"))
    told: list[dict[str, Any]] = []
    try:
        descriptor = os.open(named, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise Stop(
            Exit.NO, f"{named} is there already and stays; --output names another"
        ) from error
    except OSError as error:
        raise Stop(Exit.NO, f"{named}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as bundle:
        for name, make in parts(file):
            told.append(_add(bundle, name, make))
        manifest = {"schema": SCHEMA, "version": __version__, "parts": told}
        _write(bundle, "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
    missing = [part for part in told if part["missing"]]
    if settings().json:
        say_json({"schema": SCHEMA, "file": str(named), "parts": told})
    else:
        say(f"{named}")
        for part in missing:
            talk(f"{part['name']} is missing: {part['missing']}")
    return Exit.NO if missing else Exit.OK


def parts(file: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and maker of each part."""
    own, worker = settings().client, settings().worker
    for name, target in _ASKED.items():
        yield name, _asking(own, target)
    for name, target in _OF_THE_WORKER.items():
        yield name, _asking(worker, target)
    for name, target in _OF_THE_PEER.items():
        yield name, _asking(worker, f"/v1/peer?what={target}")
    yield "twinbeat.toml", lambda: _file(file)
    yield "effective.toml", lambda: _effective(file)
    yield "doctor.json", lambda: _doctor(file)
    yield "state.txt", lambda: _listed(Path(STATE))
    for name, command in _COMMANDS.items():
        yield name, _running(command)
    for name, path in _FILES.items():
        yield name, _reading(path)
    yield "host/sysctl.txt", _sysctls


def cleaned(data: bytes) -> bytes:
    """Data without what could be a secret."""
    data = _PEM.sub(HIDDEN, data)
    data = _ASSIGNED.sub(lambda found: found[1] + b'"' + HIDDEN + b'"', data)
    return _HEX.sub(HIDDEN, data)


def _add(bundle: tarfile.TarFile, name: str, make: Callable[[], bytes]) -> dict[str, Any]:
    try:
        data = cleaned(make())
    except Unavailable as error:
        return {"name": name, "bytes": 0, "missing": f"{error}"}
    cut = len(data) > PART_MAX
    data = data[-PART_MAX:]
    _write(bundle, name, data)
    return {"name": name, "bytes": len(data), "cut": cut, "missing": ""}


def _write(bundle: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(f"twinbeat/{name}")
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
    bundle.addfile(entry, io.BytesIO(data))


# --------------------------------------------------------------------------------- the parts -----


def _asking(client: Client, target: str) -> Callable[[], bytes]:
    def ask() -> bytes:
        try:
            answer = client.get(target)
        except ClientError as error:
            raise Unavailable(f"{error}") from error
        if answer.status != 200:
            raise Unavailable(answer.body.decode(errors="replace")[:300])
        return answer.body

    return ask


def _running(command: tuple[str, ...], timeout_s: float = COMMAND_S) -> Callable[[], bytes]:
    def run() -> bytes:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
        except FileNotFoundError as error:
            raise Unavailable(f"{command[0]} is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{command[0]} did not end in {timeout_s:g} s") from error
        return done.stdout

    return run


def _reading(path: str) -> Callable[[], bytes]:
    return lambda: _file(path)


def _file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(PART_MAX)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error


def _effective(file: str) -> bytes:
    """The configuration with all defaults; what is wrong with it, if it can't be used."""
    from twinbeat.config import document
    from twinbeat.config.load import examine

    found, problems = examine(file, offline=True)
    if found is None:
        raise Unavailable("; ".join(map(str, problems))[:1000])
    return document.toml(found).encode()


def _doctor(file: str) -> bytes:
    program = (sys.executable, "-m", "twinbeat.runtime.doctor", "--json", "--config", file)
    return _running(program, DOCTOR_S)()


def _listed(directory: Path) -> bytes:
    """Names, sizes and modes of what the agent keeps; not what is in it."""
    try:
        found = sorted(directory.rglob("*"))[:1000]
        known = [(path, path.lstat()) for path in found]
    except OSError as error:
        raise Unavailable(f"{directory}: {error.strerror}") from error
    lines = [f"{told.st_mode:o} {told.st_uid} {told.st_size:>10} {path}" for path, told in known]
    if not lines:
        raise Unavailable(f"{directory} is empty or not there")
    return ("\n".join(lines) + "\n").encode()


def _sysctls() -> bytes:
    """Those that matter for addresses, routing and real-time threads."""
    roots = ("net/ipv4/conf", "net/ipv6/conf", "net/core", "net/netfilter")
    files = [file for root in roots for file in sorted(Path("/proc/sys", root).rglob("*"))]
    files += sorted(Path("/proc/sys/kernel").glob("sched_*"))
    lines = []
    for file in files:
        try:
            lines.append(f"{file.relative_to('/proc/sys')} = {file.read_text().strip()}")
        except (OSError, UnicodeDecodeError):
            continue  # a directory, or one that can only be written
    if not lines:
        raise Unavailable("/proc/sys can't be read")
    return "\n".join(lines).encode() + b"\n"
