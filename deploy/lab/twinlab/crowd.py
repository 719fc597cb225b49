# SPDX-License-Identifier: Apache-2.0
"""Many clients at once: each with an address of its own, out of `plan.CROWD_NET`.

Run inside tb-client; `--fetch` asks each client's page and says which server answered whom, and
`--send` lets new clients send one UDP packet each, so many a second. What it found is printed as
one JSON object. It knows nothing of the lab but what it is told.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import selectors
import socket
import struct
import time
from typing import Any

AT_ONCE = 128
IP_BIND_ADDRESS_NO_PORT = 24
IP_FREEBIND = 15
IP_PKTINFO = 8
TRIES = 3
"""A client that gets no answer asks anew; which server it gets is what matters."""


def fetch(
    address: str, port: int, first: ipaddress.IPv4Address, count: int, timeout_s: float
) -> dict[str, Any]:
    """Which server answered each client: names in the order of the clients, empty for none."""
    answers = [""] * count
    selector = selectors.DefaultSelector()
    waiting = [(number, TRIES) for number in range(count - 1, -1, -1)]
    open_now: dict[int, tuple[socket.socket, int, int, float]] = {}
    begun = time.monotonic()

    def end(descriptor: int, said: str) -> None:
        sock, number, tries, _ = open_now.pop(descriptor)
        selector.unregister(sock)
        sock.close()
        if said:
            answers[number] = said
        elif tries > 1:
            waiting.append((number, tries - 1))

    while waiting or open_now:
        while waiting and len(open_now) < AT_ONCE:
            number, tries = waiting.pop()
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((str(first + number), 0))
            sock.connect_ex((address, port))
            selector.register(sock, selectors.EVENT_WRITE)
            open_now[sock.fileno()] = sock, number, tries, time.monotonic() + timeout_s
        for found, events in selector.select(0.05):
            sock = open_now[found.fd][0]
            try:
                if events & selectors.EVENT_WRITE:
                    sock.send(b"GET / HTTP/1.0\r\n\r\n")
                    selector.modify(sock, selectors.EVENT_READ)
                else:
                    end(found.fd, sock.recv(4096).decode().rpartition("\r\n")[2].strip())
            except OSError:
                end(found.fd, "")
        now = time.monotonic()
        for descriptor in [each for each, held in open_now.items() if held[3] < now]:
            end(descriptor, "")
    return {"answers": answers, "took_s": time.monotonic() - begun}


def send(
    address: str, port: int, first: ipaddress.IPv4Address, count: int, per_s: int
) -> dict[str, Any]:
    """Let each client send one packet; nobody waits for answers."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    begun = time.monotonic()
    sent = 0
    while sent < count:
        due = min(count, int((time.monotonic() - begun) * per_s) + 1)
        while sent < due:
            source = struct.pack("=i4s4x", 0, (first + sent).packed)
            ancillary = [(socket.IPPROTO_IP, IP_PKTINFO, source)]
            sock.sendmsg([b"new"], ancillary, 0, (address, port))
            sent += 1
        time.sleep(0.002)
    return {"sent": sent, "took_s": time.monotonic() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description="Many clients at once.")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--first", type=ipaddress.IPv4Address, required=True)
    parser.add_argument("--count", type=int, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--fetch", action="store_true")
    what.add_argument("--send", type=int, metavar="PER_S")
    parser.add_argument("--timeout-s", type=float, default=2.0)
    wanted = parser.parse_args()
    if wanted.fetch:
        found = fetch(wanted.address, wanted.port, wanted.first, wanted.count, wanted.timeout_s)
    else:
        found = send(wanted.address, wanted.port, wanted.first, wanted.count, wanted.send)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
