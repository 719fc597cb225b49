# SPDX-License-Identifier: Apache-2.0
"""Between Python values and the engine's C structures; knows no thread and no map.

A value that doesn't fit its field raises OverflowError or ValueError here, before anything is
handed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from twinbeat.engine._engine import ffi, lib
from twinbeat.engine.types import (
    Announcement,
    AnnounceSchedule,
    Cause,
    EngineWords,
    Event,
    EventKind,
    Facts,
    Flag,
    FrameType,
    GateWords,
    Histogram,
    Link,
    LinkCounters,
    LinkWords,
    Order,
    PeerWords,
    Phase,
    Proposal,
    Settings,
    Setup,
    Watch,
    WireConfig,
    WitnessWords,
)

KEY_SIZE = 16


def settings_to_c(settings: Settings) -> Any:
    """struct tb_settings *."""
    timers = settings.timers
    c: Any = ffi.new("struct tb_settings *")
    c.timers.hello = timers.hello_ns
    c.timers.dead = timers.dead_ns
    c.timers.verify = timers.verify_ns
    c.timers.stall = timers.stall_ns
    c.timers.lease = timers.lease_ns
    c.late = settings.late_ns
    c.idle_claim = settings.idle_claim_ns
    c.listen = settings.listen_ns
    c.boot_wait = settings.boot_wait_ns
    c.mismatch_wait = settings.mismatch_wait_ns
    c.node = settings.node
    c.links = settings.links
    c.direct = settings.direct
    c.ports = settings.ports
    c.witness = settings.witness_ns
    c.probes = settings.probes
    c.strict = settings.strict
    c.wait_lease = settings.wait_lease
    c.claim_alone = settings.claim_alone
    return c


def facts_to_c(facts: Facts, c: Any = None) -> Any:
    """Write the facts into a struct tb_order *."""
    if c is None:
        c = ffi.new("struct tb_order *")
    c.flags = facts.flags
    c.role = facts.role
    c.admin = facts.admin
    c.health = facts.health
    c.generation_shared = facts.generation
    c.digest = facts.digest
    c.pause_until_ns = facts.pause_until_ns
    proposal_to_c(facts.proposal, c.proposal)
    return c


def proposal_to_c(proposal: Proposal, c: Any) -> None:
    """Fill a struct tb_proposal."""
    c.number = proposal.number
    c.flags = proposal.flags
    c.hello_us = proposal.hello_us
    c.dead_us = proposal.dead_us
    c.verify_us = proposal.verify_us
    c.stall_us = proposal.stall_us
    c.lease_us = proposal.lease_us
    c.every = proposal.every


def order_to_c(order: Order, attested_until_ns: int) -> Any:
    """struct tb_order *."""
    c = facts_to_c(order.facts)
    c.generation = order.generation
    c.expires_ns = order.expires_ns
    c.attested_until_ns = attested_until_ns
    c.term_first = order.term_first
    c.term_last = order.term_last
    c.lease_ns = order.lease_ns
    c.permits = order.permits
    c.resign_of = order.resign_of
    c.heard = order.heard
    return c


def witness_to_c(words: WitnessWords) -> Any:
    """struct tb_witness *."""
    c: Any = ffi.new("struct tb_witness *")
    c.term = words.term
    c.until_ns = words.until_ns
    c.open_ns = words.open_ns
    c.before = words.before
    c.kept = words.kept
    c.absent = words.absent
    return c


def config_to_c(config: WireConfig) -> Any:
    """struct tb_config *; its bytes (ffi.buffer) are also the value of map "config"."""
    if not 1 <= len(config.keys) <= lib.TB_KEYS:
        raise ValueError(f"one or {lib.TB_KEYS} keys, not {len(config.keys)}")
    if not 0 <= config.send_key < len(config.keys):
        raise ValueError(f"no key in slot {config.send_key}")
    c: Any = ffi.new("struct tb_config *")
    c.pair = config.pair
    c.node = config.node
    c.send_key = config.send_key
    c.port = config.port
    for slot, (key_id, key) in enumerate(config.keys):
        if not 1 <= key_id <= 255 or len(key) != KEY_SIZE:
            raise ValueError(f"key {key_id}: an id from 1 to 255 and {KEY_SIZE} bytes are needed")
        c.keys[slot].id = key_id
        c.keys[slot].k0 = int.from_bytes(key[:8], "little")
        c.keys[slot].k1 = int.from_bytes(key[8:], "little")
    return c


def mac_from_python(mac: bytes) -> Any:
    """uint8_t[6]; empty bytes become zeros, which mean "unknown"."""
    if len(mac) not in (0, 6):
        raise ValueError(f"a MAC has six bytes, not {len(mac)}")
    return ffi.new("uint8_t[6]", mac or bytes(6))


def _put(field: Any, value: bytes) -> None:
    ffi.memmove(field, value, len(value))


def link_to_c(link: Link, port: int, c: Any) -> None:
    """Fill a struct tb_link_setup."""
    if link.local.version != link.peer.version:
        raise ValueError(f"link {link.number}: {link.local} and {link.peer} are of two families")
    c.ifindex = link.ifindex
    c.mode = link.mode
    c.path.family = link.local.version
    c.path.ttl = link.ttl
    c.path.vlan = link.vlan
    c.path.port = port
    _put(c.path.local, link.local.packed)
    _put(c.path.peer, link.peer.packed)
    _put(c.path.local_mac, bytes(mac_from_python(link.local_mac)))
    _put(c.path.peer_mac, bytes(mac_from_python(link.peer_mac)))


def links_to_c(links: Sequence[Link], port: int, c: Any = None) -> Any:
    """struct tb_link_setup[TB_LINKS], by number; slots without a link stay empty."""
    if c is None:
        c = ffi.new("struct tb_link_setup[]", lib.TB_LINKS)
    for link in links:
        if not 0 <= link.number < lib.TB_LINKS:
            raise ValueError(f"link number {link.number} is not below {lib.TB_LINKS}")
        link_to_c(link, port, c[link.number])
    return c


def setup_to_c(setup: Setup) -> Any:
    """struct tb_setup *."""
    if len(setup.port_ifindexes) > lib.TB_PORTS:
        raise ValueError(f"at most {lib.TB_PORTS} ports")
    c: Any = ffi.new("struct tb_setup *")
    c.maps.gate = setup.maps.gate
    c.maps.self = setup.maps.self
    c.maps.peer = setup.maps.peer
    c.maps.links = setup.maps.links
    c.maps.control = setup.maps.control
    c.settings = settings_to_c(setup.settings)[0]
    c.config = config_to_c(setup.config)[0]
    links_to_c(setup.links, setup.config.port, c.link)
    c.control_ifindex = setup.control_ifindex
    c.ports = len(setup.port_ifindexes)
    for i, ifindex in enumerate(setup.port_ifindexes):
        c.port_ifindex[i] = ifindex
    c.priority = setup.priority
    c.cpu = -1 if setup.cpu is None else setup.cpu
    return c


def announcements_to_c(announcements: Sequence[Announcement]) -> Any:
    """struct tb_announcement[]."""
    c: Any = ffi.new("struct tb_announcement[]", max(1, len(announcements)))
    for i, announcement in enumerate(announcements):
        address: IPv4Address | IPv6Address = announcement.address
        c[i].ifindex = announcement.ifindex
        c[i].family = address.version
        c[i].reply = announcement.reply
        _put(c[i].mac, bytes(mac_from_python(announcement.mac)))
        _put(c[i].address, address.packed)
    return c


def schedule_to_c(schedule: AnnounceSchedule) -> Any:
    """struct tb_schedule *."""
    if len(schedule.repeats_ns) > lib.TB_ANNOUNCE_REPEATS:
        raise ValueError(f"at most {lib.TB_ANNOUNCE_REPEATS} repeats")
    if list(schedule.repeats_ns) != sorted(schedule.repeats_ns):
        raise ValueError("repeats must ascend")
    c: Any = ffi.new("struct tb_schedule *")
    c.repeats = len(schedule.repeats_ns)
    for i, repeat_ns in enumerate(schedule.repeats_ns):
        c.repeat_ns[i] = repeat_ns
    c.refresh_ns = schedule.refresh_ns
    c.rate = schedule.rate_per_second
    return c


def event_from_c(c: Any) -> Event:
    """From a struct tb_event."""
    return Event(
        kind=EventKind(c.kind), cause=Cause(c.cause), link=c.link, at_ns=c.at_ns, a=c.a, b=c.b
    )


def histogram_from_c(c: Any) -> Histogram:
    """From a struct tb_histogram *."""
    return Histogram(buckets=tuple(c.bucket), count=c.count, sum_ns=c.sum_ns)


def link_counters(c: Any) -> LinkCounters:
    """From a struct tb_link_counters."""
    return LinkCounters(
        sent={kind: c.sent[kind] for kind in (FrameType.HELLO, FrameType.PROBE)},
        errors={number: count for number, count in enumerate(c.error) if count},
    )


def gate_words(c: Any, now_ns: int) -> GateWords:
    """From a struct tb_gate, with the kernel's rule applied (R1)."""
    return GateWords(
        term=c.term,
        open_until_ns=c.open_until,
        fence_below=c.fence_below,
        contested=c.contested,
        contested_ns=c.contested_ns,
        counter=c.counter,
        open=c.term != 0
        and c.term >= c.fence_below
        and now_ns < c.open_until
        and c.contested != c.term,
    )


def peer_words(c: Any) -> PeerWords:
    """From a struct tb_peer."""
    return PeerWords(
        epoch=c.epoch,
        counter=c.counter,
        known=c.known,
        arrived_ns=c.arrived_ns,
        echo=c.echo,
        term=c.term,
        claim=c.claim,
        fence_below=c.fence_below,
        highest=c.highest,
        lease_us=c.lease_us,
        flags=Flag(c.flags & ~lib.TB_PAUSE_LEFT),
        pause_left_ns=lib.tb_pause_left_ns(c.flags),
        type=c.type,
        link=c.link,
        role=c.role,
        admin=c.admin,
        health=c.health,
        key_id=c.key_id,
        keys=tuple(c.keys),
        layouts=c.layouts,
        dead_us=c.dead_us,
        lease_full_us=c.lease_full_us,
        hello_us=c.hello_us,
        verify_us=c.verify_us,
        generation=c.generation,
        digest=c.digest,
        two_way=bool(c.two_way),
        proposal=proposal_words(c.proposal),
    )


def proposal_words(c: Any) -> Proposal:
    """From a struct tb_proposal."""
    return Proposal(
        number=c.number,
        flags=Flag(c.flags),
        hello_us=c.hello_us,
        dead_us=c.dead_us,
        verify_us=c.verify_us,
        stall_us=c.stall_us,
        lease_us=c.lease_us,
    )


def link_words(number: int, c: Any, carrier: int) -> LinkWords:
    """From a struct tb_link and the mask of links with carrier."""
    return LinkWords(
        number=number,
        hello_ns=c.hello_ns,
        answer_ns=c.answer_ns,
        stranger_ns=c.stranger_ns,
        mismatch_ns=c.mismatch_ns,
        foreign_ns=c.foreign_ns,
        accepted=c.accepted,
        round_trip_ns=c.round_trip_ns,
        cpu=c.cpu - 1 if c.cpu else None,
        carrier=bool(carrier & 1 << number),
    )


def engine_words(c: Any) -> EngineWords:
    """From a struct tb_engine."""
    return EngineWords(
        phase=Phase(c.phase),
        watch=Watch(c.watch),
        term=c.term,
        last_term=c.last_term,
        highest=c.highest,
        claim=c.claim,
        heard_ns=c.heard_ns,
        suspect_ns=c.suspect_ns,
        lease_until_ns=c.lease_until,
        order_generation=c.order_generation,
        window_probes=c.window_probes,
        window_restarts=c.window_restarts,
        withheld=Cause(c.withheld),
        receipted=bool(c.receipted),
        two_way=c.two_way,
        link_silent=c.link_silent,
        hello_ns=c.hello,
        dead_ns=c.dead,
        restart_known=bool(c.restart_known),
    )
