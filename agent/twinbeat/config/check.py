# SPDX-License-Identifier: Apache-2.0
"""What the types can't say: how keys must relate to each other, and to the machine.

Each rule names the sections it reads and runs when their structure is sound, so that one wrong
value neither brings a dozen complaints after it nor hides those about other sections.
"""

import ipaddress
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from twinbeat.config.arbiters import FenceSection, IsolationSection, WatchdogSection, WitnessSection
from twinbeat.config.devices import check_names, resolve
from twinbeat.config.keys import check_keys, chosen
from twinbeat.config.monitors import check_linksets, check_monitors, check_monitors_here
from twinbeat.config.nodes import (
    LINKS_MAX,
    KeysSection,
    LinkSection,
    MetricsSection,
    NodeSection,
    PeerSection,
)
from twinbeat.config.problems import Findings, did_you_mean
from twinbeat.config.secrets import check_options, check_written
from twinbeat.config.service import (
    VIPS_MAX,
    AnnounceSection,
    HookSection,
    InjectSection,
    RouteSection,
    RuleSection,
    VridSection,
    route_destination,
)
from twinbeat.config.syncing import (
    check_commands,
    check_files,
    check_programs_here,
    check_sync,
    check_sync_here,
)
from twinbeat.config.system import IpAddress, System, parse_address
from twinbeat.config.timers import TimersSection, resolve_timers
from twinbeat.config.watching import PolicySection

Sections = dict[str, Any]

OWN_INTERFACES: Final = ("tbv", "tbw", "tbctl")
"""Beginnings of the names of interfaces that the agent itself makes."""

_ABOVE_ANOTHER: Final = frozenset({"macvlan", "ipvlan"})
"""Kinds whose own macvlans the kernel puts on the interface below."""

_VIPS_FILE_MAX: Final = 4 << 20


def normalise(sections: Sections, base: Path, sound: set[str], findings: Findings) -> None:
    """Fill what follows from other keys, in place: names, TTLs, addresses in canonical form."""
    if "links" in sound:
        sections["links"] = tuple(
            _filled(place, link) for place, link in enumerate(sections["links"])
        )
    if "vrids" in sound:
        before = len(findings.problems)
        sections["vrids"] = tuple(
            _with_addresses(vrid, f"vrid[{number}]", base, findings)
            for number, vrid in enumerate(sections["vrids"])
        )
        if len(findings.problems) > before:
            sound.discard("vrids")
    if "keys" in sound:
        keys: KeysSection = sections["keys"]
        sections["keys"] = replace(keys, send=keys.send or chosen(keys.directory))
    resolve(sections, sound, findings)


def meaning(sections: Sections, sound: set[str], findings: Findings) -> None:
    """Check how keys relate to each other."""
    for needs, rule in _RULES:
        if sound.issuperset(needs):
            rule(*(sections[need] for need in needs), findings)


def machine(sections: Sections, sound: set[str], findings: Findings, system: System) -> None:
    """Check what only the machine can answer."""
    if sound.issuperset({"links", "vrids", "routes"}):
        _interfaces(sections["links"], sections["vrids"], sections["routes"], findings, system)
    if "hooks" in sound:
        _hooks_here(sections["hooks"], findings)
    if sound.issuperset({"links", "vrids"}):
        _devices(sections["links"], sections["vrids"], findings, system)
        _addresses(sections["links"], sections["vrids"], findings, system)
    if sound.issuperset({"monitors", "linksets"}):
        check_monitors_here(sections["monitors"], sections["linksets"], findings, system)
    if "keys" in sound:
        keys: KeysSection = sections["keys"]
        check_keys(keys.directory, keys.send, findings)
    if "sync" in sound:
        check_sync_here(sections["sync"], findings, system)
    if sound.issuperset({"files", "commands"}):
        check_programs_here(sections["files"], sections["commands"], findings)
    if "fence" in sound:
        _fence_here(sections["fence"], findings)
    if "witness" in sound:
        _witness_here(sections["witness"], findings)


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


def _with_addresses(vrid: VridSection, path: str, base: Path, findings: Findings) -> VridSection:
    """The same with the addresses of the file behind its own, all in canonical form."""
    addresses = [
        canonical
        for number, text in enumerate(vrid.vips)
        if (canonical := _vip(text, f"{path}.vips[{number}]", findings, None)) is not None
    ]
    if vrid.vips_file:
        file = base / vrid.vips_file
        addresses.extend(read_addresses(file, f"{path}.vips_file", vrid.vips_file, findings))
    neighbours = [
        canonical
        for number, text in enumerate(vrid.neighbours)
        if (canonical := _vip(text, f"{path}.neighbours[{number}]", findings, None)) is not None
    ]
    vmac = vrid.vmac and not vrid.inject
    return replace(vrid, vmac=vmac, vips=tuple(addresses), neighbours=tuple(neighbours))


def read_addresses(file: Path, key: str, written: str, findings: Findings) -> list[str]:
    """The addresses that a `vips_file` holds, in canonical form."""
    try:
        if file.stat().st_size > _VIPS_FILE_MAX:
            findings.add(key, written, "is larger than any list of addresses can be.")
            return []
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        findings.add(key, written, f"{file} can't be read: {error.strerror}.")
        return []
    except UnicodeDecodeError:
        findings.add(key, written, f"{file} is not text.")
        return []
    found = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text:
            canonical = _vip(text, f"line {number}", findings, str(file))
            if canonical is not None:
                found.append(canonical)
    return found


def _vip(text: str, key: str, findings: Findings, file: str | None) -> str | None:
    address = parse_address(text)
    if address is None:
        wrong = "should be an IPv4 or IPv6 address."
        if parse_address(text.partition("/")[0]) is not None:
            wrong = "should be without a prefix length: an address stands for itself."
        findings.add(key, text, wrong, file=file)
        return None
    kind = _useless(address)
    if kind:
        findings.add(key, text, f"is {kind}, at which no single host can be reached.", file=file)
        return None
    return str(address)


def _useless(address: IpAddress) -> str:
    """Why nobody could be reached at it, or an empty string."""
    kinds = (
        (address.is_unspecified, "the unspecified address"),
        (address.is_loopback, "a loopback address"),
        (address.is_multicast, "a multicast address"),
        (address == ipaddress.IPv4Address("255.255.255.255"), "the broadcast address"),
    )
    return next((name for applies, name in kinds if applies), "")


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
        elif kind := _useless(address):
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


def _vrids(vrids: tuple[VridSection, ...], findings: Findings) -> None:
    if not vrids:
        findings.warn("vrid", None, "no shared address is configured: the pair serves nothing.")
    ids: dict[int, int] = {}
    owners: dict[str, str] = {}
    for number, vrid in enumerate(vrids):
        path = f"vrid[{number}]"
        if vrid.id in ids:
            findings.add(f"{path}.id", vrid.id, f"is that of vrid[{ids[vrid.id]}] already.")
        ids.setdefault(vrid.id, number)
        if not vrid.vips:
            findings.add(f"{path}.vips", None, "holds no address, and no vips_file gives any.")
        for vip in vrid.vips:
            if vip in owners:
                findings.add(f"{path}.vips", vip, f"stands in {owners[vip]} already.")
            owners.setdefault(vip, path)
    for number, vrid in enumerate(vrids):
        for neighbour in vrid.neighbours:
            if neighbour in owners:
                wrong = f"is a shared address ({owners[neighbour]}), so nobody else answers for it."
                findings.add(f"vrid[{number}].neighbours", neighbour, wrong)
    for version in (4, 6):
        count = sum((":" in vip) == (version == 6) for vip in owners)
        if count > VIPS_MAX:
            findings.add(
                "vrid", count, f"IPv{version} addresses; the kernel's map holds {VIPS_MAX}."
            )


def _vip_is_node(
    links: tuple[LinkSection, ...], vrids: tuple[VridSection, ...], findings: Findings
) -> None:
    own = {
        address: f"link[{number}].{side}"
        for number, link in enumerate(links)
        for side, address in (("local", link.local), ("peer", link.peer))
    }
    for number, vrid in enumerate(vrids):
        for vip in vrid.vips:
            if vip in own:
                findings.add(
                    f"vrid[{number}].vips",
                    vip,
                    f"is a node's own address ({own[vip]}); a shared address must be another one.",
                )


def _routes(routes: tuple[RouteSection, ...], findings: Findings) -> None:
    for number, route in enumerate(routes):
        path = f"route[{number}]"
        version = 0
        if route.destination != "default":
            try:
                version = ipaddress.ip_network(route.destination).version
            except ValueError as error:
                findings.add(
                    f"{path}.destination",
                    route.destination,
                    f'should be a network such as 192.0.2.0/24, or "default" ({error}).',
                )
        gateway = parse_address(route.gateway) if route.gateway else None
        if route.gateway and gateway is None:
            findings.add(f"{path}.gateway", route.gateway, "should be an IPv4 or IPv6 address.")
        elif gateway is not None and version and gateway.version != version:
            findings.add(
                f"{path}.gateway", route.gateway, f"is not of the family of {route.destination}."
            )
        if route.type == "unicast":
            if not route.gateway and not route.interface:
                findings.add(path, None, "needs a gateway or an interface.")
            if route.onlink and not (route.gateway and route.interface):
                findings.add(f"{path}.onlink", True, "needs a gateway and an interface.")
        else:
            for key in ("gateway", "interface", "source", "onlink", "mtu"):
                if getattr(route, key):
                    wrong = f'means nothing with type = "{route.type}".'
                    findings.add(f"{path}.{key}", getattr(route, key), wrong)
        if route.mtu and route.mtu < (1280 if version == 6 else 68):
            findings.add(f"{path}.mtu", route.mtu, "is less than any IP network carries.")
        source = parse_address(route.source) if route.source else None
        if route.source and (source is None or (version and source.version != version)):
            findings.add(
                f"{path}.source", route.source, "should be an address of the destination's family."
            )
    _once_each(
        "route",
        [(route_destination(route), route.table, route.metric) for route in routes],
        "has the destination, table and metric of",
        findings,
    )


def _once_each(section: str, keys: list[Any], what: str, findings: Findings) -> None:
    """No two tables of a section may have the same key."""
    seen: dict[Any, int] = {}
    for number, key in enumerate(keys):
        first = seen.setdefault(key, number)
        if first != number:
            findings.add(f"{section}[{number}]", None, f"{what} {section}[{first}].")


def _rules(rules: tuple[RuleSection, ...], findings: Findings) -> None:
    for number, rule in enumerate(rules):
        path = f"rule[{number}]"
        versions = set()
        for key in ("source", "destination"):
            text = getattr(rule, key)
            if not text:
                continue
            try:
                versions.add(ipaddress.ip_network(text).version)
            except ValueError as error:
                findings.add(
                    f"{path}.{key}", text, f"should be a network such as 192.0.2.0/24 ({error})."
                )
        if len(versions) > 1:
            findings.add(path, None, "source and destination are of different families.")
        given = {"ipv4": {4}, "ipv6": {6}, "both": {4, 6}}.get(rule.family, versions)
        if versions and given != versions:
            findings.add(f"{path}.family", rule.family, "is not that of source and destination.")
        if rule.fwmark & ~rule.fwmask:
            findings.add(
                f"{path}.fwmark", rule.fwmark, f"has bits that fwmask {rule.fwmask} hides."
            )
    _once_each("rule", list(rules), "is the same as", findings)


def _inject(
    vrids: tuple[VridSection, ...],
    inject: InjectSection,
    routes: tuple[RouteSection, ...],
    findings: Findings,
) -> None:
    injecting = False
    for number, vrid in enumerate(vrids):
        injecting = injecting or vrid.inject
        if vrid.uplinks and not vrid.inject:
            findings.add(
                f"vrid[{number}].uplinks",
                vrid.uplinks,
                "means nothing without inject = true: only an injected address may arrive "
                "anywhere but on `interface`.",
            )
        if len({vrid.interface, *vrid.uplinks}) <= len(vrid.uplinks):
            findings.add(f"vrid[{number}].uplinks", vrid.uplinks, "names an interface twice.")
    for number, route in enumerate(routes):
        if injecting and route.table == inject.table and inject.table not in {253, 254}:
            findings.warn(
                f"route[{number}].table",
                route.table,
                "is that of the injected host routes: the routing daemon learns this one too.",
            )


def _hooks(hooks: tuple[HookSection, ...], findings: Findings) -> None:
    _once_each("hook", [hook.name for hook in hooks], "has the name of", findings)
    for number, hook in enumerate(hooks):
        if not hook.events:
            findings.add(f"hook[{number}].events", None, "is empty: it would never run.")
        if any("\0" in argument for argument in hook.arguments):
            findings.add(f"hook[{number}].arguments", None, "holds a null character.")


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


def _witness(
    witness: WitnessSection,
    section: TimersSection,
    links: tuple[LinkSection, ...],
    vrids: tuple[VridSection, ...],
    findings: Findings,
) -> None:
    """Whoever decides between the nodes must be somebody else, reached by a way that is secured."""
    if witness.kind == "none":
        return
    if not witness.endpoints:
        findings.add("witness.endpoints", None, "is empty: name the members of the cluster.")
    if len(set(witness.endpoints)) < len(witness.endpoints):
        findings.add("witness.endpoints", witness.endpoints, "names a member twice.")
    if len(witness.endpoints) == 1:
        findings.warn(
            "witness.endpoints",
            witness.endpoints[0],
            "is the only member: when it is down there is no witness.",
        )
    ours = {vip for vrid in vrids for vip in vrid.vips}
    nodes = {address for link in links for address in (link.local, link.peer)}
    for endpoint in witness.endpoints:
        host = endpoint_host(endpoint)
        if host is None:
            wrong = "should be https://HOST:PORT and nothing behind it."
            findings.add("witness.endpoints", endpoint, wrong)
        elif host in ours:
            wrong = "is at a shared address of this pair, which only the primary could ask."
            findings.add("witness.endpoints", endpoint, wrong)
        elif host in nodes:
            wrong = "is on a node of this pair: it would fall with it, and decide for it."
            findings.add("witness.endpoints", endpoint, wrong)
    if not witness.ca_file.startswith("/"):
        findings.add("witness.ca_file", witness.ca_file, "should be an absolute path.")
    if bool(witness.cert_file) != bool(witness.key_file):
        key = "key_file" if witness.cert_file else "cert_file"
        findings.add(f"witness.{key}", None, "is missing: certificate and key belong together.")
    timers = resolve_timers(section)
    least_ms = -(-(4 * timers.hello_us + timers.dead_us) // 1000)
    if witness.lease_ms < least_ms:
        findings.add(
            "witness.lease_ms",
            witness.lease_ms,
            f"must be at least four times hello_us and dead_us, {least_ms} ms here: the peer's "
            "word is good for as long.",
        )


def _witness_here(witness: WitnessSection, findings: Findings) -> None:
    """The agent doesn't start with certificates that it can't read."""
    if witness.kind == "none":
        return
    for key in ("ca_file", "cert_file", "key_file"):
        name = getattr(witness, key)
        if not name.startswith("/"):
            continue
        if not Path(name).is_file():
            findings.add(f"witness.{key}", name, "there is no such file.")
        elif not os.access(name, os.R_OK):
            findings.add(f"witness.{key}", name, "this user can't read it.")
        elif key == "key_file" and (mode := Path(name).stat().st_mode & 0o777) & 0o077:
            findings.warn(
                f"witness.{key}", name, f"has mode {mode:04o}: others may use this node's key."
            )


def endpoint_host(text: str) -> str | None:
    """The host of an endpoint of the witness, or None where it is none."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    bare = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
    return host if parts.scheme == "https" and host and port and bare else None


def _isolation(
    isolation: IsolationSection,
    links: tuple[LinkSection, ...],
    vrids: tuple[VridSection, ...],
    findings: Findings,
) -> None:
    taken = {
        vip: "a shared address, which this node answers itself"
        for vrid in vrids
        for vip in vrid.vips
    }
    for link in links:
        taken[link.local] = "this node's own"
        taken[link.peer] = "the peer's: its death would look like this node's isolation"
    for number, text in enumerate(isolation.references):
        path = f"isolation.references[{number}]"
        address = parse_address(text)
        if address is None:
            findings.add(path, text, "should be an IPv4 or IPv6 address.")
        elif kind := _useless(address):
            findings.add(path, text, f"is {kind}, at which no single host can be reached.")
        elif str(address) in taken:
            findings.add(path, text, f"is {taken[str(address)]}.")


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


def _watchdog(watchdog: WatchdogSection, section: TimersSection, findings: Findings) -> None:
    if watchdog.mode == "off":
        return
    timers = resolve_timers(section)
    gate_ms = timers.attest_ms + timers.lease_us // 1000
    if watchdog.timeout_s * 1000 <= gate_ms:
        findings.add(
            "watchdog.timeout_s",
            watchdog.timeout_s,
            f"must be longer than attest_ms + lease_us ({gate_ms} ms): a loop that hangs loses its "
            "gate first, and the machine is reset only if it goes on hanging.",
        )


def _fence(fence: FenceSection, findings: Findings) -> None:
    check_written(fence.options, findings)
    if not fence.agent and (fence.options or fence.secrets_file):
        findings.add("fence.agent", None, "is missing: there are options for it.")
    if fence.agent and fence.action == "status":
        findings.warn("fence.action", fence.action, "only asks: nobody is fenced.")
        if fence.policy == "before":
            findings.add(
                "fence.policy",
                fence.policy,
                'waits for a peer that was fenced, and action = "status" fences nobody.',
            )


def _fence_here(fence: FenceSection, findings: Findings) -> None:
    if not fence.agent:
        return
    program = Path(fence.agent)
    if not program.is_file():
        findings.add("fence.agent", fence.agent, "there is no such program.")
    elif not os.access(program, os.X_OK):
        findings.add("fence.agent", fence.agent, "this user can't run it.")
    check_options(fence, findings)


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
    (("vrids",), _vrids),
    (("links", "vrids"), _vip_is_node),
    (("routes",), _routes),
    (("rules",), _rules),
    (("vrids", "inject", "routes"), _inject),
    (("hooks",), _hooks),
    (("witness", "timers_set", "links", "vrids"), _witness),
    (("isolation", "links", "vrids"), _isolation),
    (("announce",), _announce),
    (("policy",), _policy),
    (("monitors", "linksets", "links", "vrids"), check_monitors),
    (("linksets",), check_linksets),
    (("watchdog", "timers_set"), _watchdog),
    (("fence",), _fence),
    (("metrics",), _metrics),
    (("interfaces",), check_names),
    (("sync", "links"), check_sync),
    (("files",), check_files),
    (("commands",), check_commands),
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


def _addresses(
    links: tuple[LinkSection, ...],
    vrids: tuple[VridSection, ...],
    findings: Findings,
    system: System,
) -> None:
    """A shared address may be here as /32 or /128 from the agent itself, but not as the node's."""
    assigned = system.addresses()
    own = {
        entry.address: entry.interface
        for entry in assigned
        if not entry.interface.startswith(OWN_INTERFACES)
        and entry.prefix < (128 if ":" in entry.address else 32)
    }
    for number, vrid in enumerate(vrids):
        for vip in vrid.vips:
            if vip in own:
                findings.add(
                    f"vrid[{number}].vips",
                    vip,
                    f"is this node's own address on {own[vip]}; a shared address must be another.",
                )
    here = {(entry.interface, entry.address) for entry in assigned}
    present = system.interfaces()
    for number, link in enumerate(links):
        missing = link.vlan == 0 and (link.interface, link.local) not in here
        if assigned and link.interface in present and missing:
            findings.warn(
                f"link[{number}].local",
                link.local,
                f"is not assigned to {link.interface} at the moment.",
            )
