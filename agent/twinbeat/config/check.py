# SPDX-License-Identifier: Apache-2.0
"""What the types can't say: how keys must relate to each other, and to the machine.

Each rule names the sections it reads and runs when their structure is sound, so that one wrong
value neither brings a dozen complaints after it nor hides those about other sections.
"""

import stat
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from twinbeat.config.arbitration import (
    check_fence,
    check_fence_here,
    check_isolation,
    check_watchdog,
    check_witness,
    check_witness_here,
)
from twinbeat.config.connections import check_connections, check_connections_here
from twinbeat.config.devices import check_names, resolve
from twinbeat.config.examined import Examination, Rule
from twinbeat.config.keys import check_keys, chosen
from twinbeat.config.logs import check_logs
from twinbeat.config.monitors import check_linksets, check_monitors, check_monitors_here
from twinbeat.config.nodes import (
    LINKS_MAX,
    KeysSection,
    LinkSection,
    MetricsSection,
    NodeSection,
    PeerSection,
)
from twinbeat.config.persisting import check_sessions
from twinbeat.config.problems import Findings, did_you_mean, once_each
from twinbeat.config.routing import check_inject, check_routes, check_rules
from twinbeat.config.service import (
    AnnounceSection,
    HookSection,
    RouteSection,
    VridSection,
)
from twinbeat.config.syncing import (
    check_commands,
    check_files,
    check_programs_here,
    check_sync,
    check_sync_here,
)
from twinbeat.config.system import OWN_INTERFACES, System, parse_address, useless
from twinbeat.config.timers import TimersSection, resolve_timers
from twinbeat.config.vips import (
    check_addresses_here,
    check_vip_is_node,
    check_vrids,
    with_addresses,
)
from twinbeat.config.watching import PolicySection

Sections = dict[str, Any]

_ABOVE_ANOTHER: Final = frozenset({"macvlan", "ipvlan"})
"""Kinds whose own macvlans the kernel puts on the interface below."""


def normalise(
    sections: Sections,
    base: Path,
    sound: set[str],
    findings: Findings,
    same: Collection[str] = (),
) -> None:
    """Fill what follows from other keys, in place: names, TTLs, addresses in canonical form.

    ``same`` are sections that are so already.
    """
    if "links" in sound and "links" not in same:
        sections["links"] = tuple(
            _filled(place, link) for place, link in enumerate(sections["links"])
        )
    if "vrids" in sound and "vrids" not in same:
        before = len(findings.problems)
        sections["vrids"] = tuple(
            with_addresses(vrid, f"vrid[{number}]", base, findings)
            for number, vrid in enumerate(sections["vrids"])
        )
        if len(findings.problems) > before:
            sound.discard("vrids")
    if "keys" in sound and "keys" not in same:
        keys: KeysSection = sections["keys"]
        sections["keys"] = replace(keys, send=keys.send or chosen(keys.directory))
    resolve(sections, sound, findings)


def meaning(sections: Sections, sound: set[str], examination: Examination) -> None:
    """Check how keys relate to each other."""
    for needs, rule in _RULES:
        if sound.issuperset(needs):
            examination.apply(rule, needs, sections)


def machine(sections: Sections, sound: set[str], examination: Examination, system: System) -> None:
    """Check what only the machine can answer."""

    def here(rule: Rule, *needs: str, ports: bool = False, asks: bool = True) -> None:
        if sound.issuperset(needs):
            more = (system,) if asks else ()
            examination.apply(rule, needs, sections, *more, ports=ports)

    here(_interfaces, "links", "vrids", "routes", ports=True)
    here(_hooks_here, "hooks", asks=False)
    here(_devices, "links", "vrids", ports=True)
    here(check_addresses_here, "links", "vrids")
    here(check_monitors_here, "monitors", "linksets")
    here(_keys_here, "keys", asks=False)
    here(check_sync_here, "sync")
    here(check_connections_here, "connections")
    here(check_programs_here, "files", "commands", asks=False)
    here(check_fence_here, "fence", asks=False)
    here(check_witness_here, "witness", asks=False)


# ---------------------------------------------------------------------------- normalising --------


def _filled(place: int, link: LinkSection) -> LinkSection:
    number = place if link.number is None else link.number
    ttl_min = link.ttl_min or (255 if link.mode == "ethernet" else 1)
    canonical = {}
    for side in ("local", "peer"):
        address = parse_address(getattr(link, side))
        canonical[side] = getattr(link, side) if address is None else str(address)
    name = link.name or link.interface
    return replace(link, name=name, number=number, ttl_min=ttl_min, **canonical)


# --------------------------------------------------------------------------------- meaning -------


def _names(node: NodeSection, peer: PeerSection, findings: Findings) -> None:
    if node.name == peer.name:
        findings.add("peer.name", peer.name, "is this node's own name; the two nodes need two.")


def _timers(section: TimersSection, findings: Findings) -> None:
    """Relations without which detection or lease would contradict themselves."""
    timers = resolve_timers(section)

    def value(key: str) -> int:
        return int(getattr(timers, key))

    def must(holds: bool, key: str, relation: str, *others: str) -> None:
        if holds:
            return
        # Blame a key that was set by hand where there is one: the profiles are sound.
        blamed = key
        for other in (key, *others):
            if getattr(section, other) is not None:
                blamed = other
                break
        facts = ", ".join(
            f"{other} = {value(other)}" for other in (key, *others) if other != blamed
        )
        findings.add(f"timers.{blamed}", value(blamed), f"{relation} (now {facts}).")

    t = timers
    must(
        t.dead_us >= 3 * t.hello_us,
        "dead_us",
        "dead_us must be at least three times hello_us: one lost heartbeat is no death",
        "hello_us",
    )
    must(
        t.verify_us >= 100 and 8 * t.verify_us >= t.hello_us,
        "verify_us",
        "verify_us must be at least an eighth of hello_us: the peer gets time to answer",
        "hello_us",
    )
    must(
        t.lease_us > t.dead_us + t.verify_us,
        "lease_us",
        "lease_us must be longer than dead_us + verify_us: a peer that only stalls for a moment "
        "would lose its gate before anybody could verify it",
        "dead_us",
        "verify_us",
    )
    must(
        t.stall_us <= t.lease_us,
        "stall_us",
        "stall_us must not be longer than lease_us: the lease ends first",
        "lease_us",
    )
    must(
        2 * t.attest_ms * 1000 >= 3 * t.lease_us,
        "attest_ms",
        "attest_ms must be at least one and a half times lease_us: a claim begins only while the "
        "attestation outlasts a whole lease",
        "lease_us",
    )
    must(
        t.boot_wait_ms * 1000 >= t.lease_us + t.dead_us + t.verify_us,
        "boot_wait_ms",
        "boot_wait_ms must be at least lease_us + dead_us + verify_us: a reign that still runs "
        "must be heard or over before a starting node claims",
        "lease_us",
        "dead_us",
        "verify_us",
    )


def _links(links: tuple[LinkSection, ...], policy: PolicySection, findings: Findings) -> None:
    if not links:
        findings.add("link", None, "no link is configured: add a [[link]] for each of two paths.")
    if len(links) > LINKS_MAX:
        findings.add("link", len(links), f"a pair has {LINKS_MAX} links at most.")
    beating = [link for link in links if link.heartbeat]
    if links and not beating:
        findings.add(
            "link",
            None,
            "heartbeat = false on every link: the nodes would never hear of each other.",
        )
    if len(beating) == 1 and not policy.accept_single_link:
        findings.add(
            "link",
            None,
            f"only {beating[0].name} carries heartbeats, so its failure looks like the peer's "
            "death. Add a second link, or set policy.accept_single_link = true.",
        )
    for number, link in enumerate(links):
        path = f"link[{number}]"
        _link_addresses(link, path, findings)
        if link.mode == "ethernet" and link.ttl_min != 255:
            findings.add(
                f"{path}.ttl_min",
                link.ttl_min,
                "must be 255 on an ethernet link: nothing there may have passed a router.",
            )
        if link.mode == "udp" and (link.direct or link.vlan):
            key = "direct" if link.direct else "vlan"
            findings.add(
                f"{path}.{key}",
                getattr(link, key),
                'needs mode = "ethernet": a routed link has no cable of its own and tags nothing.',
            )
    _once(links, findings)
    if beating and all(link.direct for link in beating):
        findings.warn(
            "link",
            None,
            "every link is direct: losing that cable alone can't be told from the peer's death.",
        )


def _link_addresses(link: LinkSection, path: str, findings: Findings) -> None:
    addresses = {}
    for side in ("local", "peer"):
        text = getattr(link, side)
        address = parse_address(text)
        if address is None:
            findings.add(
                f"{path}.{side}", text, "should be an IPv4 or IPv6 address without a prefix length."
            )
        elif kind := useless(address):
            findings.add(f"{path}.{side}", text, f"is {kind}; heartbeats can't come from there.")
        else:
            addresses[side] = address
    if len(addresses) < 2:
        return
    if addresses["local"].version != addresses["peer"].version:
        findings.add(
            f"{path}.peer", link.peer, f"should be of the same family as local = {link.local}."
        )
    elif addresses["local"] == addresses["peer"]:
        findings.add(f"{path}.peer", link.peer, "is the link's own local address.")


def _once(links: tuple[LinkSection, ...], findings: Findings) -> None:
    """Names, (interface, VLAN) and addresses belong to one link each."""
    for what, keys in (
        ("name", ("name",)),
        ("number", ("number",)),
        ("interface", ("interface", "vlan")),
        ("local", ("local",)),
        ("peer", ("peer",)),
    ):
        seen: dict[tuple[object, ...], int] = {}
        for number, link in enumerate(links):
            value = tuple(getattr(link, key) for key in keys)
            first = seen.setdefault(value, number)
            named_after = what == "name" and links[first].interface == link.interface == link.name
            if first != number and not named_after:
                findings.add(
                    f"link[{number}].{what}",
                    getattr(link, what),
                    f"is that of link[{first}] already.",
                )
    interfaces = {link.interface for link in links}
    if len(links) > 1 and len(interfaces) == 1:
        findings.warn(
            "link",
            None,
            f"all links run over {links[0].interface}: they fail together.",
        )


def _hooks(hooks: tuple[HookSection, ...], findings: Findings) -> None:
    once_each("hook", [hook.name for hook in hooks], "has the name of", findings)
    for number, hook in enumerate(hooks):
        if not hook.events:
            findings.add(f"hook[{number}].events", None, "is empty: it would never run.")
        if any("\0" in argument for argument in hook.arguments):
            findings.add(f"hook[{number}].arguments", None, "holds a null character.")


def _keys_here(keys: KeysSection, findings: Findings) -> None:
    check_keys(keys.directory, keys.send, findings)


def _hooks_here(hooks: tuple[HookSection, ...], findings: Findings) -> None:
    for number, hook in enumerate(hooks):
        key, program = f"hook[{number}].exec", Path(hook.exec)
        try:
            mode = program.stat().st_mode
        except OSError as error:
            findings.warn(key, hook.exec, f"can't be run at the moment: {error.strerror}.")
            continue
        if not stat.S_ISREG(mode) or not mode & 0o111:
            findings.warn(key, hook.exec, "is no program that could be run.")
        elif mode & 0o002:
            findings.add(
                key, hook.exec, "can be changed by anybody, and would run with the agent's rights."
            )


def _announce(announce: AnnounceSection, findings: Findings) -> None:
    repeats = announce.repeats_ms
    if list(repeats) != sorted(set(repeats)):
        findings.add("announce.repeats_ms", repeats, "should grow from each value to the next.")


def _policy(policy: PolicySection, findings: Findings) -> None:
    """Keys that come to nothing, or to something else than they say."""
    if policy.flip_window_s and not policy.max_flips:
        findings.warn(
            "policy.flip_window_s",
            policy.flip_window_s,
            "means nothing without max_flips: any number of flips is allowed.",
        )
    if policy.recovery_hold_ms > policy.recovery_hold_max_s * 1000:
        findings.warn(
            "policy.recovery_hold_ms",
            policy.recovery_hold_ms,
            f"is longer than recovery_hold_max_s = {policy.recovery_hold_max_s}, which counts.",
        )


def _metrics(metrics: MetricsSection, findings: Findings) -> None:
    if metrics.listen and parse_listen(metrics.listen) is None:
        findings.add(
            "metrics.listen",
            metrics.listen,
            "should be ADDRESS:PORT, for example 127.0.0.1:9703 or [::1]:9703, or empty.",
        )


def parse_listen(text: str) -> tuple[str, int] | None:
    """Address and port of `metrics.listen`, or None where it is no such thing."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    address = parse_address(host)
    if not colon or address is None or not (port.isascii() and port.isdecimal()):
        return None
    return (str(address), int(port)) if 1 <= int(port) <= 65535 else None


_RULES: Final[tuple[tuple[tuple[str, ...], Callable[..., None]], ...]] = (
    (("node", "peer"), _names),
    (("timers_set",), _timers),
    (("links", "policy"), _links),
    (("vrids",), check_vrids),
    (("links", "vrids"), check_vip_is_node),
    (("routes",), check_routes),
    (("rules",), check_rules),
    (("vrids", "inject", "routes"), check_inject),
    (("hooks",), _hooks),
    (("witness", "timers_set", "links", "vrids"), check_witness),
    (("isolation", "links", "vrids"), check_isolation),
    (("announce",), _announce),
    (("policy",), _policy),
    (("monitors", "linksets", "links", "vrids"), check_monitors),
    (("linksets",), check_linksets),
    (("watchdog", "timers_set"), check_watchdog),
    (("fence",), check_fence),
    (("metrics",), _metrics),
    (("interfaces",), check_names),
    (("sync", "links"), check_sync),
    (("files",), check_files),
    (("commands",), check_commands),
    (("pools", "persistences", "vrids"), check_sessions),
    (("connections", "links", "sync"), check_connections),
    (("logsources", "logclients", "weblog"), check_logs),
)


# --------------------------------------------------------------------------------- machine -------


def _interfaces(
    links: tuple[LinkSection, ...],
    vrids: tuple[VridSection, ...],
    routes: tuple[RouteSection, ...],
    findings: Findings,
    system: System,
) -> None:
    present = system.interfaces()
    used = [(f"link[{number}].interface", link.interface) for number, link in enumerate(links)]
    used += [(f"vrid[{number}].interface", vrid.interface) for number, vrid in enumerate(vrids)]
    used += [
        (f"vrid[{number}].uplinks", name)
        for number, vrid in enumerate(vrids)
        for name in vrid.uplinks
    ]
    optional = [
        (f"route[{number}].interface", route.interface) for number, route in enumerate(routes)
    ]
    for key, name in used + optional:
        if name and name not in present:
            others = [other for other in present if not other.startswith(OWN_INTERFACES)]
            hint = did_you_mean(name, others) or f" There are: {', '.join(others)}."
            # A tunnel may come later than the agent; its routes then come with it.
            tell = findings.add if (key, name) in used else findings.warn
            tell(key, name, f"there is no such interface here.{hint}")
    macs: dict[str, tuple[int, str]] = {}
    for number, link in enumerate(links):
        mac = present.get(link.interface, "")
        if not mac.strip("0:"):
            continue
        first, interface = macs.setdefault(mac, (number, link.interface))
        if interface != link.interface:
            findings.warn(
                f"link[{number}].interface",
                link.interface,
                f"has the MAC of {interface} (link[{first}]): if they are the same hardware, they "
                "fail together.",
            )


def _devices(
    links: tuple[LinkSection, ...],
    vrids: tuple[VridSection, ...],
    findings: Findings,
    system: System,
) -> None:
    """Interfaces on which the gate would stand beside the way of the packets."""
    for number, vrid in enumerate(vrids):
        device, key = system.device(vrid.interface), f"vrid[{number}].interface"
        if device.master:
            findings.add(
                key,
                vrid.interface,
                f"is a port of {device.master}, which gets its frames: name {device.master}.",
            )
        if vrid.vmac and device.kind in _ABOVE_ANOTHER:
            findings.add(
                key,
                vrid.interface,
                f"is a {device.kind}, and the kernel puts a virtual MAC on the interface below it, "
                "past the gate: name that one, or set vmac = false.",
            )
    for number, link in enumerate(links):
        device, key = system.device(link.interface), f"link[{number}].interface"
        if device.master:
            findings.warn(
                key,
                link.interface,
                f"is a port of {device.master}: the peer's MAC is never learned there, so every "
                f"heartbeat is a broadcast. Name {device.master}.",
            )
        if device.kind == "vlan":
            findings.warn(
                key,
                link.interface,
                "is a VLAN device, where XDP is slower: name the interface below it and set vlan.",
            )
