# SPDX-License-Identifier: Apache-2.0
"""Servers for the tests of the witness: a real etcd, and one over TLS that lies, hangs or drips."""

import contextlib
import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy" / "lab"))

from twinlab import etcd
from twinlab.etcd import Papers

from twinbeat.core.witness import Kind, Question
from twinbeat.witness.etcd import Access, Etcd
from twinbeat.witness.keeping import Keeping

HOST = "127.0.0.1"
MS = 1_000_000

Behaviour = Callable[[http.server.BaseHTTPRequestHandler, bytes], None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_etcd(directory: Path, papers: Papers) -> Iterator[str]:
    """The URL of an etcd that has elected itself."""
    member = etcd.Member(name="witness", address=HOST, port=free_port(), peer_port=free_port())
    log = (directory / "log").open("wb")
    with log:
        process = subprocess.Popen(
            etcd.command(directory / "data", papers, member, [member]),
            stdout=log,
            stderr=log,
        )
        url = member.url
        try:
            _wait_healthy(url, papers, process, directory / "log")
            yield url
        finally:
            process.kill()
            process.wait()


def _wait_healthy(url: str, papers: Papers, process: subprocess.Popen[bytes], log: Path) -> None:
    import urllib.request

    context = ssl.create_default_context(cafile=papers.ca)
    context.load_cert_chain(papers.certificate("node"), papers.key("node"))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{url}/health", context=context, timeout=5) as answer,
        ):
            if json.load(answer)["health"] == "true":
                return
        time.sleep(0.02)
    raise AssertionError(f"etcd did not begin:\n{log.read_text()[-2000:]}")


class FaultyServer(http.server.ThreadingHTTPServer):
    """A TLS server whose answers are what a test makes them: a fault injector."""

    daemon_threads = True

    def __init__(self, papers: Papers, behave: Behaviour) -> None:
        self.asked: list[dict[str, Any]] = []
        self.ended = threading.Event()
        """Set when the test is over: whoever hangs may go."""
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.asked.append(json.loads(body))
                with contextlib.suppress(OSError):
                    behave(self, body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        super().__init__((HOST, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(papers.certificate("server"), papers.key("server"))
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what is tested."""

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.server_address[1]}"


@contextlib.contextmanager
def faulty_server(papers: Papers, behave: Behaviour) -> Iterator[FaultyServer]:
    server = FaultyServer(papers, behave)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def respond(handler: http.server.BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def client(
    papers: Papers, *urls: str, node: str = "a", patience_ms: int = 20_000, try_ms: int = 10_000
) -> Etcd:
    return Etcd(
        Access(
            endpoints=urls,
            ca_file=str(papers.ca),
            cert_file=str(papers.certificate("node")),
            key_file=str(papers.key("node")),
        ),
        Keeping(prefix="/twinbeat/", pair=1, node=node),
        now_ns=time.monotonic_ns,
        patience_ns=patience_ms * MS,
        try_ns=try_ms * MS,
    )


def claim(term: int) -> Question:
    return Question(kind=Kind.CLAIM, term=term)


def confirm(term: int, *, mark: bool = False) -> Question:
    return Question(kind=Kind.CONFIRM, term=term, mark=mark)


LOOK = Question(kind=Kind.LOOK)
