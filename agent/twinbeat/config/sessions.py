# SPDX-License-Identifier: Apache-2.0
"""Keys of who is bound to which server: pools of servers, and persistence rules."""

from typing import Annotated, Literal

from msgspec import Struct

from twinbeat.config.fields import key, named
from twinbeat.sessions.rules import LIMIT_MOST, SERVERS_MOST, TIMEOUT_MOST, VIPS_MOST

RuleName = Annotated[
    str,
    named(r"^[A-Za-z][A-Za-z0-9_-]{0,31}$", "1 to 32 letters, digits, '-' or '_', a letter first"),
]


class PoolSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Servers that do the same, of which a client gets one."""

    name: Annotated[RuleName, key("Name of the pool, unique.", example="web")]
    servers: Annotated[
        tuple[str, ...],
        key(
            "Their addresses, IPv4 or IPv6. A rule uses those of its own family.",
            max_length=SERVERS_MOST,
            example=["10.88.0.21", "10.88.0.22"],
        ),
    ]
    port: Annotated[
        int, key("Where they listen, 0 = at the port that is asked for.", ge=0, le=65_535)
    ] = 0
    balance: Annotated[
        Literal["hash", "round-robin", "random"],
        key(
            "Which one a new client gets. hash: by its key, so that both nodes would choose alike."
        ),
    ] = "hash"
    disabled: Annotated[
        tuple[str, ...],
        key(
            "Those of them that are not to be used: `twinbeat disable server 10.88.0.21`.",
            max_length=SERVERS_MOST,
        ),
    ] = ()
    probe: Annotated[
        Literal["", "none", "tcp", "icmp"],
        key("How each is asked whether it lives. Empty = tcp where a port is known, else icmp."),
    ] = ""
    probe_port: Annotated[int, key("Port for that, 0 = `port`.", ge=0, le=65_535)] = 0
    interval_ms: Annotated[int, key("Time between two questions.", ge=50, le=3_600_000)] = 1000
    timeout_ms: Annotated[int, key("How long an answer is waited for.", ge=10, le=600_000)] = 1000
    rise: Annotated[int, key("So many answers in a row end a failure.", ge=1, le=1000)] = 2
    fall: Annotated[int, key("So many missing ones in a row are a failure.", ge=1, le=1000)] = 3


class PersistenceSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose connections go to the same server again. Entries are on both nodes."""

    name: Annotated[RuleName, key("Name of the rule, unique.", example="http")]
    kind: Annotated[
        Literal["source", "source-prefix", "source-destination", "opaque"],
        key(
            "What of a client is its key: its address, the network it is in, its address with the "
            "VIP it asks, or whatever a proxy gives over the socket."
        ),
    ] = "source"
    vips: Annotated[
        tuple[str, ...],
        key(
            "The shared addresses that it is for, or networks of them, of one family.",
            max_length=VIPS_MOST,
            example=["192.0.2.10"],
        ),
    ] = ()
    protocol: Annotated[Literal["tcp", "udp"], key("What is asked for.")] = "tcp"
    port: Annotated[int, key("At which port.", ge=0, le=65_535, example=80)] = 0
    prefix_length: Annotated[
        int, key("Of source-prefix; 0 = 24 for IPv4 and 64 for IPv6.", ge=0, le=128)
    ] = 0
    timeout_s: Annotated[
        int,
        key("A client without a new connection is forgotten after this.", ge=1, le=TIMEOUT_MOST),
    ] = 1800
    pool: Annotated[str, key("The pool whose servers are used.", example="web")] = ""
    limit: Annotated[
        int,
        key("Entries at most; the oldest makes room, and is counted.", ge=16, le=LIMIT_MOST),
    ] = 100_000
