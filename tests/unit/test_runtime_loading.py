# SPDX-License-Identifier: Apache-2.0
"""The loader's unit: how it is asked, and what it takes for a request."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from twinbeat.engine.maps import PIN_ROOT
from twinbeat.runtime import loading


def asked(socket: Path, answer: bytes) -> tuple[loading.Loaded, list[bytes]]:
    """What the agent makes of an answer, and what it had asked."""
    requests: list[bytes] = []

    async def unit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readline())
        writer.write(answer)
        writer.close()

    async def run() -> loading.Loaded:
        server = await asyncio.start_unix_server(unit, socket)
        async with server:
            return await loading.load(4_294_967_295, replace=True, root=PIN_ROOT, socket=socket)

    return asyncio.run(run()), requests


def test_the_unit_is_asked_and_its_report_believed(tmp_path: Path) -> None:
    report = json.dumps({"ok": True, "status": "loaded"}).encode() + b"\n"
    loaded, requests = asked(tmp_path / "socket", report)
    assert (loaded.ok, loaded.status) == (True, "loaded")
    assert [json.loads(line) for line in requests] == [{"pair": 4_294_967_295, "replace": True}]


@pytest.mark.parametrize(
    ("answer", "code"),
    [(b"", "loader-died"), (b"Traceback\n", "loader-died"), (b"x" * (2 << 20), "no-loader")],
)
def test_no_report_is_said_so(tmp_path: Path, answer: bytes, code: str) -> None:
    loaded, _ = asked(tmp_path / "socket", answer)
    assert (loaded.ok, loaded.code) == (False, code)
    assert loaded.sentence
    assert loaded.fix


def test_a_socket_that_nobody_answers_is_told(tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    socket.touch()
    loaded = asyncio.run(loading.load(1, replace=True, socket=socket))
    assert (loaded.ok, loaded.code) == (False, "no-loader")
    assert "journalctl" in loaded.fix


@pytest.mark.parametrize(
    "request_line",
    [
        b"",
        b"\n",
        b"{}\n",
        b'{"pair": "1", "replace": false}\n',
        b'{"pair": 0, "replace": true}\n',
        b'{"pair": true, "replace": false}\n',
        b'["pair"]\n',
        b"\xff" * 400,
    ],
)
def test_what_is_no_request_loads_nothing(request_line: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twinbeat.runtime.loading"],
        input=request_line,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"twinbeat-loader: that is no request")
