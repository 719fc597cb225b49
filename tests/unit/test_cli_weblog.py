# SPDX-License-Identifier: Apache-2.0
"""The command line for log records, against two real workers."""

from __future__ import annotations

import time
from pathlib import Path

from unit.test_cli_change import Shell, at_a_pair
from unit.test_worker_weblog import client_folder, fingerprint, introduced
from unit.worker_pair import PATIENCE_S, free_port

PRINT = "ab" * 32


async def told(shell: Shell, line: str, wanted: str) -> str:
    """What a command says as soon as it says that."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert await shell(line) == 0, shell.err
        if wanted in shell.out:
            return shell.out
        assert time.monotonic() < deadline, shell.out


@at_a_pair
async def test_a_client_is_allowed_and_denied_on_both_nodes(
    a: Shell, b: Shell, directory: Path
) -> None:
    assert await a("show weblog") == 0
    assert a.out.startswith("OFF: No log source and no log client is configured")
    colons = ":".join(PRINT[at : at + 2] for at in range(0, 64, 2)).upper()
    assert await a(f"weblog allow logs1 {colons}") == 0
    assert (a.out, a.err) == ("generation 2: done on both nodes\n", "")
    assert await b(f"weblog allow other {PRINT}") == 1
    assert "is allowed already, as logs1" in b.err
    assert await a("weblog allow logs2 nonsense") == 2
    assert "64 hexadecimal digits" in a.err
    for shell in (a, b):
        assert PRINT in await told(shell, "weblog list", "logs1: has not introduced itself")
    assert await b("weblog deny nobody") == 1
    assert "there is no log client nobody: logs1" in b.err
    assert await b(f"weblog deny {PRINT}") == 0
    assert a.site.document is not None
    assert a.site.document.tables.get("logclient", {}) == {}


@at_a_pair
async def test_what_there_is_to_see_of_log_records(a: Shell, b: Shell, directory: Path) -> None:
    port, log = free_port(), directory / "access.log"
    log.write_text("one\ntwo\n")
    assert await a(f"set weblog port={port} size_mb=16 full=drop-oldest") == 0
    assert await a(f"add logsource web kind=nginx path={log}") == 0
    assert await a(f"add logsource lb kind=haproxy path={directory / 'none'}") == 0
    shown = await told(a, "show weblog", "web (nginx)")
    shown = await told(a, "show weblog", f"{log}: 2 records")
    assert shown.startswith("COLLECTING\n")
    assert "16 MiB per journal" in shown
    assert " ms a flush" in shown
    assert await a("show weblog --json") == 0
    assert a.json["schema"] == 1
    assert a.json["sources"][1]["records"] == 2
    assert a.json["size_max"] == 16 << 20
    assert "web (nginx)" in await told(b, "show weblog --node peer", "web (nginx)")
    # Both workers live in one host here, where a port has room for one of them.
    deadline = time.monotonic() + PATIENCE_S
    while not (there := [each for each in (a, b) if await listens(each, port)]):
        assert time.monotonic() < deadline
    (listening,) = there
    stranger = client_folder(directory, "stranger")
    await introduced(stranger, listening.site, port)
    listed = await told(listening, "weblog list", "unknown")
    assert fingerprint(stranger) in listed
    assert "as stranger" in listed


async def listens(shell: Shell, port: int) -> bool:
    assert await shell("show weblog") == 0
    return f"port {port}\n" in shell.out
