# SPDX-License-Identifier: Apache-2.0
"""Connections that last: a line echo for the servers, and clients that stay connected.

A program of its own, as it has to run in other network namespaces. `serve` echoes lines; `talk`
sends a numbered line and waits for it to come back, again and again over one connection; `download`
reads one long answer. Both clients print a line of JSON when they have begun, and one about all of
it at their end: when they are told to stop, when there is nothing more, or when the connection is
over. Times are CLOCK_BOOTTIME nanoseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import http.client
import json
import signal
import socket
import threading
import time


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def say(**said: object) -> None:
    print(json.dumps(said), flush=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(port: int) -> None:
    server = await asyncio.start_server(echo, None, port)
    async with server:
        await server.serve_forever()


def talk(address: str, port: int, interval_s: float, patience_s: float) -> None:
    """Until told to stop. What was sent comes back in its order, or the connection is over."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    lines, longest_ns, error = 0, 0, ""
    try:
        with socket.create_connection((address, port), timeout=patience_s) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            source = connection.getsockname()[1]
            say(began_ns=now_ns(), source_port=source)
            stream = connection.makefile("rb")
            while not stop.is_set():
                sent_ns, line = now_ns(), f"{lines}\n".encode()
                connection.sendall(line)
                if (came := stream.readline()) != line:
                    error = f"line {lines} came back as {came!r}" if came else "closed by the peer"
                    break
                lines += 1
                longest_ns = max(longest_ns, now_ns() - sent_ns)
                stop.wait(interval_s)
    except OSError as problem:
        error = str(problem) or type(problem).__name__
    say(ended_ns=now_ns(), lines=lines, longest_ns=longest_ns, error=error)


def download(address: str, port: int, path: str, size: int, patience_s: float) -> None:
    """To its end, or so many bytes of it; what came is told by its length and SHA-256.

    Told to stop, it ends with the next piece that comes.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    digest, came, longest_ns, error = hashlib.sha256(), 0, 0, ""
    connection = http.client.HTTPConnection(address, port, timeout=patience_s)
    try:
        connection.connect()
        say(began_ns=now_ns(), source_port=connection.sock.getsockname()[1])
        headers = {"Range": f"bytes=0-{size - 1}"} if size else {}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        last_ns, last = now_ns(), False
        while not last:
            last = stop.is_set()
            if not (piece := response.read1(65536)):
                break
            digest.update(piece)
            came += len(piece)
            longest_ns = max(longest_ns, now_ns() - last_ns)
            last_ns = now_ns()
        if response.status not in {http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT}:
            error = f"status {response.status}"
        elif response.length and not last:
            error = f"{response.length} bytes are missing"
    except (OSError, http.client.HTTPException) as problem:
        error = str(problem) or type(problem).__name__
    finally:
        connection.close()
    told = digest.hexdigest()
    say(ended_ns=now_ns(), bytes=came, sha256=told, longest_ns=longest_ns, error=error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("serve", "talk", "download"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--bytes", type=int, default=0, help="of a download; 0 = all")
    parser.add_argument("--interval-ms", type=int, default=20)
    parser.add_argument("--patience-s", type=float, default=20.0)
    given = parser.parse_args()
    if given.what == "serve":
        asyncio.run(serve(given.port))
    elif given.what == "talk":
        talk(given.address, given.port, given.interval_ms / 1000, given.patience_s)
    else:
        download(given.address, given.port, given.path, given.bytes, given.patience_s)


if __name__ == "__main__":
    main()
