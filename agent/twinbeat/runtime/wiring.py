# SPDX-License-Identifier: Apache-2.0
"""From one vocabulary into another: configuration, core and engine each have their own types.

Pure functions; the numbers of the enumerations are the same everywhere (a test compares them with
the headers), so values are carried over by number.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from twinbeat.config.keys import Key
from twinbeat.config.model import Config
from twinbeat.config.nodes import LinkSection, link_number
from twinbeat.config.service import RouteSection, RuleSection, VridSection, route_destination
from twinbeat.config.timers import NS_PER_MS, NS_PER_US
from twinbeat.core import types as core
from twinbeat.core.events import EngineEvent
from twinbeat.core.witness import Words
from twinbeat.engine import maps
from twinbeat.engine import types as engine
from twinbeat.net.interfaces import Address, Interface
from twinbeat.net.routes import Kind, Route
from twinbeat.net.rules import Rule
from twinbeat.net.vmac import vmac_address

NS_PER_S: Final = 1_000_000_000
PROBES: Final = 3
"""On-time unanswered probes that a verdict of DEAD takes; a window of verify has room for eight."""
MISMATCH_WAITS: Final = 10
"""So many boot waits frames that are refused for their key or version delay a cold claim."""
PORT: Final = 3003


# -- the configuration, as the core wants it ----------------------------------------------------


def policy(
    config: Config, *, digest: int, generation: int = 0, wake_late_ns: int = 0
) -> core.Policy:
    """`digest` is that of the configuration as written, which the pair compares; `generation` that
    of the document in force."""
    accepted = config.timers_set.accept_host
    return core.Policy(
        node=config.node.index,
        name=config.node.name,
        peer_name=config.peer.name,
        fail_safe=config.policy.fail_safe,
        claim_alone=config.policy.claim_alone,
        preferred=config.policy.preferred,
        fence_first=bool(config.fence.agent) and config.fence.policy == "before",
        preempt_hold_ns=config.policy.preempt_hold_s * NS_PER_S,
        damping=core.Damping(
            hold_ns=config.policy.recovery_hold_ms * NS_PER_MS,
            hold_max_ns=config.policy.recovery_hold_max_s * NS_PER_S,
            forget_ns=config.policy.recovery_forget_s * NS_PER_S,
        ),
        flip_limit=core.FlipLimit(
            flips=config.policy.max_flips, window_ns=config.policy.flip_window_s * NS_PER_S
        ),
        wake_late_ns=0 if accepted else wake_late_ns,
        generation=generation,
        digest=digest,
        witness_lease_ns=witness_lease_ns(config),
        witness_serve=config.witness.without == "serve",
    )


def witness_lease_ns(config: Config) -> int:
    """How long a word of the witness is good for; 0 = there is none."""
    return 0 if config.witness.kind == "none" else config.witness.lease_ms * NS_PER_MS


def timers(config: Config) -> core.Timers:
    ns = config.timers.ns
    return core.Timers(
        hello_ns=ns.hello_ns,
        dead_ns=ns.dead_ns,
        verify_ns=ns.verify_ns,
        stall_ns=ns.stall_ns,
        lease_ns=ns.lease_ns,
        attest_ns=ns.attest_ns,
        boot_wait_ns=ns.boot_wait_ns,
    )


def with_timers(config: Config, wanted: core.Timers) -> Config:
    """The configuration with timers that were set over it while the pair ran."""
    if wanted == timers(config):
        return config
    values = {
        "hello_us": wanted.hello_ns // NS_PER_US,
        "dead_us": wanted.dead_ns // NS_PER_US,
        "verify_us": wanted.verify_ns // NS_PER_US,
        "stall_us": wanted.stall_ns // NS_PER_US,
        "lease_us": wanted.lease_ns // NS_PER_US,
        "attest_ms": -(-wanted.attest_ns // NS_PER_MS),
        "boot_wait_ms": -(-wanted.boot_wait_ns // NS_PER_MS),
    }
    return msgspec.structs.replace(
        config, timers_set=msgspec.structs.replace(config.timers_set, **values)
    )


# -- the configuration, as the engine wants it --------------------------------------------------


def settings(config: Config, *, ports: int) -> engine.Settings:
    ns = config.timers.ns
    wanted, direct = link_masks(config.heartbeat_links)
    return engine.Settings(
        timers=engine.Timers(
            hello_ns=ns.hello_ns,
            dead_ns=ns.dead_ns,
            verify_ns=ns.verify_ns,
            stall_ns=ns.stall_ns,
            lease_ns=ns.lease_ns,
        ),
        node=config.node.index,
        links=wanted,
        direct=direct,
        ports=ports,
        late_ns=ns.late_ns,
        idle_claim_ns=ns.idle_claim_ns,
        listen_ns=ns.listen_ns,
        boot_wait_ns=ns.boot_wait_ns,
        mismatch_wait_ns=MISMATCH_WAITS * ns.boot_wait_ns,
        witness_ns=witness_lease_ns(config),
        probes=PROBES,
        strict=config.policy.strict,
        wait_lease=config.policy.stall == "wait-lease",
        claim_alone=config.policy.claim_alone,
    )


def wire(config: Config, keys: Sequence[Key]) -> engine.WireConfig:
    """Keys come with that to send under first, so it is in slot 0."""
    return engine.WireConfig(
        pair=config.pair.id,
        node=config.node.index,
        keys=tuple((key.id, key.secret) for key in keys),
        send_key=0,
        port=PORT,
    )


def bpf_keys(keys: Sequence[Key]) -> list[maps.Key]:
    """The keys as the kernel's programs want them."""
    return [maps.Key(id=key.id, secret=key.secret) for key in keys]


def link_masks(links: Iterable[LinkSection]) -> tuple[int, int]:
    """Bits of the links, and of those that are a cable between the nodes."""
    wanted, direct = 0, 0
    for section in links:
        bit = 1 << link_number(section)
        wanted |= bit
        direct |= bit if section.direct else 0
    return wanted, direct


def link(section: LinkSection, interface: Interface, mac: str) -> engine.Link:
    """`mac` is the peer's, empty while it isn't known."""
    return engine.Link(
        number=link_number(section),
        ifindex=interface.index,
        local=ipaddress.ip_address(section.local),
        peer=ipaddress.ip_address(section.peer),
        mode=engine.LinkMode.ETHERNET if section.mode == "ethernet" else engine.LinkMode.UDP,
        vlan=section.vlan,
        local_mac=mac_bytes(interface.mac),
        peer_mac=mac_bytes(mac),
        ttl=255,
    )


def announcements(
    config: Config, ports: Mapping[str, Interface]
) -> tuple[list[engine.Announcement], engine.AnnounceSchedule]:
    """Virtual MACs first: one frame each moves the switch, whatever the number of addresses.

    Interfaces that are missing are left out; they have no gate to announce through.
    """
    virtual: list[engine.Announcement] = []
    plain: list[engine.Announcement] = []
    for section in config.vrids:
        port = ports.get(section.interface)
        if port is None or section.inject:
            continue
        for version in (4, 6):
            addresses = vips(section, version)
            if section.vmac:
                mac = mac_bytes(vmac_address(section.id, version))
                virtual += _announce(port, mac, addresses[:1], config.announce.garp_reply)
            else:
                plain += _announce(port, mac_bytes(port.mac), addresses, config.announce.garp_reply)
    schedule = engine.AnnounceSchedule(
        repeats_ns=tuple(ms * NS_PER_MS for ms in config.announce.repeats_ms),
        refresh_ns=config.announce.refresh_s * NS_PER_S,
        rate_per_second=config.announce.rate_per_s,
    )
    return virtual + plain, schedule


def _announce(
    port: Interface, mac: bytes, addresses: Iterable[Address], also_reply: bool
) -> list[engine.Announcement]:
    found = []
    for address in addresses:
        found.append(engine.Announcement(ifindex=port.index, mac=mac, address=address))
        if also_reply and address.version == 4:
            found.append(
                engine.Announcement(ifindex=port.index, mac=mac, address=address, reply=True)
            )
    return found


# -- the configuration, as the network wants it -------------------------------------------------


def vips(section: VridSection, version: int | None = None) -> list[Address]:
    """The addresses of a VRID, of one IP version or of both."""
    return [one for one in _addresses(section.vips) if version is None or one.version == version]


@lru_cache(maxsize=16)
def _addresses(texts: tuple[str, ...]) -> tuple[Address, ...]:
    """Thousands of them are asked for many times, in the loop that decides."""
    return tuple(ipaddress.ip_address(text) for text in texts)


def route(section: RouteSection) -> Route:
    gateway = ipaddress.ip_address(section.gateway) if section.gateway else None
    return Route(
        destination=ipaddress.ip_network(route_destination(section)),
        gateway=gateway,
        interface=section.interface or None,
        table=section.table,
        metric=section.metric,
        kind=Kind[section.type.upper()],
        source=ipaddress.ip_address(section.source) if section.source else None,
        onlink=section.onlink,
        mtu=section.mtu,
        replace=section.replace,
    )


def rules(section: RuleSection) -> list[Rule]:
    """One rule, or one for each IP version where nothing says which."""
    source, destination = (
        ipaddress.ip_network(text) if text else None
        for text in (section.source, section.destination)
    )
    known = source or destination
    versions = {"ipv4": [4], "ipv6": [6]}.get(section.family, [known.version] if known else [4, 6])
    return [
        Rule(
            version=version,
            priority=section.priority,
            table=section.table,
            source=source,
            destination=destination,
            mark=section.fwmark,
            mask=section.fwmask if section.fwmark else 0xFFFFFFFF,
            interface=section.interface,
        )
        for version in versions
    ]


def uplinks(section: VridSection) -> tuple[str, ...]:
    """The interfaces over which traffic to its addresses may arrive."""
    return (section.interface, *section.uplinks)


def port_names(config: Config) -> set[str]:
    """The interfaces over which traffic to shared addresses may come in."""
    return {name for section in config.vrids for name in uplinks(section)}


def link_names(links: Sequence[LinkSection]) -> list[str]:
    """Those that links run over, each once."""
    return list(dict.fromkeys(section.interface for section in links))


def fixed_neighbours(config: Config, port: str) -> frozenset[Address]:
    """Those configured for a port, and the gateways of routes that may lie behind it."""
    configured = {
        ipaddress.ip_address(text)
        for section in config.vrids
        if section.interface == port
        for text in section.neighbours
    }
    gateways = {
        ipaddress.ip_address(section.gateway)
        for section in config.routes
        if section.gateway and section.interface in {"", port}
    }
    return frozenset(configured | gateways)


def mac_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


# -- between core and engine --------------------------------------------------------------------


def order(wanted: core.Order) -> engine.Order:
    return engine.Order(
        generation=wanted.generation,
        expires_ns=wanted.expires_ns,
        term_first=wanted.term_first,
        term_last=wanted.term_last,
        permits=engine.Permit(int(wanted.permits)),
        lease_ns=wanted.lease_ns,
        resign_of=wanted.resign_of,
        heard=wanted.heard,
        facts=engine.Facts(
            flags=engine.Flag(int(wanted.flags)),
            role=engine.Role(int(wanted.role)),
            admin=engine.Admin(int(wanted.admin)),
            health=wanted.health,
            generation=wanted.generation_shared,
            digest=wanted.digest,
            pause_until_ns=wanted.pause_until_ns,
            proposal=proposal_of(wanted),
        ),
    )


def witness(told: Words) -> engine.WitnessWords:
    return engine.WitnessWords(
        term=told.term,
        until_ns=told.until_ns,
        open_ns=told.open_ns,
        before=told.before,
        kept=told.kept,
        absent=told.absent,
    )


def proposal_of(wanted: core.Order) -> engine.Proposal:
    """What the frames propose or refuse of other intervals."""
    said, every = wanted.proposal, wanted.proposal_every
    if said is None:
        return engine.Proposal()
    flags = engine.Flag.PROPOSAL
    if said.even_so:
        flags |= engine.Flag.EVEN_SO
    if said.refuses:
        flags |= engine.Flag.REFUSES
        return engine.Proposal(number=said.number, flags=flags, hello_us=said.late_us, every=every)
    values = {} if said.intervals is None else dataclasses.asdict(said.intervals)
    return engine.Proposal(number=said.number, flags=flags, every=every, **values)


def proposal(words: engine.Proposal) -> core.Proposal | None:
    """What a frame of the peer proposed or refused; None = nothing yet."""
    if not words.number:
        return None
    refuses = engine.Flag.REFUSES in words.flags
    intervals = None
    if words.hello_us and not refuses:
        intervals = core.Intervals(
            hello_us=words.hello_us,
            dead_us=words.dead_us,
            verify_us=words.verify_us,
            stall_us=words.stall_us,
            lease_us=words.lease_us,
        )
    return core.Proposal(
        number=words.number,
        intervals=intervals,
        even_so=engine.Flag.EVEN_SO in words.flags,
        refuses=refuses,
        late_us=words.hello_us if refuses else 0,
    )


def event(happened: engine.Event) -> EngineEvent:
    return EngineEvent(
        kind=core.EngineEventKind(int(happened.kind)),
        at_ns=happened.at_ns,
        cause=core.Cause(int(happened.cause)),
        a=happened.a,
        b=happened.b,
        link=happened.link,
    )


def engine_view(words: engine.EngineWords) -> core.EngineView:
    return core.EngineView(
        phase=core.Phase(int(words.phase)),
        watch=core.Watch(int(words.watch)),
        term=words.term,
        highest=words.highest,
        lease_until_ns=words.lease_until_ns,
        order_generation=words.order_generation,
        hello_ns=words.hello_ns,
        dead_ns=words.dead_ns,
        restart_known=words.restart_known,
    )


def peer_view(words: engine.PeerWords) -> core.PeerView | None:
    """None as long as no frame of the peer was accepted."""
    if not words.epoch or not words.arrived_ns:
        return None
    return core.PeerView(
        counter=words.counter,
        arrived_ns=words.arrived_ns,
        term=words.term,
        claim=words.claim,
        fence_below=words.fence_below,
        highest=words.highest,
        lease_us=words.lease_us,
        flags=core.Flag(int(words.flags)),
        answered=words.type == engine.FrameType.ANSWER,
        pause_left_ns=words.pause_left_ns,
        role=core.Role(words.role),
        admin=core.Admin(words.admin),
        health=words.health,
        dead_us=words.dead_us,
        lease_full_us=words.lease_full_us,
        hello_us=words.hello_us,
        verify_us=words.verify_us,
        generation=words.generation,
        digest=words.digest,
        two_way=words.two_way,
        proposal=proposal(words.proposal),
    )
