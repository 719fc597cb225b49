# SPDX-License-Identifier: Apache-2.0
"""A log client that means no good, for inside tb-client: `hostile.py OWN.pem PORT ADDRESS …`.

Until SIGTERM it says what none may, asks without reading, asks for everything again and again and
acknowledges nothing; it shows a certificate that is allowed, one that is not, and none.
"""

import contextlib
import itertools
import socket
import ssl
import struct
import sys

import msgspec

PROTOCOL = "twinbeat-weblog/1"
WITHIN_S = 2.0


def frame(message: object) -> bytes:
    body = msgspec.msgpack.encode(message)
    return struct.pack("!I", len(body)) + body


HELLO = frame({"type": "hello", "versions": (1, 1), "name": "hostile"})
PULLS = frame({"type": "pull", "cursors": (), "wait_ms": 60_000}) * 200
SAID = (
    b"\xff\xff\xff\xff",
    HELLO + b"\xff" * 64,
    HELLO + frame({"type": "ack", "cursors": [("a", 1, (1 << 63) - 1), ("b", 1, 1 << 62)]}),
    HELLO + PULLS,
    HELLO + HELLO,
    HELLO[:-1],
    b"GET / HTTP/1.0\r\n\r\n",
)


def main() -> None:
    """For ever, one conversation after the other."""
    own, port, addresses = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    for said, address, shown in itertools.cycle(itertools.product(SAID, addresses, (own, None))):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([PROTOCOL])
        if shown is not None:
            context.load_cert_chain(shown)
        with (
            contextlib.suppress(OSError),
            socket.create_connection((address, port), timeout=WITHIN_S) as plain,
            context.wrap_socket(plain) as secured,
        ):
            secured.sendall(said)
            secured.settimeout(0.2)
            while secured.recv(1 << 16):
                pass


main()
