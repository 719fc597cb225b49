# SPDX-License-Identifier: Apache-2.0
"""What a configuration wants watched: from sections of the file to targets. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from twinbeat.config.monitors import network, own_interfaces, protocol_number
from twinbeat.core.types import MILLISECOND, SECOND
from twinbeat.health.board import Kind, LinkSet, Spec, When

if TYPE_CHECKING:
    from twinbeat.config.model import Config
    from twinbeat.config.watching import MonitorSection

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PROBED: Final = (2, 3)
"""Rise and fall of what has to be asked for: one lost packet is no failure, one answer no cure."""
_KNOWN: Final = (1, 1)
"""Of what the kernel knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One monitor: how it is judged, and what is looked at. What isn't for its kind is empty."""

    spec: Spec
    interval_ns: int = SECOND
    timeout_ns: int = SECOND
    interface: str = ""
    prefix: Network | None = None
    table: int = 0
    protocol: int = 0
    address: str = ""
    probe: str = ""
    port: int = 0
    pidfile: str = ""
    process: str = ""
    command: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What is watched, for people."""
        match self.spec.kind:
            case Kind.INTERFACE | Kind.LINKSET:
                return self.interface
            case Kind.ROUTE:
                table = f" in table {self.table}" if self.table else ""
                protocol = f" by protocol {self.protocol}" if self.protocol else ""
                probe = f", next hop by {self.probe}" if self.probe else ""
                return f"{self.prefix}{table}{protocol}{probe}"
            case Kind.ADDRESS:
                port = f" port {self.port}" if self.port else ""
                where = f" on {self.interface}" if self.interface else ""
                return f"{self.address} by {self.probe}{port}{where}"
            case Kind.PROCESS:
                return " ".join(filter(None, (self.process, self.pidfile)))
            case Kind.SCRIPT:
                return " ".join(self.command)


def targets(config: Config) -> tuple[dict[str, Target], tuple[LinkSet, ...]]:
    """Every monitor by its name, and the link sets.

    Interfaces of links and VRIDs, and members of sets, are monitors by the name of the interface
    unless a [[monitor]] of their own says more about them.
    """
    found: dict[str, Target] = {}
    name_of: dict[str, str] = {}
    for section in config.monitors:
        found[section.name] = _target(section)
        if section.kind == "interface":
            name_of[section.interface] = section.name
    own = own_interfaces(config.links, config.vrids)
    members = {name: True for one in config.linksets for name in one.interfaces}
    for interface, counts in {**own, **members}.items():
        if interface not in name_of:
            name_of[interface] = interface
            spec = Spec(name=interface, kind=Kind.INTERFACE, weight=1000 if counts else 0)
            found[interface] = Target(spec=spec, interface=interface)
    sets = tuple(
        LinkSet(
            name=one.name,
            members=tuple(dict.fromkeys(name_of[name] for name in one.interfaces)),
            weight=one.weight,
        )
        for one in config.linksets
    )
    return dict(sorted(found.items(), key=_order)), sets


_ORDER: Final = list(Kind)


def _order(item: tuple[str, Target]) -> tuple[int, str]:
    return _ORDER.index(item[1].spec.kind), item[0]


def _target(section: MonitorSection) -> Target:
    kind = Kind(section.kind)
    # A next hop is asked for as well; the route itself the kernel knows.
    asked = kind in {Kind.ADDRESS, Kind.SCRIPT} or (kind is Kind.ROUTE and bool(section.probe))
    rise, fall = _PROBED if asked else _KNOWN
    prefix = network(section.prefix) if section.prefix else None
    assert not isinstance(prefix, str), "the configuration was checked"
    protocol = protocol_number(section.protocol)
    assert protocol is not None, "the configuration was checked"
    return Target(
        spec=Spec(
            name=section.name,
            kind=kind,
            weight=section.weight,
            rise=section.rise or rise,
            fall=section.fall or fall,
            fall_certain=section.fall or 1,
            start_delay_ns=section.start_delay_s * SECOND,
            when=When(section.when),
        ),
        interval_ns=section.interval_ms * MILLISECOND,
        timeout_ns=section.timeout_ms * MILLISECOND,
        interface=section.interface,
        prefix=prefix,
        table=section.table,
        protocol=protocol,
        address=section.address,
        probe=section.probe or ("icmp" if kind is Kind.ADDRESS else ""),
        port=section.port,
        pidfile=section.pidfile,
        process=section.process,
        command=section.command,
    )
