# SPDX-License-Identifier: Apache-2.0
"""The gate's two hooks on an interface: XDP in, tc (clsact) egress out.

Attaches programs that somebody else loaded and pinned; knows nothing of what is in them. A program
of another owner is never replaced: XDP has room for one, and theirs may be a firewall. On the way
out ours comes first and lets the filters after it have their say.

Attaching and detaching XDP blocks for 10-30 ms (the kernel waits until no packet is in the old
program), so nothing of this belongs in the loop that decides.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from twinbeat.net import netlink
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import IFINFO, IFLA_XDP, Interface, interfaces
from twinbeat.net.netlink import Message, Socket, attribute, attributes

NATIVE: Final = "native"
GENERIC: Final = "generic"
NONE: Final = "none"

_NESTED: Final = 0x8000

_IFLA_XDP_FD: Final = 1
_IFLA_XDP_FLAGS: Final = 3
_XDP_IF_NOEXIST: Final = 1 << 0
_XDP_GENERIC: Final = 1 << 1
_XDP_NATIVE: Final = 1 << 2
_XDP_FLAGS: Final = {NATIVE: _XDP_NATIVE, GENERIC: _XDP_GENERIC}
_NOT_FOR_GENERIC: Final = frozenset({errno.EPERM, errno.EBUSY, errno.EEXIST, errno.ENODEV})
"""Refusals of native mode that generic mode would not get round."""

_TCMSG: Final = struct.Struct("=BxxxiIII")
"""struct tcmsg: family, interface, handle, parent, info."""
_TCA_KIND: Final = 1
_TCA_OPTIONS: Final = 2
_TCA_BPF_FD: Final = 6
_TCA_BPF_NAME: Final = 7
_TCA_BPF_FLAGS: Final = 8
_TCA_BPF_ID: Final = 11
_DIRECT_ACTION: Final = 1
_CLSACT_HANDLE: Final = 0xFFFF0000
_CLSACT_PARENT: Final = 0xFFFFFFF1
_INGRESS_PARENT: Final = 0xFFFFFFF2
_EGRESS_PARENT: Final = 0xFFFFFFF3
_HANDLE: Final = 0x7462
"""Of our filter: "tb"."""
_PRIORITY: Final = 1
"""First of all filters: a filter that is not reached is no gate."""
_PROTOCOL_ALL: Final = 0x0300
"""ETH_P_ALL in network order."""
_NOTHING_THERE: Final = frozenset({errno.ENOENT, errno.EINVAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A loaded program."""

    fd: int
    id: int
    name: str
    """As the kernel shows it; a program of the same name is one of ours, perhaps of an older
    version."""


NameOf = Callable[[int], str]
"""Id of a program → its name; empty if there is none of that id, or it may not be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """What hangs on a hook."""

    mode: str
    """XDP: native, generic, offload or none; tc: clsact or none."""
    program: int
    """Its id, 0 = none."""


# XDP ------------------------------------------------------------------------------------------


def query_xdp(index: int) -> Hook:
    """What is attached to an interface. Raises NetError if there is no such interface."""
    found = _interface(index)
    return Hook(mode=found.xdp_mode, program=found.xdp_program)


def attach_xdp(index: int, program: Program, *, name_of: NameOf) -> str:
    """Attach, or replace an older program of ours; returns the mode, native where it can be had.

    Raises NetError: a foreign program is there, or the kernel refused.
    """
    there = _interface(index)
    what = f"attaching XDP to {there.name}"
    if there.xdp_program == program.id:
        return there.xdp_mode
    if there.xdp_program:
        other = name_of(there.xdp_program)
        if other != program.name:
            raise NetError(
                f"{what}: program {there.xdp_program} ({other or 'unnamed'}) is there already",
                code=errno.EBUSY,
                fix="an interface has room for one XDP program; detach that one if it may go "
                f"(ip link set dev {there.name} xdp off), or use another interface",
            )
        if there.xdp_mode not in _XDP_FLAGS:
            raise NetError(f"{what}: an older program of ours is there in mode {there.xdp_mode}")
        _set_xdp(index, program.fd, _XDP_FLAGS[there.xdp_mode], what)
        return there.xdp_mode
    try:
        _set_xdp(index, program.fd, _XDP_NATIVE | _XDP_IF_NOEXIST, what)
    except NetError as error:
        if error.code == errno.EEXIST:
            raise NetError(
                what,
                code=errno.EEXIST,
                fix="an interface above it has a program already, and this kernel wants those "
                "below to come first: restart the agent, which begins below",
            ) from error
        if error.code in _NOT_FOR_GENERIC:
            raise
    else:
        return NATIVE
    _set_xdp(index, program.fd, _XDP_GENERIC | _XDP_IF_NOEXIST, what)
    return GENERIC


def detach_xdp(index: int, program: Program, *, name_of: NameOf) -> bool:
    """Detach a program of ours; False if none was there. A foreign one stays."""
    try:
        there = _interface(index)
    except NetError:
        return False
    if there.xdp_program != program.id and (
        not there.xdp_program or name_of(there.xdp_program) != program.name
    ):
        return False
    # The mode has to be named: without it a generic program stays, and the kernel reports success.
    flags = _XDP_FLAGS.get(there.xdp_mode, 0)
    _set_xdp(index, -1, flags, f"detaching XDP from {there.name}")
    return True


def _set_xdp(index: int, fd: int, flags: int, what: str) -> None:
    payload = IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute(
        IFLA_XDP | _NESTED,
        attribute(_IFLA_XDP_FD, struct.pack("=i", fd))
        + attribute(_IFLA_XDP_FLAGS, struct.pack("=I", flags)),
    )
    _request(Message(netlink.RTM_SETLINK, 0, payload), what)


def _interface(index: int) -> Interface:
    for found in interfaces().values():
        if found.index == index:
            return found
    raise NetError(f"finding interface {index}", code=errno.ENODEV)


# tc -------------------------------------------------------------------------------------------


def query_egress(index: int) -> Hook:
    """Our filter on the way out, whichever program it runs."""
    for found in _filters(index, _EGRESS_PARENT):
        if found.is_ours:
            return Hook(mode="clsact", program=found.program)
    return Hook(mode=NONE, program=0)


def attach_egress(index: int, program: Program) -> None:
    """Put our filter before all others on the way out, or exchange its program in one step.

    Raises NetError: the interface has an old `ingress` qdisc, or the kernel refused.
    """
    what = f"attaching the egress filter to interface {index}"
    kind = _clsact_kind(index)
    if kind not in {"", "clsact"}:
        raise NetError(
            f"{what}: it has a qdisc of kind {kind}, which has no egress side",
            code=errno.EBUSY,
            fix="make what uses it use clsact, and delete it",
        )
    if not kind:
        qdisc = _TCMSG.pack(0, index, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
        create = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
        _request(
            Message(netlink.RTM_NEWQDISC, create, qdisc + attribute(_TCA_KIND, b"clsact\0")),
            what,
            tolerate=frozenset({errno.EEXIST}),
        )
    options = (
        attribute(_TCA_BPF_FD, struct.pack("=I", program.fd))
        + attribute(_TCA_BPF_NAME, program.name.encode() + b"\0")
        + attribute(_TCA_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
    )
    payload = (
        _filter_header(index)
        + attribute(_TCA_KIND, b"bpf\0")
        + attribute(_TCA_OPTIONS | _NESTED, options)
    )
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
    _request(Message(netlink.RTM_NEWTFILTER, flags, payload), what)


def detach_egress(index: int) -> bool:
    """Remove our filter, and the qdisc if nothing else hangs on it; False if it was not there."""
    if query_egress(index).program == 0:
        return False
    what = f"removing the egress filter from interface {index}"
    payload = _filter_header(index) + attribute(_TCA_KIND, b"bpf\0")
    _request(Message(netlink.RTM_DELTFILTER, 0, payload), what, tolerate=_NOTHING_THERE)
    if not _filters(index, _EGRESS_PARENT) and not _filters(index, _INGRESS_PARENT):
        qdisc = _TCMSG.pack(0, index, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
        _request(Message(netlink.RTM_DELQDISC, 0, qdisc), what, tolerate=_NOTHING_THERE)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filter:
    is_ours: bool
    program: int


def _filter_header(index: int) -> bytes:
    return _TCMSG.pack(0, index, _HANDLE, _EGRESS_PARENT, _PRIORITY << 16 | _PROTOCOL_ALL)


def _filters(index: int, parent: int) -> list[_Filter]:
    """The filters on one side of an interface; none if it has no clsact."""
    request = _TCMSG.pack(0, index, 0, parent, 0)
    try:
        with Socket() as sock:
            dump = sock.dump(netlink.RTM_GETTFILTER, request)
    except NetError as error:
        if error.code in _NOTHING_THERE:
            return []
        raise
    found = []
    for kind, body in dump:
        if kind != netlink.RTM_NEWTFILTER:
            continue
        _family, where, handle, _parent, info = _TCMSG.unpack_from(body)
        # Each chain of filters is announced by an entry of its own, with handle 0.
        if where != index or handle == 0:
            continue
        options = attributes(attributes(body, _TCMSG.size).get(_TCA_OPTIONS, b""), 0)
        ours = handle == _HANDLE and info >> 16 == _PRIORITY and _TCA_BPF_ID in options
        number = int.from_bytes(options.get(_TCA_BPF_ID, b""), "little")
        found.append(_Filter(is_ours=ours, program=number))
    return found


def _clsact_kind(index: int) -> str:
    """Kind of the qdisc at the place of clsact: clsact, ingress, or empty."""
    with Socket() as sock:
        dump = sock.dump(netlink.RTM_GETQDISC, _TCMSG.pack(0, index, 0, 0, 0))
    for kind, body in dump:
        if kind != netlink.RTM_NEWQDISC:
            continue
        _family, where, handle, _parent, _info = _TCMSG.unpack_from(body)
        if where == index and handle == _CLSACT_HANDLE:
            raw = attributes(body, _TCMSG.size).get(_TCA_KIND, b"")
            return raw.rstrip(b"\0").decode("ascii", "replace")
    return ""


def _request(message: Message, what: str, *, tolerate: frozenset[int] = frozenset()) -> None:
    with Socket() as sock:
        refused = sock.batch([message], tolerate=tolerate)
    if refused:
        raise NetError(what, code=refused[0][1])
