# SPDX-License-Identifier: Apache-2.0
"""What has to be right about monitors and link sets, beyond the types of their keys."""

import ipaddress
import os
from pathlib import Path
from typing import Final

from msgspec.structs import fields

from twinbeat.config.nodes import LinkSection
from twinbeat.config.problems import Findings, did_you_mean
from twinbeat.config.service import VridSection
from twinbeat.config.system import System
from twinbeat.config.watching import LinksetSection, MonitorSection

MONITORS_MAX: Final = 128
"""Each is a task of its own; nobody oversees more."""

PROTOCOLS: Final = {
    "redirect": 1,
    "kernel": 2,
    "boot": 3,
    "static": 4,
    "ra": 9,
    "zebra": 11,
    "bird": 12,
    "dhcp": 16,
    "keepalived": 18,
    "babel": 42,
    "twinbeat": 155,
    "bgp": 186,
    "isis": 187,
    "ospf": 188,
    "rip": 189,
    "eigrp": 192,
}
"""Names of rtm_protocol as `ip route` prints them (rtnetlink.h)."""

_FOR_KIND: Final = {
    "interface": ("interface",),
    "route": ("prefix", "table", "protocol", "probe"),
    "address": ("address", "probe", "port", "interface"),
    "process": ("pidfile", "process"),
    "script": ("command",),
}
"""Kind -> the keys that mean something for it, beside those that every kind has."""

_SPECIAL: Final = frozenset(key for keys in _FOR_KIND.values() for key in keys)
_DEFAULTS: Final = {
    field.name: field.default for field in fields(MonitorSection) if field.name in _SPECIAL
}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def protocol_number(text: str) -> int | None:
    """The number of a routing protocol; 0 for any, None where it is no protocol."""
    if not text:
        return 0
    if text.isascii() and text.isdecimal():
        return int(text) if 1 <= int(text) <= 255 else None
    return PROTOCOLS.get(text)


def own_interfaces(
    links: tuple[LinkSection, ...], vrids: tuple[VridSection, ...]
) -> dict[str, bool]:
    """The interfaces that are watched without being listed -> whether they count.

    One that serves several purposes counts if it does for any of them. The cable of a direct link
    says nothing of this node, so it isn't even watched unless somebody asks for it.
    """
    found: dict[str, bool] = {}
    for vrid in vrids:
        found[vrid.interface] = found.get(vrid.interface, False) or vrid.monitor
    for link in links:
        counts = not link.direct if link.monitor is None else link.monitor
        if counts or not link.direct:
            found[link.interface] = found.get(link.interface, False) or counts
    return found


# --------------------------------------------------------------------------------- meaning -------


def check_monitors(
    monitors: tuple[MonitorSection, ...],
    linksets: tuple[LinksetSection, ...],
    links: tuple[LinkSection, ...],
    vrids: tuple[VridSection, ...],
    findings: Findings,
) -> None:
    """Each monitor on its own, and that every name is one thing's only."""
    if len(monitors) > MONITORS_MAX:
        findings.add("monitor", len(monitors), f"there can be {MONITORS_MAX} at most.")
    taken = {name: f"the interface {name}" for name in own_interfaces(links, vrids)}
    for linkset in linksets:
        taken.update({name: f"the interface {name}" for name in linkset.interfaces})
    watched: dict[str, str] = {}
    for number, monitor in enumerate(monitors):
        path = f"monitor[{number}]"
        its_own = monitor.kind == "interface" and monitor.interface == monitor.name
        if monitor.name in taken and not (its_own and taken[monitor.name].startswith("the ")):
            findings.add(f"{path}.name", monitor.name, f"is that of {taken[monitor.name]} already.")
        taken[monitor.name] = path
        _keys(monitor, path, findings)
        _asked(monitor, path, links, vrids, findings)
        if monitor.kind == "interface" and monitor.interface:
            if monitor.interface in watched:
                wrong = f"is watched by {watched[monitor.interface]} already."
                findings.add(f"{path}.interface", monitor.interface, wrong)
            watched[monitor.interface] = path
    for number, linkset in enumerate(linksets):
        if linkset.name in taken:
            wrong = f"is that of {taken[linkset.name]} already."
            findings.add(f"linkset[{number}].name", linkset.name, wrong)
        taken[linkset.name] = f"linkset[{number}]"


def _keys(monitor: MonitorSection, path: str, findings: Findings) -> None:
    """That the keys are those of the kind."""
    for key in _SPECIAL - set(_FOR_KIND[monitor.kind]):
        value = getattr(monitor, key)
        if value != _DEFAULTS[key]:
            kinds = " or ".join(kind for kind, keys in _FOR_KIND.items() if key in keys)
            wrong = f"means nothing for kind {monitor.kind}; it is for {kinds}."
            findings.add(f"{path}.{key}", value, wrong)
    match monitor.kind:
        case "interface":
            _needed(monitor, path, "interface", findings)
        case "route":
            _route(monitor, path, findings)
        case "address":
            _address(monitor, path, findings)
        case "process":
            if not monitor.pidfile and not monitor.process:
                findings.add(path, None, "needs a pidfile, the name of a process, or both.")
        case "script":
            _script(monitor, path, findings)


def _needed(monitor: MonitorSection, path: str, key: str, findings: Findings) -> bool:
    if not getattr(monitor, key):
        findings.add(f"{path}.{key}", None, f"is needed for kind {monitor.kind}.")
    return bool(getattr(monitor, key))


def _route(monitor: MonitorSection, path: str, findings: Findings) -> None:
    if _needed(monitor, path, "prefix", findings):
        prefix = network(monitor.prefix)
        if isinstance(prefix, str):
            findings.add(f"{path}.prefix", monitor.prefix, prefix)
    if protocol_number(monitor.protocol) is None:
        hint = did_you_mean(monitor.protocol, list(PROTOCOLS))
        wrong = f"is no protocol known here; numbers from 1 to 255 are.{hint}"
        findings.add(f"{path}.protocol", monitor.protocol, wrong)
    if monitor.probe == "tcp":
        wrong = "a next hop is asked by neighbour or icmp; it needn't take connections."
        findings.add(f"{path}.probe", monitor.probe, wrong)


def network(text: str) -> Network | str:
    """A network, or what is wrong with the text."""
    if "/" not in text:
        return "should be a network with its prefix length, such as 192.0.2.0/24."
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        try:
            meant = ipaddress.ip_network(text, strict=False)
        except ValueError:
            return f"should be a network such as 192.0.2.0/24 or 0.0.0.0/0 ({error})."
        return f"has bits set behind its prefix length; the network is {meant}."


def _address(monitor: MonitorSection, path: str, findings: Findings) -> None:
    if not _needed(monitor, path, "address", findings):
        return
    try:
        address = ipaddress.ip_address(monitor.address)
    except ValueError:
        findings.add(f"{path}.address", monitor.address, "should be an IPv4 or IPv6 address.")
        return
    if address.is_multicast or address.is_unspecified:
        findings.add(f"{path}.address", monitor.address, "is not the address of one host.")
    if (monitor.probe == "tcp") != bool(monitor.port):
        wrong = 'goes with probe = "tcp", and that needs it.'
        findings.add(f"{path}.port", monitor.port or None, wrong)
    if not monitor.interface and (monitor.probe == "neighbour" or address.is_link_local):
        wrong = "is needed: the question is for the hosts on one link."
        findings.add(f"{path}.interface", None, wrong)


def _asked(
    monitor: MonitorSection,
    path: str,
    links: tuple[LinkSection, ...],
    vrids: tuple[VridSection, ...],
    findings: Findings,
) -> None:
    """A host that tells something of this node has to be another one, and not the peer.

    A shared address asked by tcp is a question to a service of this node, so that is none of these.
    """
    if monitor.kind != "address":
        return
    taken = {link.peer: "the peer's: its death would make this node unfit too" for link in links}
    if monitor.probe != "tcp":
        taken |= {link.local: "this node's own, which always answers" for link in links}
        shared = "a shared address, which this node answers itself"
        taken |= {vip: shared for vrid in vrids for vip in vrid.vips}
    try:
        asked = str(ipaddress.ip_address(monitor.address))
    except ValueError:
        return
    if asked in taken:
        findings.warn(f"{path}.address", monitor.address, f"is {taken[asked]}.")


def _script(monitor: MonitorSection, path: str, findings: Findings) -> None:
    if _needed(monitor, path, "command", findings) and not monitor.command[0].startswith("/"):
        wrong = "should begin with the program's absolute path: no PATH is searched, no shell is."
        findings.add(f"{path}.command", list(monitor.command), wrong)


def check_linksets(linksets: tuple[LinksetSection, ...], findings: Findings) -> None:
    """Members: some, each once and in one set."""
    sets: dict[str, str] = {}
    for number, linkset in enumerate(linksets):
        path = f"linkset[{number}]"
        if not linkset.interfaces:
            findings.add(f"{path}.interfaces", None, "names no interface: nothing could fail.")
        if len(linkset.interfaces) == 1:
            only = linkset.interfaces[0]
            findings.warn(f"{path}.interfaces", only, "is the only member: nothing is redundant.")
        for name in linkset.interfaces:
            if name in sets:
                findings.add(f"{path}.interfaces", name, f"is a member of {sets[name]} already.")
            sets[name] = path


# --------------------------------------------------------------------------------- machine -------


def check_monitors_here(
    monitors: tuple[MonitorSection, ...],
    linksets: tuple[LinksetSection, ...],
    findings: Findings,
    system: System,
) -> None:
    """What can only be known here: interfaces and scripts.

    A set stands for one of its members being dead, maybe gone: only where none is there it is
    taken for a mistake.
    """
    present = system.interfaces()
    for number, monitor in enumerate(monitors):
        path = f"monitor[{number}]"
        if monitor.interface and monitor.interface not in present:
            wrong = _no_such_interface(monitor.interface, list(present))
            findings.add(f"{path}.interface", monitor.interface, wrong)
        if monitor.kind == "script" and monitor.command and monitor.command[0].startswith("/"):
            _program(monitor.command[0], f"{path}.command", findings)
    for number, linkset in enumerate(linksets):
        missing = [name for name in linkset.interfaces if name not in present]
        tell = findings.add if len(missing) == len(linkset.interfaces) else findings.warn
        for name in missing:
            tell(f"linkset[{number}].interfaces", name, _no_such_interface(name, list(present)))


def _no_such_interface(name: str, present: list[str]) -> str:
    hint = did_you_mean(name, present) or f" There are: {', '.join(present)}."
    return f"there is no such interface here.{hint}"


def _program(program: str, key: str, findings: Findings) -> None:
    if not Path(program).is_file():
        findings.add(key, program, "there is no such program.")
    elif not os.access(program, os.X_OK):
        findings.add(key, program, "this user can't execute it.")
