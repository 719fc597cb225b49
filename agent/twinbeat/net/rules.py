# SPDX-License-Identifier: Apache-2.0
"""Rules of policy routing that come and go with the role, settled like the routes.

Two rules may share a priority, and the kernel then asks them in the order in which they were added.
So a rule of somebody else with our priority and our selector would hide ours: that is a conflict,
unless it does the same anyway.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from twinbeat.net import netlink
from twinbeat.net.errors import HINTS, NetError
from twinbeat.net.netlink import Message, Socket, attribute, attributes
from twinbeat.net.routes import PROTO, PROTOCOLS, Network, Problem, Settled, Trouble

FIB_RULE: Final = struct.Struct("=BBBBBBBBI")
"""struct fib_rule_hdr: family, lengths of destination and source, TOS, table, two unused, action,
flags."""

FRA_DST: Final = 1
FRA_SRC: Final = 2
FRA_IIFNAME: Final = 3
FRA_PRIORITY: Final = 6
FRA_FWMARK: Final = 10
FRA_SUPPRESS_LENGTH: Final = 14
"""Which the kernel always tells, -1 where it suppresses nothing."""
FRA_TABLE: Final = 15
FRA_FWMASK: Final = 16
FRA_PROTOCOL: Final = 21
_KNOWN: Final = frozenset(
    {
        FRA_DST,
        FRA_SRC,
        FRA_IIFNAME,
        FRA_PRIORITY,
        FRA_FWMARK,
        FRA_TABLE,
        FRA_FWMASK,
        FRA_PROTOCOL,
        FRA_SUPPRESS_LENGTH,
    }
)
_LOOKUP: Final = 1
"""FR_ACT_TO_TBL"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule: where a table is asked."""

    version: int
    """4 or 6."""
    priority: int
    table: int
    source: Network | None = None
    destination: Network | None = None
    mark: int = 0
    mask: int = 0xFFFFFFFF
    interface: str = ""
    """Only for packets that come in there; empty = all."""

    def sentence(self) -> str:
        """As `ip rule` has it."""
        parts = [f"rule {self.priority}: from {self.source or 'all'}"]
        if self.destination is not None:
            parts.append(f"to {self.destination}")
        if self.mark:
            mask = f"/{self.mask:#x}" if self.mask != 0xFFFFFFFF else ""
            parts.append(f"fwmark {self.mark:#x}{mask}")
        if self.interface:
            parts.append(f"iif {self.interface}")
        parts.append(f"lookup {self.table}" if self.table else "that looks nothing up")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Standing:
    """A rule in the kernel."""

    rule: Rule
    proto: int
    other: bool
    """It asks for more than a Rule can say."""


def settle(wanted: Collection[Rule]) -> Settled:
    """Make our rules in the kernel exactly those wanted; what is refused is told, not raised.

    Blocking.  Raises NetError if the kernel can't be asked at all.
    """
    settled = Settled(wanted=len(wanted))
    with Socket() as sock:
        standing = _standing(sock)
        ours = {one.rule for one in standing if one.proto == PROTO}
        others = [one for one in standing if one.proto != PROTO and not one.other]
        same = {one.rule for one in others}
        hidden = {replace(one.rule, table=0): one for one in others}
        new: list[Rule] = []
        for rule in dict.fromkeys(wanted):
            if rule in ours:
                settled.standing += 1
            elif rule in same:
                settled.kept += 1
            elif (other := hidden.get(replace(rule, table=0))) is not None:
                whose = PROTOCOLS.get(other.proto, other.proto)
                settled.problems.append(
                    Problem(
                        Trouble.CONFLICT,
                        rule.sentence(),
                        f"somebody else's comes first and stays: {other.rule.sentence()} "
                        f"proto {whose}",
                    )
                )
            else:
                new.append(rule)
        flags = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
        add = [Message(netlink.RTM_NEWRULE, flags, encode(rule)) for rule in new]
        refused = sock.batch(add, tolerate=frozenset({errno.EEXIST}))
        settled.problems += [_failed(new[index], "adding", code) for index, code in refused]
        settled.added = len(new) - len(refused)
        settled.standing += settled.added
        surplus = list(ours - set(wanted))
        remove = [Message(netlink.RTM_DELRULE, 0, encode(rule)) for rule in surplus]
        refused = sock.batch(remove, tolerate=frozenset({errno.ENOENT}))
        settled.problems += [_failed(surplus[index], "removing", code) for index, code in refused]
        settled.removed = len(surplus) - len(refused)
    return settled


def _failed(rule: Rule, doing: str, code: int) -> Problem:
    hint = HINTS.get(code, "")
    why = f"{doing}: {os.strerror(code)}" + (f"; {hint}" if hint else "")
    return Problem(Trouble.FAILED, rule.sentence(), why)


def encode(rule: Rule) -> bytes:
    """The body of an RTM_NEWRULE, or of an RTM_DELRULE for this very rule."""
    family = socket.AF_INET if rule.version == 4 else socket.AF_INET6
    lengths = [one.prefixlen if one else 0 for one in (rule.destination, rule.source)]
    table = rule.table if rule.table < 256 else 0
    body = FIB_RULE.pack(family, *lengths, 0, table, 0, 0, _LOOKUP, 0)
    if rule.destination is not None:
        body += attribute(FRA_DST, rule.destination.network_address.packed)
    if rule.source is not None:
        body += attribute(FRA_SRC, rule.source.network_address.packed)
    if rule.interface:
        body += attribute(FRA_IIFNAME, rule.interface.encode() + b"\0")
    body += attribute(FRA_PRIORITY, struct.pack("=I", rule.priority))
    body += attribute(FRA_TABLE, struct.pack("=I", rule.table))
    if rule.mark:
        body += attribute(FRA_FWMARK, struct.pack("=I", rule.mark))
        body += attribute(FRA_FWMASK, struct.pack("=I", rule.mask))
    return body + attribute(FRA_PROTOCOL, bytes([PROTO]))


def _standing(sock: Socket) -> list[Standing]:
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        request = FIB_RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        try:
            dumped = sock.dump(netlink.RTM_GETRULE, request)
        except NetError as error:
            if error.code not in {errno.EAFNOSUPPORT, errno.EOPNOTSUPP}:
                raise
            continue
        found += [parse(body) for kind, body in dumped if kind == netlink.RTM_NEWRULE]
    return found


def parse(body: bytes) -> Standing:
    """A rule from the body of an RTM_NEWRULE."""
    family, to_length, from_length, tos, table, _, _, action, flags = FIB_RULE.unpack_from(body)
    found = attributes(body, FIB_RULE.size)

    def number(kind: int, otherwise: int = 0) -> int:
        return int(struct.unpack("=I", found[kind])[0]) if kind in found else otherwise

    def network(kind: int, length: int) -> Network | None:
        if kind not in found:
            return None
        return ipaddress.ip_network((ipaddress.ip_address(found[kind]), length))

    mark = number(FRA_FWMARK)
    rule = Rule(
        version=4 if family == socket.AF_INET else 6,
        priority=number(FRA_PRIORITY),
        table=number(FRA_TABLE, table),
        source=network(FRA_SRC, from_length),
        destination=network(FRA_DST, to_length),
        mark=mark,
        mask=number(FRA_FWMASK, 0xFFFFFFFF) if mark else 0xFFFFFFFF,
        interface=found.get(FRA_IIFNAME, b"").rstrip(b"\0").decode("utf-8", "replace"),
    )
    # Inverted rules (flag 2) and whatever attribute isn't known here select something else.
    other = bool(
        tos
        or flags & 2
        or action != _LOOKUP
        or number(FRA_SUPPRESS_LENGTH, 0xFFFFFFFF) != 0xFFFFFFFF
        or found.keys() - _KNOWN
    )
    proto = found.get(FRA_PROTOCOL, b"\0")[0]
    return Standing(rule=rule, proto=proto, other=other)
