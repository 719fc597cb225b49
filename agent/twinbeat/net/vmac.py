# SPDX-License-Identifier: Apache-2.0
"""Virtual-MAC interfaces: a macvlan on the port for each VRID and IP version.

Hosts then learn a MAC that never changes hands, whichever node answers.  The interface is up on
both nodes; the gate on the port below decides whether frames reach it.  It is kept silent: without
an address of its own, without router solicitations, and without the multicast that IPv6 would have
it send.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Final

from pyroute2.netlink.exceptions import NetlinkError

from twinbeat.net import netlink, sysctls
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import IFINFO, Interface, interface, interfaces, mark
from twinbeat.net.netlink import Message, Socket, attribute

if TYPE_CHECKING:
    from twinbeat.net import AsyncIPRoute

VERSIONS: Final = (4, 6)
MODE: Final = "private"
"""Macvlans of different VRIDs on one port needn't talk to each other past the gate."""

IFLA_AF_SPEC: Final = 26
IFLA_INET_CONF: Final = 1
_INET_CONF: Final = {6: 0, 8: 0, 18: 2, 19: 1}
"""IPV4_DEVCONF_… send_redirects, rp_filter, arp_announce, arp_ignore (linux/ip.h)."""


def vmac_name(vrid: int, version: int) -> str:
    return f"{'tbv' if version == 4 else 'tbw'}{vrid}"


def vmac_address(vrid: int, version: int) -> str:
    """RFC 9568, 7.3: the fifth octet tells the IP versions apart."""
    return f"00:00:5e:00:{1 if version == 4 else 2:02x}:{vrid:02x}"


def fits(present: Interface, *, vrid: int, version: int, port: int) -> bool:
    """Whether an interface is this virtual MAC on this port (an index), up or not."""
    return (present.mac, present.parent) == (vmac_address(vrid, version), port)


async def ensure_vmac(
    ipr: AsyncIPRoute, *, vrid: int, version: int, port: Interface, pair: int
) -> tuple[Interface, list[sysctls.Finding]]:
    """The VMAC interface, up; an own leftover of the right shape is reused, a wrong one replaced.

    Raises NetError if the kernel refuses, or if the name belongs to somebody else's interface.
    """
    name = vmac_name(vrid, version)
    mac = vmac_address(vrid, version)
    present = interfaces().get(name)
    # An agent that crashed between creating and marking it left the virtual MAC as the only mark.
    if present is not None and present.alias != mark(pair) and present.mac != mac:
        raise NetError(
            f"creating {name}: an interface of that name exists and isn't this pair's",
            fix=f"remove it with `ip link del {name}`, or choose another VRID",
        )
    if present is not None and not fits(present, vrid=vrid, version=version, port=port.index):
        await remove(ipr, present)
        present = None
    if present is None:
        await _link(
            ipr,
            f"creating {name} on {port.name}",
            "add",
            ifname=name,
            kind="macvlan",
            link=port.index,
            macvlan_mode=MODE,
            address=mac,
        )
        present = interface(name)
    if present.alias != mark(pair):
        await _link(ipr, f"marking {name}", "set", index=present.index, ifalias=mark(pair))
    quieten(present)
    findings = sysctls.set_vmac(name)
    if not present.up:
        await _link(ipr, f"setting {name} up", "set", index=present.index, state="up")
    return interface(name), findings


async def set_down(ipr: AsyncIPRoute, name: str) -> None:
    """Take a VMAC interface down; one that is gone already is fine."""
    present = interfaces().get(name)
    if present is not None and present.up:
        await _link(ipr, f"setting {name} down", "set", index=present.index, state="down")


async def remove(ipr: AsyncIPRoute, present: Interface) -> None:
    """Delete an interface of ours and every address on it; one that is gone already is fine."""
    try:
        await ipr.link("del", index=present.index)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise NetError(f"removing {present.name}", code=error.code) from error


async def remove_stale(ipr: AsyncIPRoute, *, pair: int, keep: set[str]) -> list[str]:
    """Delete macvlans of this pair that the configuration no longer asks for; their names."""
    stale = [
        one
        for one in interfaces().values()
        if one.alias == mark(pair) and one.kind == "macvlan" and one.name not in keep
    ]
    for one in stale:
        await remove(ipr, one)
    return [one.name for one in stale]


def quieten(vmac: Interface) -> None:
    """No address from the kernel, and the IPv4 settings, before the interface first comes up.

    Through netlink, because a hardened service can't write /proc/sys.
    """
    conf = b"".join(attribute(key, struct.pack("=I", value)) for key, value in _INET_CONF.items())
    inet = attribute(socket.AF_INET, attribute(IFLA_INET_CONF, conf))
    gen_mode_none = attribute(8, b"\x01")  # IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE
    inet6 = attribute(socket.AF_INET6, gen_mode_none)
    with Socket() as sock:
        for family in (inet, inet6):
            body = IFINFO.pack(socket.AF_UNSPEC, 0, vmac.index, 0, 0)
            message = Message(netlink.RTM_NEWLINK, 0, body + attribute(IFLA_AF_SPEC, family))
            # A kernel without IPv6 has nothing to quieten there.
            tolerate = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
            for _, code in sock.batch([message], tolerate=tolerate):
                raise NetError(f"configuring {vmac.name}", code=code)
        multicast_off = IFINFO.pack(socket.AF_UNSPEC, 0, vmac.index, 0, _IFF_MULTICAST)
        for _, code in sock.batch(
            [Message(netlink.RTM_NEWLINK, 0, multicast_off)], tolerate=frozenset()
        ):
            raise NetError(f"turning multicast off on {vmac.name}", code=code)


_IFF_MULTICAST: Final = 1 << 12


async def _link(ipr: AsyncIPRoute, what: str, command: str, **arguments: object) -> None:
    try:
        await ipr.link(command, **arguments)
    except NetlinkError as error:
        raise NetError(what, code=error.code) from error
