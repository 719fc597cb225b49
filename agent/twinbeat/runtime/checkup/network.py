# SPDX-License-Identifier: Apache-2.0
"""What `doctor` says of interfaces: carrier, MTU, where XDP runs, tags, queues, sysctls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from twinbeat.api.schema import Check
from twinbeat.config.model import Config
from twinbeat.net import ethtool, sysctls
from twinbeat.net.interfaces import Interface, interfaces
from twinbeat.runtime import conntrack
from twinbeat.runtime.checkup.checks import WARNING, check

MTU_LEAST: Final = 576


def network(config: Config) -> Iterator[Check]:
    present = interfaces()
    ports = {section.interface for section in config.vrids}
    tagged = {section.interface for section in config.links if section.vlan}
    for name in sorted(ports | {section.interface for section in config.links}):
        found = present.get(name)
        if found is None:
            yield check(name, False, "there is no such interface", fix="`ip link` lists them")
            continue
        yield from interface(found)
        if name in tagged:
            yield vlan_offload(name)
        yield from queues(name, config)
    ipv6 = any(":" in text for section in config.vrids for text in section.vips)
    findings = sysctls.check_ports(sorted(ports), ipv6=ipv6)
    for finding in findings:
        yield check("sysctl", False, finding.sentence(), fix=finding.fix(), level=WARNING)
    if not findings:
        yield check(
            "sysctl", True, "ARP, redirects and reverse path filtering are as they should be"
        )
    for good, sentence, fix in conntrack.findings(config):
        yield check("conntrack", good, sentence, fix=fix, level=WARNING)


def interface(found: Interface) -> Iterator[Check]:
    usable = found.up and found.carrier
    yield check(
        found.name,
        usable,
        "up, with carrier" if usable else "no carrier" if found.up else "down",
        fix=f"ip link set {found.name} up, and look at the cable",
        level=WARNING,
    )
    yield check(
        found.name,
        found.mtu >= MTU_LEAST,
        f"MTU {found.mtu}",
        fix=f"ip link set {found.name} mtu 1500",
    )
    driver = ethtool.driver(found.name) or found.kind or "unknown driver"
    yield from _carrier_of_xdp(found)
    match found.xdp_mode:
        case "native":
            yield check(found.name, True, f"XDP runs in the driver ({driver})")
        case "generic" if found.kind in _GENERIC_KINDS:
            pass  # told above
        case "generic":
            yield check(
                found.name,
                False,
                f"XDP runs in generic mode: driver {driver} has no native one, so each frame costs "
                "a copy more",
                fix="another card, or a newer driver; it works as it is",
                level=WARNING,
            )
        case _:
            yield check(
                found.name,
                None,
                f"no XDP program is attached now (driver {driver}); the mode shows when twinbeatd "
                "runs",
            )


_GENERIC_KINDS: Final = frozenset({"vlan", "bridge", "macvlan"})


def _carrier_of_xdp(found: Interface) -> Iterator[Check]:
    """On a device that is made of others: where the gate stands, and what that costs."""
    match found.kind:
        case "vlan" | "bridge" | "macvlan":
            yield check(
                found.name,
                None,
                f"a {found.kind}: XDP runs on it in generic mode, behind the kernel's own handling "
                "of the frame, so each frame for this host costs a copy more",
                fix="it works as it is; faster is the card itself, and for heartbeats its name "
                "with vlan = …",
            )
        case "bond":
            ports = [one for one in interfaces().values() if one.master == found.index]
            names = ", ".join(one.name for one in ports) or "none"
            native = found.xdp_mode == "native"
            yield check(
                found.name,
                native or found.xdp_mode == "none" or None,
                f"a bond: XDP is attached to it and runs natively on each of its ports ({names})"
                if native or found.xdp_mode == "none"
                else f"a bond whose ports ({names}) or mode allow no native XDP: it runs on the "
                "bond in generic mode",
                fix="modes balance-rr, active-backup, balance-xor and 802.3ad run it natively, if "
                "the drivers of all ports do",
            )
        case _:
            pass


def vlan_offload(name: str) -> Check:
    stripped = ethtool.strips_vlan_tags(name)
    return check(
        name,
        None if stripped is None else not stripped,
        "the card doesn't say whether it strips VLAN tags"
        if stripped is None
        else f"the card {'strips' if stripped else 'leaves'} VLAN tags"
        + (": XDP doesn't see them, and its answers would leave untagged" if stripped else ""),
        fix=f"ethtool -K {name} rxvlan off",
    )


def queues(name: str, config: Config) -> Iterator[Check]:
    count = len(list(Path(f"/sys/class/net/{name}/queues").glob("rx-*")))
    links = [section for section in config.links if section.interface == name]
    if count < 2 or not links:
        return
    versions = {6 if ":" in section.local else 4 for section in links}
    for version in sorted(versions):
        hashed = ethtool.hashes_udp_ports(name, version)
        yield check(
            name,
            hashed,
            f"{count} receive queues; UDP ports over IPv{version} "
            + (
                "choose among them"
                if hashed
                else "are not known to choose among them, so probes may test only one"
            ),
            fix=f"ethtool -N {name} rx-flow-hash udp{version} sdfn",
            level=WARNING,
        )
