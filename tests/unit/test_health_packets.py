# SPDX-License-Identifier: Apache-2.0
"""Questions and answers of the address probes, compared with another implementation's."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6ND_NA, ICMPv6ND_NS
from scapy.layers.l2 import ARP, Ether

from twinbeat.health import packets

MAC = bytes.fromhex("020000000001")
OWN, WANTED = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.9")
WANTED6 = IPv6Address("fd00::12:3456")


def test_an_arp_request() -> None:
    frame = Ether(packets.arp_request(MAC, OWN, WANTED))
    assert (frame.src, frame.dst) == ("02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff")
    arp = frame[ARP]
    assert (arp.op, arp.psrc, arp.pdst, arp.hwsrc) == (1, "10.0.0.1", "10.0.0.9", frame.src)


def test_only_the_answer_of_the_one_asked_counts() -> None:
    def reply(sender: str, operation: int = 2) -> bytes:
        return bytes(Ether() / ARP(op=operation, hwsrc="02:00:00:00:00:09", psrc=sender))

    assert packets.arp_answer(reply("10.0.0.9"), WANTED) == "02:00:00:00:00:09"
    assert packets.arp_answer(reply("10.0.0.8"), WANTED) is None
    assert packets.arp_answer(reply("10.0.0.9", operation=1), WANTED) is None
    assert packets.arp_answer(bytes(Ether() / IP()), WANTED) is None


def test_a_solicitation_and_its_answer() -> None:
    asked = ICMPv6ND_NS(packets.solicitation(MAC, WANTED6))
    assert asked.tgt == str(WANTED6)
    assert asked.payload.lladdr == "02:00:00:00:00:01"
    assert packets.solicited_node(WANTED6) == IPv6Address("ff02::1:ff12:3456")
    assert packets.is_advertisement(bytes(ICMPv6ND_NA(tgt=str(WANTED6))), WANTED6)
    assert not packets.is_advertisement(bytes(ICMPv6ND_NA(tgt="fd00::1")), WANTED6)
    assert not packets.is_advertisement(bytes(asked), WANTED6)


def test_an_echo_request_has_a_checksum_that_others_agree_with() -> None:
    request = packets.echo_request(4, 0x1234, 7)
    told = ICMP(request)
    assert (told.type, told.id, told.seq) == (8, 0x1234, 7)
    del told.chksum
    assert bytes(told) == request


def test_an_echo_reply_is_told_from_others() -> None:
    reply = bytes(IP(src="10.0.0.9") / ICMP(type=0, id=5, seq=6) / b"twinbeat")
    assert packets.is_echo_reply(4, reply, 5, 6)
    assert not packets.is_echo_reply(4, reply, 5, 7)
    assert not packets.is_echo_reply(4, reply, 6, 6)
    assert packets.is_echo_reply(6, bytes(ICMPv6EchoReply(id=5, seq=6)), 5, 6)
    assert not packets.is_echo_reply(4, bytes(IP() / ICMP(type=8, id=5, seq=6)), 5, 6)


@given(st.binary(max_size=80))
def test_no_packet_is_too_short_or_too_odd(noise: bytes) -> None:
    packets.arp_answer(noise, WANTED)
    packets.is_advertisement(noise, WANTED6)
    for version in (4, 6):
        packets.is_echo_reply(version, noise, 1, 1)
