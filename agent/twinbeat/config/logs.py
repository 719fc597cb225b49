# SPDX-License-Identifier: Apache-2.0
"""Keys of web server logging: where records come from, who may fetch them, how many are kept."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from twinbeat.config.alike import ListName
from twinbeat.config.fields import key
from twinbeat.config.problems import Findings, once_each
from twinbeat.config.system import parse_address
from twinbeat.weblog import sources


class LogSourceSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where log records come from, on both nodes: one of path, socket and listen."""

    name: Annotated[ListName, key("Name of the source, unique.", example="web")]
    kind: Annotated[
        Literal["nginx", "haproxy", "apache", "syslog", "raw"],
        key(
            "What writes the records. syslog: any program, with time, host and name of the program "
            "in the record; raw: taken as they are."
        ),
    ]
    path: Annotated[
        str,
        key(
            "The access log, a file that grows. It may be rotated in any way.",
            example="/var/log/nginx/access.log",
        ),
    ] = ""
    socket: Annotated[
        str,
        key("Unix datagram socket that is made for syslog, such as /run/twinbeat-weblog/web."),
    ] = ""
    listen: Annotated[
        str, key("ADDRESS:PORT for syslog over UDP; best a loopback address, as anybody may send.")
    ] = ""
    format: Annotated[
        str,
        key(
            "The format text as the program's own configuration has it; empty = the usual one. "
            "Log clients are told.",
            max_length=4096,
        ),
    ] = ""
    history: Annotated[
        bool, key("Take what is in the file when it is read for the first time, too.")
    ] = True


class LogClientSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A log client that may fetch the records of both nodes."""

    name: Annotated[ListName, key("Name of the client, unique.", example="logs1")]
    fingerprint: Annotated[
        str,
        Meta(pattern="^[0-9a-f]{64}$"),
        key(
            "SHA-256 of its certificate, as `twinbeat-weblog add-node` prints it.",
            right="64 hexadecimal digits",
        ),
    ]


class WeblogSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Journals of log records, and the port at which log clients fetch them."""

    listen: Annotated[
        str,
        key(
            "Own address at which log clients are waited for; the peer is where it dials this "
            "node's worker anyway. Empty = any."
        ),
    ] = ""
    port: Annotated[int, key("TCP port, the same on both nodes.", ge=1, le=65_535)] = 3011
    size_mb: Annotated[
        int,
        key("Each node's own journal and its replica of the peer's.", ge=16, le=1 << 20),
    ] = 1024
    age_h: Annotated[int, key("Older records go, fetched or not.", ge=1, le=8760)] = 168
    full: Annotated[
        Literal["refuse", "drop-oldest"],
        key(
            "When a journal is full. refuse: nothing more is taken, files are read on when there "
            "is room. drop-oldest: the oldest records go, and are counted. While no client is "
            "allowed, the oldest go in any case."
        ),
    ] = "refuse"


def check_logs(
    logsources: tuple[LogSourceSection, ...],
    logclients: tuple[LogClientSection, ...],
    weblog: WeblogSection,
    findings: Findings,
) -> None:
    """What the worker makes of a source says whether it is one."""
    rows = [
        sources.LogSource(
            name=each.name, kind=each.kind, path=each.path, socket=each.socket, listen=each.listen
        )
        for each in logsources
    ]
    for at, name, value, right in sources.problems(rows):
        findings.add(f"logsource[{at}].{name}", value, f"should be {right}.")
    for section, named in (("logsource", logsources), ("logclient", logclients)):
        names = [each.name for each in named]
        once_each(section, names, "has the name of", findings)
    first: dict[str, int] = {}
    for at, client in enumerate(logclients):
        other = first.setdefault(client.fingerprint, at)
        if other != at:
            wrong = f"is that of logclient[{other}] already."
            findings.add(f"logclient[{at}].fingerprint", client.fingerprint, wrong)
    if weblog.listen and parse_address(weblog.listen) is None:
        findings.add("weblog.listen", weblog.listen, "should be an IPv4 or IPv6 address.")
