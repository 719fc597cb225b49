# SPDX-License-Identifier: Apache-2.0
"""The table of nftables that drops packets of connections that this node doesn't know.

A new primary may meet packets of a connection before, or without ever, having its state. Left to
the kernel they would be answered with RST (they look as if they were for this node, as nothing
translates them) or be forwarded untranslated; dropped, they are sent again by TCP until the state
is there. The table is the same whatever the role is, so a takeover has nothing to do about it.

It stands in the way of three kinds of packets only: those to a VIP, those to be forwarded, and
those to conntrackd's port that the peer didn't send. All else of the node is left as it was.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from twinbeat.sessions.connections import ConnectionSettings

TABLE: Final = "twinbeat_connections"
COUNTERS: Final = ("strays", "forged")
"""Packets of unknown connections; packets to conntrackd's port that the peer didn't send."""

_FRAME: Final = """\
table inet {table}
delete table inet {table}
table inet {table} {{
	counter strays {{ }}
	counter forged {{ }}
{sets}
	chain strays {{
{strays}	}}

	# After connection tracking, before addresses are translated.
	chain to_vips {{
		type filter hook prerouting priority -150; policy accept;
{jumps}	}}

	chain forwarded {{
		type filter hook forward priority -10; policy accept;
		jump strays
	}}

	# What both daemons tell each other isn't authenticated: it has one way in. It is no connection.
	chain told {{
		type filter hook prerouting priority -300; policy accept;
		{ip} daddr {local} udp dport {port} iifname != "{interface}" counter name forged drop
		{ip} daddr {local} udp dport {port} {ip} saddr != {peer} counter name forged drop
		{ip} daddr {local} udp dport {port} notrack
	}}

	chain telling {{
		type filter hook output priority -300; policy accept;
		{ip} daddr {peer} udp dport {port} notrack
	}}
}}
"""
_STRAYS: Final = """\
		ct state invalid counter name strays drop
		ct state new tcp flags & (fin | syn | rst | ack) != syn counter name strays drop
"""


def rules(settings: ConnectionSettings) -> str:
    """For `nft -f`: replaces the table as a whole."""
    addresses = sorted(map(ipaddress.ip_address, set(settings.vips)), key=lambda a: (a.version, a))
    sets = jumps = ""
    for version, kind, field in ((4, "ipv4_addr", "ip"), (6, "ipv6_addr", "ip6")):
        own = [str(address) for address in addresses if address.version == version]
        if own:
            listed = ", ".join(own)
            sets += (
                f"\n\tset vips{version} {{\n\t\ttype {kind}\n\t\telements = {{ {listed} }}\n\t}}\n"
            )
            jumps += f"\t\t{field} daddr @vips{version} jump strays\n"
    return _FRAME.format(
        table=TABLE,
        sets=sets,
        strays=_STRAYS if settings.drop_strays else "",
        jumps=jumps,
        ip="ip6" if ":" in settings.peer else "ip",
        local=settings.local,
        peer=settings.peer,
        port=settings.port,
        interface=settings.interface,
    )


def none(table: str = TABLE) -> str:
    """For `nft -f`: the table goes, if it is there."""
    return f"table inet {table}\ndelete table inet {table}\n"
