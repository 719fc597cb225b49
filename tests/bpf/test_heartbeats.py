# SPDX-License-Identifier: Apache-2.0
"""Heartbeats through the XDP program: what is accepted, what is refused, and counted as what."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bpf.cases import Case
from bpf.packets import (
    FRAGMENT,
    IPV4,
    IPV6,
    KEYS,
    OTHER,
    OUR_IPV4,
    OUR_IPV6,
    PEER,
    PEER_IPV4,
    PEER_IPV6,
    QINQ,
    UDP,
    US,
    Heartbeat,
    eth,
    frame_in,
    ipv4,
    ipv6,
    mac_is_right,
    siphash24,
    udp,
)
from bpf.world import (
    ABORTED,
    COUNTER,
    DROP,
    EPOCH,
    FRESH_FROM,
    HOUR_NS,
    LOOPBACK,
    OWN_COUNTER,
    PASS,
    PROBE_FROM,
    TERM,
    TX,
    World,
    boot_ns,
)
from twinbeat.engine import abi
from twinbeat.engine import compile as compiler
from twinbeat.engine.abi import Flag, FrameType, Reason
from twinbeat.engine.maps import SPECS, Port

HELLO = Heartbeat(counter=COUNTER + 1, fields={"echo": OWN_COUNTER})
PROBE = HELLO.but(type=FrameType.PROBE)
ANSWER = Heartbeat(
    type=FrameType.ANSWER, counter=COUNTER + 1, fields={"echo": PROBE_FROM, "echo_ns": 5000}
)
CONTROL = Heartbeat(type=FrameType.CONTROL, node=0, vlan=9, counter=1, fields={"sent_ns": 77})
NEW_EPOCH = (EPOCH + 1) << 32 | 5
OLD_EPOCH = (EPOCH - 1) << 32 | 5
HEADERS = 14 + 20 + 8
"""Of an untagged frame over IPv4: without them it can't be told what the packet is."""


def fields(**values: int) -> Heartbeat:
    """A HELLO with these values in it, and a fresh echo."""
    return HELLO.but(fields={"echo": OWN_COUNTER} | values)


def accepted_on(link: int) -> object:
    def check(world: World) -> None:
        stamps = world.maps.link(link)
        assert boot_ns() - stamps.hello_ns < 10**9
        assert stamps.hello_counter == COUNTER + 1
        assert stamps.accepted == 1
        assert stamps.cpu >= 1
        peer = world.maps.peer()
        assert (peer.counter, peer.link, peer.seq % 2) == (COUNTER + 1, link, 0)
        assert peer.arrived_ns == stamps.hello_ns

    return check


def untouched(world: World) -> None:
    """A refused frame changes nothing but counters, and says so on the link at most."""
    peer = world.maps.peer()
    assert (peer.counter, peer.epoch, peer.known, peer.seq) == (COUNTER, EPOCH, COUNTER, 0)
    for number in range(abi.LINKS):
        stamps = world.maps.link(number)
        words = (stamps.hello_ns, stamps.answer_ns, stamps.hello_counter, stamps.answer_counter)
        assert (*words, stamps.accepted) == (0, 0, 0, 0, 0)
    gate = world.maps.gate()
    assert (gate.fence_below, gate.contested) in {(0, 0), (TERM, 0)}


def refused(description: str, packet: bytes, reason: Reason, **row: object) -> Case:
    return Case(
        description=description,
        packet=packet,
        verdict=DROP,
        counts={reason: 1},
        after=untouched,
        **row,  # type: ignore[arg-type]
    )


def passed(description: str, packet: bytes, **row: object) -> Case:
    """Not a heartbeat for us: goes on to whom it may concern."""
    return Case(description=description, packet=packet, verdict=PASS, after=untouched, **row)  # type: ignore[arg-type]


def _position(world: World) -> None:
    link = world.maps.link(0)
    link.hello_counter = COUNTER + 1
    world.maps.write_link(0, link)


def _gate_is(**words: int) -> object:
    def check(world: World) -> None:
        gate = world.maps.gate()
        assert {name: getattr(gate, name) for name in words} == words

    return check


def _opened(**words: int) -> object:
    return lambda world: world.open_gate(**words)


def _adopted(world: World) -> None:
    peer = world.maps.peer()
    assert (peer.epoch, peer.counter, peer.known) == (EPOCH + 1, NEW_EPOCH, NEW_EPOCH)


def _without(**words: int) -> object:
    return lambda world: world.change("self", **words)


ACCEPTED = [
    Case(
        description="HELLO",
        packet=HELLO.packet(),
        verdict=DROP,
        counts={Reason.HELLO: 1},
        after=accepted_on(0),
    ),
    Case(
        description="HELLO under the second key",
        packet=HELLO.but(key=2).packet(),
        verdict=DROP,
        counts={Reason.HELLO: 1},
        after=accepted_on(0),
    ),
    Case(
        description="HELLO over IPv6, tagged",
        packet=HELLO.but(family=6, vlan=20, link=1).packet(),
        verdict=DROP,
        counts={Reason.HELLO: 1},
        after=accepted_on(1),
    ),
    Case(
        description="HELLO over a routed link, after some hops, tagged with priority",
        packet=HELLO.but(vlan=0xC000 | 30, link=2, ttl=64, address="203.0.113.9").packet(),
        verdict=DROP,
        counts={Reason.HELLO: 1},
        after=accepted_on(2),
    ),
    Case(
        description="HELLO with the padding of a short-sighted driver behind it",
        packet=HELLO.packet() + bytes(4),
        verdict=DROP,
        counts={Reason.HELLO: 1},
        after=accepted_on(0),
    ),
    Case(
        description="HELLO while another processor writes the snapshot: counts all the same",
        packet=HELLO.packet(),
        before=lambda world: world.change("peer", seq=3),
        verdict=DROP,
        counts={Reason.HELLO: 1, Reason.SNAPSHOT_BUSY: 1},
    ),
    Case(
        description="HELLO with a stale echo: alive, but not proven to hear us",
        packet=fields(echo=FRESH_FROM - 1).packet(),
        verdict=DROP,
        counts={Reason.HELLO: 1},
        after=lambda world: _equal(world.maps.peer().two_way, 0),
    ),
    Case(
        description="HELLO with a fresh echo: two-way",
        packet=HELLO.packet(),
        verdict=DROP,
        counts={Reason.HELLO: 1},
        after=lambda world: _equal(world.maps.peer().two_way, 1),
    ),
    Case(
        description="ANSWER to a probe of the running window",
        packet=ANSWER.packet(),
        verdict=DROP,
        counts={Reason.ANSWER: 1},
        after=lambda world: _equal(
            (world.maps.link(0).answer_echo, world.maps.link(0).answer_counter),
            (PROBE_FROM, COUNTER + 1),
        ),
    ),
    Case(
        description="CONTROL on the private pair",
        packet=CONTROL.packet(),
        verdict=DROP,
        counts={Reason.CONTROL: 1},
        after=lambda world: _equal(
            sorted(world.maps.control(cpu).sent_ns for cpu in range(8))[-1], 77
        ),
    ),
]


def _equal(one: object, other: object) -> None:
    assert one == other


REFUSED = [
    refused("no magic", HELLO.wrap(bytes(128)), Reason.MALFORMED),
    refused("another version", HELLO.but(version=2).packet(), Reason.VERSION),
    refused("another pair", HELLO.but(pair=8).packet(), Reason.PAIR),
    refused("TTL 254 on a link within the subnet", HELLO.but(ttl=254).packet(), Reason.TTL),
    refused(
        "hop limit 254",
        HELLO.but(family=6, vlan=20, link=1, ttl=254).packet(),
        Reason.TTL,
    ),
    refused(
        "TTL below that of a routed link",
        HELLO.but(vlan=30, link=2, ttl=63).packet(),
        Reason.TTL,
    ),
    refused("our own index", HELLO.but(node=0).packet(), Reason.OWN),
    refused("an index beyond the pair", HELLO.but(node=2).packet(), Reason.MALFORMED),
    refused("key id 0", HELLO.but(key=0, secret=KEYS[1]).packet(), Reason.KEY),
    refused("unknown key", HELLO.but(key=3, secret=KEYS[1]).packet(), Reason.KEY),
    refused("signed with another key", HELLO.but(secret=bytes(16)).packet(), Reason.AUTH),
    refused("signed with the second key", HELLO.but(secret=KEYS[2]).packet(), Reason.AUTH),
    refused("an unknown type", HELLO.but(type=9).packet(), Reason.MALFORMED),
    refused("type CONTROL on a link", HELLO.but(type=FrameType.CONTROL).packet(), Reason.MALFORMED),
    refused("sent on another link", HELLO.but(link=1).packet(), Reason.LINK),
    refused("a claim of our parity", fields(claim=TERM + 2).packet(), Reason.MALFORMED),
    Case(
        description="HELLO replayed",
        packet=HELLO.packet(),
        before=_position,
        verdict=DROP,
        counts={Reason.REPLAY: 1},
    ),
    refused(
        "HELLO from before the adoption", HELLO.but(counter=EPOCH << 32).packet(), Reason.REPLAY
    ),
    refused(
        "ANSWER to a probe before the window",
        ANSWER.but(fields={"echo": PROBE_FROM - 1}).packet(),
        Reason.WINDOW,
    ),
    refused(
        "ANSWER to a probe not sent yet",
        ANSWER.but(fields={"echo": OWN_COUNTER + 1}).packet(),
        Reason.WINDOW,
    ),
    refused(
        "ANSWER while nothing is probed",
        ANSWER.packet(),
        Reason.WINDOW,
        before=_without(probe_from=0),
    ),
    refused("first fragment", HELLO.wrap(HELLO.payload(), fragment=0x2000), Reason.MALFORMED),
    refused(
        "fragment over IPv6",
        eth(
            ipv6(bytes([UDP, 0, 0, 1, 0, 0, 0, 9]) + udp(HELLO.payload()), following=FRAGMENT),
            IPV6,
            vlan=20,
        ),
        Reason.MALFORMED,
    ),
    refused(
        "IPv4 options", HELLO.wrap(HELLO.payload(), options=bytes([7, 3, 4, 0])), Reason.MALFORMED
    ),
    refused("one byte more", HELLO.wrap(HELLO.payload() + b"\0"), Reason.LENGTH),
    refused("a jumbo", HELLO.wrap(HELLO.payload() * 10), Reason.LENGTH),
    refused("HELLO on the private pair", HELLO.but(vlan=9, node=0).packet(), Reason.LINK),
    refused("CONTROL of the other node", CONTROL.but(node=1).packet(), Reason.LINK),
]

NOT_OURS = [
    passed("to another port", HELLO.but(port=3004).packet()),
    passed("to another node, routed through us", HELLO.but(address="203.0.113.9").packet()),
    passed("over IPv6 on a link that speaks IPv4", HELLO.but(family=6).packet()),
    passed("over IPv4 on a link that speaks IPv6", HELLO.but(vlan=20, link=1).packet()),
    passed(
        "over IPv6 to another node",
        HELLO.but(family=6, vlan=20, link=1, address="fe80::3").packet(),
    ),
    Case(
        description="on a VLAN that is no link",
        packet=HELLO.but(vlan=21).packet(),
        verdict=PASS,
        counts={Reason.LINK: 1},
        after=untouched,
    ),
    passed("other data to our port on a VLAN that is no link", HELLO.but(vlan=21).wrap(b"hello")),
    passed("a later fragment", HELLO.wrap(HELLO.payload(), fragment=0x0010)),
    passed("two tags", eth(HELLO.packet()[12:], QINQ)),
    passed("two tags of the same kind", eth(HELLO.but(vlan=20).packet()[12:], 0x8100)),
    passed("TCP to our port", HELLO.wrap(HELLO.payload(), protocol=6)),
]

EPOCHS = [
    Case(
        description="a new epoch, fresh: adopted",
        packet=HELLO.but(counter=NEW_EPOCH).packet(),
        verdict=DROP,
        counts={Reason.HELLO: 1, Reason.ADOPTED: 1},
        after=_adopted,
    ),
    refused(
        "a new epoch with an old echo: a recording could say that",
        HELLO.but(counter=NEW_EPOCH, fields={"echo": FRESH_FROM - 1}).packet(),
        Reason.STRANGER,
    ),
    refused(
        "a new epoch that echoes a number we haven't drawn yet",
        HELLO.but(counter=NEW_EPOCH, fields={"echo": OWN_COUNTER + 1}).packet(),
        Reason.STRANGER,
    ),
    refused("an old epoch, fresh", HELLO.but(counter=OLD_EPOCH).packet(), Reason.STRANGER),
    Case(
        description="a new epoch in an ANSWER to our probe: adopted",
        packet=ANSWER.but(counter=NEW_EPOCH).packet(),
        verdict=DROP,
        counts={Reason.ANSWER: 1, Reason.ADOPTED: 1},
        after=_adopted,
    ),
    refused("an old epoch in an ANSWER", ANSWER.but(counter=OLD_EPOCH).packet(), Reason.STRANGER),
    Case(
        description="a new epoch while another processor writes: the next frame adopts",
        packet=HELLO.but(counter=NEW_EPOCH).packet(),
        before=lambda world: world.change("peer", seq=1),
        verdict=DROP,
        counts={Reason.STRANGER: 1, Reason.SNAPSHOT_BUSY: 1},
        after=lambda world: _equal(world.maps.peer().epoch, EPOCH),
    ),
]

FENCE = [
    Case(
        description="a claim fences our open gate",
        packet=fields(claim=TERM + 1, flags=Flag.CLAIMING).packet(),
        before=_opened(),
        verdict=DROP,
        counts={Reason.HELLO: 1, Reason.FENCED: 1},
        after=_gate_is(fence_below=TERM + 1, term=TERM),
    ),
    Case(
        description="a claim fences though the snapshot is being written",
        packet=fields(claim=TERM + 1).packet(),
        before=lambda world: (world.open_gate(), world.change("peer", seq=1)),
        verdict=DROP,
        counts={Reason.HELLO: 1, Reason.FENCED: 1, Reason.SNAPSHOT_BUSY: 1},
        after=_gate_is(fence_below=TERM + 1),
    ),
    Case(
        description="an older claim lowers nothing",
        packet=fields(claim=TERM - 1).packet(),
        before=_opened(),
        verdict=DROP,
        counts={Reason.HELLO: 1},
        after=_gate_is(fence_below=TERM, contested=0),
    ),
    Case(
        description="a peer open under a higher term fences",
        packet=fields(term=TERM + 1, flags=Flag.OPEN).packet(),
        before=_opened(),
        verdict=DROP,
        counts={Reason.HELLO: 1, Reason.FENCED: 1},
        after=_gate_is(fence_below=TERM + 1),
    ),
    Case(
        description="a peer open under a lower term, not fenced yet: contested",
        packet=fields(term=TERM - 1, flags=Flag.OPEN, fence_below=TERM - 1).packet(),
        before=_opened(),
        verdict=DROP,
        counts={Reason.HELLO: 1, Reason.CONTESTED: 1},
        after=_gate_is(contested=TERM, fence_below=TERM),
    ),
    Case(
        description="a peer that says it was primary, with its gate shut, contests nothing",
        packet=fields(term=TERM - 1, role=3).packet(),
        before=_opened(),
        verdict=DROP,
        counts={Reason.HELLO: 1},
        after=_gate_is(contested=0),
    ),
    Case(
        description="the receipt clears the contest",
        packet=fields(term=TERM - 1, fence_below=TERM).packet(),
        before=_opened(contested=TERM, contested_ns=1),
        verdict=DROP,
        counts={Reason.HELLO: 1, Reason.CLEARED: 1},
        after=_gate_is(contested=0),
    ),
    Case(
        description="a forged claim fences nothing",
        packet=fields(claim=TERM + 1).but(secret=bytes(16)).packet(),
        before=_opened(),
        verdict=DROP,
        counts={Reason.AUTH: 1},
        after=_gate_is(fence_below=TERM),
    ),
]


@pytest.mark.parametrize("case", ACCEPTED + REFUSED + NOT_OURS + EPOCHS + FENCE, ids=str)
def test_table(world: World, case: Case) -> None:
    case.check(world, world.receive)


UNKNOWN_KEY = HELLO.but(key=3, secret=KEYS[1])
TAGGED = UNKNOWN_KEY.but(family=6, vlan=20, link=1)
ROUTED = UNKNOWN_KEY.but(vlan=30, link=2)
"""A link of which the peer's address isn't known."""


@pytest.mark.parametrize(
    ("link", "packet", "stamped"),
    [
        pytest.param(0, UNKNOWN_KEY.packet(), True, id="unknown key"),
        pytest.param(0, HELLO.but(secret=bytes(16)).packet(), True, id="wrong seal"),
        pytest.param(0, HELLO.but(version=2).packet(), True, id="another version"),
        pytest.param(1, TAGGED.packet(), True, id="over IPv6"),
        pytest.param(2, ROUTED.packet(), True, id="where any address is the peer's"),
        pytest.param(
            0,
            UNKNOWN_KEY.wrap(UNKNOWN_KEY.payload(), source="169.254.10.3"),
            False,
            id="from another address",
        ),
        pytest.param(
            1,
            TAGGED.wrap(TAGGED.payload(), source="fe80::3"),
            False,
            id="from another address, over IPv6",
        ),
        pytest.param(0, HELLO.but(version=2, ttl=254).packet(), False, id="from beyond a router"),
        pytest.param(0, HELLO.but(pair=8, key=3, secret=KEYS[1]).packet(), False, id="not ours"),
    ],
)
def test_only_the_peers_address_is_heard_to_mismatch(
    world: World, link: int, packet: bytes, stamped: bool
) -> None:
    assert world.receive(packet).verdict == DROP
    stamps = world.maps.link(link)
    assert (boot_ns() - stamps.mismatch_ns < 10**9) is stamped
    assert stamped or stamps.mismatch_ns == 0


@pytest.mark.parametrize(
    ("heartbeat", "headers"),
    [
        (HELLO, HEADERS),
        (HELLO.but(vlan=30, link=2), HEADERS + 4),
        (HELLO.but(family=6, vlan=20, link=1), HEADERS + 4 + 20),
    ],
    ids=["IPv4", "tagged", "IPv6"],
)
def test_truncated_at_every_length(world: World, heartbeat: Heartbeat, headers: int) -> None:
    whole = heartbeat.packet()
    for length in range(14, len(whole)):
        outcome = world.receive(whole[:length])
        if length < headers:
            assert (outcome.verdict, outcome.counts) == (PASS, {}), length
        else:
            assert (outcome.verdict, outcome.counts) == (DROP, {Reason.MALFORMED: 1}), length
    untouched(world)
    assert world.receive(whole).counts == {Reason.HELLO: 1}


def test_shorter_by_its_own_account(world: World) -> None:
    payload = HELLO.payload()
    for length in range(len(payload)):
        outcome = world.receive(HELLO.wrap(payload[:length]))
        assert (outcome.verdict, outcome.counts) == (DROP, {Reason.LENGTH: 1}), length
    untouched(world)


def test_every_bit_of_the_payload_is_signed(world: World) -> None:
    packet = HELLO.packet()
    start = len(packet) - abi.FRAME_SIZE
    for bit in range(abi.FRAME_SIZE * 8):
        changed = bytearray(packet)
        changed[start + bit // 8] ^= 1 << bit % 8
        outcome = world.receive(bytes(changed))
        assert outcome.verdict == DROP, bit
        assert Reason.HELLO not in outcome.counts, bit
        assert sum(outcome.counts.values()) == 1, bit
    untouched(world)


def test_a_frame_counts_once_on_each_link(world: World) -> None:
    """Links have their own positions: the peer's frames for two links leave with two numbers."""
    assert world.receive(HELLO.packet()).counts == {Reason.HELLO: 1}
    assert world.receive(HELLO.packet()).counts == {Reason.REPLAY: 1}
    older_on_other_link = HELLO.but(vlan=30, link=2, counter=COUNTER)
    assert world.receive(older_on_other_link.packet()).counts == {Reason.HELLO: 1}
    assert world.maps.peer().counter == COUNTER + 1


def test_a_proposal_stands_beside_what_its_sender_keeps(world: World) -> None:
    """Its fields are about what is wanted; what is kept is that of the newest other frame."""
    kept = {"hello_us": 200, "dead_us": 600, "verify_us": 300, "lease_full_us": 10_000}
    kept |= {"generation": 5, "digest": 6, "flags": Flag.FIT}
    assert world.receive(fields(**kept).packet()).counts == {Reason.HELLO: 1}
    wanted = {"hello_us": 5_000, "hold_us": 20_000, "verify_us": 700, "lease_full_us": 50_000}
    wanted |= {"generation": 3, "digest": 2_500, "dead_us": 601}
    wanted |= {"flags": Flag.FIT | Flag.PROPOSAL | Flag.EVEN_SO}
    proposal = fields(**wanted).but(counter=COUNTER + 2)
    assert world.receive(proposal.packet()).counts == {Reason.HELLO: 1}
    peer = world.maps.peer()
    assert peer.counter == COUNTER + 2
    assert (peer.hello_us, peer.dead_us, peer.verify_us) == (200, 601, 300)
    assert (peer.lease_full_us, peer.generation, peer.digest) == (10_000, 5, 6)
    assert peer.flags == Flag.FIT, "what is proposed is no news of the sender"
    said = peer.proposal
    assert (said.number, said.flags) == (3, Flag.PROPOSAL | Flag.EVEN_SO)
    assert (said.hello_us, said.dead_us, said.verify_us) == (5_000, 20_000, 700)
    assert (said.stall_us, said.lease_us) == (2_500, 50_000)


def test_only_a_heartbeat_proposes(world: World) -> None:
    """A PROBE with that flag says what its sender keeps, and so does its answer."""
    probe = PROBE.but(fields={"echo": OWN_COUNTER, "hello_us": 300, "flags": Flag.PROPOSAL})
    assert world.receive(probe.packet()).counts == {Reason.PROBE: 1}
    peer = world.maps.peer()
    assert (peer.hello_us, peer.proposal.number) == (300, 0)


def test_a_new_epoch_is_not_adopted_from_a_proposal(world: World) -> None:
    proposal = fields(flags=Flag.PROPOSAL, generation=1).but(counter=NEW_EPOCH)
    assert world.receive(proposal.packet()).counts == {Reason.STRANGER: 1}
    assert world.maps.peer().epoch == EPOCH


def test_a_recorded_answer_does_not_keep_a_dead_peer_alive(world: World) -> None:
    assert world.receive(ANSWER.packet()).counts == {Reason.ANSWER: 1}
    assert world.receive(ANSWER.packet()).counts == {Reason.REPLAY: 1}
    world.change("self", probe_from=OWN_COUNTER)
    assert world.receive(ANSWER.packet()).counts == {Reason.WINDOW: 1}


def test_gaps_are_counted_by_link(world: World) -> None:
    for step in range(1, 4):
        link = world.maps.link(0)
        if link.hello_ns:
            link.hello_ns = boot_ns() - 3_000_000
            world.maps.write_link(0, link)
        world.receive(HELLO.but(counter=COUNTER + step).packet())
    gaps = world.maps.gaps(0)
    assert sum(gaps) == 2, "the first HELLO has none before it"
    assert sum(gaps[12:]) == 2, "3 ms lie in bucket 12 (below 4096 µs), or above on a slow machine"
    assert sum(world.maps.gaps(1)) == 0


# The kernel's answer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "probe",
    [
        PROBE,
        PROBE.but(vlan=30, link=2, ttl=64, source_port=40000),
        PROBE.but(family=6, vlan=20, link=1),
        PROBE.but(key=2),
    ],
    ids=["IPv4", "routed and tagged", "IPv6", "second key"],
)
def test_answer(world: World, probe: Heartbeat) -> None:
    world.open_gate()
    packet = probe.packet()
    outcome = world.receive(packet)
    assert (outcome.verdict, outcome.counts) == (TX, {Reason.PROBE: 1})
    answer = frame_in(outcome.packet)
    assert mac_is_right(outcome.packet)
    assert (answer.type, answer.node, answer.link) == (FrameType.ANSWER, 0, probe.link)
    assert (answer.pair, answer.version, answer.key_id) == (7, abi.VERSION, probe.key)
    assert list(answer.keys) == [1, 2]
    assert answer.counter == OWN_COUNTER + 1 == world.maps.gate().counter
    assert answer.echo == probe.counter
    assert (answer.term, answer.fence_below, answer.highest) == (TERM, TERM, TERM)
    assert answer.flags == Flag.OPEN | Flag.FIT | Flag.HEARS_YOU
    assert 0 < answer.lease_us <= HOUR_NS // 1000
    assert (answer.role, answer.health, answer.generation) == (2, 90, 3)
    assert boot_ns() - answer.sent_ns < 10**9
    assert outcome.packet[: -abi.FRAME_SIZE] == turned_headers(probe, outcome.packet)


def turned_headers(probe: Heartbeat, answer: bytes) -> bytes:
    """What must stand before an answer: the way back, full TTL, right checksums, the same ports."""
    payload = answer[-abi.FRAME_SIZE :]
    if probe.family == 4:
        datagram = udp(payload, source=probe.source_port)
        network = ipv4(datagram, source=OUR_IPV4, to=PEER_IPV4)
        whole = eth(network, IPV4, to=PEER, source=US, vlan=probe.vlan)
    else:
        there = (OUR_IPV6, PEER_IPV6)
        datagram = udp(payload, source=probe.source_port, addresses=there)
        network = ipv6(datagram, source=OUR_IPV6, to=PEER_IPV6)
        whole = eth(network, IPV6, to=PEER, source=US, vlan=probe.vlan)
    return whole[: -abi.FRAME_SIZE]


def test_answer_of_a_shut_gate(world: World) -> None:
    answer = frame_in(world.receive(PROBE.packet()).packet)
    assert (answer.term, answer.lease_us, answer.flags & Flag.OPEN) == (0, 0, 0)


def test_an_expired_term_is_over_before_it_is_called_shut(world: World) -> None:
    """R4: a renewal decided before a stall and stored after it must not reopen the gate."""
    world.open_gate(open_until=boot_ns() - 1)
    outcome = world.receive(PROBE.packet())
    assert (outcome.verdict, outcome.counts) == (TX, {Reason.PROBE: 1, Reason.EXPIRED: 1})
    assert world.maps.gate().fence_below == TERM + 1
    answer = frame_in(outcome.packet)
    assert (answer.fence_below, answer.flags & Flag.OPEN, answer.lease_us) == (TERM + 1, 0, 0)
    world.change("gate", open_until=boot_ns() + HOUR_NS)
    assert not world.maps.gate().is_open(boot_ns())


def test_the_answer_to_a_claim_is_its_receipt(world: World) -> None:
    world.open_gate()
    claim = PROBE.but(fields={"echo": OWN_COUNTER, "claim": TERM + 1})
    outcome = world.receive(claim.packet())
    assert outcome.counts == {Reason.PROBE: 1, Reason.FENCED: 1}
    answer = frame_in(outcome.packet)
    assert (answer.fence_below, answer.flags & Flag.OPEN) == (TERM + 1, 0)


def test_a_contested_gate_says_so(world: World) -> None:
    world.open_gate()
    rival = PROBE.but(fields={"echo": OWN_COUNTER, "term": TERM - 1, "flags": int(Flag.OPEN)})
    outcome = world.receive(rival.packet())
    assert outcome.counts == {Reason.PROBE: 1, Reason.CONTESTED: 1}
    flags = Flag(frame_in(outcome.packet).flags)
    assert Flag.CONTESTED in flags
    assert Flag.OPEN not in flags


def test_a_stranger_is_answered_but_seldom(world: World) -> None:
    """A peer that lost its count is told the newest one we know, so that it can jump above it."""
    lost = PROBE.but(counter=OLD_EPOCH, fields={"echo": 0})
    outcome = world.receive(lost.packet())
    assert (outcome.verdict, outcome.counts) == (TX, {Reason.CHALLENGED: 1})
    answer = frame_in(outcome.packet)
    assert Flag.KNOWN in Flag(answer.flags)
    assert answer.echo_ns == COUNTER
    link = world.maps.link(0)
    assert link.hello_ns == 0, "not a sign of life yet"
    assert link.stranger_ns > 0
    # A flood of them: answers stay 50 µs apart, whatever time the runs take.
    started = link.challenge_ns
    runs = [world.receive(lost.packet()).counts for _ in range(50)]
    answered = runs.count({Reason.CHALLENGED: 1})
    assert answered + runs.count({Reason.STRANGER: 1}) == 50
    assert answered <= (boot_ns() - started) // 50_000 + 1


def test_a_stranger_who_serves_is_taken_note_of_once_for_each_frame(world: World) -> None:
    """What he sends is not judged, so a recording of it could say so for ever."""
    serves = HELLO.but(counter=NEW_EPOCH, fields={"echo": 0, "flags": int(Flag.OPEN)})
    assert world.receive(serves.packet()).counts == {Reason.STRANGER: 1}
    noted_ns = world.maps.link(0).stranger_open_ns
    assert noted_ns > 0
    assert world.receive(serves.packet()).counts == {Reason.STRANGER: 1}
    assert world.maps.link(0).stranger_open_ns == noted_ns
    assert world.receive(serves.but(counter=NEW_EPOCH + 1).packet()).counts == {Reason.STRANGER: 1}
    assert world.maps.link(0).stranger_open_ns > noted_ns


def test_answers_to_us_tell_the_round_trip_and_what_is_known(world: World) -> None:
    sent = boot_ns() - 1000
    world.receive(ANSWER.but(fields={"echo": PROBE_FROM, "echo_ns": sent}).packet())
    assert 1000 <= world.maps.link(0).round_trip_ns < 10**9
    taught = ANSWER.but(
        counter=COUNTER + 2,
        fields={"echo": PROBE_FROM, "echo_ns": OWN_COUNTER + 9, "flags": int(Flag.KNOWN)},
    )
    world.receive(taught.packet())
    assert world.maps.peer().taught == OWN_COUNTER + 9


def test_siphash_of_the_tables_is_that_of_the_paper() -> None:
    assert siphash24(bytes(range(16)), bytes(range(15))).hex() == "e545be4961ca29a1"


def test_foreign_frames_are_stamped_on_links_only(world: World) -> None:
    other = HELLO.but(port=4000, source=OTHER)
    world.receive(other.but(vlan=21).packet())
    assert all(world.maps.link(number).foreign_ns == 0 for number in range(abi.LINKS))
    for _ in range(16):  # a sample of 16 at least is taken, whatever the processor saw before
        world.receive(other.packet())
    assert boot_ns() - world.maps.link(0).foreign_ns < 10**9
    assert world.maps.link(2).foreign_ns == 0


def test_a_bridge_talking_to_its_neighbours_proves_nothing(world: World) -> None:
    group = bytes.fromhex("0180c2000000")
    for _ in range(16):
        world.receive(HELLO.but(port=4000, to=group).packet())
    assert world.maps.link(0).foreign_ns == 0


@pytest.mark.parametrize(
    ("heartbeat", "link", "counts"),
    [
        (HELLO, 0, {Reason.HELLO: 1}),
        (HELLO.but(family=6, vlan=20, link=1), 1, {Reason.HELLO: 1}),
        (PROBE.but(vlan=30, link=2, ttl=64), 2, {Reason.PROBE: 1}),
        (HELLO.but(vlan=30, link=2, ttl=63), 2, {Reason.TTL: 1}),
        (
            fields(claim=TERM + 1).but(vlan=30, link=2, ttl=64),
            2,
            {Reason.HELLO: 1, Reason.FENCED: 1},
        ),
        (CONTROL, None, {Reason.CONTROL: 1}),
        (HELLO.but(vlan=9, node=0), None, {Reason.LINK: 1}),
        (HELLO.but(vlan=21), None, {Reason.LINK: 1}),
    ],
)
def test_what_comes_on_a_link_is_counted_for_that_link(
    world: World, heartbeat: Heartbeat, link: int | None, counts: dict[Reason, int]
) -> None:
    before = {number: world.maps.counters_of(number) for number in (None, *range(abi.LINKS))}
    assert world.receive(heartbeat.packet()).counts == counts
    for number, counted in before.items():
        after = world.maps.counters_of(number)
        grown = {reason: after[reason] - counted[reason] for reason in counted}
        moved = {reason: by for reason, by in grown.items() if by}
        assert moved == (counts if number == link else {}), number


def test_a_packet_of_a_wrong_size_is_counted_for_its_link(world: World) -> None:
    packet = HELLO.but(vlan=30, link=2).wrap(b"short")
    assert world.receive(packet).counts == {Reason.LENGTH: 1}
    assert world.maps.counters_of(2)[Reason.LENGTH] == 1
    assert world.maps.counters_of(None)[Reason.LENGTH] == 0


def test_a_link_number_that_does_not_exist_is_counted_where_no_link_is(world: World) -> None:
    world.maps.set_ports([Port(ifindex=LOOPBACK, link=abi.LINKS)])
    outcome = world.receive(HELLO.packet())
    assert (outcome.verdict, outcome.counts) == (ABORTED, {Reason.BAD_LINK: 1})
    assert world.maps.counters_of(None)[Reason.BAD_LINK] == 1
    assert world.receive(HELLO.wrap(b"short")).counts == {Reason.LENGTH: 1}


@pytest.mark.skipif(max(os.sched_getaffinity(0)) < 1, reason="only processor 0 is to be had")
def test_a_control_frame_on_a_processor_too_many_is_counted(tmp_path: Path) -> None:
    """The same programs, made for one processor and run on another."""
    sources = shutil.copytree(compiler.source_directory(), tmp_path / "ebpf")
    header = sources / "tb_abi.h"
    header.write_text(header.read_text().replace("TB_CPUS = 128", "TB_CPUS = 1"))
    programs = compiler.compile_programs(sources).programs
    specs = [replace(spec, entries=1) if spec.name == "control" else spec for spec in SPECS]
    fds = {spec.name: spec.create() for spec in specs}
    allowed = os.sched_getaffinity(0)
    try:
        for name, program in programs.items():
            fds[name] = program.load(fds)
        world = World(fds, specs)
        os.sched_setaffinity(0, {max(allowed)})
        outcome = world.receive(CONTROL.packet())
    finally:
        os.sched_setaffinity(0, allowed)
        for fd in fds.values():
            os.close(fd)
    assert (outcome.verdict, outcome.counts) == (ABORTED, {Reason.BAD_CPU: 1})
