# SPDX-License-Identifier: Apache-2.0
"""Requests with numbers, at a rate, over one connection after the other: for inside tb-client.

Each number is asked for once. Of those under way when a connection ends nobody knows what became;
they are counted and not repeated. At the end (SIGTERM) it prints one JSON object.
"""

import argparse
import json
import select
import signal
import socket
import time

TICK_S = 0.01
SILENT_S = 0.25
"""Without an answer for so long the connection is given up."""


class Asking:
    """One run."""

    def __init__(self, address: str, port: int, rate: int, first: int) -> None:
        self.where = (address, port)
        self.rate = rate
        self.number = first
        self.answered: list[list[int]] = []
        """First and last of stretches of answered numbers."""
        self.unknown = 0
        self.connections = 0
        self.outages_s: list[float] = []
        self.over = False

    def run(self) -> None:
        began = lost = time.monotonic()
        while not self.over:
            try:
                connected = socket.create_connection(self.where, timeout=SILENT_S)
            except OSError:
                time.sleep(0.005)
                began += 0.005
                continue
            self.connections += 1
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self._talk(connected, lost)
            except OSError:
                pass
            finally:
                connected.close()
            lost = time.monotonic()

    def _talk(self, connected: socket.socket, lost: float) -> None:
        """Until it breaks, falls silent, or all is over."""
        first = self.number
        asked, got = 0, 0
        rest = b""
        heard = began = time.monotonic()
        try:
            while not self.over:
                now = time.monotonic()
                due = int((now - began) * self.rate) - asked
                # What could not be asked in time is not made up for in one go.
                count = min(due, self.rate // 10) if asked - got < self.rate else 0
                if count > 0:
                    lines = [
                        b"GET /n/%d HTTP/1.1\r\nHost: lab\r\n\r\n" % (first + asked + each)
                        for each in range(count)
                    ]
                    asked += count  # even where only a part of them gets out
                    connected.sendall(b"".join(lines))
                ready, _, _ = select.select([connected], [], [], TICK_S)
                if ready:
                    data = connected.recv(1 << 18)
                    if not data:
                        return
                    rest += data
                    found = rest.count(b"HTTP/1.1 200")
                    if found:
                        if not got:
                            self.outages_s.append(time.monotonic() - lost)
                        got += found
                        heard = now
                        rest = rest[rest.rindex(b"HTTP/1.1 200") + 12 :][-64:]
                elif asked > got and now - heard > SILENT_S:
                    return
                if asked == got:
                    heard = now
        finally:
            if got:
                self.answered.append([first, first + got - 1])
            self.unknown += asked - got
            self.number = first + asked


def main() -> None:
    """Ask until told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--rate", type=int, default=2000, help="requests a second")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    arguments = parser.parse_args()
    asking = Asking(arguments.address, arguments.port, arguments.rate, arguments.first)

    def end(*_: object) -> None:
        asking.over = True

    signal.signal(signal.SIGTERM, end)
    asking.run()
    print(
        json.dumps(
            {
                "asked": asking.number - arguments.first,
                "answered": asking.answered,
                "unknown": asking.unknown,
                "connections": asking.connections,
                "outages_s": [round(each, 4) for each in asking.outages_s],
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
