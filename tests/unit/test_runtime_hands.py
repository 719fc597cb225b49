# SPDX-License-Identifier: Apache-2.0
"""What the hands see to before they do what was asked a while ago."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from twinbeat.runtime.hands import NetworkHands
from unit.namespace import fresh_namespace, ip

pytestmark = pytest.mark.privileged

VIP = "10.77.0.10"


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection to a shared address."""
    with fresh_namespace():
        ip(f"address add {VIP}/32 dev lo")
        with socket.create_server((VIP, 0)) as listener:
            client = socket.create_connection(listener.getsockname(), timeout=60)
            server, _ = listener.accept()
        with client, server:
            yield client, server


@pytest.mark.parametrize("opened", [False, True])
def test_connections_end_unless_the_node_serves_again(
    connection: tuple[socket.socket, socket.socket], *, opened: bool
) -> None:
    """The lane was busy since the gate was shut: what counts is how the gate is now."""
    unused = SimpleNamespace()
    hands = NetworkHands(
        stage=unused,  # type: ignore[arg-type]
        routes=unused,  # type: ignore[arg-type]
        vips=lambda: [ipaddress.ip_address(VIP)],
        gate_is_open=lambda: opened,
    )
    asyncio.run(hands.destroy_sockets())
    client, server = connection
    if opened:
        client.send(b"alive")
        assert server.recv(5) == b"alive"
    else:
        with pytest.raises(ConnectionError):
            client.send(b"ghost")
